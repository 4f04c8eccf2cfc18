//! Comparison of a stage's settings in the ledger, perhaps written by an earlier version, with those of a config.
//!
//! A key that was added since is in a config and not in the ledger. They are the same settings if the key has the
//! value that matches the earlier version's behavior; this file lists those values.

use serde_json::Value;

/// A key that stages or sources got after the first released version.
struct LaterKey {
    /// Its path; settings without its table lack nothing.
    path: &'static [&'static str],
    /// The behavior of versions without it, as JSON.
    before: &'static str,
}

/// Every key that was added to stages and sources, oldest first. A new key gets a line here.
const LATER_KEYS: &[LaterKey] = &[
    LaterKey {
        path: &["fetch", "robots_noai"],
        before: "\"keep\"",
    },
    LaterKey {
        path: &["integrity", "animated"],
        before: "\"keep\"",
    },
    LaterKey {
        path: &["integrity", "transparent"],
        before: "\"keep\"",
    },
];

/// A value that changed: its path, and what it was and is, as JSON; without a path where all changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted, from the stage's name on.
    pub key: String,
    /// In the ledger; `none` where it was absent.
    pub was: String,
    /// In the config; `none` where it is absent.
    pub now: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} → {}", self.key, self.was, self.now)
    }
}

/// The differences between settings in the ledger and those of a config; none if they mean the same.
pub(crate) fn changes(known: &str, now: &Value) -> Vec<Change> {
    changes_knowing(LATER_KEYS, known, now)
}

fn changes_knowing(later: &[LaterKey], known: &str, now: &Value) -> Vec<Change> {
    let mut known: Value = serde_json::from_str(known).unwrap_or_default();
    let mut now = now.clone();
    // Both: a ledger that has the key also matches a config that lacks it.
    for settings in [&mut known, &mut now] {
        later.iter().for_each(|key| key.fill_in(settings));
    }
    let mut changes = Vec::new();
    compare("", Some(&known), Some(&now), &mut changes);
    changes
}

impl LaterKey {
    fn fill_in(&self, settings: &mut Value) {
        let Some((name, tables)) = self.path.split_last() else {
            return;
        };
        let table = tables
            .iter()
            .try_fold(settings, |table, name| table.get_mut(*name))
            .and_then(Value::as_object_mut);
        if let (Some(table), Ok(before)) = (table, serde_json::from_str(self.before)) {
            table.entry(*name).or_insert(before);
        }
    }
}

fn compare(path: &str, was: Option<&Value>, now: Option<&Value>, changes: &mut Vec<Change>) {
    // A key that is absent and one that is null mean the same.
    let (was, now) = (was.filter(|was| !was.is_null()), now.filter(|now| !now.is_null()));
    match (was, now) {
        _ if was == now => {}
        (Some(Value::Object(was)), Some(Value::Object(now))) => {
            let more = now.keys().filter(|key| !was.contains_key(*key));
            for key in was.keys().chain(more) {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                compare(&path, was.get(key), now.get(key), changes);
            }
        }
        _ => {
            let text = |value: Option<&Value>| value.map_or("none".to_string(), Value::to_string);
            changes.push(Change {
                key: path.to_string(),
                was: text(was),
                now: text(now),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(known: &Value, now: &Value) -> Vec<String> {
        let later = [LaterKey {
            path: &["faces", "tiles"],
            before: "false",
        }];
        let changes = changes_knowing(&later, &known.to_string(), now);
        changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn changes_are_named_by_their_keys() {
        let settings =
            |score: f64| json!({ "faces": { "score": score, "scale": { "px": 3 }, "list": [1, 2] } });
        assert!(shown(&settings(0.5), &settings(0.5)).is_empty());
        assert_eq!(shown(&settings(0.5), &settings(0.3)), ["faces.score 0.5 → 0.3"]);
        assert_eq!(
            shown(
                &json!({ "faces": { "a": 1, "b": [1] } }),
                &json!({ "faces": { "b": [2], "c": "x" } })
            ),
            ["faces.a 1 → none", "faces.b [1] → [2]", "faces.c none → \"x\""]
        );
    }

    #[test]
    fn a_later_key_with_its_earlier_behavior_is_no_change() {
        let old = json!({ "faces": { "score": 0.5 } });
        let same = json!({ "faces": { "score": 0.5, "tiles": false } });
        let other = json!({ "faces": { "score": 0.5, "tiles": true } });
        assert!(shown(&old, &same).is_empty());
        assert!(shown(&same, &old).is_empty());
        assert_eq!(shown(&old, &other), ["faces.tiles false → true"]);
        // A stage of another name has no such key.
        assert!(shown(&json!({ "persons": {} }), &json!({ "persons": {} })).is_empty());
    }
}
