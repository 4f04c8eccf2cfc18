//! The review page's server: photos out, answers in.
//!
//! An answer is in the ledger, synced to the disk, before the page hears of it. The page itself lies in this program; it loads
//! nothing from elsewhere. Requests name photos by number, so no path reaches the file system.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data::terminal::one_line;
use serde::Deserialize;
use serde_json::{Value, json};

use super::agreement::kappa_of;
use super::guard::{Guard, Pass};
use super::http::{self, Request, Response};
use super::pace::Paces;
use super::queue::Queue;
use crate::config::Config;
use crate::error::Error;
use crate::ledger::{Answer as Row, Content, Gate, Ledger, sha256};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::stages::review::{Categories, Category, REVIEW};
use crate::verbs::thumbnail::small_jpeg;

use super::items::{Job, failed, of_sample, of_stage};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Connections answered at a time; a browser opens six.
const MOST_CONNECTIONS: usize = 64;
/// Longer side of the pictures of the grid, px.
const THUMBNAIL_PX: u32 = 480;
/// Longest name of an annotator, characters.
const LONGEST_NAME: usize = 60;
/// Photos of a page at most.
const MOST_OF_A_PAGE: usize = 200;

/// How photos are served to annotators.
#[derive(Clone, Copy)]
pub struct ReviewOptions<'a> {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names beside its addresses by which browsers may call the server.
    pub hosts: &'a [String],
    /// The token that every request must carry; required unless the address is of loopback.
    pub token: Option<&'a str>,
    /// The sample of an audit whose photos are labeled; none: the photos of the stage `review`.
    pub sample: Option<i64>,
    /// When it turns true, the server ends.
    pub stop: &'a AtomicBool,
    /// Called with the address once it listens.
    pub ready: &'a dyn Fn(SocketAddr),
}

/// What there was to do when the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// Photos in the queue.
    pub photos: u64,
    /// Photos with all labels that they need.
    pub done: u64,
}

/// All that requests share.
struct Server {
    guard: Guard,
    photos: Photos,
    name: String,
    sample: i64,
    inside: Mutex<Inside>,
}

struct Inside {
    ledger: Ledger,
    queue: Queue,
    paces: Paces,
    /// What was taken down; nothing is while the server has the ledger.
    gate: Gate,
    /// What the page showed of each photo, until there is an answer to it.
    shown: HashMap<i64, Content>,
    /// Number of the stage that looks at it.
    stage: i64,
}

/// Serves the photos of the curation in `folder` until `stop` turns true.
///
/// # Errors
/// No stage `review`, one that has decided already or whose predecessor is not done; an address that cannot be had, or that
/// other machines reach without a token.
pub fn serve(folder: &Path, options: ReviewOptions<'_>) -> Result<Reviewed, Error> {
    if !options.listen.ip().is_loopback() && options.token.is_none_or(|token| token.len() < 16) {
        return Err(failed(
            format!(
                "`{}` is reached from other machines: a token of 16 characters or more is needed",
                options.listen
            ),
            None,
        ));
    }
    let ledger = Ledger::open_existing(folder)?;
    // What the page reports as saved is saved, also when the power goes.
    ledger.sync_each_transaction()?;
    let config = Config::of(&ledger, folder)?;
    let Job { items, bad, stage } = match options.sample {
        None => of_stage(&ledger, &config)?,
        Some(sample) => of_sample(&ledger, sample)?,
    };
    let listener = TcpListener::bind(options.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| failed(format!("cannot listen on `{}`: {error}", options.listen), None))?;
    let address = listener
        .local_addr()
        .map_err(|error| failed(format!("cannot listen: {error}"), None))?;
    let sample = options.sample.unwrap_or(REVIEW);
    let server = Server {
        guard: Guard::new(address, options.hosts.to_vec(), options.token.map(str::to_string)),
        photos: config.photos(folder)?,
        name: config.release.name.clone(),
        sample,
        inside: Mutex::new(Inside {
            queue: Queue::new(items, bad),
            paces: Paces::read(&ledger, sample, Instant::now())?,
            gate: ledger.gate(&[])?,
            shown: HashMap::new(),
            stage,
            ledger,
        }),
    };
    (options.ready)(address);
    let open = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        while !options.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) if open.load(Ordering::Relaxed) < MOST_CONNECTIONS => {
                    open.fetch_add(1, Ordering::Relaxed);
                    let (server, open) = (&server, &open);
                    scope.spawn(move || {
                        server.answer(stream);
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                // One too many: dropped, and the browser tries again.
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
    let counts = server.lock().queue.counts();
    Ok(Reviewed {
        photos: counts.photos,
        done: counts.done,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    annotator: i64,
    count: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    annotator: i64,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    photo: i64,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    annotator: i64,
}

impl Server {
    /// A panic in one request must not end the review of the others.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: TcpStream) {
        if stream.set_nonblocking(false).is_err() {
            return;
        }
        let response = match http::read(&mut stream) {
            Ok(request) => self.response(&request),
            Err(Some(refusal)) => refusal,
            Err(None) => return,
        };
        http::write(&mut stream, &response);
        // What was not read would make the system drop the answer.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }

    fn response(&self, request: &Request) -> Response {
        match self.guard.check(request) {
            Err(refusal) => return refusal,
            Ok(Pass::SetCookie(cookie)) => {
                let mut response = Response::new(303, "text/plain", "");
                response.headers = vec![("Set-Cookie", cookie), ("Location", "/".to_string())];
                return response;
            }
            Ok(Pass::Go) => {}
        }
        let answered = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Ok(Response::new(200, "text/html; charset=utf-8", PAGE)),
            ("GET", "/page.js") => Ok(Response::new(200, "text/javascript; charset=utf-8", SCRIPT)),
            ("GET", "/page.css") => Ok(Response::new(200, "text/css; charset=utf-8", STYLE)),
            ("GET", "/api/state") => self.state(),
            ("POST", "/api/join") => self.join(request),
            ("POST", "/api/next") => self.next(request),
            ("POST", "/api/answers") => self.take(request),
            ("POST", "/api/undo") => self.undo(request),
            ("GET", path) => match path
                .strip_prefix("/photo/")
                .or_else(|| path.strip_prefix("/thumb/"))
            {
                Some(number) => self.photo(number, path.starts_with("/thumb/")),
                None => Ok(Response::refused(404, "there is no such page")),
            },
            _ => Ok(Response::refused(405, "there is nothing to do so")),
        };
        answered.unwrap_or_else(|error| {
            tracing::error!("{error}");
            Response::refused(500, &error.to_string())
        })
    }

    /// The picture of a photo of the queue: the file as it is, or a small one.
    fn photo(&self, number: &str, small: bool) -> Result<Response, Error> {
        let missing = || Ok(Response::refused(404, "there is no such photo"));
        let Some(photo) = number.parse::<i64>().ok() else {
            return missing();
        };
        let photo = {
            let inside = self.lock();
            if inside.queue.item(photo).is_none() {
                return missing();
            }
            inside.ledger.photo(photo)?
        };
        let Some(photo) = photo else {
            return missing();
        };
        let file = self.photos.read(&photo)?;
        let content = sha256(&file);
        if !self.lock().may_show(&photo, content)? {
            return missing();
        }
        // Told by the content and never by the name: nothing that a browser would run.
        let kind = match image::guess_format(&file) {
            Ok(image::ImageFormat::Jpeg) => "image/jpeg",
            Ok(image::ImageFormat::Png) => "image/png",
            Ok(image::ImageFormat::WebP) => "image/webp",
            Ok(image::ImageFormat::Gif) => "image/gif",
            Ok(image::ImageFormat::Bmp) => "image/bmp",
            _ => return missing(),
        };
        let mut response = match small.then(|| small_jpeg(&file, THUMBNAIL_PX)).flatten() {
            Some(jpeg) => Response::new(200, "image/jpeg", jpeg),
            None => Response::new(200, kind, file),
        };
        response.headers.push(("Vary", "Cookie".to_string()));
        Ok(response)
    }

    fn join(&self, request: &Request) -> Result<Response, Error> {
        let Ok(asked) = serde_json::from_slice::<Join>(&request.body) else {
            return Ok(Response::refused(400, "the request must hold a name"));
        };
        let name = one_line(&asked.name);
        if name.is_empty() || name.chars().count() > LONGEST_NAME {
            return Ok(Response::refused(400, "a name has 1 to 60 characters"));
        }
        let id = self.lock().ledger.annotator(&name)?;
        Ok(Response::json(&json!({ "id": id, "name": name })))
    }

    fn next(&self, request: &Request) -> Result<Response, Error> {
        let Ok(asked) = serde_json::from_slice::<Next>(&request.body) else {
            return Ok(Response::refused(
                400,
                "the request must hold annotator and count",
            ));
        };
        let mut inside = self.lock();
        let count = asked.count.clamp(1, MOST_OF_A_PAGE);
        let photos = inside.queue.next(asked.annotator, count, Instant::now());
        let photos = photos
            .into_iter()
            .map(|photo| inside.described(photo, asked.annotator))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Response::json(&json!({ "photos": photos })))
    }

    fn take(&self, request: &Request) -> Result<Response, Error> {
        let Ok(asked) = serde_json::from_slice::<Answers>(&request.body) else {
            return Ok(Response::refused(
                400,
                "the request must hold annotator and answers",
            ));
        };
        if asked.answers.is_empty() || asked.answers.len() > MOST_OF_A_PAGE {
            return Ok(Response::refused(400, "a request must hold 1 to 200 answers"));
        }
        let mut inside = self.lock();
        if !inside.ledger.has_annotator(asked.annotator)? {
            return Ok(Response::refused(400, "no such annotator"));
        }
        let mut rows = Vec::new();
        for answer in asked.answers {
            // A photo of the page at hand that turned out to be taken down needs no answer.
            if inside.queue.was_withdrawn(answer.photo) {
                continue;
            }
            let known = match inside.queue.item(answer.photo) {
                Some(_) => inside.ledger.photo(answer.photo)?,
                None => None,
            };
            let Some(photo) = known else {
                return Ok(Response::refused(400, "no such photo"));
            };
            let categories: Categories = answer.categories.iter().collect();
            let row = Row {
                photo: photo.id,
                key: photo.key,
                categories: categories.names().join(","),
                shown: inside.shown.get(&photo.id).copied(),
            };
            rows.push((row, categories));
        }
        let (rows, said): (Vec<Row>, Vec<Categories>) = rows.into_iter().unzip();
        // First the disk, then the page.
        let stage = inside.stage;
        let new = inside
            .ledger
            .add_answers(self.sample, asked.annotator, stage, &rows)?;
        inside
            .paces
            .gave(asked.annotator, rows.len() as u64, new, Instant::now());
        for (row, categories) in rows.iter().zip(said) {
            inside.shown.remove(&row.photo);
            inside.queue.note(row.photo, asked.annotator, Some(categories));
        }
        Ok(Response::json(&json!({ "saved": rows.len() })))
    }

    fn undo(&self, request: &Request) -> Result<Response, Error> {
        let Ok(asked) = serde_json::from_slice::<Undo>(&request.body) else {
            return Ok(Response::refused(400, "the request must hold an annotator"));
        };
        let mut inside = self.lock();
        let undone = inside.ledger.undo_answers(self.sample, asked.annotator)?;
        let gone = undone.iter().filter(|(_, before)| before.is_none()).count() as u64;
        inside.paces.took_back(asked.annotator, undone.len() as u64, gone);
        let mut photos = Vec::new();
        for (key, before) in undone {
            // Of rows under one key, the one that is in the queue.
            let known = inside.ledger.ids_of_key(&key)?;
            let Some(photo) = known
                .into_iter()
                .find(|photo| inside.queue.item(*photo).is_some())
            else {
                continue;
            };
            let before = before.as_deref().map(Categories::read);
            inside.queue.note(photo, asked.annotator, before);
            photos.push(inside.described(photo, asked.annotator)?);
        }
        Ok(Response::json(&json!({ "photos": photos })))
    }

    fn state(&self) -> Result<Response, Error> {
        let mut inside = self.lock();
        let counts = inside.queue.counts();
        let names = inside.ledger.annotators()?;
        let now = Instant::now();
        let mut pace = 0.0;
        let annotators: Vec<Value> = names
            .iter()
            .map(|(id, name)| {
                let (answers, per_minute) = inside.paces.of(*id, now);
                pace += per_minute;
                json!({ "id": id, "name": name, "answers": answers, "per_minute": per_minute })
            })
            .collect();
        let name = |id: i64| {
            let known = names.iter().find(|(known, _)| *known == id);
            known.map_or("?", |(_, name)| name.as_str())
        };
        let pairs: Vec<Value> = inside
            .queue
            .pairs()
            .map(|([first, second], said)| {
                json!({
                    "first": name(first), "second": name(second), "photos": said.iter().sum::<u64>(),
                    "agreed": said[0] + said[3], "kappa": kappa_of(said),
                })
            })
            .collect();
        Ok(Response::json(&json!({
            "name": one_line(&self.name),
            "audit": self.sample != REVIEW,
            "photos": counts.photos,
            "done": counts.done,
            "labels_open": counts.labels_open,
            "wait_for_second": counts.wait_for_second,
            "minutes_left": (pace > 0.0 && counts.labels_open > 0).then(|| counts.labels_open as f64 / pace),
            "annotators": annotators,
            "pairs": pairs,
        })))
    }
}

impl Inside {
    /// Whether a file may be shown. One that was taken down under another key leaves the queue, and its content goes into the
    /// ledger, whose gate drops the photo from now on.
    fn may_show(&mut self, photo: &Photo, content: Content) -> Result<bool, Error> {
        // What earlier stages saw of it is not held against it here: an answer is bound to what they saw.
        if self.gate.check(photo.id, &content).is_err() {
            self.ledger.note_content(self.stage, photo.id, &content)?;
            self.queue.withdraw(photo.id);
            return Ok(false);
        }
        self.shown.insert(photo.id, content);
        Ok(true)
    }

    /// A photo for the page, with what this annotator said of it; what others said is not shown.
    fn described(&self, photo: i64, annotator: i64) -> Result<Value, Error> {
        let known = self.ledger.photo(photo)?.unwrap_or_default();
        let item = self.queue.item(photo);
        let said = item.and_then(|item| item.given.iter().find(|(who, _)| *who == annotator));
        let line = |text: Option<&String>| text.map(|text| one_line(text));
        Ok(json!({
            "photo": photo,
            "score": item.and_then(|item| item.score),
            "title": line(known.title.as_ref()),
            "photographer": line(known.photographer.as_ref()),
            "categories": said.map(|(_, categories)| categories.names()),
        }))
    }
}
