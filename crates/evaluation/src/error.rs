//! The errors of an evaluation: one variant for each fault that a user can correct.

mod slices;

pub use slices::SliceFault;

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

    /// A file or folder could not be read, written, created or removed.
    #[error(transparent)]
    File(#[from] FileError),

    /// The file is not a complete features file.
    #[error("features file `{}`: {reason}", path.display())]
    FeaturesFile {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// A key with a line break, which a file with a key per line cannot hold.
    #[error("the key {0:?} has a line break, which `keys.txt` cannot hold")]
    LineBreak(String),

    /// The file holds one of several slices, not all records.
    #[error("`{}` holds slice {number} of {count} alone", path.display())]
    OneSlice {
        /// The file.
        path: PathBuf,
        /// The slice, from 1.
        number: usize,
        /// The number of slices.
        count: usize,
    },

    /// The slices in a folder are not one features file.
    #[error("folder `{}`: {fault}", folder.display())]
    Slices {
        /// The folder.
        folder: PathBuf,
        /// The fault.
        fault: SliceFault,
    },

    /// There are more slices than batches.
    #[error("{} make {} of {}, too few for {}", data::counted(*records, "record"), data::counted(*batches, "batch"), data::counted(*batch_images, "image"), data::counted(*count, "slice"))]
    TooManySlices {
        /// Records of the data set.
        records: usize,
        /// Batches of the data set.
        batches: usize,
        /// Images in a batch.
        batch_images: usize,
        /// The number of slices.
        count: usize,
    },

    /// An error of a protocol, prefixed with the protocol's name.
    #[error("{protocol}: {source}")]
    Protocol {
        /// The protocol's name.
        protocol: &'static str,
        /// The error.
        source: Box<Error>,
    },

    /// A file does not hold the config's detector.
    #[error("detector `{}`: {reason}", path.display())]
    DetectorFile {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// Results of a detector cannot be compared with the truth.
    #[error("the detections cannot be scored: {0}")]
    Metrics(#[from] detection::metrics::MetricsError),

    /// The file is not a `result.json`.
    #[error("`{}` is not a list of results: {reason}", path.display())]
    ResultFile {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// Training and test set hold the same records, so every score would be too high.
    #[error("training and test set are the same {records} records")]
    SameRecords {
        /// Number of shared records.
        records: usize,
        /// Whether a protocol compares them, of which some work within one set; fine-tuning does not.
        by_protocol: bool,
    },

    /// A fine-tuning to resume whose earlier evaluations are lost.
    #[error("`{}` must have {expected} evaluations up to step {step}, got {found}: the others are lost", path.display())]
    CurveCut {
        /// The file.
        path: PathBuf,
        /// Lines in it.
        found: usize,
        /// Evaluations that the run did.
        expected: usize,
        /// The step of the newest checkpoint.
        step: usize,
    },

    /// More test images are copies of training images than the config allows.
    #[error("{shared} of {records} test images lie in the training set too ({example}){limit}")]
    SharedRecords {
        /// Test records whose image is in the training set.
        shared: usize,
        /// Test records.
        records: usize,
        /// One of them, in words.
        example: String,
        /// The exceeded limit, in words; empty for a test set without any new image.
        limit: String,
    },

    /// The encoder saw the test images in its pretraining, and the config limits shared images.
    #[error("{seen}, more than `max_shared_fraction` = {most} allows")]
    PretrainedOnTest {
        /// On how many test images it was pretrained, in words.
        seen: String,
        /// The limit of the config.
        most: f64,
    },

    /// The classes of one set are known by name and those of the other by number.
    #[error(
        "the {named} set names its classes ({names}), and the {numbered} set only numbers them: {reading}"
    )]
    NamesBesideNumbers {
        /// The set with names: "training" or "test".
        named: &'static str,
        /// The set with numbers.
        numbered: &'static str,
        /// The first names.
        names: String,
        /// The ways to read a number.
        reading: String,
    },

    /// The output belongs to another encoder or to other records.
    #[error("`{}` holds {what} of {stored}, and this is {now}", path.display())]
    Occupied {
        /// The folder or file.
        path: PathBuf,
        /// "results" or "features".
        what: &'static str,
        /// Identity of the stored output.
        stored: String,
        /// Identity in this call.
        now: String,
    },

    /// Another process works in the folder (unfinished features or a suite), or the folder cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),

    /// Unfinished features of other work exist.
    #[error("`{}` holds unfinished features of {stored}", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// How the stored work differs.
        stored: String,
    },

    /// The protocol trains on augmented images, but only features are available.
    #[error("{protocol} needs the encoder and its images, not features alone")]
    NeedsImages {
        /// The protocol's name.
        protocol: &'static str,
    },

    /// The images of the two sets reached the encoder by different transforms.
    #[error("training and test features were made with different transforms or normalization")]
    TransformsMismatch,

    /// A value above the largest of f16.
    #[error("features of record `{key}` at `{tap}` must be within ±65504 for f16, got {value}")]
    AboveF16 {
        /// The tap.
        tap: String,
        /// Key of the record.
        key: String,
        /// The value.
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

    /// Labeled and unlabeled records, or single classes and sets of classes, in one data set.
    #[error("record `{key}` has {got}, unlike the records before it, which have {expected}")]
    MixedLabels {
        /// The first record that differs.
        key: String,
        /// Its kind of label.
        got: &'static str,
        /// The kind of the records before it.
        expected: &'static str,
    },

    /// Sets of classes where the protocol needs one class per record.
    #[error(
        "the {set} set labels a record with a set of classes, and this protocol needs one class a record"
    )]
    LabelSets {
        /// "training" or "test".
        set: &'static str,
    },

    /// The features were stored under other tap names.
    #[error(
        "the {set} features have no tap `{tap}`, they have: {}",
        data::names::listed(found)
    )]
    NoTap {
        /// "training" or "test".
        set: &'static str,
        /// The missing tap.
        tap: String,
        /// The taps in the file.
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

    /// Labels and rows differ in number, so a label's row is unknown.
    #[error("the {set} features have {records} rows and {labels} labels")]
    LabelCount {
        /// "training" or "test".
        set: &'static str,
        /// Number of labels.
        labels: usize,
        /// Number of rows.
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

    /// A test record of a class without training records can never be classified correctly, so the score
    /// would mislead.
    #[error(
        "test record `{key}` is of class {class}, which no training record has{}",
        alike(near)
    )]
    UnknownClass {
        /// The class's name, or its index if classes have no names.
        class: String,
        /// Key of the first such record.
        key: String,
        /// A class of the training set whose name differs in spelling alone.
        near: Option<String>,
    },

    /// A classifier needs at least two classes.
    #[error("the {set} set must have at least 2 classes, got {classes}")]
    TooFewClasses {
        /// The set that the records belong to.
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

    /// Fewer classes with enough records than an episode needs.
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

    /// A class has too few records, or too few without it, for every fold of a cross-validation.
    #[error(
        "svm-voc07: class {class} has only {records} training records with it or without it, fewer than the {folds} folds"
    )]
    Folds {
        /// The class's name, or its index if classes have no names.
        class: String,
        /// Records with the class or without it, the smaller number.
        records: usize,
        /// Number of folds.
        folds: usize,
    },

    /// A class has too few records, or too few without it, for a low-shot sample.
    #[error(
        "svm-low-shot: k = {positives} needs {needed} training records {kind} class {class}, and there are {records}"
    )]
    Shots {
        /// The class's name, or its index if classes have no names.
        class: String,
        /// "with" or "without".
        kind: &'static str,
        /// Available records.
        records: usize,
        /// Records that the sample takes.
        needed: usize,
        /// The k of the config.
        positives: usize,
    },

    /// The samples leave no records to choose the cost on.
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

    /// Every class of the test set has only one record.
    #[error("retrieval: no test record has another one of its class, so there is nothing to find")]
    NoMatch,

    /// A single record where pairs are compared.
    #[error("the {set} set must have at least 2 records, got 1")]
    OneRecord {
        /// "training" or "test".
        set: &'static str,
    },

    /// A class too small to hold out a record.
    #[error(
        "logistic-regression: class {class} has 1 training record, so none of it can be held out for the choice of C"
    )]
    ValidationSplit {
        /// The class's name, or its index if classes have no names.
        class: String,
    },

    /// The same error for a grid of linear classifiers.
    #[error(
        "{protocol}: class {class} has 1 training record, so none of it can be held out for the choice of the classifier"
    )]
    HoldOut {
        /// The protocol's name.
        protocol: &'static str,
        /// The class's name, or its index if classes have no names.
        class: String,
    },

    /// An unusable list of records.
    #[error("list `{}`: {reason}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// The classifier's loss became NaN or infinite.
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

    /// The frozen encoder changed: always a bug in this program.
    #[error("the frozen encoder's weights changed from {before} to {after}")]
    EncoderChanged {
        /// Hash of the weights before the probe.
        before: String,
        /// Hash of the weights after the probe.
        after: String,
    },
}

/// The known class that an unknown one resembles, in words.
fn alike(near: &Option<String>) -> String {
    let words = |name: &String| format!("; the training set has `{name}`");
    near.as_ref().map(words).unwrap_or_default()
}

/// What the user can do about an error; the program words the hint with its flags and commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Text that names records and config keys, but no flag or command.
    Text(&'static str),
    /// Free space on the disk and run the same command again, which resumes.
    FreeSpace,
    /// Remove the file, or name another output folder.
    RemoveFile,
    /// Wait for the other process, or name another output folder.
    Wait,
    /// Name another output, or remove the existing one.
    OtherOutput,
    /// Give the same arguments to resume, or name another output, or remove the folder.
    SameArguments,
    /// Run the protocol on the encoder and its images, or remove the protocol.
    UseEncoder,
    /// Extract both features files with one size and one normalization.
    SameTransforms,
    /// Write 32 bit features.
    WriteF32,
    /// Write another format, whose keys may hold anything, or rename the record.
    OtherFormat,
    /// Extract the tap, or remove it from the config.
    ExtractTap,
    /// How to make features files, and what features files of other programs must hold.
    MakeFeatures,
    /// Give the folder of all slices.
    GiveFolder(PathBuf),
    /// Fewer slices, or smaller batches.
    FewerSlices,
    /// Extract slices into the folder.
    MakeSlices(PathBuf),
    /// Extract this slice into the folder, after removing the file if there is one.
    MakeSlice {
        /// The folder.
        folder: PathBuf,
        /// The slice, from 1.
        number: usize,
        /// The number of slices.
        count: usize,
        /// The file in its place.
        remove: Option<PathBuf>,
    },
    /// Name another folder, or remove this slice, which is of other work.
    OtherFolder(PathBuf),
    /// Move the file out of the folder of slices.
    RemoveFromFolder(PathBuf),
}

impl Error {
    /// What the user can do about the error. Errors of `data` and `training` have hints of their own.
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
            Self::LineBreak(_) => Hint::OtherFormat,
            Self::Occupied { .. } => Hint::OtherOutput,
            Self::NoTap { .. } => Hint::ExtractTap,
            Self::FeaturesFile { .. } => Hint::MakeFeatures,
            Self::OneSlice { path, .. } => {
                Hint::GiveFolder(path.parent().unwrap_or(Path::new("")).to_path_buf())
            }
            Self::TooManySlices { .. } => Hint::FewerSlices,
            Self::Slices { folder, fault } => fault.hint(folder),
            _ => Hint::Text(self.cure()?),
        })
    }

    /// A hint that names only records and config keys.
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
            Self::SharedRecords { .. } => {
                "remove these records from one of the two sets; `max_shared_fraction` in the config (in `[objective]` of a fine-tuning, in `[detection]` of a detector's) sets the share that is accepted"
            }
            Self::PretrainedOnTest { .. } => {
                "evaluate on images that were held out of the pretraining, or raise `max_shared_fraction` in the config (in `[objective]` of a fine-tuning, in `[detection]` of a detector's)"
            }
            Self::NamesBesideNumbers { .. } => {
                "give both sets names, in the order of their numbers: `classes = [..]` in a data-set description or in the `dataset.toml` beside shards (docs/formats.md)"
            }
            Self::UnknownClass { near: Some(_), .. } => "give the class one spelling in both sets",
            Self::UnknownClass { .. } => {
                "both sets must share their classes; remove the record, or add its class to the training set"
            }
            Self::SameRecords {
                by_protocol: false, ..
            } => "use records that were held out of the training set as test set",
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
            Self::CurveCut { .. } => {
                "without them the best network is not known: put the file back from a copy, or start again in another run directory"
            }
            Self::EncoderChanged { .. } => "this is a fault of the program; please report it",
            _ => return None,
        })
    }
}

impl Error {
    /// The same error prefixed with the protocol's name, unless the message already holds it.
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

/// For `map_err`: an error for a failed `action` at `path`.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let with_path = FileError::new(action, path);
    move |source| Error::File(with_path(source))
}
