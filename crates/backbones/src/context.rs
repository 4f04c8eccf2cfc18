//! The context of a forward pass: progress of the run, the source of random draws, the devices that share the
//! batch, and the training flag. Every `forward` takes it, so that batch statistics, masks and drop path have
//! one source, and no layer needs a clock, a device generator or a hidden flag.

use crate::draws::Draws;
use crate::replicas::Replicas;

/// The position of a step in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPosition {
    /// Optimizer steps done before this one.
    pub step: usize,
    /// Optimizer steps in one pass over the data; at least 1.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub steps: usize,
}

impl RunPosition {
    /// Step `step` of `steps`, with `steps_per_epoch` steps per pass over the data.
    pub fn at(step: usize, steps_per_epoch: usize, steps: usize) -> Self {
        Self {
            step,
            steps_per_epoch,
            steps,
        }
    }

    /// Epochs completed before this step: the epoch index, from 0, that the papers' schedules use.
    pub fn epoch(&self) -> usize {
        self.step / self.steps_per_epoch.max(1)
    }

    /// Epochs of the whole run; a last, shorter one counts.
    pub fn epochs(&self) -> usize {
        self.steps.div_ceil(self.steps_per_epoch.max(1))
    }

    /// The finished share of the run, from 0 at the first step to 1 after the last.
    pub fn fraction(&self) -> f64 {
        if self.steps == 0 {
            return 1.0;
        }
        self.step as f64 / self.steps as f64
    }
}

/// The context of a forward pass besides its input.
#[derive(Clone, Debug)]
pub struct Context {
    /// The position of this step in the run.
    pub progress: RunPosition,
    /// Random draws of this step.
    pub draws: Draws,
    /// The devices that share the batch.
    pub replicas: Replicas,
    /// Whether layers behave as in training: they use batch statistics and update running statistics.
    pub training: bool,
    /// Whether training drops residual branches at random, in networks with a drop path rate. A teacher drops
    /// no branch.
    pub drop_path: bool,
    /// Images that share batch statistics in training; `None` is the whole batch. Batch normalization asserts that it
    /// divides the batch. See [`BatchNorm`](crate::layers::BatchNorm).
    pub batch_norm_images: Option<usize>,
    /// Replicas whose images share batch statistics in training, in runs of this length; 1: each its own.
    pub batch_norm_replicas: usize,
    /// This micro-batch's index, and the number of micro-batches per step, on this replica. Running statistics are
    /// updated once per step, so each micro-batch adds its share. See [`place`](Self::place) for draws.
    pub micro_batch: (usize, usize),
}

impl Context {
    /// A step of training on one device, with statistics over the whole batch.
    pub fn training(progress: RunPosition, draws: Draws) -> Self {
        Self {
            progress,
            draws,
            replicas: Replicas::single(),
            training: true,
            drop_path: true,
            batch_norm_images: None,
            batch_norm_replicas: 1,
            micro_batch: (0, 1),
        }
    }

    /// The context of a step that `replicas` share, each with `images` photographs; before
    /// [`micro_batch`](Self::micro_batch).
    ///
    /// `batch_norm_images` counts the whole batch until now: more of them than a replica has are those of several.
    ///
    /// # Panics
    /// If `batch_norm_images` and `images` do not divide each other, either way.
    pub fn shared_by(&self, replicas: Replicas, images: usize) -> Self {
        let (batch_norm_images, batch_norm_replicas) = match self.batch_norm_images {
            None => (None, replicas.count()),
            Some(group) if group <= images => (Some(group), 1),
            Some(group) => (Some(images), group / images),
        };
        let statistics = self.batch_norm_images.unwrap_or(images);
        assert!(
            images > 0 && (statistics.is_multiple_of(images) || images.is_multiple_of(statistics)),
            "batch_norm_images = {statistics} does not fit to the {images} images of a replica"
        );
        Self {
            replicas,
            batch_norm_images,
            batch_norm_replicas,
            ..self.clone()
        }
    }

    /// The context of the `index`-th of the `count` micro-batches of this replica's step, with its own draws.
    ///
    /// A replica is a micro-batch to all that is drawn: two replicas draw as two micro-batches of one.
    pub fn micro_batch(&self, index: usize, count: usize) -> Self {
        let own = Self {
            micro_batch: (index, count),
            ..self.clone()
        };
        own.part(own.place() as u64)
    }

    /// The index of this micro-batch among those of all replicas: draws for an image go by its place in the step,
    /// `place · images + image`, and are then the same however the batch is divided.
    pub fn place(&self) -> usize {
        let (index, count) = self.micro_batch;
        self.replicas.rank() * count + index
    }

    /// Draws that are the same on every replica, for what they do together: those of the micro-batch's own index.
    pub fn common_draws(&self) -> Draws {
        self.draws.whole_step().part(self.micro_batch.0 as u64)
    }

    /// The context of a teacher: its forward pass drops no path, and otherwise behaves as in training. Its
    /// batch normalization uses the batch's statistics and updates its own running ones;
    /// [`teacher`](crate::teacher) describes their use.
    pub fn teacher(&self) -> Self {
        Self {
            drop_path: false,
            ..self.clone()
        }
    }

    /// The context with the draws of the n-th part of the step (see [`Draws::part`]): a network that runs
    /// twice in a step takes `part(0)` and `part(1)`, so that its two passes drop different paths.
    pub fn part(&self, n: u64) -> Self {
        Self {
            draws: self.draws.part(n),
            ..self.clone()
        }
    }

    /// The context with batch statistics of at most `images` images: a network that processes several views
    /// at once then normalizes each view separately, as if the views ran one after the other.
    pub fn per_view(&self, images: usize) -> Self {
        Self {
            batch_norm_images: Some(self.batch_norm_images.unwrap_or(images)),
            ..self.clone()
        }
    }

    /// A frozen network: running statistics are used and unchanged, and nothing is random.
    pub fn evaluation() -> Self {
        let progress = RunPosition::at(0, 1, 0);
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

    #[test]
    fn progress_counts_completed_epochs() {
        let at = |step| RunPosition::at(step, 10, 25);
        assert_eq!((at(0).epoch(), at(9).epoch(), at(10).epoch()), (0, 0, 1));
        assert_eq!(at(0).epochs(), 3);
        assert_eq!((at(0).fraction(), at(25).fraction()), (0.0, 1.0));
    }

    #[test]
    fn a_teacher_trains_without_drop_path() {
        let progress = RunPosition::at(0, 1, 1);
        let student = Context::training(progress, Draws::new(0, 0)).part(1);
        let teacher = student.teacher();
        assert!(student.drop_path && student.training);
        assert!(!teacher.drop_path && teacher.training && teacher.draws == student.draws);
        assert!(!Context::evaluation().drop_path);
    }
}
