//! The linear classifier that both linear probes train, on features that arrive without a graph.

use crate::error::Error;
use crate::features::Matrix;
use crate::result::rank_of;
use backbones::layers::Linear;
use backbones::{Init, Progress};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use training::{Optimizer, OptimizerConfig, Rates, ScheduleConfig};

/// Standard deviation of the initial weights: MoCo's `fc.weight.data.normal_(mean=0.0, std=0.01)`.
const INITIAL_STD: f64 = 0.01;
/// Test rows classified at a time.
const TEST_ROWS: usize = 4096;

/// A linear layer in training: `classes` logits from `width` features by cross-entropy.
pub(crate) struct Head {
    pub(crate) layer: Linear,
    optimizer: Optimizer,
    config: OptimizerConfig,
    peak_learning_rate: f64,
    schedule: ScheduleConfig,
    progress: Progress,
    /// On the device until somebody asks: reading it back every step would make a GPU wait.
    loss: Option<Tensor<1>>,
}

impl Head {
    /// Weights N(0, 0.01) by the seed, biases 0.
    pub(crate) fn new(
        [width, classes]: [usize; 2],
        seed: u64,
        peak_learning_rate: f64,
        optimizer: &OptimizerConfig,
        schedule: &ScheduleConfig,
        progress: Progress,
        device: &Device,
    ) -> Self {
        let init = Init::new(seed, &device.clone().autodiff()).at("classifier");
        Self {
            layer: Linear::normal(&init, width, classes, INITIAL_STD),
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
    /// - `classes`: one a row
    pub(crate) fn step(&mut self, features: Tensor<2>, classes: &[u32]) {
        let device = features.device();
        let classes: Vec<i64> = classes.iter().map(|class| i64::from(*class)).collect();
        let rows = classes.len();
        let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [rows, 1]), &device);

        let logits = self.layer.forward(features.autodiff());
        let loss = log_softmax(logits, 1).gather(1, classes).mean().neg();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.layer);
        let rates = self.rates(&self.progress);
        self.layer = self.optimizer.step(&rates, self.layer.clone(), gradients);
        self.progress.step += 1;
        self.loss = Some(loss.without_autodiff());
    }

    fn rates(&self, progress: &Progress) -> Rates {
        self.config
            .rates(self.peak_learning_rate, &self.schedule, progress)
    }

    /// The last batch's loss, or an error if it is no longer a number. Weights that became NaN stay so: asking once an
    /// epoch is enough.
    pub(crate) fn last_loss(&self, protocol: &'static str) -> Result<f64, Error> {
        let Some(loss) = &self.loss else { return Ok(0.0) };
        let loss = f64::from(loss.clone().into_scalar::<f32>());
        if loss.is_finite() {
            return Ok(loss);
        }
        let last_step = Progress {
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

    /// The true class's place in the prediction for each row (0 = first).
    pub(crate) fn ranks(&self, rows: &Matrix, classes: &[u32], device: &Device) -> Vec<u32> {
        let (weight, bias) = self.parameters();
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
            let logits = features.matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
            let width = logits.dims()[1];
            let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
            ranks.extend(
                logits
                    .chunks_exact(width)
                    .zip(classes)
                    .map(|(logits, class)| rank_of(*class, logits)),
            );
        }
        ranks
    }

    /// Weight `[classes, width]` and bias `[classes]`, without a graph.
    pub(crate) fn parameters(&self) -> (Tensor<2>, Tensor<1>) {
        let bias = self.layer.bias.as_ref().expect("`Linear::normal` has a bias");
        (
            self.layer.weight.val().without_autodiff(),
            bias.val().without_autodiff(),
        )
    }
}
