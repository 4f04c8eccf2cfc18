//! Steps of optimizers and of moving averages: each tensor is read and written once, in place, vectorized and
//! on all cores.
//!
//! Operations and their order match the composition in [`crate::sgd`], [`crate::adamw`] and
//! [`crate::moving_average`], each with its own rounding, so that both give the same bits.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::vectorized;
use crate::{Adamw, Sgd};

/// Values of each tensor per task: those of four tensors fit the L1 and L2 caches.
const TASK: usize = 16 * 1024;

/// [`crate::sgd`] after the first step.
pub(crate) fn sgd(weight: &mut [f32], gradient: &[f32], velocity: &mut [f32], settings: &Sgd) {
    weight
        .par_chunks_mut(TASK)
        .zip(gradient.par_chunks(TASK))
        .zip(velocity.par_chunks_mut(TASK))
        .for_each(|((weight, gradient), velocity)| {
            vectorized(SgdTask {
                weight,
                gradient,
                velocity,
                settings,
            });
        });
}

/// [`crate::adamw`] after the first step.
pub(crate) fn adamw(
    weight: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    settings: &Adamw,
) {
    weight
        .par_chunks_mut(TASK)
        .zip(gradient.par_chunks(TASK))
        .zip(mean.par_chunks_mut(TASK).zip(square.par_chunks_mut(TASK)))
        .for_each(|((weight, gradient), (mean, square))| {
            vectorized(AdamwTask {
                weight,
                gradient,
                mean,
                square,
                settings,
            });
        });
}

/// [`crate::moving_average`].
pub(crate) fn moving_average(average: &mut [f32], value: &[f32], momentum: f64) {
    average
        .par_chunks_mut(TASK)
        .zip(value.par_chunks(TASK))
        .for_each(|(average, value)| {
            vectorized(AverageTask {
                average,
                value,
                momentum,
            });
        });
}

struct SgdTask<'a> {
    weight: &'a mut [f32],
    gradient: &'a [f32],
    velocity: &'a mut [f32],
    settings: &'a Sgd,
}

impl WithSimd for SgdTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rate = self.settings.learning_rate as f32;
        let momentum = self.settings.momentum as f32;
        let decay = self.settings.weight_decay as f32;
        let rows = self.weight.iter_mut().zip(self.gradient).zip(self.velocity);
        // Two loops, so that neither has a branch.
        if self.settings.nesterov {
            for ((weight, gradient), velocity) in rows {
                let gradient = gradient + *weight * decay;
                *velocity = *velocity * momentum + gradient;
                *weight -= (gradient + *velocity * momentum) * rate;
            }
        } else {
            for ((weight, gradient), velocity) in rows {
                let gradient = gradient + *weight * decay;
                *velocity = *velocity * momentum + gradient;
                *weight -= *velocity * rate;
            }
        }
    }
}

struct AdamwTask<'a> {
    weight: &'a mut [f32],
    gradient: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    settings: &'a Adamw,
}

impl WithSimd for AdamwTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let factors = self.settings.factors();
        let [
            first,
            rest_of_first,
            second,
            rest_of_second,
            of_root,
            epsilon,
            rate,
            kept,
        ] = factors.map(|factor| factor as f32);
        let averages = self.mean.iter_mut().zip(self.square);
        for ((weight, gradient), (mean, square)) in self.weight.iter_mut().zip(self.gradient).zip(averages) {
            *mean = *mean * first + gradient * rest_of_first;
            *square = *square * second + gradient * gradient * rest_of_second;
            let root = square.sqrt() * of_root + epsilon;
            *weight = *weight * kept - *mean / root * rate;
        }
    }
}

struct AverageTask<'a> {
    average: &'a mut [f32],
    value: &'a [f32],
    momentum: f64,
}

impl WithSimd for AverageTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (kept, taken) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        for (average, value) in self.average.iter_mut().zip(self.value) {
            *average = *average * kept + value * taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Adamw, Sgd, adamw, moving_average, sgd};
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use proptest::prelude::*;

    const SIZES: [usize; 4] = [1, 37, super::TASK, 2 * super::TASK + 5];

    fn wave(count: usize, seed: f64) -> Tensor<1> {
        let values = (0..count).map(|i| ((12.9898 * i as f64 + seed).sin() * 43758.5453).fract() as f32);
        Tensor::from_data(
            TensorData::new(values.collect::<Vec<_>>(), [count]),
            &Device::flex(),
        )
    }

    /// The composition's arithmetic in f32, out of place.
    fn bits(tensor: Tensor<1>) -> Vec<u32> {
        let values = tensor.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn in_place_and_composed_agree_to_the_bit(
            size in 0usize..4, rate in 1e-4f64..1.0, momentum in 0.1f64..0.999, decay in prop_oneof![Just(0.0), 1e-5f64..0.5],
            nesterov: bool, step in 2u64..9,
        ) {
            let count = SIZES[size];
            let [weight, gradient, velocity] = [1.0, 2.0, 3.0].map(|seed| wave(count, seed));
            let square = wave(count, 4.0).powi_scalar(2);

            let settings = Sgd { learning_rate: rate, momentum, weight_decay: decay, nesterov };
            let ours = sgd(weight.clone(), gradient.clone(), Some(velocity.clone()), &settings);
            let composed = crate::composed::sgd(weight.clone(), gradient.clone(), Some(velocity.clone()), &settings);
            prop_assert_eq!(bits(ours.0), bits(composed.0));
            prop_assert_eq!(ours.1.map(bits), composed.1.map(bits));

            let settings = Adamw { learning_rate: rate, betas: [momentum, 0.999], epsilon: 1e-8, weight_decay: decay, step };
            let averages = Some([velocity.clone(), square]);
            let ours = adamw(weight.clone(), gradient.clone(), averages.clone(), &settings);
            let composed = crate::composed::adamw(weight.clone(), gradient.clone(), averages, &settings);
            prop_assert_eq!(bits(ours.0), bits(composed.0));
            prop_assert_eq!(ours.1.map(bits), composed.1.map(bits));

            let kept = bits(weight.clone());
            let ours = moving_average(weight.clone(), gradient.clone(), momentum);
            let composed = crate::composed::moving_average(weight.clone(), gradient, momentum);
            prop_assert_eq!(bits(ours), bits(composed));
            // The other owner's tensor was not written to.
            prop_assert_eq!(bits(weight), kept);
        }
    }
}
