//! Batch normalization with PyTorch's statistics, over the whole batch or over groups of images.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kernels::{Epilogue, Normalized};

use crate::context::Context;
use crate::init::{Init, trained};
use crate::layers::{RunningStatistic, relu};
use crate::precision::{cast, in_f32, raise};
use crate::probe::look;

/// Normalizes each channel to mean 0 and variance 1, then scales and shifts it.
///
/// Ioffe, Szegedy, *Batch normalization*, 2015, algorithm 1; running statistics as `torch.nn.BatchNorm2d` keeps them
/// (the running variance is the unbiased one, n / (n − 1) times what normalizes the batch).
///
/// Only the [`Context`] decides between training and evaluation: a teacher without gradients uses batch
/// statistics in training too (see [`teacher`](crate::teacher)).
///
/// With `batch_norm_images` in the context, each run of that many images has its own statistics, as if the
/// groups were on separate devices. MoCo needs this: with shared statistics a query recognizes its key by
/// them (He et al., *Momentum contrast*, 2020, §3.3, "Shuffling BN"). Running statistics still change once
/// per step, towards the mean of the groups' means and of their unbiased variances.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[channels]`; absent: 1.
    pub weight: Option<Param<Tensor<1>>>,
    /// Shift, `[channels]`; absent: 0.
    pub bias: Option<Param<Tensor<1>>>,
    /// Mean of the batches' means, `[channels]`.
    pub running_mean: RunningStatistic,
    /// Mean of the batches' unbiased variances, `[channels]`.
    pub running_var: RunningStatistic,
    /// Weight of the newest batch in the running statistics.
    momentum: f64,
    /// Added to the variance under the root; 1e-5 where nothing sets another.
    pub epsilon: f64,
}

impl BatchNorm {
    /// Weight of the newest batch in the running statistics: PyTorch's.
    pub const MOMENTUM: f64 = 0.1;

    /// Scale 1, shift 0; momentum 0.1 and epsilon 1e-5, PyTorch's.
    pub fn new(init: &Init, channels: usize) -> Self {
        Self {
            weight: Some(trained(init.at("weight").ones([channels]))),
            bias: Some(trained(init.at("bias").zeros([channels]))),
            ..Self::without_affine(init, channels)
        }
    }

    /// Neither scale nor shift: `torch.nn.BatchNorm1d(affine=False)`.
    pub fn without_affine(init: &Init, channels: usize) -> Self {
        Self {
            weight: None,
            bias: None,
            running_mean: RunningStatistic::new(init.at("running_mean").zeros([channels]).without_autodiff()),
            running_var: RunningStatistic::new(init.at("running_var").ones([channels]).without_autodiff()),
            momentum: Self::MOMENTUM,
            epsilon: 1e-5,
        }
    }

    /// # Shapes
    /// - `x`: `[images, channels, …]`, of rank 2 in heads and 4 in networks
    /// - output: shape and type of `x`; f32 inside
    ///
    /// # Panics
    /// In training, if the context's `batch_norm_images` does not divide the images, or if a group has a
    /// single value in a channel.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        self.normalize(x, context, Epilogue::Nothing)
    }

    /// [`forward`](Self::forward), then ReLU, in one pass over memory.
    pub fn forward_relu<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        self.normalize(x, context, Epilogue::Relu)
    }

    /// [`forward`](Self::forward), then adds `shortcut`, then ReLU: the end of a residual block, in one pass
    /// too.
    pub fn forward_add_relu<const D: usize>(
        &self,
        x: Tensor<D>,
        shortcut: Tensor<D>,
        context: &Context,
    ) -> Tensor<D> {
        self.normalize(x, context, Epilogue::AddRelu(shortcut))
    }

    fn normalize<const D: usize>(&self, x: Tensor<D>, context: &Context, then: Epilogue<D>) -> Tensor<D> {
        if !context.training {
            return self.seen(ended(
                in_f32(x, |x| self.normalize_with_running_statistics(x)),
                then,
            ));
        }
        let shape = x.dims();
        let images = shape[0];
        let group = context.batch_norm_images.unwrap_or(images);
        assert!(
            group > 0 && images.is_multiple_of(group),
            "batch_norm_images = {group} does not divide the {images} images of the batch"
        );
        let count = group * shape[2..].iter().product::<usize>();
        assert!(
            count * context.batch_norm_replicas > 1,
            "batch normalization in training needs more than one value a channel"
        );

        let (weight, bias) = self.affine(shape[1], &x);
        let replicas = context.batch_norm_replicas;
        let batch = match replicas {
            1 => kernels::batch_norm(x, weight, bias, images / group, self.epsilon, then),
            _ => self.synchronized(x, [weight, bias], group, context, then),
        };
        let count = count * replicas;
        let unbiased = batch.variance * (count as f64 / (count as f64 - 1.0));
        // The first micro-batch of a step decays the old value; each adds its share of the new one.
        let (index, micro_batches) = context.micro_batch;
        let kept = if index == 0 { 1.0 - self.momentum } else { 1.0 };
        let taken = self.momentum / micro_batches as f64;
        let move_to = |running: &RunningStatistic, batch: Tensor<1>| {
            running.set(running.value() * kept + batch * taken);
        };
        move_to(&self.running_mean, batch.mean);
        move_to(&self.running_var, unbiased);
        self.seen(batch.output)
    }

    /// The output, which [`probe`](crate::probe) knows by the running mean: a norm without scale has no other parameter.
    fn seen<const D: usize>(&self, output: Tensor<D>) -> Tensor<D> {
        look(self.running_mean.id(), output)
    }

    /// Normalizes with statistics over groups of `group` images of each of several replicas: two exchanges forward,
    /// two backward.
    fn synchronized<const D: usize>(
        &self,
        x: Tensor<D>,
        [weight, bias]: [Tensor<1>; 2],
        group: usize,
        context: &Context,
        then: Epilogue<D>,
    ) -> Normalized<D> {
        let shape = x.dims();
        let (groups, channels) = (shape[0] / group, shape[1]);
        let pixels = shape[2..].iter().product::<usize>();
        let mean_of = |x: Tensor<4>| {
            let own = x.mean_dim(1).mean_dim(3);
            context.replicas.mean_of_run(own, context.batch_norm_replicas)
        };
        let dtype = x.dtype().into();
        let x = raise(x).reshape([groups, group, channels, pixels]);
        let mean = mean_of(x.clone());
        let centered = x - mean.clone();
        let variance = mean_of(centered.clone().powi_scalar(2));
        let scale = weight.reshape([1, 1, channels, 1]) / (variance.clone() + self.epsilon).sqrt();
        let output = (centered * scale + bias.reshape([1, 1, channels, 1])).reshape(shape);
        let of_channels = |statistic: Tensor<4>| statistic.without_autodiff().mean_dim(0).reshape([channels]);
        Normalized {
            output: ended(cast(output, dtype), then),
            mean: of_channels(mean),
            variance: of_channels(variance),
        }
    }

    /// Scale and shift, with defaults if the layer has none.
    fn affine<const D: usize>(&self, channels: usize, x: &Tensor<D>) -> (Tensor<1>, Tensor<1>) {
        let constant = |value: f64| Tensor::full([channels], value, &x.device());
        (
            self.weight.as_ref().map_or_else(|| constant(1.0), Param::val),
            self.bias.as_ref().map_or_else(|| constant(0.0), Param::val),
        )
    }

    fn normalize_with_running_statistics<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        // One scale and one shift per channel: two passes over the image instead of four.
        let (weight, bias) = self.affine(x.dims()[1], &x);
        let scale = weight / (self.running_var.value() + self.epsilon).sqrt();
        let shift = bias - self.running_mean.value() * scale.clone();
        let mut shape = [1; D];
        shape[1] = x.dims()[1];
        x * scale.reshape(shape) + shift.reshape(shape)
    }
}

/// What follows a normalization that is composed of Burn's operations. In 16 bits the sum with a shortcut has 16 bits
/// too: f32 would need copies of both at twice the size.
fn ended<const D: usize>(output: Tensor<D>, then: Epilogue<D>) -> Tensor<D> {
    match then {
        Epilogue::Nothing => output,
        Epilogue::Relu => relu(output),
        Epilogue::AddRelu(shortcut) => relu(output + shortcut),
    }
}
