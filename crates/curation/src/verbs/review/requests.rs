//! The page's requests: pictures, photos to label, answers, undo, and the state of the work.
//!
//! No answer is stored for a picture that its annotator was not sent: an answer names the SHA-256 of the file
//! that was shown, which must be the one that this server sent, and the one in the ledger.
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
use super::queue::Queue;
use crate::error::Error;
use crate::ledger::{Answer as Row, Content, Gate, Ledger, sha256};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::stages::review::{Categories, Category, REVIEW};
use crate::verbs::thumbnail::{media_type, small_jpeg};

/// Longest name of an annotator, characters.
const LONGEST_NAME: usize = 60;
/// Longest name of a page, characters.
const LONGEST_PAGE: usize = 40;
/// Photos on a page, at most.
const MOST_OF_A_PAGE: usize = 200;
/// Photos that cannot be shown and that the page names, at most.
const MOST_NAMED: usize = 20;
/// The header with the SHA-256 of the file from which a picture was made.
const CONTENT_HEADER: &str = "X-Photo-Sha256";

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
    /// Whether photos that could not be shown are tried again.
    #[serde(default)]
    again: bool,
}

/// Who requests a change, and which of this page's changes it is: a request that is sent again, because its
/// response was lost, must not take effect twice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    annotator: i64,
    /// A name that the page drew when it was loaded.
    page: String,
    /// Rises with each change.
    number: u64,
    /// The answers; absent where the request is not about answers.
    #[serde(default)]
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    photo: i64,
    categories: Vec<Category>,
    /// SHA-256 of the file that the page showed.
    shown: String,
}

/// The state of the work when the server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// Photos in the queue.
    pub photos: u64,
    /// Photos with all labels that they need.
    pub done: u64,
    /// Photos that have one label and need a second one, by another person.
    pub wait_for_second: u64,
    /// Photos without all labels that could not be shown: key and reason.
    pub not_shown: Vec<(String, String)>,
}

/// One review, shared by all requests.
pub(super) struct Review {
    photos: Photos,
    /// Name of the data set.
    name: String,
    /// The folder of the curation, as the user named it.
    folder: String,
    sample: i64,
    inside: Mutex<Inside>,
}

struct Inside {
    ledger: Ledger,
    queue: Queue,
    paces: Paces,
    /// The takedowns; none is added while the server holds the ledger.
    gate: Gate,
    /// The content that was shown of photos whose content is not in the ledger yet.
    shown: HashMap<i64, Content>,
    /// By annotator and photo: the content that they were sent. Photos of earlier pages are forgotten.
    served: HashMap<i64, HashMap<i64, Content>>,
    /// By page: the number of its last change, and the response.
    last: HashMap<String, (u64, Value)>,
    /// Number of the stage that reads the photos.
    stage: i64,
}

/// Why a picture is not sent.
struct NotShown {
    status: u16,
    reason: String,
}

impl Review {
    pub(super) fn new(
        ledger: Ledger,
        photos: Photos,
        name: String,
        sample: i64,
        job: Job,
        folder: String,
    ) -> Result<Review, Error> {
        Ok(Review {
            photos,
            name,
            folder,
            sample,
            inside: Mutex::new(Inside {
                queue: Queue::new(job.items, job.bad),
                paces: Paces::read(&ledger, sample, Instant::now())?,
                gate: ledger.gate(&[])?,
                shown: HashMap::new(),
                served: HashMap::new(),
                last: HashMap::new(),
                stage: job.stage,
                ledger,
            }),
        })
    }

    /// The state of the work.
    pub(super) fn reviewed(&self) -> Result<Reviewed, Error> {
        let inside = self.lock();
        let counts = inside.queue.counts();
        let not_shown = inside
            .queue
            .aside()
            .map(|(photo, reason)| {
                let key = inside
                    .ledger
                    .photo(photo)?
                    .map_or_else(String::new, |photo| photo.key);
                Ok((key, reason.to_string()))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Reviewed {
            photos: counts.photos,
            done: counts.done,
            wait_for_second: counts.wait_for_second,
            not_shown,
        })
    }

    /// A panic in one request must not end the review of the others.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The picture of a photo of the queue for the annotator that the query names: the original file, or a
    /// copy whose longer side is `side_px`. The response carries the SHA-256 of the file. A file that cannot
    /// be shown, or whose bytes are not those of the ledger, is refused with its reason, and set aside.
    pub(super) fn photo(&self, number: &str, query: &str, side_px: Option<u32>) -> Result<Response, Error> {
        let missing = || Ok(Response::refused(404, "there is no such photo"));
        let annotator = query.split('&').find_map(|pair| pair.strip_prefix("annotator="));
        let Some(annotator) = annotator.and_then(|number| number.parse::<i64>().ok()) else {
            return Ok(Response::refused(400, "the request must name its annotator"));
        };
        let Some(number) = number.parse::<i64>().ok() else {
            return missing();
        };
        let photo = {
            let inside = self.lock();
            if !inside.ledger.has_annotator(annotator)? {
                return Ok(Response::refused(400, "no such annotator"));
            }
            if inside.queue.was_withdrawn(number) {
                return Ok(Response::refused(410, TAKEN_DOWN));
            }
            if inside.queue.item(number).is_none() {
                return missing();
            }
            inside.ledger.photo(number)?
        };
        let Some(photo) = photo else {
            return missing();
        };
        let file = match self.photos.read(&photo) {
            Ok(file) => file,
            Err(error) => {
                // Paths of this machine are for its own terminal.
                tracing::warn!("photo `{}`: {}", photo.key, data::with_causes(&error));
                let reason = match &error {
                    Error::Io { source, .. } => format!("its file cannot be read: {source}"),
                    _ => "its file cannot be read".to_string(),
                };
                return Ok(self.lock().set_aside(number, NotShown { status: 422, reason }));
            }
        };
        let content = sha256(&file);
        let decodes = {
            let mut inside = self.lock();
            if let Err(refusal) = inside.check(&photo, content)? {
                return Ok(refusal);
            }
            let served = inside.served.get(&annotator);
            served.is_some_and(|served| served.get(&number) == Some(&content))
        };
        // The type comes from the content, never from the name, so that a browser runs nothing.
        let picture = match side_px {
            Some(side_px) => small_jpeg(&file, side_px).map(|jpeg| ("image/jpeg", jpeg)),
            None => media_type(&file, decodes).map(|kind| (kind, file)),
        };
        let (kind, body) = match picture {
            Ok(picture) => picture,
            Err(reason) => {
                return Ok(self.lock().set_aside(number, NotShown { status: 422, reason }));
            }
        };
        self.lock().note_served(annotator, number, content);
        let mut response = Response::new(200, kind, body);
        response.headers.push(("Vary", "Cookie".to_string()));
        response.headers.push((CONTENT_HEADER, data::hex(&content)));
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
        let mut inside = self.lock();
        // One person is not two because of a capital or a letter that nobody sees.
        let known = inside.ledger.annotators()?;
        let known = known
            .into_iter()
            .find(|(_, known)| *known == name || folded(known) == folded(&name));
        let (id, name) = match known {
            Some(known) => known,
            None => (inside.ledger.annotator(&name)?, name),
        };
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
        if asked.again {
            inside.queue.put_all_back();
        }
        let count = asked.count.clamp(1, MOST_OF_A_PAGE);
        let photos = inside.queue.next(asked.annotator, count, Instant::now());
        // Pictures of earlier pages that are answered later are sent once more first.
        if let Some(served) = inside.served.get_mut(&asked.annotator) {
            served.retain(|photo, _| photos.contains(photo));
        }
        let photos = photos
            .into_iter()
            .map(|photo| inside.described(photo, asked.annotator))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Response::json(&json!({ "photos": photos })))
    }

    /// Stores answers: all of them, or none and the photos for which they are refused. A photo that was never
    /// sent to this annotator, or with other bytes than the answer names, is refused.
    pub(super) fn take(&self, request: &Request) -> Result<Response, Error> {
        self.change(request, |inside, asked| self.take_answers(inside, asked))
    }

    fn take_answers(&self, inside: &mut Inside, asked: &Change) -> Result<Result<Value, Response>, Error> {
        let refused_as = |reason| Ok(Err(Response::refused(400, reason)));
        if asked.answers.is_empty() || asked.answers.len() > MOST_OF_A_PAGE {
            return refused_as("a request must hold 1 to 200 answers");
        }
        if !inside.ledger.has_annotator(asked.annotator)? {
            return refused_as("no such annotator");
        }
        let (mut rows, mut said) = (Vec::new(), Vec::new());
        let (mut refused, mut withdrawn, mut saved) = (Vec::new(), Vec::new(), 0);
        for answer in &asked.answers {
            // A photo of the current page that turned out to be taken down needs no answer.
            if inside.queue.was_withdrawn(answer.photo) {
                withdrawn.push(answer.photo);
                continue;
            }
            let known = match inside.queue.item(answer.photo) {
                Some(_) => inside.ledger.photo(answer.photo)?,
                None => None,
            };
            let Some(photo) = known else {
                return refused_as("no such photo");
            };
            let served = inside.served.get(&asked.annotator);
            let Some(shown) = served.and_then(|served| served.get(&photo.id).copied()) else {
                refused.push(json!({ "photo": photo.id, "reason": "not_shown" }));
                continue;
            };
            if data::hex(&shown) != answer.shown
                || inside
                    .expected(photo.id)?
                    .is_some_and(|(known, _)| known != shown)
            {
                refused.push(json!({ "photo": photo.id, "reason": "changed" }));
                continue;
            }
            let categories: Categories = answer.categories.iter().collect();
            saved += 1;
            // The same answer again, as after a lost response: one is enough.
            let item = inside.queue.item(photo.id);
            let current = item.and_then(|item| item.given.iter().find(|(who, _)| *who == asked.annotator));
            if current.is_some_and(|(_, current)| *current == categories) {
                continue;
            }
            rows.push(Row {
                photo: photo.id,
                key: photo.key,
                categories: categories.names().join(","),
                shown,
            });
            said.push(categories);
        }
        if !refused.is_empty() {
            return Ok(Err(Response::refused_json(409, &json!({ "refused": refused }))));
        }
        if !rows.is_empty() {
            // First the disk, then the page.
            let stage = inside.stage;
            let new = inside
                .ledger
                .add_answers(self.sample, asked.annotator, stage, &rows)?;
            inside
                .paces
                .gave(asked.annotator, rows.len() as u64, new, Instant::now());
        }
        for (row, categories) in rows.iter().zip(said) {
            inside.shown.remove(&row.photo);
            inside.queue.note(row.photo, asked.annotator, Some(categories));
        }
        Ok(Ok(json!({ "saved": saved, "withdrawn": withdrawn })))
    }

    pub(super) fn undo(&self, request: &Request) -> Result<Response, Error> {
        self.change(request, |inside, asked| {
            let undone = inside.ledger.undo_answers(self.sample, asked.annotator)?;
            let gone = undone.iter().filter(|(_, before)| before.is_none()).count() as u64;
            inside.paces.took_back(asked.annotator, undone.len() as u64, gone);
            let mut photos = Vec::new();
            for (key, before) in undone {
                let Some(photo) = inside.in_queue(&key)? else {
                    continue;
                };
                let before = before.as_deref().map(Categories::read);
                inside.queue.note(photo, asked.annotator, before);
                photos.push(inside.described(photo, asked.annotator)?);
            }
            Ok(Ok(json!({ "photos": photos })))
        })
    }

    /// Discards all answers of an annotator. The ledger keeps them as `discarded`.
    pub(super) fn discard(&self, request: &Request) -> Result<Response, Error> {
        self.change(request, |inside, asked| {
            let keys = inside.ledger.discard_answers(self.sample, asked.annotator)?;
            let count = keys.len() as u64;
            inside.paces.took_back(asked.annotator, count, count);
            for key in keys {
                if let Some(photo) = inside.in_queue(&key)? {
                    inside.queue.note(photo, asked.annotator, None);
                }
            }
            Ok(Ok(json!({ "discarded": count })))
        })
    }

    /// Makes a change once: reads the request, and does `work` unless that was done already. `work` returns what the
    /// page receives, or the response that refuses the change.
    fn change(
        &self,
        request: &Request,
        work: impl FnOnce(&mut Inside, &Change) -> Result<Result<Value, Response>, Error>,
    ) -> Result<Response, Error> {
        let asked = match change(request) {
            Ok(asked) => asked,
            Err(refusal) => return Ok(refusal),
        };
        let mut inside = self.lock();
        if let Some(before) = inside.repeated(&asked) {
            return Ok(before);
        }
        Ok(match work(&mut inside, &asked)? {
            Ok(response) => inside.done(asked, response),
            Err(refusal) => refusal,
        })
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
        let aside: Vec<(i64, String)> = inside
            .queue
            .aside()
            .take(MOST_NAMED)
            .map(|(photo, reason)| (photo, one_line(reason)))
            .collect();
        let not_shown = aside
            .into_iter()
            .map(|(photo, reason)| {
                let key = inside
                    .ledger
                    .photo(photo)?
                    .map_or_else(String::new, |photo| photo.key);
                Ok(json!({ "key": key, "reason": reason }))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Response::json(&json!({
            "name": one_line(&self.name),
            "audit": self.sample != REVIEW,
            "photos": counts.photos,
            "done": counts.done,
            "labels_open": counts.labels_open,
            "wait_for_second": counts.wait_for_second,
            "not_shown": inside.queue.aside().len(),
            "labels_not_shown": inside.queue.labels_aside(),
            "not_shown_photos": not_shown,
            "folder": one_line(&self.folder),
            "sample": self.sample,
            "minutes_left": (pace > 0.0 && counts.labels_open > 0).then(|| counts.labels_open as f64 / pace),
            "annotators": annotators,
            "pairs": pairs,
        })))
    }
}

/// The reason of a photo that was taken down.
const TAKEN_DOWN: &str = "this photo was taken down and needs no answer";

/// A name without capitals, blanks and letters that are not shown.
fn folded(name: &str) -> String {
    let is_shown = |letter: &char| {
        !letter.is_whitespace()
            && !matches!(letter, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
    };
    name.chars()
        .filter(is_shown)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Reads the body of a change.
fn change(request: &Request) -> Result<Change, Response> {
    serde_json::from_slice::<Change>(&request.body)
        .ok()
        .filter(|asked| !asked.page.is_empty() && asked.page.len() <= LONGEST_PAGE)
        .ok_or_else(|| {
            Response::refused(
                400,
                "the request must hold annotator, page, number, and its answers",
            )
        })
}

impl Inside {
    /// The response to a change that was made already.
    fn repeated(&self, asked: &Change) -> Option<Response> {
        let (number, response) = self.last.get(&asked.page)?;
        match asked.number.cmp(number) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(Response::json(response)),
            std::cmp::Ordering::Less => Some(Response::refused(400, "a later change was made already")),
        }
    }

    /// Remembers a change that was made, and responds.
    fn done(&mut self, asked: Change, response: Value) -> Response {
        let made = Response::json(&response);
        self.last.insert(asked.page, (asked.number, response));
        made
    }

    /// Of the rows with a key, the one in the queue.
    fn in_queue(&self, key: &str) -> Result<Option<i64>, Error> {
        let known = self.ledger.ids_of_key(key)?;
        Ok(known.into_iter().find(|photo| self.queue.item(*photo).is_some()))
    }

    /// The content that a photo must have: that of the ledger with the stage that read it, else the one that
    /// was shown first.
    fn expected(&self, photo: i64) -> Result<Option<(Content, Option<String>)>, Error> {
        Ok(match self.ledger.content_of(photo)? {
            Some((content, stage)) => Some((content, stage)),
            None => self.shown.get(&photo).map(|content| (*content, None)),
        })
    }

    /// Whether a file may be shown, or the response that refuses it. One that was taken down under another
    /// key leaves the queue: its content is added to the ledger, whose gate drops the photo from then on.
    fn check(&mut self, photo: &Photo, content: Content) -> Result<Result<(), Response>, Error> {
        if self.gate.check(photo.id, &content).is_err() {
            self.ledger.note_content(self.stage, photo.id, &content)?;
            self.queue.withdraw(photo.id);
            return Ok(Err(Response::refused(410, TAKEN_DOWN)));
        }
        match self.expected(photo.id)? {
            Some((known, stage)) if known != content => {
                let reason = match stage {
                    Some(stage) => format!("the file changed since the stage `{stage}` read it"),
                    None => "the file changed since it was shown here".to_string(),
                };
                Ok(Err(self.set_aside(photo.id, NotShown { status: 409, reason })))
            }
            _ => Ok(Ok(())),
        }
    }

    fn set_aside(&mut self, photo: i64, why: NotShown) -> Response {
        let response = Response::refused(why.status, &one_line(&why.reason));
        for served in self.served.values_mut() {
            served.remove(&photo);
        }
        self.queue.set_aside(photo, why.reason);
        response
    }

    fn note_served(&mut self, annotator: i64, photo: i64, content: Content) {
        self.shown.entry(photo).or_insert(content);
        self.served.entry(annotator).or_default().insert(photo, content);
        self.queue.put_back(photo);
    }

    /// A photo for the page, with this annotator's own answer; others' answers are not shown.
    fn described(&self, photo: i64, annotator: i64) -> Result<Value, Error> {
        let known = self.ledger.photo(photo)?.unwrap_or_default();
        let item = self.queue.item(photo);
        let said = item.and_then(|item| item.given.iter().find(|(who, _)| *who == annotator));
        let line = |text: Option<&String>| text.map(|text| one_line(text));
        Ok(json!({
            "photo": photo,
            "key": known.key,
            "score": item.and_then(|item| item.score),
            "title": line(known.title.as_ref()),
            "photographer": line(known.photographer.as_ref()),
            "categories": said.map(|(_, categories)| categories.names()),
        }))
    }
}
