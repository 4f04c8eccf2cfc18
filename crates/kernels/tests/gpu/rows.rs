//! Softmax, cross-entropy, layer normalization and GELU: widths, types, numbers far from zero.

use super::*;
use burn::tensor::DType;
use burn::tensor::activation::log_softmax;
use kernels::{cross_entropies, gelu, layer_norm, log_sum_exp, softmax};

/// Of one number, below, at and above a cube's units, and as wide as DINO's prototypes.
const WIDTHS: [(usize, usize); 7] = [
    (3, 1),
    (5, 2),
    (2, 31),
    (7, 197),
    (1, 256),
    (4, 1000),
    (3, 65_536),
];

/// A function's output and its input's gradient on a device, in the type.
fn differentiated<const D: usize>(
    device: &Device,
    dtype: FloatDType,
    x: impl Fn(&Device) -> Tensor<D>,
    of: impl Fn(Tensor<D>) -> Tensor<D>,
) -> [Vec<f64>; 2] {
    let device = device.clone().autodiff();
    let x = leaf(x(&device).cast(dtype));
    let y = of(x.clone());
    assert_eq!(y.dtype(), DType::from(dtype));
    let factor = values(y.dims(), 9, &device);
    let gradients = (y.clone().cast(FloatDType::F32) * factor).sum().backward();
    [numbers(y), numbers(x.grad(&gradients).unwrap())]
}

/// On the GPU in the type beside the CPU in f32, from the same numbers.
fn compare<const D: usize>(
    name: &str,
    bounds: [f64; 2],
    x: impl Fn(&Device) -> Tensor<D>,
    of: impl Fn(Tensor<D>) -> Tensor<D>,
) {
    for dtype in [FloatDType::F32].into_iter().chain(halves()) {
        let rounded = |device: &Device| x(device).cast(dtype).cast(FloatDType::F32);
        let ours = differentiated(&gpu(), dtype, &x, &of);
        let reference = differentiated(&Device::flex(), FloatDType::F32, rounded, &of);
        let bound = match dtype {
            FloatDType::F32 => bounds[0],
            FloatDType::F16 => bounds[1],
            _ => 10.0 * bounds[1],
        };
        for (part, (ours, reference)) in ["output", "gradient"].iter().zip(ours.iter().zip(&reference)) {
            let error = error(ours, reference);
            assert!(error < bound, "{name} in {dtype:?}: {part} {error:e} off");
        }
    }
}

#[test]
fn softmax_has_the_cpus_values_and_gradients() {
    for (rows, width) in WIDTHS {
        let x = |device: &Device| values([rows, width], 1, device) * 8.0;
        compare(&format!("softmax of {width}"), [3e-6, 3e-3], x, softmax::<2>);
    }
    // A view of another order, of four dimensions.
    let x = |device: &Device| values([2, 5, 3, 7], 1, device) * 8.0;
    compare("softmax", [3e-6, 3e-3], x, |x| {
        softmax(x.swap_dims(1, 3)).swap_dims(1, 3)
    });
}

/// More rows than a dimension of a grid may have cubes.
#[test]
fn rows_may_be_many() {
    let of = |device: &Device| numbers(softmax(values([70_001, 3], 1, device)));
    assert!(error(&of(&gpu()), &of(&Device::flex())) < 1e-6);
}

#[test]
fn cross_entropy_has_the_cpus_values_and_gradients() {
    for (rows, width) in WIDTHS {
        // Three blocks of targets for five of logits.
        let (logits_rows, target_rows) = (5 * rows, 3 * rows);
        let of = |device: &Device, dtype: FloatDType| {
            let plain = device.clone();
            let device = device.clone().autodiff();
            let x = leaf((values([logits_rows, width], 1, &device) * 8.0).cast(dtype));
            // Rows that need not sum to 1.
            let targets = softmax(values([target_rows, width], 2, &plain) * 3.0) * 1.5;
            let found = match cross_entropies(&x, || targets.clone(), rows, 0.1) {
                Some(found) => found,
                None => {
                    let last = targets.clone().narrow(0, 2 * rows, rows);
                    let all = Tensor::cat(vec![targets, last.clone(), last], 0);
                    (log_softmax(x.clone() / 0.1, 1) * all).sum_dim(1).neg()
                }
            };
            assert_eq!(found.dims(), [logits_rows, 1]);
            let factor = values([logits_rows, 1], 3, &device);
            let gradients = (found.clone() * factor).sum().backward();
            [numbers(found), numbers(x.grad(&gradients).unwrap())]
        };
        assert!(cross_entropies(&values([1, 2], 1, &gpu()), || values([1, 2], 1, &gpu()), 1, 0.1).is_some());
        let reference = of(&Device::flex(), FloatDType::F32);
        for (ours, reference) in of(&gpu(), FloatDType::F32).iter().zip(&reference) {
            let error = error(ours, reference);
            assert!(error < 1e-5, "cross-entropy of {width}: {error:e} off");
        }
    }
}

/// By hand: equal logits, and logits whose exponentials are infinite or 0.
#[test]
fn cross_entropy_by_hand_and_far_outside_exp() {
    let device = gpu().autodiff();
    let logits = [[0.5f32, 0.5, 0.5, 0.5], [900.0, -900.0, 900.0, 0.0]];
    let x = leaf(Tensor::<2>::from_data(logits, &device));
    let targets = Tensor::<2>::from_data([[0.25f32, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]], &gpu());
    let found = cross_entropies(&x, || targets.clone(), 2, 0.5).unwrap();
    let gradients = found.clone().sum().backward();
    let wanted = [4f64.ln(), 2f64.ln()];
    assert!(error(&numbers(found), &wanted) < 1e-6);
    let wanted = [0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0];
    assert!(error(&numbers(x.grad(&gradients).unwrap()), &wanted) < 1e-6);

    let log_sum = log_sum_exp(&x).unwrap();
    let gradients = log_sum.clone().sum().backward();
    assert!(error(&numbers(log_sum), &[0.5 + 4f64.ln(), 900.0 + 2f64.ln()]) < 1e-6);
    let wanted = [0.25, 0.25, 0.25, 0.25, 0.5, 0.0, 0.5, 0.0];
    assert!(error(&numbers(x.grad(&gradients).unwrap()), &wanted) < 1e-5);
    // Nothing to sum: the log of what is not a number is none either.
    let x = Tensor::<2>::from_data([[0.0f32, f32::NAN, 1.0]], &gpu());
    assert!(numbers(log_sum_exp(&x).unwrap())[0].is_nan());
    assert!(numbers(softmax(x)).iter().all(|value| value.is_nan()));
}

#[test]
fn layer_norm_has_the_cpus_values_and_gradients() {
    for (rows, width) in [
        (3, 1),
        (5, 2),
        (1, 31),
        (7, 197),
        (2000, 48),
        (33, 384),
        (4, 1024),
        (2, 1500),
    ] {
        for dtype in [FloatDType::F32].into_iter().chain(halves()) {
            let of = |device: &Device, own: FloatDType| {
                let device = device.clone().autodiff();
                let x = (values([rows, width], 1, &device) * 3.0 + 2.0)
                    .cast(dtype)
                    .cast(own);
                let x = leaf(x);
                let weight = leaf(values([width], 2, &device) + 1.5);
                let bias = leaf(values([width], 3, &device));
                let y = layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5);
                let factor = values([rows, width], 4, &device);
                let gradients = (y.clone().cast(FloatDType::F32) * factor).sum().backward();
                [
                    numbers(y),
                    numbers(x.grad(&gradients).unwrap()),
                    numbers(weight.grad(&gradients).unwrap()),
                    numbers(bias.grad(&gradients).unwrap()),
                ]
            };
            let (ours, reference) = (of(&gpu(), dtype), of(&Device::flex(), FloatDType::F32));
            let bound = if dtype == FloatDType::F32 { 1e-5 } else { 2e-2 };
            for (part, (ours, reference)) in ["output", "x", "weight", "bias"]
                .iter()
                .zip(ours.iter().zip(&reference))
            {
                // A row of one number is normalized to nothing: its gradient is rounding alone.
                let error = if width == 1 && *part != "output" && *part != "bias" {
                    0.0
                } else {
                    error(ours, reference)
                };
                assert!(
                    error < bound,
                    "layer normalization of {width} in {dtype:?}: {part} {error:e} off"
                );
            }
        }
    }
}

#[test]
fn gelu_has_the_cpus_values_and_gradients() {
    // Not one number alone: far below 0 the distribution's absolute error is a large share of the value.
    for count in [9, 5000] {
        let x = |device: &Device| values([1, count], 1, device) * 6.0;
        compare("GELU", [1e-6, 3e-3], x, gelu::<2>);
    }
    let far = Tensor::<1>::from_data([-60.0f32, 60.0, 0.0], &gpu());
    assert_eq!(numbers(gelu(far)), [0.0, 60.0, 0.0]);
    assert_eq!(gelu(values([2, 2], 1, &gpu())).dtype(), DType::F32);
}
