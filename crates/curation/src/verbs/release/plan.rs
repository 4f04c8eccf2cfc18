//! Which photos a release holds, in which shards, and the changes from the previous version.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::config::Config;
use crate::draws::draw;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::Ledger;
use crate::photos::Photos;
use crate::settings::changes;
use crate::verbs::unseen::Unseen;

/// The planned content of a release.
pub(super) struct Plan {
    /// Its version, from 1.
    pub(super) version: u32,
    /// Number of the stage whose photos it holds: the last one.
    pub(super) stage: i64,
    /// Keys, by shard.
    pub(super) shards: Vec<Vec<String>>,
    /// Photos in it.
    pub(super) records: usize,
    /// Photos that the previous version did not have.
    pub(super) added: usize,
    /// Keys of the previous version that this one does not have.
    pub(super) removed: Vec<String>,
    /// What changed beside the photos, as a line of the version history; empty if nothing did.
    pub(super) note: String,
}

impl Plan {
    /// Plans the next version.
    ///
    /// # Errors
    /// A last stage that is not done; nothing to release, or nothing that changed.
    pub(super) fn new(
        ledger: &Ledger,
        config: &Config,
        folder: &Path,
        photos: &Photos,
        stop: &AtomicBool,
    ) -> Result<Plan, Error> {
        let stage = done_stage(ledger, config)?;
        let last = ledger.last_version()?;
        let before = ledger.photos_of_version(last)?;
        let mut keys = Vec::new();
        ledger.for_each_survivor(stage, |_, key| keys.push(key.to_string()))?;
        let unseen = Unseen {
            ledger,
            photos,
            stage,
            stop,
        };
        let unseen = unseen.taken_down()?;
        keys.retain(|key| !unseen.contains(key));
        if keys.is_empty() {
            return Err(Error::Release {
                reason: "no photo is left to release".to_string(),
                hint: Some(Hint::ShowStatus),
            });
        }
        let (shards, added, removed) = arrange(&keys, &before, config.release.records_per_shard);
        // A setting that is written down counts as a change; one that an old config lacks does not.
        let rewritten = match config.release.metadata {
            Some(metadata) => metadata != ledger.released_metadata()?,
            None => false,
        };
        let note = beside_the_photos(ledger, config, folder, last)?;
        if last > 0 && added == 0 && removed.is_empty() && !rewritten && note.is_empty() {
            return Err(Error::Release {
                reason: format!("the photos are those of version {last}"),
                hint: Some(Hint::NothingNew),
            });
        }
        Ok(Plan {
            version: last + 1,
            stage,
            shards,
            records: keys.len(),
            added,
            removed,
            note,
        })
    }
}

/// What changed since version `last` beside its photos: facts of the config, or that its folder is gone.
fn beside_the_photos(ledger: &Ledger, config: &Config, folder: &Path, last: u32) -> Result<String, Error> {
    if last == 0 {
        return Ok(String::new());
    }
    // Releases of earlier versions of this program did not record their facts.
    let changes = match ledger.released_facts()? {
        Some(known) => changes(&known, &config.release.facts()),
        None => Vec::new(),
    };
    let mut lines = Vec::new();
    if !changes.is_empty() {
        let keys: Vec<String> = changes.iter().map(|change| change.key.clone()).collect();
        lines.push(format!("Facts corrected: {}.", keys.join(", ")));
    }
    if !folder.join("releases").join(format!("v{last}")).is_dir() {
        lines.push(format!(
            "Made again, because the folder of version {last} was gone."
        ));
    }
    Ok(lines.join(" "))
}

/// Number of the last stage, which must be done.
pub(crate) fn done_stage(ledger: &Ledger, config: &Config) -> Result<i64, Error> {
    match config.last_stage_done(ledger)? {
        Some(row) => Ok(row.id),
        None => Err(Error::Release {
            reason: format!("the last stage, `{}`, is not done", config.last_stage()),
            hint: Some(Hint::RunAgain),
        }),
    }
}

/// Keys by shard, how many are new, and which are gone.
/// If photos were only removed, each of the others keeps its shard. Otherwise all photos are dealt again, in
/// an order drawn from the keys alone, so that every shard is a fair sample.
fn arrange(
    now: &[String],
    before: &[(usize, String)],
    per_shard: usize,
) -> (Vec<Vec<String>>, usize, Vec<String>) {
    let old: HashSet<&str> = before.iter().map(|(_, key)| key.as_str()).collect();
    let new: HashSet<&str> = now.iter().map(String::as_str).collect();
    let added = now.iter().filter(|key| !old.contains(key.as_str())).count();
    let removed: Vec<String> = before
        .iter()
        .filter(|(_, key)| !new.contains(key.as_str()))
        .map(|(_, key)| key.clone())
        .collect();
    let mut shards: Vec<Vec<String>> = Vec::new();
    if added == 0 && !before.is_empty() {
        for (shard, key) in before.iter().filter(|(_, key)| new.contains(key.as_str())) {
            if shards.len() <= *shard {
                shards.resize(*shard + 1, Vec::new());
            }
            shards[*shard].push(key.clone());
        }
        // An empty shard is removed; the shards after it move up.
        shards.retain(|keys| !keys.is_empty());
    } else {
        let mut order: Vec<(u128, &String)> =
            now.iter().map(|key| (draw(0, "shards", &[key]), key)).collect();
        order.sort_unstable();
        shards = order
            .chunks(per_shard)
            .map(|part| part.iter().map(|(_, key)| (*key).clone()).collect())
            .collect();
    }
    (shards, added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_keep_their_shards_while_photos_only_go() {
        let keys: Vec<String> = (0..10).map(|at| format!("k{at}")).collect();
        let (first, added, removed) = arrange(&keys, &[], 3);
        assert_eq!((first.len(), added, removed.len()), (4, 10, 0));
        let before: Vec<(usize, String)> = first
            .iter()
            .enumerate()
            .flat_map(|(shard, keys)| keys.iter().map(move |key| (shard, key.clone())))
            .collect();
        let gone = &first[1][1];
        let fewer: Vec<String> = keys.iter().rev().filter(|key| *key != gone).cloned().collect();
        let (second, added, removed) = arrange(&fewer, &before, 3);
        assert_eq!((added, &removed), (0, &vec![gone.clone()]));
        assert_eq!(
            (&second[0], &second[2], &second[3]),
            (&first[0], &first[2], &first[3])
        );
        assert_eq!(second[1], [first[1][0].clone(), first[1][2].clone()]);
        // One more photo, and all are dealt again, as if they had arrived together.
        let mut more = keys.clone();
        more.push("new".into());
        assert_eq!(arrange(&more, &before, 3).0, arrange(&more, &[], 3).0);
    }
}
