//! The protocols compared with scikit-learn and PyTorch on the same features; `scripts/parity/evaluation.py`
//! made the fixture (scikit-learn 1.9.1, PyTorch 2.15).

use crate::encoder::POOLED;
use crate::features::{Features, Matrix, Scaling};
use crate::protocols::{linear_cached, logistic};
use crate::solvers::{nearest, rank_among_votes, softmax};
use crate::task::Task;
use crate::testing::{Fixture, features, relative_error};
use backbones::init::trained;
use backbones::layers::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use training::{OptimizerConfig, ScheduleConfig};

const FIXTURE: Fixture = Fixture(include_bytes!("../../fixtures/parity.safetensors"));

fn values(name: &str) -> Vec<f64> {
    FIXTURE.values(name)
}

fn floats(name: &str) -> Vec<f32> {
    values(name).into_iter().map(|value| value as f32).collect()
}

fn set(name: &str) -> Features {
    let labels = values(&format!("{name}_labels"))
        .into_iter()
        .map(|label| label as i64)
        .collect();
    features(12, floats(name), labels)
}

#[test]
fn neighbors_and_votes_are_those_of_scikit_learn() {
    let (train, test) = (set("train"), set("test"));
    let task = Task::new(&train, &test, POOLED).unwrap();
    for (name, count, temperature) in [
        ("dino_10", 10, 0.07),
        ("dino_20", 20, 0.07),
        ("vissl_200", 200, 0.1),
    ] {
        let found = nearest(&task.train, &task.test, count, &Device::flex());
        if count == 10 {
            let rows: Vec<f64> = found
                .iter()
                .flatten()
                .map(|neighbor| f64::from(neighbor.row))
                .collect();
            assert_eq!(rows, values("neighbors_10"));
        }
        // The rank of every class: the whole prediction, best first.
        for (query, predicted) in values(&format!("knn_{name}")).chunks_exact(5).enumerate() {
            for (rank, class) in predicted.iter().enumerate().filter(|(_, class)| **class >= 0.0) {
                let ours = rank_among_votes(&found[query], &task.train_classes, *class as u32, temperature);
                assert_eq!(ours as usize, rank, "{name}, test record {query}, class {class}");
            }
        }
    }
}

#[test]
fn the_logistic_optimum_is_that_of_scikit_learn() {
    let (train, test) = (set("train"), set("test"));
    let task = Task::new(&train, &test, POOLED)
        .unwrap()
        .scaled(Scaling::Standardize);
    // Two classes are a different model in scikit-learn, so the first two are fitted alone.
    let part = |rows: &Matrix, labels: &[u32], classes: usize| {
        let kept: Vec<usize> = (0..rows.rows)
            .filter(|row| (labels[*row] as usize) < classes)
            .collect();
        (
            rows.select(&kept),
            kept.iter().map(|row| labels[*row]).collect::<Vec<u32>>(),
        )
    };
    for (name, classes) in [("seven", 7), ("pair", 2)] {
        let (rows, labels) = part(&task.train, &task.train_classes, classes);
        let (queries, _) = part(&task.test, &task.test_classes, classes);
        for c in [0.01, 1.0, 100.0] {
            let config = logistic::LogisticRegression {
                scaling: Scaling::None,
                strength: logistic::Strength::Fixed(c),
                tolerance: 1e-10,
                max_iterations: 100_000,
            };
            let fit = logistic::fit(&rows, &labels, classes, c, &config, None);
            assert!(fit.converged, "{name}, C {c}: {} iterations", fit.iterations);
            let stored = |what: &str| values(&format!("logistic_{name}_{c}_{what}"));

            let objective = fit.value * c * rows.rows as f64;
            let reference = stored("objective")[0];
            assert!(
                (objective / reference - 1.0).abs() < 1e-8,
                "{name}, C {c}: {objective} {reference}"
            );

            let weights = &fit.point[..classes * 12];
            let error = if classes == 2 {
                // scikit-learn's one vector is the difference of our two.
                let (zero, one) = weights.split_at(12);
                relative_error(
                    one.iter().zip(zero).map(|(one, zero)| one - zero),
                    &stored("weight"),
                )
            } else {
                relative_error(weights.iter().copied(), &stored("weight"))
            };
            assert!(error < 1e-5, "{name}, C {c}: weights off by {error:e}");

            let predicted: Vec<u32> = stored("predicted")
                .into_iter()
                .map(|class| class as u32)
                .collect();
            let ranks = softmax::ranks(&fit.point, &queries, &predicted, classes);
            assert!(
                ranks.iter().all(|rank| *rank == 0),
                "{name}, C {c}: another class is predicted"
            );
        }
    }
}

#[test]
fn sgd_on_stored_features_is_that_of_pytorch() {
    let (train, test) = (set("train"), set("test"));
    let task = Task::new(&train, &test, POOLED)
        .unwrap()
        .scaled(Scaling::Standardize);
    let device = Device::flex();
    let steps = ScheduleConfig::Steps {
        milestones_epochs: vec![2, 4],
        factor: 0.1,
    };
    for (name, nesterov, weight_decay, schedule) in [
        (
            "cosine",
            false,
            1e-3,
            ScheduleConfig::CosinePerEpoch {
                warmup: None,
                end_learning_rate: None,
            },
        ),
        ("steps", true, 0.0, steps),
    ] {
        let config = linear_cached::LinearCached {
            scaling: Scaling::None,
            batch_records: 64,
            epochs: 6,
            // 0.5 for batches of 64.
            optimizer: OptimizerConfig::Sgd {
                learning_rate_per_256: 2.0,
                momentum: 0.9,
                weight_decay,
                nesterov,
            },
            schedule,
            seeds: vec![0],
        };
        let mut head = linear_cached::head(&config, &task, 0, &device);
        let start = TensorData::new(floats(&format!("sgd_{name}_start")), [7, 12]);
        head.classifier.layer.weight = trained(Tensor::from_data(start, &device.clone().autodiff()));
        let order = values(&format!("sgd_{name}_order"));
        let order = |epoch: usize| {
            order[epoch * 300..][..300]
                .iter()
                .map(|row| *row as usize)
                .collect()
        };
        linear_cached::train(&mut head, &config, &task, order, &device, &mut |_| {}).unwrap();

        let Linear { weight, bias, .. } = head.trained().layer;
        let weight = relative_error(
            weight.val().into_data().iter::<f64>(),
            &values(&format!("sgd_{name}_weight")),
        );
        let bias = relative_error(
            bias.unwrap().val().into_data().iter::<f64>(),
            &values(&format!("sgd_{name}_bias")),
        );
        assert!(
            weight < 1e-4 && bias < 1e-4,
            "{name}: weight off by {weight:e}, bias by {bias:e}"
        );
        eprintln!("linear_cached beside PyTorch, {name}: weight off by {weight:.1e}, bias by {bias:.1e}");
    }
}
