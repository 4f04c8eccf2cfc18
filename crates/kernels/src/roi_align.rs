//! RoIAlign: a feature map and regions in, a small grid of averaged samples for each region out; and its gradient.
//!
//! He et al., *Mask R-CNN*, 2017, §3; the rules at the border are those of torchvision's compiled `roi_align`.
//! Bilinear weights are products of one along the rows and one along the columns, and so are the averages over a
//! bin: a region's output is `A · F · Bᵀ` with `A` of `[output, height]` and `B` of `[output, width]`.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::{Roi, RoiAlign};

/// Floats of intermediate results that [`composed`] holds at a time.
const CHUNK: usize = 1 << 25;

/// The weights of one region along one axis: for each bin the positions that it samples, ascending, and their shares.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    bins: Vec<Vec<(usize, f32)>>,
}

impl Axis {
    /// The samples of a region from `start` to `end`, in pixels of the image, on a map of `size` positions.
    fn new(start: f32, end: f32, size: usize, settings: &RoiAlign) -> Self {
        let offset = if settings.aligned { 0.5 } else { 0.0 };
        let first = f64::from(start) * settings.scale - offset;
        let mut length = f64::from(end) * settings.scale - offset - first;
        if !settings.aligned {
            length = length.max(1.0);
        }
        let bin = length / settings.output as f64;
        let samples = match settings.sampling_ratio {
            0 => bin.ceil().max(0.0) as usize,
            ratio => ratio,
        };
        let bins = (0..settings.output).map(|index| {
            let from = first + index as f64 * bin;
            let mut taps: Vec<(usize, f64)> = vec![];
            for sample in 0..samples {
                let place = from + (sample as f64 + 0.5) * bin / samples as f64;
                // Written so that NaN samples nothing.
                if !(place >= -1.0 && place <= size as f64) {
                    continue;
                }
                let place = place.max(0.0);
                let low = (place.floor() as usize).min(size - 1);
                let share = if low + 1 < size { place - low as f64 } else { 0.0 };
                for (position, weight) in [(low, 1.0 - share), (low + 1, share)] {
                    match taps.iter_mut().rev().find(|tap| tap.0 == position) {
                        Some(tap) => tap.1 += weight,
                        None if weight > 0.0 => taps.push((position, weight)),
                        None => {}
                    }
                }
            }
            taps.sort_by_key(|tap| tap.0);
            let share = |(position, weight)| (position, (weight / samples as f64) as f32);
            taps.into_iter().map(share).collect()
        });
        Self { bins: bins.collect() }
    }

    /// Positions that any bin samples, ascending.
    fn positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self.bins.iter().flatten().map(|tap| tap.0).collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }
}

#[derive(Clone, Debug)]
struct Region {
    image: usize,
    /// Rows of the map that the region samples, ascending.
    rows: Vec<usize>,
    /// For each output row its places in `rows` and their weights.
    down: Vec<Vec<(usize, f32)>>,
    /// For each output column the map's columns and their weights.
    across: Vec<Vec<(usize, f32)>>,
}

/// The weights of all regions on a map, computed once for both directions.
#[derive(Clone, Debug)]
pub(crate) struct Plan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Images, channels, height and width of the map.
    shape: [usize; 4],
    output: usize,
    regions: Vec<Region>,
}

impl Plan {
    pub(crate) fn new(shape: [usize; 4], rois: &[Roi], settings: &RoiAlign) -> Self {
        let [_, _, height, width] = shape;
        let regions = rois.par_iter().map(|roi| {
            let [left, top, right, bottom] = roi.edges;
            let vertical = Axis::new(top, bottom, height, settings);
            let horizontal = Axis::new(left, right, width, settings);
            let rows = vertical.positions();
            let place = |(row, weight): &(usize, f32)| (rows.binary_search(row).unwrap_or(0), *weight);
            let down = vertical.bins.iter().map(|taps| taps.iter().map(place).collect());
            Region {
                image: roi.image,
                down: down.collect(),
                rows,
                across: horizontal.bins,
            }
        });
        Self(Arc::new(Inner {
            shape,
            output: settings.output,
            regions: regions.collect(),
        }))
    }

    /// The shape of the map.
    pub(crate) fn shape(&self) -> [usize; 4] {
        self.0.shape
    }

    /// The shape of the output.
    pub(crate) fn output_shape(&self) -> [usize; 4] {
        let output = self.0.output;
        [self.0.regions.len(), self.0.shape[1], output, output]
    }

    /// `[images, channels, height, width]` to `[regions, channels, output, output]`, in parallel over regions.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let Inner {
            shape: [_, channels, height, width],
            output,
            ref regions,
        } = *self.0;
        let mut pooled = vec![0.0; regions.len() * channels * output * output];
        let each = pooled.par_chunks_mut(channels * output * output).zip(regions);
        each.for_each(|(pooled, region)| {
            let image = &x[region.image * channels * height * width..][..channels * height * width];
            let mut sums = vec![0.0f32; region.rows.len() * output];
            for (plane, pooled) in image
                .chunks_exact(height * width)
                .zip(pooled.chunks_exact_mut(output * output))
            {
                for (row, sums) in region.rows.iter().zip(sums.chunks_exact_mut(output)) {
                    let row = &plane[row * width..][..width];
                    for (sum, taps) in sums.iter_mut().zip(&region.across) {
                        *sum = taps.iter().map(|(column, weight)| weight * row[*column]).sum();
                    }
                }
                for (pooled, taps) in pooled.chunks_exact_mut(output).zip(&region.down) {
                    for (row, weight) in taps {
                        let sums = &sums[row * output..][..output];
                        pooled
                            .iter_mut()
                            .zip(sums)
                            .for_each(|(pooled, sum)| *pooled += weight * sum);
                    }
                }
            }
        });
        pooled
    }

    /// The gradient of the map from that of the output, in parallel over the map's planes: each adds its regions in
    /// their order, so that the sums have the same bits on any number of threads.
    pub(crate) fn backward(&self, gradient: &[f32]) -> Vec<f32> {
        let Inner {
            shape: [images, channels, height, width],
            output,
            ref regions,
        } = *self.0;
        let mut of_x = vec![0.0; images * channels * height * width];
        let planes = of_x.par_chunks_mut(height * width).enumerate();
        planes.for_each(|(plane, of_x)| {
            let (image, channel) = (plane / channels, plane % channels);
            let mut sums = vec![];
            for (index, region) in regions
                .iter()
                .enumerate()
                .filter(|(_, region)| region.image == image)
            {
                let gradient = &gradient[(index * channels + channel) * output * output..][..output * output];
                sums.clear();
                sums.resize(region.rows.len() * output, 0.0f32);
                for (gradient, taps) in gradient.chunks_exact(output).zip(&region.down) {
                    for (row, weight) in taps {
                        let sums = &mut sums[row * output..][..output];
                        sums.iter_mut()
                            .zip(gradient)
                            .for_each(|(sum, value)| *sum += weight * value);
                    }
                }
                for (row, sums) in region.rows.iter().zip(sums.chunks_exact(output)) {
                    let row = &mut of_x[row * width..][..width];
                    for (sum, taps) in sums.iter().zip(&region.across) {
                        for (column, weight) in taps {
                            row[*column] += weight * sum;
                        }
                    }
                }
            }
        });
        of_x
    }

    /// The same of Burn's products, for any device: all columns of a chunk of regions of one image at once, then the
    /// rows of each region. Both directions are products, and therefore deterministic on every device.
    pub(crate) fn composed(&self, x: Tensor<4>) -> Tensor<4> {
        let [images, channels, height, width] = self.0.shape;
        let output = self.0.output;
        let chunk = (CHUNK / (channels * height * output).max(1)).max(1);
        let (mut pooled, mut order) = (vec![], vec![]);
        for image in 0..images {
            let own = |index: &usize| self.0.regions[*index].image == image;
            let own: Vec<usize> = (0..self.0.regions.len()).filter(own).collect();
            for part in own.chunks(chunk) {
                let map = x.clone().narrow(0, image, 1).reshape([channels * height, width]);
                pooled.push(self.composed_part(map, part));
                order.extend_from_slice(part);
            }
        }
        let pooled = Tensor::cat(pooled, 0);
        if order.is_sorted() {
            return pooled;
        }
        let mut place = vec![0i32; order.len()];
        for (at, index) in order.into_iter().enumerate() {
            place[index] = at as i32;
        }
        // As a product too: a selection's gradient is serial on GPUs.
        let count = place.len();
        let mut permutation = vec![0.0f32; count * count];
        for (row, column) in place.into_iter().enumerate() {
            permutation[row * count + column as usize] = 1.0;
        }
        let permutation = Tensor::<2>::from_data(TensorData::new(permutation, [count, count]), &x.device());
        let rows = pooled.reshape([count, channels * output * output]);
        permutation
            .matmul(rows)
            .reshape([count, channels, output, output])
    }

    fn composed_part(&self, map: Tensor<2>, part: &[usize]) -> Tensor<4> {
        let [_, channels, height, width] = self.0.shape;
        let output = self.0.output;
        let (mut down, mut across) = (
            vec![0.0f32; part.len() * output * height],
            vec![0.0f32; part.len() * output * width],
        );
        for (place, index) in part.iter().enumerate() {
            let region = &self.0.regions[*index];
            for (bin, (rows, columns)) in region.down.iter().zip(&region.across).enumerate() {
                let bin = place * output + bin;
                for (row, weight) in rows {
                    down[bin * height + region.rows[*row]] = *weight;
                }
                for (column, weight) in columns {
                    across[bin * width + column] = *weight;
                }
            }
        }
        let device = map.device();
        let across = Tensor::<2>::from_data(TensorData::new(across, [part.len() * output, width]), &device);
        let down = Tensor::<3>::from_data(TensorData::new(down, [part.len(), output, height]), &device);
        let rows = map
            .matmul(across.transpose())
            .reshape([channels, height, part.len(), output])
            .permute([2, 1, 0, 3])
            .reshape([part.len(), height, channels * output]);
        down.matmul(rows)
            .reshape([part.len(), output, channels, output])
            .permute([0, 2, 1, 3])
    }
}

/// One region of one plane of bytes.
pub(crate) fn plane(
    plane: &[u8],
    [height, width]: [usize; 2],
    edges: [f32; 4],
    settings: &RoiAlign,
) -> Vec<f32> {
    let [left, top, right, bottom] = edges;
    let output = settings.output;
    let down = Axis::new(top, bottom, height, settings);
    let across = Axis::new(left, right, width, settings);
    let rows = down.positions();
    let mut sums = vec![0.0f32; rows.len() * output];
    for (row, sums) in rows.iter().zip(sums.chunks_exact_mut(output)) {
        let row = &plane[row * width..][..width];
        for (sum, taps) in sums.iter_mut().zip(&across.bins) {
            let terms = taps
                .iter()
                .map(|(column, weight)| weight * f32::from(row[*column]));
            *sum = terms.sum();
        }
    }
    let mut pooled = vec![0.0f32; output * output];
    for (pooled, taps) in pooled.chunks_exact_mut(output).zip(&down.bins) {
        for (row, weight) in taps {
            let sums = &sums[rows.binary_search(row).unwrap_or(0) * output..][..output];
            pooled
                .iter_mut()
                .zip(sums)
                .for_each(|(pooled, sum)| *pooled += weight * sum);
        }
    }
    pooled
}

#[cfg(test)]
mod tests;
