//! The optimizer of a run: its step over a module, and its state by parameter path, to and from bytes.

use super::clip::{Clip, ClipConfig};
use super::rows::{rows, rows_shape};
use super::update::{Hyperparameters, Slots, update};
use super::{OptimizerConfig, is_below};
use backbones::{Parameter, change_value, parameters};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The values that change over a run: [`OptimizerConfig::rates`] computes them for a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// The schedule's learning rate.
    pub learning_rate: f64,
    /// The learning rate of parameters without a schedule.
    pub peak_learning_rate: f64,
    /// The weight decay of this step.
    pub weight_decay: f64,
    /// Exceptions for some parameters.
    pub rules: Vec<ParameterRule>,
}

impl Rates {
    /// The same learning rate and weight decay for all parameters.
    pub fn constant(learning_rate: f64, weight_decay: f64) -> Self {
        Self {
            learning_rate,
            peak_learning_rate: learning_rate,
            weight_decay,
            rules: vec![],
        }
    }
}

/// An exception for some parameters of an objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterRule {
    /// Path of the parameters in the student, or a prefix of it, as in `head`.
    pub path: Cow<'static, str>,
    /// Ratio of their learning rate to the others'.
    pub learning_rate_factor: f64,
    /// Whether their learning rate follows the schedule; otherwise it stays at the peak.
    pub follows_schedule: bool,
    /// Whether weight decay applies to them, if it applies to the others.
    pub decays: bool,
}

impl ParameterRule {
    /// A rule without effect, as a base: `ParameterRule { decays: false, ..ParameterRule::of("norm") }`.
    pub fn of(path: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: path.into(),
            learning_rate_factor: 1.0,
            follows_schedule: true,
            decays: true,
        }
    }
}

/// An optimizer with its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: BTreeMap<String, Slots>,
}

impl Optimizer {
    pub(super) fn new(config: OptimizerConfig) -> Self {
        Self {
            config,
            slots: BTreeMap::new(),
        }
    }

    /// One step: updates every parameter of `module` that has a gradient; the others keep their value and
    /// state.
    pub fn step<M: Module>(&mut self, rates: &Rates, module: M, grads: GradientsParams) -> M {
        self.step_clipped(rates, None, module, grads)
    }

    /// [`step`](Self::step) with gradients that are first clipped.
    pub fn step_clipped<M: Module>(
        &mut self,
        rates: &Rates,
        clip: Option<ClipConfig>,
        module: M,
        grads: GradientsParams,
    ) -> M {
        let clip = Clip::new(clip, &module, &grads);
        let listed = parameters(&module);
        let blocks = self
            .layer_decay()
            .map(|_| Blocks::of(&listed))
            .unwrap_or_default();
        let found = listed
            .into_iter()
            .filter(|parameter| !parameter.running_statistic)
            .map(|parameter| {
                let how = self.hyperparameters(rates, &parameter, &blocks);
                (parameter.id, (parameter.path, how))
            })
            .collect();
        module.map(&mut Step {
            optimizer: self,
            grads,
            clip,
            found,
        })
    }

    fn layer_decay(&self) -> Option<f64> {
        match self.config {
            OptimizerConfig::Adamw { layer_decay, .. } => layer_decay,
            _ => None,
        }
    }

    /// The settings for one parameter.
    fn hyperparameters(&self, rates: &Rates, parameter: &Parameter, blocks: &Blocks) -> Hyperparameters {
        let rules = || {
            let holds = |rule: &&ParameterRule| is_below(&parameter.path, &[rule.path.as_ref()]);
            rates.rules.iter().filter(holds)
        };
        let mut learning_rate = match rules().all(|rule| rule.follows_schedule) {
            true => rates.learning_rate,
            false => rates.peak_learning_rate,
        };
        let is_bias_or_norm = parameter.shape.len() == 1;
        let (mut weight_decay, mut adapted) = (rates.weight_decay, true);
        for rule in rules() {
            learning_rate *= rule.learning_rate_factor;
            if !rule.decays {
                weight_decay = 0.0;
            }
        }
        match &self.config {
            OptimizerConfig::Sgd { .. } => {}
            OptimizerConfig::Adamw {
                decay_biases_and_norms,
                ..
            } => {
                if is_bias_or_norm && !decay_biases_and_norms {
                    weight_decay = 0.0;
                }
                if let Some(decay) = self.layer_decay() {
                    learning_rate *= decay.powi(blocks.above(&parameter.path) as i32);
                }
            }
            OptimizerConfig::Lars {
                learning_rate_per_256,
                biases_and_norms_learning_rate_per_256: other,
                adapt_biases_and_norms,
                ..
            } => {
                if is_bias_or_norm {
                    if let Some(other) = other {
                        learning_rate *= other / learning_rate_per_256;
                    }
                    if !adapt_biases_and_norms {
                        (weight_decay, adapted) = (0.0, false);
                    }
                }
            }
        }
        Hyperparameters {
            learning_rate,
            weight_decay,
            adapted,
        }
    }

    /// The state as a safetensors file: `N/PATH`, one tensor per slot, and `steps/PATH`.
    ///
    /// # Errors
    /// Tensors that cannot be read from the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
        for (path, slots) in &self.slots {
            let steps = (slots.steps as i64).to_le_bytes().to_vec();
            tensors.push((format!("steps/{path}"), Dtype::I64, vec![], steps));
            for (index, slot) in slots.averages.iter().enumerate() {
                let shape = slot.dims().to_vec();
                let data = slot
                    .clone()
                    .try_into_data()
                    .map_err(|error| format!("`{path}` cannot be read back: {error}"))?
                    .convert::<f32>();
                tensors.push((
                    format!("{index}/{path}"),
                    Dtype::F32,
                    shape,
                    data.as_bytes().to_vec(),
                ));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                TensorView::new(*dtype, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|error| error.to_string())
            })
            .collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize(views, None).map_err(|error| error.to_string())
    }

    /// Loads a state from [`to_bytes`](Self::to_bytes), for the parameters of `module`.
    ///
    /// # Errors
    /// Damaged bytes, and a state of another optimizer or another module.
    pub fn load_bytes<M: Module>(&mut self, bytes: &[u8], module: &M) -> Result<(), String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| format!("damaged: {error}"))?;
        let wanted: HashMap<String, Parameter> = parameters(module)
            .into_iter()
            .map(|parameter| (parameter.path.clone(), parameter))
            .collect();
        let device = module.devices().into_iter().next().unwrap_or_default().inner();
        let count = self.averages();
        let mut slots = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some(path) = name.strip_prefix("steps/") else {
                continue;
            };
            let parameter = wanted
                .get(path)
                .ok_or_else(|| format!("holds the state of `{path}`, which the networks lack"))?;
            let steps = <[u8; 8]>::try_from(view.data())
                .map_err(|_| format!("`{name}` must be one i64, got {:?}", view.dtype()))?;
            let averages = (0..count)
                .map(|index| slot(&file, &format!("{index}/{path}"), parameter, &device))
                .collect::<Result<Vec<_>, _>>()?;
            let steps = i64::from_le_bytes(steps).max(0) as u64;
            slots.insert(path.to_string(), Slots { steps, averages });
        }
        if file.len() != slots.len() * (count + 1) {
            return Err("is the state of another optimizer".to_string());
        }
        self.slots = slots;
        Ok(())
    }

    /// Number of running averages that the optimizer keeps for each parameter.
    fn averages(&self) -> usize {
        match self.config {
            OptimizerConfig::Sgd { momentum, .. } | OptimizerConfig::Lars { momentum, .. } => {
                usize::from(momentum > 0.0)
            }
            OptimizerConfig::Adamw { .. } => 2,
        }
    }
}

fn slot(
    file: &SafeTensors<'_>,
    name: &str,
    parameter: &Parameter,
    device: &Device,
) -> Result<Tensor<2>, String> {
    let view = file
        .tensor(name)
        .map_err(|_| format!("lacks `{name}`: it is the state of another optimizer"))?;
    let shape = rows_shape(&parameter.shape);
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        return Err(format!(
            "`{name}` must be f32 of {shape:?}, got {:?} of {:?}",
            view.dtype(),
            view.shape()
        ));
    }
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// The blocks of a module in order, for layer-wise rates: a transformer's, or a ResNet's residual blocks,
/// which timm also counts individually.
#[derive(Debug, Default)]
struct Blocks(BTreeSet<(usize, usize)>);

impl Blocks {
    fn of(parameters: &[Parameter]) -> Self {
        Self(
            parameters
                .iter()
                .filter_map(|parameter| block_of(&parameter.path))
                .collect(),
        )
    }

    /// The number of layers above a parameter's: 0 after the last block, `blocks + 1` before the first, as in
    /// DINOv2 and MAE's fine-tuning. (timm assigns the norm after a transformer's last block to that block.)
    fn above(&self, path: &str) -> usize {
        if let Some(block) = block_of(path) {
            return self.0.range(block..).count();
        }
        let before = [
            "patch_embed",
            "cls_token",
            "pos_embed",
            "reg_token",
            "mask_token",
            "conv1",
            "bn1",
        ];
        if path.split('.').any(|part| before.contains(&part)) {
            self.0.len() + 1
        } else {
            0
        }
    }
}

/// Stage and index of a parameter's block: of `blocks.N`, with stage 0, or of `layerSTAGE.N`.
fn block_of(path: &str) -> Option<(usize, usize)> {
    let mut parts = path.split('.');
    while let Some(part) = parts.next() {
        let stage = match part {
            "blocks" => Some(0),
            other => other.strip_prefix("layer").and_then(|stage| stage.parse().ok()),
        };
        if let Some(stage) = stage {
            return Some((stage, parts.next()?.parse().ok()?));
        }
    }
    None
}

struct Step<'a> {
    optimizer: &'a mut Optimizer,
    grads: GradientsParams,
    clip: Clip,
    found: HashMap<ParamId, (String, Hyperparameters)>,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.grads.remove::<D>(param.id) else {
            return param;
        };
        let Some((path, how)) = self.found.remove(&param.id) else {
            return param;
        };
        let gradient = self.clip.apply(rows(gradient.without_autodiff()));
        let slots = self.optimizer.slots.entry(path).or_default();
        let config = &self.optimizer.config;
        change_value(param, |weight| {
            let shape = weight.dims();
            update(config, &how, rows(weight), gradient, slots).reshape(shape)
        })
    }
}
