//! The wording of cures for faults in settings, with the flag `--set` or the lines of a file.

use crate::output::shell_word;
use data::settings::{Cure, Edit, Fault};

/// The cure of a fault, as it is printed after `hint:`.
pub(crate) fn of_settings(fault: &Fault) -> Option<String> {
    let edit = fault.edit();
    Some(match fault.cure()? {
        Cure::Nearest { path } => match fault.edit_of_key() {
            Some(edit) => format!("write `{}`", set(path, &edit.text)),
            None => format!("the nearest key is `{path}`"),
        },
        Cure::Elsewhere { paths } => match fault.edit_of_key() {
            Some(edit) => format!("write {}", or(paths.iter().map(|path| set(path, &edit.text)))),
            None => match paths.as_slice() {
                [root] if !root.contains('.') => {
                    format!("`{root}` is a key of the whole file: write it above the first line with `[`")
                }
                paths => format!("did you mean {}?", or(paths)),
            },
        },
        Cure::Flat { table, inner } => format!("write the line `[{table}]` in place of `[{inner}]`"),
        Cure::Instead { path, key } => match path.rsplit('.').next() {
            Some(name) => format!("`{path}` is missing: write `{name}` in place of `{key}`"),
            None => format!("`{path}` is missing"),
        },
        Cure::Named { header, table, key } => match header.starts_with("[[") {
            true => format!("write the line `[{table}]` below `{header}`, and leave out `{key}`"),
            false => format!("write the line `[{table}]` in place of `{header}`, and leave out `{key}`"),
        },
        Cure::Header { table, key } => format!("write the line `[{table}]` above `{key}`"),
        Cure::Replace { path, content } => {
            let open = match content.contains('…') {
                true => ", with values for `…`; keys with a default may be left out",
                false => "",
            };
            match edit {
                Some(_) if open.is_empty() => format!("write `{}`", set(path, content)),
                Some(_) => format!("set it as a whole: `{}`{open}", set(path, content)),
                None => format!("write `{path} = {content}`{open}"),
            }
        }
        // The sentence names no choice, and the choices may be words or tables.
        Cure::Choose { path } if fault.to_string().ends_with("` is missing") => format!(
            "give it too: `passer config keys {}` lists what it may be",
            path.rsplit('.').next().unwrap_or(path)
        ),
        Cure::Choose { path } => match edit {
            Some(_) => format!(
                "set it as a whole, as in `{}`, with one of the names and its keys",
                set(path, "{ NAME = { … } }")
            ),
            None => format!("write the line `[{path}.NAME]` with one of the names, and its keys under it"),
        },
        Cure::Value { path, name } => match edit {
            Some(edit) if edit.path == *path => format!("write `{}`", set(path, name)),
            _ => format!("the nearest name is `{name}`"),
        },
        Cure::Element { list, name } => {
            format!("write the line `[[{list}]]` above `{name}`, which is an element of its own")
        }
        Cure::Keys { paths } => format!("keys that the config has there: {}", or(paths)),
        Cure::OneByOne { edits } => {
            let edits: Vec<String> = edits.iter().map(|edit| set(&edit.path, &edit.text)).collect();
            format!(
                "the table would be replaced as a whole; to change its keys alone, write `{}`",
                edits.join(" ")
            )
        }
        Cure::Line { line } => format!("write `{line}`"),
        Cure::Omit { key } => format!("leave out `{key}`"),
        Cure::Add { table, keys } => {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            format!("add the table `[{table}]`; its keys are {}", keys.join(", "))
        }
    })
}

/// A fault as an error's line: an edit's with the edit.
pub(crate) fn message(fault: &Fault) -> String {
    match fault.edit() {
        Some(Edit { path, text }) => format!("`--set {path}={text}`: {fault}"),
        None => fault.to_string(),
    }
}

/// The flag for an edit, quoted for a shell.
fn set(path: &str, value: &str) -> String {
    format!("--set {}", shell_word(&format!("{path}={value}")))
}

/// `a` or `b`.
fn or<T: std::fmt::Display>(choices: impl IntoIterator<Item = T>) -> String {
    let choices: Vec<String> = choices.into_iter().map(|choice| format!("`{choice}`")).collect();
    choices.join(" or ")
}

#[cfg(test)]
mod tests;
