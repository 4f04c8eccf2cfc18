//! A region's features in, a mask for each class out; and its loss.

use backbones::layers::{Conv2d, Conv2dConfig, RoiAlign, TransposedConv2d, relu, roi_align_plane};
use backbones::precision::raise;
use backbones::{Context, Init};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use rayon::prelude::*;

use super::block::{Block, block, forward_relu};
use super::config::{MaskHeadConfig, MaskTarget, RcnnConfig, WeightRule};
use super::losses::{binary_cross_entropy, download, upload};
use crate::BoundingBox;

/// The true mask of an object, in the image that the network sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueMask {
    /// Height and width, px.
    pub size: [usize; 2],
    /// 1 where the object is, else 0, row by row.
    pub pixels: Vec<u8>,
}

/// The two last layers.
#[derive(Module, Debug)]
pub struct MaskPredictor {
    /// Twice the size.
    pub conv5_mask: TransposedConv2d,
    /// A mask for each class.
    pub mask_fcn_logits: Conv2d,
}

/// The convolutions before them; Kaiming-normal, biases 0.
pub(super) fn convolutions(config: &MaskHeadConfig, inputs: usize, init: &Init) -> Vec<Block> {
    let mut inputs = inputs;
    let each = config.channels.iter().enumerate().map(|(index, channels)| {
        let draw = |config: Conv2dConfig, init: &Init| config.init(init);
        let shape = [inputs, *channels, 3];
        inputs = *channels;
        block(&init.at(&index.to_string()), shape, config.norm, draw)
    });
    each.collect()
}

impl MaskPredictor {
    /// `inputs`: channels of the region's features, where no convolution lies between.
    pub(super) fn new(config: &MaskHeadConfig, inputs: usize, slots: usize, init: &Init) -> Self {
        let inputs = config.channels.last().copied().unwrap_or(inputs);
        let logits = Conv2dConfig {
            bias: true,
            ..Conv2dConfig::same(config.width, slots, 1, 1)
        };
        let of_logits = init.at("mask_fcn_logits");
        Self {
            conv5_mask: TransposedConv2d::new(&init.at("conv5_mask"), inputs, config.width, 2),
            mask_fcn_logits: match config.weights {
                WeightRule::Torchvision => logits.init(&of_logits),
                WeightRule::Detectron2 => logits.init_normal(&of_logits, 0.001),
            },
        }
    }
}

/// `[regions, channels, pooled, pooled]` to logits `[regions, slots, side · side]`, in f32.
pub(super) fn forward(
    convolutions: &[Block],
    predictor: &MaskPredictor,
    x: Tensor<4>,
    context: &Context,
) -> Tensor<3> {
    let x = convolutions
        .iter()
        .fold(x, |x, block| forward_relu(block, x, context));
    let x = predictor
        .mask_fcn_logits
        .forward(relu(predictor.conv5_mask.forward(x)));
    raise(x).flatten(2, 3)
}

/// The masks of one channel for each region: `[regions, side · side]`. A product, because a gathering would be slow to
/// differentiate on GPUs.
fn of_slots(logits: Tensor<3>, slots: &[usize]) -> Tensor<2> {
    let [regions, channels, pixels] = logits.dims();
    let mut one_hot = vec![0.0; regions * channels];
    for (region, slot) in slots.iter().enumerate() {
        one_hot[region * channels + slot] = 1.0;
    }
    let one_hot = upload(one_hot, [regions, 1, channels], &logits.device());
    one_hot.matmul(logits).reshape([regions, pixels])
}

/// The mean binary cross-entropy of the pixels of each region's own class.
///
/// `targets`: the region's box, channel and true mask, in the order of the rows of `logits`.
pub(super) fn loss(
    logits: Tensor<3>,
    targets: &[(BoundingBox, usize, &TrueMask)],
    config: &MaskHeadConfig,
) -> Tensor<1> {
    let [regions, _, pixels] = logits.dims();
    let side = pixels.isqrt();
    let wanted = targets
        .par_iter()
        .flat_map_iter(|(bounds, _, mask)| target(bounds, mask, side, config.target));
    let wanted = wanted.collect::<Vec<f32>>();
    let slots: Vec<usize> = targets.iter().map(|(_, slot, _)| *slot).collect();
    let device = logits.device();
    let own = of_slots(logits, &slots);
    let ones = Tensor::ones([regions, pixels], &device);
    binary_cross_entropy(own, upload(wanted, [regions, pixels], &device), ones) / (regions * pixels) as f64
}

/// The target of one region: `[side · side]`.
fn target(bounds: &BoundingBox, mask: &TrueMask, side: usize, rule: MaskTarget) -> Vec<f32> {
    let settings = RoiAlign {
        scale: 1.0,
        output: side,
        sampling_ratio: 0,
        aligned: rule == MaskTarget::Thresholded,
    };
    let pooled = roi_align_plane(&mask.pixels, mask.size, bounds.edges(), &settings);
    match rule {
        MaskTarget::Pooled => pooled,
        MaskTarget::Thresholded => pooled.iter().map(|v| f32::from(*v >= 0.5)).collect(),
    }
}

/// The rows of regions' features, as a product for the same reason: `[regions, …]` to `[rows, …]`.
pub(super) fn rows_of(features: Tensor<4>, rows: &[usize]) -> Tensor<4> {
    let [regions, channels, height, width] = features.dims();
    let mut one_hot = vec![0.0; rows.len() * regions];
    for (place, row) in rows.iter().enumerate() {
        one_hot[place * regions + row] = 1.0;
    }
    let one_hot = upload(one_hot, [rows.len(), regions], &features.device());
    let features = raise(features).reshape([regions, channels * height * width]);
    one_hot
        .matmul(features)
        .reshape([rows.len(), channels, height, width])
}

/// The probabilities of each region's own class, `[side · side]`, in the order of the rows.
pub(super) fn probabilities(logits: Tensor<3>, slots: &[usize]) -> Vec<Vec<f32>> {
    let pixels = logits.dims()[2];
    let values = download(sigmoid(of_slots(logits, slots)));
    values.chunks_exact(pixels).map(<[f32]>::to_vec).collect()
}

/// The channels of a mask head.
pub(super) fn slots(config: &RcnnConfig) -> usize {
    config.class_slots.of_regions(config.classes)
}
