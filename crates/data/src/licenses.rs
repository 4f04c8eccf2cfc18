//! The licenses of a data set with the number of photos under each, as an encoder file states them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name under which photos without a license are counted.
pub const NOT_STATED: &str = "not stated";

/// The name under which licenses beyond the first [`MAX_NAMES`] are counted.
pub(crate) const OTHERS: &str = "other licenses";

/// Most licenses that are counted separately: a metadata file may hold a different text for each photo.
pub(crate) const MAX_NAMES: usize = 1000;

/// Longest name, characters.
const MAX_CHARS: usize = 200;

/// Separates a license from the next.
const SEPARATOR: &str = "; ";

/// Numbers of photos by the name of their license.
///
/// As text it is one line, the most frequent first: `CC BY 2.0: 1200; MIT: 3; not stated: 2`. Files store
/// this text, so versions before 0.2, which expect a text there, can read them; those versions always wrote
/// an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Licenses(BTreeMap<String, u64>);

impl Licenses {
    /// Counts photos under a license.
    pub fn add(&mut self, name: &str, photos: u64) {
        let name = tidy(name);
        let known = self.0.contains_key(&name) || self.0.len() < MAX_NAMES;
        let name = if known { name } else { OTHERS.to_owned() };
        let count = self.0.entry(name).or_default();
        *count = count.saturating_add(photos);
    }

    /// Names and numbers of photos, the most frequent first.
    pub fn counts(&self) -> Vec<(&str, u64)> {
        let mut counts = self
            .0
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect::<Vec<_>>();
        counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        counts
    }

    /// Whether no photo was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parse(text: &str) -> Self {
        let mut licenses = Self::default();
        for entry in text.split(SEPARATOR).filter(|entry| !entry.trim().is_empty()) {
            let counted = entry
                .rsplit_once(": ")
                .and_then(|(name, count)| Some((name, count.parse().ok()?)));
            let (name, count) = counted.unwrap_or((entry, 0));
            licenses.add(name, count);
        }
        licenses
    }
}

/// A license's name on one line, without the separators of names.
pub(crate) fn tidy(name: &str) -> String {
    let mut tidy = String::new();
    for c in name.trim().chars().take(MAX_CHARS) {
        tidy.push(match c {
            ';' => ',',
            c if c.is_control() => ' ',
            c => c,
        });
    }
    if tidy.is_empty() {
        return NOT_STATED.to_owned();
    }
    tidy
}

impl fmt::Display for Licenses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (name, count)) in self.counts().into_iter().enumerate() {
            let separator = if position == 0 { "" } else { SEPARATOR };
            match count {
                // Text from another program, without counts.
                0 => write!(f, "{separator}{name}")?,
                count => write!(f, "{separator}{name}: {count}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Licenses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads the text, and also a list of names or a table of counts, which other programs may write.
impl<'de> Deserialize<'de> for Licenses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Licenses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("licenses as a text, a list of names or a table of counts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Licenses, E> {
                Ok(Licenses::parse(text))
            }

            fn visit_unit<E>(self) -> Result<Licenses, E> {
                Ok(Licenses::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Licenses, A::Error> {
                let mut licenses = Licenses::default();
                while let Some(name) = names.next_element::<String>()? {
                    licenses.add(&name, 0);
                }
                Ok(licenses)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut counts: A) -> Result<Licenses, A::Error> {
                let mut licenses = Licenses::default();
                while let Some((name, count)) = counts.next_entry::<String, u64>()? {
                    licenses.add(&name, count);
                }
                Ok(licenses)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: &[(&str, u64)]) -> Licenses {
        let mut licenses = Licenses::default();
        for (name, count) in counts {
            licenses.add(name, *count);
        }
        licenses
    }

    #[test]
    fn the_text_reads_back() {
        let licenses = of(&[
            ("MIT", 3),
            ("CC BY 2.0: a; b", 1200),
            ("", 2),
            ("  ", 1),
            ("a\nb", 3),
        ]);
        let text = "CC BY 2.0: a, b: 1200; MIT: 3; a b: 3; not stated: 3";
        assert_eq!(licenses.to_string(), text);
        let json = serde_json::to_string(&licenses).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Licenses>(&json).unwrap(), licenses);
    }

    #[test]
    fn every_form_is_read() {
        for (json, expected) in [
            ("\"\"", of(&[])),
            ("null", of(&[])),
            ("[]", of(&[])),
            (r#"["MIT"]"#, of(&[("MIT", 0)])),
            (r#"{"MIT": 4}"#, of(&[("MIT", 4)])),
            (r#""CC-BY 2.0""#, of(&[("CC-BY 2.0", 0)])),
        ] {
            assert_eq!(
                serde_json::from_str::<Licenses>(json).unwrap(),
                expected,
                "{json}"
            );
        }
        assert_eq!(of(&[("CC-BY 2.0", 0)]).to_string(), "CC-BY 2.0");
        assert!(serde_json::from_str::<Licenses>("7").is_err());
    }

    #[test]
    fn texts_of_their_own_do_not_grow_without_bound() {
        let mut licenses = Licenses::default();
        for photo in 0..5000 {
            licenses.add(&format!("by {photo}"), 1);
        }
        assert_eq!(licenses.counts().len(), MAX_NAMES + 1);
        assert_eq!(licenses.counts()[0], (OTHERS, 4000));
    }
}
