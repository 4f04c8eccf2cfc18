//! KoLeo, which spreads the features of a batch: rows in, a loss out.

use crate::head::{GLOBAL_VIEWS, l2_normalize};
use backbones::Replicas;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// [`koleo`] of each global view, summed as in DINOv2: `[2 * images, features]` to `[1]`.
pub(crate) fn koleo_of_views(features: &Tensor<2>, replicas: &Replicas) -> Tensor<1> {
    let images = features.dims()[0] / GLOBAL_VIEWS;
    let of_view = |view: usize| koleo(replicas.gather(features.clone().narrow(0, view * images, images)));
    (1..GLOBAL_VIEWS)
        .map(of_view)
        .fold(of_view(0), |sum, next| sum + next)
}

/// The negative of a differential entropy estimate by nearest neighbors, on L2-normalized features:
/// Sablayrolles, Douze, Schmid, Jégou, *Spreading vectors for similarity search*,
/// [2019](https://arxiv.org/abs/1806.03198), eq. 2, with DINOv2's small constants (1e-8 in the distance and
/// in the logarithm).
///
/// Neighbors come from the whole batch, on any number of devices. DINOv2 takes those of one device.
///
/// # Shapes
/// - features: `[images, width]`, of one view, at least 2 images
/// - output: `[1]`
pub fn koleo(features: Tensor<2>) -> Tensor<1> {
    let features = l2_normalize(features);
    let [images, _] = features.dims();
    let constant = features.clone().detach();
    let similarity = constant.clone().matmul(constant.transpose()) - itself(images, &features.device());
    let nearest: Tensor<1, Int> = similarity.argmax(1).reshape([images]);
    let neighbors = features.clone().select(0, nearest);
    let distance = (features - neighbors + 1e-8).powi_scalar(2).sum_dim(1).sqrt();
    (distance + 1e-8).log().neg().mean_dim(0).reshape([1])
}

/// 3 on the diagonal, which ranks an image's cosine with itself below all others.
fn itself(images: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0f32; images * images];
    values
        .iter_mut()
        .step_by(images + 1)
        .for_each(|value| *value = 3.0);
    Tensor::from_data(TensorData::new(values, [images, images]), device)
}
