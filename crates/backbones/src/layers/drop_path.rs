//! Drop path: whole residual branches dropped at random.

use burn::tensor::{Tensor, TensorData};

use crate::context::Context;
use crate::draws::uniform;

/// The dropped residual branches of a block, for each image of a batch.
///
/// Huang, Sun, Liu, Sedra, Weinberger, *Deep networks with stochastic depth*, 2016, as in timm: branches are
/// dropped per image, and kept ones are scaled by 1 / (1 − rate), which preserves the expectation.
pub struct DropPath {
    /// `[branches, images]`: 0 for a dropped branch, 1 / (1 − rate) for a kept one; `None`: nothing is
    /// dropped.
    scales: Option<Tensor<2>>,
}

impl DropPath {
    /// The draws of one block for all its branches.
    ///
    /// Nothing is dropped outside training, in a teacher (see [`Context::teacher`]), and at rate 0. Draws use
    /// the purpose `vit.drop_path` and the block's index, branch by branch and image by image.
    pub fn draw<const D: usize>(
        rate: f64,
        block: usize,
        branches: usize,
        x: &Tensor<D>,
        context: &Context,
    ) -> Self {
        if !(context.training && context.drop_path && rate > 0.0) {
            return Self { scales: None };
        }
        let images = x.dims()[0];
        let scales = scales(rate, block, branches * images, context);
        let scales = TensorData::new(scales, [branches, images]);
        Self {
            scales: Some(Tensor::from_data(scales, &x.device())),
        }
    }

    /// A branch's output `[images, tokens, channels]`, zero for the images that drop it.
    pub fn apply(&self, branch: usize, x: Tensor<3>) -> Tensor<3> {
        match &self.scales {
            Some(scales) => {
                let images = x.dims()[0];
                x * scales.clone().narrow(0, branch, 1).reshape([images, 1, 1])
            }
            None => x,
        }
    }
}

fn scales(rate: f64, block: usize, count: usize, context: &Context) -> Vec<f32> {
    let mut rng = context.draws.rng("vit.drop_path", block as u64);
    let keep = 1.0 - rate;
    let scale = |_| {
        if uniform(&mut rng) < keep {
            (1.0 / keep) as f32
        } else {
            0.0
        }
    };
    (0..count).map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::RunPosition;
    use crate::draws::Draws;
    use burn::tensor::Device;

    fn context(step: u64) -> Context {
        let progress = RunPosition::at(step as usize, 10, 10);
        Context::training(progress, Draws::new(5, step))
    }

    #[test]
    fn keeps_the_expectation() {
        let scales = scales(0.2, 3, 20_000, &context(0));
        assert!(scales.iter().all(|s| *s == 0.0 || *s == 1.25));
        // The standard error of the mean: 1.25 · √(0.8 · 0.2 / 20,000) = 0.0035.
        let mean = scales.iter().sum::<f32>() / 20_000.0;
        assert!((mean - 1.0).abs() < 4.0 * 0.0035, "{mean}");
    }

    /// A seed must mean the same in every later version.
    #[test]
    fn draws_follow_step_part_and_block_and_are_pinned() {
        let dropped = |block, context: &Context| {
            let scales = scales(0.5, block, 16, context);
            scales
                .iter()
                .map(|s| if *s == 0.0 { '0' } else { '1' })
                .collect::<String>()
        };
        let first = dropped(1, &context(0));
        assert_eq!(first, dropped(1, &context(0)));
        assert_eq!(first, "0000001111111110");
        assert_ne!(first, dropped(2, &context(0)));
        assert_ne!(first, dropped(1, &context(1)));
        assert_ne!(first, dropped(1, &context(0).part(1)));
        // At another rate the same images are dropped first, because the draws do not depend on the rate.
        let rarely = scales(0.1, 1, 16, &context(0));
        let often = scales(0.5, 1, 16, &context(0));
        assert!(rarely.iter().zip(often).all(|(r, o)| *r > 0.0 || o == 0.0));
    }

    #[test]
    fn drops_whole_images_branch_by_branch_in_a_students_training_alone() {
        let x = Tensor::<3>::ones([6, 2, 2], &Device::flex());
        let drawn = DropPath::draw(0.5, 0, 2, &x, &context(0));
        let rows = scales(0.5, 0, 12, &context(0));
        for branch in 0..2 {
            let output = drawn.apply(branch, x.clone()).into_data();
            let wanted = rows[branch * 6..][..6].iter().flat_map(|scale| [*scale; 4]);
            assert!(output.iter::<f32>().eq(wanted));
        }
        for unmoved in [context(0).teacher(), Context::evaluation()] {
            assert!(DropPath::draw(0.5, 0, 2, &x, &unmoved).scales.is_none());
        }
        assert!(DropPath::draw(0.0, 0, 2, &x, &context(0)).scales.is_none());
    }
}
