//! Prior boxes of a single-shot detector, and the conversion of its outputs to boxes.
//!
//! Liu et al., *SSD: Single shot multibox detector*, 2016, §2.2, as used by RetinaFace: square priors of two
//! sizes at each position of three feature maps. All values are shares of the image's width and height.

use data::targets::BoundingBox;

/// The position and size to which the network's output is relative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PriorBox {
    /// Center, shares of width and height.
    pub center: [f32; 2],
    /// Width and height, shares of the image's.
    pub size: [f32; 2],
}

/// The prior boxes of an image, in the order of the network's output: by feature map, by row from the top, by
/// position from the left, by size. `levels` holds the stride of each map and the sides of its squares, px; a
/// map has ⌈height / stride⌉ rows and ⌈width / stride⌉ columns.
pub fn prior_boxes(width: usize, height: usize, levels: &[(usize, &[f32])]) -> Vec<PriorBox> {
    let (wide, high) = (width as f32, height as f32);
    let mut priors = Vec::new();
    for (stride, sides) in levels {
        for row in 0..height.div_ceil(*stride) {
            for column in 0..width.div_ceil(*stride) {
                let at = |index: usize| (index as f32 + 0.5) * *stride as f32;
                priors.extend(sides.iter().map(|side| PriorBox {
                    center: [at(column) / wide, at(row) / high],
                    size: [side / wide, side / high],
                }));
            }
        }
    }
    priors
}

/// The box, in shares of the image, for a prior and `offsets` (right, down, wider, higher). The first two,
/// times `variances[0]`, move the center in units of the prior's size; the others, times `variances[1]`, are
/// logarithms of the size ratio.
pub fn decode_box(prior: &PriorBox, offsets: [f32; 4], variances: [f32; 2]) -> BoundingBox {
    let [x, y, width, height] = offsets;
    let size = [
        prior.size[0] * (width * variances[1]).exp(),
        prior.size[1] * (height * variances[1]).exp(),
    ];
    BoundingBox::centered(moved(prior, [x, y], variances[0]), size)
}

/// The points, in shares of the image, for a prior and `offsets` from its center, scaled by `variance` and
/// the prior's size.
pub fn decode_landmarks<'a>(
    prior: &'a PriorBox,
    offsets: &'a [f32],
    variance: f32,
) -> impl Iterator<Item = [f32; 2]> + 'a {
    let pairs = offsets.chunks_exact(2);
    pairs.map(move |pair| moved(prior, [pair[0], pair[1]], variance))
}

fn moved(prior: &PriorBox, [x, y]: [f32; 2], variance: f32) -> [f32; 2] {
    [
        prior.center[0] + x * variance * prior.size[0],
        prior.center[1] + y * variance * prior.size[1],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priors_lie_in_the_middle_of_their_cells() {
        // 3 columns and 2 rows of stride 8, then one of stride 32.
        let priors = prior_boxes(20, 10, &[(8, &[4.0, 6.0]), (32, &[16.0])]);
        assert_eq!(priors.len(), 3 * 2 * 2 + 1);
        assert_eq!(priors[0].center, [4.0 / 20.0, 4.0 / 10.0]);
        assert_eq!(priors[0].size, [4.0 / 20.0, 4.0 / 10.0]);
        assert_eq!(
            (priors[1].center, priors[1].size[0]),
            (priors[0].center, 6.0 / 20.0)
        );
        // The next position is to the right; then the next row starts.
        assert_eq!(priors[2].center, [12.0 / 20.0, 4.0 / 10.0]);
        assert_eq!(priors[6].center, [4.0 / 20.0, 12.0 / 10.0]);
        assert_eq!(priors[12].center, [16.0 / 20.0, 16.0 / 10.0]);
    }

    #[test]
    fn offsets_move_and_stretch_a_prior() {
        let prior = PriorBox {
            center: [0.5, 0.25],
            size: [0.2, 0.1],
        };
        let plain = decode_box(&prior, [0.0; 4], [0.1, 0.2]);
        let near = |a: BoundingBox, b: [f32; 4]| {
            let a = [a.left, a.top, a.right, a.bottom];
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
        };
        near(plain, [0.4, 0.2, 0.6, 0.3]);
        // 5 to the right is 5 * 0.1 * 0.2 = 0.1; ln 2 / 0.2 doubles the width.
        let stretched = decode_box(&prior, [5.0, -5.0, 2f32.ln() / 0.2, 0.0], [0.1, 0.2]);
        near(stretched, [0.4, 0.15, 0.8, 0.25]);
        let points = decode_landmarks(&prior, &[5.0, -5.0, 0.0, 10.0], 0.1).collect::<Vec<_>>();
        assert!((points[0][0] - 0.6).abs() < 1e-6 && (points[0][1] - 0.2).abs() < 1e-6);
        assert_eq!(points[1], [0.5, 0.25 + 10.0 * 0.1 * 0.1]);
    }
}
