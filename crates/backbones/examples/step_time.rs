//! Times a network on the CPU: `step_time NETWORK SIDE IMAGES [BATCH_NORM_IMAGES]`, NETWORK a JSON file of the form of
//! `[backbone]` (`{"resnet": {"depth": 50, "width": 64, "stem": "imagenet"}}`).
//!
//! Build it as `cargo build --release -p backbones -p cli --example step_time`. Prints milliseconds, the median of
//! five repetitions after one to warm up: evaluation, a teacher's training forward, and forward with backward.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use backbones::{BackboneConfig, Context, Draws, Init, RunPosition, independent_copy};
use burn::tensor::{Device, Distribution, Tensor};

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let number = |index: usize| arguments[index].parse::<usize>().unwrap();
    let network = std::fs::read(&arguments[0]).unwrap();
    let config: BackboneConfig = serde_json::from_slice(&network).unwrap();
    config.validate().unwrap();
    let (side, images) = (number(1), number(2));

    let plain = Device::flex();
    let backbone = config.init(&Init::new(0, &plain.clone().autodiff()));
    let teacher = independent_copy(&backbone);
    let x = Tensor::<4>::random([images, 3, side, side], Distribution::Normal(0.0, 1.0), &plain);
    let progress = RunPosition::at(0, 1, 1);
    let mut training = Context::training(progress, Draws::new(0, 0));
    training.batch_norm_images = arguments.get(3).map(|n| n.parse().unwrap());

    let time = |what: &str, run: &dyn Fn()| {
        run();
        let mut times = (0..5)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect::<Vec<_>>();
        times.sort_by(f64::total_cmp);
        println!("{what:<20} {:9.1} ms", times[2]);
    };
    println!("{} at {side} px, {images} images", config.name());
    time("evaluation", &|| {
        teacher.forward(x.clone(), &Context::evaluation());
    });
    time("teacher", &|| {
        teacher.forward(x.clone(), &training);
    });
    time("forward + backward", &|| {
        // A varying gradient, because a constant one would cancel in batch normalization.
        let features = backbone.forward(x.clone(), &training);
        (features.clone() * features).sum_dim(0).sum().backward();
    });
}
