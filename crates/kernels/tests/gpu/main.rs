//! The kernels for GPUs beside the CPU's: values and gradients.
//!
//! Run by `scripts/check-devices.sh`, on a software Vulkan device.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod normalization;
mod rows;
mod updates;

use burn::tensor::{Device, DeviceKind, FloatDType, Tensor, TensorData};

/// 16-bit types that the GPU computes in.
fn halves() -> Vec<FloatDType> {
    let all = [FloatDType::F16, FloatDType::BF16].into_iter();
    let found: Vec<_> = all.filter(|dtype| gpu().supports_dtype(*dtype)).collect();
    eprintln!("16-bit types of the device: {found:?}");
    found
}

fn gpu() -> Device {
    Device::wgpu(DeviceKind::Cpu)
}

/// -1 to 1, without a pattern: `formula` of `scripts/parity/resnet.py`.
fn values<const D: usize>(shape: [usize; D], number: usize, device: &Device) -> Tensor<D> {
    let wave = |index: usize| (12.9898 * index as f64 + 78.233 * number as f64).sin() * 43758.5453;
    let value = |index: usize| (2.0 * (wave(index) - wave(index).floor()) - 1.0) as f32;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.detach().require_grad()
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// The largest difference, as a share of the largest value.
fn error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    // `max` alone would skip what is not a number.
    let largest = |a: f64, b: f64| if b.is_nan() { b } else { a.max(b) };
    let differences = ours.iter().zip(reference).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, largest) / reference.iter().map(|v| v.abs()).fold(1e-12, largest)
}
