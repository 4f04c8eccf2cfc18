//! The objective alone: the start from the encoder, the average, and the content of a checkpoint.

use super::*;
use crate::finetune::{Average, Keep, Protocol};
use crate::testing::{backbone, resize};
use backbones::{Draws, RunPosition, parameters};
use burn::tensor::Device;
use training::ViewGroupTensor;

/// Settings without optional parts.
pub(in crate::finetune) fn settings() -> Settings {
    Settings {
        protocol: Protocol::Finetune,
        encoder: None,
        drop_path: 0.0,
        pooling: None,
        head: HeadInit::Normal(0.01),
        head_learning_rate_factor: None,
        label_smoothing: 0.0,
        mixing: None,
        average: None,
        validation: None,
        keep: Keep::Last,
        max_shared_fraction: None,
        test_transforms: resize(8),
    }
}

/// An objective from scratch over classes 0, 1, 2 ...
pub(in crate::finetune) fn objective(
    settings: &Settings,
    backbone: &BackboneConfig,
    classes: usize,
) -> Finetune {
    let labels: Vec<i64> = (0..classes as i64).collect();
    let classes = Classes::of(&labels, "training").unwrap();
    Finetune::new(settings, backbone, None, classes).unwrap()
}

fn small() -> BackboneConfig {
    BackboneConfig::Resnet(backbones::ResNetConfig {
        depth: 18,
        width: 4,
        stem: backbones::Stem::Small,
        zero_init_residual: false,
        stride_in_1x1: false,
    })
}

fn batch() -> Batch {
    let values: Vec<f32> = (0..4 * 3 * 64)
        .map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0)
        .collect();
    Batch {
        views: vec![ViewGroupTensor {
            images: Tensor::from_data(TensorData::new(values, [4, 3, 8, 8]), &Device::flex()),
            count: 1,
        }],
        images: 4,
        targets: None,
        labels: Some([0, 1, 2, 0].map(Label::Class).to_vec()),
    }
}

fn context(step: usize) -> Context {
    let progress = RunPosition::at(step, 4, 8);
    Context::training(progress, Draws::new(0, step as u64))
}

#[test]
fn it_starts_from_the_encoders_weights_and_a_classifier_of_its_own() {
    let device = Device::flex().autodiff();
    let encoder = backbone(5, &Device::flex());
    let before = state_dict(&encoder);
    let encoder_config = match &encoder {
        Backbone::ResNet(_) => small(),
        Backbone::Vit(_) => panic!("the tests' network is a ResNet"),
    };
    let classes = Classes::of(&[0, 1, 2], "training").unwrap();
    let objective = Finetune::new(
        &settings(),
        &encoder_config,
        Some((&encoder, &encoder_config)),
        classes.clone(),
    )
    .unwrap();
    let (student, _) = objective.init(&Init::new(0, &device));
    assert_eq!(state_dict(&student.backbone), before);
    assert!(
        parameters(&student)
            .iter()
            .all(|parameter| parameter.trained != parameter.running_statistic)
    );
    // A classifier near 0 has the loss of three equally likely classes.
    let (loss, ()) = objective.loss(
        &student,
        &objective.init(&Init::new(0, &device)).1,
        &batch(),
        &context(0),
    );
    assert!((f64::from(loss.total.into_scalar::<f32>()) - 3f64.ln()).abs() < 0.2);
    assert_eq!(loss.signals[0].0, "accuracy");

    let wider = BackboneConfig::Resnet(backbones::ResNetConfig {
        depth: 18,
        width: 8,
        stem: backbones::Stem::Small,
        zero_init_residual: false,
        stride_in_1x1: false,
    });
    let error = Finetune::new(&settings(), &wider, Some((&encoder, &encoder_config)), classes).unwrap_err();
    assert!(error.to_string().contains("does not fit `[backbone]`"), "{error}");
}

#[test]
fn the_average_is_a_copy_first_and_then_follows_and_is_what_is_scored() {
    let mut settings = settings();
    settings.average = Some(Average {
        decay: 0.5,
        warmup: None,
    });
    settings.keep = Keep::BestOnValidation;
    let objective = objective(&settings, &small(), 3);
    let (student, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
    let head = |network: &Network| {
        network
            .head
            .weight
            .val()
            .into_data()
            .iter::<f64>()
            .next()
            .unwrap()
    };
    let moved = |mut student: Network, by: f64| {
        student.head.weight = student
            .head
            .weight
            .map(|weight| (weight.without_autodiff() + by).autodiff());
        student
    };
    let first = moved(student, 1.0);
    let (first, state) = objective.commit(first, state, vec![()], &context(0));
    let average = |state: &State| head(state.average.as_ref().unwrap());
    assert_eq!(average(&state), head(&first));
    let start = head(&first);
    let second = moved(first, 1.0);
    let (second, state) = objective.commit(second, state, vec![()], &context(1));
    assert!((average(&state) - (start + 0.5)).abs() < 1e-6);
    assert!((head(&Finetune::current(&second, &state)) - (start + 0.5)).abs() < 1e-6);
    // Once kept, the best epoch's network has priority over trained and averaged ones in the encoder file.
    let best = state.best.as_ref().unwrap();
    assert_eq!(
        state_dict(&objective.encoder(&second, &state)),
        state_dict(&best.backbone)
    );
}

#[test]
fn a_norm_behind_the_mean_starts_anew() {
    let vit = |pooling| {
        BackboneConfig::Vit(backbones::VitConfig {
            width: 8,
            depth: 1,
            heads: 2,
            patch_px: 4,
            image_px: 8,
            position: backbones::vit::Position::Learned,
            interpolation: backbones::vit::Interpolation::Antialiased,
            registers: 0,
            layer_scale: None,
            drop_path: 0.0,
            pooling,
            initialization: backbones::vit::Initialization::Mae,
            norm_epsilon: None,
        })
    };
    let before = vit(Pooling::ClassToken);
    let encoder = before.init(&Init::new(1, &Device::flex()));
    let mut weights = state_dict(&encoder);
    weights.insert("norm.weight".into(), TensorData::new(vec![3.0f32; 8], [8]));
    let encoder = replace_state(encoder, weights);
    let norm = |now: &BackboneConfig| {
        let classes = Classes::of(&[0, 1], "training").unwrap();
        let objective = Finetune::new(&settings(), now, Some((&encoder, &before)), classes).unwrap();
        let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        state_dict(&student.backbone)["norm.weight"]
            .iter::<f64>()
            .next()
            .unwrap()
    };
    assert_eq!(norm(&vit(Pooling::MeanThenNorm)), 1.0);
    assert_eq!(norm(&vit(Pooling::Mean)), 3.0);
    // A fresh norm makes pooled features of mean 0 and deviation 1.
    let network = vit(Pooling::MeanThenNorm).init(&Init::new(2, &Device::flex()));
    let images = Tensor::<4>::ones([2, 3, 8, 8], &Device::flex());
    let features: Vec<f64> = network
        .forward(images, &Context::evaluation())
        .into_data()
        .iter::<f64>()
        .collect();
    let mean = features[..8].iter().sum::<f64>() / 8.0;
    assert!(mean.abs() < 1e-5, "{mean}");
}
