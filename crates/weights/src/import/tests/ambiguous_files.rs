//! Files that almost match a layout, or lie about their content: errors and warnings.

use super::*;
use backbones::vit::Interpolation;

pub(super) type Entries = BTreeMap<String, Entry>;

pub(super) fn open(bytes: &[u8]) -> Checkpoint {
    Checkpoint::open(&mut Cursor::new(bytes)).unwrap()
}

pub(super) fn dict(entry: &mut Entry) -> &mut Entries {
    match entry {
        Entry::Dict(entries) => entries,
        other => panic!("{other:?}"),
    }
}

/// A fixture with changed entries under `parent`.
pub(super) fn edited(file: &str, parent: &str, change: impl Fn(&mut Entries)) -> Checkpoint {
    let mut checkpoint = open(&fixture(file));
    let mut entry = &mut checkpoint.root;
    for key in parent.split('/').filter(|key| !key.is_empty()) {
        entry = dict(entry).get_mut(key).unwrap();
    }
    change(dict(entry));
    checkpoint
}

/// A fixture's tensors under `parent`, with `prefix` added to each name, alone and under the path `place`.
pub(super) fn moved(file: &str, parent: &str, place: &str, prefix: &str) -> Checkpoint {
    let mut checkpoint = open(&fixture(file));
    let mut entry = checkpoint.root.at(parent).unwrap().clone();
    let renamed = dict(&mut entry)
        .iter()
        .map(|(name, entry)| (format!("{prefix}{name}"), entry.clone()));
    let mut root = Entry::Dict(renamed.collect());
    for key in place.split('/').rev().filter(|key| !key.is_empty()) {
        root = Entry::Dict(Entries::from([(key.to_owned(), root)]));
    }
    checkpoint.root = root;
    checkpoint
}

pub(super) fn tensor<'a>(entries: &'a mut Entries, name: &str) -> &'a mut TensorInfo {
    match entries.get_mut(name) {
        Some(Entry::Tensor(tensor)) => tensor,
        other => panic!("{name}: {other:?}"),
    }
}

pub(super) fn plan<'a>(checkpoint: &'a Checkpoint, options: &ImportOptions) -> Import<'a> {
    Import::plan(checkpoint, options, &Device::flex()).unwrap()
}

/// The error for a file; empty if its network fits.
pub(super) fn refusal(checkpoint: &Checkpoint, options: &ImportOptions) -> String {
    match Import::plan(checkpoint, options, &Device::flex()) {
        Ok(plan) => plan.mismatch.to_string(),
        Err(error) => error.to_string(),
    }
}

fn hint(checkpoint: &Checkpoint, options: &ImportOptions) -> Option<Hint> {
    Import::plan(checkpoint, options, &Device::flex())
        .unwrap_err()
        .hint()
}

fn seen(networks: &[(&str, &str)]) -> Vec<SeenNetwork> {
    let seen = networks.iter().map(|(path, looks)| SeenNetwork {
        path: (*path).to_owned(),
        looks: (*looks).to_owned(),
    });
    seen.collect()
}

#[test]
fn solo_learns_small_stem_is_refused_unless_it_is_named() {
    // As in a Lightning checkpoint.
    let file = moved("small-stem.safetensors", "", "state_dict", "backbone.");
    let plain = ImportOptions::default();
    assert!(refusal(&file, &plain).contains("pads its 3×3 stem by 2"));
    let name = "resnet18-w2-small".to_owned();
    assert_eq!(hint(&file, &plain), Some(Hint::NameIfPaddedByOne(name.clone())));
    let named = ImportOptions {
        backbone: Some(name),
        ..plain
    };
    assert_eq!(refusal(&file, &named), "");
}

#[test]
fn two_layouts_in_one_file_are_ambiguous() {
    let other = open(&fixture("moco-v1.pth.tar"));
    let mut other = other.root.at("state_dict").unwrap().clone();
    let bare = dict(&mut other)
        .iter()
        .map(|(name, tensor)| (name.replace("module.encoder_q.", ""), tensor.clone()))
        .collect::<Entries>();
    let file = edited("swav-nested.pth.tar", "", |entries| {
        entries.insert("model".to_owned(), Entry::Dict(bare.clone()));
    });
    let error = refusal(&file, &ImportOptions::default());
    assert_eq!(error, "this file could be of resnet or swav");
}

#[test]
fn a_network_in_two_places_is_ambiguous_unless_both_are_the_same() {
    let plain = ImportOptions::default();
    let both = |change: fn(&mut Entries)| {
        edited("training-script-legacy.pth", "", |entries| {
            let mut model = entries["state_dict"].clone();
            change(dict(&mut model));
            entries.insert("model".to_owned(), model);
        })
    };
    assert_eq!(refusal(&both(|_| {}), &plain), "");
    let differ = both(|model| {
        model.remove("module.bn1.bias");
    });
    assert_eq!(
        refusal(&differ, &plain),
        "this file (resnet) holds a network in `state_dict.*` and in `model.*`, and they differ"
    );
    // One network next to the two of a run.
    let both = edited("dino-vit.pth", "", |entries| {
        let student = entries["student"].clone();
        entries.insert("model".to_owned(), student);
    });
    assert!(refusal(&both, &options(VIT)).ends_with("and they differ"));
}

#[test]
fn wrappers_are_taken_off_in_any_order() {
    let resnet = |wrapper: &str, count: bool| {
        let mut file = moved("torchvision-resnet.pth", "", "", wrapper);
        if count {
            let entries = dict(&mut file.root);
            let steps = entries[&format!("{wrapper}bn1.num_batches_tracked")].clone();
            entries.insert("n_averaged".to_owned(), steps);
        }
        refusal(&file, &ImportOptions::default())
    };
    for wrapper in ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."] {
        assert_eq!(resnet(wrapper, false), "", "{wrapper}");
        assert_eq!(resnet(wrapper, true), "1 unexpected: n_averaged", "{wrapper}");
    }
    // A name has room for 145.
    for layers in [4, 5, 140] {
        assert_eq!(resnet(&"module.".repeat(layers), false), "");
    }
}

#[test]
fn a_file_without_the_tensors_that_identify_it_is_refused_by_name() {
    let plain = ImportOptions::default();
    let renamed = |file: &str, from: &str, to: &str| {
        let file = edited(file, "", |entries| {
            let entry = entries.remove(from).unwrap();
            entries.insert(to.to_owned(), entry);
        });
        refusal(&file, &plain)
    };
    let resnet = "torchvision-resnet.pth";
    for (from, to, error) in [
        (
            "layer1.0.conv1.weight",
            "layer1.0.conv_1.weight",
            "1 missing: layer1.0.conv1.weight; 1 unexpected: layer1.0.conv_1.weight (near layer1.0.conv1.weight)",
        ),
        (
            "conv1.weight",
            "conv1.0.weight",
            "1 missing: conv1.weight (near conv1.0.weight), by which the network is known",
        ),
        (
            "conv1.weight",
            "stem",
            "1 missing: conv1.weight, by which the network is known",
        ),
    ] {
        assert_eq!(renamed(resnet, from, to), error);
    }
    let vit = "timm-vit.safetensors";
    assert!(renamed(vit, "patch_embed.proj.weight", "x").starts_with("1 missing: patch_embed.proj.weight"));
    let file = edited(vit, "", |entries| {
        entries.remove("cls_token");
    });
    assert_eq!(refusal(&file, &options(VIT)), "1 missing: cls_token");
}

#[test]
fn sizes_that_no_file_could_hold_take_no_memory() {
    let plain = ImportOptions::default();
    // Strides of 0 let a few bytes claim any shape.
    let file = edited("torchvision-resnet.pth", "", |entries| {
        tensor(entries, "conv1.weight").shape = vec![1 << 33, 3, 7, 7];
    });
    let error = refusal(&file, &plain);
    assert!(
        error.starts_with("resnet18-w8589934592 has about") && error.contains("too many for this file of"),
        "{error}"
    );
    let vit = edited("timm-vit.safetensors", "", |entries| {
        tensor(entries, "patch_embed.proj.weight").shape[0] = 1 << 30;
    });
    assert!(refusal(&vit, &plain).contains("too many for this file"));
    // Twelve tensors per block, and some blocks that are listed as missing.
    let file = open(&fixture("timm-vit.safetensors"));
    for (name, error) in [
        (
            "vit-w32-d1000000-h2-p4",
            "has 1000000 blocks, too many for this file",
        ),
        ("vit-w32-d67-h2-p4", "has 67 blocks, too many"),
        ("vit-w32-d66-h2-p4", "768 missing: blocks.10."),
        ("vit-w65536-d2-h2-p4", "million parameters, too many"),
    ] {
        let refused = refusal(&file, &options(name));
        assert!(refused.contains(error), "{refused}");
    }

    // Files that pretend to be ours.
    let (backbone, info) = read(&fixture("small-stem.safetensors"), &plain).unwrap();
    let forged = |change: &dyn Fn(&mut EncoderInfo)| {
        let mut info = info.clone();
        change(&mut info);
        let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
        read(&bytes, &plain).unwrap_err().to_string()
    };
    let resnet = |width| {
        BackboneConfig::Resnet(ResNetConfig {
            depth: 50,
            width,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        })
    };
    for width in [4000, 1 << 40] {
        let error = forged(&|info| info.architecture = resnet(width));
        assert!(error.contains("million parameters, too many"), "{error}");
    }
    let error = forged(&|info| info.architecture = resnet(0));
    assert!(
        error.starts_with("the file's metadata is unreadable: `backbone.resnet.width`"),
        "{error}"
    );
    for std in [0.0, -1.0] {
        let error = forged(&|info| info.std[1] = std);
        assert!(error.contains("deviations above 0"), "{error}");
    }
}

#[test]
fn integers_are_no_weights() {
    let file = edited("torchvision-resnet.pth", "", |entries| {
        tensor(entries, "bn1.bias").dtype = crate::format::Dtype::I8;
    });
    assert_eq!(
        refusal(&file, &ImportOptions::default()),
        "1 of another type: bn1.bias (expected f16, bf16, f32 or f64, got i8)"
    );
}

#[test]
fn positions_stay_where_the_class_token_may_be_missing() {
    let file = "dinov2-registers.pth";
    let checkpoint = edited(file, "", |entries| {
        entries.remove("cls_token");
    });
    let mut options = options("vit-w32-d2-h2-p4-reg4");
    assert_eq!(refusal(&checkpoint, &options), "1 missing: cls_token");
    options.allow_missing = vec!["cls_token".to_owned()];
    let loaded = plan(&checkpoint, &options).load(&mut Cursor::new(fixture(file)));
    let positions = &state_dict(&loaded.unwrap().0)["pos_embed"];
    assert_eq!(
        positions.iter::<f32>().collect::<Vec<_>>(),
        formula("pos_embed", &positions.shape().to_vec(), Role::Student)
    );
}

/// DINO's and DINOv2's files, saved without their heads.
#[test]
fn a_teacher_without_its_head_is_recognized() {
    let headless = |file: &str, change: &dyn Fn(&str) -> String| {
        edited(file, "", |entries| {
            entries.retain(|key, _| key == "teacher");
            let teacher = dict(entries.get_mut("teacher").unwrap());
            let all = std::mem::take(teacher).into_iter();
            let all = all.map(|(name, entry)| (name.trim_start_matches("module.").to_owned(), entry));
            let heads = ["head.", "dino_head.", "ibot_head."];
            let kept = all.filter(|(name, _)| !heads.iter().any(|head| name.starts_with(head)));
            teacher.extend(kept.map(|(name, entry)| (change(&name), entry)));
        })
    };
    let same = |name: &str| name.to_owned();
    let bare = |name: &str| name.trim_start_matches("backbone.").to_owned();
    // Blocks without chunks.
    let flat = |name: &str| name.replace("blocks.0.", "blocks.");
    let layout = |checkpoint: &Checkpoint, network: &str| {
        let plan = plan(checkpoint, &options(network));
        assert_eq!(plan.mismatch.to_string(), "");
        (plan.recognized.layout.name, plan.recognized.role)
    };
    for (file, network) in [("dino-vit.pth", VIT), ("dino-resnet.pth", "resnet18-w2")] {
        for change in [&same as &dyn Fn(&str) -> String, &bare] {
            let found = layout(&headless(file, change), network);
            assert_eq!(found, ("dino", Some(Role::Teacher)), "{file}");
        }
    }
    for change in [&same as &dyn Fn(&str) -> String, &flat] {
        let found = layout(&headless("dinov2-teacher.pth", change), VIT);
        assert_eq!(found, ("dinov2", None));
    }
    // A misspelled teacher must not select the student.
    let misspelt = edited("dino-vit.pth", "teacher", |teacher| {
        let renamed = std::mem::take(teacher).into_iter();
        teacher.extend(renamed.map(|(name, entry)| (name.replace(".attn.", ".att."), entry)));
    });
    assert!(refusal(&misspelt, &options(VIT)).starts_with("the teacher is wanted"));
}

#[test]
fn one_network_saved_alone_has_its_methods_traits() {
    let found = |checkpoint: &Checkpoint, network: &str| {
        let plan = plan(checkpoint, &options(network));
        assert_eq!(plan.mismatch.to_string(), "");
        let interpolation = match plan.info.architecture {
            BackboneConfig::Vit(config) => Some(config.interpolation),
            BackboneConfig::Resnet(_) => None,
        };
        (plan.recognized.layout.name, plan.recognized.role, interpolation)
    };
    let teacher = |file: &str, place: &str| moved(file, "teacher", place, "");
    let offset = Some(Interpolation::Offset);
    for (file, place, network, expected) in [
        ("dino-vit.pth", "", VIT, ("dino", None, offset)),
        ("dino-vit.pth", "net", VIT, ("dino", None, offset)),
        ("pass-dino.pth.tar", "model", VIT, ("dino", None, offset)),
        ("dino-resnet.pth", "", "resnet18-w2", ("dino", None, None)),
        ("dinov2-teacher.pth", "model", VIT, ("dinov2", None, offset)),
    ] {
        assert_eq!(
            found(&teacher(file, place), network),
            expected,
            "{file} in `{place}`"
        );
    }
    // Without the head nothing identifies DINO.
    let mut headless = teacher("dino-vit.pth", "");
    dict(&mut headless.root).retain(|name, _| name.starts_with("backbone."));
    let generic = ("backbone", Some(Role::Student), Some(Interpolation::Antialiased));
    assert_eq!(found(&headless, VIT), generic);
    // solo-learn's modules saved alone: a stem of 3×3 stays ambiguous.
    let solo = moved("solo-learn.ckpt", "state_dict", "", "");
    let expected = ("solo_learn", Some(Role::Student), None);
    assert_eq!(found(&solo, "resnet18-w2"), expected);
}

#[test]
fn a_pattern_without_use_is_an_error() {
    let bytes = fixture("torchvision-resnet.pth");
    let load = |missing: &str, unexpected: &str| {
        let list = |pattern: &str| match pattern {
            "" => vec![],
            pattern => vec!["*".to_owned(), pattern.to_owned()],
        };
        let options = ImportOptions {
            allow_missing: list(missing),
            allow_unexpected: list(unexpected),
            ..ImportOptions::default()
        };
        read(&bytes, &options).map(|_| ())
    };
    // A present parameter may be allowed to be missing; a head is dropped anyway.
    for (missing, unexpected) in [("", ""), ("bn1.*", ""), ("", "fc.*"), ("*", "**")] {
        assert!(load(missing, unexpected).is_ok(), "{missing} {unexpected}");
    }
    let error = load("nb1.*", "").unwrap_err();
    assert!(matches!(&error, WeightsError::UselessMissing(pattern) if pattern == "nb1.*"));
    assert_eq!(error.hint(), Some(Hint::ListNames));
    for unexpected in ["queue", "layer1.*"] {
        let error = load("", unexpected).unwrap_err();
        assert!(matches!(&error, WeightsError::UselessUnexpected(pattern) if pattern == unexpected));
    }
}

#[test]
fn positions_are_brought_to_other_grids_as_the_layouts_authors_do() {
    use Interpolation as By;
    for (file, network, expected) in [
        ("timm-vit.safetensors", VIT, By::Antialiased),
        ("torchvision-vit.pth", VIT, By::AlignedCorners),
        ("mae.pth", VIT, By::Bicubic),
        ("dino-vit.pth", VIT, By::Offset),
        ("dinov2.pth", VIT, By::Offset),
        ("dinov2-registers.pth", "vit-w32-d2-h2-p4-reg4", By::Antialiased),
        ("moco-v3-vit.pth.tar", VIT, By::Antialiased),
    ] {
        let (_, info) = read(&fixture(file), &options(network)).unwrap();
        let BackboneConfig::Vit(config) = info.architecture else {
            unreachable!()
        };
        assert_eq!(config.interpolation, expected, "{file}");
    }
}

#[test]
fn networks_in_a_file_of_no_known_layout_are_named() {
    let plain = ImportOptions::default();
    let resnet = "torchvision-resnet.pth";
    let (name, vit) = ("resnet18-w2", "a ViT");
    for (file, parent, place, prefix, path, looks) in [
        (resnet, "", "weights/ema", "", "weights.ema.", name),
        (resnet, "", "state", "features.", "state.features.", name),
        // Libraries' other names.
        ("torchvision-vit.pth", "", "", "trunk.", "trunk.", vit),
        ("timm-vit.safetensors", "", "", "a.b.", "a.b.", vit),
        (
            "lightly-parameters.pth",
            "resnet18_parameters",
            "",
            "trunk.",
            "trunk.",
            name,
        ),
    ] {
        let file = moved(file, parent, place, prefix);
        let networks = seen(&[(path, looks)]);
        assert_eq!(hint(&file, &plain), Some(Hint::SaveAlone { networks, more: 0 }));
    }
    // With two networks neither is taken.
    let mut two = moved(resnet, "", "a", "");
    let entries = dict(&mut two.root);
    let other = entries["a"].clone();
    entries.insert("b".to_owned(), other);
    let networks = seen(&[("a.", name), ("b.", name)]);
    assert_eq!(hint(&two, &plain), Some(Hint::SaveAlone { networks, more: 0 }));
    // A name of another family.
    let file = moved(resnet, "", "", "");
    assert_eq!(hint(&file, &options("vit_small_patch16")), Some(Hint::OmitName));
}

#[test]
fn averaged_weights_beside_a_network_are_reported() {
    let plain = ImportOptions::default();
    for (place, other) in [
        ("model", "ema_model"),
        ("state_dict", "state_dict_ema"),
        ("net", "teacher_net"),
    ] {
        let mut file = moved("torchvision-resnet.pth", "", place, "");
        assert!(plan(&file, &plain).recognized.other_networks.is_empty());
        let entries = dict(&mut file.root);
        let network = entries[place].clone();
        entries.insert(other.to_owned(), network);
        let recognized = plan(&file, &plain).recognized;
        let path = format!("{other}.");
        assert_eq!(recognized.other_networks, seen(&[(path.as_str(), "resnet18-w2")]));
    }
}

#[test]
fn warnings_of_an_encoder_stay_with_it() {
    let bytes = changed(|name| match name.as_str() {
        "bn1.weight" => None,
        "bn1.bias" => Some("bn1.offset".to_owned()),
        _ => Some(name),
    });
    let options = ImportOptions {
        allow_missing: vec!["bn1.*".to_owned()],
        allow_unexpected: vec!["bn1.offset".to_owned()],
        ..ImportOptions::default()
    };
    let (backbone, info) = read(&bytes, &options).unwrap();
    let notes = [
        "2 parameters keep initial values: bn1.bias, bn1.weight",
        "1 tensor of the file is left out: bn1.offset",
    ];
    assert_eq!(info.notes(), notes);
    // A converted file states this as well.
    let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    assert_eq!(read(&bytes, &ImportOptions::default()).unwrap().1.notes(), notes);

    let (backbone, info) = read(&fixture("torchvision-resnet.pth"), &ImportOptions::default()).unwrap();
    assert!(info.notes().is_empty());
    let mut state = state_dict(&backbone);
    let infinite = TensorData::new(vec![0.0, f32::INFINITY], [2]);
    state.insert("bn1.bias".to_owned(), infinite);
    let backbone = crate::load_state_dict(backbone, state).unwrap();
    let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    let (_, info) = read(&bytes, &ImportOptions::default()).unwrap();
    assert_eq!(info.notes(), ["1 tensor holds NaN or infinity: bn1.bias"]);
}

/// A ViT 320 pixels wide may have 5 heads or 4; its weights do not show the number.
#[test]
fn heads_of_an_unusual_width_are_a_guess_with_a_warning() {
    let (_, mut info) = read(&fixture("timm-vit.safetensors"), &options(VIT)).unwrap();
    let BackboneConfig::Vit(narrow) = info.architecture.clone() else {
        unreachable!()
    };
    let config = |heads| {
        BackboneConfig::Vit(VitConfig {
            width: 320,
            heads,
            ..narrow.clone()
        })
    };
    info.architecture = config(4);
    let backbone = info.architecture.init(&Init::new(0, &Device::flex()));
    let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    // As if another program had written it.
    let mut checkpoint = open(&bytes);
    checkpoint.metadata.clear();
    let load = |backbone: Option<&str>| {
        let options = ImportOptions {
            backbone: backbone.map(str::to_owned),
            ..ImportOptions::default()
        };
        plan(&checkpoint, &options)
            .load(&mut Cursor::new(&bytes))
            .unwrap()
    };
    let (backbone, info) = load(None);
    assert_eq!(info.architecture, config(5));
    let notes = info.notes();
    assert!(
        matches!(notes.as_slice(), [note] if note.starts_with("the number of heads, 5, is a guess")
            && note.ends_with("as in `vit-w320-d2-hHEADS-p4`")),
        "{notes:?}"
    );
    let converted = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    assert_eq!(
        read(&converted, &ImportOptions::default()).unwrap().1.notes(),
        notes
    );
    for (name, heads) in [("vit-w320-d2-h4-p4", 4), ("vit-w320-d2-h5-p4", 5)] {
        let (_, info) = load(Some(name));
        assert_eq!((info.architecture.clone(), info.notes()), (config(heads), vec![]));
    }
}
