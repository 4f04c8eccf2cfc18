//! Tensors of a launch: their types, their order in memory, new ones, and the size of a cube.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::permute;
use burn_cubecl::tensor::CubeTensor;

/// The type in a kernel.
///
/// # Panics
/// If it is none of f32, f16 and bf16; the crate's functions call kernels for no other.
pub(super) fn element(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        dtype => unreachable!("a kernel of {dtype:?}"),
    })
}

/// A new tensor on the device of `like`, its values undefined, contiguous.
pub(super) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), dtype)
}

/// Units of a cube: a power of two, at most 256, which every API but the smallest devices' allows.
pub(super) fn units(tensor: &CubeTensor) -> usize {
    let limit = tensor.client.properties().hardware.max_units_per_cube.min(256);
    // The largest power of two that is not above it.
    1 << limit.max(1).ilog2()
}

/// Order of images, `[images, channels, height, width]`, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A channel's pixels side by side.
    ChannelsFirst,
    /// A pixel's channels side by side, as CubeCL's convolutions give them.
    ChannelsLast,
}

impl Order {
    /// The order that the images have. Images without one get [`Order::ChannelsFirst`].
    pub(super) fn of(images: &CubeTensor) -> Self {
        let shape = images.shape();
        if shape[2] * shape[3] == 1 || !images.is_contiguous() && last(images.clone()).is_contiguous() {
            Self::ChannelsLast
        } else {
            Self::ChannelsFirst
        }
    }

    /// The images in this order: a copy if they have another.
    pub(super) fn arrange(self, images: CubeTensor) -> CubeTensor {
        match self {
            Self::ChannelsFirst => into_contiguous(images),
            Self::ChannelsLast => first(into_contiguous(last(images))),
        }
    }

    /// New images like `images`, which have this order, in it.
    pub(super) fn empty(self, images: &CubeTensor) -> CubeTensor {
        match self {
            Self::ChannelsFirst => empty(images, images.shape(), images.dtype),
            Self::ChannelsLast => {
                let shape = last(images.clone()).shape();
                first(empty(images, shape, images.dtype))
            }
        }
    }
}

/// `[images, height, width, channels]`, the same memory.
fn last(images: CubeTensor) -> CubeTensor {
    permute(images, &[0, 2, 3, 1])
}

/// The inverse of [`last`].
fn first(images: CubeTensor) -> CubeTensor {
    permute(images, &[0, 3, 1, 2])
}
