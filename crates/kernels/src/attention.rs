//! Multi-head self-attention and its gradient on the CPU, head by head on all cores. Queries, keys and values
//! are read in the layout of one linear layer, and their gradients are written in it, without copies for the
//! heads.

use rayon::prelude::*;

use crate::matrix::{Output, Threads, View, product};
use crate::softmax;
use crate::uninitialized::uninitialized;

/// Sizes of an attention; its input is `[images, tokens, 3, heads, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    /// Of a head.
    pub(crate) channels: usize,
}

impl Shape {
    fn width(&self) -> usize {
        self.heads * self.channels
    }

    /// Factor of the scores: one over the root of a head's channels.
    fn scale(&self) -> f32 {
        (self.channels as f64).powf(-0.5) as f32
    }

    /// Queries (part 0), keys (1) or values (2) of a head: `[tokens, channels]`. Heads are counted through all images.
    fn part<'a>(&self, qkv: &'a [f32], head: usize, part: usize) -> View<'a> {
        let row = 3 * self.width();
        let start =
            head / self.heads * self.tokens * row + part * self.width() + head % self.heads * self.channels;
        View::rows(&qkv[start..], self.tokens, self.channels, row)
    }

    /// One head's output, or its gradient, within that of all heads: `[tokens, channels]`.
    fn mixed<'a>(&self, mixed: &'a [f32], head: usize) -> View<'a> {
        let start = head / self.heads * self.tokens * self.width() + head % self.heads * self.channels;
        View::rows(&mixed[start..], self.tokens, self.channels, self.width())
    }

    /// Rows `[images, tokens, parts, heads, channels]` from head-by-head data,
    /// `[images, heads, parts, tokens, channels]`.
    fn side_by_side(&self, by_head: &[f32], parts: usize) -> Vec<f32> {
        let (tokens, channels) = (self.tokens, self.channels);
        let mut rows = uninitialized(by_head.len());
        rows.par_chunks_mut(parts * self.width())
            .enumerate()
            .for_each(|(row, values)| {
                let (image, token) = (row / tokens, row % tokens);
                for (run, values) in values.chunks_exact_mut(channels).enumerate() {
                    let (part, head) = (run / self.heads, run % self.heads);
                    let start = (((image * self.heads + head) * parts + part) * tokens + token) * channels;
                    values.copy_from_slice(&by_head[start..start + channels]);
                }
            });
        rows
    }
}

/// The heads' outputs, `[images, tokens, heads, channels]`, and the attention for the gradient,
/// `[images, heads, tokens, tokens]`; empty if it is not kept.
pub(crate) fn forward(qkv: &[f32], shape: &Shape, keep: bool) -> (Vec<f32>, Vec<f32>) {
    let Shape {
        images,
        tokens,
        heads,
        channels,
    } = *shape;
    let (head, scores) = (tokens * channels, tokens * tokens);
    let mut by_head = uninitialized(images * heads * head);
    let one = |number: usize, attention: &mut [f32], values: &mut [f32]| {
        let [q, k, v] = [0, 1, 2].map(|part| shape.part(qkv, number, part));
        product(fresh(attention), q, k.transposed(), shape.scale(), Threads::One);
        softmax::forward_here(attention, tokens);
        let attention = View::rows(attention, tokens, tokens, tokens);
        product(fresh(values), attention, v, 1.0, Threads::One);
    };
    let mut kept = uninitialized(if keep { images * heads * scores } else { 0 });
    if keep {
        by_head
            .par_chunks_mut(head)
            .zip(kept.par_chunks_mut(scores))
            .enumerate()
            .for_each(|(number, (values, attention))| one(number, attention, values));
    } else {
        by_head.par_chunks_mut(head).enumerate().for_each_init(
            || uninitialized(scores),
            |attention, (number, values)| one(number, attention, values),
        );
    }
    (shape.side_by_side(&by_head, 1), kept)
}

/// The gradient of `qkv`, from the output's gradient and the attention that [`forward`] kept.
pub(crate) fn backward(qkv: &[f32], attention: &[f32], gradient: &[f32], shape: &Shape) -> Vec<f32> {
    let Shape { tokens, channels, .. } = *shape;
    let (head, scores) = (tokens * channels, tokens * tokens);
    let mut by_head = uninitialized(qkv.len());
    by_head
        .par_chunks_mut(3 * head)
        .zip(attention.par_chunks(scores))
        .enumerate()
        .for_each_init(
            || uninitialized(scores),
            |of_scores, (number, (of_parts, attention))| {
                let [q, k, v] = [0, 1, 2].map(|part| shape.part(qkv, number, part));
                let of_output = shape.mixed(gradient, number);
                let weights = View::rows(attention, tokens, tokens, tokens);
                let (of_q, rest) = of_parts.split_at_mut(head);
                let (of_k, of_v) = rest.split_at_mut(head);
                product(fresh(of_v), weights.transposed(), of_output, 1.0, Threads::One);
                product(fresh(of_scores), of_output, v.transposed(), 1.0, Threads::One);
                softmax::backward_here(attention, of_scores, tokens);
                let of_scores = View::rows(of_scores, tokens, tokens, tokens);
                product(fresh(of_q), of_scores, k, shape.scale(), Threads::One);
                product(
                    fresh(of_k),
                    of_scores.transposed(),
                    q,
                    shape.scale(),
                    Threads::One,
                );
            },
        );
    shape.side_by_side(&by_head, 3)
}

fn fresh(values: &mut [f32]) -> Output<'_> {
    Output { values, add: false }
}
