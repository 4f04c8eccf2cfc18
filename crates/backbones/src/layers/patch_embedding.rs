//! Images split into patches, each a token.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::{Init, trained};
use crate::precision::{Precision, raise};
use crate::probe::look;

/// A convolution whose stride is its kernel size: patches do not overlap, and each is mapped linearly to a
/// token.
///
/// Dosovitskiy et al., *An image is worth 16×16 words*, 2021, eq. 1, with timm's name for the map (`proj`).
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The map of a patch's pixels.
    pub proj: Projection,
    #[module(skip)]
    precision: Precision,
}

/// The weights of a [`PatchEmbedding`], in a convolution's layout.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[width, 3, patch, patch]`.
    pub weight: Param<Tensor<4>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl PatchEmbedding {
    /// Weight and bias uniform on ±1/√(3·patch²), PyTorch's default for convolutions (`kaiming_uniform_` with
    /// a = √5).
    pub fn new(init: &Init, width: usize, patch: usize) -> Self {
        Self::with_bound(init, width, patch, default_bound(patch))
    }

    /// Weight Xavier-uniform over a patch's pixels and the token's channels, as in MoCo-v3 and MAE; bias as
    /// in [`new`](Self::new).
    pub fn xavier_uniform(init: &Init, width: usize, patch: usize) -> Self {
        let bound = (6.0 / (3 * patch * patch + width) as f64).sqrt();
        Self::with_bound(init, width, patch, bound)
    }

    fn with_bound(init: &Init, width: usize, patch: usize, bound: f64) -> Self {
        let precision = init.precision();
        let init = init.at("proj");
        let weight = init.at("weight").uniform([width, 3, patch, patch], bound);
        let bias = init.at("bias").uniform([width], default_bound(patch));
        Self {
            proj: Projection {
                weight: trained(weight),
                bias: trained(bias),
            },
            precision,
        }
    }

    /// The pixels of each patch, in rows from the top, left to right in each row.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, patches, 3·patch²]`, channel by channel and row by row as in the weight
    ///
    /// # Panics
    /// If the patch does not divide height and width.
    pub fn patches(&self, images: Tensor<4>) -> Tensor<3> {
        let [count, channels, height, width] = images.dims();
        let patch = self.proj.weight.dims()[2];
        assert!(
            height.is_multiple_of(patch) && width.is_multiple_of(patch),
            "patches of {patch} px do not divide images of {width}×{height} px"
        );
        let (rows, columns) = (height / patch, width / patch);
        images
            .reshape([count, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([count, rows * columns, channels * patch * patch])
    }

    /// Tokens of [`patches`](Self::patches): `[images, patches, 3·patch²]` to `[images, patches, width]`.
    pub fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        let pixels = patches.dims()[2];
        let precision = self.precision;
        let weight = precision
            .lower(self.proj.weight.val())
            .reshape([-1, pixels as i64]);
        let bias = precision.lower(self.proj.bias.val());
        let tokens = kernels::linear(precision.lower(patches), weight, Some(bias));
        look(self.proj.weight.id, raise(tokens))
    }
}

/// One over the root of a patch's number of values.
fn default_bound(patch: usize) -> f64 {
    1.0 / ((3 * patch * patch) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn is_a_convolution_whose_kernels_lie_side_by_side() {
        let device = Device::flex();
        let init = Init::new(0, &device);
        let embedding = PatchEmbedding::new(&init, 5, 4);
        let images = init.at("images").normal([2, 3, 8, 12], 1.0);
        let tokens = embedding.embed(embedding.patches(images.clone()));
        assert_eq!(tokens.dims(), [2, 6, 5]);
        let convolved = kernels::conv2d(images, embedding.proj.weight.val(), 4, 0)
            + embedding.proj.bias.val().reshape([1, 5, 1, 1]);
        let difference = tokens - convolved.reshape([2, 5, 6]).swap_dims(1, 2);
        assert!(difference.abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn starts_where_pytorchs_convolution_does() {
        let proj = PatchEmbedding::new(&Init::new(0, &Device::flex()), 64, 16).proj;
        let bound = 1.0 / 768f32.sqrt();
        let weight = proj.weight.val().abs().max().into_scalar::<f32>();
        let bias = proj.bias.val().abs().max().into_scalar::<f32>();
        assert!(weight <= bound && weight > 0.999 * bound, "{weight}");
        assert!(bias <= bound && bias > 0.9 * bound, "{bias}");
    }
}
