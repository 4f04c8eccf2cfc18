//! The end of a residual block as an extension of Burn's backends.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};

use super::{FIRST_ORDER, Normalization, dims, extent, owned, tensor};
use crate::residual;

/// The operation added to a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait ResidualBackend: Backend {
    /// `max(normalize(x) + shortcut, 0)`. Its gradient passes through the statistics, as if they were computed here.
    fn normalize_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Normalization,
    ) -> FloatTensor<Self>;

    /// The gradients of [`normalize_add`](Self::normalize_add), which gave `output`: of `x`, `weight`, `bias` and
    /// `shortcut`.
    #[allow(clippy::type_complexity)]
    fn normalize_add_gradients(
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

impl ResidualBackend for Flex {
    fn normalize_add(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        shortcut: FlexTensor,
        statistics: FlexTensor,
        settings: Normalization,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (shortcut, statistics) = (shortcut.to_contiguous(), statistics.to_contiguous());
        let output = residual::normalize_add_relu(
            x.storage(),
            shortcut.storage(),
            statistics.storage(),
            weight.storage(),
            bias.storage(),
            settings.epsilon,
            &extent(&x, settings.groups),
        );
        tensor(output, dims(&x))
    }

    fn normalize_add_gradients(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        statistics: FlexTensor,
        output: FlexTensor,
        gradient: FlexTensor,
        settings: Normalization,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (statistics, output) = (statistics.to_contiguous(), output.to_contiguous());
        let mut gradient = owned(gradient);
        let (of_x, of_weight, of_bias) = residual::gradients_add_relu(
            x.storage(),
            output.storage(),
            gradient.storage_mut(),
            statistics.storage(),
            weight.storage(),
            bias.storage(),
            settings.epsilon,
            &extent(&x, settings.groups),
        );
        let channels = [of_weight.len()];
        (
            tensor(of_x, dims(&x)),
            tensor(of_weight, channels),
            tensor(of_bias, channels),
            gradient,
        )
    }
}

#[derive(Debug)]
struct NormalizedAdded;

impl<B: ResidualBackend> Backward<B, 4> for NormalizedAdded {
    type State = ([NodeId; 3], FloatTensor<B>, FloatTensor<B>, Normalization);

    fn backward(self, ops: Ops<Self::State, 4>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let parents = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let (nodes, statistics, output, settings) = ops.state;
        let [x, weight, bias]: [FloatTensor<B>; 3] =
            nodes.map(|node| checkpointer.retrieve_node_output(node));
        let (of_x, of_weight, of_bias, of_shortcut) =
            B::normalize_add_gradients(x, weight, bias, statistics, output, gradient, settings);
        for (node, gradient) in parents.into_iter().zip([of_x, of_weight, of_bias, of_shortcut]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: ResidualBackend, C: CheckpointStrategy> ResidualBackend for Autodiff<B, C> {
    fn normalize_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Normalization,
    ) -> FloatTensor<Self> {
        let statistics = statistics.into_primitive();
        let nodes = [x.node(), weight.node(), bias.node(), shortcut.node()];
        match NormalizedAdded.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let kept = [&x, &weight, &bias].map(|tensor| prepared.checkpoint(tensor));
                let output = B::normalize_add(
                    x.into_primitive(),
                    weight.into_primitive(),
                    bias.into_primitive(),
                    shortcut.into_primitive(),
                    statistics.clone(),
                    settings,
                );
                prepared.finish((kept, statistics, output.clone(), settings), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::normalize_add(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                shortcut.into_primitive(),
                statistics,
                settings,
            )),
        }
    }

    fn normalize_add_gradients(
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
