//! Names of classes: texts that Unicode holds to be the same are one name.
//!
//! A Mac writes `café` as `e` and an accent, other systems as one letter; both mean one class. So names of
//! classes are composed (NFC) where they are read, and compared as they are afterwards. Paths and keys keep
//! their bytes, because a file is opened by them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::error::Error;
use crate::hint::Hint;

/// Longest list of classes in a message.
const LISTED: usize = 10;

/// The composed form (NFC) of a name.
pub fn composed(name: &str) -> Cow<'_, str> {
    match name.is_ascii() {
        true => Cow::Borrowed(name),
        false => ComposingNormalizerBorrowed::new_nfc().normalize(name),
    }
}

/// A text with every sign in its plain form (NFKC): `①` is `1`, `ﬁ` is `fi`, `Ａ` is `A`.
pub fn compatible(text: &str) -> Cow<'_, str> {
    match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => ComposingNormalizerBorrowed::new_nfkc().normalize(text),
    }
}

/// Whether two names differ in case, spaces, punctuation or leading zeros alone, so that one is probably a
/// misspelling of the other.
pub fn differ_in_spelling(one: &str, other: &str) -> bool {
    let one = folded(one);
    !one.is_empty() && one == folded(other)
}

/// Letters to change, add, drop or swap for one name to become the other.
pub fn distance(one: &str, other: &str) -> usize {
    strsim::osa_distance(one, other)
}

/// The first two names of a list that differ in spelling alone.
pub(crate) fn twins(names: &[String]) -> Option<[&String; 2]> {
    let mut known: HashMap<String, &String> = HashMap::new();
    names.iter().find_map(|name| {
        let folded = Some(folded(name)).filter(|folded| !folded.is_empty())?;
        known.insert(folded, name).map(|before| [before, name])
    })
}

/// Letters and digits of a name, lower case, without leading zeros of a number.
fn folded(name: &str) -> String {
    let plain: String = composed(name)
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    match plain.trim_start_matches('0') {
        number if !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) => {
            number.to_string()
        }
        _ => plain,
    }
}

/// The first names of a list, for a message: `` `ant`, `bee` and 3 more ``.
pub fn listed<N: std::fmt::Display>(names: &[N]) -> String {
    let first: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The error for a class that the data-set description does not name; `what` is the class with its kind.
pub(crate) fn unknown_class(path: &Path, what: &str, classes: &[String]) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: format!(
            "{what} is none of the {} classes of the data-set description: {}",
            classes.len(),
            listed(classes)
        ),
        hint: None,
    }
}

/// The composed names of class folders, each once, in byte order.
///
/// # Errors
/// Two folders whose names are one text in two Unicode forms: which of the files belong together is the
/// user's to say.
pub(crate) fn of_folders<'a>(
    root: &Path,
    folders: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, Error> {
    let mut written: HashMap<String, &str> = HashMap::new();
    for folder in folders {
        let before = *written.entry(composed(folder).into_owned()).or_insert(folder);
        if before != folder {
            return Err(Error::Unreadable {
                spec: root.display().to_string(),
                reason: format!(
                    "folders `{}` and `{}` have one name in two Unicode spellings",
                    with_numbers(before),
                    with_numbers(folder)
                ),
                hint: Some(Hint::Rename),
            });
        }
    }
    let mut names: Vec<String> = written.into_keys().collect();
    names.sort_unstable();
    Ok(names)
}

/// Shows letters outside ASCII by their numbers, because two spellings of one text look the same.
fn with_numbers(name: &str) -> String {
    let shown = |letter: char| match letter.is_ascii() {
        true => letter.to_string(),
        false => letter.escape_unicode().to_string(),
    };
    name.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_forms_of_one_text_are_one_name() {
        assert_eq!(composed("cafe\u{301}"), "caf\u{e9}");
        assert_eq!(composed("caf\u{e9}"), "caf\u{e9}");
        // Hangul syllables, which a Mac decomposes too; and a letter whose composed form is another letter.
        assert_eq!(composed("\u{1100}\u{1161}"), "\u{ac00}");
        assert_eq!(composed("\u{212b}"), "\u{c5}");
        // Compatible letters are different texts.
        assert_ne!(composed("\u{fb01}n"), "fin");
    }

    #[test]
    fn misspellings_are_recognized_and_other_names_are_not() {
        for (one, other) in [
            ("Cat", "cat"),
            ("sea lion", "sea_lion"),
            ("007", "7"),
            ("CAFE\u{301}", "caf\u{e9}"),
        ] {
            assert!(differ_in_spelling(one, other), "{one} {other}");
        }
        for (one, other) in [("cat", "dog"), ("1", "10"), ("-", "_"), ("0", "00a")] {
            assert!(!differ_in_spelling(one, other), "{one} {other}");
        }
    }

    #[test]
    fn twins_in_a_list_are_found() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        assert_eq!(
            twins(&list(&["cat", "dog", "cat\u{200b}"])).unwrap(),
            ["cat", "cat\u{200b}"]
        );
        assert_eq!(twins(&list(&["1", "10", "-", "_"])), None);
    }

    #[test]
    fn two_folders_of_one_name_are_refused() {
        let names = |folders: &[&str]| of_folders(Path::new("x"), folders.iter().copied());
        assert_eq!(
            names(&["b", "a", "b", "cafe\u{301}"]).unwrap(),
            ["a", "b", "caf\u{e9}"]
        );
        let error = names(&["caf\u{e9}", "a", "cafe\u{301}"]).unwrap_err().to_string();
        assert!(
            error.contains("`caf\\u{e9}` and `cafe\\u{301}` have one name in two Unicode spellings"),
            "{error}"
        );
    }
}
