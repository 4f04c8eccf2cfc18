//! Required behavior without a reference network: draws, buffers, names and errors.

use super::*;
use crate::context::RunPosition;
use crate::draws::Draws;
use crate::{Backbone, BackboneConfig, independent_copy, parameters, replace_state, state_dict};
use burn::tensor::Device;

fn config() -> VitConfig {
    VitConfig {
        width: 32,
        depth: 3,
        heads: 4,
        ..VitConfig::tiny_for_tests()
    }
}

fn context(step: u64) -> Context {
    let progress = RunPosition::at(step as usize, 10, 10);
    Context::training(progress, Draws::new(3, step))
}

fn images(count: usize, height: usize, width: usize) -> Tensor<4> {
    let init = Init::new(9, &Device::flex()).at("images");
    init.normal([count, 3, height, width], 1.0)
}

fn data<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn usual_networks_have_timms_names() {
    let named = |width, depth, heads, patch_px, registers| {
        VitConfig {
            width,
            depth,
            heads,
            patch_px,
            image_px: 2 * patch_px,
            registers,
            ..config()
        }
        .name()
    };
    assert_eq!(named(192, 12, 3, 16, 0), "vit_tiny_patch16");
    assert_eq!(named(384, 12, 6, 14, 4), "vit_small_patch14_reg4");
    assert_eq!(named(768, 12, 12, 8, 0), "vit_base_patch8");
    assert_eq!(named(1024, 24, 16, 14, 0), "vit_large_patch14");
    // MoCo-v3's small one has twice as many heads.
    assert_eq!(named(384, 12, 12, 16, 0), "vit-w384-d12-h12-p16");
    assert_eq!(named(64, 6, 4, 4, 2), "vit-w64-d6-h4-p4-reg2");
}

#[test]
fn impossible_networks_are_refused_by_field() {
    let refused = |change: fn(&mut VitConfig)| {
        let mut config = config();
        change(&mut config);
        config.validate("backbone.vit").unwrap_err()
    };
    assert_eq!(
        refused(|c| c.depth = 0),
        "`backbone.vit.depth` must be at least 1, got 0"
    );
    assert_eq!(
        refused(|c| c.heads = 3),
        "`backbone.vit.heads` must divide `width` (32), got 3"
    );
    assert_eq!(
        refused(|c| c.patch_px = 3),
        "`backbone.vit.patch_px` must divide `image_px` (16), got 3"
    );
    assert_eq!(
        refused(|c| (c.width, c.heads, c.position) = (30, 2, Position::SineCosine)),
        "`backbone.vit.width` must be a multiple of 4 for `position = \"sine_cosine\"`, got 30"
    );
    assert_eq!(
        refused(|c| c.drop_path = 1.0),
        "`backbone.vit.drop_path` must be at least 0 and below 1, got 1"
    );
    assert!(refused(|c| c.layer_scale = Some(f64::NAN)).starts_with("`backbone.vit.layer_scale` must be"));
    config().validate("backbone.vit").unwrap();
}

#[test]
fn images_that_cannot_be_cut_are_refused_with_a_size_that_can() {
    let vit = BackboneConfig::Vit(config());
    vit.check_input(8, 20).unwrap();
    let error = vit.check_input(20, 30).unwrap_err();
    assert_eq!(
        error,
        "images of 30×20 px cannot be cut into patches of 4 px; 28×20 px can"
    );
    assert!(vit.check_input(3, 4).unwrap_err().ends_with("4×4 px can"));
    assert!(
        vit.init(&Init::empty(&Device::flex()))
            .check_input(20, 30)
            .is_err()
    );
}

#[test]
fn initial_weights_are_those_of_the_paper() {
    let state = |initialization| {
        let config = VitConfig {
            initialization,
            registers: 2,
            layer_scale: Some(0.25),
            ..config()
        };
        state_dict(&BackboneConfig::Vit(config).init(&Init::new(1, &Device::flex())))
    };
    let spread = |state: &std::collections::BTreeMap<String, TensorData>, name: &str| {
        let values = state[name].iter::<f64>().collect::<Vec<_>>();
        let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let squares = values.iter().map(|v| v * v).sum::<f64>();
        (largest, (squares / values.len() as f64).sqrt())
    };
    let near = |value: f64, wanted: f64, part: f64| {
        assert!((value / wanted - 1.0).abs() < part, "{value}, expected {wanted}");
    };

    let dino = state(Initialization::TruncatedNormal);
    near(spread(&dino, "blocks.2.attn.qkv.weight").1, 0.02, 0.08);
    near(spread(&dino, "pos_embed").1, 0.02, 0.15);
    near(spread(&dino, "cls_token").1, 0.02, 0.5);
    near(spread(&dino, "reg_token").1, 1e-6, 0.5);
    near(
        spread(&dino, "patch_embed.proj.weight").0,
        1.0 / 48f64.sqrt(),
        0.01,
    );
    assert_eq!(spread(&dino, "blocks.0.mlp.fc1.bias").0, 0.0);
    assert_eq!(spread(&dino, "blocks.0.ls1.gamma"), (0.25, 0.25));

    // Xavier: √(6 / (inputs + outputs)), with three layers of 32 outputs or one of 96.
    let moco = state(Initialization::MocoV3);
    near(
        spread(&moco, "blocks.2.attn.qkv.weight").0,
        (6.0 / 64f64).sqrt(),
        0.01,
    );
    near(
        spread(&moco, "blocks.2.mlp.fc2.weight").0,
        (6.0 / 160f64).sqrt(),
        0.01,
    );
    near(
        spread(&moco, "patch_embed.proj.weight").0,
        (6.0 / 80f64).sqrt(),
        0.01,
    );
    assert_eq!(spread(&moco, "patch_embed.proj.bias").0, 0.0);
    near(spread(&moco, "cls_token").1, 1e-6, 0.5);
    let mae = state(Initialization::Mae);
    near(
        spread(&mae, "blocks.2.attn.qkv.weight").0,
        (6.0 / 128f64).sqrt(),
        0.01,
    );
    near(
        spread(&mae, "patch_embed.proj.weight").0,
        (6.0 / 80f64).sqrt(),
        0.01,
    );
    assert!(spread(&mae, "patch_embed.proj.bias").0 > 0.0);
    near(spread(&mae, "cls_token").1, 0.02, 0.5);
}

#[test]
fn sine_cosine_positions_are_saved_and_never_trained() {
    let config = BackboneConfig::Vit(VitConfig {
        position: Position::SineCosine,
        ..config()
    });
    let trained = |backbone: &Backbone| {
        let list = parameters(backbone).into_iter();
        list.filter(|p| !p.trained).map(|p| p.path).collect::<Vec<_>>()
    };
    let fresh = config.init(&Init::new(0, &Device::flex().autodiff()));
    let [untrained] = &trained(&fresh)[..] else {
        panic!("{:?}", trained(&fresh))
    };
    assert!(untrained.ends_with("pos_embed"), "{untrained}");
    let state = state_dict(&fresh);
    assert_eq!(state["pos_embed"].shape().to_vec(), [1, 17, 32]);
    // The class token's positions are zero.
    assert!(state["pos_embed"].iter::<f32>().take(32).all(|v| v == 0.0));
    // The same holds after loading, and on a plain device after `train`.
    let loaded = replace_state(fresh, state.clone());
    assert_eq!(trained(&loaded).len(), 1);
    let plain = config.init(&Init::empty(&Device::flex()));
    let plain = replace_state(plain, state).train();
    assert_eq!(trained(&plain).len(), 1);
    assert_eq!(
        trained(&independent_copy(&loaded)).len(),
        parameters(&loaded).len()
    );
}

#[test]
fn a_network_that_drops_nearly_all_is_its_first_block_in_training_alone() {
    let with_rate = |drop_path| {
        VitConfig {
            drop_path,
            depth: 2,
            ..config()
        }
        .init(&Init::new(2, &Device::flex()))
    };
    let (vit, still) = (with_rate(1.0 - 1e-12), with_rate(0.0));
    let images = || images(3, 16, 16);
    // The first block's rate is 0, the last block's the full rate: it returns its input.
    let dropped = data(vit.forward(images(), &context(0)));
    let first = data(still.last_blocks(images(), 2, &context(0)).remove(0).class);
    assert_eq!(dropped, first);
    for context in [context(0).teacher(), Context::evaluation()] {
        assert_eq!(
            data(vit.forward(images(), &context)),
            data(still.forward(images(), &context))
        );
    }
}

#[test]
fn blocks_and_features_of_one_pass_are_those_of_two() {
    for pooling in [Pooling::ClassToken, Pooling::Mean, Pooling::MeanThenNorm] {
        let vit = VitConfig {
            pooling,
            depth: 3,
            ..config()
        }
        .init(&Init::new(3, &Device::flex()));
        let context = Context::evaluation();
        let (blocks, features) = vit.last_blocks_and_features(images(2, 16, 16), 2, &context);
        assert_eq!(data(features), data(vit.forward(images(2, 16, 16), &context)));
        let alone = vit.last_blocks(images(2, 16, 16), 2, &context);
        assert_eq!((blocks.len(), alone.len()), (2, 2));
        for (one, other) in blocks.into_iter().zip(alone) {
            assert_eq!(data(one.class), data(other.class));
            assert_eq!(data(one.patch_mean), data(other.patch_mean));
        }
    }
}

#[test]
fn drop_path_draws_by_step_and_part() {
    let vit = VitConfig {
        drop_path: 0.5,
        ..config()
    }
    .init(&Init::new(2, &Device::flex()));
    let features = |context: &Context| data(vit.forward(images(8, 16, 16), context));
    assert_eq!(features(&context(1)), features(&context(1)));
    assert_eq!(features(&context(1)), features(&context(1).part(0)));
    assert_ne!(features(&context(1)), features(&context(2)));
    assert_ne!(features(&context(1)), features(&context(1).part(1)));
}

/// The registers are between the class token and the patches; all tokens attend to them, and no output
/// contains them.
#[test]
fn registers_are_seen_by_all_and_shown_to_none() {
    let config = VitConfig {
        registers: 2,
        ..config()
    };
    let vit = config.init(&Init::new(2, &Device::flex()));
    let tokens = vit.tokens(images(2, 16, 24), None, &Context::evaluation());
    assert_eq!(
        (tokens.class.dims(), tokens.patches.dims()),
        ([2, 32], [2, 24, 32])
    );
    let maps = vit.attention_maps(images(2, 16, 24), &Context::evaluation());
    assert_eq!(maps.dims(), [2, 4, 27, 27]);
    let keep = Tensor::<2, Int>::from_data([[0, 5], [3, 1]], &Device::flex());
    let visible = vit.encode_visible(images(2, 16, 16), keep, &Context::evaluation());
    assert_eq!(visible.dims(), [2, 5, 32]);
}

/// A teacher's forward records nothing; a student's reaches every parameter, from an image of another size too.
#[test]
fn gradients_reach_every_parameter_of_a_student_alone() {
    let config = VitConfig {
        registers: 2,
        layer_scale: Some(0.5),
        ..config()
    };
    let backbone = BackboneConfig::Vit(config).init(&Init::new(2, &Device::flex().autodiff()));
    let teacher = independent_copy(&backbone);
    assert!(
        !teacher
            .forward(images(2, 8, 12), &context(0).teacher())
            .is_tracked()
    );
    let features = backbone.forward(images(2, 8, 12), &context(0));
    let squares = features.powi_scalar(2).sum_dim(0).sum();
    let gradients = burn::optim::GradientsParams::from_grads(squares.backward(), &backbone);
    assert_eq!(gradients.len(), parameters(&backbone).len());
}

#[test]
fn the_key_that_makes_a_network_large_is_the_one_to_lower() {
    let of = |change: &dyn Fn(&mut VitConfig)| {
        let mut config = VitConfig::tiny_for_tests();
        change(&mut config);
        config.size_key()
    };
    assert_eq!(of(&|_| ()), "backbone.vit.width");
    assert_eq!(of(&|config| config.image_px = 400_000), "backbone.vit.image_px");
    assert_eq!(of(&|config| config.registers = 1 << 40), "backbone.vit.registers");
    assert_eq!(of(&|config| config.depth = 1 << 30), "backbone.vit.depth");
    assert_eq!(of(&|config| config.width = 1 << 30), "backbone.vit.width");
}
