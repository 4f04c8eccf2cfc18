//! Folders of Hugging Face Transformers and timm from outside: read, converted, refused with a reason.

use super::{convert, features, fixture, inspect};
use crate::{passer, root};
use predicates::str::contains;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A folder as Transformers or timm saves it, from the fixtures of `scripts/parity/hugging_face.py`.
pub(super) fn library_folder(folder: &Path, name: &str) -> PathBuf {
    let fixtures = root().join("crates/weights/fixtures/features");
    let about = std::fs::read_to_string(fixtures.join(format!("{name}.json"))).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    let mut bytes = vec![];
    let packed = std::fs::File::open(fixtures.join(format!("{name}.safetensors.gz"))).unwrap();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .unwrap();
    let out = folder.join(name);
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("model.safetensors"), bytes).unwrap();
    std::fs::write(out.join("config.json"), about["config"].to_string()).unwrap();
    if about["preprocessor"].is_object() {
        std::fs::write(
            out.join("preprocessor_config.json"),
            about["preprocessor"].to_string(),
        )
        .unwrap();
    }
    out
}

/// The folder's weights in two files with an index.
fn sharded(folder: &Path) {
    let whole = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut map = serde_json::Map::new();
    for (number, shard) in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    .into_iter()
    .enumerate()
    {
        let own = file.tensors().into_iter().enumerate();
        let own = own
            .filter(|(place, _)| place % 2 == number)
            .map(|(_, tensor)| tensor);
        let own = own.collect::<Vec<_>>();
        map.extend(own.iter().map(|(name, _)| (name.clone(), shard.into())));
        std::fs::write(folder.join(shard), safetensors::serialize(own, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_folder_of_transformers_is_read_whole_in_shards_and_in_the_cache() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let folder = library_folder(scratch, "vit");
    let whole = features(scratch, &folder, &[]);
    assert_eq!(features(scratch, &folder.join("model.safetensors"), &[]), whole);
    let listed = inspect(&folder, &[]);
    let network = &listed["network"];
    assert_eq!(
        (&network["layout"], &network["name"]),
        (&"transformers_vit".into(), &"vit-w16-d2-h4-p4".into())
    );
    assert_eq!(
        (
            &network["mean"][0],
            &network["architecture"]["vit"]["norm_epsilon"]
        ),
        (&0.5.into(), &1e-12.into())
    );
    assert_eq!(listed["notes"], serde_json::json!([]));

    // The same network under the usual epsilon gives other features: the file's own counts.
    let out = scratch.join("out.safetensors");
    convert(&folder, &out, &[]).success().stderr(contains(
        "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-12)",
    ));
    assert_eq!(features(scratch, &out, &[]), whole);

    sharded(&folder);
    assert_eq!(features(scratch, &folder, &[]), whole);
    assert_eq!(
        features(scratch, &folder.join("model.safetensors.index.json"), &[]),
        whole
    );
    let refused = |path: &Path, reason: &str| {
        passer()
            .args(["weights", "inspect"])
            .arg(path)
            .assert()
            .code(1)
            .stderr(contains(reason));
    };
    refused(
        &folder.join("model-00001-of-00002.safetensors"),
        "it is one of several files with one network, which `model.safetensors.index.json` lists\n\nhint: give the folder",
    );
    refused(&folder.join("config.json"), "it is JSON\n\nhint: give the folder");

    let cache = scratch.join("models--someone--vit");
    std::fs::create_dir_all(cache.join("snapshots")).unwrap();
    std::fs::rename(&folder, cache.join("snapshots/0123abcd")).unwrap();
    assert_eq!(features(scratch, &cache, &[]), whole);
    std::fs::create_dir_all(cache.join("snapshots/other")).unwrap();
    refused(&cache, "no `model.safetensors`");
    std::fs::create_dir_all(cache.join("refs")).unwrap();
    std::fs::write(cache.join("refs/main"), "0123abcd").unwrap();
    assert_eq!(features(scratch, &cache, &[]), whole);
    // A shard that is not there.
    std::fs::remove_file(cache.join("snapshots/0123abcd/model-00002-of-00002.safetensors")).unwrap();
    refused(&cache, "model-00002-of-00002.safetensors");
}

#[test]
fn a_folder_of_timm_keeps_its_pooling_and_statistics() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let folder = library_folder(scratch, "timm_vit_mean");
    let listed = inspect(&folder, &[]);
    assert_eq!(listed["network"]["mean"], serde_json::json!([0.5, 0.5, 0.5]));
    assert_eq!(
        listed["network"]["architecture"]["vit"]["pooling"],
        "mean_then_norm"
    );
    let out = scratch.join("out.safetensors");
    convert(&folder, &out, &[])
        .success()
        .stderr(contains("global_pool=\"avg\")`"));
    assert_eq!(features(scratch, &out, &[]), features(scratch, &folder, &[]));
    let bytes = std::fs::read(&out).unwrap();
    let names = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(names.tensor("fc_norm.weight").is_ok() && names.tensor("norm.weight").is_err());
    // A network with the same names and shapes, and other features.
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let other = config.replace("vit_tiny_patch16_224", "vit_tiny_patch16_norm_224");
    std::fs::write(folder.join("config.json"), other).unwrap();
    let reason = "timm's `vit_tiny_patch16_norm_224`, which Passer does not know";
    convert(&folder, &scratch.join("other.safetensors"), &[])
        .code(1)
        .stderr(contains(reason));
}

#[test]
fn a_network_that_no_library_makes_is_said_when_it_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture(folder.path(), "small-stem.safetensors");
    convert(&file, &folder.path().join("out.safetensors"), &[])
        .success()
        .stderr(contains(
            "no constructor of torchvision or timm makes resnet18-w2-small",
        ));
}
