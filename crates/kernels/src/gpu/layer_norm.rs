//! Layer normalization of rows and its gradients: one launch forward, two backward.
//!
//! A cube has a row; backward, a run of rows whose numbers stay in registers, so that each tensor is read once.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::{self, ir::ElemType, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::CUBES;
use super::sums::sum;
use super::tensors::{element, empty, units};

/// Numbers of a row that one unit may hold.
const HELD: usize = 16;

/// Runs of rows: each leaves a partial sum of weight's and bias's gradients.
const RUNS: usize = 512;

/// Columns that a cube of the last launch adds up.
const LANES: usize = 32;

/// Rows among cubes.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    width: usize,
    units: usize,
}

impl Grid {
    fn new(x: &CubeTensor) -> Self {
        let [rows, width] = x.shape().dims();
        Self {
            rows,
            width,
            units: units(x).min(width.next_power_of_two()),
        }
    }

    fn units(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }

    fn held(&self) -> usize {
        self.width.div_ceil(self.units)
    }
}

/// Whether rows of this shape, `[rows, width]`, can be launched on any device.
pub(crate) fn fits(rows: usize, width: usize) -> bool {
    // With 64 units, which every device has.
    rows * width > 0 && rows * width < 1 << 31 && width <= 64 * HELD
}

#[cube(launch)]
fn normalize_rows<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    y: &mut [F],
    kept: &mut [f32],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
    #[comptime] held: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let row = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    if row < rows {
        let first = row * width;
        let inverse = 1.0f32 / f32::cast_from(width as u32);
        let mut numbers = Array::<f32>::new(held);
        let mut total = f32::new(0.0);
        #[unroll]
        for k in 0..held {
            let column = unit + k * units;
            numbers[k] = f32::new(0.0);
            if column < width {
                numbers[k] = f32::cast_from(x[first + column]);
            }
            total += numbers[k];
        }
        let mean = sum(total, &mut shared, 1usize) * inverse;
        let mut total = f32::new(0.0);
        #[unroll]
        for k in 0..held {
            let d = select(unit + k * units < width, numbers[k] - mean, 0.0f32);
            total += d * d;
        }
        let variance = sum(total, &mut shared, 1usize) * inverse;
        let scale = 1.0f32 / (variance + epsilon).sqrt();
        #[unroll]
        for k in 0..held {
            let column = unit + k * units;
            if column < width {
                let value = (numbers[k] - mean) * scale * f32::cast_from(weight[column]);
                y[first + column] = F::cast_from(value + f32::cast_from(bias[column]));
            }
        }
        if unit == 0 {
            kept[row] = mean;
            kept[rows + row] = scale;
        }
    }
}

/// The gradient of each row, and of weight and bias from each run of rows, `[2, runs, width]` (Ba, Kiros, Hinton, *Layer
/// normalization*, 2016, differentiated as batch normalization is).
#[cube(launch)]
fn row_gradients<F: Float, W: Float>(
    x: &[F],
    gradient: &[F],
    weight: &[W],
    kept: &[f32],
    of_x: &mut [F],
    parts: &mut [f32],
    rows: usize,
    width: usize,
    run: usize,
    #[comptime] units: usize,
    #[comptime] held: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let begin = CUBE_POS_X as usize * run;
    let end = min(begin + run, rows);
    let inverse = 1.0f32 / f32::cast_from(width as u32);
    let mut of_weight = Array::<f32>::new(held);
    let mut of_bias = Array::<f32>::new(held);
    let mut normal = Array::<f32>::new(held);
    let mut scaled = Array::<f32>::new(held);
    #[unroll]
    for k in 0..held {
        of_weight[k] = f32::new(0.0);
        of_bias[k] = f32::new(0.0);
    }
    for row in begin..end {
        let first = row * width;
        let mean = kept[row];
        let scale = kept[rows + row];
        let mut total = f32::new(0.0);
        let mut product = f32::new(0.0);
        #[unroll]
        for k in 0..held {
            let column = unit + k * units;
            normal[k] = f32::new(0.0);
            scaled[k] = f32::new(0.0);
            if column < width {
                let g = f32::cast_from(gradient[first + column]);
                normal[k] = (f32::cast_from(x[first + column]) - mean) * scale;
                scaled[k] = g * f32::cast_from(weight[column]);
                of_weight[k] += g * normal[k];
                of_bias[k] += g;
            }
            total += scaled[k];
            product += scaled[k] * normal[k];
        }
        let total = sum(total, &mut shared, 1usize) * inverse;
        let product = sum(product, &mut shared, 1usize) * inverse;
        #[unroll]
        for k in 0..held {
            let column = unit + k * units;
            if column < width {
                of_x[first + column] = F::cast_from((scaled[k] - total - normal[k] * product) * scale);
            }
        }
    }
    let runs = CUBE_COUNT_X as usize;
    #[unroll]
    for k in 0..held {
        let column = unit + k * units;
        if column < width {
            let at = CUBE_POS_X as usize * width + column;
            parts[at] = of_weight[k];
            parts[runs * width + at] = of_bias[k];
        }
    }
}

/// The sums of the runs' gradients.
#[cube(launch)]
fn sums_of_runs<W: Float>(
    parts: &[f32],
    of_weight: &mut [W],
    of_bias: &mut [W],
    runs: usize,
    width: usize,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
    #[define(W)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let column = CUBE_POS_X as usize * lanes + unit % lanes;
    let end = select(column < width, runs, 0usize);
    let mut total = f32::new(0.0);
    let mut product = f32::new(0.0);
    let mut run = unit / lanes;
    while run < end {
        product += parts[run * width + column];
        total += parts[(runs + run) * width + column];
        run += units / lanes;
    }
    let product = sum(product, &mut shared, lanes);
    let total = sum(total, &mut shared, lanes);
    if column < width && unit < lanes {
        of_weight[column] = W::cast_from(product);
        of_bias[column] = W::cast_from(total);
    }
}

/// Rows `[rows, width]` normalized, and the mean and 1 / √(variance + ε) of each, `[2, rows]`.
pub(crate) fn forward(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor) {
    let (x, weight, bias) = (into_contiguous(x), into_contiguous(weight), into_contiguous(bias));
    assert_eq!(weight.dtype, bias.dtype, "scale and shift must have one type");
    let grid = Grid::new(&x);
    let types = [element(x.dtype), element(weight.dtype)];
    let y = empty(&x, x.shape(), x.dtype);
    let kept = empty(&x, Shape::new([2, grid.rows]), DType::F32);
    let client = x.client.clone();
    let cubes = grid.rows.min(CUBES);
    normalize_rows::launch(
        &client,
        CubeCount::Static(cubes as u32, grid.rows.div_ceil(cubes) as u32, 1),
        grid.units(),
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        kept.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        epsilon as f32,
        grid.units,
        grid.held(),
        types,
    );
    (y, kept)
}

/// The gradients of rows, weight and bias.
pub(crate) fn backward(
    x: CubeTensor,
    weight: CubeTensor,
    kept: CubeTensor,
    gradient: CubeTensor,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let (kept, gradient) = (into_contiguous(kept), into_contiguous(gradient));
    assert_eq!(gradient.dtype, x.dtype, "a gradient must have its tensor's type");
    let grid = Grid::new(&x);
    let types = [element(x.dtype), element(weight.dtype)];
    let run = grid.rows.div_ceil(RUNS);
    let runs = grid.rows.div_ceil(run);
    let of_x = empty(&x, x.shape(), x.dtype);
    let parts = empty(&x, Shape::new([2, runs, grid.width]), DType::F32);
    let of_weight = empty(&x, weight.shape(), weight.dtype);
    let of_bias = empty(&x, weight.shape(), weight.dtype);
    let client = x.client.clone();
    let all = units(&x);
    row_gradients::launch(
        &client,
        CubeCount::Static(runs as u32, 1, 1),
        grid.units(),
        x.into_buffer_arg(),
        gradient.into_buffer_arg(),
        weight.into_buffer_arg(),
        kept.into_buffer_arg(),
        of_x.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        run,
        grid.units,
        grid.held(),
        types,
    );
    let lanes = LANES.min(all);
    sums_of_runs::launch(
        &client,
        CubeCount::Static(grid.width.div_ceil(lanes) as u32, 1, 1),
        CubeDim::new_1d(all as u32),
        parts.into_buffer_arg(),
        of_weight.clone().into_buffer_arg(),
        of_bias.clone().into_buffer_arg(),
        runs,
        grid.width,
        all,
        lanes,
        types[1],
    );
    (of_x, of_weight, of_bias)
}
