//! Keys in, the ranges of their numbers out: what the parser's own checks say of values outside of them.
//!
//! So a range is written once, in the check. Each number of a shipped config is replaced by values that are out of most ranges.

use super::keys::{Key, alternatives, choice};
use crate::configs::shipped::of_kind;
use crate::configs::{Kind, fault_of};
use data::settings::Edit;
use serde_json::Value;
use std::collections::BTreeMap;

/// Values that most ranges exclude; of whole numbers, the last only where no other is refused.
const WHOLE: [&str; 3] = ["0", "999999", "-1"];
const NUMBERS: [&str; 4] = ["-1.0", "0.0", "7.0", "nan"];

/// The same keys, with ranges where the checks state them.
pub(crate) fn with_ranges(kind: Kind, mut keys: Vec<Key>) -> Vec<Key> {
    let schema = super::of(kind);
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    for text in of_kind(kind) {
        let Ok(table) = text.parse::<toml::Table>() else {
            continue;
        };
        let mut numbers = vec![];
        list(&schema, &toml::Value::Table(table), "", "", &mut numbers);
        for number in numbers {
            if keys.iter().any(|key| key.path == number.key) && !found.contains_key(&number.key) {
                let range = range(kind, text, &number);
                found.insert(number.key, range);
            }
        }
    }
    for key in &mut keys {
        if let Some(Some(range)) = found.get(&key.path) {
            key.range = Some(range.clone());
        }
    }
    keys
}

/// A number of a config.
struct Number {
    /// The path of its [`Key`].
    key: String,
    /// Its path in the file.
    place: String,
    is_whole: bool,
}

/// Lists the numbers of a value, and the numbers of lists of them by the list.
fn list(schema: &Value, value: &toml::Value, key: &str, place: &str, all: &mut Vec<Number>) {
    let join = |at: &str, name: &str| match at {
        "" => name.to_string(),
        at => format!("{at}.{name}"),
    };
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let named = schema
                    .get("properties")
                    .and_then(|properties| properties.get(name));
                let any = schema.get("additionalProperties").filter(|any| any.is_object());
                let mut chosen = alternatives(schema).iter().filter_map(|one| match choice(one) {
                    Some((choice, settings)) => (choice == name).then_some(settings),
                    None => one.get("properties").and_then(|properties| properties.get(name)),
                });
                let (inner, step) = match (named.or_else(|| chosen.next()), any) {
                    (Some(inner), _) => (inner, name.as_str()),
                    (None, Some(any)) => (any, "NAME"),
                    (None, None) => continue,
                };
                list(inner, value, &join(key, step), &join(place, name), all);
            }
        }
        toml::Value::Array(values) => {
            let Some(items) = schema.get("items") else { return };
            let named = alternatives(items).iter().any(|one| choice(one).is_some());
            for (at, value) in values.iter().enumerate() {
                let key = match (named, value) {
                    (true, _) | (_, toml::Value::Integer(_) | toml::Value::Float(_)) => key.to_string(),
                    (false, _) => join(key, "N"),
                };
                list(items, value, &key, &join(place, &at.to_string()), all);
            }
        }
        toml::Value::Integer(_) | toml::Value::Float(_) => all.push(Number {
            key: key.to_string(),
            place: place.to_string(),
            is_whole: schema.get("type") == Some(&"integer".into()),
        }),
        _ => {}
    }
}

/// What the checks say of values that are no good at a place.
fn range(kind: Kind, text: &str, number: &Number) -> Option<String> {
    let last = number.key.rsplit('.').find(|step| *step != "N")?;
    let candidates: &[&str] = match number.is_whole {
        true => &WHOLE,
        false => &NUMBERS,
    };
    let mut said: Vec<String> = vec![];
    for (at, candidate) in candidates.iter().enumerate() {
        // "a whole number of at least 0" says no more than the type.
        if number.is_whole && at + 1 == candidates.len() && !said.is_empty() {
            break;
        }
        let edit = Edit {
            path: number.place.clone(),
            text: (*candidate).to_string(),
        };
        let message = fault_of(kind, text, &edit);
        let range = message.as_deref().and_then(|message| of_message(message, last));
        said.extend(range.filter(|range| !said.contains(range)));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// The valid range that a message states of the key `last`: behind "must be", without facts of this one config.
fn of_message(message: &str, last: &str) -> Option<String> {
    let (subject, rest) = message.split_once(" must be ")?;
    let named = subject.rsplit('`').nth(1)?;
    let mut steps = named.rsplit('.');
    let is_number = |step: &str| step.bytes().all(|byte| byte.is_ascii_digit());
    if steps.find(|step| !is_number(step))? != last {
        return None;
    }
    let (range, _) = rest.split_once(", got ")?;
    // Values of this config's other keys.
    let range = range.split(" (").next()?;
    let range = range.find("` [").map_or(range, |end| &range[..=end]);
    // The length of this config's run says nothing of others.
    let is_general = !range.contains("run's") && !range.contains(" GiB");
    let range = ["a whole number ", "of ", "finite and "]
        .iter()
        .fold(range, |range, word| range.strip_prefix(word).unwrap_or(range));
    is_general.then(|| range.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_states_the_range() {
        let of = |message: &str| of_message(message, "momentum");
        assert_eq!(
            of("`optimizer.sgd.momentum` must be at least 0 and below 1, got 7").as_deref(),
            Some("at least 0 and below 1")
        );
        assert_eq!(
            of("`a.momentum.1` must be a multiple of `b` (256), got 3").as_deref(),
            Some("a multiple of `b`")
        );
        assert_eq!(
            of("`a.momentum` must be one of `neighbors` [10, 20], got 0").as_deref(),
            Some("one of `neighbors`")
        );
        assert_eq!(of("`a.nesterov` must be above 0, got 7"), None);
        assert_eq!(
            of("`a.momentum` must be at most the run's 10 epochs, got 70"),
            None
        );
    }
}
