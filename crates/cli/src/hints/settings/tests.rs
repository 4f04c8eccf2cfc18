//! The text of every kind of fault, on a small config with all forms of settings.

#![allow(clippy::unwrap_used)]

use crate::hints;
use data::settings::{Edit, read};
use serde::Deserialize;
use std::fmt::Write;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Config {
    seed: u64,
    data: Data,
    network: Network,
    optimizer: Optimizer,
    schedule: Schedule,
    stages: Vec<Stage>,
    training: Training,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Data {
    batch_images: usize,
    order: Order,
    mean: [f32; 3],
    photographer: String,
    shuffle: bool,
    level: u8,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Global,
    Blocks(usize),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum Network {
    Resnet { layers: u32, stem: Stem },
    Vit { layers: u32, patch_px: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stem {
    Small,
    Standard,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum Optimizer {
    Sgd { rate: f64, momentum: f64 },
    Adamw { rate: f64, betas: [f64; 2] },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum Schedule {
    Constant {},
    CosinePerEpoch { warmup: Option<Warmup> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Warmup {
    epochs: usize,
    start: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum Stage {
    Faces { score: f64 },
    Persons { score: f64, class: u32 },
    Crop { px: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Training {
    epochs: usize,
    micro_batch_images: Option<usize>,
}

const TEXT: &str = "\
seed = 1
[data]
batch_images = 64
order = \"global\"
mean = [0.5, 0.5, 0.5]
photographer = \"Nora\"
shuffle = true
level = 3
[network.resnet]
layers = 18
stem = \"small\"
[optimizer.sgd]
rate = 0.1
momentum = 0.9
[schedule.cosine_per_epoch]
[[stages]]
faces = { score = 0.5 }
[[stages]]
persons = { score = 0.5, class = 0 }
[[stages]]
crop = { px = 8 }
[[stages]]
crop = { px = 9 }
[training]
epochs = 30
";

/// The error and the hint of a text with edits.
fn refused(text: &str, edits: &[&str]) -> String {
    let edits: Vec<Edit> = edits
        .iter()
        .map(|edit| edit.split_once('=').unwrap())
        .map(|(path, text)| Edit {
            path: path.into(),
            text: text.into(),
        })
        .collect();
    let fault = read::<Config>(text, &edits, |_| (), |_: &Config| Ok(())).unwrap_err();
    let hint = hints::of_settings(&fault).map_or(String::new(), |hint| format!("  hint: {hint}\n"));
    format!("  {}\n{hint}", hints::message_of_settings(&fault))
}

#[test]
fn the_shipped_text_is_read() {
    read::<Config>(TEXT, &[], |_| (), |_: &Config| Ok(())).unwrap();
    let edits = [
        ("optimizer", "{ adamw = { rate = 0.1, betas = [0.9, 0.99] } }"),
        ("stages.faces.score", "0.7"),
        ("stages.2.crop.px", "7"),
        ("data.order", "{ blocks = 4 }"),
        ("network.resnet.stem", "standard"),
        ("schedule", "{ constant = {} }"),
    ]
    .map(|(path, text)| Edit {
        path: path.into(),
        text: text.into(),
    });
    let config = read::<Config>(TEXT, &edits, |_| (), |_: &Config| Ok(())).unwrap();
    assert!(matches!(config.optimizer, Optimizer::Adamw { .. }));
    assert!(matches!(config.stages[0], Stage::Faces { score: 0.7 }));
    assert!(matches!(config.stages[2], Stage::Crop { px: 7 }));
    assert!(matches!(config.data.order, Order::Blocks(4)));
}

#[test]
fn faults_of_edits() {
    let mut all = String::new();
    for edit in [
        "schedule.epochs=4",
        "schedule.cosine=1",
        "schedule={}",
        "schedule=cosine_per_epoch",
        "schedule.constant={}",
        "schedule=3",
        "network={ layers = 18, stem = 'small' }",
        "optimizer.sgd.momentum=high",
        "network.resnet.stem=smal",
        "network.resnet.stem=3",
        "network.resnet={}",
        "network.resnet.layer=3",
        "stages.faces.score=high",
        "stages.faces.scores=1",
        "stages.face.score=0.4",
        "stages.crop.px=3",
        "stages.9.crop.px=3",
        "stages.2.crop.size=3",
        "stages=[]x",
        "optimizer.adam.x=1",
        "optimizer.adamw.rate=0.1",
        "optimizer.banana.rate=0.1",
        "optimizer=adamw",
        "network.vit.layers=3",
        "data.order.blocks=4",
        "data.order=globl",
        "data.batch_images.x=4",
        "data.batch_images=-4",
        "data.batch_images=4.5",
        "data.level=300",
        "data.mean=[0.5, 0.5, 0.5, 0.5]",
        "data.mean=0.5",
        "data.mean.1=x",
        "data.photographer=3",
        "data.photographer=2024-05-06",
        "data.shuffle=1",
        "data=3",
        "epochs=4",
        "micro_batch_images=4",
        "epoch=4",
        "trainin.epochs=4",
        "training.epochs.x=4",
        "schedule.cosine_per_epoch.warmup.epochs=5",
        "schedule.cosine_per_epoch.warmup={ epochs = 5 }",
        "training..epochs=4",
    ] {
        writeln!(all, "--set {edit}\n{}", refused(TEXT, &[edit])).unwrap();
    }
    insta::assert_snapshot!("edits", all);
}

#[test]
fn tables_as_other_programs_write_them() {
    let one_of_networks = "must have exactly one of `resnet`, `vit`, got";
    let one_of_stages = "must have exactly one of `faces`, `persons`, `crop`, got";
    for (from, to, expected) in [
        (
            "[network.resnet]\n",
            "[network]\nname = \"resnet18\"\n",
            format!(
                "  line 9: `network` {one_of_networks} `layers`, `name` and `stem`\n  \
                 hint: write the line `[network.resnet]` in place of `[network]`, and leave out `name`\n"
            ),
        ),
        (
            "faces = { score = 0.5 }",
            "type = \"faces\"\nscore = 0.5",
            format!(
                "  line 16: `stages.0` {one_of_stages} `score` and `type`\n  \
                 hint: write the line `[stages.faces]` below `[[stages]]`, and leave out `type`\n"
            ),
        ),
        (
            "[network.resnet]\nlayers",
            "[network.resnet]\ndepth",
            "  line 10: there is no key `network.resnet.depth`: `network.resnet` has no `depth`; keys are `layers`, `stem`\n  \
             hint: `network.resnet.layers` is missing: write `layers` in place of `depth`\n"
                .to_string(),
        ),
        (
            "[training]\n",
            "[training.run]\nmicro_batch_images = 8\n",
            "  line 24: there is no key `training.run`: `training` has no `run`; keys are `epochs`, `micro_batch_images`\n  \
             hint: write the line `[training]` in place of `[training.run]`\n"
                .to_string(),
        ),
    ] {
        assert!(TEXT.contains(from), "{from}");
        assert_eq!(refused(&TEXT.replace(from, to), &[]), expected);
    }
}

#[test]
fn faults_of_files() {
    let mut all = String::new();
    for (from, to) in [
        ("[training]\n", ""),
        ("[training]\nepochs = 30\n", ""),
        ("[optimizer.sgd]\n", ""),
        ("[optimizer.sgd]\n", "[optimizer]\n"),
        ("[network.resnet]\n", "[network]\n"),
        ("[schedule.cosine_per_epoch]\n", "[schedule]\n"),
        ("[schedule.cosine_per_epoch]\n", ""),
        ("[network.resnet]\n", "[network.resnett]\n"),
        (
            "[schedule.cosine_per_epoch]\n",
            "[schedule.cosine_per_epoch]\n[schedule.constant]\n",
        ),
        ("\"Nora\"", "Nora"),
        ("\"Nora\"", "Nora Smith # me"),
        ("\"Nora\"", "\"Nora"),
        ("momentum = 0.9", "momentum = \"high\""),
        ("px = 9", "px = 'x'"),
        ("seed = 1\n", ""),
        ("layers = 18\n", ""),
        ("seed = 1", "seed = 1\nseed = 2"),
        ("class = 0", "clas = 0"),
        ("level = 3", "level = 3\nzoom = 4"),
        ("level = 3", "level = 3\nmomentum = 4"),
    ] {
        assert!(TEXT.contains(from), "{from}");
        writeln!(
            all,
            "{from:?} -> {to:?}\n{}",
            refused(&TEXT.replace(from, to), &[])
        )
        .unwrap();
    }
    // The text's own fault keeps its line beside an edit of another key.
    let text = TEXT.replace("momentum = 0.9", "momentum = \"high\"");
    writeln!(all, "with --set seed=2\n{}", refused(&text, &["seed=2"])).unwrap();
    insta::assert_snapshot!("files", all);
}
