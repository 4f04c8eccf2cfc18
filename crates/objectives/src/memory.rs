//! A config in, the memory that its training step needs out, part by part, without allocating it.
//!
//! The count is of f32 values that `flex` keeps: activations are those that the backward pass reads. Two constants stand for the
//! buffers of single operations and for the program; both are from measured runs (docs/configs.md), none of them on a GPU.

use crate::method::{StepShape, VALUES_PER_LOGIT};
use crate::parameter_budget;
use crate::{Footprint, ObjectiveConfig, Visitor};
use backbones::{BackboneConfig, ResNetConfig, Stem};
use training::{Config, Objective, OptimizerConfig};

/// Bytes of an f32.
const F32_BYTES: f64 = 4.0;

/// Batches that the loader holds as 8-bit pixels: one in use, those that wait, and those being made.
const LOADED_BATCHES: f64 = 4.0;

/// Buffers of single operations and of the backward pass, as a share of the activations. Measured: between 0.1 and 0.4.
const BUFFERS_SHARE: f64 = 0.3;

/// What a process needs whatever its networks are: code, threads, checkpoints.
const PROGRAM_BYTES: f64 = (160u64 << 20) as f64;

/// The memory of a training step in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepBytes {
    /// The student's parameters.
    pub weights: f64,
    /// Their gradients; with micro-batches, their sum too.
    pub gradients: f64,
    /// The optimizer's averages.
    pub optimizer: f64,
    /// The teacher's parameters and queues.
    pub state: f64,
    /// What the forward pass keeps for the backward pass.
    pub activations: f64,
    /// Buffers of single operations.
    pub buffers: f64,
    /// Views, as pixels in the loader and as tensors.
    pub views: f64,
    /// The program itself.
    pub program: f64,
}

impl StepBytes {
    /// All parts.
    pub fn total(&self) -> f64 {
        self.fixed() + self.activations + self.buffers + self.views
    }

    /// The parts that the batch does not change.
    pub fn fixed(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.state + self.program
    }
}

/// The memory of a step on one device. The config must be valid; the figures are approximate.
pub fn step_bytes(config: &Config<ObjectiveConfig>) -> StepBytes {
    let images = config.pass_images(1);
    let (footprint, views) = footprint(config, images);
    let (mut student, mut queues) = (0.0, 0.0);
    for (key, bytes) in parameter_budget::parts_bytes(config) {
        match key.contains("queue") {
            true => queues += bytes,
            false => student += bytes,
        }
    }
    let accumulates = images < config.data.batch_images;
    let averages = match config.optimizer {
        OptimizerConfig::Sgd { .. } | OptimizerConfig::Lars { .. } => 1.0,
        OptimizerConfig::Adamw { .. } => 2.0,
    };
    let visible = 1.0 - footprint.hidden_share;
    let differentiated = footprint.student_views.unwrap_or(usize::MAX);
    let mut of_backbone = 0.0;
    for (width, height) in views.iter().take(differentiated) {
        of_backbone += activations(&config.backbone, *width, *height, visible);
    }
    let pixels: f64 = views.iter().map(|(width, height)| 3.0 * width * height).sum();
    let of_images = images as f64 * (of_backbone + footprint.values_per_image);
    let activations = F32_BYTES * (of_images + footprint.values);
    StepBytes {
        weights: student,
        gradients: if accumulates { 2.0 * student } else { student },
        optimizer: averages * student,
        state: queues + if footprint.has_teacher { student } else { 0.0 },
        activations,
        buffers: BUFFERS_SHARE * activations,
        views: pixels * (LOADED_BATCHES * config.data.batch_images as f64 + F32_BYTES * images as f64),
        program: PROGRAM_BYTES,
    }
}

/// Why the config's step cannot be taken in micro-batches, if so. The config must be valid.
pub fn one_pass_only(config: &Config<ObjectiveConfig>) -> Option<String> {
    struct WholeBatch;
    impl Visitor for WholeBatch {
        type Output = Option<&'static str>;
        fn visit<O: Objective>(self, objective: &O) -> Self::Output {
            objective.whole_batch()
        }
    }
    if let Some(reason) = config.objective.visit(&config.backbone, WholeBatch) {
        return Some(reason.to_owned());
    }
    let (footprint, _) = footprint(config, config.pass_images(1));
    let is_resnet = matches!(config.backbone, BackboneConfig::Resnet(_));
    let shares = (is_resnet || footprint.has_batch_norm) && config.training.batch_norm_images.is_none();
    shares.then(|| "batch normalization takes its statistics over the whole batch".to_owned())
}

/// What the method says of a pass of so many images, and width and height of each view.
fn footprint(config: &Config<ObjectiveConfig>, images: usize) -> (Footprint, Vec<(f64, f64)>) {
    let groups = config.views.iter().filter_map(|group| {
        let (width, height) = group.output_px()?;
        let size = (f64::from(width), f64::from(height));
        Some(std::iter::repeat_n(size, group.count))
    });
    let views: Vec<(f64, f64)> = groups.flatten().collect();
    let shape = StepShape {
        images,
        views: views.len(),
        patches: match &config.backbone {
            BackboneConfig::Vit(vit) => (vit.image_px / vit.patch_px.max(1)).pow(2),
            BackboneConfig::Resnet(_) => 0,
        },
    };
    (config.objective.footprint(&shape), views)
}

/// Values that a backbone keeps for the backward pass of one view, of whose patches the share `visible` is given.
fn activations(backbone: &BackboneConfig, width: f64, height: f64, visible: f64) -> f64 {
    match backbone {
        BackboneConfig::Resnet(resnet) => of_resnet(resnet, width * height),
        BackboneConfig::Vit(vit) => {
            let patches = width * height / (vit.patch_px as f64).powi(2) * visible;
            // The class token is there whatever is pooled.
            let tokens = patches.ceil() as usize + 1 + vit.registers;
            values_of_blocks(vit.width, vit.depth, vit.heads, tokens)
        }
    }
}

/// Values that transformer blocks keep per image: 16 rows of their width for each token (two norms with their outputs, queries, keys,
/// values, attention's output, the layer of four widths before and after its GELU, the sum), and attention's weights.
pub(crate) fn values_of_blocks(width: usize, depth: usize, heads: usize, tokens: usize) -> f64 {
    let tokens = tokens as f64;
    depth as f64 * tokens * (16.0 * width as f64 + heads as f64 * tokens)
}

/// Values that a head of DINO keeps per row: logits, and two hidden layers before and after their GELU.
pub(crate) fn values_of_head(prototypes: usize, hidden_width: usize) -> f64 {
    VALUES_PER_LOGIT * prototypes as f64 + 4.0 * hidden_width as f64
}

/// Values that a ResNet keeps: outputs of its convolutions, and those outputs normalized and rectified.
fn of_resnet(resnet: &ResNetConfig, pixels: f64) -> f64 {
    let width = resnet.width as f64;
    let (blocks, is_bottleneck) = match resnet.depth {
        18 => ([2.0, 2.0, 2.0, 2.0], false),
        34 => ([3.0, 4.0, 6.0, 3.0], false),
        50 => ([3.0, 4.0, 6.0, 3.0], true),
        _ => ([3.0, 4.0, 23.0, 3.0], true),
    };
    // After the stem, and the stem's own outputs; its pooling keeps output and places.
    let (stem, mut pixels) = match resnet.stem {
        Stem::Imagenet => (width * pixels / 4.0 * 1.25, pixels / 16.0),
        Stem::Small => (width * pixels, pixels),
    };
    let mut outputs = stem;
    for (stage, count) in blocks.into_iter().enumerate() {
        let width = width * f64::from(1 << stage);
        let before = pixels;
        pixels /= if stage == 0 { 1.0 } else { 4.0 };
        outputs += match is_bottleneck {
            // The first block's first convolution is still at the size before; its shortcut has a convolution.
            true => width * (count * 6.0 * pixels + before - pixels + 4.0 * pixels),
            false => width * pixels * (count * 2.0 + if stage == 0 { 0.0 } else { 1.0 }),
        };
    }
    2.0 * outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shipped(name: &str) -> Config<ObjectiveConfig> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/pretrain");
        toml::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    }

    /// Outputs of convolutions of torchvision's ResNets at 224 px, as timm's tables list them: 2.5 and 11.1 million.
    #[test]
    fn a_resnet_keeps_twice_the_outputs_of_its_convolutions() {
        for (depth, millions) in [(18, 2.48), (50, 11.11)] {
            let config = ResNetConfig {
                depth,
                ..match shipped("moco-v2-resnet50-imagenet.toml").backbone {
                    BackboneConfig::Resnet(resnet) => resnet,
                    BackboneConfig::Vit(_) => panic!(),
                }
            };
            let outputs = of_resnet(&config, 224.0 * 224.0) / 2e6;
            // The stem's pooling is beside them.
            assert!((outputs / millions - 1.0).abs() < 0.1, "{depth}: {outputs}");
        }
    }

    #[test]
    fn larger_batches_and_micro_batches_need_more() {
        for file in
            std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/pretrain")).unwrap()
        {
            let name = file.unwrap().file_name();
            let mut config = shipped(name.to_str().unwrap());
            config.training.micro_batch_images = None;
            let one = step_bytes(&config);
            let parts = [
                one.weights,
                one.gradients,
                one.optimizer,
                one.activations,
                one.views,
            ];
            assert!(parts.iter().all(|part| *part > 0.0), "{name:?}: {one:?}");
            config.data.batch_images *= 2;
            let two = step_bytes(&config);
            assert!(two.activations > one.activations, "{name:?}");
            assert_eq!(two.fixed(), one.fixed(), "{name:?}");
            // The same batch in halves: one more copy of the gradients.
            config.training.micro_batch_images = Some(config.data.batch_images / 2);
            let halves = step_bytes(&config);
            assert_eq!(halves.activations, one.activations, "{name:?}");
            assert_eq!(halves.gradients, 2.0 * one.gradients, "{name:?}");
        }
    }

    #[test]
    fn methods_that_need_the_whole_batch_say_so() {
        let reason = |name: &str| one_pass_only(&shipped(name));
        assert!(
            reason("simclr-resnet50-imagenet.toml")
                .unwrap()
                .contains("negatives")
        );
        assert!(
            reason("byol-resnet50-imagenet.toml")
                .unwrap()
                .contains("batch normalization")
        );
        assert_eq!(reason("moco-v2-resnet50-imagenet.toml"), None);
        assert_eq!(reason("dino-vit-small-16-imagenet.toml"), None);
    }
}
