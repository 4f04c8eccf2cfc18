//! Images divided among cubes and units: which channels, which group of images and which part of its pixels a cube has, and where
//! they lie in memory.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::CUBES;
use super::tensors::{Order, units};

/// Cubes that fill a large GPU several times over.
const ENOUGH_CUBES: usize = 2048;

/// The division of the images among cubes and units.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) order: Order,
    pub(super) groups: usize,
    pub(super) channels: usize,
    /// Pixels of an image.
    pub(super) pixels: usize,
    /// Pixels of a group.
    pub(super) count: usize,
    /// Channels of a cube.
    pub(super) lanes: usize,
    pub(super) units: usize,
    pub(super) parts: usize,
    /// Pixels of a part; the last may have fewer.
    pub(super) part: usize,
}

impl Grid {
    /// `x` must have been arranged.
    pub(super) fn new(x: &CubeTensor, order: Order, groups: usize) -> Self {
        let [images, channels, height, width] = x.shape().dims();
        let pixels = height * width;
        let count = images / groups * pixels;
        let units = units(x);
        let lanes = match order {
            Order::ChannelsFirst => 1,
            // 128 bytes side by side.
            Order::ChannelsLast => (128 / x.dtype.size())
                .min(channels.next_power_of_two())
                .min(units),
        };
        // Every cube of a second launch reads all parts' sums: with their square below a sixteenth of the pixels, that
        // stays below an eighth of what it reads anyway.
        let most = ((count / 16) as f64).sqrt() as usize;
        let wanted = ENOUGH_CUBES.div_ceil(channels.div_ceil(lanes) * groups);
        let part = count.div_ceil(wanted.min(most).clamp(1, CUBES));
        Self {
            order,
            groups,
            channels,
            pixels,
            count,
            lanes,
            units,
            parts: count.div_ceil(part),
            part,
        }
    }

    pub(super) fn cubes(&self) -> CubeCount {
        let channels = self.channels.div_ceil(self.lanes);
        CubeCount::Static(channels as u32, self.groups as u32, self.parts as u32)
    }

    pub(super) fn units(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }

    pub(super) fn extent(&self) -> ExtentLaunch {
        ExtentLaunch::new(
            self.groups,
            self.channels,
            self.pixels,
            self.count,
            self.part,
            self.parts,
        )
    }

    pub(super) fn shape(&self) -> Shape {
        Shape::new([2, self.parts, self.groups * self.channels])
    }

    pub(super) fn last(&self) -> bool {
        self.order == Order::ChannelsLast
    }
}

/// Whether a grid of these numbers can be launched: indices have 32 bits.
pub(crate) fn fits(shape: &[usize], groups: usize) -> bool {
    let values = shape.iter().product::<usize>();
    values > 0 && values < 1 << 31 && shape[1] <= CUBES && groups <= CUBES
}

/// [`Grid`] in a kernel.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Extent {
    pub(super) groups: usize,
    pub(super) channels: usize,
    pub(super) pixels: usize,
    pub(super) count: usize,
    pub(super) part: usize,
    pub(super) parts: usize,
}

/// Place of a channel's pixel, counted within its group, in memory.
#[cube]
pub(super) fn place(
    pixel: usize,
    group: usize,
    channel: usize,
    extent: &Extent,
    #[comptime] last: bool,
) -> usize {
    if comptime![last] {
        (group * extent.count + pixel) * extent.channels + channel
    } else {
        let image = pixel / extent.pixels;
        let first = (group * extent.count + image * extent.pixels) * extent.channels;
        first + channel * extent.pixels + pixel % extent.pixels
    }
}

/// Place of a part's sum in the sums of all parts.
#[cube]
pub(super) fn place_of_part(part: usize, group: usize, channel: usize, extent: &Extent) -> usize {
    (part * extent.groups + group) * extent.channels + channel
}

/// Pixels of a part.
#[cube]
pub(super) fn size_of_part(part: usize, extent: &Extent) -> f32 {
    let begin = part * extent.part;
    f32::cast_from((min(begin + extent.part, extent.count) - begin) as u32)
}

/// What a unit works on.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Share {
    pub(super) channel: usize,
    pub(super) group: usize,
    pub(super) part: usize,
    /// Whether there is such a channel.
    pub(super) exists: bool,
    /// Whether the unit writes what the cube found of its channel.
    pub(super) writes: bool,
    /// The first of its pixels, the end of the part, and the distance to its next pixel.
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) step: usize,
}

#[cube]
pub(super) fn share(extent: &Extent, #[comptime] units: usize, #[comptime] lanes: usize) -> Share {
    let unit = UNIT_POS as usize;
    let channel = CUBE_POS_X as usize * lanes + unit % lanes;
    let part = CUBE_POS_Z as usize;
    let exists = channel < extent.channels;
    let first = part * extent.part;
    Share {
        channel,
        group: CUBE_POS_Y as usize,
        part,
        exists,
        writes: exists && unit < lanes,
        begin: first + unit / lanes,
        end: select(exists, min(first + extent.part, extent.count), first),
        step: (units / lanes).runtime(),
    }
}
