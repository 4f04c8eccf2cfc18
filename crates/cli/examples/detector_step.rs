//! Training steps and inference of Faster and Mask R-CNN R50-FPN, timed; `scripts/bench/detection.py` does the same work in
//! PyTorch and calls this program.
//!
//!     cargo run --release -p cli --example detector_step -- faster|mask [ROUNDS]

#![expect(clippy::print_stdout, reason = "a program whose output is one object")]

use backbones::{Context, Draws, Init, ResNetConfig, RunPosition, Stem};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use detection::BoundingBox;
use detection::parts::ImageDraws;
use detection::rcnn::{Norm, RcnnConfig, Target, TrueMask, Version};
use std::time::Instant;
use training::{OptimizerConfig, Rates};

/// The same allocator as the program's.
#[global_allocator]
static MEMORY: allocator::CachingAllocator = allocator::CachingAllocator::new();

/// Height and width of both pictures, px.
const SIZE: [usize; 2] = [320, 416];
const WARMUP: usize = 2;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let with_masks = arguments.next().as_deref() == Some("mask");
    let rounds: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let backbone = ResNetConfig {
        depth: 50,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    let mut config = RcnnConfig::torchvision(Version::V1, backbone, 90, with_masks);
    config.frozen_stages = 2;
    config.backbone_norm = Norm::Frozen;
    config.proposals.before_nms_training = 1000;
    config.proposals.after_nms_training = 1000;
    config.proposals.before_nms = 1000;
    config.proposals.after_nms = 300;
    let device = Device::flex();
    let mut network = config.init(&Init::new(0, &device.clone().autodiff()));
    let images = || {
        let count = 2 * 3 * SIZE[0] * SIZE[1];
        let value = |index: usize| ((index * 7919) % 1009) as f32 / 504.5 - 1.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        Tensor::<4>::from_data(TensorData::new(values, [2, 3, SIZE[0], SIZE[1]]), &device)
    };
    let target = || {
        let boxes = [
            [20.0, 30.0, 180.0, 200.0],
            [150.0, 60.0, 400.0, 300.0],
            [10.0, 220.0, 90.0, 310.0],
            [230.0, 10.0, 330.0, 90.0],
        ];
        let mask = |edges: &[f32; 4]| {
            let inside = |at: usize| {
                let (y, x) = ((at / SIZE[1]) as f32, (at % SIZE[1]) as f32);
                u8::from(x >= edges[0] && x < edges[2] && y >= edges[1] && y < edges[3])
            };
            TrueMask {
                size: SIZE,
                pixels: (0..SIZE[0] * SIZE[1]).map(inside).collect(),
            }
        };
        Target {
            boxes: boxes
                .iter()
                .map(|edges| BoundingBox::from_edges(*edges))
                .collect(),
            classes: vec![0, 16, 2, 40],
            masks: if with_masks {
                boxes.iter().map(mask).collect()
            } else {
                vec![]
            },
        }
    };
    let targets = [target(), target()];
    let mut optimizer = OptimizerConfig::Sgd {
        learning_rate_per_256: 0.1,
        momentum: 0.9,
        weight_decay: 1e-4,
        nesterov: false,
    }
    .init();
    let (mut steps, mut passes) = (vec![], vec![]);
    for round in 0..WARMUP + rounds {
        let started = Instant::now();
        let context = Context::training(RunPosition::at(round, 100, 100), Draws::new(0, round as u64));
        let losses = network.losses(
            images(),
            &[SIZE; 2],
            &targets,
            &ImageDraws::new(&context, 2),
            &context,
        );
        let gradients = GradientsParams::from_grads(losses.total().backward(), &network);
        network = optimizer.step(&Rates::constant(1e-4, 1e-4), network, gradients);
        if round >= WARMUP {
            steps.push(started.elapsed().as_secs_f64());
        }
    }
    let network = network.valid();
    for round in 0..WARMUP + rounds {
        let started = Instant::now();
        std::hint::black_box(network.detect(images(), &[SIZE; 2]));
        if round >= WARMUP {
            passes.push(started.elapsed().as_secs_f64());
        }
    }
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: f64 = peak
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0.0);
    println!(
        "{{\"step_seconds\": {:.3}, \"inference_seconds\": {:.3}, \"peak_rss_mb\": {:.0}}}",
        median(steps),
        median(passes),
        peak / 1024.0
    );
}
