//! The steps of a detector on the host: anchors, box deltas, matching with true boxes, sampling, masks in a photo; and
//! RoIAlign over the levels of a pyramid. Boxes in, boxes and indices out.

mod anchors;
mod coder;
mod matcher;
mod paste;
mod pooling;
mod sampler;

pub use anchors::{AnchorConfig, AnchorOrder, AnchorStrides};
pub use coder::BoxCoder;
pub use matcher::{Match, MatcherConfig};
pub use paste::{Paste, paste, pasted_rle};
pub use pooling::{Pooled, PoolingConfig, Pyramid};
pub use sampler::{Choose, ImageDraws, SamplerConfig, Samples};

#[cfg(test)]
pub(crate) mod parity;
