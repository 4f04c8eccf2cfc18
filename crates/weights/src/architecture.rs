//! Identifies the network of a set of tensors: from their shapes, or by the usual name.

mod name;
mod shapes;
#[cfg(test)]
mod tests;

pub(crate) use name::{Named, named};
pub(crate) use shapes::{Shapes, derived, heads_are_a_guess, heads_unknown, positions};

use backbones::vit::{Initialization, Interpolation, Pooling, Position};
use backbones::{BackboneConfig, VitConfig};

use crate::hint::Hint;
use crate::patterns::matches;

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`backbones::ResNet`].
    ResNet,
    /// [`backbones::Vit`].
    Vit,
}

impl Family {
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::ResNet => "a ResNet",
            Self::Vit => "a ViT",
        }
    }

    /// By parameter names of torchvision's ResNet and timm's ViT. Any block is enough: the comparison with
    /// the network lists other missing or misspelled parameters.
    pub(crate) fn of<N: AsRef<str>>(mut names: impl Iterator<Item = N>) -> Option<Self> {
        names.find_map(|name| match name.as_ref() {
            name if matches("layer1.#.conv#.weight", name) => Some(Self::ResNet),
            name if matches("blocks.#.attn.*", name) => Some(Self::Vit),
            _ => None,
        })
    }
}

/// Properties that a layout's method fixes and its tensors do not show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// Channel statistics of its training.
    pub mean: [f32; 3],
    /// As above.
    pub std: [f32; 3],
    /// A ViT of width 384 has 12 heads instead of 6.
    pub small_has_12_heads: bool,
    /// A ResNet's 3×3 stem may have a padding of 2 pixels, which no shape shows.
    pub small_stem_padded_by_2: bool,
    /// Interpolation of a ViT's positions to other image sizes.
    pub interpolation: Interpolation,
    /// Kind of a ViT's positions in training.
    pub position: Position,
    /// Distribution of a ViT's initial weights.
    pub initialization: Initialization,
    /// Which output of a ViT is the feature.
    pub pooling: Pooling,
    /// Epsilon of a ViT's norms where no description states it; `None`: the usual one.
    pub norm_epsilon: Option<f64>,
    /// Whether such files come with a description (`config.json`), whose lack leaves guesses.
    pub described: bool,
}

/// Reason why a file gives no network.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ArchitectureError {
    /// The missing or impossible part.
    pub reason: String,
    /// The hint, if known.
    pub hint: Option<Hint>,
}

impl From<String> for ArchitectureError {
    fn from(reason: String) -> Self {
        Self { reason, hint: None }
    }
}

/// The network of a usual name, such as `resnet50`, `resnet18-small` or `vit_small_patch16`. What a ViT's name leaves open, such
/// as its positions, is as in `vit`.
///
/// # Errors
/// The name and examples of known ones.
pub fn backbone_named(name: &str, vit: &VitConfig) -> Result<BackboneConfig, String> {
    Ok(match named(name)? {
        Named::ResNet(config) => BackboneConfig::Resnet(config),
        Named::Vit(named) => BackboneConfig::Vit(VitConfig {
            width: named.width,
            depth: named.depth,
            heads: named.heads,
            patch_px: named.patch_px,
            registers: named.registers,
            ..vit.clone()
        }),
    })
}

/// Gives an error for a network that a file of `bytes` bytes and `tensors` tensors cannot hold, before memory
/// is allocated. Its sizes come from a name, or from the file, where a few bytes may claim any shape.
pub(crate) fn check_size(architecture: &BackboneConfig, tensors: usize, bytes: u64) -> Result<(), String> {
    /// For a small file a comparison lists more than this check.
    const ANYWAY: f64 = (64 << 20) as f64;
    /// Tensors per block, and blocks that a file may lack and still get a list of names.
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
    let parameters = architecture.parameter_count();
    // A number takes at least two bytes; tensors that share their bytes may halve that.
    if parameters > bytes as f64 + ANYWAY {
        return refused(format!("about {:.0} million parameters", parameters / 1e6));
    }
    Ok(())
}
