//! Optimizers, set up so that their numbers are PyTorch's.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The optimizer of a run. TOML: one table, e.g. `[optimizer.sgd]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// `torch.optim.SGD`: `g += weight_decay w; v = momentum v + g; w -= lr v` (no dampening).
    Sgd {
        /// Peak learning rate for 256 images a step; the rate used is this times `batch_images / 256`. MoCo: 0.03.
        learning_rate_per_256: f64,
        /// SGD's momentum, 0 to below 1. MoCo: 0.9.
        momentum: f64,
        /// L2 penalty on all parameters, biases and norms included, as the methods' reference has it. MoCo: 1e-4.
        weight_decay: f64,
        /// Nesterov's momentum. MoCo: false.
        nesterov: bool,
    },
}

impl OptimizerConfig {
    /// Refuses numbers with which training makes no sense.
    pub fn validate(&self) -> Result<(), String> {
        let Self::Sgd {
            learning_rate_per_256,
            momentum,
            weight_decay,
            nesterov,
        } = self;
        if !(learning_rate_per_256.is_finite() && *learning_rate_per_256 > 0.0) {
            return Err(format!(
                "`optimizer.sgd.learning_rate_per_256` must be above 0, got {learning_rate_per_256}"
            ));
        }
        if !(0.0..1.0).contains(momentum) {
            return Err(format!(
                "`optimizer.sgd.momentum` must be at least 0 and below 1, got {momentum}"
            ));
        }
        if !(weight_decay.is_finite() && *weight_decay >= 0.0) {
            return Err(format!(
                "`optimizer.sgd.weight_decay` must be at least 0, got {weight_decay}"
            ));
        }
        if *nesterov && *momentum == 0.0 {
            return Err("`optimizer.sgd.nesterov` needs a `momentum` above 0".into());
        }
        Ok(())
    }

    /// The peak learning rate for steps of `batch_images` images (linear scaling).
    pub fn peak_learning_rate(&self, batch_images: usize) -> f64 {
        let Self::Sgd {
            learning_rate_per_256,
            ..
        } = self;
        learning_rate_per_256 * batch_images as f64 / 256.0
    }

    /// A fresh optimizer.
    pub fn init(&self) -> ModuleOptimizer {
        let Self::Sgd {
            momentum,
            weight_decay,
            nesterov,
            ..
        } = self;
        // Burn's dampening defaults to 0.1, PyTorch's to 0.
        let momentum = (*momentum > 0.0).then(|| {
            MomentumConfig::new()
                .with_momentum(*momentum)
                .with_dampening(0.0)
                .with_nesterov(*nesterov)
        });
        let weight_decay = (*weight_decay > 0.0).then(|| WeightDecayConfig::new(*weight_decay as f32));
        SgdConfig::new()
            .with_momentum(momentum)
            .with_weight_decay(weight_decay)
            .init()
    }
}

/// Removes the gradients of parameters whose dotted path is one of `paths` or lies below it.
pub fn drop_gradients<M: Module>(grads: &mut GradientsParams, module: &M, paths: &[&str]) {
    struct Dropper<'a> {
        grads: &'a mut GradientsParams,
        paths: &'a [&'a str],
        path: Vec<String>,
    }
    impl ModuleVisitor for Dropper<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.path.join(".");
            let below = |prefix: &&str| {
                path.strip_prefix(*prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            if self.paths.iter().any(below) {
                let id: ParamId = param.id;
                let _ = self.grads.remove::<D>(id);
            }
        }
    }
    if !paths.is_empty() {
        module.visit(&mut Dropper {
            grads,
            paths,
            path: vec![],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Two {
        first: Param<Tensor<1>>,
        second: Param<Tensor<1>>,
    }

    fn two() -> Two {
        let device = Device::flex().autodiff();
        let ones = || Param::from_tensor(Tensor::<1>::from_floats([1.0, 2.0], &device));
        Two {
            first: ones(),
            second: ones(),
        }
    }

    #[test]
    fn sgd_follows_pytorch_by_hand() {
        // w = 1, gradient 3 each step, lr 0.1, momentum 0.9, weight decay 0.5:
        // step 1: g = 3 + 0.5 = 3.5, v = 3.5, w = 0.65; step 2: g = 3.325, v = 6.475, w = 0.0025.
        let config = OptimizerConfig::Sgd {
            learning_rate_per_256: 0.1,
            momentum: 0.9,
            weight_decay: 0.5,
            nesterov: false,
        };
        let mut optimizer = config.init();
        let mut module = two();
        for expected in [0.65, 0.0025] {
            let loss = (module.first.val() * 3.0).sum();
            let grads = GradientsParams::from_grads(loss.backward(), &module);
            module = optimizer.step(config.peak_learning_rate(256), module, grads);
            let got = module.first.val().into_data().try_to_vec::<f32>().unwrap()[0];
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn dropped_gradients_leave_their_parameter_alone() {
        let module = two();
        let loss = (module.first.val() + module.second.val()).sum();
        let mut grads = GradientsParams::from_grads(loss.backward(), &module);
        drop_gradients(&mut grads, &module, &["first"]);
        assert!(grads.get::<1>(module.first.id).is_none());
        assert!(grads.get::<1>(module.second.id).is_some());
    }

    #[test]
    fn bad_numbers_are_named() {
        let sgd = |learning_rate_per_256, momentum| OptimizerConfig::Sgd {
            learning_rate_per_256,
            momentum,
            weight_decay: 0.0,
            nesterov: false,
        };
        assert!(
            sgd(0.0, 0.9)
                .validate()
                .unwrap_err()
                .contains("learning_rate_per_256")
        );
        assert!(sgd(0.1, 1.0).validate().unwrap_err().contains("momentum"));
    }
}
