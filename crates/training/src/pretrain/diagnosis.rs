//! A step without finite values in; the first place where they are not finite, and the records that lead there, out.
//!
//! Looked at in this order: weights and statistics before the step, the images, each layer's output in the order of the forward
//! pass, the loss, and the gradients in the order of the backward pass. Then the batch is halved: other images take the places
//! of those that are left out, so that batch and statistics keep their sizes.

use super::plan::Plan;
use crate::batch::{Batch, ViewGroupTensor};
use crate::checkpoint::tensors_not_finite;
use crate::error::{Error, device_reason};
use crate::objective::Objective;
use backbones::{Context, parameters, probe};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::Serialize;
use std::collections::HashMap;

/// Where a step has no finite values, and which records lead there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Counted from 1, as in `metrics.jsonl`.
    pub step: usize,
    /// The first place that is not finite.
    pub place: Place,
    /// The records that lead there.
    pub records: Culprits,
}

/// A place in a step, in the order of computation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Weights or running statistics, before the step.
    Weights {
        /// Their paths, in the order of the module.
        names: Vec<String>,
    },
    /// Normalized pixels.
    Images,
    /// The output of a layer whose inputs are finite.
    Output {
        /// The layer's path in the student or the state.
        layer: String,
        /// Rows that are not finite; a row is an image of a view, or an embedding.
        rows: usize,
        /// All rows.
        of: usize,
    },
    /// The loss, of layers whose outputs are all finite.
    Loss,
    /// The gradient of a layer's parameters, at a finite loss: the first one in the backward pass.
    Gradient {
        /// The layer's path in the student.
        layer: String,
        /// Parameters of other layers whose gradients are not finite either.
        others: usize,
    },
    /// The sum of gradients that are finite in each micro-batch.
    Sum,
}

/// The records that lead to values that are not finite.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprits {
    /// Any records: images of another kind in the places of all of them change nothing.
    Any,
    /// Each of these alone.
    Each(Vec<Record>),
    /// These together, and no half of them alone.
    Together(Vec<Record>),
}

/// A record of the data set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Record {
    /// Its position in the data set.
    pub position: u64,
    /// Its key.
    pub key: String,
}

/// A step of which something is not finite, with the networks before it.
pub(super) struct Suspect<'a, O: Objective, C> {
    pub(super) plan: &'a Plan<'a, O, C>,
    pub(super) student: &'a O::Student,
    pub(super) state: &'a O::State,
    /// Optimizer steps done before it.
    pub(super) done: usize,
    pub(super) batch: Batch,
    /// Position of each image.
    pub(super) positions: Vec<u64>,
    /// The loss scale in f16, otherwise 1.
    pub(super) loss_scale: f64,
}

impl<O: Objective, C> Suspect<'_, O, C> {
    /// # Errors
    /// A device that failed, and a key that cannot be read.
    pub(super) fn examine(&self) -> Result<Finding, Error> {
        let finding = |place, records| Finding {
            step: self.done + 1,
            place,
            records,
        };
        let names = tensors_not_finite(self.student, self.state).map_err(|reason| self.device(reason))?;
        if !names.is_empty() {
            return Ok(finding(Place::Weights { names }, Culprits::Any));
        }
        let bad = self.images_not_finite()?;
        if !bad.is_empty() {
            return Ok(finding(Place::Images, Culprits::Each(self.records(0, &bad)?)));
        }
        let parts = self.batch.clone().parts(self.plan.micro_batch_images);
        let count = parts.len();
        let context = self.plan.context(self.plan.progress(self.done));
        for (index, part) in parts.into_iter().enumerate() {
            let context = context.micro_batch(index, count);
            if let Some(place) = self.place(&part, &context)? {
                let records = self.culprits(index * part.images, &part, &context)?;
                return Ok(finding(place, records));
            }
        }
        Ok(finding(Place::Sum, Culprits::Any))
    }

    /// The first place of a micro-batch's passes that is not finite.
    fn place(&self, part: &Batch, context: &Context) -> Result<Option<Place>, Error> {
        let objective = self.plan.objective;
        let ((loss, _), seen) = probe::observe(|| objective.loss(self.student, self.state, part, context));
        let layers = Layers::of(self.student, self.state);
        let rows = seen.iter().map(|seen| seen.rows.clone()).collect::<Vec<_>>();
        if !rows.is_empty() && !self.is_finite(Tensor::cat(rows, 0).flatten(0, 1))? {
            for seen in &seen {
                let rows = self.floats(seen.rows.clone().flatten(0, 1))?;
                let bad = rows.iter().filter(|row| !row.is_finite()).count();
                if bad > 0 {
                    return Ok(Some(Place::Output {
                        layer: layers.name(seen.parameter),
                        rows: bad,
                        of: rows.len(),
                    }));
                }
            }
        }
        let total = loss.total;
        if !self.is_finite(total.clone().without_autodiff())? {
            return Ok(Some(Place::Loss));
        }
        let gradients = GradientsParams::from_grads((total * self.loss_scale).backward(), self.student);
        let mut bad = vec![];
        for (id, zero) in gradient_zeros(&gradients, self.student) {
            if !self.is_finite(zero)? {
                bad.push(layers.name(id));
            }
        }
        // The backward pass goes from the last layer to the first.
        let order: Vec<String> = seen.iter().map(|seen| layers.name(seen.parameter)).collect();
        let last = bad
            .iter()
            .max_by_key(|layer| order.iter().rposition(|seen| seen == *layer));
        Ok(last.map(|layer| Place::Gradient {
            layer: layer.clone(),
            others: bad.iter().filter(|other| *other != layer).count(),
        }))
    }

    /// The images of a micro-batch, whose first has the place `first` in the batch, that lead to values that are not finite.
    fn culprits(&self, first: usize, part: &Batch, context: &Context) -> Result<Culprits, Error> {
        let fails = |images: &[usize]| {
            let place = self.place(&with_only(part, images), context)?;
            Ok::<bool, Error>(place.is_some())
        };
        if fails(&[])? {
            return Ok(Culprits::Any);
        }
        let (alone, together) = halved((0..part.images).collect(), &fails)?;
        Ok(match alone.is_empty() {
            true => Culprits::Together(self.records(first, &together)?),
            false => Culprits::Each(self.records(first, &alone)?),
        })
    }

    /// Places in the batch of images with pixels that are not finite.
    fn images_not_finite(&self) -> Result<Vec<usize>, Error> {
        let images = self.batch.images;
        let mut bad = vec![false; images];
        for group in &self.batch.views {
            let rows = group.images.dims()[0];
            let zeros = (group.images.clone() * 0.0).reshape([rows as i64, -1]).sum_dim(1);
            let zeros = self.floats(zeros.flatten(0, 1))?;
            for (row, zero) in zeros.iter().enumerate() {
                bad[row % images] |= !zero.is_finite();
            }
        }
        Ok((0..images).filter(|image| bad[*image]).collect())
    }

    fn records(&self, first: usize, images: &[usize]) -> Result<Vec<Record>, Error> {
        let positions = images
            .iter()
            .filter_map(|image| self.positions.get(first + image));
        let record = |position: &u64| {
            Ok(Record {
                position: *position,
                key: self.plan.dataset.key(*position as usize)?,
            })
        };
        positions.map(record).collect()
    }

    fn is_finite(&self, values: Tensor<1>) -> Result<bool, Error> {
        Ok(self.floats(values)?.iter().all(|value| value.is_finite()))
    }

    fn floats(&self, values: Tensor<1>) -> Result<Vec<f32>, Error> {
        let data = values
            .try_into_data()
            .map_err(|error| self.device(device_reason(&error.to_string())))?;
        Ok(data.iter::<f32>().collect())
    }

    fn device(&self, reason: String) -> Error {
        Error::Device {
            step: self.done,
            steps: 1,
            reason,
        }
    }
}

/// Whether a step's losses and gradients are finite.
///
/// # Errors
/// A device that failed, in words.
pub(super) fn passes_are_finite<M: Module>(
    losses: impl Iterator<Item = Tensor<1>>,
    gradients: &GradientsParams,
    student: &M,
) -> Result<bool, String> {
    let zeros = gradient_zeros(gradients, student)
        .into_iter()
        .map(|(_, zero)| zero);
    let losses = losses.map(|loss| loss.without_autodiff() * 0.0);
    let data = Tensor::cat(losses.chain(zeros).collect(), 0)
        .try_into_data()
        .map_err(|error| device_reason(&error.to_string()))?;
    Ok(data.iter::<f32>().all(f32::is_finite))
}

/// For each gradient 0 if it is finite, otherwise NaN, `[1]`.
fn gradient_zeros<M: Module>(gradients: &GradientsParams, student: &M) -> Vec<(ParamId, Tensor<1>)> {
    struct Zeros<'a> {
        gradients: &'a GradientsParams,
        found: Vec<(ParamId, Tensor<1>)>,
    }
    impl ModuleVisitor for Zeros<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                let zero = (gradient * 0.0).sum().cast(FloatDType::F32);
                self.found.push((param.id, zero));
            }
        }
    }
    let mut zeros = Zeros {
        gradients,
        found: vec![],
    };
    student.visit(&mut zeros);
    zeros.found
}

/// The layers of student and state by the ids of their parameters.
struct Layers(HashMap<ParamId, String>);

impl Layers {
    fn of<S: Module, T: Module>(student: &S, state: &T) -> Self {
        let mut names = HashMap::new();
        // A parameter that both have is the student's.
        for parameter in parameters(state).into_iter().chain(parameters(student)) {
            let layer = parameter.path.rsplit_once('.').map_or("", |(layer, _)| layer);
            let name = match layer {
                "" => parameter.path.clone(),
                layer => layer.to_owned(),
            };
            names.insert(parameter.id, name);
        }
        Self(names)
    }

    fn name(&self, parameter: ParamId) -> String {
        let name = self.0.get(&parameter);
        name.map_or_else(|| "a layer without a name".to_owned(), String::clone)
    }
}

/// The images that fail alone; and, if there is none, the smallest part of all that fails together. All of `images` together fail.
fn halved<E>(
    images: Vec<usize>,
    fails: &impl Fn(&[usize]) -> Result<bool, E>,
) -> Result<(Vec<usize>, Vec<usize>), E> {
    if images.len() < 2 {
        return Ok((images, vec![]));
    }
    let (left, right) = images.split_at(images.len() / 2);
    let (mut alone, mut together) = (vec![], images.clone());
    for half in [left, right] {
        if fails(half)? {
            let (single, part) = halved(half.to_vec(), fails)?;
            alone.extend(single);
            if part.len() < together.len() && !part.is_empty() {
                together = part;
            }
        }
    }
    Ok((alone, together))
}

/// The batch with other images in the places of those that are not in `images`.
fn with_only(batch: &Batch, images: &[usize]) -> Batch {
    let views = batch.views.iter().map(|group| {
        let shape = group.images.dims();
        let [rows, values] = [shape[0], shape[1..].iter().product()];
        let device = group.images.device();
        let fill = (0..rows * values).map(|place| {
            let (row, value) = (place / values, place % values);
            // Waves of each row's own length: no two images are alike.
            (value as f32 * (0.11 + 0.013 * row as f32) + row as f32).sin()
        });
        let fill = TensorData::new(fill.collect::<Vec<f32>>(), shape);
        let fill = Tensor::<4>::from_data(fill, &device);
        let row = |row: usize| match images.contains(&(row % batch.images)) {
            true => group.images.clone().narrow(0, row, 1),
            false => fill.clone().narrow(0, row, 1),
        };
        ViewGroupTensor {
            images: Tensor::cat((0..rows).map(row).collect(), 0),
            count: group.count,
        }
    });
    Batch {
        views: views.collect(),
        ..batch.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_halved_until_single_images_fail() {
        let search = |fails: &dyn Fn(&[usize]) -> bool| {
            let found = halved::<()>((0..16).collect(), &|images| Ok(fails(images)));
            found.unwrap()
        };
        assert_eq!(search(&|images| images.contains(&11)).0, [11]);
        let two = |images: &[usize]| images.iter().any(|image| [3, 4].contains(image));
        assert_eq!(search(&two).0, [3, 4]);
        // Only with each other: the smallest half that has both.
        let (alone, together) = search(&|images| images.contains(&4) && images.contains(&6));
        assert_eq!((alone, together), (vec![], vec![4, 5, 6, 7]));
    }
}
