//! Steps of optimizers and of moving averages: one launch and one pass each.
//!
//! New tensors, not in place: a weight whose memory something else still holds would cost a copy, which is a launch more.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::tensors::empty;
use crate::{Adamw, Sgd};

/// [`crate::sgd`] after the first step.
#[cube(launch)]
fn sgd_of_each(
    weight: &[f32],
    gradient: &[f32],
    velocity: &[f32],
    new_weight: &mut [f32],
    new_velocity: &mut [f32],
    rate: f32,
    momentum: f32,
    decay: f32,
    #[comptime] nesterov: bool,
) {
    let i = ABSOLUTE_POS;
    if i < new_weight.len() {
        let before = weight[i];
        let g = gradient[i] + before * decay;
        let v = velocity[i] * momentum + g;
        let mut direction = v;
        if comptime![nesterov] {
            direction = g + v * momentum;
        }
        new_velocity[i] = v;
        new_weight[i] = before - direction * rate;
    }
}

/// [`crate::adamw`] after the first step; the factors are those of [`Adamw`].
#[cube(launch)]
fn adamw_of_each(
    weight: &[f32],
    gradient: &[f32],
    mean: &[f32],
    square: &[f32],
    new_weight: &mut [f32],
    new_mean: &mut [f32],
    new_square: &mut [f32],
    first: f32,
    rest_of_first: f32,
    second: f32,
    rest_of_second: f32,
    of_root: f32,
    epsilon: f32,
    rate: f32,
    kept: f32,
) {
    let i = ABSOLUTE_POS;
    if i < new_weight.len() {
        let g = gradient[i];
        let m = mean[i] * first + g * rest_of_first;
        let s = square[i] * second + g * g * rest_of_second;
        let root = s.sqrt() * of_root + epsilon;
        new_mean[i] = m;
        new_square[i] = s;
        new_weight[i] = weight[i] * kept - m / root * rate;
    }
}

/// [`crate::moving_average`].
#[cube(launch)]
fn average_of_each(average: &[f32], value: &[f32], new_average: &mut [f32], kept: f32, taken: f32) {
    let i = ABSOLUTE_POS;
    if i < new_average.len() {
        new_average[i] = average[i] * kept + value[i] * taken;
    }
}

/// A unit for each number.
fn grid(x: &CubeTensor) -> (CubeCount, CubeDim) {
    let count = x.meta.num_elements();
    let units = CubeDim::new(&x.client, count);
    (calculate_cube_count_elemwise(&x.client, count, units), units)
}

fn like(x: &CubeTensor) -> CubeTensor {
    empty(x, x.shape(), x.dtype)
}

/// The updated weight and velocity.
pub(crate) fn sgd(
    weight: CubeTensor,
    gradient: CubeTensor,
    velocity: CubeTensor,
    settings: &Sgd,
) -> (CubeTensor, CubeTensor) {
    let (weight, velocity) = (into_contiguous(weight), into_contiguous(velocity));
    let (new_weight, new_velocity) = (like(&weight), like(&velocity));
    let (client, (cubes, units)) = (weight.client.clone(), grid(&weight));
    sgd_of_each::launch(
        &client,
        cubes,
        units,
        weight.into_buffer_arg(),
        into_contiguous(gradient).into_buffer_arg(),
        velocity.into_buffer_arg(),
        new_weight.clone().into_buffer_arg(),
        new_velocity.clone().into_buffer_arg(),
        settings.learning_rate as f32,
        settings.momentum as f32,
        settings.weight_decay as f32,
        settings.nesterov,
    );
    (new_weight, new_velocity)
}

/// The updated weight, and averages of gradient and squared gradient.
pub(crate) fn adamw(
    weight: CubeTensor,
    gradient: CubeTensor,
    mean: CubeTensor,
    square: CubeTensor,
    settings: &Adamw,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (weight, mean, square) = (
        into_contiguous(weight),
        into_contiguous(mean),
        into_contiguous(square),
    );
    let (new_weight, new_mean, new_square) = (like(&weight), like(&mean), like(&square));
    let (client, (cubes, units)) = (weight.client.clone(), grid(&weight));
    let [
        first,
        rest_of_first,
        second,
        rest_of_second,
        of_root,
        epsilon,
        rate,
        kept,
    ] = settings.factors().map(|factor| factor as f32);
    adamw_of_each::launch(
        &client,
        cubes,
        units,
        weight.into_buffer_arg(),
        into_contiguous(gradient).into_buffer_arg(),
        mean.into_buffer_arg(),
        square.into_buffer_arg(),
        new_weight.clone().into_buffer_arg(),
        new_mean.clone().into_buffer_arg(),
        new_square.clone().into_buffer_arg(),
        first,
        rest_of_first,
        second,
        rest_of_second,
        of_root,
        epsilon,
        rate,
        kept,
    );
    (new_weight, new_mean, new_square)
}

/// `momentum · average + (1 − momentum) · value`.
pub(crate) fn moving_average(average: CubeTensor, value: CubeTensor, momentum: f64) -> CubeTensor {
    let average = into_contiguous(average);
    let updated = like(&average);
    let (client, (cubes, units)) = (average.client.clone(), grid(&average));
    average_of_each::launch(
        &client,
        cubes,
        units,
        average.into_buffer_arg(),
        into_contiguous(value).into_buffer_arg(),
        updated.clone().into_buffer_arg(),
        momentum as f32,
        (1.0 - momentum) as f32,
    );
    updated
}
