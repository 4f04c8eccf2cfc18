//! Losses of two views compared with PyTorch, value and gradient, over a grid of shapes and parameters.
//!
//! Inputs are made by the formula at the top of `scripts/parity/siamese.py` on both sides.

use crate::formula::relative;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

/// One loss at one shape with one set of parameters.
pub(crate) struct Case(Value);

impl Case {
    /// A parameter of the loss in the script.
    pub(crate) fn parameter(&self, name: &str) -> f64 {
        self.0["parameters"][name].as_f64().unwrap()
    }

    fn size(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap() as usize
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        serde_json::from_value(self.0[name].clone()).unwrap()
    }

    /// Both views of every image, `[2 images, width]`: the second resembles the first.
    fn inputs(&self) -> Vec<f32> {
        let (images, width) = (self.size("images"), self.size("width"));
        let noise = |index: usize, phase: f64| {
            let value = 43758.5453 * (12.9898 * (index as f64 + 1.0) + phase).sin();
            2.0 * (value - value.floor()) - 1.0
        };
        let scale = self.0["scale"].as_f64().unwrap();
        let of_column = |index: usize| scale * (0.25 + 1.5 * (index % width) as f64 / width as f64);
        let first = (0..images * width).map(|i| of_column(i) * noise(i, 0.0) + 0.5 * scale);
        let second = (0..images * width)
            .map(|i| of_column(i) * (0.6 * noise(i, 0.0) + 0.8 * noise(i, 1.0)) - 0.25 * scale);
        first.chain(second).map(|value| value as f32).collect()
    }
}

/// Compares `loss` of both views, `[2 images, width]`, with the cases of that name.
pub(crate) fn check(name: &str, loss: impl Fn(&Case, Tensor<2>) -> Tensor<1>) {
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/siamese_losses.json")).unwrap();
    let tolerance = fixture["tolerance"].as_f64().unwrap();
    let device = Device::flex().autodiff();
    let mut compared = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let case = Case(case.clone());
        if case.0["loss"] != name {
            continue;
        }
        let shape = [2 * case.size("images"), case.size("width")];
        let inputs = Tensor::<2>::from_data(TensorData::new(case.inputs(), shape), &device).require_grad();
        let loss = loss(&case, inputs.clone());
        let what = format!("{name} at {shape:?} with {}", case.0["parameters"]);
        // If float32 cannot reach the bound: three times PyTorch's own float32 error.
        let bound = |of: &str| (3.0 * case.0["torch_float32_error"][of].as_f64().unwrap()).max(tolerance);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let expected = case.0["value"].as_f64().unwrap();
        let error = (value - expected).abs() / expected.abs();
        assert!(
            error <= bound("value"),
            "{what}: {value}, PyTorch {expected}, {error:e} off"
        );
        let gradient = inputs.grad(&loss.backward()).unwrap().into_data();
        let sampled: Vec<f64> = gradient.iter::<f64>().step_by(case.size("stride")).collect();
        let expected = case.numbers("gradient");
        assert_eq!(sampled.len(), expected.len(), "{what}");
        let error = relative(&sampled, &expected);
        assert!(error <= bound("gradient"), "{what}: gradient {error:e} off");
        compared += 1;
    }
    assert!(compared >= 8, "{compared} cases of {name}");
}
