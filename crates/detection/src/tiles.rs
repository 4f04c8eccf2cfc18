//! Large photos in tiles: a small network misses small people in a photo shrunk to its input.

use serde::{Deserialize, Serialize};

use crate::boxes::{Edges, nms};
use crate::detector::{Detection, Detector, Photo};
use crate::error::{DetectionError, check_count, check_share};

/// How to cut a photo into tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TilesConfig {
    /// Side of a tile, px of the photo. A photo whose longer side is at most this runs only as a whole.
    pub tile_px: u32,
    /// Minimum overlap of neighboring tiles, px: the width of objects that must be whole in one tile.
    pub overlap_px: u32,
    /// NMS IoU threshold within a class, over the detections of all tiles.
    pub nms_iou: f32,
}

impl TilesConfig {
    /// Checks that a photo can be cut into such tiles.
    ///
    /// # Errors
    /// [`DetectionError::Config`], which names the key.
    pub fn validate(&self) -> Result<(), DetectionError> {
        check_count("tile_px", self.tile_px as usize)?;
        check_share("nms_iou", self.nms_iou)?;
        if self.overlap_px < self.tile_px {
            return Ok(());
        }
        Err(DetectionError::Config(format!(
            "`overlap_px` must be less than `tile_px` ({}), got {}",
            self.tile_px, self.overlap_px
        )))
    }

    /// Start positions of tiles along a side of `length` px, and their length.
    fn starts(&self, length: u32) -> (Vec<u32>, u32) {
        let tile = self.tile_px.min(length);
        let (way, step) = (length - tile, self.tile_px - self.overlap_px);
        let count = way.div_ceil(step);
        // Evenly spaced, from edge to edge.
        let start = |index: u32| (u64::from(way) * u64::from(index) / u64::from(count.max(1))) as u32;
        ((0..=count).map(start).collect(), tile)
    }
}

/// A detector that runs on each photo as a whole and, if the photo is large, on overlapping tiles too. A
/// tile's edge may cut an object that the next tile shows more of; both detections may remain, because their
/// boxes differ.
#[derive(Debug)]
pub struct Tiled<D> {
    detector: D,
    config: TilesConfig,
}

impl<D: Detector> Tiled<D> {
    /// `detector` with tiles.
    ///
    /// # Errors
    /// [`DetectionError::Config`].
    pub fn new(detector: D, config: TilesConfig) -> Result<Self, DetectionError> {
        config.validate()?;
        Ok(Self { detector, config })
    }

    fn detect_one(&self, photo: &Photo<'_>) -> Result<Vec<Detection>, DetectionError> {
        let (columns, width) = self.config.starts(photo.width);
        let (rows, height) = self.config.starts(photo.height);
        let mut corners = Vec::new();
        if columns.len() * rows.len() > 1 {
            let all = rows
                .iter()
                .flat_map(|top| columns.iter().map(move |left| (*left, *top)));
            corners.extend(all);
        }
        let cut = |(left, top): &(u32, u32)| {
            let line = |row: u32| (row as usize * photo.width as usize + *left as usize) * 3;
            let rows = (*top..top + height).map(|row| &photo.pixels[line(row)..][..width as usize * 3]);
            rows.collect::<Vec<_>>().concat()
        };
        let tiles = corners.iter().map(cut).collect::<Vec<_>>();
        let tiles = tiles.iter().map(|pixels| Photo {
            width,
            height,
            pixels,
        });
        let seen = self
            .detector
            .detect(&std::iter::once(*photo).chain(tiles).collect::<Vec<_>>())?;
        let corners = std::iter::once((0, 0)).chain(corners);
        let mut found = Vec::new();
        for ((left, top), seen) in corners.zip(seen) {
            let (x, y) = (left as f32, top as f32);
            found.extend(seen.into_iter().map(|mut detection| {
                detection.bounds = detection.bounds.moved(x, y);
                for point in &mut detection.landmarks {
                    *point = [point[0] + x, point[1] + y];
                }
                detection
            }));
        }
        Ok(suppressed(found, self.config.nms_iou, Edges::Continuous))
    }
}

impl<D: Detector> Detector for Tiled<D> {
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        for (position, photo) in photos.iter().enumerate() {
            photo.check(position)?;
        }
        photos.iter().map(|photo| self.detect_one(photo)).collect()
    }
}

/// The detections that [`nms`] within each class keeps, by falling score.
pub(crate) fn suppressed(mut found: Vec<Detection>, threshold: f32, edges: Edges) -> Vec<Detection> {
    let mut kept = Vec::new();
    while let Some(class) = found.first().map(|detection| detection.class) {
        let (of_class, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|detection| detection.class == class);
        let boxes = of_class
            .iter()
            .map(|detection| detection.bounds)
            .collect::<Vec<_>>();
        let scores = of_class
            .iter()
            .map(|detection| detection.score)
            .collect::<Vec<_>>();
        kept.extend(
            nms(&boxes, &scores, threshold, edges)
                .into_iter()
                .map(|position| of_class[position].clone()),
        );
        found = others;
    }
    kept.sort_by(|a, b| b.score.total_cmp(&a.score));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::targets::BoundingBox;

    /// Detects each white pixel, and records the photos that it receives.
    #[derive(Debug)]
    struct White(std::sync::Mutex<Vec<(u32, u32)>>);

    impl Detector for White {
        fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
            let mut shown = self.0.lock().unwrap();
            shown.extend(photos.iter().map(|photo| (photo.width, photo.height)));
            let find = |photo: &Photo<'_>| {
                let pixels = photo.pixels.chunks_exact(3).enumerate();
                let white = pixels.filter(|(_, pixel)| pixel[0] == 255);
                let place = |(at, _): (usize, &[u8])| {
                    let at = [(at as u32 % photo.width) as f32, (at as u32 / photo.width) as f32];
                    Detection {
                        bounds: BoundingBox::centered(at, [1.0, 1.0]),
                        class: 0,
                        score: 0.9,
                        landmarks: vec![at],
                        mask: None,
                    }
                };
                white.map(place).collect()
            };
            Ok(photos.iter().map(find).collect())
        }
    }

    fn config(tile_px: u32, overlap_px: u32) -> TilesConfig {
        TilesConfig {
            tile_px,
            overlap_px,
            nms_iou: 0.5,
        }
    }

    #[test]
    fn tiles_cover_a_side_from_edge_to_edge() {
        assert_eq!(config(10, 2).starts(10), (vec![0], 10));
        assert_eq!(config(10, 2).starts(7), (vec![0], 7));
        assert_eq!(config(10, 2).starts(11), (vec![0, 1], 10));
        assert_eq!(config(10, 2).starts(18), (vec![0, 8], 10));
        assert_eq!(config(10, 2).starts(19), (vec![0, 4, 9], 10));
        for length in 1..200 {
            let (starts, tile) = config(10, 2).starts(length);
            assert_eq!(starts.last().unwrap() + tile, length);
            // Neighbors share at least the overlap.
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= 8));
        }
    }

    #[test]
    fn what_tiles_see_comes_back_in_the_photos_pixels_once() {
        let mut pixels = vec![0; 25 * 12 * 3];
        for (x, y) in [(3, 2), (24, 11), (12, 5)] {
            pixels[(y * 25 + x) * 3] = 255;
        }
        let photo = Photo {
            width: 25,
            height: 12,
            pixels: &pixels,
        };
        let tiled = Tiled::new(White(Default::default()), config(10, 2)).unwrap();
        let found = tiled.detect(&[photo]).unwrap().remove(0);
        let mut places = found.iter().map(|found| found.landmarks[0]).collect::<Vec<_>>();
        places.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(places, [[3.0, 2.0], [12.0, 5.0], [24.0, 11.0]]);
        assert_eq!(found[0].bounds.right - found[0].bounds.left, 1.0);
        // The whole photo, and 3 x 2 tiles.
        let shown = tiled.detector.0.lock().unwrap();
        assert_eq!((shown.len(), shown[0], shown[1]), (7, (25, 12), (10, 10)));
    }

    #[test]
    fn small_photos_are_seen_once() {
        let pixels = [0; 10 * 10 * 3];
        let photo = Photo {
            width: 10,
            height: 10,
            pixels: &pixels,
        };
        let tiled = Tiled::new(White(Default::default()), config(10, 2)).unwrap();
        assert_eq!(tiled.detect(&[photo, photo]).unwrap(), [vec![], vec![]]);
        assert_eq!(tiled.detector.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn bad_numbers_and_photos_are_named() {
        let error = Tiled::new(White(Default::default()), config(10, 10)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`overlap_px` must be less than `tile_px` (10), got 10"
        );
        let tiled = Tiled::new(White(Default::default()), config(10, 2)).unwrap();
        let photo = Photo {
            width: 10,
            height: 10,
            pixels: &[0; 5],
        };
        let error = tiled.detect(&[photo]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "photo 0 of the batch must have 3 x 10 x 10 bytes and at least one, got 5"
        );
    }
}
