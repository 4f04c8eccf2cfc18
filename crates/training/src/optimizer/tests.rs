//! Optimizers compared with hand-computed values, and with PyTorch over 20 steps on the same gradients.

use super::*;
use burn::tensor::{Device, TensorData};

#[derive(Module, Debug)]
struct Two {
    first: Param<Tensor<1>>,
    second: Param<Tensor<1>>,
}

fn two() -> Two {
    let device = Device::flex().autodiff();
    let ones = || Param::from_tensor(Tensor::<1>::from_floats([1.0, 2.0], &device));
    Two {
        first: ones(),
        second: ones(),
    }
}

fn rates(learning_rate: f64, weight_decay: f64) -> Rates {
    Rates::constant(learning_rate, weight_decay)
}

#[test]
fn sgd_follows_pytorch_by_hand() {
    // w = 1, gradient 3 each step, lr 0.1, momentum 0.9, weight decay 0.5:
    // step 1: g = 3 + 0.5 = 3.5, v = 3.5, w = 0.65; step 2: g = 3.325, v = 6.475, w = 0.0025.
    let config = OptimizerConfig::Sgd {
        learning_rate_per_256: 0.1,
        momentum: 0.9,
        weight_decay: 0.5,
        nesterov: false,
    };
    let mut optimizer = config.init();
    let mut module = two();
    let progress = RunPosition::at(0, 1, 2);
    let rates = config.rates(
        config.peak_learning_rate(256),
        &ScheduleConfig::Constant {},
        &progress,
        vec![],
    );
    for expected in [0.65, 0.0025] {
        let loss = (module.first.val() * 3.0).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &module);
        module = optimizer.step(&rates, module, grads);
        let got = module.first.val().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        assert!(module.first.val().is_require_grad());
    }
    // A parameter without a gradient stays unchanged.
    module
        .second
        .val()
        .into_data()
        .assert_eq(&TensorData::from([1.0f32, 2.0]), true);
}

#[test]
fn dropped_gradients_leave_their_parameter_alone() {
    let module = two();
    let loss = (module.first.val() + module.second.val()).sum();
    let mut grads = GradientsParams::from_grads(loss.backward(), &module);
    drop_gradients(&mut grads, &module, &["first"]);
    assert!(grads.get::<1>(module.first.id).is_none());
    assert!(grads.get::<1>(module.second.id).is_some());
}

#[test]
fn clipping_scales_to_the_norm() {
    // Gradients (3, 4) and (6, 8): norms 5 and 10, together sqrt(125).
    let clipped = |clip| {
        let device = Device::flex();
        let module = two();
        let mut grads = GradientsParams::new();
        grads.register(module.first.id, Tensor::<1>::from_floats([3.0, 4.0], &device));
        grads.register(module.second.id, Tensor::<1>::from_floats([6.0, 8.0], &device));
        let mut optimizer = OptimizerConfig::Sgd {
            learning_rate_per_256: 1.0,
            momentum: 0.0,
            weight_decay: 0.0,
            nesterov: false,
        }
        .init();
        let moved = optimizer.step_clipped(&rates(1.0, 0.0), Some(clip), module, grads);
        let value = |param: Param<Tensor<1>>| param.val().into_data().try_to_vec::<f32>().unwrap();
        [1.0 - value(moved.first)[0], 1.0 - value(moved.second)[0]]
    };
    let near = |got: [f32; 2], expected: [f32; 2]| {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        }
    };
    near(clipped(ClipConfig::PerParameterNorm(5.0)), [3.0, 3.0]);
    near(clipped(ClipConfig::PerParameterNorm(100.0)), [3.0, 6.0]);
    let together = 5.0 / 125f32.sqrt();
    near(
        clipped(ClipConfig::GlobalNorm(5.0)),
        [3.0 * together, 6.0 * together],
    );
    assert!(ClipConfig::GlobalNorm(0.0).validate().is_err());
}

/// The parameters of `scripts/parity/optimizers.py`: names, shapes and values by formula.
#[derive(Module, Debug)]
struct Formula {
    weight: Param<Tensor<2>>,
    kernel: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    zero: Param<Tensor<2>>,
}

fn wave(tensor: usize, step: usize, count: usize) -> Vec<f32> {
    (0..count)
        .map(|index| (0.7 * index as f64 + 1.3 * tensor as f64 + 0.15 * step as f64 + 0.5).sin() as f32)
        .collect()
}

fn formula(device: &Device) -> Formula {
    fn made<const D: usize>(tensor: usize, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
        let values = wave(tensor, 0, shape.iter().product());
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
    }
    Formula {
        weight: made(0, [5, 3], device),
        kernel: made(1, [2, 3, 2, 2], device),
        bias: made(2, [7], device),
        zero: Param::from_tensor(Tensor::zeros([2, 2], device)),
    }
}

#[test]
fn twenty_steps_are_pytorchs() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../fixtures/optimizers.json")).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        config.validate("optimizer").unwrap();
        let schedule: ScheduleConfig = serde_json::from_value(case["schedule"].clone()).unwrap();
        let clip: Option<ClipConfig> = serde_json::from_value(case["clip"].clone()).unwrap();
        let device = Device::flex().autodiff();
        let mut module = formula(&device);
        let mut optimizer = config.init();
        for step in 0..20 {
            if step == 10 {
                // The state is restored into a fresh optimizer.
                let bytes = optimizer.to_bytes().unwrap();
                optimizer = config.init();
                optimizer.load_bytes(&bytes, &module).unwrap();
            }
            let plain = Device::flex();
            let mut grads = GradientsParams::new();
            let values = |tensor, count| wave(tensor, step + 1, count);
            grads.register(
                module.weight.id,
                Tensor::<2>::from_data(TensorData::new(values(0, 15), [5, 3]), &plain),
            );
            grads.register(
                module.kernel.id,
                Tensor::<4>::from_data(TensorData::new(values(1, 24), [2, 3, 2, 2]), &plain),
            );
            grads.register(
                module.bias.id,
                Tensor::<1>::from_data(TensorData::new(values(2, 7), [7]), &plain),
            );
            // One parameter skips the first steps, like a frozen layer.
            if step >= 5 {
                grads.register(
                    module.zero.id,
                    Tensor::<2>::from_data(TensorData::new(values(3, 4), [2, 2]), &plain),
                );
            }
            let progress = RunPosition::at(step, 4, 20);
            let rates = config.rates(config.peak_learning_rate(512), &schedule, &progress, vec![]);
            let expected = case["learning_rates"][step].as_f64().unwrap();
            assert!(
                (rates.learning_rate - expected).abs() <= 1e-12 * expected.abs(),
                "{case}: learning rate of step {step}: {} {expected}",
                rates.learning_rate
            );
            module = optimizer.step_clipped(&rates, clip, module, grads);
        }
        let check = |name: &str, got: TensorData| {
            let got: Vec<f64> = got.iter::<f64>().collect();
            let expected: Vec<f64> = serde_json::from_value(case["parameters"][name].clone()).unwrap();
            assert_eq!(got.len(), expected.len());
            let length = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
            let difference: Vec<f64> = got.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let error = length(&difference) / length(&expected);
            assert!(error <= 1e-6, "{}: `{name}` is {error:e} off", case["name"]);
        };
        check("weight", module.weight.val().into_data());
        check("kernel", module.kernel.val().into_data());
        check("bias", module.bias.val().into_data());
        check("zero", module.zero.val().into_data());
    }
}

#[test]
fn a_state_of_another_optimizer_or_module_is_refused() {
    let sgd = |momentum| OptimizerConfig::Sgd {
        learning_rate_per_256: 0.1,
        momentum,
        weight_decay: 0.0,
        nesterov: false,
    };
    let mut optimizer = sgd(0.9).init();
    let module = two();
    let loss = (module.first.val() + module.second.val()).sum();
    let grads = GradientsParams::from_grads(loss.backward(), &module);
    let module = optimizer.step(&rates(0.1, 0.0), module, grads);
    let bytes = optimizer.to_bytes().unwrap();
    let refused =
        |config: OptimizerConfig, bytes: &[u8]| config.init().load_bytes(bytes, &module).unwrap_err();
    assert!(refused(sgd(0.0), &bytes).contains("another optimizer"));
    let adamw = OptimizerConfig::Adamw {
        learning_rate_per_256: 0.1,
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.0,
        weight_decay_end: None,
        decay_biases_and_norms: false,
        layer_decay: None,
    };
    assert!(refused(adamw, &bytes).contains("another optimizer"));
    assert!(!refused(sgd(0.9), &bytes[..bytes.len() - 1]).is_empty());
    let other = formula(&Device::flex());
    let error = sgd(0.9).init().load_bytes(&bytes, &other).unwrap_err();
    assert!(error.contains("which the networks lack"), "{error}");
}

#[derive(Module, Debug)]
struct Block {
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Deep {
    patch_embed: Block,
    blocks: Vec<Block>,
    norm: Block,
}

#[test]
fn rates_fall_with_depth_and_stay_at_the_peak_where_asked() {
    let device = Device::flex().autodiff();
    let block = || Block {
        weight: Param::from_tensor(Tensor::zeros([1, 1], &device)),
    };
    let module = Deep {
        patch_embed: block(),
        blocks: vec![block(), block()],
        norm: block(),
    };
    let mut optimizer = OptimizerConfig::Adamw {
        learning_rate_per_256: 1.0,
        betas: [0.0, 0.0],
        epsilon: 1e-12,
        weight_decay: 0.0,
        weight_decay_end: None,
        decay_biases_and_norms: false,
        layer_decay: Some(0.5),
    }
    .init();
    let weights = |module: &Deep| {
        [
            &module.patch_embed,
            &module.blocks[0],
            &module.blocks[1],
            &module.norm,
        ]
        .map(|block| block.weight.val())
    };
    let loss = Tensor::cat(weights(&module).to_vec(), 0).sum();
    let grads = GradientsParams::from_grads(loss.backward(), &module);
    let rates = Rates {
        peak_learning_rate: 4.0,
        rules: vec![ParameterRule {
            follows_schedule: false,
            ..ParameterRule::of("norm")
        }],
        ..Rates::constant(1.0, 0.0)
    };
    let module = optimizer.step(&rates, module, grads);
    // Adam's first step with zero betas is the sign of the gradient times the rate.
    let got = weights(&module).map(|weight| -weight.into_scalar::<f32>());
    for (got, expected) in got.iter().zip([0.125, 0.25, 0.5, 4.0]) {
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
    }
}

#[test]
fn bad_numbers_are_named() {
    let sgd = |learning_rate_per_256, momentum| OptimizerConfig::Sgd {
        learning_rate_per_256,
        momentum,
        weight_decay: 0.0,
        nesterov: false,
    };
    assert!(
        sgd(0.0, 0.9)
            .validate("optimizer")
            .unwrap_err()
            .contains("learning_rate_per_256")
    );
    assert!(
        sgd(0.1, 1.0)
            .validate("optimizer")
            .unwrap_err()
            .contains("momentum")
    );
}
