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
        let (batch, unbiased) = match context.batch_norm_replicas {
            1 => {
                let batch = kernels::batch_norm(x, weight, bias, images / group, self.epsilon, then);
                let unbiased = batch.variance.clone() * (count as f64 / (count as f64 - 1.0));
                (batch, unbiased)
            }
            _ => self.synchronized(x, [weight, bias], group, context, then),
        };
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

    /// Normalizes with statistics over groups of `group` images of each of several replicas, and the unbiased variance:
    /// two exchanges forward, two backward.
    ///
    /// Each replica counts by its number of values: pictures that are padded to different sizes make it differ, as do
    /// regions of a detector. PyTorch's `SyncBatchNorm` weights so too.
    fn synchronized<const D: usize>(
        &self,
        x: Tensor<D>,
        [weight, bias]: [Tensor<1>; 2],
        group: usize,
        context: &Context,
        then: Epilogue<D>,
    ) -> (Normalized<D>, Tensor<1>) {
        let shape = x.dims();
        let (groups, channels) = (shape[0] / group, shape[1]);
        let pixels = shape[2..].iter().product::<usize>();
        let replicas = context.batch_norm_replicas;
        let mean_of_run = |own: Tensor<4>| context.replicas.mean_of_run(own, replicas);
        let own_mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
        let dtype = x.dtype().into();
        let x = raise(x).reshape([groups, group, channels, pixels]);
        // The number of values goes with the means, as one more channel, and needs no exchange of its own.
        let values = Tensor::<4>::full([groups, 1, 1, 1], (group * pixels) as f64, &x.device());
        let sums = mean_of_run(Tensor::cat(
            vec![own_mean(x.clone()) * values.clone(), values.clone()],
            2,
        ));
        let all = sums.clone().narrow(2, channels, 1).without_autodiff();
        let mean = sums.narrow(2, 0, channels) / all.clone();
        let centered = x - mean.clone();
        let variance = mean_of_run(own_mean(centered.clone().powi_scalar(2)) * values) / all.clone();
        let scale = weight.reshape([1, 1, channels, 1]) / (variance.clone() + self.epsilon).sqrt();
        let output = (centered * scale + bias.reshape([1, 1, channels, 1])).reshape(shape);
        let of_channels = |statistic: Tensor<4>| statistic.mean_dim(0).reshape([channels]);
        let (mean, variance) = (mean.without_autodiff(), variance.without_autodiff());
        let all = all * replicas as f64;
        let unbiased = variance.clone() * (all.clone() / (all - 1.0));
        let normalized = Normalized {
            output: ended(cast(output, dtype), then),
            mean: of_channels(mean),
            variance: of_channels(variance),
        };
        (normalized, of_channels(unbiased))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::RunPosition;
    use crate::draws::Draws;
    use crate::replicas::Replicas;
    use burn::tensor::{Device, TensorData};
    use kernels::collective::threads;

    const CHANNELS: usize = 3;

    /// `[images, 3, pixels]` of one replica, and the weights of its outputs in the loss.
    fn inputs(replica: usize, device: &Device) -> (Tensor<3>, Tensor<3>) {
        let shape = [[1, CHANNELS, 4], [2, CHANNELS, 9]][replica];
        let wave = |phase: f32| {
            let values =
                (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 1.7 + phase + replica as f32).sin());
            Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
        };
        // Replicas whose means are far apart: equal weights would give another mean.
        (wave(0.3) + replica as f32, wave(2.1))
    }

    /// Output, gradient of the input, running mean and running variance.
    fn run(x: Tensor<3>, weights: Tensor<3>, context: &Context) -> [Vec<f32>; 4] {
        let device = x.device();
        let norm = BatchNorm::new(&Init::new(0, &device), CHANNELS);
        let x = x.require_grad();
        let output = norm.forward_relu(x.clone(), context);
        let gradients = (output.clone() * weights).sum().backward();
        let gradient = x.grad(&gradients).expect("the input has a gradient");
        let values = |tensor: TensorData| tensor.iter::<f32>().collect();
        [
            values(output.into_data()),
            values(gradient.into_data()),
            values(norm.running_mean.value().into_data()),
            values(norm.running_var.value().into_data()),
        ]
    }

    /// `[1, 3, images · pixels]`: all values of a channel in a row.
    fn rows(x: Tensor<3>) -> Tensor<3> {
        let count = x.dims()[0] * x.dims()[2];
        x.swap_dims(0, 1).reshape([1, CHANNELS, count])
    }

    #[test]
    fn replicas_count_by_their_number_of_values() {
        let device = Device::flex().autodiff();
        let context = Context::training(RunPosition::at(0, 1, 1), Draws::new(0, 0));
        let ranks: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = threads(2)
                .into_iter()
                .enumerate()
                .map(|(rank, engine)| {
                    let (context, device) = (&context, &device);
                    scope.spawn(move || {
                        let (x, weights) = inputs(rank, device);
                        run(
                            x.clone(),
                            weights,
                            &context.shared_by(Replicas::of(engine), x.dims()[0]),
                        )
                    })
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (of_all, weights): (Vec<_>, Vec<_>) =
            [0, 1].map(|rank| inputs(rank, &device)).into_iter().unzip();
        let joined = |parts: Vec<Tensor<3>>| Tensor::cat(parts.into_iter().map(rows).collect(), 2);
        let whole = run(joined(of_all), joined(weights), &context);
        let close = |ours: &[f32], wanted: &[f32]| {
            assert_eq!(ours.len(), wanted.len());
            for (ours, wanted) in ours.iter().zip(wanted) {
                assert!((ours - wanted).abs() < 2e-6, "{ours} instead of {wanted}");
            }
        };
        for what in 0..2 {
            let parts = ranks.iter().enumerate().map(|(rank, values)| {
                let shape = inputs(rank, &device).0.dims();
                Tensor::<3>::from_data(TensorData::new(values[what].clone(), shape), &device)
            });
            let ours: Vec<f32> = joined(parts.collect()).into_data().iter().collect();
            close(&ours, &whole[what]);
        }
        for values in &ranks {
            close(&values[2], &whole[2]);
            close(&values[3], &whole[3]);
        }
    }
}
