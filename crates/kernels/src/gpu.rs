//! Kernels for GPUs in CubeCL: one source for CUDA, ROCm, Metal, Vulkan and WGSL.
//!
//! They assume nothing of a vendor: no subgroups, which differ in size and do not exist everywhere; no atomics; shared
//! memory below 4 KiB; as many units a cube as the device has, at most 256. Sums are f32 for 16-bit tensors too.

pub(crate) mod batch_norm;
pub(crate) mod images;
pub(crate) mod layer_norm;
pub(crate) mod norms;
pub(crate) mod pointwise;
pub(crate) mod rows;
mod sums;
mod tensors;
pub(crate) mod updates;

use burn_cubecl::CubeDevice;

/// Storage buffers that the widest of these kernels binds.
const BUFFERS: u32 = 9;

/// Cubes in a dimension of a grid that every API allows.
const CUBES: usize = 65_535;

/// Whether these kernels can be launched on the device at all; some browsers' cannot bind enough buffers.
pub(crate) fn fits(device: &CubeDevice) -> bool {
    device.client().properties().hardware.max_bindings >= BUFFERS
}
