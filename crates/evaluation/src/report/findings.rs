//! The findings of a report besides the scores: predictions by nearest neighbors, the confusion matrix,
//! results by class.

use crate::encoder::POOLED;
use crate::error::Error;
use crate::features::{Features, Labels};
use crate::solvers::{Neighbor, Voting, nearest, winner};
use crate::task::Task;
use burn::tensor::Device;

/// Predictions for every test record.
#[derive(Clone, Debug)]
pub(crate) struct Predictions {
    /// How they were made.
    pub(crate) voting: Voting,
    /// Names of the classes, by place.
    pub(crate) classes: Vec<String>,
    /// The place of each test record's class.
    pub(crate) truth: Vec<u32>,
    /// The place of the predicted class, with its share of the votes.
    pub(crate) predicted: Vec<(u32, f64)>,
}

/// One class's results.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClassResult {
    pub(crate) class: u32,
    /// Its test records.
    pub(crate) records: usize,
    /// Test records that were predicted correctly.
    pub(crate) right: usize,
    /// Records predicted to be of it.
    pub(crate) predicted: usize,
    /// The most frequent wrong prediction for its records, and its count.
    pub(crate) taken_for: Option<(u32, usize)>,
}

impl Predictions {
    /// Predictions by votes of the nearest training records, and those neighbors of each test record; `None`
    /// if the records have no labels or several each, or the two sets have different classes.
    pub(crate) fn make(
        train: &Features,
        test: &Features,
        voting: Voting,
        device: &Device,
    ) -> Option<(Self, Vec<Vec<Neighbor>>)> {
        let task = Task::new(train, test, POOLED).ok()?;
        let voting = Voting {
            neighbors: voting.neighbors.min(task.train.rows),
            ..voting
        };
        let neighbors = nearest(&task.train, &task.test, voting.neighbors, device);
        let predicted = neighbors
            .iter()
            .map(|row| winner(row, &task.train_classes, voting.temperature))
            .collect();
        let classes = (0..task.classes.count() as u32)
            .map(|place| label_name(&train.class_names, task.classes.label(place)))
            .collect();
        let predictions = Self {
            voting,
            classes,
            truth: task.test_classes,
            predicted,
        };
        Some((predictions, neighbors))
    }

    /// The share of correct predictions.
    pub(crate) fn top1(&self) -> f64 {
        let right = self
            .pairs()
            .filter(|(truth, predicted)| truth == predicted)
            .count();
        right as f64 / self.truth.len().max(1) as f64
    }

    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let predicted = self.predicted.iter().map(|(predicted, _)| *predicted);
        self.truth.iter().copied().zip(predicted)
    }

    /// Records of each class (row) that were predicted as each class (column).
    pub(crate) fn confusion(&self) -> Vec<Vec<usize>> {
        let mut counts = vec![vec![0; self.classes.len()]; self.classes.len()];
        self.pairs()
            .for_each(|(truth, predicted)| counts[truth as usize][predicted as usize] += 1);
        counts
    }

    /// Results of the classes that the test set has.
    pub(crate) fn by_class(&self) -> Vec<ClassResult> {
        let confusion = self.confusion();
        let result = |(class, row): (usize, &Vec<usize>)| ClassResult {
            class: class as u32,
            records: row.iter().sum(),
            right: row[class],
            predicted: confusion.iter().map(|row| row[class]).sum(),
            taken_for: (0..row.len())
                .filter(|other| *other != class && row[*other] > 0)
                // Ties go to the first.
                .max_by_key(|other| (row[*other], std::cmp::Reverse(*other)))
                .map(|other| (other as u32, row[other])),
        };
        let all = confusion.iter().enumerate().map(result);
        all.filter(|result| result.records > 0).collect()
    }

    /// Test rows that were predicted wrong, the most confident first.
    pub(crate) fn mistakes(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.truth.len())
            .filter(|row| self.truth[*row] != self.predicted[*row].0)
            .collect();
        rows.sort_by(|a, b| self.predicted[*b].1.total_cmp(&self.predicted[*a].1));
        rows
    }

    /// Pairs of classes by the number of records of the first that were predicted as the second, in
    /// descending order.
    pub(crate) fn confused(&self) -> Vec<(u32, u32, usize)> {
        let confusion = self.confusion();
        let mut pairs: Vec<(u32, u32, usize)> = vec![];
        for (truth, row) in confusion.iter().enumerate() {
            let wrong = row
                .iter()
                .enumerate()
                .filter(|(other, count)| *other != truth && **count > 0);
            pairs.extend(wrong.map(|(other, count)| (truth as u32, other as u32, *count)));
        }
        pairs.sort_by_key(|(truth, other, count)| (std::cmp::Reverse(*count), *truth, *other));
        pairs
    }
}

/// A class's name, or its number where it has none.
pub(crate) fn label_name(names: &[String], class: i64) -> String {
    let named = usize::try_from(class).ok().and_then(|class| names.get(class));
    named
        .filter(|name| !name.is_empty())
        .map_or_else(|| format!("class {class}"), Clone::clone)
}

/// A record's label in words; `None` if it has no label. The number is the (first) class, for a color.
pub(crate) fn label_of(features: &Features, row: usize) -> Option<(String, usize)> {
    match features.labels.as_ref()? {
        Labels::Classes(classes) => {
            let class = *classes.get(row)?;
            Some((
                label_name(&features.class_names, class),
                usize::try_from(class).unwrap_or(0),
            ))
        }
        Labels::Sets { classes, multi_hot } => {
            let set = multi_hot.get(row * classes..(row + 1) * classes)?;
            let members: Vec<usize> = (0..*classes).filter(|class| set[*class] == 1).collect();
            let names: Vec<String> = members
                .iter()
                .map(|class| label_name(&features.class_names, *class as i64))
                .collect();
            match members.first() {
                Some(first) => Some((names.join(", "), *first)),
                None => Some(("no class".into(), *classes)),
            }
        }
    }
}

/// The nearest records of each of these test rows: among the training set, or, if that is empty, among the
/// other test records. The flag is true for the training set.
pub(crate) fn neighbors_of(
    rows: &[usize],
    train: &Features,
    test: &Features,
    count: usize,
    device: &Device,
) -> Result<(Vec<Vec<Neighbor>>, bool), Error> {
    let queries = test.tap(POOLED, "test")?.select(rows);
    match train.taps.get(POOLED).filter(|matrix| matrix.rows > 0) {
        Some(train) => Ok((nearest(train, &queries, count.min(train.rows), device), true)),
        None => {
            let all = test.tap(POOLED, "test")?;
            let mut found = nearest(all, &queries, (count + 1).min(all.rows), device);
            for (row, found) in rows.iter().zip(&mut found) {
                found.retain(|neighbor| neighbor.row as usize != *row);
                found.truncate(count);
            }
            Ok((found, false))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::features;

    const VOTING: Voting = Voting {
        neighbors: 1,
        temperature: 0.07,
    };

    #[test]
    fn confusion_and_classes_by_hand() {
        // Directions 0°, 90°, 180° of classes 0, 1, 2. The test rows: 0 correct, 0 predicted as 1, 1 correct,
        // 1 predicted as 2.
        let train = features(2, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0], vec![0, 1, 2]);
        let test = features(2, vec![1.0, 0.1, 0.1, 1.0, 0.0, 2.0, -1.0, 0.2], vec![0, 0, 1, 1]);
        let (predictions, neighbors) = Predictions::make(&train, &test, VOTING, &Device::flex()).unwrap();
        assert_eq!(neighbors.len(), 4);
        assert_eq!(predictions.top1(), 0.5);
        assert_eq!(predictions.confusion(), [[1, 1, 0], [0, 1, 1], [0, 0, 0]]);
        assert_eq!(predictions.mistakes(), [1, 3]);
        assert_eq!(predictions.confused(), [(0, 1, 1), (1, 2, 1)]);
        let classes = predictions.by_class();
        assert_eq!(classes.len(), 2);
        assert_eq!(
            classes[1],
            ClassResult {
                class: 1,
                records: 2,
                right: 1,
                predicted: 2,
                taken_for: Some((2, 1)),
            }
        );
        assert_eq!(predictions.classes, ["class 0", "class 1", "class 2"]);
    }

    #[test]
    fn neighbors_within_the_test_set_leave_the_record_itself_out() {
        let test = features(2, vec![1.0, 0.0, 1.0, 0.1, 0.0, 1.0], vec![0, 0, 1]);
        let (found, from_train) =
            neighbors_of(&[0, 2], &Features::default(), &test, 2, &Device::flex()).unwrap();
        assert!(!from_train);
        let rows: Vec<Vec<u32>> = found
            .iter()
            .map(|row| row.iter().map(|one| one.row).collect())
            .collect();
        assert_eq!(rows, [[1, 2], [1, 0]]);
    }

    #[test]
    fn sets_of_classes_are_named_and_have_no_predictions() {
        let sets = Features {
            labels: Some(Labels::Sets {
                classes: 2,
                multi_hot: vec![1, 1, 0, 2],
            }),
            class_names: vec!["cat".into(), "dog".into()],
            ..features(1, vec![1.0, 2.0], vec![0, 1])
        };
        assert_eq!(label_of(&sets, 0).unwrap(), ("cat, dog".to_string(), 0));
        assert_eq!(label_of(&sets, 1).unwrap().0, "no class");
        assert!(Predictions::make(&sets, &sets, VOTING, &Device::flex()).is_none());
    }
}
