//! Who may talk to the review server.
//!
//! The annotator's browser opens other pages too, and those can send requests to this machine: `Origin` and
//! `Sec-Fetch-Site` identify them. A name that an attacker points at this machine (DNS rebinding) is
//! recognized by `Host`. Where other machines can reach the server, it requires a token too.

use std::net::{IpAddr, SocketAddr};

use super::http::{Request, Response};

/// Name of the cookie that holds the token once the link that contains it was opened.
const COOKIE: &str = "passer_review";

/// The rules of one server.
#[derive(Debug)]
pub(super) struct Guard {
    /// The address on which it listens, with its actual port.
    address: SocketAddr,
    /// Its host names, in addition to its addresses.
    hosts: Vec<String>,
    token: Option<String>,
}

/// The handling of a request that passes the checks.
#[derive(Debug)]
pub(super) enum Pass {
    /// It gets a response.
    Go,
    /// Its address contained the token, which becomes a cookie and disappears from the address bar.
    SetCookie(String),
}

impl Guard {
    pub(super) fn new(address: SocketAddr, hosts: Vec<String>, token: Option<String>) -> Guard {
        Guard {
            address,
            hosts,
            token,
        }
    }

    pub(super) fn check(&self, request: &Request) -> Result<Pass, Response> {
        let refused = |reason: &str| Response::refused(403, reason);
        let host = request
            .header("host")
            .filter(|host| self.is_ours(host))
            .ok_or_else(|| refused("this server does not go by that name"))?;
        let own = format!("http://{host}");
        match (request.has("origin"), request.header("origin")) {
            (false, _) if request.method == "GET" => {}
            (true, Some(origin)) if origin.eq_ignore_ascii_case(&own) => {}
            _ => return Err(refused("requests from other pages are refused")),
        }
        if request.has("sec-fetch-site")
            && !matches!(request.header("sec-fetch-site"), Some("same-origin" | "none"))
        {
            return Err(refused("requests from other pages are refused"));
        }
        if request.method == "POST"
            && !request
                .header("content-type")
                .is_some_and(|kind| kind == "application/json" || kind.starts_with("application/json;"))
        {
            return Err(refused("the content type must be application/json"));
        }
        let Some(token) = &self.token else {
            return Ok(Pass::Go);
        };
        let cookies = request.header("cookie").unwrap_or_default();
        let mut cookies = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
        if cookies.any(|(name, value)| name == COOKIE && same(value, token)) {
            return Ok(Pass::Go);
        }
        let mut query = request.query.split('&').filter_map(|pair| pair.split_once('='));
        if request.method == "GET"
            && request.path == "/"
            && query.any(|(name, value)| name == "token" && same(value, token))
        {
            return Ok(Pass::SetCookie(format!(
                "{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            )));
        }
        Err(Response::refused(
            401,
            "open the link that the server printed as it started: it has the token",
        ))
    }

    /// Whether a `Host` is this server: one of its addresses, `localhost` on loopback, or one of its
    /// configured names.
    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // The colons of a bare IPv6 address do not separate a port, and a browser brackets such an
            // address.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                (name, port.parse::<u16>().ok())
            }
            _ => (host, Some(80)),
        };
        if port != Some(self.address.port()) {
            return false;
        }
        if self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return true;
        }
        let ip = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let listens = self.address.ip();
        match ip {
            // Listening everywhere: any address may be this machine's. Rebinding needs a name, and a name is
            // not an address.
            Ok(_) if listens.is_unspecified() => true,
            Ok(ip) => ip == listens || (listens.is_loopback() && ip.is_loopback()),
            Err(_) => listens.is_loopback() && name.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// Whether two texts are equal, in a time that does not depend on their common prefix.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len()
        && given
            .bytes()
            .zip(token.bytes())
            .fold(0, |differ, (a, b)| differ | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Request {
            method: method.to_string(),
            path: path.to_string(),
            query: query.to_string(),
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            body: Vec::new(),
        }
    }

    fn guard(address: &str, token: Option<&str>) -> Guard {
        Guard::new(
            address.parse().unwrap(),
            vec!["labels.example".into()],
            token.map(str::to_string),
        )
    }

    fn passes(guard: &Guard, method: &str, path: &str, headers: &[(&str, &str)]) -> bool {
        guard.check(&request(method, path, headers)).is_ok()
    }

    #[test]
    fn names_that_point_here_are_not_enough() {
        let local = guard("127.0.0.1:7878", None);
        for host in [
            "127.0.0.1:7878",
            "localhost:7878",
            "LOCALHOST:7878",
            "[::1]:7878",
            "labels.example:7878",
        ] {
            assert!(passes(&local, "GET", "/", &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example:7878",
            "127.0.0.1",
            "127.0.0.1:80",
            "192.168.0.2:7878",
            "localhost.evil.example:7878",
            "",
        ] {
            assert!(!passes(&local, "GET", "/", &[("host", host)]), "{host}");
        }
        assert!(!passes(&local, "GET", "/", &[]));
        assert!(!passes(
            &local,
            "GET",
            "/",
            &[("host", "127.0.0.1:7878"), ("host", "127.0.0.1:7878")]
        ));
        let open = guard("0.0.0.0:7878", Some("secret"));
        let with = |host| passes(&open, "GET", "/?token=secret", &[("host", host)]);
        assert!(with("192.168.0.2:7878") && !with("evil.example:7878"));
    }

    #[test]
    fn other_pages_are_refused() {
        let local = guard("127.0.0.1:7878", None);
        let host = ("host", "127.0.0.1:7878");
        let json = ("content-type", "application/json");
        let post = |more: &[(&str, &str)]| {
            passes(
                &local,
                "POST",
                "/api/answers",
                &[&[host, json][..], more].concat(),
            )
        };
        assert!(post(&[
            ("origin", "http://127.0.0.1:7878"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!post(&[]));
        assert!(!post(&[("origin", "null")]));
        assert!(!post(&[("origin", "http://evil.example")]));
        // The same machine under another name or port is another origin.
        assert!(!post(&[("origin", "http://localhost:7878")]));
        assert!(!post(&[("origin", "http://127.0.0.1:9999")]));
        assert!(!post(&[
            ("origin", "http://127.0.0.1:7878"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(!passes(
            &local,
            "GET",
            "/thumb/1",
            &[host, ("sec-fetch-site", "cross-site")]
        ));
        assert!(!passes(
            &local,
            "GET",
            "/api/state",
            &[host, ("origin", "http://evil.example")]
        ));
        // A form can post to other machines, but not JSON.
        let form = [
            host,
            ("origin", "http://127.0.0.1:7878"),
            ("content-type", "text/plain"),
        ];
        assert!(!passes(&local, "POST", "/api/answers", &form));
    }

    #[test]
    fn a_token_is_asked_for_and_becomes_a_cookie() {
        let open = guard("192.168.0.2:7878", Some("secret"));
        let host = ("host", "192.168.0.2:7878");
        assert_eq!(open.check(&request("GET", "/", &[host])).unwrap_err().status, 401);
        for path in [
            "/?token=secre",
            "/?token=",
            "/?token=secrets",
            "/api/state?token=secret",
        ] {
            assert!(!passes(&open, "GET", path, &[host]), "{path}");
        }
        let pass = open.check(&request("GET", "/?token=secret", &[host])).unwrap();
        let Pass::SetCookie(cookie) = pass else { panic!() };
        assert_eq!(cookie, "passer_review=secret; HttpOnly; SameSite=Strict; Path=/");
        assert!(passes(
            &open,
            "GET",
            "/api/state",
            &[host, ("cookie", "a=b; passer_review=secret")]
        ));
        assert!(!passes(
            &open,
            "GET",
            "/api/state",
            &[host, ("cookie", "passer_review=wrong1")]
        ));
    }
}
