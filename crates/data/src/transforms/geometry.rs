//! Cropping and resizing: torchvision's choice of the crop, and Pillow's antialiased resize of it.
//!
//! The crop is a view, not a copy, yet pixels outside it never affect the result: torchvision crops first and
//! then resizes.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use rand_chacha::ChaCha8Rng;

use super::Filter;
use super::simd::{Kernel, vectorized};
use super::window::{Window, resize_window};
use crate::decode::RgbImage;
use crate::randomness::{below, uniform};

/// A rectangle of an image, px from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// Columns left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

impl CropBox {
    /// The whole of an image.
    pub(crate) fn whole(image: &RgbImage) -> CropBox {
        CropBox {
            left: 0,
            top: 0,
            width: image.width,
            height: image.height,
        }
    }
}

/// How often a crop is drawn before the center crop is the fallback, as in torchvision.
const CROP_TRIES: usize = 10;

/// Draws the crop for `RandomResizedCrop`, as torchvision's `get_params`.
///
/// The share of the area is uniform in `scale`, the logarithm of width / height uniform in that of `ratio`,
/// the place uniform among those where the crop fits. After ten crops that did not fit: the largest central
/// one of allowed ratio.
pub(crate) fn random_crop_box(
    width: u32,
    height: u32,
    scale: [f64; 2],
    ratio: [f64; 2],
    generator: &mut ChaCha8Rng,
) -> CropBox {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..CROP_TRIES {
        let target_area = area * uniform(generator, scale[0], scale[1]);
        let aspect = uniform(generator, ratio[0].ln(), ratio[1].ln()).exp();
        // Python's `round` takes halves to the even number.
        let crop_width = (target_area * aspect).sqrt().round_ties_even() as u32;
        let crop_height = (target_area / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let top = below(generator, u64::from(height - crop_height) + 1) as u32;
            let left = below(generator, u64::from(width - crop_width) + 1) as u32;
            return CropBox {
                left,
                top,
                width: crop_width,
                height: crop_height,
            };
        }
    }
    let aspect = f64::from(width) / f64::from(height);
    let (crop_width, crop_height) = if aspect < ratio[0] {
        (width, (f64::from(width) / ratio[0]).round_ties_even() as u32)
    } else if aspect > ratio[1] {
        ((f64::from(height) * ratio[1]).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    // At least one pixel, and no more than exist: torchvision can compute 0 on images one pixel wide.
    let (crop_width, crop_height) = (crop_width.clamp(1, width), crop_height.clamp(1, height));
    CropBox {
        left: (width - crop_width) / 2,
        top: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// Width and height after torchvision's `Resize(shorter)`: the longer side is rounded down, and at least 1.
pub(crate) fn shorter_side_size(width: u32, height: u32, shorter: u32) -> (u32, u32) {
    let (short, long) = (width.min(height).max(1), width.max(height));
    let long = (u64::from(shorter) * u64::from(long) / u64::from(short)).max(1) as u32;
    if width <= height {
        (shorter, long)
    } else {
        (long, shorter)
    }
}

/// Most pixels of a resized picture that is made whole although a center crop follows: four million, so that
/// photographs take the fast way, and only pictures of extreme proportions the other.
pub(crate) const WHOLE_PIXELS: u64 = 1 << 22;

/// Pixels of a picture.
pub(crate) fn pixels(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height)
}

/// A resized copy of an image.
pub(crate) fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let mut out = RgbImage::default();
    Resampler::default().crop_and_resize(image, CropBox::whole(image), width, height, filter, &mut out);
    out
}

/// Memory of the resize, reused between images.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    resizer: Resizer,
    narrowed: Vec<u8>,
}

impl Resampler {
    /// Pillow's `image.crop(part).resize((width, height), filter)`, into `out`.
    ///
    /// `part` must lie within the image, and width and height be at least 1.
    pub(crate) fn crop_and_resize(
        &mut self,
        image: &RgbImage,
        part: CropBox,
        width: u32,
        height: u32,
        filter: Filter,
        out: &mut RgbImage,
    ) {
        (out.width, out.height) = (width, height);
        out.pixels.resize(pixel_bytes(width, height), 0);
        let source = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, &image.pixels)
            .expect("an image has three bytes for each of its pixels");
        let part = TypedCroppedImage::from_ref(&source, part.left, part.top, part.width, part.height)
            .expect("the part lies within the image");
        if part.width() == width {
            self.pass(&part, width, height, filter, &mut out.pixels);
            return;
        }
        // Pillow resizes rows first and rounds (and, with the cubic filter, clips) before it resizes columns.
        // The `fast_image_resize` crate would do columns first, so it is called once per direction.
        let mut narrowed = std::mem::take(&mut self.narrowed);
        narrowed.resize(pixel_bytes(width, part.height()), 0);
        self.pass(&part, width, part.height(), filter, &mut narrowed);
        let rows = TypedImageRef::<U8x3>::from_buffer(width, part.height(), &narrowed)
            .expect("the buffer was made for these sides");
        self.pass(&rows, width, height, filter, &mut out.pixels);
        self.narrowed = narrowed;
    }

    /// torchvision's `Resize(shorter)` and then `CenterCrop(size)`, into `out`, without the pixels between that
    /// the crop drops; `spare` is memory. The result is the same to the bit.
    pub(crate) fn resize_and_center_crop(
        &mut self,
        image: &RgbImage,
        (shorter, filter): (u32, Filter),
        size: u32,
        spare: &mut RgbImage,
        out: &mut RgbImage,
    ) {
        let (width, height) = shorter_side_size(image.width, image.height, shorter);
        if pixels(width, height) <= WHOLE_PIXELS {
            // The fast way; its memory is small.
            self.crop_and_resize(image, CropBox::whole(image), width, height, filter, spare);
        } else {
            let kept = |side: u32| {
                let (start, _, length) = center(side, size);
                start..start + length
            };
            let window = Window {
                columns: kept(width),
                rows: kept(height),
            };
            resize_window(image, (width, height), filter, &window, &mut self.narrowed, spare);
        }
        center_crop(spare, size, size, out);
    }

    /// Bytes of memory that this one keeps.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.narrowed.capacity()
    }

    fn pass(
        &mut self,
        source: &impl ImageView<Pixel = U8x3>,
        width: u32,
        height: u32,
        filter: Filter,
        out: &mut [u8],
    ) {
        let kind = match filter {
            Filter::Bilinear => FilterType::Bilinear,
            // a = -0.5, which is Pillow's cubic.
            Filter::Bicubic => FilterType::CatmullRom,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(kind));
        let mut target =
            TypedImage::<U8x3>::from_buffer(width, height, out).expect("the buffer was made for these sides");
        self.resizer
            .resize_typed(source, &mut target, &options)
            .expect("crop and target are of one pixel type");
    }
}

/// torchvision's `center_crop`: the center of an image, with black where the image is too small.
pub(crate) fn center_crop(image: &RgbImage, width: u32, height: u32, out: &mut RgbImage) {
    (out.width, out.height) = (width, height);
    out.pixels.clear();
    out.pixels.resize(pixel_bytes(width, height), 0);
    // Columns: where the image starts in the result, or the result in the image.
    let (from_x, to_x, columns) = center(image.width, width);
    let (from_y, to_y, rows) = center(image.height, height);
    for row in 0..rows {
        let from = pixel_bytes(image.width, from_y + row) + pixel_bytes(from_x, 1);
        let to = pixel_bytes(width, to_y + row) + pixel_bytes(to_x, 1);
        let bytes = pixel_bytes(columns, 1);
        out.pixels[to..to + bytes].copy_from_slice(&image.pixels[from..from + bytes]);
    }
}

/// Start in the image, start in the result, and length of their overlap, for one direction.
fn center(image: u32, result: u32) -> (u32, u32, u32) {
    if image >= result {
        let start = (f64::from(image - result) / 2.0).round_ties_even() as u32;
        (start, 0, result)
    } else {
        // torchvision pads by half, rounded down, on the left and at the top.
        (0, (result - image) / 2, image)
    }
}

fn pixel_bytes(width: u32, height: u32) -> usize {
    width as usize * height as usize * 3
}

/// Interleaved pixels `[height, width, 3]` to planes `[3, height, width]`.
pub(crate) fn to_planes(pixels: &[u8], planes: &mut [u8]) {
    debug_assert_eq!(pixels.len(), planes.len());
    vectorized(Split { pixels, planes });
}

struct Split<'a> {
    pixels: &'a [u8],
    planes: &'a mut [u8],
}

impl Kernel for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let pixels = self.pixels.as_chunks::<3>().0;
        let (red, rest) = self.planes.split_at_mut(pixels.len());
        let (green, blue) = rest.split_at_mut(pixels.len());
        for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            [*red, *green, *blue] = *pixel;
        }
    }
}

/// Planes `[3, height, width]` to interleaved pixels `[height, width, 3]`.
pub(crate) fn from_planes(planes: &[u8], pixels: &mut [u8]) {
    debug_assert_eq!(pixels.len(), planes.len());
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(planes.len() / 3);
    for (((pixel, red), green), blue) in pixels
        .as_chunks_mut::<3>()
        .0
        .iter_mut()
        .zip(red)
        .zip(green)
        .zip(blue)
    {
        *pixel = [*red, *green, *blue];
    }
}

/// Mirrors left and right, in planes of rows of `width`.
pub(crate) fn flip_horizontally(planes: &mut [u8], width: usize) {
    for row in planes.chunks_exact_mut(width) {
        row.reverse();
    }
}
