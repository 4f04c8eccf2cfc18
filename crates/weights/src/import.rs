//! Encoders read from files: this program's, and those of other programs.
//!
//! A file is opened ([`Checkpoint`]) and its layout recognized ([`crate::layouts`]). Its network is derived
//! from the tensors' shapes or read from our own metadata, and every name and shape is compared with that
//! network ([`Import::plan`]). Only then are values read ([`Import::load`]).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use backbones::vit::Pooling;
use backbones::{Backbone, BackboneConfig, Init, Stem, replace_state};
use burn::tensor::{Device, Shape, TensorData};
use data::{ENCODER_KEY, Licenses};

use crate::architecture::{self, ArchitectureError, Named, Shapes};
use crate::description::Description;
use crate::encoder_info::{EncoderInfo, warning};
use crate::error::WeightsError;
use crate::format::Checkpoint;
use crate::hint::Hint;
use crate::layouts::{LayoutError, Recognized, Weight, recognize};
use crate::mismatch::{Mismatch, is_batch_count, mismatch, shapes_of};
use crate::patterns::{matches, matches_any};
use crate::role::Role;

/// Facts that the caller adds to those in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// The network by its usual name; `None`: derived from the tensors.
    pub backbone: Option<String>,
    /// The choice of a file's two networks; `None`: the layout's first, i.e. the one that the method's paper
    /// evaluates, or the student if the layout serves many methods.
    pub role: Option<Role>,
    /// Patterns of parameters that the file may lack; they keep initial values.
    pub allow_missing: Vec<String>,
    /// Patterns of tensors that the file may have and the network lacks.
    pub allow_unexpected: Vec<String>,
    /// Channel means of training, red, green, blue, on a scale from 0 to 1; `None`: the layout's.
    pub mean: Option<[f32; 3]>,
    /// Channel deviations of training; `None`: the layout's.
    pub std: Option<[f32; 3]>,
}

/// The planned import of a file.
#[derive(Debug)]
pub struct Import<'a> {
    /// Its layout, and the tensors by the network's names.
    pub recognized: Recognized<'a>,
    /// Content of the encoder file's description.
    pub info: EncoderInfo,
    /// Its differences from the network, except the allowed ones.
    pub mismatch: Mismatch,
    /// Parameters that keep initial values, as allowed.
    pub missing: Vec<String>,
    /// Ignored tensors, as allowed; sorted.
    pub left_out: Vec<String>,
    backbone: Backbone,
    /// The first pattern that matches nothing.
    useless: Option<WeightsError>,
}

/// Reads an encoder from a file of any known layout onto `device`. On a plain device the backbone is ready to evaluate;
/// `Module::train` makes it trainable.
///
/// # Errors
/// Every variant of [`WeightsError`]: damaged or hostile bytes, no known layout, names and shapes that differ
/// from the network's.
pub fn read_encoder<R: Read + Seek>(
    source: &mut R,
    options: &ImportOptions,
    device: &Device,
) -> Result<(Backbone, EncoderInfo), WeightsError> {
    let checkpoint = Checkpoint::open(source)?;
    Import::plan(&checkpoint, options, device)?.load(source)
}

impl Checkpoint {
    /// Whether Passer wrote it.
    pub fn is_ours(&self) -> bool {
        self.metadata.contains_key(ENCODER_KEY)
    }
}

impl<'a> Import<'a> {
    /// Identifies a file and compares it with its network. Differences are not yet an error: [`Self::load`]
    /// gives it.
    ///
    /// # Errors
    /// No known layout; a network that Passer does not have.
    pub fn plan(
        checkpoint: &'a Checkpoint,
        options: &ImportOptions,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let named = options.backbone.as_deref().map(architecture::named).transpose();
        let named = named.map_err(ArchitectureError::from)?;
        let own = checkpoint.metadata.get(ENCODER_KEY);
        let own = own
            .map(|info| serde_json::from_str::<EncoderInfo>(info))
            .transpose();
        let own = own.map_err(WeightsError::Metadata)?;

        let family = named.as_ref().map(architecture::Named::family);
        let mut description = checkpoint.description.clone();
        let recognized = match (recognize(checkpoint, options.role, family), &description) {
            // The description often names what no row reads.
            (Err(LayoutError::None { .. }), Some(described))
                if described.differs(None, named.is_some()).is_some() =>
            {
                return Err(refused(described.differs(None, named.is_some())));
            }
            (recognized, _) => recognized?,
        };
        let mut shapes = recognized
            .tensors
            .iter()
            .filter(|(name, _)| !is_batch_count(name))
            .map(|(name, tensor)| (name.clone(), tensor.shape()))
            .collect::<Shapes>();
        let traits = &recognized.layout.traits;
        let mut info = match own {
            Some(mut info) => {
                check_own(&info).map_err(|wrong| WeightsError::Metadata(serde::de::Error::custom(wrong)))?;
                // A user who names the network knows its heads.
                if named.is_some() {
                    info.extra.remove(warning::HEADS);
                }
                info
            }
            None => {
                if let Some(described) = &mut description {
                    check_description(described, &recognized, named.as_ref(), &shapes)?;
                }
                let described = description.as_ref();
                let architecture =
                    architecture::derived(&shapes, recognized.family, named.as_ref(), traits, described)?;
                if let Some(contradiction) =
                    described.and_then(|described| described.contradiction(&architecture))
                {
                    return Err(refused(Some(contradiction)));
                }
                let guessed = named.is_none()
                    && described.is_none_or(|described| described.heads.is_none())
                    && architecture::heads_are_a_guess(&architecture);
                let mut info = foreign_info(architecture, &recognized, described);
                if guessed {
                    info.extra.insert(warning::HEADS.to_owned(), "guessed".to_owned());
                }
                let assumed = assumptions(&info, &recognized, described, options);
                if !assumed.is_empty() {
                    info.extra.insert(warning::ASSUMED.to_owned(), assumed);
                }
                info
            }
        };
        check_ambiguity(&info, &recognized, checkpoint, options)?;
        architecture::check_size(&info.architecture, shapes.len(), checkpoint.bytes)
            .map_err(ArchitectureError::from)?;
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
        let others = recognized.tensors.iter().filter(|(name, tensor)| {
            !tensor.dtype().is_weight() && !is_batch_count(name) && !aside.contains(name)
        });
        mismatch.types = others
            .map(|(name, tensor)| (name.clone(), tensor.dtype().name().to_owned()))
            .collect();
        let left_out = left_out.into_iter().collect::<Vec<_>>();
        for (what, names) in [(warning::MISSING, &missing), (warning::LEFT_OUT, &left_out)] {
            if !names.is_empty() {
                info.extra.insert(what.to_owned(), names.join(" "));
            }
        }
        let useless = useless_pattern(options, &backbone, &left_out, &recognized);
        Ok(Self {
            recognized,
            info,
            mismatch,
            missing,
            left_out,
            backbone,
            useless,
        })
    }

    /// Reads the weights from the planned file.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`]; a useless pattern in `options`; a tensor that cannot be read.
    pub fn load<R: Read + Seek>(self, source: &mut R) -> Result<(Backbone, EncoderInfo), WeightsError> {
        let Self {
            recognized,
            mut info,
            mismatch,
            left_out,
            backbone,
            useless,
            ..
        } = self;
        if !mismatch.is_empty() {
            return Err(WeightsError::Mismatch(Box::new(mismatch)));
        }
        if let Some(useless) = useless {
            return Err(useless);
        }
        if let Some(steps) = batches(&recognized, source)
            && info.steps == 0
        {
            info.steps = steps;
        }
        let mut tensors = BTreeMap::new();
        for (name, tensor) in recognized.tensors {
            if is_batch_count(&name) || left_out.binary_search(&name).is_ok() {
                continue;
            }
            tensors.insert(name, tensor.read(source)?);
        }
        let broken = tensors
            .iter()
            .filter(|(_, data)| data.iter::<f32>().any(|number| !number.is_finite()));
        let broken = broken.map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        if broken.is_empty() {
            info.extra.remove(warning::NOT_FINITE);
        } else {
            info.extra
                .insert(warning::NOT_FINITE.to_owned(), broken.join(" "));
        }
        let shapes = tensors
            .iter()
            .map(|(name, data)| (name.clone(), data.shape().to_vec()));
        if class_position_is_apart(&info.architecture, &shapes.collect()) {
            join_class_position(&mut tensors);
        }
        Ok((replace_state(backbone, tensors), info))
    }
}

/// The first useless pattern: it matches no parameter of the network, or no ignored tensor. Stars alone mean
/// "anything".
fn useless_pattern(
    options: &ImportOptions,
    backbone: &Backbone,
    left_out: &[String],
    recognized: &Recognized<'_>,
) -> Option<WeightsError> {
    let first = |patterns: &[String], names: &[&String]| {
        let mut patterns = patterns
            .iter()
            .filter(|pattern| !pattern.chars().all(|c| c == '*'));
        patterns
            .find(|pattern| !names.iter().any(|name| matches(pattern, name)))
            .cloned()
    };
    let network = shapes_of(backbone);
    let parameters = network.keys().collect::<Vec<_>>();
    // Heads and similar tensors are dropped anyway; a pattern for them is valid.
    let aside = left_out.iter().chain(&recognized.dropped).collect::<Vec<_>>();
    let missing = first(&options.allow_missing, &parameters).map(WeightsError::UselessMissing);
    missing.or_else(|| first(&options.allow_unexpected, &aside).map(WeightsError::UselessUnexpected))
}

/// Checks the description in one of our files, because anyone may have written it.
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

/// Known facts about a foreign file's training.
fn foreign_info(
    architecture: BackboneConfig,
    recognized: &Recognized<'_>,
    description: Option<&Description>,
) -> EncoderInfo {
    let pixels = match &architecture {
        BackboneConfig::Resnet(config) if config.stem == Stem::Small => 32,
        BackboneConfig::Resnet(_) => 224,
        BackboneConfig::Vit(config) => config.image_px,
    };
    let layout = recognized.layout;
    let mut extra = BTreeMap::from([("layout".to_owned(), layout.name.to_owned())]);
    if let Some(role) = recognized.role {
        extra.insert("part".to_owned(), role.name().to_owned());
    }
    if let Some(description) = description {
        extra.insert("config_json".to_owned(), description.network());
    }
    EncoderInfo {
        architecture,
        method: layout.name.to_owned(),
        fingerprint: String::new(),
        licenses: Licenses::default(),
        pixels,
        mean: description
            .and_then(|description| description.mean)
            .unwrap_or(layout.traits.mean),
        std: description
            .and_then(|description| description.std)
            .unwrap_or(layout.traits.std),
        steps: 0,
        extra,
    }
}

fn refused(reason: Option<String>) -> WeightsError {
    WeightsError::Description {
        reason: reason.unwrap_or_default(),
        hint: None,
    }
}

/// Gives an error for a description of another network, and adds what timm's name of the network implies.
fn check_description(
    described: &mut Description,
    recognized: &Recognized<'_>,
    named: Option<&Named>,
    shapes: &Shapes,
) -> Result<(), WeightsError> {
    if let Some(reason) = described.differs(Some(recognized.layout.name), named.is_some()) {
        return Err(refused(Some(reason)));
    }
    let contradicted = match (recognized.layout.name, described.pooling) {
        ("vit", Some(Pooling::MeanThenNorm)) => Some("`norm`"),
        ("vit_fc_norm", Some(Pooling::Mean)) => Some("`fc_norm`"),
        _ => None,
    };
    if let Some(norm) = contradicted {
        return Err(refused(Some(format!(
            "`config.json` and the tensors disagree on the pooling: the last norm is named {norm}"
        ))));
    }
    if let Some(architecture) = described.timm_architecture() {
        let width = shapes.get("cls_token").and_then(|shape| shape.last().copied());
        match architecture::named(architecture) {
            Ok(Named::Vit(vit)) if described.heads.is_none() && Some(vit.width()) == width => {
                described.heads = Some(vit.heads());
            }
            Ok(_) => {}
            // Names and shapes of several of timm's networks are those of a plain ResNet or ViT.
            Err(_) if named.is_some() => {}
            Err(_) => {
                return Err(WeightsError::Description {
                    reason: format!(
                        "`config.json` describes {}, which Passer does not know: it may differ from the network that its \
                         names and shapes show",
                        described.network()
                    ),
                    hint: Some(Hint::NameIfPlain),
                });
            }
        }
    }
    if let (Some(Named::Vit(vit)), Some(heads)) = (named, described.heads)
        && vit.heads() != heads
    {
        return Err(WeightsError::Description {
            reason: format!(
                "`config.json` says {heads} heads, and the name given has {}",
                vit.heads()
            ),
            hint: Some(Hint::OmitName),
        });
    }
    Ok(())
}

/// What had to be assumed about a file that comes with a description, where that is missing; empty if nothing.
fn assumptions(
    info: &EncoderInfo,
    recognized: &Recognized<'_>,
    description: Option<&Description>,
    options: &ImportOptions,
) -> String {
    if !recognized.layout.traits.described {
        return String::new();
    }
    let mut assumed = vec![];
    if let BackboneConfig::Vit(config) = &info.architecture
        && description.is_none_or(|description| description.norm_epsilon.is_none())
    {
        assumed.push(format!(
            "norms with epsilon {:e} (`config.json` states it)",
            config.epsilon()
        ));
    }
    let given = options.mean.is_some() && options.std.is_some();
    if !given && description.is_none_or(|description| description.mean.is_none() || description.std.is_none())
    {
        assumed.push("ImageNet's channel statistics (`preprocessor_config.json` states them)".to_owned());
    }
    assumed.join(", ")
}

/// Gives an error for input that is probably a mistake.
fn check_ambiguity(
    info: &EncoderInfo,
    recognized: &Recognized<'_>,
    checkpoint: &Checkpoint,
    options: &ImportOptions,
) -> Result<(), ArchitectureError> {
    let name = info.architecture.name();
    if let Some(given) = &options.backbone {
        // Our own files name their network.
        let same = architecture::named(given) == architecture::named(&name);
        if checkpoint.is_ours() && !same {
            return Err(ArchitectureError {
                reason: format!("the file says that its network is {name}, and the name given is `{given}`"),
                hint: Some(Hint::OmitName),
            });
        }
    } else if recognized.layout.traits.small_stem_padded_by_2
        && matches!(&info.architecture, BackboneConfig::Resnet(config) if config.stem == Stem::Small)
    {
        return Err(ArchitectureError {
            reason: "solo-learn pads its 3×3 stem by 2 pixels, which is not supported: Passer pads by 1, whose features \
                     differ, and the weights do not show which"
                .to_owned(),
            hint: Some(Hint::NameIfPaddedByOne(name)),
        });
    }
    Ok(())
}

/// The number of batches behind a network's running statistics.
fn batches<R: Read + Seek>(recognized: &Recognized<'_>, source: &mut R) -> Option<u64> {
    let (_, count) = recognized.tensors.iter().find(|(name, _)| is_batch_count(name))?;
    let scalar = |tensor: &&Weight<'_>| tensor.elements() == 1;
    let count = Some(count).filter(scalar)?.read(source).ok()?;
    count
        .iter::<i64>()
        .next()
        .and_then(|count| u64::try_from(count).ok())
}

/// Whether the file has a position for the class token and the network has none: DINOv2's files with
/// registers.
fn class_position_is_apart(architecture: &BackboneConfig, shapes: &Shapes) -> bool {
    match architecture {
        BackboneConfig::Vit(config) if config.registers > 0 => {
            architecture::positions(shapes, config.registers).is_ok_and(|(_, of_class)| of_class)
        }
        _ => false,
    }
}

/// Adds the position to the class token, because the network adds none.
fn join_class_position(tensors: &mut BTreeMap<String, TensorData>) {
    let Some(positions) = tensors.remove("pos_embed") else {
        return;
    };
    let shape = positions.shape().to_vec();
    let width = shape[2];
    let positions = positions.iter::<f32>().collect::<Vec<_>>();
    let (of_class, of_patches) = positions.split_at(width);
    // A file that may lack the token keeps its positions.
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
