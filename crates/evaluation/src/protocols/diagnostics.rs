//! `diagnostics`: label-free statistics of features: effective rank, uniformity, deviation per dimension,
//! spectrum. They show collapse, and rank checkpoints of one method; they compare methods poorly.
//!
//! Alignment (Wang and Isola 2020) and LiDAR (Thilak et al. 2024) compare views of one image, but stored
//! features have one view: these two are in `view_diagnostics.rs`.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::encoder::POOLED;
use crate::error::Error;
use crate::features::{Features, Matrix, column_means, normalize_rows};
use crate::progress::Event;
use crate::result::Score;
use crate::solvers::{products, symmetric_eigenvalues};
use crate::split::Split;
use crate::task::{Splits, check_rows};
use backbones::Draws;
use backbones::draws::sample;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, Slice};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "diagnostics";
/// Rows of a Gram matrix that one thread computes, and rows converted to f64 at a time.
const GRAM_ROWS: usize = 64;
const PANEL_ROWS: usize = 256;
/// Rows whose pairs one thread sums at a time.
const PAIR_ROWS: usize = 64;

/// Diagnostics of stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diagnostics {
    /// The set: `"train"` or `"test"`. Neither needs labels.
    pub set: Split,
    /// Maximum number of records; a random subset if there are more. RankMe: 25,600. The effective rank, and
    /// the ranking of checkpoints by it, depend on this number, so keep it constant.
    pub records: usize,
    /// Seed of that draw.
    pub seed: u64,
    /// Uniformity's t. Wang and Isola: 2.
    pub uniformity_t: f64,
}

impl Protocol for Diagnostics {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.records < 2 {
            return Err(format!(
                "`{table}.records` must be at least 2, got {}",
                self.records
            ));
        }
        if !(self.uniformity_t.is_finite() && self.uniformity_t > 0.0) {
            return Err(format!(
                "`{table}.uniformity_t` must be finite and above 0, got {}",
                self.uniformity_t
            ));
        }
        Ok(())
    }

    fn needs(&self) -> Needs<'_> {
        Needs {
            train_features: self.set == Split::Train,
            ..Needs::features(LabelsRead::None)
        }
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check_pairs(self.set, splits.of(self.set).records())
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let features = bench.splits.of(self.set);
        Ok(Scored::new(diagnostics(self, features, bench.progress)?, 0))
    }
}

/// RankMe, uniformity, the deviation of L2-normalized features, and the number of principal components that
/// hold 99 % of the variance.
fn diagnostics(
    config: &Diagnostics,
    features: &Features,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let all = check_rows(features, POOLED, config.set.name())?;
    check_pairs(config.set, all.rows)?;
    let drawn;
    let rows = if all.rows > config.records {
        let mut rng = Draws::new(config.seed, 0).rng("diagnostics.records", 0);
        let mut chosen = sample(&mut rng, all.rows, config.records);
        chosen.sort_unstable();
        drawn = all.select(&chosen);
        &drawn
    } else {
        all
    };
    let mut done = 0;
    let mut finished = || {
        done += 1;
        progress(Event {
            stage: PROTOCOL,
            done,
            total: 4,
            unit: "numbers",
        });
    };
    let score = |metric, value, details: Vec<(&str, serde_json::Value)>| Score {
        metric,
        value,
        headline: metric == "rankme",
        spread: None,
        details: details
            .into_iter()
            .chain([("records_used", json!(rows.rows))])
            .map(|(key, value)| (key.to_string(), value))
            .collect(),
    };

    let rank = rankme(rows);
    finished();
    let mut unit = rows.clone();
    normalize_rows(&mut unit);
    let uniformity = uniformity(&unit, config.uniformity_t);
    finished();
    let width = (rows.width as f64).sqrt();
    let deviations = deviations(&unit);
    let deviation = width * deviations.iter().sum::<f64>() / rows.width as f64;
    finished();
    let spectrum = spectrum(rows);
    finished();
    Ok(vec![
        score("rankme", rank, vec![]),
        score("uniformity", uniformity, vec![]),
        score(
            "deviation",
            deviation,
            vec![("unit_deviations", json!(deviations))],
        ),
        score(
            "components_99",
            components(&spectrum, 0.99) as f64,
            vec![
                ("components_90", json!(components(&spectrum, 0.9))),
                ("spectrum", json!(spectrum)),
            ],
        ),
    ])
}

/// Gives an error for a single record, because pairs are compared.
pub(super) fn check_pairs(split: Split, records: usize) -> Result<(), Error> {
    match records {
        0 | 1 => Err(Error::OneRecord { set: split.name() }),
        _ => Ok(()),
    }
}

/// The exponential of the entropy of the singular values' shares (Garrido et al. 2023, equation 1), of the
/// unscaled features: at most `min(rows, width)`.
fn rankme(rows: &Matrix) -> f64 {
    training::rank_me(gram_eigenvalues(rows, &vec![0.0; rows.width]))
}

/// The logarithm of the mean of `exp(-t |x - y|^2)` over all pairs of different rows (Wang and Isola 2020,
/// section 4.1.2). Rows have length 1. Lower values mean a more even spread over the sphere; 0 if all rows
/// are equal.
fn uniformity(unit: &Matrix, t: f64) -> f64 {
    let blocks: Vec<f64> = (0..unit.rows.div_ceil(PAIR_ROWS))
        .into_par_iter()
        .map(|block| {
            let first = block * PAIR_ROWS;
            let last = unit.rows.min(first + PAIR_ROWS);
            // Each pair once: compare with the rows from this block on.
            let later = &unit.values[first * unit.width..];
            let products = products(unit, first..last, later);
            let length = unit.rows - first;
            let mut sum = 0.0;
            for (row, products) in products.chunks_exact(length).enumerate() {
                let pairs = products[row + 1..].iter();
                sum += pairs
                    .map(|product| (-2.0 * t * (1.0 - f64::from(*product))).exp())
                    .sum::<f64>();
            }
            sum
        })
        .collect();
    let rows = unit.rows as f64;
    (blocks.iter().sum::<f64>() / (0.5 * rows * (rows - 1.0))).ln()
}

/// The (biased) standard deviation of each column.
fn deviations(rows: &Matrix) -> Vec<f64> {
    let mean = column_means(rows);
    let mut sums = vec![0.0; rows.width];
    for row in rows.values.chunks_exact(rows.width) {
        for ((sum, value), mean) in sums.iter_mut().zip(row).zip(&mean) {
            *sum += (f64::from(*value) - mean).powi(2);
        }
    }
    sums.iter().map(|sum| (sum / rows.rows as f64).sqrt()).collect()
}

/// Eigenvalues of the covariance (divided by `rows - 1`), the largest first, up to the largest possible rank.
fn spectrum(rows: &Matrix) -> Vec<f64> {
    let scale = 1.0 / (rows.rows as f64 - 1.0);
    let values = gram_eigenvalues(rows, &column_means(rows));
    values.into_iter().map(|value| value * scale).collect()
}

/// The number of largest values that sum to this share of the total.
fn components(spectrum: &[f64], share: f64) -> usize {
    let enough = share * spectrum.iter().sum::<f64>();
    let mut sum = 0.0;
    spectrum
        .iter()
        .take_while(|value| {
            let more = sum < enough;
            sum += **value;
            more
        })
        .count()
}

/// Squared singular values of the rows minus `mean`, the largest first: the eigenvalues of the smaller of
/// their two Gram matrices. Computed in f64, where rounding only affects singular values below 1e-8 of the
/// largest.
fn gram_eigenvalues(rows: &Matrix, mean: &[f64]) -> Vec<f64> {
    let gram = if rows.width <= rows.rows {
        column_gram(rows, mean)
    } else {
        let centered = to_f64(rows, 0..rows.rows, mean);
        centered.dot(&centered.t())
    };
    // Rounding may turn a zero slightly negative.
    let eigenvalues = symmetric_eigenvalues(gram).into_iter();
    eigenvalues.map(|value| value.max(0.0)).collect()
}

/// `X' X` of the rows minus `mean`, `[width, width]`: each thread computes some of its rows, with a fixed
/// order of sums.
fn column_gram(rows: &Matrix, mean: &[f64]) -> Array2<f64> {
    let width = rows.width;
    let mut gram = Array2::zeros((width, width));
    // Panels one after another, so that each is converted to f64 once.
    for first in (0..rows.rows).step_by(PANEL_ROWS) {
        let panel = to_f64(rows, first..rows.rows.min(first + PANEL_ROWS), mean);
        gram.axis_chunks_iter_mut(Axis(0), GRAM_ROWS)
            .enumerate()
            .collect::<Vec<_>>()
            .into_par_iter()
            .for_each(|(block, mut part)| {
                let start = block * GRAM_ROWS;
                let columns = panel.slice_axis(Axis(1), Slice::from(start..start + part.nrows()));
                general_mat_mul(1.0, &columns.t(), &panel, 1.0, &mut part);
            });
    }
    gram
}

/// Some rows minus `mean`, in f64.
fn to_f64(rows: &Matrix, range: std::ops::Range<usize>, mean: &[f64]) -> Array2<f64> {
    let values = &rows.values[range.start * rows.width..range.end * rows.width];
    let view = ArrayView2::from_shape((range.len(), rows.width), values).expect("whole rows");
    let mut wide = view.mapv(f64::from);
    for mut row in wide.rows_mut() {
        row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, features, relative_error};

    fn config() -> Diagnostics {
        Diagnostics {
            set: Split::Test,
            records: 25_600,
            seed: 0,
            uniformity_t: 2.0,
        }
    }

    fn scores_of(rows: &Features, config: &Diagnostics) -> Vec<Score> {
        let mut events = vec![];
        let mut progress = |event: Event<'_>| events.push((event.done, event.total));
        let scores = diagnostics(config, rows, &mut progress).unwrap();
        assert_eq!(events, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        scores
    }

    #[test]
    fn four_directions_by_hand() {
        // The four unit vectors of two axes: both singular values are equal, and two of three pairs are
        // orthogonal.
        let rows = features(2, vec![1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0], vec![0; 4]);
        let unlabeled = Features { labels: None, ..rows };
        let scores = scores_of(&unlabeled, &config());
        let value = |metric: &str| scores.iter().find(|score| score.metric == metric).unwrap().value;
        assert!((value("rankme") - 2.0).abs() < 1e-5);
        let uniformity = (4.0 / 6.0 * (-4f64).exp() + 2.0 / 6.0 * (-8f64).exp()).ln();
        assert!((value("uniformity") - uniformity).abs() < 1e-6);
        // Each column holds 1, -1, 0, 0: deviation sqrt(1/2), times sqrt(2).
        assert!((value("deviation") - 1.0).abs() < 1e-12);
        assert_eq!(value("components_99"), 2.0);
        assert!(scores[0].headline && scores[0].details["records_used"] == 4);
        assert_eq!(scores[3].details["components_90"], 2);
    }

    #[test]
    fn collapse_shows() {
        let scores = scores_of(&features(3, vec![0.5; 30], vec![0; 10]), &config());
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        assert!((values[0] - 1.0).abs() < 1e-4, "one direction: {values:?}");
        assert!(values[1].abs() < 1e-6 && values[2].abs() < 1e-6);
        let scores = scores_of(&features(3, vec![0.0; 30], vec![0; 10]), &config());
        assert!(scores.iter().all(|score| score.value.is_finite()));
    }

    #[test]
    fn records_are_drawn_where_there_are_more() {
        let value = |index: usize| (index * 7919 % 1009) as f32 / 1009.0;
        let rows = features(4, (0..400).map(value).collect(), vec![0; 100]);
        let few = Diagnostics {
            records: 30,
            ..config()
        };
        let scores = scores_of(&rows, &few);
        assert_eq!(scores[0].details["records_used"], 30);
        assert_eq!(scores_of(&rows, &few), scores);
        assert_ne!(scores_of(&rows, &Diagnostics { seed: 1, ..few }), scores);
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (NumPy 2).
    #[test]
    fn numbers_are_those_of_numpy() {
        let fixture = Fixture(include_bytes!("../../fixtures/diagnostics.safetensors"));
        for name in ["tall", "wide"] {
            let rows = fixture.matrix(name);
            let records = rows.rows;
            let scores = scores_of(&features(rows.width, rows.values, vec![0; records]), &config());
            let reference = fixture.values(&format!("{name}_scores"));
            for (score, reference) in scores.iter().zip(reference) {
                assert!(
                    (score.value - reference).abs() < 1e-6 * reference.abs().max(1.0),
                    "{name}, {}: {} {reference}",
                    score.metric,
                    score.value
                );
            }
            let spectrum: Vec<f64> = serde_json::from_value(scores[3].details["spectrum"].clone()).unwrap();
            let error = relative_error(spectrum, &fixture.values(&format!("{name}_spectrum")));
            assert!(error < 1e-9, "{name}: spectrum off by {error:e}");
            let deviations: Vec<f64> =
                serde_json::from_value(scores[2].details["unit_deviations"].clone()).unwrap();
            let error = relative_error(deviations, &fixture.values(&format!("{name}_deviations")));
            assert!(error < 1e-6, "{name}: deviations off by {error:e}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let refused = |rows: &Features| diagnostics(&config(), rows, &mut |_| {}).unwrap_err().to_string();
        assert!(refused(&features(1, vec![], vec![])).contains("the test set gave no features"));
        assert_eq!(
            refused(&features(1, vec![1.0], vec![0])),
            "the test set must have at least 2 records, got 1"
        );
        assert!(refused(&features(1, vec![1.0, f32::NAN], vec![0, 0])).contains("row 1"));
        assert!(
            Diagnostics {
                records: 1,
                ..config()
            }
            .validate("protocols.0.x")
            .unwrap_err()
            .contains("records")
        );
        assert!(
            Diagnostics {
                uniformity_t: 0.0,
                ..config()
            }
            .validate("protocols.0.x")
            .unwrap_err()
            .contains("uniformity_t")
        );
    }
}
