//! Patterns for parameter names: known, renamed and allowed ones; and the nearest of some names.
//!
//! `*` matches any text, `?` one character, `#` a number, `~` a number that a renaming drops.

use std::ops::Range;

/// Whether the pattern matches the whole name.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    captures(pattern, name).is_some()
}

/// Whether any of the patterns matches the name.
pub(crate) fn matches_any<P: AsRef<str>>(patterns: &[P], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_ref(), name))
}

/// Fills `to` with the parts of `name` that `from` matches, in order; `None` without a match.
pub(crate) fn renamed(from: &str, to: &str, name: &str) -> Option<String> {
    let mut parts = captures(from, name)?.into_iter();
    let mut made = String::new();
    for c in to.chars() {
        match c {
            '*' | '#' | '?' => made.push_str(parts.next().unwrap_or_default()),
            c => made.push(c),
        }
    }
    Some(made)
}

/// The text that the first wildcard of a pattern matches.
pub(crate) fn star<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    captures(pattern, name)?.into_iter().next()
}

/// The parts of the name that a pattern's wildcards match, except `~`. A star matches as little as possible.
///
/// Only the last star ever extends its match. Earlier stars need not: the text after each was found at the
/// earliest position, and a later one would leave less of the name to the rest of the pattern. So the time is
/// at most the product of the two lengths.
fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let (symbols, bytes) = (pattern.as_bytes(), name.as_bytes());
    let (mut next, mut at) = (0, 0);
    let mut found: Vec<Range<usize>> = vec![];
    // The rest of the pattern after the last star, and the star's index among the captures.
    let mut star = None;
    loop {
        let symbol = symbols.get(next).copied();
        let length = match symbol {
            None if at == bytes.len() => return Some(found.into_iter().map(|part| &name[part]).collect()),
            None => None,
            Some(b'*') => {
                next += 1;
                star = Some((next, found.len()));
                found.push(at..at);
                continue;
            }
            Some(b'?') => name[at..].chars().next().map(char::len_utf8),
            Some(b'#' | b'~') => {
                let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
                Some(digits.count()).filter(|&digits| digits > 0)
            }
            Some(literal) => (bytes.get(at) == Some(&literal)).then_some(1),
        };
        if let Some(length) = length {
            if matches!(symbol, Some(b'?' | b'#')) {
                found.push(at..at + length);
            }
            at += length;
            next += 1;
        } else {
            let (after, number) = star?;
            found.truncate(number + 1);
            let taken = &mut found[number];
            taken.end += name[taken.end..].chars().next()?.len_utf8();
            (next, at) = (after, taken.end);
        }
    }
}

/// The candidate with the nearest spelling.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    /// Longer names belong to no parameter, and their distances would take long.
    const LONGEST: usize = 256;
    /// A large network has a tenth of these; a file may hold, or need, a quarter of a million.
    const CANDIDATES: usize = 4096;
    candidates
        .take(CANDIDATES)
        .filter(|candidate| candidate.len().max(name.len()) <= LONGEST)
        .min_by_key(|candidate| strsim::levenshtein(candidate, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_what_they_say() {
        for (pattern, name, expected) in [
            ("fc.*", "fc.weight", true),
            ("fc.*", "fc.2.bias", true),
            ("fc.*", "layer1.fc.bias", false),
            ("fc.*", "fc", false),
            ("*", "", true),
            ("encoder_?.fc.*", "encoder_q.fc.0.weight", true),
            ("blocks.#.norm.*", "blocks.11.norm.bias", true),
            ("blocks.#.norm.*", "blocks.x.norm.bias", false),
            ("blocks.#", "blocks.", false),
            ("*é?", "caféx", true),
            ("*", "é", true),
            ("*.#.w", "a.b.3.4.w", true),
            ("*.#.w", "a.b.3.x.w", false),
            ("a*b*c", "a.b.b.c.b", false),
            ("a*b*c", "a.b.b.c.b.c", true),
            ("*#1", "2x31", false),
            ("?#*", "é12", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(matches_any(&["a", "b*"], "bc") && !matches_any::<&str>(&[], "bc"));
    }

    /// A star that matches at every position of a long name, and stars that could share it in many ways.
    #[test]
    fn stars_cost_the_product_of_the_lengths_and_no_more() {
        let name = "backbone".repeat(128);
        let pattern = format!("{}x", "*b".repeat(100));
        // Tried one by one, the ways to share the name would take longer than the age of the universe.
        for _ in 0..1000 {
            assert!(!matches("*backbone*.4.0.conv1.weight", &name));
            assert!(!matches(&pattern, &name));
        }
    }

    /// All ways to share a short name among the wildcards, tried one by one.
    #[test]
    fn what_fits_is_what_fits_in_any_way() {
        fn fits(pattern: &[u8], name: &[u8]) -> bool {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
            match pattern {
                [] => name.is_empty(),
                [b'*', rest @ ..] => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
                [b'?', rest @ ..] => !name.is_empty() && fits(rest, &name[1..]),
                [b'#', rest @ ..] => digits > 0 && fits(rest, &name[digits..]),
                [literal, rest @ ..] => name.first() == Some(literal) && fits(rest, &name[1..]),
            }
        }
        let words = |letters: &'static [u8], length: u32| {
            (0..letters.len().pow(length)).map(move |number| {
                let letter = |place| letters[number / letters.len().pow(place) % letters.len()];
                (0..length).map(letter).collect::<Vec<_>>()
            })
        };
        let names = (0..6)
            .flat_map(|length| words(b"a12", length))
            .collect::<Vec<_>>();
        for pattern in (0..5).flat_map(|length| words(b"*?#a1", length)) {
            let text = std::str::from_utf8(&pattern).unwrap();
            for name in &names {
                let name = std::str::from_utf8(name).unwrap();
                assert_eq!(
                    matches(text, name),
                    fits(&pattern, name.as_bytes()),
                    "{text} {name}"
                );
            }
        }
    }

    #[test]
    fn renamings_go_both_ways() {
        let (theirs, ours) = ("encoder.layers.encoder_layer_#.ln_1.*", "blocks.#.norm1.*");
        let name = "encoder.layers.encoder_layer_11.ln_1.weight";
        assert_eq!(
            renamed(theirs, ours, name).as_deref(),
            Some("blocks.11.norm1.weight")
        );
        assert_eq!(
            renamed(ours, theirs, "blocks.11.norm1.weight").as_deref(),
            Some(name)
        );
        assert_eq!(renamed(theirs, ours, "encoder.ln.weight"), None);
        let chunked = renamed("blocks.~.#.*", "blocks.#.*", "blocks.3.17.attn.qkv.weight");
        assert_eq!(chunked.as_deref(), Some("blocks.17.attn.qkv.weight"));
        assert_eq!(
            renamed("blocks.~.#.*", "blocks.#.*", "blocks.3.attn.qkv.weight"),
            None
        );
    }
}
