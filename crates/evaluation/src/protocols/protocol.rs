//! The trait of a protocol: its settings, its needs, the records that it can run on, and its scores.

use crate::encoder::{Encoder, POOLED, Tap};
use crate::error::Error;
use crate::features::Records;
use crate::progress::Event;
use crate::result::Score;
use crate::solvers::Voting;
use crate::split::Split;
use crate::task::{OneVsRest, Splits, Task};
use burn::tensor::Device;
use data::{LoaderConfig, Transform};

/// A protocol with its settings: one table of a config. Its file describes it completely; `protocols.rs`
/// lists it.
pub(crate) trait Protocol {
    /// Its name in configs and results.
    const NAME: &'static str;

    /// Gives an error that names the key if the settings cannot run on any data. `table` is the settings' place in the
    /// config: `protocols.0.knn-dino`.
    fn validate(&self, table: &str) -> Result<(), String>;

    /// What it reads from the encoder and the records.
    fn needs(&self) -> Needs<'_>;

    /// Gives an error for an encoder that the protocol is not defined for. The presence of the needed taps is
    /// checked elsewhere.
    fn check_encoder(&self, _: &Encoder) -> Result<(), Error> {
        Ok(())
    }

    /// Gives an error for records that the protocol cannot run on, by their number and labels; the rows in
    /// `splits` are empty.
    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        match self.needs().labels {
            LabelsRead::None => Ok(()),
            labels => labels.task(splits).map(|_| ()),
        }
    }

    /// Its scores.
    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error>;

    /// What distinguishes its column in a suite's table from other columns of the same protocol: `k 20`.
    fn variant(&self) -> Option<String> {
        None
    }

    /// The votes of its nearest neighbors, for kNN protocols; reports show their predictions.
    fn voting(&self) -> Option<Voting> {
        None
    }
}

/// What a protocol reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Needs<'a> {
    /// Taps of the network.
    pub(crate) taps: Vec<Tap>,
    /// The taps in stored features: of the test split, and of the train split if `train_features` is set.
    pub(crate) stored_taps: Vec<Tap>,
    /// Whether it reads stored features of the train split.
    pub(crate) train_features: bool,
    /// The images that the protocol runs through the encoder itself.
    pub(crate) images: Option<Images<'a>>,
    /// The labels that it reads.
    pub(crate) labels: LabelsRead,
}

/// Images that a protocol runs through the encoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Images<'a> {
    /// The settings key that holds their transforms.
    pub(crate) key: &'static str,
    pub(crate) transforms: &'a [Transform],
    /// Whether a classifier trains on them, so that test images must give the same number of features.
    pub(crate) trains: bool,
}

/// The labels that a protocol reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelsRead {
    /// None.
    None,
    /// Labels of the test split. The train split may have other classes, or no labels.
    Test,
    /// Labels of both splits, which must hold different records.
    Both,
}

impl LabelsRead {
    /// Labels of both splits if `split` is the train split, else of the test split.
    pub(crate) fn of(split: Split) -> Self {
        match split {
            Split::Train => Self::Both,
            Split::Test => Self::Test,
        }
    }

    /// The pooled features of both splits with these labels.
    pub(crate) fn task(self, splits: Splits<'_>) -> Result<Task<'_>, Error> {
        match self {
            Self::Both => splits.task(POOLED),
            Self::None | Self::Test => splits.within_test(POOLED),
        }
    }
}

impl<'a> Needs<'a> {
    /// The pooled features of both splits.
    pub(crate) fn features(labels: LabelsRead) -> Self {
        Self {
            taps: vec![Tap::Pooled],
            stored_taps: vec![Tap::Pooled],
            train_features: true,
            images: None,
            labels,
        }
    }

    /// Augmented images of the train split, by `train_transforms`, to learn from, and stored features of the
    /// test split.
    pub(crate) fn train_images(transforms: &'a [Transform]) -> Self {
        Self {
            train_features: false,
            images: Some(Images {
                key: "train_transforms",
                transforms,
                trains: true,
            }),
            ..Self::features(LabelsRead::Both)
        }
    }

    /// The same needs at other taps.
    pub(crate) fn at(self, taps: Vec<Tap>) -> Self {
        Self {
            stored_taps: taps.clone(),
            taps,
            ..self
        }
    }
}

/// The inputs of a protocol.
pub(crate) struct Bench<'a> {
    /// Stored features of both splits, at the needed taps; the train split's are empty if they are not
    /// needed.
    pub(crate) splits: Splits<'a>,
    /// The encoder with images; `None` if there are only features.
    pub(crate) pipeline: Option<Pipeline<'a>>,
    /// Device of the encoder's weights, without autodiff.
    pub(crate) device: &'a Device,
    pub(crate) progress: &'a mut dyn FnMut(Event<'_>),
}

/// An encoder and the images of both splits.
#[derive(Clone, Copy)]
pub(crate) struct Pipeline<'a> {
    pub(crate) encoder: &'a Encoder,
    pub(crate) train: &'a Records,
    pub(crate) test: &'a Records,
    /// Transforms of a test image before the encoder.
    pub(crate) test_transforms: &'a [Transform],
    /// How records become batches.
    pub(crate) data: &'a LoaderConfig,
}

impl<'a> Bench<'a> {
    /// The encoder with its images.
    ///
    /// # Errors
    /// [`Error::NeedsImages`] if there are only features.
    pub(crate) fn pipeline(&self, protocol: &'static str) -> Result<Pipeline<'a>, Error> {
        self.pipeline.ok_or(Error::NeedsImages { protocol })
    }

    /// The pooled features of both splits, with the labels that the protocol needs.
    pub(crate) fn task(&self, labels: LabelsRead) -> Result<Task<'a>, Error> {
        labels.task(self.splits)
    }

    /// The pooled features of both splits with binary labels for each class.
    pub(crate) fn one_vs_rest(&self) -> Result<OneVsRest<'a>, Error> {
        self.splits.one_vs_rest(POOLED)
    }
}

/// The result of a protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) scores: Vec<Score>,
    /// Distinct classes; 0 if labels were not read.
    pub(crate) classes: usize,
    /// Unreadable train records, if the protocol read images of the train split itself.
    pub(crate) train_bad_records: Option<usize>,
}

impl Scored {
    /// Scores over stored features.
    pub(crate) fn new(scores: Vec<Score>, classes: usize) -> Self {
        Self {
            scores,
            classes,
            train_bad_records: None,
        }
    }
}
