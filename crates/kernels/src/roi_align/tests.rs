//! Numbers by hand, the two implementations beside each other, and the gradient as the transpose.

use super::*;
use burn::tensor::Device;

fn settings(output: usize, sampling_ratio: usize, aligned: bool) -> RoiAlign {
    RoiAlign {
        scale: 1.0,
        output,
        sampling_ratio,
        aligned,
    }
}

fn roi(image: usize, edges: [f32; 4]) -> Roi {
    Roi { image, edges }
}

/// A map whose value at (y, x) is `5 y + x`, of 5 × 5.
fn ramp() -> Vec<f32> {
    (0..25u8).map(f32::from).collect()
}

fn pooled(map: &[f32], size: [usize; 2], edges: [f32; 4], settings: &RoiAlign) -> Vec<f32> {
    Plan::new([1, 1, size[0], size[1]], &[roi(0, edges)], settings).forward(map)
}

#[test]
fn samples_are_averaged_over_bins() {
    // Side 2 in four bins of 0.5; ratio 0 takes one sample each, at 1.25, 1.75, 2.25, 2.75: 5 · 1.25 + 1.25 = 7.5.
    let rows = |first: f32| (0..16).map(move |i| first + 2.5 * (i / 4) as f32 + 0.5 * (i % 4) as f32);
    let at = |aligned| pooled(&ramp(), [5, 5], [1.0, 1.0, 3.0, 3.0], &settings(4, 0, aligned));
    assert_eq!(at(false), rows(7.5).collect::<Vec<_>>());
    assert_eq!(at(true), rows(4.5).collect::<Vec<_>>());
    // Beyond the border: rows and columns 3.625 and 4.875 (that of 4, the last), then 6.1, outside.
    let beyond = pooled(&ramp(), [5, 5], [3.0, 3.0, 8.0, 8.0], &settings(2, 2, false));
    assert_eq!(beyond, [22.875, 0.0, 0.0, 0.0]);
    let beyond = pooled(&ramp(), [5, 5], [3.0, 3.0, 8.0, 8.0], &settings(2, 2, true));
    assert_eq!(beyond, [21.375, 0.0, 0.0, 0.0]);
}

/// One bin and one sample, at the middle of a box of side 2 · ε around a place.
#[test]
fn a_sample_is_zero_only_beyond_one_position() {
    let column = [3.0, 5.0];
    let at = |y: f32| {
        let edges = [0.0, y - 0.25, 0.0, y + 0.25];
        let thin = RoiAlign {
            output: 1,
            ..settings(1, 1, true)
        };
        // `aligned` moves both axes by half a position back.
        let moved = edges.map(|edge| edge + 0.5);
        pooled(&column, [2, 1], moved, &thin)[0]
    };
    for (y, value) in [
        (-1.25, 0.0),
        (-1.0, 3.0),
        (-0.5, 3.0),
        (0.0, 3.0),
        (0.5, 4.0),
        (1.0, 5.0),
        (1.5, 5.0),
        (2.0, 5.0),
        (2.25, 0.0),
    ] {
        assert_eq!(at(y), value, "at {y}");
    }
}

#[test]
fn regions_without_extent_and_of_nan_give_finite_values() {
    let thin = pooled(&ramp(), [5, 5], [2.0, 2.0, 2.0, 2.0], &settings(1, 0, false));
    // Not aligned: at least one position wide, so its middle is (2.5, 2.5).
    assert_eq!(thin, [15.0]);
    let empty = pooled(&ramp(), [5, 5], [2.0, 2.0, 2.0, 2.0], &settings(1, 0, true));
    assert_eq!(empty, [0.0]);
    let turned = pooled(&ramp(), [5, 5], [3.0, 3.0, 1.0, 1.0], &settings(2, 0, true));
    assert_eq!(turned, [0.0; 4]);
    for aligned in [false, true] {
        let nan = pooled(&ramp(), [5, 5], [f32::NAN; 4], &settings(2, 2, aligned));
        assert_eq!(nan, [0.0; 4]);
    }
}

fn wave(count: usize, rate: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * rate).sin()).collect()
}

/// Boxes inside, over each border, outside, thin and larger than the map, in both images, not sorted by image.
fn many() -> Vec<Roi> {
    let edges = [
        [1.3, 2.1, 19.7, 12.4],
        [-6.0, -3.0, 4.0, 7.5],
        [20.0, 10.0, 60.0, 50.0],
        [100.0, 3.0, 120.0, 9.0],
        [5.0, 5.0, 5.2, 20.0],
        [-50.0, -50.0, 90.0, 90.0],
        [0.0, 0.0, 26.0, 18.0],
    ];
    let both = edges.iter().enumerate();
    both.map(|(index, edges)| roi(index % 2, *edges)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn products_and_loops_agree_in_both_directions() {
    let device = Device::flex().autodiff();
    let shape = [2, 3, 9, 13];
    let x = wave(2 * 3 * 9 * 13, 0.37);
    for (ratio, aligned) in [(2, false), (0, false), (2, true), (0, true)] {
        let settings = RoiAlign {
            scale: 0.5,
            ..settings(3, ratio, aligned)
        };
        let plan = Plan::new(shape, &many(), &settings);
        let leaf = || Tensor::<4>::from_data(TensorData::new(x.clone(), shape), &device).require_grad();
        let weights = wave(7 * 3 * 9, 0.91);
        let factor = Tensor::<4>::from_data(TensorData::new(weights.clone(), [7, 3, 3, 3]), &device);
        let both = |x: Tensor<4>, pooled: Tensor<4>| {
            let gradients = (pooled.clone() * factor.clone()).sum().backward();
            let of_x = x.grad(&gradients).unwrap();
            let values = |tensor: Tensor<4>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
            (values(pooled.inner()), values(of_x))
        };
        let (a, b) = (leaf(), leaf());
        let native = both(a.clone(), crate::roi_align(a, &many(), &settings));
        let composed = both(b.clone(), plan.composed(b));
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart(&native.0, &composed.0) < 1e-6 && apart(&native.1, &composed.1) < 1e-6);
        // The operation is linear: <pool(x), g> = <x, poolᵀ(g)>. So is its finite difference.
        let (left, right) = (dot(&native.0, &weights), dot(&x, &native.1));
        assert!((left - right).abs() < 1e-5, "{left} {right}");
        assert!(native.1.iter().any(|value| *value != 0.0));
    }
}

#[test]
fn a_plane_on_the_host_is_pooled_alike() {
    let mask: Vec<u8> = (0..9 * 13).map(|i| u8::from(i % 5 < 2)).collect();
    let map: Vec<f32> = mask.iter().map(|value| f32::from(*value)).collect();
    let settings = settings(7, 0, false);
    for roi in many() {
        let own = crate::roi_align_plane(&mask, [9, 13], roi.edges, &settings);
        let other = pooled(&map, [9, 13], roi.edges, &settings);
        let apart = own.iter().zip(&other).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-6);
    }
}

#[test]
#[should_panic(expected = "0 regions cannot be pooled")]
fn no_regions_are_the_callers_case() {
    crate::roi_align(
        Tensor::zeros([1, 1, 2, 2], &Device::flex()),
        &[],
        &settings(1, 1, true),
    );
}
