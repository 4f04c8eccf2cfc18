//! Softmax, cross-entropy, layer normalization and GELU on GPUs as extensions of Burn's backends.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::super::FIRST_ORDER;
use super::constant;
use crate::gpu::{layer_norm, pointwise, rows};

/// The operations added to a backend.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait RowBackend: Backend {
    /// Softmax over the last dimension.
    #[fusion(meta = |x| x.clone())]
    fn softmax_of_rows(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of its input, from its output.
    #[fusion(meta = |y, _gradient| y.clone())]
    fn softmax_of_rows_gradient(y: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `log Σ exp(scale · x)` of each row of `[rows, width]`: `[rows, 1]` in f32, and what the gradient needs.
    #[fusion(meta = |x, _scale| of_rows(x))]
    fn log_sums(x: FloatTensor<Self>, scale: f32) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of its rows.
    #[fusion(meta = |x, _kept, _gradient, _scale| x.clone())]
    fn log_sums_gradient(
        x: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// `−Σ t · log softmax(scale · x)` of each row of `[rows, width]`, with targets `[target rows, width]`, of which
    /// rows beyond them have the last `period` again and again: `[rows, 1]` in f32, and what the gradient needs. Differentiable in `x`.
    #[fusion(meta = |x, _targets, _period, _scale| of_rows(x))]
    fn entropies(
        x: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        period: usize,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of its rows.
    #[fusion(meta = |x, _targets, _period, _kept, _gradient, _scale| x.clone())]
    fn entropies_gradient(
        x: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        period: usize,
        kept: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Rows of `[rows, width]` normalized, and what the gradient needs.
    #[fusion(meta = |x, _weight, _bias, _epsilon| (x.clone(), in_f32([2, x.shape[0]])))]
    fn normalize_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of rows, weight and bias.
    #[fusion(meta = |x, weight, _kept, _gradient| (x.clone(), weight.clone(), weight.clone()))]
    fn normalize_rows_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The exact GELU, for any shape.
    #[fusion(meta = |x| x.clone())]
    fn gelu_of_each(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of its input.
    #[fusion(meta = |x, _gradient| x.clone())]
    fn gelu_of_each_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[cfg(feature = "fusion")]
fn in_f32(shape: [usize; 2]) -> TensorSpec {
    TensorSpec::new(shape.into(), burn::tensor::DType::F32)
}

/// A number of each row, and three that a gradient needs.
#[cfg(feature = "fusion")]
fn of_rows(x: &TensorSpec) -> (TensorSpec, TensorSpec) {
    (in_f32([x.shape[0], 1]), in_f32([3, x.shape[0]]))
}

impl RowBackend for CubeBackend {
    fn softmax_of_rows(x: CubeTensor) -> CubeTensor {
        rows::softmax(x)
    }

    fn softmax_of_rows_gradient(y: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        rows::softmax_gradient(y, gradient)
    }

    fn log_sums(x: CubeTensor, scale: f32) -> (CubeTensor, CubeTensor) {
        rows::cross_entropies(x, None, scale)
    }

    fn log_sums_gradient(x: CubeTensor, kept: CubeTensor, gradient: CubeTensor, scale: f32) -> CubeTensor {
        rows::cross_entropies_gradient(x, None, kept, gradient, scale)
    }

    fn entropies(x: CubeTensor, targets: CubeTensor, period: usize, scale: f32) -> (CubeTensor, CubeTensor) {
        rows::cross_entropies(x, Some((targets, period)), scale)
    }

    fn entropies_gradient(
        x: CubeTensor,
        targets: CubeTensor,
        period: usize,
        kept: CubeTensor,
        gradient: CubeTensor,
        scale: f32,
    ) -> CubeTensor {
        rows::cross_entropies_gradient(x, Some((targets, period)), kept, gradient, scale)
    }

    fn normalize_rows(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor) {
        layer_norm::forward(x, weight, bias, epsilon)
    }

    fn normalize_rows_gradients(
        x: CubeTensor,
        weight: CubeTensor,
        kept: CubeTensor,
        gradient: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        layer_norm::backward(x, weight, kept, gradient)
    }

    fn gelu_of_each(x: CubeTensor) -> CubeTensor {
        pointwise::gelu(x)
    }

    fn gelu_of_each_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        pointwise::gelu_gradient(x, gradient)
    }
}

/// The backward pass of [`RowBackend::softmax_of_rows`].
#[derive(Debug)]
struct Softmax;

impl<B: RowBackend> Backward<B, 1> for Softmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::softmax_of_rows_gradient(ops.state, gradient));
        }
    }
}

/// The backward pass of [`RowBackend::log_sums`].
#[derive(Debug)]
struct LogSums;

impl<B: RowBackend> Backward<B, 1> for LogSums {
    type State = (NodeId, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, kept, scale) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::log_sums_gradient(x, kept, gradient, scale));
        }
    }
}

/// The backward pass of [`RowBackend::entropies`].
#[derive(Debug)]
struct Entropies;

impl<B: RowBackend> Backward<B, 1> for Entropies {
    type State = (NodeId, FloatTensor<B>, usize, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, targets, period, kept, scale) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        if let Some(node) = node {
            let of_x = B::entropies_gradient(x, targets, period, kept, gradient, scale);
            gradients.register::<B>(node.id, of_x);
        }
    }
}

/// The backward pass of [`RowBackend::normalize_rows`].
#[derive(Debug)]
struct NormalizedRows;

impl<B: RowBackend> Backward<B, 3> for NormalizedRows {
    type State = ([NodeId; 2], FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (nodes, kept) = ops.state;
        let [x, weight]: [FloatTensor<B>; 2] = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let (of_x, of_weight, of_bias) = B::normalize_rows_gradients(x, weight, kept, gradient);
        for (node, gradient) in ops.parents.into_iter().zip([of_x, of_weight, of_bias]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// The backward pass of [`RowBackend::gelu_of_each`].
#[derive(Debug)]
struct Gelu;

impl<B: RowBackend> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(ops.state);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::gelu_of_each_gradient(x, gradient));
        }
    }
}

impl<B: RowBackend, C: CheckpointStrategy> RowBackend for Autodiff<B, C> {
    fn softmax_of_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Softmax.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let output = B::softmax_of_rows(x.into_primitive());
                prepared.finish(output.clone(), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::softmax_of_rows(x.into_primitive())),
        }
    }

    fn softmax_of_rows_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn log_sums(x: FloatTensor<Self>, scale: f32) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (output, kept) = match LogSums.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let node = prepared.checkpoint(&x);
                let (output, kept) = B::log_sums(x.into_primitive(), scale);
                (prepared.finish((node, kept.clone(), scale), output), kept)
            }
            OpsKind::UnTracked(prepared) => {
                let (output, kept) = B::log_sums(x.into_primitive(), scale);
                (prepared.finish(output), kept)
            }
        };
        (output, constant::<B, C>(kept))
    }

    fn log_sums_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f32,
    ) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn entropies(
        x: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        period: usize,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let targets = targets.into_primitive();
        let (output, kept) = match Entropies.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let node = prepared.checkpoint(&x);
                let (output, kept) = B::entropies(x.into_primitive(), targets.clone(), period, scale);
                (
                    prepared.finish((node, targets, period, kept.clone(), scale), output),
                    kept,
                )
            }
            OpsKind::UnTracked(prepared) => {
                let (output, kept) = B::entropies(x.into_primitive(), targets, period, scale);
                (prepared.finish(output), kept)
            }
        };
        (output, constant::<B, C>(kept))
    }

    fn entropies_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: usize,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f32,
    ) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn normalize_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let run = |tensors: [FloatTensor<Self>; 3]| {
            let [x, weight, bias] = tensors.map(|tensor| tensor.into_primitive());
            B::normalize_rows(x, weight, bias, epsilon)
        };
        let (output, kept) = match NormalizedRows.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let nodes = [&x, &weight].map(|tensor| prepared.checkpoint(tensor));
                let (output, kept) = run([x, weight, bias]);
                (prepared.finish((nodes, kept.clone()), output), kept)
            }
            OpsKind::UnTracked(prepared) => {
                let (output, kept) = run([x, weight, bias]);
                (prepared.finish(output), kept)
            }
        };
        (output, constant::<B, C>(kept))
    }

    fn normalize_rows_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{FIRST_ORDER}")
    }

    fn gelu_of_each(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let node = prepared.checkpoint(&x);
                prepared.finish(node, B::gelu_of_each(x.into_primitive()))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::gelu_of_each(x.into_primitive())),
        }
    }

    fn gelu_of_each_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }
}
