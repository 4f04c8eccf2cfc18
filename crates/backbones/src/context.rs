//! What a forward pass may know beside its input: how far the run is, where random draws come from, who shares the
//! batch, and whether this is training. It goes to every `forward`, so that batch statistics, masks and drop path have
//! one door, and no layer needs a clock, a device generator or a hidden flag.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use burn::tensor::Tensor;

/// Where in its run a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimizer steps done before this one.
    pub step: usize,
    /// Optimizer steps in one pass over the data; at least 1.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub steps: usize,
}

impl Progress {
    /// Epochs completed before this step: the epoch index, from 0, that the papers' schedules use.
    pub fn epoch(&self) -> usize {
        self.step / self.steps_per_epoch.max(1)
    }

    /// Epochs of the whole run; a last, shorter one counts.
    pub fn epochs(&self) -> usize {
        self.steps.div_ceil(self.steps_per_epoch.max(1))
    }

    /// The part of the run that is done, from 0 at the first step to 1 after the last.
    pub fn fraction(&self) -> f64 {
        if self.steps == 0 {
            return 1.0;
        }
        self.step as f64 / self.steps as f64
    }
}

/// The source of every random draw of a step, without state: a draw is a function of the run's seed, what it is for,
/// the step, and an index within the step. So a resumed run draws what a run never stopped would have drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    step: u64,
    /// Which part of the step, hashed; 0 is the first.
    part: u64,
}

impl Draws {
    /// The draws of one optimizer step of the run with this seed.
    pub fn new(seed: u64, step: u64) -> Self {
        Self { seed, step, part: 0 }
    }

    /// The draws of the n-th part of this step: of a further forward pass of one network, or of a micro-batch. Parts
    /// draw independently of each other; `part(0)` draws what the step itself draws. Parts have parts:
    /// `part(2).part(1)` is neither `part(1).part(2)` nor `part(2)`.
    pub fn part(&self, n: u64) -> Self {
        if self.part == 0 && n == 0 {
            return *self;
        }
        let part = hash_bytes(hash_bytes(FNV_START, &self.part.to_le_bytes()), &n.to_le_bytes());
        Self { part, ..*self }
    }

    /// The draws of the whole step, whichever part of it these are: for what is drawn for each image, which then does not
    /// depend on micro-batches. The index is the image's in the step, counted through all of them.
    pub fn whole_step(&self) -> Self {
        Self { part: 0, ..*self }
    }

    /// A generator for one purpose; generators of different purposes, steps or indices are independent.
    ///
    /// `purpose` names the use (`"moco.shuffle"`), so that no list of purposes has to grow with every method; `index`
    /// tells apart the draws of one purpose within a step (an image's record position, a layer, a micro-batch).
    pub fn rng(&self, purpose: &str, index: u64) -> ChaCha8Rng {
        rng_of([self.seed, hash_name(purpose) ^ self.part, self.step, index])
    }
}

/// ChaCha with 8 rounds, keyed by four words. The key alone tells streams apart, so equal keys are equal streams.
pub(crate) fn rng_of(words: [u64; 4]) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// FNV-1a, 64 bits. Written out because the standard library's hashers may change between Rust versions, and these
/// values decide what a seed means.
pub(crate) fn hash_name(name: &str) -> u64 {
    hash_bytes(FNV_START, name.as_bytes())
}

/// The FNV-1a hash of no bytes.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// `hash`, an FNV-1a hash, after further bytes.
fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The one way to other devices. Whatever is taken over the whole batch (a mean, the negatives, what a queue
/// receives, Sinkhorn's sums, a centre) goes through it. Today there is one replica and each method is the identity.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    // Private, so that other replicas can arrive without a change for callers.
    _private: (),
}

impl Replicas {
    /// One device, which holds the whole batch.
    pub fn single() -> Self {
        Self::default()
    }

    /// How many devices share the batch.
    pub fn count(&self) -> usize {
        1
    }

    /// The mean of every replica's `tensor`, on each of them.
    pub fn mean<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    /// The sum of every replica's `tensor`, on each of them.
    pub fn sum<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    /// Every replica's rows, one after the other: `[rows, …]` to `[count · rows, …]`.
    pub fn gather<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }
}

/// What a forward pass may know beside its input.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where in the run this step stands.
    pub progress: Progress,
    /// Random draws of this step.
    pub draws: Draws,
    /// The devices that share the batch.
    pub replicas: Replicas,
    /// Whether layers behave as in training: batch statistics are used, and running statistics move.
    pub training: bool,
    /// Whether training drops residual branches at random, in networks with a drop path rate. A teacher drops none.
    pub drop_path: bool,
    /// Images that share batch statistics in training; `None` is the whole batch. Batch normalisation asserts that it
    /// divides the batch. See [`BatchNorm`](crate::layers::BatchNorm).
    pub batch_norm_images: Option<usize>,
    /// This micro-batch's index, and how many make the step. Running statistics move once a step, so each micro-batch
    /// brings its part.
    pub micro_batch: (usize, usize),
}

impl Context {
    /// A step of training on one device, with statistics over the whole batch.
    pub fn training(progress: Progress, draws: Draws) -> Self {
        Self {
            progress,
            draws,
            replicas: Replicas::single(),
            training: true,
            drop_path: true,
            batch_norm_images: None,
            micro_batch: (0, 1),
        }
    }

    /// The same for the `index`-th of a step's `count` micro-batches, with draws of its own.
    pub fn micro_batch(&self, index: usize, count: usize) -> Self {
        Self {
            micro_batch: (index, count),
            ..self.part(index as u64)
        }
    }

    /// The same for a teacher: its forward pass behaves as in training (batch statistics), but drops no path.
    pub fn teacher(&self) -> Self {
        Self {
            drop_path: false,
            ..self.clone()
        }
    }

    /// The same with the draws of the n-th part of the step (see [`Draws::part`]): a network that runs twice in a step
    /// takes `part(0)` and `part(1)`, so that its two passes drop different paths.
    pub fn part(&self, n: u64) -> Self {
        Self {
            draws: self.draws.part(n),
            ..self.clone()
        }
    }

    /// The same with batch statistics of at most `images` images: a network that sees several views at once then
    /// normalises each view by itself, as if the views came one after the other.
    pub fn per_view(&self, images: usize) -> Self {
        Self {
            batch_norm_images: Some(self.batch_norm_images.unwrap_or(images)),
            ..self.clone()
        }
    }

    /// A frozen network: running statistics are used and kept, and nothing is drawn.
    pub fn evaluation() -> Self {
        let progress = Progress {
            step: 0,
            steps_per_epoch: 1,
            steps: 0,
        };
        Self {
            training: false,
            drop_path: false,
            ..Self::training(progress, Draws::new(0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn progress_counts_completed_epochs() {
        let at = |step| Progress {
            step,
            steps_per_epoch: 10,
            steps: 25,
        };
        assert_eq!((at(0).epoch(), at(9).epoch(), at(10).epoch()), (0, 0, 1));
        assert_eq!(at(0).epochs(), 3);
        assert_eq!((at(0).fraction(), at(25).fraction()), (0.0, 1.0));
    }

    #[test]
    fn draws_depend_on_every_part_of_their_key() {
        let first = |seed, step, purpose, index| Draws::new(seed, step).rng(purpose, index).next_u64();
        let value = first(1, 2, "a", 3);
        assert_eq!(value, first(1, 2, "a", 3));
        assert_ne!(value, first(2, 2, "a", 3));
        assert_ne!(value, first(1, 3, "a", 3));
        assert_ne!(value, first(1, 2, "b", 3));
        assert_ne!(value, first(1, 2, "a", 4));
    }

    #[test]
    fn parts_of_a_step_draw_apart() {
        let step = Draws::new(1, 2);
        let parts = [
            step,
            step.part(1),
            step.part(2),
            step.part(1).part(0),
            step.part(1).part(2),
            step.part(2).part(1),
        ];
        assert_eq!(step.part(0), step);
        assert_eq!(step.part(2).part(1).whole_step(), step);
        let values = parts.map(|draws| draws.rng("a", 3).next_u64());
        let distinct = std::collections::BTreeSet::from(values);
        assert_eq!(distinct.len(), values.len());
        // A part is apart within its step and purpose only: other steps have parts of their own.
        let value = |draws: Draws, purpose| draws.part(1).rng(purpose, 3).next_u64();
        assert_ne!(value(step, "a"), value(step, "b"));
        assert_ne!(value(step, "a"), value(Draws::new(1, 3), "a"));
    }

    #[test]
    fn a_teacher_trains_without_drop_path() {
        let progress = Progress {
            step: 0,
            steps_per_epoch: 1,
            steps: 1,
        };
        let student = Context::training(progress, Draws::new(0, 0)).part(1);
        let teacher = student.teacher();
        assert!(student.drop_path && student.training);
        assert!(!teacher.drop_path && teacher.training && teacher.draws == student.draws);
        assert!(!Context::evaluation().drop_path);
    }

    /// A seed must mean the same in every later version: these are the published FNV-1a values.
    #[test]
    fn names_hash_as_published() {
        assert_eq!(hash_name(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_name("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash_name("foobar"), 0x8594_4171_f739_67e8);
    }
}
