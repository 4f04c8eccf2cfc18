//! Cards from what is known, and from nothing.

use std::collections::BTreeMap;

use backbones::Stem;

use super::*;
use crate::folder::export_folder;
use crate::onnx::tests::{info, network, resnet, vit};
use crate::origin::{Origin, SawPeople};

fn folder(architecture: BackboneConfig, target: Target) -> ExportFolder {
    export_folder(&network(&architecture), &info(architecture, 16), target, None).unwrap()
}

#[test]
fn a_card_says_what_is_known() {
    let mut folder = folder(vit(|config| config.registers = 1), Target::Transformers);
    folder.info.set_origin(&Origin {
        file: "imagenet.pth".to_owned(),
        sha256: "0123456789abcdef".to_owned(),
        method: "moco".to_owned(),
        fingerprint: String::new(),
        licenses: Default::default(),
        saw_people: SawPeople::Yes,
        origin: None,
    });
    let dino = Paper {
        authors: "Caron et al.",
        title: "Emerging Properties in Self-Supervised Vision Transformers",
        year: 2021,
        arxiv: "2104.14294",
    };
    let card = Card {
        encoder_sha256: "ab12".to_owned(),
        license: Some("cc-by-4.0".to_owned()),
        data: Some("my *photos*".to_owned()),
        recipe: Some("seed = 0\n".to_owned()),
        run: vec![("device".to_owned(), "flex (CPU)".to_owned())],
        scores: vec![CardScore {
            protocol: "knn-dino (k 20)".to_owned(),
            metric: "top1".to_owned(),
            value: "77.60 %".to_owned(),
            uncertainty: "+- 0.41".to_owned(),
            train_records: 6000,
            test_records: 2000,
            test_fingerprint: "bdec".to_owned(),
        }],
        method_papers: vec![dino],
        credits_file: Some("CREDITS.txt".to_owned()),
    };
    let text = card.markdown(&folder, Target::Transformers);
    let (metadata, body) = text.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    assert_eq!(
        metadata,
        "license: \"cc-by-4.0\"\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\ntags:\n\
         - \"image-feature-extraction\"\n- \"self-supervised-learning\"\n- \"passer\"\n- \"vision-transformer\"\n\
         - \"transformers\"\n- \"dino\""
    );
    for expected in [
        "| CC BY 4.0 | 3 |\n| CC0 | 1 |",
        "| optimizer steps | 7 |",
        "| started from | imagenet.pth (moco, SHA-256 0123456789ab, saw people: yes) |",
        "The encoder that training started from saw people, so this network did.",
        "Data: my \\*photos\\*.",
        "```toml\nseed = 0\n```",
        "| knn-dino (k 20) | top1 | 77.60 % | +- 0.41 | 6000 | 2000 | bdec |",
        "- Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, \
         [arXiv:2104.14294](https://arxiv.org/abs/2104.14294)",
        "arXiv:2309.16588",
        "[CREDITS.txt](CREDITS.txt)",
        "features = output.last_hidden_state[:, 0]",
        "here: Dinov2WithRegistersModel",
    ] {
        assert!(body.contains(expected), "{expected}: {body}");
    }
}

#[test]
fn a_card_names_what_is_missing() {
    let mut folder = folder(resnet(50, Stem::Imagenet), Target::Transformers);
    folder.info.extra = BTreeMap::from([("layout".to_owned(), "resnet".to_owned())]);
    (folder.info.method, folder.info.fingerprint) = ("resnet".to_owned(), String::new());
    folder.info.licenses = Default::default();
    let text = Card::default().markdown(&folder, Target::Transformers);
    for expected in [
        "The data that this network learned from are not stated.",
        "Licenses of the images: not stated.",
        "The license of the weights is not stated.",
        "read from another program's file, layout resnet",
        "None were given.",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("license:") && !text.contains("photographers"),
        "{text}"
    );
}
