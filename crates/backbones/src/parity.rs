//! Parity with torchvision and PyTorch in float64, from fixtures that `scripts/parity/resnet.py` made. Weights and
//! images come from the same formula on both sides.

#[path = "../../../scripts/parity/gradients.rs"]
mod gradients;
mod vit;

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use crate::context::{Context, RunPosition};
use crate::draws::Draws;
use crate::init::Init;
use crate::layers::{BatchNorm, RunningStatistic};
use crate::wave::wave;
use crate::{Backbone, BackboneConfig, ResNetConfig, Stem, replace_state, state_dict};

fn tensor<const D: usize>(values: Vec<f64>, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The script's `fill`.
fn filled(backbone: Backbone) -> Backbone {
    let mut state = state_dict(&backbone);
    for (number, (name, data)) in state.iter_mut().enumerate() {
        let shape = data.shape().to_vec();
        let mut values = wave(number, data.num_elements());
        if shape.len() > 1 {
            let scale = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
            values.iter_mut().for_each(|v| *v *= scale);
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            values.iter_mut().for_each(|v| *v = 1.0 + 0.5 * *v);
        } else {
            values.iter_mut().for_each(|v| *v *= 0.2);
        }
        let values = values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        *data = TensorData::new(values, shape);
    }
    replace_state(backbone, state)
}

fn resnet(depth: u32, width: usize, stem: Stem, device: &Device) -> Backbone {
    let config = BackboneConfig::Resnet(ResNetConfig {
        depth,
        width,
        stem,
        zero_init_residual: false,
        stride_in_1x1: false,
    });
    filled(config.init(&Init::empty(device)))
}

fn training() -> Context {
    let progress = RunPosition::at(0, 1, 1);
    Context::training(progress, Draws::new(0, 0))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// ‖ours − reference‖ / ‖reference‖.
fn relative_error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let difference = ours
        .iter()
        .zip(reference)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>();
    (difference / reference.iter().map(|v| v * v).sum::<f64>()).sqrt()
}

/// All tensors of a safetensors file by name.
pub(crate) fn tensors_of(bytes: &[u8]) -> BTreeMap<String, TensorData> {
    let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => panic!("{name}: {other:?}"),
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        (name, data)
    };
    SafeTensors::deserialize(bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(read)
        .collect()
}

struct Fixture(BTreeMap<String, TensorData>);

impl Fixture {
    fn read(bytes: &[u8]) -> Self {
        Self(tensors_of(bytes))
    }

    fn get(&self, name: &str) -> Vec<f64> {
        self.0[name].iter::<f64>().collect()
    }

    /// The error of a tensor stored whole.
    fn error(&self, name: &str, ours: &[f64]) -> f64 {
        relative_error(ours, &self.get(name))
    }

    /// The error of a tensor with evenly spread stored elements, and its norm.
    fn sampled_error(&self, name: &str, ours: &[f64]) -> f64 {
        let reference = self.get(name);
        let picked = (0..reference.len()).map(|i| ours[i * ours.len() / reference.len()]);
        let norm = ours.iter().map(|v| v * v).sum::<f64>().sqrt();
        let norm_error = relative_error(&[norm], &self.get(&format!("norm.{name}")));
        relative_error(&picked.collect::<Vec<_>>(), &reference).max(norm_error)
    }
}

/// Both modes, statistics and, if the fixture has them, gradients; the bound is 1e-4 for each tensor.
fn check(name: &str, fixture: &[u8], side: usize, make: impl Fn(&Device) -> Backbone) {
    const BOUND: f64 = 1e-4;
    let fixture = Fixture::read(fixture);
    let device = Device::flex().autodiff();
    let backbone = make(&device);
    let images = || {
        tensor(
            wave(1000, 4 * 3 * side * side),
            [4, 3, side, side],
            &Device::flex(),
        )
    };

    let before = state_dict(&backbone);
    let evaluated = backbone.forward(images(), &Context::evaluation());
    assert_eq!(before, state_dict(&backbone), "evaluation changed the network");
    let error = fixture.error("evaluation", &values(evaluated));
    eprintln!("{name}: evaluation {error:.1e}");
    assert!(error <= BOUND, "evaluation: {error:e}");

    let features = backbone.forward(images(), &training());
    let shape = features.dims();
    let loss = (features.clone() * tensor(wave(2000, shape[0] * shape[1]), shape, &device)).sum();
    let error = fixture.error("training", &values(features.inner()));
    eprintln!("{name}: training {error:.1e}");
    assert!(error <= BOUND, "training: {error:e}");

    let mut worst = (0.0, String::new());
    for (name, data) in state_dict(&backbone) {
        if name.contains("running_") {
            let error = fixture.sampled_error(&name, &data.iter::<f64>().collect::<Vec<_>>());
            worst = worst.max_by((error, name));
        }
    }
    eprintln!(
        "{name}: running statistics at worst {:.1e} ({})",
        worst.0, worst.1
    );
    assert!(worst.0 <= BOUND, "{}: {:e}", worst.1, worst.0);

    if !fixture.0.contains_key("float32_errors") {
        return;
    }
    let float32 = fixture.get("float32_errors");
    let gradients = gradients_of(&backbone, &loss.backward());
    assert_eq!(gradients.len(), float32.len());
    let mut worst = (0.0, String::new());
    for ((name, ours), float32) in gradients.iter().zip(float32) {
        let error = fixture.sampled_error(&format!("gradient.{name}"), ours);
        assert!(error <= BOUND.max(3.0 * float32), "gradient of {name}: {error:e}");
        worst = worst.max_by((error, name.clone()));
    }
    eprintln!("{name}: gradients at worst {:.1e} ({})", worst.0, worst.1);
}

trait MaxBy {
    fn max_by(self, other: Self) -> Self;
}

impl MaxBy for (f64, String) {
    fn max_by(self, other: Self) -> Self {
        if other.0 > self.0 { other } else { self }
    }
}

/// Gradients by torchvision's names, in their order.
fn gradients_of(backbone: &Backbone, gradients: &burn::tensor::Gradients) -> BTreeMap<String, Vec<f64>> {
    match backbone {
        Backbone::ResNet(network) => gradients::gradients_of(network, gradients),
        Backbone::Vit(network) => gradients::gradients_of(network, gradients),
    }
}

#[test]
fn resnet18_is_torchvisions() {
    let fixture = include_bytes!("../fixtures/resnet18.safetensors");
    check("resnet18", fixture, 64, |device| {
        resnet(18, 64, Stem::Imagenet, device)
    });
}

#[test]
fn resnet50_is_torchvisions() {
    let fixture = include_bytes!("../fixtures/resnet50.safetensors");
    check("resnet50", fixture, 64, |device| {
        resnet(50, 64, Stem::Imagenet, device)
    });
}

/// torchvision's bottlenecks with the stride moved to the first convolution.
#[test]
fn resnet50_with_strides_in_1x1_is_torchvisions_rebuilt() {
    let fixture = include_bytes!("../fixtures/resnet50_w8_caffe.safetensors");
    check("resnet50-w8-caffe", fixture, 64, |device| {
        let config = BackboneConfig::Resnet(ResNetConfig {
            depth: 50,
            width: 8,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: true,
        });
        filled(config.init(&Init::empty(device)))
    });
}

#[test]
fn narrow_resnet18_with_the_small_stem_is_torchvisions_rebuilt() {
    let fixture = include_bytes!("../fixtures/resnet18_w16_small.safetensors");
    check("resnet18-w16-small", fixture, 32, |device| {
        resnet(18, 16, Stem::Small, device)
    });
}

#[test]
fn groups_normalise_as_layers_of_their_own() {
    let fixture = Fixture::read(include_bytes!("../fixtures/batch_norm_groups.safetensors"));
    let device = Device::flex().autodiff();
    let spread = |number, scale: f64, offset: f64| {
        wave(number, 6)
            .into_iter()
            .map(|v| offset + scale * v)
            .collect::<Vec<_>>()
    };
    let mut norm = BatchNorm::new(&Init::new(0, &device), 6);
    norm.weight = Some(Param::from_tensor(tensor(spread(2, 0.5, 1.0), [6], &device)));
    norm.bias = Some(Param::from_tensor(tensor(spread(3, 0.2, 0.0), [6], &device)));
    let x = wave(1, 8 * 6 * 5 * 3)
        .into_iter()
        .map(|v| 2.0 * v + 0.5)
        .collect();
    let x = tensor(x, [8, 6, 5, 3], &device).require_grad();
    let context = Context {
        batch_norm_images: Some(2),
        ..training()
    };

    let output = norm.forward(x.clone(), &context);
    let loss = (output.clone() * tensor(wave(4, 8 * 6 * 5 * 3), [8, 6, 5, 3], &device)).sum();
    let gradients = loss.backward();
    let ours = [
        ("output", values(output.inner())),
        ("gradient.x", values(x.grad(&gradients).unwrap())),
        (
            "gradient.weight",
            values(norm.weight.unwrap().val().grad(&gradients).unwrap()),
        ),
        (
            "gradient.bias",
            values(norm.bias.unwrap().val().grad(&gradients).unwrap()),
        ),
        ("running_mean", values(norm.running_mean.value())),
        ("running_var", values(norm.running_var.value())),
    ];
    for (name, ours) in ours {
        let error = fixture.error(name, &ours);
        assert!(error < 2e-6, "{name}: {error:e}");
    }
}

/// By hand: 1, 2, 4, 9 have mean 4, biased variance 9.5 and unbiased variance 38/3.
#[test]
fn running_statistics_are_pytorchs_and_never_lag() {
    let device = Device::flex().autodiff();
    let norm = BatchNorm::new(&Init::new(0, &device), 1);
    let x = Tensor::<2>::from_data([[1.0], [2.0], [4.0], [9.0]], &device);
    let output = values(norm.forward(x, &training()).inner());
    let wanted = [1.0, 2.0, 4.0, 9.0].map(|v: f64| (v - 4.0) / (9.5f64 + 1e-5).sqrt());
    assert!(relative_error(&output, &wanted) < 1e-6);
    let (mean, var) = (
        values(norm.running_mean.value()),
        values(norm.running_var.value()),
    );
    assert!((mean[0] - 0.4).abs() < 1e-7, "{mean:?}");
    assert!((var[0] - (0.9 + 0.1 * 38.0 / 3.0)).abs() < 1e-6, "{var:?}");
}

#[test]
fn a_clone_has_statistics_of_its_own() {
    let device = Device::flex();
    let norm = BatchNorm::new(&Init::new(0, &device), 1);
    let copy = norm.clone();
    norm.forward(Tensor::<2>::from_data([[1.0], [2.0]], &device), &training());
    assert_eq!(values(copy.running_mean.value()), [0.0]);
    let set = RunningStatistic::new(Tensor::zeros([1], &device));
    set.set(Tensor::ones([1], &device.autodiff()));
    assert!(!set.value().is_autodiff());
}
