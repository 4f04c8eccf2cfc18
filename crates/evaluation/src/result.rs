//! Scores: one object each, with everything needed to understand and repeat it.

use crate::error::{Error, io};
use crate::overlap::Overlap;
use data::Listing;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One number of one protocol, without encoder and records.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The metric: `top1`, `top5`, `mean_class` (see `docs/protocols.md`), or a protocol-specific name.
    pub metric: &'static str,
    /// In 0..1 for shares.
    pub value: f64,
    /// Whether this is the headline metric of the protocol.
    pub headline: bool,
    /// Spread over seeds, where several were run.
    pub spread: Option<Spread>,
    /// Settings of this score alone: the number of neighbors, the chosen C.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// How much a score varies with the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The score of each, in 0..1.
    pub values: Vec<f64>,
    /// Their sample standard deviation (n - 1); absent for one seed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub standard_deviation: Option<f64>,
}

impl Spread {
    /// The spread of one score per seed, and the scores' mean.
    pub fn of(seeds: &[u64], values: Vec<f64>) -> (f64, Self) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_deviation = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
        (
            mean,
            Self {
                seeds: seeds.to_vec(),
                values,
                standard_deviation,
            },
        )
    }
}

/// Facts that only the caller knows: the program's commit and the device's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Commit of the program, or its version if the commit is unknown.
    pub commit: String,
    /// Device that the encoder ran on.
    pub device: String,
}

/// One object of `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The protocol's name, as in the config.
    pub protocol: String,
    /// `top1`, `top5`, `mean_class`, or a protocol-specific name.
    pub metric: String,
    /// The score, in 0..1 for shares; the mean over seeds if there are several.
    pub value: f64,
    /// Whether this is the headline metric of the protocol.
    pub headline: bool,
    /// How much the score varies with the seed; absent for protocols without randomness.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spread: Option<Spread>,
    /// The encoder's hash.
    pub encoder: String,
    /// The encoder's name, for people.
    pub encoder_name: String,
    /// Optimizer steps of the encoder's training, where known: a checkpoint's scores differ from the finished
    /// run's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encoder_step: Option<u64>,
    /// Distinct classes among the training records; 0 if labels were not read.
    pub classes: usize,
    /// Records that the protocol learned from.
    pub train_records: usize,
    /// Records that the score is over.
    pub test_records: usize,
    /// Training records skipped because they could not be read.
    pub train_bad_records: usize,
    /// Test records skipped because they could not be read.
    pub test_bad_records: usize,
    /// Fingerprint of the training set.
    pub train_fingerprint: String,
    /// Fingerprint of the test set.
    pub test_fingerprint: String,
    /// What lies in the training set and became no record, or became one by a guess, by reason.
    #[serde(default, skip_serializing_if = "Listing::is_empty")]
    pub train_listing: Listing,
    /// The same for the test set.
    #[serde(default, skip_serializing_if = "Listing::is_empty")]
    pub test_listing: Listing,
    /// How far the test images are new; absent in results of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overlap: Option<Overlap>,
    /// Every setting of the protocol, and values that it determined (the chosen C, the iterations run).
    pub settings: serde_json::Value,
    /// The transforms that resized test images for the encoder.
    pub test_transforms: serde_json::Value,
    /// How images were normalized.
    pub normalize: serde_json::Value,
    /// Commit of the program.
    pub commit: String,
    /// Device that the encoder ran on.
    pub device: String,
    /// SHA-256 (hexadecimal) over everything that decides this score: protocol with its settings, encoder,
    /// records, labels, transforms, normalization, commit and device. A rerun with the same hash reuses the
    /// stored score.
    #[serde(default)]
    pub asked: String,
}

impl Outcome {
    /// What distinguishes this score from others of the same protocol and metric, for people: `k 20`, `res4`,
    /// `5-way 1-shot ridge`.
    pub fn variant(&self) -> Option<String> {
        let number = |key: &str| self.settings.get(key)?.as_u64();
        if let Some(count) = number("neighbors")
            .or_else(|| number("positives"))
            .or_else(|| number("k"))
        {
            return Some(format!("k {count}"));
        }
        if let Some(tap) = self.settings.get("tap").and_then(|tap| tap.as_str()) {
            return Some(tap.to_string());
        }
        let (ways, shots) = (number("ways")?, number("shots")?);
        // A plain name, or a table of one key.
        let classifier = self.settings.get("classifier")?;
        let classifier = classifier
            .as_str()
            .or_else(|| classifier.as_object()?.keys().next().map(String::as_str))?;
        Some(format!(
            "{ways}-way {shots}-shot {}",
            classifier.replace('_', " ")
        ))
    }

    /// Whether the value is a share or an index, shown in percent; false for quantities with other units.
    pub fn is_share(&self) -> bool {
        !matches!(self.protocol.as_str(), "diagnostics" | "view-diagnostics")
    }

    /// The uncertainty as usually quoted: the seeds' standard deviation, or half a 95 % confidence interval.
    /// `None` for one seed.
    pub fn uncertainty(&self) -> Option<f64> {
        match &self.spread {
            Some(spread) => spread.standard_deviation.filter(|_| spread.values.len() > 1),
            None => self.settings.get("confidence_95")?.as_f64(),
        }
    }
}

/// Reads a `result.json`.
///
/// # Errors
/// [`Error::ResultFile`] if the file has other content.
pub fn read_results(path: &Path) -> Result<Vec<Outcome>, Error> {
    let text = std::fs::read(path).map_err(io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::ResultFile {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Writes `result.json`, a list of outcomes, atomically.
pub fn write_results(path: &Path, outcomes: &[Outcome]) -> Result<(), Error> {
    Ok(data::durable::write_json(path, &outcomes)?)
}

/// Top-1, top-5 where there are more than five classes, and mean per-class accuracy, from the rank (0 = first) of each
/// test row's true class.
pub(crate) fn scores_of(
    ranks: &[u32],
    test_classes: &[u32],
    classes: usize,
    details: &serde_json::Map<String, serde_json::Value>,
) -> Vec<Score> {
    let score = |(metric, value)| Score {
        metric,
        value,
        headline: metric == "top1",
        spread: None,
        details: details.clone(),
    };
    let mut metrics = vec![("top1", share_within(ranks, 1))];
    if classes > 5 {
        metrics.push(("top5", share_within(ranks, 5)));
    }
    metrics.push(("mean_class", mean_class(ranks, test_classes, classes)));
    metrics.into_iter().map(score).collect()
}

/// The mean of the per-class accuracies over the classes in the test set: scikit-learn's balanced accuracy,
/// the usual metric of Flowers, Pets, Caltech-101 and Aircraft.
fn mean_class(ranks: &[u32], test_classes: &[u32], classes: usize) -> f64 {
    let mut counts = vec![(0u64, 0u64); classes];
    for (rank, class) in ranks.iter().zip(test_classes) {
        let (right, all) = &mut counts[*class as usize];
        *right += u64::from(*rank == 0);
        *all += 1;
    }
    let shares: Vec<f64> = counts
        .into_iter()
        .filter(|(_, all)| *all > 0)
        .map(|(right, all)| right as f64 / all as f64)
        .collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}

/// The same scores over several seeds: their mean and spread.
pub(crate) fn seeds_scores(
    seeds: &[u64],
    ranks: &[Vec<u32>],
    test_classes: &[u32],
    classes: usize,
    details: &serde_json::Map<String, serde_json::Value>,
) -> Vec<Score> {
    let each: Vec<Vec<Score>> = ranks
        .iter()
        .map(|ranks| scores_of(ranks, test_classes, classes, details))
        .collect();
    let Some(first) = each.first() else { return vec![] };
    let over_seeds = |(metric, score): (usize, &Score)| {
        let (value, spread) = Spread::of(seeds, each.iter().map(|scores| scores[metric].value).collect());
        Score {
            value,
            spread: Some(spread),
            ..score.clone()
        }
    };
    first.iter().enumerate().map(over_seeds).collect()
}

/// A metric over several seeds: the mean of its values, and their spread.
pub(crate) fn over_seeds(
    metric: &'static str,
    headline: bool,
    seeds: &[u64],
    values: Vec<f64>,
    details: &serde_json::Map<String, serde_json::Value>,
) -> Score {
    let (value, spread) = Spread::of(seeds, values);
    Score {
        metric,
        value,
        headline,
        spread: Some(spread),
        details: details.clone(),
    }
}

/// Share of rows whose true class has a rank (0 = first) below `first`.
pub(crate) fn share_within(ranks: &[u32], first: u32) -> f64 {
    ranks.iter().filter(|rank| **rank < first).count() as f64 / ranks.len() as f64
}

/// The number of classes that score higher than the true one; ties rank the lower class first. NaN ranks
/// last.
pub(crate) fn rank_of(class: u32, scores: &[f64]) -> u32 {
    let own = scores[class as usize];
    if own.is_nan() {
        return scores.len() as u32;
    }
    let before =
        |(other, score): &(usize, &f64)| **score > own || (**score == own && *other < class as usize);
    scores.iter().enumerate().filter(before).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlap::{Compared, Pretraining};

    #[test]
    fn spread_is_the_sample_deviation() {
        let (mean, spread) = Spread::of(&[0, 1, 2], vec![0.5, 0.6, 0.7]);
        assert!((mean - 0.6).abs() < 1e-12);
        assert!((spread.standard_deviation.unwrap() - 0.1).abs() < 1e-12);
        let (_, one) = Spread::of(&[7], vec![0.5]);
        assert_eq!(one.standard_deviation, None);
        assert!(
            !serde_json::to_string(&one)
                .unwrap()
                .contains("standard_deviation")
        );
    }

    #[test]
    fn equal_scores_go_to_the_lower_class() {
        assert_eq!(rank_of(2, &[0.1, 0.3, 0.3]), 1);
        assert_eq!(rank_of(1, &[0.1, 0.3, 0.3]), 0);
        assert_eq!(rank_of(0, &[f64::NAN, 0.3, 0.3]), 3);
        assert_eq!(share_within(&[0, 4, 5, 0], 1), 0.5);
        assert_eq!(share_within(&[0, 4, 5, 0], 5), 0.75);
    }

    #[test]
    fn mean_class_gives_every_class_one_voice() {
        // Class 0: three of four; class 1: none of one; class 2 is not in the test set.
        let ranks = [0, 0, 0, 1, 2];
        let scores = scores_of(&ranks, &[0, 0, 0, 0, 1], 3, &serde_json::Map::new());
        let read: Vec<_> = scores
            .iter()
            .map(|score| (score.metric, score.value, score.headline))
            .collect();
        assert_eq!(read, [("top1", 0.6, true), ("mean_class", 0.375, false)]);
    }

    #[test]
    fn an_outcome_survives_the_file() {
        let outcome = Outcome {
            protocol: "knn-dino".into(),
            metric: "top1".into(),
            value: 0.75,
            headline: true,
            spread: None,
            encoder: "abc".into(),
            encoder_name: "resnet18".into(),
            encoder_step: Some(7),
            classes: 10,
            train_records: 100,
            test_records: 20,
            train_bad_records: 0,
            test_bad_records: 1,
            train_fingerprint: "f".into(),
            test_fingerprint: "g".into(),
            train_listing: Listing::default(),
            test_listing: Listing::default(),
            overlap: Some(Overlap {
                compared: Compared::Images,
                test_records: 20,
                test_in_training: 3,
                test_repeated: 0,
                by_pixels: None,
                pretraining: Pretraining::OtherData,
                pretraining_sample: None,
            }),
            settings: serde_json::json!({ "neighbors": 20 }),
            test_transforms: serde_json::json!([]),
            normalize: serde_json::json!({}),
            commit: "c".into(),
            device: "flex".into(),
            asked: "h".into(),
        };
        assert_eq!(outcome.variant().unwrap(), "k 20");
        let episodes = Outcome {
            settings: serde_json::json!({
                "ways": 5, "shots": 1, "classifier": { "ridge": { "penalty": 1.0 } }, "confidence_95": 0.25
            }),
            ..outcome.clone()
        };
        assert_eq!(
            (episodes.variant().unwrap().as_str(), episodes.uncertainty()),
            ("5-way 1-shot ridge", Some(0.25))
        );

        let seeded = |values: Vec<f64>| Outcome {
            spread: Some(Spread::of(&[0, 1][..values.len()], values).1),
            ..outcome.clone()
        };
        assert_eq!(seeded(vec![0.5]).uncertainty(), None);
        assert!(seeded(vec![0.5, 0.6]).uncertainty().is_some());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        write_results(&path, std::slice::from_ref(&outcome)).unwrap();
        assert_eq!(read_results(&path).unwrap(), [outcome]);
        std::fs::write(&path, "{}").unwrap();
        assert!(
            read_results(&path)
                .unwrap_err()
                .to_string()
                .contains("is not a list of results")
        );
    }
}
