//! Names inside wrappers, behind prefixes, and by Transformers' and timm's other spellings.

use super::ambiguous_files::{dict, edited, moved, open, plan, refusal, tensor};
use super::*;

/// Wrappers of parts: each compiled block, a compiled network in a Lightning module, FSDP and checkpointing in
/// the middle of a path.
#[test]
fn wrappers_are_taken_off_at_any_depth() {
    let inside = |file: &str, change: &dyn Fn(&str) -> String| {
        edited(file, "", |entries| {
            let all = std::mem::take(entries).into_iter();
            entries.extend(all.map(|(name, entry)| (change(&name), entry)));
        })
    };
    let layout = |checkpoint: &Checkpoint, network: &str| {
        let plan = plan(checkpoint, &options(network));
        assert_eq!(plan.mismatch.to_string(), "");
        (plan.recognized.layout.name, plan.recognized.tensors.len())
    };
    let (vit, resnet) = ("timm-vit.safetensors", "torchvision-resnet.pth");
    for wrapper in [
        "_orig_mod",
        "module",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_orig_mod.module",
    ] {
        let blocks = inside(vit, &|name| {
            name.replace(".attn.", &format!(".{wrapper}.attn.{wrapper}."))
        });
        assert_eq!(
            layout(&blocks, VIT),
            layout(&open(&fixture(vit)), VIT),
            "{wrapper}"
        );
        let stages = inside(resnet, &|name| {
            name.replace("layer2.", &format!("layer2.{wrapper}."))
        });
        assert_eq!(layout(&stages, "resnet18-w2").0, "resnet", "{wrapper}");
    }
    // A Lightning module, its network at any depth. Below `backbone` it may be solo-learn's or, with a classifier, any other's.
    let below_backbone: &[&str] = &["resnet", "solo_learn"];
    for (prefix, layouts) in [
        ("backbone._orig_mod.", below_backbone),
        ("model.backbone.", below_backbone),
        ("model.model._orig_mod.", &["resnet"]),
        ("model.net.module.", &["resnet"]),
    ] {
        let file = moved(resnet, "", "state_dict", prefix);
        let plain = ImportOptions {
            backbone: None,
            allow_unexpected: vec!["*fc.*".to_owned()],
            ..ImportOptions::default()
        };
        let found = plan(&file, &plain).recognized.layout.name;
        assert!(layouts.contains(&found), "{prefix}: {found}");
        assert_eq!(refusal(&file, &plain), "", "{prefix}");
    }
    // DeepSpeed's dictionary.
    assert_eq!(
        refusal(&moved(resnet, "", "module", ""), &ImportOptions::default()),
        ""
    );
}

#[test]
fn two_networks_that_differ_in_their_wrapper_alone_are_not_mixed() {
    // A network and its average, or a compiled copy: neither may take the place of the other.
    for other in ["model.", "_orig_mod.", "module.model."] {
        let file = edited("torchvision-resnet.pth", "", |entries| {
            let copies = entries
                .iter()
                .map(|(name, entry)| (format!("{other}{name}"), entry.clone()));
            let copies = copies.collect::<Vec<_>>();
            entries.extend(copies);
        });
        let error = refusal(&file, &ImportOptions::default());
        assert!(
            error.contains(&format!("unexpected: {other}bn1.bias")),
            "{other}: {error}"
        );
    }
}

#[test]
fn queries_keys_and_values_must_form_a_tensor() {
    let file = "transformers-vit.safetensors";
    let part = |name: &str| format!("vit.encoder.layer.0.attention.attention.{name}");
    let removed = edited(file, "", |entries| {
        entries.remove(&part("key.bias"));
    });
    assert_eq!(
        refusal(&removed, &options(VIT)),
        "1 missing: blocks.0.attn.qkv.bias; 2 unexpected: encoder.layer.0.attention.attention.query.bias (near \
         blocks.0.attn.qkv.bias), encoder.layer.0.attention.attention.value.bias (near blocks.0.attn.qkv.bias)"
    );
    let narrow = edited(file, "", |entries| {
        tensor(entries, &part("value.weight")).shape[0] = 16;
    });
    assert!(refusal(&narrow, &options(VIT)).starts_with("1 missing: blocks.0.attn.qkv.weight; 3 unexpected"));
    let both = edited(file, "", |entries| {
        let whole = entries[&part("query.bias")].clone();
        entries.insert("vit.blocks.0.attn.qkv.bias".to_owned(), whole);
    });
    assert_eq!(
        refusal(&both, &options(VIT)),
        "two tensors of this file are blocks.0.attn.qkv.bias of the network (transformers_vit)"
    );
}

#[test]
fn transformers_networks_at_any_prefix_are_read_and_two_are_ambiguous() {
    let file = "transformers-dinov2.safetensors";
    for prefix in [
        "dinov2.",
        "backbone.",
        "encoder.",
        "student.net.",
        "model.model.trunk.",
    ] {
        let moved = moved(file, "", "state_dict", prefix);
        assert_eq!(refusal(&moved, &options(VIT)), "", "{prefix}");
    }
    // Beside an optimizer's tensors, which the root's names include.
    let mut lightning = moved(file, "", "state_dict", "encoder.");
    let optimizer = moved("torchvision-resnet.pth", "", "state", "").root;
    dict(&mut lightning.root).insert("optimizer_states".to_owned(), optimizer);
    assert_eq!(refusal(&lightning, &options(VIT)), "");
    let mut two = moved(file, "", "", "student.");
    let teacher = dict(&mut moved(file, "", "", "teacher.").root).clone();
    dict(&mut two.root).extend(teacher);
    tensor(dict(&mut two.root), "teacher.layernorm.bias").start += 4;
    assert_eq!(
        refusal(&two, &options(VIT)),
        "this file (transformers_dinov2) holds a network in `student.*` and in `teacher.*`, and they differ"
    );
}

#[test]
fn a_norm_behind_the_mean_keeps_its_name_for_timm() {
    let (backbone, info) = read(&fixture("timm-vit-fc-norm.pth"), &options(VIT)).unwrap();
    let BackboneConfig::Vit(config) = &info.architecture else {
        unreachable!()
    };
    assert_eq!(config.pooling, backbones::vit::Pooling::MeanThenNorm);
    let bytes = encoder_to_safetensors_as(&backbone, &info, Naming::Timm).unwrap();
    let names = open(&bytes);
    assert!(names.root.at("fc_norm.weight").is_some() && names.root.at("norm.weight").is_none());
    let (again, said) = read(&bytes, &ImportOptions::default()).unwrap();
    assert_eq!((state_dict(&again), said), (state_dict(&backbone), info));
}
