//! Planes of images laid out with zero borders, so that a kernel's tap is an offset in memory.
//!
//! A convolution reads, for each output pixel, the pixels around it. Here the channels of a few images are copied to
//! planes that are long runs of floats, images after images and rows after rows, with just enough zeros between them
//! that a window reaching over an edge reads zeros. Epilogue output pixel `t` needs `plane[t + offset]` for an offset that
//! depends on the tap alone, and a whole convolution is sums of shifted runs: no copy for every tap, as `im2col` makes.
//! A stride is taken apart into phases (even and odd rows and columns for 2), each a plane of its own.

/// How one dimension (rows or columns) of the source lies in a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Outputs along this dimension.
    pub(crate) outputs: usize,
    /// Positions from one line to the next, borders included.
    pub(crate) length: usize,
    /// Positions that a window reaches past the one it begins at.
    pub(crate) reach: usize,
    /// Where each phase's source elements lie.
    pub(crate) phases: Vec<Phase>,
}

/// Every `stride`-th element of the source, from some element on: element `start + j·step` lies at position
/// `first + j`, for `j < count`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) start: usize,
    pub(crate) step: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Axis {
    /// The input of a convolution: `size` pixels, to be read in windows of `kernel` at `stride`.
    pub(crate) fn of_input(size: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let outputs = (size + 2 * padding - kernel) / stride + 1;
        Self::of_windows(outputs, size, kernel, stride, padding)
    }

    /// The input of a 3×3 convolution with a border of 1, to be read in windows of 4 that begin at every other pixel and
    /// give two outputs each, the last of which may lie outside.
    pub(crate) fn of_tiles(size: usize) -> Self {
        Self::of_windows(size.div_ceil(2), size, 4, 2, 1)
    }

    /// `outputs` windows; the last of them may reach past the border.
    fn of_windows(outputs: usize, size: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let reach = (kernel - 1) / stride;
        // Padded pixel a + stride·i is number i of phase a; the image's own begin at `padding`.
        let phases = (0..stride.min(kernel)).map(|phase| {
            let first = padding.saturating_sub(phase).div_ceil(stride);
            // Pixels that no window reaches are skipped.
            let end = ((size + padding).saturating_sub(phase))
                .div_ceil(stride)
                .min(outputs + reach);
            Phase {
                start: phase + stride * first - padding,
                step: stride,
                first,
                count: end.saturating_sub(first),
            }
        });
        Self::new(outputs, reach, phases.collect())
    }

    /// The gradient of a convolution's output, to be read for the gradient of the input pixels of one phase (those
    /// whose padded position is `phase` modulo `stride`).
    ///
    /// Also gives the first of these pixels.
    pub(crate) fn of_gradient(
        size: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        phase: usize,
    ) -> (Self, usize) {
        let given = (size + 2 * padding - kernel) / stride + 1;
        let reach = (kernel - 1 - phase) / stride;
        let skipped = padding.saturating_sub(phase).div_ceil(stride);
        let pixel = phase + stride * skipped - padding;
        let outputs = size.saturating_sub(pixel).div_ceil(stride);
        let first = reach.saturating_sub(skipped);
        let start = skipped.saturating_sub(reach);
        let count = given
            .saturating_sub(start)
            .min((outputs + reach).saturating_sub(first));
        let phase = Phase {
            start,
            step: 1,
            first,
            count,
        };
        (Self::new(outputs, reach, vec![phase]), pixel)
    }

    /// Elements at their own places, as many as outputs and as long as `other`'s lines.
    pub(crate) fn of_outputs(other: &Self) -> Self {
        let phase = Phase {
            start: 0,
            step: 1,
            first: 0,
            count: other.outputs,
        };
        Self {
            outputs: other.outputs,
            length: other.length,
            reach: 0,
            phases: vec![phase],
        }
    }

    fn new(outputs: usize, reach: usize, phases: Vec<Phase>) -> Self {
        let first = phases.iter().map(|p| p.first).min().unwrap_or(0);
        let end = phases.iter().map(|p| p.first + p.count).max().unwrap_or(0);
        // A window over the end of a line reads the zeros that the next line begins with, if it begins with any.
        let length = outputs.max(end).max((outputs + reach).saturating_sub(first));
        Self {
            outputs,
            length,
            reach,
            phases,
        }
    }
}

/// The layout of a group of images.
#[derive(Clone, Debug)]
pub(crate) struct PaddedPlanes {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
    pub(crate) channels: usize,
    /// Size of the source, pixels.
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Images that lie in a plane.
    pub(crate) images: usize,
    /// Floats from plane to plane.
    pub(crate) plane: usize,
}

/// Floats that a kernel may read or write past the last one that matters: more than any tile is long.
pub(crate) const SLACK: usize = 256;

impl PaddedPlanes {
    pub(crate) fn new(
        rows: Axis,
        columns: Axis,
        channels: usize,
        size: (usize, usize),
        images: usize,
    ) -> Self {
        let reach = rows.reach * columns.length + columns.reach;
        let plane = images * rows.length * columns.length + reach + SLACK;
        Self {
            rows,
            columns,
            channels,
            height: size.0,
            width: size.1,
            images,
            plane,
        }
    }

    /// Floats of one image in a plane.
    pub(crate) fn image(&self) -> usize {
        self.rows.length * self.columns.length
    }

    /// Floats that hold every plane, zero where nothing is filled in.
    pub(crate) fn len(&self) -> usize {
        self.rows.phases.len() * self.columns.phases.len() * self.channels * self.plane
    }

    /// Where the tap of a channel begins: plane and shift in one.
    pub(crate) fn offset(&self, channel: usize, phase: (usize, usize), shift: (usize, usize)) -> usize {
        let plane = (phase.0 * self.columns.phases.len() + phase.1) * self.channels + channel;
        plane * self.plane + shift.0 * self.columns.length + shift.1
    }

    /// Copies images, `[images, channels, height, width]`, to their planes. Zeros between them are left alone, so a
    /// buffer can be filled again and again.
    pub(crate) fn fill(&self, padded: &mut [f32], source: &[f32]) {
        let pixels = self.height * self.width;
        let mut plane_start = 0;
        for row_phase in &self.rows.phases {
            for column_phase in &self.columns.phases {
                for channel in 0..self.channels {
                    let plane = &mut padded[plane_start..plane_start + self.plane];
                    plane_start += self.plane;
                    for (image, source) in source.chunks_exact(self.channels * pixels).enumerate() {
                        let source = &source[channel * pixels..(channel + 1) * pixels];
                        let start = image * self.image() + column_phase.first;
                        for row in 0..row_phase.count {
                            let to = start + (row_phase.first + row) * self.columns.length;
                            let to = &mut plane[to..to + column_phase.count];
                            let from = (row_phase.start + row * row_phase.step) * self.width;
                            let from = &source[from + column_phase.start..from + self.width];
                            if column_phase.step == 1 {
                                to.copy_from_slice(&from[..column_phase.count]);
                            } else {
                                for (to, from) in to.iter_mut().zip(from.iter().step_by(column_phase.step)) {
                                    *to = *from;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
