//! Optimizers with PyTorch's arithmetic: SGD, AdamW, LARS and LARC, and the course of their rates.
//!
//! Burn's optimizers lack information that a run needs: a parameter's path (biases and norms without weight
//! decay, layer-wise rates), a weight decay schedule, norms over all gradients, and a state keyed by name.

mod clip;
mod rows;
mod state;
mod update;

pub use clip::ClipConfig;
pub(crate) use clip::gradient_norm;
pub use state::{Optimizer, ParameterRule, Rates};

use crate::course::cosine;
use crate::schedule::ScheduleConfig;
use backbones::RunPosition;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer of a run. TOML: one table, e.g. `[optimizer.sgd]`.
///
/// Learning rates are for 256 images per step; the effective rate is `learning_rate_per_256 * batch_images /
/// 256`. *Biases and norms* are the parameters of one dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// `torch.optim.SGD`: `g += weight_decay w; v = momentum v + g; w -= lr v` (no dampening).
    Sgd {
        /// Peak learning rate for 256 images per step. MoCo: 0.03.
        learning_rate_per_256: f64,
        /// SGD's momentum, 0 to below 1. MoCo: 0.9.
        momentum: f64,
        /// L2 penalty on all parameters, including biases and norms, as in the methods' reference code. MoCo:
        /// 1e-4.
        weight_decay: f64,
        /// Nesterov's momentum. MoCo: false.
        nesterov: bool,
    },
    /// `torch.optim.AdamW`: Loshchilov, Hutter, *Decoupled weight decay regularization*, 2019, algorithm 2.
    Adamw {
        /// Peak learning rate for 256 images per step. DINO: 5e-4; MAE and MoCo-v3: 1.5e-4.
        learning_rate_per_256: f64,
        /// Decay rates of the averages of gradient and squared gradient, each 0 to below 1. PyTorch: 0.9,
        /// 0.999; MAE: 0.9, 0.95.
        betas: [f64; 2],
        /// Added to the root of the squared gradient's average. PyTorch: 1e-8.
        epsilon: f64,
        /// Weight decay at the start; the batch size does not scale it. DINO: 0.04.
        weight_decay: f64,
        /// Weight decay at the end, reached by a cosine over all steps; absent: constant. DINO: 0.4.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight_decay_end: Option<f64>,
        /// Whether biases and norms decay too. DINO, MAE: false.
        decay_biases_and_norms: bool,
        /// Ratio of each block's rate to the next one's, 0..1, counted from the head down; absent: one rate
        /// for all. Blocks are a transformer's, or a ResNet's residual blocks. Everything after the last
        /// block, including the head, has the full rate, as in BEiT, MAE and DINOv2. DINOv2: 0.9;
        /// fine-tuning: 0.65 to 0.75.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer_decay: Option<f64>,
    },
    /// SGD whose gradient is scaled to a share of each parameter's norm: You, Gitman, Ginsburg, *Large batch
    /// training of convolutional networks*, 2017, algorithm 1.
    Lars {
        /// Peak learning rate for 256 images per step. SwAV: 0.3 (4.8 for 4,096); MoCo-v3's ResNet-50: 0.6 or
        /// 0.3.
        learning_rate_per_256: f64,
        /// Peak learning rate of biases and norms for 256 images per step; absent: the same. Barlow Twins:
        /// 0.0048.
        #[serde(skip_serializing_if = "Option::is_none")]
        biases_and_norms_learning_rate_per_256: Option<f64>,
        /// SGD's momentum, 0 to below 1. 0.9 in all references.
        momentum: f64,
        /// L2 penalty at the start. SwAV and SimCLR: 1e-6.
        weight_decay: f64,
        /// L2 penalty at the end, reached by a cosine over all steps; absent: constant.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight_decay_end: Option<f64>,
        /// Ratio of the gradient's norm to the parameter's. 0.001 in all references.
        trust: f64,
        /// The norm that scales the gradient.
        adaptation: Adaptation,
        /// Whether biases and norms are adapted and decayed too. SwAV (apex's LARC): true; MoCo-v3, Barlow Twins: false.
        adapt_biases_and_norms: bool,
    },
}

/// How LARS scales a parameter's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adaptation {
    /// By `trust ‖w‖ / ‖g + weight_decay w‖`: MoCo-v3, Barlow Twins, DINO.
    Lars,
    /// By `trust ‖w‖ / (‖g‖ + weight_decay ‖w‖ + 1e-8)`, without clipping: apex's LARC, as SwAV and SimCLR use it.
    Larc,
}

impl OptimizerConfig {
    /// Gives an error for values that training cannot use.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        let name = self.name();
        let above_zero = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(format!(
                "`{table}.{name}.{key}` must be finite and above 0, got {value}"
            ))
        };
        let fraction = |key: &str, value: f64| {
            if (0.0..1.0).contains(&value) {
                return Ok(());
            }
            Err(format!(
                "`{table}.{name}.{key}` must be at least 0 and below 1, got {value}"
            ))
        };
        let not_negative = |key: &str, value: f64| {
            if value.is_finite() && value >= 0.0 {
                return Ok(());
            }
            Err(format!("`{table}.{name}.{key}` must be at least 0, got {value}"))
        };
        above_zero("learning_rate_per_256", self.learning_rate_per_256())?;
        not_negative("weight_decay", self.weight_decay_course().0)?;
        if let (_, Some(end)) = self.weight_decay_course() {
            not_negative("weight_decay_end", end)?;
        }
        match self {
            Self::Sgd {
                momentum, nesterov, ..
            } => {
                fraction("momentum", *momentum)?;
                if *nesterov && *momentum == 0.0 {
                    return Err(format!("`{table}.sgd.nesterov` needs a `momentum` above 0"));
                }
            }
            Self::Adamw {
                betas,
                epsilon,
                layer_decay,
                ..
            } => {
                fraction("betas.0", betas[0])?;
                fraction("betas.1", betas[1])?;
                above_zero("epsilon", *epsilon)?;
                if let Some(decay) = layer_decay
                    && !(*decay > 0.0 && *decay <= 1.0)
                {
                    return Err(format!(
                        "`{table}.adamw.layer_decay` must be above 0 and at most 1, got {decay}"
                    ));
                }
            }
            Self::Lars {
                biases_and_norms_learning_rate_per_256,
                momentum,
                trust,
                ..
            } => {
                fraction("momentum", *momentum)?;
                above_zero("trust", *trust)?;
                if let Some(rate) = biases_and_norms_learning_rate_per_256 {
                    above_zero("biases_and_norms_learning_rate_per_256", *rate)?;
                }
            }
        }
        Ok(())
    }

    /// The name of its table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::Adamw { .. } => "adamw",
            Self::Lars { .. } => "lars",
        }
    }

    fn learning_rate_per_256(&self) -> f64 {
        match self {
            Self::Sgd {
                learning_rate_per_256,
                ..
            }
            | Self::Adamw {
                learning_rate_per_256,
                ..
            }
            | Self::Lars {
                learning_rate_per_256,
                ..
            } => *learning_rate_per_256,
        }
    }

    /// Weight decay at the start and, if it changes, at the end.
    fn weight_decay_course(&self) -> (f64, Option<f64>) {
        match self {
            Self::Sgd { weight_decay, .. } => (*weight_decay, None),
            Self::Adamw {
                weight_decay,
                weight_decay_end,
                ..
            }
            | Self::Lars {
                weight_decay,
                weight_decay_end,
                ..
            } => (*weight_decay, *weight_decay_end),
        }
    }

    /// The peak learning rate for steps of `batch_images` images (linear scaling: Goyal et al., *Accurate, large minibatch
    /// SGD*, 2017, §2.1).
    pub fn peak_learning_rate(&self, batch_images: usize) -> f64 {
        self.learning_rate_per_256() * batch_images as f64 / 256.0
    }

    /// The values that change over a run, for the step in `progress`; `peak` comes from
    /// [`peak_learning_rate`](Self::peak_learning_rate), `rules` from the objective.
    pub fn rates(
        &self,
        peak: f64,
        schedule: &ScheduleConfig,
        progress: &RunPosition,
        rules: Vec<ParameterRule>,
    ) -> Rates {
        let (start, end) = self.weight_decay_course();
        Rates {
            learning_rate: schedule.learning_rate(peak, progress),
            peak_learning_rate: peak,
            weight_decay: end.map_or(start, |end| cosine(start, end, progress.fraction())),
            rules,
        }
    }

    /// A fresh optimizer.
    pub fn init(&self) -> Optimizer {
        Optimizer::new(self.clone())
    }
}

/// Removes the gradients of parameters whose dotted path is in `paths` or below one of them.
pub fn drop_gradients<M: Module>(grads: &mut GradientsParams, module: &M, paths: &[&str]) {
    if !paths.is_empty() {
        drop_gradients_of(grads, module, |path| is_below(path, paths));
    }
}

/// Removes the gradients of parameters whose dotted path is `dropped`.
pub(crate) fn drop_gradients_of<M: Module>(
    grads: &mut GradientsParams,
    module: &M,
    dropped: impl Fn(&str) -> bool,
) {
    struct Dropper<'a> {
        grads: &'a mut GradientsParams,
        ids: Vec<burn::module::ParamId>,
    }
    impl ModuleVisitor for Dropper<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.ids.contains(&param.id) {
                let _ = self.grads.remove::<D>(param.id);
            }
        }
    }
    let ids = backbones::parameters(module)
        .into_iter()
        .filter(|parameter| dropped(&parameter.path))
        .map(|parameter| parameter.id)
        .collect();
    module.visit(&mut Dropper { grads, ids });
}

/// Multiplies all gradients by a factor; returns the sum of their squares afterwards, `[1]`, or `None`
/// without gradients.
pub(crate) fn scale_gradients<M: Module>(
    grads: &mut GradientsParams,
    module: &M,
    factor: f64,
) -> Option<Tensor<1>> {
    struct Scaler<'a> {
        grads: &'a mut GradientsParams,
        factor: f64,
        squares: Option<Tensor<1>>,
    }
    impl ModuleVisitor for Scaler<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.grads.remove::<D>(param.id) {
                let gradient = gradient * self.factor;
                let matrix = rows::rows(gradient.clone().without_autodiff());
                self.squares = Some(rows::add_squares(self.squares.take(), matrix));
                self.grads.register(param.id, gradient);
            }
        }
    }
    let mut scaler = Scaler {
        grads,
        factor,
        squares: None,
    };
    module.visit(&mut scaler);
    scaler.squares
}

/// Whether `path` is one of `prefixes` or below one.
fn is_below(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        path.strip_prefix(*prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests;
