//! RoIAlign as an extension of Burn's backends.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};

use super::{FIRST_ORDER, tensor};
use crate::roi_align::Plan;

/// The operations added to a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait RegionBackend: Backend {
    /// `[images, channels, height, width]` to `[regions, channels, output, output]`.
    fn pool_regions(x: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self>;

    /// The gradient of the map.
    fn pool_regions_gradient(gradient: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self>;
}

impl RegionBackend for Flex {
    fn pool_regions(x: FlexTensor, plan: Plan) -> FlexTensor {
        let x = x.to_contiguous();
        tensor(plan.forward(x.storage()), plan.output_shape())
    }

    fn pool_regions_gradient(gradient: FlexTensor, plan: Plan) -> FlexTensor {
        let gradient = gradient.to_contiguous();
        tensor(plan.backward(gradient.storage()), plan.shape())
    }
}

#[derive(Debug)]
struct Pooled;

impl<B: RegionBackend> Backward<B, 1> for Pooled {
    type State = Plan;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::pool_regions_gradient(gradient, ops.state));
        }
    }
}

impl<B: RegionBackend, C: CheckpointStrategy> RegionBackend for Autodiff<B, C> {
    fn pool_regions(x: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self> {
        match Pooled.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                prepared.finish(plan.clone(), B::pool_regions(x.into_primitive(), plan))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::pool_regions(x.into_primitive(), plan)),
        }
    }

    fn pool_regions_gradient(_: FloatTensor<Self>, _: Plan) -> FloatTensor<Self> {
        unreachable!("{FIRST_ORDER}")
    }
}
