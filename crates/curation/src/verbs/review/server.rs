//! The review page's server: connections, access checks, and the routing of requests.
//!
//! The page is compiled into the program; it loads nothing from elsewhere.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::guard::{Guard, Pass};
use super::http::{self, Request, Response};
use super::items::{failed, of_sample, of_stage};
use super::requests::{Review, Reviewed};
use crate::config::Config;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::stages::review::REVIEW;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Longer side of the pictures of the grid, px.
const THUMBNAIL_PX: u32 = 480;
/// Longer side of the grid's larger pictures, px.
const MEDIUM_PX: u32 = 1024;
/// Connections handled at a time; a browser opens six.
const MOST_CONNECTIONS: usize = 64;

/// The settings of the server.
#[derive(Clone, Copy)]
pub struct ReviewOptions<'a> {
    /// The address to listen on; port 0 selects a free one.
    pub listen: SocketAddr,
    /// Host names, in addition to its addresses, by which browsers may call the server.
    pub hosts: &'a [String],
    /// The token that every request must carry; required unless the address is loopback.
    pub token: Option<&'a str>,
    /// The sample of an audit whose photos are labeled; `None`: the photos of the stage `review`.
    pub sample: Option<i64>,
    /// When it turns true, the server ends.
    pub stop: &'a AtomicBool,
    /// Called with the address once it listens.
    pub ready: &'a dyn Fn(SocketAddr),
}

struct Server {
    guard: Guard,
    review: Review,
}

/// Serves the photos of the curation in `folder` until `stop` turns true.
///
/// # Errors
/// No stage `review`, one that has decided already or whose predecessor is not done; an address that is not
/// available, or that other machines can reach without a token.
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
    // An answer that the page reports as saved survives a power failure.
    ledger.sync_each_transaction()?;
    let config = Config::of(&ledger, folder)?;
    let job = match options.sample {
        None => of_stage(&ledger, &config)?,
        Some(sample) => of_sample(&ledger, sample)?,
    };
    let listener = TcpListener::bind(options.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| failed(format!("cannot listen on `{}`: {error}", options.listen), None))?;
    let address = listener
        .local_addr()
        .map_err(|error| failed(format!("cannot listen: {error}"), None))?;
    let server = Server {
        guard: Guard::new(address, options.hosts.to_vec(), options.token.map(str::to_string)),
        review: Review::new(
            ledger,
            config.photos(folder)?,
            config.release.name,
            options.sample.unwrap_or(REVIEW),
            job,
            // Paths of this machine are for the people who use it.
            match options.listen.ip().is_loopback() {
                true => folder.display().to_string(),
                false => "DIR".to_string(),
            },
        )?,
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
                // One too many: the connection is dropped, and the browser tries again.
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
    server.review.reviewed()
}

impl Server {
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
        // Unread bytes would make the system discard the response.
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
            ("GET", "/api/state") => self.review.state(),
            ("POST", "/api/join") => self.review.join(request),
            ("POST", "/api/next") => self.review.next(request),
            ("POST", "/api/answers") => self.review.take(request),
            ("POST", "/api/undo") => self.review.undo(request),
            ("POST", "/api/discard") => self.review.discard(request),
            ("GET", path) => match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
                Some(("photo", number)) => self.review.photo(number, &request.query, None),
                Some(("medium", number)) => self.review.photo(number, &request.query, Some(MEDIUM_PX)),
                Some(("thumb", number)) => self.review.photo(number, &request.query, Some(THUMBNAIL_PX)),
                _ => Ok(Response::refused(404, "there is no such page")),
            },
            _ => Ok(Response::refused(405, "there is nothing to do so")),
        };
        answered.unwrap_or_else(|error| {
            tracing::error!("{error}");
            Response::refused(500, &error.to_string())
        })
    }
}
