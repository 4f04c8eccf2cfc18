//! Encoders out of files: our own, and those that other programs wrote.
//!
//! A file is opened ([`Checkpoint`]), its layout recognised ([`crate::layouts`]), its network derived from the tensors'
//! shapes or taken from our own metadata, and every name and shape compared with that network ([`Import::plan`]). Only
//! then are numbers read ([`Import::load`]).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use burn::tensor::{Device, Shape, TensorData};

use crate::architecture::{self, Shapes};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::init::Init;
use crate::layouts::{Part, Recognised, recognise};
use crate::patterns::{matches, matches_any};
use crate::weights::{METADATA_KEY, Mismatch, doubt, is_batch_count, mismatch, replaced, shapes_of, to_f32};
use crate::{Backbone, BackboneConfig, EncoderInfo, Stem, WeightsError};

/// What a user says of a file beyond what it shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// The network by its usual name, as `--backbone`; `None`: as the tensors show.
    pub backbone: Option<String>,
    /// Which of a file's two networks; `None`: the layout's first, which is the one that
    /// the method's paper evaluates, or the student where the layout is of many methods.
    pub part: Option<Part>,
    /// Patterns of parameters that the file may lack; they keep initial values.
    pub allow_missing: Vec<String>,
    /// Patterns of tensors that the file may have and the network has not.
    pub allow_unexpected: Vec<String>,
    /// Channel means of training, red, green, blue, on a scale from 0 to 1; `None`: the layout's.
    pub mean: Option<[f32; 3]>,
    /// Channel deviations of training; `None`: the layout's.
    pub std: Option<[f32; 3]>,
}

/// What would be made of a file.
#[derive(Debug)]
pub struct Import<'a> {
    /// Its layout, and the tensors by the network's names.
    pub recognised: Recognised<'a>,
    /// What the encoder file would say.
    pub info: EncoderInfo,
    /// How it differs from the network, but for what was allowed.
    pub mismatch: Mismatch,
    /// Parameters that keep initial values, as was allowed.
    pub missing: Vec<String>,
    /// Tensors that are left out, as was allowed; sorted.
    pub left_out: Vec<String>,
    backbone: Backbone,
    /// The first pattern that allows nothing.
    idle: Option<WeightsError>,
}

/// Reads an encoder from a file of any known layout onto `device`. On a plain device the backbone is ready to evaluate;
/// `Module::train` makes it trainable.
///
/// # Errors
/// Whatever [`WeightsError`] tells apart: damaged or hostile bytes, no known layout, names and shapes that are not the
/// network's.
pub fn read_encoder<R: Read + Seek>(
    source: &mut R,
    options: &ImportOptions,
    device: &Device,
) -> Result<(Backbone, EncoderInfo), WeightsError> {
    let checkpoint = Checkpoint::open(source)?;
    Import::plan(&checkpoint, options, device)?.load(source)
}

impl<'a> Import<'a> {
    /// Finds out what a file is and compares it with its network. A difference is no error yet: see [`Self::refusal`].
    ///
    /// # Errors
    /// No known layout; a network that Passer does not have.
    pub fn plan(
        checkpoint: &'a Checkpoint,
        options: &ImportOptions,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let named = options.backbone.as_deref().map(architecture::named).transpose();
        let named = named.map_err(WeightsError::Architecture)?;
        let own = checkpoint.metadata.get(METADATA_KEY);
        let own = own
            .map(|info| serde_json::from_str::<EncoderInfo>(info))
            .transpose();
        let own = own.map_err(WeightsError::Metadata)?;

        let family = named.as_ref().map(architecture::Named::family);
        let recognised = recognise(checkpoint, options.part, family)?;
        let mut shapes = recognised
            .tensors
            .iter()
            .filter(|(name, _)| !is_batch_count(name))
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect::<Shapes>();
        let traits = &recognised.layout.traits;
        let mut info = match own {
            Some(mut info) => {
                check_own(&info).map_err(|wrong| WeightsError::Metadata(serde::de::Error::custom(wrong)))?;
                // Whoever names it knows the heads.
                if named.is_some() {
                    info.extra.remove(doubt::HEADS);
                }
                info
            }
            None => {
                let architecture = architecture::derived(&shapes, recognised.family, named.as_ref(), traits)
                    .map_err(WeightsError::Architecture)?;
                let guessed = named.is_none() && architecture::heads_are_a_guess(&architecture);
                let mut info = foreign_info(architecture, &recognised);
                if guessed {
                    info.extra.insert(doubt::HEADS.to_owned(), "guessed".to_owned());
                }
                info
            }
        };
        check_doubts(&info, &recognised, checkpoint, options)?;
        architecture::check_size(&info.architecture, shapes.len(), checkpoint.bytes)
            .map_err(WeightsError::Architecture)?;
        if let Some(mean) = options.mean {
            info.mean = mean;
        }
        if let Some(std) = options.std {
            info.std = std;
        }
        if class_position_is_apart(&info.architecture, &shapes)
            && let Some(positions) = shapes.get_mut("pos_embed")
        {
            positions[1] -= 1;
        }

        let init = if options.allow_missing.is_empty() {
            Init::empty(device)
        } else {
            Init::new(0, device)
        };
        let backbone = info.architecture.init(&init);
        let mut mismatch = mismatch(&backbone, &shapes);
        let (missing, lacking) = mismatch
            .missing
            .into_iter()
            .partition(|name| matches_any(&options.allow_missing, name));
        mismatch.missing = lacking;
        let (left_out, unexpected): (Vec<_>, _) = mismatch
            .unexpected
            .into_iter()
            .partition(|(name, _)| matches_any(&options.allow_unexpected, name));
        mismatch.unexpected = unexpected;
        let left_out = left_out
            .into_iter()
            .map(|(name, _)| name)
            .collect::<BTreeSet<_>>();
        let unexpected = mismatch.unexpected.iter().map(|(name, _)| name);
        let aside = unexpected.chain(&left_out).collect::<BTreeSet<_>>();
        let others = recognised.tensors.iter().filter(|(name, tensor)| {
            !tensor.dtype.is_weight() && !is_batch_count(name) && !aside.contains(name)
        });
        mismatch.types = others
            .map(|(name, tensor)| (name.clone(), tensor.dtype.name().to_owned()))
            .collect();
        let left_out = left_out.into_iter().collect::<Vec<_>>();
        for (what, names) in [(doubt::MISSING, &missing), (doubt::LEFT_OUT, &left_out)] {
            if !names.is_empty() {
                info.extra.insert(what.to_owned(), names.join(" "));
            }
        }
        let idle = idle_pattern(options, &backbone, &left_out, &recognised);
        Ok(Self {
            recognised,
            info,
            mismatch,
            missing,
            left_out,
            backbone,
            idle,
        })
    }

    /// What keeps the weights from being loaded, in words: a difference, or a pattern of `options` that has no use.
    pub fn refusal(&self) -> Option<String> {
        if !self.mismatch.is_empty() {
            // As the error has it.
            return Some(format!(
                "the weights are not those of this network: {}",
                self.mismatch
            ));
        }
        self.idle.as_ref().map(WeightsError::to_string)
    }

    /// Reads the weights from the file that was planned with.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`]; [`WeightsError::Pattern`]; a tensor that cannot be read.
    pub fn load<R: Read + Seek>(self, source: &mut R) -> Result<(Backbone, EncoderInfo), WeightsError> {
        let Self {
            recognised,
            mut info,
            mismatch,
            left_out,
            backbone,
            idle,
            ..
        } = self;
        if !mismatch.is_empty() {
            return Err(WeightsError::Mismatch(Box::new(mismatch)));
        }
        if let Some(idle) = idle {
            return Err(idle);
        }
        if let Some(steps) = batches(&recognised, source)
            && info.steps == 0
        {
            info.steps = steps;
        }
        let mut tensors = BTreeMap::new();
        for (name, tensor) in recognised.tensors {
            if is_batch_count(&name) || left_out.binary_search(&name).is_ok() {
                continue;
            }
            tensors.insert(name, to_f32(tensor.read(source)?));
        }
        let broken = tensors
            .iter()
            .filter(|(_, data)| data.iter::<f32>().any(|number| !number.is_finite()));
        let broken = broken.map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        if broken.is_empty() {
            info.extra.remove(doubt::NOT_FINITE);
        } else {
            info.extra.insert(doubt::NOT_FINITE.to_owned(), broken.join(" "));
        }
        let shapes = tensors
            .iter()
            .map(|(name, data)| (name.clone(), data.shape().to_vec()));
        if class_position_is_apart(&info.architecture, &shapes.collect()) {
            join_class_position(&mut tensors);
        }
        Ok((replaced(backbone, tensors), info))
    }
}

/// The first pattern that a user gave for nothing: of parameters that the network has not, or of tensors none of which is
/// left out. Stars alone say "whatever there is".
fn idle_pattern(
    options: &ImportOptions,
    backbone: &Backbone,
    left_out: &[String],
    recognised: &Recognised<'_>,
) -> Option<WeightsError> {
    let idle = |option, what, patterns: &[String], names: &[&String]| {
        let mut patterns = patterns
            .iter()
            .filter(|pattern| !pattern.chars().all(|c| c == '*'));
        let pattern = patterns.find(|pattern| !names.iter().any(|name| matches(pattern, name)))?;
        Some(WeightsError::Pattern {
            option,
            pattern: pattern.clone(),
            what,
        })
    };
    let network = shapes_of(backbone);
    let parameters = network.keys().collect::<Vec<_>>();
    // Heads and the like are left out without being asked for; to ask is no mistake.
    let aside = left_out.iter().chain(&recognised.dropped).collect::<Vec<_>>();
    idle(
        "--allow-missing",
        "parameter of this network",
        &options.allow_missing,
        &parameters,
    )
    .or_else(|| {
        idle(
            "--allow-unexpected",
            "tensor of the file that the network has not",
            &options.allow_unexpected,
            &aside,
        )
    })
}

/// Whether what a file of ours says of itself can be: anyone may have written it.
fn check_own(info: &EncoderInfo) -> Result<(), String> {
    info.architecture.validate()?;
    let sound = |mean: f32, std: f32| mean.is_finite() && std.is_finite() && std > 0.0;
    if !info
        .mean
        .iter()
        .zip(info.std)
        .all(|(&mean, std)| sound(mean, std))
    {
        return Err(format!(
            "channels have means {:?} and deviations {:?}, expected finite numbers and deviations above 0",
            info.mean, info.std
        ));
    }
    Ok(())
}

/// What is known of a foreign file's training.
fn foreign_info(architecture: BackboneConfig, recognised: &Recognised<'_>) -> EncoderInfo {
    let pixels = match &architecture {
        BackboneConfig::Resnet(config) if config.stem == Stem::Small => 32,
        BackboneConfig::Resnet(_) => 224,
        BackboneConfig::Vit(config) => config.image_px,
    };
    let layout = recognised.layout;
    let mut extra = BTreeMap::from([("layout".to_owned(), layout.name.to_owned())]);
    if let Some(part) = recognised.part {
        extra.insert("part".to_owned(), part.name().to_owned());
    }
    EncoderInfo {
        architecture,
        method: layout.name.to_owned(),
        fingerprint: String::new(),
        licences: String::new(),
        pixels,
        mean: layout.traits.mean,
        std: layout.traits.std,
        steps: 0,
        extra,
    }
}

/// Refuses what is more likely wrong than meant.
fn check_doubts(
    info: &EncoderInfo,
    recognised: &Recognised<'_>,
    checkpoint: &Checkpoint,
    options: &ImportOptions,
) -> Result<(), WeightsError> {
    let name = info.architecture.name();
    if let Some(wanted) = &options.backbone {
        // Of our own files the network is written in them.
        let same = architecture::named(wanted) == architecture::named(&name);
        if checkpoint.is_ours() && !same {
            return Err(WeightsError::Architecture(format!(
                "--backbone {wanted}: the file says that it is {name}"
            )));
        }
    } else if recognised.layout.traits.small_stem_padded_by_2
        && matches!(&info.architecture, BackboneConfig::Resnet(config) if config.stem == Stem::Small)
    {
        return Err(WeightsError::Architecture(format!(
            "solo-learn pads its 3×3 stem by 2 pixels, which is not supported: Passer pads by 1, whose features are other \
             ones, and the weights do not show which; hint: if yours is padded by 1 (torchvision's, lightly's), say \
             --backbone {name}"
        )));
    }
    Ok(())
}

/// The count of batches that made a network's running statistics.
fn batches<R: Read + Seek>(recognised: &Recognised<'_>, source: &mut R) -> Option<u64> {
    let (_, count) = recognised.tensors.iter().find(|(name, _)| is_batch_count(name))?;
    let scalar = |tensor: &&TensorInfo| tensor.elements() == 1;
    let count = Some(*count).filter(scalar)?.read(source).ok()?;
    count
        .iter::<i64>()
        .next()
        .and_then(|count| u64::try_from(count).ok())
}

/// Whether the file keeps a position for the class token where the network has none: DINOv2's files with registers.
fn class_position_is_apart(architecture: &BackboneConfig, shapes: &Shapes) -> bool {
    match architecture {
        BackboneConfig::Vit(config) if config.registers > 0 => {
            architecture::positions(shapes, config.registers).is_ok_and(|(_, of_class)| of_class)
        }
        _ => false,
    }
}

/// Adds the class token's position to it: the network adds none.
fn join_class_position(tensors: &mut BTreeMap<String, TensorData>) {
    let Some(positions) = tensors.remove("pos_embed") else {
        return;
    };
    let shape = positions.shape().to_vec();
    let width = shape[2];
    let positions = positions.iter::<f32>().collect::<Vec<_>>();
    let (of_class, of_patches) = positions.split_at(width);
    // A file that was allowed to lack the token keeps its positions.
    if let Some(class) = tensors.get_mut("cls_token") {
        let joined = class
            .iter::<f32>()
            .zip(of_class)
            .map(|(class, position)| class + position);
        *class = TensorData::new(joined.collect::<Vec<_>>(), class.shape().clone());
    }
    let patches = TensorData::new(of_patches.to_vec(), Shape::from(vec![1, shape[1] - 1, width]));
    tensors.insert("pos_embed".to_owned(), patches);
}
