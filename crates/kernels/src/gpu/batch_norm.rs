//! Batch normalization of images with the statistics of their group, with ReLU and a shortcut, and its gradients: two
//! launches and two passes over memory each way.
//!
//! A cube has a run of channels (one where a channel's pixels lie side by side), a group of images, and a part of the
//! group's pixels. The first launch leaves each part's sums in memory; every cube of the second adds up those of its own
//! channels before it goes through its part.

use burn::tensor::DType;
use burn_cubecl::cubecl::{self, ir::ElemType, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::images::{Extent, Grid, place, place_of_part, share, size_of_part};
use super::sums::sum;
use super::tensors::{Order, element, empty};

/// Pixels whose moments are taken around the first of them, before they join those of the others.
const RUN: usize = 16;

/// Means of the parts, and summed squares around them.
#[cube(launch)]
fn moments<F: Float>(
    x: &[F],
    parts: &mut [f32],
    extent: Extent,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
    #[comptime] last: bool,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let own = share(&extent, units, lanes);

    // Moments of short runs around a value of their own, then their union (Chan, Golub, LeVeque, 1983): no difference
    // of large sums.
    let mut count = f32::new(0.0);
    let mut mean = f32::new(0.0);
    let mut squares = f32::new(0.0);
    let mut pixel = own.begin;
    while pixel < own.end {
        let around = f32::cast_from(x[place(pixel, own.group, own.channel, &extent, last)]);
        let until = min(pixel + RUN * own.step, own.end);
        let mut n = f32::new(0.0);
        let mut first = f32::new(0.0);
        let mut second = f32::new(0.0);
        while pixel < until {
            let d = f32::cast_from(x[place(pixel, own.group, own.channel, &extent, last)]) - around;
            n += 1.0;
            first += d;
            second += d * d;
            pixel += own.step;
        }
        let of_run = first / n;
        let d = around + of_run - mean;
        let both = count + n;
        squares += second - first * of_run + d * d * (count * n / both);
        mean += d * (n / both);
        count = both;
    }

    let size = size_of_part(own.part, &extent);
    let of_part = sum(count * mean, &mut shared, lanes) / size;
    let d = mean - of_part;
    let squares = sum(squares + count * d * d, &mut shared, lanes);
    if own.writes {
        let at = place_of_part(own.part, own.group, own.channel, &extent);
        parts[at] = of_part;
        parts[extent.parts * extent.groups * extent.channels + at] = squares;
    }
}

/// Mean and variance of a group's channel, from its parts.
#[cube]
fn moments_of_group(
    parts: &[f32],
    group: usize,
    channel: usize,
    extent: &Extent,
    shared: &mut Shared<[f32]>,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
) -> (f32, f32) {
    let step = units / lanes;
    let inverse = 1.0f32 / f32::cast_from(extent.count as u32);
    let squares_at = extent.parts * extent.groups * extent.channels;
    let end = select(channel < extent.channels, extent.parts, 0usize);

    let mut total = f32::new(0.0);
    let mut part = UNIT_POS as usize / lanes;
    while part < end {
        total += size_of_part(part, extent) * parts[place_of_part(part, group, channel, extent)];
        part += step;
    }
    let mean = sum(total, shared, lanes) * inverse;

    let mut total = f32::new(0.0);
    let mut part = UNIT_POS as usize / lanes;
    while part < end {
        let at = place_of_part(part, group, channel, extent);
        let d = parts[at] - mean;
        total += parts[squares_at + at] + size_of_part(part, extent) * d * d;
        part += step;
    }
    let variance = sum(total, shared, lanes) * inverse;
    (mean, variance)
}

/// The images normalized; the statistics of each group, and their means over the groups.
#[cube(launch)]
fn normalize<F: Float, W: Float>(
    x: &[F],
    shortcut: ComptimeOption<&[F]>,
    weight: &[W],
    bias: &[W],
    parts: &[f32],
    y: &mut [F],
    statistics: &mut [f32],
    mean_of_batch: &mut [f32],
    variance_of_batch: &mut [f32],
    extent: Extent,
    epsilon: f32,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
    #[comptime] last: bool,
    #[comptime] relu: bool,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let own = share(&extent, units, lanes);
    let (mean, variance) =
        moments_of_group(parts, own.group, own.channel, &extent, &mut shared, units, lanes);

    if own.exists {
        let scale = f32::cast_from(weight[own.channel]) / (variance + epsilon).sqrt();
        let shift = f32::cast_from(bias[own.channel]);
        let mut pixel = own.begin;
        while pixel < own.end {
            let at = place(pixel, own.group, own.channel, &extent, last);
            let mut value = (f32::cast_from(x[at]) - mean) * scale + shift;
            #[comptime]
            if let ComptimeOption::Some(shortcut) = &shortcut {
                value += f32::cast_from(shortcut[at]);
            }
            if comptime![relu] {
                // Not `max`, which would turn NaN into 0.
                value = select(value < 0.0, 0.0f32, value);
            }
            y[at] = F::cast_from(value);
            pixel += own.step;
        }
        if own.part == 0 && own.writes {
            let at = own.group * extent.channels + own.channel;
            statistics[at] = mean;
            statistics[extent.groups * extent.channels + at] = variance;
        }
    }

    if own.part == 0 && own.group == 0 {
        let mut mean_of_means = f32::new(0.0);
        let mut mean_of_variances = f32::new(0.0);
        for other in 0..extent.groups {
            let (mean, variance) =
                moments_of_group(parts, other, own.channel, &extent, &mut shared, units, lanes);
            mean_of_means += mean;
            mean_of_variances += variance;
        }
        if own.writes {
            let inverse = 1.0f32 / f32::cast_from(extent.groups as u32);
            mean_of_batch[own.channel] = mean_of_means * inverse;
            variance_of_batch[own.channel] = mean_of_variances * inverse;
        }
    }
}

/// Each part's Σ g and Σ g · x̂, with g the gradient where ReLU let the value pass; with an `output`, whose zeros ReLU
/// made, g itself too, which is the gradient of the shortcut.
#[cube(launch)]
fn gradient_sums<F: Float, W: Float>(
    x: &[F],
    gradient: &[F],
    output: ComptimeOption<&[F]>,
    weight: &[W],
    bias: &[W],
    statistics: &[f32],
    parts: &mut [f32],
    of_shortcut: ComptimeOption<&mut [F]>,
    extent: Extent,
    epsilon: f32,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
    #[comptime] last: bool,
    #[comptime] relu: bool,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut of_shortcut = of_shortcut;
    let own = share(&extent, units, lanes);

    let mut total = f32::new(0.0);
    let mut product = f32::new(0.0);
    if own.exists {
        let at = own.group * extent.channels + own.channel;
        let mean = statistics[at];
        let inverse = 1.0f32 / (statistics[extent.groups * extent.channels + at] + epsilon).sqrt();
        let scale = f32::cast_from(weight[own.channel]) * inverse;
        let shift = f32::cast_from(bias[own.channel]);
        let mut pixel = own.begin;
        while pixel < own.end {
            let at = place(pixel, own.group, own.channel, &extent, last);
            let centered = f32::cast_from(x[at]) - mean;
            let mut g = f32::cast_from(gradient[at]);
            #[comptime]
            if let ComptimeOption::Some(output) = &output {
                g = select(f32::cast_from(output[at]) > 0.0, g, 0.0f32);
            }
            if comptime![relu] {
                g = select(centered * scale + shift > 0.0, g, 0.0f32);
            }
            #[comptime]
            if let ComptimeOption::Some(of_shortcut) = &mut of_shortcut {
                of_shortcut[at] = F::cast_from(g);
            }
            total += g;
            product += g * centered;
            pixel += own.step;
        }
        product *= inverse;
    }
    let total = sum(total, &mut shared, lanes);
    let product = sum(product, &mut shared, lanes);
    if own.writes {
        let at = place_of_part(own.part, own.group, own.channel, &extent);
        parts[at] = total;
        parts[extent.parts * extent.groups * extent.channels + at] = product;
    }
}

/// The sums of a group's channel, from its parts.
#[cube]
fn sums_of_group(
    parts: &[f32],
    group: usize,
    channel: usize,
    extent: &Extent,
    shared: &mut Shared<[f32]>,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
) -> (f32, f32) {
    let step = units / lanes;
    let products_at = extent.parts * extent.groups * extent.channels;
    let end = select(channel < extent.channels, extent.parts, 0usize);
    let mut total = f32::new(0.0);
    let mut product = f32::new(0.0);
    let mut part = UNIT_POS as usize / lanes;
    while part < end {
        let at = place_of_part(part, group, channel, extent);
        total += parts[at];
        product += parts[products_at + at];
        part += step;
    }
    let total = sum(total, shared, lanes);
    let product = sum(product, shared, lanes);
    (total, product)
}

/// The gradients of images, weight and bias (Ioffe, Szegedy, 2015, §3).
#[cube(launch)]
fn gradients<F: Float, W: Float>(
    x: &[F],
    gradient: &[F],
    weight: &[W],
    bias: &[W],
    statistics: &[f32],
    parts: &[f32],
    of_x: &mut [F],
    of_weight: &mut [W],
    of_bias: &mut [W],
    extent: Extent,
    epsilon: f32,
    #[comptime] units: usize,
    #[comptime] lanes: usize,
    #[comptime] last: bool,
    #[comptime] relu: bool,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let own = share(&extent, units, lanes);
    let (total, product) = sums_of_group(parts, own.group, own.channel, &extent, &mut shared, units, lanes);

    if own.exists {
        let at = own.group * extent.channels + own.channel;
        let mean = statistics[at];
        let inverse = 1.0f32 / (statistics[extent.groups * extent.channels + at] + epsilon).sqrt();
        let scale = f32::cast_from(weight[own.channel]) * inverse;
        let shift = f32::cast_from(bias[own.channel]);
        let share = 1.0f32 / f32::cast_from(extent.count as u32);
        let constant = total * share;
        let slope = product * share * inverse;
        let mut pixel = own.begin;
        while pixel < own.end {
            let at = place(pixel, own.group, own.channel, &extent, last);
            let centered = f32::cast_from(x[at]) - mean;
            let mut g = f32::cast_from(gradient[at]);
            if comptime![relu] {
                g = select(centered * scale + shift > 0.0, g, 0.0f32);
            }
            of_x[at] = F::cast_from((g - constant - centered * slope) * scale);
            pixel += own.step;
        }
    }

    if own.part == 0 && own.group == 0 {
        let mut total = f32::new(0.0);
        let mut product = f32::new(0.0);
        for other in 0..extent.groups {
            let (more, more_products) =
                sums_of_group(parts, other, own.channel, &extent, &mut shared, units, lanes);
            total += more;
            product += more_products;
        }
        if own.writes {
            of_weight[own.channel] = W::cast_from(product);
            of_bias[own.channel] = W::cast_from(total);
        }
    }
}

/// Scale and shift of the channels, and what is added to the variance.
pub(crate) struct Affine {
    pub(crate) weight: CubeTensor,
    pub(crate) bias: CubeTensor,
    pub(crate) epsilon: f64,
}

impl Affine {
    fn arranged(self) -> Self {
        Self {
            weight: into_contiguous(self.weight),
            bias: into_contiguous(self.bias),
            epsilon: self.epsilon,
        }
    }

    fn types(&self, x: &CubeTensor) -> [ElemType; 2] {
        assert_eq!(
            self.weight.dtype, self.bias.dtype,
            "scale and shift of a batch normalization must have one type"
        );
        [element(x.dtype), element(self.weight.dtype)]
    }
}

/// `x` normalized, with the shortcut added, negative values zero with `relu`; means and biased variances of the groups,
/// `[2, groups · channels]`; their means over the groups, `[channels]` each.
pub(crate) fn forward(
    x: CubeTensor,
    affine: Affine,
    shortcut: Option<CubeTensor>,
    groups: usize,
    relu: bool,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let order = Order::of(&x);
    let (x, shortcut) = (order.arrange(x), shortcut.map(|shortcut| order.arrange(shortcut)));
    let affine = affine.arranged();
    let types = affine.types(&x);
    if let Some(shortcut) = &shortcut {
        assert_eq!(
            shortcut.dtype, x.dtype,
            "a shortcut must have the type of what it is added to"
        );
    }
    let grid = Grid::new(&x, order, groups);
    let client = x.client.clone();
    let parts = empty(&x, grid.shape(), DType::F32);
    moments::launch(
        &client,
        grid.cubes(),
        grid.units(),
        x.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        grid.extent(),
        grid.units,
        grid.lanes,
        grid.last(),
        types[0],
    );
    let y = order.empty(&x);
    let statistics = empty(&x, [2, groups * grid.channels], DType::F32);
    let mean = empty(&x, [grid.channels], DType::F32);
    let variance = empty(&x, [grid.channels], DType::F32);
    normalize::launch(
        &client,
        grid.cubes(),
        grid.units(),
        x.into_buffer_arg(),
        shortcut.map(CubeTensor::into_buffer_arg).into(),
        affine.weight.into_buffer_arg(),
        affine.bias.into_buffer_arg(),
        parts.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        statistics.clone().into_buffer_arg(),
        mean.clone().into_buffer_arg(),
        variance.clone().into_buffer_arg(),
        grid.extent(),
        affine.epsilon as f32,
        grid.units,
        grid.lanes,
        grid.last(),
        relu,
        types,
    );
    (y, statistics, mean, variance)
}

/// Gradients of `x`, weight and bias; `gradient` is that of the output.
pub(crate) fn backward(
    x: CubeTensor,
    affine: Affine,
    statistics: CubeTensor,
    gradient: CubeTensor,
    groups: usize,
    relu: bool,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let images = Images::new(x, affine, statistics, gradient, groups);
    let parts = images.sums(None, relu);
    images.gradients(images.gradient.clone(), parts, relu)
}

/// Gradients of `x`, weight, bias and shortcut of a normalization with one, which gave `output`.
pub(crate) fn backward_added(
    x: CubeTensor,
    affine: Affine,
    statistics: CubeTensor,
    output: CubeTensor,
    gradient: CubeTensor,
    groups: usize,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let images = Images::new(x, affine, statistics, gradient, groups);
    let output = images.grid.order.arrange(output);
    let of_shortcut = images.grid.order.empty(&images.x);
    // The output's zeros show where ReLU passed nothing.
    let parts = images.sums(Some((output, of_shortcut.clone())), false);
    let (of_x, of_weight, of_bias) = images.gradients(of_shortcut.clone(), parts, false);
    (of_x, of_weight, of_bias, of_shortcut)
}

/// What a backward pass begins with.
struct Images {
    x: CubeTensor,
    affine: Affine,
    statistics: CubeTensor,
    gradient: CubeTensor,
    grid: Grid,
    types: [ElemType; 2],
}

impl Images {
    fn new(
        x: CubeTensor,
        affine: Affine,
        statistics: CubeTensor,
        gradient: CubeTensor,
        groups: usize,
    ) -> Self {
        let order = Order::of(&x);
        let (x, gradient) = (order.arrange(x), order.arrange(gradient));
        assert_eq!(gradient.dtype, x.dtype, "a gradient must have its tensor's type");
        let affine = affine.arranged();
        Self {
            grid: Grid::new(&x, order, groups),
            types: affine.types(&x),
            x,
            affine,
            statistics: into_contiguous(statistics),
            gradient,
        }
    }

    /// The first launch; with an output, it writes the shortcut's gradient.
    fn sums(&self, added: Option<(CubeTensor, CubeTensor)>, relu: bool) -> CubeTensor {
        let grid = &self.grid;
        let parts = empty(&self.x, grid.shape(), DType::F32);
        let (output, of_shortcut) = added.unzip();
        gradient_sums::launch(
            &self.x.client,
            grid.cubes(),
            grid.units(),
            self.x.clone().into_buffer_arg(),
            self.gradient.clone().into_buffer_arg(),
            output.map(CubeTensor::into_buffer_arg).into(),
            self.affine.weight.clone().into_buffer_arg(),
            self.affine.bias.clone().into_buffer_arg(),
            self.statistics.clone().into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            of_shortcut.map(CubeTensor::into_buffer_arg).into(),
            grid.extent(),
            self.affine.epsilon as f32,
            grid.units,
            grid.lanes,
            grid.last(),
            relu,
            self.types,
        );
        parts
    }

    /// The second launch.
    fn gradients(
        &self,
        gradient: CubeTensor,
        parts: CubeTensor,
        relu: bool,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let (grid, affine) = (&self.grid, &self.affine);
        let of_x = grid.order.empty(&self.x);
        let of_weight = empty(&self.x, [grid.channels], affine.weight.dtype);
        let of_bias = empty(&self.x, [grid.channels], affine.bias.dtype);
        gradients::launch(
            &self.x.client,
            grid.cubes(),
            grid.units(),
            self.x.clone().into_buffer_arg(),
            gradient.into_buffer_arg(),
            affine.weight.clone().into_buffer_arg(),
            affine.bias.clone().into_buffer_arg(),
            self.statistics.clone().into_buffer_arg(),
            parts.into_buffer_arg(),
            of_x.clone().into_buffer_arg(),
            of_weight.clone().into_buffer_arg(),
            of_bias.clone().into_buffer_arg(),
            grid.extent(),
            affine.epsilon as f32,
            grid.units,
            grid.lanes,
            grid.last(),
            relu,
            self.types,
        );
        (of_x, of_weight, of_bias)
    }
}
