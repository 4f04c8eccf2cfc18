//! A network's tensor as a file stores it: whole, or in thirds.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use burn::tensor::{Shape, TensorData};

use crate::format::{CheckpointError, Dtype, TensorInfo};

/// A network's tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight<'a> {
    /// One tensor.
    Whole(&'a TensorInfo),
    /// Queries, keys and values, which follow one another along the network's first dimension. Shapes and types
    /// are equal.
    Thirds([&'a TensorInfo; 3]),
}

impl<'a> Weight<'a> {
    /// Tensors by the network's names, from a file's by the network's name and third; each with its name in the
    /// file. Thirds that do not form a tensor keep those names, so that the comparison with the network lists
    /// them.
    pub(super) fn joined(
        tensors: BTreeMap<(String, Option<usize>), (String, &'a TensorInfo)>,
    ) -> BTreeMap<String, Self> {
        let mut joined = BTreeMap::new();
        let mut thirds = BTreeMap::<String, Vec<(usize, String, &TensorInfo)>>::new();
        for ((ours, third), (theirs, tensor)) in tensors {
            match third {
                None => {
                    joined.insert(ours, Self::Whole(tensor));
                }
                Some(number) => thirds.entry(ours).or_default().push((number, theirs, tensor)),
            }
        }
        for (ours, parts) in thirds {
            let alike = |a: &TensorInfo, b: &TensorInfo| a.shape == b.shape && a.dtype == b.dtype;
            match parts.as_slice() {
                // A set of keys in order: three are 0, 1 and 2.
                [(_, _, first), (_, _, second), (_, _, last)]
                    if !first.shape.is_empty() && alike(first, second) && alike(first, last) =>
                {
                    joined.insert(ours, Self::Thirds([*first, *second, *last]));
                }
                _ => joined.extend(
                    parts
                        .into_iter()
                        .map(|(_, theirs, tensor)| (theirs, Self::Whole(tensor))),
                ),
            }
        }
        joined
    }

    fn first(&self) -> &'a TensorInfo {
        match self {
            Self::Whole(tensor) => tensor,
            Self::Thirds([first, ..]) => first,
        }
    }

    /// Its type.
    pub fn dtype(&self) -> Dtype {
        self.first().dtype
    }

    /// Its shape in the network.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.first().shape.clone();
        if let (Self::Thirds(_), Some(rows)) = (self, shape.first_mut()) {
            *rows = rows.saturating_mul(3);
        }
        shape
    }

    /// Number of elements; the largest `u64` on overflow.
    pub fn elements(&self) -> u64 {
        let parts = if matches!(self, Self::Thirds(_)) { 3 } else { 1 };
        self.first().elements().saturating_mul(parts)
    }

    /// Reads the tensor in its own type.
    ///
    /// # Errors
    /// As [`TensorInfo::read`].
    pub fn read<R: Read + Seek>(&self, source: &mut R) -> Result<TensorData, CheckpointError> {
        match self {
            Self::Whole(tensor) => tensor.read(source),
            Self::Thirds(parts) => {
                let mut bytes = vec![];
                let mut dtype = None;
                for part in parts {
                    let data = part.read(source)?;
                    dtype = Some(data.dtype());
                    bytes.extend_from_slice(data.as_bytes());
                }
                let dtype = dtype.expect("there are three parts");
                Ok(TensorData::from_bytes_vec(
                    bytes,
                    Shape::from(self.shape()),
                    dtype,
                ))
            }
        }
    }
}
