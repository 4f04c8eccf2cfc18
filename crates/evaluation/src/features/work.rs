//! What decides the rows of a features file and their order.

use super::matrix::Origin;
use super::slice::Slice;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The number format of a features file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureType {
    /// 32 bit: the encoder's features, unchanged.
    F32,
    /// 16 bit: half the size, 11 significant bits, at most 65,504.
    F16,
}

impl FeatureType {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
        }
    }

    pub(super) fn bytes(self) -> usize {
        self.dtype().bitsize() / 8
    }
}

/// Everything that decides the rows and their order; unfinished features of other work are never resumed, and slices of
/// other work are never read as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Work {
    pub(crate) origin: Origin,
    pub(crate) taps: Vec<String>,
    pub(crate) feature_type: FeatureType,
    /// Batch boundaries affect the last bits of a row.
    pub(crate) batch_images: usize,
    /// Records of the whole data set.
    pub(crate) records: usize,
    /// Absent for all of them, and in work of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slice: Option<Slice>,
}

impl Work {
    /// The difference of `stored` from this work, for people; `None` for the same work.
    pub(crate) fn difference(&self, stored: &Self) -> Option<String> {
        let origin = &stored.origin;
        // The name is for people: a moved run is the same encoder.
        let mut wanted = self.origin.clone();
        wanted.encoder_name.clone_from(&origin.encoder_name);
        if origin.is(&wanted) && stored.without_origin() == self.without_origin() {
            return None;
        }
        Some(if origin.encoder != self.origin.encoder {
            format!("another encoder, `{}`", origin.encoder_name)
        } else if origin.fingerprint != self.origin.fingerprint || stored.records != self.records {
            "other records".into()
        } else if origin.labels != self.origin.labels {
            "the same records with other labels".into()
        } else if stored.taps != self.taps {
            format!("other taps: {}", data::names::listed(&stored.taps))
        } else if stored.feature_type != self.feature_type {
            "another number type".into()
        } else if stored.batch_images != self.batch_images {
            format!("batches of {} images", stored.batch_images)
        } else if stored.slice != self.slice {
            match stored.slice {
                Some(slice) => slice.to_string(),
                None => "all records".into(),
            }
        } else {
            "other transforms or another normalization".into()
        })
    }

    fn without_origin(&self) -> Self {
        Self {
            origin: Origin::default(),
            ..self.clone()
        }
    }

    /// The batches of the work.
    pub(crate) fn batches(&self) -> Range<usize> {
        let batches = self.records.div_ceil(self.batch_images);
        self.slice.map_or(0..batches, |slice| slice.batches(batches))
    }

    /// The records of these batches.
    pub(crate) fn records_of(&self, batches: Range<usize>) -> usize {
        let start = |batch: usize| batch.saturating_mul(self.batch_images).min(self.records);
        start(batches.end).saturating_sub(start(batches.start))
    }
}
