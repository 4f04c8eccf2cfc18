//! The small part of HTTP/1.1 that a local page needs: one request per connection, bounded in bytes and time.
//!
//! `httparse`, a dependency of the downloads, reads the head. A connection is closed after its response, so
//! no request can hide behind another, and a client that sends slowly or endlessly is cut off.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest head and longest body of a request, bytes.
const LONGEST_HEAD: usize = 16 << 10;
const LONGEST_BODY: usize = 256 << 10;
/// Time limit for a whole request, and for each write of the response.
const PATIENCE: Duration = Duration::from_secs(15);

/// A whole request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path without the query, as sent: nothing is decoded.
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// The value of a header that occurs exactly once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        value.filter(|_| values.next().is_none())
    }

    /// Whether a header exists.
    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// An error response with its reason.
    pub(super) fn refused(status: u16, reason: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{reason}\n"))
    }

    pub(super) fn json(value: &serde_json::Value) -> Response {
        Response::new(200, "application/json", value.to_string())
    }

    /// A value for the page, with the status of an error.
    pub(super) fn refused_json(status: u16, value: &serde_json::Value) -> Response {
        Response::new(status, "application/json", value.to_string())
    }
}

/// Reads a request; an error response if it is invalid, `None` if the other side closed the connection.
pub(super) fn read(stream: &mut TcpStream) -> Result<Request, Option<Response>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut part = [0; 8192];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(&bytes) {
            Ok(httparse::Status::Complete(length)) => {
                let request =
                    request_of(&head).ok_or_else(|| Response::refused(400, "a header is no text"))?;
                return body(stream, request, bytes.split_off(length), until);
            }
            Ok(httparse::Status::Partial) if bytes.len() > LONGEST_HEAD => {
                return Err(Some(Response::refused(431, "the head is too long")));
            }
            Ok(httparse::Status::Partial) => match more(stream, &mut part, until) {
                0 => return Err(None),
                count => bytes.extend_from_slice(&part[..count]),
            },
            Err(_) => return Err(Some(Response::refused(400, "this is no request of HTTP/1.1"))),
        }
    }
}

fn request_of(head: &httparse::Request<'_, '_>) -> Option<Request> {
    let (path, query) = match head.path?.split_once('?') {
        Some((path, query)) => (path, query),
        None => (head.path?, ""),
    };
    let mut headers = Vec::new();
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).ok()?;
        headers.push((header.name.to_ascii_lowercase(), value.to_string()));
    }
    Some(Request {
        method: head.method?.to_string(),
        path: path.to_string(),
        query: query.to_string(),
        headers,
        body: Vec::new(),
    })
}

fn body(
    stream: &mut TcpStream,
    mut request: Request,
    mut bytes: Vec<u8>,
    until: Instant,
) -> Result<Request, Option<Response>> {
    if request.has("transfer-encoding") {
        return Err(Some(Response::refused(501, "a body needs its length")));
    }
    let length = match (request.has("content-length"), request.header("content-length")) {
        (false, _) => 0,
        (true, value) => value
            .and_then(|value| value.parse::<usize>().ok())
            .ok_or_else(|| Response::refused(400, "the length of the body is no number"))?,
    };
    if length > LONGEST_BODY {
        return Err(Some(Response::refused(413, "the body is too long")));
    }
    let mut part = [0; 8192];
    while bytes.len() < length {
        match more(stream, &mut part, until) {
            0 => return Err(None),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
    bytes.truncate(length);
    request.body = bytes;
    Ok(request)
}

/// Reads the available bytes; 0 at the end, after an error, and when time is up.
fn more(stream: &mut TcpStream, part: &mut [u8], until: Instant) -> usize {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
        return 0;
    }
    stream.read(part).unwrap_or(0)
}

/// Writes a response and closes. Every page carries the policy to run and show only content from this server.
pub(super) fn write(stream: &mut TcpStream, response: &Response) {
    let words = match response.status {
        200 => "OK",
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        422 => "Unprocessable Content",
        _ => "Error",
    };
    let mut head = format!(
        "HTTP/1.1 {} {words}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\nX-Frame-Options: DENY\r\n",
        response.status,
        response.content_type,
        response.body.len()
    );
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let sent = stream
        .set_write_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(head.as_bytes()))
        .and_then(|()| stream.write_all(&response.body))
        .and_then(|()| stream.flush());
    if let Err(error) = sent {
        tracing::debug!("an answer was not taken: {error}");
    }
}
