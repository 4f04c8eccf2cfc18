//! Image planes with zero borders, so that a kernel's tap is an offset in memory.
//!
//! A convolution reads, for each output pixel, the pixels around it. Here the channels of a few images are
//! copied to planes. A plane is one long run of floats, image after image and row after row, with just enough
//! zeros in between that a window across an edge reads zeros. Output pixel `t` needs `plane[t + offset]`,
//! where the offset depends only on the tap, and a whole convolution is sums of shifted runs: no copy for
//! every tap, as in `im2col`. A stride is split into phases (even and odd rows and columns for 2), each with
//! its own plane.

/// Layout of one dimension (rows or columns) of the source in a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Outputs along this dimension.
    pub(crate) outputs: usize,
    /// Positions from one line to the next, borders included.
    pub(crate) length: usize,
    /// Positions that a window reaches past its first one.
    pub(crate) reach: usize,
    /// Positions of each phase's source elements.
    pub(crate) phases: Vec<Phase>,
}

/// Every `stride`-th element of the source, from some element on: element `start + j·step` is at position
/// `first + j`, for `j < count`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) start: usize,
    pub(crate) step: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Axis {
    /// The input of a convolution: `size` pixels, read in windows of `kernel` at `stride`.
    pub(crate) fn of_input(size: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let outputs = (size + 2 * padding - kernel) / stride + 1;
        Self::of_windows(outputs, size, kernel, stride, padding)
    }

    /// The input of a 3×3 convolution with a border of 1, read in windows of 4 that begin at every other
    /// pixel and give two outputs each; the last output may be outside.
    pub(crate) fn of_tiles(size: usize) -> Self {
        Self::of_windows(size.div_ceil(2), size, 4, 2, 1)
    }

    /// `outputs` windows; the last of them may reach past the border.
    fn of_windows(outputs: usize, size: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let reach = (kernel - 1) / stride;
        // Padded pixel a + stride·i is element i of phase a; the image's own begin at `padding`.
        let phases = (0..stride.min(kernel)).map(|phase| {
            let first = padding.saturating_sub(phase).div_ceil(stride);
            // Pixels outside all windows are skipped.
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

    /// The gradient of a convolution's output, read for the gradient of the input pixels of one phase (those
    /// whose padded position is `phase` modulo `stride`).
    ///
    /// Also returns the first of these pixels.
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

    /// Elements at their own positions: as many as outputs, with lines as long as `other`'s.
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
        // A window over the end of a line reads the zeros at the start of the next line, if there are any.
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
    /// Images per plane.
    pub(crate) images: usize,
    /// Floats from one plane to the next.
    pub(crate) plane: usize,
}

/// Floats that a kernel may read or write past the last relevant one: more than any tile's length.
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

    /// Floats for all planes, zero outside the filled positions.
    pub(crate) fn len(&self) -> usize {
        self.rows.phases.len() * self.columns.phases.len() * self.channels * self.plane
    }

    /// Start of a channel's tap: plane and shift combined.
    pub(crate) fn offset(&self, channel: usize, phase: (usize, usize), shift: (usize, usize)) -> usize {
        let plane = (phase.0 * self.columns.phases.len() + phase.1) * self.channels + channel;
        plane * self.plane + shift.0 * self.columns.length + shift.1
    }

    /// Copies images, `[images, channels, height, width]`, to their planes. Zeros between them stay
    /// unchanged, so a buffer can be refilled.
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
