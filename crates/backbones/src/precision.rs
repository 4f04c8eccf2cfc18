//! The number type of convolutions, matrix products and attention.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Compute type of convolutions, linear layers and attention. Weights, optimizer, statistics, norms, softmax
/// and losses are always 32-bit.
///
/// Only `layers` casts: a layer takes the precision of its [`Init`](crate::Init).
///
/// Micikevicius et al., *Mixed precision training*, [2018](https://arxiv.org/abs/1710.03740).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// 8 bits of exponent, like f32: needs no loss scale.
    Bf16,
    /// 5 bits of exponent: gradients below 6e-8 vanish and sums above 65,504 overflow, hence a loss scale.
    F16,
}

impl Precision {
    /// The name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Whether it is f32, which needs no casts.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// Gives an error if the device cannot compute in this type; the message lists the supported types.
    pub fn check(self, device: &Device) -> Result<(), String> {
        if device.supports_dtype(self.dtype()) {
            return Ok(());
        }
        let others: Vec<String> = [Self::F32, Self::Bf16, Self::F16]
            .into_iter()
            .filter(|other| device.supports_dtype(other.dtype()))
            .map(|other| format!("`\"{}\"`", other.name()))
            .collect();
        Err(format!(
            "`training.precision = \"{}\"`: this device does not compute in it, only in {}",
            self.name(),
            others.join(", ")
        ))
    }

    fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// Casts to this type.
    pub(crate) fn lower<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        cast(x, self.dtype())
    }

    /// `a · b` in this type, as f32. For matrix products outside layers, e.g. with weights that are
    /// normalized first.
    ///
    /// # Shapes
    /// - `a`: `[…, m, k]`, `b`: `[…, k, n]`
    /// - output: `[…, m, n]`
    pub fn product<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        raise(kernels::matmul(self.lower(a), self.lower(b)))
    }
}

/// Casts to f32.
pub fn raise<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::F32)
}

/// Computes `of` in f32; its output has the type of the input.
pub(crate) fn in_f32<const D: usize>(x: Tensor<D>, of: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let dtype: FloatDType = x.dtype().into();
    cast(of(raise(x)), dtype)
}

/// Casts to this type.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    // A cast to the same type is not free on every backend: with autodiff it adds a node.
    if x.dtype() == DType::from(dtype) {
        return x;
    }
    x.cast(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_come_back_in_f32() {
        let device = Device::flex().autodiff();
        let a = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device).require_grad();
        for precision in [Precision::F16, Precision::Bf16] {
            let product = precision.product(a.clone(), a.clone().transpose());
            assert_eq!(product.dtype(), DType::F32);
            assert_eq!(
                product.clone().into_data().try_to_vec::<f32>().unwrap(),
                [5.0, 11.0, 11.0, 25.0]
            );
            let gradient = a.grad(&product.sum().backward()).unwrap();
            assert_eq!(gradient.dtype(), DType::F32);
            assert_eq!(
                gradient.into_data().try_to_vec::<f32>().unwrap(),
                [8.0, 12.0, 8.0, 12.0]
            );
        }
    }

    #[test]
    fn names_are_those_of_configs() {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            assert_eq!(serde_json::to_value(precision).unwrap(), precision.name());
            assert_eq!(precision.check(&Device::flex()), Ok(()));
        }
    }
}
