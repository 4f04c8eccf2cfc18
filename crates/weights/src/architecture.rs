//! Which network a set of tensors is: from their shapes, or by the usual name.

mod name;
mod shapes;
#[cfg(test)]
mod tests;

pub(crate) use name::{Named, named};
pub(crate) use shapes::{Shapes, derived, heads_are_a_guess, heads_unknown, positions};

use backbones::BackboneConfig;
use backbones::vit::{Initialization, Interpolation, Position};

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

    /// By names of parameters, as torchvision's ResNet and timm's ViT have them. Any block will do: the comparison with the
    /// network lists other parameters that are missing or misspelt.
    pub(crate) fn of<N: AsRef<str>>(mut names: impl Iterator<Item = N>) -> Option<Self> {
        names.find_map(|name| match name.as_ref() {
            name if matches("layer1.#.conv#.weight", name) => Some(Self::ResNet),
            name if matches("blocks.#.attn.*", name) => Some(Self::Vit),
            _ => None,
        })
    }
}

/// What a layout's method fixes and its tensors do not show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// Channel statistics of its training.
    pub mean: [f32; 3],
    /// As above.
    pub std: [f32; 3],
    /// A ViT of width 384 has 12 heads instead of 6.
    pub small_has_12_heads: bool,
    /// A ResNet's 3×3 stem may be padded by 2 pixels, which no shape shows.
    pub small_stem_padded_by_2: bool,
    /// How a ViT's positions are brought to other image sizes.
    pub interpolation: Interpolation,
    /// What a ViT's positions were in training.
    pub position: Position,
    /// Where a ViT's weights started.
    pub initialization: Initialization,
}

/// Why no network can be made of a file.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ArchitectureError {
    /// What is missing or impossible.
    pub reason: String,
    /// The cure, where it is known.
    pub hint: Option<Hint>,
}

impl From<String> for ArchitectureError {
    fn from(reason: String) -> Self {
        Self { reason, hint: None }
    }
}

/// Refuses a network that a file of `bytes` bytes and `tensors` tensors cannot hold, before memory is taken for it: its
/// sizes come from the file, where a few bytes may claim to be any shape, or from a name.
pub(crate) fn check_size(architecture: &BackboneConfig, tensors: usize, bytes: u64) -> Result<(), String> {
    /// For a small file a comparison names more than this check.
    const ANYWAY: f64 = (64 << 20) as f64;
    /// Tensors of a block, and blocks that a file may lack, so that they are listed by name.
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
    let parameters = architecture.numbers().1;
    // A number takes two bytes at least; tensors that share their bytes may halve that.
    if parameters > bytes as f64 + ANYWAY {
        return refused(format!("about {:.0} million numbers", parameters / 1e6));
    }
    Ok(())
}
