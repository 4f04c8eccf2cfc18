//! Downloads: bounded concurrency, a rate per host, retries with growing pauses, limits, and a check of the
//! content.
//!
//! A photo that its host reports as gone, or that is not an image, is dropped. A photo that cannot be
//! *reached* is dropped only if others were reached after it: if none can be reached, the network is down,
//! and the run ends without a decision on them. Files are written under another name and renamed, so a file
//! under its name is whole. A run that resumes uses it without another request.

mod address;
mod client;
mod pace;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Decision, Fetched, TAKEN_DOWN};
use crate::photo::Photo;

use super::{Stage, Work};
use client::{Client, Outcome};

/// How photos are downloaded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchConfig {
    /// The place of the files.
    pub from: AddressFrom,
    /// Downloads at a time.
    pub concurrency: usize,
    /// Requests to one host per second, retries included; redirects do not count.
    pub requests_per_second_per_host: f64,
    /// Requests for one photo before the stage gives up on it.
    pub attempts: u32,
    /// Pause before the second request, seconds; doubled for each further one. A host's `Retry-After` counts
    /// where it is longer.
    pub pause_s: f64,
    /// Longest pause, seconds.
    pub max_pause_s: f64,
    /// Longest time for one request with its redirects and its body, seconds.
    pub timeout_s: f64,
    /// Largest file, bytes.
    pub max_bytes: u64,
    /// Redirects followed for one request.
    pub max_redirects: u32,
    /// A photo is gone if the address that it was redirected to contains one of these: for a deleted photo,
    /// Flickr returns a picture, `photo_unavailable`.
    pub gone_addresses: Vec<String>,
    /// This many unreachable photos in a row end the run.
    pub give_up_after: usize,
    /// Whether requests may go to private networks and to this machine. Strangers wrote the addresses: leave
    /// it false, unless the photos are on your own server.
    pub private_addresses: bool,
    /// The user agent of the requests; hosts want a name and a contact in it.
    pub user_agent: String,
    /// What becomes of photos whose host forbids training on them (`X-Robots-Tag: noai` or `noimageai`, for all
    /// or for this user agent). Absent: they are kept. Either way they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robots_noai: Option<NoAi>,
}

/// What becomes of photos on which training is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoAi {
    /// They are dropped as `noai`.
    Drop,
    /// They are kept, with the remark `noai`.
    Keep,
}

/// The address of a photo's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AddressFrom {
    /// At the source's own address.
    ImageUrl,
    /// In the layout of Multimedia Commons: `BASE/abc/def/abcdef….jpg`, where `abcdef…` is the key.
    MultimediaCommons {
        /// The folder of the images, e.g.
        /// `https://multimedia-commons.s3-us-west-2.amazonaws.com/data/images`.
        base: String,
    },
}

impl AddressFrom {
    fn address(&self, photo: &Photo) -> Option<String> {
        match self {
            AddressFrom::ImageUrl => photo.image_url.clone(),
            AddressFrom::MultimediaCommons { base } => {
                let (first, second) = (photo.key.get(0..3)?, photo.key.get(3..6)?);
                Some(format!(
                    "{}/{first}/{second}/{}.jpg",
                    base.trim_end_matches('/'),
                    photo.key
                ))
            }
        }
    }
}

/// The most results in a transaction, and the longest time between two transactions.
const BATCH: usize = 256;
const PATIENCE: Duration = Duration::from_secs(2);

impl FetchConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let key = |name: &str| format!("stages.fetch.{name}");
        for (name, value) in [
            ("concurrency", self.concurrency),
            ("attempts", self.attempts as usize),
            ("give_up_after", self.give_up_after),
            ("max_bytes", self.max_bytes as usize),
        ] {
            if value == 0 {
                return Err(Error::config(&key(name), "must be at least 1, got 0"));
            }
        }
        if self.concurrency > 1024 {
            return Err(Error::config(
                &key("concurrency"),
                format!("must be at most 1024, got {}", self.concurrency),
            ));
        }
        for (name, value, least) in [
            (
                "requests_per_second_per_host",
                self.requests_per_second_per_host,
                1e-6,
            ),
            ("timeout_s", self.timeout_s, 1e-3),
            ("pause_s", self.pause_s, 0.0),
            ("max_pause_s", self.max_pause_s, 0.0),
        ] {
            if !(least..=1e6).contains(&value) {
                return Err(Error::config(
                    &key(name),
                    format!("must be {least} to 1000000, got {value}"),
                ));
            }
        }
        if self.pause_s > self.max_pause_s {
            let reason = format!(
                "must be at most `max_pause_s` = {}, got {}",
                self.max_pause_s, self.pause_s
            );
            return Err(Error::config(&key("pause_s"), reason));
        }
        if self.gone_addresses.iter().any(|part| part.trim().is_empty()) {
            let reason = "must be parts of addresses, got an empty one, which is in every address";
            return Err(Error::config(&key("gone_addresses"), reason));
        }
        if self.user_agent.trim().is_empty() || !self.user_agent.bytes().all(|byte| (32..127).contains(&byte))
        {
            let reason = "must be printable ASCII and name a contact: hosts refuse programs that do not say who runs them";
            return Err(Error::config(&key("user_agent"), reason));
        }
        Ok(())
    }
}

impl Stage for FetchConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let client = Client::new(self, work.ledger.gate(&[])?);
        let (to_fetch, jobs) = bounded::<Photo>(self.concurrency * 2);
        let (report, results) = bounded::<(Photo, Outcome)>(self.concurrency * 2);
        // Ends the workers early: on the user's interrupt, a host that is down, or a full disk.
        let end = AtomicBool::new(false);
        let photos = work.photos;
        std::thread::scope(|scope| {
            for _ in 0..self.concurrency {
                let (jobs, report, client, end, stop) =
                    (jobs.clone(), report.clone(), &client, &end, work.stop);
                let from = &self.from;
                scope.spawn(move || {
                    let stopped = || end.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
                    for photo in jobs {
                        let outcome = match (from.address(&photo), photos.path(&photo)) {
                            _ if stopped() => Outcome::Stopped,
                            (Some(address), Some(path)) => {
                                client.fetch(&photo.key, &address, photo.page_url.as_deref(), &path, &stopped)
                            }
                            _ => Outcome::Gone(Fetched::default(), "no_address".to_string(), None),
                        };
                        if report.send((photo, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop((jobs, report));
            let mut collector = Collector::new(self.give_up_after);
            // The sender is dropped when this ends, then the workers end, then the scope.
            let feeding = feed(work, to_fetch, &results, &mut collector);
            if feeding.is_err() {
                end.store(true, Ordering::Relaxed);
                while let Ok((photo, outcome)) = results.recv() {
                    let _ = collector.take(photo, outcome);
                }
            }
            // Results from before the end are kept. Unreachable photos are decided only by a later success.
            let kept = collector.commit(work, feeding.is_ok());
            feeding.and(kept)
        })
    }
}

/// Hands out photos and takes in results until both run out.
fn feed(
    work: &mut Work<'_>,
    to_fetch: crossbeam_channel::Sender<Photo>,
    results: &crossbeam_channel::Receiver<(Photo, Outcome)>,
    collector: &mut Collector,
) -> Result<(), Error> {
    let mut waiting = std::collections::VecDeque::new();
    let mut to_fetch = Some(to_fetch);
    loop {
        work.check_stop()?;
        if let Some(sender) = &to_fetch {
            if waiting.is_empty() {
                waiting.extend(work.next(BATCH)?);
            }
            let at_end = waiting.is_empty();
            while let Some(photo) = waiting.pop_front() {
                if let Err(refused) = sender.try_send(photo) {
                    waiting.push_front(refused.into_inner());
                    break;
                }
            }
            if at_end {
                to_fetch = None;
            }
        }
        match results.recv_timeout(Duration::from_millis(50)) {
            Ok((photo, outcome)) => {
                collector.take(photo, outcome)?;
                while let Ok((photo, outcome)) = results.try_recv() {
                    collector.take(photo, outcome)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if collector.decisions.len() >= BATCH || collector.since.elapsed() > PATIENCE {
            collector.commit(work, false)?;
        }
    }
}

/// Results that are not in the ledger yet.
struct Collector {
    give_up_after: usize,
    decisions: Vec<(Decision, Fetched)>,
    /// Photos that could not be reached since the last reachable one.
    unreached: Vec<(Decision, Fetched)>,
    since: Instant,
    /// Whether any host has responded for any photo in this run.
    answered: bool,
}

impl Collector {
    fn new(give_up_after: usize) -> Collector {
        Collector {
            give_up_after,
            decisions: Vec::new(),
            unreached: Vec::new(),
            since: Instant::now(),
            answered: false,
        }
    }

    /// A host responded, so the fault is with the photos that could not be reached before.
    fn answered(&mut self) {
        self.answered = true;
        self.decisions.append(&mut self.unreached);
    }

    fn unreachable(&self) -> Error {
        let detail = self
            .unreached
            .last()
            .and_then(|(decision, _)| decision.detail.clone());
        Error::Stage {
            stage: "fetch".to_string(),
            reason: format!(
                "the last {} photos could not be reached, and none in between: {}",
                self.unreached.len(),
                detail.unwrap_or_default()
            ),
            hint: Some(Hint::CheckNetwork),
        }
    }

    fn take(&mut self, photo: Photo, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Stopped => return Ok(()),
            Outcome::Failed(error) => return Err(error),
            Outcome::Done(fetched) => {
                // A file from an earlier run proves nothing about the network.
                if fetched.attempts > 0 {
                    self.answered();
                }
                let kept = Decision::kept(photo.id);
                let kept = if fetched.noai { kept.remark("noai") } else { kept };
                self.decisions.push((kept, fetched));
            }
            Outcome::Gone(fetched, reason, detail) => {
                if fetched.status.is_some() {
                    self.answered();
                }
                let dropped = Decision {
                    detail,
                    ..Decision::dropped(photo.id, &reason)
                };
                self.decisions.push((dropped, fetched));
            }
            Outcome::TakenDown(fetched, content) => {
                if fetched.attempts > 0 {
                    self.answered();
                }
                self.decisions
                    .push((Decision::dropped(photo.id, TAKEN_DOWN).of_file(content), fetched));
            }
            Outcome::Unreached(fetched, reason, detail) => {
                self.unreached
                    .push((Decision::dropped(photo.id, &reason).detail(detail), fetched));
                if self.unreached.len() >= self.give_up_after {
                    return Err(self.unreachable());
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, work: &mut Work<'_>, at_end: bool) -> Result<(), Error> {
        let unreachable = at_end && !self.answered && !self.unreached.is_empty();
        if at_end && !unreachable {
            self.decisions.append(&mut self.unreached);
        }
        self.since = Instant::now();
        let (decisions, fetches): (Vec<Decision>, Vec<Fetched>) =
            std::mem::take(&mut self.decisions).into_iter().unzip();
        let photos = decisions.iter().map(|decision| decision.photo);
        let fetches: Vec<(i64, Fetched)> = photos.zip(fetches).collect();
        work.decide_with(&decisions, |ledger| ledger.add_fetches(&fetches))?;
        match unreachable {
            true => Err(self.unreachable()),
            false => Ok(()),
        }
    }
}
