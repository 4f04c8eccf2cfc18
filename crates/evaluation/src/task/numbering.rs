//! How the classes of a test set are those of the training set: by their names or by their numbers.
//!
//! An image folder numbers only its own classes, so names decide where both sets have them, and numbers where
//! neither does. Where one set has names and the other numbers, only the user knows what the numbers count.

use crate::error::Error;
use crate::features::class_name;
use crate::split::{TEST, TRAIN};
use data::names;
use std::collections::HashMap;

/// The training set's number for each number of the test set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Numbering {
    /// The same number.
    Same,
    /// By name: the number at the test set's place; `None` for a name that the training set lacks.
    ByName(Vec<Option<i64>>),
}

/// The names of a set's classes, and the labels that occur in it.
type Known<'a> = (&'a [String], &'a mut (dyn Iterator<Item = i64> + 'a));

impl Numbering {
    /// Pairs the names of both sets, which are empty where a set has none. The labels are those that occur.
    ///
    /// # Errors
    /// [`Error::NamesBesideNumbers`] if one set has names alone, unless each name is the number that it
    /// stands for.
    pub(crate) fn new<'a>(
        (train_names, train_labels): Known<'a>,
        (test_names, test_labels): Known<'a>,
    ) -> Result<Self, Error> {
        let (names, labels, [named, numbered]) = match (train_names.is_empty(), test_names.is_empty()) {
            (true, true) => return Ok(Self::Same),
            (false, false) => return Ok(Self::by_name(train_names, test_names)),
            (false, true) => (train_names, test_labels, [TRAIN, TEST]),
            (true, false) => (test_names, train_labels, [TEST, TRAIN]),
        };
        let name_at = |label: i64| usize::try_from(label).ok().and_then(|place| names.get(place));
        let mut labels = labels;
        let is_unclear = |label: &i64| name_at(*label).is_none_or(|name| *name != label.to_string());
        // Called so because a method of a trait object would be looked for first.
        let unclear = Iterator::find(&mut labels, is_unclear);
        match unclear {
            None => Ok(Self::Same),
            Some(label) => Err(Error::NamesBesideNumbers {
                named,
                numbered,
                names: names::listed(names),
                reading: match name_at(label) {
                    Some(name) => format!("class {label} may be `{name}`, by its place, or another class"),
                    None => format!("class {label} is past the end of these names"),
                },
            }),
        }
    }

    fn by_name(train: &[String], test: &[String]) -> Self {
        // Features files of earlier versions hold names as their folders were spelled.
        let numbers: HashMap<_, i64> = train.iter().map(|name| names::composed(name)).zip(0..).collect();
        let number = |name: &String| numbers.get(&names::composed(name)).copied();
        Self::ByName(test.iter().map(number).collect())
    }

    /// The training set's number of a class of the test set.
    pub(crate) fn of_test(&self, label: i64) -> Option<i64> {
        match self {
            Self::Same => Some(label),
            Self::ByName(numbers) => *numbers.get(usize::try_from(label).ok()?)?,
        }
    }
}

/// The error for a test record whose class no training record has.
pub(crate) fn unknown_class(train_names: &[String], test_names: &[String], label: i64, key: String) -> Error {
    let name = usize::try_from(label)
        .ok()
        .and_then(|label| test_names.get(label));
    let is_near = |known: &&String| name.is_some_and(|name| names::differ_in_spelling(name, known));
    Error::UnknownClass {
        class: class_name(test_names, label),
        key,
        near: train_names
            .iter()
            .find(|known| Some(*known) != name && is_near(known))
            .cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    fn new(
        train: &[&str],
        train_labels: &[i64],
        test: &[&str],
        test_labels: &[i64],
    ) -> Result<Numbering, Error> {
        Numbering::new(
            (&names(train), &mut train_labels.iter().copied()),
            (&names(test), &mut test_labels.iter().copied()),
        )
    }

    #[test]
    fn names_are_matched_in_every_unicode_form() {
        let numbering = new(&["caf\u{e9}", "pain"], &[], &["cafe\u{301}", "eau", "pain"], &[]).unwrap();
        assert_eq!(numbering, Numbering::ByName(vec![Some(0), None, Some(1)]));
        assert_eq!(
            [0, 1, 2, 3, -1].map(|label| numbering.of_test(label)),
            [Some(0), None, Some(1), None, None]
        );
    }

    #[test]
    fn names_beside_numbers_are_refused_unless_both_readings_agree() {
        assert_eq!(new(&[], &[5], &[], &[5]).unwrap(), Numbering::Same);
        // Folders `0` and `1` beside classes 0 and 1; with ten or more, byte order and number differ.
        assert_eq!(new(&["0", "1"], &[], &[], &[1, 0]).unwrap(), Numbering::Same);
        assert_eq!(new(&[], &[1, 0], &["0", "1"], &[]).unwrap(), Numbering::Same);
        let error = new(&["0", "1", "10", "2"], &[], &[], &[0, 2])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the training set names its classes (`0`, `1`, `10`, `2`), and the test set only numbers them: \
             class 2 may be `10`, by its place, or another class"
        );
        let error = new(&[], &[3], &["ant", "bee"], &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("the test set names its classes (`ant`, `bee`), and the training set only")
                && error.ends_with("class 3 is past the end of these names"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_class_names_the_spelling_that_is_known() {
        let error = |class: &str| {
            unknown_class(&names(&["cat", "sea_lion"]), &names(&[class]), 0, "k".into()).to_string()
        };
        assert_eq!(
            error("Cat"),
            "test record `k` is of class `Cat`, which no training record has; the training set has `cat`"
        );
        assert!(error("Sea lion").ends_with("the training set has `sea_lion`"));
        assert!(error("dog").ends_with("which no training record has"));
    }
}
