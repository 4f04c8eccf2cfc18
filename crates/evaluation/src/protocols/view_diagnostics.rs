//! `view-diagnostics`: label-free measures of features over several views of one image: LiDAR, the effective
//! rank of the directions that separate images but not their views, and alignment, the distance between views
//! of one image.
//!
//! LiDAR: Thilak et al., *LiDAR: sensing linear probing performance in joint embedding SSL architectures*, 2024: linear discriminant
//! analysis with each image as a class of its views. Alignment: Wang and Isola 2020, section 4.1.1.

use super::diagnostics::check_pairs;
use super::protocol::{Bench, Images, LabelsRead, Needs, Pipeline, Protocol, Scored};
use crate::error::Error;
use crate::features::{Matrix, normalize_rows};
use crate::progress::Event;
use crate::result::Score;
use crate::solvers::symmetric_eigenvalues;
use crate::split::Split;
use crate::task::Splits;
use backbones::Draws;
use backbones::draws::sample;
use data::{Dataset, Loader, LoaderConfig, Order, Transform, ViewGroup};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

const PROTOCOL: &str = "view-diagnostics";
/// LiDAR's epsilon, added to each eigenvalue's share.
const EPSILON: f64 = 1e-8;

/// Diagnostics of views.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewDiagnostics {
    /// The set of the images: `"train"` or `"test"`. Neither needs labels.
    pub set: Split,
    /// Maximum number of images; a random subset if there are more. LiDAR: 1,000.
    pub images: usize,
    /// Views per image. LiDAR: 50.
    pub views: usize,
    /// Transforms of a view: the augmentation of the pretraining.
    pub transforms: Vec<Transform>,
    /// Added to the diagonal of the covariance within images. LiDAR: 1e-4.
    pub delta: f64,
    /// Alignment's power of the distance. Wang and Isola: 2.
    pub alpha: f64,
    /// Seed of the draw and of the views.
    pub seed: u64,
}

impl Protocol for ViewDiagnostics {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.images < 2 || self.views < 2 {
            return Err(format!(
                "`{table}` needs at least 2 `images` and 2 `views`, got {} and {}",
                self.images, self.views
            ));
        }
        for (name, value) in [("delta", self.delta), ("alpha", self.alpha)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!(
                    "`{table}.{name}` must be finite and above 0, got {value}"
                ));
            }
        }
        self.view_group()
            .validate_at(&format!("{table}.views"), &format!("{table}.transforms"))
    }

    fn needs(&self) -> Needs<'_> {
        Needs {
            train_features: false,
            images: Some(Images {
                key: "transforms",
                transforms: &self.transforms,
                // No classifier trains on its views.
                trains: false,
            }),
            ..Needs::features(LabelsRead::None)
        }
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check_pairs(self.set, splits.of(self.set).records())
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        Ok(Scored::new(view_diagnostics(self, bench)?, 0))
    }
}

impl ViewDiagnostics {
    fn view_group(&self) -> ViewGroup {
        ViewGroup {
            count: self.views,
            transforms: self.transforms.clone(),
        }
    }
}

/// LiDAR and alignment of an encoder's pooled features.
///
/// # Errors
/// Fewer than two images, unreadable data, NaN or infinite features.
fn view_diagnostics(config: &ViewDiagnostics, bench: &mut Bench<'_>) -> Result<Vec<Score>, Error> {
    let pipeline = bench.pipeline(PROTOCOL)?;
    let Pipeline { encoder, data, .. } = pipeline;
    let dataset = match config.set {
        Split::Train => pipeline.train,
        Split::Test => pipeline.test,
    };
    let set = config.set.name();
    let mut positions: Vec<u32> = (0..dataset.len() as u32).collect();
    if positions.len() > config.images {
        let mut rng = Draws::new(config.seed, 0).rng("view_diagnostics.images", 0);
        positions = sample(&mut rng, positions.len(), config.images)
            .into_iter()
            .map(|position| position as u32)
            .collect();
        positions.sort_unstable();
    }
    check_pairs(config.set, positions.len())?;
    let total = positions.len();
    let part = Arc::new(Dataset::part(dataset, positions)?);
    let loader = Loader::new(
        Arc::clone(&part),
        vec![config.view_group()],
        LoaderConfig {
            batch_images: (data.batch_images / config.views).clamp(1, total),
            ..*data
        },
        Order::Sequential,
        config.seed,
    )?;
    // Image by image, and within it view by view.
    let (mut values, mut width, mut images) = (vec![], 0, 0);
    for batch in loader.batches(0, loader.batches_per_epoch()) {
        for views in batch?.views {
            let count = views.images;
            let features = encoder.forward(encoder.normalize.tensor(views, bench.device));
            width = features.dims()[1];
            let features: Vec<f32> = features.into_data().try_into_vec().expect("backbones return f32");
            for image in 0..count {
                for view in 0..config.views {
                    let row = view * count + image;
                    values.extend_from_slice(&features[row * width..(row + 1) * width]);
                }
            }
            images += count;
        }
        (bench.progress)(Event {
            stage: PROTOCOL,
            done: images,
            total,
            unit: "images",
        });
    }
    let rows = Matrix::new(images * config.views, width, values);
    if let Some(row) = rows.first_not_finite() {
        let key = part.key((row / config.views).min(part.len() - 1))?;
        return Err(Error::NotFinite { set, row, key });
    }
    let score = |metric, value| Score {
        metric,
        value,
        headline: metric == "lidar",
        spread: None,
        details: serde_json::Map::from_iter([("images_used".to_string(), json!(images))]),
    };
    Ok(vec![
        score("lidar", lidar(&rows, config.views, config.delta)),
        score("alignment", alignment(rows, config.views, config.alpha)),
    ])
}

/// The exponential of the entropy of the shares of the eigenvalues of `W^(-1/2) B W^(-1/2)`. `B` is the
/// covariance of the images' means; `W` is that of views around their image's mean, plus `delta` on its
/// diagonal. Rows are ordered by image, `views` each.
fn lidar(rows: &Matrix, views: usize, delta: f64) -> f64 {
    let (images, width) = (rows.rows / views, rows.width);
    let values: Vec<f64> = rows.values.iter().map(|value| f64::from(*value)).collect();
    let Ok(values) = ArrayView2::from_shape((rows.rows, width), &values) else {
        return f64::NAN;
    };
    let mut means = Array2::zeros((images, width));
    let mut within = Array2::zeros((width, width));
    for (image, views) in values.axis_chunks_iter(Axis(0), views).enumerate() {
        let mean: Array1<f64> = views.sum_axis(Axis(0)) / views.nrows() as f64;
        let apart = &views - &mean;
        within = within + apart.t().dot(&apart);
        means.row_mut(image).assign(&mean);
    }
    within /= rows.rows as f64;
    within.diag_mut().mapv_inplace(|value| value + delta);
    let mean = means.sum_axis(Axis(0)) / images as f64;
    let apart = &means - &mean;
    let between = apart.t().dot(&apart) / images as f64;
    // With W = L L', L^-1 B L^-T has the same eigenvalues.
    let lower = cholesky(within);
    let half = forward_substituted(&lower, between);
    let whole = forward_substituted(&lower, half.t().to_owned());
    let symmetric = (&whole + &whole.t()) * 0.5;
    let eigenvalues: Vec<f64> = symmetric_eigenvalues(symmetric)
        .into_iter()
        .map(|value| value.max(0.0))
        .collect();
    let sum = eigenvalues.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let entropy: f64 = eigenvalues
        .iter()
        .map(|value| {
            let share = value / sum + EPSILON;
            -share * share.ln()
        })
        .sum();
    entropy.exp()
}

/// The first entries of a row. (The slicing macro uses `unsafe`, which is forbidden here.)
fn first(row: ArrayView1<'_, f64>, count: usize) -> ArrayView1<'_, f64> {
    row.split_at(Axis(0), count).0
}

/// The lower triangular L with L L' = `matrix`, which is positive definite.
fn cholesky(mut matrix: Array2<f64>) -> Array2<f64> {
    let size = matrix.nrows();
    for column in 0..size {
        for row in column..size {
            let known = first(matrix.row(row), column).dot(&first(matrix.row(column), column));
            let rest = matrix[[row, column]] - known;
            matrix[[row, column]] = match row == column {
                true => rest.max(f64::MIN_POSITIVE).sqrt(),
                false => rest / matrix[[column, column]],
            };
        }
        for later in column + 1..size {
            matrix[[column, later]] = 0.0;
        }
    }
    matrix
}

/// L^-1 times a matrix.
fn forward_substituted(lower: &Array2<f64>, mut right: Array2<f64>) -> Array2<f64> {
    for row in 0..lower.nrows() {
        let (done, mut rest) = right.view_mut().split_at(Axis(0), row);
        let known = first(lower.row(row), row).dot(&done);
        let mut own = rest.row_mut(0);
        own -= &known;
        own /= lower[[row, row]];
    }
    right
}

/// The mean, over images and pairs of their views, of the distance to the power `alpha` between L2-normalized
/// features; lower means closer.
fn alignment(mut rows: Matrix, views: usize, alpha: f64) -> f64 {
    normalize_rows(&mut rows);
    let (mut sum, mut pairs) = (0.0, 0usize);
    for image in 0..rows.rows / views {
        for first in 0..views {
            for second in first + 1..views {
                let (a, b) = (rows.row(image * views + first), rows.row(image * views + second));
                let square: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                sum += square.powf(0.5 * alpha);
                pairs += 1;
            }
        }
    }
    sum / pairs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Encoder;
    use crate::features::{Features, Records};
    use crate::testing::{DATA, NORMALIZE, backbone, bench_on, resize};
    use burn::tensor::Device;
    use serde::Deserialize;

    /// Results of NumPy and SciPy: `scripts/parity/view_diagnostics.py`.
    #[derive(Deserialize)]
    struct Reference {
        views: usize,
        width: usize,
        rows: Vec<f32>,
        delta: f64,
        lidar: f64,
        alignment: f64,
    }

    fn config() -> ViewDiagnostics {
        ViewDiagnostics {
            set: Split::Test,
            images: 10,
            views: 3,
            transforms: vec![
                Transform::ResizeExact {
                    width_px: 8,
                    height_px: 8,
                    filter: data::Filter::Bilinear,
                },
                Transform::HorizontalFlip { probability: 0.5 },
            ],
            delta: 1e-4,
            alpha: 2.0,
            seed: 0,
        }
    }

    #[test]
    fn numbers_are_numpys() {
        let text = include_str!("../../fixtures/view_diagnostics.json");
        for reference in serde_json::from_str::<Vec<Reference>>(text).unwrap() {
            let rows = Matrix::new(
                reference.rows.len() / reference.width,
                reference.width,
                reference.rows,
            );
            let ours = lidar(&rows, reference.views, reference.delta);
            assert!(
                (ours / reference.lidar - 1.0).abs() < 1e-6,
                "{ours}, {}",
                reference.lidar
            );
            let ours = alignment(rows, reference.views, 2.0);
            assert!(
                (ours / reference.alignment - 1.0).abs() < 1e-5,
                "{ours}, {}",
                reference.alignment
            );
        }
    }

    #[test]
    fn views_of_an_encoder_are_compared() {
        let device = Device::flex();
        let encoder = Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
        let run = |config: &ViewDiagnostics, records| {
            let records = Records::from(Dataset::synthetic(records, 12, 10, 0, 7));
            let pipeline = Pipeline {
                encoder: &encoder,
                train: &records,
                test: &records,
                test_transforms: &resize(8),
                data: &DATA,
            };
            let features = Features::default();
            config.run(&mut bench_on(pipeline, &features, &device, &mut |_| {}))
        };
        let scores = run(&config(), 20).unwrap().scores;
        assert_eq!(scores[0].details["images_used"], 10);
        assert!(scores[0].value > 1.0 && scores[1].value > 0.0, "{scores:?}");
        // Deterministic transforms, so views do not differ.
        let mut still = config();
        still.transforms.pop();
        assert!(run(&still, 20).unwrap().scores[1].value < 1e-9);
        let error = run(&config(), 1).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the test set must have at least 2 records"),
            "{error}"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |change: fn(&mut ViewDiagnostics)| {
            let mut config = config();
            change(&mut config);
            config.validate("protocols.0.x").unwrap_err()
        };
        assert!(refused(|config| config.views = 1).contains("`views`"));
        assert!(refused(|config| config.delta = 0.0).contains("delta"));
        assert!(config().validate("protocols.0.x").is_ok());
    }
}
