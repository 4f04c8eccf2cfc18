//! Objectives compared with PyTorch: weights and views by formula on both sides, the first gradients, and
//! twenty steps.
//!
//! The formulas are in `scripts/parity/formula.py`; its `record` writes the fixtures.

use crate::wave::{number, wave};
use backbones::{BackboneConfig, Context, Draws, Init, RunPosition, parameters};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use training::{Batch, Normalize, Objective, OptimizerConfig, Rates, ViewGroupTensor};

/// A recording of a script in `scripts/parity/`.
pub(crate) struct Fixture(Value);

impl Fixture {
    pub(crate) fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// The objective's config in the script.
    pub(crate) fn objective<C: DeserializeOwned>(&self) -> C {
        serde_json::from_value(self.0["settings"]["objective"].clone()).unwrap()
    }

    pub(crate) fn backbone(&self) -> BackboneConfig {
        serde_json::from_value(self.0["settings"]["backbone"].clone()).unwrap()
    }

    pub(crate) fn setting<T: DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_value(self.0["settings"][name].clone()).unwrap()
    }
}

/// A parameter's path in the scripts' form.
pub(crate) fn plain(path: &str) -> String {
    let left_out = ["student", "teacher", "encoder", "ResNet", "Vit"];
    let parts: Vec<&str> = path.split('.').filter(|part| !left_out.contains(part)).collect();
    parts.join(".")
}

pub(crate) fn u(tensor: usize, count: usize) -> Vec<f32> {
    let values = wave(tensor, count).into_iter();
    values.map(|value| value as f32).collect()
}

/// The module with every trained parameter by formula.
pub(crate) fn by_formula<M: Module>(module: M) -> M {
    let paths = parameters(&module)
        .into_iter()
        .filter(|parameter| parameter.trained)
        .map(|parameter| (parameter.id, plain(&parameter.path)))
        .collect();
    module.map(&mut Fill { paths })
}

struct Fill {
    paths: std::collections::HashMap<burn::module::ParamId, String>,
}

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(path) = self.paths.get(&param.id) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let shape = old.dims();
        let mut values = u(number(path), shape.iter().product());
        if D > 1 {
            let scale = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            values.iter_mut().for_each(|value| *value *= scale);
        } else {
            let around = if path.ends_with("weight") || path.ends_with("gamma") {
                1.0
            } else {
                0.0
            };
            values.iter_mut().for_each(|value| *value = around + 0.1 * *value);
        }
        let tensor = Tensor::from_data(TensorData::new(values, shape), &old.device()).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// The views of a step, `[(count, px)]`.
pub(crate) fn views(step: usize, groups: &[(usize, usize)], images: usize) -> Batch {
    let normalize = Normalize {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    let mut first = 0;
    let mut made = vec![];
    for &(count, px) in groups {
        let mut pixels = vec![];
        for view in first..first + count {
            for image in 0..images {
                for channel in 0..3 {
                    for y in 0..px {
                        for x in (0..px).map(|x| x + 3 * view) {
                            let value = x * (image % 7 + 3)
                                + y * (image % 5 + 2)
                                + 40 * channel
                                + 17 * image
                                + 31 * view
                                + 13 * step;
                            pixels.push((value % 256) as u8);
                        }
                    }
                }
            }
        }
        let group = data::Views {
            pixels,
            count,
            images,
            channels: 3,
            height: px,
            width: px,
        };
        made.push(ViewGroupTensor {
            images: normalize.tensor(group, &Device::flex()),
            count,
        });
        first += count;
    }
    Batch {
        views: made,
        images,
        labels: None,
        targets: None,
    }
}

/// Gradients by plain path.
fn gradients<M: Module>(module: &M, grads: &GradientsParams) -> BTreeMap<String, Vec<f64>> {
    struct Collect<'a> {
        grads: &'a GradientsParams,
        paths: std::collections::HashMap<burn::module::ParamId, String>,
        found: BTreeMap<String, Vec<f64>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.grads.get::<D>(param.id) {
                let values = gradient.into_data().iter::<f64>().collect();
                self.found.insert(self.paths[&param.id].clone(), values);
            }
        }
    }
    let paths = parameters(module)
        .into_iter()
        .map(|parameter| (parameter.id, plain(&parameter.path)))
        .collect();
    let mut collect = Collect {
        grads,
        paths,
        found: BTreeMap::new(),
    };
    module.visit(&mut collect);
    collect.found
}

pub(crate) fn relative(ours: &[f64], reference: &[f64]) -> f64 {
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference: Vec<f64> = ours.iter().zip(reference).map(|(a, b)| a - b).collect();
    length(&difference) / length(reference).max(1e-300)
}

/// Compares a loss and its gradient with a case of a script's grid: 1e-5 for both, or three times PyTorch's
/// own float32 error if the case states a larger one; 32 values of the gradient.
pub(crate) fn check_loss(case: &Value, input: &Tensor<2>, loss: Tensor<1>) {
    let bound = |of: &str| (3.0 * case["torch_float32_error"][of].as_f64().unwrap_or(0.0)).max(1e-5);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let error = relative(&[value], &[case["loss"].as_f64().unwrap()]);
    assert!(error <= bound("loss"), "{case}: {value}, {error:e} off");
    let gradient = input.grad(&loss.backward()).unwrap().into_data();
    let gradient: Vec<f64> = gradient.iter::<f64>().collect();
    let stride = (gradient.len() / 32).max(1);
    let sampled: Vec<f64> = gradient.into_iter().step_by(stride).take(32).collect();
    let expected: Vec<f64> = serde_json::from_value(case["gradient"].clone()).unwrap();
    let error = relative(&sampled, &expected);
    assert!(error <= bound("gradient"), "{case}: gradient {error:e} off");
}

/// Trains according to the fixture and compares every loss, and the first step's gradients.
///
/// `prepare` receives the student by formula and a fresh state, and turns the state into the script's initial
/// one: at least a teacher that is a copy of the student.
pub(crate) fn follow<O: Objective>(
    objective: &O,
    fixture: &Fixture,
    prepare: impl FnOnce(&O::Student, O::State) -> O::State,
) -> (O::Student, O::State) {
    let device = Device::flex();
    let (student, state) = objective.init(&Init::new(0, &device.autodiff()));
    let student = by_formula(student);
    let state = prepare(&student, state);
    follow_from(objective, fixture, student, state)
}

/// [`follow`] from any student and state.
pub(crate) fn follow_from<O: Objective>(
    objective: &O,
    fixture: &Fixture,
    mut student: O::Student,
    mut state: O::State,
) -> (O::Student, O::State) {
    let learning_rate: f64 = fixture.setting("learning_rate");
    let weight_decay: f64 = fixture.setting("weight_decay");
    let mut optimizer = OptimizerConfig::Sgd {
        learning_rate_per_256: learning_rate,
        momentum: fixture.setting("momentum"),
        weight_decay,
        nesterov: false,
    }
    .init();
    let rates = Rates::constant(learning_rate, weight_decay);
    let groups: Vec<(usize, usize)> = fixture.setting("views");
    let (images, steps): (usize, usize) = (fixture.setting("images"), fixture.setting("steps"));
    let steps_per_epoch: usize = fixture.setting("steps_per_epoch");
    // If float32 cannot reach the bound: three times PyTorch's own float32 error.
    let tolerance = (3.0 * fixture.0["torch_float32_error"].as_f64().unwrap()).max(1e-4);
    let range = fixture.0["settings"]["loss_range"].as_f64().unwrap_or(0.0);
    for step in 0..steps {
        let progress = RunPosition::at(step, steps_per_epoch, steps);
        let context = Context {
            batch_norm_images: fixture.setting("batch_norm_images"),
            ..Context::training(progress, Draws::new(7, step as u64))
        };
        let batch = views(step, &groups, images);
        let (loss, pending) = objective.loss(&student, &state, &batch, &context);
        let value = f64::from(loss.total.clone().into_scalar::<f32>());
        let expected = fixture.0["losses"][step].as_f64().unwrap();
        // A loss that crosses 0, like a negative cosine, is measured against its range.
        let size = expected.abs().max(range);
        assert!(
            (value - expected).abs() <= if step == 0 { 1e-5 } else { tolerance } * size,
            "step {step}: loss {value}, PyTorch {expected}, tolerance {tolerance:e}"
        );
        let mut grads = GradientsParams::from_grads(loss.total.backward(), &student);
        if step == 0 {
            compare_gradients(fixture, &gradients(&student, &grads));
        }
        training::drop_gradients(&mut grads, &student, &objective.frozen(&progress));
        student = optimizer.step(&rates, student, grads);
        (student, state) = objective.commit(student, state, vec![pending], &context);
    }
    (student, state)
}

fn compare_gradients(fixture: &Fixture, ours: &BTreeMap<String, Vec<f64>>) {
    let expected = fixture.0["gradients"].as_object().unwrap();
    let names: Vec<&String> = ours.keys().collect();
    assert_eq!(
        names,
        expected.keys().collect::<Vec<_>>(),
        "parameters with gradients"
    );
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let largest = ours.values().map(|values| length(values)).fold(0.0, f64::max);
    let mut compared = vec![];
    for (path, values) in expected {
        let values: Vec<f64> = serde_json::from_value(values.clone()).unwrap();
        let all = &ours[path];
        let stride = (all.len() / 16).max(1);
        let sampled: Vec<f64> = all.iter().step_by(stride).take(16).copied().collect();
        assert_eq!(sampled.len(), values.len(), "{path}");
        let single = fixture.0["torch_float32_gradient_errors"][path].as_f64().unwrap();
        let error = relative(&sampled, &values);
        // Some gradients are pure rounding: a bias before a norm has no gradient.
        if error * length(&values) > 1e-7 * largest {
            compared.push((path, error, single));
        }
    }
    // Sixteen values of one parameter are a poor sample of float32's error; the worst parameter's error is
    // the bound for all.
    let bound = compared
        .iter()
        .map(|(_, _, single)| 3.0 * single)
        .fold(1e-5, f64::max);
    assert!(bound < 1e-3, "float32 cannot tell these gradients: {bound:e}");
    for (path, error, single) in compared {
        assert!(
            error <= bound,
            "{path}: gradient {error:e} off, PyTorch's float32 {single:e}, bound {bound:e}"
        );
    }
}
