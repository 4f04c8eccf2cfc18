//! Which training records to learn from and which to hold out: a share of every class, by a seed, or a
//! published list.

use crate::error::Error;
use crate::features::class_labels;
use crate::split::{TEST, TRAIN};
use crate::task::{Classes, Numbering, unknown_class};
use backbones::Draws;
use data::Dataset;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;

/// The labeled part of the training set: `[objective.protocol.semi_supervised]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SemiSupervised {
    /// Percent of the training records whose labels are used; the protocol is named after it. Published: 1 and 10.
    pub percent: f64,
    /// How these records are chosen.
    pub choice: Choice,
}

/// How the labeled subset is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The same share of every class, at least one record, drawn by this seed.
    Seed(u64),
    /// The records of a text file, one file name per line as in ImageNet's published lists
    /// (`n01440764_10026.JPEG`); they are matched by name without folder and extension.
    List(PathBuf),
}

/// Records held out of the training records: `[objective.validation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// The share of every class, above 0 and below 1; at least one record of a class with two or more.
    pub fraction: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// The place of every test record's class among those of the training set. If both sets have class names,
/// classes are matched by name, because an image folder numbers only its own classes.
pub(super) fn test_places(classes: &Classes, train: &Dataset, test: &Dataset) -> Result<Vec<u32>, Error> {
    let labels = class_labels(test, TEST)?;
    let mut of_training = (0..classes.count() as u32).map(|place| classes.label(place));
    let numbering = Numbering::new(
        (train.class_names(), &mut of_training),
        (test.class_names(), &mut labels.iter().copied()),
    )?;
    let place = |(position, label): (usize, &i64)| match numbering
        .of_test(*label)
        .and_then(|label| classes.place(label))
    {
        Some(place) => Ok(place),
        None => Err(unknown_class(
            train.class_names(),
            test.class_names(),
            *label,
            test.key(position)?,
        )),
    };
    labels.iter().enumerate().map(place).collect()
}

/// Positions by class, each class shuffled independently.
fn shuffled_by_class(places: &[u32], positions: &[u32], seed: u64, purpose: &str) -> Vec<Vec<u32>> {
    let classes = places.iter().max().map_or(0, |most| *most as usize + 1);
    let mut by_class = vec![vec![]; classes];
    for position in positions {
        by_class[places[*position as usize] as usize].push(*position);
    }
    for (class, positions) in by_class.iter_mut().enumerate() {
        // One stream per class, so that adding or removing a class does not reshuffle the others.
        Draws::new(seed, 0).shuffle(purpose, class as u64, positions);
    }
    by_class
}

/// The labeled subset of the training records, in their order. `places` are the classes of all of them.
pub(super) fn labeled(wanted: &SemiSupervised, dataset: &Dataset, places: &[u32]) -> Result<Vec<u32>, Error> {
    let all: Vec<u32> = (0..places.len() as u32).collect();
    let mut chosen = match &wanted.choice {
        Choice::Seed(seed) => {
            let of_class = |positions: Vec<u32>| {
                let count = (positions.len() as f64 * wanted.percent / 100.0).round() as usize;
                let count = count.max(1).min(positions.len());
                positions.into_iter().take(count)
            };
            shuffled_by_class(places, &all, *seed, "finetune.labelled")
                .into_iter()
                .flat_map(of_class)
                .collect::<Vec<u32>>()
        }
        Choice::List(path) => listed(path, dataset)?,
    };
    chosen.sort_unstable();
    Ok(chosen)
}

/// The records that a list names.
fn listed(path: &PathBuf, dataset: &Dataset) -> Result<Vec<u32>, Error> {
    let bad = |reason: String| Error::List {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let name = |line: &str| {
        let name = line.trim().rsplit('/').next().unwrap_or_default().to_string();
        match name.split_once('.') {
            Some((stem, _)) => stem.to_string(),
            None => name,
        }
    };
    let mut wanted: HashSet<String> = text.lines().map(name).filter(|name| !name.is_empty()).collect();
    if wanted.is_empty() {
        return Err(bad("names no record".into()));
    }
    let mut chosen = vec![];
    for position in 0..dataset.len() {
        let key = dataset.key(position)?;
        if wanted.remove(key.rsplit('/').next().unwrap_or(&key)) {
            chosen.push(position as u32);
        }
    }
    match wanted.into_iter().min() {
        None => Ok(chosen),
        Some(missing) => Err(bad(format!(
            "names `{missing}`, which no training record is called"
        ))),
    }
}

/// Splits positions into those to learn from and those held out.
pub(super) fn hold_out(validation: &Validation, places: &[u32], positions: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut kept, mut held_out) = (vec![], vec![]);
    for positions in shuffled_by_class(places, positions, validation.seed, "finetune.validation") {
        let count = (positions.len() as f64 * validation.fraction).round() as usize;
        let most = positions.len().saturating_sub(1);
        let (out, rest) = positions.split_at(count.max(1).min(most));
        held_out.extend_from_slice(out);
        kept.extend_from_slice(rest);
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    (kept, held_out)
}

/// Classes of the training set, and each record's place among them.
pub(super) fn train_places(dataset: &Dataset) -> Result<(Classes, Vec<u32>), Error> {
    let labels = class_labels(dataset, TRAIN)?;
    let classes = Classes::of(&labels, TRAIN)?;
    let places = labels.iter().filter_map(|label| classes.place(*label)).collect();
    Ok((classes, places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{Label, Metadata, Record};

    fn dataset(keys: &[&str], labels: &[u32], names: &[&str]) -> Dataset {
        let record = |(key, label): (&&str, &u32)| Record {
            key: (*key).into(),
            image: vec![],
            label: Some(Label::Class(*label)),
            metadata: Metadata::default(),
        };
        Dataset::from_records(
            keys.iter().zip(labels).map(record).collect(),
            names.iter().map(|name| (*name).to_string()).collect(),
        )
    }

    /// 40 records of class 0, 20 of class 1, 3 of class 2.
    fn places() -> Vec<u32> {
        [vec![0; 40], vec![1; 20], vec![2; 3]].concat()
    }

    fn count(positions: &[u32], class: u32) -> usize {
        positions
            .iter()
            .filter(|position| places()[**position as usize] == class)
            .count()
    }

    #[test]
    fn a_seed_takes_the_same_share_of_every_class_and_at_least_one() {
        let empty = Dataset::synthetic(63, 8, 8, 3, 0);
        let of = |percent, seed| {
            let wanted = SemiSupervised {
                percent,
                choice: Choice::Seed(seed),
            };
            labeled(&wanted, &empty, &places()).unwrap()
        };
        let tenth = of(10.0, 0);
        assert_eq!([0, 1, 2].map(|class| count(&tenth, class)), [4, 2, 1]);
        assert!(tenth.is_sorted());
        assert_eq!(tenth, of(10.0, 0));
        assert_ne!(tenth, of(10.0, 1));
        assert_eq!(of(100.0, 0).len(), 63);
    }

    #[test]
    fn a_list_is_found_by_file_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1percent.txt");
        let dataset = dataset(&["n01/n01_5", "n01/n01_7", "n02/n02_1"], &[0, 0, 1], &[]);
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let wanted = SemiSupervised {
                percent: 1.0,
                choice: Choice::List(path.clone()),
            };
            labeled(&wanted, &dataset, &[0, 0, 1])
        };
        assert_eq!(of("n02_1.JPEG\nn01_7.JPEG\n").unwrap(), [1, 2]);
        let error = of("n02_9.JPEG\n").unwrap_err().to_string();
        assert!(
            error.contains("names `n02_9`, which no training record"),
            "{error}"
        );
        assert!(of("\n").unwrap_err().to_string().contains("names no record"));
    }

    #[test]
    fn what_is_held_out_is_not_learned_from() {
        let positions: Vec<u32> = (0..63).collect();
        let validation = Validation {
            fraction: 0.1,
            seed: 3,
        };
        let (kept, out) = hold_out(&validation, &places(), &positions);
        assert_eq!([0, 1, 2].map(|class| count(&out, class)), [4, 2, 1]);
        let mut all = [kept, out].concat();
        all.sort_unstable();
        assert_eq!(all, positions);
        // A class of one record keeps it for training.
        let (kept, out) = hold_out(&validation, &places(), &[0, 60]);
        assert_eq!((kept.len(), out.len()), (2, 0));
    }

    #[test]
    fn test_classes_are_matched_by_name_and_must_be_known() {
        let train = dataset(&["a", "b", "c"], &[0, 1, 2], &["ant", "bee", "cat"]);
        let (classes, places) = train_places(&train).unwrap();
        assert_eq!(places, [0, 1, 2]);
        let test = dataset(&["d", "e"], &[0, 1], &["bee", "cat"]);
        assert_eq!(test_places(&classes, &train, &test).unwrap(), [1, 2]);
        let test = dataset(&["d", "e"], &[0, 1], &["bee", "dog"]);
        let error = test_places(&classes, &train, &test).unwrap_err().to_string();
        assert!(error.contains("`e` is of class `dog`"), "{error}");
        let plain = dataset(&["a", "b"], &[5, 9], &[]);
        let (classes, _) = train_places(&plain).unwrap();
        let test = dataset(&["d"], &[9], &[]);
        assert_eq!(test_places(&classes, &plain, &test).unwrap(), [1]);
    }
}
