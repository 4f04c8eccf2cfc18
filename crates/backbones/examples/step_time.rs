//! Times a ResNet on the CPU: `step_time DEPTH WIDTH imagenet|small SIDE IMAGES [BATCH_NORM_IMAGES]`.
//!
//! Build it as `cargo build --release -p backbones -p cli --example step_time`. Prints milliseconds, the median of
//! five repetitions after one to warm up: evaluation, a teacher's training forward, and forward with backward.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use backbones::{BackboneConfig, Context, Draws, Init, Progress, ResNetConfig, Stem, independent_copy};
use burn::tensor::{Device, Distribution, Tensor};

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let number = |index: usize| arguments[index].parse::<usize>().unwrap();
    let config = BackboneConfig::Resnet(ResNetConfig {
        depth: number(0) as u32,
        width: number(1),
        stem: if arguments[2] == "small" {
            Stem::Small
        } else {
            Stem::Imagenet
        },
    });
    config.validate().unwrap();
    let (side, images) = (number(3), number(4));

    let plain = Device::flex();
    let backbone = config.init(&Init::new(0, &plain.clone().autodiff()));
    let teacher = independent_copy(&backbone);
    let x = Tensor::<4>::random([images, 3, side, side], Distribution::Normal(0.0, 1.0), &plain);
    let progress = Progress {
        step: 0,
        steps_per_epoch: 1,
        steps: 1,
    };
    let mut training = Context::training(progress, Draws::new(0, 0));
    training.batch_norm_images = arguments.get(5).map(|n| n.parse().unwrap());

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
        // A gradient that is not constant, or batch normalisation would have nothing to pass on.
        let features = backbone.forward(x.clone(), &training);
        (features.clone() * features).sum_dim(0).sum().backward();
    });
}
