//! Vision transformers compared with timm, from fixtures that `scripts/parity/vit.py` made.

use burn::tensor::{Bool, Int};

use super::*;
use crate::VitConfig;
use crate::vit::{Interpolation, Pooling, Position};

/// Bound for features and tokens; PyTorch's own errors in float32 are about 1e-6.
const BOUND: f64 = 1e-5;
const GRADIENT_BOUND: f64 = 2e-5;
const SAMPLES: usize = 8;

/// The script's `fill`.
fn filled_vit(backbone: Backbone) -> Backbone {
    let mut state = state_dict(&backbone);
    for (number, (name, data)) in state.iter_mut().enumerate() {
        let shape = data.shape().to_vec();
        let mut values = wave(number, data.num_elements());
        let (scale, offset) = if ["cls_token", "pos_embed", "reg_token"].contains(&name.as_str()) {
            (0.5, 0.0)
        } else if shape.len() > 1 {
            ((6.0 / shape[1..].iter().product::<usize>() as f64).sqrt(), 0.0)
        } else if name.ends_with("weight") {
            (0.5, 1.0)
        } else {
            (0.2, 0.0)
        };
        values.iter_mut().for_each(|v| *v = offset + scale * *v);
        let values = values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        *data = TensorData::new(values, shape);
    }
    replace_state(backbone, state)
}

fn images(height: usize, width: usize) -> Tensor<4> {
    tensor(
        wave(1000, 2 * 3 * height * width),
        [2, 3, height, width],
        &Device::flex(),
    )
}

/// The script's `loss` of one output; `number` distinguishes several.
fn loss<const D: usize>(number: usize, output: &Tensor<D>) -> Tensor<1> {
    let shape = output.dims();
    let factor = tensor(
        wave(2000 + number, shape.iter().product()),
        shape,
        &output.device(),
    );
    (output.clone() * factor).sum()
}

fn check_output<const D: usize>(fixture: &Fixture, key: &str, output: Tensor<D>) {
    let error = fixture.error(key, &values(output.inner()));
    eprintln!("{key}: {error:.1e}");
    assert!(error <= BOUND, "{key}: {error:e}");
}

/// Compares `found` with the rows of the fixture's `{key}.gradients`.
fn check_gradients(fixture: &Fixture, key: &str, found: &BTreeMap<String, Vec<f64>>) {
    let rows = fixture.get(&format!("{key}.gradients"));
    let rows = rows.chunks_exact(SAMPLES + 2);
    assert_eq!(rows.len(), found.len());
    let mut worst = (0.0, String::new());
    for ((name, ours), row) in found.iter().zip(rows) {
        let stored = SAMPLES.min(ours.len());
        let picked = (0..stored)
            .map(|i| ours[i * ours.len() / stored])
            .collect::<Vec<_>>();
        let norm = ours.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (reference_norm, float32) = (row[SAMPLES], row[SAMPLES + 1]);
        // Few elements may be smaller than the rest: their error is measured against the average norm of this
        // many elements, or against their own norm if larger.
        let own = row[..stored].iter().map(|v| v * v).sum::<f64>().sqrt();
        let size = own.max(reference_norm * (stored as f64 / ours.len() as f64).sqrt());
        let difference = picked
            .iter()
            .zip(row)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        let error = (difference / size).max((norm - reference_norm).abs() / reference_norm);
        assert!(
            error <= GRADIENT_BOUND.max(3.0 * float32),
            "{key}: gradient of {name}: {error:e}, float32's own {float32:e}"
        );
        worst = worst.max_by((error, name.clone()));
    }
    eprintln!(
        "{key}: {} gradients, at worst {:.1e} ({})",
        found.len(),
        worst.0,
        worst.1
    );
}

fn config(width: usize, heads: usize, patch_px: usize, image_px: usize) -> VitConfig {
    VitConfig {
        width,
        depth: 12,
        heads,
        patch_px,
        image_px,
        ..VitConfig::tiny_for_tests()
    }
}

fn network(config: VitConfig) -> Backbone {
    let device = Device::flex().autodiff();
    filled_vit(BackboneConfig::Vit(config).init(&Init::empty(&device)))
}

/// Pooled features at each size, and gradients if the fixture has them.
fn check_sizes(fixture: &Fixture, config: VitConfig, sizes: &[[usize; 2]]) {
    let name = config.name();
    let backbone = network(config);
    for [height, width] in sizes {
        let key = format!("{height}x{width}");
        let features = backbone.forward(images(*height, *width), &training());
        eprint!("{name} ");
        check_output(fixture, &key, features.clone());
        let gradients = loss(0, &features).backward();
        if fixture.0.contains_key(&format!("{key}.gradients")) {
            check_gradients(fixture, &key, &gradients_of(&backbone, &gradients));
        }
    }
}

#[test]
fn vit_small_patch16_is_timms() {
    let fixture = Fixture::read(include_bytes!("../../fixtures/vit_small_patch16.safetensors"));
    let sizes = [[224, 224], [96, 96], [160, 288]];
    check_sizes(&fixture, config(384, 6, 16, 224), &sizes);
}

#[test]
fn vit_base_patch16_is_timms() {
    let fixture = Fixture::read(include_bytes!("../../fixtures/vit_base_patch16.safetensors"));
    let sizes = [[224, 224], [96, 96], [160, 288]];
    check_sizes(&fixture, config(768, 12, 16, 224), &sizes);
}

#[test]
fn vit_small_patch14_with_registers_is_timms() {
    let fixture = Fixture::read(include_bytes!(
        "../../fixtures/vit_small_patch14_reg4.safetensors"
    ));
    let sizes = [[224, 224], [98, 98], [154, 280]];
    let config = VitConfig {
        registers: 4,
        layer_scale: Some(1e-5),
        ..config(384, 6, 14, 518)
    };
    check_sizes(&fixture, config, &sizes);
}

fn narrow() -> VitConfig {
    VitConfig {
        depth: 3,
        ..config(48, 4, 16, 64)
    }
}

fn narrow_fixture() -> Fixture {
    Fixture::read(include_bytes!("../../fixtures/vit_narrow.safetensors"))
}

#[test]
fn positions_are_interpolated_as_dino_does() {
    let backbone = network(VitConfig {
        interpolation: Interpolation::Offset,
        ..narrow()
    });
    let features = backbone.forward(images(48, 112), &training());
    check_output(&narrow_fixture(), "offset", features.clone());
    let gradients = gradients_of(&backbone, &loss(0, &features).backward());
    check_gradients(&narrow_fixture(), "offset", &gradients);
}

#[test]
fn the_mean_of_the_patches_is_timms() {
    let backbone = network(VitConfig {
        pooling: Pooling::Mean,
        layer_scale: Some(0.1),
        ..narrow()
    });
    let features = backbone.forward(images(64, 32), &training());
    check_output(&narrow_fixture(), "mean", features.clone());
    let gradients = gradients_of(&backbone, &loss(0, &features).backward());
    check_gradients(&narrow_fixture(), "mean", &gradients);
}

/// The narrow network without and with registers, each with the fixture's name.
fn plain_and_with_registers() -> [(&'static str, Backbone); 2] {
    let registers = VitConfig {
        registers: 3,
        layer_scale: Some(0.1),
        ..narrow()
    };
    [("plain", network(narrow())), ("registers", network(registers))]
}

#[test]
fn masked_patches_are_replaced_before_positions_are_added() {
    let fixture = narrow_fixture();
    for (name, backbone) in plain_and_with_registers() {
        let key = format!("masked.{name}");
        let device = Device::flex().autodiff();
        let token = wave(3001, 48).into_iter().map(|v| 0.5 * v).collect();
        let token = tensor(token, [48], &device).require_grad();
        let mask = wave(3000, 32).into_iter().map(|v| v > 0.2).collect::<Vec<_>>();
        let mask = Tensor::<2, Bool>::from_data(TensorData::new(mask, [2, 16]), &Device::flex());
        let tokens = backbone.as_vit().unwrap().tokens(
            images(64, 64),
            Some((mask, token.clone())),
            &Context::evaluation(),
        );
        check_output(&fixture, &format!("{key}.class"), tokens.class.clone());
        check_output(&fixture, &format!("{key}.patches"), tokens.patches.clone());
        let gradients = (loss(0, &tokens.class) + loss(1, &tokens.patches)).backward();
        let mut found = gradients_of(&backbone, &gradients);
        found.insert("~mask_token".to_owned(), values(token.grad(&gradients).unwrap()));
        check_gradients(&fixture, &key, &found);
    }
}

#[test]
fn visible_patches_are_encoded_with_their_own_positions() {
    let fixture = narrow_fixture();
    for (name, backbone) in plain_and_with_registers() {
        let key = format!("visible.{name}");
        let keep = Tensor::<2, Int>::from_data([[3, 0, 15, 7, 8], [9, 1, 2, 14, 4]], &Device::flex());
        let vit = backbone.as_vit().unwrap();
        let tokens = vit.encode_visible(images(64, 64), keep, &training());
        check_output(&fixture, &key, tokens.clone());
        let gradients = gradients_of(&backbone, &loss(0, &tokens).backward());
        check_gradients(&fixture, &key, &gradients);
    }
}

#[test]
fn blocks_and_attention_maps_are_timms() {
    let fixture = narrow_fixture();
    for (name, backbone) in plain_and_with_registers() {
        let vit = backbone.as_vit().unwrap();
        let blocks = vit.last_blocks(images(64, 64), 2, &Context::evaluation());
        assert_eq!(blocks.len(), 2);
        for (number, block) in blocks.into_iter().enumerate() {
            check_output(&fixture, &format!("blocks.{name}.class{number}"), block.class);
            check_output(&fixture, &format!("blocks.{name}.mean{number}"), block.patch_mean);
        }
        let maps = vit.attention_maps(images(64, 64), &Context::evaluation());
        check_output(&fixture, &format!("maps.{name}"), maps);
    }
}

#[test]
fn sine_cosine_positions_are_lightlys_but_for_the_order() {
    let config = VitConfig {
        position: Position::SineCosine,
        ..config(48, 4, 16, 48)
    };
    let backbone = BackboneConfig::Vit(config).init(&Init::empty(&Device::flex()));
    let ours = state_dict(&backbone)["pos_embed"]
        .iter::<f64>()
        .collect::<Vec<_>>();
    let error = narrow_fixture().error("sine_cosine", &ours);
    assert!(error < 1e-6, "{error:e}");
}
