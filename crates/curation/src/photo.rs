//! One photo as a source lists it, and the rules that reject hostile metadata.
//!
//! The source drops a row that breaks a rule, with a separate reason for each rule; it never guesses a
//! repair. The rules protect later steps: keys become file names, names become lines of a credits file,
//! addresses are fetched.

/// The metadata of a photo, known before its pixels are read. Text is decoded, never URL-encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Photo {
    /// Row in the ledger: the running number of the row in its source, from 1.
    pub id: i64,
    /// Name of the photo in this curation and its releases.
    pub key: String,
    /// Name of the photographer as a credit prints it.
    pub photographer: Option<String>,
    /// Identity of the photographer where the source has one beside the name (Flickr's NSID).
    pub photographer_id: Option<String>,
    /// Title that the photographer gave.
    pub title: Option<String>,
    /// When it was taken, as the source wrote it.
    pub date_taken: Option<String>,
    /// Degrees north, -90 to 90.
    pub latitude: Option<f64>,
    /// Degrees east, -180 to 180.
    pub longitude: Option<f64>,
    /// The web page of the photo.
    pub page_url: Option<String>,
    /// Address of the file itself.
    pub image_url: Option<String>,
    /// Name of the license, as the source wrote it.
    pub license: Option<String>,
    /// Address of the license text.
    pub license_url: Option<String>,
    /// Class, where the source is labeled.
    pub label: Option<String>,
    /// Where a source with files stores this one: a path below a folder, or a position in a data set.
    pub locator: Option<String>,
}

impl Photo {
    /// The photographer that this photo counts for in balancing: the identity, else the name.
    pub fn photographer_identity(&self) -> Option<&str> {
        self.photographer_id.as_deref().or(self.photographer.as_deref())
    }
}

/// A row of a source: a photo, and the reason if it is dropped at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The fields that could be read.
    pub(crate) photo: Photo,
    /// The reason, if the row cannot be used.
    pub(crate) refused: Option<&'static str>,
    /// Of a row that can be used: more about its credit for a person to read.
    pub(crate) note: Option<String>,
}

/// Longest field that is kept, bytes. Anything longer is not a name, title or address.
const LONGEST_FIELD: usize = 4096;
/// Longest key, bytes: file systems stop at 255, and shards add an extension.
const LONGEST_KEY: usize = 200;

/// Which characters a key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRule {
    /// One file name of letters, digits, `_`, `-` and `@`: keys written by strangers.
    Name,
    /// Such names joined by `/`, with any other character that a user's own file may have.
    Path,
}

/// Whether an address leads into a file system, to a place or to a machine of its writer's own, or holds a user's
/// name: `file:///home/ann/a.jpg`, `C:\a.jpg`, `geo:51.5,0`, `https://ann:secret@host/a.jpg`. Such a one is
/// not published.
pub(crate) fn is_private_address(url: &str) -> bool {
    let url = url.trim();
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let scheme = scheme.filter(|scheme| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
    });
    let rest = match scheme.as_deref() {
        Some(scheme @ ("http" | "https")) => url.get(scheme.len() + 1..).unwrap_or_default(),
        Some(_) => return true,
        None => url,
    };
    let is_path = rest.starts_with(['.', '~', '\\']) || rest.starts_with('/') && !rest.starts_with("//");
    let authority = rest
        .trim_start_matches(['/', '\\'])
        .split(['/', '\\', '?', '#'])
        .next();
    is_path || authority.is_some_and(|authority| authority.contains('@'))
}

/// Checks a photo that a source has read, and returns the first rule that it breaks.
pub(crate) fn refusal(photo: &Photo, rule: KeyRule) -> Option<&'static str> {
    if photo.key.is_empty() {
        return Some("no_key");
    }
    let named = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-@".contains(&byte))
    };
    let safe = match rule {
        KeyRule::Name => named(&photo.key),
        KeyRule::Path => photo.key.split('/').all(|part| {
            !part.is_empty() && !part.starts_with('.') && !part.contains(data::terminal::is_control)
        }),
    };
    if !safe || photo.key.len() > LONGEST_KEY {
        return Some("unsafe_key");
    }
    let fields = [
        &photo.photographer,
        &photo.photographer_id,
        &photo.title,
        &photo.date_taken,
        &photo.page_url,
        &photo.image_url,
        &photo.license,
        &photo.license_url,
        &photo.label,
    ];
    if fields
        .iter()
        .any(|field| field.as_ref().is_some_and(|text| text.len() > LONGEST_FIELD))
    {
        return Some("field_too_long");
    }
    // A name that cannot be printed as given is not an attribution.
    let broken = |field: &Option<String>| field.as_ref().is_some_and(|text| text.contains('\u{fffd}'));
    if broken(&photo.photographer) || broken(&photo.photographer_id) {
        return Some("broken_text");
    }
    None
}

/// The key of a record of a data set. PASS's folders (`PASS_dataset/0/HASH`) are not part of it: they only
/// spread the files.
pub(crate) fn dataset_key(key: &str) -> String {
    match key
        .strip_prefix("PASS_dataset/")
        .and_then(|rest| rest.rsplit_once('/'))
    {
        Some((_, name)) => name.to_string(),
        None => key.to_string(),
    }
}

/// Decodes a URL-encoded field (`+` for a blank, `%XX` for other bytes); invalid UTF-8 becomes U+FFFD.
pub(crate) fn url_decoded(field: &[u8]) -> Option<String> {
    if field.is_empty() {
        return None;
    }
    if !field.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Some(lossy(field));
    }
    let plain: Vec<u8> = field
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    Some(
        percent_encoding::percent_decode(&plain)
            .decode_utf8_lossy()
            .into_owned(),
    )
}

/// A field as written; invalid UTF-8 becomes U+FFFD.
pub(crate) fn plain(field: &[u8]) -> Option<String> {
    (!field.is_empty()).then(|| lossy(field))
}

fn lossy(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// A coordinate within `limit` degrees of 0; any other value counts as unknown.
pub(crate) fn degrees(text: &str, limit: f64) -> Option<f64> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|value| value.abs() <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &str) -> Photo {
        Photo {
            key: key.to_string(),
            ..Photo::default()
        }
    }

    #[test]
    fn keys_that_lead_elsewhere_are_refused() {
        for key in [
            "../../etc/passwd",
            "a/b",
            "a.b",
            "a\\b",
            "a b",
            "a\0",
            "é",
            &"a".repeat(201),
        ] {
            assert_eq!(refusal(&keyed(key), KeyRule::Name), Some("unsafe_key"), "{key}");
        }
        assert_eq!(refusal(&keyed(""), KeyRule::Name), Some("no_key"));
        assert_eq!(
            refusal(&keyed("4ccb23d8746b8d9d76ffd603fc7988"), KeyRule::Name),
            None
        );
        for key in ["../x", "a/../b", "/etc/x", "a//b", "a/\n"] {
            assert_eq!(refusal(&keyed(key), KeyRule::Path), Some("unsafe_key"), "{key}");
        }
        assert_eq!(refusal(&keyed("holidays/sea 1"), KeyRule::Path), None);
    }

    #[test]
    fn names_that_cannot_be_printed_are_no_attribution() {
        let mut photo = keyed("a");
        photo.photographer = url_decoded(b"Ann%FF");
        assert_eq!(refusal(&photo, KeyRule::Name), Some("broken_text"));
        photo.photographer = url_decoded(b"Ann+B%C3%A9%09x");
        assert_eq!(photo.photographer.as_deref(), Some("Ann Bé\tx"));
        assert_eq!(refusal(&photo, KeyRule::Name), None);
        assert_eq!(
            data::terminal::one_line(photo.photographer.as_deref().unwrap()),
            "Ann Bé x"
        );
        photo.title = Some("t".repeat(5000));
        assert_eq!(refusal(&photo, KeyRule::Name), Some("field_too_long"));
    }

    #[test]
    fn addresses_of_files_places_and_users_are_private() {
        for url in [
            "file:///home/ann/a.jpg",
            "FILE:a.jpg",
            "C:\\photos\\a.jpg",
            "\\\\server\\share\\a.jpg",
            "/home/ann/a.jpg",
            "~/a.jpg",
            "../a.jpg",
            "geo:51.5,-0.1",
            "mailto:ann@host.example",
            "localhost:8080/a.jpg",
            "https://ann:secret@host.example/a.jpg",
            "https:\\\\ann@host.example",
            "//ann@host.example/a.jpg",
            "http:/a.jpg",
        ] {
            assert!(is_private_address(url), "{url}");
        }
        for url in [
            "http://www.flickr.com/photos/15087210@N00/6162540254/",
            "HTTPS://host.example/a:b?c=d@e",
            "//host.example/a.jpg",
            "www.host.example/a.jpg",
            "http://page",
            "",
        ] {
            assert!(!is_private_address(url), "{url}");
        }
    }

    #[test]
    fn coordinates_are_signed_and_bounded() {
        assert_eq!(degrees("-113.565075", 180.0), Some(-113.565075));
        assert_eq!(degrees("-113.565075", 90.0), None);
        assert_eq!(degrees("NaN", 90.0), None);
        assert_eq!(degrees("", 90.0), None);
    }
}
