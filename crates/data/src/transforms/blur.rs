//! Pillow's Gaussian blur: three passes of a box blur whose width may be a fraction of a pixel.
//!
//! After Gwosdek, Grewenig, Bruhn and Weickert, *Theoretical Foundations of Gaussian Convolution by Extended
//! Box Filtering* (SSVM 2011). The cost per pixel does not grow with the radius. Sums are exact integers and
//! results are rounded, so ours equal Pillow's to the bit.

use super::simd::{Kernel, vectorized};

/// Number of box blurs that make one Gaussian.
const PASSES: usize = 3;
/// Weights of a pass are fractions of 2^24.
const WEIGHT_BITS: u32 = 24;

/// Up to this radius, px, summing the whole box per pixel is faster than a running sum along the row. The
/// usual recipes (sigma up to 2) have 0 or 1. The sums must fit 16 bits.
const SMALL_RADIUS: usize = 5;

/// Memory of the blur, reused between images.
#[derive(Debug, Default)]
pub(crate) struct Blur {
    lines: [Vec<u8>; 2],
    row_sums: Vec<u16>,
    plane: Vec<u8>,
    sums: Vec<u32>,
}

/// One box blur: `2 * radius + 1` pixels of full weight and one at each end of smaller weight.
#[derive(Clone, Copy, Debug)]
struct BoxKernel {
    radius: usize,
    full: u32,
    edge: u32,
}

impl BoxKernel {
    /// The box that, applied three times, makes a Gaussian of standard deviation `sigma`, in Pillow's
    /// precision.
    fn for_sigma(sigma: f64) -> BoxKernel {
        let sigma = sigma as f32;
        let variance = sigma * sigma / PASSES as f32;
        // Equations 7, 11 and 14 of the paper.
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let mut fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        fraction /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
        let exact = whole + fraction;
        let radius = exact as usize;
        let one = 1u32 << WEIGHT_BITS;
        let full = (one as f32 / (exact * 2.0 + 1.0)) as u32;
        let edge = (one - (radius as u32 * 2 + 1) * full) / 2;
        BoxKernel { radius, full, edge }
    }

    #[inline(always)]
    fn weigh(self, inner: u32, outer: u32) -> u8 {
        ((inner * self.full + outer * self.edge + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS) as u8
    }
}

impl Blur {
    /// `ImageFilter.GaussianBlur(radius = sigma)` of planes `[3, height, width]`, in place. `sigma` in px; 0
    /// changes nothing.
    pub(crate) fn gaussian(&mut self, planes: &mut [u8], width: usize, sigma: f64) {
        if sigma == 0.0 || planes.is_empty() {
            return;
        }
        let kernel = BoxKernel::for_sigma(sigma);
        vectorized(BlurPlanes {
            blur: self,
            planes,
            width,
            kernel,
        });
    }

    /// All passes along one row, between two buffers with room for the repeated edge pixels.
    #[inline(always)]
    fn rows(&mut self, line: &mut [u8], kernel: BoxKernel) {
        let width = line.len();
        let margin = kernel.radius + 1;
        let [from, to] = &mut self.lines;
        for buffer in [&mut *from, &mut *to] {
            buffer.resize(width + 2 * margin, 0);
        }
        self.row_sums.resize(width, 0);
        from[margin..margin + width].copy_from_slice(line);
        for _ in 0..PASSES {
            let (first, last) = (from[margin], from[margin + width - 1]);
            from[..margin].fill(first);
            from[margin + width..].fill(last);
            let out = &mut to[margin..margin + width];
            if kernel.radius <= SMALL_RADIUS {
                row_pass(from, out, kernel, &mut self.row_sums);
            } else {
                running_row_pass(from, out, kernel);
            }
            std::mem::swap(from, to);
        }
        line.copy_from_slice(&from[margin..margin + width]);
    }

    /// All passes down the columns, a whole row at a time.
    #[inline(always)]
    fn columns(&mut self, plane: &mut [u8], width: usize, kernel: BoxKernel) {
        self.plane.resize(plane.len(), 0);
        self.sums.resize(width, 0);
        for pass in 0..PASSES {
            if pass % 2 == 0 {
                column_pass(plane, &mut self.plane, width, kernel, &mut self.sums);
            } else {
                column_pass(&self.plane, plane, width, kernel, &mut self.sums);
            }
        }
        // An odd number of passes ends in the buffer.
        plane.copy_from_slice(&self.plane);
    }
}

struct BlurPlanes<'a> {
    blur: &'a mut Blur,
    planes: &'a mut [u8],
    width: usize,
    kernel: BoxKernel,
}

impl Kernel for BlurPlanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let plane_pixels = self.planes.len() / 3;
        for plane in self.planes.chunks_exact_mut(plane_pixels) {
            for line in plane.chunks_exact_mut(self.width) {
                self.blur.rows(line, self.kernel);
            }
            self.blur.columns(plane, self.width, self.kernel);
        }
    }
}

/// A pass of small radius: the sums are made tap by tap, in straight vector loops.
#[inline(always)]
fn row_pass(padded: &[u8], out: &mut [u8], kernel: BoxKernel, sums: &mut [u16]) {
    let width = out.len();
    sums.fill(0);
    for tap in 1..=2 * kernel.radius + 1 {
        for (sum, value) in sums.iter_mut().zip(&padded[tap..tap + width]) {
            *sum += u16::from(*value);
        }
    }
    let ends = padded.iter().zip(&padded[2 * kernel.radius + 2..]);
    for ((out, sum), (left, right)) in out.iter_mut().zip(sums.iter()).zip(ends) {
        *out = kernel.weigh(u32::from(*sum), u32::from(*left) + u32::from(*right));
    }
}

#[inline(always)]
fn running_row_pass(padded: &[u8], out: &mut [u8], kernel: BoxKernel) {
    let span = 2 * kernel.radius + 1;
    // The sum for the pixel before the first.
    let mut inner: u32 = padded[..span].iter().map(|value| u32::from(*value)).sum();
    for (x, out) in out.iter_mut().enumerate() {
        inner = inner + u32::from(padded[x + span]) - u32::from(padded[x]);
        *out = kernel.weigh(inner, u32::from(padded[x]) + u32::from(padded[x + span + 1]));
    }
}

#[inline(always)]
fn column_pass(from: &[u8], to: &mut [u8], width: usize, kernel: BoxKernel, sums: &mut [u32]) {
    let height = from.len() / width;
    let row = |y: isize| {
        let y = y.clamp(0, height as isize - 1) as usize;
        &from[y * width..(y + 1) * width]
    };
    let radius = kernel.radius as isize;
    // The sums for the row above the first.
    sums.fill(0);
    for y in -1 - radius..radius {
        for (sum, value) in sums.iter_mut().zip(row(y)) {
            *sum += u32::from(*value);
        }
    }
    for (y, out) in to.chunks_exact_mut(width).enumerate() {
        let y = y as isize;
        let (above, leading, below) = (row(y - radius - 1), row(y + radius), row(y + radius + 1));
        let columns = out
            .iter_mut()
            .zip(sums.iter_mut())
            .zip(above.iter().zip(leading).zip(below));
        for ((out, sum), ((above, leading), below)) in columns {
            *sum = *sum + u32::from(*leading) - u32::from(*above);
            *out = kernel.weigh(*sum, u32::from(*above) + u32::from(*below));
        }
    }
}
