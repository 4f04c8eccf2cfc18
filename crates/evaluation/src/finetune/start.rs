//! What a fine-tuning starts from: nothing, an encoder, or a whole detector with perhaps other classes.

use crate::encoder::PretrainedOn;
use crate::error::{Error, io};
use backbones::{BackboneConfig, Init};
use burn::tensor::{Device, TensorData};
use data::sha256_of_file;
use detection::rcnn::{self, ClassLayers, RcnnConfig, RcnnFile, TrainedOn};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use training::LoadedEncoder;
use weights::Checkpoint;

/// What a run starts from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Initial weights of everything.
    Scratch,
    /// An encoder is the backbone; all other layers have initial weights.
    Encoder(&'a LoadedEncoder),
    /// All layers of a detector; for detection alone.
    Detector(&'a LoadedDetector),
}

/// A detector's weights from a file, checked against a network.
#[derive(Clone, Debug)]
pub struct LoadedDetector {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub file_hash: String,
    /// Whether its layers of classes were taken: not where its number of classes is another.
    pub class_layers: ClassLayers,
    /// The network's number of classes.
    pub classes: usize,
    /// The data of its training, as far as its file says.
    pub trained_on: TrainedOn,
    /// By torchvision's names.
    pub(super) weights: BTreeMap<String, TensorData>,
}

impl LoadedDetector {
    /// Reads a detector file: torchvision's, or the `detector.safetensors` of a run. If its number of classes is another,
    /// the layers of classes keep their initial weights. `device` holds the network while it is compared.
    ///
    /// # Errors
    /// A file that cannot be read, and all differences between its tensors and the network's.
    pub fn read(path: &Path, network: &RcnnConfig, device: &Device) -> Result<Self, Error> {
        let refused = |error: &dyn std::error::Error| Error::DetectorFile {
            path: path.to_path_buf(),
            // Names come from the file, and a terminal obeys control characters.
            reason: data::terminal::escape(&data::with_causes(error)),
        };
        let mut file = BufReader::new(File::open(path).map_err(io("read", path))?);
        let checkpoint = Checkpoint::open(&mut file).map_err(|error| refused(&error))?;
        if RcnnFile::is_in(&checkpoint) {
            let file = RcnnFile::of(&checkpoint, &mut file).map_err(|error| refused(&error))?;
            file.check_start(network, "detection.network")
                .map_err(Error::Config)?;
        }
        let empty = network.init(&Init::empty(device));
        let class_layers = ClassLayers::of(&empty, &checkpoint);
        let read = rcnn::read(empty, &checkpoint, &mut file, class_layers);
        let mut weights = rcnn::state_dict(&read.map_err(|error| refused(&error))?);
        if class_layers == ClassLayers::Keep {
            weights.retain(|name, _| !rcnn::is_of_classes(name, network));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file_hash: sha256_of_file(path)?.hex(),
            class_layers,
            classes: network.classes,
            trained_on: TrainedOn::of(&checkpoint),
            weights,
        })
    }
}

impl Start<'_> {
    /// The hash for the run's config.
    pub(super) fn hash(&self) -> Option<String> {
        match self {
            Self::Scratch => None,
            Self::Encoder(encoder) => Some(encoder.hash.clone()),
            Self::Detector(detector) => Some(detector.file_hash.clone()),
        }
    }

    /// The encoder, if there is one.
    pub(super) fn encoder(&self) -> Option<&LoadedEncoder> {
        match self {
            Self::Encoder(encoder) => Some(encoder),
            Self::Scratch | Self::Detector(_) => None,
        }
    }

    /// The data that it was trained on, as far as its file says.
    pub(super) fn pretrained_on(&self) -> PretrainedOn {
        match self {
            Self::Scratch => PretrainedOn::default(),
            Self::Encoder(encoder) => PretrainedOn::of(encoder),
            Self::Detector(detector) => PretrainedOn {
                network: "detector",
                fingerprint: detector.trained_on.fingerprint.clone(),
                sample: detector.trained_on.sample.clone(),
            },
        }
    }

    /// A name of the network for results.
    pub(super) fn name(&self, backbone: &BackboneConfig) -> String {
        let backbone = backbone.name();
        match self {
            Self::Scratch => format!("{backbone} from scratch"),
            Self::Encoder(encoder) => format!("{backbone} {}", encoder.info.method),
            Self::Detector(detector) => {
                let file = detector.path.file_name().unwrap_or_default();
                format!("{backbone} from {}", file.to_string_lossy())
            }
        }
    }
}
