//! The server from outside, and the stage after it: labels, undo, errors, and the state after a restart.

use super::*;

/// Answers that nobody gave: refused.
mod silence;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::{Config, Error, Hint, NoDetectors, RunOptions, run};

/// A curation of ten photos that waits for its review; titles are hostile.
pub(crate) fn curation(labeled_twice: f64) -> (tempfile::TempDir, Config) {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for number in 0..10u8 {
        let path = photos.join(format!("p{number}.png"));
        image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, number * 20]))
            .save(&path)
            .unwrap();
        let about = json!({ "title": "<img src=x onerror=alert(1)>\n", "photographer": "<b>Ann</b>" });
        std::fs::write(path.with_extension("json"), about.to_string()).unwrap();
    }
    std::fs::write(home.path().join("secret"), "secret").unwrap();
    let config = format!(
        "[source.folder]\nfolder = \"{}\"\nclass_folders = false\nlicence = \"mine\"\nphotographer = \"<b>Ann</b>\"\n\
         [[stages]]\n[stages.licence]\nattribution = []\naccept = [{{ name = \"mine\", urls = [] }}]\n\
         [[stages]]\n[stages.review]\ndrop = [\"person\", \"body_part\", \"nsfw\"]\nlabelled_twice = {labeled_twice:?}\ndisagreement = \"drop\"\nseed = 0\n\
         [release]\nname = \"n\"\ndescription = \"d\"\npublisher = \"p\"\ncontact = \"c\"\nurl = \"u\"\nlicence_url = \"l\"\n\
         records_per_shard = 100\nshard_prefix = \"s\"\ncoordinates = false\n",
        photos.display()
    );
    (home, toml::from_str(&config).unwrap())
}

pub(crate) fn go(config: &Config, folder: &Path, redo: Option<&str>) -> Result<(), Error> {
    let options = RunOptions {
        only: None,
        redo,
        stop: &AtomicBool::new(false),
        detectors: &NoDetectors,
        progress: &|_, _, _| {},
    };
    run(config, folder, options)
}

struct Listen {
    at: &'static str,
    token: Option<&'static str>,
    sample: Option<i64>,
}

/// Serves on loopback while `work` sends requests to the address.
pub(crate) fn served<R>(
    folder: &Path,
    sample: Option<i64>,
    work: impl FnOnce(SocketAddr) -> R,
) -> (R, Reviewed) {
    let listen = Listen {
        at: "127.0.0.1:0",
        token: None,
        sample,
    };
    serving(folder, listen, work)
}

fn serving<R>(folder: &Path, listen: Listen, work: impl FnOnce(SocketAddr) -> R) -> (R, Reviewed) {
    let stop = AtomicBool::new(false);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let stopped = &stop;
        let server = scope.spawn(move || {
            let options = ReviewOptions {
                listen: listen.at.parse().unwrap(),
                hosts: &[],
                token: listen.token,
                sample: listen.sample,
                stop: stopped,
                ready: &move |address| send.send(address).unwrap(),
            };
            serve(folder, options)
        });
        // Even where `work` fails, the server must end.
        let done = receive
            .recv()
            .map(|address| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(address))));
        stop.store(true, Ordering::Relaxed);
        let reviewed = server.join().unwrap().unwrap();
        match done.unwrap() {
            Ok(done) => (done, reviewed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Sends raw bytes; returns status and body of the response.
fn send(address: SocketAddr, bytes: &[u8]) -> (u16, Vec<u8>, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec(), head)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>, String) {
    send(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes(),
    )
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, body, _) = send(address, request.as_bytes());
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

pub(crate) fn join(address: SocketAddr, name: &str) -> i64 {
    post(address, "/api/join", &json!({ "name": name })).1["id"]
        .as_i64()
        .unwrap()
}

pub(crate) fn next(address: SocketAddr, annotator: i64) -> Vec<Value> {
    let (_, page) = post(
        address,
        "/api/next",
        &json!({ "annotator": annotator, "count": 100 }),
    );
    page["photos"].as_array().unwrap().clone()
}

/// Fetches the picture of a photo for an annotator: status, and the SHA-256 of its file where it is sent.
fn show(address: SocketAddr, annotator: i64, photo: i64) -> (u16, String) {
    let (status, _, head) = get(address, &format!("/thumb/{photo}?annotator={annotator}"));
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("X-Photo-Sha256: "));
    (status, line.unwrap_or_default().to_string())
}

/// A change with a number of its own.
fn change(annotator: i64, answers: &[(i64, &[&str], &str)]) -> Value {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let answers: Vec<Value> = answers
        .iter()
        .map(|(photo, categories, shown)| json!({ "photo": photo, "categories": categories, "shown": shown }))
        .collect();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    json!({ "annotator": annotator, "page": "test", "number": number, "answers": answers })
}

/// Looks at a photo and answers.
pub(crate) fn say(address: SocketAddr, annotator: i64, photo: i64, categories: &[&str]) -> u16 {
    let (_, shown) = show(address, annotator, photo);
    let answer = change(annotator, &[(photo, categories, &shown)]);
    post(address, "/api/answers", &answer).0
}

fn state(address: SocketAddr) -> Value {
    serde_json::from_slice(&get(address, "/api/state").1).unwrap()
}

#[test]
fn people_label_a_kill_loses_nothing_and_the_stage_takes_their_word() {
    let (home, config) = curation(1.0);
    let out = home.path().join("out");
    let error = go(&config, &out, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage `review` waits: 0 of 10 photos are labeled"
    );
    assert_eq!(error.hint(), Some(Hint::LabelPhotos));
    assert_eq!(crate::status(&out).unwrap().review.unwrap().labels_open, 20);

    let (_, first) = served(&out, None, |address| {
        let ann = join(address, " Ann <b>\n");
        let photos = next(address, ann);
        assert_eq!(photos.len(), 10);
        assert_eq!(photos[0]["title"], "<img src=x onerror=alert(1)>");
        for (at, photo) in photos.iter().enumerate() {
            let said: &[&str] = [&["person"][..], &["licence_plate"], &[]][at % 3];
            assert_eq!(say(address, ann, photo["photo"].as_i64().unwrap(), said), 200);
        }
        // An answer confirmed to the page is in the file, even if this process dies.
        let ledger = rusqlite::Connection::open(out.join("ledger.sqlite")).unwrap();
        let count: i64 = ledger
            .query_row(
                "SELECT count(*) FROM answers WHERE state = 'current'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(count, 10);
        // The last answer was a mistake, and so was the one before.
        let undo = |annotator: i64| post(address, "/api/undo", &change(annotator, &[])).1;
        assert_eq!(undo(ann)["photos"][0]["photo"], photos[9]["photo"]);
        assert_eq!(undo(ann)["photos"][0]["photo"], photos[8]["photo"]);
        // Undoing an answer restores the one that it replaced.
        let photo = photos[0]["photo"].as_i64().unwrap();
        say(address, ann, photo, &["nsfw"]);
        assert_eq!(undo(ann)["photos"][0]["categories"], json!(["person"]));
        assert_eq!(next(address, ann).len(), 2);
        assert_eq!(state(address)["labels_open"], 12);
        assert_eq!(undo(999)["photos"], json!([]));
    });
    assert_eq!((first.photos, first.done, first.wait_for_second), (10, 0, 8));
    let error = go(&config, &out, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage `review` waits: 0 of 10 photos are labeled, 8 wait for a second person"
    );

    // Another process, another day: no photo is shown twice.
    served(&out, None, |address| {
        let ann = join(address, "Ann <b>");
        // One person is not two.
        assert_eq!(join(address, "ANN\u{200b} <b>"), ann);
        let bob = join(address, "Bob");
        assert_ne!(ann, bob);
        for photo in next(address, ann) {
            say(address, ann, photo["photo"].as_i64().unwrap(), &[]);
        }
        assert_eq!(next(address, ann), [] as [Value; 0]);
        let photos = next(address, bob);
        assert_eq!(photos.len(), 10);
        // The other annotator's answers are not shown.
        assert!(photos.iter().all(|photo| photo["categories"].is_null()));
        for photo in &photos {
            let number = photo["photo"].as_i64().unwrap();
            say(
                address,
                bob,
                number,
                if number == 1 { &["body_part", "nsfw"] } else { &[] },
            );
        }
        let state = state(address);
        assert_eq!((&state["done"], &state["labels_open"]), (&json!(10), &json!(0)));
        assert_eq!(state["pairs"][0]["photos"], 10);
        assert_eq!(state["pairs"][0]["first"], "Ann <b>");
        assert!(state["pairs"][0]["kappa"].as_f64().unwrap() < 1.0);
    });
    // A ledger of yesterday's photos: an answer to another content does not count.
    go(&config, &out, None).unwrap();
    let funnel = crate::status(&out).unwrap();
    let stage = funnel.stages.last().unwrap();
    assert_eq!((stage.name.as_str(), stage.kept + stage.dropped), ("review", 10));
    let log: Vec<(bool, Option<String>, String)> = rusqlite::Connection::open(out.join("ledger.sqlite"))
        .unwrap()
        .prepare("SELECT kept, reason, detail FROM decision_log WHERE stage = 'review' ORDER BY photo")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(
        log.iter().filter(|(kept, ..)| !kept).count(),
        stage.dropped as usize
    );
    // License plates are recorded and not dropped, because the config does not list them.
    assert!(
        log.iter()
            .any(|(kept, _, detail)| *kept && detail == "licence_plate; nothing")
    );
    assert!(
        log.iter()
            .all(|(kept, _, detail)| *kept != detail.contains("person") || detail.contains("nsfw"))
    );
    assert!(!log[0].0 && log[0].2.ends_with("body_part, nsfw"), "{log:?}");

    // The stage has decided; after reopening, the answers still exist.
    let options = ReviewOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        hosts: &[],
        token: None,
        sample: None,
        stop: &AtomicBool::new(true),
        ready: &|_| {},
    };
    let redo = Hint::Redo {
        stage: "review".to_string(),
    };
    assert_eq!(serve(&out, options).unwrap_err().hint(), Some(redo));
    let released = crate::release(&out, "", &AtomicBool::new(false), &|_, _, _| {}).unwrap();
    let sheet = std::fs::read_to_string(released.folder.join("DATASHEET.md")).unwrap();
    assert!(
        sheet.contains(
            "People looked at the 10 photos that were left: 10 by two (2 people in all, 20 answers; 100 % of"
        ),
        "{sheet}"
    );
    go(&config, &out, Some("review")).unwrap();
    assert_eq!(
        crate::status(&out).unwrap().stages.last().unwrap().dropped,
        stage.dropped
    );
}

#[test]
fn requests_that_nobody_should_send_are_refused() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let (status, page, head) = get(address, "/");
        assert_eq!(status, 200);
        assert!(head.contains("Content-Security-Policy: default-src 'none'; script-src 'self'"));
        let page = String::from_utf8(page).unwrap();
        assert!(!page.contains("http"), "the page loads nothing from elsewhere");
        join(address, "Ann");
        for path in [
            "/../../etc/passwd",
            "/photo/../../etc/passwd?annotator=1",
            "/photo/..%2f..%2fetc%2fpasswd?annotator=1",
            "/thumb/%2e%2e/secret?annotator=1",
            "/photo/p1.png?annotator=1",
            "/photo/11?annotator=1",
            "/photo/-1?annotator=1",
            "/photo/?annotator=1",
            "//etc/passwd",
            "/ledger.sqlite",
        ] {
            assert_eq!(get(address, path).0, 404, "{path}");
        }
        let ann = join(address, "Ann");
        let (status, jpeg, head) = get(address, &format!("/thumb/1?annotator={ann}"));
        assert!(
            status == 200 && head.contains("Content-Type: image/jpeg") && jpeg.starts_with(&[0xff, 0xd8])
        );
        let (_, png, head) = get(address, &format!("/photo/1?annotator={ann}"));
        assert!(head.contains("Content-Type: image/png") && png.starts_with(b"\x89PNG"));
        for path in ["/thumb/1", "/photo/1?annotator=77", "/medium/1?annotator=x"] {
            assert_eq!(get(address, path).0, 400, "{path}");
        }
        let raw = |request: String| send(address, request.as_bytes()).0;
        let other = "Origin: http://evil.example\r\n";
        for (line, expected) in [
            (
                format!("GET / HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", address.port()),
                403,
            ),
            (
                format!("GET /api/state HTTP/1.1\r\nHost: {address}\r\n{other}\r\n"),
                403,
            ),
            (
                format!("GET /thumb/1 HTTP/1.1\r\nHost: {address}\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
                403,
            ),
            (
                format!(
                    "POST /api/undo HTTP/1.1\r\nHost: {address}\r\n{other}Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{{\"annotator\":1}}"
                ),
                403,
            ),
            (
                format!("POST /api/undo HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"),
                403,
            ),
            (
                format!("PUT / HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\n\r\n"),
                405,
            ),
            (
                format!("POST / HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                501,
            ),
            (
                format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 99999999\r\n\r\n"),
                413,
            ),
            (
                format!(
                    "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
                ),
                400,
            ),
            ("nonsense\r\n\r\n".to_string(), 400),
            (
                format!(
                    "GET / HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n",
                    "a".repeat(40_000)
                ),
                431,
            ),
        ] {
            assert_eq!(raw(line.clone()), expected, "{}", &line[..line.len().min(200)]);
        }
        assert_eq!(say(address, ann, 1, &["nothing_known"]), 400);
        assert_eq!(say(address, ann, 99, &[]), 400);
        assert_eq!(say(address, 77, 1, &[]), 400);
        let mut unnamed = change(ann, &[]);
        unnamed["page"] = json!("");
        assert_eq!(post(address, "/api/undo", &unnamed).0, 400);
        assert_eq!(
            post(address, "/api/join", &json!({ "name": " \u{202e}\n " })).0,
            400
        );
        assert_eq!(
            post(address, "/api/join", &json!({ "name": "a".repeat(61) })).0,
            400
        );
        assert_eq!(state(address)["labels_open"], 10);
    });
}

#[test]
fn other_machines_need_a_token() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    let stop = AtomicBool::new(false);
    let options = ReviewOptions {
        listen: "0.0.0.0:0".parse().unwrap(),
        hosts: &[],
        token: None,
        sample: None,
        stop: &stop,
        ready: &|_| {},
    };
    let error = serve(&out, options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a token of 16 characters or more is needed"),
        "{error}"
    );
    let listen = Listen {
        at: "0.0.0.0:0",
        token: Some("0123456789abcdef"),
        sample: None,
    };
    serving(&out, listen, |address| {
        let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
        let with = |path: &str, more: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n");
            send(address, request.as_bytes())
        };
        assert_eq!(with("/", "").0, 401);
        assert_eq!(with("/page.js", "").0, 401);
        assert_eq!(with("/thumb/1", "").0, 401);
        let (status, _, head) = with("/?token=0123456789abcdef", "");
        assert!(status == 303 && head.contains("Location: /") && head.contains("HttpOnly; SameSite=Strict"));
        assert_eq!(
            with("/api/state", "Cookie: passer_review=0123456789abcdef\r\n").0,
            200
        );
    });
}

#[test]
fn an_answer_to_another_content_does_not_count() {
    let (home, mut config) = curation(0.0);
    let text = "integrity = { min_side_px = 1, max_side_px = 100, max_pixels = 10000, single_colour_levels = 0, placeholders = [] }";
    config.stages.insert(1, toml::from_str(text).unwrap());
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        for photo in next(address, ann) {
            say(address, ann, photo["photo"].as_i64().unwrap(), &[]);
        }
    });
    go(&config, &out, None).unwrap();
    image::RgbImage::from_fn(40, 30, |x, _| image::Rgb([x as u8, 0, 0]))
        .save(home.path().join("photos/p3.png"))
        .unwrap();
    let error = go(&config, &out, Some("source")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage `review` waits: 9 of 10 photos are labeled"
    );
}
