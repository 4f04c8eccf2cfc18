//! Initial weights: drawn on the host from the seed and the parameter's dotted path. They are therefore
//! independent of the device, of the order of construction, and of changes in other parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use crate::draws::{hash_name, rng_of};
use crate::precision::Precision;

/// The source of a module's initial values: a seed, a device, and the path of the module in its network.
#[derive(Clone, Debug)]
pub struct Init {
    device: Device,
    path: String,
    /// `None`: zeros instead of draws, for weights that are replaced immediately.
    seed: Option<u64>,
    precision: Precision,
    /// The state of every network under study built here, in place of draws.
    start: Option<Arc<BTreeMap<String, TensorData>>>,
}

impl Init {
    /// The root of a network whose parameters are on `device`.
    ///
    /// On a device with autodiff the parameters require gradients; on a plain one `Module::train` turns that on.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            device: device.clone(),
            path: String::new(),
            seed: Some(seed),
            precision: Precision::F32,
            start: None,
        }
    }

    /// The same source, with these tensors for every network that [`BackboneConfig::init`](crate::BackboneConfig::init)
    /// builds: a run that starts from an encoder. Names are those of [`state_dict`](crate::state_dict); names and shapes must
    /// be the network's, as [`fit_state`](crate::fit_state) makes them.
    pub fn starting_from(self, tensors: impl Into<Arc<BTreeMap<String, TensorData>>>) -> Self {
        Self {
            start: Some(tensors.into()),
            ..self
        }
    }

    /// The state of a network under study, if it is not drawn.
    pub(crate) fn start(&self) -> Option<&BTreeMap<String, TensorData>> {
        self.start.as_deref()
    }

    /// The same source for networks whose layers compute in `precision` (their weights stay f32).
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The compute precision of layers built here: f32 unless [`with_precision`](Self::with_precision) set
    /// another.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A source for a network whose weights will be loaded: shapes are right, and zeros replace all draws.
    pub fn empty(device: &Device) -> Self {
        Self {
            seed: None,
            ..Self::new(0, device)
        }
    }

    /// The source for the child named `name`: its path is `path.name`.
    pub fn at(&self, name: &str) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            parent => format!("{parent}.{name}"),
        };
        Self { path, ..self.clone() }
    }

    /// The device on which the tensors are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normal with mean 0 and variance 2 / fan-out, where fan-out is `shape[0]` times the product of the dimensions
    /// after the second: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`, torchvision's choice for ResNets.
    ///
    /// He, Zhang, Ren, Sun, *Delving deep into rectifiers*, 2015, §2.2 (the backward-propagation case, eq. 14).
    pub fn kaiming_normal_fan_out<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let fan_out = shape[0] * shape[2..].iter().product::<usize>();
        self.normal(shape, (2.0 / fan_out as f64).sqrt())
    }

    /// Normal with mean 0 and the given standard deviation.
    pub fn normal<const D: usize>(&self, shape: [usize; D], std: f64) -> Tensor<D> {
        self.draw(shape, |rng| {
            let standard: f64 = StandardNormal.sample(rng);
            (standard * std) as f32
        })
    }

    /// Normal with mean 0 and the given standard deviation, redrawn while outside ±2: `trunc_normal_` with
    /// its default bounds, which are absolute values, unscaled by the standard deviation.
    pub fn truncated_normal<const D: usize>(&self, shape: [usize; D], std: f64) -> Tensor<D> {
        self.draw(shape, |rng| {
            loop {
                let standard: f64 = StandardNormal.sample(rng);
                if (standard * std).abs() <= 2.0 {
                    return (standard * std) as f32;
                }
            }
        })
    }

    /// Uniform on `[-bound, bound)`.
    pub fn uniform<const D: usize>(&self, shape: [usize; D], bound: f64) -> Tensor<D> {
        let range = Uniform::new(-bound, bound).expect("a finite, positive bound");
        self.draw(shape, |rng| range.sample(rng) as f32)
    }

    /// Zeros.
    pub fn zeros<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::zeros(shape, &self.device)
    }

    /// Ones.
    pub fn ones<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::ones(shape, &self.device)
    }

    fn draw<const D: usize>(
        &self,
        shape: [usize; D],
        mut sample: impl FnMut(&mut ChaCha8Rng) -> f32,
    ) -> Tensor<D> {
        let Some(seed) = self.seed else {
            return self.zeros(shape);
        };
        let mut rng = rng_of([seed, hash_name("initial weights"), hash_name(&self.path), 0]);
        let values = (0..shape.iter().product())
            .map(|_| sample(&mut rng))
            .collect::<Vec<f32>>();
        Tensor::from_data(TensorData::new(values, Shape::new(shape)), &self.device)
    }
}

/// A tensor that the optimizer trains.
pub fn trained<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor)
}

/// A tensor that is saved with its module and never trained: a queue, a center.
pub fn buffer<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    // `from_tensor` would require a gradient.
    Param::initialized(ParamId::new(), tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn mean_and_std(values: &[f32]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let squares = values.iter().map(|v| (f64::from(*v) - mean).powi(2));
        (mean, (squares.sum::<f64>() / count).sqrt())
    }

    #[test]
    fn weights_follow_seed_and_path_alone() {
        let device = Device::flex();
        let at = |seed, path: &str| values(Init::new(seed, &device).at(path).normal([4, 4], 1.0));
        assert_eq!(at(1, "layer1.0"), at(1, "layer1.0"));
        assert_ne!(at(1, "layer1.0"), at(1, "layer1.1"));
        assert_ne!(at(1, "layer1.0"), at(2, "layer1.0"));
        // A parameter is the same if built child by child or by its whole path.
        let nested = Init::new(1, &device).at("layer1").at("0");
        assert_eq!(at(1, "layer1.0"), values(nested.normal([4, 4], 1.0)));
    }

    #[test]
    fn kaiming_normal_has_the_stated_spread() {
        let init = Init::new(3, &Device::flex()).at("conv1");
        let (mean, std) = mean_and_std(&values(init.kaiming_normal_fan_out([64, 32, 3, 3])));
        let wanted = (2.0f64 / (64.0 * 9.0)).sqrt();
        // 18,432 draws: the standard error of their mean is std/136, of their standard deviation std/192.
        assert!(mean.abs() < 4.0 * wanted / 136.0, "mean {mean}");
        assert!(
            (std / wanted - 1.0).abs() < 4.0 / 192.0,
            "std {std}, wanted {wanted}"
        );
    }

    #[test]
    fn uniform_fills_its_range() {
        let values = values(Init::new(3, &Device::flex()).uniform([10_000], 0.25));
        let (mean, std) = mean_and_std(&values);
        assert!(values.iter().all(|v| (-0.25..=0.25).contains(v)));
        assert!(mean.abs() < 0.01 && (std - 0.25 / 3f64.sqrt()).abs() < 0.003);
    }

    #[test]
    fn truncated_normal_ends_at_two() {
        let init = Init::new(3, &Device::flex()).at("pos_embed");
        // Bounds far outside the distribution leave the normal unchanged; the standard error of the standard
        // deviation is std/141.
        let (mean, std) = mean_and_std(&values(init.truncated_normal([10_000], 0.02)));
        assert!(mean.abs() < 4.0 * 0.02 / 100.0 && (std / 0.02 - 1.0).abs() < 4.0 / 141.0);
        // A standard normal truncated at ±2 has variance 1 − 4·φ(2) / (2·Φ(2) − 1) = 0.774.
        let wide = values(init.truncated_normal([10_000], 1.0));
        assert!(wide.iter().all(|v| v.abs() <= 2.0));
        assert!((mean_and_std(&wide).1.powi(2) - 0.774).abs() < 0.03);
    }

    /// A seed must mean the same weights in every later version and with every later `rand_distr`.
    #[test]
    fn first_draws_are_pinned() {
        let drawn = values(Init::new(0, &Device::flex()).at("conv1.weight").normal([4], 1.0));
        assert_eq!(drawn, [0.933_765_2, -0.745_639_15, 0.299_362_18, -1.210_833_9]);
    }

    #[test]
    fn empty_draws_nothing() {
        let weights = Init::empty(&Device::flex()).at("conv1").normal([2, 2], 1.0);
        assert_eq!(values(weights), [0.0; 4]);
    }
}
