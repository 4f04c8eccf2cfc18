//! A release: shards, metadata, credits, checksums, history, data sheet and Croissant description of the
//! photos that the last stage kept.
//!
//! A release is a folder that is written under another name, renamed when it is whole, and never changed. Its
//! content is in the ledger (`releases`, `release_photos`). While photos are only removed, the others stay in
//! their shards, so shards without a removed photo are the same to the byte and need no new download.

mod credits;
mod croissant;
mod datasheet;
mod documents;
mod entry;
mod file;
mod files;
mod metadata;
mod pack;
mod plan;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::looked::Looked;
use crate::config::Config;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Funnel, Ledger, ReleaseLine};
use crate::progress::Progress;
use crate::stages::detect::network_fact;

use pack::{Contents, Packing};
use plan::Plan;
pub(crate) use plan::done_stage;
use tally::Tally;

/// The result of [`release`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// Its version, from 1.
    pub version: u32,
    /// Its folder: a data set for `passer pretrain --data`.
    pub folder: PathBuf,
    /// Photos in it.
    pub records: usize,
    /// Its fingerprint, which every encoder trained on it carries.
    pub fingerprint: String,
    /// Photos that the previous version did not have.
    pub added: usize,
    /// Photos of the previous version that this one does not have.
    pub removed: usize,
}

/// All data that the documents of a release need.
struct Release<'a> {
    config: &'a Config,
    version: u32,
    made: String,
    fingerprint: String,
    removed: &'a [String],
    funnel: Funnel,
    /// Each detector's network in words and the SHA-256 of its weights, by its stage.
    weights: BTreeMap<String, (Option<String>, String)>,
    /// What people looked at.
    looked: Looked,
    tally: Tally,
}

/// Makes the next version of the curation in `folder`. `note` is the line of the version history;
/// if it is empty, the line says what changed beside the photos.
///
/// # Errors
/// Stages that are not done, texts of a shipped config in `[release]`, nothing to release or nothing new, and files that cannot be read or written. An
/// unfinished release leaves nothing behind.
pub fn release(
    folder: &Path,
    note: &str,
    stop: &AtomicBool,
    progress: Progress<'_>,
) -> Result<Released, Error> {
    let mut ledger = Ledger::open_existing(folder)?;
    let config = Config::of(&ledger, folder)?;
    done_stage(&ledger, &config)?;
    let open = config.release.placeholders();
    if !open.is_empty() {
        let keys: Vec<String> = open.iter().map(|key| format!("`{key}`")).collect();
        return Err(Error::Release {
            reason: format!(
                "{} would be published with the text of a shipped config",
                keys.join(", ")
            ),
            hint: Some(Hint::FillIn { keys: open }),
        });
    }
    release_with(&mut ledger, folder, note, stop, progress)
}

/// [`release`] of an open ledger: plans the version, packs it in a temporary folder, writes its documents,
/// and publishes it.
pub(crate) fn release_with(
    ledger: &mut Ledger,
    folder: &Path,
    note: &str,
    stop: &AtomicBool,
    progress: Progress<'_>,
) -> Result<Released, Error> {
    let config = Config::of(ledger, folder)?;
    let photos = config.photos(folder)?;
    let version = ledger.last_version()? + 1;
    let place = folder.join("releases").join(format!("v{version}"));
    files::make_way(ledger, &place)?;
    let plan = Plan::new(ledger, &config, folder, &photos, stop)?;
    if config.release.metadata.is_none() {
        tracing::warn!(
            "`release.metadata` is not in the config, so it is \"strip_private\": places, owners, serial numbers, comments and \
             thumbnails are removed from the files, pixels and credits stay; \"keep\" leaves the files as they are"
        );
    }

    let aside = data::durable::Folder::create(&place)?;
    let made = ledger.now()?;
    let packing = Packing {
        ledger,
        config: &config,
        photos: &photos,
        plan: &plan,
        stop,
        progress,
    };
    let Contents {
        shards,
        tally,
        fingerprint,
    } = packing.write(aside.path())?;
    let line = ReleaseLine {
        version: plan.version,
        made,
        folder: format!("releases/v{}", plan.version),
        fingerprint,
        records: plan.records as u64,
        added: plan.added as u64,
        removed: plan.removed.len() as u64,
        note: match note {
            "" => plan.note.clone(),
            note => note.to_string(),
        },
    };
    let mut funnel = ledger.funnel()?;
    funnel.releases.push(line.clone());
    let facts = Release {
        config: &config,
        version: plan.version,
        made: line.made.clone(),
        fingerprint: line.fingerprint.clone(),
        removed: &plan.removed,
        funnel,
        weights: weights(ledger, &config)?,
        looked: Looked::read(ledger, &config, plan.stage)?,
        tally,
    };
    documents::write(aside.path(), &facts)?;

    files::make_way(ledger, &place)?;
    ledger.set_fact(
        files::BEING_MADE,
        &files::token(aside.path(), &format!("v{}", plan.version))?,
    )?;
    aside.finish()?;
    let facts = config.release.facts().to_string();
    let kept = (config.release.file_metadata(), facts.as_str());
    ledger.add_release(&line, &shards, kept, files::BEING_MADE)?;
    Ok(Released {
        version: plan.version,
        folder: place,
        records: plan.records,
        fingerprint: line.fingerprint,
        added: plan.added,
        removed: plan.removed.len(),
    })
}

/// The weights of the detectors, as the ledger keeps them with their decisions.
fn weights(ledger: &Ledger, config: &Config) -> Result<BTreeMap<String, (Option<String>, String)>, Error> {
    let mut found = BTreeMap::new();
    for stage in config.stages.iter().filter(|stage| stage.weights().is_some()) {
        let settings = ledger
            .stage(stage.name())?
            .map(|row| row.settings)
            .unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
        if let Some(sha256) = settings[stage.name()]["weights_sha256"].as_str() {
            let network = ledger.fact(&network_fact(stage.name()))?;
            found.insert(stage.name().to_string(), (network, sha256.to_string()));
        }
    }
    Ok(found)
}
