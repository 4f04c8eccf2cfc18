//! The errors of an evaluation: one variant for each fault that a user can correct.

use data::{FileError, LockError};
use std::path::{Path, PathBuf};

/// Why an evaluation stopped. Messages are lowercase, name the thing, and say expected and got.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config is readable but cannot be run.
    #[error("evaluation config: {0}")]
    Config(String),

    /// Records could not be opened, read or decoded.
    #[error(transparent)]
    Data(#[from] data::Error),

    /// A result could not be written.
    #[error(transparent)]
    Training(#[from] training::Error),

    /// A file or folder could not be read, written, made or removed.
    #[error(transparent)]
    File(#[from] FileError),

    /// The file is not a features file, or not a whole one.
    #[error("features file `{}`: {reason}", path.display())]
    FeaturesFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// An error of a protocol, with its name before it.
    #[error("{protocol}: {source}")]
    Protocol {
        /// The protocol's name.
        protocol: &'static str,
        /// The error.
        source: Box<Error>,
    },

    /// The file is no `result.json`.
    #[error("`{}` is not a list of results: {reason}", path.display())]
    ResultFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Training and test set are the same records, which makes every score too good.
    #[error("training and test set are the same {records} records")]
    SameRecords {
        /// How many.
        records: usize,
    },

    /// The output belongs to another encoder or to other records.
    #[error("`{}` holds {what} of {stored}, and this is {now}", path.display())]
    Occupied {
        /// The folder or file.
        path: PathBuf,
        /// "results" or "features".
        what: &'static str,
        /// Whose they are.
        stored: String,
        /// Those of this call.
        now: String,
    },

    /// Another process works in the folder, of unfinished features or of a suite; or the folder cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),

    /// There are unfinished features of other work.
    #[error("`{}` holds unfinished features of {stored}", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// What is different about them.
        stored: String,
    },

    /// The protocol trains on augmented images, and there are only features.
    #[error("{protocol} needs the encoder and its images, not features alone")]
    NeedsImages {
        /// The protocol's name.
        protocol: &'static str,
    },

    /// The images of both sets reached the encoder in different ways.
    #[error("training and test features were made with different transforms or normalization")]
    TransformsMismatch,

    /// A number that 16 bit cannot hold.
    #[error("features of record `{key}` at `{tap}` must be within ±65504 for f16, got {value}")]
    AboveF16 {
        /// The place in the network.
        tap: String,
        /// Key of the record.
        key: String,
        /// The number.
        value: f32,
    },

    /// Every record was skipped, or the data set is empty.
    #[error("the {set} set gave no features: it holds no readable record")]
    Empty {
        /// "training" or "test".
        set: &'static str,
    },

    /// A supervised protocol met unlabeled records.
    #[error("the {set} set has no labels, and this protocol needs one class a record")]
    Unlabeled {
        /// "training" or "test".
        set: &'static str,
    },

    /// Labeled and unlabeled records, or classes and sets of classes, in one data set.
    #[error("record `{key}` has {got}, unlike the records before it, which have {expected}")]
    MixedLabels {
        /// The first record that differs.
        key: String,
        /// Its kind of label.
        got: &'static str,
        /// The kind of the records before it.
        expected: &'static str,
    },

    /// Sets of classes where the protocol is defined for one class a record.
    #[error(
        "the {set} set labels a record with a set of classes, and this protocol needs one class a record"
    )]
    LabelSets {
        /// "training" or "test".
        set: &'static str,
    },

    /// The features were stored under other tap names.
    #[error("the {set} features have no tap `{tap}`, they have: {}", found.join(", "))]
    NoTap {
        /// "training" or "test".
        set: &'static str,
        /// The missing tap.
        tap: String,
        /// The taps there are.
        found: Vec<String>,
    },

    /// Train and test features come from different encoders.
    #[error("training features are {train} wide, test features {test}: they come from different encoders")]
    Width {
        /// Width of the training features.
        train: usize,
        /// Width of the test features.
        test: usize,
    },

    /// Train and test features carry different encoder hashes.
    #[error("training features were made by encoder `{train}`, test features by `{test}`")]
    EncoderMismatch {
        /// Hash in the training features.
        train: String,
        /// Hash in the test features.
        test: String,
    },

    /// More or fewer labels than rows: whatever row a label belongs to, a score over them would be of something else.
    #[error("the {set} features have {records} rows and {labels} labels")]
    LabelCount {
        /// "training" or "test".
        set: &'static str,
        /// Labels there are.
        labels: usize,
        /// Rows there are.
        records: usize,
    },

    /// NaN or infinity, which would spread into every score.
    #[error("features of the {set} set: row {row} (record `{key}`) holds NaN or an infinity")]
    NotFinite {
        /// "training", "test" or "data".
        set: &'static str,
        /// The first such row, counted from 0.
        row: usize,
        /// Key of its record.
        key: String,
    },

    /// A test record whose class was never trained on can only be wrong; a score over it would mislead.
    #[error("test record `{key}` is of class {class}, which no training record has")]
    UnknownClass {
        /// The class's name, or its number where there are no names.
        class: String,
        /// Key of the first such record.
        key: String,
    },

    /// A classifier needs something to tell apart.
    #[error("the {set} set must have at least 2 classes, got {classes}")]
    TooFewClasses {
        /// Whose records.
        set: &'static str,
        /// Distinct classes among them.
        classes: usize,
    },

    /// More neighbors than training records.
    #[error("{protocol}: `neighbors` must be at most the {records} training records, got {neighbors}")]
    Neighbors {
        /// The protocol's name.
        protocol: &'static str,
        /// The largest number of neighbors.
        neighbors: usize,
        /// Records in the training set.
        records: usize,
    },

    /// More clusters than records.
    #[error("clustering: `clusters` must be at most the {records} records of the {set} set, got {clusters}")]
    Clusters {
        /// Clusters.
        clusters: usize,
        /// "training" or "test".
        set: &'static str,
        /// Records in it.
        records: usize,
    },

    /// Episodes with more classes than have enough records.
    #[error(
        "few-shot: {ways} classes with {shots} labeled and {queries} other records each are needed, and {classes} have them"
    )]
    Episodes {
        /// Classes in an episode.
        ways: usize,
        /// Labeled records of each.
        shots: usize,
        /// Records of each to classify.
        queries: usize,
        /// Classes with enough records.
        classes: usize,
    },

    /// A class, or its opposite, too small to have a record in each part of a cross-validation.
    #[error(
        "svm-voc07: class {class} has only {records} training records with it or without it, fewer than the {folds} folds"
    )]
    Folds {
        /// The class's name, or its number where there are no names.
        class: String,
        /// Records with it, or without it, whichever are fewer.
        records: usize,
        /// Parts.
        folds: usize,
    },

    /// A class, or its opposite, too small for a low-shot sample.
    #[error(
        "svm-low-shot: k = {positives} needs {needed} training records {kind} class {class}, and there are {records}"
    )]
    Shots {
        /// The class's name, or its number where there are no names.
        class: String,
        /// "with" or "without".
        kind: &'static str,
        /// Records there are.
        records: usize,
        /// Records that the sample takes.
        needed: usize,
        /// The k of the config.
        positives: usize,
    },

    /// The samples take all that a choice could be made on.
    #[error("svm-low-shot: with k = {positives} no training record is left to choose the cost on")]
    NothingHeldOut {
        /// The k of the config.
        positives: usize,
    },

    /// Recall at more records than a query ranks.
    #[error(
        "retrieval: `recall_at` must be at most the {records} records of the {set} set that a query ranks, got {k}"
    )]
    RecallAt {
        /// The k of the config.
        k: usize,
        /// "training" or "test".
        set: &'static str,
        /// Records that a query ranks.
        records: usize,
    },

    /// Every class of the test set has one record.
    #[error("retrieval: no test record has another one of its class, so there is nothing to find")]
    NoMatch,

    /// One record, where pairs are compared.
    #[error("the {set} set must have at least 2 records, got 1")]
    OneRecord {
        /// "training" or "test".
        set: &'static str,
    },

    /// A class too small to hold a record of it out.
    #[error(
        "logistic-regression: class {class} has 1 training record, so none of it can be held out for the choice of C"
    )]
    ValidationSplit {
        /// The class's name, or its number where there are no names.
        class: String,
    },

    /// The same for a grid of linear classifiers.
    #[error(
        "{protocol}: class {class} has 1 training record, so none of it can be held out for the choice of the classifier"
    )]
    HoldOut {
        /// The protocol's name.
        protocol: &'static str,
        /// The class's name, or its number where there are no names.
        class: String,
    },

    /// A list of records that cannot be used.
    #[error("list `{}`: {reason}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The classifier's loss left the range of numbers.
    #[error("{protocol}: the loss became {loss} at step {step} (learning rate {learning_rate:.3e})")]
    Diverged {
        /// The protocol's name.
        protocol: &'static str,
        /// NaN or an infinity.
        loss: f64,
        /// The step, counted from 0.
        step: usize,
        /// The learning rate of that step.
        learning_rate: f64,
    },

    /// The frozen encoder did not stay frozen: a fault of this program, never of the user.
    #[error("the frozen encoder's weights changed from {before} to {after}")]
    EncoderChanged {
        /// Hash of the weights before the probe.
        before: String,
        /// And after it.
        after: String,
    },
}

/// What the user can do about an error; the program words it with its flags and commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// In words: it names records and keys of the config, no flag and no command.
    Text(&'static str),
    /// Free space on the disk and run the same command again, which resumes.
    FreeSpace,
    /// Remove the file, or name another output folder.
    RemoveFile,
    /// Wait for the other process, or name another output folder.
    Wait,
    /// Name another output, or remove what is there.
    OtherOutput,
    /// Give the same arguments to resume, or name another output, or remove the folder.
    SameArguments,
    /// Run the protocol on the encoder and its images, or leave it out.
    UseEncoder,
    /// Extract both features files with one size and one normalization.
    SameTransforms,
    /// Write 32 bit features.
    WriteF32,
    /// Extract the tap, or take it out of the config.
    ExtractTap,
    /// How features files are made, and what those of other programs must hold.
    MakeFeatures,
}

impl Error {
    /// What the user can do about it. Errors of `data` and `training` have hints of their own.
    pub fn hint(&self) -> Option<Hint> {
        Some(match self {
            Self::File(error) | Self::Lock(LockError::File(error)) if error.is_disk_full() => Hint::FreeSpace,
            Self::Protocol { source, .. } => return source.hint(),
            Self::ResultFile { .. } => Hint::RemoveFile,
            Self::Lock(LockError::InUse { .. }) => Hint::Wait,
            Self::Unfinished { .. } => Hint::SameArguments,
            Self::NeedsImages { .. } => Hint::UseEncoder,
            Self::TransformsMismatch => Hint::SameTransforms,
            Self::AboveF16 { .. } => Hint::WriteF32,
            Self::Occupied { .. } => Hint::OtherOutput,
            Self::NoTap { .. } => Hint::ExtractTap,
            Self::FeaturesFile { .. } => Hint::MakeFeatures,
            _ => Hint::Text(self.cure()?),
        })
    }

    /// A cure that names records and keys of the config alone.
    fn cure(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unlabeled { .. } => {
                "use a folder of `CLASS/name.jpg`, shards with `.cls` members, or features with a tensor `labels`"
            }
            Self::MixedLabels { .. } => "label all records or none, and all in one way",
            Self::EncoderMismatch { .. } | Self::Width { .. } => {
                "extract both features files with one encoder"
            }
            Self::NotFinite { .. } => {
                "the encoder diverged in training or its file is damaged; evaluate an earlier checkpoint"
            }
            Self::LabelCount { .. } => "make features and labels from one data set, in one order",
            Self::UnknownClass { .. } => {
                "both sets must share their classes; remove the record, or add its class to the training set"
            }
            Self::SameRecords { .. } => {
                "use records that were held out as test set; to stay within one set, use `retrieval` with `gallery = \"test\"`, `few-shot` with `support = \"test\"`, `clustering` with `fit = \"test\"` or `diagnostics`"
            }
            Self::Neighbors { .. } => "lower `neighbors` in the config, or give more training records",
            Self::Clusters { .. } => "lower `clusters.count` in the config, or give more records",
            Self::Episodes { .. } => "lower `ways`, `shots` or `queries` in the config, or give more records",
            Self::Folds { .. } => "lower `folds` in the config, or add records of this class",
            Self::Shots { .. } => "leave the largest of `positives` out of the config, or add records",
            Self::NothingHeldOut { .. } => "fix the cost in the config (`cost = { fixed = 1.0 }`)",
            Self::RecallAt { .. } => "lower `recall_at` in the config, or give more records",
            Self::NoMatch => "rank the training set (`gallery = \"train\"`), or give more records a class",
            Self::ValidationSplit { .. } => {
                "fix C in the config (`strength = { fixed = 1.0 }`), or add records"
            }
            Self::HoldOut { .. } => "add records of this class, or leave it out of both sets",
            Self::Diverged { .. } => {
                "lower the learning rates (`learning_rate_per_256`, in grids `learning_rates_per_256`); `linear-cached` can also bring the features to scale (`scaling = \"standardize\"`)"
            }
            Self::EncoderChanged { .. } => "this is a fault of the program; please report it",
            _ => return None,
        })
    }
}

impl Error {
    /// The same with the protocol's name before it, where it does not say it itself.
    pub(crate) fn of(self, protocol: &'static str) -> Self {
        if self.to_string().starts_with(protocol) {
            return self;
        }
        Self::Protocol {
            protocol,
            source: Box::new(self),
        }
    }
}

/// For `map_err`: the error of trying `action` at `path`.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let with_path = FileError::new(action, path);
    move |source| Error::File(with_path(source))
}
