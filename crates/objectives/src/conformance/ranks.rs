//! Several ranks, compared with one device that holds the whole batch: loss, gradients and state of every method.
//!
//! Ranks are threads here. Started by `mpirun` in a build with the feature `mpi`, they are the launcher's processes:
//! `scripts/check-ranks.sh` does so.

use super::{Case, Gradients, IMAGES, Suite, Trial, dropping, init, scalar, values};
use crate::every_method_conforms;
use crate::method::MethodConfig;
use backbones::{BackboneConfig, Context, Replicas};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use kernels::collective::{Checked, Engine, threads};
use std::collections::BTreeMap;
use std::sync::Arc;
use training::{Batch, Objective};

/// The allowed error of loss and state; relative to 0.1 for smaller losses, which are differences of larger numbers.
const BOUND: f64 = 3e-5;
/// The same of gradients, with statistics inside a rank and over all ranks.
const GRADIENT_BOUNDS: [f64; 2] = [2e-5, 1e-4];

/// Seeds and sizes of changes of pixels: 2 and 8 units in the last place.
const NOISE: [(f64, f64); 4] = [(0.1, 2.4e-7), (0.6, 2.4e-7), (0.3, 9.6e-7), (0.8, 9.6e-7)];

/// Images that share batch statistics where they do not cross ranks: 4 ranks have 2 each.
const GROUP: usize = 2;

/// What a step computed.
struct Step {
    loss: f64,
    gradients: Vec<f64>,
    state: BTreeMap<String, Vec<f32>>,
}

#[test]
fn every_method_makes_the_same_step_on_ranks() {
    if mpi::Launch::of_environment().is_some() {
        let world = mpi::World::join(None).unwrap();
        every_method_conforms(&OnRank(world.engine()));
        world.leave();
        return;
    }
    for size in [2, 4] {
        std::thread::scope(|scope| {
            let started: Vec<_> = threads(size)
                .into_iter()
                .map(|engine| scope.spawn(|| every_method_conforms(&OnRank(engine))))
                .collect();
            for thread in started {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
    }
}

/// Steps of a method on this rank, compared with one device.
struct OnRank(Arc<dyn Engine>);

impl Suite for OnRank {
    fn check_on<C: MethodConfig>(&self, case: &Case<C>, backbone: &BackboneConfig) {
        let engine: Arc<dyn Engine> = Arc::new(Checked::new(self.0.clone()));
        let replicas = Replicas::of(engine.clone());
        for (group, bound) in [Some(GROUP), None].into_iter().zip(GRADIENT_BOUNDS) {
            // Paths are dropped by an image's place in its micro-batch, so that a whole batch drops others.
            let trial = case.on(&dropping(backbone, 0.0));
            for step in 0..3 {
                let context = Context {
                    batch_norm_images: group,
                    ..trial.context(step)
                };
                let batch = trial.batch(step);
                let whole = on_one(&trial, &batch, &context, 1);
                let shared = on_rank(&trial, step, &context, &replicas);
                let name = format!("{} on {}, {group:?}, step {step}", C::NAME, backbone.name());
                close(&whole, &shared, &name);
                let error = gradient_error(&shared.gradients, &whole.gradients);
                if error > bound {
                    // Networks that magnify rounding: three times what a change of pixels' last bits does on one device.
                    let rounded = NOISE.map(|noise| on_one(&trial, &with_noise(&batch, noise), &context, 1));
                    let rounding = rounded
                        .iter()
                        .map(|rounded| gradient_error(&rounded.gradients, &whole.gradients));
                    let bound = 3.0 * rounding.fold(0.0, f64::max);
                    assert!(
                        error <= bound,
                        "{name}: gradients are {error:e} off, rounding allows {bound:e}"
                    );
                }
            }
            // A rank is a micro-batch: the same bits, with the same paths dropped.
            if group.is_some() && case.independent_images {
                let trial = case.on(backbone);
                let context = Context {
                    batch_norm_images: group,
                    ..trial.context(0)
                };
                let parts = on_one(&trial, &trial.batch(0), &context, engine.size());
                let shared = on_rank(&trial, 0, &context, &replicas);
                assert!(
                    parts.gradients == shared.gradients,
                    "{}: {} ranks have other gradients than as many micro-batches",
                    C::NAME,
                    engine.size()
                );
            }
        }
    }
}

/// The step on one device, in micro-batches.
fn on_one<O: Objective>(trial: &Trial<'_, O>, batch: &Batch, context: &Context, parts: usize) -> Step {
    let (student, state) = init(trial, 1);
    let (mut loss, mut sum, mut pending) = (0.0, Vec::<f32>::new(), vec![]);
    for (index, part) in batch.clone().parts(IMAGES / parts).into_iter().enumerate() {
        let context = context.micro_batch(index, parts);
        let (value, gradients, of_part) = gradients_of(trial, &student, &state, &part, &context, parts);
        loss += value / parts as f64;
        pending.push(of_part);
        match sum.is_empty() {
            true => sum = gradients,
            false => sum
                .iter_mut()
                .zip(gradients)
                .for_each(|(sum, value)| *sum += value),
        }
    }
    let (_, state) = trial.objective.commit(student, state, pending, context);
    Step::new(loss, sum, &state)
}

/// The step of this rank, on its part of the batch.
fn on_rank<O: Objective>(trial: &Trial<'_, O>, step: usize, context: &Context, replicas: &Replicas) -> Step {
    let (student, state) = init(trial, 1);
    let (rank, count) = (replicas.rank(), replicas.count());
    let images = IMAGES / count;
    let context = context.shared_by(replicas.clone(), images);
    let part = trial.batch(step).parts(images).remove(rank);
    let (loss, mut gradients, pending) =
        gradients_of(trial, &student, &state, &part, &context.micro_batch(0, 1), count);
    let mut losses = [loss as f32 / count as f32];
    if let Some(engine) = replicas.engine() {
        engine.sum(&mut losses);
        engine.sum(&mut gradients);
    }
    let (_, state) = trial.objective.commit(student, state, vec![pending], &context);
    Step::new(f64::from(losses[0]), gradients, &state)
}

/// Loss, gradients of `loss / parts`, and what is pending.
fn gradients_of<O: Objective>(
    trial: &Trial<'_, O>,
    student: &O::Student,
    state: &O::State,
    batch: &Batch,
    context: &Context,
    parts: usize,
) -> (f64, Vec<f32>, O::Pending) {
    let (loss, pending) = trial.objective.loss(student, state, batch, context);
    let value = f64::from(scalar(&loss.total));
    let scaled = loss.total * (1.0 / parts as f64);
    let gradients = GradientsParams::from_grads(scaled.backward(), student);
    let mut visitor = Gradients {
        of: &gradients,
        found: vec![],
    };
    student.visit(&mut visitor);
    let gradients = visitor.found.into_iter().map(|value| value as f32).collect();
    (value, gradients, pending)
}

impl Step {
    fn new<M: Module>(loss: f64, gradients: Vec<f32>, state: &M) -> Self {
        let mut state = values(state);
        // Each rank has those of its own images, until a checkpoint averages them.
        state.retain(|path, _| !path.contains("running_"));
        Self {
            loss,
            gradients: gradients.into_iter().map(f64::from).collect(),
            state,
        }
    }
}

/// The batch with each pixel changed by up to this share of its value, each by one of its own.
fn with_noise(batch: &Batch, (seed, size): (f64, f64)) -> Batch {
    let mut batch = batch.clone();
    for group in &mut batch.views {
        let shape = group.images.dims();
        let pixels: Vec<f32> = group.images.clone().into_data().iter().collect();
        let changed = |(at, pixel): (usize, f32)| {
            let unit = (at as f64 * 0.618_033_988_749_895 + seed).fract();
            (f64::from(pixel) * (1.0 + size * (2.0 * unit - 1.0))) as f32
        };
        let pixels: Vec<f32> = pixels.into_iter().enumerate().map(changed).collect();
        group.images = Tensor::from_data(TensorData::new(pixels, shape), &group.images.device());
    }
    batch
}

/// ‖ours − reference‖ / ‖reference‖.
fn gradient_error(ours: &[f64], reference: &[f64]) -> f64 {
    assert!(ours.len() == reference.len() && !ours.is_empty());
    let length =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    length(&mut ours.iter().zip(reference).map(|(a, b)| a - b)) / length(&mut reference.iter().copied())
}

fn close(whole: &Step, shared: &Step, name: &str) {
    let off = (whole.loss - shared.loss).abs() / whole.loss.abs().max(0.1);
    assert!(
        off <= BOUND,
        "{name}: loss {} on one device {}",
        shared.loss,
        whole.loss
    );
    assert_eq!(
        whole.state.keys().collect::<Vec<_>>(),
        shared.state.keys().collect::<Vec<_>>()
    );
    for (path, expected) in &whole.state {
        let got = &shared.state[path];
        assert_eq!(expected.len(), got.len(), "{name}: {path}");
        for (expected, got) in expected.iter().zip(got) {
            let off = f64::from((expected - got).abs());
            assert!(off <= BOUND, "{name}: {path} is {got}, on one device {expected}");
        }
    }
}
