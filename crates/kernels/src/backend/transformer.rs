//! The operations of transformers as extensions of Burn's backends: linear layer, layer normalization, self-attention.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

use super::{FIRST_ORDER, owned, tensor};
use crate::attention::{self, Shape};
use crate::{layer_norm, linear};

/// The operations added to a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait TransformerBackend: Backend {
    /// `x · weightᵀ + bias`: `[rows, inputs]`, `[outputs, inputs]`, `[outputs]` to `[rows, outputs]`.
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The gradient of a linear layer's input.
    fn linear_input_gradient(weight: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of a linear layer's weight.
    fn linear_weight_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of a linear layer's bias.
    fn linear_bias_gradient(gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Rows of `[rows, channels]` normalized.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// The gradients of [`layer_norm_forward`](Self::layer_norm_forward): of `x`, `weight` and `bias`.
    fn layer_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Self-attention: `[images, tokens, 3 · width]`, queries before keys before values, to `[images, tokens, width]`.
    fn attend(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;

    /// [`attend`](Self::attend), and the attention weights, `[images, heads, tokens, tokens]`.
    fn attend_and_keep(qkv: FloatTensor<Self>, heads: usize) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of `qkv`, from the kept attention weights.
    fn attend_gradient(
        qkv: FloatTensor<Self>,
        attention: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

fn shape(qkv: &FlexTensor, heads: usize) -> Shape {
    let size = qkv.shape();
    Shape {
        images: size[0],
        tokens: size[1],
        heads,
        channels: size[2] / (3 * heads),
    }
}

fn attended(qkv: FlexTensor, heads: usize, keep: bool) -> (FlexTensor, FlexTensor) {
    let qkv = qkv.to_contiguous();
    let shape = shape(&qkv, heads);
    let Shape { images, tokens, .. } = shape;
    let (output, kept) = attention::forward(qkv.storage(), &shape, keep);
    let width = shape.heads * shape.channels;
    let kept_images = if keep { images } else { 0 };
    (
        tensor(output, [images, tokens, width]),
        tensor(kept, [kept_images, heads, tokens, tokens]),
    )
}

impl TransformerBackend for Flex {
    fn linear_forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let size = [x.shape()[0], weight.shape()[0]];
        tensor(
            linear::forward(x.storage(), weight.storage(), bias.storage()),
            size,
        )
    }

    fn linear_input_gradient(weight: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (weight, gradient) = (weight.to_contiguous(), gradient.to_contiguous());
        let (rows, inputs) = (gradient.shape()[0], weight.shape()[1]);
        tensor(
            linear::of_input(weight.storage(), gradient.storage(), inputs),
            [rows, inputs],
        )
    }

    fn linear_weight_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let (inputs, outputs) = (x.shape()[1], gradient.shape()[1]);
        tensor(
            linear::of_weight(x.storage(), gradient.storage(), inputs),
            [outputs, inputs],
        )
    }

    fn linear_bias_gradient(gradient: FlexTensor) -> FlexTensor {
        let gradient = gradient.to_contiguous();
        let outputs = gradient.shape()[1];
        tensor(linear::of_bias(gradient.storage(), outputs), [outputs])
    }

    fn layer_norm_forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f64) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let size = [x.shape()[0], x.shape()[1]];
        let output = layer_norm::forward(x.storage(), weight.storage(), bias.storage(), epsilon as f32);
        tensor(output, size)
    }

    fn layer_norm_gradients(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut gradient = owned(gradient);
        let values = gradient.storage_mut();
        let (of_weight, of_bias) =
            layer_norm::backward(x.storage(), weight.storage(), values, epsilon as f32);
        let channels = [of_weight.len()];
        (gradient, tensor(of_weight, channels), tensor(of_bias, channels))
    }

    fn attend(qkv: FlexTensor, heads: usize) -> FlexTensor {
        attended(qkv, heads, false).0
    }

    fn attend_and_keep(qkv: FlexTensor, heads: usize) -> (FlexTensor, FlexTensor) {
        attended(qkv, heads, true)
    }

    fn attend_gradient(qkv: FlexTensor, attention: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (qkv, gradient) = (qkv.to_contiguous(), gradient.to_contiguous());
        let attention = attention.to_contiguous();
        let shape = shape(&qkv, attention.shape()[1]);
        let of_qkv = attention::backward(qkv.storage(), attention.storage(), gradient.storage(), &shape);
        let size = qkv.shape();
        tensor(of_qkv, [size[0], size[1], size[2]])
    }
}

#[derive(Debug)]
struct Linear;

impl<B: TransformerBackend> Backward<B, 3> for Linear {
    type State = (NodeId, NodeId);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = bias_node {
            gradients.register::<B>(node.id, B::linear_bias_gradient(gradient.clone()));
        }
        if let Some(node) = weight_node {
            gradients.register::<B>(node.id, B::linear_weight_gradient(x, gradient.clone()));
        }
        if let Some(node) = x_node {
            gradients.register::<B>(node.id, B::linear_input_gradient(weight, gradient));
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: TransformerBackend> Backward<B, 3> for LayerNorm {
    type State = (NodeId, NodeId, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        let (of_x, of_weight, of_bias) = B::layer_norm_gradients(x, weight, gradient, epsilon);
        for (node, gradient) in [(x_node, of_x), (weight_node, of_weight), (bias_node, of_bias)] {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// The backward pass of attention, from its input and its attention weights.
#[derive(Debug)]
struct Attention;

impl<B: TransformerBackend> Backward<B, 1> for Attention {
    type State = (NodeId, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (qkv, attention) = ops.state;
        let qkv: FloatTensor<B> = checkpointer.retrieve_node_output(qkv);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::attend_gradient(qkv, attention, gradient));
        }
    }
}

impl<B: TransformerBackend, C: CheckpointStrategy> TransformerBackend for Autodiff<B, C> {
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let run = |x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>| {
            B::linear_forward(x.into_primitive(), weight.into_primitive(), bias.into_primitive())
        };
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight));
                prepared.finish(state, run(x, weight, bias))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(run(x, weight, bias)),
        }
    }

    fn linear_input_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn linear_weight_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn linear_bias_gradient(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }

    fn layer_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let run = |x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>| {
            let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
            B::layer_norm_forward(x, weight, bias, epsilon)
        };
        match LayerNorm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), epsilon);
                prepared.finish(state, run(x, weight, bias))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(run(x, weight, bias)),
        }
    }

    fn layer_norm_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{FIRST_ORDER}")
    }

    fn attend(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        match Attention.prepare::<C>([qkv.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let kept = prepared.checkpoint(&qkv);
                let (output, attention) = B::attend_and_keep(qkv.into_primitive(), heads);
                prepared.finish((kept, attention), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::attend(qkv.into_primitive(), heads)),
        }
    }

    fn attend_and_keep(_: FloatTensor<Self>, _: usize) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("kept for the gradient, which is computed outside autodiff")
    }

    fn attend_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }
}

/// Each operation compared with Burn's composition, which f64 uses, in value and gradient.
#[cfg(test)]
mod tests {
    use crate::{attention, layer_norm, linear};
    use burn::tensor::activation::softmax;
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use proptest::prelude::*;

    fn wave<const D: usize>(shape: [usize; D], seed: f64) -> Tensor<D> {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|i| ((12.9898 * i as f64 + seed).sin() * 43758.5453).fract() as f32);
        let data = TensorData::new(values.collect::<Vec<_>>(), shape);
        Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
    }

    fn wide<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
        x.clone().detach().cast(DType::F64).detach().require_grad()
    }

    fn error<const D: usize>(ours: Tensor<D>, reference: Tensor<D>) -> f64 {
        let numbers = |x: Tensor<D>| x.cast(DType::F64).into_data().try_to_vec::<f64>().unwrap();
        let (ours, reference) = (numbers(ours), numbers(reference));
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let distance = norm(&mut ours.iter().zip(&reference).map(|(a, b)| a - b));
        distance / norm(&mut reference.into_iter()).max(1e-12)
    }

    /// Largest error of the output and of the gradients of three inputs.
    fn errors<const D: usize, const N: usize>(
        [ours, reference]: [Tensor<D>; 2],
        [a, wide_a]: [&Tensor<N>; 2],
        others: [[&Tensor<1>; 2]; 2],
        weights: Option<[&Tensor<2>; 2]>,
    ) -> f64 {
        let factor = wave(ours.dims(), 9.0).detach();
        let wide_factor = factor.clone().cast(DType::F64);
        let mut worst = error(ours.clone().detach(), reference.clone().detach());
        let ours = (ours * factor).sum().backward();
        let reference = (reference * wide_factor).sum().backward();
        worst = worst.max(error(a.grad(&ours).unwrap(), wide_a.grad(&reference).unwrap()));
        for [x, wide_x] in others {
            worst = worst.max(error(x.grad(&ours).unwrap(), wide_x.grad(&reference).unwrap()));
        }
        if let Some([x, wide_x]) = weights {
            worst = worst.max(error(x.grad(&ours).unwrap(), wide_x.grad(&reference).unwrap()));
        }
        worst
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        // Of a single weight the gradient is one sum, which may cancel: its relative error then says nothing.
        #[test]
        fn linear_is_burns(images in 1usize..4, tokens in 1usize..90, inputs in 4usize..40, outputs in 4usize..40) {
            let (x, weight, bias) = (wave([images, tokens, inputs], 1.0), wave([outputs, inputs], 2.0), wave([outputs], 3.0));
            let (wide_x, wide_weight, wide_bias) = (wide(&x), wide(&weight), wide(&bias));
            let outputs = [
                linear(x.clone(), weight.clone(), Some(bias.clone())),
                linear(wide_x.clone(), wide_weight.clone(), Some(wide_bias.clone())),
            ];
            let biases = [&bias, &wide_bias];
            prop_assert!(errors(outputs, [&x, &wide_x], [biases, biases], Some([&weight, &wide_weight])) < 2e-6);
        }

        #[test]
        fn layer_norm_is_burns(images in 1usize..4, tokens in 1usize..90, channels in 2usize..150, mean in -3.0f32..3.0) {
            let x = (wave([images, tokens, channels], 1.0) * 2.0 + mean).detach().require_grad();
            let (weight, bias) = (wave([channels], 2.0), wave([channels], 3.0));
            let (wide_x, wide_weight, wide_bias) = (wide(&x), wide(&weight), wide(&bias));
            let outputs = [
                layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-6),
                layer_norm(wide_x.clone(), wide_weight.clone(), wide_bias.clone(), 1e-6),
            ];
            // Rows of few channels can have nearly equal values, which costs digits in any implementation.
            let bound = if channels < 8 { 2e-3 } else { 1e-5 };
            prop_assert!(errors(outputs, [&x, &wide_x], [[&weight, &wide_weight], [&bias, &wide_bias]], None) < bound);
        }

        #[test]
        fn attention_is_its_composition(images in 1usize..3, tokens in 1usize..40, heads in 1usize..4, channels in 1usize..20) {
            let qkv = (wave([images, tokens, 3 * heads * channels], 1.0) * 2.0).detach().require_grad();
            let wide_qkv = wide(&qkv);
            let parts = wide_qkv.clone().reshape([images, tokens, 3 * heads, channels]).swap_dims(1, 2);
            let part = |index| parts.clone().narrow(1, index * heads, heads);
            let scores = part(0).matmul(part(1).swap_dims(2, 3)) * (channels as f64).powf(-0.5);
            let composed = softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([images, tokens, heads * channels]);
            let ours = attention(&qkv, heads).unwrap();
            // Evaluation keeps nothing, and gives the same result.
            let plain = attention(&qkv.clone().inner(), heads).unwrap();
            plain.into_data().assert_eq(&ours.clone().inner().into_data(), true);
            let factor = wave(ours.dims(), 9.0).detach();
            prop_assert!(error(ours.clone().detach(), composed.clone().detach()) < 2e-6);
            let gradients = (ours * factor.clone()).sum().backward();
            let wide_gradients = (composed * factor.cast(DType::F64)).sum().backward();
            prop_assert!(error(qkv.grad(&gradients).unwrap(), wide_qkv.grad(&wide_gradients).unwrap()) < 5e-6);
        }
    }

    #[test]
    fn other_types_are_left_to_the_composition() {
        assert!(attention(&wave([1, 2, 6], 1.0).cast(DType::F64), 1).is_none());
    }
}
