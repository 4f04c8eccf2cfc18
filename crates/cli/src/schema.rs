//! JSON Schemas of the config files, from the types that the parser reads them into: for editors, and for `passer config keys`.

mod bounded;
mod keys;
mod ranges;

pub(crate) use bounded::bounded;
pub(crate) use keys::{Key, keys};
pub(crate) use ranges::with_ranges;

use crate::configs::Kind;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a kind of config file as its types state it, in draft 7, which editors' TOML extensions read. It has no references.
fn of(kind: Kind) -> Value {
    let mut schema = match kind {
        Kind::Pretraining => root::<training::Config<objectives::ObjectiveConfig>>(),
        Kind::FineTuning => root::<evaluation::finetune::Config>(),
        Kind::Detection => root::<evaluation::finetune::detection::Config>(),
        Kind::Evaluation => root::<evaluation::Config>(),
        Kind::Suite => root::<evaluation::suite::Suite>(),
        Kind::DataSet => root::<data::DescriptionForms>(),
        Kind::Curation => root::<curation::Config>(),
    };
    tidy(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        let version = env!("CARGO_PKG_VERSION");
        schema.insert(
            "title".into(),
            json!(format!("{} of passer {version}", kind.name())),
        );
    }
    schema
}

fn root<C: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<C>().to_value()
}

/// Brings a schema to what a TOML file is: no null; tables are closed, as the reader's are; texts without line breaks.
fn tidy(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("format");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(names)) = schema.get_mut("enum") {
        names.retain(|name| !name.is_null());
    }
    for choices in ["anyOf", "oneOf", "allOf"] {
        let Some(Value::Array(alternatives)) = schema.get_mut(choices) else {
            continue;
        };
        alternatives.retain(|alternative| alternative.get("type") != Some(&json!("null")));
        alternatives.iter_mut().for_each(tidy);
        if let [only] = alternatives.as_slice() {
            let only = only.clone();
            schema.remove(choices);
            merge(schema, only);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(tidy);
        schema.entry("additionalProperties").or_insert(json!(false));
    }
    for inner in ["items", "additionalProperties"] {
        match schema.get_mut(inner) {
            Some(Value::Array(several)) => several.iter_mut().for_each(tidy),
            Some(inner) => tidy(inner),
            None => {}
        }
    }
}

/// Adds what `schema` lacks of the only alternative that it has.
fn merge(schema: &mut Map<String, Value>, only: Value) {
    if let Value::Object(only) = only {
        for (key, value) in only {
            schema.entry(key).or_insert(value);
        }
    }
}

/// A comment of the source as text: paragraphs without line breaks, names without links.
fn plain(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let mut text = paragraphs.collect::<Vec<_>>().join("\n\n");
    // [`Name`], a link to a type of the source.
    while let Some(start) = text.find("[`") {
        let Some(length) = text[start..].find("`]") else {
            break;
        };
        let name = text[start + 1..start + length + 1].to_string();
        text.replace_range(start..start + length + 2, &name);
    }
    text
}

#[cfg(test)]
mod tests;
