//! What to write instead: from the shape of the settings and the tree that was read.

use super::place::{self, Miss, Step, get, only, with};
use super::reader::{self, Names, Problem, Shape};
use super::words::{and, no_key, quoted, shown, the};
use super::written::word;
use super::{Cure, Edit, Fault};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Keys by which other programs name a choice.
const NAMING: [&str; 5] = ["name", "type", "kind", "method", "_target_"];

/// A place with a problem.
pub(super) struct Faulty<'t> {
    /// The tree before all edits.
    pub(super) before: &'t Value,
    /// The tree that was read.
    pub(super) root: &'t Value,
    pub(super) parent: &'t [Step],
    pub(super) is_edited: bool,
    pub(super) text: &'t str,
}

impl Faulty<'_> {
    fn path(&self, place: &[Step]) -> String {
        place::path(self.root, place)
    }

    pub(super) fn cure<C: DeserializeOwned>(&self, problem: &Problem, edit: Option<&Edit>) -> Option<Cure> {
        match problem {
            Problem::Unknown { key, known } => edit
                .and_then(|edit| dotted(self.before, edit))
                .or_else(|| self.flat(key, known))
                .or_else(|| self.similar::<C>(key, known))
                .or_else(|| self.header::<C>(known))
                .or_else(|| self.instead::<C>(key, known))
                .or_else(|| self.elsewhere::<C>(key))
                .or_else(|| self.misspelt_elsewhere::<C>(key)),
            Problem::Missing { key } => {
                let place = with(self.parent, key);
                if let (Some(edit), Some(Value::Table(_)), Some(Value::Table(given))) =
                    (edit, get(self.before, self.parent), get(self.root, self.parent))
                    && get(self.before, &place).is_some()
                {
                    let edits = given.iter().map(|(key, value)| Edit {
                        path: self.path(&with(self.parent, key)),
                        text: inline(value),
                    });
                    return (edit.text.starts_with('{') && !given.is_empty()).then(|| Cure::OneByOne {
                        edits: edits.collect(),
                    });
                }
                let shape = probe::<C>(self.root, &place, Value::Table(Table::new()));
                let path = self.path(&place);
                match (shape.choices(&place), shape.keys(&place)) {
                    (Some(_), _) => Some(Cure::Choose { path }),
                    (None, Some(keys)) => Some(Cure::Add {
                        table: path,
                        keys: keys.iter().map(ToString::to_string).collect(),
                    }),
                    (None, None) => None,
                }
            }
            Problem::Choice { names, found } => self.choice::<C>(names, found, edit),
            Problem::Name { names, found } => {
                let name = nearest(found, names)?;
                let path = self.path(self.parent);
                Some(match self.is_read::<C>(Value::String(name.to_string())) {
                    true => Cure::Value {
                        path,
                        name: name.to_string(),
                    },
                    false => Cure::Replace {
                        path,
                        content: example::<C>(self.root, self.parent, name),
                    },
                })
            }
            Problem::Alone { name } => Some(Cure::Replace {
                path: self.path(self.parent),
                content: example::<C>(self.root, self.parent, name),
            }),
            Problem::Type { .. } | Problem::Custom(_) => self.another_type::<C>(),
        }
    }

    /// The value in another form, which is read.
    fn another_type<C: DeserializeOwned>(&self) -> Option<Cure> {
        let value = get(self.root, self.parent)?;
        let parsed = |text: &str| {
            let table = format!("value = {text}").parse::<Table>().ok();
            table.and_then(|mut table| table.remove("value"))
        };
        let mut candidates = match value {
            Value::String(text) => {
                let forms = [
                    text.clone(),
                    word(&text.to_lowercase()).to_string(),
                    format!("[{text}]"),
                ];
                forms.iter().filter_map(|form| parsed(form)).collect()
            }
            Value::Float(number) if number.fract() == 0.0 => {
                parsed(&format!("{number:.0}")).into_iter().collect()
            }
            Value::Integer(_) | Value::Float(_) => vec![Value::String(value.to_string())],
            _ => Vec::new(),
        };
        candidates.push(Value::Array(vec![value.clone()]));
        let content = candidates
            .into_iter()
            .find(|value| self.is_read::<C>(value.clone()))?;
        let path = self.path(self.parent);
        Some(match value {
            // A table where a list of tables belongs.
            Value::Table(_) if !self.is_edited => Cure::Line {
                line: format!("[[{path}]]"),
            },
            _ => Cure::Replace {
                path,
                content: inline(&content),
            },
        })
    }

    /// Whether the place is without a fault once it has this value.
    fn is_read<C: DeserializeOwned>(&self, value: Value) -> bool {
        let mut other = self.root.clone();
        place::replace(&mut other, self.parent, value);
        match reader::read::<C>(&other) {
            Ok(_) => true,
            Err(unread) => !unread.place.unwrap_or_default().starts_with(self.parent),
        }
    }

    /// A key of the same table with a similar name, but no table for a value that is none.
    fn similar<C: DeserializeOwned>(&self, key: &str, known: &[&str]) -> Option<Cure> {
        let place = with(self.parent, nearest(key, known)?);
        let is_table = matches!(
            get(self.root, &with(self.parent, key)),
            Some(Value::Table(_) | Value::Array(_)) | None
        );
        let shape = probe::<C>(self.before, &place, Value::Table(Table::new()));
        let takes_table = shape.keys(&place).is_some_and(|keys| !keys.is_empty());
        (is_table || !takes_table).then(|| Cure::Nearest {
            path: self.path(&place),
        })
    }

    /// The table whose line is missing above the keys that do not belong here.
    fn header<C: DeserializeOwned>(&self, known: &[&str]) -> Option<Cure> {
        if self.is_edited {
            return None;
        }
        let shape = reader::shape::<C>(self.root);
        let strange: Vec<String> = get(self.root, self.parent)?
            .as_table()?
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .cloned()
            .collect();
        let mut absent = shape
            .keys(&[])?
            .iter()
            .filter(|key| self.root.get(**key).is_none());
        absent
            .find_map(|key| home::<C>(self.root, &[Step::key(key)], &strange))
            .map(|table| Cure::Header {
                table: self.path(&table),
                key: strange.first().cloned().unwrap_or_default(),
            })
    }

    /// The table itself, if an unknown table in it has keys of its own.
    fn flat(&self, key: &str, known: &[&str]) -> Option<Cure> {
        let inner = with(self.parent, key);
        let keys = get(self.root, &inner)?.as_table()?;
        let belong = keys.len() > 1 && keys.keys().all(|key| known.contains(&key.as_str()));
        let is_flat = belong && !self.is_edited && !self.parent.is_empty();
        is_flat.then(|| Cure::Flat {
            table: self.path(self.parent),
            inner: self.path(&inner),
        })
    }

    /// The key that the table lacks, if the value of this one fits it and no other table lacks this one.
    fn instead<C: DeserializeOwned>(&self, key: &str, known: &[&str]) -> Option<Cure> {
        let table = get(self.root, self.parent)?.as_table()?;
        let value = table.get(key)?;
        let has = |(key, _): &(&String, &Value)| known.contains(&key.as_str());
        let entries = table.iter().filter(has);
        let mut changed: Table = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        let unread = |table: &Table| {
            let mut other = self.root.clone();
            place::replace(&mut other, self.parent, Value::Table(table.clone()));
            reader::read::<C>(&other).err()
        };
        let before = unread(&changed)?;
        let Problem::Missing { key: lacking } = before.problem else {
            return None;
        };
        if before.place? != self.parent {
            return None;
        }
        changed.insert(lacking.clone(), value.clone());
        let place = with(self.parent, &lacking);
        let fits = match unread(&changed) {
            None => true,
            // It belongs there.
            Some(after) if matches!(&after.problem, Problem::Missing { key: other } if other == key) => false,
            Some(after) => !after.place.unwrap_or_default().starts_with(&place),
        };
        fits.then(|| Cure::Instead {
            path: self.path(&place),
            key: key.to_string(),
        })
    }

    /// The choice that a key such as `name` names.
    fn named<C: DeserializeOwned>(&self, names: Names) -> Option<Cure> {
        let table = get(self.root, self.parent)?.as_table()?;
        let mut keys = NAMING.iter().filter(|key| !names.contains(key));
        let (key, value) = keys.find_map(|key| Some((*key, table.get(*key)?.as_str()?)))?;
        let name = meant_by(value, names)?;
        let path = self.path(self.parent);
        if table.contains_key(name) {
            let key = self.path(&with(self.parent, key));
            return Some(Cure::Omit { key });
        }
        if self.is_edited {
            return Some(Cure::Replace {
                path,
                content: example::<C>(self.root, self.parent, name),
            });
        }
        let (header, table_of_name) = match self.parent.split_last()? {
            (Step::Index(_), list) => {
                let list = self.path(list);
                (format!("[[{list}]]"), format!("{list}.{name}"))
            }
            (Step::Key(_), _) => (format!("[{path}]"), format!("{path}.{name}")),
        };
        if self.text.lines().any(|line| line.trim().starts_with(&header)) {
            return Some(Cure::Named {
                header,
                table: table_of_name,
                key: key.to_string(),
            });
        }
        let mut settings = table.clone();
        settings.remove(key);
        let content = format!("{{ {name} = {} }}", inline(&Value::Table(settings)));
        Some(match self.parent.last()? {
            Step::Key(_) => Cure::Replace { path, content },
            Step::Index(_) => Cure::Line { line: content },
        })
    }

    /// Other tables that have the key; those first in which it is given.
    fn elsewhere<C: DeserializeOwned>(&self, key: &str) -> Option<Cure> {
        const MOST: usize = 3;
        let shape = reader::shape::<C>(self.before);
        let tables = shape.tables_with(key).filter(|table| *table != self.parent);
        let mut places: Vec<Vec<Step>> = tables.map(|table| with(table, key)).collect();
        places.sort_by_key(|place| get(self.before, place).is_none());
        places.truncate(MOST);
        let paths: Vec<String> = places
            .iter()
            .map(|place| place::path(self.before, place))
            .collect();
        (!paths.is_empty()).then_some(Cure::Elsewhere { paths })
    }

    /// Other tables with a key that is nearly spelt so.
    fn misspelt_elsewhere<C: DeserializeOwned>(&self, key: &str) -> Option<Cure> {
        let all = reader::shape::<C>(self.before).all_keys();
        self.elsewhere::<C>(misspelt(key, &all)?)
    }

    /// The choice that has most of the keys, of two at least, and more than any other.
    fn likely<C: DeserializeOwned>(&self, names: Names, keys: &[String]) -> Option<Vec<Step>> {
        let count = |name: &&str| {
            let content = Value::Table(Table::from_iter([(name.to_string(), Value::Table(Table::new()))]));
            let place = with(self.parent, name);
            let known = probe::<C>(self.root, self.parent, content)
                .keys(&place)
                .unwrap_or_default();
            keys.iter().filter(|key| known.contains(&key.as_str())).count()
        };
        let counts: Vec<(usize, &str)> = names.iter().map(|name| (count(name), *name)).collect();
        let most = counts.iter().map(|(count, _)| *count).max()?;
        let best = only(counts.iter().filter(|(count, _)| *count == most))?;
        (2 * most > keys.len() && most > 1).then(|| with(self.parent, best.1))
    }

    fn choice<C: DeserializeOwned>(
        &self,
        names: Names,
        found: &[String],
        edit: Option<&Edit>,
    ) -> Option<Cure> {
        let path = self.path(self.parent);
        let strange: Vec<String> = found
            .iter()
            .filter(|key| !names.contains(&key.as_str()))
            .cloned()
            .collect();
        if let Some(named) = self.named::<C>(names) {
            return Some(named);
        }
        let may_choose = self.is_edited || matches!(self.parent.last(), Some(Step::Key(_)));
        let choose = may_choose.then(|| Cure::Choose { path: path.clone() });
        let Some(first) = strange.first() else {
            // Several that exclude each other: the edited one was meant.
            let meant = edit
                .and_then(|edit| edit.path.rsplit('.').next())
                .unwrap_or_default();
            let settings = get(self.root, &with(self.parent, meant));
            if let ([_, _, ..], None, Some((Step::Index(_), list))) = (found, edit, self.parent.split_last())
            {
                let line = |name: &&String| place::line(self.text, &with(self.parent, name));
                return Some(Cure::Element {
                    list: self.path(list),
                    name: found.iter().max_by_key(line)?.clone(),
                });
            }
            return match (found, settings) {
                ([], _) => choose,
                (_, None) => None,
                (_, Some(settings)) => Some(Cure::Replace {
                    path,
                    content: format!("{{ {meant} = {} }}", inline(settings)),
                }),
            };
        };
        if strange.len() == found.len()
            && let Some(table) =
                home::<C>(self.root, self.parent, &strange).or_else(|| self.likely::<C>(names, &strange))
        {
            return Some(match self.is_edited {
                false => Cure::Header {
                    table: self.path(&table),
                    key: first.clone(),
                },
                true => {
                    let name = table.last().map(|step| match step {
                        Step::Key(name) => name.as_str(),
                        Step::Index(_) => "",
                    });
                    Cure::Replace {
                        path,
                        content: example::<C>(self.root, self.parent, name.unwrap_or_default()),
                    }
                }
            });
        }
        let similar = || {
            let name = nearest(first, names)?;
            Some(match self.is_edited {
                true => Cure::Replace {
                    path: path.clone(),
                    content: example::<C>(self.root, self.parent, name),
                },
                false => Cure::Nearest {
                    path: self.path(&with(self.parent, name)),
                },
            })
        };
        let keys = || {
            let present = found.iter().find(|key| names.contains(&key.as_str()))?;
            let place = with(self.parent, present);
            let keys = reader::shape::<C>(self.root).keys(&place)?;
            let paths = keys.iter().map(|key| self.path(&with(&place, key)));
            (!keys.is_empty()).then(|| Cure::Keys {
                paths: paths.collect(),
            })
        };
        self.header::<C>(names)
            .or_else(|| self.elsewhere::<C>(first))
            .or_else(similar)
            .or_else(keys)
            .or_else(|| self.misspelt_elsewhere::<C>(first))
            .or(choose)
    }
}

/// A path that is written as in other languages: `stages[0].faces`, `training/epochs`.
fn dotted(root: &Value, edit: &Edit) -> Option<Cure> {
    let path = edit.path.replace(['/', '[', ':'], ".");
    let path = path.replace([']', '"', '\''], "");
    let is_there = |path: &str| {
        let place = place::put(&mut root.clone(), path, Value::Integer(0));
        place.is_ok_and(|place| get(root, &place).is_some())
    };
    (path != edit.path && is_there(&path)).then_some(Cure::Nearest { path })
}

/// The fault of an edit whose path leaves the tree.
pub(super) fn missed<C: DeserializeOwned>(root: &Value, edit: &Edit, miss: &Miss) -> Fault {
    let here = place::path(root, &miss.place);
    let key = miss.key.as_str();
    // In sentences: as it was typed.
    let names: Vec<&str> = edit.path.split('.').map(str::trim).collect();
    let known = names.len().saturating_sub(miss.rest.len() + 1);
    let named = names.get(..known).unwrap_or_default().join(".");
    let shape = reader::shape::<C>(root);
    let with_rest = |name: &str| {
        let mut path = place::path(root, &with(&miss.place, name));
        for name in &miss.rest {
            path.push('.');
            path.push_str(name);
        }
        path
    };
    let written = edit
        .value()
        .map_or_else(|_| edit.text.clone(), |value| inline(&value));
    let replaced = |content| Cure::Replace {
        path: here.clone(),
        content,
    };
    let (message, cure) = match (get(root, &miss.place), shape.choices(&miss.place)) {
        _ if key.is_empty() => ("the path has an empty key".to_string(), None),
        (Some(Value::Array(_)), _) if miss.count > 1 => {
            let count = miss.count;
            let message =
                format!("`{key}` is in the list `{named}` {count} times; name one by its position, from 0");
            (message, None)
        }
        (Some(Value::Array(list)), _) => {
            let names: Vec<&str> = list
                .iter()
                .filter_map(Value::as_table)
                .filter(|table| table.len() == 1)
                .filter_map(|table| table.keys().next().map(String::as_str))
                .collect();
            let elements = match names.as_slice() {
                [] => format!("it has {}, counted from 0", list.len()),
                names if key.parse::<i64>().is_ok() => format!("it has {}, counted from 0", quoted(names)),
                names => format!("it has {}", quoted(names)),
            };
            let cure = nearest(key, &names).map(|name| Cure::Nearest {
                path: with_rest(name),
            });
            (
                format!("the list `{named}` has no element `{key}`; {elements}"),
                cure,
            )
        }
        (Some(Value::Table(table)), Some(names)) => {
            let present: Vec<String> = table.keys().cloned().collect();
            let (is, subject) = (and(&present), the(&named));
            match names.contains(&key) {
                true => {
                    let message = format!("{subject} is {is} in the config, not `{key}`");
                    (message, Some(replaced(example::<C>(root, &miss.place, key))))
                }
                false => {
                    let message = format!(
                        "{subject} must be one of {}, got `{key}`; it is {is} in the config",
                        quoted(names)
                    );
                    let cure = match nearest(key, names) {
                        Some(name) if present.iter().any(|present| present == name) => Cure::Nearest {
                            path: with_rest(name),
                        },
                        Some(name) => replaced(example::<C>(root, &miss.place, name)),
                        None => Cure::Choose { path: here.clone() },
                    };
                    (message, Some(cure))
                }
            }
        }
        (Some(Value::Table(table)), None) => {
            let known = shape.keys(&miss.place);
            let place = with(&miss.place, key);
            let full = place::path(root, &place);
            if known.is_some_and(|known| known.contains(&key)) {
                // An optional table, which the config leaves out.
                let cure = Cure::Replace {
                    path: full.clone(),
                    content: tail::<C>(root, &place, &miss.rest, &written),
                };
                (format!("`{full}` is not in the config"), Some(cure))
            } else {
                let keys: Vec<&str> = match known {
                    Some(known) => known.to_vec(),
                    None => table.keys().map(String::as_str).collect(),
                };
                let cure = nearest(key, &keys).map(|name| Cure::Nearest {
                    path: with_rest(name),
                });
                let typed = match named.as_str() {
                    "" => key.to_string(),
                    named => format!("{named}.{key}"),
                };
                (no_key(&named, &typed, key, &keys), cure)
            }
        }
        (Some(value), names) => {
            let cure = names.is_some_and(|names| names.contains(&key)).then(|| {
                let content = tail::<C>(root, &with(&miss.place, key), &miss.rest, &written);
                replaced(format!("{{ {key} = {content} }}"))
            });
            (
                format!("`{named}` is {} in the config and has no keys", shown(value)),
                cure,
            )
        }
        (None, _) => (format!("there is no key `{here}`"), None),
    };
    Fault {
        edit: Some(Box::new(edit.clone())),
        cure: dotted(root, edit).or(cure).map(Box::new),
        ..Fault::new(message)
    }
}

/// The content of a new table: an edit's value under its path, and the table's other keys.
fn tail<C: DeserializeOwned>(root: &Value, place: &[Step], rest: &[String], text: &str) -> String {
    let Some((key, rest)) = rest.split_first() else {
        return text.to_string();
    };
    let shape = probe::<C>(root, place, Value::Table(Table::new()));
    let keys = shape.keys(place).unwrap_or_default();
    let key = nearest(key, keys).unwrap_or(key);
    let value = tail::<C>(root, &with(place, key), rest, text);
    let others = keys.iter().filter(|known| **known != key);
    let entries: Vec<String> = std::iter::once(format!("{key} = {value}"))
        .chain(others.map(|key| format!("{key} = …")))
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

/// A choice with its keys, whose values are open: `{ adamw = { weight_decay = … } }`.
fn example<C: DeserializeOwned>(root: &Value, place: &[Step], name: &str) -> String {
    let empty = Value::Table(Table::new());
    let content = Value::Table(Table::from_iter([(name.to_string(), empty)]));
    let shape = probe::<C>(root, place, content);
    let Some(keys) = shape.keys(&with(place, name)) else {
        return format!("{{ {name} = … }}");
    };
    let keys: Vec<String> = keys.iter().map(|key| format!("{key} = …")).collect();
    match keys.as_slice() {
        [] => format!("{{ {name} = {{}} }}"),
        keys => format!("{{ {name} = {{ {} }} }}", keys.join(", ")),
    }
}

/// The shape of the tree with another value at a place.
fn probe<C: DeserializeOwned>(root: &Value, place: &[Step], value: Value) -> Shape {
    let mut other = root.clone();
    place::replace(&mut other, place, value);
    reader::shape::<C>(&other)
}

/// The table that has all the keys: at a place, or the only choice there that has them.
fn home<C: DeserializeOwned>(root: &Value, place: &[Step], keys: &[String]) -> Option<Vec<Step>> {
    let has_all = |names: Option<Names>| {
        names.is_some_and(|names| keys.iter().all(|key| names.contains(&key.as_str())))
    };
    let empty = || Value::Table(Table::new());
    let shape = probe::<C>(root, place, empty());
    if has_all(shape.keys(place)) {
        return Some(place.to_vec());
    }
    let mut homes = shape.choices(place)?.iter().filter_map(|name| {
        let content = Value::Table(Table::from_iter([((*name).to_string(), empty())]));
        let choice = with(place, name);
        has_all(probe::<C>(root, place, content).keys(&choice)).then_some(choice)
    });
    let home = homes.next()?;
    homes.next().is_none().then_some(home)
}

/// A value in one line of TOML.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".into(),
        Value::Table(table) => {
            let entries: Vec<String> = table
                .iter()
                .map(|(key, value)| format!("{key} = {}", inline(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        value => value.to_string(),
    }
}

/// The name that is nearly spelt so.
fn misspelt<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    const LONG: usize = 5;
    let furthest = if name.len() < LONG { 1 } else { 2 };
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::damerau_levenshtein(&plain(name), &plain(known));
    // `moco_v2` is another thing than `moco_v3`, not a misspelling of it.
    let digits = |name: &str| {
        let mut digits: Vec<char> = name.chars().filter(char::is_ascii_digit).collect();
        digits.sort_unstable();
        digits
    };
    let same = known
        .iter()
        .copied()
        .filter(|known| digits(known) == digits(name));
    let close = same.map(|known| (distance(known), known));
    let (distance, known) = close.min_by_key(|(distance, _)| *distance)?;
    (distance <= furthest).then_some(known)
}

/// The choice that another program's name means: `SGD`, `resnet18`, `RandomResizedCrop`.
fn meant_by<'n>(name: &str, choices: &[&'n str]) -> Option<&'n str> {
    let plain = name.to_lowercase().replace('-', "_");
    let begins = |choice: &&str| plain.starts_with(*choice);
    nearest(name, choices).or_else(|| only(choices.iter().copied().filter(begins)))
}

/// The name that was probably meant: one nearly of this spelling, or the only one that shares a whole word or its start.
fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    const SHORTEST_WORD: usize = 3;
    if let Some(known) = misspelt(name, known) {
        return Some(known);
    }
    let name = name.to_lowercase().replace('-', "_");
    if name.len() < SHORTEST_WORD {
        return None;
    }
    let begins = |long: &str, short: &str| {
        long.strip_prefix(short)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    if let Some(known) = only(known.iter().copied().filter(|known| begins(&name, known))) {
        return Some(known);
    }
    let words = |text: &str| -> Vec<String> { text.split(['_', '-']).map(String::from).collect() };
    let shares = |known: &&str| {
        let of_known = words(known);
        known.starts_with(&name)
            || begins(&name, known)
            || words(&name)
                .iter()
                .any(|word| word.len() >= SHORTEST_WORD && of_known.contains(word))
    };
    only(known.iter().copied().filter(shares))
}
