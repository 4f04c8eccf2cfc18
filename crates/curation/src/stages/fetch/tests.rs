//! Downloads from a server on loopback that misbehaves in every common way.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Config, ReleaseConfig, StageConfig};
use crate::sources::{Columns, SourceConfig, TableConfig};
use crate::stages::license::{License, LicenseConfig};
use crate::verbs::run::{RunOptions, run};

mod causes;

/// A server whose response to each path follows its name, and that counts requests.
pub(crate) struct Server {
    pub(crate) address: String,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    most_at_once: Arc<AtomicUsize>,
    times: Arc<Mutex<Vec<Instant>>>,
    interrupt: Arc<Interrupt>,
}

/// The user's interrupt, which the server gives while it answers a request, so that no clock decides when.
#[derive(Default)]
struct Interrupt {
    stop: AtomicBool,
    /// Requests for `stop-` until the next interrupt.
    left: AtomicUsize,
}

impl Interrupt {
    fn at(&self, request: usize) -> &AtomicBool {
        self.left.store(request, Ordering::SeqCst);
        self.stop.store(false, Ordering::SeqCst);
        &self.stop
    }

    fn count(&self) {
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// All requests for `together-` wait until so many are in flight.
const TOGETHER: usize = 4;

fn jpeg() -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F', 0, 1];
    bytes.extend([7; 3000]);
    bytes
}

impl Server {
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            most_at_once: Arc::default(),
            times: Arc::default(),
            interrupt: Arc::default(),
        };
        let seen = Seen {
            asked: server.asked.clone(),
            most: server.most_at_once.clone(),
            times: server.times.clone(),
            now: Arc::default(),
            interrupt: server.interrupt.clone(),
            together: Arc::new(Barrier::new(TOGETHER)),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let _ = serve(stream, &seen);
                });
            }
        });
        server
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// What all connections of a server share.
#[derive(Clone)]
struct Seen {
    asked: Arc<Mutex<HashMap<String, usize>>>,
    most: Arc<AtomicUsize>,
    times: Arc<Mutex<Vec<Instant>>>,
    now: Arc<AtomicUsize>,
    interrupt: Arc<Interrupt>,
    together: Arc<Barrier>,
}

fn serve(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && header != "\r\n" {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_string();
        let count = {
            let mut asked = seen.asked.lock().unwrap();
            let count = asked.entry(path.clone()).or_default();
            *count += 1;
            *count
        };
        seen.times.lock().unwrap().push(Instant::now());
        let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(now, Ordering::SeqCst);
        let body = jpeg();
        let answer = |status: &str, headers: &str, body: &[u8]| {
            let mut bytes = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
                body.len()
            )
            .into_bytes();
            bytes.extend(body);
            bytes
        };
        let good = answer("200 OK", "", &body);
        let name = path
            .trim_start_matches('/')
            .split('-')
            .next()
            .unwrap_or_default()
            .to_string();
        let (bytes, close) = match name.as_str() {
            "good" => (good, false),
            // A file with unique content.
            "own" => (
                answer("200 OK", "", &[&body[..], path.as_bytes()].concat()),
                false,
            ),
            "redirect" => (
                answer("302 Found", "Location: /good-redirected.jpg\r\n", b""),
                false,
            ),
            "loop" => (answer("302 Found", &format!("Location: {path}\r\n"), b""), false),
            // To the path behind the name: `/to-%2Fgood a.jpg` leads to `/good a.jpg`.
            "to" => {
                let target = path.trim_start_matches("/to-").as_bytes();
                let target = percent_encoding::percent_decode(target).collect::<Vec<_>>();
                let mut bytes = b"HTTP/1.1 302 Found\r\nContent-Length: 5\r\nLocation: ".to_vec();
                bytes.extend(target);
                bytes.extend(b"\r\n\r\nMoved");
                (bytes, false)
            }
            "twice" => (
                answer(
                    "302 Found",
                    "Location: /good-1.jpg\r\nLocation: /good-2.jpg\r\n",
                    b"",
                ),
                false,
            ),
            "same" => (
                answer(
                    "302 Found",
                    "Location: /good-1.jpg\r\nLocation: /good-1.jpg\r\n",
                    b"",
                ),
                false,
            ),
            "whither" => (answer("302 Found", "", b""), false),
            "noai" => (answer("200 OK", "X-Robots-Tag: noindex, noai\r\n", &body), false),
            "others" => (answer("200 OK", "X-Robots-Tag: otherbot: noai\r\n", &body), false),
            "gone" => (
                answer("302 Found", "Location: /photo_unavailable.png\r\n", b""),
                false,
            ),
            "/photo_unavailable.png" | "photo_unavailable.png" => (good, false),
            "404" => (answer("404 Not Found", "", b"<html>no</html>"), false),
            "410" => (answer("410 Gone", "", b""), false),
            "403" => (answer("403 Forbidden", "", b""), false),
            "500" => (answer("500 Oops", "", b""), false),
            "flaky" if count < 3 => (answer("500 Oops", "", b""), false),
            "busy" if count == 1 => (answer("429 Too Many Requests", "Retry-After: 1\r\n", b""), false),
            "flaky" | "busy" => (good, false),
            "html" => (
                answer("200 OK", "", b"<!DOCTYPE html><p>Sorry, nothing here at all</p>"),
                false,
            ),
            "empty" => (answer("200 OK", "", b""), false),
            // False lengths: more announced than sent, more sent than announced, far too much announced.
            "short" if count < 2 => (good[..good.len() - 500].to_vec(), true),
            "short" => (good, false),
            "cut" => (good[..good.len() / 2].to_vec(), true),
            "long" => ([good, vec![9; 5000]].concat(), true),
            "huge" => (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
                true,
            ),
            // No length at all, and no end.
            "endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                stream.write_all(&body)?;
                while stream.write_all(&[5; 65536]).is_ok() {}
                (Vec::new(), true)
            }
            // Never goes on; ends when the client hangs up.
            "slow" => {
                stream.write_all(&good[..200])?;
                let _ = reader.read_line(&mut request);
                (Vec::new(), true)
            }
            "stop" => {
                seen.interrupt.count();
                (good, false)
            }
            "together" => {
                seen.together.wait();
                (good, false)
            }
            // Sends no response at all.
            "never" => {
                let _ = reader.read_line(&mut request);
                (Vec::new(), true)
            }
            "garbage" => (b"\x00\x01 hello\r\n\r\n".to_vec(), true),
            "hangup" => (Vec::new(), true),
            _ => (answer("404 Not Found", "", b""), false),
        };
        // Before the answer: the client's next request may come before this thread goes on.
        seen.now.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(&bytes)?;
        if close {
            return Ok(());
        }
    }
}

/// A limit that no answer reaches, however busy the machine is.
const PATIENT_S: f64 = 600.0;

pub(crate) fn fetch_config() -> FetchConfig {
    FetchConfig {
        from: AddressFrom::ImageUrl,
        concurrency: 4,
        requests_per_second_per_host: 1000.0,
        attempts: 3,
        pause_s: 0.01,
        max_pause_s: 2.0,
        timeout_s: PATIENT_S,
        max_bytes: 1 << 20,
        max_redirects: 3,
        gone_addresses: vec!["photo_unavailable".into()],
        give_up_after: 50,
        private_addresses: true,
        user_agent: "passer-test (test@example.org)".into(),
        robots_noai: Some(NoAi::Drop),
    }
}

/// A curation whose source is a CSV of these addresses, by key.
pub(crate) fn config(folder: &Path, rows: &[(String, String)], fetch: FetchConfig) -> Config {
    let csv = folder.join("list.csv");
    let mut text = "key,who,address,licence\n".to_string();
    for (key, address) in rows {
        text.push_str(&format!("{key},Ann,{address},CC0\n"));
    }
    std::fs::write(&csv, text).unwrap();
    let column = |name: &str| Some(name.to_string());
    Config {
        source: SourceConfig::Csv(TableConfig {
            files: vec![csv],
            delimiter: None,
            columns: Columns {
                key: "key".into(),
                photographer: column("who"),
                image_url: column("address"),
                license: column("licence"),
                ..Columns::default()
            },
            url_encoded: vec![],
        }),
        stages: vec![
            StageConfig::License(LicenseConfig {
                accept: vec![License {
                    name: "CC0".into(),
                    urls: vec![],
                }],
                attribution: vec![],
            }),
            StageConfig::Fetch(fetch),
        ],
        release: ReleaseConfig {
            name: "test".into(),
            description: "test".into(),
            publisher: "nobody".into(),
            contact: "nobody".into(),
            url: "nowhere".into(),
            license_url: "none".into(),
            citation: None,
            records_per_shard: 10,
            shard_prefix: "photos".into(),
            coordinates: false,
            metadata: None,
        },
    }
}

pub(crate) fn go(config: &Config, folder: &Path, stop: &AtomicBool) -> Result<(), Error> {
    let options = RunOptions {
        only: None,
        redo: None,
        stop,
        detectors: &crate::NoDetectors,
        progress: &|_, _, _| {},
    };
    run(config, folder, options)
}

fn decisions(folder: &Path) -> HashMap<String, Option<String>> {
    let ledger = rusqlite::Connection::open(folder.join("ledger.sqlite")).unwrap();
    let mut rows = ledger
        .prepare("SELECT key, reason FROM decision_log WHERE stage = 'fetch'")
        .unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[test]
fn every_kind_of_bad_answer_has_its_reason() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let expected = [
        ("good", None),
        ("redirect", None),
        ("loop", Some("too_many_redirects")),
        ("gone", Some("gone")),
        ("404", Some("http_404")),
        ("410", Some("http_410")),
        ("403", Some("http_403")),
        ("500", Some("http_500")),
        ("flaky", None),
        ("busy", None),
        ("html", Some("not_an_image")),
        ("empty", Some("empty_file")),
        ("short", None),
        ("cut", Some("cut_off")),
        ("long", None),
        ("huge", Some("too_many_bytes")),
        ("endless", Some("too_many_bytes")),
        ("garbage", Some("bad_answer")),
        ("hangup", Some("no_connection")),
    ];
    let mut rows: Vec<(String, String)> = expected
        .iter()
        .map(|(name, _)| ((*name).to_string(), format!("{}/{name}-1.jpg", server.address)))
        .collect();
    rows.push(("nowhere".into(), String::new()));
    rows.push(("ftp".into(), "ftp://a/b".into()));
    let config = config(folder.path(), &rows, fetch_config());
    let out = folder.path().join("out");
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    let found = decisions(&out);
    for (name, reason) in expected {
        assert_eq!(found[name].as_deref(), reason, "{name}");
    }
    assert_eq!(found["nowhere"].as_deref(), Some("no_address"));
    assert_eq!(found["ftp"].as_deref(), Some("bad_address"));
    assert_eq!(
        server.asked("/404-1.jpg"),
        1,
        "a photo that is gone is not asked for again"
    );
    assert_eq!(server.asked("/500-1.jpg"), 3);
    assert_eq!(server.asked("/flaky-1.jpg"), 3);
    // Only whole files are left on disk; one that sends too much is read up to its announced length.
    for key in ["good", "redirect", "flaky", "busy", "short", "long"] {
        let path = crate::photos::fetched_path(&out.join("photos"), key);
        assert_eq!(std::fs::read(path).unwrap(), jpeg(), "{key}");
    }
    let files = walkdir::WalkDir::new(out.join("photos"))
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file());
    assert_eq!(files.count(), 6);
}

#[test]
fn an_answer_that_does_not_end_in_time_is_cut_off() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows = [("slow".to_string(), format!("{}/slow-1.jpg", server.address))];
    // On a busy machine the time may be over before the first byte; then the host counts as one that is down.
    let fetch = FetchConfig {
        timeout_s: 2.0,
        attempts: 1,
        ..fetch_config()
    };
    let config = config(folder.path(), &rows, fetch);
    let out = folder.path().join("out");
    match go(&config, &out, &AtomicBool::new(false)) {
        Ok(()) => assert_eq!(decisions(&out)["slow"].as_deref(), Some("cut_off")),
        Err(error) => assert!(error.to_string().contains("could not be reached, "), "{error}"),
    }
}

#[test]
fn a_stopped_run_goes_on_without_asking_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<(String, String)> = (0..60)
        .map(|at| (format!("k{at}"), format!("{}/stop-{at}.jpg", server.address)))
        .collect();
    let config = config(folder.path(), &rows, fetch_config());
    let out = folder.path().join("out");
    let most_at_once = fetch_config().concurrency;
    for runs in 1..=3 {
        let stop = server.interrupt.at(12);
        assert!(matches!(go(&config, &out, stop), Err(Error::Interrupted)));
        // When the twelfth request comes, all but those in flight are answered, and what is answered is kept.
        let decided = decisions(&out).len();
        let least = runs * (12 - most_at_once);
        assert!(
            (least..=runs * (12 + most_at_once)).contains(&decided),
            "{decided}"
        );
    }
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    let found = decisions(&out);
    assert!(found.len() == 60 && found.values().all(Option::is_none));
    let asked = (0..60)
        .map(|at| server.asked(&format!("/stop-{at}.jpg")))
        .sum::<usize>();
    // Only downloads that an interrupt cut short are requested again: at most four per interrupt.
    assert!((60..=72).contains(&asked), "{asked}");
    let most = server.most_at_once.load(Ordering::SeqCst);
    assert!(most <= most_at_once, "{most} at once");
}

#[test]
fn as_many_requests_are_in_flight_as_the_config_allows() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<(String, String)> = (0..2 * TOGETHER)
        .map(|at| (format!("k{at}"), format!("{}/together-{at}.jpg", server.address)))
        .collect();
    // With fewer at once none of them would ever be answered.
    let fetch = FetchConfig {
        concurrency: TOGETHER,
        timeout_s: PATIENT_S,
        ..fetch_config()
    };
    let config = config(folder.path(), &rows, fetch);
    let out = folder.path().join("out");
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    let found = decisions(&out);
    assert!(found.len() == rows.len() && found.values().all(Option::is_none));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), TOGETHER);
}

#[test]
fn a_host_is_asked_at_its_rate() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<(String, String)> = (0..11)
        .map(|at| (format!("k{at}"), format!("{}/good-{at}.jpg", server.address)))
        .collect();
    let fetch = FetchConfig {
        requests_per_second_per_host: 20.0,
        ..fetch_config()
    };
    let config = config(folder.path(), &rows, fetch);
    let before = Instant::now();
    go(&config, &folder.path().join("out"), &AtomicBool::new(false)).unwrap();
    let last = server.times.lock().unwrap().iter().copied().max().unwrap();
    // Ten intervals of 50 ms from the first slot, which is not before the run; a busy machine is late, never early.
    let took = last - before;
    assert!(took >= Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_network_that_is_down_drops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    // A port without a listener.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let rows: Vec<(String, String)> = (0..40)
        .map(|at| (format!("k{at}"), format!("{address}/{at}.jpg")))
        .collect();
    let fetch = FetchConfig {
        give_up_after: 10,
        ..fetch_config()
    };
    let config = config(folder.path(), &rows, fetch);
    let out = folder.path().join("out");
    let error = go(&config, &out, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("could not be reached"), "{error}");
    assert!(decisions(&out).is_empty());
}

/// The decisions of a curation of these addresses that may not fetch from private ones.
fn decisions_outside(folder: &Path, rows: &[(String, String)]) -> HashMap<String, Option<String>> {
    let fetch = FetchConfig {
        private_addresses: false,
        ..fetch_config()
    };
    let config = config(folder, rows, fetch);
    let out = folder.join("out");
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    decisions(&out)
}

#[test]
fn strangers_do_not_send_us_into_our_own_network() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        ("own".to_string(), format!("{}/good-1.jpg", server.address)),
        ("meta".to_string(), "http://169.254.169.254/latest".to_string()),
    ];
    let found = decisions_outside(folder.path(), &rows);
    assert_eq!(found["own"].as_deref(), Some("private_address"));
    assert_eq!(found["meta"].as_deref(), Some("private_address"));
    assert_eq!(server.asked("/good-1.jpg"), 0);
}

#[test]
fn addresses_and_redirects_are_read_as_browsers_read_them() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let bare = server.address.trim_start_matches("http:").to_string();
    let to = |target: &str| {
        let target = percent_encoding::utf8_percent_encode(target, percent_encoding::NON_ALPHANUMERIC);
        format!("{}/to-{target}", server.address)
    };
    let rows = [
        ("space", format!("{}/good-a b.jpg", server.address)),
        ("behind", format!(" {}/good-c.jpg  ", server.address)),
        ("scheme", format!("{bare}/good-d.jpg")),
        ("letters", format!("{}/good-ä.jpg#top", server.address)),
        ("slashes", format!("{}\\good-e.jpg", server.address)),
        ("to_space", to("/good-the photo.jpg")),
        ("to_relative", to("good-f.jpg")),
        ("to_scheme", to(&format!("{bare}/good-g.jpg"))),
        ("to_latin", to("/good-\u{e4}.jpg").replace("%C3%A4", "%E4")),
        ("to_ftp", to("ftp://a/b")),
        ("to_user", to("http://user:word@127.0.0.1/x")),
        ("same", format!("{}/same-1.jpg", server.address)),
    ];
    let rows: Vec<(String, String)> = rows.map(|(key, address)| (key.to_string(), address)).into();
    let config = config(folder.path(), &rows, fetch_config());
    let out = folder.path().join("out");
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    let found = decisions(&out);
    for (key, _) in &rows {
        let reason = key.ends_with("ftp") || key.ends_with("user");
        assert_eq!(found[key].as_deref(), reason.then_some("bad_address"), "{key}");
    }
    for path in [
        "/good-a%20b.jpg",
        "/good-c.jpg",
        "/good-d.jpg",
        "/good-%C3%A4.jpg",
        "/good-e.jpg",
        "/good-the%20photo.jpg",
        "/good-f.jpg",
        "/good-g.jpg",
        "/good-%E4.jpg",
    ] {
        assert_eq!(server.asked(path), 1, "{path}");
    }
    let ledger = rusqlite::Connection::open(out.join("ledger.sqlite")).unwrap();
    let text = |sql: &str| ledger.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    // What was requested is recorded, and why an address was not.
    let last =
        text("SELECT final_url FROM fetches f JOIN photos p ON p.id = f.photo WHERE p.key = 'to_space'");
    assert_eq!(last, format!("{}/good-the%20photo.jpg", server.address));
    let detail = text("SELECT detail FROM decision_log WHERE key = 'to_ftp' AND reason = 'bad_address'");
    assert_eq!(
        detail,
        "redirected to `ftp://a/b`: its scheme is `ftp`, not `http` or `https`"
    );
}

#[test]
fn a_redirect_into_our_own_network_is_refused_however_it_is_written() {
    // The host of the redirect is this machine, so the resolver is tried alone: by the client, for each hop.
    let server = Server::start();
    let port = server.address.rsplit(':').next().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let forms = [
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "localhost",
        "[::1]",
        "[::ffff:7f00:1]",
        "127.1",
        "１２７.0.0.1",
    ];
    let rows: Vec<(String, String)> = forms
        .iter()
        .enumerate()
        .map(|(at, host)| (format!("k{at}"), format!("http://{host}:{port}/good-{at}.jpg")))
        .collect();
    let found = decisions_outside(folder.path(), &rows);
    for (key, address) in &rows {
        assert_eq!(found[key].as_deref(), Some("private_address"), "{address}");
    }
    assert!(server.asked.lock().unwrap().is_empty());
}

#[test]
fn photos_whose_hosts_forbid_training_are_counted_and_dropped_where_the_config_says_so() {
    let server = Server::start();
    let rows: Vec<(String, String)> = ["noai", "others", "good"]
        .iter()
        .map(|name| ((*name).to_string(), format!("{}/{name}-1.jpg", server.address)))
        .chain([(
            "moved".to_string(),
            format!("{}/to-%2Fnoai-2.jpg", server.address),
        )])
        .collect();
    for (robots_noai, kept) in [(Some(NoAi::Drop), 2), (Some(NoAi::Keep), 4), (None, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let fetch = FetchConfig {
            robots_noai,
            ..fetch_config()
        };
        let config = config(folder.path(), &rows, fetch);
        let out = folder.path().join("out");
        go(&config, &out, &AtomicBool::new(false)).unwrap();
        let funnel = crate::verbs::status::status(&out).unwrap();
        let stage = funnel.stages.iter().find(|stage| stage.name == "fetch").unwrap();
        assert_eq!((stage.kept, stage.dropped), (kept, 4 - kept));
        let counted = if kept == 4 { &stage.remarks } else { &stage.reasons };
        let noai = crate::ReasonCount {
            reason: "noai".to_string(),
            photos: 2,
        };
        assert_eq!(counted, &[noai]);
        // What is dropped is not on disk.
        let path = crate::photos::fetched_path(&out.join("photos"), "noai");
        assert_eq!(path.exists(), kept == 4);
    }
}
