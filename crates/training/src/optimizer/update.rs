//! The update rules, parameter by parameter, on matrices.

use super::rows::norm;
use super::{Adaptation, OptimizerConfig};
use burn::tensor::Tensor;

/// One parameter's settings in one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hyperparameters {
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    /// Whether LARS scales its gradient.
    pub(super) adapted: bool,
}

/// The optimizer's state for one parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// Steps that this parameter has taken (AdamW's bias correction counts them).
    pub(super) steps: u64,
    /// Running averages, with the shape of the parameter's matrix.
    pub(super) averages: Vec<Tensor<2>>,
}

/// The parameter after the step.
pub(super) fn update(
    config: &OptimizerConfig,
    how: &Hyperparameters,
    weight: Tensor<2>,
    gradient: Tensor<2>,
    slots: &mut Slots,
) -> Tensor<2> {
    slots.steps += 1;
    let mut averages = std::mem::take(&mut slots.averages).into_iter();
    match config {
        OptimizerConfig::Sgd {
            momentum, nesterov, ..
        } => {
            let how = kernels::Sgd {
                learning_rate: how.learning_rate,
                momentum: *momentum,
                weight_decay: how.weight_decay,
                nesterov: *nesterov,
            };
            let (weight, velocity) = kernels::sgd(weight, gradient, averages.next(), &how);
            slots.averages = velocity.into_iter().collect();
            weight
        }
        OptimizerConfig::Adamw { betas, epsilon, .. } => {
            let how = kernels::Adamw {
                learning_rate: how.learning_rate,
                betas: *betas,
                epsilon: *epsilon,
                weight_decay: how.weight_decay,
                step: slots.steps,
            };
            let averages = averages.next().zip(averages.next()).map(<[_; 2]>::from);
            let (weight, averages) = kernels::adamw(weight, gradient, averages, &how);
            slots.averages = averages.into();
            weight
        }
        OptimizerConfig::Lars {
            momentum,
            trust,
            adaptation,
            ..
        } => {
            let gradient = if how.adapted {
                adapted(gradient, &weight, how.weight_decay, *trust, *adaptation)
            } else {
                decayed(gradient, &weight, how.weight_decay)
            };
            // The gradient already includes the penalty.
            let how = kernels::Sgd {
                learning_rate: how.learning_rate,
                momentum: *momentum,
                weight_decay: 0.0,
                nesterov: false,
            };
            let (weight, velocity) = kernels::sgd(weight, gradient, averages.next(), &how);
            slots.averages = velocity.into_iter().collect();
            weight
        }
    }
}

fn decayed(gradient: Tensor<2>, weight: &Tensor<2>, weight_decay: f64) -> Tensor<2> {
    if weight_decay > 0.0 {
        gradient + weight.clone() * weight_decay
    } else {
        gradient
    }
}

/// The gradient with its penalty, scaled to the parameter's norm. If the parameter or the gradient is all
/// zeros, the gradient stays unscaled as in the references; LARC then also drops the penalty.
fn adapted(
    gradient: Tensor<2>,
    weight: &Tensor<2>,
    weight_decay: f64,
    trust: f64,
    adaptation: Adaptation,
) -> Tensor<2> {
    let of_weight = norm(weight);
    match adaptation {
        Adaptation::Lars => {
            let gradient = decayed(gradient, weight, weight_decay);
            let of_gradient = norm(&gradient);
            let neutral = of_weight.clone().mul(of_gradient.clone()).equal_scalar(0.0);
            let factor = (of_weight / of_gradient * trust).mask_fill(neutral, 1.0);
            gradient * factor
        }
        Adaptation::Larc => {
            let of_gradient = norm(&gradient);
            let neutral = of_weight.clone().mul(of_gradient.clone()).equal_scalar(0.0);
            let size = of_gradient + of_weight.clone() * weight_decay + 1e-8;
            let factor = (of_weight / size * trust).mask_fill(neutral.clone(), 1.0);
            let penalty = Tensor::full([1, 1], weight_decay, &gradient.device()).mask_fill(neutral, 0.0);
            (gradient + weight.clone() * penalty) * factor
        }
    }
}
