//! Maps of a pyramid in, boxes that may hold an object out; and the losses of both.

use backbones::layers::{Conv2d, Conv2dConfig};
use backbones::precision::raise;
use backbones::{Context, Init};
use burn::module::Module;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::block::{Block, block, forward_relu};
use super::config::{ProposalConfig, RcnnConfig};
use super::losses::{binary_cross_entropy, download, smooth_l1, upload};
use crate::parts::{Choose, Match};
use crate::{BoundingBox, Edges, nms};

/// The standard deviation of the head's weights.
const STD: f64 = 0.01;

/// A region proposal network: whether each anchor holds an object, and how to move it.
///
/// Ren et al., *Faster R-CNN*, 2015, §3.1.
#[derive(Module, Debug)]
pub struct ProposalNetwork {
    /// Its layers, the same for all levels.
    pub head: ProposalHead,
}

/// Convolutions and two outputs.
#[derive(Module, Debug)]
pub struct ProposalHead {
    conv: Vec<Block>,
    /// Logits of the anchors of a position.
    pub cls_logits: Conv2d,
    /// Their deltas, four each.
    pub bbox_pred: Conv2d,
}

/// Outputs for all anchors, level by level, row by row, position by position.
pub(super) struct Outputs {
    /// `[images, anchors]`.
    logits: Tensor<2>,
    /// `[images, anchors · 4]`.
    deltas: Tensor<2>,
}

impl ProposalNetwork {
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        let init = init.at("head");
        let (channels, anchors) = (config.map_channels(), config.anchors.per_position());
        let convolution = |index: usize| {
            let init = init.at("conv").at(&index.to_string());
            let draw = |config: Conv2dConfig, init: &Init| config.init_normal(init, STD);
            block(&init, [channels, channels, 3], false, draw)
        };
        let output = |name: &str, outputs: usize| {
            let config = Conv2dConfig {
                bias: true,
                ..Conv2dConfig::same(channels, outputs, 1, 1)
            };
            config.init_normal(&init.at(name), STD)
        };
        Self {
            head: ProposalHead {
                conv: (0..config.proposals.convolutions).map(convolution).collect(),
                cls_logits: output("cls_logits", anchors),
                bbox_pred: output("bbox_pred", 4 * anchors),
            },
        }
    }

    pub(super) fn forward(&self, maps: &[Tensor<4>], context: &Context) -> Outputs {
        let (mut logits, mut deltas) = (vec![], vec![]);
        for map in maps {
            let x = self.head.conv.iter();
            let x = x.fold(map.clone(), |x, block| forward_relu(block, x, context));
            logits.push(by_position(self.head.cls_logits.forward(x.clone())));
            deltas.push(by_position(self.head.bbox_pred.forward(x)));
        }
        Outputs {
            logits: Tensor::cat(logits, 1),
            deltas: Tensor::cat(deltas, 1),
        }
    }
}

/// `[images, channels, height, width]` to `[images, height · width · channels]`: a position's values side by side, in
/// f32.
fn by_position(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    raise(x)
        .permute([0, 2, 3, 1])
        .reshape([images, height * width * channels])
}

/// The proposals of each image, the most confident first.
///
/// - `anchors`: of each level
/// - `sizes`: height and width of each image without its padding, px
pub(super) fn select(
    outputs: &Outputs,
    anchors: &[Vec<BoundingBox>],
    sizes: &[[usize; 2]],
    config: &ProposalConfig,
    training: bool,
) -> Vec<Vec<BoundingBox>> {
    let (before, after) = match training {
        true => (config.before_nms_training, config.after_nms_training),
        false => (config.before_nms, config.after_nms),
    };
    let (logits, deltas) = (download(outputs.logits.clone()), download(outputs.deltas.clone()));
    let count = anchors.iter().map(Vec::len).sum::<usize>();
    let of_image = |(image, size): (usize, &[usize; 2])| {
        let (logits, deltas) = (
            &logits[image * count..][..count],
            &deltas[image * count * 4..][..count * 4],
        );
        let [height, width] = size.map(|side| side as f32);
        let mut starts = vec![0];
        starts.extend(anchors.iter().scan(0, |end, level| {
            *end += level.len();
            Some(*end)
        }));
        let of_level = |(anchors, start): (&Vec<BoundingBox>, &usize)| {
            let logits = &logits[*start..][..anchors.len()];
            let boxes = top(logits, before).into_iter().filter_map(|index| {
                let at = 4 * (start + index);
                let deltas = [0, 1, 2, 3].map(|i| deltas[at + i]);
                let decoded = config
                    .coder
                    .decode(&anchors[index], deltas)
                    .clipped(width, height);
                large_enough(&decoded, config.smallest_side_px).then_some((decoded, logits[index]))
            });
            let (boxes, scores): (Vec<_>, Vec<_>) = boxes.unzip();
            let kept = nms(&boxes, &scores, config.nms_iou, Edges::Continuous).into_iter();
            kept.map(|index| (boxes[index], scores[index]))
                .collect::<Vec<_>>()
        };
        let levels = anchors.par_iter().zip(&starts[..anchors.len()]).map(of_level);
        let mut all: Vec<_> = levels.collect::<Vec<_>>().concat();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(after);
        all.into_iter().map(|(bounds, _)| bounds).collect()
    };
    sizes
        .par_iter()
        .enumerate()
        .map(|(image, size)| of_image((image, size)))
        .collect()
}

/// Whether both sides are at least `smallest` px, or above 0 if that is 0. NaN is not.
pub(super) fn large_enough(bounds: &BoundingBox, smallest: f32) -> bool {
    let enough = |side: f32| {
        if smallest > 0.0 {
            side >= smallest
        } else {
            side > 0.0
        }
    };
    enough(bounds.width()) && enough(bounds.height())
}

/// Indices of the `count` largest logits, the largest first; of equal ones the first. NaN comes last.
fn top(logits: &[f32], count: usize) -> Vec<usize> {
    let value = |index: &usize| match logits[*index] {
        logit if logit.is_nan() => f32::NEG_INFINITY,
        logit => logit,
    };
    let by_value = |a: &usize, b: &usize| value(b).total_cmp(&value(a)).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count, by_value);
        order.truncate(count);
    }
    order.sort_unstable_by(by_value);
    order
}

/// The losses of objectness and of boxes.
///
/// - `anchors`: of each level
/// - `truth`: the true boxes of each image
pub(super) fn losses(
    outputs: &Outputs,
    anchors: &[Vec<BoundingBox>],
    truth: &[&[BoundingBox]],
    config: &ProposalConfig,
    from: &dyn Choose,
) -> [Tensor<1>; 2] {
    let anchors = anchors.concat();
    let (images, count) = (truth.len(), anchors.len());
    let mut labels = vec![0.0f32; images * count];
    let mut weights = vec![0.0f32; images * count];
    let mut deltas = vec![0.0f32; images * count * 4];
    let mut delta_weights = vec![0.0f32; images * count * 4];
    let matches: Vec<_> = truth
        .par_iter()
        .map(|truth| config.matcher.match_boxes(truth, &anchors))
        .collect();
    let mut sampled = 0;
    for (image, matches) in matches.iter().enumerate() {
        let samples = config.sampler.sample(matches, "detection.anchors", image, from);
        sampled += samples.positive.len() + samples.negative.len();
        for index in samples.all() {
            let at = image * count + index;
            weights[at] = 1.0;
            if let Match::Truth(of) = matches[index] {
                labels[at] = 1.0;
                let encoded = config.coder.encode(&anchors[index], &truth[image][of]);
                deltas[4 * at..][..4].copy_from_slice(&encoded);
                delta_weights[4 * at..][..4].fill(1.0);
            }
        }
    }
    let divisor = match config.loss_over_sampled {
        true => sampled.max(1),
        false => config.sampler.per_image * images,
    };
    // Masks over all anchors: a gathering of few would be slow to differentiate on GPUs.
    let device = outputs.logits.device();
    let host = |values, width| upload(values, [images, width], &device);
    let objectness = binary_cross_entropy(outputs.logits.clone(), host(labels, count), host(weights, count));
    let difference = outputs.deltas.clone() - host(deltas, 4 * count);
    let boxes = smooth_l1(difference, host(delta_weights, 4 * count), config.box_beta);
    [objectness, boxes].map(|loss| loss / divisor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_nan_last() {
        let logits = [1.0, f32::NAN, 3.0, 3.0, -2.0];
        assert_eq!(top(&logits, 3), [2, 3, 0]);
        assert_eq!(top(&logits, 9), [2, 3, 0, 4, 1]);
        assert!(top(&[], 4).is_empty());
    }

    #[test]
    fn sides_are_compared_as_the_profile_has_it() {
        let of = |width| BoundingBox::from_edges([1.0, 1.0, 1.0 + width, 3.0]);
        assert!(large_enough(&of(0.5), 0.5) && !large_enough(&of(0.25), 0.5));
        assert!(large_enough(&of(0.25), 0.0) && !large_enough(&of(0.0), 0.0));
        assert!(!large_enough(&of(f32::NAN), 0.0));
    }
}
