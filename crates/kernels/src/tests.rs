//! Tests of the operations as their callers see them: values and gradients beside Burn's own.

use super::*;
use burn::tensor::TensorData;

fn tensor<const D: usize>(shape: [usize; D], seed: f64, device: &Device) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|i| ((12.9898 * i as f64 + seed).sin() * 43758.5453).fract() as f32);
    Tensor::from_data(TensorData::new(values.collect::<Vec<_>>(), shape), device)
}

fn error<const D: usize>(ours: Tensor<D>, reference: Tensor<D>) -> f32 {
    let norm = |t: Tensor<D>| t.powi_scalar(2).sum().sqrt().into_scalar::<f32>();
    norm(ours.inner() - reference.clone().inner()) / norm(reference.inner())
}

#[test]
fn convolution_is_differentiated_as_burns() {
    let device = Device::flex().autodiff();
    let x = tensor([5, 6, 9, 7], 1.0, &device).require_grad();
    let weight = tensor([4, 6, 3, 3], 2.0, &device).require_grad();
    let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
    let (ours, burns) = (
        conv2d(x.clone(), weight.clone(), 2, 1),
        burn::tensor::module::conv2d(x.clone(), weight.clone(), None, options),
    );
    assert!(error(ours.clone(), burns.clone()) < 1e-6);
    let factor = tensor(ours.dims(), 3.0, &device);
    let (ours, burns) = (
        (ours * factor.clone()).sum().backward(),
        (burns * factor).sum().backward(),
    );
    let both = |t: &Tensor<4>| (t.grad(&ours).unwrap(), t.grad(&burns).unwrap());
    for (ours, burns) in [both(&x), both(&weight)] {
        assert!(error(ours, burns) < 1e-6);
    }
}

#[test]
fn constants_are_mixed_with_trained_tensors() {
    let (plain, device) = (Device::flex(), Device::flex().autodiff());
    let x = tensor([2, 3, 6, 6], 1.0, &plain);
    let weight = tensor([4, 3, 3, 3], 2.0, &device).require_grad();
    let output = conv2d(x.clone(), weight.clone(), 1, 1);
    let gradients = output.sum().backward();
    assert!(weight.grad(&gradients).is_some());
    // A teacher: no graph is recorded.
    let teacher = conv2d(x.autodiff(), weight.inner(), 1, 1);
    assert!(!teacher.is_tracked());
}

/// Native functions, forward and backward, compared with the composition, which f64 uses.
#[test]
fn functions_of_each_number_are_exact_forward_and_backward() {
    for function in [gelu::<2>, silu::<2>] {
        let device = Device::flex().autodiff();
        let x = (tensor([40, 50], 1.0, &device) * 6.0).require_grad_leaf();
        let wide = x.clone().cast(DType::F64).require_grad_leaf();
        // A transposed view, which needs reordering.
        let (ours, composed) = (
            function(x.clone().transpose()),
            function(wide.clone().transpose()),
        );
        let kept = x.clone().inner().into_data();
        assert!(error(composed.clone().cast(DType::F32), ours.clone()) < 2e-7);
        let factor = tensor([50, 40], 2.0, &device);
        let wide_factor = factor.clone().cast(DType::F64);
        let gradient = x.grad(&(ours * factor).sum().backward()).unwrap();
        let wide = wide.grad(&(composed * wide_factor).sum().backward()).unwrap();
        assert!(error(wide.cast(DType::F32).autodiff(), gradient.autodiff()) < 2e-7);
        // The input was not overwritten.
        x.inner().into_data().assert_eq(&kept, true);
        let plain = tensor([1, 7], 3.0, &Device::flex());
        let kept = plain.clone();
        let once = function(plain);
        assert!(error(function(kept).autodiff(), once.autodiff()) < 1e-7);
    }
}

#[test]
fn softmax_is_differentiated_as_burns() {
    let device = Device::flex().autodiff();
    let x = (tensor([3, 40, 50], 1.0, &device) * 6.0).require_grad_leaf();
    let kept = x.clone().inner().into_data();
    let (ours, burns) = (
        softmax(x.clone().swap_dims(1, 2)),
        burn::tensor::activation::softmax(x.clone().swap_dims(1, 2), 2),
    );
    assert!(error(ours.clone(), burns.clone()) < 1e-6);
    // The output is used once more, like the state of the backward pass.
    let factor = tensor([3, 50, 40], 2.0, &device);
    let both = |y: Tensor<3>| (y.clone() * factor.clone() + y.powi_scalar(2)).sum().backward();
    let (ours, burns) = (x.grad(&both(ours)).unwrap(), x.grad(&both(burns)).unwrap());
    assert!(error(ours.autodiff(), burns.autodiff()) < 1e-6);
    x.inner().into_data().assert_eq(&kept, true);
}

/// Burn's composition, image group by image group.
#[test]
fn batch_norm_is_burns_for_every_group() {
    let device = Device::flex().autodiff();
    for (shape, groups, with_relu) in [
        ([6, 3, 5, 4], 1, false),
        ([6, 3, 5, 5], 3, true),
        ([8, 20, 2, 2], 2, true),
    ] {
        let then = || {
            if with_relu {
                Epilogue::Relu
            } else {
                Epilogue::Nothing
            }
        };
        let x = (tensor(shape, 1.0, &device) * 3.0 + 2.0).require_grad_leaf();
        let weight = (tensor([shape[1]], 2.0, &device) + 1.0).require_grad_leaf();
        let bias = tensor([shape[1]], 3.0, &device).require_grad();
        let ours = batch_norm(x.clone(), weight.clone(), bias.clone(), groups, 1e-5, then());
        let parts = x.clone().chunk(groups, 0).into_iter();
        let parts = parts.map(|part| batch_norm_train(part, weight.clone(), bias.clone(), 1e-5));
        let parts = parts.collect::<Vec<_>>();
        let mean_of = |pick: fn(&burn::tensor::module::BatchNormTrainOutput<4>) -> Tensor<1>| {
            Tensor::stack::<2>(parts.iter().map(pick).collect(), 0)
                .mean_dim(0)
                .reshape([shape[1]])
        };
        assert!(error(ours.mean, mean_of(|p| p.mean.clone())) < 1e-6);
        assert!(error(ours.variance, mean_of(|p| p.variance.clone())) < 1e-6);
        let burns = Tensor::cat(parts.into_iter().map(|p| p.output).collect(), 0);
        let burns = if with_relu { relu(burns) } else { burns };
        assert!(error(ours.output.clone(), burns.clone()) < 1e-6);

        let factor = tensor(shape, 4.0, &device);
        let ours = (ours.output * factor.clone()).sum().backward();
        let burns = (burns * factor).sum().backward();
        assert!(error(x.grad(&ours).unwrap(), x.grad(&burns).unwrap()) < 1e-5);
        assert!(error(weight.grad(&ours).unwrap(), weight.grad(&burns).unwrap()) < 1e-5);
        assert!(error(bias.grad(&ours).unwrap(), bias.grad(&burns).unwrap()) < 1e-5);
    }
}

/// Compared with the composition in f64, with a shortcut that is the input itself too, and one in another
/// layout.
#[test]
fn a_residual_block_ends_as_its_composition() {
    let device = Device::flex().autodiff();
    for (shape, groups) in [
        ([4, 3, 7, 5], 1),
        ([1, 5, 3, 3], 1),
        ([6, 20, 2, 2], 3),
        ([4, 2, 1, 4], 2),
        ([8, 4, 1, 1], 2),
    ] {
        let x = (tensor(shape, 1.0, &device) * 3.0 + 2.0).require_grad_leaf();
        let shortcut =
            (tensor([shape[0], shape[2], shape[3], shape[1]], 5.0, &device) - 0.5).require_grad_leaf();
        let weight = (tensor([shape[1]], 2.0, &device) + 1.0).require_grad_leaf();
        let bias = tensor([shape[1]], 3.0, &device).require_grad();
        let factor = tensor(shape, 4.0, &device);
        let run = |wide: bool| {
            let cast = |t: Tensor<4>| if wide { t.cast(DType::F64) } else { t };
            let cast_1 = |t: Tensor<1>| if wide { t.cast(DType::F64) } else { t };
            let (x, added) = (cast(x.clone()), cast(shortcut.clone().permute([0, 3, 1, 2])));
            let end = |x: Tensor<4>, added| {
                let (weight, bias) = (cast_1(weight.clone()), cast_1(bias.clone()));
                batch_norm(x, weight, bias, groups, 1e-5, Epilogue::AddRelu(added)).output
            };
            let once = end(x.clone(), added);
            let output = end(once.clone(), once);
            let loss = (output.clone() * cast(factor.clone())).sum();
            (output.cast(DType::F32), loss.backward())
        };
        let ((ours, of_ours), (composed, of_composed)) = (run(false), run(true));
        assert!(error(ours, composed) < 1e-5, "{shape:?}");
        let both = |t: &Tensor<4>| (t.grad(&of_ours).unwrap(), t.grad(&of_composed).unwrap());
        for (ours, composed) in [both(&x), both(&shortcut)] {
            assert!(error(ours.autodiff(), composed.autodiff()) < 2e-5, "{shape:?}");
        }
        let both = |t: &Tensor<1>| (t.grad(&of_ours).unwrap(), t.grad(&of_composed).unwrap());
        for (ours, composed) in [both(&weight), both(&bias)] {
            assert!(error(ours.autodiff(), composed.autodiff()) < 2e-5, "{shape:?}");
        }
    }
}

trait Leaf {
    fn require_grad_leaf(self) -> Self;
}

impl<const D: usize> Leaf for Tensor<D> {
    fn require_grad_leaf(self) -> Self {
        self.detach().require_grad()
    }
}

/// A value far from zero must not cost the variance its precision.
#[test]
fn statistics_survive_a_large_mean() {
    let x = tensor([4, 2, 16, 16], 1.0, &Device::flex());
    let (zero, one) = (
        Tensor::zeros([2], &Device::flex()),
        Tensor::ones([2], &Device::flex()),
    );
    let near = batch_norm(x.clone(), one.clone(), zero.clone(), 1, 1e-5, Epilogue::Nothing).variance;
    let far = batch_norm(x + 100.0, one, zero, 1, 1e-5, Epilogue::Nothing).variance;
    assert!(error(far, near) < 1e-4);
}
