//! Features that several evaluations of the same encoder and records share: computed once, and kept in memory
//! in between.

use super::matrix::{Features, Origin};
use super::stored::Stored;
use crate::encoder::Tap;
use crate::error::{Error, io};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Features kept in memory: those of a training set and of a test set. Consecutive protocols of one config
/// read the same two; a third would add half to a large data set's memory.
const KEPT: usize = 2;

/// A folder of features files, and the last few of them in memory.
#[derive(Debug)]
pub struct FeatureCache {
    folder: PathBuf,
    /// By file name, the most recently used last.
    loaded: Mutex<Vec<(String, Arc<Features>)>>,
}

impl FeatureCache {
    /// Features in `folder`, which is created with the first write.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            loaded: Mutex::default(),
        }
    }

    /// These taps of the features in that file, from memory or disk if their origin is `wanted`; else `make`
    /// writes them to the path it receives.
    pub(crate) fn get(
        &self,
        file: &str,
        wanted: &Origin,
        taps: &[Tap],
        make: impl FnOnce(&[Tap], &Path) -> Result<(), Error>,
    ) -> Result<Arc<Features>, Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |features: &Features| taps.iter().all(|tap| features.taps.contains_key(&tap.name()));
        let known = loaded
            .iter()
            .position(|(name, features)| name == file && features.origin.is(wanted) && has(features));
        let features = match known {
            Some(place) => loaded.remove(place).1,
            None => {
                // Free memory first, so that at most `KEPT` are in memory at once.
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
        make: impl FnOnce(&[Tap], &Path) -> Result<(), Error>,
    ) -> Result<Features, Error> {
        let path = self.folder.join(file);
        let names: Vec<String> = taps.iter().map(Tap::name).collect();
        let mut all = taps.to_vec();
        if let Some(stored) = stored(&path, wanted) {
            let there = stored.taps();
            if names.iter().all(|name| there.contains(name)) {
                match stored.read(&names) {
                    Ok(features) => {
                        tracing::info!(path = %path.display(), "using stored features");
                        return Ok(features);
                    }
                    Err(error) => tracing::warn!(%error, "stored features cannot be used; making new ones"),
                }
            }
            // Keep the taps of other protocols in the file; otherwise protocols would alternate in rewriting
            // it.
            let others = there.iter().filter_map(|name| Tap::named(name));
            all.extend(others.filter(|tap| !taps.contains(tap)));
        }
        if path.is_dir() {
            // A user's slices, which nothing may replace.
            return Err(Error::Occupied {
                path,
                what: "slices",
                stored: "other features".into(),
                now: format!(
                    "an evaluation of `{}` with {}",
                    wanted.encoder_name,
                    names.join(", ")
                ),
            });
        }
        std::fs::create_dir_all(&self.folder).map_err(io("make", &self.folder))?;
        make(&all, &path)?;
        Stored::open(&path)?.read(&names)
    }
}

/// The features in a file, if their origin matches.
fn stored(path: &Path, wanted: &Origin) -> Option<Stored> {
    if !path.exists() {
        return None;
    }
    match Stored::open(path) {
        Ok(stored) if stored.origin().is(wanted) => return Some(stored),
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
        let store = FeatureCache::new(folder.path().join("features"));
        let made = std::cell::Cell::new(0);
        let get = |store: &FeatureCache, file: &str, encoder: &str| {
            let wanted = features(encoder).origin;
            let make = |_: &[Tap], path: &Path| {
                made.set(made.get() + 1);
                features(encoder).save(path)
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
        // Another encoder's features, in a file of the same name.
        assert_eq!(get(&store, "one", "d").origin.encoder, "d");
        assert_eq!(made.get(), 4);
        assert_eq!(
            get(&FeatureCache::new(folder.path().join("features")), "one", "d")
                .origin
                .encoder,
            "d"
        );
        assert_eq!(made.get(), 4);
    }

    #[test]
    fn taps_that_others_asked_for_stay_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = FeatureCache::new(folder.path());
        let made = std::cell::Cell::new(0);
        let get = |taps: &[Tap]| {
            let make = |taps: &[Tap], path: &Path| {
                made.set(made.get() + 1);
                let rows = taps.iter().map(|tap| (tap.name(), Matrix::new(0, 1, vec![])));
                let features = Features {
                    taps: rows.collect(),
                    ..features("a")
                };
                features.save(path)
            };
            store.get("one", &features("a").origin, taps, make).unwrap()
        };
        get(&[Tap::Pooled]);
        let one = get(&[Tap::ClassToken(2)]);
        assert_eq!(
            one.taps.keys().collect::<Vec<_>>(),
            ["class_token_2"],
            "no more than asked for"
        );
        let both = get(&[Tap::Pooled, Tap::ClassToken(2)]);
        assert_eq!(made.get(), 2, "the first one's has stayed");
        assert!(Arc::ptr_eq(&both, &get(&[Tap::Pooled])));
    }
}
