//! The linear classifier of the linear probes, trained on features without a graph; VISSL's normalizes them
//! first.

use crate::error::Error;
use crate::features::Matrix;
use crate::result::rank_of;
use backbones::layers::{BatchNorm, Linear};
use backbones::{Context, Draws, Init, RunPosition};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use training::{Optimizer, OptimizerConfig, ParameterRule, Rates, ScheduleConfig};

/// Standard deviation of the initial weights: MoCo's `fc.weight.data.normal_(mean=0.0, std=0.01)`.
const INITIAL_STD: f64 = 0.01;
/// Test rows classified at a time.
const TEST_ROWS: usize = 4096;

/// A linear layer, `classes` logits from `width` features, optionally after a batch normalization.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    pub(crate) norm: Option<BatchNorm>,
    pub(crate) layer: Linear,
}

impl Classifier {
    /// Weights N(0, 0.01) by the seed, biases 0.
    pub(crate) fn plain([width, classes]: [usize; 2], seed: u64, device: &Device) -> Self {
        let init = Init::new(seed, &device.clone().autodiff()).at("classifier");
        Self {
            norm: None,
            layer: Linear::normal(&init, width, classes, INITIAL_STD),
        }
    }

    /// VISSL's `eval_mlp`: `torch.nn.BatchNorm2d` over features that are maps of `channels` with `places`
    /// positions each, then `torch.nn.Linear` with PyTorch's default initialization.
    pub(crate) fn normalizing(
        [channels, places]: [usize; 2],
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Self {
        let init = Init::new(seed, &device.clone().autodiff()).at("classifier");
        Self {
            norm: Some(BatchNorm::new(&init.at("norm"), channels)),
            layer: Linear::new(&init, channels * places, classes),
        }
    }

    /// # Shapes
    /// - `features`: `[rows, width]`, channel by channel
    /// - output: `[rows, classes]`
    fn forward(&self, features: Tensor<2>, context: &Context) -> Tensor<2> {
        let Some(norm) = &self.norm else {
            return self.layer.forward(features);
        };
        let [rows, width] = features.dims();
        let [channels] = norm.running_mean.value().dims();
        let maps = features.reshape([rows, channels, width / channels]);
        self.layer
            .forward(norm.forward(maps, context).reshape([rows, width]))
    }

    /// The true class's rank in the prediction for each row (0 = first).
    ///
    /// # Shapes
    /// - `features`: `[rows, width]`, on the device of the classifier
    /// - `classes`: one per row
    pub(crate) fn ranks(&self, features: Tensor<2>, classes: &[u32]) -> Vec<u32> {
        let logits = self.forward(features, &Context::evaluation());
        let width = logits.dims()[1];
        let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
        logits
            .chunks_exact(width)
            .zip(classes)
            .map(|(logits, class)| rank_of(*class, logits))
            .collect()
    }
}

/// A classifier trained by cross-entropy.
pub(crate) struct Head {
    pub(crate) classifier: Classifier,
    optimizer: Optimizer,
    config: OptimizerConfig,
    peak_learning_rate: f64,
    schedule: ScheduleConfig,
    progress: RunPosition,
    /// The loss stays on the device: reading it back every step would make a GPU wait.
    loss: Option<Tensor<1>>,
}

impl Head {
    /// A classifier before its first step.
    pub(crate) fn new(
        classifier: Classifier,
        peak_learning_rate: f64,
        optimizer: &OptimizerConfig,
        schedule: &ScheduleConfig,
        progress: RunPosition,
    ) -> Self {
        Self {
            classifier,
            optimizer: optimizer.init(),
            config: optimizer.clone(),
            peak_learning_rate,
            schedule: schedule.clone(),
            progress,
            loss: None,
        }
    }

    /// One optimizer step on a batch.
    ///
    /// # Shapes
    /// - `features`: `[rows, width]`, without a graph
    /// - `classes`: one per row
    pub(crate) fn step(&mut self, features: Tensor<2>, classes: &[u32]) {
        let device = features.device();
        let classes: Vec<i64> = classes.iter().map(|class| i64::from(*class)).collect();
        let rows = classes.len();
        let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [rows, 1]), &device);

        let context = Context::training(self.progress, Draws::new(0, 0));
        let logits = self.classifier.forward(features.autodiff(), &context);
        let loss = log_softmax(logits, 1).gather(1, classes).mean().neg();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.classifier);
        let rates = self.rates(&self.progress);
        self.classifier = self.optimizer.step(&rates, self.classifier.clone(), gradients);
        self.progress.step += 1;
        self.loss = Some(loss.without_autodiff());
    }

    fn rates(&self, progress: &RunPosition) -> Rates {
        // VISSL's `regularize_bn: False`; the linear layer's bias decays.
        let rules = vec![ParameterRule {
            decays: false,
            ..ParameterRule::of("norm")
        }];
        self.config
            .rates(self.peak_learning_rate, &self.schedule, progress, rules)
    }

    /// The last batch's loss, or an error if it is NaN or infinite. Weights that became NaN stay NaN, so one
    /// check per epoch is enough.
    pub(crate) fn last_loss(&self, protocol: &'static str) -> Result<f64, Error> {
        let Some(loss) = &self.loss else { return Ok(0.0) };
        let loss = f64::from(loss.clone().into_scalar::<f32>());
        if loss.is_finite() {
            return Ok(loss);
        }
        let last_step = RunPosition {
            step: self.progress.step.saturating_sub(1),
            ..self.progress
        };
        Err(Error::Diverged {
            protocol,
            loss,
            step: last_step.step,
            learning_rate: self.rates(&last_step).learning_rate,
        })
    }

    /// The current classifier, without a graph.
    pub(crate) fn trained(&self) -> Classifier {
        self.classifier.valid()
    }

    /// The true class's rank in the prediction for each row (0 = first).
    pub(crate) fn ranks(&self, rows: &Matrix, classes: &[u32], device: &Device) -> Vec<u32> {
        let classifier = self.trained();
        let mut ranks = Vec::with_capacity(rows.rows);
        for (values, classes) in rows
            .values
            .chunks(TEST_ROWS * rows.width)
            .zip(classes.chunks(TEST_ROWS))
        {
            let features = Tensor::<2>::from_data(
                TensorData::new(values.to_vec(), [classes.len(), rows.width]),
                device,
            );
            ranks.extend(classifier.ranks(features, classes));
        }
        ranks
    }
}
