//! Config files: one flat TOML, edited by `--set`, read strictly.

use crate::failure::Failure;
use crate::hints;
use anyhow::Context;
use data::settings::{self, Edit};
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::path::Path;

/// Reads a config. `sets` are `key.path=value` edits, applied to the table before it is parsed as `C`, so
/// that they are checked like the file itself. `check` refuses values, with the key first.
pub(crate) fn read<C: DeserializeOwned>(
    path: &Path,
    sets: &[String],
    kind: Kind,
    check: impl FnOnce(&C) -> Result<(), String>,
) -> anyhow::Result<C> {
    read_completed(path, sets, kind, |_| (), check, || None)
}

/// What a run's config must pass. The functions take the config.
pub(crate) struct Checks<V, L, E> {
    /// Refuses values, with the key first.
    pub(crate) values: V,
    /// Refuses keys for which the run is too short.
    pub(crate) length: L,
    /// The run's epochs, if it counts in them, and those that its keys need at least.
    pub(crate) epochs: E,
}

/// [`read`] for a run, which starts from the encoder `start` if one is named: the edits come after it. One that resumes may have a
/// config from an earlier version, which gets the keys that were added since, and may be of any length.
pub(crate) fn read_for_run<C: DeserializeOwned>(
    path: &Path,
    sets: &[String],
    kind: Kind,
    resume: bool,
    start: Option<&Path>,
    checks: Checks<
        impl Fn(&C) -> Result<(), String>,
        impl Fn(&C) -> Result<(), String>,
        impl Fn(&C) -> (Option<usize>, usize),
    >,
) -> anyhow::Result<C> {
    let not_utf8 = || Failure::new("`--start` must be a path in UTF-8, because the run's config names it");
    let start = start
        .map(|encoder| encoder.to_str().ok_or_else(not_utf8))
        .transpose()?;
    if let Some(encoder) = start {
        let names_one = |set: &&String| {
            let key = set.split_once('=').map_or(set.as_str(), |(key, _)| key).trim();
            key == "start" || key == "start.encoder"
        };
        if let Some(set) = sets.iter().find(names_one) {
            return Err(Failure::new(format!(
                "`--start {encoder}` and `--set {set}` both name the encoder to start from"
            ))
            .hint("give one of the two")
            .into());
        }
    }
    let complete = |table: &mut toml::Table| {
        if resume {
            training::fill_in_later_keys(table);
        }
        if let Some(encoder) = start {
            start_from(table, encoder);
        }
    };
    let needed_epochs = Cell::new(None);
    let check = |config: &C| {
        let values = (checks.values)(config);
        let checked = values.and_then(|()| match resume {
            true => Ok(()),
            false => (checks.length)(config),
        });
        checked.inspect_err(|reason| {
            let (epochs, needed) = (checks.epochs)(config);
            let is_short = epochs.is_some_and(|epochs| epochs < needed);
            // Another key may be wrong too.
            needed_epochs.set((is_short && reason.contains(" epochs")).then_some(needed));
        })
    };
    let cure = || {
        let needed = needed_epochs.get()?;
        Some(format!(
            "train for at least {needed} epochs (`--set training.epochs={needed}`), or lower the key"
        ))
    };
    read_completed(path, sets, kind, complete, check, cure)
}

/// Starts from this encoder. What the config says of another one does not hold of it.
fn start_from(table: &mut toml::Table, encoder: &str) {
    let start = table
        .entry("start")
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    // Another kind of value gives an error where it is read.
    if let Some(start) = start.as_table_mut()
        && start.get("encoder").and_then(toml::Value::as_str) != Some(encoder)
    {
        start.insert("encoder".into(), encoder.into());
        for of_the_other in ["saw_people", "part", "backbone"] {
            start.remove(of_the_other);
        }
    }
}

fn read_completed<C: DeserializeOwned>(
    path: &Path,
    sets: &[String],
    kind: Kind,
    complete: impl FnOnce(&mut toml::Table),
    check: impl FnOnce(&C) -> Result<(), String>,
    cure: impl FnOnce() -> Option<String>,
) -> anyhow::Result<C> {
    let (text, name) = shipped::text(path, &[kind]).map_err(|error| unreadable(path, kind, &error))?;
    if let Some(name) = name
        && crate::ranks::launched_first()
    {
        eprintln!("config: configs/{name}, as this program carries it");
    }
    let parsed = parse_completed(&text, sets, complete, check, cure);
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

/// The error of a config that cannot be read, with the shipped ones that its name is nearest to.
fn unreadable(path: &Path, kind: Kind, error: &std::io::Error) -> anyhow::Error {
    let failure = Failure::new(format!("config `{}` cannot be read: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.hint(shipped::hint(path, &[kind])).into(),
        _ => failure.into(),
    }
}

/// The purpose of a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `passer pretrain`
    #[value(name = "pretrain")]
    Pretraining,
    /// `passer evaluate finetune`, of a classifier
    #[value(name = "finetune")]
    FineTuning,
    /// `passer evaluate finetune`, of a detector
    #[value(name = "detection")]
    Detection,
    /// `passer evaluate run`
    #[value(name = "evaluate")]
    Evaluation,
    /// `passer evaluate suite`
    #[value(name = "suite")]
    Suite,
    /// Descriptions of data sets
    #[value(name = "dataset")]
    DataSet,
    /// `passer curate`
    #[value(name = "curate")]
    Curation,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Pretraining,
        Self::FineTuning,
        Self::Detection,
        Self::Evaluation,
        Self::Suite,
        Self::DataSet,
        Self::Curation,
    ];

    /// The word for it on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pretraining => "pretrain",
            Self::FineTuning => "finetune",
            Self::Detection => "detection",
            Self::Evaluation => "evaluate",
            Self::Suite => "suite",
            Self::DataSet => "dataset",
            Self::Curation => "curate",
        }
    }

    /// The apparent kind of a text, by keys that no other kind has.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let table: toml::Table = text.parse().ok()?;
        let has = |key: &str| table.contains_key(key);
        let objective = table.get("objective");
        let of_objective = |key: &&str| objective.is_some_and(|objective| objective.get(key).is_some());
        if has("detection") {
            Some(Self::Detection)
        } else if OF_FINE_TUNING.iter().any(of_objective) {
            Some(Self::FineTuning)
        } else if has("objective") || has("backbone") || has("views") {
            Some(Self::Pretraining)
        } else if has("source") && has("stages") {
            Some(Self::Curation)
        } else if has("encoders") || has("data_sets") {
            Some(Self::Suite)
        } else if has("protocols") {
            Some(Self::Evaluation)
        } else if has("kind") || has("splits") {
            Some(Self::DataSet)
        } else if has("test_transforms") {
            Some(Self::Evaluation)
        } else {
            None
        }
    }

    pub(crate) fn name(self) -> &'static str {
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

/// Keys of a fine-tuning config's objective, none of which a pretraining objective has, and the name that its table has
/// if it is written as one of those.
const OF_FINE_TUNING: [&str; 6] = [
    "test_transforms",
    "protocol",
    "label_smoothing",
    "validation",
    "keep",
    "finetune",
];

/// Whether a file is a detection config; an unreadable file is none, and reading it gives the error.
pub(crate) fn is_detection(path: &Path) -> bool {
    let text = shipped::text(path, &[Kind::FineTuning, Kind::Detection]);
    text.is_ok_and(|(text, _)| Kind::of(&text) == Some(Kind::Detection))
}

/// [`read`] for a text in memory.
pub(crate) fn parse<C: DeserializeOwned>(
    text: &str,
    sets: &[String],
    check: impl FnOnce(&C) -> Result<(), String>,
) -> anyhow::Result<C> {
    parse_completed(text, sets, |_| (), check, || None)
}

fn parse_completed<C: DeserializeOwned>(
    text: &str,
    sets: &[String],
    complete: impl FnOnce(&mut toml::Table),
    check: impl FnOnce(&C) -> Result<(), String>,
    cure: impl FnOnce() -> Option<String>,
) -> anyhow::Result<C> {
    let edits = sets
        .iter()
        .map(|set| edit(set))
        .collect::<anyhow::Result<Vec<Edit>>>()?;
    settings::read(text, &edits, complete, check).map_err(|fault| {
        let failure = Failure::new(hints::message_of_settings(&fault));
        match hints::of_settings(&fault).or_else(cure) {
            Some(hint) => failure.hint(hint).into(),
            None => failure.into(),
        }
    })
}

/// What the parser and the checks of a kind say of a text with this edit; `None` where it is valid, or where the kind has no checks
/// of a text alone.
pub(crate) fn fault_of(kind: Kind, text: &str, edit: &Edit) -> Option<String> {
    use evaluation::finetune::{self, Recipe, detection};
    type Pretraining = training::Config<objectives::ObjectiveConfig>;
    fn fault<C: DeserializeOwned>(
        text: &str,
        edit: &Edit,
        check: impl FnOnce(&C) -> Result<(), String>,
    ) -> Option<String> {
        let read = settings::read(text, std::slice::from_ref(edit), |_| (), check);
        read.err().map(|fault| fault.to_string())
    }
    match kind {
        Kind::Pretraining => fault(text, edit, Pretraining::validate),
        Kind::FineTuning => fault(text, edit, finetune::Config::validate),
        Kind::Detection => fault(text, edit, detection::Config::validate),
        Kind::Evaluation => fault(text, edit, evaluation::Config::validate),
        Kind::Suite => fault(text, edit, evaluation::suite::Suite::validate),
        Kind::Curation => fault(text, edit, |config: &curation::Config| {
            config.validate().map_err(|error| error.to_string())
        }),
        Kind::DataSet => None,
    }
}

/// One `key.path=value`.
fn edit(set: &str) -> anyhow::Result<Edit> {
    let bad = |reason: &str| {
        Failure::new(format!("`--set {set}`: {reason}"))
            .hint("write `--set key.path=value`, as in `--set training.epochs=1`")
    };
    let (path, value) = set.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    match path.trim() {
        "" => Err(bad("the key is empty").into()),
        path => Ok(Edit {
            path: path.to_string(),
            text: value.trim().to_string(),
        }),
    }
}

pub(crate) mod shipped;

/// Every shipped config with single mutations.
#[cfg(test)]
mod mutations;

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
    /// Without a check.
    fn parse<C: DeserializeOwned>(text: &str, sets: &[String]) -> anyhow::Result<C> {
        super::parse(text, sets, |_| Ok(()))
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
            "`--set stages.crop.px=7`: `crop` is in the list `stages` 2 times; name one by its position, from 0"
        );
        assert!(error("stages.crop={}").contains("2 times"));
        assert_eq!(
            error("stages.persons.score=1"),
            "`--set stages.persons.score=1`: the list `stages` has no element `persons`; it has `faces`, `crop`, `crop`"
        );
    }

    #[test]
    fn what_an_earlier_version_lacked_is_filled_in_before_edits() {
        let old = TEXT.replace(", name = 'a'", "");
        assert!(parse::<Outer>(&old, &[]).is_err());
        let fill_in = |table: &mut toml::Table| {
            let inner = table["inner"].as_table_mut().unwrap();
            inner.insert("name".into(), "as before".into());
        };
        let outer: Outer = parse_completed(&old, &[], fill_in, |_| Ok(()), || None).unwrap();
        assert_eq!(outer.inner.name, "as before");
        let sets = ["inner.name=new".into()];
        let outer: Outer = parse_completed(&old, &sets, fill_in, |_| Ok(()), || None).unwrap();
        assert_eq!(outer.inner.name, "new");
    }

    #[test]
    fn what_is_said_of_one_encoder_does_not_hold_of_another() {
        let text = "seed = 1\n[start]\nencoder = 'a.pth'\nsaw_people = 'no'\nfreeze_backbone_epochs = 2\n";
        let started = |text: &str, encoder: &str, sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let start = |table: &mut toml::Table| start_from(table, encoder);
            let table: toml::Table = parse_completed(text, &sets, start, |_| Ok(()), || None).unwrap();
            table["start"]
                .clone()
                .try_into::<training::StartConfig>()
                .unwrap()
        };
        let stated = training::StartConfig {
            saw_people: Some(training::SawPeople::No),
            freeze_backbone_epochs: 2,
            ..training::StartConfig::from_encoder("a.pth")
        };
        assert_eq!(started(text, "a.pth", &[]), stated);
        let other = training::StartConfig {
            encoder: "b.pth".into(),
            saw_people: None,
            ..stated.clone()
        };
        assert_eq!(started(text, "b.pth", &[]), other);
        let set = training::StartConfig {
            saw_people: Some(training::SawPeople::No),
            ..other
        };
        assert_eq!(started(text, "b.pth", &["start.saw_people=no"]), set);
        // A config without the table.
        let new = training::StartConfig {
            backbone: Some("resnet50".into()),
            ..training::StartConfig::from_encoder("b.pth")
        };
        assert_eq!(started("seed = 1", "b.pth", &["start.backbone=resnet50"]), new);
    }

    #[test]
    fn edits_are_as_strict_as_the_file() {
        let error = |set: &str| format!("{:#}", parse::<Outer>(TEXT, &[set.to_string()]).unwrap_err());
        assert!(error("inner.epoch=3").contains("there is no key `inner.epoch`"));
        assert!(error("inne.epochs=3").contains("there is no key `inne`"));
        assert!(error("list.4.epochs=3").contains("the list `list` has no element `4`"));
        assert!(error("seed").contains("no `=`"));
        assert!(error("seed=many").contains("`seed` must be a whole number, got \"many\""));
    }

    #[test]
    fn what_a_check_refuses_has_its_line_or_its_edit() {
        let text = TEXT.replace("list = [", "list = [\n");
        let error = |set: &[&str], reason: &str| {
            let sets: Vec<String> = set.iter().map(ToString::to_string).collect();
            let error = super::parse::<Outer>(&text, &sets, |_| Err(reason.into())).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            error(&[], "`inner.epochs` must be at least 3, got 2"),
            "line 2: `inner.epochs` must be at least 3, got 2"
        );
        assert_eq!(
            error(&["inner.epochs=1"], "`inner.epochs` must be at least 3, got 1"),
            "`--set inner.epochs=1`: `inner.epochs` must be at least 3, got 1"
        );
        assert_eq!(
            error(&["seed=2"], "`list.0.name` is odd"),
            "line 4: `list.name` is odd"
        );
        // The end of a path, where no other has it; a key that is not there yet.
        assert_eq!(error(&[], "`list.name` is odd"), "line 4: `list.name` is odd");
        assert_eq!(
            error(&[], "`inner.size` is missing"),
            "line 2: `inner.size` is missing"
        );
        assert_eq!(error(&[], "`epochs` is odd"), "`epochs` is odd");
        assert_eq!(error(&[], "nothing is named"), "nothing is named");
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(Kind::of("[objective.moco]"), Some(Kind::Pretraining));
        assert_eq!(Kind::of("[objective]\nname = 'mae'"), Some(Kind::Pretraining));
        for objective in [
            "[objective.finetune]",
            "[objective]\nprotocol = 'finetune'",
            "[objective]\nkeep = 'last'",
        ] {
            assert_eq!(Kind::of(objective), Some(Kind::FineTuning), "{objective}");
        }
        assert_eq!(Kind::of("[[protocols]]"), Some(Kind::Evaluation));
        assert_eq!(Kind::of("kind = 'flat'"), Some(Kind::DataSet));
        // A description may have transforms too, an evaluation without its protocols nothing else.
        assert_eq!(
            Kind::of("test_transforms = []\n[splits.test]"),
            Some(Kind::DataSet)
        );
        assert_eq!(Kind::of("test_transforms = []"), Some(Kind::Evaluation));
        assert_eq!(Kind::of("[[encoders]]\n[[protocols]]"), Some(Kind::Suite));
        assert_eq!(Kind::of("nothing = 1"), None);
    }
}
