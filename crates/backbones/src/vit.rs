//! Vision transformers at any width, depth and patch size, with timm's parameter names and layout.
//!
//! Dosovitskiy et al., *An image is worth 16×16 words*, 2021; sizes of Touvron et al., *Training data-efficient image
//! transformers* (DeiT), 2021, table 1; registers of Darcet et al., *Vision transformers need registers*, 2024.

mod block;
pub(crate) mod patches;
pub(crate) mod positions;
#[cfg(test)]
mod tests;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::init::{Init, buffer, trained};
use crate::layers::{LayerNorm, PatchEmbedding};
pub use block::Block;

/// A vision transformer, as `[backbone.vit]` in a config file.
///
/// The MLPs are four times as wide as a token; queries, keys and values have biases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Channels of a token: 192 (tiny), 384 (small), 768 (base), 1024 (large).
    pub width: usize,
    /// Blocks: 12, and 24 in the large one.
    pub depth: usize,
    /// Attention heads, which must divide the width: 3, 6, 12, 16. MoCo-v3's small one has 12.
    pub heads: usize,
    /// Side of a patch, pixels: 16, 14 or 8.
    pub patch_px: usize,
    /// Side of the square images for which position embeddings are stored, as a grid of patches. Other sizes
    /// that the patch divides use interpolated embeddings.
    pub image_px: usize,
    /// The kind of position embeddings.
    pub position: Position,
    /// The interpolation of position embeddings to another image size.
    pub interpolation: Interpolation,
    /// Register tokens, which have no position and give the network free memory: 0, or 4 in DINOv2's with
    /// registers. With any, the class token has no position embedding, as in timm: DINOv2's files have one,
    /// which is added to the class token on import.
    pub registers: usize,
    /// Initial factor of each residual branch's channels (DINOv2: 1e-5); absent: no factors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Probability, below 1, that training drops a residual branch of the last block for an image; the first
    /// block's is 0, and those in between are linear. DINO: 0.1.
    pub drop_path: f64,
    /// Which output is the feature.
    pub pooling: Pooling,
    /// The distribution of the initial weights.
    pub initialization: Initialization,
    /// Added to the variance in every norm; absent: 1e-6, as in the papers' code. Files of Transformers state
    /// theirs, often 1e-12.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_epsilon: Option<f64>,
}

/// Position embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Trained.
    Learned,
    /// MoCo-v3's: sines and cosines of row and column, fixed, nothing for the class token.
    SineCosine,
}

/// Interpolation of position embeddings to another grid; all are bicubic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// With antialiasing, to the grid's size: timm's, and DINOv2's with registers.
    Antialiased,
    /// Without antialiasing, by a scale that is a tenth of a patch too large: DINO's, and DINOv2's without
    /// registers.
    Offset,
    /// Without antialiasing, to the grid's size: MAE's, and DeiT's in fine-tuning.
    Bicubic,
    /// Without antialiasing, with the corner patches fixed (PyTorch's `align_corners=True`): torchvision's.
    AlignedCorners,
}

/// The feature computed from the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token.
    ClassToken,
    /// The mean of the patches' tokens (timm: `global_pool="avg", fc_norm=False`).
    Mean,
    /// The mean of the last block's unnormalized patch tokens, then a norm: fine-tuned BEiTs and MAEs (timm:
    /// `global_pool="avg"`, with the norm named `fc_norm`).
    MeanThenNorm,
}

/// Distributions of initial weights. Norms start at 1 and 0, biases of linear layers at 0, registers near 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initialization {
    /// Normal with standard deviation 0.02 for linear layers, positions and class token, as in DINO and iBOT
    /// (timm's class token has 1e-6); patches as PyTorch's convolutions.
    TruncatedNormal,
    /// Xavier-uniform for linear layers (queries, keys and values each on their own) and patches; class token at 1e-6.
    MocoV3,
    /// Xavier-uniform for linear layers (queries, keys and values as one) and the patches' weight; class token at 0.02.
    Mae,
}

impl VitConfig {
    /// A small network for tests: two blocks of 8 channels on images of 16 px, and no drop path. Each test
    /// changes the settings that it covers.
    pub fn tiny_for_tests() -> Self {
        Self {
            width: 8,
            depth: 2,
            heads: 2,
            patch_px: 4,
            image_px: 16,
            position: Position::Learned,
            interpolation: Interpolation::Antialiased,
            registers: 0,
            layer_scale: None,
            drop_path: 0.0,
            pooling: Pooling::ClassToken,
            initialization: Initialization::TruncatedNormal,
            norm_epsilon: None,
        }
    }

    /// Epsilon of norms where the config states none.
    pub const USUAL_EPSILON: f64 = 1e-6;

    /// Epsilon of norms.
    pub fn epsilon(&self) -> f64 {
        self.norm_epsilon.unwrap_or(Self::USUAL_EPSILON)
    }

    /// Checks that such a network exists; the message names the field in the config's `table`, as `backbone.vit`.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        let positive = [
            ("width", self.width),
            ("depth", self.depth),
            ("heads", self.heads),
            ("patch_px", self.patch_px),
            ("image_px", self.image_px),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{table}.{name}` must be at least 1, got 0"));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!(
                "`{table}.heads` must divide `width` ({}), got {}",
                self.width, self.heads
            ));
        }
        if !self.image_px.is_multiple_of(self.patch_px) {
            return Err(format!(
                "`{table}.patch_px` must divide `image_px` ({}), got {}",
                self.image_px, self.patch_px
            ));
        }
        if self.position == Position::SineCosine && !self.width.is_multiple_of(4) {
            return Err(format!(
                "`{table}.width` must be a multiple of 4 for `position = \"sine_cosine\"`, got {}",
                self.width
            ));
        }
        if let Some(value) = self.layer_scale.filter(|value| !value.is_finite()) {
            return Err(format!(
                "`{table}.layer_scale` must be a finite number, got {value}"
            ));
        }
        if let Some(value) = self
            .norm_epsilon
            .filter(|value| !(f64::MIN_POSITIVE..1.0).contains(value))
        {
            return Err(format!(
                "`{table}.norm_epsilon` must be above 0 and below 1, got {value}"
            ));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(format!(
                "`{table}.drop_path` must be at least 0 and below 1, got {}",
                self.drop_path
            ));
        }
        Ok(())
    }

    /// Checks that images of this height and width, in pixels, fit; the message states the fault.
    pub fn check_input(&self, height: usize, width: usize) -> Result<(), String> {
        check_input(self.patch_px, height, width)
    }

    /// Width of the pooled output: that of a token.
    pub fn features(&self) -> usize {
        self.width
    }

    /// Approximate parameter count; allocates no memory.
    pub fn parameter_count(&self) -> f64 {
        let (width, patch) = (self.width as f64, self.patch_px as f64);
        let positions = (self.image_px as f64 / patch).powi(2) + self.registers as f64;
        12.0 * self.depth as f64 * width.powi(2) + (positions + 3.0 * patch.powi(2)) * width
    }

    /// The key with the largest effect on [`Self::parameter_count`]: what makes most of the count, positions or blocks.
    pub fn size_key(&self) -> &'static str {
        let without = |image_px, registers| Self {
            image_px,
            registers,
            ..self.clone()
        };
        let all = self.parameter_count();
        let is_most = |others: f64| 2.0 * others < all;
        if is_most(without(0, self.registers).parameter_count()) {
            "backbone.vit.image_px"
        } else if is_most(without(self.image_px, 0).parameter_count()) {
            "backbone.vit.registers"
        } else if self.depth > self.width {
            "backbone.vit.depth"
        } else {
            "backbone.vit.width"
        }
    }

    /// timm's name without the image size, `vit_small_patch16` or `vit_small_patch14_reg4`; `vit-w64-d6-h4-p4` for other
    /// widths, depths and heads.
    pub fn name(&self) -> String {
        let size = match (self.width, self.depth, self.heads) {
            (192, 12, 3) => Some("tiny"),
            (384, 12, 6) => Some("small"),
            (768, 12, 12) => Some("base"),
            (1024, 24, 16) => Some("large"),
            (1280, 32, 16) => Some("huge"),
            _ => None,
        };
        let (mut name, separator) = match size {
            Some(size) => (format!("vit_{size}_patch{}", self.patch_px), '_'),
            None => (
                format!(
                    "vit-w{}-d{}-h{}-p{}",
                    self.width, self.depth, self.heads, self.patch_px
                ),
                '-',
            ),
        };
        if self.registers > 0 {
            name += &format!("{separator}reg{}", self.registers);
        }
        name
    }

    /// The network with its initial weights.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) rejects the config.
    pub fn init(&self, init: &Init) -> Vit {
        if let Err(reason) = self.validate("backbone.vit") {
            panic!("{reason}");
        }
        let grid = self.image_px / self.patch_px;
        let class_std = match self.initialization {
            Initialization::TruncatedNormal | Initialization::Mae => 0.02,
            Initialization::MocoV3 => 1e-6,
        };
        let token = |name: &str, count: usize, std| {
            trained(init.at(name).truncated_normal([1, count, self.width], std))
        };
        let patches = init.at("patch_embed");
        let xavier = || PatchEmbedding::xavier_uniform(&patches, self.width, self.patch_px);
        let patch_embed = match self.initialization {
            Initialization::TruncatedNormal => PatchEmbedding::new(&patches, self.width, self.patch_px),
            Initialization::Mae => xavier(),
            Initialization::MocoV3 => {
                let mut embedding = xavier();
                embedding.proj.bias = trained(init.zeros([self.width]));
                embedding
            }
        };
        Vit {
            cls_token: token("cls_token", 1, class_std),
            reg_token: (self.registers > 0).then(|| token("reg_token", self.registers, 1e-6)),
            pos_embed: match self.position {
                Position::Learned => token("pos_embed", self.class_positions() + grid * grid, 0.02),
                Position::SineCosine => buffer(self.sine_cosine(grid, init.device())),
            },
            patch_embed,
            blocks: (0..self.depth)
                .map(|number| Block::new(self, &init.at(&format!("blocks.{number}")), number))
                .collect(),
            norm: LayerNorm::new(&init.at("norm"), self.width).with_epsilon(self.epsilon()),
            grid,
            patch_px: self.patch_px,
            interpolation: self.interpolation,
            pooling: self.pooling,
        }
    }

    /// Number of position embeddings of the class token: none with registers.
    fn class_positions(&self) -> usize {
        usize::from(self.registers == 0)
    }

    fn sine_cosine(&self, grid: usize, device: &Device) -> Tensor<3> {
        let mut values = vec![0.0; self.class_positions() * self.width];
        values.extend(positions::sine_cosine(self.width, grid, grid));
        let places = self.class_positions() + grid * grid;
        Tensor::from_data(TensorData::new(values, [1, places, self.width]), device)
    }
}

/// Fixed position embeddings of a grid of patches, as in [`Position::SineCosine`]: `[1, rows·columns,
/// width]`, row by row. Methods use them for networks after this one (MAE's decoder).
///
/// `width` is a multiple of 4.
pub fn sine_cosine(width: usize, [rows, columns]: [usize; 2], device: &Device) -> Tensor<3> {
    let values = positions::sine_cosine(width, rows, columns);
    Tensor::from_data(TensorData::new(values, [1, rows * columns, width]), device)
}

/// A vision transformer without its classifier.
///
/// Its tokens are the class token, the registers, and the patches row by row.
#[derive(Module, Debug)]
pub struct Vit {
    cls_token: Param<Tensor<3>>,
    reg_token: Option<Param<Tensor<3>>>,
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// Patches per side of the grid whose position embeddings are stored.
    grid: usize,
    patch_px: usize,
    #[module(skip)]
    interpolation: Interpolation,
    #[module(skip)]
    pooling: Pooling,
}

/// The normalized output tokens, without registers.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[images, width]`.
    pub class: Tensor<2>,
    /// `[images, patches, width]`.
    pub patches: Tensor<3>,
}

/// The output of one block, normalized and pooled.
#[derive(Clone, Debug)]
pub struct BlockFeatures {
    /// The class token, `[images, width]`.
    pub class: Tensor<2>,
    /// The mean of the patches' tokens, `[images, width]`.
    pub patch_mean: Tensor<2>,
}

impl Vit {
    /// Features of normalized images.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`; the patch must divide the sides
    /// - output: `[images, width]`
    ///
    /// # Panics
    /// If [`VitConfig::check_input`] rejects the images' size; the same holds for the other methods.
    pub fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        self.pooled(self.run(self.embed(images, None), context))
    }

    /// The config's pooling of the last block's tokens.
    fn pooled(&self, x: Tensor<3>) -> Tensor<2> {
        match self.pooling {
            // Only the needed tokens are normalized.
            Pooling::ClassToken => self.norm.forward(class_token(x)),
            Pooling::Mean => mean(self.norm.forward(self.patches_of(x))),
            Pooling::MeanThenNorm => self.norm.forward(mean(self.patches_of(x))),
        }
    }

    /// The last block's tokens of normalized images. Embeddings of hidden patches are replaced before
    /// position embeddings are added (iBOT, DINOv2).
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - `masked`: `[images, patches]`, true where a patch is hidden, and the mask token that replaces it,
    ///   `[width]`
    pub fn tokens(
        &self,
        images: Tensor<4>,
        masked: Option<(Tensor<2, Bool>, Tensor<1>)>,
        context: &Context,
    ) -> Tokens {
        let x = self.norm.forward(self.run(self.embed(images, masked), context));
        Tokens {
            class: class_token(x.clone()),
            patches: self.patches_of(x),
        }
    }

    /// The last block's tokens when the network gets only some of the patches (MAE). Position embeddings are
    /// those of the whole image.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - `keep`: `[images, kept]`, for each image the indices of its kept patches, without repeats
    /// - output: `[images, 1 + registers + kept, width]`, normalized: class token, registers, patches in the
    ///   order of `keep`
    pub fn encode_visible(&self, images: Tensor<4>, keep: Tensor<2, Int>, context: &Context) -> Tensor<3> {
        let grid = self.grid_of(&images);
        let patches = self.patch_embed.patches(images);
        let ([count, places, pixels], [_, kept]) = (patches.dims(), keep.dims());
        // Patches are dropped before the embedding, which is cheaper and gives the same result.
        let first = Tensor::<1, Int>::arange(0..count as i64, &keep.device()) * places as i64;
        let rows = (keep.clone() + first.reshape([count, 1])).reshape([count * kept]);
        let patches = patches
            .reshape([count * places, pixels])
            .select(0, rows)
            .reshape([count, kept, pixels]);
        let (class, positions) = self.positions(grid);
        let width = positions.dims()[2];
        let positions = positions
            .reshape([places, width])
            .select(0, keep.reshape([count * kept]))
            .reshape([count, kept, width]);
        let x = self.sequence(class, self.patch_embed.embed(patches) + positions);
        self.norm.forward(self.run(x, context))
    }

    /// The last block's patches as a map, before the last norm, as ViTDet's detectors take them (Li et al., *Exploring plain
    /// vision transformer backbones for object detection*, 2022).
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, width, height / patch, width / patch]`
    pub fn patch_map(&self, images: Tensor<4>, context: &Context) -> Tensor<4> {
        let [rows, columns] = self.grid_of(&images);
        let patches = self.patches_of(self.run(self.embed(images, None), context));
        let [count, _, width] = patches.dims();
        patches.swap_dims(1, 2).reshape([count, width, rows, columns])
    }

    /// The outputs of the last `count` blocks, the last block last: the features of DINO's and DINOv2's
    /// linear probes.
    pub fn last_blocks(&self, images: Tensor<4>, count: usize, context: &Context) -> Vec<BlockFeatures> {
        self.blocks_and_tokens(images, count, context).0
    }

    /// The outputs of [`last_blocks`](Self::last_blocks) and [`forward`](Self::forward), in one pass.
    pub fn last_blocks_and_features(
        &self,
        images: Tensor<4>,
        count: usize,
        context: &Context,
    ) -> (Vec<BlockFeatures>, Tensor<2>) {
        let (blocks, x) = self.blocks_and_tokens(images, count, context);
        (blocks, self.pooled(x))
    }

    /// The outputs of the last `count` blocks, and the last block's unnormalized tokens.
    fn blocks_and_tokens(
        &self,
        images: Tensor<4>,
        count: usize,
        context: &Context,
    ) -> (Vec<BlockFeatures>, Tensor<3>) {
        let first = self.blocks.len().saturating_sub(count);
        let mut x = self.embed(images, None);
        let mut features = Vec::with_capacity(count);
        for (number, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, context);
            if number >= first {
                let normalized = self.norm.forward(x.clone());
                features.push(BlockFeatures {
                    class: class_token(normalized.clone()),
                    patch_mean: mean(self.patches_of(normalized)),
                });
            }
        }
        (features, x)
    }

    /// The attention of the last block, `[images, heads, tokens, tokens]`: how much each token (third dimension) attends
    /// to each other. Tokens are the class token, the registers, and the patches row by row.
    pub fn attention_maps(&self, images: Tensor<4>, context: &Context) -> Tensor<4> {
        let x = self.embed(images, None);
        let Some((last, before)) = self.blocks.split_last() else {
            unreachable!("a config without blocks is refused")
        };
        last.attention_map(before.iter().fold(x, |x, block| block.forward(x, context)))
    }

    /// Checks that images of this height and width, in pixels, fit: [`VitConfig::check_input`].
    pub fn check_input(&self, height: usize, width: usize) -> Result<(), String> {
        check_input(self.patch_px, height, width)
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        self.pos_embed.dims()[2]
    }

    /// Side of a patch, pixels.
    pub fn patch_px(&self) -> usize {
        self.patch_px
    }

    /// Blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Rows and columns of patches.
    fn grid_of(&self, images: &Tensor<4>) -> [usize; 2] {
        let [_, _, height, width] = images.dims();
        [height / self.patch_px, width / self.patch_px]
    }

    /// Images to the tokens that enter the first block.
    fn embed(&self, images: Tensor<4>, masked: Option<(Tensor<2, Bool>, Tensor<1>)>) -> Tensor<3> {
        let (class, positions) = self.positions(self.grid_of(&images));
        let mut patches = self.patch_embed.embed(self.patch_embed.patches(images));
        if let Some((mask, token)) = masked {
            let [images, places, width] = patches.dims();
            let mask = mask.reshape([images, places, 1]).expand([images, places, width]);
            let token = token.reshape([1, 1, width]).expand([images, places, width]);
            patches = patches.mask_where(mask, token);
        }
        self.sequence(class, patches + positions)
    }

    /// Position embeddings for a grid: `[1, 1, width]` of the class token, if it has one, and `[1, patches, width]`.
    fn positions(&self, grid: [usize; 2]) -> (Option<Tensor<3>>, Tensor<3>) {
        let all = self.pos_embed.val();
        let of_class = usize::from(self.reg_token.is_none());
        let class = (of_class > 0).then(|| all.clone().narrow(1, 0, of_class));
        let patches = all.narrow(1, of_class, self.grid * self.grid);
        let patches = if grid == [self.grid; 2] {
            patches
        } else {
            positions::interpolate(patches, self.grid, grid, self.interpolation)
        };
        (class, patches)
    }

    /// Concatenates class token, registers and patches; the patches already have their positions.
    fn sequence(&self, class_position: Option<Tensor<3>>, patches: Tensor<3>) -> Tensor<3> {
        let [images, _, width] = patches.dims();
        let class = match class_position {
            Some(position) => self.cls_token.val() + position,
            None => self.cls_token.val(),
        };
        let mut parts = vec![class.expand([images, 1, width])];
        if let Some(registers) = &self.reg_token {
            let registers = registers.val();
            let count = registers.dims()[1];
            parts.push(registers.expand([images, count, width]));
        }
        parts.push(patches);
        Tensor::cat(parts, 1)
    }

    fn run(&self, x: Tensor<3>, context: &Context) -> Tensor<3> {
        self.blocks.iter().fold(x, |x, block| block.forward(x, context))
    }

    /// The patches among all tokens.
    fn patches_of(&self, x: Tensor<3>) -> Tensor<3> {
        let before = 1 + self.reg_token.as_ref().map_or(0, |registers| registers.dims()[1]);
        let patches = x.dims()[1] - before;
        x.narrow(1, before, patches)
    }
}

/// The first token: `[images, tokens, width]` to `[images, width]`.
fn class_token(x: Tensor<3>) -> Tensor<2> {
    let [images, _, width] = x.dims();
    x.narrow(1, 0, 1).reshape([images, width])
}

/// The mean of all tokens: `[images, tokens, width]` to `[images, width]`.
fn mean(x: Tensor<3>) -> Tensor<2> {
    let [images, _, width] = x.dims();
    x.mean_dim(1).reshape([images, width])
}

fn check_input(patch: usize, height: usize, width: usize) -> Result<(), String> {
    let fits = |side: usize| side > 0 && side.is_multiple_of(patch);
    if fits(height) && fits(width) {
        return Ok(());
    }
    let near = |side: usize| (side / patch).max(1) * patch;
    Err(format!(
        "images of {width}×{height} px cannot be cut into patches of {patch} px; {}×{} px can",
        near(width),
        near(height)
    ))
}
