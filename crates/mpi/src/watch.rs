//! Who is waited for: each rank tells rank 0 where it is, and rank 0 names those that the others have waited for too long.
//!
//! Reports are datagrams of a thread of their own, beside MPI: a rank that computes, or waits inside MPI, still sends them, and
//! nothing that the training does can wait for them. They are sent again and again, so that a lost one does no harm.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Late ranks that a line names; it counts the others.
const NAMED: usize = 8;

/// Where a rank is among the calls that all ranks make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Calls begun.
    calls: u64,
    /// Whether the newest call still runs.
    inside: bool,
    /// The newest call's kind.
    name: &'static str,
    /// The optimizer step, from 0; `None` before the first one.
    step: Option<usize>,
    /// When the newest call began or ended.
    since: Instant,
}

/// This rank's place, kept by its engine.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Place>);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Place {
            calls: 0,
            inside: false,
            name: "none",
            step: None,
            since: Instant::now(),
        }))
    }

    fn change(&self, change: impl FnOnce(&mut Place)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn begin(&self, name: &'static str) {
        self.change(|place| {
            place.calls += 1;
            (place.inside, place.name, place.since) = (true, name, Instant::now());
        });
    }

    pub(crate) fn end(&self) {
        self.change(|place| (place.inside, place.since) = (false, Instant::now()));
    }

    pub(crate) fn at_step(&self, step: usize) {
        self.change(|place| place.step = Some(step));
    }

    fn report(&self) -> Report {
        let place = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            calls: place.calls,
            inside: place.inside,
            name: place.name.into(),
            step: place.step,
            lasts: place.since.elapsed(),
        }
    }
}

/// A rank's place as another rank hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    calls: u64,
    inside: bool,
    name: String,
    step: Option<usize>,
    /// How long ago the newest call began or ended.
    lasts: Duration,
}

impl Report {
    /// One line: the run's token, the rank, then the fields.
    fn to_line(&self, token: u64, rank: usize) -> String {
        let step = self.step.map_or("-".into(), |step| step.to_string());
        format!(
            "{token} {rank} {} {} {step} {} {}",
            self.calls,
            u8::from(self.inside),
            self.lasts.as_millis(),
            self.name
        )
    }

    /// The rank and its report; `None` for any other datagram.
    fn of_line(line: &str, token: u64) -> Option<(usize, Self)> {
        let mut words = line.splitn(7, ' ');
        if words.next()?.parse() != Ok(token) {
            return None;
        }
        let rank = words.next()?.parse().ok()?;
        let calls = words.next()?.parse().ok()?;
        let inside = words.next()? == "1";
        let step = match words.next()? {
            "-" => None,
            step => Some(step.parse().ok()?),
        };
        let lasts = Duration::from_millis(words.next()?.parse().ok()?);
        let name = words.next()?.to_owned();
        Some((
            rank,
            Self {
                calls,
                inside,
                name,
                step,
                lasts,
            },
        ))
    }
}

/// Rank 0's end.
pub(crate) struct Watch {
    socket: UdpSocket,
    token: u64,
    patience: Duration,
    /// For [`report`]: the port, the token, and the patience in ms.
    pub(crate) invitation: String,
}

impl Watch {
    /// Opens rank 0's socket: only this machine reaches it if all ranks are here.
    ///
    /// # Errors
    /// A machine without a network, not even to itself.
    pub(crate) fn open(patience: Duration, one_machine: bool) -> std::io::Result<Self> {
        let address = if one_machine {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        let patience = patience.max(Duration::from_millis(1));
        let socket = UdpSocket::bind((address, 0))?;
        let (port, token) = (
            socket.local_addr()?.port(),
            std::hash::RandomState::new().build_hasher().finish(),
        );
        Ok(Self {
            socket,
            token,
            patience,
            invitation: format!("{port} {token} {}", patience.as_millis()),
        })
    }

    /// Starts the thread that listens, and warns of late ranks. It ends with the engine that holds `own`.
    ///
    /// `hosts` holds the machine of each rank.
    pub(crate) fn start(self, own: &Arc<Progress>, hosts: Vec<String>) {
        let own = Arc::downgrade(own);
        in_background(move || self.listen(&own, hosts, |line| tracing::warn!("{line}")));
    }

    fn listen(self, own: &Weak<Progress>, hosts: Vec<String>, mut warn: impl FnMut(String)) {
        let every = interval(self.patience);
        let mut ranks = Ranks::new(hosts, self.patience);
        let mut datagram = [0; 256];
        if self.socket.set_read_timeout(Some(every)).is_err() {
            return;
        }
        let mut checked = Instant::now();
        while let Some(own) = own.upgrade() {
            ranks.heard(0, own.report());
            drop(own);
            if let Ok(length) = self.socket.recv(&mut datagram) {
                let line = String::from_utf8_lossy(&datagram[..length]);
                if let Some((rank, report)) = Report::of_line(&line, self.token) {
                    ranks.heard(rank, report);
                }
            }
            if checked.elapsed() >= every {
                checked = Instant::now();
                if let Some(line) = ranks.late(checked) {
                    warn(line);
                }
            }
        }
    }
}

/// How often a rank reports.
fn interval(patience: Duration) -> Duration {
    (patience / 10).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

fn in_background(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("watch".into()).spawn(work) {
        tracing::warn!("ranks that are late will not be named: {error}");
    }
}

/// Starts the thread that sends this rank's place to rank 0 on `host`, if its invitation is not empty. It ends with the
/// engine that holds `own`.
pub(crate) fn report(own: &Arc<Progress>, rank: usize, host: &str, invitation: &str) {
    let numbers: Option<Vec<u64>> = invitation.split(' ').map(|word| word.parse().ok()).collect();
    let Some([port, token, patience_ms]) = numbers.as_deref() else {
        return;
    };
    let (port, token, every) = (
        *port as u16,
        *token,
        interval(Duration::from_millis(*patience_ms)),
    );
    let (own, host) = (Arc::downgrade(own), host.to_owned());
    in_background(move || {
        if let Err(error) = send(&own, rank, (&host, port), token, every) {
            tracing::debug!("rank {rank} cannot report to rank 0 on {host}: {error}");
        }
    });
}

fn send(
    own: &Weak<Progress>,
    rank: usize,
    to: (&str, u16),
    token: u64,
    every: Duration,
) -> std::io::Result<()> {
    let to: Vec<SocketAddr> = to.to_socket_addrs()?.filter(SocketAddr::is_ipv4).collect();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    while let Some(progress) = own.upgrade() {
        let line = progress.report().to_line(token, rank);
        drop(progress);
        // A report that does not arrive is missed by rank 0, which says so.
        let _ = socket.send_to(line.as_bytes(), to.as_slice());
        std::thread::sleep(every);
    }
    Ok(())
}

/// What rank 0 knows of all ranks.
struct Ranks {
    hosts: Vec<String>,
    reports: BTreeMap<usize, (Report, Instant)>,
    patience: Duration,
    /// The call that was warned of, and how long it must last for the next warning.
    warned: (u64, Duration),
}

impl Ranks {
    fn new(hosts: Vec<String>, patience: Duration) -> Self {
        Self {
            hosts,
            reports: BTreeMap::new(),
            patience,
            warned: (0, patience),
        }
    }

    fn heard(&mut self, rank: usize, report: Report) {
        if rank < self.hosts.len() {
            self.reports.insert(rank, (report, Instant::now()));
        }
    }

    /// The warning that is due: of the first call that ranks have waited in for too long. Each next one comes after twice
    /// the time.
    fn late(&mut self, now: Instant) -> Option<String> {
        let heard_inside =
            |(report, heard): &&(Report, Instant)| report.inside && !self.is_silent(*heard, now);
        let inside = || self.reports.values().filter(heard_inside);
        let lasts = |(report, heard): &(Report, Instant)| report.lasts + now.duration_since(*heard);
        let call = inside()
            .filter(|entry| lasts(entry) >= self.patience)
            .map(|(report, _)| report.calls)
            .min()?;
        let there = || inside().filter(move |(report, _)| report.calls == call);
        let waited = there().map(lasts).max()?;
        let (name, step) = there()
            .map(|(report, _)| (report.name.clone(), report.step))
            .next()?;
        let mut due = match self.warned {
            (warned, due) if warned == call => due,
            _ => self.patience,
        };
        if waited < due {
            return None;
        }
        let count = there().count();
        while due <= waited {
            due *= 2;
        }
        self.warned = (call, due);
        let mut line = format!(
            "{count} of {} ranks have waited for {} s {} (call {call}, {name})",
            self.hosts.len(),
            waited.as_secs(),
            at(step)
        );
        let late: Vec<String> = (0..self.hosts.len())
            .filter_map(|rank| self.late_rank(rank, call, now))
            .collect();
        if late.is_empty() {
            line += ", although all ranks have reached it: the network or a machine is slow";
        } else {
            let named = late[..late.len().min(NAMED)].join("; ");
            let _ = write!(line, " for {named}");
        }
        if late.len() > NAMED {
            let _ = write!(line, "; and {} more", late.len() - NAMED);
        }
        Some(line)
    }

    /// Whether a rank should have reported since: its process stands still, or its machine is out of reach.
    fn is_silent(&self, heard: Instant, now: Instant) -> bool {
        now.duration_since(heard) >= (3 * interval(self.patience)).max(Duration::from_secs(1))
    }

    /// `rank 2 on node7, at step 56, 75 s after call 90 (sum)`, if it has not begun this call, or is silent.
    fn late_rank(&self, rank: usize, call: u64, now: Instant) -> Option<String> {
        let name = format!("rank {rank} on {}", self.hosts[rank]);
        let Some((report, heard)) = self.reports.get(&rank) else {
            return Some(format!("{name}, of which no report has come"));
        };
        let silent = self.is_silent(*heard, now);
        if report.calls >= call && !silent {
            return None;
        }
        let mut text = format!("{name}, {}, ", at(report.step));
        let seconds = report.lasts.as_secs();
        let _ = match (report.inside, report.calls) {
            (true, calls) => write!(text, "for {seconds} s in call {calls} ({})", report.name),
            (false, 0) => write!(text, "before its first call"),
            (false, calls) => write!(text, "{seconds} s after call {calls} ({})", report.name),
        };
        if silent {
            let seconds = now.duration_since(*heard).as_secs_f64();
            let _ = write!(text, ", silent for {seconds:.1} s");
        }
        Some(text)
    }
}

fn at(step: Option<usize>) -> String {
    step.map_or("before the first step".into(), |step| {
        format!("at step {}", step + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(calls: u64, inside: bool, seconds: u64) -> Report {
        Report {
            calls,
            inside,
            name: "gather of bytes".into(),
            step: Some(11),
            lasts: Duration::from_secs(seconds),
        }
    }

    fn ranks(size: usize) -> Ranks {
        let hosts = (0..size).map(|rank| format!("node{rank}")).collect();
        Ranks::new(hosts, Duration::from_secs(60))
    }

    #[test]
    fn reports_survive_the_wire_and_strangers_are_ignored() {
        for (report, rank) in [
            (report(7, true, 3), 2),
            (
                Report {
                    step: None,
                    ..report(0, false, 0)
                },
                0,
            ),
        ] {
            let line = report.to_line(99, rank);
            assert_eq!(Report::of_line(&line, 99), Some((rank, report)));
            assert_eq!(Report::of_line(&line, 98), None);
        }
        assert_eq!(Report::of_line("hello", 99), None);
        assert_eq!(Report::of_line("99 1 x", 99), None);
    }

    #[test]
    fn the_rank_that_has_not_arrived_is_named_at_growing_gaps() {
        let mut ranks = ranks(3);
        let hear = |ranks: &mut Ranks, seconds| {
            ranks.heard(0, report(5, true, seconds));
            ranks.heard(1, report(4, false, seconds + 2));
            ranks.heard(2, report(5, true, seconds - 1));
        };
        hear(&mut ranks, 59);
        assert_eq!(ranks.late(Instant::now()), None);
        hear(&mut ranks, 60);
        assert_eq!(
            ranks.late(Instant::now()).unwrap(),
            "2 of 3 ranks have waited for 60 s at step 12 (call 5, gather of bytes) for rank 1 on node1, at step 12, 62 s after call 4 (gather of bytes)"
        );
        hear(&mut ranks, 119);
        assert_eq!(ranks.late(Instant::now()), None);
        hear(&mut ranks, 120);
        assert!(ranks.late(Instant::now()).unwrap().contains("waited for 120 s"));
        hear(&mut ranks, 239);
        assert_eq!(ranks.late(Instant::now()), None);
        // Another call counts from the start.
        ranks.heard(0, report(9, true, 61));
        ranks.heard(2, report(9, false, 0));
        assert!(
            ranks
                .late(Instant::now())
                .unwrap()
                .starts_with("1 of 3 ranks have waited for 61 s")
        );
    }

    #[test]
    fn a_call_that_all_have_reached_names_nobody() {
        let mut ranks = ranks(2);
        ranks.heard(0, report(5, true, 70));
        ranks.heard(1, report(5, true, 65));
        let line = ranks.late(Instant::now()).unwrap();
        assert!(
            line.starts_with(
                "2 of 2 ranks have waited for 70 s at step 12 (call 5, gather of bytes), although all"
            ),
            "{line}"
        );
        // Unless one has not been heard of since.
        let later = Instant::now() + Duration::from_secs(7);
        ranks.heard(0, report(5, true, 150));
        ranks.reports.get_mut(&0).unwrap().1 = later;
        let line = ranks.late(later).unwrap();
        assert!(
            line.starts_with("1 of 2 ranks have waited for 150 s")
                && line.contains(
                    "for rank 1 on node1, at step 12, for 65 s in call 5 (gather of bytes), silent for 7."
                ),
            "{line}"
        );
        // A root leaves a broadcast before the others have it: whoever is behind the first wait is named, not those who wait.
        ranks.heard(0, report(6, true, 64));
        ranks.heard(1, report(4, false, 70));
        assert!(
            ranks
                .late(Instant::now())
                .unwrap()
                .contains("for rank 1 on node1, at step 12, 70 s after")
        );
    }

    #[test]
    fn silence_is_told_from_work() {
        let mut ranks = ranks(3);
        ranks.heard(0, report(5, true, 60));
        ranks.heard(1, report(4, true, 61));
        let later = Instant::now() + Duration::from_secs(9);
        ranks.reports.get_mut(&0).unwrap().1 = later;
        let line = ranks.late(later).unwrap();
        assert!(
            line.contains("rank 1 on node1, at step 12, for 61 s in call 4 (gather of bytes), silent for 9."),
            "{line}"
        );
        assert!(
            line.ends_with("rank 2 on node2, of which no report has come"),
            "{line}"
        );
    }

    #[test]
    fn reports_reach_rank_0() {
        let patience = Duration::from_millis(300);
        let watch = Watch::open(patience, true).unwrap();
        let invitation = watch.invitation.clone();
        let (own, other) = (Arc::new(Progress::new()), Arc::new(Progress::new()));
        super::report(&other, 1, "localhost", &invitation);
        other.at_step(3);
        own.at_step(3);
        own.begin("sum");
        let (lines, received) = std::sync::mpsc::channel();
        let (held, weak) = (own.clone(), Arc::downgrade(&own));
        let hosts = vec!["a".into(), "b".into()];
        let thread = std::thread::spawn(move || watch.listen(&weak, hosts, |line| drop(lines.send(line))));
        let line = received.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(
            line.starts_with("1 of 2 ranks have waited for 0 s at step 4 (call 1, sum) for rank 1 on b, at step 4, before its first call"),
            "{line}"
        );
        drop((own, held));
        thread.join().unwrap();
    }
}
