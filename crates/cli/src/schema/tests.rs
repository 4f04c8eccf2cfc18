//! Shipped configs against the schemas, and the parser's own keys against both.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::configs::shipped::SHIPPED;

/// Faults of a value, by the words of draft 7 that the schemas use.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut all = vec![];
    let Some(rules) = schema.as_object() else {
        return match schema {
            Value::Bool(false) => vec![format!("`{at}` is not allowed")],
            _ => all,
        };
    };
    let is = |name: &str| match name {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    for (rule, content) in rules {
        match rule.as_str() {
            "$schema" | "title" | "description" | "default" => {}
            "type" => {
                let names: Vec<&str> = match content {
                    Value::Array(names) => names.iter().map(|name| name.as_str().unwrap()).collect(),
                    name => vec![name.as_str().unwrap()],
                };
                if !names.iter().any(|name| is(name)) {
                    all.push(format!("`{at}` is no {names:?}"));
                }
            }
            "enum" => {
                if !content.as_array().unwrap().contains(value) {
                    all.push(format!("`{at}` is none of {content}"));
                }
            }
            "const" => {
                if content != value {
                    all.push(format!("`{at}` is not {content}"));
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let (value, bound) = (value.as_f64(), content.as_f64().unwrap());
                let outside = |value: f64| match rule.as_str() {
                    "minimum" => value < bound,
                    "maximum" => value > bound,
                    "exclusiveMinimum" => value <= bound,
                    _ => value >= bound,
                };
                if value.is_some_and(outside) {
                    all.push(format!("`{at}`: {rule} is {bound}"));
                }
            }
            "minItems" | "maxItems" => {
                let (length, bound) = (
                    value.as_array().map_or(0, Vec::len),
                    content.as_u64().unwrap() as usize,
                );
                if value.is_array()
                    && (if rule == "minItems" {
                        length < bound
                    } else {
                        length > bound
                    })
                {
                    all.push(format!("`{at}`: {rule} is {bound}"));
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    all.extend(faults(content, value, &format!("{at}.{index}")));
                }
            }
            "required" => {
                for name in content.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        all.push(format!("`{at}` lacks {name}"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in content.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        all.extend(faults(schema, value, &format!("{at}.{name}")));
                    }
                }
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        all.extend(faults(content, value, &format!("{at}.{name}")));
                    }
                }
            }
            "anyOf" | "oneOf" => {
                let alternatives = content.as_array().unwrap();
                let valid = alternatives
                    .iter()
                    .filter(|one| faults(one, value, at).is_empty())
                    .count();
                if valid == 0 || rule == "oneOf" && valid > 1 {
                    all.push(format!("`{at}`: {valid} of the {rule} hold for {value}"));
                }
            }
            other => panic!("the schema has `{other}`"),
        }
    }
    all
}

/// A TOML text as JSON.
fn json_of(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

fn configs() -> impl Iterator<Item = (&'static str, &'static str, Kind)> {
    let tomls = SHIPPED.iter().filter(|(name, _)| name.ends_with(".toml"));
    tomls.map(|(name, text)| (*name, *text, Kind::of(text).unwrap()))
}

#[test]
fn every_shipped_config_is_valid_and_every_kind_is_shipped() {
    let schemas: Vec<(Kind, Value)> = Kind::ALL.iter().map(|kind| (*kind, bounded(*kind))).collect();
    let mut seen = vec![];
    for (name, text, kind) in configs() {
        let (_, schema) = schemas.iter().find(|(known, _)| *known == kind).unwrap();
        let faults = faults(schema, &json_of(text), "");
        assert!(faults.is_empty(), "{name}: {faults:?}");
        seen.push(kind);
    }
    for kind in Kind::ALL {
        assert!(seen.contains(&kind), "{kind:?}");
    }
}

/// Each key of each shipped config under another name, and with a value of another type.
#[test]
fn a_misspelled_key_and_a_wrong_type_are_faults() {
    fn mutations(value: &Value, at: &str, all: &mut Vec<(String, Value)>, whole: &Value) {
        let pointers: Vec<(String, &Value)> = match value {
            Value::Object(table) => table
                .iter()
                .map(|(key, value)| (format!("{at}/{key}"), value))
                .collect(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(key, value)| (format!("{at}/{key}"), value))
                .collect(),
            _ => return,
        };
        for (pointer, inner) in pointers {
            let mut wrong = whole.clone();
            *wrong.pointer_mut(&pointer).unwrap() = match inner {
                Value::Object(_) | Value::Array(_) => json!(3.5),
                _ => json!({ "no_such": {} }),
            };
            all.push((pointer.clone(), wrong));
            let mut misspelled = whole.clone();
            if let Some(Value::Object(table)) = misspelled.pointer_mut(at) {
                let key = pointer.rsplit('/').next().unwrap();
                let value = table.remove(key).unwrap();
                table.insert(format!("{key}_x"), value);
                // Splits and columns have names of the user's own.
                if !at.ends_with("/splits") && !at.ends_with("/only") {
                    all.push((format!("{pointer}_x"), misspelled));
                }
            }
            mutations(inner, &pointer, all, whole);
        }
    }
    let mut count = 0;
    for name in [
        "pretrain/quickstart.toml",
        "pretrain/ibot-vit-small-imagenet.toml",
        "pretrain/swav-resnet50-imagenet-256.toml",
        "evaluate/small-images.toml",
        "evaluate/finetune-vit-base-imagenet.toml",
        "evaluate/detection-voc07-moco-c4-resnet50.toml",
        "suites/small-images.toml",
        "datasets/flowers102.toml",
        "curate/open-photos.toml",
    ] {
        let (_, text, kind) = configs().find(|(known, ..)| *known == name).unwrap();
        let (schema, whole) = (of(kind), json_of(text));
        let mut all = vec![];
        mutations(&whole, "", &mut all, &whole);
        for (pointer, mutated) in all {
            assert!(
                !faults(&schema, &mutated, "").is_empty(),
                "{name}: {pointer} is valid"
            );
            count += 1;
        }
    }
    assert!(count > 500, "{count}");
}

/// The paths that a config's keys have in the list.
fn paths(value: &Value, at: &str, known: &[Key], name: &str) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let join = |step: &str| {
                    if at.is_empty() {
                        step.to_string()
                    } else {
                        format!("{at}.{step}")
                    }
                };
                let is_known = |path: &String| known.iter().any(|known| known.path == *path);
                let path = [join(key), join("NAME")].into_iter().find(is_known);
                let path = path.unwrap_or_else(|| panic!("{name}: `{}` is not listed", join(key)));
                paths(value, &path, known, name);
            }
        }
        Value::Array(list) => {
            for value in list {
                let numbered = format!("{at}.N");
                let is_numbered = known
                    .iter()
                    .any(|key| key.path.starts_with(&format!("{numbered}.")));
                paths(value, if is_numbered { &numbered } else { at }, known, name);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_of_every_shipped_config_is_listed_with_a_sentence() {
    for kind in Kind::ALL {
        let keys = keys(kind);
        for key in &keys {
            let description = &key.description;
            assert!(
                description.len() > 3 && !description.contains("[`") && !description.contains("self::"),
                "{} {}: {description:?}",
                key.kind,
                key.path
            );
        }
        for (name, text, _) in configs().filter(|(.., of)| *of == kind) {
            paths(&json_of(text), "", &keys, name);
        }
    }
}

/// serde, which reads the files, and the schema know the same keys: at each table of each shipped config, a key that neither has
/// is refused with the list of those that there are.
#[test]
fn the_parser_lists_the_keys_that_the_schema_has() {
    let mut count = 0;
    for (name, text, kind) in configs().filter(|(.., kind)| *kind != Kind::DataSet) {
        let keys = keys(kind);
        let tables = |value: &Value| {
            let mut all = vec![String::new()];
            let mut open = vec![(String::new(), value.clone())];
            while let Some((at, value)) = open.pop() {
                for (key, value) in value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(_, value)| value.is_object())
                {
                    let path = if at.is_empty() {
                        key.clone()
                    } else {
                        format!("{at}.{key}")
                    };
                    all.push(path.clone());
                    open.push((path, value.clone()));
                }
            }
            all
        };
        for table in tables(&json_of(text)) {
            let path = if table.is_empty() {
                "no_such".into()
            } else {
                format!("{table}.no_such")
            };
            let edit = data::settings::Edit {
                path,
                text: "1".into(),
            };
            let message = crate::configs::fault_of(kind, text, &edit).unwrap();
            let Some((_, listed)) = message.split_once("keys are ") else {
                continue;
            };
            let mut listed: Vec<&str> = listed.split(", ").map(|key| key.trim_matches('`')).collect();
            let prefix = if table.is_empty() {
                String::new()
            } else {
                format!("{table}.")
            };
            let mut known: Vec<&str> = keys
                .iter()
                .filter_map(|key| key.path.strip_prefix(&prefix))
                .collect();
            known.retain(|rest| !rest.contains('.'));
            // A detector's ResNet, whose keys exclude a transformer's.
            known.retain(|rest| !(table == "detection.network.backbone" && *rest == "vit"));
            listed.sort_unstable();
            known.sort_unstable();
            assert_eq!(listed, known, "{name}: `{table}`");
            count += 1;
        }
    }
    assert!(count > 300, "{count}");
}

#[test]
fn ranges_are_those_of_the_checks() {
    let keys = with_ranges(Kind::Pretraining, keys(Kind::Pretraining));
    let of = |path: &str| keys.iter().find(|key| key.path == path).unwrap();
    let range = |path: &str| of(path).range.as_deref().unwrap_or_default();
    assert_eq!(range("optimizer.sgd.momentum"), "at least 0 and below 1");
    assert_eq!(range("objective.moco.temperature"), "above 0");
    assert_eq!(range("objective.moco.embedding_width"), "at least 1");
    assert_eq!(
        range("objective.moco.queue_images"),
        "a multiple of `data.batch_images`"
    );
    assert_eq!(range("backbone.resnet.depth"), "18, 34, 50 or 101");
    assert_eq!(of("training.precision").default.as_deref(), Some("f32"));
    assert_eq!(of("objective.moco.temperature").papers.len(), 2);
    assert!(of("objective.moco.temperature").required);
    let words: Vec<&str> = of("objective.moco.head")
        .choices
        .iter()
        .map(|choice| choice.name.as_str())
        .collect();
    assert_eq!(words, ["linear", "mlp"]);
}

/// The numbers of a value by their pointers.
fn numbers(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(table) => table
            .iter()
            .for_each(|(key, value)| numbers(value, &format!("{at}/{key}"), all)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(key, value)| numbers(value, &format!("{at}/{key}"), all)),
        Value::Number(_) => all.push(at.to_string()),
        _ => {}
    }
}

/// Values that the schema refuses with its ranges alone: the program refuses each of them too.
#[test]
fn what_a_range_of_the_schema_excludes_the_program_refuses() {
    let mut refused = std::collections::BTreeMap::new();
    for name in [
        "pretrain/moco-v2-resnet50-imagenet.toml",
        "pretrain/swav-resnet50-imagenet-256.toml",
        "pretrain/ibot-vit-small-imagenet.toml",
        "evaluate/small-images.toml",
        // With its network: without one, most checks wait for the encoder.
        "evaluate/finetune-resnet18-cifar10.toml",
        "evaluate/detection-voc07-moco-c4-resnet50.toml",
        "curate/open-photos.toml",
    ] {
        let (_, text, kind) = configs().find(|(known, ..)| *known == name).unwrap();
        let (types, schema, whole) = (of(kind), bounded(kind), json_of(text));
        let mut places = vec![];
        numbers(&whole, "", &mut places);
        for place in places {
            for candidate in ["-1", "0", "1", "7", "999999", "-1.5", "0.0", "1.0", "1.5", "1e7"] {
                let mut wrong = whole.clone();
                *wrong.pointer_mut(&place).unwrap() = candidate.parse::<Value>().unwrap();
                let is_excluded =
                    !faults(&schema, &wrong, "").is_empty() && faults(&types, &wrong, "").is_empty();
                if !is_excluded {
                    continue;
                }
                let edit = data::settings::Edit {
                    path: place[1..].replace('/', "."),
                    text: candidate.into(),
                };
                let message = crate::configs::fault_of(kind, text, &edit);
                assert!(message.is_some(), "{name}: {} = {candidate} is read", edit.path);
                *refused.entry(name).or_insert(0) += 1;
            }
        }
    }
    assert!(
        refused.len() == 7 && refused.values().all(|count| *count > 5),
        "{refused:?}"
    );
}

#[test]
fn comments_of_the_source_become_text() {
    assert_eq!(
        plain("One\ntwo [`data::Order`]\n\nthree."),
        "One two `data::Order`\n\nthree."
    );
}
