//! Addresses as people write them, read as browsers read them (the URL standard of the WHATWG): spaces, letters
//! beyond ASCII, backslashes, `//host/…`, and redirects to any of these.
//!
//! What follows is the standard's parser for the schemes `http` and `https` alone. International names are
//! brought to lowercase and one form (NFKC) and encoded (Punycode); one with signs that the standard's mapping
//! would leave out is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use ureq::http::HeaderMap;

/// The bytes that a path encodes, beside those beyond ASCII.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');
/// The bytes that a query encodes.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\'');

/// An address of the open web, without the fragment, which no request contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    scheme: &'static str,
    /// Host and port, by which requests are paced.
    host: String,
    /// Begins with `/`.
    path: String,
    query: Option<String>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host, self.path)?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

impl Address {
    /// Host and port, by which requests are paced.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The address that a `Location` header leads to from here. Bytes that are not UTF-8 are sent as they are.
    ///
    /// # Errors
    /// As [`read`].
    pub(super) fn redirected(&self, location: &[u8]) -> Result<Address, String> {
        let text = match std::str::from_utf8(location) {
            Ok(text) => text.to_owned(),
            Err(_) => location
                .iter()
                .map(|&byte| match byte.is_ascii() {
                    true => char::from(byte).to_string(),
                    false => format!("%{byte:02X}"),
                })
                .collect(),
        };
        parsed(&text, Some(self)).map_err(|reason| format!("redirected to `{text}`: {reason}"))
    }

    /// The address of an absolute path here, with what follows it.
    fn with_path(&self, path: &str) -> Address {
        let (path, query) = path_and_query(path);
        Address {
            path,
            query,
            ..self.clone()
        }
    }
}

/// The addresses to request, in this order until a host responds.
///
/// An address without a scheme, `//host/a.jpg`, has that of the photo's page; without a page it is `https`, and
/// `http` where no host responds to that.
///
/// # Errors
/// Why no browser would request it, in words.
pub(super) fn read(text: &str, page: Option<&str>) -> Result<Vec<Address>, String> {
    let text = &text.replace(['\t', '\n', '\r'], "");
    let trimmed = text.trim_matches(|c: char| c <= ' ');
    if trimmed.chars().take_while(|&c| is_slash(c)).count() < 2 {
        return Ok(vec![parsed(text, None)?]);
    }
    let page = page.and_then(|page| parsed(page, None).ok());
    let schemes: &[&str] = match page.map(|page| page.scheme) {
        Some("http") => &["http"],
        Some(_) => &["https"],
        None => &["https", "http"],
    };
    let addresses = schemes
        .iter()
        .map(|scheme| parsed(&format!("{scheme}:{trimmed}"), None));
    addresses.collect()
}

fn is_slash(c: char) -> bool {
    matches!(c, '/' | '\\')
}

fn parsed(text: &str, base: Option<&Address>) -> Result<Address, String> {
    let text = text
        .trim_matches(|c: char| c <= ' ')
        .replace(['\t', '\n', '\r'], "");
    let scheme = text.split_once(':').filter(|(scheme, _)| {
        let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(rest)
    });
    let Some((scheme, rest)) = scheme else {
        let base = base.ok_or("it has no scheme such as `https:`")?;
        return relative(&text, base);
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" => "https",
        other => return Err(format!("its scheme is `{other}`, not `http` or `https`")),
    };
    match base {
        // An old form of a relative address.
        Some(base) if base.scheme == scheme && !rest.starts_with("//") => relative(rest, base),
        _ => absolute(scheme, rest),
    }
}

fn relative(text: &str, base: &Address) -> Result<Address, String> {
    match text.chars().take_while(|&c| is_slash(c)).count() {
        2.. => return absolute(base.scheme, text),
        1 => return Ok(base.with_path(text)),
        0 => {}
    }
    let folder = base.path.rfind('/').map_or("/", |last| &base.path[..=last]);
    match text.chars().next() {
        None | Some('#') => Ok(base.clone()),
        Some('?') => Ok(base.with_path(&format!("{}{text}", base.path))),
        Some(_) => Ok(base.with_path(&format!("{folder}{text}"))),
    }
}

/// `rest` is what follows the scheme's colon: slashes in any number, the host, the path.
fn absolute(scheme: &'static str, rest: &str) -> Result<Address, String> {
    let rest = rest.trim_start_matches(is_slash);
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        None => authority,
        // Neither a name nor a password: browsers leave it out.
        Some(("" | ":", authority)) => authority,
        // `user@host` is not the address of a photo, and would send a stranger's text as a password.
        Some(_) => return Err("it holds a user's name".to_owned()),
    };
    let (host, port) = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, ""),
    };
    let port = match port {
        "" => None,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse::<u16>().map_err(|_| "its port is above 65535")?)
        }
        _ => return Err("its port is not a number".to_owned()),
    };
    let mut host = host_of(host)?;
    let usual = if scheme == "http" { 80 } else { 443 };
    if let Some(port) = port.filter(|port| *port != usual) {
        host += &format!(":{port}");
    }
    let empty = Address {
        scheme,
        host,
        path: String::new(),
        query: None,
    };
    Ok(empty.with_path(path))
}

/// A path as it is requested, and the query behind it.
fn path_and_query(text: &str) -> (String, Option<String>) {
    let text = text.split('#').next().unwrap_or_default();
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(utf8_percent_encode(query, QUERY).to_string())),
        None => (text, None),
    };
    let mut parts = Vec::<String>::new();
    let mut pieces = path.split(is_slash).peekable();
    // The slash that the path begins with.
    pieces.next_if_eq(&"");
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        match piece.to_ascii_lowercase().replace("%2e", ".").as_str() {
            ".." => {
                parts.pop();
            }
            "." => {}
            _ => {
                parts.push(utf8_percent_encode(piece, PATH).to_string());
                continue;
            }
        }
        if last {
            parts.push(String::new());
        }
    }
    (format!("/{}", parts.join("/")), query)
}

/// A host as it is requested: lowercase, in ASCII, numbers in any base as an address.
fn host_of(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("its host `{text}` {why}"));
    if let Some(inside) = text.strip_prefix('[') {
        let address = inside
            .strip_suffix(']')
            .and_then(|v6| v6.parse::<Ipv6Addr>().ok());
        return match address {
            // Rust writes such addresses with the dots of IPv4, browsers with hexadecimal digits alone.
            Some(address) if address.to_ipv4_mapped().is_some() => {
                let [.., high, low] = address.segments();
                Ok(format!("[::ffff:{high:x}:{low:x}]"))
            }
            Some(address) => Ok(format!("[{address}]")),
            None => wrong("is not an address"),
        };
    }
    let Ok(decoded) = percent_decode_str(text).decode_utf8() else {
        return wrong("is not UTF-8");
    };
    // Letter by letter: a Σ at the end of a word is no other letter in a name.
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
    let mapped = data::names::compatible(&lower(&data::names::compatible(&decoded))).replace('\u{3002}', ".");
    // Signs without width, of which the mapping leaves out some and keeps others.
    let needs_more = |c: char| matches!(c, '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fffc}'..='\u{ffff}');
    if mapped.contains(needs_more) {
        return wrong("has signs that international names do not have; write it as `xn--`");
    }
    let mut labels = vec![];
    for label in mapped.split('.') {
        if let Some(encoded) = label.strip_prefix("xn--") {
            let is_name =
                |name: &String| !name.is_ascii() && !name.contains(needs_more) && punycode(name) == encoded;
            if decoded_punycode(encoded).filter(is_name).is_none() {
                return wrong("has a part with `xn--` that stands for no international name");
            }
        }
        labels.push(match label.is_ascii() {
            true => label.to_owned(),
            false => format!("xn--{}", punycode(label)),
        });
    }
    let host = labels.join(".");
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    let forbidden = |c: char| c <= ' ' || c == '\u{7f}' || "#/:<>?@[\\]^|%".contains(c);
    if host.contains(forbidden) {
        return wrong("has signs that hosts do not have");
    }
    let dotted = host.strip_suffix('.').unwrap_or(&host);
    let last = dotted.rsplit('.').next().unwrap_or_default();
    if number(last).is_none() && (last.is_empty() || !last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(host);
    }
    match ipv4(dotted) {
        Some(address) => Ok(address.to_string()),
        None => wrong("is not an address"),
    }
}

/// A number of an IPv4 address: decimal, octal (`0…`) or hexadecimal (`0x…`).
fn number(text: &str) -> Option<u32> {
    let (digits, base) = match text.strip_prefix("0x") {
        Some("") => ("0", 16),
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let plain = digits.chars().all(|c| c.is_digit(base));
    u32::from_str_radix(digits, base).ok().filter(|_| plain)
}

/// The last of up to four numbers fills the bytes that the others leave.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers = text.split('.').map(number).collect::<Option<Vec<_>>>()?;
    let (last, first) = numbers.split_last()?;
    let left = 4usize.checked_sub(first.len()).filter(|left| *left > 0)?;
    if u64::from(*last) >= 1 << (8 * left) {
        return None;
    }
    let mut address = *last;
    for (place, number) in first.iter().enumerate() {
        address |= u32::from(u8::try_from(*number).ok()?) << (24 - 8 * place);
    }
    Some(Ipv4Addr::from(address))
}

/// RFC 3492: a label in ASCII, without its prefix.
fn punycode(label: &str) -> String {
    const BASE: u32 = 36;
    // Letters are 0 to 25, digits 26 to 35.
    let digit = |value: u32| b"abcdefghijklmnopqrstuvwxyz0123456789"[value as usize] as char;
    let letters = label.chars().map(u32::from).collect::<Vec<_>>();
    let mut out = label.chars().filter(char::is_ascii).collect::<String>();
    let basic = out.len() as u32;
    if basic > 0 {
        out.push('-');
    }
    let (mut next, mut delta, mut bias, mut done) = (128u32, 0u32, 72u32, basic);
    while (done as usize) < letters.len() {
        let least = letters
            .iter()
            .copied()
            .filter(|&c| c >= next)
            .min()
            .unwrap_or(next);
        delta = delta.saturating_add((least - next).saturating_mul(done + 1));
        next = least;
        for &letter in &letters {
            if letter < next {
                delta += 1;
            }
            if letter != next {
                continue;
            }
            let (mut rest, mut k) = (delta, BASE);
            loop {
                let threshold = k.saturating_sub(bias).clamp(1, 26);
                if rest < threshold {
                    break;
                }
                out.push(digit(threshold + (rest - threshold) % (BASE - threshold)));
                rest = (rest - threshold) / (BASE - threshold);
                k += BASE;
            }
            out.push(digit(rest));
            // Adapted to the numbers so far.
            let mut spread = if done == basic { delta / 700 } else { delta / 2 };
            spread += spread / (done + 1);
            let mut steps = 0;
            while spread > 455 {
                spread /= 35;
                steps += BASE;
            }
            bias = steps + 36 * spread / (spread + 38);
            delta = 0;
            done += 1;
        }
        delta += 1;
        next += 1;
    }
    out
}

/// The label that [`punycode`] encodes; `None` where there is none.
fn decoded_punycode(text: &str) -> Option<String> {
    const BASE: u32 = 36;
    let (plain, digits) = text.rsplit_once('-').unwrap_or(("", text));
    let mut letters: Vec<char> = plain.chars().collect();
    let mut digits = digits.bytes().peekable();
    let (mut next, mut at, mut bias, mut is_first) = (128u32, 0u32, 72u32, true);
    while digits.peek().is_some() {
        let (before, mut weight, mut k) = (at, 1u32, BASE);
        loop {
            let digit = match digits.next()? {
                letter @ b'a'..=b'z' => u32::from(letter - b'a'),
                number @ b'0'..=b'9' => u32::from(number - b'0') + 26,
                _ => return None,
            };
            at = at.checked_add(digit.checked_mul(weight)?)?;
            let threshold = k.saturating_sub(bias).clamp(1, 26);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(BASE - threshold)?;
            k += BASE;
        }
        let count = u32::try_from(letters.len()).ok()? + 1;
        let mut spread = (at - before) / if is_first { 700 } else { 2 };
        spread += spread / count;
        let mut steps = 0;
        while spread > 455 {
            spread /= 35;
            steps += BASE;
        }
        bias = steps + 36 * spread / (spread + 38);
        is_first = false;
        next = next.checked_add(at / count)?;
        at %= count;
        letters.insert(at as usize, char::from_u32(next)?);
        at += 1;
    }
    Some(letters.into_iter().collect())
}

/// The `X-Robots-Tag` header that forbids training on the photo, if there is one: `noai` or `noimageai`, for all programs or
/// for the one that `user_agent` names.
pub(super) fn forbids_ai(headers: &HeaderMap, user_agent: &str) -> Option<String> {
    /// Rules with a value, whose name is not that of a program.
    const VALUED: [&str; 4] = [
        "max-snippet",
        "max-image-preview",
        "max-video-preview",
        "unavailable_after",
    ];
    let me = user_agent.split(['/', ' ']).next().unwrap_or_default();
    let forbids = |line: &str| {
        let line = line.to_ascii_lowercase();
        // `program: rule, rule`: the name holds to the end of the line.
        let mut mine = true;
        line.split([',', ';']).any(|rule| {
            let rule = match rule.split_once(':') {
                Some((name, _)) if VALUED.contains(&name.trim()) => return false,
                // The rest of a date: `unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT`.
                Some((name, _)) if name.trim().contains(' ') => return false,
                Some((name, rule)) => {
                    mine = matches!(name.trim(), "*") || name.trim() == me.to_ascii_lowercase();
                    rule
                }
                None => rule,
            };
            mine && matches!(rule.trim(), "noai" | "noimageai")
        })
    };
    let mut lines = headers.get_all("x-robots-tag").iter();
    lines.find_map(|line| {
        let line = String::from_utf8_lossy(line.as_bytes());
        forbids(&line).then(|| line.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let all = read(text, None).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all[0].to_string()
    }

    /// Each by hand from the standard, and as Chromium's `new URL(text).href` has it.
    #[test]
    fn addresses_are_read_as_browsers_read_them() {
        for (text, expected) in [
            ("http://h/a b.jpg", "http://h/a%20b.jpg"),
            (" \thttp://h/c.jpg\r\n ", "http://h/c.jpg"),
            ("http://h/a\nb.jpg", "http://h/ab.jpg"),
            ("HTTP://Host.Example:80/A.jpg", "http://host.example/A.jpg"),
            ("https://h/ä/日.jpg", "https://h/%C3%A4/%E6%97%A5.jpg"),
            ("https://h/%20%zz.jpg", "https://h/%20%zz.jpg"),
            (
                "https://bücher.example/a.jpg",
                "https://xn--bcher-kva.example/a.jpg",
            ),
            (r"http:\\h\a\b.jpg", "http://h/a/b.jpg"),
            ("http:/h/a.jpg", "http://h/a.jpg"),
            ("http:h/a.jpg", "http://h/a.jpg"),
            ("http:////h/a.jpg", "http://h/a.jpg"),
            ("http://h/a/../b/./c.jpg", "http://h/b/c.jpg"),
            (
                "http://h/a.jpg?q=a b&c=\"d\"#top",
                "http://h/a.jpg?q=a%20b&c=%22d%22",
            ),
            ("http://h/a[1]|{2}.jpg", "http://h/a[1]|%7B2%7D.jpg"),
            ("http://h?x", "http://h/?x"),
            ("http://[2600::1]:8080/a.jpg", "http://[2600::1]:8080/a.jpg"),
            (
                "http://[::ffff:127.0.0.1]:8080/a.jpg",
                "http://[::ffff:7f00:1]:8080/a.jpg",
            ),
            // Numbers in any base are the same host to a browser: here this machine, which the resolver refuses.
            ("http://0x7f.1/a.jpg", "http://127.0.0.1/a.jpg"),
            ("http://2130706433/a.jpg", "http://127.0.0.1/a.jpg"),
            ("http://１２７.0.0.1/a.jpg", "http://127.0.0.1/a.jpg"),
            // Signs that are others in one form, and letters in two parts.
            ("http://①.example/a.jpg", "http://1.example/a.jpg"),
            ("http://ﬁsh™.example/a.jpg", "http://fishtm.example/a.jpg"),
            (
                "http://bu\u{308}cher.example/a.jpg",
                "http://xn--bcher-kva.example/a.jpg",
            ),
            ("http://a。example/a.jpg", "http://a.example/a.jpg"),
            // A Greek name in capitals, and ß, which is a letter of its own.
            ("http://ΟΔΟΣ.example/a.jpg", "http://xn--pxavbq.example/a.jpg"),
            ("http://STRASSE.example/a.jpg", "http://strasse.example/a.jpg"),
            (
                "http://Straße.example/a.jpg",
                "http://xn--strae-oqa.example/a.jpg",
            ),
            // Encoded already, and neither a name nor a password.
            (
                "http://XN--BCHER-KVA.example/a.jpg",
                "http://xn--bcher-kva.example/a.jpg",
            ),
            ("http://xn--n3h.example/a.jpg", "http://xn--n3h.example/a.jpg"),
            ("http://@h/a.jpg", "http://h/a.jpg"),
            ("http://:@h:81/a.jpg", "http://h:81/a.jpg"),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        for (text, reason) in [
            ("ftp://a/b", "its scheme is `ftp`"),
            ("file:///etc/passwd", "its scheme is `file`"),
            ("data:image/png;base64,AAAA", "its scheme is `data`"),
            ("http://user:word@host/x", "it holds a user's name"),
            ("http://user@host/x", "it holds a user's name"),
            ("x", "it has no scheme"),
            ("www.example.org/a.jpg", "it has no scheme"),
            ("/a.jpg", "it has no scheme"),
            ("", "it has no scheme"),
            ("http://", "it names no host"),
            ("http://a b/c.jpg", "has signs that hosts do not have"),
            ("http://h:99999/a.jpg", "its port is above 65535"),
            ("http://h:8o/a.jpg", "its port is not a number"),
            ("http://1.2.3.4.5/a.jpg", "is not an address"),
            ("http://[::g]/a.jpg", "is not an address"),
            ("http://bü\u{200b}cher.example/a.jpg", "write it as `xn--`"),
            // A sign that is two and a slash in one form would lead to another host.
            ("http://host℀.example/a.jpg", "has signs that hosts do not have"),
            ("//user@host/a.jpg", "it holds a user's name"),
            ("http://@@host/a.jpg", "it holds a user's name"),
            ("http://:word@host/a.jpg", "it holds a user's name"),
            // No digits, digits of nothing, ASCII in disguise, a sign that nobody sees, and digits that overflow.
            ("http://xn--.example/a.jpg", "stands for no international name"),
            ("http://xn--a.example/a.jpg", "stands for no international name"),
            (
                "http://a.xn--bcher-.example/a.jpg",
                "stands for no international name",
            ),
            ("http://xn--ab-g1t/a.jpg", "stands for no international name"),
            ("http://xn--99999999999/a.jpg", "stands for no international name"),
        ] {
            let error = read(text, None).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn punycode_is_decoded() {
        for label in [
            "bücher",
            "☃",
            "日本",
            "straße",
            "οδος",
            "испытание",
            "a\u{308}b-c-ü",
        ] {
            assert_eq!(decoded_punycode(&punycode(label)).as_deref(), Some(label));
        }
    }

    #[test]
    fn an_address_without_a_scheme_has_that_of_its_page() {
        let all = |text: &str, page: Option<&str>| {
            let all = read(text, page).unwrap();
            all.iter().map(Address::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            all("//h/a b.jpg", None),
            ["https://h/a%20b.jpg", "http://h/a%20b.jpg"]
        );
        assert_eq!(
            all(" //h:81/a.jpg", Some("http://page.example/1")),
            ["http://h:81/a.jpg"]
        );
        assert_eq!(
            all("/\t/h/a.jpg", Some("http://page.example/1")),
            ["http://h/a.jpg"]
        );
        assert_eq!(
            all(r"\\h\a.jpg", Some("https://page.example/1")),
            ["https://h/a.jpg"]
        );
        assert_eq!(all("//h/a.jpg", Some("not an address")).len(), 2);
    }

    #[test]
    fn redirects_lead_where_browsers_go() {
        let from = parsed("https://h/a/b.jpg?x", None).unwrap();
        for (location, expected) in [
            (&b"/the photo.jpg"[..], "https://h/the%20photo.jpg"),
            (b"c.jpg", "https://h/a/c.jpg"),
            (b"../c.jpg", "https://h/c.jpg"),
            (b"?y", "https://h/a/b.jpg?y"),
            (b"//other/d.jpg", "https://other/d.jpg"),
            (b"http://other/d e.jpg#f", "http://other/d%20e.jpg"),
            (b"", "https://h/a/b.jpg?x"),
            ("/ä.jpg".as_bytes(), "https://h/%C3%A4.jpg"),
            // Latin-1.
            (b"/\xe4 b.jpg", "https://h/%E4%20b.jpg"),
        ] {
            assert_eq!(from.redirected(location).unwrap().to_string(), expected);
        }
        for location in [
            &b"ftp://h/x"[..],
            b"file:///etc/passwd",
            b"http://u:p@h/x",
            b"javascript:0",
        ] {
            assert!(from.redirected(location).is_err());
        }
    }

    #[test]
    fn robots_tags_forbid_where_they_mean_us() {
        for (lines, expected) in [
            (&["noai"][..], true),
            (&["noindex, NoImageAI"], true),
            (&["noindex", "noai, noimageai"], true),
            (&["max-snippet: 5, noai"], true),
            (&["*: noai"], true),
            (&["noindex; noai"], true),
            (&["passer-curate: noindex, noai"], true),
            (&["noindex, nofollow"], false),
            (&["otherbot: noai, noimageai"], false),
            (&["otherbot: noindex", "noai"], true),
            (&["unavailable_after: 25 Jun 2027 15:00:00 GMT"], false),
            (&["unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai"], true),
            (&["unavailable_after: 25 Jun 2027 15:00:00 GMT, noimageai"], true),
            (
                &["otherbot: unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai"],
                false,
            ),
            (&["noairplanes"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-robots-tag", line.parse().unwrap());
            }
            assert_eq!(
                forbids_ai(&headers, "passer-curate/0.1 (me)").is_some(),
                expected,
                "{lines:?}"
            );
        }
    }
}
