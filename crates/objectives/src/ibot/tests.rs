//! iBOT compared with PyTorch and lightly, and with hand-computed values.

use super::*;
use crate::conformance::{self, Case, OneDevice, Suite};
use crate::formula::{Fixture, check_loss, follow, u};
use backbones::{Draws, Replicas, ResNetConfig, Stem, VitConfig};
use serde_json::Value;

fn head() -> HeadConfig {
    HeadConfig {
        hidden_width: 16,
        bottleneck_width: 8,
        prototypes: 12,
        batch_norm: false,
        norm_last_layer: true,
    }
}

fn config() -> Config {
    Config {
        student_temperature: 0.1,
        teacher_temperature: 0.07,
        teacher_temperature_warmup: None,
        patch_teacher_temperature: 0.07,
        patch_teacher_temperature_warmup: Some(TemperatureWarmup {
            start: 0.04,
            epochs: 2,
        }),
        centering: Centering::Mean { momentum: 0.9 },
        freeze_last_layer_epochs: 1,
        momentum: 0.9,
        momentum_end: None,
        koleo_weight: None,
        patch_weight: 1.0,
        mask: MaskConfig {
            shape: MaskShape::Block,
            probability: 0.75,
            ratio: [0.1, 0.5],
            from_epoch: 0,
        },
        head: head(),
        patch_head: None,
    }
}

/// DINOv2's loss.
fn separate() -> Config {
    Config {
        centering: Centering::Sinkhorn { iterations: 3 },
        koleo_weight: Some(0.1),
        patch_head: Some(HeadConfig {
            prototypes: 10,
            norm_last_layer: false,
            ..head()
        }),
        mask: MaskConfig {
            shape: MaskShape::Random,
            ..config().mask
        },
        ..config()
    }
}

fn backbone(drop_path: f64) -> BackboneConfig {
    BackboneConfig::Vit(VitConfig {
        drop_path,
        ..conformance::vit()
    })
}

fn context(step: usize) -> Context {
    let progress = RunPosition::at(step, 5, 20);
    Context::training(progress, Draws::new(7, step as u64))
}

#[test]
fn passes_the_conformance_suite() {
    conforms(&OneDevice);
}

pub(crate) fn conforms(suite: &impl Suite) {
    for (config, views, independent_images) in [
        (config(), vec![(2, 16), (2, 8)], true),
        (separate(), vec![(2, 16), (1, 12), (1, 8)], false),
        (separate(), vec![(2, 16)], false),
    ] {
        let heads: &[(&str, &str)] = if config.patch_head.is_some() {
            &[("teacher.", "encoder."), ("patch_teacher", "patch_head")]
        } else {
            &[("teacher.", "encoder.")]
        };
        for (teacher, counterpart) in heads {
            suite.check(&Case {
                config: config.clone(),
                views: views.clone(),
                teacher: Some((teacher, counterpart, 0.9)),
                independent_images,
            });
        }
    }
}

#[test]
fn twenty_steps_follow_pytorch() {
    for text in [
        include_str!("../../fixtures/ibot_shared.json"),
        include_str!("../../fixtures/ibot_separate.json"),
    ] {
        let fixture = Fixture::new(text);
        let config: Config = fixture.objective();
        // Draws are part of the meaning of a seed: they must not change between versions.
        let images: usize = fixture.setting("images");
        let drawn: Vec<Vec<String>> = (0..20)
            .map(|step| {
                let mask = Mask::draw(&config.mask, images, [4, 4], &context(step), &Device::flex());
                let hidden: Vec<bool> = mask.hidden.into_data().iter::<bool>().collect();
                let of_view = |view: &[bool]| view.iter().map(|is| if *is { '1' } else { '0' }).collect();
                hidden.chunks(16).map(of_view).collect()
            })
            .collect();
        let stored: Vec<Vec<String>> = fixture.setting("masks");
        assert!(
            drawn == stored,
            "hidden patches of all steps: {}",
            serde_json::to_string(&drawn).unwrap()
        );
        let objective = config.objective(fixture.backbone());
        follow(&objective, &fixture, |student, mut state| {
            state.teacher = independent_copy(&student.encoder);
            state.patch_teacher = student.patch_head.as_ref().map(independent_copy);
            state
        });
    }
}

fn fixture(part: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(include_str!("../../fixtures/ibot_patches.json")).unwrap();
    fixture[part].as_array().unwrap().clone()
}

#[test]
fn the_patches_loss_agrees_with_pytorch_and_lightly_after_steps_that_moved_the_center() {
    let cases = fixture("loss");
    assert!(cases.len() >= 18);
    let device = Device::flex();
    for case in &cases {
        let size = |name: &str| case[name].as_u64().unwrap() as usize;
        let number = |name: &str| case[name].as_f64().unwrap();
        let (views, patches, prototypes) = (2 * size("images"), size("patches"), size("prototypes"));
        let mut hidden: Vec<Vec<bool>> = u(7, views * patches)
            .chunks(patches)
            .map(|view| view.iter().map(|value| *value > 0.3).collect())
            .collect();
        hidden[views - 1].fill(false);
        let mask = Mask::new(&hidden, &device);
        let logits = |tensor: usize| {
            let rows = views * patches;
            let values = TensorData::new(u(tensor, rows * prototypes), [rows, prototypes]);
            Tensor::<2>::from_data(values, &device)
        };
        let centering = Centering::Mean { momentum: 0.9 };
        let replicas = Replicas::single();
        let mut center = centering.init(&Init::new(0, &device), prototypes);
        for step in 0..size("steps") {
            let all = logits(10 * step + 1);
            let targets = centering.targets(
                mask.of_rows(all.clone()),
                center.as_ref(),
                number("teacher_temperature"),
                &replicas,
            );
            let mean = centering.mean_logits(all, &replicas);
            center = centering.moved(center, vec![mean]);
            if step + 1 < size("steps") {
                continue;
            }
            let student = mask.of_rows(logits(10 * step + 2)).autodiff().require_grad();
            let each = cross_entropies(student.clone(), targets, number("student_temperature"));
            let loss = mask.sum(each);
            check_loss(case, &student, loss);
        }
    }
}

#[test]
fn blocks_hide_what_the_papers_algorithm_hides() {
    const DRAWS: usize = 20_000;
    for case in fixture("masks") {
        let grid: [usize; 2] = serde_json::from_value(case["grid"].clone()).unwrap();
        let config = MaskConfig {
            probability: 1.0,
            ratio: serde_json::from_value(case["ratio"].clone()).unwrap(),
            ..config().mask
        };
        let patches = grid[0] * grid[1];
        let (mut by_patch, mut shares) = (vec![0usize; patches], vec![]);
        for draw in 0..DRAWS {
            let hidden = config.draw(grid, &mut context(0).draws.rng("test", draw as u64));
            shares.push(hidden.iter().filter(|is| **is).count() as f64 / patches as f64);
            for (count, is) in by_patch.iter_mut().zip(hidden) {
                *count += usize::from(is);
            }
        }
        let count = DRAWS as f64;
        let mean = shares.iter().sum::<f64>() / count;
        let std = (shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt();
        let (expected, expected_std) = (
            case["share"].as_f64().unwrap(),
            case["share_std"].as_f64().unwrap(),
        );
        // Both sides are means over 20,000 draws.
        let bound = 4.0 * expected_std * (2.0 / count).sqrt();
        assert!((mean - expected).abs() < bound, "{grid:?}: {mean}, {expected}");
        assert!(
            (std / expected_std - 1.0).abs() < 0.03,
            "{grid:?}: {std}, {expected_std}"
        );
        let stored: Vec<f64> = serde_json::from_value(case["by_patch"].clone()).unwrap();
        for (place, (found, expected)) in by_patch.iter().zip(stored).enumerate() {
            let found = *found as f64 / count;
            let bound = 5.0 * (2.0 * expected * (1.0 - expected) / count).sqrt();
            assert!(
                (found - expected).abs() < bound,
                "{grid:?}, patch {place}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn random_masks_hide_their_share_and_only_some_views() {
    let mask = MaskConfig {
        shape: MaskShape::Random,
        probability: 0.5,
        ratio: [0.25, 0.25],
        from_epoch: 0,
    };
    let (mut by_patch, mut masked) = ([0usize; 12], 0usize);
    for draw in 0..4000 {
        let hidden = mask.draw([3, 4], &mut context(0).draws.rng("test", draw));
        let count = hidden.iter().filter(|is| **is).count();
        assert!(count == 0 || count == 3);
        masked += usize::from(count > 0);
        for (count, is) in by_patch.iter_mut().zip(hidden) {
            *count += usize::from(is);
        }
    }
    // Half of the views, with a standard deviation of √(4000 / 4) = 32; each patch in a quarter of those,
    // with one of 21.
    assert!(masked.abs_diff(2000) < 4 * 32, "{masked}");
    assert!(
        by_patch.iter().all(|count| count.abs_diff(500) < 4 * 21),
        "{by_patch:?}"
    );
}

#[test]
fn masks_depend_on_view_and_step_and_not_on_micro_batches() {
    let device = Device::flex();
    let rows = |mask: Mask| -> Vec<Vec<bool>> {
        let hidden: Vec<bool> = mask.hidden.into_data().iter::<bool>().collect();
        hidden.chunks(16).map(<[bool]>::to_vec).collect()
    };
    let all = MaskConfig {
        probability: 1.0,
        ratio: [0.5, 0.5],
        ..config().mask
    };
    let draw = |images, context: &Context| rows(Mask::draw(&all, images, [4, 4], context, &device));
    let whole = draw(4, &context(0));
    assert_ne!(whole[0], whole[4]);
    assert_ne!(whole, draw(4, &context(1)));
    let second = draw(2, &context(0).micro_batch(1, 2));
    assert_eq!([&whole[2..4], &whole[6..8]].concat(), second);
    // Before its first epoch nothing is hidden, and the placeholder patch has weight 0.
    let later = MaskConfig { from_epoch: 1, ..all };
    let none = Mask::draw(&later, 4, [4, 4], &context(4), &device);
    assert!(none.weights.clone().into_data().iter::<f32>().eq([0.0]));
    assert_eq!(none.share.clone().into_scalar::<f32>(), 0.0);
    assert!(rows(none).concat().iter().all(|hidden| !hidden));
    assert!(
        rows(Mask::draw(&later, 4, [4, 4], &context(5), &device))
            .concat()
            .contains(&true)
    );
}

#[test]
fn a_step_without_hidden_patches_is_dinos() {
    let later = Config {
        mask: MaskConfig {
            from_epoch: 3,
            ..config().mask
        },
        ..config()
    };
    let objective = later.objective(backbone(0.0));
    let (student, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
    let batch = crate::formula::views(0, &[(2, 16), (1, 8)], 4);
    let (loss, _) = objective.loss(&student, &state, &batch, &context(0));
    let signal = |name: &str| {
        let found = loss.signals.iter().find(|(known, _)| *known == name).unwrap();
        found.1.clone().into_scalar::<f32>()
    };
    assert_eq!(signal("hidden_patches"), 0.0);
    assert_eq!(signal("patch_kl"), 0.0);
    let total = loss.total.clone().into_scalar::<f32>();
    assert!((total - signal("kl") - signal("teacher_entropy")).abs() < 1e-5);
    // The mask token has a gradient of zeros, so that the optimizer's state is complete.
    let grads = loss.total.backward();
    let gradient = student.mask_token.val().grad(&grads).unwrap();
    assert!(gradient.into_data().iter::<f32>().all(|value| value == 0.0));
}

#[test]
fn patch_temperatures_wait_for_the_first_masks() {
    let later = Config {
        mask: MaskConfig {
            from_epoch: 2,
            ..config().mask
        },
        ..config()
    };
    let course: Vec<f64> = (0..5)
        .map(|epoch| later.patch_temperature(&context(5 * epoch).progress))
        .collect();
    assert_eq!(course, [0.04, 0.04, 0.04, 0.07, 0.07]);
}

#[test]
fn both_last_layers_stand_still_at_first() {
    let objective = separate().objective(backbone(0.0));
    let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
    let frozen = objective.frozen(&context(0).progress);
    let below = |path: &str| {
        frozen
            .iter()
            .any(|prefix| path.starts_with(&format!("{prefix}.")))
    };
    let stopped: Vec<String> = backbones::parameters(&student)
        .into_iter()
        .filter(|p| p.trained && below(&p.path))
        .map(|p| p.path)
        .collect();
    assert_eq!(
        stopped,
        [
            "encoder.head.last_layer.weight_v",
            "patch_head.last_layer.weight_g",
            "patch_head.last_layer.weight_v"
        ]
    );
    assert!(objective.frozen(&context(5).progress).is_empty());
}

#[test]
fn bad_numbers_are_named() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        conformance::checked(&config, &backbone(0.0), 8).unwrap_err()
    };
    assert!(refused(&|c| c.student_temperature = 0.0).contains("`objective.ibot.student_temperature`"));
    assert!(
        refused(&|c| c.patch_teacher_temperature = -1.0)
            .contains("`objective.ibot.patch_teacher_temperature`")
    );
    let warmup = Some(TemperatureWarmup {
        start: 0.0,
        epochs: 3,
    });
    let error = refused(&|c| c.patch_teacher_temperature_warmup = warmup.clone());
    assert!(error.contains("patch_teacher_temperature_warmup.start"));
    let error = refused(&|c| c.teacher_temperature_warmup = warmup.clone());
    assert!(error.contains("`objective.ibot.teacher_temperature_warmup.start"));
    assert!(
        refused(&|c| c.centering = Centering::Mean { momentum: -0.1 }).contains("centering.mean.momentum")
    );
    assert!(refused(&|c| c.momentum_end = Some(2.0)).contains("momentum_end"));
    assert!(refused(&|c| c.koleo_weight = Some(f64::NAN)).contains("koleo_weight"));
    assert!(refused(&|c| c.patch_weight = -1.0).contains("patch_weight"));
    assert!(refused(&|c| c.mask.probability = 0.0).contains("mask.probability"));
    assert!(refused(&|c| c.mask.ratio = [0.5, 0.1]).contains("got [0.5, 0.1]"));
    assert!(refused(&|c| c.mask.ratio = [0.0, f64::NAN]).contains("mask.ratio"));
    let error = refused(&|c| c.head.batch_norm = true);
    assert!(error.contains("`objective.ibot.head.batch_norm` must be false"));
    let small = HeadConfig {
        bottleneck_width: 0,
        ..head()
    };
    let error = refused(&|c| c.patch_head = Some(small.clone()));
    assert!(error.contains("`objective.ibot.patch_head.bottleneck_width`"));
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
    assert_eq!(conformance::checked(&config(), &backbone(0.0), 8), Ok(()));
    assert_eq!(conformance::checked(&separate(), &backbone(0.0), 8), Ok(()));
}
