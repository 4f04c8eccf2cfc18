//! The trait between the loop and a self-supervised method.
//!
//! Ownership is its purpose: `Student` is everything that the optimizer sees; `State` is everything else that
//! must be saved (teacher, queue, center). Gradients and optimizer state are keyed by parameter id, so a
//! teacher inside the optimized module would receive the student's update.

use crate::batch::Batch;
use crate::cause::{Cause, Remedy};
use crate::optimizer::ParameterRule;
use crate::released::Released;
use backbones::{Backbone, Context, Init, RunPosition, parameters};
use burn::module::Module;
use burn::tensor::Tensor;

/// The number of views of each image that an objective needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewCount {
    /// Exactly this many, over all groups.
    Exactly(usize),
    /// This many global views, with the first group's size, and a minimum of others.
    GlobalAndLocal {
        /// Views of the first size.
        global: usize,
        /// Minimum number of local views.
        least_local: usize,
    },
    /// One view of each picture, of its own size and with its objects; the objective's section gives the recipe
    /// ([`ObjectiveSection::object_views`](crate::ObjectiveSection::object_views)), and there are no groups.
    Objects,
}

impl ViewCount {
    /// Gives an error for view groups with another number.
    pub fn check(&self, groups: &[data::ViewGroup]) -> Result<(), String> {
        let total: usize = groups.iter().map(|group| group.count).sum();
        match *self {
            Self::Exactly(count) if total != count => Err(format!(
                "`views` must give exactly {count} views of each image for this objective, got {total}"
            )),
            Self::GlobalAndLocal { global, least_local } => {
                // The objective sees groups of one size as one group: see `Batch`.
                let size = groups.first().map(data::ViewGroup::output_px);
                let same = |group: &&data::ViewGroup| Some(group.output_px()) == size;
                let first: usize = groups.iter().take_while(same).map(|group| group.count).sum();
                if first != global || total - first < least_local {
                    return Err(format!(
                        "`views` must give {global} global views for this objective (of the size of the first group) and at least {least_local} of other sizes, got {first} and {}",
                        total - first
                    ));
                }
                if groups.iter().skip_while(same).any(|group| same(&group)) {
                    return Err(
                        "`views` must have its groups of the global size together at the front".to_string(),
                    );
                }
                Ok(())
            }
            Self::Objects if total > 0 => Err(format!(
                "the objective makes its own views of pictures with objects, but `views` gives {total}"
            )),
            Self::Exactly(_) | Self::Objects => Ok(()),
        }
    }
}

/// A loss and further values for the log.
#[derive(Debug)]
pub struct Loss {
    /// The scalar to differentiate, `[1]`.
    pub total: Tensor<1>,
    /// Named scalars for the log, `[1]` each and detached. They stay on the device until a log line is due.
    pub signals: Vec<(&'static str, Tensor<1>)>,
    /// What the log measures over several steps.
    pub watched: Watched,
}

/// Values of a step that only several steps and images together say something about. They have no graph, and stay on the device
/// until a log line is due.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// An embedding of each image, `[images, width]`: their rank and spread show a collapse.
    pub embeddings: Option<Tensor<2>>,
    /// The images' probabilities over prototypes, averaged over the images, `[1, prototypes]`: prototypes that no image uses
    /// show in the mean alone.
    pub assignment: Option<Tensor<2>>,
}

impl Watched {
    /// The values of a step whose micro-batches had these.
    fn of_step(parts: Vec<Self>) -> Self {
        let (embeddings, assignments): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.embeddings, part.assignment))
            .unzip();
        let rows = |parts: Vec<Option<Tensor<2>>>| {
            let parts: Vec<Tensor<2>> = parts.into_iter().flatten().collect();
            (!parts.is_empty()).then(|| Tensor::cat(parts, 0))
        };
        Self {
            embeddings: rows(embeddings),
            assignment: rows(assignments).map(|rows| rows.mean_dim(0)),
        }
    }
}

impl Loss {
    /// A loss with signals, and nothing to watch over several steps.
    pub fn new(total: Tensor<1>, signals: Vec<(&'static str, Tensor<1>)>) -> Self {
        Self {
            total,
            signals,
            watched: Watched::default(),
        }
    }

    /// With an embedding of each image, `[images, width]`, as the loss compares them.
    pub fn with_embeddings(mut self, embeddings: &Tensor<2>) -> Self {
        self.watched.embeddings = Some(embeddings.clone().without_autodiff());
        self
    }

    /// With the images' probabilities over prototypes, `[rows, prototypes]`.
    pub fn with_assignments(mut self, probabilities: &Tensor<2>) -> Self {
        self.watched.assignment = Some(probabilities.clone().without_autodiff().mean_dim(0));
        self
    }

    /// The mean of the losses of a step's micro-batches, and of each signal.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn mean(mut losses: Vec<Self>) -> Self {
        let first = losses.remove(0);
        let count = (losses.len() + 1) as f64;
        if losses.is_empty() {
            return first;
        }
        // Only values are needed from here on.
        let mut total = first.total.without_autodiff();
        let mut signals = first.signals;
        let mut watched = vec![first.watched];
        for loss in losses {
            watched.push(loss.watched);
            total = total + loss.total.without_autodiff();
            for (sum, (_, value)) in signals.iter_mut().zip(loss.signals) {
                sum.1 = sum.1.clone() + value;
            }
        }
        Self {
            total: total / count,
            signals: signals
                .into_iter()
                .map(|(name, sum)| (name, sum / count))
                .collect(),
            watched: Watched::of_step(watched),
        }
    }
}

/// A self-supervised method: its networks and state, its loss, and its update after a step.
///
/// Implementations hold their config and no mutable state. They do no I/O, read no clock, and draw only from
/// [`Context::draws`].
pub trait Objective {
    /// Everything that the optimizer updates.
    type Student: Module;
    /// Everything else that must be saved; none of its parameters requires a gradient.
    type State: Module;
    /// Passed from [`loss`](Self::loss) to [`commit`](Self::commit), such as the keys to queue.
    type Pending;

    /// The views that [`loss`](Self::loss) reads; a config with another number is an error.
    fn views(&self) -> ViewCount;

    /// Networks and state at step 0, all drawn from `init` (never from a device's generator).
    fn init(&self, init: &Init) -> (Self::Student, Self::State);

    /// The loss of a (micro-)batch. Pure: it only updates batch statistics.
    fn loss(
        &self,
        student: &Self::Student,
        state: &Self::State,
        batch: &Batch,
        context: &Context,
    ) -> (Loss, Self::Pending);

    /// Called once after each optimizer step with the micro-batches' pending values, in order: updates
    /// teacher, queue, center.
    fn commit(
        &self,
        student: Self::Student,
        state: Self::State,
        pending: Vec<Self::Pending>,
        context: &Context,
    ) -> (Self::Student, Self::State);

    /// Paths (prefixes, as in `head.last`) of student parameters whose gradients are dropped at this point of
    /// the run.
    fn frozen(&self, _: &RunPosition) -> Vec<&'static str> {
        vec![]
    }

    /// Learning rates and weight decay that differ for some parameters of the student: SimSiam's predictor stays at the
    /// peak rate, SwAV's semi-supervised head learns faster.
    fn parameter_rules(&self) -> Vec<ParameterRule> {
        vec![]
    }

    /// The loss of a network that has learned nothing, for batches of so many images: `ln K` of K prototypes or candidates. It
    /// must be above 0; `None` if the method has no such value.
    fn chance_loss(&self, _batch_images: usize) -> Option<f64> {
        None
    }

    /// Numbers of the method that hold in a step, for the log: the teacher's momentum and temperature, the age of the queue.
    fn in_force(&self, _position: &RunPosition, _batch_images: usize) -> Vec<(&'static str, f64)> {
        vec![]
    }

    /// Scalars of student and state between steps, `[1]` each, for the log: how far the teacher is from the student. Called when
    /// a line is due, not in each step.
    fn measured(&self, _student: &Self::Student, _state: &Self::State) -> Vec<(&'static str, Tensor<1>)> {
        vec![]
    }

    /// Prototypes, clusters or classes that [`Watched::assignment`] covers.
    fn prototypes(&self) -> Option<usize> {
        None
    }

    /// Where released checkpoints of the method have its parameters besides the backbone's: `start.all_parts` takes them over.
    fn released(&self) -> Vec<Released> {
        vec![]
    }

    /// What the method's papers and issues advise against a cause of an alarm. The general advice follows it.
    fn remedies(&self, _cause: Cause) -> Vec<Remedy> {
        vec![]
    }

    /// Reason why the loss needs the whole batch at once, if it does (negatives, Sinkhorn, correlations over
    /// the batch): such an objective rejects `training.micro_batch_images`.
    fn whole_batch(&self) -> Option<&'static str> {
        None
    }

    /// Whether the networks take statistics over the images of a batch, as batch normalization does in training.
    /// Micro-batches then need `training.batch_norm_images`.
    fn takes_batch_statistics(&self, student: &Self::Student) -> bool {
        parameters(student)
            .iter()
            .any(|parameter| parameter.running_statistic)
    }

    /// The network that the method's paper evaluates. Its tensors are shared with the student or the state.
    fn encoder(&self, student: &Self::Student, state: &Self::State) -> Backbone;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_of_views_is_refused_with_both_numbers() {
        let sized = |count, size_px| data::ViewGroup {
            count,
            transforms: vec![data::Transform::CenterCrop { size_px }],
        };
        let group = |count| sized(count, 8);
        assert_eq!(ViewCount::Exactly(2).check(&[group(1), group(1)]), Ok(()));
        let error = ViewCount::Exactly(2).check(&[group(3)]).unwrap_err();
        assert!(error.contains("exactly 2") && error.contains("got 3"), "{error}");
        let multi = ViewCount::GlobalAndLocal {
            global: 2,
            least_local: 1,
        };
        assert_eq!(multi.check(&[group(2), sized(6, 4)]), Ok(()));
        assert_eq!(multi.check(&[group(1), group(1), sized(6, 4)]), Ok(()));
        assert!(multi.check(&[group(2)]).unwrap_err().contains("at least 1"));
        assert!(
            multi
                .check(&[group(2), group(6)])
                .unwrap_err()
                .contains("got 8 and 0")
        );
        let apart = multi.check(&[group(2), sized(6, 4), group(1)]).unwrap_err();
        assert!(apart.contains("at the front"), "{apart}");
    }
}
