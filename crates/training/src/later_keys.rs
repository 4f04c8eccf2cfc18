//! Comparison of a run's config, perhaps written by an earlier version, with a current one.
//!
//! `--resume` needs the run's own config. A key added since then is in the given config but not in the run's.
//! It is still the same run if the key has the value that matches the earlier version's behavior; this file
//! lists those values.

use toml::{Table, Value};

/// A key added after the first released version.
struct LaterKey {
    /// Dotted path of the table of the key. If the table is absent, so is the key.
    table: &'static str,
    /// Its name.
    key: &'static str,
    /// The behavior of versions without it, as TOML.
    before: &'static str,
}

/// Every key that was added to configs of runs, oldest first. A new key gets a line here, unless it is
/// optional and omitted from `config.toml` too (an `Option` that is `None`, a default that is skipped).
const LATER_KEYS: &[LaterKey] = &[];

/// Keys that affect no result, and may differ from the original process.
const FREE_KEYS: &[&str] = &[
    "data.workers",
    "training.on_alarm",
    "training.checkpoint_every_minutes",
];

/// Adds the keys added since then to a config of an earlier version; returns whether it lacked any.
pub fn fill_in_later_keys(config: &mut Table) -> bool {
    let filled: Vec<bool> = LATER_KEYS.iter().map(|key| key.fill_in(config)).collect();
    filled.contains(&true)
}

/// The first key whose value differs between the run's config, `before`, and the given one, `now`, with both
/// values.
pub(crate) fn difference(before: Table, now: Table) -> Option<(String, String, String)> {
    difference_knowing(LATER_KEYS, before, now)
}

fn difference_knowing(
    later: &[LaterKey],
    mut before: Table,
    mut now: Table,
) -> Option<(String, String, String)> {
    // Both configs: a run started with the key also matches a config that lacks it.
    for table in [&mut before, &mut now] {
        later.iter().for_each(|key| {
            key.fill_in(table);
        });
    }
    first_difference("", &before, &now)
}

impl LaterKey {
    /// Returns whether the config lacked the key.
    fn fill_in(&self, config: &mut Table) -> bool {
        let table = self
            .table
            .split('.')
            .filter(|part| !part.is_empty())
            .try_fold(config, |table, part| table.get_mut(part)?.as_table_mut());
        if let Some(table) = table
            && !table.contains_key(self.key)
            && let Ok(wrapped) = format!("value = {}", self.before).parse::<Table>()
            && let Some(value) = wrapped.get("value")
        {
            table.insert(self.key.to_owned(), value.clone());
            return true;
        }
        false
    }
}

/// The first key whose value differs, dotted, with both values.
fn first_difference(prefix: &str, before: &Table, now: &Table) -> Option<(String, String, String)> {
    let shown = |value: Option<&Value>| value.map_or("nothing".to_string(), |value| format!("`{value}`"));
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for key in keys {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (before.get(key), now.get(key)) {
            _ if FREE_KEYS.contains(&path.as_str()) => {}
            (Some(Value::Table(before)), Some(Value::Table(now))) => {
                if let Some(difference) = first_difference(&path, before, now) {
                    return Some(difference);
                }
            }
            (before, now) if before == now => {}
            (before, now) => return Some((format!("`{path}`"), shown(before), shown(now))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn named(key: &str, before: &str, now: &str) -> Option<(String, String, String)> {
        Some((format!("`{key}`"), before.into(), now.into()))
    }

    #[test]
    fn differences_between_configs_are_named_but_workers_may_differ() {
        let before = || table("seed = 0\n[data]\nworkers = 1\nbatch_images = 8");
        let with = |text| difference(before(), table(text));
        assert_eq!(with("seed = 0\n[data]\nworkers = 4\nbatch_images = 8"), None);
        assert_eq!(
            with("seed = 0\n[data]\nworkers = 1\nbatch_images = 16"),
            named("data.batch_images", "`8`", "`16`")
        );
        assert_eq!(
            with("seed = 0\nnew = 1\n[data]\nworkers = 1\nbatch_images = 8"),
            named("new", "nothing", "`1`")
        );
    }

    /// A run of a version without a key resumes under a version with it, if the key has the value of the old
    /// behavior, and with no other value.
    #[test]
    fn a_key_that_was_added_later_keeps_no_old_run_from_being_resumed() {
        let later = [
            LaterKey {
                table: "",
                key: "amplitude",
                before: "0.5",
            },
            LaterKey {
                table: "objective.moco",
                key: "negatives",
                before: "\"queue\"",
            },
        ];
        let difference = |before: &str, now: &str| difference_knowing(&later, table(before), table(now));
        let old = "seed = 0\n[objective.moco]\nmomentum = 0.9";
        let new = |amplitude: &str, negatives: &str| {
            format!(
                "seed = 0\namplitude = {amplitude}\n[objective.moco]\nmomentum = 0.9\nnegatives = \"{negatives}\""
            )
        };
        assert_eq!(difference(old, &new("0.5", "queue")), None);
        assert_eq!(difference(&new("0.5", "queue"), old), None);
        assert_eq!(
            difference(old, &new("0.25", "queue")),
            named("amplitude", "`0.5`", "`0.25`")
        );
        assert_eq!(
            difference(old, &new("0.5", "batch")),
            named("objective.moco.negatives", "`\"queue\"`", "`\"batch\"`")
        );
        // Another method's table must not get the key.
        let other = "seed = 0\n[objective.byol]\nmomentum = 0.9";
        assert_eq!(difference(other, other), None);
        assert_eq!(
            difference(other, old),
            named("objective.byol", "`{ momentum = 0.9 }`", "nothing")
        );
    }

    /// Each entry has a valid TOML value; a typing error would silently skip the key.
    #[test]
    fn every_later_key_has_a_value() {
        for later in LATER_KEYS {
            assert!(
                format!("value = {}", later.before).parse::<Table>().is_ok(),
                "{}",
                later.key
            );
        }
    }
}
