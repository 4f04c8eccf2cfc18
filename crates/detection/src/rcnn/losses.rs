//! The losses of a detector's heads: predictions and targets in, sums out.

use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Device, Tensor, TensorData};

/// A tensor of values on the host.
pub(super) fn upload<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The values of a tensor, in order.
pub(super) fn download<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.without_autodiff().into_data().iter::<f32>().collect()
}

/// `Σ weight · (−target · ln σ(x) − (1 − target) · ln(1 − σ(x)))`, of logits `[rows, columns]`.
pub(super) fn binary_cross_entropy(logits: Tensor<2>, targets: Tensor<2>, weights: Tensor<2>) -> Tensor<1> {
    // −ln(1 − σ(x)) = x − ln σ(x).
    let loss = (targets.neg() + 1.0) * logits.clone() - log_sigmoid(logits);
    total(loss * weights)
}

/// `Σ weight · smooth(prediction − target)`: a square of `|d| < beta`, divided by `2 beta`, and then a line of slope 1;
/// at beta 0 the absolute difference. Girshick, *Fast R-CNN*, 2015, eq. 3.
pub(super) fn smooth_l1(difference: Tensor<2>, weights: Tensor<2>, beta: f64) -> Tensor<1> {
    let distance = difference.abs();
    if beta == 0.0 {
        return total(distance * weights);
    }
    let square = distance.clone().clamp_max(beta);
    total(square.clone() * (distance - square / 2.0) / beta * weights)
}

/// The mean of `−ln softmax(x)` at each row's class: `[rows, classes]`.
pub(super) fn cross_entropy(logits: Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let [rows, count] = logits.dims();
    let mut one_hot = vec![0.0; rows * count];
    for (row, class) in classes.iter().enumerate() {
        one_hot[row * count + class] = 1.0;
    }
    let one_hot = upload(one_hot, [rows, count], &logits.device());
    total(log_softmax(logits, 1) * one_hot) / -(rows as f64)
}

/// The sum in two steps: a sum over all values at once differs from run to run on the CPU where there are many.
fn total(x: Tensor<2>) -> Tensor<1> {
    x.sum_dim(1).sum_dim(0).reshape([1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32], device: &Device) -> Tensor<2> {
        upload(values.to_vec(), [1, values.len()], device)
    }

    fn value_and_gradient(x: &[f32], loss: impl FnOnce(Tensor<2>) -> Tensor<1>) -> (f32, Vec<f32>) {
        let x = row(x, &Device::flex().autodiff()).require_grad();
        let loss = loss(x.clone());
        let gradients = loss.backward();
        (
            loss.inner().into_scalar::<f32>(),
            download(x.grad(&gradients).unwrap()),
        )
    }

    fn close(ours: &[f32], expected: &[f32]) {
        for (a, b) in ours.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{ours:?} {expected:?}");
        }
    }

    #[test]
    fn binary_cross_entropy_is_finite_and_right_at_zero() {
        let device = Device::flex();
        let (loss, gradient) = value_and_gradient(&[0.0, 100.0, -100.0], |x| {
            binary_cross_entropy(x, row(&[1.0, 1.0, 0.25], &device), row(&[1.0, 1.0, 2.0], &device))
        });
        // ln 2, 0, and 2 · 0.25 · 100.
        close(&[loss], &[std::f32::consts::LN_2 + 50.0]);
        close(&gradient, &[-0.5, 0.0, -0.5]);
    }

    #[test]
    fn smooth_l1_is_a_square_and_then_a_line() {
        let device = Device::flex();
        let weights = || row(&[1.0, 1.0, 1.0, 0.0], &device);
        let x = [0.25, -2.0, 0.0, 9.0];
        let (loss, gradient) = value_and_gradient(&x, |x| smooth_l1(x, weights(), 0.5));
        close(&[loss], &[0.0625 + 1.75]);
        close(&gradient, &[0.5, -1.0, 0.0, 0.0]);
        let (loss, gradient) = value_and_gradient(&x, |x| smooth_l1(x, weights(), 0.0));
        close(&[loss], &[2.25]);
        close(&gradient, &[1.0, -1.0, 0.0, 0.0]);
    }

    #[test]
    fn cross_entropy_is_a_mean_over_rows() {
        let device = Device::flex().autodiff();
        let x = upload(vec![0.0, 0.0, 3.0, 3.0, 3.0, 3.0], [2, 3], &device).require_grad();
        let loss = cross_entropy(x, &[2, 0]).inner().into_scalar::<f32>();
        let first = (2.0 + 3.0f32.exp()).ln() - 3.0;
        close(&[loss], &[(first + 3.0f32.ln()) / 2.0]);
    }
}
