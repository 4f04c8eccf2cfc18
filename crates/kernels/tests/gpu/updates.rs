//! Steps of optimizers and of moving averages, sums of squares and clipping: several steps, settings, sizes, and orders in memory.

use super::*;
use kernels::{
    Adamw, Sgd, adamw, add_squared_distance, add_squares, clip_to_norm, moving_average, sgd, squares,
};

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

/// Sides up to the most values of one launch and beyond them, and beyond what the cubes of one launch hold once.
const SUMS: [[usize; 2]; 5] = [[1, 1], [129, 127], [16, 1024], [16, 1025], [1500, 6000]];

#[test]
fn sums_of_squares_are_the_cpus() {
    for shape in SUMS {
        let [ours, reference] = [gpu(), Device::flex()].map(|device| {
            let (x, other) = (values(shape, 1, &device), gradient(shape, 2, &device));
            let total = squares(x.clone());
            let added = add_squares(total.clone(), other.clone());
            let apart = add_squared_distance(added.clone(), x, other);
            [total, added, apart].map(|sum| numbers(sum)[0])
        });
        for (ours, reference) in ours.into_iter().zip(reference) {
            let error = (ours - reference).abs() / reference;
            assert!(error < 2e-6, "{shape:?}: {ours} beside {reference}");
        }
    }
}

#[test]
fn clipped_gradients_are_the_cpus_and_keep_what_is_no_number() {
    for largest in [0.5, 1e6] {
        compare("clipping", |shape, device| {
            let gradient = gradient(shape, 3, device);
            vec![clip_to_norm(gradient.clone(), largest), gradient]
        });
    }
    let broken = Tensor::<2>::from_data([[1.0, f32::NAN, 2.0]], &gpu());
    assert!(
        numbers(clip_to_norm(broken, 1.0))
            .iter()
            .all(|value| value.is_nan())
    );
}
