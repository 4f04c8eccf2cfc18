//! The two inner loops of a convolution over shifted runs, with the machine's widest vectors.

use pulp::{Simd, WithSimd};

/// Output channels per pass of [`accumulate`] or [`correlate`]; packed weights come in blocks of this many.
pub(crate) const BLOCK: usize = 8;
/// Terms summed before the next tile, so that the weights in use stay in the L1 cache.
const TERMS: usize = 288;

/// `outputs[o][t] = Σ_k weights[o][k] · source[offsets[k] + t]`.
///
/// - `weights`: `[blocks][offsets.len()][BLOCK]`
/// - `outputs`: rows of `row` floats, `BLOCK` for each block; the first `length` floats of each are written
pub(crate) struct Accumulate<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) offsets: &'a [usize],
    pub(crate) source: &'a [f32],
    pub(crate) outputs: &'a mut [f32],
    pub(crate) row: usize,
    pub(crate) length: usize,
    /// Whether the sums are added to the values in `outputs`.
    pub(crate) add: bool,
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many accumulators as registers allow, besides the vectors in use.
        if S::REGISTER_COUNT >= 32 {
            self.tiles::<S, 8, 3>(simd);
        } else {
            self.tiles::<S, 4, 3>(simd);
        }
    }
}

impl Accumulate<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let terms = self.offsets.len();
        for from in (0..terms).step_by(TERMS) {
            let to = terms.min(from + TERMS);
            let mut start = 0;
            while start < self.length {
                // The remainder is shared between the last two tiles, so that neither is mostly empty.
                let left = self.length - start;
                let vectors = match left / S::F32_LANES {
                    whole if whole == VECTORS + 1 => 2,
                    whole => whole.clamp(1, VECTORS),
                };
                for (block, weights) in self.weights.chunks_exact(terms * BLOCK).enumerate() {
                    let weights = &weights[from * BLOCK..to * BLOCK];
                    for part in 0..BLOCK / ROWS {
                        let row = (block * BLOCK + part * ROWS) * self.row + start;
                        let tile = Tile {
                            weights,
                            column: part * ROWS,
                            offsets: &self.offsets[from..to],
                            source: &self.source[start..],
                            outputs: &mut self.outputs[row..],
                            row: self.row,
                            fresh: from == 0 && !self.add,
                        };
                        match vectors {
                            1 if self.length - start < S::F32_LANES => {
                                tile.sum_part::<S, ROWS>(simd, self.length - start);
                            }
                            1 => tile.sum::<S, ROWS, 1>(simd),
                            2 => tile.sum::<S, ROWS, 2>(simd),
                            _ => tile.sum::<S, ROWS, VECTORS>(simd),
                        }
                    }
                }
                start += vectors * S::F32_LANES;
            }
        }
    }
}

/// Some outputs of a block for a few vectors of positions.
struct Tile<'a> {
    weights: &'a [f32],
    /// Index of the first of the block's outputs.
    column: usize,
    offsets: &'a [usize],
    source: &'a [f32],
    outputs: &'a mut [f32],
    row: usize,
    /// Whether these are the first terms.
    fresh: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn sum<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self { column, row, .. } = self;
        let tile = VECTORS * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        if !self.fresh {
            for (number, sums) in sums.iter_mut().enumerate() {
                let (old, _) = S::as_simd_f32s(&self.outputs[number * row..number * row + tile]);
                sums.copy_from_slice(&old[..VECTORS]);
            }
        }
        for (weights, offset) in self.weights.chunks_exact(BLOCK).zip(self.offsets) {
            let (run, _) = S::as_simd_f32s(&self.source[*offset..*offset + tile]);
            let mut vectors = [simd.splat_f32s(0.0); VECTORS];
            vectors.copy_from_slice(&run[..VECTORS]);
            let weights = &weights[column..column + ROWS];
            for o in 0..ROWS {
                let weight = simd.splat_f32s(weights[o]);
                for v in 0..VECTORS {
                    sums[o][v] = simd.mul_add_e_f32s(weight, vectors[v], sums[o][v]);
                }
            }
        }
        for (number, sums) in sums.iter().enumerate() {
            let (out, _) = S::as_mut_simd_f32s(&mut self.outputs[number * row..number * row + tile]);
            out[..VECTORS].copy_from_slice(sums);
        }
    }
}

impl Tile<'_> {
    /// The sums of fewer positions than a vector holds.
    #[inline(always)]
    fn sum_part<S: Simd, const ROWS: usize>(self, simd: S, length: usize) {
        let Self { column, row, .. } = self;
        let mut sums = [simd.splat_f32s(0.0); ROWS];
        if !self.fresh {
            for (number, sum) in sums.iter_mut().enumerate() {
                *sum = simd.partial_load_f32s(&self.outputs[number * row..number * row + length]);
            }
        }
        for (weights, offset) in self.weights.chunks_exact(BLOCK).zip(self.offsets) {
            let vector = simd.partial_load_f32s(&self.source[*offset..*offset + length]);
            let weights = &weights[column..column + ROWS];
            for o in 0..ROWS {
                sums[o] = simd.mul_add_e_f32s(simd.splat_f32s(weights[o]), vector, sums[o]);
            }
        }
        for (number, sum) in sums.into_iter().enumerate() {
            simd.partial_store_f32s(&mut self.outputs[number * row..number * row + length], sum);
        }
    }
}

/// `sums[o][k] += Σ_t rows[o][t] · source[offsets[k] + t]` for `t < length`; a few floats past `length` are read, and
/// must be zero in `rows`.
///
/// - `rows`: runs of `row` floats, a multiple of [`BLOCK`] of them
/// - `sums`: `[rows][offsets.len()]`
pub(crate) struct Correlate<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) row: usize,
    pub(crate) source: &'a [f32],
    pub(crate) offsets: &'a [usize],
    pub(crate) sums: &'a mut [f32],
    pub(crate) length: usize,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.blocks::<S, 8>(simd);
        } else {
            self.blocks::<S, 4>(simd);
        }
    }
}

impl Correlate<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const ROWS: usize>(self, simd: S) {
        const AT_ONCE: usize = 3;
        let Self {
            rows,
            row,
            source,
            offsets,
            sums,
            length,
        } = self;
        let columns = offsets.len();
        let whole = columns - columns % AT_ONCE;
        for block in 0..rows.len() / row / ROWS {
            let rows = &rows[block * ROWS * row..(block + 1) * ROWS * row];
            let sums = &mut sums[block * ROWS * columns..(block + 1) * ROWS * columns];
            for column in (0..whole).step_by(AT_ONCE) {
                one_sum::<S, ROWS, AT_ONCE>(
                    simd,
                    rows,
                    row,
                    source,
                    &offsets[column..],
                    sums,
                    columns,
                    column,
                    length,
                );
            }
            for column in whole..columns {
                one_sum::<S, ROWS, 1>(
                    simd,
                    rows,
                    row,
                    source,
                    &offsets[column..],
                    sums,
                    columns,
                    column,
                    length,
                );
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn one_sum<S: Simd, const ROWS: usize, const COLUMNS: usize>(
    simd: S,
    rows: &[f32],
    row: usize,
    source: &[f32],
    offsets: &[usize],
    sums: &mut [f32],
    columns: usize,
    column: usize,
    length: usize,
) {
    let count = length.div_ceil(S::F32_LANES);
    let rows: [&[S::f32s]; ROWS] =
        std::array::from_fn(|o| &S::as_simd_f32s(&rows[o * row..(o + 1) * row]).0[..count]);
    let runs: [&[S::f32s]; COLUMNS] = std::array::from_fn(|k| {
        let offset = offsets[k];
        &S::as_simd_f32s(&source[offset..offset + count * S::F32_LANES]).0[..count]
    });
    let mut totals = [[simd.splat_f32s(0.0); COLUMNS]; ROWS];
    for i in 0..count {
        let vectors: [S::f32s; COLUMNS] = std::array::from_fn(|k| runs[k][i]);
        for o in 0..ROWS {
            let gradient = rows[o][i];
            for k in 0..COLUMNS {
                totals[o][k] = simd.mul_add_e_f32s(gradient, vectors[k], totals[o][k]);
            }
        }
    }
    for o in 0..ROWS {
        for k in 0..COLUMNS {
            sums[o * columns + column + k] += simd.reduce_sum_f32s(totals[o][k]);
        }
    }
}

/// `to[t · width + c] = from[c · run + t]` for `t < length` and `c < rows`; the rest of `to` stays unchanged.
pub(crate) fn transpose(from: &[f32], run: usize, rows: usize, length: usize, to: &mut [f32], width: usize) {
    const SIDE: usize = 16;
    for row in (0..rows).step_by(SIDE) {
        let rows = SIDE.min(rows - row);
        for start in (0..length).step_by(SIDE) {
            let positions = SIDE.min(length - start);
            // Through a square in registers, so that both sides are read and written in runs.
            let mut square = [[0.0f32; SIDE]; SIDE];
            for (c, line) in square.iter_mut().enumerate().take(rows) {
                let from = &from[(row + c) * run + start..][..positions];
                if let Ok(from) = <&[f32; SIDE]>::try_from(from) {
                    *line = *from;
                } else {
                    line[..positions].copy_from_slice(from);
                }
            }
            for t in 0..positions {
                let to = &mut to[(start + t) * width + row..][..rows];
                for (c, to) in to.iter_mut().enumerate() {
                    *to = square[c][t];
                }
            }
        }
    }
}

/// Rows packed into [`Accumulate`]'s order of weights: `[blocks][length][BLOCK]`, zero for a block's missing
/// rows.
///
/// - `from`: `rows` runs of `run` floats, of which the first `length` count
pub(crate) fn pack_rows(from: &[f32], run: usize, rows: usize, length: usize, packed: &mut [f32]) {
    for (block, packed) in packed
        .chunks_exact_mut(length * BLOCK)
        .enumerate()
        .take(rows.div_ceil(BLOCK))
    {
        let rows = BLOCK.min(rows - block * BLOCK);
        if rows < BLOCK {
            packed.fill(0.0);
        }
        transpose(&from[block * BLOCK * run..], run, rows, length, packed, BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both products by their definitions, for any vector length and number of registers.
    fn check<S: Simd>(simd: S) {
        let (terms, length, row) = (TERMS + 7, 50, 50 + crate::padded::SLACK);
        let value = |i: usize, seed: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5;
        let of = |count: usize, seed| (0..count).map(|i| value(i, seed)).collect::<Vec<_>>();
        let offsets = (0..terms).map(|k| k * 13 % 200).collect::<Vec<_>>();
        let source = of(200 + row, 1);
        let weights = of(2 * terms * BLOCK, 2);
        let mut outputs = vec![f32::NAN; 2 * BLOCK * row];
        let product = Accumulate {
            weights: &weights,
            offsets: &offsets,
            source: &source,
            outputs: &mut outputs,
            row,
            length,
            add: false,
        };
        simd.vectorize(product);
        for o in 0..2 * BLOCK {
            let weight = |k: usize| weights[(o / BLOCK * terms + k) * BLOCK + o % BLOCK];
            for t in 0..length {
                let exact = (0..terms).map(|k| f64::from(weight(k)) * f64::from(source[offsets[k] + t]));
                let difference = f64::from(outputs[o * row + t]) - exact.sum::<f64>();
                assert!(difference.abs() < 1e-4, "{simd:?}: output {o} at {t}");
            }
        }

        let mut rows = of(2 * BLOCK * row, 3);
        rows.chunks_exact_mut(row).for_each(|row| row[length..].fill(0.0));
        let mut sums = vec![1.0; 2 * BLOCK * terms];
        let product = Correlate {
            rows: &rows,
            row,
            source: &source,
            offsets: &offsets,
            sums: &mut sums,
            length,
        };
        simd.vectorize(product);
        for (number, sum) in sums.iter().enumerate() {
            let (o, offset) = (number / terms, offsets[number % terms]);
            let exact = (0..length).map(|t| f64::from(rows[o * row + t]) * f64::from(source[offset + t]));
            let difference = f64::from(*sum) - 1.0 - exact.sum::<f64>();
            assert!(difference.abs() < 1e-4, "{simd:?}: sum {number}");
        }
    }

    #[test]
    fn every_vector_length_gives_the_sums() {
        check(pulp::Scalar);
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if let Some(simd) = pulp::x86::V3::try_new() {
            check(simd);
        }
        struct Widest;
        impl WithSimd for Widest {
            type Output = ();
            fn with_simd<S: Simd>(self, simd: S) {
                check(simd);
            }
        }
        crate::simd::vectorized(Widest);
    }
}
