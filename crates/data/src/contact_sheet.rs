//! A picture of the network's input: each original beside its views, one record per row.

use std::path::Path;

use image::ExtendedColorType;

use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, RgbImage, decode_and};
use crate::durable;
use crate::error::{DecodeError, Error};
use crate::order::Order;
use crate::randomness::{Purpose, generator};
use crate::transforms::geometry::{self, CropBox, Resampler};
use crate::transforms::{Filter, ViewGroup, ViewMaker};

/// Space between the pictures, px.
const GAP_PX: u32 = 4;
/// Value of the space between the pictures.
const BACKGROUND: u8 = 255;

/// Draws records `first` to `first + records` - 1 of a data set, each with the views that a run with this
/// seed draws in this epoch. A record that cannot be decoded leaves its row empty.
///
/// # Errors
/// [`Error`] where a view group is not valid, or a record cannot be read.
pub fn contact_sheet(
    dataset: &Dataset,
    views: &[ViewGroup],
    seed: u64,
    epoch: u64,
    first: usize,
    records: usize,
) -> Result<RgbImage, Error> {
    let layout = Layout::new(views)?;
    let records = records.min(dataset.len().saturating_sub(first));
    if records == 0 {
        return Err(Error::Position {
            position: first,
            records: dataset.len(),
        });
    }
    let positions = (first..first + records).collect::<Vec<_>>();
    let broken = &mut |position, reason| {
        tracing::warn!(key = %dataset.key(position)?, %reason, "broken record");
        Ok(())
    };
    layout.draw(dataset, seed, epoch, &positions, broken)
}

/// The same for the first records that a run with this seed and order sees: as many as give a sheet of at most `most_pixels`,
/// but at least one and at most eight. Broken records leave their rows empty; the run reports them.
///
/// # Errors
/// Those of [`contact_sheet`].
pub fn first_views(
    dataset: &Dataset,
    views: &[ViewGroup],
    order: Order,
    seed: u64,
    most_pixels: u64,
) -> Result<RgbImage, Error> {
    let layout = Layout::new(views)?;
    let rows = (most_pixels / (layout.row_width() * layout.row_height())).clamp(1, 8);
    let records = u32::try_from(dataset.len()).unwrap_or(u32::MAX);
    let positions = order.epoch(records, seed, 0).into_iter();
    let positions = positions.take(rows as usize).map(|position| position as usize);
    layout.draw(dataset, seed, 0, &positions.collect::<Vec<_>>(), &mut |_, _| {
        Ok(())
    })
}

/// The pictures of a row: the original, resized to a square, and the views.
struct Layout<'a> {
    /// The group of each view, with its width and height, px.
    sizes: Vec<(&'a ViewGroup, (u32, u32))>,
    /// The original's side, as high as the highest view.
    row_px: u32,
}

impl<'a> Layout<'a> {
    fn new(views: &'a [ViewGroup]) -> Result<Self, Error> {
        let mut sizes = Vec::new();
        for (group, view) in views.iter().enumerate() {
            view.validate().map_err(|reason| Error::Views { group, reason })?;
            sizes.extend(
                view.output_px()
                    .into_iter()
                    .flat_map(|size| std::iter::repeat_n((view, size), view.count)),
            );
        }
        let heights = sizes.iter().map(|(_, (_, height))| *height);
        let row_px = heights.max().unwrap_or(0).max(32);
        Ok(Self { sizes, row_px })
    }

    /// Pixels across, with the gaps.
    fn row_width(&self) -> u64 {
        let widths = self.sizes.iter().map(|(_, (width, _))| u64::from(width + GAP_PX));
        widths.sum::<u64>() + u64::from(self.row_px + 2 * GAP_PX)
    }

    /// Pixels down, with one gap.
    fn row_height(&self) -> u64 {
        u64::from(self.row_px + GAP_PX)
    }

    /// One row for each position; `broken` is called for records that cannot be decoded.
    fn draw(
        &self,
        dataset: &Dataset,
        seed: u64,
        epoch: u64,
        positions: &[usize],
        broken: &mut dyn FnMut(usize, DecodeError) -> Result<(), Error>,
    ) -> Result<RgbImage, Error> {
        let (row_px, rows) = (self.row_px, positions.len() as u64);
        let most = DecodeLimits::DEFAULT.pixels / self.row_width() / self.row_height();
        let (Ok(width), Ok(height)) = (
            u32::try_from(self.row_width()),
            u32::try_from(rows * self.row_height() + u64::from(GAP_PX)),
        ) else {
            return Err(too_many_rows(most, positions.len()));
        };
        if rows > most {
            return Err(too_many_rows(most, positions.len()));
        }
        let mut sheet = RgbImage {
            width,
            height,
            pixels: vec![BACKGROUND; width as usize * height as usize * 3],
        };

        let mut encoded = Vec::new();
        let mut maker = ViewMaker::default();
        for (row, &position) in positions.iter().enumerate() {
            dataset.read_image(position, &mut encoded)?;
            let top = GAP_PX + row as u32 * (row_px + GAP_PX);
            let drawn = decode_and(
                &encoded,
                &DecodeLimits::DEFAULT,
                |image| -> Result<_, DecodeError> {
                    let mut row = vec![(fit(&image, row_px), GAP_PX)];
                    let mut left = row_px + 2 * GAP_PX;
                    for (view, (group, (width, height))) in self.sizes.iter().enumerate() {
                        let (width, height) = (*width, *height);
                        let mut planes = vec![0; width as usize * height as usize * 3];
                        let mut source = generator(seed, Purpose::View, epoch, position as u64, view as u64);
                        maker.make(&image, group, &mut source, &mut planes)?;
                        let mut pixels = vec![0; planes.len()];
                        geometry::from_planes(&planes, &mut pixels);
                        let drawn = RgbImage {
                            width,
                            height,
                            pixels,
                        };
                        row.push((drawn, left));
                        left += width + GAP_PX;
                    }
                    Ok(row)
                },
            );
            match drawn.flatten() {
                Ok(row) => {
                    for (picture, left) in row {
                        paste(&mut sheet, &picture, left, top);
                    }
                }
                Err(reason) => {
                    broken(position, reason)?;
                    // After a panic, the memory may be in any state.
                    maker = ViewMaker::default();
                }
            }
        }
        Ok(sheet)
    }
}

fn too_many_rows(most: u64, records: usize) -> Error {
    Error::Option {
        option: "records",
        reason: format!("must be at most {most} for a sheet of these views, got {records}"),
    }
}

/// Writes a picture as PNG.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn write_png(image: &RgbImage, path: &Path) -> Result<(), Error> {
    use image::ImageEncoder;
    let mut encoded = Vec::new();
    image::codecs::png::PngEncoder::new(&mut encoded)
        .write_image(&image.pixels, image.width, image.height, ExtendedColorType::Rgb8)
        .map_err(std::io::Error::other)
        .map_err(Error::io("write", path))?;
    Ok(durable::write(path, &encoded)?)
}

/// The image resized to fit into a square.
fn fit(image: &RgbImage, side: u32) -> RgbImage {
    let longer = image.width.max(image.height);
    let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longer)).max(1) as u32;
    let mut out = RgbImage::default();
    let (width, height) = (scaled(image.width), scaled(image.height));
    Resampler::default().crop_and_resize(
        image,
        CropBox::whole(image),
        width,
        height,
        Filter::Bilinear,
        &mut out,
    );
    out
}

/// Copies a picture onto a sheet, its upper left corner at `left`, `top`, px.
///
/// # Panics
/// If it does not fit onto the sheet there.
pub fn paste(sheet: &mut RgbImage, picture: &RgbImage, left: u32, top: u32) {
    let row_bytes = picture.width as usize * 3;
    for (y, row) in picture.pixels.chunks_exact(row_bytes).enumerate() {
        let start = ((top as usize + y) * sheet.width as usize + left as usize) * 3;
        sheet.pixels[start..start + row_bytes].copy_from_slice(row);
    }
}

/// Draws the edges of a rectangle, in px, clipped to the image.
pub fn rectangle(image: &mut RgbImage, [left, top, right, bottom]: [f32; 4], color: [u8; 3]) {
    let inside = |place: f32, side: u32| place.round().clamp(0.0, side.saturating_sub(1) as f32) as usize;
    let (left, right) = (inside(left, image.width), inside(right, image.width));
    let (top, bottom) = (inside(top, image.height), inside(bottom, image.height));
    let wide = image.width as usize;
    let across = (left..=right).flat_map(|x| [(x, top), (x, bottom)]);
    let down = (top..=bottom).flat_map(|y| [(left, y), (right, y)]);
    for (x, y) in across.chain(down) {
        if let Some(pixel) = image.pixels.get_mut((y * wide + x) * 3..(y * wide + x) * 3 + 3) {
            pixel.copy_from_slice(&color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;
    use crate::transforms::Transform;
    use std::sync::Arc;

    #[test]
    fn a_sheet_shows_the_original_and_the_views_that_training_sees() {
        let dataset = Arc::new(Dataset::synthetic(5, 64, 32, 0, 3));
        let crop = |size_px| Transform::RandomResizedCrop {
            size_px,
            scale: [0.3, 0.8],
            ratio: [0.75, 1.33],
            filter: Filter::Bilinear,
        };
        let views = vec![
            ViewGroup {
                count: 2,
                transforms: vec![crop(40)],
            },
            ViewGroup {
                count: 1,
                transforms: vec![crop(16)],
            },
        ];
        let sheet = contact_sheet(&dataset, &views, 7, 1, 1, 2).unwrap();
        // Original 40 px high, views of 40, 40 and 16 px, a gap around each.
        assert_eq!(
            (sheet.width, sheet.height),
            (40 + 40 + 40 + 16 + 5 * 4, 2 * 44 + 4)
        );

        let config = crate::LoaderConfig {
            batch_images: 5,
            workers: 0,
            max_bad_fraction: 0.0,
        };
        let batch = crate::Loader::new(
            Arc::clone(&dataset),
            views.clone(),
            config,
            crate::Order::Sequential,
            7,
        )
        .unwrap()
        .batches(1, 2)
        .next()
        .unwrap()
        .unwrap();
        // Second view of record 2: its red plane, compared with its place in the second row of the sheet.
        let plane = &batch.views[0].pixels[(5 + 2) * 3 * 40 * 40..][..40 * 40];
        for (at, value) in plane.iter().enumerate() {
            let (x, y) = (4 + 2 * 44 + at % 40, 4 + 44 + at / 40);
            assert_eq!(sheet.pixels[(y * sheet.width as usize + x) * 3], *value);
        }

        // The rows of a run in the data set's own order are the same pictures.
        let in_order = first_views(&dataset, &views, crate::Order::Sequential, 7, 2 * 164 * 44).unwrap();
        assert_eq!(in_order, contact_sheet(&dataset, &views, 7, 0, 0, 2).unwrap());
        // However small the sheet, there is one record.
        let one = first_views(&dataset, &views, crate::Order::Global, 7, 1).unwrap();
        assert_eq!((one.width, one.height), (156, 44 + 4));
        let first = crate::Order::Global.epoch(5, 7, 0)[0] as usize;
        assert_eq!(one, contact_sheet(&dataset, &views, 7, 0, first, 1).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        write_png(&sheet, &path).unwrap();
        let written = decode(&std::fs::read(&path).unwrap(), &DecodeLimits::DEFAULT).unwrap();
        assert_eq!(written, sheet);
        assert!(contact_sheet(&Dataset::synthetic(5, 8, 8, 0, 0), &[], 0, 0, 9, 1).is_err());
    }

    #[test]
    fn rectangles_are_drawn_as_far_as_they_lie_inside() {
        let mut image = RgbImage {
            width: 6,
            height: 4,
            pixels: vec![0; 72],
        };
        rectangle(&mut image, [1.0, -5.0, 4.0, 2.0], [9, 9, 9]);
        let drawn = image.pixels.chunks(3).map(|pixel| u8::from(pixel[0] == 9));
        let rows = drawn.collect::<Vec<_>>();
        assert_eq!(rows[..6], [0, 1, 1, 1, 1, 0]);
        assert_eq!(rows[6..12], [0, 1, 0, 0, 1, 0]);
        assert_eq!(rows[12..18], [0, 1, 1, 1, 1, 0]);
        assert_eq!(rows[18..], [0; 6]);
        // Far outside, or not a number.
        rectangle(&mut image, [f32::NAN, 90.0, 91.0, f32::INFINITY], [1, 1, 1]);
    }
}
