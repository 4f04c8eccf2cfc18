//! A suite: many protocols over many data sets and encoders, and one table of what came out.
//!
//! Each protocol of each pair of encoder and data set is an evaluation of its own, with its own `result.json`: what one of
//! them cannot answer is missing with its reason, and the others go on. Killed, the suite goes on where it was. Features are
//! made once for all protocols that see the same images.

mod table;

use crate::config::{Config, Protocol};
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::progress::Event;
use crate::result::{Outcome, Provenance};
use crate::run::{Job, Plan};
use crate::store::{Records, Store};
use burn::tensor::Device;
use data::Dataset;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::Normalize;

pub use table::{csv, markdown};

/// The content of a suite's file. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderEntry {
    /// Its name in the table and in the output folder.
    pub name: String,
    /// A run directory, an encoder file, or weights of another program.
    #[serde(default)]
    pub path: Option<String>,
    /// The network, where the file does not show it; as `--backbone`.
    #[serde(default)]
    pub backbone: Option<String>,
    /// `"student"` or `"teacher"`, where the file has both; as `--part`.
    #[serde(default)]
    pub part: Option<String>,
    /// In place of `path`: the pixels themselves, normalised by these statistics.
    #[serde(default)]
    pub pixels: Option<Normalize>,
}

/// A data set of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSetEntry {
    /// Its name in the table and in the output folder.
    pub name: String,
    /// Records to learn from.
    pub train: String,
    /// Records to be scored on; the description of these says which metric is quoted.
    pub test: String,
}

/// Protocols of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationEntry {
    /// A config as for `passer evaluate run`.
    pub config: String,
    /// Whose `test_transforms` count.
    pub transforms: TransformsOf,
    /// Names of the data sets to ask it of; absent: all.
    #[serde(default)]
    pub data_sets: Option<Vec<String>>,
}

/// Where the way from an image to the encoder's size is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformsOf {
    /// In the config.
    Config,
    /// In the data set's description.
    DataSet,
}

/// One place of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Name of the encoder.
    pub encoder: String,
    /// Name of the data set.
    pub data_set: String,
    /// What is asked: the protocol's name with what tells it from others of its kind.
    pub column: String,
    /// The metric that the data set is quoted by, if its description names one.
    pub metric: Option<String>,
    /// What came out; empty where it is missing.
    pub outcomes: Vec<Outcome>,
    /// Why it is missing.
    pub missing: Option<String>,
}

impl Cell {
    /// The number to show: the metric that the data set is quoted by where the protocol has it, else the protocol's own.
    pub fn quoted(&self) -> Option<&Outcome> {
        let by_metric = |outcome: &&Outcome| Some(&outcome.metric) == self.metric.as_ref();
        let own = self.outcomes.iter().find(|outcome| outcome.headline);
        // Among several of that metric (the k of a sweep) the one with the headline's settings.
        let same = self.outcomes.iter().filter(by_metric);
        let variant = own.and_then(Outcome::variant);
        same.clone()
            .find(|outcome| outcome.variant() == variant)
            .or_else(|| self.outcomes.iter().find(by_metric))
            .or(own)
    }
}

/// What a suite needs from whoever runs it.
pub struct Surroundings<'a> {
    /// The folder that the suite's file lies in.
    pub folder: &'a Path,
    /// Where results, features and tables go.
    pub out: &'a Path,
    /// Device of the encoders, without autodiff.
    pub device: &'a Device,
    /// What only the program knows about itself.
    pub provenance: Provenance,
    /// Reads an encoder; its path is as it should be opened.
    pub open: &'a dyn Fn(&EncoderEntry, &Path) -> Result<Encoder, String>,
    /// Where the report of each pair of encoder and data set goes, below `out`; absent: no reports.
    pub reports: Option<&'a str>,
    /// Told of each cell as it is known, with how many are and how many there are.
    pub known: &'a mut dyn FnMut(&Cell, usize, usize),
}

impl Suite {
    /// Refuses names that are no folder's, or are given twice, and data sets that are not there.
    pub fn validate(&self) -> Result<(), String> {
        names("encoders", self.encoders.iter().map(|entry| &entry.name))?;
        names("data_sets", self.data_sets.iter().map(|entry| &entry.name))?;
        if self.evaluations.is_empty() {
            return Err("`evaluations` must hold at least one entry, got none".into());
        }
        for entry in &self.encoders {
            if entry.path.is_some() == entry.pixels.is_some() {
                return Err(format!(
                    "encoder `{}` must have either `path` or `pixels`",
                    entry.name
                ));
            }
            if !matches!(entry.part.as_deref(), None | Some("student" | "teacher")) {
                return Err(format!(
                    "encoder `{}`: `part` must be student or teacher",
                    entry.name
                ));
            }
        }
        for name in self
            .evaluations
            .iter()
            .filter_map(|entry| entry.data_sets.as_ref())
            .flatten()
        {
            if !self.data_sets.iter().any(|data_set| data_set.name == *name) {
                return Err(format!(
                    "`evaluations` names the data set `{name}`, which is not in `data_sets`"
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

/// One question: a protocol of a config, for some data sets.
struct Question<'a> {
    entry: &'a EvaluationEntry,
    config: Config,
    column: String,
    /// Its folder below that of encoder and data set.
    folder: String,
}

/// Runs what is not there yet, and returns every cell in the order of the table. `read` reads a config of protocols.
///
/// # Errors
/// A suite or a config that cannot be run, a folder that cannot be written. Whatever else goes wrong is in its cell.
pub fn run(
    suite: &Suite,
    around: &mut Surroundings<'_>,
    read: &dyn Fn(&Path) -> Result<Config, Error>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Cell>, Error> {
    suite.validate().map_err(Error::Config)?;
    let mut questions = vec![];
    for entry in &suite.evaluations {
        let path = around.folder.join(&entry.config);
        let config = read(&path)?;
        config.validate().map_err(Error::Config)?;
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for (place, protocol) in config.protocols.iter().enumerate() {
            questions.push(Question {
                entry,
                config: Config {
                    protocols: vec![protocol.clone()],
                    ..config.clone()
                },
                column: column(protocol),
                folder: format!("{stem}-{place}-{}", protocol.name()),
            });
        }
    }
    tell_apart(&mut questions);

    let data: Vec<Result<Pair, String>> = suite
        .data_sets
        .iter()
        .map(|entry| Pair::open(entry, around.folder))
        .collect();
    let asked = |question: &Question<'_>, name: &String| {
        question
            .entry
            .data_sets
            .as_ref()
            .is_none_or(|names| names.contains(name))
    };
    let of_all = suite.data_sets.iter().flat_map(|entry| {
        questions
            .iter()
            .filter(move |question| asked(question, &entry.name))
    });
    let total = suite.encoders.len() * of_all.count();

    let store = Arc::new(Store::new(around.out.join("features")));
    let mut cells: Vec<Cell> = Vec::with_capacity(total);
    for entry in &suite.encoders {
        // Opened when the first cell asks for it.
        let mut encoder: Option<Result<Encoder, String>> = None;
        for (data_set, data) in suite.data_sets.iter().zip(&data) {
            let (first, mut is_new, mut config) = (cells.len(), false, None);
            for question in questions
                .iter()
                .filter(|question| asked(question, &data_set.name))
            {
                let mut cell = Cell {
                    encoder: entry.name.clone(),
                    data_set: data_set.name.clone(),
                    column: question.column.clone(),
                    metric: data.as_ref().ok().and_then(|data| data.about.metric.clone()),
                    outcomes: vec![],
                    missing: None,
                };
                let answer = data.as_ref().map_err(Clone::clone).and_then(|data| {
                    let encoder = encoder.get_or_insert_with(|| open(entry, around));
                    answer(
                        question,
                        data,
                        encoder.as_ref().map_err(|reason| reason.clone())?,
                        &cell,
                        &store,
                        around,
                        progress,
                    )
                });
                match answer {
                    Ok(answer) => {
                        cell.outcomes = answer.outcomes;
                        is_new |= answer.is_new;
                        // Training features are what most of a report is made of.
                        let has_train =
                            |config: &Config| config.protocols.iter().any(Protocol::needs_train_features);
                        if config
                            .as_ref()
                            .is_none_or(|known| !has_train(known) && has_train(&answer.config))
                        {
                            config = Some(answer.config);
                        }
                    }
                    Err(reason) => cell.missing = Some(reason),
                }
                (around.known)(&cell, cells.len() + 1, total);
                cells.push(cell);
            }
            if let (Some(folder), Some(config), Ok(data), Some(Ok(encoder))) =
                (around.reports, config, data, &encoder)
            {
                let path = report_path(around.out, folder, &entry.name, &data_set.name);
                if is_new || !path.exists() {
                    let outcomes = cells[first..].iter().flat_map(|cell| &cell.outcomes);
                    let pair = PairReport {
                        outcomes: outcomes.cloned().collect(),
                        config,
                        path,
                        name: &data_set.name,
                    };
                    pair.write(encoder, data, &store, around, progress)?;
                }
            }
        }
    }
    Ok(cells)
}

/// The file of a pair's report.
pub fn report_path(out: &Path, folder: &str, encoder: &str, data_set: &str) -> PathBuf {
    out.join(folder).join(encoder).join(format!("{data_set}.html"))
}

/// What the report of one encoder on one data set is made of.
struct PairReport<'a> {
    /// Of all its protocols.
    outcomes: Vec<Outcome>,
    /// Of one of them, for the images.
    config: Config,
    path: PathBuf,
    name: &'a str,
}

impl PairReport<'_> {
    fn write(
        &self,
        encoder: &Encoder,
        data: &Pair,
        store: &Arc<Store>,
        around: &Surroundings<'_>,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let folder = self.path.parent().unwrap_or(around.out);
        std::fs::create_dir_all(folder).map_err(io(folder, "creating the folder of reports"))?;
        let job = Job {
            encoder,
            train: data.train.clone(),
            test: data.test.clone(),
            // No results are read or written here.
            out: folder,
            shared_features: Some(Arc::clone(store)),
            device: around.device,
            provenance: around.provenance.clone(),
        };
        let html = Plan::new(&self.config, &job)?.report_of(self.name, &self.outcomes, progress)?;
        Ok(training::write_atomically(&self.path, html.as_bytes())?)
    }
}

/// What a question gave.
struct Answer {
    outcomes: Vec<Outcome>,
    /// Whether it had to be computed.
    is_new: bool,
    /// As it was asked.
    config: Config,
}

/// Both sets of a data set.
struct Pair {
    train: Records,
    test: Records,
    about: data::About,
}

impl Pair {
    fn open(entry: &DataSetEntry, folder: &Path) -> Result<Self, String> {
        let spec = |spec: &str| folder.join(spec).to_string_lossy().into_owned();
        let open = |text: &str| {
            Dataset::open(&spec(text))
                .map(Records::from)
                .map_err(|error| with_causes(&error))
        };
        Ok(Self {
            train: open(&entry.train)?,
            test: open(&entry.test)?,
            about: Dataset::about(&spec(&entry.test)).map_err(|error| with_causes(&error))?,
        })
    }
}

/// A message with those that it stands on, each once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

fn open(entry: &EncoderEntry, around: &Surroundings<'_>) -> Result<Encoder, String> {
    match (&entry.path, entry.pixels) {
        (_, Some(normalize)) => Ok(Encoder::pixels(normalize)),
        (Some(path), None) => (around.open)(entry, &around.folder.join(path)),
        // `validate` has refused it.
        (None, None) => Err("neither `path` nor `pixels`".into()),
    }
}

fn answer(
    question: &Question<'_>,
    data: &Pair,
    encoder: &Encoder,
    cell: &Cell,
    store: &Arc<Store>,
    around: &Surroundings<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Answer, String> {
    let mut config = question.config.clone();
    if question.entry.transforms == TransformsOf::DataSet {
        config.test_transforms = data.about.test_transforms.clone().ok_or_else(|| {
            "the data set's description has no `test_transforms`, and the suite asks for those".to_string()
        })?;
    }
    let out: PathBuf = around
        .out
        .join("cells")
        .join(&cell.encoder)
        .join(&cell.data_set)
        .join(&question.folder);
    let job = Job {
        encoder,
        train: data.train.clone(),
        test: data.test.clone(),
        out: &out,
        shared_features: Some(Arc::clone(store)),
        device: around.device,
        provenance: around.provenance.clone(),
    };
    let say = |error: Error| with_causes(&error);
    let mut plan = Plan::new(&config, &job).map_err(say)?;
    plan.run(progress).map_err(say)?;
    let (outcomes, is_new) = (plan.outcomes(), plan.is_new());
    Ok(Answer {
        outcomes,
        is_new,
        config,
    })
}

/// What a column is called: the protocol, and what tells it from others of its kind.
fn column(protocol: &Protocol) -> String {
    let name = protocol.name();
    match protocol {
        Protocol::KnnDino(config) => format!("{name} k {}", config.headline_neighbors),
        Protocol::KnnVissl(config) => format!("{name} k {}", config.neighbors),
        Protocol::SvmLowShot(config) => format!("{name} k {}", config.headline_positives),
        Protocol::FewShot(config) => format!("{name} {}-way {}-shot", config.ways, config.shots),
        _ => name.to_string(),
    }
}

/// Columns of one name get their config's name, and a number where that is not enough.
fn tell_apart(questions: &mut [Question<'_>]) {
    let names: Vec<String> = questions.iter().map(|question| question.column.clone()).collect();
    let mut taken = BTreeSet::new();
    for (question, name) in questions.iter_mut().zip(&names) {
        if names.iter().filter(|other| *other == name).count() > 1 {
            let stem = Path::new(&question.entry.config)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            question.column = format!("{name} ({stem})");
            let mut number = 2;
            while taken.contains(&question.column) {
                question.column = format!("{name} ({stem} {number})");
                number += 1;
            }
        }
        taken.insert(question.column.clone());
    }
}

#[cfg(test)]
mod tests;
