//! Parts of released checkpoints besides the backbone: a file and a method's names of its parameters in it in, modules out.

use crate::encoder::{open_encoder, refused};
use crate::error::Error;
use crate::released::Released;
use backbones::replace_matching;
use burn::module::Module;
use burn::tensor::TensorData;
use std::collections::BTreeMap;
use std::path::Path;
use weights::WeightsError;

/// What a released checkpoint gave.
pub(crate) struct TakenOver<S, T> {
    pub(crate) student: S,
    pub(crate) state: T,
    /// Paths of the parameters that are the file's.
    pub(crate) taken: Vec<String>,
}

/// The modules with the parameters that a file has in the same shapes.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn take_over<S: Module, T: Module>(
    path: &Path,
    released: &[Released],
    student: S,
    state: T,
) -> Result<TakenOver<S, T>, Error> {
    let mut tensors = read(path, released)?;
    let mut taken = vec![];
    let mut tensor_of = |name: &str, shape: &[usize]| {
        let fits = tensors
            .get(name)
            .is_some_and(|data| data.shape().to_vec() == shape);
        if fits {
            taken.push(name.to_owned());
        }
        fits.then(|| tensors.remove(name)).flatten()
    };
    let student = replace_matching(student, &mut tensor_of);
    let state = replace_matching(state, &mut tensor_of);
    Ok(TakenOver {
        student,
        state,
        taken,
    })
}

/// Whether a file has any of these parameters.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn has_any(path: &Path, released: &[Released]) -> Result<bool, Error> {
    Ok(!read(path, released)?.is_empty())
}

/// The tensors of a file by our paths.
fn read(path: &Path, released: &[Released]) -> Result<BTreeMap<String, TensorData>, Error> {
    if released.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut opened = open_encoder(path)?;
    let damaged = |error: WeightsError| refused(path, &error);
    let checkpoint = opened.checkpoint().map_err(damaged)?;
    let mut found = BTreeMap::new();
    for (name, tensor) in checkpoint.tensors() {
        let Some(of) = released.iter().find(|released| released.is_at(&name)) else {
            continue;
        };
        let data = tensor
            .read(&mut opened.source)
            .map_err(|error| damaged(error.into()))?;
        found.insert(
            of.ours.clone(),
            if of.transposed { transposed(&data) } else { data },
        );
    }
    Ok(found)
}

/// A matrix with its rows as columns, in f32.
fn transposed(data: &TensorData) -> TensorData {
    let shape = data.shape().to_vec();
    let [rows, columns] = shape[..] else {
        return data.clone();
    };
    let values: Vec<f32> = data.iter::<f32>().collect();
    let turned = (0..rows * columns).map(|index| values[index % rows * columns + index / rows]);
    TensorData::new(turned.collect::<Vec<f32>>(), [columns, rows])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let data = TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        let expected = TensorData::new(vec![1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0], [3, 2]);
        assert_eq!(transposed(&data), expected);
    }
}
