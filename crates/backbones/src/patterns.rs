//! Patterns over parameters' names: which are known, which are renamed, which a user allows.
//!
//! `*` stands for any text, `?` for one character, `#` for a number, `~` for a number that a renaming leaves out.

/// Whether the whole name fits the pattern.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    captures(pattern, name).is_some()
}

/// Whether the name fits any of the patterns.
pub(crate) fn matches_any<P: AsRef<str>>(patterns: &[P], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_ref(), name))
}

/// The name that `to` makes of the parts of `name` that `from` matches, in their order; `None` if it does not fit.
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

/// What the wildcards of a pattern stand for, `~` apart.
fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let Some(first) = pattern.chars().next() else {
        return name.is_empty().then(Vec::new);
    };
    let rest = &pattern[first.len_utf8()..];
    let digits = || name.bytes().take_while(u8::is_ascii_digit).count();
    // How long the first wildcard may be, the longest first, and whether it is kept.
    let (lengths, kept): (Vec<usize>, bool) = match first {
        '*' => {
            // A star takes as little as it can, so that a name with many dots is no hard case.
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            (ends.collect(), true)
        }
        '?' => (
            name.chars().next().map(char::len_utf8).into_iter().collect(),
            true,
        ),
        '#' | '~' => ((digits() > 0).then(digits).into_iter().collect(), first == '#'),
        literal => return captures(rest, name.strip_prefix(literal)?),
    };
    lengths.into_iter().find_map(|length| {
        let mut found = captures(rest, &name[length..])?;
        if kept {
            found.insert(0, &name[..length]);
        }
        Some(found)
    })
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
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(matches_any(&["a", "b*"], "bc") && !matches_any::<&str>(&[], "bc"));
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
