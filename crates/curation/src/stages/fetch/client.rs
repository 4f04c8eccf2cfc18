//! One photo from one address: requests, retries, limits, and the file on disk.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use data::durable::Writer;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::ResponseExt;
use ureq::http::{Response, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::FetchConfig;
use super::pace::{Pace, sleep_until};
use crate::draws::{draw, fraction};
use crate::error::Error;
use crate::ledger::{Content, Fetched, Gate, Refusal, sha256};

/// The outcome of a download.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The file exists.
    Done(Fetched),
    /// The photo does not exist, with the reason.
    Gone(Fetched, String),
    /// The file was taken down under another key, and has been deleted.
    TakenDown(Fetched, Content),
    /// The host could not be reached: reason code, and details.
    Unreached(Fetched, String, String),
    /// This machine failed, e.g. because its disk is full.
    Failed(Error),
    /// The user interrupted it.
    Stopped,
}

/// The outcome of one request.
enum Attempt {
    /// The whole body: its bytes, and their SHA-256.
    Done(u64, Content),
    Gone(String),
    TakenDown(Content),
    Again {
        reason: String,
        detail: String,
        pause: Option<Duration>,
    },
    Failed(Error),
    Stopped,
}

pub(super) struct Client {
    agent: Agent,
    pace: Pace,
    config: FetchConfig,
    gate: Gate,
}

/// Resolves names, and returns no address of a private network unless the config allows it: strangers wrote
/// the rows, and their hosts send the redirects.
#[derive(Debug)]
struct PublicOnly {
    private: bool,
}

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let all = DefaultResolver::default().resolve(uri, config, timeout)?;
        if self.private {
            return Ok(all);
        }
        let mut public = self.empty();
        for address in all.iter().filter(|address| is_public(address.ip())) {
            public.push(*address);
        }
        match public.is_empty() {
            true => Err(ureq::Error::Other(Box::new(PrivateAddress))),
            false => Ok(public),
        }
    }
}

#[derive(Debug)]
struct PrivateAddress;

impl std::fmt::Display for PrivateAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an address of a private network")
    }
}

impl std::error::Error for PrivateAddress {}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                // Shared address space of providers, and unassigned addresses.
                || (first == 100 && (64..128).contains(&second))
                || first == 0
                || first >= 240)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let first = v6.segments()[0];
                // Unique local fc00::/7, link-local fe80::/10.
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || first & 0xfe00 == 0xfc00
                    || first & 0xffc0 == 0xfe80)
            }
        },
    }
}

impl Client {
    pub(super) fn new(config: &FetchConfig, gate: Gate) -> Client {
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(config.max_redirects)
            .max_redirects_will_error(true)
            .save_redirect_history(true)
            .timeout_global(Some(Duration::from_secs_f64(config.timeout_s)))
            .max_idle_connections(config.concurrency)
            .max_idle_connections_per_host(config.concurrency)
            .user_agent(config.user_agent.as_str())
            .build();
        let resolver = PublicOnly {
            private: config.private_addresses,
        };
        Client {
            agent: Agent::with_parts(settings, DefaultConnector::default(), resolver),
            pace: Pace::new(config.requests_per_second_per_host),
            config: config.clone(),
            gate,
        }
    }

    /// Downloads `address` to `path`, unless that file exists.
    pub(super) fn fetch(&self, key: &str, address: &str, path: &Path, stopped: &dyn Fn() -> bool) -> Outcome {
        let mut fetched = Fetched {
            address: address.to_string(),
            ..Fetched::default()
        };
        if let Ok(facts) = fs::metadata(path) {
            fetched.bytes = Some(facts.len());
            return self.known(fetched, path);
        }
        let Some(host) = host_of(address) else {
            return Outcome::Gone(fetched, "bad_address".to_string());
        };
        loop {
            if !self.pace.wait(&host, stopped) {
                return Outcome::Stopped;
            }
            fetched.attempts += 1;
            let (reason, detail, asked) = match self.attempt(address, path, &mut fetched, stopped) {
                Attempt::Done(bytes, _) => {
                    fetched.bytes = Some(bytes);
                    return Outcome::Done(fetched);
                }
                Attempt::TakenDown(content) => return Outcome::TakenDown(fetched, content),
                Attempt::Gone(reason) => return Outcome::Gone(fetched, reason),
                Attempt::Failed(error) => return Outcome::Failed(error),
                Attempt::Stopped => return Outcome::Stopped,
                Attempt::Again {
                    reason,
                    detail,
                    pause,
                } => (reason, detail, pause),
            };
            let longest = Duration::from_secs_f64(self.config.max_pause_s);
            if let Some(asked) = asked {
                // The host wants everyone to wait, not only this photo.
                self.pace.hold(&host, asked.min(longest));
            }
            if fetched.attempts >= self.config.attempts {
                return Outcome::Unreached(fetched, reason, detail);
            }
            // Half of the pause is random, so that photos that failed together are not retried together.
            let doubled = self.config.pause_s * 2f64.powi(fetched.attempts.min(32) as i32 - 1);
            let drawn = fraction(draw(u64::from(fetched.attempts), "pause", &[key]));
            let pause = Duration::from_secs_f64((doubled * (0.5 + 0.5 * drawn)).min(self.config.max_pause_s));
            if !sleep_until(
                Instant::now() + pause.max(asked.unwrap_or_default().min(longest)),
                stopped,
            ) {
                return Outcome::Stopped;
            }
        }
    }

    /// A file that exists already. It is read only if it could be one that was taken down.
    fn known(&self, fetched: Fetched, path: &Path) -> Outcome {
        if self.gate.is_open() {
            return Outcome::Done(fetched);
        }
        let content = match fs::read(path) {
            Ok(file) => sha256(&file),
            Err(error) => return Outcome::Failed(Error::io("read", path)(error)),
        };
        match self.refused(&content) {
            true => Outcome::TakenDown(fetched, content),
            false => Outcome::Done(fetched),
        }
    }

    /// Whether these bytes were taken down.
    fn refused(&self, content: &Content) -> bool {
        // The gate knows no earlier content of a photo that was never downloaded, so any number will do.
        self.gate.check(0, content) == Err(Refusal::TakenDown)
    }

    fn attempt(
        &self,
        address: &str,
        path: &Path,
        fetched: &mut Fetched,
        stopped: &dyn Fn() -> bool,
    ) -> Attempt {
        let mut response = match self.agent.get(address).call() {
            Ok(response) => response,
            Err(error) => return refused(&error),
        };
        let status = response.status().as_u16();
        fetched.status = Some(status);
        let last = response.get_uri().to_string();
        fetched.final_address = (last != address).then(|| last.clone());
        if self
            .config
            .gone_addresses
            .iter()
            .any(|part| last.contains(part.as_str()))
        {
            return Attempt::Gone("gone".to_string());
        }
        match status {
            200 => {}
            408 | 425 | 429 | 500..=599 => {
                return Attempt::Again {
                    reason: format!("http_{status}"),
                    detail: format!("the host answers {status}"),
                    pause: retry_after(&response),
                };
            }
            _ => return Attempt::Gone(format!("http_{status}")),
        }
        if response
            .body()
            .content_length()
            .is_some_and(|length| length > self.config.max_bytes)
        {
            return Attempt::Gone("too_many_bytes".to_string());
        }
        self.save(&mut response, path, stopped)
    }

    /// Streams a body to disk: memory stays constant for any announced length.
    fn save(&self, response: &mut Response<ureq::Body>, path: &Path, stopped: &dyn Fn() -> bool) -> Attempt {
        let folder = path.parent().unwrap_or(path);
        if let Err(error) = fs::create_dir_all(folder) {
            return Attempt::Failed(Error::io("make", folder)(error));
        }
        let mut file = match Writer::create(path) {
            Ok(file) => file,
            Err(error) => return Attempt::Failed(error.into()),
        };
        match self.stream(response, &mut file, path, stopped) {
            Attempt::Done(_, content) if self.refused(&content) => Attempt::TakenDown(content),
            // Without fsync, because one per photo is slower than the network. After a power failure
            // `integrity` finds the truncated files.
            Attempt::Done(bytes, content) => match file.finish_unsynced() {
                Ok(()) => Attempt::Done(bytes, content),
                Err(error) => Attempt::Failed(error.into()),
            },
            other => other,
        }
    }

    fn stream(
        &self,
        response: &mut Response<ureq::Body>,
        file: &mut Writer,
        path: &Path,
        stopped: &dyn Fn() -> bool,
    ) -> Attempt {
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0u64;
        let mut start: Vec<u8> = Vec::new();
        let mut hash = Sha256::new();
        loop {
            if stopped() {
                return Attempt::Stopped;
            }
            let more = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(more) => more,
                Err(error) => {
                    return Attempt::Again {
                        reason: "cut_off".to_string(),
                        detail: error.to_string(),
                        pause: None,
                    };
                }
            };
            bytes += more as u64;
            if bytes > self.config.max_bytes {
                return Attempt::Gone("too_many_bytes".to_string());
            }
            if start.len() < 16 {
                start.extend(&buffer[..more.min(16 - start.len())]);
                // An error page in place of a photo is recognized by its first bytes.
                if start.len() == 16 && !looks_like_an_image(&start) {
                    return Attempt::Gone("not_an_image".to_string());
                }
            }
            hash.update(&buffer[..more]);
            if let Err(error) = file.write_all(&buffer[..more]) {
                return Attempt::Failed(Error::io("write", path)(error));
            }
        }
        if bytes < 16 {
            return Attempt::Gone(if bytes == 0 { "empty_file" } else { "not_an_image" }.to_string());
        }
        Attempt::Done(bytes, hash.finalize().into())
    }
}

/// Host and port of a web address; `None` for anything else.
fn host_of(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let authority = uri.authority()?;
    // `user@host` is not the address of a photo, and would send a stranger's text as a password.
    (!authority.as_str().contains('@') && !authority.host().is_empty())
        .then(|| authority.as_str().to_ascii_lowercase())
}

fn looks_like_an_image(start: &[u8]) -> bool {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    matches!(image::guess_format(start), Ok(Jpeg | Png | WebP | Bmp | Gif))
}

/// `Retry-After` in seconds; dates are rare, and the doubling pause covers them.
fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?))
}

/// The outcome of a request without a response.
fn refused(error: &ureq::Error) -> Attempt {
    let reason = match error {
        ureq::Error::TooManyRedirects => return Attempt::Gone("too_many_redirects".to_string()),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => return Attempt::Gone("bad_address".to_string()),
        ureq::Error::Other(inner) if inner.is::<PrivateAddress>() => {
            return Attempt::Gone("private_address".to_string());
        }
        ureq::Error::Timeout(_) => "timeout",
        ureq::Error::HostNotFound => "no_such_host",
        ureq::Error::Io(_) | ureq::Error::ConnectionFailed => "no_connection",
        _ => "bad_answer",
    };
    Attempt::Again {
        reason: reason.to_string(),
        detail: error.to_string(),
        pause: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_web_is_asked() {
        for address in [
            "ftp://a/b",
            "file:///etc/passwd",
            "http://user:word@host/x",
            "//host/x",
            "x",
            "http:///x",
            "",
        ] {
            assert_eq!(host_of(address), None, "{address}");
        }
        assert_eq!(
            host_of("http://Farm7.staticflickr.com/a.jpg").as_deref(),
            Some("farm7.staticflickr.com")
        );
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "2600::1", "100.128.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
