//! An encoder's features of a data set: one row per record, labels and keys, and their origin.
//!
//! The type separates encoders from the protocols on stored features. `file.rs` writes and reads it; `extract.rs` fills it.

use crate::error::Error;
use data::Listing;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// In sets of classes: undecided whether the record has the class (VOC's `difficult`). Training counts it as
/// a negative; a test skips the record for that class.
pub const UNDECIDED: u8 = 2;

/// A dense row-major matrix in host memory, `[rows, width]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// One row per record.
    pub rows: usize,
    /// Values per row.
    pub width: usize,
    /// `rows * width` numbers, row after row.
    pub values: Vec<f32>,
}

impl Matrix {
    /// A matrix of `values`, row after row.
    ///
    /// # Panics
    /// If `values` does not hold `rows * width` numbers.
    pub fn new(rows: usize, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(
            values.len(),
            rows * width,
            "a {rows} x {width} matrix holds {} numbers",
            rows * width
        );
        Self { rows, width, values }
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The first row that holds NaN or an infinity.
    pub fn first_not_finite(&self) -> Option<usize> {
        let width = self.width.max(1);
        self.values
            .par_chunks(width)
            .position_first(|row| row.iter().any(|value| !value.is_finite()))
    }

    /// A matrix of the rows named, in that order.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Self::new(rows.len(), self.width, values)
    }
}

/// The labels of all records, in the order of the rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// One class per record.
    Classes(Vec<i64>),
    /// A set of classes per record, as `[records, classes]` of 0 and 1.
    Sets {
        /// Columns: one more than the largest class.
        classes: usize,
        /// Row after row; [`UNDECIDED`] where a record is neither a positive nor a negative of a class.
        multi_hot: Vec<u8>,
    },
}

/// Where features came from. All fields but the names must agree before stored features are reused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Hash of the encoder.
    pub encoder: String,
    /// Its name, for people.
    pub encoder_name: String,
    /// The data set's fingerprint.
    pub fingerprint: String,
    /// Hash of class names and labels, which the fingerprint excludes.
    pub labels: String,
    /// The evaluation transforms, as in the config.
    pub transforms: serde_json::Value,
    /// Mean and standard deviation by which images were normalized.
    pub normalize: serde_json::Value,
}

impl Origin {
    /// The same origin without names, which are for people.
    pub(crate) fn unnamed(&self) -> Self {
        Self {
            encoder_name: String::new(),
            ..self.clone()
        }
    }

    /// Whether this origin, read from a file, equals `wanted`.
    pub(crate) fn is(&self, wanted: &Self) -> bool {
        // A number read from JSON may be off by the last bit, so `wanted` makes the same round trip before
        // the comparison.
        let text = serde_json::to_string(wanted).unwrap_or_default();
        serde_json::from_str::<Self>(&text).is_ok_and(|wanted| wanted == *self)
    }
}

/// A data set beside the data that the encoder was pretrained on, as its file states them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenInPretraining {
    /// Fingerprint of the pretraining data.
    pub fingerprint: String,
    /// Records that the file's sample of these data can show; 0 where it has none.
    pub compared: usize,
    /// Those among them that were in the pretraining.
    pub in_pretraining: usize,
}

/// Features of a data set, one row per readable record, in the data set's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// By tap name, [`POOLED`](crate::POOLED) at least.
    pub taps: BTreeMap<String, Matrix>,
    /// `None` where the data set has no labels.
    pub labels: Option<Labels>,
    /// Names of the classes by number; empty where the data set has none.
    pub class_names: Vec<String>,
    /// The records' keys, in the order of the rows.
    pub keys: Vec<String>,
    /// XXH64 of the pixels that the encoder saw of each record, before normalization; `None` for features of
    /// earlier versions and of other programs.
    pub pixel_hashes: Option<Vec<u64>>,
    /// Records that could not be read and have no row.
    pub bad_records: usize,
    /// What became no record of the data set, or became one by a guess.
    pub listing: Listing,
    /// Its images among those of the encoder's pretraining; `None` where the encoder's file does not state these, and for
    /// features of earlier versions and of other programs.
    pub seen: Option<SeenInPretraining>,
    /// Where all this came from.
    pub origin: Origin,
}

impl Features {
    /// Rows in every tap.
    pub fn records(&self) -> usize {
        self.keys.len()
    }

    /// The rows of one tap. `set` names the data set in the error.
    pub fn tap(&self, tap: &str, set: &'static str) -> Result<&Matrix, Error> {
        self.taps.get(tap).ok_or_else(|| Error::NoTap {
            set,
            tap: tap.to_string(),
            found: self.taps.keys().cloned().collect(),
        })
    }

    /// One class per record, or an error that names the other kind of label. `set` names the data set in it.
    pub fn classes(&self, set: &'static str) -> Result<&[i64], Error> {
        match &self.labels {
            Some(Labels::Classes(classes)) if classes.len() == self.records() => Ok(classes),
            Some(Labels::Classes(classes)) => Err(Error::LabelCount {
                set,
                labels: classes.len(),
                records: self.records(),
            }),
            Some(Labels::Sets { .. }) => Err(Error::LabelSets { set }),
            None => Err(Error::Unlabeled { set }),
        }
    }
}

/// A class's name in quotes, or its number where it has none.
pub(crate) fn class_name(names: &[String], class: i64) -> String {
    let named = usize::try_from(class).ok().and_then(|class| names.get(class));
    named.map_or_else(|| class.to_string(), |name| format!("`{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;

    #[test]
    fn the_first_bad_row_is_found() {
        let mut matrix = Matrix::new(4, 2, vec![0.0; 8]);
        assert_eq!(matrix.first_not_finite(), None);
        matrix.values[7] = f32::INFINITY;
        matrix.values[4] = f32::NAN;
        assert_eq!(matrix.first_not_finite(), Some(2));
    }

    #[test]
    fn rows_are_selected_in_the_order_asked_for() {
        let matrix = Matrix::new(3, 2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(
            matrix.select(&[2, 0]),
            Matrix::new(2, 2, vec![4.0, 5.0, 0.0, 1.0])
        );
    }

    #[test]
    fn missing_labels_and_taps_are_named() {
        let features = Features::default();
        assert_eq!(
            features.classes("test").unwrap_err().to_string(),
            "the test set has no labels, and this protocol needs one class a record"
        );
        let features = Features {
            labels: Some(Labels::Sets {
                classes: 1,
                multi_hot: vec![],
            }),
            ..features
        };
        assert!(matches!(
            features.classes("test"),
            Err(Error::LabelSets { set: "test" })
        ));
        assert!(
            features
                .tap(POOLED, "test")
                .unwrap_err()
                .to_string()
                .contains("no tap `pooled`")
        );
    }
}
