//! Data-set descriptions: a TOML file with the place of a data set's records, their layout, the names of the
//! classes, and the headline metric.
//!
//! The short form is one part (`kind`, `path` …) at the top of the file. The long form has one part per
//! split, which the specification names: `flowers.toml#test`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::part::{self, Part};
use crate::error::Error;
use crate::hint::Hint;
use crate::names;
use crate::settings::{self, Fault};
use crate::transforms::{Transform, ViewGroup};

/// Name of the description that `passer shards pack` writes beside its shards, and that opening a folder
/// looks for.
pub(crate) const FILE_NAME: &str = "dataset.toml";

/// A file that a user has to download.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Its address, or a page if the file is behind a form.
    pub url: String,
    /// MD5 of the file as its publisher or torchvision gives it, hexadecimal.
    #[serde(default)]
    pub md5: Option<String>,
    /// SHA-256 of the file, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Instructions, and what could not be verified.
    #[serde(default)]
    pub note: Option<String>,
}

/// A description without the place of the records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// Its name, for people.
    pub name: Option<String>,
    /// Its page.
    pub home: Option<String>,
    /// The license of its images, or the terms of use on its page.
    pub license: Option<String>,
    /// Its headline metric: `top1`, `mean_class`, `map`.
    pub metric: Option<String>,
    /// The usual transforms of its test images.
    pub test_transforms: Option<Vec<Transform>>,
    /// Files to download.
    pub downloads: Vec<Download>,
    /// Names of its splits.
    pub splits: Vec<String>,
}

/// The long form.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// Its name, for people.
    name: String,
    /// Its page.
    #[serde(default)]
    home: Option<String>,
    /// The license of its images, or the terms of use on its page.
    #[serde(rename = "licence", default)]
    license: Option<String>,
    /// Class names in the order of their numbers, for all splits that name none.
    #[serde(default)]
    classes: Option<Vec<String>>,
    /// Its headline metric: `"top1"`, `"mean_class"` or `"map"`. Absent: top1.
    #[serde(default)]
    metric: Option<String>,
    /// The usual transforms of its test images.
    #[serde(default)]
    test_transforms: Option<Vec<Transform>>,
    /// Files to download, which the program lists and never fetches.
    #[serde(default)]
    downloads: Vec<Download>,
    /// The splits by name: `data.toml#test` is `[splits.test]`.
    splits: BTreeMap<String, Part>,
}

/// A description in its long or its short form, for its JSON Schema alone.
pub struct DescriptionForms;

impl JsonSchema for DescriptionForms {
    fn schema_name() -> Cow<'static, str> {
        "DescriptionForms".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<Long>();
        let short = generator.subschema_for::<Part>();
        json_schema!({ "anyOf": [long, short] })
    }
}

impl Long {
    fn check(&self) -> Result<(), String> {
        part::check_classes(self.classes.as_deref()).map_err(|reason| format!("`classes` {reason}"))?;
        for (name, part) in &self.splits {
            part.check()
                .map_err(|(key, reason)| format!("`splits.{name}.{key}` {reason}"))?;
        }
        if self.splits.is_empty() {
            return Err("`splits` must have at least one split, got none".to_string());
        }
        if let Some(metric) = &self.metric
            && !METRICS.contains(&metric.as_str())
        {
            let metrics = METRICS.map(|metric| format!("`{metric}`")).join(", ");
            return Err(format!("`metric` must be one of {metrics}, got \"{metric}\""));
        }
        if let Some(transforms) = &self.test_transforms {
            let group = ViewGroup {
                count: 1,
                transforms: transforms.clone(),
            };
            group.validate_at("count", "test_transforms")?;
        }
        Ok(())
    }
}

/// Headline metrics.
const METRICS: [&str; 3] = ["top1", "mean_class", "map"];

/// The description that a path names, or that lies in the folder that it names.
pub(crate) fn at(path: &Path) -> Option<PathBuf> {
    let is_named = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let described = match path.is_dir() {
        true => path.join(FILE_NAME),
        false if is_named => path.to_path_buf(),
        false => return None,
    };
    described.is_file().then_some(described)
}

/// The path and the split of `data.toml#train`, or of a folder with a description in it; no split where there is
/// none.
pub(crate) fn split_of(spec: &str) -> (&str, Option<&str>) {
    match spec.rsplit_once('#') {
        Some((path, split)) if path.ends_with(".toml") || at(Path::new(path)).is_some() => {
            (path, Some(split))
        }
        _ => (spec, None),
    }
}

/// Reads the part of a description that a split names; without a split, the whole short form.
pub(crate) fn read_part(path: &Path, split: Option<&str>) -> Result<Part, Error> {
    let error = |reason: String| Error::description(path, reason);
    let (part, _) = read(path)?;
    let part = match (part, split) {
        (Parts::One(part), None) => *part,
        (Parts::One(_), Some(split)) => {
            return Err(error(format!("has no splits, but `#{split}` names one")));
        }
        (Parts::Splits(mut splits), Some(split)) => match splits.remove(split) {
            Some(part) => part,
            None => {
                let names: Vec<&str> = splits.keys().map(String::as_str).collect();
                return Err(error(format!(
                    "has no split `{split}`, it has: {}",
                    names::listed(&names)
                )));
            }
        },
        (Parts::Splits(splits), None) => {
            let names: Vec<String> = splits
                .keys()
                .map(|name| format!("{}#{name}", path.display()))
                .collect();
            return Err(error(format!(
                "has several splits; name one: {}",
                names::listed(&names)
            )));
        }
    };
    Ok(part)
}

/// Reads a description without the place of the records.
///
/// # Errors
/// [`Error`] where the file cannot be read or is invalid.
pub(crate) fn read_about(path: &Path) -> Result<About, Error> {
    Ok(read(path)?.1)
}

enum Parts {
    One(Box<Part>),
    Splits(BTreeMap<String, Part>),
}

fn read(path: &Path) -> Result<(Parts, About), Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |fault: Fault| Error::Description {
        path: path.to_path_buf(),
        reason: fault.to_string(),
        hint: fault.cure().is_some().then_some(Hint::Settings(Box::new(fault))),
    };
    if !is_long(&text) {
        let check = |part: &Part| part.check().map_err(|(key, reason)| format!("`{key}` {reason}"));
        let mut part = settings::read(&text, &[], |_| (), check).map_err(wrong)?;
        compose(&mut part.classes);
        return Ok((Parts::One(Box::new(part)), About::default()));
    }
    let Long {
        name,
        home,
        license,
        mut classes,
        metric,
        test_transforms,
        downloads,
        mut splits,
    } = settings::read(&text, &[], |_| (), Long::check).map_err(wrong)?;
    compose(&mut classes);
    for part in splits.values_mut() {
        compose(&mut part.classes);
        if part.classes.is_none() {
            part.classes.clone_from(&classes);
        }
    }
    let about = About {
        name: Some(name),
        home,
        license,
        metric,
        test_transforms,
        downloads,
        splits: splits.keys().cloned().collect(),
    };
    Ok((Parts::Splits(splits), about))
}

/// Whether a text is of the long form, as far as its keys say so.
fn is_long(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| {
        table.contains_key("splits") || table.contains_key("name") && !table.contains_key("kind")
    })
}

/// Composes the names of classes, as those of the records are.
fn compose(classes: &mut Option<Vec<String>>) {
    for class in classes.iter_mut().flatten() {
        *class = names::composed(class).into_owned();
    }
}

/// A path in a description, relative to the folder of the description. `${NAME}` is replaced by the
/// environment variable.
pub(crate) fn resolve(description: &Path, path: &str) -> Result<PathBuf, Error> {
    let mut rest = path;
    let mut full = String::new();
    // Brace patterns of shards have braces too, but no preceding dollar sign.
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else {
            break;
        };
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| {
            let reason = format!(
                "`{path}` needs the environment variable `{name}`, which is not set; set it to the folder of your data sets"
            );
            Error::description(description, reason)
        })?;
        full.push_str(before);
        full.push_str(&value);
        rest = behind;
    }
    full.push_str(rest);
    let path = description.parent().unwrap_or(Path::new("")).join(full);
    // Without this, messages would show paths such as `shards/./`.
    let plain: PathBuf = path
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    Ok(if plain.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        plain
    })
}
