//! Every row of the table of layouts, on files that PyTorch wrote (`scripts/parity/layouts.py`): each weight
//! must be the one that its name states.

mod ambiguous_files;
mod other_names;

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use backbones::{ResNetConfig, VitConfig, state_dict};
use burn::tensor::TensorData;
use flate2::read::GzDecoder;

use super::*;
use crate::format::{Entry, TensorInfo};
use crate::layouts::{LAYOUTS, LayoutError};
use crate::{Naming, SeenNetwork, encoder_to_safetensors_as};

const VIT: &str = "vit-w32-d2-h2-p4";

/// Fixture, row, network by name, parts in the order of preference.
const FILES: [(&str, &str, &str, &[Role]); 46] = {
    const ONE: &[Role] = &[];
    const STUDENT: &[Role] = &[Role::Student, Role::Teacher];
    const TEACHER: &[Role] = &[Role::Teacher, Role::Student];
    const RESNET: &str = "resnet18-w2";
    const REGISTERS: &str = "vit-w32-d2-h2-p4-reg4";
    [
        ("torchvision-resnet.pth", "resnet", RESNET, ONE),
        ("torchvision-resnet-legacy.pth", "resnet", RESNET, ONE),
        ("torchvision-resnet50-f64.pth", "resnet", "resnet50-w2", ONE),
        ("training-script-legacy.pth", "resnet", RESNET, ONE),
        ("whole-module.pth", "resnet", RESNET, ONE),
        ("small-stem.safetensors", "resnet", "resnet18-w2-small", ONE),
        ("timm-vit.safetensors", "vit", VIT, ONE),
        ("timm-vit-registers.pth", "vit", REGISTERS, ONE),
        ("torchvision-vit.pth", "torchvision_vit", VIT, ONE),
        ("moco-v1.pth.tar", "moco", RESNET, STUDENT),
        ("moco-v2-legacy.pth.tar", "moco", RESNET, STUDENT),
        ("pass-cld.pth.tar", "moco", RESNET, STUDENT),
        ("moco-v3-vit.pth.tar", "moco_v3", VIT, STUDENT),
        ("moco-v3-resnet.pth.tar", "moco_v3", RESNET, STUDENT),
        ("swav-flat-legacy.pth.tar", "swav", RESNET, ONE),
        ("swav-nested.pth.tar", "swav", RESNET, ONE),
        ("dino-vit.pth", "dino", VIT, TEACHER),
        ("dino-resnet.pth", "dino", RESNET, TEACHER),
        ("pass-dino.pth.tar", "dino", VIT, TEACHER),
        ("dino-backbone-f16-legacy.pth", "vit", VIT, ONE),
        ("dinov2.pth", "dinov2", VIT, ONE),
        ("dinov2-registers.pth", "dinov2", REGISTERS, ONE),
        ("dinov2-teacher.pth", "dinov2", VIT, ONE),
        ("mae.pth", "mae", VIT, ONE),
        ("mae-backbone.pth", "vit", VIT, ONE),
        ("simsiam.pth.tar", "simsiam", RESNET, ONE),
        ("barlow-twins.pth", "barlow_twins", RESNET, ONE),
        ("vissl.torch", "vissl", RESNET, ONE),
        ("vissl-wrapped-legacy.torch", "vissl", RESNET, ONE),
        ("solo-learn.ckpt", "solo_learn", RESNET, STUDENT),
        ("lightly.ckpt", "lightly", RESNET, STUDENT),
        ("lightly-dino.ckpt", "lightly", RESNET, STUDENT),
        ("lightly-ibot.ckpt", "lightly", VIT, STUDENT),
        ("lightly-plain.pth", "backbone", RESNET, STUDENT),
        ("lightly-parameters.pth", "sequential", RESNET, ONE),
        ("dino-alone.pth", "dino", VIT, ONE),
        ("lightning-model.ckpt", "resnet", RESNET, ONE),
        ("net.pth", "resnet", RESNET, ONE),
        ("model-state-dict.pth", "vit", VIT, ONE),
        ("timm-vit-fc-norm.pth", "vit_fc_norm", VIT, ONE),
        ("transformers-vit.safetensors", "transformers_vit", VIT, ONE),
        ("transformers-vit-memory.pth", "transformers_vit", VIT, ONE),
        (
            "transformers-vit-mae.safetensors",
            "transformers_vit_mae",
            VIT,
            ONE,
        ),
        ("transformers-dinov2.safetensors", "transformers_dinov2", VIT, ONE),
        (
            "transformers-dinov2-registers.safetensors",
            "transformers_dinov2_with_registers",
            REGISTERS,
            ONE,
        ),
        (
            "transformers-resnet.safetensors",
            "transformers_resnet",
            "resnet50-w2",
            ONE,
        ),
    ]
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/layouts")
}

fn fixture(name: &str) -> Vec<u8> {
    let packed = std::fs::read(folder().join(format!("{name}.gz"))).unwrap();
    let mut bytes = vec![];
    GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// `values` of the generator.
fn formula(name: &str, shape: &[usize], part: Role) -> Vec<f32> {
    let seed = u64::from(crc32fast::hash(format!("{}/{name}", part.name()).as_bytes()));
    let number = |index: u64| {
        let step = ((index + seed) % 17) as f32;
        if name.ends_with("running_var") {
            (step + 1.0) / 16.0
        } else {
            (step - 8.0) / 16.0
        }
    };
    (0..shape.iter().product::<usize>() as u64).map(number).collect()
}

fn options(network: &str) -> ImportOptions {
    ImportOptions {
        // The heads of such a narrow ViT are unknown.
        backbone: network.starts_with("vit").then(|| network.to_owned()),
        ..ImportOptions::default()
    }
}

fn read(bytes: &[u8], options: &ImportOptions) -> Result<(Backbone, EncoderInfo), WeightsError> {
    read_encoder(&mut Cursor::new(bytes), options, &Device::flex())
}

fn assert_formula(file: &str, backbone: &Backbone, part: Role) {
    for (name, data) in state_dict(backbone) {
        let mut expected = formula(&name, &data.shape().to_vec(), part);
        if file.contains("dinov2-registers") && name == "cls_token" {
            let position = formula("class position", &[32], part);
            expected
                .iter_mut()
                .zip(position)
                .for_each(|(class, position)| *class += position);
        }
        let found: Vec<f32> = data.iter().collect();
        assert_eq!(found, expected, "{file}: {name}");
    }
}

#[test]
fn every_layout_gives_the_weights_that_its_names_say() {
    for (file, layout, network, parts) in FILES {
        let bytes = fixture(file);
        let mut options = options(network);
        let (backbone, info) = read(&bytes, &options).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            (info.method.as_str(), info.architecture.name().as_str()),
            (layout, network),
            "{file}"
        );
        let alone = if file == "dino-alone.pth" {
            Role::Teacher
        } else {
            Role::Student
        };
        assert_formula(file, &backbone, parts.first().copied().unwrap_or(alone));
        let steps = if network.starts_with("resnet") { 1234 } else { 0 };
        assert_eq!(info.steps, steps, "{file}");
        for role in [Role::Student, Role::Teacher] {
            options.role = Some(role);
            match read(&bytes, &options) {
                Ok((backbone, info)) => {
                    assert!(parts.contains(&role), "{file}");
                    assert_eq!(info.extra["part"], role.name());
                    assert_formula(file, &backbone, role);
                }
                Err(error) => {
                    assert!(parts.is_empty(), "{file}: {error}");
                    assert!(error.to_string().contains("holds one network"), "{error}");
                }
            }
        }
    }
}

#[test]
fn every_row_and_every_fixture_is_tested() {
    let rows = LAYOUTS.iter().map(|row| row.name).collect::<BTreeSet<_>>();
    assert_eq!(rows, FILES.iter().map(|(_, layout, ..)| *layout).collect());
    assert_eq!(rows.len(), LAYOUTS.len(), "two rows of one name");
    let found = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(found, FILES.len());
}

#[test]
fn what_is_left_out_is_named() {
    let bytes = fixture("pass-cld.pth.tar");
    let checkpoint = Checkpoint::open(&mut Cursor::new(&bytes)).unwrap();
    let plan = Import::plan(&checkpoint, &ImportOptions::default(), &Device::flex()).unwrap();
    assert!(plan.mismatch.is_empty());
    assert_eq!(plan.recognized.parent, "state_dict");
    for name in [
        "queue",
        "queue_ptr",
        "encoder_q.instDis.weight",
        "encoder_q.groupDis.weight",
        "encoder_k.conv1.weight",
    ] {
        assert!(
            plan.recognized.dropped.iter().any(|dropped| dropped == name),
            "{name}"
        );
    }
}

/// The flat fixture as a safetensors file with its names changed.
fn changed(change: impl Fn(String) -> Option<String>) -> Vec<u8> {
    let bytes = fixture("torchvision-resnet.pth");
    let mut source = Cursor::new(&bytes);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    let tensors = checkpoint.tensors().into_iter().filter_map(|(name, tensor)| {
        let data: TensorData = tensor.read(&mut source).unwrap();
        let kind = if data.dtype().is_float() {
            safetensors::Dtype::F32
        } else {
            safetensors::Dtype::I64
        };
        Some((change(name)?, (kind, data)))
    });
    let tensors = tensors.collect::<BTreeMap<_, _>>();
    let views = tensors.iter().map(|(name, (kind, data))| {
        let view = safetensors::tensor::TensorView::new(*kind, data.shape().to_vec(), data.as_bytes());
        (name.clone(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn a_backbone_that_kept_its_classifier_is_read_without_it() {
    let bytes = changed(|name| Some(format!("backbone.{name}")));
    let mut source = Cursor::new(&bytes);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    let plan = Import::plan(&checkpoint, &options("resnet"), &Device::flex()).unwrap();
    assert!(plan.mismatch.is_empty());
    assert_eq!(
        plan.recognized.dropped,
        ["backbone.fc.bias", "backbone.fc.weight"]
    );
    read(&bytes, &options("resnet")).unwrap();
}

#[test]
fn what_does_not_match_is_an_error_unless_it_is_allowed() {
    let bytes = changed(|name| match name.as_str() {
        "layer4.1.bn2.bias" => Some("layer4.1.bn2.offset".to_owned()),
        "bn1.weight" => None,
        _ => Some(name),
    });
    let mut options = ImportOptions::default();
    let error = read(&bytes, &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weights are not those of this network: 2 missing: bn1.weight, layer4.1.bn2.bias; 1 unexpected: \
         layer4.1.bn2.offset (near layer4.1.bn2.bias)"
    );
    options.allow_missing = vec!["*.bias".to_owned()];
    options.allow_unexpected = vec!["*.offset".to_owned()];
    let error = read(&bytes, &options).unwrap_err().to_string();
    assert!(error.ends_with("1 missing: bn1.weight"), "{error}");
    options.allow_missing.push("bn1.*".to_owned());
    let (backbone, info) = read(&bytes, &options).unwrap();
    assert_eq!(info.extra["missing"], "bn1.weight layer4.1.bn2.bias");
    assert_eq!(info.extra["left_out"], "layer4.1.bn2.offset");
    let state = state_dict(&backbone);
    // They keep their initial values.
    assert!(state["bn1.weight"].iter::<f32>().all(|value| value == 1.0));
    assert!(state["layer4.1.bn2.bias"].iter::<f32>().all(|value| value == 0.0));
    assert_eq!(
        state["bn1.bias"].iter::<f32>().collect::<Vec<_>>(),
        formula("bn1.bias", &[2], Role::Student)
    );
}

#[test]
fn a_backbone_by_name_is_compared_with_the_file() {
    let bytes = fixture("torchvision-resnet.pth");
    let named = |name: &str| {
        let options = ImportOptions {
            backbone: Some(name.to_owned()),
            ..ImportOptions::default()
        };
        read(&bytes, &options)
    };
    assert!(named("resnet18-w2").is_ok());
    let error = named("resnet18").unwrap_err().to_string();
    assert!(
        error.contains("conv1.weight (expected [64, 3, 7, 7], got [2, 3, 7, 7])"),
        "{error}"
    );
    let error = named("resnet34-w2").unwrap_err().to_string();
    assert!(error.contains("missing: layer1.2.bn1.bias"), "{error}");
    // A ViT's name finds no ViT in it.
    assert!(matches!(
        named("vit_small_patch16"),
        Err(WeightsError::Layout(LayoutError::Family { .. }))
    ));
    let error = read(&fixture("timm-vit.safetensors"), &ImportOptions::default()).unwrap_err();
    let name = "vit-w32-d2-hHEADS-p4".to_owned();
    assert_eq!(error.hint(), Some(Hint::NameHeads(name)));
    let error = read(&fixture("pass-dino.pth.tar"), &options("vit-w32-d1-h2-p4"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("unexpected: blocks.1.attn.proj.bias"), "{error}");
}

#[test]
fn our_own_files_keep_what_they_say_in_either_naming() {
    let (backbone, mut info) = read(&fixture("torchvision-vit.pth"), &options(VIT)).unwrap();
    info.method = "dino".to_owned();
    info.mean = [0.5; 3];
    for naming in [Naming::Timm, Naming::Torchvision] {
        let bytes = encoder_to_safetensors_as(&backbone, &info, naming).unwrap();
        // No name is needed: the file states its heads.
        let (again, said) = read(&bytes, &ImportOptions::default()).unwrap();
        assert_eq!(said, info);
        assert_eq!(state_dict(&again), state_dict(&backbone));
        let names = Checkpoint::open(&mut Cursor::new(&bytes)).unwrap();
        let class = if naming == Naming::Timm {
            "cls_token"
        } else {
            "class_token"
        };
        assert!(names.root.at(class).is_some());
        let mut other = options("vit-w32-d2-h4-p4");
        let error = read(&bytes, &other).unwrap_err().to_string();
        assert!(
            error.contains("the file says that its network is vit-w32-d2-h2-p4"),
            "{error}"
        );
        other.backbone = None;
        other.std = Some([0.25; 3]);
        assert_eq!(read(&bytes, &other).unwrap().1.std, [0.25; 3]);
    }
    let (registers, info) = read(
        &fixture("timm-vit-registers.pth"),
        &options("vit-w32-d2-h2-p4-reg4"),
    )
    .unwrap();
    let error = encoder_to_safetensors_as(&registers, &info, Naming::Torchvision).unwrap_err();
    assert_eq!(error.to_string(), "torchvision's ViT has no registers");
    assert_eq!(error.hint(), Some(Hint::UseTimmNames));
    assert!(encoder_to_safetensors_as(&registers, &info, Naming::Timm).is_ok());
}

/// Every fixture truncated and changed at random: the result is never a panic or a large allocation.
#[test]
fn damaged_files_are_errors_and_no_more() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    let (mut opened, mut refused) = (0, 0);
    for (file, _, network, _) in FILES {
        let sound = fixture(file);
        for round in 0..60 {
            let mut bytes = sound.clone();
            if round % 3 == 0 {
                bytes.truncate(random(bytes.len()));
            } else {
                // In the most sensitive bytes: the pickles and tables at the ends.
                for _ in 0..1 + random(8) {
                    let reach = if random(2) == 0 {
                        bytes.len()
                    } else {
                        bytes.len().min(4096)
                    };
                    let at = if random(2) == 0 {
                        random(reach)
                    } else {
                        bytes.len() - 1 - random(reach)
                    };
                    bytes[at] = random(256) as u8;
                }
            }
            let mut source = Cursor::new(&bytes);
            match Checkpoint::open(&mut source) {
                Err(_) => refused += 1,
                Ok(checkpoint) => {
                    opened += 1;
                    for (_, tensor) in checkpoint.tensors() {
                        let _ = tensor.read(&mut source);
                    }
                    if let Ok(plan) = Import::plan(&checkpoint, &options(network), &Device::flex()) {
                        let _ = plan.load(&mut source);
                    }
                }
            }
        }
    }
    assert!(
        opened > 100 && refused > 100,
        "{opened} opened, {refused} refused"
    );
}
