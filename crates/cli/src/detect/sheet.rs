//! Photos with their detections in, one picture of the top-scoring ones out.

use super::lettering::letter;
use crate::detectors::photo;
use data::RgbImage;
use detection::{Detection, Letterbox, resize};

/// Side of a photo's square on the sheet, px.
const CELL_PX: u32 = 320;
/// Space around it, px.
const GAP_PX: u32 = 4;
/// Squares in a row.
const COLUMNS: usize = 5;

const RED: [u8; 3] = [255, 40, 40];
const GREEN: [u8; 3] = [60, 255, 60];
/// Colors of classes, in turn.
const COLORS: [[u8; 3]; 8] = [
    [214, 39, 40],
    [31, 119, 180],
    [44, 140, 44],
    [200, 100, 0],
    [148, 80, 189],
    [140, 86, 75],
    [200, 60, 160],
    [0, 130, 140],
];

/// The top-scoring photos so far, resized and with boxes drawn.
pub(super) struct Sheet<'a> {
    limit: usize,
    /// Names of the classes, which are drawn beside the boxes if they are given.
    names: Option<&'a [Option<String>]>,
    cells: Vec<(f32, RgbImage)>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(limit: usize, names: Option<&'a [Option<String>]>) -> Self {
        Self {
            limit,
            names,
            cells: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, top: f32, image: &RgbImage, detections: &[Detection], score: f32) {
        let fit = Letterbox::new(image.width, image.height, CELL_PX, CELL_PX);
        let mut cell = RgbImage {
            width: fit.width,
            height: fit.height,
            pixels: resize(&photo(image), fit.width, fit.height),
        };
        // The least confident first, so that the others lie on top.
        for detection in detections
            .iter()
            .filter(|detection| detection.score > score)
            .rev()
        {
            self.draw(&mut cell, detection, fit.ratio);
        }
        self.cells.push((top, cell));
        // Not after each photo, and never all photos of the data set.
        if self.cells.len() > 2 * self.limit {
            self.keep_surest();
        }
    }

    /// Draws a detection into its photo, of which a pixel is `ratio` pixels of the cell.
    fn draw(&self, cell: &mut RgbImage, detection: &Detection, ratio: f32) {
        let bounds = detection.bounds.scaled(ratio, ratio);
        let color = match self.names {
            Some(_) => COLORS[detection.class % COLORS.len()],
            None => RED,
        };
        if let Some(mask) = detection.segmentation(&bounds, cell.width, cell.height) {
            let inside = mask.to_rows();
            let pixels = cell.pixels.as_chunks_mut::<3>().0.iter_mut().zip(inside);
            for (pixel, _) in pixels.filter(|(_, inside)| *inside == 1) {
                *pixel = [0, 1, 2].map(|channel: usize| pixel[channel].midpoint(color[channel]));
            }
        }
        data::contact_sheet::rectangle(cell, bounds.edges(), color);
        for [x, y] in &detection.landmarks {
            let (x, y) = (x * ratio, y * ratio);
            data::contact_sheet::rectangle(cell, [x - 1.0, y - 1.0, x + 1.0, y + 1.0], GREEN);
        }
        if let Some(names) = self.names {
            let name = names.get(detection.class).and_then(Option::as_deref);
            let name = name.map_or_else(|| detection.class.to_string(), str::to_owned);
            let text = format!("{name} {:.2}", detection.score);
            letter(cell, &text, [bounds.left, bounds.top], color);
        }
    }

    fn keep_surest(&mut self) {
        self.cells.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.cells.truncate(self.limit);
    }

    pub(super) fn drawn(mut self) -> Option<RgbImage> {
        self.keep_surest();
        let rows = self.cells.len().div_ceil(COLUMNS) as u32;
        if rows == 0 {
            return None;
        }
        let step = CELL_PX + GAP_PX;
        let (width, height) = (COLUMNS as u32 * step + GAP_PX, rows * step + GAP_PX);
        let mut sheet = RgbImage {
            width,
            height,
            pixels: vec![255; width as usize * height as usize * 3],
        };
        for (index, (_, cell)) in self.cells.iter().enumerate() {
            let place = |number: usize| GAP_PX + number as u32 * step;
            let (left, top) = (place(index % COLUMNS), place(index / COLUMNS));
            data::contact_sheet::paste(&mut sheet, cell, left, top);
        }
        Some(sheet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_the_surest_photos() {
        let gray = |value| RgbImage {
            width: 4,
            height: 2,
            pixels: vec![value; 24],
        };
        let mut sheet = Sheet::new(2, None);
        for (top, value) in [(0.6, 10), (0.9, 20), (0.7, 30), (0.55, 40), (0.8, 50), (0.5, 60)] {
            sheet.add(top, &gray(value), &[], 0.5);
        }
        let picture = sheet.drawn().unwrap();
        assert_eq!((picture.width, picture.height), (5 * 324 + 4, 324 + 4));
        let at = |x: usize, y: usize| picture.pixels[(y * picture.width as usize + x) * 3];
        assert!(at(4, 4).abs_diff(20) < 2 && at(328, 4).abs_diff(50) < 2);
        assert!(Sheet::new(2, None).drawn().is_none());
    }

    #[test]
    fn names_boxes_and_masks_are_drawn_in_the_color_of_the_class() {
        let gray = RgbImage {
            width: 320,
            height: 320,
            pixels: vec![100; 320 * 320 * 3],
        };
        let found = Detection {
            bounds: detection::BoundingBox::from_edges([40.0, 60.0, 200.0, 260.0]),
            class: 1,
            score: 0.9,
            landmarks: vec![],
            mask: Some(detection::InstanceMask {
                probabilities: vec![1.0; 4],
                side: 2,
                paste: detection::parts::Paste::PixelCenters,
            }),
        };
        let names = [None, Some("cat".to_owned())];
        let mut sheet = Sheet::new(1, Some(&names));
        sheet.add(
            0.9,
            &gray,
            &[found.clone(), Detection { score: 0.3, ..found }],
            0.5,
        );
        let picture = sheet.drawn().unwrap();
        let at = |x: usize, y: usize| {
            let at = ((y + 4) * picture.width as usize + x + 4) * 3;
            [picture.pixels[at], picture.pixels[at + 1], picture.pixels[at + 2]]
        };
        let color = COLORS[1];
        assert_eq!(at(40, 100), color);
        assert_eq!(at(120, 260), color);
        assert_eq!(at(120, 200), color.map(|value| value.midpoint(100)));
        assert_eq!(at(300, 300), [100; 3]);
        // The name lies above the box, on its color.
        assert_eq!(at(41, 51), color);
        let white = (40..120)
            .flat_map(|x| (48..60).map(move |y| (x, y)))
            .filter(|(x, y)| at(*x, *y) == [255; 3]);
        assert!(white.count() > 20);
    }
}
