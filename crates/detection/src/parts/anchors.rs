//! Anchors: the sizes of a pyramid's maps in, the reference boxes of every position out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BoundingBox;

/// The boxes that a region proposal network starts from.
///
/// Ren et al., *Faster R-CNN*, 2015, §3.1; sizes a level: Lin et al., *Feature pyramid networks*, 2017, §4.1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnchorConfig {
    /// Roots of the areas at each level, finest first, px: `[[32], [64], [128], [256], [512]]`.
    pub sizes_px: Vec<Vec<f32>>,
    /// Heights divided by widths: `[0.5, 1, 2]`.
    pub ratios: Vec<f32>,
    /// Whether edges are rounded to whole pixels, halves to even: true in torchvision, false in detectron2.
    pub rounded: bool,
    /// The order of a position's anchors, and so of the heads' channels.
    pub order: AnchorOrder,
    /// The distance of positions.
    pub strides: AnchorStrides,
}

/// The order of a position's anchors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnchorOrder {
    /// All sizes of the first ratio come first: torchvision's.
    RatioOuter,
    /// All ratios of the first size come first: detectron2's.
    SizeOuter,
}

/// The distance of a map's positions, px.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnchorStrides {
    /// The padded image's side divided by the map's, rounded down, along each axis: torchvision's.
    FromMap,
    /// The level's nominal stride: detectron2's.
    Nominal,
}

impl AnchorConfig {
    /// Checks the values; the message names the key, in the config's `table`.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        let positive =
            |values: &[f32]| !values.is_empty() && values.iter().all(|v| v.is_finite() && *v > 0.0);
        let sizes = self.sizes_px.iter().all(|sizes| positive(sizes));
        if self.sizes_px.is_empty() || !sizes {
            return Err(format!(
                "`{table}.sizes_px` must be lists of positive numbers, one a level"
            ));
        }
        if !positive(&self.ratios) {
            return Err(format!("`{table}.ratios` must be positive numbers"));
        }
        let count = |level: &Vec<f32>| level.len() * self.ratios.len();
        if self
            .sizes_px
            .iter()
            .any(|level| count(level) != self.per_position())
        {
            return Err(format!(
                "`{table}.sizes_px` must have the same number of sizes at each level"
            ));
        }
        Ok(())
    }

    /// Anchors of a position: the channels of the objectness head.
    pub fn per_position(&self) -> usize {
        self.sizes_px.first().map_or(0, Vec::len) * self.ratios.len()
    }

    /// The anchors of the position at the image's corner, in the order of the heads' channels.
    pub fn of_a_position(&self, level: usize) -> Vec<BoundingBox> {
        let sizes = &self.sizes_px[level];
        let make = |size: f32, ratio: f32| {
            // The area is size², and height / width is the ratio.
            let root = f64::from(ratio).sqrt();
            let half = [f64::from(size) / root / 2.0, f64::from(size) * root / 2.0];
            let [wide, high] = match self.rounded {
                true => half.map(f64::round_ties_even),
                false => half,
            }
            .map(|side| side as f32);
            BoundingBox::from_edges([-wide, -high, wide, high])
        };
        match self.order {
            AnchorOrder::RatioOuter => {
                let pairs = self
                    .ratios
                    .iter()
                    .flat_map(|r| sizes.iter().map(move |s| (*s, *r)));
                pairs.map(|(size, ratio)| make(size, ratio)).collect()
            }
            AnchorOrder::SizeOuter => {
                let pairs = sizes
                    .iter()
                    .flat_map(|s| self.ratios.iter().map(move |r| (*s, *r)));
                pairs.map(|(size, ratio)| make(size, ratio)).collect()
            }
        }
    }

    /// All anchors of a level: row by row, position by position.
    ///
    /// - `map`: height and width of the map; `image`: those of the padded images, px
    /// - `nominal_stride`: the level's stride, px
    pub fn of_level(
        &self,
        level: usize,
        map: [usize; 2],
        image: [usize; 2],
        nominal_stride: usize,
    ) -> Vec<BoundingBox> {
        let stride = |axis: usize| match self.strides {
            AnchorStrides::FromMap => image[axis] / map[axis].max(1),
            AnchorStrides::Nominal => nominal_stride,
        };
        let (down, across) = (stride(0), stride(1));
        let cell = self.of_a_position(level);
        let mut anchors = Vec::with_capacity(map[0] * map[1] * cell.len());
        for row in 0..map[0] {
            for column in 0..map[1] {
                let (x, y) = ((column * across) as f32, (row * down) as f32);
                anchors.extend(cell.iter().map(|anchor| anchor.moved(x, y)));
            }
        }
        anchors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rounded: bool, order: AnchorOrder) -> AnchorConfig {
        AnchorConfig {
            sizes_px: vec![vec![32.0], vec![64.0], vec![128.0], vec![256.0], vec![512.0]],
            ratios: vec![0.5, 1.0, 2.0],
            rounded,
            order,
            strides: AnchorStrides::FromMap,
        }
    }

    #[test]
    fn edges_are_rounded_halves_of_the_sides() {
        let config = config(true, AnchorOrder::RatioOuter);
        let edges = |level| {
            let anchors = config.of_a_position(level);
            anchors.iter().map(BoundingBox::edges).collect::<Vec<_>>()
        };
        let expected = [
            [-23.0, -11.0, 23.0, 11.0],
            [-16.0, -16.0, 16.0, 16.0],
            [-11.0, -23.0, 11.0, 23.0],
        ];
        assert_eq!(edges(0), expected);
        let halves = [(45.0, 23.0), (91.0, 45.0), (181.0, 91.0), (362.0, 181.0)];
        for (level, (half_width, half_height)) in halves.into_iter().enumerate() {
            let first = edges(level + 1)[0];
            assert_eq!(first, [-half_width, -half_height, half_width, half_height]);
        }
    }

    #[test]
    fn sizes_and_ratios_alternate_in_the_order_of_the_profile() {
        let sides = |order| {
            let config = AnchorConfig {
                sizes_px: vec![vec![16.0, 32.0]],
                ratios: vec![0.25, 1.0],
                ..config(false, order)
            };
            assert_eq!(config.per_position(), 4);
            let anchors = config.of_a_position(0);
            anchors
                .iter()
                .map(|a| (a.width(), a.height()))
                .collect::<Vec<_>>()
        };
        let (flat, square) = ([(32.0, 8.0), (64.0, 16.0)], [(16.0, 16.0), (32.0, 32.0)]);
        assert_eq!(
            sides(AnchorOrder::RatioOuter),
            [flat[0], flat[1], square[0], square[1]]
        );
        assert_eq!(
            sides(AnchorOrder::SizeOuter),
            [flat[0], square[0], flat[1], square[1]]
        );
    }

    #[test]
    fn positions_are_apart_by_the_side_over_the_maps() {
        let mut config = config(true, AnchorOrder::RatioOuter);
        // A map of 13 positions on 800 px: 61 px apart, though the level's stride is 64.
        let anchors = config.of_level(4, [13, 2], [800, 128], 64);
        assert_eq!(anchors.len(), 13 * 2 * 3);
        let moved = |index: usize| {
            (
                anchors[index].left - anchors[0].left,
                anchors[index].top - anchors[0].top,
            )
        };
        assert_eq!((moved(3), moved(6)), ((64.0, 0.0), (0.0, 61.0)));
        config.strides = AnchorStrides::Nominal;
        let nominal = config.of_level(4, [13, 2], [800, 128], 64);
        assert_eq!(nominal[6].top - nominal[0].top, 64.0);
    }

    #[test]
    fn invalid_values_are_named() {
        let valid = config(true, AnchorOrder::RatioOuter);
        assert_eq!(valid.validate("anchors"), Ok(()));
        for (sizes, ratios) in [
            (vec![], vec![1.0]),
            (vec![vec![]], vec![1.0]),
            (vec![vec![1.0]], vec![]),
        ] {
            let config = AnchorConfig {
                sizes_px: sizes,
                ratios,
                ..valid.clone()
            };
            assert!(config.validate("anchors").is_err());
        }
        let uneven = AnchorConfig {
            sizes_px: vec![vec![1.0], vec![1.0, 2.0]],
            ..valid
        };
        assert!(uneven.validate("anchors").unwrap_err().contains("same number"));
    }
}
