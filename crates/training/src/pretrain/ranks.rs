//! What the ranks of a run do together besides the method: gradients summed, running statistics averaged, weights
//! compared, and what must be the same on all of them.

use crate::checkpoint::{Files, Loaded};
use crate::error::Error;
use crate::optimizer::Optimizer;
use backbones::{Replicas, change_value, parameters};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use kernels::collective::Engine;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, mpsc};

/// Values that cross in one exchange: 25 MB, as in PyTorch's buckets.
const BUCKET_VALUES: usize = 25 << 18;

/// What ranks must do after the same step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// To end the run with a checkpoint.
    pub(super) stop: bool,
    /// A checkpoint.
    pub(super) checkpoint: bool,
}

/// Sums the gradients of all ranks, and tells what any rank wishes: its flags ride along, so that all stop or write a
/// checkpoint after the same step.
///
/// Buckets are read from the device, exchanged, and written back at the same time, each one step behind the other.
pub(super) fn sum_gradients<M: Module>(
    engine: &Arc<dyn Engine>,
    mut gradients: GradientsParams,
    student: &M,
    wishes: Wishes,
) -> (GradientsParams, Wishes) {
    let mut taken = Take {
        gradients: &mut gradients,
        slots: vec![],
    };
    student.visit(&mut taken);
    let slots = taken.slots;
    // A parameter may have a gradient on some ranks only: the others add zeros.
    let present = slots.iter().map(|slot| f32::from(u8::from(slot.present)));
    let wished = [wishes.stop, wishes.checkpoint].map(|wish| f32::from(u8::from(wish)));
    let mut flags: Vec<f32> = wished.into_iter().chain(present).collect();
    engine.sum(&mut flags);
    let of_all = Wishes {
        stop: flags[0] > 0.0,
        checkpoint: flags[1] > 0.0,
    };
    let mut buckets: Vec<Vec<Slot>> = vec![];
    let mut room = 0;
    for (slot, present) in slots.into_iter().zip(&flags[wished.len()..]) {
        if *present == 0.0 {
            continue;
        }
        if room < slot.values() {
            buckets.push(vec![]);
            room = BUCKET_VALUES;
        }
        room = room.saturating_sub(slot.values());
        if let Some(bucket) = buckets.last_mut() {
            bucket.push(slot);
        }
    }
    let mut summed = HashMap::new();
    std::thread::scope(|scope| {
        let (to_exchange, read) = mpsc::channel::<Vec<f32>>();
        let (done, exchanged) = mpsc::channel::<Vec<f32>>();
        let exchange = scope.spawn(move || {
            for mut values in read {
                engine.sum(&mut values);
                if done.send(values).is_err() {
                    break;
                }
            }
        });
        let mut waiting = buckets.iter();
        let mut write_one = || {
            if let (Some(bucket), Ok(values)) = (waiting.next(), exchanged.recv()) {
                write(bucket, values, &mut summed);
            }
        };
        for (index, bucket) in buckets.iter().enumerate() {
            let flat = bucket.iter().map(|slot| slot.flat.clone()).collect();
            let values = Tensor::cat(flat, 0).into_data().iter().collect();
            // It fails only with the exchange, whose panic is passed on below.
            let _ = to_exchange.send(values);
            if index > 0 {
                write_one();
            }
        }
        drop(to_exchange);
        if !buckets.is_empty() {
            write_one();
        }
        if let Err(panic) = exchange.join() {
            std::panic::resume_unwind(panic);
        }
    });
    let mut put = Put {
        gradients: &mut gradients,
        summed,
    };
    student.visit(&mut put);
    (gradients, of_all)
}

/// A trained parameter's gradient on this rank.
struct Slot {
    id: ParamId,
    /// The gradient, or zeros.
    flat: Tensor<1>,
    present: bool,
}

impl Slot {
    fn values(&self) -> usize {
        self.flat.dims()[0]
    }
}

fn write(bucket: &[Slot], values: Vec<f32>, summed: &mut HashMap<ParamId, Tensor<1>>) {
    let Some(device) = bucket.first().map(|slot| slot.flat.device()) else {
        return;
    };
    let count = values.len();
    let all = Tensor::<1>::from_data(TensorData::new(values, [count]), &device);
    let mut start = 0;
    for slot in bucket {
        summed.insert(slot.id, all.clone().narrow(0, start, slot.values()));
        start += slot.values();
    }
}

struct Take<'a> {
    gradients: &'a mut GradientsParams,
    slots: Vec<Slot>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let gradient = self.gradients.remove::<D>(param.id);
        let present = gradient.is_some();
        let gradient = gradient.unwrap_or_else(|| param.val().without_autodiff().zeros_like());
        let values: usize = gradient.dims().iter().product();
        self.slots.push(Slot {
            id: param.id,
            flat: gradient.reshape([values]),
            present,
        });
    }
}

struct Put<'a> {
    gradients: &'a mut GradientsParams,
    summed: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Put<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(flat) = self.summed.remove(&param.id) {
            self.gradients
                .register(param.id, flat.reshape(param.val().dims()));
        }
    }
}

/// The outcome of work that each rank did alone, once all have done it: an error of any rank is an error of all. Of ranks
/// with the same error the first one keeps it, to report it; the others have [`Error::OtherRank`], as have the ranks
/// without an error.
///
/// # Errors
/// That of any rank.
pub fn agree<T, E: Display + From<Error>>(replicas: &Replicas, result: Result<T, E>) -> Result<T, E> {
    let Some(engine) = replicas.engine() else {
        return result;
    };
    // With its causes.
    let own = result
        .as_ref()
        .err()
        .map_or(String::new(), |error| format!("error: {error:#}"));
    let all = engine.gather_bytes(own.as_bytes());
    let reports = |error: &Vec<u8>| !error.is_empty() && (own.is_empty() || *error == own.as_bytes());
    match all.iter().position(reports) {
        Some(rank) if rank != engine.rank() => Err(Error::OtherRank { rank }.into()),
        _ => result,
    }
}

/// An error that all ranks find alike, because they compute it from the same values: rank 0 alone reports it.
pub(super) fn alike<T>(replicas: &Replicas, result: Result<T, Error>) -> Result<T, Error> {
    match (result, replicas.rank()) {
        (Err(_), 1..) => Err(Error::OtherRank { rank: 0 }),
        (result, _) => result,
    }
}

/// Enters the broken records that each rank found since the last call on all of them, so that their number and limit are
/// those of all ranks together. `known` holds the positions of those that all ranks have; it is empty before the first
/// call with a loader.
///
/// # Errors
/// More than the loader's config allows, over all ranks; rank 0 reports it, the others have [`Error::OtherRank`].
pub fn share_bad_records(
    replicas: &Replicas,
    loader: &data::Loader,
    known: &mut BTreeSet<u64>,
) -> Result<(), Error> {
    let Some(engine) = replicas.engine() else {
        return Ok(());
    };
    let new = serde_json::to_vec(&loader.bad_records_besides(known)).unwrap_or_default();
    let mut of_all = vec![];
    for of_rank in engine.gather_bytes(&new) {
        let of_rank: Vec<data::BadRecord> = serde_json::from_slice(&of_rank).unwrap_or_default();
        of_all.extend(of_rank);
    }
    known.extend(of_all.iter().map(|record| record.position));
    alike(replicas, loader.add_bad_records(of_all).map_err(Error::from))
}

/// The module with the mean of every rank's running statistics. Training never reads them, and a mean of moving averages
/// is the moving average of means: once before each checkpoint is enough.
pub(super) fn average_statistics<M: Module>(engine: &Arc<dyn Engine>, module: M) -> M {
    let ids: Vec<ParamId> = parameters(&module)
        .into_iter()
        .filter(|parameter| parameter.running_statistic)
        .map(|parameter| parameter.id)
        .collect();
    if ids.is_empty() {
        return module;
    }
    let mut collect = Statistics {
        ids: &ids,
        values: vec![],
    };
    module.visit(&mut collect);
    let mut values = collect.values;
    engine.sum(&mut values);
    let ranks = engine.size() as f32;
    values.iter_mut().for_each(|value| *value /= ranks);
    module.map(&mut Replace {
        ids: &ids,
        values: &values,
    })
}

struct Statistics<'a> {
    ids: &'a [ParamId],
    values: Vec<f32>,
}

impl ModuleVisitor for Statistics<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.contains(&param.id) {
            self.values.extend(param.val().into_data().iter::<f32>());
        }
    }
}

struct Replace<'a> {
    ids: &'a [ParamId],
    /// What is left of the averages, in visiting order.
    values: &'a [f32],
}

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.ids.contains(&param.id) {
            return param;
        }
        let (shape, device): ([usize; D], Device) =
            (param.val().dims(), param.val().without_autodiff().device());
        let (own, rest) = self.values.split_at(shape.iter().product());
        self.values = rest;
        let value = Tensor::from_data(TensorData::new(own.to_vec(), shape), &device);
        change_value(param, |_| value)
    }
}

/// Whether all ranks are at rank 0's step with its weights and state, to the bit.
pub(super) fn modules_agree<S: Module, T: Module>(engine: &Arc<dyn Engine>, modules: &Loaded<S, T>) -> bool {
    let mut hashes = Hashes(modules.position.step.to_le_bytes().to_vec());
    modules.student.visit(&mut hashes);
    modules.state.visit(&mut hashes);
    let all = engine.gather_bytes(&hashes.0);
    all.iter().all(|other| *other == all[0])
}

/// The CRC-32 of each parameter.
struct Hashes(Vec<u8>);

impl ModuleVisitor for Hashes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data().convert::<f32>();
        self.0.extend(crc32fast::hash(values.as_bytes()).to_le_bytes());
    }
}

/// Rank 0's modules on every rank, which all send or receive. `fresh` are those of this rank before their first step:
/// pending batch statistics of others would overwrite the loaded ones.
///
/// # Errors
/// A module that Burn cannot write or read.
pub(super) fn receive<S: Module, T: Module>(
    engine: &Arc<dyn Engine>,
    modules: Loaded<S, T>,
    fresh: impl FnOnce() -> (S, T, Optimizer),
) -> Result<Loaded<S, T>, Error> {
    if engine.rank() == 0 {
        engine.broadcast(Files::of(&modules)?.to_bytes());
        return Ok(modules);
    }
    let files = Files::from_bytes(&engine.broadcast(vec![]))?;
    let (student, state, optimizer) = fresh();
    files.load(Path::new("of rank 0"), student, state, optimizer)
}

/// Gives an error if a rank has another config, program or data set than rank 0: they would train different things into
/// one set of weights, or wait for each other. The keys of `own` name the things.
///
/// # Errors
/// The first difference, on rank 0; [`Error::OtherRank`] elsewhere.
pub fn check_agreement(replicas: &Replicas, own: &BTreeMap<&'static str, String>) -> Result<(), Error> {
    match replicas.engine() {
        Some(engine) => alike(replicas, difference(engine, own)),
        None => Ok(()),
    }
}

fn difference(engine: &Arc<dyn Engine>, own: &BTreeMap<&'static str, String>) -> Result<(), Error> {
    let text = serde_json::to_vec(own).unwrap_or_default();
    let all = engine.gather_bytes(&text);
    for (rank, other) in all.iter().enumerate() {
        if *other == all[0] {
            continue;
        }
        let of = |bytes: &[u8]| serde_json::from_slice::<BTreeMap<String, String>>(bytes).unwrap_or_default();
        let (first, other) = (of(&all[0]), of(other));
        for (what, expected) in first {
            let got = other.get(&what).cloned().unwrap_or_default();
            if got != expected {
                let (expected, got) = first_difference(&expected, &got);
                return Err(Error::RanksDiffer {
                    what,
                    rank,
                    expected,
                    got,
                });
            }
        }
    }
    Ok(())
}

/// The first line that differs.
fn first_difference(expected: &str, got: &str) -> (String, String) {
    let mut lines = got.lines();
    for line in expected.lines() {
        let other = lines.next().unwrap_or("nothing");
        if line != other {
            return (line.to_owned(), other.to_owned());
        }
    }
    ("nothing".into(), lines.next().unwrap_or("nothing").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::collective::threads;

    /// Each rank reads half of the records, of which one is broken.
    #[test]
    fn broken_records_of_all_ranks_are_counted_on_each() {
        let bad_of = |max_bad_fraction: f64| {
            let mut records: Vec<data::Record> = (0..8)
                .map(|index| data::Dataset::synthetic(8, 8, 8, 2, 0).read(index).unwrap())
                .collect();
            for broken in [1, 6] {
                records[broken].image.truncate(20);
            }
            let dataset = Arc::new(data::Dataset::from_records(records, vec![]));
            let view = data::ViewGroup {
                count: 1,
                transforms: vec![data::Transform::CenterCrop { size_px: 8 }],
            };
            let config = data::LoaderConfig {
                batch_images: 4,
                workers: 0,
                max_bad_fraction,
            };
            let of_rank = |rank: usize, engine| {
                let (order, view) = (data::Order::Sequential, vec![view.clone()]);
                let loader = data::Loader::new(Arc::clone(&dataset), view, config, order, 0).unwrap();
                assert_eq!(loader.batches(rank, rank + 1).filter(Result::is_ok).count(), 1);
                let mut known = BTreeSet::new();
                let shared = share_bad_records(&Replicas::of(engine), &loader, &mut known);
                let count = loader.bad_records().count;
                (count, shared.map_err(|error| error.to_string()))
            };
            std::thread::scope(|scope| {
                let engines = threads(2).into_iter().enumerate();
                let started: Vec<_> = engines
                    .map(|(rank, engine)| scope.spawn(move || of_rank(rank, engine)))
                    .collect();
                let ended = started.into_iter().map(|thread| thread.join().unwrap());
                ended.collect::<Vec<_>>()
            })
        };
        assert_eq!(bad_of(0.25), [(2, Ok(())), (2, Ok(()))]);
        // One is allowed, and no rank met two.
        let ended = bad_of(0.125);
        let first = ended[0].1.as_ref().unwrap_err();
        assert!(first.starts_with("2 of 8 records"), "{first}");
        assert_eq!(ended[1].1, Err(Error::OtherRank { rank: 0 }.to_string()));
    }

    #[test]
    fn an_error_of_one_rank_is_an_error_of_all_and_reported_once() {
        let of_ranks = |errors: [Option<&str>; 4]| {
            std::thread::scope(|scope| {
                let started: Vec<_> = threads(4)
                    .into_iter()
                    .zip(errors)
                    .map(|(engine, error)| {
                        scope.spawn(move || {
                            let result = error.map_or(Ok(()), |error| Err(Error::Config(error.into())));
                            match agree(&Replicas::of(engine), result) {
                                Ok(()) => "done".to_string(),
                                Err(Error::OtherRank { rank }) => format!("as rank {rank}"),
                                Err(error) => error.to_string(),
                            }
                        })
                    })
                    .collect();
                let texts = started.into_iter().map(|thread| thread.join().unwrap());
                texts.collect::<Vec<_>>()
            })
        };
        assert_eq!(of_ranks([None; 4]), ["done"; 4]);
        assert_eq!(
            of_ranks([None, Some("a"), Some("b"), Some("a")]),
            ["as rank 1", "config: a", "config: b", "as rank 1"]
        );
    }
}
