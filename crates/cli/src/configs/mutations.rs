//! Every shipped config with one thing changed: each error names the key as one would type it, in plain words.

#![allow(clippy::unwrap_used)]

use super::{Kind, parse};
use crate::failure::in_one_line;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Words of Rust and of serde that say nothing to a reader of a config.
const FOREIGN: [&str; 19] = [
    "usize", "u8", "u16", "u32", "u64", "i32", "i64", "f64", "struct", "variant", "variants", "enum",
    "sequence", "tuple", "untagged", "Option", "newtype", "expected", "invalid",
];

type Place = Vec<Step>;

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// All places below a value.
fn places(value: &Value, at: &Place, all: &mut Vec<Place>) {
    let below = |step| {
        let mut place = at.clone();
        place.push(step);
        place
    };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let place = below(Step::Key(key.clone()));
                all.push(place.clone());
                places(value, &place, all);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                let place = below(Step::Index(index));
                all.push(place.clone());
                places(value, &place, all);
            }
        }
        _ => {}
    }
}

fn get_mut<'a>(root: &'a mut Value, place: &[Step]) -> Option<&'a mut Value> {
    place.iter().try_fold(root, |node, step| match step {
        Step::Key(key) => node.get_mut(key.as_str()),
        Step::Index(index) => node.get_mut(*index),
    })
}

/// The configs below a folder of `configs/`.
fn shipped(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../configs")
        .join(folder);
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Whether one of the paths in backquotes, used as an edit, changes `place` of `root`, or a table around it if
/// `is_around` allows that.
fn names_place(message: &str, root: &Value, place: &[Step], is_around: bool) -> bool {
    const SENTINEL: &str = "a value that no config has";
    let text = toml::to_string(root).unwrap();
    let paths = message.split('`').skip(1).step_by(2);
    paths.filter(|path| !path.contains([' ', '='])).any(|path| {
        let edit = format!("{path}='{SENTINEL}'");
        let Ok(mut edited) = parse::<Table>(&text, &[edit], |_| Ok(())).map(Value::Table) else {
            return false;
        };
        let is = |edited: &mut Value, place: &[Step]| {
            get_mut(edited, place).is_some_and(|value| value.as_str() == Some(SENTINEL))
        };
        is(&mut edited, place) || is_around && is(&mut edited, place.split_last().unwrap().1)
    })
}

/// Whether a value is named that is wrong beside others alone: the place, a table around it, or another key of the config in a
/// sentence that has the place's own key or its value. Of memory, which is a product of keys of one table, any of these.
fn names_among(message: &str, root: &Value, place: &[Step]) -> bool {
    let mut around = (1..=place.len()).rev().map(|length| &place[..length]);
    if around.any(|place| names_place(message, root, place, false)) {
        return true;
    }
    let text = toml::to_string(root).unwrap();
    let paths = message.split('`').skip(1).step_by(2);
    let keys: Vec<&str> = paths
        .filter(|path| !path.contains([' ', '=']))
        .filter(|path| parse::<Table>(&text, &[format!("{path}=1")], |_| Ok(())).is_ok())
        .collect();
    let table: Vec<&str> = place.split_last().map_or(vec![], |(_, table)| {
        let keys = table.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        keys.collect()
    });
    let is_beside = |key: &&str| {
        key.rsplit_once('.')
            .is_some_and(|(around, _)| around == table.join("."))
    };
    if message.contains(" GiB ") && keys.iter().any(is_beside) {
        return true;
    }
    let key = place.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.clone()),
        Step::Index(_) => None,
    });
    let value = get_mut(&mut root.clone(), place).map(|value| value.to_string());
    let mut words = message.split(|c: char| !c.is_alphanumeric() && !"_-.".contains(c));
    !keys.is_empty() && words.any(|word| Some(word) == key.as_deref() || Some(word) == value.as_deref())
}

/// Reads a config of one kind, with all checks that need no data.
type Read<'r> = &'r dyn Fn(&str) -> anyhow::Result<()>;

/// What an error must name.
#[derive(Clone, Copy)]
enum Named {
    /// The place.
    Place,
    /// The place, or the table around it.
    Around,
    /// The place, a table around it, or another key that the place's key or value is held against: a value may be wrong beside
    /// others alone.
    Among,
}

/// The error of a changed config with its hint, if it has one; it must name the place in plain words.
fn error_of(read: Read<'_>, file: &Path, changed: &Value, place: &[Step], named: Named) -> Option<String> {
    let text = toml::to_string(changed).unwrap();
    let error = read(&text).err()?;
    let message = in_one_line(&error);
    let context = || format!("{}, {place:?}: {message}", file.display());
    let mut words = message.split(|c: char| !c.is_alphanumeric() && c != '_');
    assert!(
        !words.any(|word| FOREIGN.contains(&word)),
        "foreign words: {}",
        context()
    );
    assert!(!message.contains('\n'), "{}", context());
    let is_named = match named {
        Named::Place => names_place(&message, changed, place, false),
        Named::Around => names_place(&message, changed, place, true),
        Named::Among => names_among(&message, changed, place),
    };
    assert!(is_named, "not named: {}", context());
    Some(message)
}

/// How many changes of each kind were tried, or refused.
#[derive(Debug, Default)]
struct Counts {
    types: usize,
    names: usize,
    missing: usize,
    variants: usize,
    ranges: usize,
}

/// Checks all single changes of the configs in a folder.
fn mutate(files: &[PathBuf], read: Read<'_>) -> Counts {
    let mut counts = Counts::default();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        if let Err(error) = read(&text) {
            panic!("{}: {error:#}", file.display());
        }
        let root = Value::Table(text.parse().unwrap());
        let mut all = Vec::new();
        places(&root, &Vec::new(), &mut all);
        for place in all {
            let error = |changed: &Value, place: &[Step], named| error_of(read, file, changed, place, named);
            let with = |value: Value| {
                let mut changed = root.clone();
                *get_mut(&mut changed, &place).unwrap() = value;
                changed
            };
            let value = get_mut(&mut root.clone(), &place).unwrap().clone();
            // Another type: no value is a number and a text.
            let other = match &value {
                Value::String(_) | Value::Boolean(_) => Value::Float(1.5),
                _ => Value::Datetime("1979-05-27".parse().unwrap()),
            };
            let refused = error(&with(other), &place, Named::Place);
            let refused =
                refused.unwrap_or_else(|| panic!("{}, {place:?}: another type is read", file.display()));
            assert!(refused.contains("line "), "{refused}");
            counts.types += 1;
            // A misspelt name of several: the right one is named too.
            if let Value::String(name) = &value
                && let Some(refused) = error(&with(Value::String(format!("{name}x"))), &place, Named::Among)
                && refused.contains("must be one of")
            {
                assert!(refused.contains(&format!("`{name}`")), "{name}: {refused}");
                counts.variants += 1;
            }
            // Beyond every range, or within.
            let numbers = match value {
                Value::Integer(_) => vec![Value::Integer(-1), Value::Integer(0), Value::Integer(i64::MAX)],
                Value::Float(_) => [-1.0, 0.0, 1e300, f64::NAN].map(Value::Float).to_vec(),
                _ => vec![],
            };
            for number in numbers {
                if let Some(refused) = error(&with(number), &place, Named::Among) {
                    assert!(refused.contains("line "), "{refused}");
                    counts.ranges += 1;
                }
            }
            let (last, parent) = place.split_last().unwrap();
            let Step::Key(key) = last else { continue };
            let strange = format!("{key}_x");
            // Another name, and none.
            for name in [Some(&strange), None] {
                let mut changed = root.clone();
                let table = get_mut(&mut changed, parent).unwrap().as_table_mut().unwrap();
                let value = table.remove(key).unwrap();
                let mut place = parent.to_vec();
                place.push(Step::Key(name.unwrap_or(key).clone()));
                name.map(|name| table.insert(name.clone(), value));
                // Of a choice, the table around it is named.
                let named = match parent {
                    [] => Named::Place,
                    _ => Named::Around,
                };
                let refused = error(&changed, &place, named);
                match name {
                    // Splits and columns have names of the user's own.
                    Some(_) if matches!(parent.last(), Some(Step::Key(table)) if ["splits", "only"].contains(&table.as_str())) =>
                        {}
                    Some(_) => {
                        let refused = refused
                            .unwrap_or_else(|| panic!("{}, {place:?}: another name is read", file.display()));
                        assert!(refused.contains(&format!("`{key}`")), "{key}: {refused}");
                        counts.names += 1;
                    }
                    None => counts.missing += usize::from(refused.is_some()),
                }
            }
        }
    }
    eprintln!("{} files: {counts:?}", files.len());
    counts
}

fn reader<C: DeserializeOwned>(
    check: impl Fn(&C) -> Result<(), String>,
) -> impl Fn(&str) -> anyhow::Result<()> {
    move |text| parse::<C>(text, &[], &check).map(|_| ())
}

type Pretraining = training::Config<objectives::ObjectiveConfig>;

#[test]
fn of_pretraining() {
    let counts = mutate(&shipped("pretrain"), &reader(Pretraining::validate));
    assert!(
        counts.types > 1000 && counts.names > 1000 && counts.missing > 500 && counts.variants > 100,
        "{counts:?}"
    );
    assert!(counts.ranges > 500, "{counts:?}");
}

#[test]
fn of_evaluations_and_fine_tunings() {
    let of = |kind: Kind| {
        let files = shipped("evaluate").into_iter();
        let is = |file: &PathBuf| Kind::of(&std::fs::read_to_string(file).unwrap()) == Some(kind);
        files.filter(is).collect::<Vec<_>>()
    };
    use evaluation::finetune::Recipe;
    let finetune = evaluation::finetune::Config::validate;
    mutate(&of(Kind::FineTuning), &reader(finetune));
    // The presets have the same keys.
    let detection = evaluation::finetune::detection::Config::validate;
    mutate(&of(Kind::Detection)[..2], &reader(detection));
    let protocols = of(Kind::Evaluation);
    let counts = mutate(&protocols, &reader(evaluation::Config::validate));
    assert!(counts.names > 100 && counts.variants > 20, "{counts:?}");
    assert!(counts.ranges > 100, "{counts:?}");
}

#[test]
fn of_suites_and_curations() {
    mutate(&shipped("suites"), &reader(evaluation::suite::Suite::validate));
    let check = |config: &curation::Config| config.validate().map_err(|error| error.to_string());
    let counts = mutate(&shipped("curate"), &reader(check));
    assert!(counts.names > 100 && counts.ranges > 20, "{counts:?}");
}

#[test]
fn of_data_set_descriptions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("description.toml");
    let read = |text: &str| {
        std::fs::write(&file, text)?;
        data::Dataset::about(file.to_str().unwrap())?;
        Ok(())
    };
    let counts = mutate(&shipped("datasets"), &read);
    assert!(counts.names > 50 && counts.variants > 5, "{counts:?}");
}

#[test]
fn the_words_of_a_newcomers_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let pretrain = text("pretrain/quickstart.toml");
    let curate = text("curate/open-photos.toml");
    let evaluate = text("evaluate/knn.toml");
    let check = |config: &curation::Config| config.validate().map_err(|error| error.to_string());
    let mut all = String::new();
    let mut say = |set: &str, error: anyhow::Error| {
        all.push_str(&format!(
            "{set}\n  {}\n\n",
            crate::failure::in_one_line(&error).replace("; ", "\n  ; ")
        ));
    };
    for set in [
        "schedule.epochs=4",
        "schedule.cosine=1",
        "schedule={}",
        "schedule.steps.factor=0.1",
        "optimizer.sgd.momentum=high",
        "objective.moco.head=3",
        "backbone.resnet.stem=tiny",
        "optimizer.adam.x=1",
        "optimizer=adamw",
        "backbone.vit.depth=3",
        "data.order.blocks=4",
        "data.normalize.mean=[0.5, 0.5, 0.5, 0.5]",
        "data.normalize=3",
        "epochs=4",
        "training.epochs=0",
        "training.batch_norm_images=33",
        "objective.moco.temperature=-1",
        "training.precision=fp16",
        "views.0.transforms.color_jitter.hue=x",
    ] {
        let read = parse(&pretrain, &[set.into()], Pretraining::validate);
        say(set, read.unwrap_err());
    }
    for set in [
        "stages.faces.scores=1",
        "stages.face.score=1",
        "stages.faces.scale={ sides = 3 }",
        "source={}",
    ] {
        say(set, parse(&curate, &[set.into()], check).unwrap_err());
    }
    for set in [
        "protocols.knn.x=1",
        "protocols.knn-vissl.neighbors=ten",
        "protocols={}",
    ] {
        let read = parse(&evaluate, &[set.into()], evaluation::Config::validate);
        say(set, read.unwrap_err());
    }
    for (from, to) in [
        ("[training]\n", ""),
        ("[backbone.resnet]\n", "[backbone]\n"),
        ("[optimizer.sgd]\n", ""),
    ] {
        assert!(pretrain.contains(from));
        let text = pretrain.replace(from, to);
        say(
            &format!("{from:?} -> {to:?}"),
            parse(&text, &[], Pretraining::validate).unwrap_err(),
        );
    }
    for (from, to) in [
        ("[release]\n", ""),
        ("[source.folder]\n", "[source]\n"),
        ("\"photos\"\nclass", "photos\nclass"),
    ] {
        assert!(curate.contains(from));
        let text = curate.replace(from, to);
        say(
            &format!("{from:?} -> {to:?}"),
            parse(&text, &[], check).unwrap_err(),
        );
    }
    insta::assert_snapshot!("newcomer", all);
}
