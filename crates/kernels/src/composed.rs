//! The steps of optimizers and of moving averages in Burn's operations: devices other than `flex` use them,
//! and tests compare the loops of [`crate::update`] with them.

use burn::tensor::Tensor;

use crate::{Adamw, Sgd};

pub(crate) fn sgd<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    settings: &Sgd,
) -> (Tensor<D>, Option<Tensor<D>>) {
    let gradient = if settings.weight_decay > 0.0 {
        gradient + weight.clone() * settings.weight_decay
    } else {
        gradient
    };
    if settings.momentum == 0.0 {
        return (weight - gradient * settings.learning_rate, None);
    }
    let velocity = match velocity {
        Some(velocity) => velocity * settings.momentum + gradient.clone(),
        None => gradient.clone(),
    };
    let direction = if settings.nesterov {
        gradient + velocity.clone() * settings.momentum
    } else {
        velocity.clone()
    };
    (weight - direction * settings.learning_rate, Some(velocity))
}

pub(crate) fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    averages: Option<[Tensor<D>; 2]>,
    settings: &Adamw,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [
        first,
        rest_of_first,
        second,
        rest_of_second,
        of_root,
        epsilon,
        rate,
        kept,
    ] = settings.factors();
    let mean = gradient.clone() * rest_of_first;
    let square = gradient.powi_scalar(2) * rest_of_second;
    let (mean, square) = match averages {
        Some([mean_before, square_before]) => (mean_before * first + mean, square_before * second + square),
        None => (mean, square),
    };
    let root = square.clone().sqrt() * of_root + epsilon;
    let step = mean.clone() / root * rate;
    (weight * kept - step, [mean, square])
}

pub(crate) fn moving_average<const D: usize>(
    average: Tensor<D>,
    value: Tensor<D>,
    momentum: f64,
) -> Tensor<D> {
    average * momentum + value * (1.0 - momentum)
}
