//! Patch positions: sine–cosine embeddings, and embeddings interpolated to another grid.

use burn::tensor::{Device, Tensor, TensorData};

use super::Interpolation;

/// Fixed embeddings of a grid's positions: `[rows·columns, width]`, row by row.
///
/// Chen, Xie, He, *An empirical study of training self-supervised vision transformers* (MoCo-v3), 2021, §4.1:
/// a quarter of the channels each for the sine and the cosine of the row, then of the column, at frequencies
/// 10000^(−4i / width). (In MAE the column comes first.)
pub(super) fn sine_cosine(width: usize, rows: usize, columns: usize) -> Vec<f32> {
    let quarter = width / 4;
    let frequencies: Vec<f64> = (0..quarter)
        .map(|i| 10_000f64.powf(-(i as f64) / quarter as f64))
        .collect();
    let wave = |place: usize, wave: fn(f64) -> f64| {
        frequencies
            .iter()
            .map(move |frequency| wave(place as f64 * frequency) as f32)
    };
    (0..rows * columns)
        .flat_map(|place| {
            let (row, column) = (place / columns, place % columns);
            wave(row, f64::sin)
                .chain(wave(row, f64::cos))
                .chain(wave(column, f64::sin))
                .chain(wave(column, f64::cos))
        })
        .collect()
}

/// Embeddings of a square grid interpolated to another grid, as two products with fixed matrices, so that
/// gradients pass.
///
/// # Shapes
/// - `positions`: `[1, from·from, width]`
/// - output: `[1, rows·columns, width]`
pub(super) fn interpolate(
    positions: Tensor<3>,
    from: usize,
    [rows, columns]: [usize; 2],
    how: Interpolation,
) -> Tensor<3> {
    let width = positions.dims()[2];
    let device = positions.device();
    let over_rows = matrix(from, rows, how, &device).matmul(positions.reshape([from, from * width]));
    matrix(from, columns, how, &device)
        .unsqueeze::<3>()
        .matmul(over_rows.reshape([rows, from, width]))
        .reshape([1, rows * columns, width])
}

/// The same on the host, for weights that are stored anew: `[from·from, width]` to `[to·to, width]`, row by row.
pub(crate) fn interpolated(
    positions: &[f32],
    width: usize,
    [from, to]: [usize; 2],
    how: Interpolation,
) -> Vec<f32> {
    let weights = weights(from, to, how);
    // One side: `count` blocks of `from` rows of `length` values.
    let along = |values: &[f64], count: usize, length: usize| {
        let mut sums = vec![0.0; count * to * length];
        for block in 0..count {
            for (place, row) in weights.chunks_exact(from).enumerate() {
                let start = (block * to + place) * length;
                let sum = &mut sums[start..start + length];
                for (index, weight) in row.iter().enumerate() {
                    let start = (block * from + index) * length;
                    let values = &values[start..start + length];
                    sum.iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += weight * value);
                }
            }
        }
        sums
    };
    let values: Vec<f64> = positions.iter().map(|value| f64::from(*value)).collect();
    let over_rows = along(&values, 1, from * width);
    let all = along(&over_rows, to, width);
    all.into_iter().map(|value| value as f32).collect()
}

fn matrix(from: usize, to: usize, how: Interpolation, device: &Device) -> Tensor<2> {
    let weights = weights(from, to, how).into_iter().map(|w| w as f32);
    Tensor::from_data(TensorData::new(weights.collect::<Vec<_>>(), [to, from]), device)
}

/// The share of each old position in each new one along one side, `[to, from]`.
pub(super) fn weights(from: usize, to: usize, how: Interpolation) -> Vec<f64> {
    match how {
        Interpolation::Antialiased => antialiased(from, to),
        Interpolation::Offset => offset(from, to),
        Interpolation::Bicubic => bicubic(from, to),
        Interpolation::AlignedCorners => aligned_corners(from, to),
    }
}

/// The matrix that doubles a side, for tests of patches: `[2·from, from]`.
#[cfg(test)]
pub(crate) fn enlarged(from: usize) -> Vec<f64> {
    weights(from, 2 * from, Interpolation::Antialiased)
}

/// Keys' cubic convolution kernel (1981, eq. 4), its support ±2.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// PyTorch's `interpolate(size=…, mode="bicubic", antialias=True)` along one side, `[to, from]`: a = −0.5,
/// the kernel widened for smaller grids, and positions outside excluded from the mean.
fn antialiased(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let mut weights = vec![0.0; to * from];
    for (place, row) in weights.chunks_exact_mut(from).enumerate() {
        let center = scale * (place as f64 + 0.5);
        let first = (center - 2.0 * widening + 0.5).max(0.0) as usize;
        let end = ((center + 2.0 * widening + 0.5) as usize).min(from);
        for (index, weight) in row.iter_mut().enumerate().take(end).skip(first) {
            *weight = cubic((index as f64 - center + 0.5) / widening, -0.5);
        }
        let total = row.iter().sum::<f64>();
        row.iter_mut().for_each(|weight| *weight /= total);
    }
    weights
}

/// PyTorch's `interpolate(scale_factor=(to + 0.1) / from, mode="bicubic")` along one side, `[to, from]`. DINO
/// added the tenth so that rounding never makes the size too small. It shifts every position a little, and
/// weights trained or published with it need it again.
fn offset(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / (to as f64 + 0.1);
    sampled(from, to, |place| scale * (place + 0.5) - 0.5)
}

/// PyTorch's `interpolate(size=…, mode="bicubic")` along one side, `[to, from]`.
fn bicubic(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    sampled(from, to, |place| scale * (place + 0.5) - 0.5)
}

/// PyTorch's `interpolate(size=…, mode="bicubic", align_corners=True)` along one side, `[to, from]`.
fn aligned_corners(from: usize, to: usize) -> Vec<f64> {
    let scale = match to {
        1 => 0.0,
        _ => (from - 1) as f64 / (to - 1) as f64,
    };
    sampled(from, to, |place| scale * place)
}

/// Samples at `source`, which maps each new position to the old grid: a = −0.75, the kernel at its original
/// width, and the border repeated.
fn sampled(from: usize, to: usize, source: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut weights = vec![0.0; to * from];
    for (place, row) in weights.chunks_exact_mut(from).enumerate() {
        let source = source(place as f64);
        let first = source.floor();
        for tap in -1..=2 {
            let index = first + f64::from(tap);
            let inside = index.clamp(0.0, (from - 1) as f64) as usize;
            row[inside] += cubic(source - index, -0.75);
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(ours: &[f64], wanted: &[f64], bound: f64) {
        assert_eq!(ours.len(), wanted.len());
        for (a, b) in ours.iter().zip(wanted) {
            assert!((a - b).abs() <= bound, "{ours:?}");
        }
    }

    #[test]
    fn rows_of_the_matrices_are_means() {
        for (from, to) in [(14, 6), (14, 10), (14, 18), (37, 16), (3, 7), (1, 4), (5, 1)] {
            for weights in [antialiased, offset, bicubic, aligned_corners].map(|make| make(from, to)) {
                assert_eq!(weights.len(), to * from);
                for row in weights.chunks_exact(from) {
                    close(&[row.iter().sum()], &[1.0], 1e-12);
                }
            }
        }
    }

    #[test]
    fn the_same_grid_is_the_identity_but_for_dinos_tenth() {
        let identity = (0..25)
            .map(|i| f64::from(u8::from(i % 6 == 0)))
            .collect::<Vec<_>>();
        for make in [antialiased, bicubic, aligned_corners] {
            close(&make(5, 5), &identity, 1e-15);
        }
        let moved = offset(5, 5);
        assert!(moved[0] > 0.9 && moved[0] != 1.0);
    }

    /// When doubled, an antialiased position is off by a quarter: cubic(¼), cubic(¾), cubic(1¼), cubic(1¾) at
    /// a = −½ are 111/128, 29/128, −9/128 and −3/128.
    #[test]
    fn an_enlarged_grid_has_the_kernels_values() {
        let weights = antialiased(6, 12);
        // Position 4 is at 2.25 of the old grid, whose centers are at 0.5, 1.5, 2.5, …
        let row = &weights[4 * 6..5 * 6];
        close(
            row,
            &[-3.0 / 128.0, 29.0 / 128.0, 111.0 / 128.0, -9.0 / 128.0, 0.0, 0.0],
            1e-12,
        );
    }

    /// When halved, the kernel is twice as wide: the second of 4 positions covers all of the 8 but the last,
    /// at odd eighths.
    #[test]
    fn a_shrunken_grid_has_the_widened_kernel() {
        let weights = antialiased(8, 4);
        // Its center is 3.0; old centers 0.5 … 6.5 are ±0.25, ±0.75, ±1.25 and ±1.75 away in units of the
        // widened kernel: 0.5 is the left end at −1.25, and 7.5 is outside at 2.25.
        let [a, b, c, d] = [111.0, 29.0, -9.0, -3.0];
        let total = 2.0 * (a + b + c) + d;
        let wanted = [c, b, a, a, b, c, d, 0.0].map(|w| w / total);
        close(&weights[8..16], &wanted, 1e-12);
    }

    /// By hand for 2 → 1: the position is 2 / 1.1 · ½ − ½ = 0.40909, with taps at −1, 0, 1, 2; the outer two
    /// repeat the border.
    #[test]
    fn dinos_offset_repeats_the_border() {
        let source = 1.0 / 1.1 - 0.5;
        let weights = offset(2, 1);
        let wanted = [
            cubic(source + 1.0, -0.75) + cubic(source, -0.75),
            cubic(1.0 - source, -0.75) + cubic(2.0 - source, -0.75),
        ];
        close(&weights, &wanted, 1e-12);
        let at = |x: f64| (1.25 * x - 2.25) * x * x + 1.0;
        let beyond = |x: f64| ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
        close(
            &wanted,
            &[
                beyond(source + 1.0) + at(source),
                at(1.0 - source) + beyond(2.0 - source),
            ],
            1e-12,
        );
    }

    #[test]
    fn rows_and_columns_are_interpolated_each_by_their_own_matrix() {
        let device = Device::flex();
        // Embeddings that are row · column: interpolation of the product is the product of interpolations.
        let line = |i: usize| (i * i) as f32 - 2.0;
        let values = (0..16).map(|p| line(p / 4) * line(p % 4)).collect::<Vec<_>>();
        let grid = Tensor::from_data(TensorData::new(values, [1, 16, 1]), &device);
        for (how, make) in [
            (
                Interpolation::Antialiased,
                antialiased as fn(usize, usize) -> Vec<f64>,
            ),
            (Interpolation::Offset, offset),
            (Interpolation::Bicubic, bicubic),
            (Interpolation::AlignedCorners, aligned_corners),
        ] {
            let ours = interpolate(grid.clone(), 4, [3, 6], how);
            assert_eq!(ours.dims(), [1, 18, 1]);
            let resampled = |to: usize| {
                make(4, to)
                    .chunks_exact(4)
                    .map(|row| row.iter().enumerate().map(|(i, w)| w * f64::from(line(i))).sum())
                    .collect::<Vec<f64>>()
            };
            let (rows, columns) = (resampled(3), resampled(6));
            let wanted = (0..18).map(|p| rows[p / 6] * columns[p % 6]).collect::<Vec<_>>();
            close(&ours.into_data().iter::<f64>().collect::<Vec<_>>(), &wanted, 1e-5);
        }
    }

    /// Every interpolation compared with PyTorch's `interpolate` in float64, from
    /// `scripts/parity/positions.py`.
    #[test]
    fn every_interpolation_is_pytorchs() {
        let file = include_bytes!("../../fixtures/positions.safetensors");
        let stored = crate::parity::tensors_of(file);
        let device = Device::flex();
        let mut compared = 0;
        for (how, name) in [
            (Interpolation::Antialiased, "antialiased"),
            (Interpolation::Offset, "offset"),
            (Interpolation::Bicubic, "bicubic"),
            (Interpolation::AlignedCorners, "aligned_corners"),
        ] {
            for (from, rows, columns) in [
                (14, 6, 10),
                (14, 18, 32),
                (7, 7, 4),
                (3, 8, 2),
                (5, 1, 3),
                (1, 2, 4),
            ] {
                let places = stored[&format!("from{from}")].clone();
                let width = places.shape()[2];
                let ours = interpolate(Tensor::from_data(places, &device), from, [rows, columns], how);
                let wanted = &stored[&format!("{name}.{from}.{rows}x{columns}")];
                assert_eq!(wanted.shape().to_vec(), [1, rows * columns, width]);
                let pairs = ours
                    .into_data()
                    .iter::<f64>()
                    .zip(wanted.iter::<f64>())
                    .collect::<Vec<_>>();
                let norm = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>().sqrt();
                let error = norm(|(a, b)| (a - b).powi(2)) / norm(|(_, b)| b * b);
                assert!(error < 1e-6, "{name} {from} to {rows}x{columns}: {error:e}");
                compared += 1;
            }
        }
        assert_eq!(stored.len(), compared + 5);
    }

    #[test]
    fn sine_cosine_is_the_formula() {
        let positions = sine_cosine(8, 2, 3);
        assert_eq!(positions.len(), 6 * 8);
        // Row 1, column 2; frequencies 1 and 1/100.
        let wanted = [
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
            2f64.sin(),
            0.02f64.sin(),
            2f64.cos(),
            0.02f64.cos(),
        ];
        let ours = positions[5 * 8..]
            .iter()
            .map(|v| f64::from(*v))
            .collect::<Vec<_>>();
        close(&ours, &wanted, 1e-7);
    }
}
