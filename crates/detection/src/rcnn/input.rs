//! A photo in, the pixels that a network sees out.

use super::config::ImageInput;
use crate::detector::Photo;

impl ImageInput {
    /// Height and width of a photo of this size after resizing, px.
    pub fn resized(&self, size: [usize; 2]) -> [usize; 2] {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let [height, width] = size.map(side);
        let (shorter, longest) = (side(self.short_side_px), side(self.long_side_px));
        let (width, height) = self.resize.size((width, height), shorter, longest);
        [height, width].map(|side| side as usize)
    }

    /// Height and width with the padding right of and below a resized photo, px.
    pub fn padded(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| side.next_multiple_of(self.multiple_of_px))
    }

    /// Writes a photo, resized to `size` and normalized, into the upper left corner of `planes`.
    ///
    /// `planes`: `[3, height, width]` of the sides `padded`. What lies outside the photo stays as it is.
    pub fn write(&self, photo: &Photo<'_>, size: [usize; 2], padded: [usize; 2], planes: &mut [f32]) {
        let [height, width] = size;
        let channels = if self.bgr { [2, 1, 0] } else { [0, 1, 2] };
        let (mut row, mut column) = (0, 0);
        let put = |pixel: [f32; 3]| {
            for (plane, channel) in channels.into_iter().enumerate() {
                planes[(plane * padded[0] + row) * padded[1] + column] =
                    (pixel[channel] - self.mean[channel]) / self.std[channel];
            }
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
        };
        let from = (photo.width, photo.height);
        self.resize
            .each_pixel(photo.pixels, from, (width as u32, height as u32), put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::parity::u;
    use crate::rcnn::{RcnnConfig, Version};
    use backbones::{ResNetConfig, Stem};
    use data::targets::ResizeRule;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        /// Height and width.
        from: [usize; 2],
        short: usize,
        long: usize,
        to: [usize; 2],
        padded: [usize; 2],
        /// Sums of the planes, padding included.
        sums: [f64; 3],
        /// Values at places floor(i n / 40) of the n in all planes.
        values: Vec<f64>,
    }

    fn inputs(short: usize, long: usize) -> ImageInput {
        let backbone = ResNetConfig {
            depth: 50,
            width: 64,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: false,
        };
        ImageInput {
            short_side_px: short,
            long_side_px: long,
            ..RcnnConfig::torchvision(Version::V1, backbone, 90, false).input
        }
    }

    #[test]
    fn photos_are_prepared_as_torchvision_does_it() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../fixtures/rcnn_input.json")).unwrap();
        for case in cases {
            let input = inputs(case.short, case.long);
            let [height, width] = case.from;
            assert_eq!(input.resized(case.from), case.to, "{:?}", case.from);
            assert_eq!(input.padded(case.to), case.padded);
            let pixels: Vec<u8> = u("photo", height * width * 3)
                .into_iter()
                .map(|value| (128.0 + 127.0 * value).floor() as u8)
                .collect();
            let photo = Photo {
                width: width as u32,
                height: height as u32,
                pixels: &pixels,
            };
            let area = case.padded[0] * case.padded[1];
            let mut planes = vec![0.0; 3 * area];
            input.write(&photo, case.to, case.padded, &mut planes);
            for (plane, sum) in planes.chunks_exact(area).zip(case.sums) {
                let ours: f64 = plane.iter().map(|value| f64::from(*value)).sum();
                assert!((ours - sum).abs() < 1e-5 * area as f64, "{ours} {sum}");
            }
            for (i, value) in case.values.iter().enumerate() {
                let ours = f64::from(planes[i * planes.len() / case.values.len()]);
                assert!((ours - value).abs() < 2e-4, "{:?} {i}: {ours} {value}", case.from);
            }
        }
    }

    #[test]
    fn detectron2s_sides_are_rounded_and_its_channels_reversed() {
        let input = ImageInput {
            resize: ResizeRule::Detectron2,
            bgr: true,
            mean: [1.0, 2.0, 3.0],
            std: [1.0, 1.0, 2.0],
            ..inputs(800, 1333)
        };
        assert_eq!(input.resized([480, 640]), [800, 1067]);
        let photo = Photo {
            width: 1,
            height: 1,
            pixels: &[10, 20, 30],
        };
        let mut planes = vec![0.0; 3 * 4];
        input.write(&photo, [1, 1], [2, 2], &mut planes);
        assert_eq!(
            planes,
            [13.5, 0.0, 0.0, 0.0, 18.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0]
        );
    }
}
