//! The operations as extensions of Burn's backends: their computation on `flex`, and their differentiation by
//! autodiff.

pub(crate) mod collective;
#[cfg(feature = "cube")]
pub(crate) mod gpu;
pub(crate) mod residual;
pub(crate) mod roi_align;
pub(crate) mod transformer;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;

use crate::batch_norm::{self, Extent};
use crate::convolution::{self, Geometry};
use crate::pointwise::{self, Pointwise};
use crate::{Adamw, Sgd, softmax, update};

/// Parameters of a normalization.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalization {
    pub(crate) groups: usize,
    pub(crate) epsilon: f64,
    pub(crate) relu: bool,
}

/// Stride and padding of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// The operations added to a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait KernelBackend: Backend {
    /// A convolution: `[n, i, h, w]` and `[o, i, k, k]` to `[n, o, h', w']`.
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, window: Window) -> FloatTensor<Self>;

    /// The gradient of a convolution's input, with the shape of `x`.
    fn convolve_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self>;

    /// The gradient of a convolution's weight, with the shape of `weight`.
    fn convolve_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self>;

    /// Means and biased variances, `[2, groups · channels]`, as constants for later operations.
    fn group_statistics(x: FloatTensor<Self>, groups: usize) -> FloatTensor<Self>;

    /// `x` normalized with its groups' statistics. Its gradient passes through the statistics, as if they were
    /// computed here.
    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Normalization,
    ) -> FloatTensor<Self>;

    /// The gradients of [`normalize`](Self::normalize): of `x`, `weight` and `bias`.
    fn normalize_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Normalization,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// A function of each number, for any shape.
    fn pointwise(x: FloatTensor<Self>, function: Pointwise) -> FloatTensor<Self>;

    /// The gradient of that function's input.
    fn pointwise_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        function: Pointwise,
    ) -> FloatTensor<Self>;

    /// Softmax over the last dimension.
    fn softmax_forward(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of a softmax's input, from its output.
    fn softmax_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A step of SGD with an existing velocity: returns the updated weight and velocity.
    fn sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        settings: Sgd,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// A step of AdamW with existing averages: returns the updated weight and averages.
    fn adamw_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        settings: Adamw,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// A step of a moving average.
    fn averaged(average: FloatTensor<Self>, value: FloatTensor<Self>, momentum: f64) -> FloatTensor<Self>;
}

pub(crate) fn dims(tensor: &FlexTensor) -> [usize; 4] {
    let shape = tensor.shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

fn geometry(x: &FlexTensor, weight: &FlexTensor, window: Window) -> Geometry {
    let ([images, inputs, height, width], [outputs, _, kernel, _]) = (dims(x), dims(weight));
    Geometry {
        images,
        inputs,
        outputs,
        height,
        width,
        kernel,
        stride: window.stride,
        padding: window.padding,
    }
}

pub(crate) fn extent(x: &FlexTensor, groups: usize) -> Extent {
    let [images, channels, height, width] = dims(x);
    Extent {
        groups,
        images: images / groups,
        channels,
        pixels: height * width,
    }
}

pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

impl KernelBackend for Flex {
    fn convolve(x: FlexTensor, weight: FlexTensor, window: Window) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let geometry = geometry(&x, &weight, window);
        let output = convolution::forward(x.storage(), weight.storage(), &geometry);
        let (height, width) = geometry.output_size();
        tensor(output, [geometry.images, geometry.outputs, height, width])
    }

    fn convolve_input_gradient(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        window: Window,
    ) -> FlexTensor {
        let (weight, gradient) = (weight.to_contiguous(), gradient.to_contiguous());
        let geometry = geometry(&x, &weight, window);
        let output = convolution::input_gradient(gradient.storage(), weight.storage(), &geometry);
        tensor(output, dims(&x))
    }

    fn convolve_weight_gradient(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        window: Window,
    ) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let geometry = geometry(&x, &weight, window);
        let output = convolution::weight_gradient(x.storage(), gradient.storage(), &geometry);
        tensor(output, dims(&weight))
    }

    fn group_statistics(x: FlexTensor, groups: usize) -> FlexTensor {
        let x = x.to_contiguous();
        let statistics = batch_norm::statistics(x.storage(), &extent(&x, groups));
        let values = statistics.len() / 2;
        tensor(statistics, [2, values])
    }

    fn normalize(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        statistics: FlexTensor,
        settings: Normalization,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let statistics = statistics.to_contiguous();
        let output = batch_norm::normalize(
            x.storage(),
            statistics.storage(),
            weight.storage(),
            bias.storage(),
            settings.epsilon,
            settings.relu,
            &extent(&x, settings.groups),
        );
        tensor(output, dims(&x))
    }

    fn normalize_gradients(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        statistics: FlexTensor,
        gradient: FlexTensor,
        settings: Normalization,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let statistics = statistics.to_contiguous();
        let mut gradient = owned(gradient);
        let (of_weight, of_bias) = batch_norm::gradients(
            x.storage(),
            gradient.storage_mut(),
            statistics.storage(),
            weight.storage(),
            bias.storage(),
            settings.epsilon,
            settings.relu,
            &extent(&x, settings.groups),
        );
        let channels = [of_weight.len()];
        (gradient, tensor(of_weight, channels), tensor(of_bias, channels))
    }

    fn pointwise(x: FlexTensor, function: Pointwise) -> FlexTensor {
        let mut x = owned(x);
        match x.try_storage_mut() {
            Some(values) => {
                pointwise::forward_in_place(function, values);
                x
            }
            None => {
                let output = pointwise::forward(function, x.storage());
                FlexTensor::from_data(TensorData::new(output, x.shape()))
            }
        }
    }

    fn pointwise_gradient(x: FlexTensor, gradient: FlexTensor, function: Pointwise) -> FlexTensor {
        let x = x.to_contiguous();
        let mut gradient = owned(gradient);
        pointwise::backward(function, x.storage(), gradient.storage_mut());
        gradient
    }

    fn softmax_forward(x: FlexTensor) -> FlexTensor {
        let mut x = owned(x);
        let row = last(&x);
        softmax::forward(x.storage_mut(), row);
        x
    }

    fn softmax_gradient(output: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let output = output.to_contiguous();
        let mut gradient = owned(gradient);
        softmax::backward(output.storage(), gradient.storage_mut(), last(&output));
        gradient
    }

    fn sgd_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        velocity: FlexTensor,
        settings: Sgd,
    ) -> (FlexTensor, FlexTensor) {
        let (mut weight, gradient, mut velocity) = (owned(weight), gradient.to_contiguous(), owned(velocity));
        update::sgd(
            weight.storage_mut(),
            gradient.storage(),
            velocity.storage_mut(),
            &settings,
        );
        (weight, velocity)
    }

    fn adamw_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        mean: FlexTensor,
        square: FlexTensor,
        settings: Adamw,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (mut weight, gradient) = (owned(weight), gradient.to_contiguous());
        let (mut mean, mut square) = (owned(mean), owned(square));
        update::adamw(
            weight.storage_mut(),
            gradient.storage(),
            mean.storage_mut(),
            square.storage_mut(),
            &settings,
        );
        (weight, mean, square)
    }

    fn averaged(average: FlexTensor, value: FlexTensor, momentum: f64) -> FlexTensor {
        let (mut average, value) = (owned(average), value.to_contiguous());
        update::moving_average(average.storage_mut(), value.storage(), momentum);
        average
    }
}

/// The size of the last dimension.
fn last(tensor: &FlexTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

/// The tensor with contiguous values, and without a second handle from this function: an in-place write
/// copies only if another tensor shares its values.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}

/// The backward pass of a convolution, from its input and weight.
#[derive(Debug)]
struct Convolution;

impl<B: KernelBackend> Backward<B, 2> for Convolution {
    type State = (NodeId, NodeId, Window);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight, window) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = weight_node {
            let of_weight = B::convolve_weight_gradient(x.clone(), weight.clone(), gradient.clone(), window);
            gradients.register::<B>(node.id, of_weight);
        }
        if let Some(node) = x_node {
            gradients.register::<B>(node.id, B::convolve_input_gradient(x, weight, gradient, window));
        }
    }
}

#[derive(Debug)]
struct Normalized;

impl<B: KernelBackend> Backward<B, 3> for Normalized {
    type State = (NodeId, NodeId, NodeId, FloatTensor<B>, Normalization);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight, bias, statistics, settings) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        let bias: FloatTensor<B> = checkpointer.retrieve_node_output(bias);
        let (of_x, of_weight, of_bias) =
            B::normalize_gradients(x, weight, bias, statistics, gradient, settings);
        for (node, gradient) in [(x_node, of_x), (weight_node, of_weight), (bias_node, of_bias)] {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// The backward pass of a function of each number.
#[derive(Debug)]
struct PointwiseOperation(Pointwise);

impl<B: KernelBackend> Backward<B, 1> for PointwiseOperation {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(ops.state);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::pointwise_gradient(x, gradient, self.0));
        }
    }
}

/// The backward pass of softmax, from its output.
#[derive(Debug)]
struct Softmax;

impl<B: KernelBackend> Backward<B, 1> for Softmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::softmax_gradient(ops.state, gradient));
        }
    }
}

/// Reason why second-order gradients are unsupported.
pub(crate) const FIRST_ORDER: &str = "Burn differentiates once: gradients are computed outside autodiff";

/// Reason why updates are not differentiable.
const OUTSIDE: &str = "weights are updated outside autodiff";

impl<B: KernelBackend, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        match Convolution
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), window);
                prepared.finish(
                    state,
                    B::convolve(x.into_primitive(), weight.into_primitive(), window),
                )
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::convolve(x.into_primitive(), weight.into_primitive(), window))
            }
        }
    }

    fn convolve_input_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Window,
    ) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn convolve_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Window,
    ) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn group_statistics(_: FloatTensor<Self>, _: usize) -> FloatTensor<Self> {
        unreachable!("statistics are taken outside autodiff")
    }

    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Normalization,
    ) -> FloatTensor<Self> {
        let statistics = statistics.into_primitive();
        let nodes = [x.node(), weight.node(), bias.node()];
        match Normalized.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (
                    prepared.checkpoint(&x),
                    prepared.checkpoint(&weight),
                    prepared.checkpoint(&bias),
                    statistics.clone(),
                    settings,
                );
                let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prepared.finish(state, B::normalize(x, weight, bias, statistics, settings))
            }
            OpsKind::UnTracked(prepared) => {
                let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prepared.finish(B::normalize(x, weight, bias, statistics, settings))
            }
        }
    }

    fn normalize_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Normalization,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{FIRST_ORDER}")
    }

    fn pointwise(x: FloatTensor<Self>, function: Pointwise) -> FloatTensor<Self> {
        let operation = PointwiseOperation(function);
        match operation.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = prepared.checkpoint(&x);
                prepared.finish(state, B::pointwise(x.into_primitive(), function))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::pointwise(x.into_primitive(), function)),
        }
    }

    fn pointwise_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Pointwise) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn softmax_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Softmax.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let output = B::softmax_forward(x.into_primitive());
                prepared.finish(output.clone(), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::softmax_forward(x.into_primitive())),
        }
    }

    fn softmax_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn sgd_step(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Sgd,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{OUTSIDE}")
    }

    fn adamw_step(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Adamw,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{OUTSIDE}")
    }

    fn averaged(_: FloatTensor<Self>, _: FloatTensor<Self>, _: f64) -> FloatTensor<Self> {
        unreachable!("{OUTSIDE}")
    }
}
