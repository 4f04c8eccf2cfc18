//! A classification task: train and test rows of one tap. Labels are renumbered 0, 1, 2 … in the training
//! set's order.
//!
//! Every check that protects a supervised protocol from a meaningless score is made here, once.

mod numbering;
mod one_vs_rest;

use crate::error::Error;
use crate::features::{Features, Matrix, Scaling, class_name, scale};
use crate::split::{Split, TEST, TRAIN};
use backbones::Draws;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

pub(crate) use numbering::{Numbering, unknown_class};
pub(crate) use one_vs_rest::OneVsRest;

/// The classes of a set, mostly the training set, in ascending order of their labels, and the map from a
/// label to its place in that order.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    labels: Vec<i64>,
    places: HashMap<i64, u32>,
    names: Vec<String>,
}

impl Classes {
    /// The distinct labels of a set, which errors call `set`.
    pub fn of(labels: &[i64], set: &'static str) -> Result<Self, Error> {
        let labels: Vec<i64> = labels
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if labels.len() < 2 {
            return Err(Error::TooFewClasses {
                set,
                classes: labels.len(),
            });
        }
        let places = labels
            .iter()
            .enumerate()
            .map(|(place, label)| (*label, place as u32))
            .collect();
        Ok(Self {
            labels,
            places,
            names: vec![],
        })
    }

    /// Adds the data set's class names, by label.
    pub(crate) fn named(mut self, names: &[String]) -> Self {
        self.names = names.to_vec();
        self
    }

    /// The class at this place, as text for people.
    pub(crate) fn name(&self, place: u32) -> String {
        class_name(&self.names, self.label(place))
    }

    /// The number of classes.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The label in the data set's own numbering.
    pub fn label(&self, place: u32) -> i64 {
        self.labels[place as usize]
    }

    /// The place of a label, if the training set has it.
    pub fn place(&self, label: i64) -> Option<u32> {
        self.places.get(&label).copied()
    }

    /// Places of the test records, or the first one whose class the training set lacks.
    ///
    /// If both sets have class names, classes are matched by name: an image folder numbers only its own
    /// classes, so a test folder without the class `ant` numbers `bee` 0 instead of 1. Names in one set alone
    /// are an error.
    pub fn places_of_test(&self, train_names: &[String], test: &Features) -> Result<Vec<u32>, Error> {
        let labels = test.classes(TEST)?;
        let numbering = Numbering::new(
            (train_names, &mut self.labels.iter().copied()),
            (&test.class_names, &mut labels.iter().copied()),
        )?;
        let place = |(row, label): (usize, &i64)| {
            let known = numbering.of_test(*label).and_then(|label| self.place(label));
            known.ok_or_else(|| unknown_class(train_names, &test.class_names, *label, test.keys[row].clone()))
        };
        labels.iter().enumerate().map(place).collect()
    }
}

/// Train and test features with checked labels.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// Training features, `[records, width]`; all finite.
    pub train: Cow<'a, Matrix>,
    /// Test features of the same width; all finite.
    pub test: Cow<'a, Matrix>,
    /// Place of each training record's class among `classes`; empty in a task within the test set.
    pub train_classes: Vec<u32>,
    /// Place of each test record's class among `classes`.
    pub test_classes: Vec<u32>,
    /// The classes behind the places.
    pub classes: Classes,
}

/// Features of both splits, or rows of width 0 with the labels of both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Splits<'a> {
    pub(crate) train: &'a Features,
    pub(crate) test: &'a Features,
}

impl<'a> Splits<'a> {
    /// Features of one split.
    pub(crate) fn of(self, split: Split) -> &'a Features {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }

    /// As [`Task::new`].
    pub(crate) fn task(self, tap: &str) -> Result<Task<'a>, Error> {
        Task::new(self.train, self.test, tap)
    }

    /// As [`Task::within_test`].
    pub(crate) fn within_test(self, tap: &str) -> Result<Task<'a>, Error> {
        Task::within_test(self.train, self.test, tap)
    }

    /// As [`OneVsRest::new`].
    pub(crate) fn one_vs_rest(self, tap: &str) -> Result<OneVsRest<'a>, Error> {
        OneVsRest::new(self.train, self.test, tap)
    }
}

impl<'a> Task<'a> {
    /// Pairs the rows that two features have at one tap. Gives an error for empty sets, missing labels,
    /// values that are not finite, different widths or encoders, and test classes that the training set
    /// lacks.
    pub fn new(train: &'a Features, test: &'a Features, tap: &str) -> Result<Self, Error> {
        let (train_rows, test_rows) = both_rows(train, test, tap)?;
        let labels = train.classes(TRAIN)?;
        let classes = Classes::of(labels, TRAIN)?.named(&train.class_names);
        let test_classes = classes.places_of_test(&train.class_names, test)?;
        let train_classes = labels.iter().filter_map(|label| classes.place(*label)).collect();
        Ok(Self {
            train: Cow::Borrowed(train_rows),
            test: Cow::Borrowed(test_rows),
            train_classes,
            test_classes,
            classes,
        })
    }

    /// The test records alone, for protocols whose support or gallery are test records: the classes are the
    /// test set's. The training rows only give the statistics of a scaling. Their labels are not read, so
    /// that they may have other classes (always the case in metric learning and few-shot) or none.
    pub fn within_test(train: &'a Features, test: &'a Features, tap: &str) -> Result<Self, Error> {
        let (train_rows, test_rows) = both_rows(train, test, tap)?;
        let labels = test.classes(TEST)?;
        let classes = Classes::of(labels, TEST)?.named(&test.class_names);
        let test_classes = labels.iter().filter_map(|label| classes.place(*label)).collect();
        Ok(Self {
            train: Cow::Borrowed(train_rows),
            test: Cow::Borrowed(test_rows),
            train_classes: vec![],
            test_classes,
            classes,
        })
    }

    /// The same task with scaled features. Statistics come from the training rows alone.
    pub fn scaled(mut self, scaling: Scaling) -> Self {
        scale(&mut self.train, &mut self.test, scaling);
        self
    }
}

/// Training rows to learn from and to hold out, ascending: the same share of every class, at least one row
/// and never all. `purpose` names the random stream.
///
/// # Errors
/// The name of a class that has only one row.
pub(crate) fn hold_out(
    rows: &[u32],
    classes: &Classes,
    fraction: f64,
    seed: u64,
    purpose: &str,
) -> Result<(Vec<usize>, Vec<usize>), String> {
    let mut by_class = vec![vec![]; classes.count()];
    for (row, class) in rows.iter().enumerate() {
        by_class[*class as usize].push(row);
    }
    let (mut kept, mut held_out) = (vec![], vec![]);
    for (class, mut rows) in by_class.into_iter().enumerate() {
        if rows.len() < 2 {
            return Err(classes.name(class as u32));
        }
        // One stream per class, so that adding or removing a class does not reshuffle the others.
        Draws::new(seed, 0).shuffle(purpose, class as u64, &mut rows);
        let count = (rows.len() as f64 * fraction).round() as usize;
        let (out, rest) = rows.split_at(count.clamp(1, rows.len() - 1));
        held_out.extend_from_slice(out);
        kept.extend_from_slice(rest);
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    Ok((kept, held_out))
}

/// The checked rows of both sets at one tap, from one encoder.
pub(crate) fn both_rows<'a>(
    train: &'a Features,
    test: &'a Features,
    tap: &str,
) -> Result<(&'a Matrix, &'a Matrix), Error> {
    let (train_rows, test_rows) = (check_rows(train, tap, TRAIN)?, check_rows(test, tap, TEST)?);
    if train.origin.encoder != test.origin.encoder {
        return Err(Error::EncoderMismatch {
            train: train.origin.encoder.clone(),
            test: test.origin.encoder.clone(),
        });
    }
    if train_rows.width != test_rows.width {
        return Err(Error::Width {
            train: train_rows.width,
            test: test_rows.width,
        });
    }
    Ok((train_rows, test_rows))
}

/// The rows at one tap, if there are any and all values are finite. `set` names the data set in the error.
///
/// # Errors
/// [`Error::Empty`], [`Error::NotFinite`], and a tap that the features lack.
pub(crate) fn check_rows<'a>(
    features: &'a Features,
    tap: &str,
    set: &'static str,
) -> Result<&'a Matrix, Error> {
    if features.records() == 0 {
        return Err(Error::Empty { set });
    }
    let rows = features.tap(tap, set)?;
    match rows.first_not_finite() {
        None => Ok(rows),
        Some(row) => Err(Error::NotFinite {
            set,
            row,
            key: features.keys[row].clone(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::Origin;
    use crate::testing::features;

    #[test]
    fn labels_are_renumbered_by_what_the_training_set_has() {
        let train = features(1, vec![0.0; 4], vec![40, 7, 40, 9]);
        let test = features(1, vec![0.0; 2], vec![9, 40]);
        let task = Task::new(&train, &test, POOLED).unwrap();
        assert_eq!(task.train_classes, [2, 0, 2, 1]);
        assert_eq!(task.test_classes, [1, 2]);
        assert_eq!((task.classes.count(), task.classes.label(2)), (3, 40));
    }

    #[test]
    fn class_names_decide_over_class_numbers() {
        let named = |names: &[&str], features: Features| Features {
            class_names: names.iter().map(|name| name.to_string()).collect(),
            ..features
        };
        let train = named(&["ant", "bee", "cat"], features(1, vec![0.0; 3], vec![0, 1, 2]));
        let test = named(&["bee", "cat"], features(1, vec![0.0; 2], vec![0, 1]));
        assert_eq!(Task::new(&train, &test, POOLED).unwrap().test_classes, [1, 2]);

        let test = named(&["bee", "dog"], features(1, vec![0.0; 2], vec![0, 1]));
        assert_eq!(
            Task::new(&train, &test, POOLED).unwrap_err().to_string(),
            "test record `record-1` is of class `dog`, which no training record has"
        );
    }

    #[test]
    fn a_task_within_the_test_set_asks_nothing_of_the_training_labels() {
        let test = features(1, vec![0.0; 3], vec![9, 4, 9]);
        let unlabeled = Features {
            labels: None,
            ..features(1, vec![0.0; 2], vec![])
        };
        for train in [features(1, vec![0.0; 2], vec![7, 7]), unlabeled.clone()] {
            let task = Task::within_test(&train, &test, POOLED).unwrap();
            assert_eq!((task.test_classes, task.classes.count()), (vec![1, 0, 1], 2));
        }
        let message = |test: &Features| {
            Task::within_test(&unlabeled, test, POOLED)
                .unwrap_err()
                .to_string()
        };
        assert!(message(&unlabeled).contains("the test set has no labels"));
        assert!(
            message(&features(1, vec![0.0], vec![3]))
                .contains("the test set must have at least 2 classes, got 1")
        );
    }

    #[test]
    fn tasks_that_mean_nothing_are_refused() {
        let message =
            |train: &Features, test: &Features| Task::new(train, test, POOLED).unwrap_err().to_string();
        let good = features(2, vec![1.0; 4], vec![0, 1]);

        assert!(message(&features(2, vec![], vec![]), &good).contains("the training set gave no features"));
        assert!(message(&good, &features(1, vec![1.0], vec![0])).contains("2 wide, test features 1"));
        let nan = features(2, vec![0.0, 0.0, 0.0, f32::NAN], vec![0, 1]);
        assert!(message(&good, &nan).contains("the test set: row 1 (record `record-1`)"));
        assert!(message(&good, &features(2, vec![0.0; 2], vec![5])).contains("is of class 5"));
        assert!(message(&features(2, vec![0.0; 4], vec![3, 3]), &good).contains("at least 2 classes, got 1"));
        let unlabeled = Features {
            labels: None,
            ..good.clone()
        };
        assert!(message(&unlabeled, &good).contains("the training set has no labels"));
        assert!(message(&good, &unlabeled).contains("the test set has no labels"));
        let short = features(2, vec![1.0; 4], vec![0]);
        assert_eq!(
            message(&good, &short),
            "the test features have 2 rows and 1 labels"
        );
        let other = Features {
            origin: Origin {
                encoder: "b".into(),
                ..Origin::default()
            },
            ..good.clone()
        };
        assert!(message(&good, &other).contains("by encoder ``, test features by `b`"));
    }

    #[test]
    fn scaling_takes_its_statistics_from_the_training_rows() {
        // Column 0: 1, 3 (mean 2, deviation 1). Column 1 is constant. The same mean and deviation scale the
        // test row.
        let train = features(2, vec![1.0, 5.0, 3.0, 5.0], vec![0, 1]);
        let test = features(2, vec![10.0, 6.0], vec![0]);
        let task = Task::new(&train, &test, POOLED)
            .unwrap()
            .scaled(Scaling::Standardize);
        assert_eq!(task.train.values, [-1.0, 0.0, 1.0, 0.0]);
        assert_eq!(task.test.values, [8.0, 1.0]);

        let train = features(2, vec![3.0, 4.0, 0.0, 0.0], vec![0, 1]);
        let task = Task::new(&train, &test, POOLED).unwrap().scaled(Scaling::L2);
        assert_eq!(task.train.values, [0.6, 0.8, 0.0, 0.0]);

        let train = features(2, vec![3.0, 4.0, 9.0, 12.0], vec![0, 1]);
        let test = features(2, vec![6.0, 5.0], vec![0]);
        let task = Task::new(&train, &test, POOLED)
            .unwrap()
            .scaled(Scaling::CenterL2);
        assert_eq!(task.train.values, [-0.6, -0.8, 0.6, 0.8]);
        assert_eq!(task.test.values, [0.0, -1.0]);
    }
}
