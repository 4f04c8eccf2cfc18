//! Sums of squares, and clipping by norm: one launch for up to 16,384 values and two above, and one that clips.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::sums::sum;
use super::tensors::{empty, units};

/// Values of a unit before another cube is worth a second launch.
const VALUES: usize = 64;

/// Most cubes of a sum; a second launch adds what they found.
const PARTS: usize = 512;

/// A sum of each cube: of squares of `x`, or of `x - other`, or of `x` itself where it holds sums already. One cube alone adds
/// `total` to it.
#[cube(launch)]
fn sums_of_parts(
    x: &[f32],
    other: ComptimeOption<&[f32]>,
    total: ComptimeOption<&[f32]>,
    sums: &mut [f32],
    count: usize,
    stride: usize,
    #[comptime] units: usize,
    #[comptime] squared: bool,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut found = f32::new(0.0);
    let mut i = CUBE_POS_X as usize * units + UNIT_POS as usize;
    while i < count {
        let mut value = x[i];
        #[comptime]
        if let ComptimeOption::Some(other) = &other {
            value -= other[i];
        }
        if comptime![squared] {
            value *= value;
        }
        found += value;
        i += stride;
    }
    let mut found = sum(found, &mut shared, 1usize);
    if UNIT_POS == 0 {
        #[comptime]
        if let ComptimeOption::Some(total) = &total {
            found += total[0];
        }
        sums[CUBE_POS_X as usize] = found;
    }
}

/// `x · min(1, largest / (√squares + 1e-6))`.
#[cube(launch)]
fn clipped_of_each(x: &[f32], squares: &[f32], clipped: &mut [f32], largest: f32) {
    let i = ABSOLUTE_POS;
    if i < clipped.len() {
        let mut factor = largest / (squares[0].sqrt() + 1.0e-6);
        // A norm that is no number gives a factor that is none, as elsewhere.
        if factor > 1.0f32 {
            factor = f32::new(1.0);
        }
        clipped[i] = x[i] * factor;
    }
}

/// `total + Σ (x − other)²`, `[1]`.
pub(crate) fn squares(x: CubeTensor, other: Option<CubeTensor>, total: Option<CubeTensor>) -> CubeTensor {
    let (x, other) = (into_contiguous(x), other.map(into_contiguous));
    let (units, count) = (units(&x), x.shape().num_elements());
    let cubes = count.div_ceil(VALUES * units).min(PARTS);
    if cubes == 1 {
        return sums(x, other, total, (1, units), true);
    }
    let parts = sums(x, other, None, (cubes, units), true);
    sums(parts, None, total, (1, units), false)
}

/// A sum for each of so many cubes of so many units.
fn sums(
    x: CubeTensor,
    other: Option<CubeTensor>,
    total: Option<CubeTensor>,
    (cubes, units): (usize, usize),
    squared: bool,
) -> CubeTensor {
    let found = empty(&x, [cubes], DType::F32);
    let (client, count) = (x.client.clone(), x.shape().num_elements());
    sums_of_parts::launch(
        &client,
        CubeCount::Static(cubes as u32, 1, 1),
        CubeDim::new_1d(units as u32),
        x.into_buffer_arg(),
        other.map(CubeTensor::into_buffer_arg).into(),
        total.map(CubeTensor::into_buffer_arg).into(),
        found.clone().into_buffer_arg(),
        count,
        cubes * units,
        units,
        squared,
    );
    found
}

/// The tensor, scaled so that its norm is at most `largest`.
pub(crate) fn clip_to_norm(x: CubeTensor, largest: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let squares = squares(x.clone(), None, None);
    let clipped = empty(&x, x.shape(), x.dtype);
    let client = x.client.clone();
    let count = x.shape().num_elements();
    let units = CubeDim::new(&client, count);
    clipped_of_each::launch(
        &client,
        calculate_cube_count_elemwise(&client, count, units),
        units,
        x.into_buffer_arg(),
        squares.into_buffer_arg(),
        clipped.clone().into_buffer_arg(),
        largest as f32,
    );
    clipped
}
