//! A config and the reasons of its keys in, a TOML text with a comment above each key out.

use super::Config;
use crate::configs::Kind;
use crate::output::wrapped;
use crate::schema;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Width of a comment.
const WIDTH: usize = 118;

/// Entries of a table up to which it is written in one line.
const IN_LINE: usize = 3;

/// The text. `reasons` are by path; other keys get the first sentence of what they say.
pub(super) fn text(
    head: &[String],
    config: &Config,
    reasons: &BTreeMap<String, String>,
) -> anyhow::Result<String> {
    // Through text, where numbers of 32 bits are as short as in the shipped config.
    let declared = toml::to_string(config)?;
    let table: Table = declared.parse()?;
    let order = order(&declared);
    let keys = schema::keys(Kind::Pretraining);
    let sentences = keys
        .into_iter()
        .map(|key| (key.path, first_sentence(&key.description)));
    let mut writer = Writer {
        text: String::new(),
        order,
        reasons,
        sentences: sentences.collect(),
    };
    for line in head {
        writer.comment(line);
    }
    writer.line("");
    writer.entries("", &table);
    Ok(writer.text)
}

/// The paths of keys, without positions in lists, in the order in which the config declares them.
fn order(text: &str) -> Vec<String> {
    let mut order: Vec<String> = vec![];
    let mut table = String::new();
    for line in text.lines() {
        let mut paths = vec![];
        match line.strip_prefix('[') {
            Some(header) => {
                table.clear();
                for name in header.trim_matches(['[', ']']).split('.') {
                    table = join(&table, name);
                    paths.push(table.clone());
                }
            }
            None => paths.push(join(&table, line.split(" =").next().unwrap_or_default())),
        }
        for path in paths {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    order
}

fn join(at: &str, name: &str) -> String {
    match at {
        "" => name.to_string(),
        at => format!("{at}.{name}"),
    }
}

fn first_sentence(text: &str) -> String {
    match text.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => text.to_string(),
    }
}

struct Writer<'r> {
    text: String,
    order: Vec<String>,
    reasons: &'r BTreeMap<String, String>,
    sentences: BTreeMap<String, String>,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        for line in wrapped_as_it_is(text) {
            self.line(&format!("# {line}"));
        }
    }

    /// What a key says, and why it has its value.
    fn about(&mut self, path: &str) {
        let sentence = self.sentences.get(path).cloned().unwrap_or_default();
        // A sentence that only names the table says nothing here.
        if !sentence.is_empty() && !sentence.starts_with("`[") {
            self.comment(&sentence);
        }
        if let Some(reason) = self.reasons.get(path).cloned() {
            self.comment(&format!("Here: {}", reason.trim_end_matches('.')));
        }
    }

    /// The reasons of keys of a table that is written in one line.
    fn about_keys_in(&mut self, path: &str) {
        let prefix = format!("{path}.");
        let of_keys = self
            .reasons
            .iter()
            .filter_map(|(key, reason)| Some((key.strip_prefix(&prefix)?, reason)));
        let lines: Vec<String> = of_keys
            .map(|(key, reason)| format!("Here: `{key}` {reason}"))
            .collect();
        lines.iter().for_each(|line| self.comment(line));
    }

    /// The entries of the table at a path, in the order of the declaration.
    fn sorted<'t>(&self, at: &str, table: &'t Table) -> Vec<(&'t String, &'t Value)> {
        let mut entries: Vec<(&String, &Value)> = table.iter().collect();
        entries.sort_by_key(|(key, _)| {
            let path = join(at, key);
            self.order.iter().position(|known| *known == path)
        });
        entries
    }

    /// The entries of a table: values first, then its tables.
    fn entries(&mut self, at: &str, table: &Table) {
        let entries = self.sorted(at, table);
        let (tables, values): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, value)| is_section(at, value));
        for (key, value) in values {
            let place = join(at, key);
            self.about(&place);
            self.about_keys_in(&place);
            let value = self.inline(&place, value);
            self.line(&format!("{key} = {value}"));
        }
        for (key, value) in tables {
            match value {
                Value::Table(table) => self.section(&join(at, key), table),
                Value::Array(groups) => self.groups(&join(at, key), groups),
                _ => {}
            }
        }
    }

    fn section(&mut self, path: &str, table: &Table) {
        let holds_a_choice = !path.contains('.') && table.len() == 1 && table.values().all(Value::is_table);
        if !holds_a_choice {
            self.line("");
            self.about(path);
            self.line(&format!("[{path}]"));
        }
        match holds_a_choice {
            true => table.iter().for_each(|(name, inner)| {
                if let Value::Table(inner) = inner {
                    self.section(&format!("{path}.{name}"), inner);
                }
            }),
            false => self.entries(path, table),
        }
    }

    /// A list of tables, each under its own header.
    fn groups(&mut self, path: &str, groups: &[Value]) {
        for (at, group) in groups.iter().enumerate() {
            self.line("");
            if at == 0 {
                self.about(path);
            }
            self.line(&format!("[[{path}]]"));
            let Value::Table(group) = group else { continue };
            for (key, value) in self.sorted(path, group) {
                let place = join(path, key);
                match value {
                    Value::Array(elements) if elements.iter().all(Value::is_table) => {
                        self.line(&format!("{key} = ["));
                        for element in elements {
                            let element = self.inline(&place, element);
                            self.line(&format!("  {element},"));
                        }
                        self.line("]");
                    }
                    value => {
                        let value = self.inline(&place, value);
                        self.line(&format!("{key} = {value}"));
                    }
                }
            }
        }
    }

    /// The value at a path, in one line.
    fn inline(&self, at: &str, value: &Value) -> String {
        match value {
            Value::Table(table) if table.is_empty() => "{}".into(),
            Value::Table(table) => {
                let entries = self.sorted(at, table).into_iter();
                let entries: Vec<String> = entries
                    .map(|(key, value)| format!("{key} = {}", self.inline(&join(at, key), value)))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
            Value::Array(values) => {
                let values: Vec<String> = values.iter().map(|value| self.inline(at, value)).collect();
                format!("[{}]", values.join(", "))
            }
            Value::Float(number) if number.abs() < 1e-3 && *number != 0.0 => format!("{number:e}"),
            value => value.to_string(),
        }
    }
}

/// Whether a value has a header of its own.
fn is_section(at: &str, value: &Value) -> bool {
    match value {
        Value::Table(table) => at.is_empty() || table.len() > IN_LINE || at == "data",
        Value::Array(values) => at.is_empty() && values.iter().all(Value::is_table),
        _ => false,
    }
}

/// The lines of a comment; a line that fits keeps its blanks.
fn wrapped_as_it_is(text: &str) -> Vec<String> {
    match text.chars().count() <= WIDTH {
        true => vec![text.to_string()],
        false => wrapped(text, WIDTH),
    }
}
