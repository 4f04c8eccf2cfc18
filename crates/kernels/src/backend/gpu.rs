//! Batch normalization on GPUs as an extension of Burn's backends.

pub(crate) mod norms;
pub(crate) mod rows;
pub(crate) mod updates;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{FIRST_ORDER, Normalization};
use crate::gpu::batch_norm::{self, Affine};

/// A tensor for each of N names.
type Tensors<B, const N: usize> = [FloatTensor<B>; N];

/// The operations added to a backend. Images are `[images, channels, height, width]`, in any order in memory.
///
/// Statistics are the means and biased variances of the groups, `[2, groups · channels]`, and the means of both over the
/// groups, `[channels]` each: f32, and constants for later operations, though gradients pass through them.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait NormBackend: Backend {
    /// Images normalized with their groups' statistics, and those.
    #[fusion(meta = |x, _weight, _bias, settings| with_statistics(x, settings))]
    #[allow(clippy::type_complexity)]
    fn normalize_images(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// `max(normalized + shortcut, 0)`, and the statistics.
    #[fusion(meta = |x, _weight, _bias, _shortcut, settings| with_statistics(x, settings))]
    #[allow(clippy::type_complexity)]
    fn normalize_images_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        settings: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// The gradients of [`normalize_images`](Self::normalize_images): of `x`, `weight` and `bias`.
    #[fusion(meta = |x, weight, bias, _statistics, _gradient, _settings| (x.clone(), weight.clone(), bias.clone()))]
    #[allow(clippy::type_complexity)]
    fn normalize_images_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Normalization,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of [`normalize_images_add`](Self::normalize_images_add), which gave `output`: of `x`, `weight`, `bias`
    /// and `shortcut`.
    #[fusion(meta = |x, weight, bias, _statistics, _output, _gradient, _settings| {
        (x.clone(), weight.clone(), bias.clone(), x.clone())
    })]
    #[allow(clippy::type_complexity)]
    fn normalize_images_add_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        output: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

/// Images like `x`, and their statistics.
#[cfg(feature = "fusion")]
fn with_statistics(
    x: &TensorSpec,
    settings: &Normalization,
) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
    let channels = x.shape[1];
    let of_groups = TensorSpec::new([2, settings.groups * channels].into(), burn::tensor::DType::F32);
    let of_batch = TensorSpec::new([channels].into(), burn::tensor::DType::F32);
    (x.clone(), of_groups, of_batch.clone(), of_batch)
}

fn affine(weight: CubeTensor, bias: CubeTensor, settings: Normalization) -> Affine {
    Affine {
        weight,
        bias,
        epsilon: settings.epsilon,
    }
}

impl NormBackend for CubeBackend {
    fn normalize_images(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        settings: Normalization,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let affine = affine(weight, bias, settings);
        batch_norm::forward(x, affine, None, settings.groups, settings.relu)
    }

    fn normalize_images_add(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        shortcut: CubeTensor,
        settings: Normalization,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let affine = affine(weight, bias, settings);
        batch_norm::forward(x, affine, Some(shortcut), settings.groups, true)
    }

    fn normalize_images_gradients(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
        settings: Normalization,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let affine = affine(weight, bias, settings);
        let Normalization { groups, relu, .. } = settings;
        batch_norm::backward(x, affine, statistics, gradient, groups, relu)
    }

    fn normalize_images_add_gradients(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        statistics: CubeTensor,
        output: CubeTensor,
        gradient: CubeTensor,
        settings: Normalization,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let affine = affine(weight, bias, settings);
        batch_norm::backward_added(x, affine, statistics, output, gradient, settings.groups)
    }
}

/// The backward pass of [`NormBackend::normalize_images`].
#[derive(Debug)]
struct NormalizedImages;

impl<B: NormBackend> Backward<B, 3> for NormalizedImages {
    type State = ([NodeId; 3], FloatTensor<B>, Normalization);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (nodes, statistics, settings) = ops.state;
        let [x, weight, bias]: Tensors<B, 3> = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let (of_x, of_weight, of_bias) =
            B::normalize_images_gradients(x, weight, bias, statistics, gradient, settings);
        for (node, gradient) in ops.parents.into_iter().zip([of_x, of_weight, of_bias]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// The backward pass of [`NormBackend::normalize_images_add`].
#[derive(Debug)]
struct NormalizedImagesAdded;

impl<B: NormBackend> Backward<B, 4> for NormalizedImagesAdded {
    type State = ([NodeId; 3], FloatTensor<B>, FloatTensor<B>, Normalization);

    fn backward(self, ops: Ops<Self::State, 4>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (nodes, statistics, output, settings) = ops.state;
        let [x, weight, bias]: Tensors<B, 3> = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let (of_x, of_weight, of_bias, of_shortcut) =
            B::normalize_images_add_gradients(x, weight, bias, statistics, output, gradient, settings);
        let found = [of_x, of_weight, of_bias, of_shortcut];
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// A tensor that no gradient passes through.
fn constant<B: Backend, C: CheckpointStrategy>(tensor: FloatTensor<B>) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as AutodiffBackend>::from_inner(tensor)
}

impl<B: NormBackend, C: CheckpointStrategy> NormBackend for Autodiff<B, C> {
    fn normalize_images(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let run = |tensors: Tensors<Self, 3>| {
            let [x, weight, bias] = tensors.map(|tensor| tensor.into_primitive());
            B::normalize_images(x, weight, bias, settings)
        };
        let (output, constants) = match NormalizedImages.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let kept = [&x, &weight, &bias].map(|tensor| prepared.checkpoint(tensor));
                let (output, statistics, mean, variance) = run([x, weight, bias]);
                let state = (kept, statistics.clone(), settings);
                (prepared.finish(state, output), [statistics, mean, variance])
            }
            OpsKind::UnTracked(prepared) => {
                let (output, statistics, mean, variance) = run([x, weight, bias]);
                (prepared.finish(output), [statistics, mean, variance])
            }
        };
        let [statistics, mean, variance] = constants.map(constant::<B, C>);
        (output, statistics, mean, variance)
    }

    fn normalize_images_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        settings: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let nodes = [x.node(), weight.node(), bias.node(), shortcut.node()];
        let run = |tensors: Tensors<Self, 4>| {
            let [x, weight, bias, shortcut] = tensors.map(|tensor| tensor.into_primitive());
            B::normalize_images_add(x, weight, bias, shortcut, settings)
        };
        let (output, constants) = match NormalizedImagesAdded
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prepared) => {
                let kept = [&x, &weight, &bias].map(|tensor| prepared.checkpoint(tensor));
                let (output, statistics, mean, variance) = run([x, weight, bias, shortcut]);
                let state = (kept, statistics.clone(), output.clone(), settings);
                (prepared.finish(state, output), [statistics, mean, variance])
            }
            OpsKind::UnTracked(prepared) => {
                let (output, statistics, mean, variance) = run([x, weight, bias, shortcut]);
                (prepared.finish(output), [statistics, mean, variance])
            }
        };
        let [statistics, mean, variance] = constants.map(constant::<B, C>);
        (output, statistics, mean, variance)
    }

    fn normalize_images_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Normalization,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{FIRST_ORDER}")
    }

    fn normalize_images_add_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Normalization,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        unreachable!("{FIRST_ORDER}")
    }
}
