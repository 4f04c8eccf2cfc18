//! Folders read back: with Passer's description and without it, as any file of the library.

use std::io::Cursor;

use backbones::vit::Pooling;
use backbones::{Context, Stem, state_dict};
use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::export::STRIDES;
use crate::hint::Hint;
use crate::onnx::tests::{info, network, networks, resnet, vit, with_strides_in_1x1};
use crate::{Checkpoint, Description, Import, ImportOptions};

const FEATURES_BOUND: f64 = 1e-6;

fn text_of<'a>(folder: &'a ExportFolder, name: &str) -> Option<&'a str> {
    folder
        .files
        .get(name)
        .map(|bytes| std::str::from_utf8(bytes).unwrap())
}

/// The folder read as Passer reads any.
fn read(folder: &ExportFolder, with_own_description: bool) -> (Backbone, EncoderInfo) {
    let mut bytes = folder.files["model.safetensors"].clone();
    if !with_own_description {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        bytes = safetensors::serialize(file.tensors(), None).unwrap();
    }
    let mut source = Cursor::new(&bytes);
    let mut checkpoint = Checkpoint::open(&mut source).unwrap();
    checkpoint.description = Description::read(
        text_of(folder, "config.json").unwrap(),
        text_of(folder, "preprocessor_config.json"),
    )
    .unwrap();
    Import::plan(&checkpoint, &ImportOptions::default(), &Device::flex())
        .unwrap()
        .load(&mut source)
        .unwrap()
}

fn features(backbone: &Backbone) -> Vec<f32> {
    let wave = (0..2 * 3 * 16 * 16)
        .map(|at| (at as f32 * 0.618).sin())
        .collect::<Vec<_>>();
    let images = Tensor::<4>::from_data(TensorData::new(wave, [2, 3, 16, 16]), &Device::flex());
    let features = backbone.forward(images, &Context::evaluation());
    features.into_data().iter::<f32>().collect()
}

#[test]
fn what_is_written_is_read_back() {
    let mut written = 0;
    for architecture in networks() {
        let backbone = network(&architecture);
        let info = info(architecture.clone(), 16);
        for target in [Target::Timm, Target::Transformers] {
            let folder = match export_folder(&backbone, &info, target, None) {
                Ok(folder) => folder,
                Err(WeightsError::Export { hint, .. }) => {
                    assert!(hint.is_some());
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            written += 1;
            let (own, own_info) = read(&folder, true);
            assert_eq!(own_info, folder.info);
            assert_eq!(features(&own), features(&backbone), "{architecture:?}");
            // The mean of the patches is no part of Transformers' description.
            let by_mean =
                matches!(&architecture, BackboneConfig::Vit(config) if config.pooling == Pooling::Mean);
            if by_mean && target == Target::Transformers {
                continue;
            }
            let (foreign, foreign_info) = read(&folder, false);
            assert_eq!(state_dict(&foreign), state_dict(&own), "{architecture:?}");
            let (ours, theirs) = (features(&foreign), features(&backbone));
            let off = ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b).abs());
            assert!(off.fold(0.0, f64::max) < FEATURES_BOUND, "{architecture:?}");
            assert_eq!((foreign_info.mean, foreign_info.std), (info.mean, info.std));
        }
    }
    // timm has the ViTs with the usual epsilon, Transformers all but the last norm behind the mean and the 3×3 stem.
    assert_eq!(written, 6 + 9);
}

#[test]
fn a_network_without_a_counterpart_is_refused_with_the_reason_and_the_way() {
    let refused = |architecture: BackboneConfig, target| {
        let error = export_folder(&network(&architecture), &info(architecture, 16), target, None);
        let error = error.unwrap_err();
        (error.to_string(), error.hint())
    };
    assert_eq!(
        refused(resnet(18, Stem::Small), Target::Timm),
        (
            "timm has no ResNet with a 3×3 stem without pooling, as this network has".to_owned(),
            Some(Hint::ExportOnnx)
        )
    );
    assert_eq!(
        refused(resnet(18, Stem::Small), Target::Transformers).1,
        Some(Hint::ExportOnnx)
    );
    assert_eq!(
        refused(resnet(50, Stem::Imagenet), Target::Timm),
        (
            "the first convolution of timm's ResNets has 64 channels, and this network's has 4".to_owned(),
            Some(Hint::ExportTransformers)
        )
    );
    assert_eq!(
        refused(with_strides_in_1x1(), Target::Timm),
        (STRIDES.to_owned(), Some(Hint::ExportTransformers))
    );
    let epsilon = |pooling| vit(move |config| (config.norm_epsilon, config.pooling) = (Some(1e-12), pooling));
    assert_eq!(
        refused(epsilon(Pooling::ClassToken), Target::Timm),
        (
            "timm's `config.json` cannot state the epsilon of norms, which is 1e-12 here and 1e-6 there"
                .to_owned(),
            Some(Hint::ExportTransformers)
        )
    );
    assert_eq!(
        refused(epsilon(Pooling::MeanThenNorm), Target::Timm).1,
        Some(Hint::ExportOnnx)
    );
    let behind = vit(|config| config.pooling = Pooling::MeanThenNorm);
    assert_eq!(refused(behind, Target::Transformers).1, Some(Hint::ExportTimm));
}

#[test]
fn sizes_and_statistics_are_stated_in_each_librarys_words() {
    let architecture = vit(|config| config.registers = 2);
    let backbone = network(&architecture);
    let info = info(architecture, 16);
    let config = |target, size| {
        let folder = export_folder(&backbone, &info, target, size).unwrap();
        let parsed = |name| text_of(&folder, name).map(|text| serde_json::from_str::<Value>(text).unwrap());
        (parsed("config.json").unwrap(), parsed("preprocessor_config.json"))
    };
    let (timm, _) = config(Target::Timm, None);
    assert_eq!(timm["model_args"]["no_embed_class"], true);
    assert_eq!(timm["pretrained_cfg"]["crop_mode"], "squash");
    let (timm, _) = config(Target::Timm, Some(112));
    assert_eq!(timm["model_args"]["img_size"], 112);
    assert_eq!(timm["pretrained_cfg"]["crop_pct"], 0.875);
    assert_eq!(timm["pretrained_cfg"]["input_size"], json!([3, 112, 112]));
    let (theirs, images) = config(Target::Transformers, Some(112));
    // Registers come with factors of the residual branches.
    assert_eq!(theirs["architectures"], json!(["Dinov2WithRegistersModel"]));
    assert_eq!(
        (&theirs["image_size"], &theirs["layerscale_value"]),
        (&json!(112), &json!(1.0))
    );
    let images = images.unwrap();
    assert_eq!(images["size"], json!({ "shortest_edge": 128 }));
    assert_eq!(images["crop_size"], json!({ "height": 112, "width": 112 }));
    assert_eq!(images["do_normalize"], true);
}
