//! The page's requests: pictures, photos to label, answers, undo, and the state of the work.
//!
//! An answer is in the ledger, synced to the disk, before the page receives its confirmation. Requests name
//! photos by number, so no path reaches the file system.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use data::terminal::one_line;
use serde::Deserialize;
use serde_json::{Value, json};

use super::agreement::kappa_of;
use super::http::{Request, Response};
use super::items::Job;
use super::pace::Paces;
use super::queue::{Counts, Queue};
use crate::error::Error;
use crate::ledger::{Answer as Row, Content, Gate, Ledger, sha256};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::stages::review::{Categories, Category, REVIEW};
use crate::verbs::thumbnail::small_jpeg;

/// Longer side of the pictures of the grid, px.
const THUMBNAIL_PX: u32 = 480;
/// Longest name of an annotator, characters.
const LONGEST_NAME: usize = 60;
/// Photos on a page, at most.
const MOST_OF_A_PAGE: usize = 200;

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

/// One review, shared by all requests.
pub(super) struct Review {
    photos: Photos,
    /// Name of the data set.
    name: String,
    sample: i64,
    inside: Mutex<Inside>,
}

struct Inside {
    ledger: Ledger,
    queue: Queue,
    paces: Paces,
    /// The takedowns; none is added while the server holds the ledger.
    gate: Gate,
    /// The content that the page showed of each photo, until the photo has an answer.
    shown: HashMap<i64, Content>,
    /// Number of the stage that reads the photos.
    stage: i64,
}

impl Review {
    pub(super) fn new(
        ledger: Ledger,
        photos: Photos,
        name: String,
        sample: i64,
        job: Job,
    ) -> Result<Review, Error> {
        Ok(Review {
            photos,
            name,
            sample,
            inside: Mutex::new(Inside {
                queue: Queue::new(job.items, job.bad),
                paces: Paces::read(&ledger, sample, Instant::now())?,
                gate: ledger.gate(&[])?,
                shown: HashMap::new(),
                stage: job.stage,
                ledger,
            }),
        })
    }

    /// The progress of the work.
    pub(super) fn counts(&self) -> Counts {
        self.lock().queue.counts()
    }

    /// A panic in one request must not end the review of the others.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The picture of a photo of the queue: the original file, or a small copy.
    pub(super) fn photo(&self, number: &str, small: bool) -> Result<Response, Error> {
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
        // The type comes from the content, never from the name, so that a browser runs nothing.
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

    pub(super) fn join(&self, request: &Request) -> Result<Response, Error> {
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

    pub(super) fn next(&self, request: &Request) -> Result<Response, Error> {
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

    pub(super) fn take(&self, request: &Request) -> Result<Response, Error> {
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
            // A photo of the current page that turned out to be taken down needs no answer.
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

    pub(super) fn undo(&self, request: &Request) -> Result<Response, Error> {
        let Ok(asked) = serde_json::from_slice::<Undo>(&request.body) else {
            return Ok(Response::refused(400, "the request must hold an annotator"));
        };
        let mut inside = self.lock();
        let undone = inside.ledger.undo_answers(self.sample, asked.annotator)?;
        let gone = undone.iter().filter(|(_, before)| before.is_none()).count() as u64;
        inside.paces.took_back(asked.annotator, undone.len() as u64, gone);
        let mut photos = Vec::new();
        for (key, before) in undone {
            // Of rows with the same key, the one in the queue.
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

    pub(super) fn state(&self) -> Result<Response, Error> {
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
    /// Whether a file may be shown. One that was taken down under another key leaves the queue. Its content
    /// is added to the ledger, whose gate drops the photo from then on.
    fn may_show(&mut self, photo: &Photo, content: Content) -> Result<bool, Error> {
        // A difference from earlier stages' content is no error here: an answer is bound to the content that
        // it was given for.
        if self.gate.check(photo.id, &content).is_err() {
            self.ledger.note_content(self.stage, photo.id, &content)?;
            self.queue.withdraw(photo.id);
            return Ok(false);
        }
        self.shown.insert(photo.id, content);
        Ok(true)
    }

    /// A photo for the page, with this annotator's own answer; others' answers are not shown.
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
