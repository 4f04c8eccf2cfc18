//! Places in a TOML tree: as the user types them (`stages.faces.score`), as steps, and as lines of the text.

use toml::Value;
use toml::de::{DeTable, DeValue};

/// One step from a table or list to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    pub(super) fn key(name: &str) -> Step {
        Step::Key(name.to_string())
    }
}

/// Where a path leaves the tree.
#[derive(Debug)]
pub(super) struct Miss {
    /// The last table, list or value on the path that exists.
    pub(super) place: Vec<Step>,
    /// The name that is not in it.
    pub(super) key: String,
    /// The names after it.
    pub(super) rest: Vec<String>,
    /// How many elements of a list have the name.
    pub(super) count: usize,
}

/// The steps followed by one more key.
pub(super) fn with(place: &[Step], key: &str) -> Vec<Step> {
    let mut longer = place.to_vec();
    longer.push(Step::key(key));
    longer
}

/// What is at a place.
pub(super) fn get<'a>(root: &'a Value, place: &[Step]) -> Option<&'a Value> {
    place.iter().try_fold(root, |node, step| match step {
        Step::Key(key) => node.get(key.as_str()),
        Step::Index(index) => node.as_array()?.get(*index),
    })
}

/// Puts a value at a place whose parent exists; returns whether it does.
pub(super) fn replace(root: &mut Value, place: &[Step], value: Value) -> bool {
    let Some((last, parent)) = place.split_last() else {
        return false;
    };
    let mut node = root;
    for step in parent {
        let next = match step {
            Step::Key(key) => node.get_mut(key.as_str()),
            Step::Index(index) => node.as_array_mut().and_then(|list| list.get_mut(*index)),
        };
        match next {
            Some(next) => node = next,
            None => return false,
        }
    }
    match (node, last) {
        (Value::Table(table), Step::Key(key)) => {
            table.insert(key.clone(), value);
            true
        }
        (Value::Array(list), Step::Index(index)) => match list.get_mut(*index) {
            Some(element) => {
                *element = value;
                true
            }
            None => false,
        },
        _ => false,
    }
}

/// The path of a place as it is typed: an element of a list has its number, or no step of its own where it is the
/// only one that has the next key.
pub(super) fn path(root: &Value, place: &[Step]) -> String {
    let mut words = Vec::new();
    let mut node = Some(root);
    for (at, step) in place.iter().enumerate() {
        match step {
            Step::Key(key) => {
                words.push(key.clone());
                node = node.and_then(|node| node.get(key.as_str()));
            }
            Step::Index(index) => {
                let list = node.and_then(Value::as_array);
                node = list.and_then(|list| list.get(*index));
                let is_named = match (list, node, place.get(at + 1)) {
                    (Some(list), Some(element), Some(Step::Key(key))) => {
                        named(list, key) == 1 && element.get(key.as_str()).is_some()
                    }
                    _ => false,
                };
                if !is_named {
                    words.push(index.to_string());
                }
            }
        }
    }
    words.join(".")
}

/// The path of a place as it stands in a typed path that leads to `edited`: the part of it that leads there, or the whole
/// of it and what follows. `None` where no part of it names the place.
pub(super) fn typed(root: &Value, place: &[Step], edited: &[Step], path: &str) -> Option<String> {
    let names: Vec<&str> = path.split('.').map(str::trim).collect();
    if let Some(rest) = place.strip_prefix(edited) {
        let inside = get(root, edited).map(|value| self::path(value, rest));
        let rest = inside.filter(|inside| !inside.is_empty());
        return Some(
            names
                .into_iter()
                .map(str::to_owned)
                .chain(rest)
                .collect::<Vec<_>>()
                .join("."),
        );
    }
    let mut at = 0;
    for (count, name) in names.iter().enumerate() {
        if at == place.len() && count > 0 && edited.starts_with(place) {
            return Some(names[..count].join("."));
        }
        // The name of an element of a list stands for its position too.
        at += match (edited.get(at)?, edited.get(at + 1)) {
            (Step::Index(index), Some(Step::Key(key))) if key == name && index.to_string() != *name => 2,
            _ => 1,
        };
    }
    None
}

/// Puts a value at a typed path, and returns its place. In lists, a number is a position, and a name is the table
/// of the one element that has it. All tables on the way must exist.
pub(super) fn put(root: &mut Value, path: &str, value: Value) -> Result<Vec<Step>, Miss> {
    let mut place = Vec::new();
    let names: Vec<&str> = path.split('.').map(str::trim).collect();
    for (at, name) in names.iter().enumerate() {
        let is_last = at + 1 == names.len();
        let miss = |place: &[Step], count| Miss {
            place: place.to_vec(),
            key: (*name).to_string(),
            rest: names.iter().skip(at + 1).map(ToString::to_string).collect(),
            count,
        };
        match get(root, &place) {
            Some(Value::Table(table)) if is_last || table.contains_key(*name) => {
                place.push(Step::key(name));
            }
            Some(Value::Array(list)) => match named(list, name) {
                0 => match name.parse::<usize>() {
                    Ok(index) if index < list.len() => place.push(Step::Index(index)),
                    _ => return Err(miss(&place, 0)),
                },
                1 => {
                    let index = list.iter().position(|element| element.get(name).is_some());
                    place.extend(index.map(Step::Index));
                    place.push(Step::key(name));
                }
                count => return Err(miss(&place, count)),
            },
            _ => return Err(miss(&place, 0)),
        }
    }
    replace(root, &place, value);
    Ok(place)
}

/// The place that a sentence names: a path from the root, or the end of one path alone, with or without the positions in
/// lists. Keys at its end that are not in the tree are taken as they are.
pub(super) fn find(root: &Value, typed: &str) -> Option<Vec<Step>> {
    let names: Vec<&str> = typed.split('.').collect();
    let mut all = Vec::new();
    places(root, &mut Vec::new(), &mut all);
    (1..=names.len()).rev().find_map(|known| {
        let (known, absent) = names.split_at(known);
        let ends = |place: &&Vec<Step>| end(place, known).is_some();
        let whole = |place: &&Vec<Step>| end(place, known) == Some(0);
        let found = only(all.iter().filter(whole)).or_else(|| only(all.iter().filter(ends)))?;
        Some(absent.iter().fold(found.clone(), |place, key| with(&place, key)))
    })
}

/// All places below a value.
fn places(value: &Value, at: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
    let mut below = |step, value| {
        at.push(step);
        all.push(at.clone());
        places(value, at, all);
        at.pop();
    };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| below(Step::key(key), value)),
        Value::Array(list) => {
            let elements = list.iter().enumerate();
            elements.for_each(|(index, value)| below(Step::Index(index), value));
        }
        _ => {}
    }
}

/// How many keys of a place come before the names that it ends with; `None` where it does not.
fn end(place: &[Step], names: &[&str]) -> Option<usize> {
    let mut names = names.iter().rev().peekable();
    let mut before = 0;
    for (at, step) in place.iter().rev().enumerate() {
        match (step, names.peek()) {
            (Step::Key(_), None) => before += 1,
            (Step::Key(key), Some(name)) if key == *name => {
                names.next();
            }
            (Step::Index(index), Some(name)) if index.to_string() == **name => {
                names.next();
            }
            // A position may be left out, but for that of the place itself.
            (Step::Index(_), _) if at > 0 => {}
            _ => return None,
        }
    }
    names.peek().is_none().then_some(before)
}

/// The item of an iterator that has one.
pub(super) fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// How many elements of a list are tables with this key.
fn named(list: &[Value], key: &str) -> usize {
    list.iter().filter(|element| element.get(key).is_some()).count()
}

/// The line, from 1, of a place in the text; without the whole place, that of the last step that is there.
pub(super) fn line(text: &str, place: &[Step]) -> Option<usize> {
    let root = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let mut node = &root;
    let mut offset = None;
    for step in place {
        let next = match step {
            Step::Key(key) => node.as_table().and_then(|table| {
                let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key.as_str())?;
                Some((name.span().start, value))
            }),
            Step::Index(index) => node.as_array().and_then(|list| {
                let element = list.get(*index)?;
                Some((element.span().start, element))
            }),
        };
        let Some((start, value)) = next else { break };
        offset = Some(start);
        node = value.get_ref();
    }
    Some(line_at(text, offset?))
}

/// The line, from 1, of a byte of the text.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
