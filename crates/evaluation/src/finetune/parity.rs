//! Fine-tuning compared with timm and PyTorch: mixing, loss, average, layer-wise rates, and twenty training
//! steps.
//!
//! Fixtures by `scripts/parity/finetune.py` (versions inside); weights and views by the formulas of `scripts/parity/formula.py`.

use super::mixing::{Cut, Mix, soft_target_cross_entropy, target_tensor, targets};
use super::objective::tests::{objective, settings};
use super::objective::{Finetune, Network};
use super::{Average, AverageWarmup, Mixing, Settings};
use crate::wave::{number, wave};
use backbones::{
    BackboneConfig, Context, Draws, Init, RunPosition, ema_with_statistics, independent_copy,
    layers::BatchNorm, parameters,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use data::Label;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use training::{Batch, Normalize, Objective, OptimizerConfig, Rates, ViewGroupTensor};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../fixtures/finetune.json")).unwrap()
}

fn list(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A parameter's path in the scripts' form.
fn plain(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('.')
        .filter(|part| !["ResNet", "Vit"].contains(part))
        .collect();
    parts.join(".")
}

fn u(tensor: usize, count: usize) -> Vec<f32> {
    let values = wave(tensor, count).into_iter();
    values.map(|value| value as f32).collect()
}

fn relative(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference: Vec<f64> = ours.iter().zip(reference).map(|(a, b)| a - b).collect();
    length(&difference) / length(reference).max(1e-300)
}

fn sample(values: &[f64], count: usize) -> Vec<f64> {
    let stride = (values.len() / count).max(1);
    values.iter().step_by(stride).take(count).copied().collect()
}

#[test]
fn rectangles_are_timms() {
    for case in fixture()["boxes"].as_array().unwrap() {
        let [size, middle, expected] = ["size", "middle", "box"].map(|key| numbers(&case[key]));
        let (size, middle) = ([size[0], size[1]], [middle[0], middle[1]]);
        let cut = Cut::around(case["lambda"].as_f64().unwrap(), size, middle);
        assert_eq!(vec![cut.top, cut.bottom, cut.left, cut.right], expected, "{case}");
        let corrected = case["corrected"].as_f64().unwrap();
        assert!((cut.share_left(size) - corrected).abs() < 1e-12, "{case}");
    }
}

#[test]
fn targets_loss_and_gradient_are_timms() {
    for (number, case) in fixture()["losses"].as_array().unwrap().iter().enumerate() {
        let [images, classes] = ["images", "classes"].map(|key| case[key].as_u64().unwrap() as usize);
        let labels: Vec<u32> = (0..images).map(|image| (3 * image % classes) as u32).collect();
        let mix = Mix {
            lambda: case["lambda"].as_f64().unwrap(),
            cut: None,
        };
        let others: Vec<u32> = labels.iter().rev().copied().collect();
        let smoothing = case["smoothing"].as_f64().unwrap();
        let targets = targets(&labels, &others, classes, smoothing, Some(&mix));
        let shown: Vec<f64> = targets.iter().map(|value| f64::from(*value)).collect();
        let error = relative(&sample(&shown, 24), &list(&case["targets"]));
        assert!(error < 1e-6, "{case}: targets {error:e} off");

        let values: Vec<f32> = u(number, images * classes)
            .iter()
            .map(|value| 3.0 * value)
            .collect();
        let device = Device::flex().autodiff();
        let logits =
            Tensor::<2>::from_data(TensorData::new(values, [images, classes]), &device).require_grad();
        let loss =
            soft_target_cross_entropy(logits.clone(), target_tensor(targets, classes, &Device::flex()));
        let error = relative(
            &[f64::from(loss.clone().into_scalar::<f32>())],
            &[case["loss"].as_f64().unwrap()],
        );
        assert!(error < 1e-5, "{case}: loss {error:e} off");
        let gradient: Vec<f64> = logits
            .grad(&loss.backward())
            .unwrap()
            .into_data()
            .iter::<f64>()
            .collect();
        let error = relative(&sample(&gradient, 24), &list(&case["gradient"]));
        assert!(error < 1e-5, "{case}: gradient {error:e} off");
    }
}

#[test]
fn decays_are_timms() {
    for case in fixture()["decays"].as_array().unwrap() {
        let warmup = case["gamma"].as_f64().map(|gamma| AverageWarmup {
            gamma,
            power: case["power"].as_f64().unwrap(),
        });
        let average = Average {
            decay: case["decay"].as_f64().unwrap(),
            warmup,
        };
        for (step, decay) in numbers(&case["steps"]).into_iter().zip(list(&case["decays"])) {
            assert!((average.decay_at(step) - decay).abs() < 1e-12, "{case} {step}");
        }
    }
}

#[derive(Module, Debug)]
struct Norm {
    norm: BatchNorm,
}

/// Sets weight, bias and statistics of a norm to the formula's values of a step.
struct Set(usize);

impl ModuleMapper for Set {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = u(self.0, param.lazy_shape().num_elements());
        self.0 += 1;
        backbones::change_value(param, |old| {
            Tensor::from_data(TensorData::new(values, old.dims()), &old.device())
        })
    }
}

#[test]
fn the_average_moves_weights_and_statistics_as_timms() {
    let case = &fixture()["average"];
    let config = Average {
        decay: case["decay"].as_f64().unwrap(),
        warmup: None,
    };
    let mut norm = Norm {
        norm: BatchNorm::new(&Init::new(0, &Device::flex().autodiff()), 3),
    };
    let paths: Vec<String> = parameters(&norm)
        .into_iter()
        .map(|parameter| parameter.path)
        .collect();
    assert_eq!(
        paths,
        [
            "norm.weight",
            "norm.bias",
            "norm.running_mean",
            "norm.running_var"
        ]
    );
    let mut average = independent_copy(&norm);
    for step in 1..=case["steps"].as_u64().unwrap() as usize {
        norm = norm.map(&mut Set(10 * step));
        average = ema_with_statistics(average, &norm, config.decay_at(step));
    }
    let values = |tensor: Tensor<1>| tensor.into_data().iter::<f64>().collect::<Vec<f64>>();
    let found = [
        ("running_mean", values(average.norm.running_mean.value())),
        ("running_var", values(average.norm.running_var.value())),
        ("weight", values(average.norm.weight.as_ref().unwrap().val())),
        ("bias", values(average.norm.bias.as_ref().unwrap().val())),
    ];
    for (name, found) in found {
        let error = relative(&found, &list(&case[name]));
        assert!(error < 1e-6, "{name}: {found:?}, {error:e} off");
    }
}

/// Every parameter set to 1.
struct Ones;

impl ModuleMapper for Ones {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        backbones::change_value(param, |old| old.ones_like())
    }
}

/// The first value of every parameter, and a gradient of ones for each.
#[derive(Default)]
struct Look {
    paths: HashMap<ParamId, String>,
    firsts: BTreeMap<String, f64>,
    ones: GradientsParams,
}

impl Look {
    fn at<M: Module>(module: &M) -> Self {
        let mut look = Self {
            paths: parameters(module)
                .into_iter()
                .filter(|parameter| !parameter.running_statistic)
                .map(|parameter| (parameter.id, plain(&parameter.path)))
                .collect(),
            ..Self::default()
        };
        module.visit(&mut look);
        look
    }
}

impl ModuleVisitor for Look {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(path) = self.paths.get(&param.id) else {
            return;
        };
        let value = param.val().without_autodiff();
        let first = value.clone().into_data().iter::<f64>().next().unwrap();
        self.firsts.insert(path.clone(), first);
        self.ones.register(param.id, value.ones_like());
    }
}

fn network(name: &str) -> BackboneConfig {
    let resnet = |depth| json!({ "resnet": { "depth": depth, "width": 4, "stem": "imagenet" } });
    let vit = |pooling| {
        json!({ "vit": {
            "width": 8, "depth": 3, "heads": 2, "patch_px": 8, "image_px": 16, "position": "learned",
            "interpolation": "antialiased", "registers": 0, "drop_path": 0.0, "pooling": pooling,
            "initialization": "truncated_normal"
        } })
    };
    let config = match name {
        "resnet18" => resnet(18),
        "resnet50" => resnet(50),
        "vit_class_token" => vit("class_token"),
        "vit_mean_then_norm" => vit("mean_then_norm"),
        other => panic!("{other}"),
    };
    serde_json::from_value(config).unwrap()
}

#[test]
fn rates_and_weight_decay_by_depth_are_timms() {
    const RATE: f64 = 0.5;
    for case in fixture()["layer_rates"].as_array().unwrap() {
        let name = case["network"].as_str().unwrap();
        let weight_decay = case["weight_decay"].as_f64().unwrap();
        let mut optimizer = OptimizerConfig::Adamw {
            learning_rate_per_256: RATE,
            betas: [0.0, 0.0],
            epsilon: 1e-12,
            weight_decay,
            weight_decay_end: None,
            decay_biases_and_norms: false,
            layer_decay: case["layer_decay"].as_f64(),
        }
        .init();
        // The classifier's own factor multiplies its depth's factor.
        let settings = Settings {
            head_learning_rate_factor: Some(1.5),
            ..settings()
        };
        let objective = objective(&settings, &network(name), 5);
        let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let student = student.map(&mut Ones);
        let rates = Rates {
            rules: objective.parameter_rules(),
            ..Rates::constant(RATE, weight_decay)
        };
        let ones = Look::at(&student).ones;
        // With zero betas AdamW's step is the sign of the gradient times the rate; all weights were 1.
        let after = Look::at(&optimizer.step(&rates, student, ones)).firsts;
        let expected = case["parameters"].as_object().unwrap();
        let mut compared = 0;
        for (timms, values) in expected {
            let ours = match timms.as_str() {
                "fc.weight" | "head.weight" => "head.weight".to_string(),
                "fc.bias" | "head.bias" => "head.bias".to_string(),
                "fc_norm.weight" => "backbone.norm.weight".to_string(),
                "fc_norm.bias" => "backbone.norm.bias".to_string(),
                other => format!("backbone.{other}"),
            };
            let values = list(values);
            // timm assigns a class token's last norm to the last block; BEiT, MAE, DINOv2 and this crate
            // assign it to the classifier.
            let scale = match timms.as_str() {
                "norm.weight" | "norm.bias" => 1.0,
                "fc.weight" | "fc.bias" | "head.weight" | "head.bias" => 1.5 * values[0],
                _ => values[0],
            };
            let moved = 1.0 - after[&ours];
            let wanted = RATE * scale * (1.0 + values[1]);
            assert!(
                (moved / wanted - 1.0).abs() < 1e-4,
                "{name} {timms}: {moved} {wanted}"
            );
            compared += 1;
        }
        assert_eq!(compared, after.len(), "{name}: every parameter was compared");
    }
}

/// Every trained parameter by formula.
struct Fill(HashMap<ParamId, String>);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(path) = self.0.get(&param.id) else {
            return param;
        };
        let shape = param.lazy_shape().to_vec();
        let mut values = u(number(path), shape.iter().product());
        if D > 1 {
            let scale = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            values.iter_mut().for_each(|value| *value *= scale);
        } else {
            let around = if path.ends_with("weight") { 1.0 } else { 0.0 };
            values.iter_mut().for_each(|value| *value = around + 0.1 * *value);
        }
        backbones::change_value(param, |old| {
            Tensor::from_data(TensorData::new(values, old.dims()), &old.device())
        })
    }
}

/// A batch by formula: one view of 16 images of `px`, with labels.
fn batch(step: usize, images: usize, px: usize, classes: usize) -> Batch {
    let mut pixels = vec![];
    for image in 0..images {
        for channel in 0..3 {
            for y in 0..px {
                pixels.extend((0..px).map(|x| {
                    let value =
                        x * (image % 7 + 3) + y * (image % 5 + 2) + 40 * channel + 17 * image + 13 * step;
                    (value % 256) as u8
                }));
            }
        }
    }
    let views = data::Views {
        pixels,
        count: 1,
        images,
        channels: 3,
        height: px,
        width: px,
    };
    let normalize = Normalize {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    let label = |image| Label::Class(((3 * image + step) % classes) as u32);
    Batch {
        views: vec![ViewGroupTensor {
            images: normalize.tensor(views, &Device::flex()),
            count: 1,
        }],
        images,
        targets: None,
        labels: Some((0..images).map(label).collect()),
    }
}

const MIXING: Mixing = Mixing {
    mixup_alpha: 0.8,
    cutmix_alpha: 1.0,
    probability: 0.9,
    switch_probability: 0.5,
    images: Some(8),
};

fn training_fixture() -> Value {
    serde_json::from_str(include_str!("../../fixtures/finetune_training.json")).unwrap()
}

fn draws(step: usize) -> Draws {
    Draws::new(7, step as u64)
}

#[test]
fn the_fixtures_mixes_are_those_that_are_drawn() {
    let drawn: Vec<Value> = (0..20)
        .map(|step| {
            let of_group = |group| {
                let mut rng = draws(step).rng("finetune.mixing", group);
                let mix = MIXING.draw([16, 16], &mut rng).unwrap_or(Mix {
                    lambda: 1.0,
                    cut: None,
                });
                let cut = mix.cut.map(|cut| [cut.top, cut.bottom, cut.left, cut.right]);
                json!({ "lambda": mix.lambda, "cut": cut })
            };
            json!([of_group(0), of_group(1)])
        })
        .collect();
    let held = &training_fixture()["settings"]["mixes"];
    let near = |a: &Value, b: &Value| {
        (a["lambda"].as_f64().unwrap() - b["lambda"].as_f64().unwrap()).abs() < 1e-12 && a["cut"] == b["cut"]
    };
    for (step, groups) in drawn.iter().enumerate() {
        for group in 0..2 {
            assert!(
                held.get(step)
                    .is_some_and(|held| near(&held[group], &groups[group])),
                "step {step}; all: {}",
                json!(drawn)
            );
        }
    }
}

#[test]
fn twenty_steps_have_pytorchs_losses_also_in_micro_batches() {
    let fixture = training_fixture();
    let of = |name: &str| fixture["settings"][name].clone();
    let backbone: BackboneConfig = serde_json::from_value(of("backbone")).unwrap();
    let (classes, images) = (
        of("classes").as_u64().unwrap() as usize,
        of("images").as_u64().unwrap() as usize,
    );
    let mut settings = settings();
    settings.label_smoothing = of("label_smoothing").as_f64().unwrap();
    settings.mixing = Some(MIXING);
    let objective: Finetune = objective(&settings, &backbone, classes);
    let (student, mut state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
    let paths = parameters(&student)
        .into_iter()
        .filter(|parameter| parameter.trained)
        .map(|parameter| (parameter.id, plain(&parameter.path)))
        .collect();
    let mut student: Network = student.map(&mut Fill(paths));
    let rate = of("learning_rate").as_f64().unwrap();
    let weight_decay = of("weight_decay").as_f64().unwrap();
    let mut optimizer = OptimizerConfig::Sgd {
        learning_rate_per_256: rate,
        momentum: of("momentum").as_f64().unwrap(),
        weight_decay,
        nesterov: false,
    }
    .init();
    let rates = Rates {
        rules: objective.parameter_rules(),
        ..Rates::constant(rate, weight_decay)
    };
    let tolerance = (3.0 * fixture["torch_float32_error"].as_f64().unwrap()).max(1e-4);
    for (step, expected) in list(&fixture["losses"]).into_iter().enumerate() {
        let progress = RunPosition::at(step, 10, 20);
        let context = Context::training(progress, draws(step));
        let whole = batch(step, images, 16, classes);
        if step == 0 {
            // In halves the groups are the same, because draws use their index in the whole step.
            let halves = whole.clone().parts(images / 2);
            let labels: Vec<_> = halves
                .iter()
                .filter_map(|half| half.labels.clone())
                .flatten()
                .collect();
            assert_eq!(Some(labels), whole.labels);
            let plain = Context {
                batch_norm_images: Some(images / 2),
                ..context.clone()
            };
            let loss = |batch: &Batch, context: &Context| {
                let (loss, ()) = objective.loss(&student, &state, batch, context);
                f64::from(loss.total.into_scalar::<f32>())
            };
            let of_halves: f64 = (0..2)
                .map(|index| loss(&halves[index], &plain.micro_batch(index, 2)) / 2.0)
                .sum();
            let of_whole = loss(&whole, &plain);
            assert!(
                (of_halves / of_whole - 1.0).abs() < 1e-5,
                "{of_halves} {of_whole}"
            );
        }
        let (loss, ()) = objective.loss(&student, &state, &whole, &context);
        let value = f64::from(loss.total.clone().into_scalar::<f32>());
        let bound = if step == 0 { 1e-5 } else { tolerance };
        assert!(
            (value / expected - 1.0).abs() <= bound,
            "step {step}: loss {value}, PyTorch {expected}, bound {bound:e}"
        );
        let grads = GradientsParams::from_grads(loss.total.backward(), &student);
        student = optimizer.step(&rates, student, grads);
        (student, state) = objective.commit(student, state, vec![()], &context);
    }
}
