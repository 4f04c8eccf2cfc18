//! One photo from one address: requests, retries, limits, and the file on disk.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use data::durable::Writer;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::{Response, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::address::{self, Address};
use super::pace::{Pace, sleep_until};
use super::{FetchConfig, NoAi};
use crate::draws::{draw, fraction};
use crate::error::Error;
use crate::ledger::{Content, Fetched, Gate, Refusal, sha256};

/// The outcome of a download.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The file exists.
    Done(Fetched),
    /// The photo does not exist, or may not be used: reason code, and details where they help.
    Gone(Fetched, String, Option<String>),
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
    Gone {
        reason: String,
        detail: Option<String>,
    },
    TakenDown(Content),
    Again {
        reason: String,
        detail: String,
        pause: Option<Duration>,
    },
    Failed(Error),
    Stopped,
}

impl Attempt {
    fn gone(reason: impl Into<String>) -> Attempt {
        Attempt::Gone {
            reason: reason.into(),
            detail: None,
        }
    }
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
        IpAddr::V6(v6) => match inner(v6) {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => {
                let first = v6.segments()[0];
                // Unique local fc00::/7, link-local fe80::/10, and its predecessor fec0::/10.
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || first & 0xfe00 == 0xfc00
                    || first & 0xffc0 == 0xfe80
                    || first & 0xffc0 == 0xfec0)
            }
        },
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, in its old form, through NAT64, or through 6to4.
fn inner(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        // `::` and `::1` are not of the old form.
        [0, 0, 0, 0, 0, 0, high, low] if high > 0 => Some(of(high, low)),
        _ => None,
    }
}

impl Client {
    pub(super) fn new(config: &FetchConfig, gate: Gate) -> Client {
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed in `attempt`, because ureq does not read all addresses that browsers do.
            .max_redirects(0)
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

    /// Downloads `address` to `path`, unless that file exists. `page` is the photo's page, if known.
    pub(super) fn fetch(
        &self,
        key: &str,
        address: &str,
        page: Option<&str>,
        path: &Path,
        stopped: &dyn Fn() -> bool,
    ) -> Outcome {
        let mut fetched = Fetched {
            address: address.to_string(),
            ..Fetched::default()
        };
        if let Ok(facts) = fs::metadata(path) {
            fetched.bytes = Some(facts.len());
            return self.known(fetched, path);
        }
        let mut addresses = match address::read(address, page) {
            Ok(addresses) => addresses,
            Err(reason) => return Outcome::Gone(fetched, "bad_address".to_string(), Some(reason)),
        };
        loop {
            let host = addresses[0].host().to_string();
            if !self.pace.wait(&host, stopped) {
                return Outcome::Stopped;
            }
            fetched.attempts += 1;
            let (reason, detail, asked) = match self.attempt(&addresses[0], path, &mut fetched, stopped) {
                Attempt::Done(bytes, _) => {
                    fetched.bytes = Some(bytes);
                    return Outcome::Done(fetched);
                }
                Attempt::TakenDown(content) => return Outcome::TakenDown(fetched, content),
                Attempt::Gone { reason, detail } => return Outcome::Gone(fetched, reason, detail),
                Attempt::Failed(error) => return Outcome::Failed(error),
                Attempt::Stopped => return Outcome::Stopped,
                // An address without a scheme: no host responds to the first one.
                Attempt::Again { .. } if addresses.len() > 1 && fetched.status.is_none() => {
                    addresses.remove(0);
                    fetched.attempts -= 1;
                    continue;
                }
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

    /// One request with its redirects.
    fn attempt(
        &self,
        address: &Address,
        path: &Path,
        fetched: &mut Fetched,
        stopped: &dyn Fn() -> bool,
    ) -> Attempt {
        let end = Instant::now() + Duration::from_secs_f64(self.config.timeout_s);
        let mut at = address.clone();
        let mut redirects = 0;
        let mut forbidden = None;
        fetched.noai = false;
        let mut response = loop {
            if stopped() {
                return Attempt::Stopped;
            }
            let text = at.to_string();
            // One limit for all requests of an attempt; each resolves its host by `PublicOnly`.
            let left = end
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let request = self
                .agent
                .get(text.as_str())
                .config()
                .timeout_global(Some(left))
                .build();
            let response = match request.call() {
                Ok(response) => response,
                Err(error) => return self.refused_by(&error, (redirects > 0).then_some(&at)),
            };
            if forbidden.is_none() {
                forbidden = address::forbids_ai(response.headers(), &self.config.user_agent)
                    .map(|line| format!("`X-Robots-Tag: {line}` at `{text}`"));
            }
            fetched.noai = forbidden.is_some();
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 if self.config.max_redirects > 0 => {
                    let mut all = response.headers().get_all("location").iter();
                    let first = all.next().cloned();
                    // As browsers do it: nobody can say which of two is meant.
                    if let Some((first, other)) = first
                        .as_ref()
                        .and_then(|first| Some((first, all.find(|other| *other != first)?)))
                    {
                        let [first, other] = [first, other].map(|to| String::from_utf8_lossy(to.as_bytes()));
                        fetched.status = Some(response.status().as_u16());
                        return Attempt::Gone {
                            reason: "bad_address".to_string(),
                            detail: Some(format!("redirected to two addresses, `{first}` and `{other}`")),
                        };
                    }
                    first
                }
                _ => None,
            };
            let mut gone = self.config.gone_addresses.iter();
            let is_gone = gone.any(|part| text.contains(part.as_str()));
            let Some(location) = location.filter(|_| !is_gone) else {
                fetched.status = Some(response.status().as_u16());
                fetched.final_address = (text != fetched.address).then(|| text.clone());
                if is_gone {
                    return Attempt::gone("gone");
                }
                break response;
            };
            if redirects >= self.config.max_redirects {
                fetched.status = Some(response.status().as_u16());
                return Attempt::Gone {
                    reason: "too_many_redirects".to_string(),
                    detail: Some(format!(
                        "after {redirects} of them it is at `{text}`, which redirects again"
                    )),
                };
            }
            redirects += 1;
            at = match at.redirected(location.as_bytes()) {
                Ok(next) => next,
                Err(detail) => {
                    fetched.status = Some(response.status().as_u16());
                    return Attempt::Gone {
                        reason: "bad_address".to_string(),
                        detail: Some(detail),
                    };
                }
            };
            drain(response);
        };
        let status = response.status().as_u16();
        match status {
            200 if fetched.noai && self.config.robots_noai == Some(NoAi::Drop) => {
                return Attempt::Gone {
                    reason: "noai".to_string(),
                    detail: forbidden,
                };
            }
            200 => {}
            408 | 425 | 429 | 500..=599 => {
                return Attempt::Again {
                    reason: format!("http_{status}"),
                    detail: format!("the host answers {status}"),
                    pause: retry_after(&response),
                };
            }
            301 | 302 | 303 | 307 | 308 if self.config.max_redirects > 0 => {
                return Attempt::Gone {
                    reason: format!("http_{status}"),
                    detail: Some("the host redirects without saying where (`Location`)".to_string()),
                };
            }
            _ => return Attempt::gone(format!("http_{status}")),
        }
        if response
            .body()
            .content_length()
            .is_some_and(|length| length > self.config.max_bytes)
        {
            return Attempt::gone("too_many_bytes");
        }
        self.save(&mut response, path, stopped)
    }

    /// The outcome of a request without a response; `redirected` is its address where a redirect led there.
    fn refused_by(&self, error: &ureq::Error, redirected: Option<&Address>) -> Attempt {
        let detail = match error {
            ureq::Error::Timeout(_) => format!("no whole response within {} s", self.config.timeout_s),
            error => error.to_string(),
        };
        let detail = match redirected {
            Some(address) => format!("redirected to `{address}`: {detail}"),
            None => detail,
        };
        let gone = |reason: &str| Attempt::Gone {
            reason: reason.to_string(),
            detail: Some(detail.clone()),
        };
        let reason = match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => return gone("bad_address"),
            ureq::Error::Other(inner) if inner.is::<PrivateAddress>() => return gone("private_address"),
            ureq::Error::Timeout(_) => "timeout",
            ureq::Error::HostNotFound => "no_such_host",
            ureq::Error::Io(_) if is_unknown_host(&detail) => "no_such_host",
            ureq::Error::Io(_) | ureq::Error::ConnectionFailed => "no_connection",
            _ => "bad_answer",
        };
        Attempt::Again {
            reason: reason.to_string(),
            detail,
            pause: None,
        }
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
                return Attempt::gone("too_many_bytes");
            }
            if start.len() < 16 {
                start.extend(&buffer[..more.min(16 - start.len())]);
                // An error page in place of a photo is recognized by its first bytes.
                if start.len() == 16 && !looks_like_an_image(&start) {
                    return Attempt::Gone {
                        reason: "not_an_image".to_string(),
                        detail: Some(format!("the host sends {}", data::describe(&start))),
                    };
                }
            }
            hash.update(&buffer[..more]);
            if let Err(error) = file.write_all(&buffer[..more]) {
                return Attempt::Failed(Error::io("write", path)(error));
            }
        }
        if bytes < 16 {
            return Attempt::gone(if bytes == 0 { "empty_file" } else { "not_an_image" });
        }
        Attempt::Done(bytes, hash.finalize().into())
    }
}

/// Whether the resolver says that nobody has this name: glibc's, musl's and macOS's words. Other failures of it may pass.
fn is_unknown_host(message: &str) -> bool {
    [
        "Name or service not known",
        "Name does not resolve",
        "nodename nor servname provided",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Reads the short body of a redirect, so that its connection can be used again.
fn drain(response: Response<ureq::Body>) {
    const SHORT: u64 = 16 << 10;
    let _ = response.into_body().into_with_config().limit(SHORT).read_to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_has_is_no_failure_of_the_network() {
        let io =
            |words: &str| std::io::Error::other(format!("failed to lookup address information: {words}"));
        assert!(is_unknown_host(&io("Name or service not known").to_string()));
        assert!(!is_unknown_host(
            &io("Temporary failure in name resolution").to_string()
        ));
    }

    #[test]
    fn only_public_addresses_are_asked() {
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
            "fec0::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "8.8.8.8",
            "2600::1",
            "100.128.0.1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
