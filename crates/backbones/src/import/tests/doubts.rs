//! Files that are not quite those of a layout, or lie about what they are: what is said of them.

use super::*;

/// A fixture's entries under `top`, changed and set in its place.
fn edited(file: &str, top: &str, change: impl Fn(&mut BTreeMap<String, Entry>)) -> Checkpoint {
    let mut checkpoint = Checkpoint::open(&mut Cursor::new(fixture(file))).unwrap();
    let mut entry = &mut checkpoint.root;
    for key in top.split('/').filter(|key| !key.is_empty()) {
        let Entry::Dict(entries) = entry else {
            unreachable!()
        };
        entry = entries.get_mut(key).unwrap();
    }
    let Entry::Dict(entries) = entry else {
        unreachable!()
    };
    change(entries);
    checkpoint
}

fn tensor<'a>(entries: &'a mut BTreeMap<String, Entry>, name: &str) -> &'a mut TensorInfo {
    match entries.get_mut(name) {
        Some(Entry::Tensor(tensor)) => tensor,
        other => panic!("{name}: {other:?}"),
    }
}

/// Why nothing would be made of a file.
fn doubt(checkpoint: &Checkpoint, options: &ImportOptions) -> String {
    match Import::plan(checkpoint, options, &Device::flex()) {
        Ok(plan) => plan.mismatch.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn solo_learns_small_stem_is_a_doubt_that_a_name_settles() {
    let checkpoint = |bytes: &[u8]| Checkpoint::open(&mut Cursor::new(bytes)).unwrap();
    let small = fixture("small-stem.safetensors");
    let mut file = checkpoint(&small);
    // As a Lightning checkpoint would hold it.
    let Entry::Dict(tensors) = file.root else {
        unreachable!()
    };
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| (format!("backbone.{name}"), tensor));
    file.root = Entry::Dict(BTreeMap::from([(
        "state_dict".to_owned(),
        Entry::Dict(tensors.collect()),
    )]));
    let mut options = ImportOptions::default();
    let error = Import::plan(&file, &options, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pads its 3×3 stem by 2") && error.contains("--backbone resnet18-w2-small"),
        "{error}"
    );
    options.backbone = Some("resnet18-w2-small".to_owned());
    assert!(
        Import::plan(&file, &options, &Device::flex())
            .unwrap()
            .mismatch
            .is_empty()
    );
}

#[test]
fn two_layouts_in_one_file_are_a_doubt() {
    let bytes = fixture("swav-nested.pth.tar");
    let mut file = Checkpoint::open(&mut Cursor::new(&bytes)).unwrap();
    let Entry::Dict(entries) = &mut file.root else {
        unreachable!()
    };
    let moco = fixture("moco-v1.pth.tar");
    let other = Checkpoint::open(&mut Cursor::new(&moco)).unwrap();
    let Some(Entry::Dict(query)) = other.root.at("state_dict") else {
        unreachable!()
    };
    let bare = query
        .iter()
        .map(|(name, tensor)| (name.replace("module.encoder_q.", ""), tensor.clone()));
    entries.insert("model".to_owned(), Entry::Dict(bare.collect()));
    let error = Import::plan(&file, &ImportOptions::default(), &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("this file could be of resnet or swav"),
        "{error}"
    );
}

#[test]
fn a_network_in_two_places_is_a_doubt_unless_both_are_one() {
    let plain = ImportOptions::default();
    let both = |change: fn(&mut BTreeMap<String, Entry>)| {
        edited("training-script-legacy.pth", "", |entries| {
            let Some(Entry::Dict(network)) = entries.get("state_dict") else {
                unreachable!()
            };
            let mut model = network.clone();
            change(&mut model);
            entries.insert("model".to_owned(), Entry::Dict(model));
        })
    };
    assert_eq!(doubt(&both(|_| {}), &plain), "");
    let error = doubt(
        &both(|model| {
            model.remove("module.bn1.bias");
        }),
        &plain,
    );
    assert!(
        error.starts_with(
            "this file (resnet) holds a network in `state_dict.*` and in `model.*`, and they differ; hint"
        ),
        "{error}"
    );
}

#[test]
fn wrappers_are_taken_off_in_any_order() {
    let resnet = |wrapper: &str, count: bool| {
        edited("torchvision-resnet.pth", "", |entries| {
            let wrapped = std::mem::take(entries)
                .into_iter()
                .map(|(name, entry)| (format!("{wrapper}{name}"), entry));
            entries.extend(wrapped);
            if count {
                let steps = entries[&format!("{wrapper}bn1.num_batches_tracked")].clone();
                entries.insert("n_averaged".to_owned(), steps);
            }
        })
    };
    let plain = ImportOptions::default();
    for wrapper in ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."] {
        assert_eq!(doubt(&resnet(wrapper, false), &plain), "", "{wrapper}");
        assert_eq!(
            doubt(&resnet(wrapper, true), &plain),
            "1 unexpected: n_averaged",
            "{wrapper}"
        );
    }
    // Nobody wraps more often than four times, and a name has room for 145.
    assert_eq!(doubt(&resnet(&"module.".repeat(4), false), &plain), "");
    for layers in [5, 140] {
        let error = doubt(&resnet(&"module.".repeat(layers), false), &plain);
        assert!(error.starts_with("no known layout matches"), "{error}");
    }
}

#[test]
fn a_file_that_lacks_what_it_is_known_by_is_told_what_is_missing() {
    let plain = ImportOptions::default();
    let renamed = |file: &str, from: &str, to: &str| {
        let file = edited(file, "", |entries| {
            let entry = entries.remove(from).unwrap();
            entries.insert(to.to_owned(), entry);
        });
        doubt(&file, &plain)
    };
    let resnet = "torchvision-resnet.pth";
    assert_eq!(
        renamed(resnet, "layer1.0.conv1.weight", "layer1.0.conv_1.weight"),
        "1 missing: layer1.0.conv1.weight; 1 unexpected: layer1.0.conv_1.weight (near layer1.0.conv1.weight)"
    );
    assert_eq!(
        renamed(resnet, "conv1.weight", "conv1.0.weight"),
        "1 missing: conv1.weight (near conv1.0.weight), by which the network is known"
    );
    assert_eq!(
        renamed(resnet, "conv1.weight", "stem"),
        "1 missing: conv1.weight, by which the network is known"
    );
    let vit = "timm-vit.safetensors";
    let named = options(VIT);
    let file = edited(vit, "", |entries| {
        entries.remove("cls_token");
    });
    assert_eq!(doubt(&file, &named), "1 missing: cls_token");
    assert!(renamed(vit, "patch_embed.proj.weight", "x").starts_with("1 missing: patch_embed.proj.weight"));
}

#[test]
fn sizes_that_no_file_could_hold_take_no_memory() {
    let plain = ImportOptions::default();
    // A few bytes may be a tensor of any shape, by strides of 0.
    let file = edited("torchvision-resnet.pth", "", |entries| {
        tensor(entries, "conv1.weight").shape = vec![1 << 33, 3, 7, 7];
    });
    let error = doubt(&file, &plain);
    assert!(
        error.starts_with("resnet18-w8589934592 has about") && error.contains("too many for this file of"),
        "{error}"
    );
    let file = edited("timm-vit.safetensors", "", |entries| {
        tensor(entries, "patch_embed.proj.weight").shape[0] = 1 << 30;
    });
    assert!(doubt(&file, &plain).contains("too many for this file"));
    let file = edited("timm-vit.safetensors", "", |_| {});
    let error = doubt(&file, &options("vit-w32-d1000000-h2-p4"));
    assert!(
        error.contains("has 1000000 blocks, too many for this file"),
        "{error}"
    );
    // Twelve tensors a block, and some to be told by name.
    assert!(doubt(&file, &options("vit-w32-d67-h2-p4")).contains("has 67 blocks, too many"));
    assert!(doubt(&file, &options("vit-w32-d66-h2-p4")).starts_with("768 missing: blocks.10."));
    let error = doubt(&file, &options("vit-w65536-d2-h2-p4"));
    assert!(error.contains("million numbers, too many"), "{error}");

    // Files that pass for ours.
    let (backbone, info) = read(&fixture("small-stem.safetensors"), &plain).unwrap();
    let forged = |change: &dyn Fn(&mut EncoderInfo)| {
        let mut info = info.clone();
        change(&mut info);
        let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
        read(&bytes, &plain).unwrap_err().to_string()
    };
    let resnet = |width| {
        BackboneConfig::Resnet(crate::ResNetConfig {
            depth: 50,
            width,
            stem: Stem::Small,
            zero_init_residual: false,
        })
    };
    for width in [4000, 1 << 40] {
        let error = forged(&|info| info.architecture = resnet(width));
        assert!(error.contains("million numbers, too many"), "{error}");
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
fn whole_numbers_are_no_weights() {
    let plain = ImportOptions::default();
    let file = edited("torchvision-resnet.pth", "", |entries| {
        tensor(entries, "bn1.bias").dtype = crate::checkpoint::Dtype::I8;
    });
    assert_eq!(
        doubt(&file, &plain),
        "1 of another type: bn1.bias (expected f16, bf16, f32 or f64, got i8)"
    );
}

#[test]
fn positions_are_kept_where_the_class_token_may_be_missing() {
    let file = "dinov2-registers.pth";
    let bytes = fixture(file);
    let checkpoint = edited(file, "", |entries| {
        entries.remove("cls_token");
    });
    let mut options = options("vit-w32-d2-h2-p4-reg4");
    assert_eq!(doubt(&checkpoint, &options), "1 missing: cls_token");
    options.allow_missing = vec!["cls_token".to_owned()];
    let plan = Import::plan(&checkpoint, &options, &Device::flex()).unwrap();
    let (backbone, _) = plan.load(&mut Cursor::new(&bytes)).unwrap();
    let positions = &state_dict(&backbone)["pos_embed"];
    assert_eq!(
        positions.iter::<f32>().collect::<Vec<_>>(),
        formula("pos_embed", &positions.shape().to_vec(), Part::Student)
    );
}

/// DINO's file with heads left out by whoever saved it, and DINOv2's.
#[test]
fn a_teacher_without_its_head_is_known() {
    let headless = |file: &str, change: &dyn Fn(&str) -> Option<String>| {
        let mut checkpoint = Checkpoint::open(&mut Cursor::new(fixture(file))).unwrap();
        let Entry::Dict(entries) = &mut checkpoint.root else {
            unreachable!()
        };
        let Some(Entry::Dict(teacher)) = entries.remove("teacher") else {
            unreachable!()
        };
        let kept = teacher.into_iter().filter_map(|(name, entry)| {
            let plain = name.trim_start_matches("module.");
            let head = ["head.", "dino_head.", "ibot_head."]
                .iter()
                .any(|head| plain.starts_with(head));
            Some((change(plain).filter(|_| !head)?, entry))
        });
        let kept = BTreeMap::from([("teacher".to_owned(), Entry::Dict(kept.collect()))]);
        checkpoint.root = Entry::Dict(kept);
        checkpoint
    };
    let same = |name: &str| Some(name.to_owned());
    let bare = |name: &str| Some(name.trim_start_matches("backbone.").to_owned());
    let layout = |checkpoint: &Checkpoint, network: &str| {
        let plan = Import::plan(checkpoint, &options(network), &Device::flex()).unwrap();
        assert_eq!(plan.mismatch.to_string(), "");
        (plan.recognised.layout.name, plan.recognised.part)
    };
    let dino = ("dino", Some(Part::Teacher));
    for (file, network) in [("dino-vit.pth", VIT), ("dino-resnet.pth", "resnet18-w2")] {
        assert_eq!(layout(&headless(file, &same), network), dino, "{file}");
        assert_eq!(layout(&headless(file, &bare), network), dino, "{file}");
    }
    let dinov2 = "dinov2-teacher.pth";
    assert_eq!(layout(&headless(dinov2, &same), VIT), ("dinov2", None));
    // Blocks that are not in chunks.
    let flat = |name: &str| same(&name.replace("blocks.0.", "blocks."));
    assert_eq!(layout(&headless(dinov2, &flat), VIT), ("dinov2", None));
    // A misspelt teacher is no reason to take the student.
    let misspelt = edited("dino-vit.pth", "teacher", |teacher| {
        let spoilt = std::mem::take(teacher)
            .into_iter()
            .map(|(name, entry)| (name.replace(".attn.", ".att."), entry));
        teacher.extend(spoilt);
    });
    let error = doubt(&misspelt, &options(VIT));
    assert!(error.starts_with("the teacher is wanted"), "{error}");
}

#[test]
fn patterns_that_allow_nothing_are_told() {
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
        let checkpoint = Checkpoint::open(&mut Cursor::new(&bytes)).unwrap();
        let plan = Import::plan(&checkpoint, &options, &Device::flex()).unwrap();
        let said = plan.refusal();
        let loaded = plan.load(&mut Cursor::new(&bytes)).map(|_| ());
        assert_eq!(loaded.err().map(|error| error.to_string()), said);
        said.unwrap_or_default()
    };
    // A parameter that is there is none the less one; a head is left out anyway.
    for (missing, unexpected) in [("", ""), ("bn1.*", ""), ("", "fc.*"), ("*", "**")] {
        assert_eq!(load(missing, unexpected), "", "{missing} {unexpected}");
    }
    assert!(
        load("nb1.*", "").starts_with("`--allow-missing nb1.*` matches no parameter of this network; hint")
    );
    for unexpected in ["queue", "layer1.*"] {
        assert!(load("", unexpected).starts_with(&format!(
            "`--allow-unexpected {unexpected}` matches no tensor of the file that"
        )));
    }
}

#[test]
fn positions_are_brought_to_other_grids_as_the_layouts_authors_do() {
    use crate::vit::Interpolation as By;
    for (file, network, wanted) in [
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
        assert_eq!(config.interpolation, wanted, "{file}");
    }
}

/// The fixture's tensors under `top`, by other names, in a place that no row has.
fn hidden(file: &str, top: &str, place: &str, prefix: &str) -> Checkpoint {
    let mut checkpoint = Checkpoint::open(&mut Cursor::new(fixture(file))).unwrap();
    let Some(Entry::Dict(entries)) = checkpoint.root.at(top) else {
        unreachable!()
    };
    let renamed = entries
        .iter()
        .map(|(name, entry)| (format!("{prefix}{name}"), entry.clone()));
    let mut root = Entry::Dict(renamed.collect());
    for key in place.split('/').rev().filter(|key| !key.is_empty()) {
        root = Entry::Dict(BTreeMap::from([(key.to_owned(), root)]));
    }
    checkpoint.root = root;
    checkpoint
}

#[test]
fn a_file_of_no_known_layout_says_where_a_network_is_and_how_to_save_it() {
    let plain = ImportOptions::default();
    let said = |file: &str, place: &str, prefix: &str| doubt(&hidden(file, "", place, prefix), &plain);
    let resnet = "torchvision-resnet.pth";
    let error = said(resnet, "weights/ema", "");
    assert!(
        error.ends_with(
            "; hint: names like resnet18-w2's under `weights.ema.`: save them alone, \
             `torch.save(ckpt['weights']['ema'], \"alone.pth\")`"
        ),
        "{error}"
    );
    let error = said(resnet, "state", "features.");
    assert!(
        error.contains(
            "under `state.features.`: save them alone, `torch.save({k.removeprefix('features.'): v for k, v in \
             ckpt['state'].items() if k.startswith('features.')}, \"alone.pth\")`"
        ),
        "{error}"
    );
    // Libraries' other names, and names that the root has.
    for (file, prefix) in [
        ("torchvision-vit.pth", "trunk."),
        ("timm-vit.safetensors", "a.b."),
        ("lightly-parameters.pth", "trunk."),
    ] {
        let top = match file {
            "lightly-parameters.pth" => "resnet18_parameters",
            _ => "",
        };
        let error = doubt(&hidden(file, top, "", prefix), &plain);
        assert!(error.contains(&format!("under `{prefix}`")), "{file}: {error}");
    }
    // Of two networks none is taken.
    let mut two = hidden(resnet, "", "a", "");
    let Entry::Dict(entries) = &mut two.root else {
        unreachable!()
    };
    let other = entries["a"].clone();
    entries.insert("b".to_owned(), other);
    let error = doubt(&two, &plain);
    assert!(
        error.contains("networks under `a.` (resnet18-w2), `b.` (resnet18-w2): save the one that you want"),
        "{error}"
    );
    let named = ImportOptions {
        backbone: Some("vit_small_patch16".to_owned()),
        ..ImportOptions::default()
    };
    let error = doubt(&hidden(resnet, "", "", ""), &named);
    assert!(
        error.ends_with("hint: its network is a ResNet: leave out --backbone"),
        "{error}"
    );
}

#[test]
fn averaged_weights_beside_a_network_are_told() {
    for (place, other) in [
        ("model", "ema_model"),
        ("state_dict", "state_dict_ema"),
        ("net", "teacher_net"),
    ] {
        let mut file = hidden("torchvision-resnet.pth", "", place, "");
        assert!(
            Import::plan(&file, &ImportOptions::default(), &Device::flex())
                .unwrap()
                .recognised
                .notes()
                .is_empty()
        );
        let Entry::Dict(entries) = &mut file.root else {
            unreachable!()
        };
        let network = entries[place].clone();
        entries.insert(other.to_owned(), network);
        let plan = Import::plan(&file, &ImportOptions::default(), &Device::flex()).unwrap();
        let [note] = &plan.recognised.notes()[..] else {
            panic!("{:?}", plan.recognised.notes());
        };
        assert!(
            note.contains(&format!("under `{other}.`"))
                && note.contains(&format!("torch.save(ckpt['{other}']")),
            "{note}"
        );
    }
}

#[test]
fn one_network_saved_alone_has_its_methods_traits() {
    use crate::vit::Interpolation as By;
    let plan = |checkpoint: &Checkpoint, network: &str| {
        let plan = Import::plan(checkpoint, &options(network), &Device::flex()).unwrap();
        assert_eq!(plan.mismatch.to_string(), "");
        let interpolation = match plan.info.architecture {
            BackboneConfig::Vit(config) => Some(config.interpolation),
            BackboneConfig::Resnet(_) => None,
        };
        (plan.recognised.layout.name, plan.recognised.part, interpolation)
    };
    let teacher = |file: &str, place: &str| hidden(file, "teacher", place, "");
    let dino = ("dino", None, Some(By::Offset));
    for place in ["", "model", "net"] {
        assert_eq!(plan(&teacher("dino-vit.pth", place), VIT), dino, "{place}");
        assert_eq!(plan(&teacher("pass-dino.pth.tar", place), VIT), dino, "{place}");
        let resnet = plan(&teacher("dino-resnet.pth", place), "resnet18-w2");
        assert_eq!(resnet, ("dino", None, None), "{place}");
    }
    for place in ["", "model"] {
        let dinov2 = plan(&teacher("dinov2-teacher.pth", place), VIT);
        assert_eq!(dinov2, ("dinov2", None, Some(By::Offset)), "{place}");
    }
    // Without the head nothing says DINO.
    let mut headless = teacher("dino-vit.pth", "");
    let Entry::Dict(entries) = &mut headless.root else {
        unreachable!()
    };
    entries.retain(|name, _| name.starts_with("backbone."));
    let generic = ("backbone", Some(Part::Student), Some(By::Antialiased));
    assert_eq!(plan(&headless, VIT), generic);
    // solo-learn's modules saved alone: a stem of 3×3 stays a doubt.
    let solo = hidden("solo-learn.ckpt", "state_dict", "", "");
    let said = plan(&solo, "resnet18-w2");
    assert_eq!(said, ("solo_learn", Some(Part::Student), None));
    // One network beside the two of a run, and not the same.
    let mut both = Checkpoint::open(&mut Cursor::new(fixture("dino-vit.pth"))).unwrap();
    let student = both.root.at("student").unwrap().clone();
    let Entry::Dict(entries) = &mut both.root else {
        unreachable!()
    };
    entries.insert("model".to_owned(), student);
    let error = doubt(&both, &options(VIT));
    assert!(error.contains("and they differ"), "{error}");
}

#[test]
fn what_an_encoder_is_not_sure_of_is_noted_and_stays_so() {
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
    // A converted file says so as well.
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

/// A ViT 320 pixels wide may have 5 heads or 4, and its weights do not say.
#[test]
fn heads_of_an_unusual_width_are_a_guess_that_is_told() {
    let config = |heads| {
        BackboneConfig::Vit(crate::VitConfig {
            width: 320,
            heads,
            ..match read(&fixture("timm-vit.safetensors"), &options(VIT))
                .unwrap()
                .1
                .architecture
            {
                BackboneConfig::Vit(config) => config,
                BackboneConfig::Resnet(_) => unreachable!(),
            }
        })
    };
    let (_, mut info) = read(&fixture("timm-vit.safetensors"), &options(VIT)).unwrap();
    info.architecture = config(4);
    let backbone = info.architecture.init(&crate::Init::new(0, &Device::flex()));
    let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    // As another program would have written it.
    let mut checkpoint = Checkpoint::open(&mut Cursor::new(&bytes)).unwrap();
    checkpoint.metadata.clear();
    let load = |backbone: Option<&str>| {
        let options = ImportOptions {
            backbone: backbone.map(str::to_owned),
            ..ImportOptions::default()
        };
        let plan = Import::plan(&checkpoint, &options, &Device::flex()).unwrap();
        plan.load(&mut Cursor::new(&bytes)).unwrap()
    };
    let (backbone, info) = load(None);
    assert_eq!(info.architecture, config(5));
    let notes = info.notes();
    assert!(
        matches!(notes.as_slice(), [note] if note.starts_with("the number of heads, 5, is a guess")
            && note.ends_with("--backbone vit-w320-d2-hHEADS-p4")),
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
