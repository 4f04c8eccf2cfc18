//! The factor that keeps f16 gradients within f16's range, and adjusts itself.

use crate::optimizer::scale_gradients;
use burn::module::Module;
use burn::optim::GradientsParams;
use serde::{Deserialize, Serialize};

/// The loss is multiplied by it before the backward pass, and gradients are divided by it afterwards:
/// otherwise f16's 5 bits of exponent would turn small gradients into 0. It doubles after a number of steps
/// without overflow, and halves at an overflow, whose step is skipped.
///
/// Micikevicius et al., *Mixed precision training*, [2018](https://arxiv.org/abs/1710.03740), §3.2; constants
/// are those of `torch.amp.GradScaler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LossScale {
    scale: f64,
    /// Steps since the last overflow or growth.
    good_steps: usize,
    /// Steps skipped since the run's start.
    pub(crate) skipped: usize,
}

const START: f64 = 65_536.0;
const STEPS_BEFORE_GROWTH: usize = 2_000;
/// Below this scale nothing is gained: the gradients themselves are not finite.
const LEAST: f64 = 1.0 / 16_384.0;

impl LossScale {
    pub(crate) fn new() -> Self {
        Self {
            scale: START,
            good_steps: 0,
            skipped: 0,
        }
    }

    /// The current factor.
    pub(crate) fn value(&self) -> f64 {
        self.scale
    }

    /// Divides the gradients by the scale and adjusts it; false if they are not finite and the step must be
    /// skipped.
    ///
    /// Reads one value back from the device, like `GradScaler.step`.
    pub(crate) fn unscale<M: Module>(&mut self, grads: &mut GradientsParams, student: &M) -> bool {
        let squares = scale_gradients(grads, student, 1.0 / self.scale);
        let finite = squares.is_none_or(|sum| sum.into_scalar::<f32>().is_finite());
        self.moved(finite);
        finite
    }

    /// Whether the scale has become too small to help.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.scale < LEAST
    }

    /// Whether one more overflow makes the scale too small to help.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.scale / 2.0 < LEAST
    }

    fn moved(&mut self, finite: bool) {
        if !finite {
            self.scale /= 2.0;
            self.good_steps = 0;
            self.skipped += 1;
            return;
        }
        self.good_steps += 1;
        if self.good_steps == STEPS_BEFORE_GROWTH {
            self.scale *= 2.0;
            self.good_steps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn moves_as_pytorchs_scaler() {
        let mut scale = LossScale::new();
        for _ in 0..STEPS_BEFORE_GROWTH - 1 {
            scale.moved(true);
        }
        assert_eq!(scale.value(), START);
        scale.moved(true);
        assert_eq!(scale.value(), 2.0 * START);
        scale.moved(false);
        assert_eq!((scale.value(), scale.skipped), (START, 1));
        while !scale.is_exhausted() {
            scale.moved(false);
        }
        assert_eq!(scale.skipped, 1 + 31);
    }

    #[derive(Module, Debug)]
    struct Two {
        a: Param<Tensor<2>>,
        b: Param<Tensor<1>>,
    }

    #[test]
    fn gradients_are_divided_and_an_infinity_is_found() {
        let device = Device::flex().autodiff();
        for (factor, finite) in [(3.0, true), (f32::INFINITY, false), (f32::NAN, false)] {
            let module = Two {
                a: Param::from_tensor(Tensor::ones([2, 3], &device)),
                b: Param::from_tensor(Tensor::ones([4], &device)),
            };
            let mut scale = LossScale::new();
            let loss = module.a.val().sum() + (module.b.val() * factor).sum();
            let mut grads = GradientsParams::from_grads((loss * scale.value()).backward(), &module);
            assert_eq!(scale.unscale(&mut grads, &module), finite);
            let a = grads.get::<2>(module.a.id).unwrap().into_data();
            assert!(a.iter::<f32>().all(|value| value == 1.0));
            if finite {
                let b = grads.get::<1>(module.b.id).unwrap().into_data();
                assert!(b.iter::<f32>().all(|value| value == factor));
            }
        }
    }
}
