//! Values of the signals against `scripts/parity/watch.py`, and what a checkpoint keeps of them.

use super::*;
use crate::optimizer::gradient_norm;
use crate::wave::wave;
use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use serde_json::Value;

fn u(number: usize, count: usize) -> Vec<f32> {
    wave(number, count)
        .into_iter()
        .map(|value| value as f32)
        .collect()
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../fixtures/watch.json")).unwrap()
}

fn close(found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() <= tolerance * expected.abs(),
        "{found}, expected {expected}"
    );
}

fn matrix(values: Vec<f32>, rows: usize) -> Tensor<2> {
    let width = values.len() / rows;
    Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
}

/// The embeddings of the script's case.
fn embeddings(case: usize, [rows, width, directions]: [usize; 3]) -> Vec<f32> {
    if directions == rows.min(width) {
        return u(10 * case + 1, rows * width);
    }
    let (left, right) = (
        u(10 * case + 1, rows * directions),
        u(10 * case + 2, directions * width),
    );
    let offset = if directions == 1 { 5.0 } else { 0.0 };
    let product = |at: usize| {
        let (row, column) = (at / width, at % width);
        let terms = (0..directions)
            .map(|k| f64::from(left[row * directions + k]) * f64::from(right[k * width + column]));
        (terms.sum::<f64>() + offset) as f32
    };
    (0..rows * width).map(product).collect()
}

fn watched(embeddings: Option<Tensor<2>>, assignment: Option<Tensor<2>>) -> Watched {
    Watched {
        embeddings,
        assignment,
    }
}

#[test]
fn rank_and_spread_are_numpys_and_pytorchs() {
    let fixture = fixture();
    let tolerance = fixture["tolerance"].as_f64().unwrap();
    let cases = fixture["embeddings"].as_array().unwrap();
    assert!(cases.len() >= 4);
    for (number, case) in cases.iter().enumerate() {
        let shape: [usize; 3] = serde_json::from_value(case["shape"].clone()).unwrap();
        let rows = embeddings(number, shape);
        let mut watch = Watch::default();
        watch.push(watched(Some(matrix(rows, shape[0])), None));
        let measured = watch.measure(vec![]).unwrap();
        close(measured["embedding_rank"].into(), &case["rank"], tolerance);
        close(measured["embedding_spread"].into(), &case["spread"], tolerance);
    }
}

#[test]
fn the_mean_assignment_is_averaged_over_steps() {
    let fixture = fixture();
    let case = &fixture["assignments"];
    let count = |key: &str| case[key].as_u64().unwrap() as usize;
    let (images, prototypes) = (count("images"), count("prototypes"));
    let mut watch = Watch::default();
    for step in 0..count("steps") {
        let logits = matrix(u(100 + step, images * prototypes), images) * 5.0;
        let mean = burn::tensor::activation::softmax(logits, 1).mean_dim(0);
        watch.push(watched(None, Some(mean)));
    }
    let measured = watch.measure(vec![]).unwrap();
    close(measured["mean_assignment_entropy"].into(), &case["entropy"], 1e-5);
    let used = f64::from(measured["mean_assignment_entropy"]).exp();
    assert!((f64::from(measured["prototypes_used"]) - used).abs() < 1e-5);
}

#[derive(Module, Debug)]
struct Two {
    a: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
}

#[test]
fn gradient_norm_and_distance_are_pytorchs() {
    let fixture = fixture();
    let device = Device::flex().autodiff();
    let two = |number: usize| Two {
        a: Param::from_tensor(Tensor::from_data(TensorData::new(u(number, 24), [6, 4]), &device)),
        b: Param::from_tensor(Tensor::from_data(TensorData::new(u(number + 1, 6), [6]), &device)),
    };
    let (student, gradient) = (two(200), two(220));
    let loss = (student.a.val() * gradient.a.val().detach()).sum()
        + (student.b.val() * gradient.b.val().detach()).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &student);
    let mut watch = Watch {
        gradient_norm: gradient_norm(&student, &gradients),
        ..Watch::default()
    };
    let distance = backbones::relative_distance(&student, &two(210));
    let measured = watch.measure(vec![("teacher_distance", distance)]).unwrap();
    close(
        measured["gradient_norm"].into(),
        &fixture["weights"]["gradient_norm"],
        1e-6,
    );
    close(
        measured["teacher_distance"].into(),
        &fixture["weights"]["distance"],
        1e-6,
    );
    // It is of one step.
    assert!(watch.measure(vec![]).unwrap().is_empty());
}

#[test]
fn the_newest_rows_count_and_a_checkpoint_keeps_them() {
    let push = |watch: &mut Watch, step: usize| {
        let assignment = matrix(vec![0.25, 0.75], 1);
        watch.push(watched(Some(matrix(u(step, 200 * 3), 200)), Some(assignment)));
    };
    let (mut whole, mut interrupted) = (Watch::default(), Watch::default());
    for step in 0..6 {
        push(&mut whole, step);
        if step == 3 {
            let bytes = interrupted.to_bytes().unwrap().unwrap();
            interrupted = Watch::from_bytes(&bytes, &Device::flex()).unwrap();
        }
        push(&mut interrupted, step);
        assert_eq!(
            whole.measure(vec![]).unwrap(),
            interrupted.measure(vec![]).unwrap()
        );
    }
    let rows = whole.newest().unwrap();
    assert_eq!(rows.dims(), [ROWS, 3]);
    let newest: Vec<f32> = rows.into_data().iter::<f32>().collect();
    assert_eq!(newest[(ROWS - 200) * 3..], u(5, 600));
    assert!(
        whole.embeddings.len() <= 3,
        "steps that no row is needed of are dropped"
    );
    assert!(Watch::default().to_bytes().unwrap().is_none());
    assert!(Watch::from_bytes(b"no", &Device::flex()).is_err());
}
