//! Config files: one flat TOML, edited by `--set`, read strictly.

use crate::failure::Failure;
use anyhow::Context;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a config. `sets` are `key.path=value` edits, applied to the table before it is parsed as `C`, so
/// that they are checked like the file itself.
pub(crate) fn read<C: DeserializeOwned>(path: &Path, sets: &[String], kind: Kind) -> anyhow::Result<C> {
    read_completed(path, sets, kind, nothing_to_fill_in)
}

/// [`read`] for resuming a run: a config from an earlier version gets the keys that were added since.
pub(crate) fn read_resumed<C: DeserializeOwned>(
    path: &Path,
    sets: &[String],
    kind: Kind,
) -> anyhow::Result<C> {
    read_completed(path, sets, kind, training::fill_in_later_keys)
}

/// Fills in keys that a config lacks; returns whether it added any.
type FillIn = fn(&mut toml::Table) -> bool;

fn nothing_to_fill_in(_: &mut toml::Table) -> bool {
    false
}

fn read_completed<C: DeserializeOwned>(
    path: &Path,
    sets: &[String],
    kind: Kind,
    fill_in: FillIn,
) -> anyhow::Result<C> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("config `{}` cannot be read", path.display()))?;
    let parsed = parse_completed(&text, sets, fill_in);
    if parsed.is_err()
        && let Some(found) = Kind::of(&text)
        && found != kind
    {
        return Err(Failure::new(format!(
            "`{}` looks like {}; expected {}",
            path.display(),
            found.name(),
            kind.name()
        ))
        .hint(found.belongs())
        .into());
    }
    parsed.with_context(|| format!("config `{}` is not valid", path.display()))
}

/// The purpose of a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pretraining,
    FineTuning,
    Detection,
    Evaluation,
    Suite,
    DataSet,
    Curation,
}

impl Kind {
    /// The apparent kind of a text, by keys that no other kind has.
    fn of(text: &str) -> Option<Self> {
        let table: toml::Table = text.parse().ok()?;
        let has = |key: &str| table.contains_key(key);
        let of_objective = |key: &str| table.get("objective").is_some_and(|own| own.get(key).is_some());
        if has("detection") {
            Some(Self::Detection)
        } else if of_objective("test_transforms") {
            Some(Self::FineTuning)
        } else if has("objective") || has("backbone") || has("views") {
            Some(Self::Pretraining)
        } else if has("source") && has("stages") {
            Some(Self::Curation)
        } else if has("encoders") || has("data_sets") {
            Some(Self::Suite)
        } else if has("protocols") || has("test_transforms") {
            Some(Self::Evaluation)
        } else if has("kind") || has("splits") {
            Some(Self::DataSet)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pretraining => "a pretraining config",
            Self::FineTuning => "a fine-tuning config",
            Self::Detection => "a detection config",
            Self::Evaluation => "an evaluation config",
            Self::Suite => "an evaluation suite",
            Self::DataSet => "a data-set description",
            Self::Curation => "a curation config",
        }
    }

    fn belongs(self) -> &'static str {
        match self {
            Self::Pretraining => {
                "`passer pretrain` and `passer views` take such files, as in configs/pretrain/"
            }
            Self::FineTuning => {
                "`passer evaluate finetune` takes such files, as configs/evaluate/finetune-*.toml"
            }
            Self::Detection => {
                "`passer evaluate finetune` takes such files, as configs/evaluate/detection-*.toml"
            }
            Self::Evaluation => "`passer evaluate run` takes such files, as in configs/evaluate/",
            Self::Suite => "`passer evaluate suite` takes such files, as in configs/suites/",
            Self::Curation => "`passer curate` takes such files, as in configs/curate/",
            Self::DataSet => "such files are values of `--data`, `--train` and `--test`",
        }
    }
}

/// Whether a file is a detection config; an unreadable file is none, and reading it gives the error.
pub(crate) fn is_detection(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Kind::of(&text) == Some(Kind::Detection)
}

/// [`read`] for a text in memory.
pub(crate) fn parse<C: DeserializeOwned>(text: &str, sets: &[String]) -> anyhow::Result<C> {
    parse_completed(text, sets, nothing_to_fill_in)
}

fn parse_completed<C: DeserializeOwned>(text: &str, sets: &[String], fill_in: FillIn) -> anyhow::Result<C> {
    let mut table: toml::Table = text.parse()?;
    if !fill_in(&mut table) && sets.is_empty() {
        // Straight from the text: errors then name line and column.
        return Ok(toml::from_str(text)?);
    }
    for edit in sets {
        set(&mut table, edit)?;
    }
    C::deserialize(table).map_err(|error| {
        let message = error.to_string();
        if message.trim_end().ends_with("in `training.precision`") {
            // serde's message for a number in place of a name mentions tables.
            return Failure::new(format!(
                "`--set {}`: `training.precision` must be one of the names `f32`, `bf16`, `f16`",
                sets.join("`, `--set ")
            ))
            .hint("as in `--set training.precision=bf16`; left out, it is f32")
            .into();
        }
        if message.contains("unit variant, expected") {
            // serde's message for a bare word in place of a table of settings.
            let place = message.lines().last().unwrap_or_default();
            return Failure::new(format!(
                "`--set {}`: a name alone is not enough {place}: it has settings of its own",
                sets.join("`, `--set ")
            ))
            .hint(
                "write it as a table, as in `--set 'schedule={ constant = {} }'`, or change one of its keys, as in \
                 `--set optimizer.sgd.momentum=0.8`; docs and configs/ show the keys",
            )
            .into();
        }
        anyhow::Error::from(error)
    })
}

/// Applies one `key.path=value`. In lists, a number is a place, and a name is the table of the one element that
/// has it: `stages.faces.score`.
fn set(table: &mut toml::Table, edit: &str) -> anyhow::Result<()> {
    let bad = |reason: &str| {
        Failure::new(format!("`--set {edit}`: {reason}"))
            .hint("write `--set key.path=value`, as in `--set training.epochs=1`")
    };
    let (path, value) = edit.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    // A value that is not TOML is a string: `--set backbone.resnet.stem=small` needs no quotes.
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys
        .pop()
        .filter(|key| !key.is_empty())
        .ok_or_else(|| bad("the key is empty"))?;
    let Some((first, rest)) = keys.split_first() else {
        table.insert(last.to_string(), value);
        return Ok(());
    };
    let missing = |key: &str| bad(&format!("`{key}` is not in the config"));
    let several = |key: &str, count: usize| {
        bad(&format!(
            "`{key}` is in the list {count} times; name one by its place, from 0"
        ))
    };
    let mut node = table.get_mut(*first).ok_or_else(|| missing(first))?;
    for key in rest {
        node = match node {
            toml::Value::Table(table) => table.get_mut(*key),
            toml::Value::Array(list) => match named(list, key) {
                0 => key.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
                1 => list.iter_mut().find_map(|element| element.get_mut(*key)),
                count => return Err(several(key, count).into()),
            },
            _ => None,
        }
        .ok_or_else(|| missing(key))?;
    }
    match node {
        toml::Value::Array(list) if named(list, last) > 1 => {
            return Err(several(last, named(list, last)).into());
        }
        toml::Value::Table(table) => {
            table.insert(last.to_string(), value);
        }
        toml::Value::Array(list) => {
            let place = match named(list, last) {
                0 => last.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
                _ => list.iter_mut().find_map(|element| element.get_mut(last)),
            };
            *place.ok_or_else(|| missing(last))? = value;
        }
        _ => return Err(missing(last).into()),
    }
    Ok(())
}

/// How many elements of a list are tables with this key.
fn named(list: &[toml::Value], key: &str) -> usize {
    list.iter().filter(|element| element.get(key).is_some()).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        epochs: usize,
        name: String,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        seed: u64,
        inner: Inner,
        list: Vec<Inner>,
    }
    const TEXT: &str = "seed = 1\ninner = { epochs = 2, name = 'a' }\nlist = [{ epochs = 3, name = 'b' }]";

    #[test]
    fn edits_reach_tables_lists_and_bare_words() {
        let sets = ["seed=7", "inner.name=small", "list.0.epochs=9"].map(String::from);
        let outer: Outer = parse(TEXT, &sets).unwrap();
        assert_eq!(
            (outer.seed, outer.inner.name.as_str(), outer.list[0].epochs),
            (7, "small", 9)
        );
    }

    #[test]
    fn elements_of_a_list_are_reached_by_name() {
        let text = "stages = [{ faces = { score = 1 } }, { crop = { px = 2 } }, { crop = { px = 3 } }]";
        let read = |set: &str| parse::<toml::Table>(text, &[set.to_string()]);
        let stages = |set: &str| read(set).unwrap()["stages"].to_string();
        assert!(stages("stages.faces.score=9").contains("score = 9"));
        assert!(stages("stages.faces={ a = 4 }").contains("faces = { a = 4 }"));
        assert!(stages("stages.0.faces.score=8").contains("score = 8"));
        assert!(stages("stages.2.crop.px=7").contains("px = 7"));
        let error = |set: &str| read(set).unwrap_err().to_string();
        assert_eq!(
            error("stages.crop.px=7"),
            "`--set stages.crop.px=7`: `crop` is in the list 2 times; name one by its place, from 0"
        );
        assert!(error("stages.crop={}").contains("2 times"));
        assert!(error("stages.persons.score=1").contains("`persons` is not in the config"));
    }

    #[test]
    fn what_an_earlier_version_lacked_is_filled_in_before_edits() {
        let old = TEXT.replace(", name = 'a'", "");
        assert!(parse::<Outer>(&old, &[]).is_err());
        let fill_in: FillIn = |table| {
            let inner = table["inner"].as_table_mut().unwrap();
            inner.insert("name".into(), "as before".into()).is_none()
        };
        let outer: Outer = parse_completed(&old, &[], fill_in).unwrap();
        assert_eq!(outer.inner.name, "as before");
        let outer: Outer = parse_completed(&old, &["inner.name=new".into()], fill_in).unwrap();
        assert_eq!(outer.inner.name, "new");
    }

    #[test]
    fn edits_are_as_strict_as_the_file() {
        let error = |set: &str| format!("{:#}", parse::<Outer>(TEXT, &[set.to_string()]).unwrap_err());
        assert!(error("inner.epoch=3").contains("unknown field `epoch`"));
        assert!(error("inne.epochs=3").contains("`inne` is not in the config"));
        assert!(error("list.4.epochs=3").contains("`4` is not in the config"));
        assert!(error("seed").contains("no `=`"));
        assert!(error("seed=many").contains("invalid type"));
    }

    #[test]
    fn a_bare_word_for_a_table_is_explained() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Schedule {
            Steps { factor: f64 },
        }
        #[derive(Debug, Deserialize)]
        struct Config {
            schedule: Schedule,
        }
        let text = "schedule = { steps = { factor = 0.1 } }";
        let error = parse::<Config>(text, &["schedule=steps".into()]).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("`--set schedule=steps`: a name alone is not enough in `schedule`"),
            "{message}"
        );
        let Schedule::Steps { factor } = parse::<Config>(text, &["schedule.steps.factor=0.5".into()])
            .unwrap()
            .schedule;
        assert_eq!(factor, 0.5);
    }

    #[test]
    fn a_number_for_a_precision_is_refused_with_the_names() {
        #[derive(Debug, Deserialize)]
        struct Training {
            precision: backbones::Precision,
        }
        #[derive(Debug, Deserialize)]
        struct Config {
            training: Training,
        }
        let text = "[training]\nprecision = 'f32'";
        for set in ["training.precision=16", "training.precision=fp16"] {
            let message = parse::<Config>(text, &[set.into()]).unwrap_err().to_string();
            assert!(
                message.contains("one of the names `f32`, `bf16`, `f16`"),
                "{message}"
            );
        }
        let config = parse::<Config>(text, &["training.precision=bf16".into()]).unwrap();
        assert_eq!(config.training.precision, backbones::Precision::Bf16);
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(Kind::of("[objective.moco]"), Some(Kind::Pretraining));
        assert_eq!(Kind::of("[[protocols]]"), Some(Kind::Evaluation));
        assert_eq!(Kind::of("kind = 'flat'"), Some(Kind::DataSet));
        assert_eq!(Kind::of("[[encoders]]\n[[protocols]]"), Some(Kind::Suite));
        assert_eq!(Kind::of("nothing = 1"), None);
    }
}
