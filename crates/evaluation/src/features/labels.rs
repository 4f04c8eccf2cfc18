//! Labels of a data set, from its index: as features hold them, as classes, and their hash.

use super::matrix::{Features, Labels, Matrix, Origin, UNDECIDED};
use crate::encoder::POOLED;
use crate::error::Error;
use data::{Dataset, Label};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Keys and, if `with_labels`, labels of all records from the index, as features of width 0: enough for every
/// check of labels.
pub(crate) fn index_features(dataset: &Dataset, with_labels: bool) -> Result<Features, Error> {
    let positions: Vec<usize> = (0..dataset.len()).collect();
    let keys = positions.iter().map(|position| dataset.key(*position));
    Ok(Features {
        taps: BTreeMap::from([(POOLED.to_string(), Matrix::new(positions.len(), 0, vec![]))]),
        labels: match with_labels {
            true => labels(dataset, &positions)?,
            false => None,
        },
        class_names: dataset.class_names().to_vec(),
        keys: keys.collect::<Result<_, _>>()?,
        pixel_hashes: None,
        bad_records: 0,
        listing: dataset.listing().clone(),
        seen: None,
        origin: Origin::default(),
    })
}

/// SHA-256 over class names and labels. A data set's fingerprint excludes both: relabeled images keep their
/// features, but not their labels.
pub(crate) fn labels_hash(dataset: &Dataset) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    for name in dataset.class_names() {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
    }
    for position in 0..dataset.len() {
        let classes = match dataset.label(position)? {
            None => vec![],
            Some(Label::Class(class)) => vec![class],
            // Separated from a single class by a number that is not a class.
            Some(Label::Classes(classes)) => [classes, vec![u32::MAX]].concat(),
        };
        hasher.update((classes.len() as u64).to_le_bytes());
        classes
            .iter()
            .for_each(|class| hasher.update(class.to_le_bytes()));
        // Adds nothing if there are none, so that other data sets keep their hash.
        for class in dataset.undecided(position) {
            hasher.update(u64::MAX.to_le_bytes());
            hasher.update(class.to_le_bytes());
        }
    }
    Ok(data::hex(&hasher.finalize()))
}

/// Labels of the given records, which must all be of one kind.
pub(super) fn labels(dataset: &Dataset, positions: &[usize]) -> Result<Option<Labels>, Error> {
    let labels = positions
        .iter()
        .map(|position| dataset.label(*position))
        .collect::<Result<Vec<_>, _>>()?;
    let kind = |label: &Option<Label>| match label {
        None => "no label",
        Some(Label::Class(_)) => "one class",
        Some(Label::Classes(_)) => "a set of classes",
    };
    let Some(first) = labels.first() else {
        return Ok(None);
    };
    if let Some(row) = labels.iter().position(|label| kind(label) != kind(first)) {
        return Err(Error::MixedLabels {
            key: dataset.key(positions[row])?,
            got: kind(&labels[row]),
            expected: kind(first),
        });
    }
    let mut single = Vec::with_capacity(labels.len());
    let mut sets = vec![];
    for label in labels.into_iter().flatten() {
        match label {
            Label::Class(class) => single.push(i64::from(class)),
            Label::Classes(classes) => sets.push(classes),
        }
    }
    if !single.is_empty() {
        return Ok(Some(Labels::Classes(single)));
    }
    if sets.is_empty() {
        return Ok(None);
    }
    let largest = sets.iter().flatten().max().map_or(0, |class| *class as usize + 1);
    let undecided = |position: &usize| dataset.undecided(*position).iter().map(|class| *class as usize);
    let largest = positions
        .iter()
        .flat_map(undecided)
        .map(|class| class + 1)
        .max()
        .unwrap_or(0)
        .max(largest);
    let classes = largest.max(dataset.class_names().len());
    let mut multi_hot = vec![0; sets.len() * classes];
    for (row, position) in positions.iter().enumerate() {
        undecided(position).for_each(|class| multi_hot[row * classes + class] = UNDECIDED);
    }
    for (row, set) in sets.iter().enumerate() {
        set.iter()
            .for_each(|class| multi_hot[row * classes + *class as usize] = 1);
    }
    Ok(Some(Labels::Sets { classes, multi_hot }))
}

/// One class for every record, which errors call `set`.
///
/// # Errors
/// [`Error::Empty`], [`Error::Unlabeled`] and [`Error::LabelSets`].
pub(crate) fn class_labels(dataset: &Dataset, set: &'static str) -> Result<Vec<i64>, Error> {
    if dataset.is_empty() {
        return Err(Error::Empty { set });
    }
    let label = |position| match dataset.label(position)? {
        Some(Label::Class(class)) => Ok(i64::from(class)),
        Some(Label::Classes(_)) => Err(Error::LabelSets { set }),
        None => Err(Error::Unlabeled { set }),
    };
    (0..dataset.len()).map(label).collect()
}
