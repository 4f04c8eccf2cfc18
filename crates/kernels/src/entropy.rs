//! Cross-entropy of rows of logits without arrays of probabilities, where a kernel has it.

#[cfg(feature = "cube")]
use burn::backend::Dispatch;
use burn::tensor::Tensor;

#[cfg(feature = "cube")]
use crate::backend::gpu::rows::RowBackend;

/// `−Σ t · log softmax(logits / temperature)` of each row, differentiable in `logits`; the targets are constants, their
/// rows need not sum to 1. `None`, without a call of `targets`, if this crate has no kernel for the logits' device and type.
///
/// # Shapes
/// - `logits`: `[rows, classes]`
/// - `targets`: `[target rows, classes]`; rows of the logits beyond them have the last `period` again and again
/// - output: `[rows, 1]`, in f32
///
/// # Panics
/// If the targets have a graph, another type than f32 or 16 bits, or other classes, or if `period` is not between 1 and
/// their rows.
pub fn cross_entropies(
    logits: &Tensor<2>,
    targets: impl FnOnce() -> Tensor<2>,
    period: usize,
    temperature: f64,
) -> Option<Tensor<2>> {
    #[cfg(feature = "cube")]
    if on_gpu(logits) {
        let targets = targets();
        assert!(
            !targets.is_tracked()
                && on_gpu(&targets)
                && logits.dims()[1] == targets.dims()[1]
                && (1..=targets.dims()[0]).contains(&period),
            "logits of {:?} cannot be compared with targets of {:?}, the last {period} again and again",
            logits.dims(),
            targets.dims()
        );
        let (logits, targets) = (logits.clone().into_dispatch(), targets.into_dispatch());
        let scale = (1.0 / temperature) as f32;
        let (output, _) = <Dispatch as RowBackend>::entropies(logits, targets, period, scale);
        return Some(Tensor::from_dispatch(output));
    }
    let _ = (logits, targets, period, temperature);
    None
}

/// `log Σ exp(logits)` of each row, differentiable. `None` if this crate has no kernel for the tensor's device and type.
///
/// # Shapes
/// - `logits`: `[rows, classes]`
/// - output: `[rows, 1]`, in f32
pub fn log_sum_exp(logits: &Tensor<2>) -> Option<Tensor<2>> {
    #[cfg(feature = "cube")]
    if on_gpu(logits) {
        use crate::backend::gpu::rows::RowBackend;
        let (output, _) =
            <burn::backend::Dispatch as RowBackend>::log_sums(logits.clone().into_dispatch(), 1.0);
        return Some(Tensor::from_dispatch(output));
    }
    let _ = logits;
    None
}

/// Whether a GPU has kernels for these rows.
#[cfg(feature = "cube")]
fn on_gpu(rows: &Tensor<2>) -> bool {
    crate::on_gpu(rows) && crate::gpu::rows::fits(&rows.dims())
}
