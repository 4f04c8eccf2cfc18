//! Batch normalization: shapes, groups, orders in memory, types.

use super::*;
use burn::tensor::DType;
use kernels::{Epilogue, batch_norm};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Relu,
    /// ReLU of the sum with a shortcut.
    Add,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 4],
    groups: usize,
    then: Then,
    /// Whether a pixel's channels lie side by side in memory, as behind a convolution on a GPU.
    last: bool,
}

/// Results with their names.
type Found = Vec<(&'static str, Vec<f64>)>;

/// With numbers of `rounded` in the type `dtype`.
fn run(device: &Device, case: Case, rounded: FloatDType, dtype: FloatDType) -> Found {
    let Case {
        shape,
        groups,
        then,
        last,
    } = case;
    let [images, channels, height, width] = shape;
    let device = device.clone().autodiff();
    // A view of another order: what is differentiated lies in memory as `last` says.
    let (stored, axes) = if last {
        ([images, height, width, channels], [0, 3, 1, 2])
    } else {
        (shape, [0, 1, 2, 3])
    };
    let cast = |x: Tensor<4>| leaf(x.cast(rounded).cast(dtype));
    let x = cast(values(stored, 1, &device) * 3.0 + 2.0);
    // In the other order than `x`.
    let shortcut = cast(values([width, channels, height, images], 5, &device));
    let weight = leaf(values([channels], 2, &device) + 1.5);
    let bias = leaf(values([channels], 3, &device));
    let factor = values(shape, 4, &device);

    let epilogue = match then {
        Then::Nothing => Epilogue::Nothing,
        Then::Relu => Epilogue::Relu,
        Then::Add => Epilogue::AddRelu(shortcut.clone().permute([3, 1, 2, 0])),
    };
    let y = batch_norm(
        x.clone().permute(axes),
        weight.clone(),
        bias.clone(),
        groups,
        1e-5,
        epilogue,
    );
    assert_eq!(y.output.dtype(), DType::from(dtype));
    assert!(!y.mean.device().is_autodiff() && y.mean.dtype() == DType::F32);
    let gradients = (y.output.clone().cast(FloatDType::F32) * factor).sum().backward();
    let mut found = vec![
        ("output", numbers(y.output)),
        ("mean", numbers(y.mean)),
        ("variance", numbers(y.variance)),
        ("gradient of x", numbers(x.grad(&gradients).unwrap())),
        ("gradient of weight", numbers(weight.grad(&gradients).unwrap())),
        ("gradient of bias", numbers(bias.grad(&gradients).unwrap())),
    ];
    if then == Then::Add {
        found.push((
            "gradient of shortcut",
            numbers(shortcut.grad(&gradients).unwrap()),
        ));
    }
    found
}

fn compare(case: Case, dtype: FloatDType, bound: f64) -> f64 {
    let ours = run(&gpu(), case, dtype, dtype);
    let reference = run(&Device::flex(), case, dtype, FloatDType::F32);
    let mut worst: f64 = 0.0;
    for ((name, ours), (_, reference)) in ours.iter().zip(&reference) {
        let error = error(ours, reference);
        assert!(error < bound, "{case:?}, {dtype:?}: {name} {error:e} off");
        worst = worst.max(error);
    }
    worst
}

/// Odd sizes, one image, one pixel, one channel, parts of unequal size, more channels than a cube has units side by side.
const SHAPES: [([usize; 4], usize); 12] = [
    ([1, 3, 5, 7], 1),
    ([1, 1, 1, 3], 1),
    ([2, 1, 9, 4], 2),
    ([6, 5, 3, 3], 3),
    ([7, 3, 19, 23], 1),
    ([40, 3, 2, 2], 20),
    ([64, 4, 16, 16], 4),
    ([2, 33, 31, 5], 1),
    ([3, 130, 5, 7], 3),
    ([10, 70, 1, 1], 2),
    ([4, 8, 1, 6], 1),
    ([256, 1, 1, 1], 8),
];

#[test]
fn batch_norm_has_the_cpus_values_and_gradients() {
    let mut worst: f64 = 0.0;
    for (shape, groups) in SHAPES {
        for then in [Then::Nothing, Then::Relu, Then::Add] {
            for last in [false, true] {
                let case = Case {
                    shape,
                    groups,
                    then,
                    last,
                };
                worst = worst.max(compare(case, FloatDType::F32, 1e-5));
            }
        }
    }
    eprintln!("batch normalization in f32: {worst:.1e} off");
}

#[test]
fn batch_norm_in_16_bits_has_the_cpus_values_and_gradients() {
    for dtype in halves() {
        let mut worst: f64 = 0.0;
        for (shape, groups) in SHAPES {
            for (then, last) in [(Then::Relu, true), (Then::Add, false), (Then::Nothing, true)] {
                let case = Case {
                    shape,
                    groups,
                    then,
                    last,
                };
                worst = worst.max(compare(
                    case,
                    dtype,
                    if dtype == FloatDType::F16 { 3e-3 } else { 2e-2 },
                ));
            }
        }
        eprintln!("batch normalization in {dtype:?}: {worst:.1e} off");
    }
}

/// Of ranks 2 and 3, as in heads and behind tokens.
#[test]
fn rows_are_images_of_one_pixel() {
    let of = |device: Device| {
        let device = device.autodiff();
        let x = leaf(values([12, 37], 1, &device) * 2.0 + 1.0);
        let wide = leaf(values([4, 5, 11], 2, &device));
        let (weight, bias) = (values([37], 3, &device), values([37], 4, &device));
        let rows = batch_norm(x.clone(), weight, bias, 3, 1e-5, Epilogue::Relu).output;
        let (weight, bias) = (values([5], 3, &device), values([5], 4, &device));
        let tokens = batch_norm(wide.clone(), weight, bias, 2, 1e-5, Epilogue::Nothing).output;
        let loss = (rows.clone().powi_scalar(2)).sum() + (tokens.clone().powi_scalar(3)).sum();
        let gradients = loss.backward();
        [
            numbers(rows),
            numbers(tokens),
            numbers(x.grad(&gradients).unwrap()),
            numbers(wide.grad(&gradients).unwrap()),
        ]
    };
    for (ours, reference) in of(gpu()).iter().zip(&of(Device::flex())) {
        assert!(error(ours, reference) < 1e-5);
    }
}

/// A teacher: no graph is recorded, and a shortcut that is the input itself.
#[test]
fn without_autodiff_the_values_are_the_same() {
    let of = |device: &Device| {
        let x = values([4, 6, 5, 3], 1, device);
        let (weight, bias) = (values([6], 2, device), values([6], 3, device));
        let y = batch_norm(x.clone(), weight, bias, 2, 1e-5, Epilogue::AddRelu(x));
        assert!(!y.output.is_tracked());
        numbers(y.output)
    };
    let plain = of(&gpu());
    assert!(error(&plain, &of(&Device::flex())) < 1e-6);
    assert!(error(&of(&gpu().autodiff()), &plain) < 1e-7);
    let recomputed = gpu().autodiff().gradient_checkpointing();
    assert!(error(&of(&recomputed), &plain) < 1e-7);
}

/// A value far from zero must not cost the variance its precision, nor one far from the others.
#[test]
fn statistics_survive_large_means_and_outliers() {
    for last in [false, true] {
        let variance = |device: &Device, shift: f64, outlier: f64| {
            let x = values([4, 2, 16, 16], 1, device) + shift;
            let first = Tensor::zeros([4, 2, 16, 16], device).slice_fill([0..1, 0..2, 0..1, 0..1], outlier);
            let x = x + first;
            let x = if last {
                (x.permute([0, 2, 3, 1]) * 1.0).permute([0, 3, 1, 2])
            } else {
                x
            };
            let (one, zero) = (Tensor::ones([2], device), Tensor::zeros([2], device));
            numbers(batch_norm(x, one, zero, 1, 1e-5, Epilogue::Nothing).variance)
        };
        for (shift, outlier) in [(100.0, 0.0), (0.0, 1e4)] {
            let wanted = variance(&Device::flex(), if outlier > 0.0 { shift } else { 0.0 }, outlier);
            assert!(error(&variance(&gpu(), shift, outlier), &wanted) < 1e-4);
        }
    }
}

/// A run that diverges must show it: `max(NaN, 0)` is 0 on most devices.
#[test]
fn relu_keeps_what_is_not_a_number() {
    let device = gpu();
    let x = values([4, 2, 3, 3], 1, &device).slice_fill([1..2, 0..1, 2..3, 0..1], f32::NAN);
    let (one, zero) = (Tensor::ones([2], &device), Tensor::zeros([2], &device));
    let y = batch_norm(x, one, zero, 1, 1e-5, Epilogue::Relu);
    for (at, value) in numbers(y.output).into_iter().enumerate() {
        assert_eq!(value.is_nan(), at / 9 % 2 == 0);
    }
    assert!(numbers(y.mean)[0].is_nan() && !numbers(y.variance)[1].is_nan());
}

/// PyTorch's, of `scripts/parity/resnet.py`: groups of two images.
#[test]
fn batch_norm_is_pytorchs() {
    let file = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../backbones/fixtures/batch_norm_groups.safetensors"
    ))
    .unwrap();
    let fixture = safetensors::SafeTensors::deserialize(&file).unwrap();
    let wanted = |name: &str| -> Vec<f64> {
        let numbers = fixture.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
        numbers
            .into_iter()
            .map(|bytes| f32::from_le_bytes(bytes).into())
            .collect()
    };
    let device = gpu().autodiff();
    let shape = [8, 6, 5, 3];
    let x = leaf(values(shape, 1, &device) * 2.0 + 0.5);
    let weight = leaf(values([6], 2, &device) * 0.5 + 1.0);
    let bias = leaf(values([6], 3, &device) * 0.2);
    let y = batch_norm(
        x.clone(),
        weight.clone(),
        bias.clone(),
        4,
        1e-5,
        Epilogue::Nothing,
    );
    let gradients = (y.output.clone() * values(shape, 4, &device)).sum().backward();
    let unbiased = 30.0 / 29.0;
    for (name, ours) in [
        ("output", numbers(y.output)),
        ("gradient.x", numbers(x.grad(&gradients).unwrap())),
        ("gradient.weight", numbers(weight.grad(&gradients).unwrap())),
        ("gradient.bias", numbers(bias.grad(&gradients).unwrap())),
        ("running_mean", numbers(y.mean * 0.1)),
        ("running_var", numbers(y.variance * (0.1 * unbiased) + 0.9)),
    ] {
        let error = error(&ours, &wanted(name));
        assert!(error < 2e-6, "{name}: {error:e} off");
    }
}
