//! TOML texts and edits in, typed settings out: a fault names the key as it is typed, its line and its cure.
//!
//! All configs and data-set descriptions pass through [`read()`].

mod cures;
mod place;
mod reader;
mod words;
mod written;

use cures::{Faulty, missed};
use place::{Step, with};
use reader::{Problem, Unread};
use serde::de::DeserializeOwned;
use std::fmt;
use toml::{Table, Value};
use words::{and, no_key, quoted, the};

/// A change of one key, made before the settings are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The key with the tables around it: `training.epochs`. In lists, a number is a position, and a name is the
    /// table of the one element that has it: `stages.faces.score`.
    pub path: String,
    /// The value in the user's spelling.
    pub text: String,
}

impl Edit {
    /// The value: text that is not TOML is a string, so `small` needs no quotes.
    ///
    /// # Errors
    /// What is wrong with a text that begins as a list, a table, a quoted text or a number, and is none.
    fn value(&self) -> Result<Value, String> {
        let parsed = format!("value = {}", self.text).parse::<Table>();
        let reason = match parsed {
            Ok(mut table) if table.len() == 1 => return table.remove("value").ok_or_else(String::new),
            Ok(_) => "more than one value".into(),
            Err(error) => error.message().to_string(),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        match self.text.chars().next() {
            Some('[' | '{' | '"' | '\'') => Err(reason),
            Some(_) if is_number(self.text.trim_start_matches(['+', '-'])) => Err(too_large()),
            _ => Ok(Value::String(self.text.clone())),
        }
    }
}

fn too_large() -> String {
    format!("whole numbers are at most {}", i64::MAX)
}

/// Settings that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One sentence, with the full path of the key.
    message: String,
    /// The line of the text, from 1, if the fault is in the text.
    line: Option<usize>,
    edit: Option<Box<Edit>>,
    /// Whether the edit is of the faulty key itself, not of a table around it.
    is_of_key: bool,
    cure: Option<Box<Cure>>,
}

impl Fault {
    fn new(message: String) -> Self {
        Self {
            message,
            line: None,
            edit: None,
            is_of_key: true,
            cure: None,
        }
    }

    /// The edit that made the fault; `None` if the text has it.
    pub fn edit(&self) -> Option<&Edit> {
        self.edit.as_deref()
    }

    /// The edit, if it is of the faulty key itself and not of a table around it.
    pub fn edit_of_key(&self) -> Option<&Edit> {
        self.edit.as_deref().filter(|_| self.is_of_key)
    }

    /// What to write instead, where it is known.
    pub fn cure(&self) -> Option<&Cure> {
        self.cure.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

/// What to write instead. Paths are as an [`Edit`] takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cure {
    /// The key that was probably meant.
    Nearest {
        /// Its path.
        path: String,
    },
    /// The keys of a table belong into the table around it.
    Flat {
        /// The path of the table around it.
        table: String,
        /// The path of the table that there is none.
        inner: String,
    },
    /// The table lacks a key whose value this key has.
    Instead {
        /// The path of the key that the table lacks.
        path: String,
        /// The key that has its value.
        key: String,
    },
    /// The key belongs to other tables.
    Elsewhere {
        /// Its paths there, three at most.
        paths: Vec<String>,
    },
    /// The line of a table is missing above keys of that table.
    Header {
        /// The table's path.
        table: String,
        /// Its first key.
        key: String,
    },
    /// A key of a table names a choice that must be the table's own name.
    Named {
        /// The line that the table begins with: `[objective]`, or `[[stages]]` of a list.
        header: String,
        /// The path of the choice's table: `objective.moco`.
        table: String,
        /// The key that names the choice.
        key: String,
    },
    /// A value must be replaced as a whole.
    Replace {
        /// Its path.
        path: String,
        /// The new value in TOML; `…` stands for values that the user has to choose.
        content: String,
    },
    /// One name of several must be written as a table.
    Choose {
        /// The path of the table around it.
        path: String,
    },
    /// The value that was probably meant.
    Value {
        /// The key's path.
        path: String,
        /// The value.
        name: String,
    },
    /// The line that begins a further element of a list is missing.
    Element {
        /// The list's path.
        list: String,
        /// The name of the further element.
        name: String,
    },
    /// The keys of the choice that the config has.
    Keys {
        /// Their paths.
        paths: Vec<String>,
    },
    /// An edit replaces a whole table; each of its keys can be changed alone.
    OneByOne {
        /// Edits of the keys.
        edits: Vec<Edit>,
    },
    /// A line is no TOML.
    Line {
        /// The line as it should be.
        line: String,
    },
    /// A key without a value must be left out.
    Omit {
        /// The key.
        key: String,
    },
    /// A table is missing.
    Add {
        /// Its path.
        table: String,
        /// Its keys.
        keys: Vec<String>,
    },
}

/// Reads settings. `complete` may fill in keys that an earlier version of a file lacks, before the edits. `check`
/// refuses values that exclude each other or that no run can use, with a sentence that names the key first, in
/// backquotes.
///
/// # Errors
/// The first fault of the text, of an edit, or of the settings that they make.
pub fn read<C: DeserializeOwned>(
    text: &str,
    edits: &[Edit],
    complete: impl FnOnce(&mut Table),
    check: impl FnOnce(&C) -> Result<(), String>,
) -> Result<C, Fault> {
    let mut table: Table = text.parse().map_err(|error| not_toml(text, &error))?;
    complete(&mut table);
    let before = Value::Table(table);
    let mut root = before.clone();
    let mut touched = Vec::new();
    for edit in edits {
        let value = edit.value().map_err(|reason| Fault {
            edit: Some(Box::new(edit.clone())),
            ..Fault::new(format!("the value of `{}` is not TOML: {reason}", edit.path))
        })?;
        match place::put(&mut root, &edit.path, value) {
            Ok(place) => touched.push((place, edit)),
            Err(miss) => return Err(missed::<C>(&root, edit, &miss)),
        }
    }
    let settings =
        reader::read(&root).map_err(|unread| fault::<C>(text, &before, &root, &touched, unread))?;
    match check(&settings) {
        Ok(()) => Ok(settings),
        Err(reason) => Err(refused(text, &root, &touched, reason)),
    }
}

/// The fault of settings that a check refuses.
fn refused(text: &str, root: &Value, touched: &[(Vec<Step>, &Edit)], reason: String) -> Fault {
    let named = reason.split('`').nth(1).unwrap_or_default();
    let Some(place) = place::find(root, named) else {
        return Fault::new(reason);
    };
    let edit = edit_of(touched, |edited| {
        place.starts_with(edited) || edited.starts_with(&place)
    });
    Fault {
        line: match edit {
            None => place::line(text, &place),
            Some(_) => None,
        },
        edit: edit.map(|(_, edit)| Box::new(edit.clone())),
        ..Fault::new(reason.replacen(&format!("`{named}`"), &the(&path_of(root, &place, edit)), 1))
    }
}

/// A place in a sentence about an edit: as the edit names it, so that the user finds what was typed.
fn path_of(root: &Value, place: &[Step], edit: Option<(&[Step], &Edit)>) -> String {
    edit.and_then(|(edited, edit)| place::typed(root, place, edited, &edit.path))
        .unwrap_or_else(|| place::path(root, place))
}

/// The last edit at one of these places.
fn edit_of<'e>(
    touched: &'e [(Vec<Step>, &Edit)],
    is_there: impl Fn(&[Step]) -> bool,
) -> Option<(&'e [Step], &'e Edit)> {
    let mut edits = touched.iter().rev();
    let edit = edits.find(|(place, _)| is_there(place));
    edit.map(|(place, edit)| (place.as_slice(), *edit))
}

/// A text that is not TOML.
fn not_toml(text: &str, error: &toml::de::Error) -> Fault {
    let line = error.span().map(|span| place::line_at(text, span.start));
    let content = line
        .and_then(|line| text.lines().nth(line - 1))
        .unwrap_or_default();
    let reason = error.message();
    let (message, cure) = match written::key_and_value(content) {
        None => (format!("`{}` is not TOML: {reason}", content.trim()), None),
        Some((key, "")) => (format!("`{key}` has no value"), None),
        Some((key, value)) => {
            let message = if written::is_word(value) {
                format!(
                    "`{key}` must be a number, `true`, `false`, a text in quotes, a list or a table, got {value}"
                )
            } else if value.bytes().all(|byte| byte.is_ascii_digit()) && reason.contains("too large") {
                format!("`{key}` is not TOML: {}, got {value}", too_large())
            } else {
                format!("`{key}` is not TOML: {reason}, got {value}")
            };
            let is_twice = reason.contains("duplicate");
            (message, written::meant(key, value).filter(|_| !is_twice))
        }
    };
    Fault {
        line,
        cure: cure.map(Box::new),
        ..Fault::new(message)
    }
}

/// The fault of a tree that is no `C`.
fn fault<C: DeserializeOwned>(
    text: &str,
    before: &Value,
    root: &Value,
    touched: &[(Vec<Step>, &Edit)],
    unread: Unread,
) -> Fault {
    let Unread { place, problem } = unread;
    let parent = place.unwrap_or_default();
    let full = match &problem {
        Problem::Unknown { key, .. } | Problem::Missing { key } => with(&parent, key),
        _ => parent.clone(),
    };
    let is_choice = matches!(problem, Problem::Choice { .. });
    let is_of_key = |edited: &[Step]| {
        edited == full || is_choice && edited.len() == full.len() + 1 && edited.starts_with(&full)
    };
    let edit = edit_of(touched, |edited| full.starts_with(edited) || is_of_key(edited));
    let is_of_key = touched
        .iter()
        .any(|(edited, by)| is_of_key(edited) && Some(*by) == edit.map(|(_, edit)| edit));
    let at = Faulty {
        before,
        root,
        parent: &parent,
        is_edited: edit.is_some(),
        text,
    };
    Fault {
        message: sentence(
            &path_of(root, &parent, edit),
            &path_of(root, &full, edit),
            &problem,
        ),
        line: match edit {
            None => place::line(text, &full),
            Some(_) => None,
        },
        cure: at.cure::<C>(&problem, edit.map(|(_, edit)| edit)).map(Box::new),
        edit: edit.map(|(_, edit)| Box::new(edit.clone())),
        is_of_key,
    }
}

/// The sentence of a problem: `parent` is the path of the table or value, `full` that of the key in it.
fn sentence(parent: &str, full: &str, problem: &Problem) -> String {
    match problem {
        Problem::Type { expected, found } => match full {
            "" => format!("the file must be {expected}, got {found}"),
            _ => format!("`{full}` must be {expected}, got {found}"),
        },
        Problem::Unknown { key, known } => no_key(parent, full, key, known),
        Problem::Missing { .. } => format!("`{full}` is missing"),
        Problem::Choice { names, found } => {
            let found = match found.as_slice() {
                [] => "none".into(),
                found => and(found),
            };
            format!(
                "{} must have exactly one of {}, got {found}",
                the(full),
                quoted(*names)
            )
        }
        Problem::Name { names, found } => {
            let found = Value::String(found.clone());
            format!("{} must be one of {}, got {found}", the(full), quoted(*names))
        }
        Problem::Alone { name } => {
            format!(
                "{} must be a table: the name `{name}` alone is not enough, because it has settings",
                the(full)
            )
        }
        Problem::Custom(message) if message.starts_with("must ") => format!("{} {message}", the(full)),
        Problem::Custom(message) => match full {
            "" => message.clone(),
            _ => format!("`{full}`: {message}"),
        },
    }
}

#[cfg(test)]
mod tests;
