//! MAE, masked autoencoders: most patches of an image are hidden, and their pixels are reconstructed from the
//! rest.
//!
//! He, Chen, Xie, Li, Dollár, Girshick, *Masked autoencoders are scalable vision learners*,
//! [2021](https://arxiv.org/abs/2111.06377).
//!
//! ```text
//! image ── patches ─┬─ visible ── encoder ── tokens ─┬─ decoder ── pixels of the hidden patches ─┐
//!                   │                mask tokens ────┘                                           ├─ squared error
//!                   └─ hidden ────────────────────────────────────── their own pixels ───────────┘
//! ```
//!
//! The encoder never processes mask tokens, so it costs a quarter of a pass over whole images; the decoder is
//! dropped after training.

use crate::checks;
use crate::head::{l2_normalize, spread};
use crate::memory;
use crate::method::{Footprint, Invalid, MethodConfig, RunShape, StepShape, advice, needs_vit, where_needed};
use backbones::init::trained;
use backbones::layers::{LayerNorm, Linear};
use backbones::vit::{Block, Initialization, sine_cosine};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, VitConfig, draws};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Loss, Objective, Remedy, ViewCount};

/// `[objective.mae]`. The paper's values are those for ImageNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Share of hidden patches, above 0 and below 1. Paper: 0.75 (section 3 and figure 5).
    pub mask_ratio: f64,
    /// Channels of the decoder's tokens, a multiple of 4 for its positions. Paper: 512 (table 1).
    pub decoder_width: usize,
    /// Blocks of the decoder. Paper: 8.
    pub decoder_depth: usize,
    /// Attention heads of the decoder, which must divide its width. Paper: 16.
    pub decoder_heads: usize,
    /// Compare with pixels normalized to mean 0 and variance 1 in each patch. Paper: true for
    /// representations, false for pictures (section 3, table 1d).
    pub normalize_pixels: bool,
}

impl MethodConfig for Config {
    const NAME: &'static str = "mae";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "He, Chen, Xie, Li, Dollár, Girshick",
        title: "Masked Autoencoders Are Scalable Vision Learners",
        year: 2021,
        arxiv: "2111.06377",
    }];

    type Objective = Mae;

    fn objective(self, backbone: BackboneConfig) -> Mae {
        Mae {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        let vit = needs_vit(run, Self::NAME, "whose encoder can leave patches out")?;
        if !(self.mask_ratio > 0.0 && self.mask_ratio < 1.0) {
            return Err(Invalid::key(
                "mask_ratio",
                format!("must be above 0 and below 1, got {}", self.mask_ratio),
            ));
        }
        let positive = [
            ("decoder_width", self.decoder_width),
            ("decoder_depth", self.decoder_depth),
            ("decoder_heads", self.decoder_heads),
        ];
        checks::sizes(&positive)?;
        if !self.decoder_width.is_multiple_of(4) {
            return Err(Invalid::key(
                "decoder_width",
                format!("must be a multiple of 4, got {}", self.decoder_width),
            ));
        }
        if !self.decoder_width.is_multiple_of(self.decoder_heads) {
            let reason = format!(
                "must divide `decoder_width` ({}), got {}",
                self.decoder_width, self.decoder_heads
            );
            return Err(Invalid::key("decoder_heads", reason));
        }
        for &(width, height) in run.views_px {
            let patches = (width as usize / vit.patch_px) * (height as usize / vit.patch_px);
            let kept = self.kept(patches);
            if kept == 0 || kept == patches {
                let reason = format!(
                    "must leave some of a view's {patches} patches visible and hide some, got {}, which shows {kept}",
                    self.mask_ratio
                );
                return Err(Invalid::key("mask_ratio", reason));
            }
        }
        Ok(())
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        let width = self.decoder_width as f64;
        let numbers = width * features + 12.0 * self.decoder_depth as f64 * width * width;
        vec![("decoder_width", numbers)]
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        let of_decoder = memory::values_of_blocks(
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            step.patches + 1,
        );
        Footprint {
            hidden_share: self.mask_ratio,
            values_per_image: of_decoder,
            ..Footprint::default()
        }
    }
}

impl Config {
    /// Patches of an image that the encoder gets, rounded down as in the reference.
    fn kept(&self, patches: usize) -> usize {
        (patches as f64 * (1.0 - self.mask_ratio)) as usize
    }

    /// The decoder as a network: blocks of the encoder's kind, with other sizes.
    fn decoder(&self, encoder: &VitConfig) -> VitConfig {
        VitConfig {
            width: self.decoder_width,
            depth: self.decoder_depth,
            heads: self.decoder_heads,
            layer_scale: None,
            drop_path: 0.0,
            initialization: Initialization::Mae,
            ..encoder.clone()
        }
    }
}

/// Reconstructs pixels from the encoder's tokens.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Maps the encoder's width to the decoder's.
    pub embed: Linear,
    /// The token that replaces every hidden patch, `[1, 1, decoder_width]`.
    pub mask_token: Param<Tensor<3>>,
    /// Blocks of the encoder's kind.
    pub blocks: Vec<Block>,
    /// The norm after the last block.
    pub norm: LayerNorm,
    /// Maps a token to a patch's pixels.
    pub pred: Linear,
}

impl Decoder {
    fn new(init: &Init, config: &VitConfig, features: usize) -> Self {
        let width = config.width;
        let linear = |name: &str, inputs, outputs| {
            Linear::xavier_uniform(&init.at(name), inputs, outputs, inputs + outputs)
        };
        Self {
            embed: linear("embed", features, width),
            mask_token: trained(init.at("mask_token").normal([1, 1, width], 0.02)),
            blocks: (0..config.depth)
                .map(|number| Block::new(config, &init.at(&format!("blocks.{number}")), number))
                .collect(),
            norm: LayerNorm::new(&init.at("norm"), width),
            pred: linear("pred", width, 3 * config.patch_px * config.patch_px),
        }
    }

    /// The pixels of the hidden patches.
    ///
    /// The paper restores the image's order of tokens. That order matters only to positions, so here
    /// positions are reordered to match the tokens, and only the hidden patches' tokens go through the last
    /// two layers.
    ///
    /// # Shapes
    /// - `tokens`: `[images, others + kept, features]`, the class token and registers before the patches
    /// - `mask`: their positions in a grid of `grid` rows and columns
    /// - output: `[images, hidden, 3·patch²]`
    fn forward(&self, tokens: Tensor<3>, mask: &Mask, grid: [usize; 2], context: &Context) -> Tensor<3> {
        let tokens = self.embed.forward(tokens);
        let [images, count, width] = tokens.dims();
        let [[_, kept], [_, hidden]] = [mask.keep.dims(), mask.hidden.dims()];
        let positions = sine_cosine(width, grid, &mask.keep.device()).reshape([-1, width as i64]);
        let positions = |patches: &Tensor<2, Int>, count| {
            positions
                .clone()
                .select(0, patches.clone().reshape([images * count]))
                .reshape([images, count, width])
        };
        let others = tokens.clone().narrow(1, 0, count - kept);
        let visible = tokens.narrow(1, count - kept, kept) + positions(&mask.keep, kept);
        let masked = self.mask_token.val() + positions(&mask.hidden, hidden);
        let x = Tensor::cat(vec![others, visible, masked], 1);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, context));
        self.pred.forward(self.norm.forward(x.narrow(1, count, hidden)))
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// The encoder, the network under study.
    pub backbone: Backbone,
    /// The decoder.
    pub decoder: Decoder,
}

/// No further state.
#[derive(Module, Debug)]
pub struct State {}

/// The objective.
#[derive(Clone, Debug)]
pub struct Mae {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Mae {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(1)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let init = init.at("student");
        let BackboneConfig::Vit(encoder) = &self.backbone else {
            unreachable!("`Config::validate` refuses other networks")
        };
        let student = Student {
            backbone: self.backbone.init(&init.at("backbone")),
            decoder: Decoder::new(&init.at("decoder"), &self.config.decoder(encoder), encoder.width),
        };
        (student, State {})
    }

    fn loss(&self, student: &Student, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let Some(encoder) = student.backbone.as_vit() else {
            unreachable!("`Config::validate` refuses other networks")
        };
        let images = batch.view(0);
        let [count, _, height, width] = images.dims();
        let patch = encoder.patch_px();
        let grid = [height / patch, width / patch];
        let patches = grid[0] * grid[1];
        let mask = Mask::draw(
            count,
            patches,
            self.config.kept(patches),
            context,
            &images.device(),
        );

        let pixels = pixels(images.clone(), patch, &mask.hidden);
        let tokens = encoder.encode_visible(images, mask.keep.clone(), context);
        let embeddings = tokens.clone().detach().mean_dim(1);
        let width = embeddings.dims()[2];
        let embeddings = embeddings.reshape([count, width]);
        let made = student.decoder.forward(tokens, &mask, grid, context);
        let total = reconstruction(made, pixels, self.config.normalize_pixels);
        let signals = vec![("embedding_std", spread(&l2_normalize(embeddings.clone())))];
        (Loss::new(total, signals).with_embeddings(&embeddings), ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    /// The error of the mean of each patch: the targets' variance, of `n − 1` degrees of freedom, is 1.
    fn chance_loss(&self, _: usize) -> Option<f64> {
        let BackboneConfig::Vit(vit) = &self.backbone else {
            return None;
        };
        let pixels = (3 * vit.patch_px * vit.patch_px) as f64;
        self.config.normalize_pixels.then(|| (pixels - 1.0) / pixels)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::ChanceLoss => where_needed([(
                self.config.mask_ratio > 0.75,
                advice(
                    "mask_ratio",
                    "lower it (0.75)",
                    "He et al. 2022, arXiv:2111.06377, figure 5",
                ),
            )]),
            Cause::Collapse | Cause::LowRank => where_needed([(
                !self.config.normalize_pixels,
                advice(
                    "normalize_pixels",
                    "set it to true",
                    "He et al. 2022, arXiv:2111.06377, table 1",
                ),
            )]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.backbone.clone()
    }
}

/// The visible and hidden patches of each image.
struct Mask {
    /// `[images, kept]`, in random order.
    keep: Tensor<2, Int>,
    /// `[images, hidden]`, the remaining patches.
    hidden: Tensor<2, Int>,
}

impl Mask {
    fn draw(images: usize, patches: usize, kept: usize, context: &Context, device: &Device) -> Self {
        let (mut keep, mut hidden) = (vec![], vec![]);
        for image in 0..images {
            let order = order(context.place() * images + image, patches, kept, context);
            keep.extend_from_slice(&order[..kept]);
            hidden.extend_from_slice(&order[kept..]);
        }
        let tensor =
            |patches: Vec<i32>, count| Tensor::from_data(TensorData::new(patches, [images, count]), device);
        Self {
            keep: tensor(keep, kept),
            hidden: tensor(hidden, patches - kept),
        }
    }
}

/// A permutation of the patches of the step's `image`-th image: `kept` random ones first, then the others.
fn order(image: usize, patches: usize, kept: usize, context: &Context) -> Vec<i32> {
    let mut rng = context.draws.whole_step().rng("mae.mask", image as u64);
    let mut order: Vec<i32> = (0..patches as i32).collect();
    draws::choose(&mut rng, &mut order, kept);
    order
}

/// The pixels of some patches, channels last as in the reference code.
///
/// # Shapes
/// - `images`: `[images, 3, height, width]`
/// - `which`: `[images, count]`
/// - output: `[images, count, patch²·3]`
fn pixels(images: Tensor<4>, patch: usize, which: &Tensor<2, Int>) -> Tensor<3> {
    let [count, channels, height, width] = images.dims();
    let (rows, columns, pixels) = (height / patch, width / patch, patch * patch * channels);
    let [_, chosen] = which.dims();
    let first = Tensor::<1, Int>::arange(0..count as i64, &which.device()) * (rows * columns) as i64;
    let which = (which.clone() + first.reshape([count, 1])).reshape([count * chosen]);
    images
        .reshape([count, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 3, 5, 1])
        .reshape([count * rows * columns, pixels])
        .select(0, which)
        .reshape([count, chosen, pixels])
}

/// The mean squared error over the hidden patches' pixels (section 3, "reconstruction target").
///
/// With `normalize`, pixels are first normalized to mean 0 and variance 1 in their patch. The paper specifies
/// only the mean and standard deviation of all pixels in a patch. This is `(pixel - mean) / sqrt(variance +
/// 1e-6)` with the unbiased variance, as in implementations that reproduce it (Hugging Face's
/// `ViTMAEForPreTraining`, lightly's `normalize_mean_var`).
///
/// # Shapes
/// - made, pixels: `[images, hidden, pixels]`
/// - output: `[1]`
pub fn reconstruction(made: Tensor<3>, pixels: Tensor<3>, normalize: bool) -> Tensor<1> {
    let target = if normalize {
        let freedom = (pixels.dims()[2] - 1) as f64;
        let centered = pixels.clone() - pixels.mean_dim(2);
        let variance = centered.clone().powi_scalar(2).sum_dim(2) / freedom;
        centered / (variance + 1e-6).sqrt()
    } else {
        pixels
    };
    // Every image hides the same number of patches, so a mean of means is the overall mean.
    (made - target)
        .powi_scalar(2)
        .mean_dim(2)
        .mean_dim(1)
        .mean_dim(0)
        .reshape([1])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow, relative, u};
    use backbones::vit::Position;
    use backbones::{Draws, ResNetConfig, RunPosition, Stem};

    fn config() -> Config {
        Config {
            mask_ratio: 0.75,
            decoder_width: 8,
            decoder_depth: 1,
            decoder_heads: 2,
            normalize_pixels: true,
        }
    }

    fn vit() -> VitConfig {
        VitConfig {
            position: Position::SineCosine,
            initialization: Initialization::Mae,
            ..VitConfig::tiny_for_tests()
        }
    }

    fn context(step: usize) -> Context {
        let progress = RunPosition::at(step, 20, 20);
        Context::training(progress, Draws::new(7, step as u64))
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        let registers = VitConfig {
            registers: 2,
            position: Position::Learned,
            ..vit()
        };
        for (vit, normalize_pixels, pixels) in [(vit(), true, 16), (registers, false, 24)] {
            let config = Config {
                normalize_pixels,
                ..config()
            };
            let case = Case {
                config,
                views: vec![(1, pixels)],
                teacher: None,
                independent_images: true,
            };
            suite.check_on(&case, &BackboneConfig::Vit(vit));
        }
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/mae.json"));
        // Draws are part of the meaning of a seed: they must not change between versions.
        let drawn: Vec<Vec<Vec<i32>>> = (0..20)
            .map(|step| {
                (0..8)
                    .map(|image| order(image, 16, 4, &context(step))[..4].to_vec())
                    .collect()
            })
            .collect();
        let stored: Vec<Vec<Vec<i32>>> = fixture.setting("keep");
        assert!(
            drawn == stored,
            "visible patches of all steps: {}",
            serde_json::to_string(&drawn).unwrap()
        );
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |_, state| state);
    }

    #[test]
    fn the_loss_agrees_with_pytorch_and_lightly_in_value_and_gradient() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/mae_reconstruction.json")).unwrap();
        let device = Device::flex().autodiff();
        for case in fixture["cases"].as_array().unwrap() {
            let shape: [usize; 3] = serde_json::from_value(case["shape"].clone()).unwrap();
            let count = shape.iter().product::<usize>();
            let made = Tensor::<3>::from_data(TensorData::new(u(1, count), shape), &device).require_grad();
            let mut pixels: Vec<f32> = u(2, count).into_iter().map(|value| 3.0 * value).collect();
            pixels[count - shape[2]..].fill(0.5);
            let pixels = Tensor::from_data(TensorData::new(pixels, shape), &device);
            let loss = reconstruction(made.clone(), pixels, case["normalize"].as_bool().unwrap());
            let value = f64::from(loss.clone().into_scalar::<f32>());
            let gradient = made.grad(&loss.backward()).unwrap().into_data();
            let stride = (count / 64).max(1);
            let gradient: Vec<f64> = gradient.iter::<f64>().step_by(stride).take(64).collect();
            let expected: Vec<f64> = serde_json::from_value(case["gradient"].clone()).unwrap();
            assert_eq!(gradient.len(), expected.len());
            let bound = |name: &str| (3.0 * case["torch_float32_error"][name].as_f64().unwrap()).max(1e-5);
            let error = relative(&[value], &[case["loss"].as_f64().unwrap()]);
            assert!(error <= bound("loss"), "{case}: loss {value}");
            let error = relative(&gradient, &expected);
            assert!(error <= bound("gradient"), "{case}: gradient {error:e} off");
        }
    }

    #[test]
    fn masks_are_uniform_and_depend_on_image_and_step_alone() {
        let (patches, kept) = (12, 3);
        let mut shown = [0usize; 12];
        for image in 0..4000 {
            let order = order(image, patches, kept, &context(0));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..12).collect::<Vec<i32>>());
            order[..kept].iter().for_each(|patch| shown[*patch as usize] += 1);
        }
        // Each patch is visible 1,000 times of 4,000, with a standard deviation of √(4000 · ¼ · ¾) = 27.
        assert!(
            shown.iter().all(|count| count.abs_diff(1000) < 4 * 27),
            "{shown:?}"
        );
        let at = |image, context: &Context| order(image, patches, kept, context);
        assert_ne!(at(0, &context(0)), at(1, &context(0)));
        assert_ne!(at(0, &context(0)), at(0, &context(1)));
        // A micro-batch draws the same for its images as the whole batch.
        let device = Device::flex();
        let rows = |mask: Mask| mask.keep.into_data().iter::<i64>().collect::<Vec<_>>();
        let whole = rows(Mask::draw(4, patches, kept, &context(0), &device));
        let second = rows(Mask::draw(
            2,
            patches,
            kept,
            &context(0).micro_batch(1, 2),
            &device,
        ));
        assert_eq!(whole[6..], second);
    }

    #[test]
    fn pixels_are_those_of_their_patch_with_channels_innermost() {
        let device = Device::flex();
        // One image of 4 × 6 px, values 100 channel + 10 y + x.
        let values: Vec<f32> = (0..3 * 4 * 6)
            .map(|at| (100 * (at / 24) + 10 * (at % 24 / 6) + at % 6) as f32)
            .collect();
        let image = Tensor::from_data(TensorData::new(values, [1, 3, 4, 6]), &device);
        let which = Tensor::from_data(TensorData::new(vec![4, 0], [1, 2]), &device);
        let pixels = pixels(image, 2, &which);
        assert_eq!(pixels.dims(), [1, 2, 12]);
        // Patch 4 of 2 × 3: rows 2 and 3, columns 2 and 3.
        let wanted = [
            22.0, 122.0, 222.0, 23.0, 123.0, 223.0, 32.0, 132.0, 232.0, 33.0, 133.0, 233.0,
        ];
        let found: Vec<f32> = pixels.into_data().iter::<f32>().take(12).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn images_need_not_be_square() {
        let objective = config().objective(BackboneConfig::Vit(vit()));
        let (student, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let images = Tensor::ones([2, 3, 16, 24], &Device::flex());
        let batch = Batch {
            views: vec![training::ViewGroupTensor { images, count: 1 }],
            images: 2,
            labels: None,
            targets: None,
        };
        let (loss, ()) = objective.loss(&student, &state, &batch, &context(0));
        assert!(loss.total.into_scalar::<f32>().is_finite());
    }

    #[test]
    fn bad_numbers_are_named() {
        let backbone = BackboneConfig::Vit(vit());
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            conformance::checked(&config, &backbone, 8).unwrap_err()
        };
        assert!(refused(&|c| c.mask_ratio = 1.0).contains("mask_ratio"));
        assert!(refused(&|c| c.mask_ratio = f64::NAN).contains("mask_ratio"));
        assert!(refused(&|c| c.mask_ratio = 0.95).contains("16 patches visible"));
        assert!(refused(&|c| c.decoder_depth = 0).contains("decoder_depth"));
        assert!(refused(&|c| c.decoder_width = 10).contains("decoder_width"));
        assert!(refused(&|c| c.decoder_heads = 3).contains("decoder_heads"));
        let resnet = BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 64,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        });
        let error = conformance::checked(&config(), &resnet, 8).unwrap_err();
        assert!(
            error.contains("[backbone.vit]") && error.contains("resnet18-small"),
            "{error}"
        );
        assert_eq!(conformance::checked(&config(), &backbone, 8), Ok(()));
        // Rounding as in the reference: 196 patches at 0.75 keep 49, at 0.6 78.
        assert_eq!(config().kept(196), 49);
        assert_eq!(
            Config {
                mask_ratio: 0.6,
                ..config()
            }
            .kept(196),
            78
        );
    }
}
