//! Pretraining that starts from an encoder: weights, origin, frozen backbone, all parts, resume, and errors.

use crate::root;
use crate::runs::{photos, run, tensors};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// `passer pretrain` of a shipped config, shrunken.
fn pretrain(config: &str, data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .arg("pretrain")
        .arg(config)
        .args(["--device", "flex"])
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out);
    for set in [
        "data.batch_images=16",
        "training.epochs=2",
        "training.checkpoint_every_epochs=1",
        "training.keep_checkpoints=9",
        "data.workers=0",
    ] {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

const MAE: &str = "configs/pretrain/mae-vit-cifar10.toml";
const SMALL_VIT: [&str; 8] = [
    "--set",
    "backbone.vit.width=16",
    "--set",
    "backbone.vit.depth=2",
    "--set",
    "objective.mae.decoder_width=16",
    "--set",
    "objective.mae.decoder_depth=1",
];
const MOCO: &str = "configs/pretrain/moco-v2-resnet18-cifar10.toml";
const SMALL_RESNET: [&str; 6] = [
    "--set",
    "backbone.resnet.width=4",
    "--set",
    "training.batch_norm_images=8",
    "--set",
    "objective.moco.queue_images=32",
];
/// So small that no weight changes by it.
const AT_REST: [&str; 2] = ["--set", "optimizer.adamw.learning_rate_per_256=1e-30"];

fn encoder(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path.join("encoder.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, view)| (name, view.data().to_vec())).collect()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What `passer weights inspect --json` says of the network.
fn inspected(path: &Path) -> serde_json::Value {
    let mut command = crate::passer();
    command.args(["weights", "inspect", "--json"]).arg(path);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    all["network"].clone()
}

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A config with `[start]`, in the folder.
fn config_with(folder: &Path, config: &str, start: &str) -> String {
    let text = std::fs::read_to_string(root().join(config)).unwrap();
    let path = folder.join("config.toml");
    std::fs::write(&path, format!("{text}\n[start]\n{start}\n")).unwrap();
    path.display().to_string()
}

fn sha256(path: &Path) -> String {
    data::sha256_of(&mut std::fs::File::open(path).unwrap())
        .unwrap()
        .hex()
}

#[test]
fn a_run_that_starts_from_an_encoder_has_its_weights_and_notes_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MAE, &data, &at("first"), &SMALL_VIT));

    let first = at("first").display().to_string();
    let more = [&SMALL_VIT[..], &AT_REST, &["--start", &first]].concat();
    run(pretrain(MAE, &data, &at("second"), &more));
    let mut expected = encoder(&at("first"));
    let mut started = encoder(&at("second"));
    // Steps of its own run.
    for tensors in [&mut expected, &mut started] {
        tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    }
    assert!(!expected.is_empty() && started == expected);

    let origin = json(&at("second/run.json"))["start"]["origin"].clone();
    assert_eq!(origin["sha256"], sha256(&at("first/encoder.safetensors")));
    assert_eq!(origin["method"], "mae");
    assert_eq!(origin["fingerprint"], json(&at("first/run.json"))["fingerprint"]);
    assert_eq!(origin["saw_people"], "unknown");
    assert_eq!(inspected(&at("second"))["origin"], origin);
    assert_eq!(inspected(&at("first"))["origin"], serde_json::Value::Null);

    // A third run knows of the first, and that the second saw people stays known.
    let start = format!("encoder = {:?}\nsaw_people = \"yes\"", at("second"));
    let config = config_with(folder.path(), MAE, &start);
    run(pretrain(&config, &data, &at("third"), &SMALL_VIT));
    let second = at("third/run.json");
    let origin = &json(&second)["start"]["origin"];
    assert_eq!(origin["saw_people"], "yes");
    assert_eq!(
        origin["origin"]["sha256"],
        sha256(&at("first/encoder.safetensors"))
    );
    let third = at("third").display().to_string();
    let more = [&SMALL_VIT[..], &["--start", &third]].concat();
    run(pretrain(MAE, &data, &at("fourth"), &more));
    assert_eq!(
        json(&at("fourth/run.json"))["start"]["origin"]["saw_people"],
        "yes"
    );
    let start = format!("encoder = {:?}\nsaw_people = \"no\"", at("third"));
    let config = config_with(folder.path(), MAE, &start);
    let error = refusal(pretrain(&config, &data, &at("fifth"), &SMALL_VIT));
    assert!(error.contains("`start.saw_people` must be \"yes\""), "{error}");
}

#[test]
fn a_started_run_resumes_without_its_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MAE, &data, &at("first"), &SMALL_VIT));
    let first = at("first").display().to_string();
    let more = [&SMALL_VIT[..], &["--start", &first]].concat();
    run(pretrain(MAE, &data, &at("whole"), &more));
    run(pretrain(MAE, &data, &at("cut"), &more));
    // As if killed after its first epoch.
    let checkpoints = training::list_checkpoints(&at("cut")).unwrap();
    std::fs::remove_dir_all(&checkpoints[1].path).unwrap();
    std::fs::remove_file(at("cut/encoder.safetensors")).unwrap();
    std::fs::rename(at("first"), at("away")).unwrap();
    run(pretrain(
        MAE,
        &data,
        &at("cut"),
        &[&more[..], &["--resume"]].concat(),
    ));
    assert!(tensors(&at("cut")) == tensors(&at("whole")));
    let bytes = |run: &str| std::fs::read(at(run).join("encoder.safetensors")).unwrap();
    assert!(bytes("cut") == bytes("whole"));
    let error = refusal(pretrain(MAE, &data, &at("new"), &more));
    assert!(
        error.contains("first") && error.contains("cannot read"),
        "{error}"
    );
}

#[test]
fn a_frozen_backbone_rests_while_the_head_learns() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MOCO, &data, &at("first"), &SMALL_RESNET));
    let start = format!("encoder = {:?}\nfreeze_backbone_epochs = 1", at("first"));
    let config = config_with(folder.path(), MOCO, &start);
    run(pretrain(&config, &data, &at("second"), &SMALL_RESNET));
    let checkpoints = training::list_checkpoints(&at("second")).unwrap();
    let weights = |encoder: BTreeMap<String, Vec<u8>>| {
        let is_weight = |name: &String| !name.contains("running_") && !name.contains("num_batches");
        encoder
            .into_iter()
            .filter(|(name, _)| is_weight(name))
            .collect::<BTreeMap<_, _>>()
    };
    let source = weights(encoder(&at("first")));
    assert!(weights(encoder(&checkpoints[0].path)) == source);
    assert!(weights(encoder(&checkpoints[1].path)) != source);
    let error = refusal(pretrain(
        &config,
        &data,
        &at("third"),
        &[&SMALL_RESNET[..], &["--set", "start.freeze_backbone_epochs=2"]].concat(),
    ));
    assert!(
        error.contains("`start.freeze_backbone_epochs` must be less than the run's 2 epochs"),
        "{error}"
    );
}

#[test]
fn all_parts_of_a_run_go_into_a_second_stage() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MOCO, &data, &at("first"), &SMALL_RESNET));
    let start = format!("encoder = {:?}\nall_parts = true", at("first"));
    let config = config_with(folder.path(), MOCO, &start);
    let rest = ["--set", "optimizer.sgd.learning_rate_per_256=1e-30"];
    let started = |out: &str, more: &[&str]| {
        run(pretrain(
            &config,
            &data,
            &at(out),
            &[&SMALL_RESNET[..], &rest, more].concat(),
        ));
        let mut all = tensors(&at(out));
        all.retain(|name, _| !name.contains("running_"));
        (all, json(&at(out).join("run.json"))["start"]["drawn"].clone())
    };
    let before = tensors(&at("first"));
    let (after, drawn) = started("second", &[]);
    assert_eq!(drawn, serde_json::json!([]));
    let differing = |after: &BTreeMap<String, Vec<u8>>| {
        let other = |(name, bytes): (&String, &Vec<u8>)| (before[name] != *bytes).then(|| name.clone());
        after.iter().filter_map(other).collect::<Vec<String>>()
    };
    // New keys enter the queue. The teacher moves towards a student that rests, as in a run that never stopped.
    let changed = differing(&after);
    assert!(
        changed
            .iter()
            .all(|name| name == "state.bpk:queue" || name.starts_with("state.bpk:teacher.")),
        "{changed:?}"
    );
    // A wider embedding: the head's last layer and the queue are drawn, and the run says so.
    let (after, drawn) = started("wider", &["--set", "objective.moco.embedding_width=64"]);
    assert_eq!(
        drawn,
        serde_json::json!([
            "encoder.head.1.weight",
            "encoder.head.1.bias",
            "teacher.head.1.weight",
            "teacher.head.1.bias",
            "queue"
        ])
    );
    let changed = differing(&after);
    assert!(
        changed
            .iter()
            .all(|name| name.contains("head.1") || name.starts_with("state.bpk:"))
    );

    let file = format!(
        "encoder = {:?}\nall_parts = true",
        at("first/encoder.safetensors")
    );
    let config = config_with(folder.path(), MOCO, &file);
    let error = refusal(pretrain(&config, &data, &at("third"), &SMALL_RESNET));
    assert!(error.contains("a file holds the encoder alone"), "{error}");
}

/// A file with MoCo's names, as its authors' program saves them: heads of both networks, and the queue with its keys as columns.
#[test]
fn heads_and_queue_of_a_released_checkpoint_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MOCO, &data, &at("first"), &SMALL_RESNET));
    let bytes = std::fs::read(at("first/encoder.safetensors")).unwrap();
    let encoder = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // None is 0, which the smallest step would change.
    let wave = |count: usize, step: f32| -> Vec<u8> {
        let values = (0..count).map(|index| (index as f32 * step + 0.1).sin());
        values.flat_map(f32::to_le_bytes).collect()
    };
    let mut tensors: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = vec![];
    for (network, step) in [("encoder_q", 0.3), ("encoder_k", 0.7)] {
        for (name, view) in encoder.tensors() {
            tensors.push((
                format!("module.{network}.{name}"),
                view.dtype(),
                view.shape().to_vec(),
                view.data().to_vec(),
            ));
        }
        for (name, shape) in [
            ("fc.0.weight", vec![32, 32]),
            ("fc.0.bias", vec![32]),
            ("fc.2.weight", vec![128, 32]),
            ("fc.2.bias", vec![128]),
        ] {
            let values = wave(shape.iter().product(), step);
            tensors.push((
                format!("module.{network}.{name}"),
                safetensors::Dtype::F32,
                shape,
                values,
            ));
        }
    }
    let queue = wave(128 * 32, 0.11);
    tensors.push((
        "module.queue".into(),
        safetensors::Dtype::F32,
        vec![128, 32],
        queue,
    ));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let file = at("released.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();

    let start = format!("encoder = {file:?}\npart = 'student'\nall_parts = true");
    let config = config_with(folder.path(), MOCO, &start);
    let rest = ["--set", "optimizer.sgd.learning_rate_per_256=1e-30"];
    run(pretrain(
        &config,
        &data,
        &at("second"),
        &[&SMALL_RESNET[..], &rest].concat(),
    ));
    let facts = json(&at("second/run.json"))["start"].clone();
    assert_eq!(facts["drawn"], serde_json::json!([]), "{facts}");
    let taken: Vec<&str> = facts["taken"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap())
        .collect();
    assert_eq!(taken.len(), 9, "{taken:?}");
    assert!(
        taken.contains(&"queue") && taken.contains(&"teacher.head.1.bias"),
        "{taken:?}"
    );
    let trained = crate::runs::tensors(&at("second"));
    let of = |name: &str| {
        tensors
            .iter()
            .find(|(known, ..)| known == name)
            .unwrap()
            .3
            .clone()
    };
    assert_eq!(
        trained["student.bpk:encoder.head.0.weight"],
        of("module.encoder_q.fc.0.weight")
    );
    assert_eq!(
        trained["student.bpk:encoder.head.1.bias"],
        of("module.encoder_q.fc.2.bias")
    );
    // The features of step 0 are the file's: no weight of the backbone has changed.
    let started = self::encoder(&at("second"));
    for (name, bytes) in self::encoder(&at("first")) {
        if !name.contains("running_") && !name.contains("num_batches") {
            assert_eq!(started[&name], bytes, "{name}");
        }
    }
    // Another width of the embedding: what does not fit is drawn, and named.
    let wider = ["--set", "objective.moco.embedding_width=64"];
    run(pretrain(
        &config,
        &data,
        &at("third"),
        &[&SMALL_RESNET[..], &wider].concat(),
    ));
    let facts = json(&at("third/run.json"))["start"].clone();
    assert_eq!(facts["taken"].as_array().unwrap().len(), 4, "{facts}");
    assert!(facts["drawn"].to_string().contains("queue"), "{facts}");
}

#[test]
fn a_vit_starts_with_patches_of_another_size() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MAE, &data, &at("first"), &SMALL_VIT));
    let first = at("first").display().to_string();
    let larger = ["--start", &first, "--set", "backbone.vit.patch_px=8"];
    run(pretrain(
        MAE,
        &data,
        &at("second"),
        &[&SMALL_VIT[..], &larger].concat(),
    ));
    let facts = json(&at("second/run.json"))["start"].clone();
    assert_eq!(
        facts["adapted"],
        serde_json::json!(["the patch embedding is resampled from 4 to 8 px"]),
        "MAE's positions are fixed: {facts}"
    );
}

#[test]
fn an_encoder_that_does_not_fit_is_refused_with_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MAE, &data, &at("first"), &SMALL_VIT));
    let first = at("first").display().to_string();
    let start = ["--start", &first];
    let other = ["--set", "backbone.vit.heads=8"];
    let error = refusal(pretrain(
        MAE,
        &data,
        &at("second"),
        &[&SMALL_VIT[..], &start, &other].concat(),
    ));
    assert!(
        error.contains("`backbone.vit.heads` must be 4, as in the encoder, got 8"),
        "{error}"
    );
    let error = refusal(pretrain(
        MOCO,
        &data,
        &at("third"),
        &[&SMALL_RESNET[..], &start].concat(),
    ));
    assert!(
        error.contains("`backbone` must be a `vit`, as in the encoder, got a `resnet`"),
        "{error}"
    );
    // Of another image size: positions are interpolated.
    let larger = [
        "--set",
        "backbone.vit.image_px=48",
        "--set",
        "views.0.transforms.0.random_resized_crop.size_px=48",
    ];
    run(pretrain(
        MAE,
        &data,
        &at("fourth"),
        &[&SMALL_VIT[..], &start, &larger].concat(),
    ));
    // An unfinished start leaves nothing that `--resume` would continue.
    let missing = ["--start", "missing.safetensors"];
    let error = refusal(pretrain(
        MAE,
        &data,
        &at("fifth"),
        &[&SMALL_VIT[..], &missing].concat(),
    ));
    assert!(error.contains("missing.safetensors"), "{error}");
    let again = [&SMALL_VIT[..], &start].concat();
    run(pretrain(MAE, &data, &at("fifth"), &again));
}

#[test]
fn flags_alone_start_a_run_and_an_unfinished_source_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let at = |name: &str| folder.path().join(name);
    run(pretrain(MAE, &data, &at("first"), &SMALL_VIT));
    // As if it were interrupted after its first epoch of 2 steps.
    let checkpoints = training::list_checkpoints(&at("first")).unwrap();
    std::fs::remove_dir_all(&checkpoints[1].path).unwrap();
    std::fs::remove_file(at("first/encoder.safetensors")).unwrap();
    let hash = sha256(&checkpoints[0].path.join("encoder.safetensors"));
    for (out, source) in [("second", at("first")), ("third", at("first/checkpoints"))] {
        let source = source.display().to_string();
        let keys = [
            "--set",
            "start.saw_people=yes",
            "--set",
            "start.freeze_backbone_epochs=1",
        ];
        let more = [&SMALL_VIT[..], &["--start", &source], &keys].concat();
        let output = pretrain(MAE, &data, &at(out), &more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains("the run is not finished: this is its checkpoint of step 2 of 4"),
            "{text}"
        );
        let origin = &json(&at(out).join("run.json"))["start"]["origin"];
        assert_eq!(
            (&origin["sha256"], &origin["saw_people"]),
            (&hash.clone().into(), &"yes".into())
        );
        let config: toml::Table = std::fs::read_to_string(at(out).join("config.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(config["start"]["freeze_backbone_epochs"].as_integer(), Some(1));
    }
    let mut export = crate::passer();
    export.args(["weights", "export", "--to", "onnx", "--out"]);
    let output = export.arg(at("exported")).arg(at("first")).output().unwrap();
    assert!(output.status.success());
    let card = std::fs::read_to_string(at("exported/README.md")).unwrap();
    assert!(
        card.contains("| state | the run is not finished: this is its checkpoint of step 2 of 4 |"),
        "{card}"
    );
    // The hint names keys of the config.
    let other = folder.path().join("other.safetensors");
    std::fs::write(&other, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let other = other.display().to_string();
    let error = refusal(pretrain(
        MAE,
        &data,
        &at("fourth"),
        &[&SMALL_VIT[..], &["--start", &other]].concat(),
    ));
    assert!(
        error.contains("error: `start.encoder`: encoder `") && !error.contains("--backbone"),
        "{error}"
    );
}

#[test]
fn a_mistyped_run_to_resume_is_told_and_starts() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let more = &SMALL_VIT[..];
    run(pretrain(MAE, &photos, &folder.path().join("mine"), more));
    let more = [more, &["--resume"]].concat();
    let output = pretrain(MAE, &photos, &folder.path().join("mien"), &more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("there is no run to resume in `"), "{said}");
    assert!(
        said.contains("a new one starts there at step 0; runs with checkpoints beside it: `mine`"),
        "{said}"
    );
}
