//! The content of a suite's file: encoders, data sets and evaluations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use training::Normalize;

/// The content of a suite's file. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Rows of the table.
    pub encoders: Vec<EncoderEntry>,
    /// Blocks of the table.
    pub data_sets: Vec<DataSetEntry>,
    /// Columns of the table.
    pub evaluations: Vec<EvaluationEntry>,
}

/// An encoder of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderEntry {
    /// Its name in the table and in the output folder.
    pub name: String,
    /// A run directory, an encoder file, or weights of another program.
    #[serde(default)]
    pub path: Option<String>,
    /// The network, if the file does not determine it; as `--backbone`.
    #[serde(default)]
    pub backbone: Option<String>,
    /// `"student"` or `"teacher"`, if the file has both; as `--part`.
    #[serde(default)]
    pub part: Option<String>,
    /// Replaces `path`: the pixels themselves, normalized by these statistics.
    #[serde(default)]
    pub pixels: Option<Normalize>,
}

/// A data set of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSetEntry {
    /// Its name in the table and in the output folder.
    pub name: String,
    /// Records to learn from.
    pub train: String,
    /// Records to score on; their description names the headline metric.
    pub test: String,
}

/// Protocols of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluationEntry {
    /// A config as for `passer evaluate run`.
    pub config: String,
    /// Source of `test_transforms`.
    pub transforms: TransformsOf,
    /// Names of the data sets to run on; absent: all.
    #[serde(default)]
    pub data_sets: Option<Vec<String>>,
}

/// Source of the transforms from an image to the encoder's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransformsOf {
    /// The config.
    Config,
    /// The data set's description.
    DataSet,
}

impl Suite {
    /// Gives an error for names that are invalid as folders or repeated, and for unknown data sets.
    pub fn validate(&self) -> Result<(), String> {
        names("encoders", self.encoders.iter().map(|entry| &entry.name))?;
        names("data_sets", self.data_sets.iter().map(|entry| &entry.name))?;
        if self.evaluations.is_empty() {
            return Err("`evaluations` must hold at least one entry, got none".into());
        }
        for (index, entry) in self.encoders.iter().enumerate() {
            if entry.path.is_some() == entry.pixels.is_some() {
                return Err(format!(
                    "`encoders.{index}` (`{}`) must have either `path` or `pixels`",
                    entry.name
                ));
            }
            if let Some(part) = entry
                .part
                .as_deref()
                .filter(|part| !matches!(*part, "student" | "teacher"))
            {
                return Err(format!(
                    "`encoders.{index}.part` must be one of `student`, `teacher`, got {part:?}"
                ));
            }
        }
        let named = self.evaluations.iter().enumerate();
        let named =
            named.flat_map(|(at, entry)| entry.data_sets.iter().flatten().map(move |name| (at, name)));
        for (at, name) in named {
            if !self.data_sets.iter().any(|data_set| data_set.name == *name) {
                let known: Vec<&String> = self.data_sets.iter().map(|data_set| &data_set.name).collect();
                return Err(format!(
                    "`evaluations.{at}.data_sets` must be names of `data_sets` ({}), got `{name}`",
                    data::names::listed(&known)
                ));
            }
        }
        Ok(())
    }
}

fn names<'a>(key: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        let is_plain = |c: char| c.is_alphanumeric() || "-_.+ ".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(format!(
                "`{key}`: the name `{name}` must be letters, digits, blanks or any of - _ . +"
            ));
        }
        if !seen.insert(name) {
            return Err(format!("`{key}`: the name `{name}` is given twice"));
        }
    }
    match seen.is_empty() {
        true => Err(format!("`{key}` must hold at least one entry, got none")),
        false => Ok(()),
    }
}
