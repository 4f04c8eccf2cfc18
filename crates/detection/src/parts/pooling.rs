//! Regions and a pyramid of maps in, each region's grid of features from the level of its size out.

use backbones::layers::{Roi, RoiAlign, roi_align};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// RoIAlign over the levels of a pyramid.
///
/// Lin et al., *Feature pyramid networks*, 2017, eq. 1: level `⌊4 + log₂(√area / 224)⌋`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolingConfig {
    /// Samples in each direction of a bin: 2 in torchvision; 0, as many as the bin has positions, in detectron2.
    pub sampling_ratio: usize,
    /// Whether pixel centers are half a position from the map's edge: false in torchvision, true in detectron2.
    pub aligned: bool,
    /// Root of the area of a region on level `canonical_level`, px: 224.
    pub canonical_size_px: f64,
    /// The base-2 logarithm of the stride of that level's map: 4.
    pub canonical_level: i32,
    /// Added to the level before it is rounded down: 1e-6 in torchvision, 0 in detectron2.
    pub level_epsilon: f64,
    /// Added to the ratio of the roots before its logarithm is taken: 0 in torchvision, 1e-8 in detectron2.
    pub ratio_epsilon: f64,
}

/// The maps to pool from, finest first.
pub struct Pyramid<'a> {
    /// `[images, channels, height, width]` each.
    pub maps: &'a [Tensor<4>],
    /// Pixels of the image per position, each twice the one before.
    pub strides: &'a [usize],
}

/// Pooled features.
pub struct Pooled {
    /// `[regions, channels, output, output]`, level by level, finest first; f32.
    pub features: Tensor<4>,
    /// Index of each row's region.
    pub order: Vec<usize>,
}

impl PoolingConfig {
    /// The index in `strides` of the map from which a region is pooled.
    pub fn level(&self, roi: &Roi, strides: &[usize]) -> usize {
        let [left, top, right, bottom] = roi.edges.map(f64::from);
        let size = ((right - left) * (bottom - top)).max(0.0).sqrt();
        let ratio = size / self.canonical_size_px + self.ratio_epsilon;
        let level = f64::from(self.canonical_level) + ratio.log2() + self.level_epsilon;
        let finest = strides.first().map_or(0.0, |stride| (*stride as f64).log2());
        (level.floor() - finest).clamp(0.0, strides.len().saturating_sub(1) as f64) as usize
    }

    /// The regions' features, in an order of their own: the caller orders its targets alike, because a selection on the
    /// device would be slow to differentiate.
    ///
    /// # Panics
    /// If there is no region.
    pub fn pool(&self, pyramid: &Pyramid<'_>, rois: &[Roi], output: usize) -> Pooled {
        let mut order: Vec<usize> = (0..rois.len()).collect();
        let levels: Vec<usize> = rois.iter().map(|roi| self.level(roi, pyramid.strides)).collect();
        order.sort_by_key(|index| (levels[*index], rois[*index].image));
        let of_level = |level: usize| {
            let own = order.iter().filter(|index| levels[**index] == level);
            let own: Vec<Roi> = own.map(|index| rois[*index]).collect();
            let settings = RoiAlign {
                scale: 1.0 / pyramid.strides[level] as f64,
                output,
                sampling_ratio: self.sampling_ratio,
                aligned: self.aligned,
            };
            (!own.is_empty()).then(|| roi_align(pyramid.maps[level].clone(), &own, &settings))
        };
        let features = (0..pyramid.strides.len()).filter_map(of_level).collect();
        Pooled {
            features: Tensor::cat(features, 0),
            order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const TORCHVISION: PoolingConfig = PoolingConfig {
        sampling_ratio: 2,
        aligned: false,
        canonical_size_px: 224.0,
        canonical_level: 4,
        level_epsilon: 1e-6,
        ratio_epsilon: 0.0,
    };

    fn square(side: f32) -> Roi {
        Roi {
            image: 0,
            edges: [10.0, 10.0, 10.0 + side, 10.0 + side],
        }
    }

    #[test]
    fn the_level_is_the_logarithm_of_the_size() {
        let strides = [4, 8, 16, 32];
        let level = |side| TORCHVISION.level(&square(side), &strides);
        for (side, expected) in [
            (0.0, 0),
            (1.0, 0),
            (111.9, 0),
            (112.0, 1),
            (223.9, 1),
            (224.0, 2),
            (447.0, 2),
            (448.0, 3),
            (5000.0, 3),
        ] {
            assert_eq!(level(side), expected, "{side}");
        }
        // Finer maps, of networks for small images.
        assert_eq!(TORCHVISION.level(&square(28.0), &[1, 2, 4, 8]), 1);
    }

    #[test]
    fn each_region_is_pooled_from_its_level() {
        let device = Device::flex();
        let constant = |value: f64, side| Tensor::<4>::full([1, 1, side, side], value, &device);
        let maps = [
            constant(2.0, 200),
            constant(3.0, 100),
            constant(4.0, 50),
            constant(5.0, 25),
        ];
        let pyramid = Pyramid {
            maps: &maps,
            strides: &[4, 8, 16, 32],
        };
        let rois = [300.0, 20.0, 130.0, 600.0, 30.0].map(square);
        let pooled = TORCHVISION.pool(&pyramid, &rois, 2);
        assert_eq!(pooled.order, [1, 4, 2, 0, 3]);
        assert_eq!(pooled.features.dims(), [5, 1, 2, 2]);
        let values: Vec<f32> = pooled.features.into_data().iter().collect();
        let expected = [2.0, 2.0, 3.0, 4.0, 5.0].into_iter().flat_map(|value| [value; 4]);
        assert_eq!(values, expected.collect::<Vec<f32>>());
    }
}
