//! A kind of config file in, its JSON Schema with the ranges of numbers out: those that [`super::ranges`] reads from the program's
//! checks, as the schema's own words.

use super::keys::{alternatives, choice, keys};
use super::ranges::with_ranges;
use crate::configs::Kind;
use serde_json::{Map, Number, Value, json};

/// The schema of a kind of config file, with ranges.
pub(crate) fn bounded(kind: Kind) -> Value {
    let mut schema = super::of(kind);
    for key in with_ranges(kind, keys(kind)) {
        let rules = key.range.as_deref().map(rules).unwrap_or_default();
        if !rules.is_empty() {
            let steps: Vec<&str> = key.path.split('.').collect();
            at(&mut schema, &steps, &rules);
        }
    }
    schema
}

/// A range in the words of the checks as the rules of a schema: `above 0 and at most 1`. Conditions on other keys give none.
fn rules(range: &str) -> Map<String, Value> {
    let mut rules = Map::new();
    for part in range.split("; ") {
        if let Some(values) = listed(part) {
            rules.insert("enum".into(), values.into());
            continue;
        }
        let between = ["from ", "in ", "two numbers that rise within "]
            .iter()
            .find_map(|word| part.strip_prefix(word))
            .unwrap_or(part);
        let ends = between.split_once(" to ").or_else(|| between.split_once(".."));
        if let Some((Some(least), Some(most))) = ends.map(|(least, most)| (number(least), number(most))) {
            rules.insert("minimum".into(), least.into());
            rules.insert("maximum".into(), most.into());
            continue;
        }
        for bound in part.split(" and ") {
            let words = [
                ("at least ", "minimum"),
                ("above ", "exclusiveMinimum"),
                ("at most ", "maximum"),
                ("below ", "exclusiveMaximum"),
            ];
            let stated = words
                .iter()
                .find_map(|(word, rule)| Some((*rule, number(bound.strip_prefix(word)?)?)))
                .or_else(|| Some(("minimum", number(bound.strip_suffix(" or above")?)?)));
            if let Some((rule, value)) = stated {
                rules.insert(rule.into(), value.into());
            }
        }
    }
    rules
}

/// `18, 34, 50 or 101`.
fn listed(range: &str) -> Option<Vec<Value>> {
    let (first, last) = range.split_once(" or ")?;
    let all = first.split(", ").chain([last]);
    all.map(|word| number(word).map(Value::Number)).collect()
}

/// A number without anything behind it.
fn number(word: &str) -> Option<Number> {
    match word.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        Err(_) => word.parse::<f64>().ok().and_then(Number::from_f64),
    }
}

/// Adds rules to the number at a key's path, and to the numbers of a list there, wherever the path leads.
fn at(schema: &mut Value, steps: &[&str], rules: &Map<String, Value>) {
    let Some((step, rest)) = steps.split_first() else {
        return add(schema, rules);
    };
    if let Some(property) = schema.get_mut("properties").and_then(|all| all.get_mut(step)) {
        at(property, rest, rules);
    }
    if *step == "NAME"
        && let Some(any) = schema
            .get_mut("additionalProperties")
            .filter(|any| any.is_object())
    {
        at(any, rest, rules);
    }
    if let Some(items) = schema.get_mut("items").filter(|items| items.is_object()) {
        match alternatives(items).iter().any(|one| choice(one).is_some()) {
            true => at(items, steps, rules),
            false if *step == "N" => at(items, rest, rules),
            false => {}
        }
    }
    for choices in ["oneOf", "anyOf"] {
        if let Some(Value::Array(alternatives)) = schema.get_mut(choices) {
            alternatives.iter_mut().for_each(|one| at(one, steps, rules));
        }
    }
}

/// Adds rules to a number's schema, or to the numbers of a list. A bound of the type stays where it is the narrower one.
fn add(schema: &mut Value, rules: &Map<String, Value>) {
    if let Some(items) = schema.get_mut("items") {
        return add(items, rules);
    }
    let is_number = ["integer", "number"]
        .iter()
        .any(|name| schema.get("type") == Some(&json!(name)));
    let Some(schema) = schema.as_object_mut().filter(|_| is_number) else {
        return;
    };
    for (rule, value) in rules {
        let of = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let is_narrower = |known: &Value| match rule.as_str() {
            "minimum" | "exclusiveMinimum" => of(known) > of(value),
            "maximum" | "exclusiveMaximum" => of(known) < of(value),
            _ => false,
        };
        if !schema.get(rule).is_some_and(is_narrower) {
            schema.insert(rule.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_words_become_rules() {
        for (range, expected) in [
            ("at least 1", json!({ "minimum": 1 })),
            (
                "above 0 and at most 1",
                json!({ "exclusiveMinimum": 0, "maximum": 1 }),
            ),
            (
                "at least 0 and below 1; 0 for a ResNet",
                json!({ "minimum": 0, "exclusiveMaximum": 1 }),
            ),
            (
                "in 0.001..1000; [smallest, largest]",
                json!({ "minimum": 0.001, "maximum": 1000 }),
            ),
            ("from 0 to 255", json!({ "minimum": 0, "maximum": 255 })),
            ("0 to 1", json!({ "minimum": 0, "maximum": 1 })),
            ("0 or above", json!({ "minimum": 0 })),
            (
                "two numbers that rise within 0..1",
                json!({ "minimum": 0, "maximum": 1 }),
            ),
            ("18, 34, 50 or 101", json!({ "enum": [18, 34, 50, 101] })),
            (
                "at least 2 and divide `data.batch_images`",
                json!({ "minimum": 2 }),
            ),
            ("a multiple of `data.batch_images`", json!({})),
            ("at most `max_side_px` = 16384", json!({})),
            ("one of `neighbors`", json!({})),
        ] {
            assert_eq!(Value::Object(rules(range)), expected, "{range}");
        }
    }
}
