//! Collectives as an extension of Burn's backends: through host memory, so that one body serves them all.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{TensorData, read_sync};

use crate::engine::Call;

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait CollectiveBackend: Backend {
    /// # Panics
    /// If the device failed.
    fn collect(x: FloatTensor<Self>, call: Call) -> FloatTensor<Self> {
        let (device, dtype) = (x.device(), x.dtype());
        let mut shape = x.shape();
        let values = read_sync(Self::float_into_data(x))
            .unwrap_or_else(|error| panic!("the device failed before an exchange between ranks: {error}"));
        let values: Vec<f32> = values.iter().collect();
        let (values, rows) = call.run(values, shape[0]);
        shape[0] = rows;
        Self::float_from_data(TensorData::new(values, shape).convert_dtype(dtype), &device)
    }
}

impl CollectiveBackend for Flex {}

#[cfg(feature = "cube")]
impl CollectiveBackend for burn::backend::Cube {}

/// The backward pass: the transpose.
#[derive(Debug)]
struct Collected;

impl<B: CollectiveBackend> Backward<B, 1> for Collected {
    type State = Call;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        // Every rank takes part even if its own input needs no gradient.
        let gradient = B::collect(gradient, ops.state.transposed());
        if let Some(node) = node {
            gradients.register::<B>(node.id, gradient);
        }
    }
}

impl<B: CollectiveBackend, C: CheckpointStrategy> CollectiveBackend for Autodiff<B, C> {
    fn collect(x: FloatTensor<Self>, call: Call) -> FloatTensor<Self> {
        match Collected.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(call.clone(), B::collect(x.into_primitive(), call)),
            OpsKind::UnTracked(prepared) => prepared.finish(B::collect(x.into_primitive(), call)),
        }
    }
}
