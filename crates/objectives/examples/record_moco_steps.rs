//! Records the inputs with which `scripts/parity/moco_steps.py` runs the first steps of a MoCo config in
//! PyTorch: initial weights, queue, views and shuffles. All draws are stateless, so `passer pretrain` with
//! the same config and data uses the same values.
//!
//! ```text
//! cargo run --release -p objectives --example record_moco_steps -- CONFIG DATA STEPS OUT.safetensors
//! ```

// An example may print, and stops at the first error.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use backbones::{Context, Draws, Init, RunPosition, state_dict};
use burn::tensor::{Device, TensorData};
use objectives::MethodConfig;
use objectives::ObjectiveConfig;
use objectives::moco::shuffle;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use training::{Config, Objective};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, data, steps, out] = arguments.as_slice() else {
        println!("usage: record_moco_steps CONFIG DATA STEPS OUT.safetensors");
        std::process::exit(2);
    };
    let steps: usize = steps.parse().unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let config: Config<ObjectiveConfig> = toml::from_str(&text).unwrap();
    let ObjectiveConfig::Moco(moco) = &config.objective else {
        println!(
            "`{}` is no MoCo config: its objective is {}",
            arguments[0],
            config.objective.name()
        );
        std::process::exit(1);
    };
    let dataset = Arc::new(data::Dataset::open(data).unwrap());
    let batch = config.data.batch_images;
    let loader = data::Loader::new(
        dataset,
        config.views.clone(),
        config.data.loader(),
        config.data.order,
        config.seed,
    )
    .unwrap();

    // Name, type, shape, little-endian bytes.
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut float = |name: String, data: TensorData| {
        let shape = data.shape().to_vec();
        tensors.insert(name, (Dtype::F32, shape, data.as_bytes().to_vec()));
    };
    let objective = moco.clone().objective(config.backbone.clone());
    let (student, state) = objective.init(&Init::new(config.seed, &Device::flex().autodiff()));
    for (name, data) in state_dict(&student.encoder.backbone) {
        float(format!("encoder.{name}"), data);
    }
    for (index, layer) in student.encoder.head.iter().enumerate() {
        // PyTorch's `Sequential` has a ReLU between the linear layers.
        float(
            format!("head.{}.weight", 2 * index),
            layer.weight.val().into_data(),
        );
        if let Some(bias) = &layer.bias {
            float(format!("head.{}.bias", 2 * index), bias.val().into_data());
        }
    }
    float("queue".into(), state.queue.val().into_data());

    let steps_per_epoch = loader.batches_per_epoch();
    let all = config.training.total_steps(steps_per_epoch);
    let mut rates = vec![];
    for (step, loaded) in loader.batches(0, steps).enumerate() {
        let mut views = vec![];
        let loaded = loaded.unwrap();
        let (mut height, mut width) = (0, 0);
        for group in loaded.views {
            (height, width) = (group.height, group.width);
            views.extend(group.pixels);
        }
        tensors.insert(
            format!("views.{step}"),
            (Dtype::U8, vec![2 * batch, 3, height, width], views),
        );
        let progress = RunPosition::at(step, steps_per_epoch, all);
        let context = Context::training(progress, Draws::new(config.seed, step as u64));
        let order = if moco.shuffle {
            shuffle(batch, &context).0
        } else {
            (0..batch as i32).collect()
        };
        let order = order
            .into_iter()
            .flat_map(|image| i64::from(image).to_le_bytes())
            .collect();
        tensors.insert(format!("shuffle.{step}"), (Dtype::I64, vec![batch], order));
        let peak = config.optimizer.peak_learning_rate(batch);
        rates.push(config.schedule.learning_rate(peak, &progress));
    }

    let training::OptimizerConfig::Sgd {
        momentum,
        weight_decay,
        ..
    } = &config.optimizer
    else {
        panic!("the PyTorch side knows SGD alone");
    };
    let normalize = &config.data.normalize;
    let metadata = serde_json::json!({
        "batch": batch, "steps": steps, "lr": rates, "momentum": momentum, "weight_decay": weight_decay,
        "m": moco.momentum, "T": moco.temperature, "batch_norm_images": config.training.batch_norm_images,
        "mean": normalize.mean, "std": normalize.std,
    });
    let metadata: HashMap<String, String> = metadata
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), value.to_string()))
        .collect();
    let views: Vec<(&String, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, Some(metadata), std::path::Path::new(out)).unwrap();
    println!("{out}: {steps} steps of {batch} images");
}
