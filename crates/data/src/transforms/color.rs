//! Color operations on planes, with Pillow's arithmetic to the bit: 8-bit results, truncated, in single
//! precision.
//!
//! All functions change planes `[3, height, width]` of red, green and blue in place. Each jitter step is
//! torchvision's (`adjust_brightness` and so on, on Pillow images).

use super::simd::{Kernel, vectorized};

/// Scales brightness by `factor` (0 black, 1 unchanged), as `ImageEnhance.Brightness`.
pub(crate) fn adjust_brightness(planes: &mut [u8], factor: f64) {
    blend_with(planes, 0, factor as f32);
}

/// Scales the distance from the mean luma by `factor` (0 gray, 1 unchanged), as `ImageEnhance.Contrast`.
pub(crate) fn adjust_contrast(planes: &mut [u8], factor: f64) {
    let [red, green, blue] = rgb(planes);
    let sum = vectorized(LumaSum(red, green, blue));
    let mean = (sum as f64 / (planes.len() / 3) as f64 + 0.5) as u8;
    blend_with(planes, mean, factor as f32);
}

/// Scales the distance from the pixel's luma by `factor` (0 gray, 1 unchanged), as `ImageEnhance.Color`.
pub(crate) fn adjust_saturation(planes: &mut [u8], factor: f64) {
    vectorized(Saturate(rgb(planes), factor as f32));
}

/// Rotates the hue by `turn` of the full circle (-0.5 to 0.5), through Pillow's 8-bit HSV.
///
/// Even a turn of 0 changes pixels slightly, because 8-bit HSV cannot represent every color; the same is true
/// of torchvision.
pub(crate) fn adjust_hue(planes: &mut [u8], turn: f64) {
    // As numpy: truncated to a whole number of 1/255 turns, which wraps around in 8 bits.
    let shift = (turn * 255.0) as i32 as u8;
    vectorized(ShiftHue(rgb(planes), shift));
}

/// Replaces every channel by the luma, as `convert("L")`.
pub(crate) fn to_grayscale(planes: &mut [u8]) {
    vectorized(Gray(rgb(planes)));
}

/// Inverts values from `threshold` upwards, as `ImageOps.solarize`.
pub(crate) fn solarize(planes: &mut [u8], threshold: u8) {
    vectorized(Invert(planes, threshold));
}

fn rgb(planes: &mut [u8]) -> [&mut [u8]; 3] {
    let pixels = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(pixels);
    let (green, blue) = rest.split_at_mut(pixels);
    [red, green, blue]
}

/// Pillow's `L24`: ITU-R 601 weights in 16-bit fixed point, rounded.
#[inline(always)]
pub(super) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

/// Pillow's `Image.blend`: from `base` (0) to `value` (1) and beyond, truncated and clipped.
#[inline(always)]
pub(super) fn blend(base: u8, value: u8, factor: f32) -> u8 {
    let exact = f32::from(base) + factor * (f32::from(value) - f32::from(base));
    // Truncated as in `truncate`, with the 23 bits of a single.
    (exact.clamp(0.0, 255.0).floor() + 8_388_608.0).to_bits() as u8
}

fn blend_with(planes: &mut [u8], base: u8, factor: f32) {
    vectorized(BlendWith { planes, base, factor });
}

struct BlendWith<'a> {
    planes: &'a mut [u8],
    base: u8,
    factor: f32,
}

impl Kernel for BlendWith<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for value in self.planes {
            *value = blend(self.base, *value, self.factor);
        }
    }
}

struct LumaSum<'a>(&'a [u8], &'a [u8], &'a [u8]);

impl Kernel for LumaSum<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        // Sums over a few thousand pixels fit 32 bits, twice as many per register as 64-bit sums.
        const CHUNK: usize = 1 << 14;
        let LumaSum(red, green, blue) = self;
        let chunks = red.chunks(CHUNK).zip(green.chunks(CHUNK)).zip(blue.chunks(CHUNK));
        chunks
            .map(|((red, green), blue)| {
                let pixels = red.iter().zip(green).zip(blue);
                u64::from(
                    pixels
                        .map(|((red, green), blue)| u32::from(luma(*red, *green, *blue)))
                        .sum::<u32>(),
                )
            })
            .sum()
    }
}

struct Saturate<'a>([&'a mut [u8]; 3], f32);

impl Kernel for Saturate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Saturate([red, green, blue], factor) = self;
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let gray = luma(*red, *green, *blue);
            *red = blend(gray, *red, factor);
            *green = blend(gray, *green, factor);
            *blue = blend(gray, *blue, factor);
        }
    }
}

struct Gray<'a>([&'a mut [u8]; 3]);

impl Kernel for Gray<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Gray([red, green, blue]) = self;
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let gray = luma(*red, *green, *blue);
            (*red, *green, *blue) = (gray, gray, gray);
        }
    }
}

struct Invert<'a>(&'a mut [u8], u8);

impl Kernel for Invert<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for value in self.0 {
            *value = if *value < self.1 { *value } else { 255 - *value };
        }
    }
}

struct ShiftHue<'a>([&'a mut [u8]; 3], u8);

impl Kernel for ShiftHue<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let ShiftHue([red, green, blue], shift) = self;
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let [hue, saturation, value] = hsv_from_rgb([*red, *green, *blue]);
            [*red, *green, *blue] = rgb_from_hsv([hue.wrapping_add(shift), saturation, value]);
        }
    }
}

/// Pillow's `rgb2hsv_row`: partly in single, partly in double precision, truncated to 8 bits.
#[inline(always)]
pub(super) fn hsv_from_rgb([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let most = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    let is_gray = most == least;
    // A gray pixel divides by 1 instead of 0; its hue and saturation become 0 either way.
    let chroma = f32::from(if is_gray { 1 } else { most - least });
    let divisor = f32::from(most.max(1));
    let saturation = f32::from(most - least) / divisor;
    let from_red = f32::from(most - red) / chroma;
    let from_green = f32::from(most - green) / chroma;
    let from_blue = f32::from(most - blue) / chroma;
    // Pillow computes `2.0 + rc - bc` and `4.0 + gc - rc` in double and converts to single. One of the two
    // terms is always 1, so a single-precision sum of the rest is rounded alike.
    let of_red = from_blue - from_green;
    let of_green = if red == least {
        3.0 - from_blue
    } else {
        1.0 + from_red
    };
    let of_blue = if red == least {
        3.0 + from_green
    } else {
        5.0 - from_red
    };
    let sixths = if red == most {
        of_red
    } else if green == most {
        of_green
    } else {
        of_blue
    };
    let turns = f64::from(sixths) / 6.0 + 1.0;
    // The fractional part; `turns` is between 5/6 and 2.
    let turns = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
    let hue = truncate(f64::from(turns) * 255.0);
    [
        if is_gray { 0 } else { hue },
        truncate(f64::from(saturation) * 255.0),
        most,
    ]
}

/// Pillow's `hsv2rgb`: rounded to 8 bits.
#[inline(always)]
pub(super) fn rgb_from_hsv([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    // The sextant of the circle, and the position in it: the fraction of 255 is the same in single precision
    // as Pillow's in double.
    let sixths = u16::from(hue) * 6;
    let sector = (sixths / 255) as u8;
    let rest = f32::from(sixths % 255) / 255.0;
    let share = f32::from(saturation) / 255.0;
    let level = f64::from(value);
    // Products of two singles are single in C; everything else is double.
    let low = round(level * (1.0 - f64::from(share)));
    let down = round(level * (1.0 - f64::from(share * rest)));
    let up = round(level * (1.0 - f64::from(share) * (1.0 - f64::from(rest))));
    // Selections instead of a `match`, whose jump table would prevent vectorization of the loop.
    let sector = if sector == 6 { 0 } else { sector };
    let of = |highest: [u8; 2], falls: u8, rises: u8| {
        if sector == highest[0] || sector == highest[1] {
            value
        } else if sector == falls {
            down
        } else if sector == rises {
            up
        } else {
            low
        }
    };
    [of([0, 5], 1, 4), of([1, 2], 3, 0), of([3, 4], 5, 2)]
}

/// C's `round` for numbers from 0 to 255.
#[inline(always)]
fn round(number: f64) -> u8 {
    truncate(number + 0.5)
}

/// The integer part of a number from 0 to 255.
///
/// Adding 2^52 leaves the integer part in the lowest bits. A plain `as u8` would also work, but its handling
/// of numbers out of range prevents vectorization of the loop.
#[inline(always)]
fn truncate(number: f64) -> u8 {
    const TWO_TO_52: f64 = 4_503_599_627_370_496.0;
    (number.floor() + TWO_TO_52).to_bits() as u8
}
