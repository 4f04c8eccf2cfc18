//! The state of one network for another one that computes the same from it: where a run starts from an encoder.

use std::collections::BTreeMap;
use std::fmt::Debug;

use burn::tensor::TensorData;

use crate::vit::{Pooling, Position, patches, positions};
use crate::{BackboneConfig, ResNetConfig, VitConfig};

/// The state of a network `from` (by the names of [`state_dict`](crate::state_dict)) for a network `to`. Position embeddings are
/// interpolated to another grid of patches, as `to` says, and the patch embedding is resampled to another patch size;
/// [`adaptations`] names both.
///
/// These settings may differ, because the weights have the same meaning with others: a ViT's `image_px` and `patch_px`, `drop_path`,
/// the value of `layer_scale`, class token or mean, `interpolation`, positions that were fixed and are trained now; initial
/// distributions.
///
/// # Errors
/// Every key of `to` with another value than the weights were trained with, and that value.
pub fn fit_state(
    from: &BackboneConfig,
    to: &BackboneConfig,
    tensors: BTreeMap<String, TensorData>,
) -> Result<BTreeMap<String, TensorData>, String> {
    let differences = match (from, to) {
        (BackboneConfig::Resnet(from), BackboneConfig::Resnet(to)) => resnet_differences(from, to),
        (BackboneConfig::Vit(from), BackboneConfig::Vit(to)) => vit_differences(from, to),
        _ => vec![format!(
            "`backbone` must be a {}, as in the encoder, got a {}",
            kind(from),
            kind(to)
        )],
    };
    if !differences.is_empty() {
        return Err(differences.join("; "));
    }
    Ok(match (from, to) {
        (BackboneConfig::Vit(from), BackboneConfig::Vit(to)) => {
            with_patches(from, to, with_positions(from, to, tensors))
        }
        _ => tensors,
    })
}

/// What [`fit_state`] changes of the weights, for people: nothing where the network is the same.
pub fn adaptations(from: &BackboneConfig, to: &BackboneConfig) -> Vec<String> {
    let (BackboneConfig::Vit(from), BackboneConfig::Vit(to)) = (from, to) else {
        return vec![];
    };
    let mut all = vec![];
    if from.patch_px != to.patch_px {
        all.push(format!(
            "the patch embedding is resampled from {} to {} px",
            from.patch_px, to.patch_px
        ));
    }
    let [before, now] = sides(from, to);
    if before != now && to.position == Position::Learned {
        all.push(format!(
            "positions are interpolated from {before}×{before} to {now}×{now} patches"
        ));
    }
    all
}

/// Patches along a side of both networks' images.
fn sides(from: &VitConfig, to: &VitConfig) -> [usize; 2] {
    [from.image_px / from.patch_px, to.image_px / to.patch_px]
}

fn kind(config: &BackboneConfig) -> &'static str {
    match config {
        BackboneConfig::Resnet(_) => "`resnet`",
        BackboneConfig::Vit(_) => "`vit`",
    }
}

/// `` `backbone.vit.heads` must be 6, as in the encoder, got 3 ``, if they differ.
fn difference<T: PartialEq + Debug>(key: &str, from: T, to: T) -> Option<String> {
    let shown = |value: &T| format!("{value:?}").to_lowercase();
    worded(key, &shown(&from), &shown(&to))
}

/// [`difference`] of values in words.
fn worded(key: &str, from: &str, to: &str) -> Option<String> {
    (from != to).then(|| format!("`backbone.{key}` must be {from}, as in the encoder, got {to}"))
}

fn resnet_differences(from: &ResNetConfig, to: &ResNetConfig) -> Vec<String> {
    let differences = [
        difference("resnet.depth", from.depth, to.depth),
        difference("resnet.width", from.width, to.width),
        difference("resnet.stem", from.stem, to.stem),
        difference("resnet.stride_in_1x1", from.stride_in_1x1, to.stride_in_1x1),
    ];
    differences.into_iter().flatten().collect()
}

fn vit_differences(from: &VitConfig, to: &VitConfig) -> Vec<String> {
    let scale = |config: &VitConfig| config.layer_scale.map_or("absent", |_| "a number");
    // The norm behind the mean was trained for means alone; of the others, either reads the other's tokens.
    let pooling = |config: &VitConfig| match config.pooling {
        Pooling::MeanThenNorm => "\"mean_then_norm\"",
        Pooling::ClassToken | Pooling::Mean => "\"class_token\" or \"mean\"",
    };
    // Fixed positions are a start for learned ones.
    let position = |config: &VitConfig| match (config.position, from.position) {
        (Position::SineCosine, Position::Learned) => "\"sine_cosine\"",
        _ => "\"learned\"",
    };
    let differences = [
        difference("vit.width", from.width, to.width),
        difference("vit.depth", from.depth, to.depth),
        difference("vit.heads", from.heads, to.heads),
        difference("vit.registers", from.registers, to.registers),
        difference("vit.norm_epsilon", from.epsilon(), to.epsilon()),
        worded("vit.layer_scale", scale(from), scale(to)),
        worded("vit.pooling", pooling(from), pooling(to)),
        worded("vit.position", position(from), position(to)),
    ];
    differences.into_iter().flatten().collect()
}

/// The same tensors with a patch embedding for patches of another size.
fn with_patches(
    from: &VitConfig,
    to: &VitConfig,
    mut tensors: BTreeMap<String, TensorData>,
) -> BTreeMap<String, TensorData> {
    const WEIGHT: &str = "patch_embed.proj.weight";
    if from.patch_px != to.patch_px
        && let Some(stored) = tensors.remove(WEIGHT)
    {
        let values: Vec<f32> = stored.iter::<f32>().collect();
        let side = to.patch_px;
        let fitted = patches::resampled(&values, [from.patch_px, side]);
        tensors.insert(WEIGHT.into(), TensorData::new(fitted, [to.width, 3, side, side]));
    }
    tensors
}

/// The same tensors with the positions of another grid of patches.
fn with_positions(
    from: &VitConfig,
    to: &VitConfig,
    mut tensors: BTreeMap<String, TensorData>,
) -> BTreeMap<String, TensorData> {
    let sides = sides(from, to);
    if sides[0] == sides[1] {
        return tensors;
    }
    // Fixed ones are computed by the new network.
    if let Some(stored) = tensors.remove("pos_embed")
        && to.position == Position::Learned
    {
        let values: Vec<f32> = stored.iter::<f32>().collect();
        let (class, patches) = values.split_at(values.len() - sides[0] * sides[0] * to.width);
        let mut fitted = class.to_vec();
        fitted.extend(positions::interpolated(
            patches,
            to.width,
            sides,
            to.interpolation,
        ));
        let places = fitted.len() / to.width;
        tensors.insert("pos_embed".into(), TensorData::new(fitted, [1, places, to.width]));
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Init, Stem, replace_state, state_dict};
    use burn::tensor::{Device, Tensor};

    fn vit(change: impl FnOnce(&mut VitConfig)) -> BackboneConfig {
        let mut config = VitConfig::tiny_for_tests();
        change(&mut config);
        BackboneConfig::Vit(config)
    }

    /// Features at the new size, with interpolated weights and with interpolation at run time, are the same.
    #[test]
    fn positions_of_another_image_size_give_the_features_of_interpolation_at_run_time() {
        for registers in [0, 4] {
            let small = vit(|config| config.registers = registers);
            let large = vit(|config| (config.registers, config.image_px) = (registers, 24));
            let device = Device::flex();
            let source = small.init(&Init::new(3, &device));
            let state = fit_state(&small, &large, state_dict(&source)).unwrap();
            let started = large.init(&Init::new(9, &device).starting_from(state.clone()));
            assert_eq!(state_dict(&started), state);
            let values = (0..2 * 3 * 24 * 24).map(|index| (index as f32 * 0.37).sin());
            let data = TensorData::new(values.collect::<Vec<_>>(), [2, 3, 24, 24]);
            let images = Tensor::<4>::from_data(data, &device);
            let features = |network: &crate::Backbone| {
                network
                    .forward(images.clone(), &Context::evaluation())
                    .into_data()
            };
            features(&started)
                .assert_approx_eq::<f32>(&features(&source), burn::tensor::Tolerance::absolute(1e-6));
        }
    }

    /// With patches twice as large, an image whose patches are enlarged gives the same features.
    #[test]
    fn larger_patches_give_the_features_of_an_enlarged_image() {
        let plain = vit(|_| ());
        let BackboneConfig::Vit(small) = &plain else {
            return;
        };
        let (patch, side) = (small.patch_px, small.image_px);
        let large = vit(|config| (config.patch_px, config.image_px) = (2 * patch, 2 * side));
        assert_eq!(
            adaptations(&plain, &large),
            [format!(
                "the patch embedding is resampled from {patch} to {} px",
                2 * patch
            )]
        );
        let device = Device::flex();
        let source = plain.init(&Init::new(3, &device));
        let state = fit_state(&plain, &large, state_dict(&source)).unwrap();
        let started = large.init(&Init::new(9, &device).starting_from(state));
        let values: Vec<f32> = (0..3 * side * side)
            .map(|index| (index as f32 * 0.37).sin())
            .collect();
        // Each patch by itself, so that no pixel of a neighbor enters.
        let weights = positions::enlarged(patch);
        let mut enlarged = vec![0.0f32; 3 * 4 * side * side];
        for (index, value) in enlarged.iter_mut().enumerate() {
            let (channel, row, column) = (
                index / (4 * side * side),
                index / (2 * side) % (2 * side),
                index % (2 * side),
            );
            let (grid, inner) = (
                [row / (2 * patch), column / (2 * patch)],
                [row % (2 * patch), column % (2 * patch)],
            );
            for a in 0..patch {
                for b in 0..patch {
                    let factor = weights[inner[0] * patch + a] * weights[inner[1] * patch + b];
                    let source = channel * side * side + (grid[0] * patch + a) * side + grid[1] * patch + b;
                    *value += factor as f32 * values[source];
                }
            }
        }
        let features = |network: &crate::Backbone, values: Vec<f32>, side: usize| {
            let images = Tensor::<4>::from_data(TensorData::new(values, [1, 3, side, side]), &device);
            network.forward(images, &Context::evaluation()).into_data()
        };
        features(&started, enlarged, 2 * side).assert_approx_eq::<f32>(
            &features(&source, values, side),
            burn::tensor::Tolerance::absolute(1e-5),
        );
    }

    #[test]
    fn an_equal_network_takes_the_state_as_it_is() {
        let config = BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        });
        let state = state_dict(&config.init(&Init::new(3, &Device::flex())));
        let other = BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: true,
            stride_in_1x1: false,
        });
        let fitted = fit_state(&config, &other, state.clone()).unwrap();
        assert_eq!(fitted, state);
        let network = replace_state(other.init(&Init::new(1, &Device::flex())), fitted);
        assert_eq!(state_dict(&network), state);
    }

    #[test]
    fn every_setting_that_the_weights_depend_on_is_named() {
        let refused =
            |from: &BackboneConfig, to: &BackboneConfig| fit_state(from, to, BTreeMap::new()).unwrap_err();
        let plain = vit(|_| ());
        let other = vit(|config| (config.heads, config.depth) = (4, 7));
        assert_eq!(
            refused(&plain, &other),
            "`backbone.vit.depth` must be 2, as in the encoder, got 7; `backbone.vit.heads` must be 2, as in the encoder, got 4"
        );
        let scaled = vit(|config| config.layer_scale = Some(1e-5));
        assert_eq!(
            refused(&plain, &scaled),
            "`backbone.vit.layer_scale` must be absent, as in the encoder, got a number"
        );
        let fixed = vit(|config| config.position = Position::SineCosine);
        assert_eq!(
            refused(&plain, &fixed),
            "`backbone.vit.position` must be \"learned\", as in the encoder, got \"sine_cosine\""
        );
        assert!(fit_state(&fixed, &plain, BTreeMap::new()).is_ok());
        let norm = vit(|config| config.pooling = Pooling::MeanThenNorm);
        assert_eq!(
            refused(&plain, &norm),
            "`backbone.vit.pooling` must be \"class_token\" or \"mean\", as in the encoder, got \"mean_then_norm\""
        );
        assert_eq!(
            refused(&norm, &plain),
            "`backbone.vit.pooling` must be \"mean_then_norm\", as in the encoder, got \"class_token\" or \"mean\""
        );
        let mean = vit(|config| config.pooling = Pooling::Mean);
        assert!(fit_state(&plain, &mean, BTreeMap::new()).is_ok());
        let resnet = BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        });
        assert_eq!(
            refused(&resnet, &plain),
            "`backbone` must be a `resnet`, as in the encoder, got a `vit`"
        );
    }
}
