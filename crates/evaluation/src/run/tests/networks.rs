//! What protocols need from a network: a transformer's tokens, a ResNet's stages, images of one size.

use super::*;
use crate::protocols::ProtocolConfig;

/// A vision transformer of three blocks for images of 8 px.
fn transformer(device: &Device) -> Encoder {
    let config: backbones::BackboneConfig = serde_json::from_value(json!({ "vit": {
        "width": 12, "depth": 3, "heads": 2, "patch_px": 4, "image_px": 8, "position": "learned",
        "interpolation": "antialiased", "registers": 0, "drop_path": 0.0, "pooling": "mean",
        "initialization": "truncated_normal"
    } }))
    .unwrap();
    let network = config.init(&backbones::Init::new(0, device));
    Encoder::new("vit", "hash of the file", &network, IMAGENET)
}

fn config_of(protocol: &str) -> Config {
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.protocols.retain(|asked| asked.name() == protocol);
    config
}

#[test]
fn the_grid_takes_a_transformers_tokens_and_its_pooled_output() {
    let fixture = Fixture::new();
    let fixture = Fixture {
        encoder: transformer(&fixture.device),
        ..fixture
    };
    let tokens = |blocks, patch_mean| json!({ "tokens": { "blocks": blocks, "patch_mean": patch_mean } });
    let inputs = json!([
        "pooled",
        tokens(1, false),
        tokens(1, true),
        tokens(3, false),
        tokens(3, true)
    ]);
    let mut config = config_of("linear-dinov2");
    let ProtocolConfig::LinearDinov2(settings) = &mut config.protocols[0] else {
        unreachable!()
    };
    settings.inputs = serde_json::from_value(inputs).unwrap();
    let set = |records, seed| Dataset::synthetic(records, 10, 10, 3, seed);
    let outcomes = run(&config, &fixture.job(set(60, 1), set(30, 2)), &mut |_| {}).unwrap();
    assert_eq!((outcomes[0].metric.as_str(), outcomes[0].classes), ("top1", 3));
    let classifiers = outcomes[0].settings["classifiers"].as_array().unwrap();
    assert_eq!(classifiers.len(), 5 * 2);
    assert_eq!(classifiers[8]["input"], "3 blocks + patches");
    let stored = Features::load(&fixture.out.path().join("features-test.safetensors")).unwrap();
    let taps: Vec<&str> = stored.taps.keys().map(String::as_str).collect();
    assert_eq!(
        taps,
        [
            "class_token_1",
            "class_token_2",
            "class_token_3",
            "patch_mean",
            "pooled"
        ]
    );
    // More blocks than the network has.
    let ProtocolConfig::LinearDinov2(settings) = &mut config.protocols[0] else {
        unreachable!()
    };
    settings.inputs = serde_json::from_value(json!([tokens(4, false)])).unwrap();
    let error = run(&config, &fixture.job(set(60, 1), set(30, 2)), &mut |_| {}).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("linear-dinov2: `vit` has 3 blocks, fewer than the config needs")
    );
}

#[test]
fn stages_are_asked_of_resnets_at_one_size() {
    let fixture = Fixture::new();
    let set = |records, seed| Dataset::synthetic(records, 10, 10, 3, seed);
    let mut images = 0;
    let mut refused = |fixture: &Fixture, config: &Config| {
        let job = fixture.job(set(60, 1), set(30, 2));
        let error = run(config, &job, &mut |_| images += 1).unwrap_err().to_string();
        assert_eq!(images, 0, "{error}");
        error
    };
    // A stage of another size, while the pooled output has the same.
    let mut config = config_of("linear-vissl");
    let size = |px| {
        vec![data::Transform::ResizeExact {
            width_px: px,
            height_px: px,
            filter: data::Filter::Bilinear,
        }]
    };
    config.test_transforms = size(16);
    assert_eq!(
        refused(&fixture, &config),
        "evaluation config: linear-vissl: `res4` has 64 numbers for training images of 8×8 px and 256 for test images of \
         16×16 px; give both the same size"
    );
    let pooled = Config {
        test_transforms: size(16),
        ..config_of("linear-moco")
    };
    run(&pooled, &fixture.job(set(60, 1), set(30, 2)), &mut |_| {}).unwrap();

    let other = tempfile::tempdir().unwrap();
    for encoder in [transformer(&fixture.device), Encoder::pixels(IMAGENET)] {
        let fixture = Fixture {
            encoder,
            device: fixture.device.clone(),
            out: tempfile::tempdir_in(other.path()).unwrap(),
        };
        let mut config = config_of("linear-vissl");
        assert!(refused(&fixture, &config).contains("`linear-dino` and `linear-dinov2`"));
        let ProtocolConfig::LinearVissl(settings) = &mut config.protocols[0] else {
            unreachable!()
        };
        settings.taps = vec![settings.headline_tap];
        assert!(refused(&fixture, &config).contains("`linear-dino` and `linear-dinov2`"));
    }
    // For any probe, the width of pixels depends on the image size.
    let fixture = Fixture {
        encoder: Encoder::pixels(IMAGENET),
        device: fixture.device.clone(),
        out: other,
    };
    assert!(refused(&fixture, &pooled).contains("linear-moco: `pooled` has 192 numbers for training images"));
}
