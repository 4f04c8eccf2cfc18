//! What the log measures over several steps: embeddings, assignments and gradients in, numbers for a line out.
//!
//! Everything stays on the device until a line is due, and is then read in one transfer. What a line needs of earlier steps is part
//! of a checkpoint, so that a resumed run writes the same lines.

use crate::eigenvalues::{dot, rank_me, symmetric_eigenvalues};
use crate::error::device_reason;
use crate::objective::Watched;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, VecDeque};

/// Embeddings that rank and spread are measured on: the newest.
const ROWS: usize = 512;

/// The momentum of the mean assignment per step: some 20 steps count.
const ASSIGNMENT_MOMENTUM: f64 = 0.9;

/// What a run keeps of its newest steps.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// `[rows, width]` each, the newest last; together as few of them as hold [`ROWS`].
    embeddings: VecDeque<Tensor<2>>,
    /// The moving average of the mean assignment, `[1, prototypes]`.
    assignment: Option<Tensor<2>>,
    /// Of the newest step, if a line follows it.
    pub(crate) gradient_norm: Option<Tensor<1>>,
}

impl Watch {
    /// Takes a step's values without reading them.
    pub(crate) fn push(&mut self, watched: Watched) {
        if let Some(rows) = watched.embeddings {
            let [count, width] = rows.dims();
            // Another width: the run continues a checkpoint of other code.
            if self.embeddings.front().is_some_and(|old| old.dims()[1] != width) {
                self.embeddings.clear();
            }
            self.embeddings.push_back(rows.narrow(0, 0, count.min(ROWS)));
            while self.rows() - self.embeddings.front().map_or(0, |oldest| oldest.dims()[0]) >= ROWS {
                self.embeddings.pop_front();
            }
        }
        if let Some(new) = watched.assignment {
            let old = self.assignment.take().filter(|old| old.dims() == new.dims());
            self.assignment = Some(match old {
                Some(old) => old * ASSIGNMENT_MOMENTUM + new * (1.0 - ASSIGNMENT_MOMENTUM),
                None => new,
            });
        }
    }

    fn rows(&self) -> usize {
        self.embeddings.iter().map(|rows| rows.dims()[0]).sum()
    }

    /// The newest [`ROWS`] embeddings.
    fn newest(&self) -> Option<Tensor<2>> {
        let rows = self.rows();
        let count = rows.min(ROWS);
        (count > 0)
            .then(|| Tensor::cat(self.embeddings.iter().cloned().collect(), 0).narrow(0, rows - count, count))
    }

    /// The numbers of a line; `more` are further scalars on the device.
    ///
    /// # Errors
    /// A device that failed.
    pub(crate) fn measure(
        &mut self,
        more: Vec<(&'static str, Tensor<1>)>,
    ) -> Result<BTreeMap<String, f32>, String> {
        let mut scalars = more;
        scalars.extend(self.gradient_norm.take().map(|norm| ("gradient_norm", norm)));
        let rows = self.newest();
        let mut parts: Vec<Tensor<1>> = scalars
            .iter()
            .map(|(_, value)| value.clone().without_autodiff())
            .collect();
        parts.extend(
            rows.iter()
                .chain(&self.assignment)
                .map(|part| part.clone().flatten(0, 1)),
        );
        if parts.is_empty() {
            return Ok(BTreeMap::new());
        }
        let values = floats(Tensor::cat(parts, 0))?;
        let (of_scalars, values) = values.split_at(scalars.len());
        let names = scalars.iter().map(|(name, _)| (*name).to_owned());
        let mut measured: BTreeMap<String, f32> = names.zip(of_scalars.iter().copied()).collect();
        let width = rows.as_ref().map_or(0, |rows| rows.dims()[1]);
        let (embeddings, assignment) = values.split_at(rows.map_or(0, |rows| rows.dims().iter().product()));
        if width > 0 && embeddings.len() > width {
            measured.insert("embedding_rank".into(), rank(embeddings, width) as f32);
            measured.insert("embedding_spread".into(), spread(embeddings, width) as f32);
        }
        if !assignment.is_empty() {
            let entropy = entropy(assignment);
            measured.insert("mean_assignment_entropy".into(), entropy as f32);
            measured.insert("prototypes_used".into(), entropy.exp() as f32);
        }
        Ok(measured)
    }

    /// What a resumed run needs of it, as a safetensors file; `None` if nothing was watched.
    ///
    /// # Errors
    /// Tensors that cannot be read from the device.
    pub(crate) fn to_bytes(&self) -> Result<Option<Vec<u8>>, String> {
        let mut tensors = vec![];
        for (name, tensor) in [(EMBEDDINGS, self.newest()), (ASSIGNMENT, self.assignment.clone())] {
            let Some(tensor) = tensor else { continue };
            let shape = tensor.dims().to_vec();
            tensors.push((name, shape, read(tensor.flatten(0, 1))?));
        }
        if tensors.is_empty() {
            return Ok(None);
        }
        let views = tensors
            .iter()
            .map(|(name, shape, data)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), data.as_bytes())?;
                Ok((*name, view))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| error.to_string())?;
        let bytes = safetensors::serialize(views, None).map_err(|error| error.to_string())?;
        Ok(Some(bytes))
    }

    /// The values of [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    /// Damaged bytes.
    pub(crate) fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| format!("damaged: {error}"))?;
        let read = |name: &str| {
            let view = file.tensor(name).ok()?;
            let shape = <[usize; 2]>::try_from(view.shape()).ok()?;
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            Some(Tensor::<2>::from_data(TensorData::new(values, shape), device))
        };
        Ok(Self {
            embeddings: read(EMBEDDINGS).into_iter().collect(),
            assignment: read(ASSIGNMENT),
            gradient_norm: None,
        })
    }
}

const EMBEDDINGS: &str = "embeddings";
const ASSIGNMENT: &str = "assignment";

fn floats(values: Tensor<1>) -> Result<Vec<f32>, String> {
    read(values)?.try_to_vec().map_err(|error| error.to_string())
}

/// Values on the host, as f32.
fn read(values: Tensor<1>) -> Result<TensorData, String> {
    let data = values
        .without_autodiff()
        .try_into_data()
        .map_err(|error| device_reason(&error.to_string()))?;
    Ok(data.convert::<f32>())
}

/// RankMe of rows as the loss has them, neither centered nor scaled: between 1 and the smaller of rows and width.
fn rank(rows: &[f32], width: usize) -> f64 {
    let count = rows.len() / width;
    // The smaller Gram matrix, of vectors that lie together.
    let (size, length) = (width.min(count), width.max(count));
    let at = |vector: usize, place: usize| match width <= count {
        true => rows[place * width + vector],
        false => rows[vector * width + place],
    };
    let vectors: Vec<f64> = (0..size * length)
        .map(|index| f64::from(at(index / length, index % length)))
        .collect();
    let vector = |index: usize| &vectors[index * length..(index + 1) * length];
    let mut gram = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..=row {
            let product = dot(vector(row), vector(column));
            (gram[row * size + column], gram[column * size + row]) = (product, product);
        }
    }
    if gram.iter().any(|value| !value.is_finite()) {
        return f64::NAN;
    }
    rank_me(symmetric_eigenvalues(gram, size))
}

/// The deviation of each dimension of L2-normalized rows, averaged, times the root of the width: 1 if they spread evenly over the
/// sphere, 0 if they are one point.
fn spread(rows: &[f32], width: usize) -> f64 {
    let count = (rows.len() / width) as f64;
    let (mut sums, mut squares) = (vec![0.0; width], vec![0.0; width]);
    for row in rows.chunks_exact(width) {
        let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
        let length = square.sqrt().max(1e-12);
        for (at, value) in row.iter().enumerate() {
            let value = f64::from(*value) / length;
            sums[at] += value;
            squares[at] += value * value;
        }
    }
    let deviation =
        |(sum, square): (&f64, &f64)| ((square - sum * sum / count) / (count - 1.0)).max(0.0).sqrt();
    sums.iter().zip(&squares).map(deviation).sum::<f64>() / (width as f64).sqrt()
}

/// The entropy of a distribution, in nats.
fn entropy(probabilities: &[f32]) -> f64 {
    let sum: f64 = probabilities.iter().map(|value| f64::from(*value)).sum();
    let of = |value: &f32| {
        let share = f64::from(*value) / sum;
        -share * share.max(1e-300).ln()
    };
    probabilities.iter().map(of).sum()
}

#[cfg(test)]
mod tests;
