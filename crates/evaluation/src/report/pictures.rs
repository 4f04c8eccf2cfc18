//! The photographs in a report: read again by feature row, reduced, encoded.

use crate::features::Features;
use data::thumbnail::{square_thumbnail, thumbnail, to_jpeg};
use data::{Dataset, DecodeLimits, RgbImage, decode_and};
use rayon::prelude::*;

/// JPEG quality of all pictures.
const QUALITY: u8 = 78;
/// Side of a picture in the map's sprite sheet, px.
const TILE_PX: u32 = 32;

/// The record of each feature row. Records whose picture could not be decoded have no row, and keys are in
/// the data set's order.
pub(crate) fn positions(dataset: &Dataset, features: &Features) -> Vec<usize> {
    let mut positions = Vec::with_capacity(features.records());
    let mut next = 0;
    for position in 0..dataset.len() {
        if next < features.records() && dataset.key(position).is_ok_and(|key| key == features.keys[next]) {
            positions.push(position);
            next += 1;
        }
    }
    positions
}

/// What `work` makes of a record's picture, if it is readable.
fn reduced<T>(dataset: &Dataset, position: usize, work: impl FnOnce(&RgbImage) -> T) -> Option<T> {
    let mut encoded = vec![];
    dataset.read_image(position, &mut encoded).ok()?;
    decode_and(&encoded, &DecodeLimits::DEFAULT, |image| work(&image)).ok()
}

/// A reduced picture as JPEG; empty where it cannot be read.
pub(crate) fn small_jpeg(dataset: &Dataset, position: usize, side_px: u32) -> Vec<u8> {
    reduced(dataset, position, |image| jpeg(&thumbnail(image, side_px))).unwrap_or_default()
}

/// A picture as JPEG.
pub(crate) fn jpeg(image: &RgbImage) -> Vec<u8> {
    to_jpeg(image, QUALITY)
}

/// One sheet of square pictures, `columns` in a row, as JPEG, because separate files would consist mostly of
/// headers.
pub(crate) fn sheet(dataset: &Dataset, positions: &[usize], columns: usize) -> Vec<u8> {
    let tiles: Vec<Option<RgbImage>> = positions
        .par_iter()
        .map(|position| reduced(dataset, *position, |image| square_thumbnail(image, TILE_PX)))
        .collect();
    let (width, height) = (
        columns as u32 * TILE_PX,
        positions.len().div_ceil(columns.max(1)) as u32 * TILE_PX,
    );
    let mut sheet = RgbImage {
        width,
        height,
        pixels: vec![128; width as usize * height as usize * 3],
    };
    for (place, tile) in tiles.iter().enumerate() {
        if let Some(tile) = tile {
            let (column, row) = ((place % columns) as u32, (place / columns) as u32);
            data::contact_sheet::paste(&mut sheet, tile, column * TILE_PX, row * TILE_PX);
        }
    }
    jpeg(&sheet)
}

/// A matrix of shares (0..1) as a gray picture, one pixel each; 1 is white.
pub(crate) fn heat(values: &[f64], width: usize) -> RgbImage {
    RgbImage {
        width: width as u32,
        height: (values.len() / width.max(1)) as u32,
        pixels: values
            .iter()
            .flat_map(|value| [(255.0 * value.clamp(0.0, 1.0)) as u8; 3])
            .collect(),
    }
}

/// The picture with low-weight regions darkened; the weights of a grid are scaled to 0..1 by the largest.
pub(crate) fn lit(image: &RgbImage, weights: &[f64], [rows, columns]: [usize; 2]) -> RgbImage {
    let most = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = (image.width as usize, image.height as usize);
    let mut out = image.clone();
    for (place, pixel) in out.pixels.chunks_exact_mut(3).enumerate() {
        let (y, x) = (place / width, place % width);
        let weight = weights[(y * rows / height) * columns + x * columns / width] / most;
        let factor = 0.12 + 0.88 * weight.sqrt();
        pixel
            .iter_mut()
            .for_each(|value| *value = (f64::from(*value) * factor) as u8);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::decode;

    #[test]
    fn rows_find_their_records_past_broken_ones() {
        let dataset = Dataset::synthetic(5, 8, 8, 2, 0);
        let features = Features {
            keys: [1, 3, 4].map(|position| dataset.key(position).unwrap()).to_vec(),
            ..Features::default()
        };
        assert_eq!(positions(&dataset, &features), [1, 3, 4]);
    }

    #[test]
    fn a_sheet_has_a_place_for_each() {
        let dataset = Dataset::synthetic(5, 8, 12, 2, 0);
        let encoded = sheet(&dataset, &[0, 1, 2, 3, 4], 3);
        let sheet = decode(&encoded, &DecodeLimits::DEFAULT).unwrap();
        assert_eq!((sheet.width, sheet.height), (96, 64));
    }

    #[test]
    fn what_has_no_weight_is_dark() {
        let white = RgbImage {
            width: 2,
            height: 1,
            pixels: vec![255; 6],
        };
        let lit = lit(&white, &[0.5, 0.0], [1, 2]);
        assert_eq!(lit.pixels, [255, 255, 255, 30, 30, 30]);
        assert_eq!(heat(&[0.0, 1.0], 2).pixels, [0, 0, 0, 255, 255, 255]);
    }
}
