//! Self-attention of tokens.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::layers::Linear;
use crate::precision::raise;

/// Multi-head self-attention: `softmax(q·kᵀ / √(width / heads)) · v`, heads side by side, then a linear map.
///
/// Vaswani et al., *Attention is all you need*, 2017, §3.2, with timm's names and layout: one linear layer
/// computes queries, keys and values, in that order of its rows.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[3·width, width]`: queries, keys, values.
    pub qkv: Linear,
    /// `[width, width]`.
    pub proj: Linear,
    heads: usize,
}

impl Attention {
    /// Attention with this number of heads, which must divide the width.
    pub fn new(qkv: Linear, proj: Linear, heads: usize) -> Self {
        Self { qkv, proj, heads }
    }

    /// `[images, tokens, width]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [images, tokens, width] = x.dims();
        let qkv = self.qkv.forward_low(x);
        let mixed = kernels::attention(&qkv, self.heads).unwrap_or_else(|| {
            let (weights, values) = self.weights_and_values(qkv);
            let mixed = kernels::matmul(weights, values);
            mixed.swap_dims(1, 2).reshape([images, tokens, width])
        });
        self.proj.forward(mixed)
    }

    /// How much each token (third dimension) attends to each other (fourth): `[images, heads, tokens, tokens]`, rows
    /// summing to 1.
    pub fn weights(&self, x: Tensor<3>) -> Tensor<4> {
        raise(self.weights_and_values(self.qkv.forward_low(x)).0)
    }

    fn weights_and_values(&self, qkv: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        let [images, tokens, width] = qkv.dims();
        let channels = width / (3 * self.heads);
        // Views of one product: no copies for the heads.
        let qkv = qkv
            .reshape([images, tokens, 3 * self.heads, channels])
            .swap_dims(1, 2);
        let part = |index| qkv.clone().narrow(1, index * self.heads, self.heads);
        // Scaling the queries is cheaper than scaling the scores, which are more.
        let queries = part(0) * (channels as f64).powf(-0.5);
        let scores = kernels::matmul(queries, part(1).swap_dims(2, 3));
        (kernels::softmax(scores), part(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;
    use burn::module::Param;
    use burn::tensor::Device;

    fn layer(weight: Tensor<2>) -> Linear {
        let [outputs, inputs] = weight.dims();
        let mut layer = Linear::without_bias(&Init::empty(&weight.device()), inputs, outputs);
        layer.weight = Param::from_tensor(weight);
        layer
    }

    /// Two tokens, two heads of one channel. Queries are the input, keys twice it, values the input with its channels
    /// swapped.
    #[test]
    fn attends_head_by_head() {
        let device = Device::flex();
        let qkv = Tensor::from_data(
            [
                [1.0, 0.0],
                [0.0, 1.0],
                [2.0, 0.0],
                [0.0, 2.0],
                [0.0, 1.0],
                [1.0, 0.0],
            ],
            &device,
        );
        let attention = Attention::new(layer(qkv), layer(Tensor::eye(2, &device)), 2);
        let x = Tensor::<3>::from_data([[[1.0, 0.5], [-1.0, 2.0]]], &device);

        // Head 0: scores 2·x0·x0 = [[2, −2], [−2, 2]]; head 1: [[0.5, 2], [2, 8]].
        let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
        let first = [sigmoid(4.0), sigmoid(-4.0), sigmoid(-4.0), sigmoid(4.0)];
        let second = [sigmoid(-1.5), sigmoid(1.5), sigmoid(-6.0), sigmoid(6.0)];
        let map = attention.weights(x.clone()).into_data();
        for (ours, wanted) in map.iter::<f32>().zip(first.into_iter().chain(second)) {
            assert!((ours - wanted).abs() < 1e-6, "{map}");
        }

        // Values of head 0 are the second channel, of head 1 the first.
        let wanted = [
            0.5 * first[0] + 2.0 * first[1],
            second[0] - second[1],
            0.5 * first[2] + 2.0 * first[3],
            second[2] - second[3],
        ];
        let output = attention.forward(x).into_data();
        for (ours, wanted) in output.iter::<f32>().zip(wanted) {
            assert!((ours - wanted).abs() < 1e-6, "{output}");
        }
    }
}
