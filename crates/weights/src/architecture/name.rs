//! Networks by their usual names in timm and Passer.

use backbones::{ResNetConfig, Stem};

use super::Family;

/// The result of [`named`]: all that a name states, which for a ViT is incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    ResNet(ResNetConfig),
    Vit(NamedVit),
}

/// The parts of a ViT that its usual name states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedVit {
    pub(super) width: usize,
    pub(super) depth: usize,
    pub(super) heads: usize,
    pub(super) patch_px: usize,
    pub(super) registers: usize,
}

impl NamedVit {
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn heads(&self) -> usize {
        self.heads
    }
}

impl Named {
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::ResNet(_) => Family::ResNet,
            Self::Vit(_) => Family::Vit,
        }
    }
}

/// A network by its usual name: `resnet50`, `resnet18-w16-small`, `vit_small_patch16`,
/// `vit_small_patch14_reg4_dinov2`, `vit-w64-d6-h4-p4`, in the forms of
/// [`BackboneConfig::name`](backbones::BackboneConfig::name) and timm. Text after a dot, and an image size,
/// are ignored.
///
/// # Errors
/// The name and examples of known ones.
pub(crate) fn named(name: &str) -> Result<Named, String> {
    let unknown = || {
        format!(
            "no such network as `{name}`; known are resnet18, resnet34, resnet50, resnet101 (with -wWIDTH, \
             -small and, with bottlenecks that stride in the first 1x1 convolution, -caffe), vit_tiny|small|base|large|huge_patchPX (with _regN), and vit-wWIDTH-dDEPTH-hHEADS-pPATCH"
        )
    };
    let usual = name.split('.').next().unwrap_or(name);
    let found = resnet(usual)
        .map(Named::ResNet)
        .or_else(|| vit(usual).map(Named::Vit));
    let found = found.ok_or_else(unknown)?;
    let checked = match &found {
        Named::ResNet(config) => config.validate("backbone.resnet"),
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
        stride_in_1x1: false,
    };
    for part in parts {
        match part.strip_prefix('w') {
            Some(width) => config.width = width.parse().ok()?,
            None if part == "small" => config.stem = Stem::Small,
            None if part == "caffe" => config.stride_in_1x1 = true,
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
