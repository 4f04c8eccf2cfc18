//! The trait of what moves values between ranks, and a collective as a value.

mod checked;
mod threads;

use std::fmt::Debug;
use std::sync::Arc;

pub use checked::Checked;
pub use threads::threads;

/// What moves values between ranks.
///
/// All ranks call the same functions in the same order. An engine returns no errors: a rank that cannot reach the
/// others ends the whole run with a message.
pub trait Engine: Debug + Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Sends `sends[r]` of the values, in order, to each rank `r`, and returns what the ranks sent here:
    /// `receives[r]` values of each, in the order of ranks.
    fn exchange(&self, values: &[f32], sends: &[usize], receives: &[usize]) -> Vec<f32>;

    /// Every rank's values in the order of ranks; each rank gives the same number.
    fn gather(&self, own: &[f32]) -> Vec<f32>;

    /// Every rank's bytes, of any length each.
    fn gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>>;

    /// The bytes of rank 0; those of others are ignored.
    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8>;

    /// The sum of every rank's values, in place.
    ///
    /// Added from rank 0 upward, so that the bits depend on neither a network nor a library's choice of algorithm, and
    /// equal those of as many micro-batches on one device. Each rank sums a chunk, as in a ring.
    fn sum(&self, values: &mut [f32]) {
        let ranks = self.size();
        if ranks == 1 || values.is_empty() {
            return;
        }
        let chunk = values.len().div_ceil(ranks);
        let mut padded = values.to_vec();
        padded.resize(chunk * ranks, 0.0);
        let all = self.gather(&self.scatter_sum(&padded));
        values.copy_from_slice(&all[..values.len()]);
    }

    /// This rank's chunk, of `ranks` equal ones, of the sum of every rank's values, added from rank 0 upward.
    fn scatter_sum(&self, values: &[f32]) -> Vec<f32> {
        let ranks = self.size();
        let chunk = values.len() / ranks;
        let counts = vec![chunk; ranks];
        let mut parts = self.exchange(values, &counts, &counts);
        let (sum, others) = parts.split_at_mut(chunk);
        for other in others.chunks_exact(chunk.max(1)) {
            for (sum, value) in sum.iter_mut().zip(other) {
                *sum += value;
            }
        }
        parts.truncate(chunk);
        parts
    }

    /// Returns once every rank has called it.
    fn barrier(&self) {
        self.gather_bytes(&[]);
    }

    /// The optimizer step that the calls to come belong to, counted from 0, for messages about a rank that is late.
    fn at_step(&self, _step: usize) {}
}

/// A collective on a tensor, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sum,
    Gather,
    ScatterSum,
}

/// A collective with its engine.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) engine: Arc<dyn Engine>,
}

impl Call {
    /// The backward pass.
    pub(crate) fn transposed(self) -> Self {
        let kind = match self.kind {
            Kind::Sum => Kind::Sum,
            Kind::Gather => Kind::ScatterSum,
            Kind::ScatterSum => Kind::Gather,
        };
        Self { kind, ..self }
    }

    /// The values of a tensor of `rows` rows, and the rows of the result.
    pub(crate) fn run(&self, mut values: Vec<f32>, rows: usize) -> (Vec<f32>, usize) {
        let ranks = self.engine.size();
        match self.kind {
            Kind::Sum => {
                self.engine.sum(&mut values);
                (values, rows)
            }
            Kind::Gather => (self.engine.gather(&values), rows * ranks),
            Kind::ScatterSum => (self.engine.scatter_sum(&values), rows / ranks),
        }
    }
}
