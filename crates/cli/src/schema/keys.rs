//! A schema in, the list of its keys out: what each is, its default, and the papers behind it.

use crate::configs::Kind;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// One key of a kind of config file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Key {
    /// The word for its kind of file: `pretrain`.
    pub(crate) kind: &'static str,
    /// Its path as `--set` takes it. N is a position in a list, NAME a name of the user's own.
    pub(crate) path: String,
    /// Its type in words.
    #[serde(rename = "type")]
    pub(crate) of_type: String,
    /// The values that the program accepts, where they are bounded, as its errors say it.
    pub(crate) range: Option<String>,
    /// Whether its table must have it.
    pub(crate) required: bool,
    /// What holds without it.
    pub(crate) default: Option<String>,
    /// What it says.
    pub(crate) description: String,
    /// Names that it may have, with what each says.
    pub(crate) choices: Vec<Choice>,
    /// The papers of the method or network.
    pub(crate) papers: Vec<String>,
}

/// A name that a key may have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) description: String,
}

/// The keys of a kind of config file, table by table, without ranges.
pub(crate) fn keys(kind: Kind) -> Vec<Key> {
    let mut keys = Keys { kind, all: vec![] };
    keys.below(&super::of(kind), "");
    let mut seen = BTreeSet::new();
    // The two forms of a description have keys in common.
    keys.all.retain(|key| seen.insert(key.path.clone()));
    keys.all
}

struct Keys {
    kind: Kind,
    all: Vec<Key>,
}

impl Keys {
    /// The keys below a place with this schema.
    fn below(&mut self, schema: &Value, at: &str) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let required = schema.get("required").and_then(Value::as_array);
            for (name, property) in properties {
                let is_required = required.is_some_and(|names| names.iter().any(|known| known == name));
                self.key(property, &join(at, name), is_required);
            }
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            match alternatives(items).iter().any(|one| choice(one).is_some()) {
                // Elements that are named tables are reached by name.
                true => self.below(items, at),
                false => self.below(items, &join(at, "N")),
            }
        }
        if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            let mut any = any.clone();
            if text(&any).is_empty() {
                any["description"] = text(schema).into();
            }
            self.key(&any, &join(at, "NAME"), false);
        }
        for alternative in alternatives(schema) {
            match choice(alternative) {
                Some((name, settings)) => {
                    let outer = text(alternative);
                    let mut settings = settings.clone();
                    // The longer of the two, where one continues the other.
                    if !outer.is_empty() && !text(&settings).starts_with(outer) {
                        settings["description"] = outer.into();
                    }
                    self.key(&settings, &join(at, name), false);
                }
                None => self.below(alternative, at),
            }
        }
    }

    fn key(&mut self, schema: &Value, path: &str, required: bool) {
        let description = text(schema).to_string();
        let default = match schema.get("default") {
            _ if required => None,
            Some(default) => Some(default.to_string()),
            None => absent(&description),
        };
        self.all.push(Key {
            kind: self.kind.word(),
            path: path.to_string(),
            of_type: of_type(schema),
            range: bounds(schema),
            required,
            default,
            choices: choices(schema),
            papers: papers(self.kind, path),
            description,
        });
        self.below(schema, path);
    }
}

fn join(at: &str, name: &str) -> String {
    match at {
        "" => name.to_string(),
        at => format!("{at}.{name}"),
    }
}

fn text(schema: &Value) -> &str {
    schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The schemas of which a value has one.
pub(super) fn alternatives(schema: &Value) -> &[Value] {
    let of = |key: &str| schema.get(key).and_then(Value::as_array);
    of("oneOf").or(of("anyOf")).map_or(&[], Vec::as_slice)
}

/// Name and settings of an alternative that is a table with one named table or value.
pub(super) fn choice(alternative: &Value) -> Option<(&str, &Value)> {
    let properties = alternative.get("properties")?.as_object()?;
    let required = alternative.get("required")?.as_array()?;
    let mut properties = properties.iter();
    match (properties.next(), properties.next(), required.len()) {
        (Some((name, settings)), None, 1) => Some((name, settings)),
        _ => None,
    }
}

/// The names that a value of this schema may be.
fn names(schema: &Value) -> Vec<(String, String)> {
    let mut all = vec![];
    for name in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        all.extend(name.as_str().map(|name| (name.to_string(), String::new())));
    }
    if let Some(name) = schema.get("const").and_then(Value::as_str) {
        all.push((name.to_string(), text(schema).to_string()));
    }
    for alternative in alternatives(schema) {
        all.extend(names(alternative));
    }
    all
}

fn choices(schema: &Value) -> Vec<Choice> {
    let of_items = schema.get("items").map(names).unwrap_or_default();
    let all = names(schema).into_iter().chain(of_items);
    all.map(|(name, description)| Choice { name, description })
        .collect()
}

/// The type of a value in a reader's words.
fn of_type(schema: &Value) -> String {
    let quoted = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    let words = names(schema);
    let words: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
    let tables: Vec<&str> = alternatives(schema)
        .iter()
        .filter_map(choice)
        .map(|(name, _)| name)
        .collect();
    match (words.as_slice(), tables.as_slice()) {
        ([], []) => {}
        ([], tables) => return format!("one table of {}", quoted(tables)),
        (words, []) => return format!("one of {}", quoted(words)),
        (words, tables) => {
            return format!("one of {}, or one table of {}", quoted(words), quoted(tables));
        }
    }
    let others = alternatives(schema);
    if !others.is_empty() {
        let types: Vec<String> = others.iter().map(of_type).collect();
        return types.join(" or ");
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("integer") => "whole number".into(),
        Some("number") => "number".into(),
        Some("boolean") => "`true` or `false`".into(),
        Some("string") => "text".into(),
        Some("array") => {
            let of = schema.get("items").map(of_type).unwrap_or_default();
            match schema.get("maxItems").and_then(Value::as_u64) {
                Some(count) => format!("list of {count}, each {of}"),
                None => format!("list, each {of}"),
            }
        }
        _ => "table".into(),
    }
}

/// The bounds that the type itself has; a whole number of at least 0 is not worth a word.
fn bounds(schema: &Value) -> Option<String> {
    let most = schema.get("maximum").and_then(Value::as_u64)?;
    let least = schema.get("minimum").and_then(Value::as_i64).unwrap_or(0);
    (most <= u16::MAX.into()).then(|| format!("from {least} to {most}"))
}

/// What a description says of a file without the key: behind `absent:`, to the end of the sentence.
fn absent(description: &str) -> Option<String> {
    let start = ["Absent: ", "absent: ", "Absent, ", "absent, "]
        .iter()
        .find_map(|word| description.find(word).map(|at| at + word.len()))?;
    let rest = &description[start..];
    let ends = |(at, letter): &(usize, char)| {
        let behind = rest[at + 1..].chars().next();
        matches!(letter, '.' | ';') && behind.is_none_or(char::is_whitespace)
    };
    let end = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
    Some(rest[..end].to_string())
}

/// The papers of the method or network whose table a path is in.
fn papers(kind: Kind, path: &str) -> Vec<String> {
    let mut steps = path.split('.');
    let papers: &[backbones::Paper] = match (kind, steps.next(), steps.next()) {
        (Kind::Pretraining, Some("objective"), Some(method)) => objectives::papers(method),
        (_, Some("backbone"), Some("resnet")) => &[backbones::papers::RESNET],
        (_, Some("backbone"), Some("vit")) if path.ends_with("registers") => &[backbones::papers::REGISTERS],
        (_, Some("backbone"), Some("vit")) => &[backbones::papers::VIT],
        _ => &[],
    };
    papers
        .iter()
        .map(|paper| format!("arXiv:{} ({})", paper.arxiv, paper.year))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_without_a_key_is_read_from_its_sentence() {
        let absent = |text: &str| absent(text).unwrap_or_default();
        assert_eq!(absent("Epochs. Absent: 0."), "0");
        assert_eq!(
            absent("`\"bf16\"`, or `\"f16\"`; absent: f32. Weights are f32."),
            "f32"
        );
        assert_eq!(
            absent("Epsilon; absent: 1e-6, as in the papers' code. More."),
            "1e-6, as in the papers' code"
        );
        assert_eq!(absent("absent: 0.5; else"), "0.5");
        assert_eq!(absent("Nothing."), "");
    }
}
