//! A task of one binary question per class, so that a record may have several classes: train and test rows,
//! and the members of each class. Data sets with one class per record are a special case.

use crate::error::Error;
use crate::features::{Features, Labels, Matrix, Scaling, UNDECIDED, class_name, scale};
use crate::split::{TEST, TRAIN};
use crate::task::{Classes, Numbering, Task, both_rows, unknown_class};
use std::borrow::Cow;
use std::collections::HashMap;

/// The classes of each record.
#[derive(Clone, Debug, PartialEq)]
enum Members {
    /// One class per record.
    One(Vec<u32>),
    /// `[records, classes]`.
    Several { classes: usize, multi_hot: Vec<u8> },
}

impl Members {
    fn of(&self, class: usize) -> Vec<bool> {
        match self {
            Self::One(classes) => classes.iter().map(|own| *own as usize == class).collect(),
            Self::Several { classes, multi_hot } => multi_hot
                .chunks_exact(*classes)
                .map(|row| row[class] == 1)
                .collect(),
        }
    }
}

/// Train and test features with binary labels for each class.
#[derive(Clone, Debug)]
pub(crate) struct OneVsRest<'a> {
    /// Training features, `[records, width]`; all finite.
    pub(crate) train: Cow<'a, Matrix>,
    /// Test features of the same width; all finite.
    pub(crate) test: Cow<'a, Matrix>,
    train_members: Members,
    test_members: Members,
    /// The label of each class in the data set's own numbering: labels that some training record has,
    /// ascending.
    pub(crate) labels: Vec<i64>,
    names: Vec<String>,
}

impl<'a> OneVsRest<'a> {
    /// Pairs the rows that two features have at one tap. Gives the errors of [`Task::new`], and one if one
    /// set has one class per record and the other has sets of classes.
    pub(crate) fn new(train: &'a Features, test: &'a Features, tap: &str) -> Result<Self, Error> {
        let (train_sets, test_sets) = (sets(train, TRAIN)?, sets(test, TEST)?);
        let (Some(train_sets), Some(test_sets)) = (train_sets, test_sets) else {
            if train_sets.is_some() {
                return Err(Error::LabelSets { set: TRAIN });
            }
            if test_sets.is_some() {
                return Err(Error::LabelSets { set: TEST });
            }
            let task = Task::new(train, test, tap)?;
            return Ok(Self {
                train: task.train,
                test: task.test,
                train_members: Members::One(task.train_classes),
                test_members: Members::One(task.test_classes),
                labels: labels_of(&task.classes),
                names: train.class_names.clone(),
            });
        };
        let (train_rows, test_rows) = both_rows(train, test, tap)?;
        // Classes that some training record has.
        let labels: Vec<i64> = occurring(train_sets).collect();
        if labels.is_empty() {
            return Err(Error::TooFewClasses {
                set: TRAIN,
                classes: 0,
            });
        }
        if !test_sets.1.contains(&1) {
            return Err(Error::Unlabeled { set: TEST });
        }
        let numbering = Numbering::new(
            (&train.class_names, &mut labels.iter().copied()),
            (&test.class_names, &mut occurring(test_sets)),
        )?;
        let place: HashMap<i64, usize> = labels
            .iter()
            .enumerate()
            .map(|(place, label)| (*label, place))
            .collect();
        Ok(Self {
            train_members: members(train, &train.class_names, train_sets, labels.len(), |class| {
                place.get(&(class as i64)).copied()
            })?,
            test_members: members(test, &train.class_names, test_sets, labels.len(), |class| {
                place.get(&numbering.of_test(class as i64)?).copied()
            })?,
            train: Cow::Borrowed(train_rows),
            test: Cow::Borrowed(test_rows),
            labels,
            names: train.class_names.clone(),
        })
    }

    /// The same task with scaled features, by statistics of the training rows.
    pub(crate) fn scaled(mut self, scaling: Scaling) -> Self {
        scale(&mut self.train, &mut self.test, scaling);
        self
    }

    /// The class at this place, as text for people.
    pub(crate) fn name(&self, class: usize) -> String {
        class_name(&self.names, self.labels[class])
    }

    /// Whether each training record is of the class at this place.
    pub(crate) fn train_is(&self, class: usize) -> Vec<bool> {
        self.train_members.of(class)
    }

    /// The indices of test records, and whether they are of the class at this place, without records that are
    /// undecided for it.
    pub(crate) fn decided_test(&self, class: usize, numbers: Vec<f64>) -> (Vec<f64>, Vec<bool>) {
        let is = self.test_members.of(class);
        let Members::Several { classes, multi_hot } = &self.test_members else {
            return (numbers, is);
        };
        let decided = multi_hot
            .chunks_exact(*classes)
            .map(|row| row[class] != UNDECIDED);
        numbers
            .into_iter()
            .zip(is)
            .zip(decided)
            .filter_map(|(pair, decided)| decided.then_some(pair))
            .unzip()
    }
}

/// The classes that some record has.
fn occurring((width, multi_hot): (usize, &[u8])) -> impl Iterator<Item = i64> {
    let has = move |class: &usize| {
        multi_hot
            .iter()
            .skip(*class)
            .step_by(width.max(1))
            .any(|hot| *hot == 1)
    };
    (0..width).filter(has).map(|class| class as i64)
}

fn labels_of(classes: &Classes) -> Vec<i64> {
    (0..classes.count() as u32)
        .map(|place| classes.label(place))
        .collect()
}

/// Columns and multi-hot rows, if the labels are sets.
fn sets<'a>(features: &'a Features, set: &'static str) -> Result<Option<(usize, &'a [u8])>, Error> {
    match &features.labels {
        None => Err(Error::Unlabeled { set }),
        Some(Labels::Classes(_)) => Ok(None),
        Some(Labels::Sets { classes, multi_hot }) => {
            let labels = multi_hot.len() / (*classes).max(1);
            if labels != features.records() || multi_hot.len() % (*classes).max(1) != 0 {
                return Err(Error::LabelCount {
                    set,
                    labels,
                    records: features.records(),
                });
            }
            Ok(Some((*classes, multi_hot)))
        }
    }
}

/// The sets of classes mapped to the training set's places.
fn members(
    features: &Features,
    train_names: &[String],
    (width, multi_hot): (usize, &[u8]),
    classes: usize,
    place: impl Fn(usize) -> Option<usize>,
) -> Result<Members, Error> {
    let places: Vec<Option<usize>> = (0..width).map(place).collect();
    let mut members = vec![0; features.records() * classes];
    for (row, hot) in multi_hot.chunks_exact(width.max(1)).enumerate() {
        for (class, hot) in hot.iter().enumerate().filter(|(_, hot)| **hot > 0) {
            match places[class] {
                Some(place) => members[row * classes + place] = *hot,
                // No machine is trained for that class.
                None if *hot == UNDECIDED => {}
                None => {
                    let key = features.keys[row].clone();
                    return Err(unknown_class(
                        train_names,
                        &features.class_names,
                        class as i64,
                        key,
                    ));
                }
            }
        }
    }
    Ok(Members::Several {
        classes,
        multi_hot: members,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::testing::{features, with_sets};

    #[test]
    fn sets_of_classes_are_renumbered_by_what_the_training_set_has() {
        // No record has class 1; the last test record has no class at all.
        let train = with_sets(1, vec![0.0; 3], &[&[0], &[0, 2], &[2]], 3);
        let test = with_sets(1, vec![0.0; 2], &[&[2], &[]], 3);
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        assert_eq!(task.labels, [0, 2]);
        assert_eq!(task.train_is(0), [true, true, false]);
        assert_eq!(task.train_is(1), [false, true, true]);
        assert_eq!(task.decided_test(1, vec![0.0; 2]).1, [true, false]);
        assert_eq!(task.decided_test(0, vec![0.0; 2]).1, [false, false]);
    }

    #[test]
    fn what_is_undecided_is_no_example_in_training_and_left_out_in_a_test() {
        let undecided = |row: usize, class: usize, mut features: Features| {
            if let Some(Labels::Sets { classes, multi_hot }) = &mut features.labels {
                multi_hot[row * *classes + class] = UNDECIDED;
            }
            features
        };
        let train = undecided(0, 1, with_sets(1, vec![0.0; 3], &[&[0], &[1], &[0, 1]], 3));
        let test = undecided(
            2,
            2,
            undecided(0, 1, with_sets(1, vec![0.0; 3], &[&[0], &[1], &[]], 3)),
        );
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        // No record has class 2, so it gets no machine.
        assert_eq!(task.labels, [0, 1]);
        assert_eq!(task.train_is(1), [false, true, true]);
        assert_eq!(
            task.decided_test(1, vec![0.1, 0.2, 0.3]),
            (vec![0.2, 0.3], vec![true, false])
        );
        assert_eq!(task.decided_test(0, vec![0.1, 0.2, 0.3]).1, [true, false, false]);
    }

    #[test]
    fn one_class_a_record_is_a_special_case() {
        let train = features(1, vec![0.0; 3], vec![7, 3, 7]);
        let test = features(1, vec![0.0; 2], vec![3, 7]);
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        assert_eq!(task.labels, [3, 7]);
        assert_eq!(task.train_is(1), [true, false, true]);
        assert_eq!(task.decided_test(1, vec![0.0; 2]).1, [false, true]);
    }

    #[test]
    fn names_decide_over_numbers() {
        let named = |names: &[&str], features: Features| Features {
            class_names: names.iter().map(|name| name.to_string()).collect(),
            ..features
        };
        let train = named(&["ant", "bee"], with_sets(1, vec![0.0; 2], &[&[0], &[0, 1]], 2));
        let test = named(&["bee", "ant"], with_sets(1, vec![0.0; 2], &[&[0], &[1]], 2));
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        assert_eq!(task.decided_test(0, vec![0.0; 2]).1, [false, true]);
        let test = named(&["cat"], with_sets(1, vec![0.0; 1], &[&[0]], 1));
        assert_eq!(
            OneVsRest::new(&train, &test, POOLED).unwrap_err().to_string(),
            "test record `record-0` is of class `cat`, which no training record has"
        );
    }

    #[test]
    fn tasks_that_mean_nothing_are_refused() {
        let message =
            |train: &Features, test: &Features| OneVsRest::new(train, test, POOLED).unwrap_err().to_string();
        let good = with_sets(1, vec![0.0; 2], &[&[0], &[1]], 2);
        let single = features(1, vec![0.0; 2], vec![0, 1]);
        assert!(message(&good, &single).contains("the training set labels a record with a set"));
        assert!(message(&single, &good).contains("the test set labels a record with a set"));
        let short = Features {
            labels: Some(Labels::Sets {
                classes: 2,
                multi_hot: vec![1, 0],
            }),
            ..good.clone()
        };
        assert_eq!(
            message(&good, &short),
            "the test features have 2 rows and 1 labels"
        );
        let nan = with_sets(1, vec![0.0, f32::NAN], &[&[0], &[1]], 2);
        assert!(message(&nan, &good).contains("the training set: row 1"));
        assert!(message(&good, &with_sets(1, vec![], &[], 2)).contains("the test set gave no features"));
        let nobody = with_sets(1, vec![0.0; 2], &[&[], &[]], 2);
        assert!(message(&nobody, &good).contains("at least 2 classes, got 0"));
        assert!(message(&good, &nobody).contains("the test set has no labels"));
    }
}
