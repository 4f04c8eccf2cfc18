//! A box beside a reference box in, four numbers to be learned out; and back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BoundingBox;

/// The largest logarithm of a side's growth that [`BoxCoder::decode`] accepts: ln(1000 / 16), so that one step cannot
/// make a box of 16 px larger than the longest photo.
const LARGEST_GROWTH: f32 = 4.135_166_6;

/// Shifts of the center in units of the reference's sides, logarithms of the sides' ratios, each times a weight.
///
/// Girshick et al., *Rich feature hierarchies*, 2014, appendix C.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxCoder {
    /// Factors of x, y, width and height: `[1, 1, 1, 1]` for proposals, `[10, 10, 5, 5]` for the box head.
    pub weights: [f32; 4],
}

/// Center and sides.
fn centered(bounds: &BoundingBox) -> [f32; 4] {
    let (width, height) = (bounds.width(), bounds.height());
    [
        bounds.left + 0.5 * width,
        bounds.top + 0.5 * height,
        width,
        height,
    ]
}

impl BoxCoder {
    /// The numbers that make `reference` the box `truth`. Both need a positive width and height.
    pub fn encode(&self, reference: &BoundingBox, truth: &BoundingBox) -> [f32; 4] {
        let ([x, y, width, height], [true_x, true_y, true_width, true_height]) =
            (centered(reference), centered(truth));
        let [of_x, of_y, of_width, of_height] = self.weights;
        [
            of_x * (true_x - x) / width,
            of_y * (true_y - y) / height,
            of_width * (true_width / width).ln(),
            of_height * (true_height / height).ln(),
        ]
    }

    /// The box that `deltas` make of `reference`. A side grows by at most 1000 / 16.
    pub fn decode(&self, reference: &BoundingBox, deltas: [f32; 4]) -> BoundingBox {
        let [x, y, width, height] = centered(reference);
        let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|i| deltas[i] / self.weights[i]);
        let center = [dx * width + x, dy * height + y];
        let sides = [
            dw.min(LARGEST_GROWTH).exp() * width,
            dh.min(LARGEST_GROWTH).exp() * height,
        ];
        BoundingBox::from_edges([
            center[0] - 0.5 * sides[0],
            center[1] - 0.5 * sides[1],
            center[0] + 0.5 * sides[0],
            center[1] + 0.5 * sides[1],
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_in_sides_and_growth_is_a_logarithm() {
        let coder = BoxCoder {
            weights: [10.0, 10.0, 5.0, 5.0],
        };
        let reference = BoundingBox::from_edges([0.0, 0.0, 10.0, 10.0]);
        let truth = BoundingBox::from_edges([1.0, 2.0, 11.0, 14.0]);
        let deltas = coder.encode(&reference, &truth);
        let expected = [1.0, 3.0, 0.0, 5.0 * 1.2f32.ln()];
        for (ours, expected) in deltas.iter().zip(expected) {
            assert!((ours - expected).abs() < 1e-6, "{deltas:?}");
        }
        let back = coder.decode(&reference, deltas).edges();
        for (ours, expected) in back.iter().zip(truth.edges()) {
            assert!((ours - expected).abs() < 1e-5, "{back:?}");
        }
    }

    #[test]
    fn growth_is_bounded_from_above_alone() {
        let coder = BoxCoder { weights: [1.0; 4] };
        let reference = BoundingBox::from_edges([0.0, 0.0, 16.0, 16.0]);
        let grown = coder.decode(&reference, [0.0, 0.0, 5.0, 100.0]);
        assert!((grown.width() - 1000.0).abs() < 1e-2 && (grown.height() - 1000.0).abs() < 1e-2);
        let shrunken = coder.decode(&reference, [0.0, 0.0, -5.0, 0.0]);
        assert!((shrunken.width() - 16.0 * (-5.0f32).exp()).abs() < 1e-5);
    }
}
