//! Softmax and cross-entropy over rows of any width, and their gradients: one launch each.
//!
//! A cube has a row. The largest value and the sum of exponentials are found in one pass (Milakov, Gimelshein, *Online
//! normalizer calculation for softmax*, 2018), so that a row of 65,536 logits is read once for its cross-entropy.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::{self, ir::ElemType, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::CUBES;
use super::sums::{largest, sum};
use super::tensors::{element, empty, units};

/// Rows among cubes.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    width: usize,
    units: usize,
}

impl Grid {
    /// Rows are the last dimension.
    fn new(x: &CubeTensor) -> Self {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        Self {
            rows: shape.num_elements() / width,
            width,
            units: units(x).min(width.next_power_of_two()),
        }
    }

    /// Two dimensions: attention has more rows than one may have.
    fn cubes(&self) -> CubeCount {
        let x = self.rows.min(CUBES);
        CubeCount::Static(x as u32, self.rows.div_ceil(x) as u32, 1)
    }

    fn units(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }
}

/// Whether rows of this shape can be launched: indices have 32 bits.
pub(crate) fn fits(shape: &[usize]) -> bool {
    let values = shape.iter().product::<usize>();
    values > 0 && values < 1 << 31
}

/// The row of this cube, which may lie behind the last.
#[cube]
fn row() -> usize {
    CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize
}

/// The row of targets of a row of logits: rows beyond the targets have the last `period` of them again and again.
#[cube]
fn target_row(row: usize, target_rows: usize, period: usize) -> usize {
    let beyond = max(row, target_rows) - target_rows;
    select(row < target_rows, row, target_rows - period + beyond % period)
}

/// The largest value of a row and Σ exp(scale · x − largest), with `scale · x` compared; units without values have the
/// lowest number and 0.
#[cube]
fn normalizer<F: Float>(
    x: &[F],
    first: usize,
    width: usize,
    scale: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] units: usize,
) -> (f32, f32) {
    let mut high = f32::new(-3.0e38);
    let mut total = f32::new(0.0);
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[first + i]) * scale;
        if value > high {
            total = total * (high - value).exp() + 1.0;
            high = value;
        } else {
            // Also where it is no number, which the sum then shows.
            total += (value - high).exp();
        }
        i += units;
    }
    let of_row = largest(high, shared);
    let total = sum(total * (high - of_row).exp(), shared, 1usize);
    (of_row, total)
}

#[cube(launch)]
fn softmax_of_rows<F: Float>(
    x: &[F],
    y: &mut [F],
    rows: usize,
    width: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let row = row();
    if row < rows {
        let first = row * width;
        let (high, total) = normalizer(x, first, width, 1.0f32, &mut shared, units);
        let inverse = 1.0f32 / total;
        let mut i = UNIT_POS as usize;
        while i < width {
            y[first + i] = F::cast_from((f32::cast_from(x[first + i]) - high).exp() * inverse);
            i += units;
        }
    }
}

/// `y · (g − Σ g·y)`.
#[cube(launch)]
fn softmax_gradients_of_rows<F: Float>(
    y: &[F],
    gradient: &[F],
    of_x: &mut [F],
    rows: usize,
    width: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let row = row();
    if row < rows {
        let first = row * width;
        let mut product = f32::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            product += f32::cast_from(y[first + i]) * f32::cast_from(gradient[first + i]);
            i += units;
        }
        let product = sum(product, &mut shared, 1usize);
        let mut i = UNIT_POS as usize;
        while i < width {
            let g = f32::cast_from(gradient[first + i]) - product;
            of_x[first + i] = F::cast_from(f32::cast_from(y[first + i]) * g);
            i += units;
        }
    }
}

/// `Σ t · (log Σ exp(scale · x) − scale · x)` of each row, in f32; the row's largest value, `log Σ exp` of what lies
/// below it and Σ t, `[3, rows]`, are kept for the gradient. Without targets it is `log Σ exp` alone.
#[cube(launch)]
fn entropies<F: Float, T: Float>(
    x: &[F],
    targets: ComptimeOption<&[T]>,
    entropies: &mut [f32],
    kept: &mut [f32],
    rows: usize,
    width: usize,
    target_rows: usize,
    period: usize,
    scale: f32,
    #[comptime] units: usize,
    #[define(F, T)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let row = row();
    if row < rows {
        let first = row * width;
        let mut high = f32::new(-3.0e38);
        let mut total = f32::new(0.0);
        // Σ t · (x − around), with the row's first value in place of the largest, which is not yet known: small
        // differences instead of large products.
        let around = f32::cast_from(x[first]) * scale;
        let mut weight = f32::new(0.0);
        let mut product = f32::new(0.0);
        let first_target = target_row(row, target_rows, period) * width;
        let mut i = UNIT_POS as usize;
        while i < width {
            let value = f32::cast_from(x[first + i]) * scale;
            if value > high {
                total = total * (high - value).exp() + 1.0;
                high = value;
            } else {
                total += (value - high).exp();
            }
            #[comptime]
            if let ComptimeOption::Some(targets) = &targets {
                let t = f32::cast_from(targets[first_target + i]);
                weight += t;
                product += t * (value - around);
            }
            i += units;
        }
        let of_row = largest(high, &mut shared);
        let log = sum(total * (high - of_row).exp(), &mut shared, 1usize).ln();
        let weight = sum(weight, &mut shared, 1usize);
        let product = sum(product, &mut shared, 1usize);
        if UNIT_POS == 0 {
            if targets.is_some() {
                entropies[row] = weight * (log + (of_row - around)) - product;
                kept[2 * rows + row] = weight;
            } else {
                entropies[row] = log + of_row;
                kept[2 * rows + row] = f32::new(1.0);
            }
            // Apart, because their sum would lose the digits of a small logarithm.
            kept[row] = of_row;
            kept[rows + row] = log;
        }
    }
}

/// `g · scale · (Σ t · softmax(scale · x) − t)`.
#[cube(launch)]
fn entropy_gradients<F: Float, T: Float>(
    x: &[F],
    targets: ComptimeOption<&[T]>,
    kept: &[f32],
    gradient: &[f32],
    of_x: &mut [F],
    rows: usize,
    width: usize,
    target_rows: usize,
    period: usize,
    scale: f32,
    #[comptime] units: usize,
    #[define(F, T)] _dtypes: [ElemType; 2],
) {
    let row = row();
    if row < rows {
        let first = row * width;
        let high = kept[row];
        let log = kept[rows + row];
        let weight = kept[2 * rows + row];
        let g = gradient[row] * scale;
        let first_target = target_row(row, target_rows, period) * width;
        let mut i = UNIT_POS as usize;
        while i < width {
            let mut value = weight * (f32::cast_from(x[first + i]) * scale - high - log).exp();
            #[comptime]
            if let ComptimeOption::Some(targets) = &targets {
                value -= f32::cast_from(targets[first_target + i]);
            }
            of_x[first + i] = F::cast_from(value * g);
            i += units;
        }
    }
}

/// Softmax over the last dimension.
pub(crate) fn softmax(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let grid = Grid::new(&x);
    let y = empty(&x, x.shape(), x.dtype);
    let client = x.client.clone();
    let dtype = element(x.dtype);
    softmax_of_rows::launch(
        &client,
        grid.cubes(),
        grid.units(),
        x.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        grid.units,
        dtype,
    );
    y
}

/// The gradient of a softmax's input, from its output.
pub(crate) fn softmax_gradient(y: CubeTensor, gradient: CubeTensor) -> CubeTensor {
    let (y, gradient) = (into_contiguous(y), into_contiguous(gradient));
    assert_eq!(gradient.dtype, y.dtype, "a gradient must have its tensor's type");
    let grid = Grid::new(&y);
    let of_x = empty(&y, y.shape(), y.dtype);
    let client = y.client.clone();
    let dtype = element(y.dtype);
    softmax_gradients_of_rows::launch(
        &client,
        grid.cubes(),
        grid.units(),
        y.into_buffer_arg(),
        gradient.into_buffer_arg(),
        of_x.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        grid.units,
        dtype,
    );
    of_x
}

/// Rows of logits, and their targets if they have any.
struct Logits {
    x: CubeTensor,
    targets: Option<CubeTensor>,
    target_rows: usize,
    period: usize,
    grid: Grid,
    types: [ElemType; 2],
}

impl Logits {
    /// With targets goes the period of those that are used again.
    fn new(x: CubeTensor, targets: Option<(CubeTensor, usize)>) -> Self {
        let (targets, period) = targets.unzip();
        let (x, targets) = (into_contiguous(x), targets.map(into_contiguous));
        let dtype = targets.as_ref().map_or(DType::F32, |targets| targets.dtype);
        Self {
            grid: Grid::new(&x),
            types: [element(x.dtype), element(dtype)],
            x,
            target_rows: targets.as_ref().map_or(1, |targets| targets.shape()[0]),
            period: period.unwrap_or(1),
            targets,
        }
    }
}

/// Cross-entropies of rows of `scale · x`, or without targets their `log Σ exp`: `[rows, 1]` in f32,
/// and what their gradient needs, `[3, rows]`.
pub(crate) fn cross_entropies(
    x: CubeTensor,
    targets: Option<(CubeTensor, usize)>,
    scale: f32,
) -> (CubeTensor, CubeTensor) {
    let logits = Logits::new(x, targets);
    let grid = logits.grid;
    let found = empty(&logits.x, Shape::new([grid.rows, 1]), DType::F32);
    let kept = empty(&logits.x, Shape::new([3, grid.rows]), DType::F32);
    let client = logits.x.client.clone();
    entropies::launch(
        &client,
        grid.cubes(),
        grid.units(),
        logits.x.into_buffer_arg(),
        logits.targets.map(CubeTensor::into_buffer_arg).into(),
        found.clone().into_buffer_arg(),
        kept.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        logits.target_rows,
        logits.period,
        scale,
        grid.units,
        logits.types,
    );
    (found, kept)
}

/// The gradient of the logits of [`cross_entropies`].
pub(crate) fn cross_entropies_gradient(
    x: CubeTensor,
    targets: Option<(CubeTensor, usize)>,
    kept: CubeTensor,
    gradient: CubeTensor,
    scale: f32,
) -> CubeTensor {
    let logits = Logits::new(x, targets);
    let (kept, gradient) = (into_contiguous(kept), into_contiguous(gradient));
    assert_eq!(
        gradient.dtype,
        DType::F32,
        "a gradient must have its tensor's type"
    );
    let grid = logits.grid;
    let of_x = empty(&logits.x, logits.x.shape(), logits.x.dtype);
    let client = logits.x.client.clone();
    entropy_gradients::launch(
        &client,
        grid.cubes(),
        grid.units(),
        logits.x.into_buffer_arg(),
        logits.targets.map(CubeTensor::into_buffer_arg).into(),
        kept.into_buffer_arg(),
        gradient.into_buffer_arg(),
        of_x.clone().into_buffer_arg(),
        grid.rows,
        grid.width,
        logits.target_rows,
        logits.period,
        scale,
        grid.units,
        logits.types,
    );
    of_x
}
