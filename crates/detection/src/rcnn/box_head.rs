//! A region's features in, the scores of all classes and a box for each out; the losses of both, and what is left of them
//! after suppression.

use backbones::layers::{BatchNorm, Conv2dConfig, Linear, global_average_pool, relu};
use backbones::{Context, Init};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::block::{Block, block, forward_relu};
use super::config::{Neck, RcnnConfig, WeightRule};
use super::losses::{cross_entropy, download, smooth_l1, upload};
use super::proposals::large_enough;
use crate::parts::BoxCoder;
use crate::{BoundingBox, Edges, nms};

/// Two linear layers, or convolutions and one, or a norm behind the backbone's last stage.
#[derive(Module, Debug)]
pub struct BoxHead {
    fc6: Option<Linear>,
    fc7: Option<Linear>,
    convs: Vec<Block>,
    fc: Option<Linear>,
    norm: Option<BatchNorm>,
}

/// The two outputs.
#[derive(Module, Debug)]
pub struct BoxPredictor {
    /// Logits of classes and background.
    pub cls_score: Linear,
    /// Deltas, four for each class that has boxes.
    pub bbox_pred: Linear,
}

/// The layers of a stage behind the first one.
#[derive(Module, Debug)]
pub struct StageHeads {
    /// Layers of its box head.
    pub box_head: BoxHead,
    /// Its outputs.
    pub box_predictor: BoxPredictor,
}

/// Outputs for regions, on the device.
pub(super) struct Outputs {
    /// `[regions, classes + 1]`.
    logits: Tensor<2>,
    /// `[regions, 4 · channels]`.
    deltas: Tensor<2>,
}

/// Outputs for regions, on the host and in the regions' order.
pub(super) struct Predictions {
    /// Probabilities, `[regions, classes + 1]`.
    scores: Vec<f32>,
    /// `[regions, 4 · channels]`.
    deltas: Vec<f32>,
    regions: usize,
}

/// The target of a region in training.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegionTarget {
    /// Channel of its class, or the background's.
    pub(super) slot: usize,
    /// Deltas to its true box; `None` for background.
    pub(super) deltas: Option<[f32; 4]>,
}

/// A detection of the box head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    pub(super) bounds: BoundingBox,
    pub(super) class: usize,
    pub(super) score: f32,
}

impl StageHeads {
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        Self {
            box_head: BoxHead::new(config, &init.at("box_head")),
            box_predictor: BoxPredictor::new(config, &init.at("box_predictor")),
        }
    }
}

impl BoxHead {
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        let (boxes, channels) = (&config.boxes, config.map_channels());
        let linear = |name: &str, inputs: usize| {
            let init = init.at(name);
            match boxes.weights {
                WeightRule::Torchvision => Linear::new(&init, inputs, boxes.width),
                WeightRule::Detectron2 => Linear::xavier_uniform(&init, inputs, boxes.width, 2 * inputs),
            }
        };
        let convolution = |index: usize| {
            let draw = |config: Conv2dConfig, init: &Init| config.init(init);
            let init = init.at("convs").at(&index.to_string());
            block(&init, [channels, channels, 3], true, draw)
        };
        let inputs = channels * boxes.pooled * boxes.pooled;
        let on_pyramid = matches!(config.neck, Neck::Pyramid(_));
        let plain = on_pyramid && boxes.convolutions == 0;
        let of_c4 = matches!(config.neck, Neck::C4(c4) if c4.norm);
        Self {
            fc6: plain.then(|| linear("fc6", inputs)),
            fc7: plain.then(|| linear("fc7", boxes.width)),
            convs: (0..boxes.convolutions).map(convolution).collect(),
            fc: (on_pyramid && !plain).then(|| linear("fc", inputs)),
            norm: of_c4.then(|| BatchNorm::new(&init.at("norm"), config.backbone.features())),
        }
    }

    /// `[regions, channels, pooled, pooled]` to `[regions, width]`.
    pub(super) fn forward(&self, x: Tensor<4>, context: &Context) -> Tensor<2> {
        let x = self
            .convs
            .iter()
            .fold(x, |x, block| forward_relu(block, x, context));
        let x: Tensor<2> = x.flatten(1, 3);
        let layers = [&self.fc, &self.fc6, &self.fc7].into_iter().flatten();
        layers.fold(x, |x, layer| relu(layer.forward(x)))
    }
}

impl BoxHead {
    /// The norm on the output of the backbone's last stage, if there is one.
    pub(super) fn normalize(&self, x: Tensor<4>, context: &Context) -> Tensor<4> {
        match &self.norm {
            Some(norm) => norm.forward(x, context),
            None => x,
        }
    }
}

/// The mean of a region's positions: `[regions, channels, side, side]` to `[regions, channels]`.
pub(super) fn mean(x: Tensor<4>) -> Tensor<2> {
    global_average_pool(x)
}

impl BoxPredictor {
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        let (boxes, slots) = (&config.boxes, config.class_slots);
        let of_boxes = if boxes.class_agnostic {
            1
        } else {
            slots.of_regions(config.classes)
        };
        let inputs = match config.neck {
            Neck::Pyramid(_) => boxes.width,
            Neck::C4(_) => config.backbone.features(),
        };
        let linear = |name: &str, outputs: usize, std: f64| {
            let init = init.at(name);
            match boxes.weights {
                WeightRule::Torchvision => Linear::new(&init, inputs, outputs),
                WeightRule::Detectron2 => Linear::normal(&init, inputs, outputs, std),
            }
        };
        Self {
            cls_score: linear("cls_score", config.classes + 1, 0.01),
            bbox_pred: linear("bbox_pred", 4 * of_boxes, 0.001),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Outputs {
        Outputs {
            logits: self.cls_score.forward(x.clone()),
            deltas: self.bbox_pred.forward(x),
        }
    }
}

/// The losses of classes and of boxes; `targets` in the order of the outputs' rows.
pub(super) fn losses(outputs: Outputs, targets: &[RegionTarget], config: &RcnnConfig) -> [Tensor<1>; 2] {
    let slots: Vec<usize> = targets.iter().map(|target| target.slot).collect();
    let classes = cross_entropy(outputs.logits, &slots);
    let [rows, width] = outputs.deltas.dims();
    let (mut deltas, mut weights) = (vec![0.0; rows * width], vec![0.0; rows * width]);
    for (row, target) in targets.iter().enumerate() {
        let Some(wanted) = target.deltas else {
            continue;
        };
        let slot = if config.boxes.class_agnostic {
            0
        } else {
            target.slot
        };
        let at = row * width + 4 * slot;
        deltas[at..][..4].copy_from_slice(&wanted);
        weights[at..][..4].fill(1.0);
    }
    let device = outputs.deltas.device();
    let difference = outputs.deltas - upload(deltas, [rows, width], &device);
    let weights = upload(weights, [rows, width], &device);
    let boxes = smooth_l1(difference, weights, config.boxes.box_beta);
    [classes, boxes / rows as f64]
}

impl Outputs {
    /// The deltas of all regions by their own order, if there is one box for all classes. `order`: the region of each row.
    pub(super) fn agnostic_deltas(&self, order: &[usize]) -> Vec<[f32; 4]> {
        let values = download(self.deltas.clone());
        let mut deltas = vec![[0.0; 4]; order.len()];
        for (region, row) in order.iter().zip(values.chunks_exact(4)) {
            deltas[*region].copy_from_slice(row);
        }
        deltas
    }

    /// The outputs on the host. `order`: the region of each row.
    pub(super) fn on_host(self, order: &[usize]) -> Predictions {
        let by_region = |values: Vec<f32>, width: usize| {
            let mut sorted = vec![0.0; values.len()];
            for (region, row) in order.iter().zip(values.chunks_exact(width)) {
                sorted[region * width..][..width].copy_from_slice(row);
            }
            sorted
        };
        let [regions, classes] = self.logits.dims();
        let width = self.deltas.dims()[1];
        Predictions {
            scores: by_region(download(softmax(self.logits, 1)), classes),
            deltas: by_region(download(self.deltas), width),
            regions,
        }
    }
}

impl Predictions {
    /// A region's deltas, if there is one box for all classes.
    pub(super) fn agnostic_deltas(&self, region: usize) -> [f32; 4] {
        [0, 1, 2, 3].map(|i| self.deltas[4 * region + i])
    }

    /// The last stage's boxes with the mean of all stages' probabilities. Empty without a stage.
    pub(super) fn averaged(stages: Vec<Self>) -> Option<Self> {
        let count = stages.len() as f32;
        let mut stages = stages.into_iter();
        let mut sum = stages.next()?;
        for stage in stages {
            for (sum, score) in sum.scores.iter_mut().zip(&stage.scores) {
                *sum += score;
            }
            sum.deltas = stage.deltas;
        }
        if count > 1.0 {
            sum.scores.iter_mut().for_each(|score| *score /= count);
        }
        Some(sum)
    }
}

/// The detections of each image, the most confident first.
///
/// - `regions`: image and box of each region, image by image: those from which the deltas start
/// - `sizes`: height and width of each image without its padding, px
/// - `coder`: of the deltas
pub(super) fn detections(
    predictions: &Predictions,
    regions: &[(usize, BoundingBox)],
    sizes: &[[usize; 2]],
    coder: &BoxCoder,
    config: &RcnnConfig,
) -> Vec<Vec<Scored>> {
    let boxes = &config.boxes;
    let Predictions {
        scores,
        deltas,
        regions: rows,
    } = predictions;
    let (classes, width) = (scores.len() / rows.max(&1), deltas.len() / rows.max(&1));
    let mut found: Vec<Vec<Vec<Scored>>> = sizes.iter().map(|_| vec![vec![]; config.classes]).collect();
    for (row, (image, bounds)) in regions.iter().enumerate() {
        for (class, found) in found[*image].iter_mut().enumerate() {
            let slot = config.class_slots.slot(class);
            let score = scores[row * classes + slot];
            if score.is_nan() || score <= boxes.score_above {
                continue;
            }
            let of_boxes = if boxes.class_agnostic { 0 } else { slot };
            let at = row * width + 4 * of_boxes;
            let deltas = [0, 1, 2, 3].map(|i| deltas[at + i]);
            let bounds = coder.decode(bounds, deltas);
            let [height, width] = sizes[*image].map(|side| side as f32);
            let bounds = bounds.clipped(width, height);
            if boxes.smallest_side_px == 0.0 || large_enough(&bounds, boxes.smallest_side_px) {
                found.push(Scored { bounds, class, score });
            }
        }
    }
    let of_image = |classes: Vec<Vec<Scored>>| {
        let kept = classes.into_iter().flat_map(|found| {
            let (bounds, scores): (Vec<_>, Vec<_>) = found.iter().map(|one| (one.bounds, one.score)).unzip();
            let kept = nms(&bounds, &scores, boxes.nms_iou, Edges::Continuous);
            kept.into_iter().map(move |index| found[index])
        });
        let mut kept: Vec<Scored> = kept.collect();
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.truncate(boxes.per_image);
        kept
    };
    found.into_iter().map(of_image).collect()
}
