//! What several questions about the same encoder and records share: features, made once and kept in memory from one to the next,
//! and what is read from a data set's index.

use crate::error::{Error, io};
use crate::extract::{index_features, labels_hash};
use crate::features::{Features, Origin};
use crate::taps::Tap;
use data::Dataset;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Features kept in memory: those of a training set and of a test set. Protocols of one config ask for the same two, one after
/// another, and a third would make a large data set's evaluation half as large again.
const KEPT: usize = 2;

/// A data set with what evaluations ask of its index, found out once: listing the keys and labels of a million records takes
/// longer than some protocols.
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
    /// Keys and, if asked for, labels of all records, as features of no width.
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

/// What is known, or made now; an error is not kept.
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

/// A folder of features files, and the last few of them in memory.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// By file name, the last used at the end.
    loaded: Mutex<Vec<(String, Arc<Features>)>>,
}

impl Store {
    /// Features in `folder`, which is made when the first are written.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            loaded: Mutex::default(),
        }
    }

    /// The features of that file if they are `wanted`, from memory or disk; else those that `make` makes, which are written
    /// to it.
    pub(crate) fn get(
        &self,
        file: &str,
        wanted: &Origin,
        taps: &[Tap],
        make: impl FnOnce(&[Tap]) -> Result<Features, Error>,
    ) -> Result<Arc<Features>, Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = loaded
            .iter()
            .position(|(name, features)| name == file && features.origin.is(wanted) && has(features, taps));
        let features = match known {
            Some(place) => loaded.remove(place).1,
            None => {
                // Room first, so that no more than are kept are ever in memory at once.
                loaded.retain(|(name, _)| name != file);
                let surplus = (loaded.len() + 1).saturating_sub(KEPT);
                loaded.drain(..surplus);
                Arc::new(self.read_or_make(file, wanted, taps, make)?)
            }
        };
        loaded.push((file.to_string(), Arc::clone(&features)));
        Ok(features)
    }

    fn read_or_make(
        &self,
        file: &str,
        wanted: &Origin,
        taps: &[Tap],
        make: impl FnOnce(&[Tap]) -> Result<Features, Error>,
    ) -> Result<Features, Error> {
        let path = self.folder.join(file);
        let mut all = taps.to_vec();
        if let Some(stored) = stored(&path, wanted) {
            if has(&stored, taps) {
                return Ok(stored);
            }
            // What others asked for stays in the file, or they would take turns in making it.
            let others = stored.taps.keys().filter_map(|name| Tap::named(name));
            all.extend(others.filter(|tap| !taps.contains(tap)));
        }
        let features = make(&all)?;
        std::fs::create_dir_all(&self.folder).map_err(io(&self.folder, "creating the folder of features"))?;
        features.save(&path)?;
        Ok(features)
    }
}

fn has(features: &Features, taps: &[Tap]) -> bool {
    taps.iter().all(|tap| features.taps.contains_key(&tap.name()))
}

/// The features in a file, if they are those that would be made.
fn stored(path: &Path, wanted: &Origin) -> Option<Features> {
    if !path.exists() {
        return None;
    }
    match Features::load(path) {
        Ok(stored) if stored.origin.is(wanted) => {
            tracing::info!(path = %path.display(), "using stored features");
            return Some(stored);
        }
        Ok(_) => {
            tracing::info!(path = %path.display(), "stored features are of something else; making new ones")
        }
        Err(error) => tracing::warn!(%error, "stored features cannot be used; making new ones"),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Matrix;

    fn features(encoder: &str) -> Features {
        Features {
            origin: Origin {
                encoder: encoder.into(),
                ..Origin::default()
            },
            ..Features::default()
        }
    }

    #[test]
    fn features_are_made_once_read_once_and_kept_while_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("features"));
        let made = std::cell::Cell::new(0);
        let get = |store: &Store, file: &str, encoder: &str| {
            let wanted = features(encoder).origin;
            let make = |_: &[Tap]| {
                made.set(made.get() + 1);
                Ok(features(encoder))
            };
            store.get(file, &wanted, &[], make).unwrap()
        };
        let one = get(&store, "one", "a");
        assert!(Arc::ptr_eq(&one, &get(&store, "one", "a")));
        get(&store, "two", "b");
        assert!(Arc::ptr_eq(&one, &get(&store, "one", "a")), "two are kept");
        get(&store, "three", "c");
        get(&store, "two", "b");
        assert_eq!(made.get(), 3, "what went is on disk");
        assert!(!Arc::ptr_eq(&one, &get(&store, "one", "a")));
        // Another encoder's, in a file of the same name.
        assert_eq!(get(&store, "one", "d").origin.encoder, "d");
        assert_eq!(made.get(), 4);
        assert_eq!(
            get(&Store::new(folder.path().join("features")), "one", "d")
                .origin
                .encoder,
            "d"
        );
        assert_eq!(made.get(), 4);
    }

    #[test]
    fn taps_that_others_asked_for_stay_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let get = |taps: &[Tap]| {
            let make = |taps: &[Tap]| {
                Ok(Features {
                    taps: taps
                        .iter()
                        .map(|tap| (tap.name(), Matrix::new(0, 1, vec![])))
                        .collect(),
                    ..features("a")
                })
            };
            store.get("one", &features("a").origin, taps, make).unwrap()
        };
        assert_eq!(get(&[Tap::Pooled]).taps.len(), 1);
        let both = get(&[Tap::ClassToken(2)]);
        assert_eq!(both.taps.keys().collect::<Vec<_>>(), ["class_token_2", "pooled"]);
        assert!(Arc::ptr_eq(&both, &get(&[Tap::Pooled])));
    }

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
