//! Faults in words: names of types as a reader of a config knows them, lists of names, values as they are written.

use std::fmt;
use toml::Value;

/// serde's name of a type in a reader's words.
pub(super) fn plain(expected: &str) -> String {
    let length = |prefix: &str| {
        expected
            .strip_prefix(prefix)
            .and_then(|rest| rest.split(' ').next())
    };
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize" => {
            "a whole number".into()
        }
        "f32" | "f64" => "a number".into(),
        "a boolean" => "`true` or `false`".into(),
        "a string" | "a borrowed string" | "path string" => "a text in quotes".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        _ if expected.starts_with("struct ") => "a table".into(),
        _ if expected.starts_with("a nonzero ") => "a whole number of at least 1".into(),
        _ => match length("an array of length ").or(length("a tuple of size ")) {
            Some(length) => format!("a list of {length}"),
            None => expected.to_string(),
        },
    }
}

/// The numbers that a type holds.
pub(super) fn in_range(expected: &str) -> String {
    match expected {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number of at least 0".into(),
        "i8" => format!("a whole number from {} to {}", i8::MIN, i8::MAX),
        "i16" => format!("a whole number from {} to {}", i16::MIN, i16::MAX),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        _ => plain(expected),
    }
}

/// A value in a message: short ones as they are written.
pub(super) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Table(table) if table.is_empty() => "an empty table".into(),
        Value::Table(table) => {
            let keys: Vec<String> = table.keys().map(|key| format!("`{key}`")).collect();
            format!("a table with {}", keys.join(", "))
        }
        Value::Datetime(date) => format!("the date {date}"),
        Value::String(text) if text.chars().count() > LONGEST => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("a text that begins {}", Value::String(start))
        }
        _ => value.to_string(),
    }
}

/// Names in backquotes: `a`, `b`, `c`.
pub(super) fn quoted<N: fmt::Display>(names: impl IntoIterator<Item = N>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A table without a key of this name.
pub(super) fn no_key(parent: &str, full: &str, key: &str, known: &[&str]) -> String {
    let known = match known {
        [] => "it has none".into(),
        known => format!("keys are {}", quoted(known)),
    };
    match parent {
        "" => format!("there is no key `{key}`; {known}"),
        parent => format!("there is no key `{full}`: `{parent}` has no `{key}`; {known}"),
    }
}

/// A path as the subject of a sentence.
pub(super) fn the(path: &str) -> String {
    match path {
        "" => "the file".into(),
        path => format!("`{path}`"),
    }
}

/// `a`, `b` and `c`.
pub(super) fn and(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("{} and `{last}`", quoted(first)),
    }
}
