//! Which network a set of tensors is: from their shapes, or by the usual name.

use std::collections::BTreeMap;

use crate::layouts::{Family, Traits};
use crate::vit::{Interpolation, Pooling, VitConfig};
use crate::weights::nearest;
use crate::{BackboneConfig, ResNetConfig, Stem};

/// Shapes by the network's names of its parameters.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// What [`named`] gives: all that a name says, which for a ViT is not all that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    ResNet(ResNetConfig),
    Vit(NamedVit),
}

/// The parts of a ViT that its usual name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedVit {
    width: usize,
    depth: usize,
    heads: usize,
    patch_px: usize,
    registers: usize,
}

impl Named {
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::ResNet(_) => Family::ResNet,
            Self::Vit(_) => Family::Vit,
        }
    }
}

/// A network by its usual name: `resnet50`, `resnet18-w16-small`, `vit_small_patch16`, `vit_small_patch14_reg4_dinov2`,
/// `vit-w64-d6-h4-p4`, as [`BackboneConfig::name`] and timm have them. What follows a dot, and an image size, are passed
/// over.
///
/// # Errors
/// The name and examples of known ones.
pub(crate) fn named(name: &str) -> Result<Named, String> {
    let unknown = || {
        format!(
            "--backbone {name}: no such network; known are resnet18, resnet34, resnet50, resnet101 (with -wWIDTH and \
             -small), vit_tiny|small|base|large|huge_patchPX (with _regN), and vit-wWIDTH-dDEPTH-hHEADS-pPATCH"
        )
    };
    let usual = name.split('.').next().unwrap_or(name);
    let found = resnet(usual)
        .map(Named::ResNet)
        .or_else(|| vit(usual).map(Named::Vit));
    let found = found.ok_or_else(unknown)?;
    let checked = match &found {
        Named::ResNet(config) => config.validate(),
        Named::Vit(vit) if vit.heads == 0 || vit.patch_px == 0 || !vit.width.is_multiple_of(vit.heads) => {
            Err(unknown())
        }
        Named::Vit(_) => Ok(()),
    };
    checked.map(|()| found).map_err(|_| unknown())
}

fn resnet(name: &str) -> Option<ResNetConfig> {
    let mut parts = name.strip_prefix("resnet")?.split('-');
    let mut config = ResNetConfig {
        depth: parts.next()?.parse().ok()?,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
    };
    for part in parts {
        match part.strip_prefix('w') {
            Some(width) => config.width = width.parse().ok()?,
            None if part == "small" => config.stem = Stem::Small,
            None => return None,
        }
    }
    Some(config)
}

fn vit(name: &str) -> Option<NamedVit> {
    if let Some(parts) = name.strip_prefix("vit-") {
        let mut vit = NamedVit {
            width: 0,
            depth: 0,
            heads: 0,
            patch_px: 0,
            registers: 0,
        };
        for part in parts.split('-') {
            let digits = part.find(|c: char| c.is_ascii_digit())?;
            let value = part[digits..].parse().ok()?;
            match &part[..digits] {
                "w" => vit.width = value,
                "d" => vit.depth = value,
                "h" => vit.heads = value,
                "p" => vit.patch_px = value,
                "reg" => vit.registers = value,
                _ => return None,
            }
        }
        return (vit.width > 0 && vit.depth > 0).then_some(vit);
    }
    let mut parts = name
        .strip_prefix("vit_")
        .or_else(|| name.strip_prefix("deit_"))?
        .split('_');
    let (width, depth, heads) = match parts.next()? {
        "tiny" => (192, 12, 3),
        "small" => (384, 12, 6),
        "base" => (768, 12, 12),
        "large" => (1024, 24, 16),
        "huge" => (1280, 32, 16),
        _ => return None,
    };
    let mut vit = NamedVit {
        width,
        depth,
        heads,
        patch_px: parts.next()?.strip_prefix("patch")?.parse().ok()?,
        registers: 0,
    };
    for part in parts {
        match part.strip_prefix("reg") {
            Some(count) => vit.registers = count.parse().ok()?,
            None if part == "dinov2" || part.parse::<usize>().is_ok() => {}
            None => return None,
        }
    }
    Some(vit)
}

/// The network that tensors of these shapes are, or that `named` says.
///
/// # Errors
/// What is missing or impossible. Whether every tensor fits is for the comparison with the network to say.
pub(crate) fn derived(
    shapes: &Shapes,
    family: Family,
    named: Option<&Named>,
    traits: &Traits,
) -> Result<BackboneConfig, String> {
    match (family, named) {
        (_, Some(Named::ResNet(config))) => Ok(BackboneConfig::Resnet(config.clone())),
        (Family::ResNet, _) => derived_resnet(shapes).map(BackboneConfig::Resnet),
        (Family::Vit, named) => {
            let named = named.and_then(|named| match named {
                Named::Vit(vit) => Some(vit),
                Named::ResNet(_) => None,
            });
            derived_vit(shapes, named, traits).map(BackboneConfig::Vit)
        }
    }
}

fn derived_resnet(shapes: &Shapes) -> Result<ResNetConfig, String> {
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
    })
}

/// One more than the largest number that follows `prefix` in a name.
fn count(shapes: &Shapes, prefix: &str) -> usize {
    let number =
        |name: &String| -> Option<usize> { name.strip_prefix(prefix)?.split('.').next()?.parse().ok() };
    shapes
        .keys()
        .filter_map(number)
        .max()
        .map_or(0, |last| last.saturating_add(1))
}

fn derived_vit(shapes: &Shapes, named: Option<&NamedVit>, traits: &Traits) -> Result<VitConfig, String> {
    let (width, patch_px) = match shapes.get("patch_embed.proj.weight").map(Vec::as_slice) {
        Some(&[width, 3, height, patch]) if height == patch && patch > 0 => (width, patch),
        Some(other) => {
            return Err(format!(
                "patch_embed.proj.weight is {other:?}, expected [width, 3, patch, patch]"
            ));
        }
        None => return Err(lacking(shapes, "patch_embed.proj.weight")),
    };
    let registers = shapes
        .get("reg_token")
        .and_then(|shape| shape.get(1).copied())
        .unwrap_or(0);
    let layer_scale = shapes.contains_key("blocks.0.ls1.gamma").then_some(1e-5);
    let grid = positions(shapes, registers)?.0;
    let image_px = grid.checked_mul(patch_px).ok_or("its image size is impossible")?;
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
            heads: heads(&seen, traits)?,
            ..seen
        },
    };
    let config = VitConfig {
        width: vit.width,
        depth: vit.depth,
        heads: vit.heads,
        patch_px: vit.patch_px,
        // A file of another patch size than the name says is shown as what differs, not refused for this.
        image_px: if vit.patch_px == patch_px {
            image_px
        } else {
            grid.saturating_mul(vit.patch_px)
        },
        position: traits.position,
        interpolation: match (traits.interpolation, registers) {
            // DINOv2 interpolates otherwise with registers.
            (Interpolation::Offset, 1..) => Interpolation::Antialiased,
            (interpolation, _) => interpolation,
        },
        registers: vit.registers,
        layer_scale,
        drop_path: 0.0,
        pooling: Pooling::ClassToken,
        initialization: traits.initialization,
    };
    config.validate().map(|()| config)
}

/// Says that a tensor is not there without which nothing can be derived, and what may be it.
fn lacking(shapes: &Shapes, name: &str) -> String {
    // A name that is spelt as others are is no misspelling of this one.
    let near = nearest(name, shapes.keys()).filter(|near| strsim::levenshtein(near, name) <= 2);
    match near {
        Some(near) => format!("1 missing: {name} (near {near}), by which the network is known"),
        None => format!("1 missing: {name}, by which the network is known"),
    }
}

/// Roughly how many numbers a network is made of.
pub(crate) fn numbers(architecture: &BackboneConfig) -> f64 {
    match architecture {
        BackboneConfig::Resnet(config) => {
            let of_width_64 = match config.depth {
                18 => 11.2e6,
                34 => 21.3e6,
                50 => 23.6e6,
                _ => 42.6e6,
            };
            of_width_64 * (config.width as f64 / 64.0).powi(2)
        }
        BackboneConfig::Vit(config) => {
            let (width, patch) = (config.width as f64, config.patch_px as f64);
            let places = (config.image_px as f64 / patch).powi(2) + config.registers as f64;
            12.0 * config.depth as f64 * width.powi(2) + (places + 3.0 * patch.powi(2)) * width
        }
    }
}

/// Refuses a network that a file of `bytes` bytes and `tensors` tensors cannot hold, before memory is taken for it: its
/// sizes come from the file, where a few bytes may claim to be any shape, or from a name.
pub(crate) fn check_size(architecture: &BackboneConfig, tensors: usize, bytes: u64) -> Result<(), String> {
    /// A wrong name for a small file is better answered by a comparison.
    const ANYWAY: f64 = (64 << 20) as f64;
    /// Tensors of a block, and blocks that a file may lack, to be told by name.
    const OF_A_BLOCK: usize = 12;
    const BLOCKS_ANYWAY: usize = 64;
    let refused = |size: String| {
        Err(format!(
            "{} has {size}, too many for this file of {bytes} bytes and {tensors} tensors",
            architecture.name()
        ))
    };
    match architecture {
        BackboneConfig::Vit(config) if config.depth > tensors / OF_A_BLOCK + BLOCKS_ANYWAY => {
            return refused(format!("{} blocks", config.depth));
        }
        _ => {}
    }
    let numbers = numbers(architecture);
    // A number takes two bytes at least; tensors that share their bytes may halve that.
    if numbers > bytes as f64 + ANYWAY {
        return refused(format!("about {:.0} million numbers", numbers / 1e6));
    }
    Ok(())
}

/// Heads are not seen in the tensors: those of the usual sizes, else 64 channels each (see [`heads_are_a_guess`]).
fn heads(vit: &NamedVit, traits: &Traits) -> Result<usize, String> {
    match vit.width {
        384 if traits.small_has_12_heads => Ok(12),
        // ViT-H: 80 channels each.
        1280 => Ok(16),
        width if width > 0 && width.is_multiple_of(64) => Ok(width / 64),
        width => Err(format!(
            "a ViT of width {width}, whose heads cannot be seen; hint: name it, as in --backbone vit-w{width}-d{}-hHEADS-p{}",
            vit.depth, vit.patch_px
        )),
    }
}

/// Whether a ViT's width is of no usual size (Ti, S, B, L, H), so that its heads, where nobody names them, are a guess.
pub(crate) fn heads_are_a_guess(architecture: &BackboneConfig) -> bool {
    match architecture {
        BackboneConfig::Resnet(_) => false,
        BackboneConfig::Vit(config) => ![192, 384, 768, 1024, 1280].contains(&config.width),
    }
}

/// Side of the grid whose positions are kept, and whether there is one for the class token.
///
/// With registers DINOv2 has one and timm has none; consecutive numbers above 1 are never both squares.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouts::LAYOUTS;

    fn traits(layout: &str) -> &'static Traits {
        &LAYOUTS.iter().find(|row| row.name == layout).unwrap().traits
    }

    fn vit_shapes(width: usize, patch: usize, places: usize, registers: usize) -> Shapes {
        let mut shapes = Shapes::from([
            ("patch_embed.proj.weight".to_owned(), vec![width, 3, patch, patch]),
            ("pos_embed".to_owned(), vec![1, places, width]),
            ("cls_token".to_owned(), vec![1, 1, width]),
            ("norm.weight".to_owned(), vec![width]),
        ]);
        for block in 0..12 {
            shapes.insert(format!("blocks.{block}.norm1.weight"), vec![width]);
        }
        if registers > 0 {
            shapes.insert("reg_token".to_owned(), vec![1, registers, width]);
        }
        shapes
    }

    #[test]
    fn every_name_reads_back() {
        for name in [
            "resnet18",
            "resnet50-w128",
            "resnet34-w16-small",
            "vit_small_patch16",
            "vit_tiny_patch8",
            "vit_base_patch14_reg4",
            "vit_huge_patch14",
            "vit_huge_patch16",
            "vit-w64-d6-h4-p4",
            "vit-w384-d12-h12-p16",
            "vit-w32-d2-h2-p4-reg3",
        ] {
            let made = match named(name).unwrap() {
                Named::ResNet(config) => config.name(),
                Named::Vit(vit) => {
                    let places = 1 + 14 * 14;
                    let shapes = vit_shapes(vit.width, vit.patch_px, places, vit.registers);
                    derived_vit(&shapes, Some(&vit), traits("vit")).unwrap().name()
                }
            };
            assert_eq!(made, name);
        }
        let same = |a: &str, b: &str| assert_eq!(named(a).unwrap(), named(b).unwrap());
        same("resnet50.a1_in1k", "resnet50");
        same("deit_small_patch16_224", "vit_small_patch16");
        same("vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch14_reg4");
        for wrong in [
            "",
            "resnet",
            "resnet19",
            "resnet50-x",
            "resnet50-w0",
            "vit",
            "vit_giant_patch14",
            "vit_small",
            "vit_small_patch0",
            "vit_small_patch16_clip",
            "vit-w64-d6-p4",
            "vit-w64-d6-h5-p4",
            "vit-é",
        ] {
            let error = named(wrong).unwrap_err();
            assert!(error.contains("no such network"), "{error}");
        }
    }

    #[test]
    fn sizes_are_estimated_well_enough() {
        let resnet = |depth, width| {
            BackboneConfig::Resnet(ResNetConfig {
                depth,
                width,
                stem: Stem::Imagenet,
                zero_init_residual: false,
            })
        };
        let shapes = vit_shapes(192, 16, 197, 0);
        let vit = BackboneConfig::Vit(derived_vit(&shapes, None, traits("vit")).unwrap());
        for config in [
            resnet(18, 64),
            resnet(34, 32),
            resnet(50, 128),
            resnet(101, 64),
            vit,
        ] {
            let network = config.init(&crate::Init::empty(&burn::tensor::Device::flex()));
            let parameters = match &network {
                crate::Backbone::ResNet(network) => crate::parameters(network),
                crate::Backbone::Vit(network) => crate::parameters(network),
            };
            let exact = parameters
                .iter()
                .map(|parameter| parameter.shape.iter().product::<usize>())
                .sum::<usize>() as f64;
            let ratio = numbers(&config) / exact;
            assert!((0.9..1.1).contains(&ratio), "{}: {ratio}", config.name());
        }
    }

    #[test]
    fn heads_and_image_size_follow_the_usual_rules() {
        let vit = |shapes: &Shapes, layout| derived_vit(shapes, None, traits(layout)).unwrap();
        let small = vit(&vit_shapes(384, 16, 197, 0), "vit");
        assert_eq!((small.heads, small.image_px, small.depth), (6, 224, 12));
        assert_eq!(vit(&vit_shapes(384, 16, 197, 0), "moco_v3").heads, 12);
        assert_eq!(vit(&vit_shapes(768, 16, 197, 0), "moco_v3").heads, 12);
        // ViT-H/14 of timm and MAE.
        let huge = vit(&vit_shapes(1280, 14, 257, 0), "mae");
        assert_eq!((huge.heads, huge.image_px), (16, 224));
        for (width, guessed) in [
            (192, false),
            (384, false),
            (1024, false),
            (1280, false),
            (320, true),
        ] {
            let config = vit(&vit_shapes(width, 16, 197, 0), "vit");
            assert_eq!(
                heads_are_a_guess(&BackboneConfig::Vit(config)),
                guessed,
                "{width}"
            );
        }
        // DINOv2's grid of 37, with registers kept as it does and as timm does.
        let dinov2 = vit(&vit_shapes(1024, 14, 1370, 0), "dinov2");
        assert_eq!(
            (dinov2.heads, dinov2.image_px, dinov2.interpolation),
            (16, 518, Interpolation::Offset)
        );
        for places in [1369, 1370] {
            let registers = vit(&vit_shapes(384, 14, places, 4), "dinov2");
            assert_eq!(
                (registers.image_px, registers.registers, registers.interpolation),
                (518, 4, Interpolation::Antialiased)
            );
        }
    }

    #[test]
    fn what_cannot_be_seen_or_is_none_of_ours_is_said() {
        let refused = |shapes: &Shapes, family| derived(shapes, family, None, traits("vit")).unwrap_err();
        let error = refused(&vit_shapes(96, 16, 197, 0), Family::Vit);
        assert!(error.contains("--backbone vit-w96-d12-hHEADS-p16"), "{error}");
        let error = refused(&vit_shapes(384, 16, 196, 0), Family::Vit);
        assert!(error.contains("196 places"), "{error}");
        let mut shapes = vit_shapes(384, 16, 197, 0);
        shapes.remove("pos_embed");
        assert!(refused(&shapes, Family::Vit).contains("no pos_embed"));
        let mut shapes = Shapes::from([("conv1.weight".to_owned(), vec![64, 3, 7, 7])]);
        for (stage, blocks) in [(1, 3), (2, 8), (3, 36), (4, 3)] {
            shapes.insert(format!("layer{stage}.{}.conv3.weight", blocks - 1), vec![1]);
        }
        shapes.insert("layer1.0.conv3.weight".to_owned(), vec![1]);
        assert!(refused(&shapes, Family::ResNet).contains("[3, 8, 36, 3] bottlenecks"));
        shapes.insert("conv1.weight".to_owned(), vec![64, 1, 7, 7]);
        assert!(refused(&shapes, Family::ResNet).contains("[64, 1, 7, 7]"));
    }
}
