//! What a detector starts from: nothing, an encoder's backbone, or a whole detector with perhaps other classes.

use super::check_scratch;
use crate::error::{Error, io};
use backbones::{BackboneConfig, Init, state_dict};
use burn::tensor::{Device, TensorData};
use data::sha256_of_file;
use detection::rcnn::{self, ClassLayers, RcnnConfig};
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
    /// The backbone of an encoder; all other layers have initial weights.
    Encoder(&'a LoadedEncoder),
    /// All layers of a detector.
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
    weights: BTreeMap<String, TensorData>,
}

impl LoadedDetector {
    /// Reads a detector file: torchvision's, or the `detector.safetensors` of a run. If its number of classes is another,
    /// the layers of classes keep their initial weights.
    ///
    /// # Errors
    /// A file that cannot be read, and all differences between its tensors and the network's.
    pub fn read(path: &Path, network: &RcnnConfig) -> Result<Self, Error> {
        let refused = |error: &dyn std::error::Error| Error::DetectorFile {
            path: path.to_path_buf(),
            // Names come from the file, and a terminal obeys control characters.
            reason: data::terminal::escape(&data::with_causes(error)),
        };
        let mut file = BufReader::new(File::open(path).map_err(io("read", path))?);
        let checkpoint = Checkpoint::open(&mut file).map_err(|error| refused(&error))?;
        let mut loaded = |class_layers| {
            let empty = network.init(&Init::empty(&Device::default()));
            let read = rcnn::read(empty, &checkpoint, &mut file, class_layers);
            read.map(|network| rcnn::state_dict(&network))
        };
        let (mut weights, class_layers) = match loaded(ClassLayers::Read) {
            Ok(weights) => (weights, ClassLayers::Read),
            Err(_) => (
                loaded(ClassLayers::Keep).map_err(|error| refused(&error))?,
                ClassLayers::Keep,
            ),
        };
        if class_layers == ClassLayers::Keep {
            weights.retain(|name, _| !rcnn::is_of_classes(name));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file_hash: sha256_of_file(path)?.hex(),
            class_layers,
            weights,
        })
    }
}

impl Start<'_> {
    /// The weights by torchvision's names.
    ///
    /// # Errors
    /// An encoder of another network, and frozen layers without weights.
    pub(super) fn weights(&self, network: &RcnnConfig) -> Result<BTreeMap<String, TensorData>, Error> {
        match self {
            Self::Scratch => {
                check_scratch(network).map_err(Error::Config)?;
                Ok(BTreeMap::new())
            }
            Self::Encoder(encoder) => of_encoder(encoder, network),
            Self::Detector(detector) => Ok(detector.weights.clone()),
        }
    }

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

    /// A name for results.
    pub(super) fn name(&self, network: &RcnnConfig) -> String {
        let backbone = BackboneConfig::Resnet(network.backbone.clone());
        match self {
            Self::Scratch => format!("{} from scratch", backbone.name()),
            Self::Encoder(encoder) => format!("{} {}", backbone.name(), encoder.info.method),
            Self::Detector(detector) => {
                let file = detector.path.file_name().unwrap_or_default();
                format!("{} from {}", backbone.name(), file.to_string_lossy())
            }
        }
    }
}

fn of_encoder(encoder: &LoadedEncoder, network: &RcnnConfig) -> Result<BTreeMap<String, TensorData>, Error> {
    let wanted = BackboneConfig::Resnet(network.backbone.clone());
    let BackboneConfig::Resnet(own) = &encoder.info.architecture else {
        return Err(Error::Config(format!(
            "`detection.network.backbone` is {}, and the encoder {}: detectors are built on ResNets so far",
            wanted.name(),
            encoder.info.architecture.name()
        )));
    };
    // How residual branches start says nothing of a trained network.
    let same = (own.depth, own.width, own.stem)
        == (
            network.backbone.depth,
            network.backbone.width,
            network.backbone.stem,
        );
    if !same {
        return Err(Error::Config(format!(
            "`detection.network.backbone` is depth {}, width {}, stem {:?}, and the encoder has {}, {}, {:?}",
            network.backbone.depth,
            network.backbone.width,
            network.backbone.stem,
            own.depth,
            own.width,
            own.stem
        )));
    }
    let named = state_dict(&encoder.backbone).into_iter();
    Ok(named
        .map(|(name, values)| (format!("backbone.body.{name}"), values))
        .collect())
}
