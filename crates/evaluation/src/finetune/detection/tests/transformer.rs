//! Detectors on vision transformers: a run, what starts from it, and the preset.

use super::*;
use backbones::vit::{Initialization, Pooling, Position};
use backbones::{BackboneConfig, VitConfig};
use detection::rcnn::RcnnConfig;
use training::Objective;

fn small_config() -> Config {
    let mut config = super::small_config(true);
    let vit = VitConfig {
        width: 16,
        patch_px: 16,
        image_px: 32,
        drop_path: 0.1,
        ..VitConfig::tiny_for_tests()
    };
    let network = &mut config.detection.network;
    network.neck = Neck::Pyramid(PyramidConfig {
        channels: 16,
        norm: true,
    });
    network.backbone = vit.into();
    config.detection.evaluate_every_steps = None;
    config.training.steps = Some(2);
    config.training.checkpoint_every_steps = Some(1);
    config.schedule = ScheduleConfig::Milestones {
        milestones_steps: vec![1],
        factor: 0.1,
        warmup: None,
    };
    config
}

#[test]
fn a_detector_on_a_vision_transformer_learns_resumes_and_is_started_from() {
    let home = tempfile::tempdir().unwrap();
    let config = small_config();
    assert_eq!(config.validate(), Ok(()));
    let (whole, parts) = (home.path().join("whole"), home.path().join("parts"));
    ran(&config, &whole, false, None);
    ran(&config, &parts, false, Some(1));
    ran(&config, &parts, true, None);
    for file in [
        "detector.safetensors",
        "encoder.safetensors",
        "detections-masks.json",
    ] {
        assert!(bytes(&whole.join(file)) == bytes(&parts.join(file)), "{file}");
    }

    // Its encoder begins another detector: every weight but the pyramid's and the heads'.
    let device = Device::flex();
    let file = whole.join("encoder.safetensors");
    let encoder = training::read_encoder(&file, &Default::default(), &device).unwrap();
    assert_eq!(encoder.info.architecture, config.detection.network.backbone);
    let network = &config.detection.network;
    let weights = start::weights(&Start::Encoder(&encoder), network).unwrap();
    let state = detection::rcnn::state_dict(&network.init(&backbones::Init::empty(&device)));
    let of_body = state.keys().filter(|name| name.starts_with("backbone.vit.body."));
    assert!(weights.keys().eq(of_body));

    let mut other = network.clone();
    let BackboneConfig::Vit(vit) = &mut other.backbone else {
        panic!("it was made from one");
    };
    vit.heads = 4;
    let error = start::weights(&Start::Encoder(&encoder), &other).unwrap_err();
    let wanted = "`detection.network.backbone.vit.heads` must be 2, as in the encoder, got 4";
    assert!(error.to_string().ends_with(wanted), "{error}");
    let error = start::weights(&Start::Encoder(&encoder), &small_network(true)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is resnet18-w8, and the encoder vit-w16-d2-h2-p16"),
        "{error}"
    );

    // So does the whole detector, for other classes.
    let mut other = network.clone();
    other.classes = 5;
    let file = whole.join("detector.safetensors");
    let loaded = crate::finetune::LoadedDetector::read(&file, &other, &device).unwrap();
    assert!(
        loaded
            .weights
            .contains_key("backbone.vit.pyramid.levels.0.up.1.weight")
    );
    assert!(
        !loaded
            .weights
            .contains_key("roi_heads.box_predictor.cls_score.weight")
    );
}

#[test]
fn layer_norms_have_no_decay_where_norms_have_none() {
    let settings = small_config().detection;
    let objective = objective::Detect::new(&settings, Default::default(), &Device::flex());
    let rules = objective.parameter_rules();
    let has = |path: &str| rules.iter().any(|rule| rule.path == path && !rule.decays);
    assert!(has("backbone.vit.body.blocks.1.norm2"));
    assert!(has("backbone.vit.pyramid.levels.0.up_norm"));
    assert!(has("backbone.vit.pyramid.levels.3.layer_norm"));
    assert!(!has("backbone.vit.body.blocks.1.attn.proj"));
    assert!(
        !objective.takes_batch_statistics(&settings.network.init(&backbones::Init::empty(&Device::flex())))
    );
}

#[test]
fn what_a_transformer_lacks_is_refused() {
    let refused = |change: &dyn Fn(&mut RcnnConfig)| {
        let mut network = small_config().detection.network;
        change(&mut network);
        network.validate("network").unwrap_err()
    };
    let vit = |network: &mut RcnnConfig, change: &dyn Fn(&mut VitConfig)| {
        if let BackboneConfig::Vit(vit) = &mut network.backbone {
            change(vit);
        }
    };
    for (error, wanted) in [
        (
            refused(&|network| network.frozen_stages = 2),
            "`network.frozen_stages` must be 0 with",
        ),
        (
            refused(&|network| network.backbone_norm = Norm::Synchronized),
            "`network.backbone_norm` must be \"trained\" (it has no batch normalization) with `network.backbone.vit`, got \"synchronized\"",
        ),
        (
            refused(&|network| network.backbone_norm_epsilon = 0.0),
            "`network.backbone_norm_epsilon` must be 1e-5",
        ),
        (
            refused(&|network| network.neck = Neck::C4(C4Config { norm: true })),
            "`network.neck` must be `pyramid`",
        ),
        (
            refused(&|network| network.input.multiple_of_px = 16),
            "`network.input.multiple_of_px` must be a multiple of 32, two patches, with",
        ),
        (
            refused(&|network| vit(network, &|vit| (vit.patch_px, vit.image_px) = (14, 28))),
            "`network.backbone.vit.patch_px` must be a multiple of 4 below a pyramid, got 14",
        ),
        (
            refused(&|network| vit(network, &|vit| vit.heads = 3)),
            "`network.backbone.vit.heads` must divide `width` (16), got 3",
        ),
    ] {
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn the_preset_is_the_profile() {
    let vit = VitConfig {
        width: 768,
        depth: 12,
        heads: 12,
        patch_px: 16,
        image_px: 224,
        position: Position::SineCosine,
        drop_path: 0.1,
        pooling: Pooling::ClassToken,
        initialization: Initialization::Mae,
        ..VitConfig::tiny_for_tests()
    };
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/evaluate/detection-coco-mae-vit-base.toml");
    let config: Config = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(
        config.detection.network,
        RcnnConfig::simple_pyramid(vit, 80, true)
    );
    assert_eq!(
        (config.training.steps, config.data.batch_images),
        (Some(184_375), 64)
    );
    assert!((config.optimizer.peak_learning_rate(64) - 1e-4).abs() < 1e-12);
}
