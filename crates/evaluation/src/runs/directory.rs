//! A run directory in, its facts out: config, log, data, scores. Files that are missing or damaged are listed with the others' facts;
//! only the config is needed.

use super::faults::{ENCODER, Evaluations, FACTS, Faults, LOG, Results, read_if_present, without_folder};
use super::paths;
use crate::result::Outcome;
use backbones::BackboneConfig;
use data::{FileError, Licenses, Listing, VIEWS_FILE};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use training::{Alarm, LogLine, MissingSteps};

/// Why a folder could not be read as a run.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No run was started in the folder.
    #[error("`{}` is not a run directory: it holds no `{missing}`", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The missing file.
        missing: &'static str,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The run's config is no TOML.
    #[error("cannot read `{}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
}

impl ReadError {
    /// The reason without the folder, which only this machine has.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotARun { missing, .. } => format!("it is not a run directory: it holds no {missing}"),
            Self::File(error) => without_folder(error),
            Self::Config { reason, .. } => format!("its config.toml cannot be read: {reason}"),
        }
    }
}

/// A folder among several that could not be read as a run.
#[derive(Clone, Debug)]
pub struct DamagedRun {
    /// The folder.
    pub path: PathBuf,
    /// The shortest end of its path that no other run has.
    pub name: String,
    /// The reason, without the folder.
    pub reason: String,
}

/// A training run, from its directory.
#[derive(Clone, Debug)]
pub struct TrainingRun {
    /// The directory.
    pub path: PathBuf,
    /// The shortest end of its path that no other run has.
    pub name: String,
    /// The folder that it lies in.
    folder: PathBuf,
    config_text: String,
    config_table: toml::Table,
    /// Every key of the config and its value as TOML.
    pub(super) config: BTreeMap<String, String>,
    /// `run.json`.
    pub(super) facts: serde_json::Map<String, serde_json::Value>,
    pub(super) lines: Vec<LogLine>,
    /// Steps between the lines that none of them counts.
    pub(super) missing: Vec<MissingSteps>,
    /// `alarms.jsonl`.
    pub(super) alarms: Vec<Alarm>,
    /// Bytes of the log behind its last line break.
    pub(super) unread_bytes: u64,
    /// What is missing or damaged, in words.
    pub(super) faults: Vec<String>,
    /// Numbers of `validation.jsonl`: the step, and the rest by name.
    pub(super) validation: Evaluations,
    pub(super) licenses: Licenses,
    pub(super) listing: Listing,
    /// `.views.jpg`.
    pub(super) views: Option<Vec<u8>>,
    results: Results,
    /// Whether the encoder of the last step is written.
    pub(super) finished: bool,
    /// The step of the newest checkpoint.
    pub(super) checkpoint: Option<usize>,
}

impl TrainingRun {
    pub(super) fn read(path: &Path) -> Result<Self, ReadError> {
        let missing = |missing| ReadError::NotARun {
            path: path.to_owned(),
            missing,
        };
        let config_path = path.join("config.toml");
        let config_text = read_if_present(&config_path)?.ok_or_else(|| missing("config.toml"))?;
        let config_text = String::from_utf8_lossy(&config_text).into_owned();
        let config_table: toml::Table =
            config_text
                .parse()
                .map_err(|error: toml::de::Error| ReadError::Config {
                    path: config_path,
                    reason: error.message().to_owned(),
                })?;
        // A curation has a config too.
        if !path.join(LOG).exists() && !path.join(FACTS).exists() {
            return Err(missing(LOG));
        }
        let mut config = BTreeMap::new();
        flatten("", &toml::Value::Table(config_table.clone()), &mut config);
        let mut faults = Faults::default();
        let facts = faults.facts(path);
        if !path.join(LOG).exists() {
            faults.add(format!("there is no {LOG}: the curves are lost"));
        }
        let log = faults.of_file(training::read_metrics(path));
        faults.0.extend(log.damage());
        let every = config
            .get("training.log_every_steps")
            .and_then(|every| every.parse().ok());
        let missing = every.map_or(vec![], |every| training::missing_steps(&log.lines, every));
        if let Some(words) = training::missing_in_words(&missing) {
            faults.add(format!("{words}: the curves have a gap there"));
        }
        let checkpoint = training::latest_checkpoint(path).ok().flatten();
        let finished = path.join(ENCODER).exists();
        let (alarms, damaged) = faults.of_file(training::read_alarms(path));
        if damaged > 0 {
            faults.add(format!("{damaged} lines of alarms.jsonl cannot be read"));
        }
        let steps = facts.get("steps").and_then(serde_json::Value::as_u64);
        let last = log.lines.last().map_or(0, |line| line.step as u64);
        if let Some(steps) = steps.filter(|steps| finished && path.join(LOG).exists() && last < *steps) {
            faults.add(format!(
                "{LOG} ends at step {last} of {steps}, and the run is finished"
            ));
        }
        let header = faults.header(path, checkpoint.as_ref());
        let listing = facts.get("listing").cloned();
        let results = faults.results(path);
        let validation = faults.validation(path);
        let views = read_if_present(&path.join(VIEWS_FILE));
        Ok(Self {
            name: path.display().to_string(),
            path: path.to_owned(),
            folder: paths::folder_of(path),
            config_text,
            config_table,
            config,
            lines: log.lines,
            missing,
            alarms,
            unread_bytes: log.unread_bytes,
            validation,
            licenses: header.licenses,
            listing: listing
                .and_then(|listing| serde_json::from_value(listing).ok())
                .unwrap_or_default(),
            facts,
            views: faults.of_file(views),
            results,
            finished,
            checkpoint: checkpoint.map(|checkpoint| checkpoint.step),
            faults: faults.0,
        })
    }

    /// The method's name in the config, or `fine-tuning`.
    pub fn method(&self) -> &str {
        let objective = self.config_table.get("objective").and_then(toml::Value::as_table);
        let mut names = objective.into_iter().flatten();
        match (names.next(), names.next()) {
            (Some((name, toml::Value::Table(_))), None) => name,
            _ => "fine-tuning",
        }
    }

    /// The network's usual name.
    pub fn network(&self) -> String {
        let backbone = self.config_table.get("backbone").cloned();
        let read = backbone.and_then(|table| table.try_into::<BackboneConfig>().ok());
        read.map_or_else(|| "another network".to_owned(), |backbone| backbone.name())
    }

    /// A word of the command or a value of the config as a page for others shows it.
    pub(super) fn shown(&self, word: &str) -> String {
        paths::shown(word, &self.folder)
    }

    /// `config.toml` as a page for others shows it.
    pub(super) fn shown_config(&self) -> String {
        let mut texts = vec![];
        collect_texts(&self.config_table, &mut texts);
        paths::all_shown(&self.config_text, texts.into_iter(), &self.folder)
    }

    /// A text of `run.json`.
    pub(super) fn fact(&self, key: &str) -> Option<&str> {
        self.facts.get(key)?.as_str()
    }

    fn count(&self, key: &str) -> Option<f64> {
        self.facts.get(key)?.as_f64().filter(|count| *count > 0.0)
    }

    pub(super) fn seed(&self) -> Option<&str> {
        self.config.get("seed").map(String::as_str)
    }

    /// Steps of the newest line or checkpoint.
    pub(super) fn step(&self) -> usize {
        let of_log = self.lines.last().map_or(0, |line| line.step);
        of_log.max(self.checkpoint.unwrap_or(0))
    }

    /// Steps of the whole run, where known.
    pub(super) fn steps(&self) -> Option<usize> {
        self.count("steps").map(|steps| steps as usize)
    }

    /// Epochs done, where the steps of an epoch are known.
    pub(super) fn epochs(&self) -> Option<f64> {
        Some(self.step() as f64 / self.count("steps_per_epoch")?)
    }

    /// Steps, epochs and hours of each line.
    ///
    /// Hours are those of training: a window's images over its rate, so that pauses between processes do not count.
    pub(super) fn places(&self) -> Vec<[f64; 3]> {
        let per_epoch = self.count("steps_per_epoch").unwrap_or(f64::NAN);
        let images = self.config.get("data.batch_images");
        let images: f64 = images.and_then(|images| images.parse().ok()).unwrap_or(f64::NAN);
        let (mut step, mut skipped, mut hours) = (0, 0, 0.0);
        let place = |line: &LogLine| {
            // The rate counts no images of steps that f16 skipped.
            let now_skipped = line.skipped_steps.unwrap_or(0);
            let steps = line
                .step
                .saturating_sub(step)
                .saturating_sub(now_skipped.saturating_sub(skipped));
            hours += steps as f64 * images / line.images_per_second / 3600.0;
            (step, skipped) = (line.step, now_skipped);
            [step as f64, step as f64 / per_epoch, hours]
        };
        self.lines.iter().map(place).collect()
    }

    /// Hours in training until the newest line.
    pub(super) fn hours(&self) -> Option<f64> {
        self.places()
            .last()
            .map(|[_, _, hours]| *hours)
            .filter(|hours| hours.is_finite())
    }

    /// Images per second over all lines.
    pub(super) fn rate(&self) -> Option<f64> {
        let images: f64 = self.config.get("data.batch_images")?.parse().ok()?;
        let seconds = self.hours()? * 3600.0;
        let steps = self
            .lines
            .last()?
            .step
            .saturating_sub(self.lines.last()?.skipped_steps.unwrap_or(0));
        (seconds > 0.0).then(|| steps as f64 * images / seconds)
    }

    /// The mean of the lines' shares of time that were spent waiting for data.
    pub(super) fn data_wait(&self) -> Option<f64> {
        let sum: f64 = self.lines.iter().map(|line| line.data_wait).sum();
        (!self.lines.is_empty()).then(|| sum / self.lines.len() as f64)
    }

    /// The step and loss of the line with the lowest loss.
    pub(super) fn lowest_loss(&self) -> Option<(usize, f32)> {
        let lines = self.lines.iter().filter(|line| line.loss.is_finite());
        let lowest = lines.min_by(|a, b| a.loss.total_cmp(&b.loss));
        lowest.map(|line| (line.step, line.loss))
    }

    /// The numbers of the newest line, and of the newest evaluation during training.
    pub(super) fn last(&self) -> BTreeMap<String, f64> {
        let mut last: BTreeMap<String, f64> =
            self.lines.last().into_iter().flat_map(LogLine::scalars).collect();
        if let Some((_, numbers)) = self.validation.last() {
            last.extend(numbers.clone());
        }
        last
    }

    /// Scores of the run and of an evaluation within it, each with the file that holds it.
    pub(super) fn scores(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        let results = self.results.iter();
        results.flat_map(|(name, outcomes)| outcomes.iter().map(move |outcome| (*name, outcome)))
    }
}

/// Names of folders: the shortest ends of their paths that tell them apart.
pub(super) fn names(paths: &[PathBuf]) -> Vec<String> {
    let parts = |path: &PathBuf| -> Vec<String> {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        let parts = path.components();
        parts
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let whole: Vec<Vec<String>> = paths.iter().map(parts).collect();
    let ending = |parts: &[String], length: usize| parts[parts.len().saturating_sub(length)..].join("/");
    let longest = whole.iter().map(Vec::len).max().unwrap_or(1);
    let name = |(place, own): (usize, &Vec<String>)| {
        let is_alone = |length: &usize| {
            let name = ending(own, *length);
            whole
                .iter()
                .enumerate()
                .all(|(other, parts)| other == place || ending(parts, *length) != name)
        };
        // The same directory twice has one name.
        ending(own, (1..=longest).find(is_alone).unwrap_or(1))
    };
    whole.iter().enumerate().map(name).collect()
}

/// Every text in a table.
fn collect_texts<'t>(table: &'t toml::Table, found: &mut Vec<&'t str>) {
    for value in table.values() {
        match value {
            toml::Value::String(text) => found.push(text),
            toml::Value::Table(table) => collect_texts(table, found),
            _ => {}
        }
    }
}

/// The keys of a config with dots between their parts, and their values as TOML.
fn flatten(key: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
    let within = |part: &str| match key {
        "" => part.to_owned(),
        key => format!("{key}.{part}"),
    };
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (part, value) in table {
                flatten(&within(part), value, found);
            }
        }
        toml::Value::Array(values) if values.iter().any(toml::Value::is_table) => {
            for (place, value) in values.iter().enumerate() {
                flatten(&within(&place.to_string()), value, found);
            }
        }
        value => {
            found.insert(key.to_owned(), value.to_string());
        }
    }
}
