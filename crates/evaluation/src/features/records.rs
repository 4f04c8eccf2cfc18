//! A data set whose keys and labels are read from its index once.

use super::labels::{index_features, labels_hash};
use super::matrix::Features;
use crate::error::Error;
use data::{ContentSample, Contents, Dataset, Sampled, Shared};
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
    contents: OnceLock<Contents>,
    repeated: OnceLock<Shared>,
    /// Images shared with other sets, by their fingerprints.
    shared: Mutex<HashMap<String, Shared>>,
    /// Warnings about these records that were given.
    warnings: Mutex<BTreeSet<String>>,
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

    /// Records whose images are in another set too.
    pub(crate) fn shared_with(&self, other: &Records) -> Result<Shared, Error> {
        let known = |shared: &Mutex<HashMap<String, Shared>>| {
            let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.get(other.fingerprint()).copied()
        };
        if let Some(known) = known(&self.index.shared) {
            return Ok(known);
        }
        let made = self.contents()?.shared_with(other.contents()?);
        let mut shared = self.index.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.insert(other.fingerprint().to_string(), made);
        Ok(made)
    }

    /// Records whose images are in an earlier record too.
    pub(crate) fn repeated(&self) -> Result<Shared, Error> {
        once(&self.index.repeated, || Ok(self.contents()?.repeated())).copied()
    }

    /// Compares the images with a sample of others.
    pub(crate) fn compare(&self, sample: &ContentSample) -> Result<Sampled, Error> {
        Ok(sample.compare(self.contents()?))
    }

    fn contents(&self) -> Result<&Contents, Error> {
        once(&self.index.contents, || Ok(self.dataset.contents()?))
    }

    /// Gives a warning about these records, unless it was given before, as in an earlier cell of a suite.
    pub(crate) fn warn_once(&self, warning: String) {
        let mut given = self.index.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !given.contains(&warning) {
            tracing::warn!("{warning}");
            given.insert(warning);
        }
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
