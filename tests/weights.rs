//! Weights of other programs from outside: listed, converted, evaluated; errors with a reason.

use crate::runs::{other_photos, photos};
use crate::{passer, root};
use predicates::prelude::*;
use predicates::str::contains;
use std::io::Read;
use std::path::{Path, PathBuf};

mod exports;
mod library_folders;

/// A file that PyTorch wrote, from the fixtures of the crate `weights`.
pub(crate) fn fixture(folder: &Path, name: &str) -> PathBuf {
    let packed = root()
        .join("crates/weights/fixtures/layouts")
        .join(format!("{name}.gz"));
    let mut bytes = vec![];
    flate2::read::GzDecoder::new(std::fs::File::open(packed).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn inspect(file: &Path, more: &[&str]) -> serde_json::Value {
    let assert = passer()
        .args(["weights", "inspect", "--json"])
        .arg(file)
        .args(more)
        .assert();
    let listed: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    // A file that cannot be loaded is still listed.
    assert.code(if listed["refusal"].is_null() { 0 } else { 1 });
    listed
}

/// The features file written by `passer features`.
fn features(folder: &Path, encoder: &Path, more: &[&str]) -> Vec<f32> {
    let out = folder.join("features.safetensors");
    // Another encoder's features are not overwritten.
    let _ = std::fs::remove_file(&out);
    let mut command = passer();
    command
        .args(["features", "--device", "flex", "--size-px", "32", "--encoder"])
        .arg(encoder);
    command
        .arg("--data")
        .arg(photos(folder))
        .arg("--out")
        .arg(&out)
        .args(more)
        .assert()
        .success();
    let bytes = std::fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let pooled = file.tensor("pooled").unwrap();
    pooled
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

#[test]
fn a_checkpoint_is_listed_with_what_would_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture(folder.path(), "moco-v2-legacy.pth.tar");
    let listed = inspect(&file, &["--tensors"]);
    assert_eq!(
        (&listed["format"], &listed["tensors"]),
        (&"legacy".into(), &251.into())
    );
    assert_eq!(listed["all"].as_array().unwrap().len(), 251);
    assert!(listed["refusal"].is_null());
    let network = &listed["network"];
    assert_eq!(
        (&network["layout"], &network["part"]),
        (&"moco".into(), &"student".into())
    );
    assert_eq!(
        (&network["name"], &network["at"]),
        (&"resnet18-w2".into(), &"state_dict".into())
    );
    // `sum(p.numel() for p in model.parameters())` of PyTorch, without its head.
    assert_eq!(network["parameters"], 11_490);
    assert!(
        network["dropped"]
            .as_array()
            .unwrap()
            .contains(&"queue_ptr".into())
    );
    let arch = listed["contents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["key"] == "arch");
    assert_eq!(arch.unwrap()["content"], "resnet18");
    assert_eq!(
        inspect(&file, &["--part", "teacher"])["network"]["part"],
        "teacher"
    );
    passer()
        .args(["weights", "inspect"])
        .arg(&file)
        .assert()
        .success()
        .stdout(
            contains("layout    moco, the student (--part student|teacher)")
                .and(contains(
                    "not loaded: encoder_k.* (124), encoder_q.fc.* (4), queue, queue_ptr",
                ))
                .and(contains("loads     yes")),
        );
}

#[test]
fn what_would_not_load_is_listed_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture(folder.path(), "pass-dino.pth.tar");
    let listed = inspect(&file, &[]);
    assert!(listed["network"].is_null());
    assert!(
        listed["hint"]
            .as_str()
            .unwrap()
            .contains("--backbone vit-w32-d2-hHEADS-p4")
    );
    assert!(listed["all"].as_array().unwrap().is_empty());
    let named = inspect(&file, &["--backbone", "vit-w32-d2-h2-p4"]);
    assert_eq!(named["network"]["part"], "teacher");
    // A network that Passer does not support.
    let other = folder.path().join("other.safetensors");
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let bytes = safetensors::serialize([("features.0\u{1b}[31m.weight", view)], None).unwrap();
    std::fs::write(&other, bytes).unwrap();
    passer()
        .args(["weights", "inspect", "--tensors"])
        .arg(&other)
        .assert()
        .code(1)
        .stdout(
            contains("network   none")
                .and(contains("no known layout matches"))
                .and(contains("features.0\\u{1b}[31m.weight"))
                .and(contains("\u{1b}").not()),
        );
}

#[test]
fn foreign_weights_give_features_and_scores_as_converted_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = fixture(folder, "moco-v1.pth.tar");
    let student = features(folder, &file, &[]);
    let teacher = features(folder, &file, &["--part", "teacher"]);
    assert_ne!(student, teacher);
    for library in ["torchvision", "timm"] {
        let name = format!("{library}.safetensors");
        let out = folder.join(&name);
        let mut convert = passer();
        convert
            .args(["weights", "convert"])
            .arg(&file)
            .arg(&out)
            .args(["--to", library, "--part", "teacher"]);
        convert.assert().success().stdout(contains(name));
        assert_eq!(features(folder, &out, &[]), teacher);
        let listed = inspect(&out, &[]);
        assert_eq!(listed["network"]["method"], "moco");
    }
    let vit = fixture(folder, "torchvision-vit.pth");
    let named = ["--backbone", "vit-w32-d2-h2-p4"];
    let out = folder.join("vit.safetensors");
    let mut convert = passer();
    convert
        .args(["weights", "convert"])
        .arg(&vit)
        .arg(&out)
        .args(["--to", "torchvision"])
        .args(named);
    convert.assert().success();
    assert_eq!(features(folder, &out, &[]), features(folder, &vit, &named));
    // Other channel statistics give other features.
    let statistics = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"];
    assert_ne!(features(folder, &out, &statistics), features(folder, &out, &[]));

    let scores = folder.join("scores");
    let mut evaluate = passer();
    evaluate.args([
        "evaluate",
        "run",
        "configs/evaluate/quickstart.toml",
        "--device",
        "flex",
        "--json",
    ]);
    evaluate
        .arg("--encoder")
        .arg(&file)
        .arg("--train")
        .arg(photos(folder))
        .arg("--test")
        .arg(other_photos(folder));
    evaluate
        .arg("--out")
        .arg(&scores)
        .assert()
        .success()
        .stdout(contains("resnet18-w2 moco"));
}

#[test]
fn weights_that_do_not_fit_and_hostile_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = |arguments: &[&str], file: &Path| {
        let mut command = passer();
        command
            .args(["weights", "convert"])
            .arg(file)
            .arg(folder.join("out.safetensors"));
        let assert = command.args(["--to", "timm"]).args(arguments).assert().code(1);
        assert!(!folder.join("out.safetensors").exists());
        String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
    };
    let swav = fixture(folder, "swav-nested.pth.tar");
    let error = refused(&["--backbone", "resnet34-w2"], &swav);
    assert!(
        error.contains("missing: layer1.2.bn1.bias") && error.contains("more"),
        "{error}"
    );
    assert!(
        refused(&["--part", "teacher"], &swav).contains("holds one network, neither student nor teacher")
    );
    assert!(refused(&["--backbone", "resnet51"], &swav).contains("no such network"));
    assert!(refused(&["--std", "0,1,1"], &swav).contains("`--std` must be above 0"));

    assert!(
        refused(&["--allow-unexpected", "*", "--allow-missing", "*"], folder)
            .contains("holds no `encoder.safetensors`")
    );
    // PyTorch would not read a safetensors file of this name.
    passer()
        .args(["weights", "convert"])
        .arg(&swav)
        .arg(folder.join("out.pth"))
        .args(["--to", "timm"])
        .assert()
        .code(1)
        .stderr(contains("must end in `.safetensors`").and(contains("out.safetensors")));
    // An endless file.
    if cfg!(unix) {
        assert!(refused(&[], Path::new("/dev/zero")).contains("neither a file nor a folder"));
    }

    // A legacy pickle that would run a program.
    let marker = folder.join("was-run");
    let command = format!("touch {}", marker.display());
    let evil = folder.join("evil.pth");
    let call = [
        b"\x80\x02cposix\nsystem\n(X",
        &(command.len() as u32).to_le_bytes()[..],
        command.as_bytes(),
        b"tR.",
    ];
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    std::fs::write(&evil, [&magic[..], &call.concat()].concat()).unwrap();
    let error = refused(&[], &evil);
    assert!(
        error.contains("its pickle asks for `posix.system`") && error.contains("\nhint: "),
        "{error}"
    );
    let mut inspect = passer();
    inspect
        .args(["weights", "inspect"])
        .arg(&evil)
        .assert()
        .code(1)
        .stderr(contains("posix.system"));
    assert!(!marker.exists());
}

#[test]
fn what_an_encoder_lacks_is_said_wherever_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = fixture(folder, "torchvision-resnet.pth");
    // The last batch norm's bias is missing under its name, because it is renamed.
    let (old, new) = (&b"layer4.1.bn2.bias"[..], &b"layer4.1.bn2.bios"[..]);
    let places = |bytes: &[u8]| bytes.windows(old.len()).position(|part| part == old);
    let own = folder.join("whole.safetensors");
    convert(&file, &own, &[]).success();
    let mut bytes = std::fs::read(&own).unwrap();
    while let Some(at) = places(&bytes) {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
    let renamed = folder.join("renamed.safetensors");
    std::fs::write(&renamed, bytes).unwrap();

    let allowed = [
        "--allow-missing",
        "layer4.1.bn2.bias",
        "--allow-unexpected",
        "layer4.1.bn2.bios",
    ];
    let said = "1 parameter keeps its initial values: layer4.1.bn2.bias";
    let left = "1 tensor of the file is left out: layer4.1.bn2.bios";
    // A missing folder is created.
    let out = folder.join("new/folder/out.safetensors");
    convert(&renamed, &out, &allowed)
        .success()
        .stderr(contains(said).and(contains(left)));
    passer()
        .args(["weights", "inspect"])
        .arg(&out)
        .assert()
        .success()
        .stdout(contains(said).and(contains(left)).and(contains("loads     yes")));
    let mut features = passer();
    features
        .args(["features", "--device", "flex", "--size-px", "32", "--encoder"])
        .arg(&out);
    features.arg("--data").arg(photos(folder)).arg("--out");
    features
        .arg(folder.join("features.safetensors"))
        .assert()
        .success()
        .stderr(contains(said).and(contains(left)));
}

fn convert(file: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = passer();
    command
        .args(["weights", "convert", "--to", "timm"])
        .arg(file)
        .arg(out);
    command.args(more).assert()
}

#[test]
fn heads_that_a_library_would_not_guess_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The width of ViT-S, with one block; the weights do not show the heads.
    let network = backbones::BackboneConfig::Vit(backbones::VitConfig {
        width: 384,
        depth: 1,
        heads: 12,
        patch_px: 16,
        image_px: 32,
        position: backbones::vit::Position::Learned,
        interpolation: backbones::vit::Interpolation::Antialiased,
        registers: 0,
        layer_scale: None,
        drop_path: 0.0,
        pooling: backbones::vit::Pooling::ClassToken,
        initialization: backbones::vit::Initialization::TruncatedNormal,
        norm_epsilon: None,
    });
    let device = burn::tensor::Device::flex();
    let backbone = network.init(&backbones::Init::new(0, &device));
    let info = weights::EncoderInfo {
        architecture: network,
        method: "moco_v3".to_owned(),
        fingerprint: String::new(),
        licenses: Default::default(),
        pixels: 32,
        mean: [0.5; 3],
        std: [0.5; 3],
        steps: 0,
        extra: Default::default(),
    };
    let file = folder.join("moco-v3.safetensors");
    std::fs::write(&file, weights::encoder_to_safetensors(&backbone, &info)).unwrap();
    convert(&file, &folder.join("out.safetensors"), &[])
        .success()
        .stderr(contains(
            "make it with `timm.models.VisionTransformer(img_size=32, patch_size=16, embed_dim=384, depth=1, num_heads=12, \
             num_classes=0)`",
        ));
}

#[test]
fn statistics_of_a_scale_to_255_are_refused() {
    let mut command = passer();
    command.args(["weights", "inspect", "x.pth", "--mean", "123.675,116.28,103.53"]);
    command.assert().code(2).stderr(contains(
        "got numbers above 1; divide those of a scale to 255 by 255",
    ));
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture(folder.path(), "torchvision-resnet.pth");
    let out = folder.path().join("out.safetensors");
    std::fs::write(&out, "mine").unwrap();
    passer()
        .args(["weights", "convert", "--to", "timm"])
        .arg(&file)
        .arg(&out)
        .assert()
        .code(1)
        .stderr(contains("out.safetensors` exists").and(contains("hint: give another name, or remove")));
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = fixture(folder, "simsiam.pth.tar");
    let own = folder.join("own.safetensors");
    let mut convert = passer();
    convert
        .args(["weights", "convert", "--to", "timm"])
        .arg(&file)
        .arg(&own);
    convert.assert().success();
    // The same with another method name of equal length.
    let mut bytes = std::fs::read(&own).unwrap();
    let (old, evil) = (br#"\"method\":\"simsiam\""#, br#"\"method\":\"\\u001b\""#);
    let at = bytes.windows(old.len()).position(|part| part == old).unwrap();
    bytes[at..at + old.len()].copy_from_slice(evil);
    std::fs::write(&own, bytes).unwrap();
    let mut evaluate = passer();
    evaluate.args(["evaluate", "run", "configs/evaluate/quickstart.toml"]);
    evaluate.args(["--device", "flex", "--encoder"]).arg(&own);
    evaluate.arg("--train").arg(photos(folder));
    evaluate.arg("--test").arg(other_photos(folder));
    evaluate.arg("--out").arg(folder.join("scores"));
    let output = evaluate.assert().success().get_output().clone();
    let shown = [output.stdout, output.stderr].concat();
    assert!(!shown.contains(&0x1b), "{}", String::from_utf8_lossy(&shown));
    for name in ["result.json", "report.html"] {
        let text = std::fs::read_to_string(folder.join("scores").join(name)).unwrap();
        assert!(
            !text.contains('\u{1b}') && text.contains("resnet18-w2 "),
            "{name}"
        );
    }
}

#[test]
fn a_listing_may_be_cut_short_by_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture(folder.path(), "moco-v1.pth.tar");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_passer"))
        .args(["weights", "inspect", "--tensors"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_docs_have_every_layout() {
    let docs = std::fs::read_to_string(root().join("docs/weights.md")).unwrap();
    for layout in weights::layouts::LAYOUTS {
        assert!(
            docs.contains(&format!("| `{}` |", layout.name)),
            "docs/weights.md lacks `{}`",
            layout.name
        );
    }
}

#[test]
fn licenses_and_fingerprint_of_the_data_reach_the_encoder_file() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("shards"), folder.path().join("run"));
    let pictures = data::Dataset::synthetic(64, 20, 20, 0, 1);
    let records = (0..64).map(|position| {
        let mut record = pictures.read(position).unwrap();
        record.metadata.license = (position % 4 > 0).then(|| "CC BY 2.0".to_owned());
        record
    });
    let dataset = data::Dataset::from_records(records.collect(), vec![]);
    let options = data::shards::PackOptions {
        records_per_shard: 24,
        prefix: "train".into(),
        subfolder: None,
        limit: None,
        shuffle_seed: None,
    };
    data::shards::pack_dataset(&dataset, &shards, &options, &|_, _| {}).unwrap();
    let mut command = passer();
    command
        .args([
            "pretrain",
            "configs/pretrain/moco-v2-resnet18-cifar10.toml",
            "--device",
            "flex",
            "--data",
        ])
        .arg(&shards)
        .arg("--out")
        .arg(&run);
    for set in [
        "data.batch_images=16",
        "training.batch_norm_images=8",
        "training.epochs=1",
        "backbone.resnet.width=4",
        "objective.moco.queue_images=64",
        "views.0.transforms.0.random_resized_crop.size_px=16",
    ] {
        command.args(["--set", set]);
    }
    command.assert().success();

    let said = "CC BY 2.0: 48; not stated: 16";
    let converted = folder.path().join("timm.safetensors");
    convert(&run, &converted, &[]).success();
    for file in [&run, &converted] {
        let network = &inspect(file, &[])["network"];
        assert_eq!(network["licences"], said);
        assert_eq!(network["fingerprint"], dataset.fingerprint());
        passer()
            .args(["weights", "inspect"])
            .arg(file)
            .assert()
            .success()
            .stdout(contains(said).and(contains(dataset.fingerprint())));
    }
}
