//! Many linear classifiers trained at once on the same batches: every learning rate of a grid on every input.
//! The classifiers of one input share one matrix, so a step takes two matrix products per input, for any
//! number of rates.

use crate::error::Error;
use crate::features::Matrix;
use crate::result::rank_of;
use backbones::Init;
use backbones::layers::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

/// Standard deviation of the initial weights, as in DINOv2's `LinearClassifier`.
const INITIAL_STD: f64 = 0.01;
/// Rows classified at a time.
const TEST_ROWS: usize = 1024;

/// Classifiers trained by SGD with momentum, without weight decay: `velocity = momentum * velocity +
/// gradient`, then `weight -= rate * velocity`, as in PyTorch's SGD.
pub(crate) struct HeadGrid {
    classes: usize,
    rates: Vec<f64>,
    momentum: f64,
    /// For each input the indices of its parts among those passed to `step`.
    parts: Vec<Vec<usize>>,
    inputs: Vec<Classifiers>,
    /// Each rate repeated once per class, `[rates * classes, 1]`.
    scale: Tensor<2>,
    /// The mean loss of each input's classifiers in the last step, `[rates]`.
    losses: Vec<Tensor<1>>,
}

/// All classifiers of one input.
struct Classifiers {
    /// `[rates * classes, width]`, and the same for the biases.
    weight: Tensor<2>,
    bias: Tensor<2>,
    weight_velocity: Tensor<2>,
    bias_velocity: Tensor<2>,
}

impl HeadGrid {
    /// Weights N(0, 0.01) by the seed, biases 0. `widths` are those of the parts, `parts` lists the parts of
    /// each input.
    pub(crate) fn new(
        widths: &[usize],
        parts: Vec<Vec<usize>>,
        rates: &[f64],
        classes: usize,
        momentum: f64,
        seed: u64,
        device: &Device,
    ) -> Self {
        let init = Init::new(seed, device).at("classifiers");
        let classifiers = |(place, parts): (usize, &Vec<usize>)| {
            let width = parts.iter().map(|part| widths[*part]).sum();
            let weights = (0..rates.len())
                .map(|rate| {
                    let at = init.at(&format!("{place}.{rate}"));
                    Linear::normal(&at, width, classes, INITIAL_STD).weight.val()
                })
                .collect();
            let weight: Tensor<2> = Tensor::cat(weights, 0);
            let bias = Tensor::zeros([rates.len() * classes, 1], device);
            Classifiers {
                weight_velocity: weight.zeros_like(),
                bias_velocity: bias.zeros_like(),
                weight,
                bias,
            }
        };
        let inputs = parts.iter().enumerate().map(classifiers).collect();
        let scale: Vec<f32> = rates
            .iter()
            .flat_map(|rate| std::iter::repeat_n(*rate as f32, classes))
            .collect();
        Self {
            classes,
            rates: rates.to_vec(),
            momentum,
            scale: Tensor::from_data(TensorData::new(scale, [rates.len() * classes, 1]), device),
            parts,
            inputs,
            losses: vec![],
        }
    }

    /// One step of every classifier, at `factor` times its rate.
    ///
    /// # Shapes
    /// - `parts`: `[rows, width]` each, without a graph
    /// - `classes`: one per row
    pub(crate) fn step(&mut self, parts: &[Tensor<2>], classes: &[u32], factor: f64) {
        let (rows, rates) = (classes.len(), self.rates.len());
        let device = self.scale.device();
        let mut truth = vec![0.0f32; rows * self.classes];
        for (row, class) in classes.iter().enumerate() {
            truth[row * self.classes + *class as usize] = 1.0;
        }
        let truth = Tensor::<3>::from_data(TensorData::new(truth, [rows, 1, self.classes]), &device);
        self.losses.clear();
        for (classifiers, places) in self.inputs.iter_mut().zip(&self.parts) {
            let input = joined(parts, places);
            let logits = input.clone().matmul(classifiers.weight.clone().transpose())
                + classifiers.bias.clone().transpose();
            let shares = softmax(logits.reshape([rows, rates, self.classes]), 2);
            // Probability of the true class: [rows, rates].
            let right = (shares.clone() * truth.clone()).sum_dim(2);
            // If a probability underflows to 0, the loss is large but finite.
            let loss = right.clamp_min(f32::MIN_POSITIVE).log().neg().mean_dim(0);
            self.losses.push(loss.reshape([rates]));
            let gradient = ((shares - truth.clone()) / rows as f64).reshape([rows, rates * self.classes]);
            let for_bias = gradient.clone().sum_dim(0).transpose();
            let for_weight = gradient.transpose().matmul(input);
            classifiers.weight_velocity = classifiers.weight_velocity.clone() * self.momentum + for_weight;
            classifiers.bias_velocity = classifiers.bias_velocity.clone() * self.momentum + for_bias;
            let scale = self.scale.clone() * factor;
            classifiers.weight =
                classifiers.weight.clone() - classifiers.weight_velocity.clone() * scale.clone();
            classifiers.bias = classifiers.bias.clone() - classifiers.bias_velocity.clone() * scale;
        }
    }

    /// The last step's loss of each classifier, input by input; an error if all are NaN or infinite.
    pub(crate) fn losses(&self, protocol: &'static str, step: usize, factor: f64) -> Result<Vec<f64>, Error> {
        let all = self.losses.iter().map(|losses| losses.clone().into_data());
        let losses: Vec<f64> = all
            .flat_map(|losses| losses.iter::<f64>().collect::<Vec<_>>())
            .collect();
        // Large rates may diverge while small ones learn; the grid exists to find out.
        match losses.iter().all(|loss| !loss.is_finite()) && !losses.is_empty() {
            false => Ok(losses),
            true => Err(Error::Diverged {
                protocol,
                loss: losses[0],
                step,
                learning_rate: factor * self.rates[0],
            }),
        }
    }

    /// The true class's rank (0 = first) in each classifier's prediction for each row: `[input * rates +
    /// rate][row]`.
    pub(crate) fn ranks(&self, parts: &[&Matrix], classes: &[u32], device: &Device) -> Vec<Vec<u32>> {
        let rates = self.rates.len();
        let mut ranks = vec![Vec::with_capacity(classes.len()); self.inputs.len() * rates];
        for first in (0..classes.len()).step_by(TEST_ROWS) {
            let rows: Vec<usize> = (first..classes.len().min(first + TEST_ROWS)).collect();
            let block: Vec<Tensor<2>> = parts.iter().map(|part| upload(part, &rows, device)).collect();
            for (place, (classifiers, places)) in self.inputs.iter().zip(&self.parts).enumerate() {
                let logits = joined(&block, places).matmul(classifiers.weight.clone().transpose())
                    + classifiers.bias.clone().transpose();
                let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
                for (logits, row) in logits.chunks_exact(rates * self.classes).zip(&rows) {
                    for (rate, logits) in logits.chunks_exact(self.classes).enumerate() {
                        ranks[place * rates + rate].push(rank_of(classes[*row], logits));
                    }
                }
            }
        }
        ranks
    }
}

/// The parts concatenated.
fn joined(parts: &[Tensor<2>], places: &[usize]) -> Tensor<2> {
    match places {
        [one] => parts[*one].clone(),
        places => Tensor::cat(places.iter().map(|place| parts[*place].clone()).collect(), 1),
    }
}

/// Some rows of a matrix on the device.
pub(crate) fn upload(matrix: &Matrix, rows: &[usize], device: &Device) -> Tensor<2> {
    let selected = matrix.select(rows);
    Tensor::from_data(
        TensorData::new(selected.values, [selected.rows, selected.width]),
        device,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    /// One classifier computed directly, in f64.
    fn by_hand(
        weight: &mut [f64],
        bias: &mut [f64],
        batches: &[(Vec<f64>, usize)],
        rate: f64,
        momentum: f64,
    ) {
        let (classes, width) = (bias.len(), weight.len() / bias.len());
        let (mut weight_velocity, mut bias_velocity) = (vec![0.0; weight.len()], vec![0.0; classes]);
        for (row, class) in batches {
            let logits: Vec<f64> = (0..classes)
                .map(|k| bias[k] + (0..width).map(|w| weight[k * width + w] * row[w]).sum::<f64>())
                .collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            for k in 0..classes {
                let gradient = logits[k].exp() / sum - f64::from(u8::from(k == *class));
                bias_velocity[k] = momentum * bias_velocity[k] + gradient;
                bias[k] -= rate * bias_velocity[k];
                for w in 0..width {
                    let velocity = &mut weight_velocity[k * width + w];
                    *velocity = momentum * *velocity + gradient * row[w];
                    weight[k * width + w] -= rate * *velocity;
                }
            }
        }
    }

    #[test]
    fn each_classifier_is_trained_as_if_it_were_alone() {
        // Parts of width 2 and 1; inputs: the first, and both.
        let rates = [0.5, 0.01];
        let parts = vec![vec![0], vec![0, 1]];
        let mut grid = HeadGrid::new(&[2, 1], parts, &rates, 3, 0.9, 7, &Device::flex());
        let start: Vec<Vec<f64>> = grid
            .inputs
            .iter()
            .map(|input| input.weight.clone().into_data().iter::<f64>().collect())
            .collect();
        let rows = [
            [0.5f32, -1.0, 2.0],
            [1.5, 0.25, -1.0],
            [-0.75, 1.0, 0.5],
            [0.1, 0.2, 0.3],
        ];
        let classes = [2usize, 0, 1, 1];
        for (row, class) in rows.iter().zip(classes) {
            let parts = [tensor(&row[..2], [1, 2]), tensor(&row[2..], [1, 1])];
            grid.step(&parts, &[class as u32], 1.0);
        }
        for (input, width) in [(0, 2), (1, 3)] {
            let trained: Vec<f64> = grid.inputs[input]
                .weight
                .clone()
                .into_data()
                .iter::<f64>()
                .collect();
            let biases: Vec<f64> = grid.inputs[input]
                .bias
                .clone()
                .into_data()
                .iter::<f64>()
                .collect();
            for (rate, step) in rates.iter().enumerate() {
                let part = rate * 3 * width..(rate + 1) * 3 * width;
                let (mut weight, mut bias) = (start[input][part.clone()].to_vec(), vec![0.0; 3]);
                let batches: Vec<_> = rows
                    .iter()
                    .zip(classes)
                    .map(|(row, class)| (row[..width].iter().map(|v| f64::from(*v)).collect(), class))
                    .collect();
                by_hand(&mut weight, &mut bias, &batches, *step, 0.9);
                let close =
                    |ours: &[f64], theirs: &[f64]| ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-5);
                assert!(close(&trained[part], &weight), "input {input}, rate {step}");
                assert!(close(&biases[rate * 3..(rate + 1) * 3], &bias));
            }
        }
        assert_eq!(grid.losses("p", 4, 1.0).unwrap().len(), 4);
    }

    #[test]
    fn ranks_are_each_classifiers_own() {
        let mut grid = HeadGrid::new(&[1], vec![vec![0]], &[1.0, 0.0], 2, 0.0, 0, &Device::flex());
        // Rate 1 learns that positive rows are of class 1; rate 0 learns nothing.
        for _ in 0..50 {
            grid.step(&[tensor(&[1.0, -1.0], [2, 1])], &[1, 0], 1.0);
        }
        let test = Matrix::new(3, 1, vec![2.0, -2.0, 3.0]);
        let ranks = grid.ranks(&[&test], &[1, 0, 1], &Device::flex());
        assert_eq!(ranks[0], [0, 0, 0]);
        assert_eq!(ranks.len(), 2);
        let share = |ranks: &[u32]| ranks.iter().filter(|rank| **rank == 0).count();
        assert!([0, 3].contains(&share(&ranks[1])), "one direction or the other");
    }
}
