//! The tensors of a file as a network's layers take them, each batch norm folded into its convolution: nothing
//! here is trained.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use backbones::Init;
use backbones::init::trained;
use backbones::layers::{Conv2d, Conv2dConfig, DepthwiseConv2d};
use burn::tensor::{Device, Tensor, TensorData};
use weights::format::{Entry, TensorInfo};
use weights::{Checkpoint, Mismatch};

use crate::error::DetectionError;

/// The tensors of a file that no layer has taken yet.
pub(crate) struct Tensors<'a, R> {
    device: &'a Device,
    /// Epsilon of batch norms.
    epsilon: f64,
    left: BTreeMap<String, &'a TensorInfo>,
    mismatch: Mismatch,
    /// Names of tensors that no network can have.
    unsound: Vec<String>,
    source: &'a mut R,
}

/// Whether a tensor holds what a trained network may: numbers, and variances from 0.
pub(crate) fn is_sound(name: &str, mut values: impl Iterator<Item = f64>) -> bool {
    let is_variance = name.ends_with("running_var");
    values.all(|value| value.is_finite() && (value >= 0.0 || !is_variance))
}

/// The error of a network with unsound tensors, if there are any.
pub(crate) fn sound(network: &'static str, unsound: &[String]) -> Result<(), DetectionError> {
    const SHOWN: usize = 3;
    if unsound.is_empty() {
        return Ok(());
    }
    let names = unsound.iter().take(SHOWN).map(|name| format!("`{name}`"));
    let mut tensors = names.collect::<Vec<_>>().join(", ");
    if unsound.len() > SHOWN {
        tensors += &format!(" and {} more", unsound.len() - SHOWN);
    }
    Err(DetectionError::NotFinite { network, tensors })
}

/// Where a file has a convolution and the norm behind it.
pub(crate) struct Folded {
    /// The convolution, whose tensors are `conv.weight` and, without a norm, `conv.bias`.
    pub(crate) conv: String,
    /// The norm.
    pub(crate) norm: Option<String>,
}

impl<'a, R: Read + Seek> Tensors<'a, R> {
    /// The tensors below the first of `roots` that is a dictionary, or below the file's root, without
    /// `DistributedDataParallel`'s prefix and without counts of batches.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        roots: &[&str],
        epsilon: f64,
        source: &'a mut R,
        device: &'a Device,
    ) -> Self {
        let mut entries = roots.iter().filter_map(|root| checkpoint.root.at(root));
        let root = entries.find(|entry| matches!(entry, Entry::Dict(_)));
        let mut left = BTreeMap::new();
        for (name, tensor) in root.unwrap_or(&checkpoint.root).tensors() {
            let name = name.strip_prefix("module.").unwrap_or(&name);
            if !name.ends_with(".num_batches_tracked") {
                left.insert(name.to_owned(), tensor);
            }
        }
        Self {
            device,
            epsilon,
            left,
            mismatch: Mismatch::default(),
            unsound: vec![],
            source,
        }
    }

    /// The shape of a tensor that no layer has taken yet.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.left.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Whether a tensor that no layer has taken yet has this start of its name.
    pub(crate) fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.left.keys().any(|name| matches(name))
    }

    /// Checks that the network took all, and nothing was missing.
    ///
    /// # Errors
    /// [`DetectionError::Mismatch`] with the differences from `network`, [`DetectionError::NotFinite`].
    pub(crate) fn finish(self, network: &'static str) -> Result<(), DetectionError> {
        let mut mismatch = self.mismatch;
        mismatch.unexpected = self.left.into_keys().map(|name| (name, None)).collect();
        if mismatch.is_empty() {
            return sound(network, &self.unsound);
        }
        Err(DetectionError::Mismatch {
            network,
            difference: Box::new(mismatch),
        })
    }

    /// A tensor's values; zeros, and an entry in the mismatch, if it does not fit.
    pub(crate) fn take(&mut self, name: String, shape: &[usize]) -> Result<Vec<f64>, DetectionError> {
        let zeros = vec![0.0; shape.iter().product()];
        let Some(tensor) = self.left.remove(&name) else {
            self.mismatch.missing.push(name);
            return Ok(zeros);
        };
        if tensor.shape != shape {
            let shapes = (name, shape.to_vec(), tensor.shape.clone());
            self.mismatch.shapes.push(shapes);
            return Ok(zeros);
        }
        if !tensor.dtype.is_weight() {
            let found = (name, tensor.dtype.name().to_owned());
            self.mismatch.types.push(found);
            return Ok(zeros);
        }
        let values: Vec<f64> = tensor.read(self.source)?.iter::<f64>().collect();
        if !is_sound(&name, values.iter().copied()) {
            self.unsound.push(name);
        }
        Ok(values)
    }

    /// A convolution's weight, as `[outputs][…]`, and its bias, with the following norm folded in: the norm's
    /// scale over its deviation multiplies the weight.
    fn folded(&mut self, names: &Folded, shape: [usize; 4]) -> Result<(Vec<f64>, Vec<f64>), DetectionError> {
        let outputs = [shape[0]];
        let mut weight = self.take(format!("{}.weight", names.conv), &shape)?;
        let Some(norm) = &names.norm else {
            return Ok((weight, self.take(format!("{}.bias", names.conv), &outputs)?));
        };
        let scale = self.take(format!("{norm}.weight"), &outputs)?;
        let mut bias = self.take(format!("{norm}.bias"), &outputs)?;
        let mean = self.take(format!("{norm}.running_mean"), &outputs)?;
        let variance = self.take(format!("{norm}.running_var"), &outputs)?;
        let taps = shape[1..].iter().product::<usize>();
        for (output, weights) in weight.chunks_exact_mut(taps).enumerate() {
            let factor = scale[output] / (variance[output] + self.epsilon).sqrt();
            bias[output] -= mean[output] * factor;
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
        Ok((weight, bias))
    }

    /// A convolution with the weight `[outputs, inputs, kernel, kernel]`.
    pub(crate) fn convolution(
        &mut self,
        names: &Folded,
        shape: [usize; 4],
        stride: usize,
    ) -> Result<Conv2d, DetectionError> {
        let (weight, bias) = self.folded(names, shape)?;
        Ok(convolution(
            shape,
            stride,
            narrow(weight),
            narrow(bias),
            self.device,
        ))
    }

    /// A depthwise convolution with the weight `[channels, 1, kernel, kernel]`.
    pub(crate) fn depthwise(
        &mut self,
        names: &Folded,
        channels: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<DepthwiseConv2d, DetectionError> {
        let (weight, bias) = self.folded(names, [channels, 1, kernel, kernel])?;
        let layer = depthwise(
            [channels, kernel, stride],
            narrow(weight),
            narrow(bias),
            self.device,
        );
        Ok(layer)
    }
}

/// The layer of these values, with a border of half a kernel.
pub(crate) fn convolution(
    shape: [usize; 4],
    stride: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    device: &Device,
) -> Conv2d {
    let [outputs, inputs, kernel, _] = shape;
    let config = Conv2dConfig {
        bias: true,
        ..Conv2dConfig::same(inputs, outputs, kernel, stride)
    };
    let mut layer = config.init(&Init::empty(device));
    layer.weight = trained(tensor(weight, shape, device));
    layer.bias = Some(trained(tensor(bias, [outputs], device)));
    layer
}

/// The layer of these values, with a border of half a kernel.
pub(crate) fn depthwise(
    [channels, kernel, stride]: [usize; 3],
    weight: Vec<f32>,
    bias: Vec<f32>,
    device: &Device,
) -> DepthwiseConv2d {
    let mut layer = DepthwiseConv2d::same(&Init::empty(device), channels, kernel, stride, true);
    layer.weight = trained(tensor(weight, [channels, 1, kernel, kernel], device));
    layer.bias = Some(trained(tensor(bias, [channels], device)));
    layer
}

/// Values as the layers keep them.
pub(crate) fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_finite_and_variances_not_below_zero() {
        assert!(is_sound("conv.weight", [0.5, -1.0].into_iter()));
        assert!(is_sound("bn.running_var", [0.0, 1.0].into_iter()));
        assert!(!is_sound("bn.running_var", [1.0, -1.0].into_iter()));
        assert!(!is_sound("conv.weight", [f64::NAN].into_iter()));
        assert!(!is_sound("conv.bias", [f64::INFINITY].into_iter()));
        assert!(sound("YOLOX", &[]).is_ok());
        let names: Vec<String> = (0..5).map(|index| format!("a.{index}")).collect();
        assert_eq!(
            sound("YOLOX", &names).unwrap_err().to_string(),
            "the weights of YOLOX must be finite, and variances not below 0; they are not in `a.0`, `a.1`, `a.2` and 2 more"
        );
    }
}
