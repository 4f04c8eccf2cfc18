//! Lines that are no TOML: the key, the value, and what was probably meant.

use super::Cure;
use toml::{Table, Value};

/// The key and the value of a line, also of one in YAML's form or without a sign between them.
pub(super) fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let is_key = |key: &str| {
        let mut letters = key.chars();
        !key.is_empty() && letters.all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter))
    };
    let line = line.trim();
    let signs = ['=', ':', ' '].into_iter();
    let mut parts = signs.filter_map(|sign| {
        let (key, value) = line.split_once(sign)?;
        (sign != ' ' || !value.contains('=')).then_some((key, value))
    });
    let (key, value) = parts.find(|(key, _)| is_key(key.trim()))?;
    // A `#` within quotes is no comment.
    let value = match value.contains(['"', '\'']) {
        true => value,
        false => value.split('#').next().unwrap_or_default(),
    };
    Some((key.trim(), value.trim()))
}

/// Whether a value is a text without its quotes.
pub(super) fn is_word(value: &str) -> bool {
    value.starts_with(|first: char| first.is_alphabetic() || "/$~.".contains(first))
        && !value.contains(['"', '\''])
        && value.parse::<f64>().is_err()
}

/// The line that was probably meant by one that is no TOML.
pub(super) fn meant(key: &str, value: &str) -> Option<Cure> {
    let lower = value.to_lowercase();
    if ["none", "null", "nil", "~"].contains(&lower.as_str()) {
        return Some(Cure::Omit { key: key.into() });
    }
    let mut candidates = vec![value.to_string(), word(&lower).to_string()];
    candidates.extend(decimal(value));
    // Python's tuples, and the quotes of word processors.
    candidates.push(value.replace('(', "[").replace(')', "]"));
    candidates.push(value.replace(['“', '”', '„'], "\""));
    if let (Some('"' | '\''), Some('"' | '\'')) = (value.chars().next(), value.chars().last()) {
        // A Windows path keeps its backslashes in single quotes; a text with an apostrophe needs double ones.
        let text = value.trim_matches(['"', '\'']);
        candidates.extend([format!("'{text}'"), format!("\"{text}\"")]);
    }
    if is_word(value) {
        candidates.push(Value::String(value.to_string()).to_string());
    }
    let is_toml = |value: &String| {
        let table = format!("{key} = {value}").parse::<Table>();
        table.is_ok_and(|table| table.len() == 1)
    };
    let value = candidates.into_iter().find(is_toml)?;
    Some(Cure::Line {
        line: format!("{key} = {value}"),
    })
}

/// TOML's word for other programs' truth values.
pub(super) fn word(lower: &str) -> &str {
    match lower {
        "yes" | "on" => "true",
        "no" | "off" => "false",
        other => other,
    }
}

/// A number with a comma, or without digits on one side of its point.
fn decimal(value: &str) -> Option<String> {
    let is_whole = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match value.split_once(',') {
        // 1,000,000
        Some((_, rest)) if rest.split(',').all(|group| group.len() == 3 && is_whole(group)) => {
            Some(value.replace(',', ""))
        }
        Some((before, after)) if is_whole(before) && is_whole(after) => Some(format!("{before}.{after}")),
        Some(_) => None,
        None if value.contains('.') => value.parse::<f64>().ok().map(|number| format!("{number:?}")),
        None => None,
    }
}
