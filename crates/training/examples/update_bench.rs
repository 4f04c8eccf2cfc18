//! Milliseconds of optimizer steps and of the moving average alone, on the parameters of ResNet-50 and of ViT-S/16: the Rust
//! half of `scripts/bench/updates.py`. Prints one JSON object; medians of 15 after one to warm up.

#![expect(clippy::print_stdout, reason = "a program whose output is one object")]

use std::time::Instant;

use backbones::{Backbone, BackboneConfig, Init, ema, independent_copy};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use training::{OptimizerConfig, Rates};

/// The same allocator as the program's.
#[global_allocator]
static MEMORY: allocator::CachingAllocator = allocator::CachingAllocator::new();

const NETWORKS: [(&str, &str); 2] = [
    (
        "ResNet-50",
        r#"{"resnet": {"depth": 50, "width": 64, "stem": "imagenet"}}"#,
    ),
    (
        "ViT-S/16",
        r#"{"vit": {"width": 384, "depth": 12, "heads": 6, "patch_px": 16, "image_px": 224, "position": "learned",
            "interpolation": "offset", "registers": 0, "drop_path": 0.0, "pooling": "class_token",
            "initialization": "truncated_normal"}}"#,
    ),
];

const OPTIMIZERS: [(&str, &str); 2] = [
    (
        "SGD",
        r#"{"sgd": {"learning_rate_per_256": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": false}}"#,
    ),
    (
        "AdamW",
        r#"{"adamw": {"learning_rate_per_256": 1e-3, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.04,
            "decay_biases_and_norms": true}}"#,
    ),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = vec![];
    for (name, network) in NETWORKS {
        let config: BackboneConfig = serde_json::from_str(network)?;
        let backbone = config.init(&Init::new(0, &Device::flex().autodiff()));
        for (optimizer, settings) in OPTIMIZERS {
            let config: OptimizerConfig = serde_json::from_str(settings)?;
            let mut state = config.init();
            let rates = Rates::constant(1e-3, 1e-4);
            // The first step, which is not timed, separates it from the backbone.
            let mut student = Some(backbone.clone());
            let time = median(
                || Gradients::of(&backbone),
                |gradients| {
                    student = student
                        .take()
                        .map(|student| state.step(&rates, student, gradients));
                },
            );
            lines.push(format!("\"{optimizer}, {name}\": {time:.3}"));
        }
        let mut teacher = Some(independent_copy(&backbone));
        let time = median(
            || (),
            |()| teacher = teacher.take().map(|teacher| ema(teacher, &backbone, 0.999)),
        );
        lines.push(format!("\"moving average, {name}\": {time:.3}"));
    }
    println!("{{{}}}", lines.join(", "));
    Ok(())
}

/// Milliseconds of `run` on a value from `make`, whose time is not counted.
fn median<T>(make: impl Fn() -> T, mut run: impl FnMut(T)) -> f64 {
    let mut times = vec![];
    for _ in 0..16 {
        let input = make();
        let start = Instant::now();
        run(input);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[7]
}

/// A gradient for each of its parameters only, as `backward()` gives them.
struct Gradients(GradientsParams);

impl Gradients {
    fn of(backbone: &Backbone) -> GradientsParams {
        let mut gradients = Self(GradientsParams::new());
        backbone.visit(&mut gradients);
        gradients.0
    }
}

impl ModuleVisitor for Gradients {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.register(param.id, param.val().without_autodiff() * 1e-3);
        }
    }
}
