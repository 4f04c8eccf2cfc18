//! Networks by the shapes of their tensors.

use std::collections::BTreeMap;

use backbones::vit::Interpolation;
use backbones::{BackboneConfig, ResNetConfig, Stem, VitConfig};

use super::name::NamedVit;
use super::{ArchitectureError, Family, Named, Traits};
use crate::description::Description;
use crate::hint::Hint;
use crate::patterns::nearest;

/// Shapes by parameter name in the network.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// The network that tensors of these shapes form, or that `named` states. What shapes do not show comes from
/// `description`, else from `traits`.
///
/// # Errors
/// Missing or impossible parts. The later comparison with the network checks that every tensor fits.
pub(crate) fn derived(
    shapes: &Shapes,
    family: Family,
    named: Option<&Named>,
    traits: &Traits,
    description: Option<&Description>,
) -> Result<BackboneConfig, ArchitectureError> {
    match (family, named) {
        (_, Some(Named::ResNet(config))) => Ok(BackboneConfig::Resnet(config.clone())),
        (Family::ResNet, _) => Ok(BackboneConfig::Resnet(derived_resnet(shapes, description)?)),
        (Family::Vit, named) => {
            let named = named.and_then(|named| match named {
                Named::Vit(vit) => Some(vit),
                Named::ResNet(_) => None,
            });
            derived_vit(shapes, named, traits, description).map(BackboneConfig::Vit)
        }
    }
}

fn derived_resnet(shapes: &Shapes, description: Option<&Description>) -> Result<ResNetConfig, String> {
    let stem = shapes.get("conv1.weight").map(Vec::as_slice);
    let (width, kernel) = match stem {
        Some(&[width, 3, kernel, other]) if kernel == other => (width, kernel),
        Some(other) => {
            return Err(format!(
                "conv1.weight is {other:?}, expected [width, 3, 7, 7] or [width, 3, 3, 3]"
            ));
        }
        None => return Err(lacking(shapes, "conv1.weight")),
    };
    let stem = match kernel {
        7 => Stem::Imagenet,
        3 => Stem::Small,
        other => {
            return Err(format!(
                "its first convolution is {other} pixels wide, expected 7 or 3"
            ));
        }
    };
    let blocks = [1, 2, 3, 4].map(|stage| count(shapes, &format!("layer{stage}.")));
    let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
    let depth = match (blocks, bottleneck) {
        ([2, 2, 2, 2], false) => 18,
        ([3, 4, 6, 3], false) => 34,
        ([3, 4, 6, 3], true) => 50,
        ([3, 4, 23, 3], true) => 101,
        (blocks, bottleneck) => {
            let kind = if bottleneck { "bottlenecks" } else { "basic blocks" };
            return Err(format!(
                "a ResNet of {blocks:?} {kind}, which Passer does not have"
            ));
        }
    };
    Ok(ResNetConfig {
        depth,
        width,
        stem,
        zero_init_residual: false,
        stride_in_1x1: bottleneck && description.is_some_and(|description| description.stride_in_1x1),
    })
}

/// One more than the largest number after `prefix` in a name.
fn count(shapes: &Shapes, prefix: &str) -> usize {
    let number =
        |name: &String| -> Option<usize> { name.strip_prefix(prefix)?.split('.').next()?.parse().ok() };
    shapes
        .keys()
        .filter_map(number)
        .max()
        .map_or(0, |last| last.saturating_add(1))
}

pub(super) fn derived_vit(
    shapes: &Shapes,
    named: Option<&NamedVit>,
    traits: &Traits,
    description: Option<&Description>,
) -> Result<VitConfig, ArchitectureError> {
    let (width, patch_px) = match shapes.get("patch_embed.proj.weight").map(Vec::as_slice) {
        Some(&[width, 3, height, patch]) if height == patch && patch > 0 => (width, patch),
        Some(other) => {
            let reason = format!("patch_embed.proj.weight is {other:?}, expected [width, 3, patch, patch]");
            return Err(reason.into());
        }
        None => return Err(lacking(shapes, "patch_embed.proj.weight").into()),
    };
    let registers = shapes
        .get("reg_token")
        .and_then(|shape| shape.get(1).copied())
        .unwrap_or(0);
    let layer_scale = shapes.contains_key("blocks.0.ls1.gamma").then_some(1e-5);
    let grid = positions(shapes, registers)?.0;
    let image_px = grid
        .checked_mul(patch_px)
        .ok_or_else(|| "its image size is impossible".to_owned())?;
    let seen = NamedVit {
        width,
        depth: count(shapes, "blocks."),
        heads: 0,
        patch_px,
        registers,
    };
    let vit = match named {
        Some(named) => named.clone(),
        None => NamedVit {
            heads: match description.and_then(|description| description.heads) {
                Some(heads) => heads,
                None => heads(&seen, traits)?,
            },
            ..seen
        },
    };
    let config = VitConfig {
        width: vit.width,
        depth: vit.depth,
        heads: vit.heads,
        patch_px: vit.patch_px,
        // A file with another patch size than the name states reaches the comparison, which lists the
        // difference.
        image_px: if vit.patch_px == patch_px {
            image_px
        } else {
            grid.saturating_mul(vit.patch_px)
        },
        position: traits.position,
        interpolation: match (traits.interpolation, registers) {
            // DINOv2 uses another interpolation with registers.
            (Interpolation::Offset, 1..) => Interpolation::Antialiased,
            (interpolation, _) => interpolation,
        },
        registers: vit.registers,
        layer_scale,
        drop_path: 0.0,
        pooling: description
            .and_then(|description| description.pooling)
            .unwrap_or(traits.pooling),
        initialization: traits.initialization,
        norm_epsilon: match description.and_then(|description| description.norm_epsilon) {
            Some(epsilon) => (epsilon != VitConfig::USUAL_EPSILON).then_some(epsilon),
            None => traits.norm_epsilon,
        },
    };
    config.validate("backbone.vit")?;
    Ok(config)
}

/// An error for a missing tensor that the derivation needs, with the most similar name.
fn lacking(shapes: &Shapes, name: &str) -> String {
    // A name spelled like others is not a misspelling of this one.
    let near = nearest(name, shapes.keys()).filter(|near| strsim::levenshtein(near, name) <= 2);
    match near {
        Some(near) => format!("1 missing: {name} (near {near}), by which the network is known"),
        None => format!("1 missing: {name}, by which the network is known"),
    }
}

/// The name of a ViT with the placeholder `HEADS` for the number of heads.
pub(crate) fn heads_unknown(width: usize, depth: usize, patch_px: usize) -> String {
    format!("vit-w{width}-d{depth}-hHEADS-p{patch_px}")
}

/// Tensors do not show the heads: the usual sizes' numbers, else 64 channels per head (see
/// [`heads_are_a_guess`]).
fn heads(vit: &NamedVit, traits: &Traits) -> Result<usize, ArchitectureError> {
    match vit.width {
        384 if traits.small_has_12_heads => Ok(12),
        // ViT-H: 80 channels per head.
        1280 => Ok(16),
        width if width > 0 && width.is_multiple_of(64) => Ok(width / 64),
        width => Err(ArchitectureError {
            reason: format!("a ViT of width {width}, whose heads cannot be seen"),
            hint: Some(Hint::NameHeads(heads_unknown(vit.width, vit.depth, vit.patch_px))),
        }),
    }
}

/// Whether a ViT's width differs from the usual sizes (Ti, S, B, L, H), so that its heads are a guess unless
/// the caller names them.
pub(crate) fn heads_are_a_guess(architecture: &BackboneConfig) -> bool {
    match architecture {
        BackboneConfig::Resnet(_) => false,
        BackboneConfig::Vit(config) => ![192, 384, 768, 1024, 1280].contains(&config.width),
    }
}

/// Side of the grid with stored positions, and whether the class token has a position.
///
/// With registers DINOv2 has one and timm has none; of two consecutive numbers above 1, at most one is a
/// square.
pub(crate) fn positions(shapes: &Shapes, registers: usize) -> Result<(usize, bool), String> {
    let count = match shapes.get("pos_embed").map(Vec::as_slice) {
        Some(&[1, count, _]) => count,
        Some(other) => return Err(format!("pos_embed is {other:?}, expected [1, places, width]")),
        None => {
            return Err(
                "no pos_embed: a ViT without learned or stored positions is not one that Passer has"
                    .to_owned(),
            );
        }
    };
    let side = |places: usize| Some(places.isqrt()).filter(|side| *side > 0 && side * side == places);
    if let Some(side) = side(count).filter(|_| registers > 0) {
        return Ok((side, false));
    }
    match side(count.saturating_sub(1)) {
        Some(side) => Ok((side, true)),
        None => Err(format!(
            "pos_embed has {count} places, expected those of a square grid and of the class token: a ViT without a class token, \
             or whose class token has no position (DeiT III), is not supported"
        )),
    }
}
