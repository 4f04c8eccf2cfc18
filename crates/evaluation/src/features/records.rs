//! A data set whose keys and labels are read from its index once.

use super::labels::{index_features, labels_hash};
use super::matrix::Features;
use crate::error::Error;
use data::Dataset;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// A data set whose index is read once, because listing the keys and labels of a million records takes longer
/// than some protocols.
#[derive(Clone, Debug)]
pub struct Records {
    dataset: Arc<Dataset>,
    index: Arc<Index>,
}

#[derive(Debug, Default)]
struct Index {
    with_labels: OnceLock<Features>,
    without_labels: OnceLock<Features>,
    labels_hash: OnceLock<String>,
}

impl Records {
    /// Keys and, if `with_labels`, labels of all records, as features of width 0.
    pub(crate) fn index(&self, with_labels: bool) -> Result<&Features, Error> {
        let known = match with_labels {
            true => &self.index.with_labels,
            false => &self.index.without_labels,
        };
        once(known, || index_features(&self.dataset, with_labels))
    }

    /// Hash of class names and labels.
    pub(crate) fn labels_hash(&self) -> Result<&String, Error> {
        once(&self.index.labels_hash, || labels_hash(&self.dataset))
    }
}

/// The cached value, or a new one; errors are not cached.
fn once<T>(known: &OnceLock<T>, make: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    if let Some(known) = known.get() {
        return Ok(known);
    }
    let made = make()?;
    Ok(known.get_or_init(|| made))
}

impl From<Arc<Dataset>> for Records {
    fn from(dataset: Arc<Dataset>) -> Self {
        Self {
            dataset,
            index: Arc::default(),
        }
    }
}

impl From<Dataset> for Records {
    fn from(dataset: Dataset) -> Self {
        Arc::new(dataset).into()
    }
}

impl Deref for Records {
    type Target = Arc<Dataset>;

    fn deref(&self) -> &Arc<Dataset> {
        &self.dataset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_listed_once() {
        let records = Records::from(Dataset::synthetic(4, 8, 8, 2, 0));
        let again = records.clone();
        assert!(std::ptr::eq(
            records.index(true).unwrap(),
            again.index(true).unwrap()
        ));
        assert_eq!(records.index(false).unwrap().labels, None);
        assert_eq!(records.labels_hash().unwrap(), again.labels_hash().unwrap());
        assert_eq!(records.len(), 4);
    }
}
