//! The exact GELU and its gradient: one launch and one pass each.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, ir::ElemType, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::tensors::{element, empty};

/// 1 / √2.
const ROOT_OF_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// 1 / √(2π), the normal density's factor.
const DENSITY: f32 = 0.398_942_3;

/// `x · (1 + erf(x / √2)) / 2`.
#[cube(launch)]
fn gelu_of_each<F: Float>(x: &[F], y: &mut [F], #[define(F)] _dtype: ElemType) {
    let i = ABSOLUTE_POS;
    if i < y.len() {
        let value = f32::cast_from(x[i]);
        y[i] = F::cast_from(value * 0.5 * (Erf::erf(value * ROOT_OF_HALF) + 1.0));
    }
}

/// `g · (Φ(x) + x · φ(x))`, Φ and φ the standard normal's distribution and density.
#[cube(launch)]
fn gelu_gradient_of_each<F: Float>(x: &[F], gradient: &[F], of_x: &mut [F], #[define(F)] _dtype: ElemType) {
    let i = ABSOLUTE_POS;
    if i < of_x.len() {
        let value = f32::cast_from(x[i]);
        let below = Erf::erf(value * ROOT_OF_HALF) * 0.5 + 0.5;
        let density = (value * value * f32::new(-0.5)).exp() * DENSITY;
        of_x[i] = F::cast_from(f32::cast_from(gradient[i]) * (below + value * density));
    }
}

/// The exact GELU.
pub(crate) fn gelu(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let (y, client, count) = (
        empty(&x, x.shape(), x.dtype),
        x.client.clone(),
        x.meta.num_elements(),
    );
    let (units, dtype) = (CubeDim::new(&client, count), element(x.dtype));
    let cubes = calculate_cube_count_elemwise(&client, count, units);
    let (from, to) = (x.into_buffer_arg(), y.clone().into_buffer_arg());
    gelu_of_each::launch(&client, cubes, units, from, to, dtype);
    y
}

/// The gradient of its input.
pub(crate) fn gelu_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
    let (x, gradient) = (into_contiguous(x), into_contiguous(gradient));
    assert_eq!(gradient.dtype, x.dtype, "a gradient must have its tensor's type");
    let (of_x, client, count) = (
        empty(&x, x.shape(), x.dtype),
        x.client.clone(),
        x.meta.num_elements(),
    );
    let (units, dtype) = (CubeDim::new(&client, count), element(x.dtype));
    let cubes = calculate_cube_count_elemwise(&client, count, units);
    gelu_gradient_of_each::launch(
        &client,
        cubes,
        units,
        x.into_buffer_arg(),
        gradient.into_buffer_arg(),
        of_x.clone().into_buffer_arg(),
        dtype,
    );
    of_x
}
