//! Steps of optimizers and of moving averages: several steps, settings, sizes, and orders in memory.

use super::*;
use kernels::{Adamw, Sgd, adamw, moving_average, sgd};

/// One number, one behind a cube's units, many cubes.
const SIDES: [[usize; 2]; 3] = [[1, 1], [257, 1], [129, 1030]];

/// Errors of the results of the same steps on both devices.
fn compare(name: &str, of: impl Fn([usize; 2], &Device) -> Vec<Tensor<2>>) {
    for shape in SIDES {
        let [ours, reference] = [gpu(), Device::flex()].map(|device| of(shape, &device));
        for (index, (ours, reference)) in ours.into_iter().zip(reference).enumerate() {
            let error = error(&numbers(ours), &numbers(reference));
            assert!(
                error < 2e-6,
                "{name} of {shape:?}: result {index} is {error:e} off"
            );
        }
    }
}

/// A gradient in another order in memory.
fn gradient([rows, columns]: [usize; 2], step: usize, device: &Device) -> Tensor<2> {
    values([columns, rows], 10 + step, device).swap_dims(0, 1)
}

#[test]
fn sgd_has_the_cpus_weights_and_velocities() {
    for (nesterov, weight_decay) in [(false, 0.0), (false, 1e-2), (true, 1e-2)] {
        let settings = Sgd {
            learning_rate: 0.3,
            momentum: 0.9,
            weight_decay,
            nesterov,
        };
        compare("SGD", |shape, device| {
            let (mut weight, mut velocity) = (values(shape, 1, device), None);
            for step in 0..4 {
                (weight, velocity) = sgd(weight, gradient(shape, step, device), velocity, &settings);
            }
            vec![weight, velocity.unwrap()]
        });
    }
}

#[test]
fn adamw_has_the_cpus_weights_and_averages() {
    compare("AdamW", |shape, device| {
        let (mut weight, mut averages) = (values(shape, 1, device), None);
        for step in 0..4 {
            let settings = Adamw {
                learning_rate: 1e-2,
                betas: [0.9, 0.95],
                epsilon: 1e-8,
                weight_decay: 0.05,
                step: step as u64 + 1,
            };
            let (next, both) = adamw(weight, gradient(shape, step, device), averages, &settings);
            (weight, averages) = (next, Some(both));
        }
        let [mean, square] = averages.unwrap();
        vec![weight, mean, square]
    });
}

#[test]
fn moving_averages_are_the_cpus_and_leave_their_inputs() {
    compare("average", |shape, device| {
        let (average, value) = (values(shape, 1, device), gradient(shape, 2, device));
        let next = moving_average(average.clone(), value.clone(), 0.99);
        vec![next, average, value]
    });
}
