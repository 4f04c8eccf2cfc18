//! Every method on two networks, for few, some and many images.

#![allow(clippy::unwrap_used)]

use super::*;
use training::ScheduleConfig;

fn arguments(method: &str, backbone: &str) -> Arguments {
    Arguments {
        method: method.into(),
        backbone: backbone.into(),
        images: None,
        data: None,
        image_px: None,
        batch_images: None,
        memory_gb: None,
        epochs: None,
        out: None,
    }
}

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

#[test]
fn every_method_is_scaled_to_few_some_and_many_images_without_a_warning() {
    let mut count = 0;
    for method in METHODS
        .iter()
        .map(|method| method.replace('_', "-"))
        .chain(["moco-v1".into()])
    {
        for (backbone, px) in [
            ("resnet18", None),
            ("resnet18", Some(32)),
            ("resnet50", None),
            ("resnet18-w16-small", None),
            ("vit_small_patch16", None),
            ("vit_tiny_patch4", Some(32)),
            ("vit-w128-d4-h4-p4", None),
        ] {
            let is_vit = backbone.starts_with("vit");
            for images in [500, 50_000, 1_281_167] {
                let wanted = Arguments {
                    image_px: px,
                    ..arguments(&method, backbone)
                };
                let made = made(&wanted, images);
                if !is_vit && ["mae", "ibot"].contains(&method.as_str()) {
                    let error = made.unwrap_err().to_string();
                    assert_eq!(
                        error,
                        format!("{method} trains vision transformers alone, got `{backbone}`")
                    );
                    continue;
                }
                // `made` checks values, length and warnings.
                let text = made.unwrap_or_else(|error| panic!("{method} {backbone} {images}: {error:#}"));
                let config = config(&text);
                let expected = px.unwrap_or(
                    if backbone.contains("small") && !is_vit || backbone.contains("p4") {
                        32
                    } else {
                        224
                    },
                );
                assert_eq!(scale::px(&config), expected, "{method} {backbone}");
                assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
                assert!(
                    text.contains("# From: ") && text.contains(" configs/pretrain/"),
                    "{text}"
                );
                count += 1;
            }
        }
    }
    assert_eq!(count, 3 * (11 * 7 + 2 * 3));
}

#[test]
fn rates_queues_and_warmups_follow_the_data() {
    let text = made(&arguments("moco-v2", "resnet50"), 50_000).unwrap();
    let made_config = config(&text);
    assert_eq!(made_config.data.batch_images, 256);
    assert_eq!(
        made_config.training.epochs,
        Some(1000),
        "200 · √(1,281,167 / 50,000)"
    );
    let ObjectiveConfig::Moco(moco) = &made_config.objective else {
        panic!()
    };
    assert_eq!((moco.queue_images, moco.momentum), (24_832, 0.999));
    assert!(
        text.contains("configs/pretrain/moco-v2-resnet50-imagenet.toml"),
        "{text}"
    );
    assert!(
        text.contains("linear scaling (Goyal et al. 2017): the peak is rate × batch / 256 = 0.03"),
        "{text}"
    );

    // Keys in the order of their declaration, each table by itself.
    let at = |key: &str| text.find(key).unwrap();
    assert!(
        at("\nlearning_rate_per_256 = ") < at("\nmomentum = 0.9\n"),
        "{text}"
    );
    assert_eq!(
        text.matches("configs/pretrain/moco-v2-resnet50-imagenet.toml: ")
            .count(),
        1,
        "{text}"
    );

    let few = config(&made(&arguments("dino", "vit_small_patch16"), 500).unwrap());
    assert_eq!((few.data.batch_images, few.training.epochs), (32, Some(2000)));
    let ScheduleConfig::CosinePerStep {
        warmup: Some(warmup), ..
    } = &few.schedule
    else {
        panic!()
    };
    assert_eq!(warmup.epochs, 200, "a tenth, as in DINO's 100 epochs");
    let ObjectiveConfig::Dino(dino) = &few.objective else {
        panic!()
    };
    assert_eq!((dino.head.prototypes, dino.momentum), (256, 0.9995));

    let all = Arguments {
        batch_images: Some(64),
        epochs: Some(30),
        ..arguments("swav", "resnet50")
    };
    let swav = config(&made(&all, 5000).unwrap());
    assert_eq!((swav.data.batch_images, swav.training.epochs), (64, Some(30)));
    let ObjectiveConfig::Swav(method) = &swav.objective else {
        panic!()
    };
    let queue = method.queue.as_ref().unwrap();
    assert_eq!(
        (method.prototypes, queue.images, queue.from_epoch),
        (312, 2496, 2)
    );
    let ScheduleConfig::CosinePerStep {
        end_learning_rate: Some(end),
        ..
    } = swav.schedule
    else {
        panic!()
    };
    assert!((end - 0.0006 * 64.0 / 256.0).abs() < 1e-12);
}

#[test]
fn small_images_get_small_stems_and_views_without_blur() {
    let small = Arguments {
        image_px: Some(32),
        ..arguments("simclr", "resnet50")
    };
    let text = made(&small, 50_000).unwrap();
    assert!(
        !text.contains("gaussian_blur") && text.contains("stem = \"small\""),
        "{text}"
    );
    // Heads and optimizer are the paper's.
    assert!(
        text.contains("projector_width = 2048") && text.contains("[optimizer.lars]"),
        "{text}"
    );
    let tiny = made(&arguments("simclr", "resnet18-w16-small"), 50_000).unwrap();
    assert!(tiny.contains("[optimizer.sgd]"), "{tiny}");
}

#[test]
fn what_cannot_be_made_says_why() {
    let error =
        |arguments: Arguments, images| crate::failure::in_one_line(&made(&arguments, images).unwrap_err());
    let unknown = error(arguments("mocov2", "resnet50"), 500);
    assert!(
        unknown.contains("`moco`, `moco-cld`, `moco-v3`") && unknown.contains("got `mocov2`"),
        "{unknown}"
    );
    assert!(error(arguments("moco", "resnet49"), 500).contains("no such network as `resnet49`"));
    let patches = Arguments {
        image_px: Some(32),
        ..arguments("dino", "vit_small_patch16")
    };
    assert!(
        error(patches, 500).contains("`--image-px` must be a multiple of the network's patches of 16 px")
    );
    let short = Arguments {
        epochs: Some(2),
        batch_images: Some(256),
        ..arguments("moco", "resnet18")
    };
    assert!(error(short, 300).starts_with("no "));
}

/// Of every method on a small and a usual network: what is written parses, fits, and grows with the memory.
#[test]
fn the_batch_is_the_largest_that_fits() {
    for method in METHODS.iter().map(|method| method.replace('_', "-")) {
        for backbone in ["resnet18", "vit_small_patch16"] {
            if backbone == "resnet18" && ["mae", "ibot"].contains(&method.as_str()) {
                continue;
            }
            let mut before = (0, 0);
            let mut made_some = 0;
            for memory_gb in [0.05, 2.0, 4.0, 8.0, 24.0, 80.0, 1000.0] {
                let wanted = Arguments {
                    memory_gb: Some(memory_gb),
                    ..arguments(&method, backbone)
                };
                let text = match made(&wanted, 1_281_167) {
                    Ok(text) => text,
                    Err(error) => {
                        let error = format!("{error:#}");
                        assert!(
                            error.contains("`--memory-gb` must be at least "),
                            "{method} {backbone}: {error}"
                        );
                        assert_eq!(made_some, 0, "{method} {backbone} {memory_gb}");
                        continue;
                    }
                };
                let made = config(&text);
                let bytes = objectives::memory::step_bytes(&made);
                assert!(
                    bytes.total() <= memory_gb * 1e9,
                    "{method} {backbone} {memory_gb}"
                );
                let now = (made.data.batch_images, made.pass_images(1));
                assert!(
                    now.0 >= before.0 && (now.0 > before.0 || now.1 >= before.1),
                    "{method} {backbone}: {before:?} {now:?}"
                );
                assert!(text.contains("# Memory: about "), "{text}");
                assert_eq!(made.training.precision, backbones::Precision::F32);
                before = now;
                made_some += 1;
            }
            assert!(made_some >= 3, "{method} {backbone}");
            // With enough memory the recipe's batch is whole.
            assert_eq!(before.0, before.1, "{method} {backbone}");
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_is_summed_up_only_where_the_step_stays_the_same() {
    let with = |method: &str, backbone: &str, memory_gb: f64| {
        let wanted = Arguments {
            memory_gb: Some(memory_gb),
            ..arguments(method, backbone)
        };
        made(&wanted, 1_281_167).unwrap()
    };
    // Comments are wrapped.
    let unwrapped = |text: &str| text.replace("\n# ", " ");
    let dino = with("dino", "vit_small_patch16", 16.0);
    let parts = config(&dino);
    assert_eq!(
        parts.data.batch_images,
        config_of("dino-vit-small-16-imagenet").data.batch_images
    );
    assert!(parts.training.micro_batch_images.is_some());
    assert!(
        unwrapped(&dino).contains("passes are summed, because one pass of "),
        "{dino}"
    );

    let simclr = with("simclr", "resnet50", 16.0);
    let smaller = config(&simclr);
    assert!(smaller.training.micro_batch_images.is_none());
    assert!(smaller.data.batch_images < config_of("simclr-resnet50-imagenet").data.batch_images);
    assert!(
        unwrapped(&simclr).contains("Micro-batches would not give the same step: "),
        "{simclr}"
    );

    let named = Arguments {
        memory_gb: Some(1.0),
        batch_images: Some(256),
        ..arguments("simclr", "resnet50")
    };
    let error = format!("{:#}", made(&named, 1_281_167).unwrap_err());
    // The figure that the error names is enough.
    let least: f64 = error
        .split("at least ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let enough = Arguments {
        memory_gb: Some(least),
        ..named
    };
    assert_eq!(config(&made(&enough, 1_281_167).unwrap()).data.batch_images, 256);
}

fn config_of(name: &str) -> Config {
    shipped()
        .into_iter()
        .find(|one| stem(one.name) == name)
        .unwrap()
        .config
}
