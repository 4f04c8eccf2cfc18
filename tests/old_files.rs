//! Files that earlier versions left on disk, under `tests/old/VERSION`: each is opened, and unfinished work
//! is continued.

use crate::root;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Modification time of the shards when their indices were made, s after 1970: an index is valid only for
/// that time.
const SHARD_TIME: u64 = 1_700_000_000;
/// Kernels and processors round differently, so continued losses may differ from the old ones: relative to
/// the largest.
const BOUND: f64 = 1e-3;

/// A copy of one version's files, which may be changed.
struct Old {
    version: String,
    folder: tempfile::TempDir,
    expected: Value,
}

/// Copies of the files of every version.
fn versions() -> Vec<Old> {
    let mut found = vec![];
    for entry in std::fs::read_dir(root().join("tests/old")).unwrap() {
        let from = entry.unwrap().path();
        let folder = tempfile::tempdir().unwrap();
        copy(&from, folder.path());
        let expected = std::fs::read(from.join("expected.json")).unwrap();
        found.push(Old {
            version: from.file_name().unwrap().to_string_lossy().into_owned(),
            folder,
            expected: serde_json::from_slice(&expected).unwrap(),
        });
    }
    assert!(!found.is_empty());
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
            if path.extension().is_some_and(|ending| ending == "tar") {
                set_time(&to, SHARD_TIME);
            }
        }
    }
}

fn set_time(path: &Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
}

impl Old {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call of the program in the folder of the copy.
    fn passer(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = crate::passer();
        command.current_dir(self.folder.path()).args(arguments);
        command.assert()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.passer(arguments).success();
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    }

    /// The absolute paths of a curation become those of the copy.
    fn moved(&self, curation: &str) {
        let (before, after) = ("/old-files", self.folder.path().to_str().unwrap());
        for name in ["curate.toml", "out/config.toml"] {
            let path = self.path(curation).join(name);
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace(before, after)).unwrap();
        }
        let ledger = rusqlite::Connection::open(self.path(curation).join("out/ledger.sqlite")).unwrap();
        for (table, column) in [("stages", "settings"), ("facts", "value")] {
            let update = format!("UPDATE {table} SET {column} = replace({column}, ?, ?)");
            ledger.execute(&update, [before, after]).unwrap();
        }
    }
}

/// Checks that the new output contains everything in the old one; later versions may add to it.
fn assert_said(now: &Value, then: &Value, place: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, then) in then {
                let now = now.get(key).unwrap_or_else(|| panic!("{place}: no `{key}`"));
                assert_said(now, then, &format!("{place}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{place}: {now:?}, before {then:?}");
            for (at, (now, then)) in now.iter().zip(then).enumerate() {
                assert_said(now, then, &format!("{place}[{at}]"));
            }
        }
        _ => assert_eq!(now, then, "{place}"),
    }
}

/// Largest difference between two lists of numbers, relative to the largest number.
fn apart(ours: &[f64], old: &[f64]) -> f64 {
    assert_eq!(ours.len(), old.len());
    let largest = old
        .iter()
        .fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let differences = ours.iter().zip(old).map(|(ours, old)| (ours - old).abs());
    differences.fold(0.0, f64::max) / largest
}

/// The 32-bit tensors of a safetensors file by name.
fn tensors(path: &Path) -> Vec<(String, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut found: Vec<_> = file
        .iter()
        .filter(|(_, tensor)| tensor.dtype() == safetensors::Dtype::F32)
        .map(|(name, tensor)| {
            let numbers = tensor.data().chunks_exact(4);
            let number = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
            (name.to_owned(), numbers.map(number).collect())
        })
        .collect();
    found.sort_by(|a: &(String, Vec<f64>), b| a.0.cmp(&b.0));
    assert!(!found.is_empty(), "{}", path.display());
    found
}

fn assert_near(ours: &Path, old: &Path) {
    let (ours, old) = (tensors(ours), tensors(old));
    let names = |tensors: &[(String, Vec<f64>)]| -> Vec<String> {
        tensors.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&ours), names(&old));
    for ((name, ours), (_, old)) in ours.iter().zip(&old) {
        let apart = apart(ours, old);
        assert!(apart < BOUND, "{name}: {apart:e} apart");
    }
}

#[test]
fn shards_open_by_their_old_index() {
    for old in versions() {
        for part in ["train", "test"] {
            let indices = crate::files(&old.path(part), ".idx");
            assert!(!indices.is_empty());
            for index in &indices {
                set_time(index, SHARD_TIME);
            }
            let said = old.json(&["shards", "inspect", "--json", part]);
            assert_said(&said, &old.expected[part], &format!("{}: {part}", old.version));
            for index in indices {
                let changed = std::fs::metadata(&index).unwrap().modified().unwrap();
                let changed = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                assert_eq!(changed, SHARD_TIME, "{} was made anew", index.display());
            }
        }
    }
}

#[test]
fn runs_are_resumed_to_their_end() {
    for old in versions() {
        for run in ["moco", "dino"] {
            let place = format!("{}: {run}", old.version);
            let expected = &old.expected[run];
            let lines = || crate::runs::lines(&old.path(run).join("metrics.jsonl"));
            let before = lines();
            // With the config of the run directory, then with the original config file.
            for config in [format!("{run}/config.toml"), format!("{run}.toml")] {
                old.passer(&[
                    "pretrain", &config, "--device", "flex", "--data", "train", "--out", run, "--resume",
                ])
                .success();
            }
            let after = lines();
            let checkpoint = expected["checkpoint"].as_u64().unwrap() as usize;
            // Everything in the checkpoint stays unchanged; only later lines are recomputed.
            assert_eq!(after[..checkpoint], before[..checkpoint], "{place}");
            let steps: Vec<&Value> = after.iter().map(|line| &line["step"]).collect();
            assert_eq!(
                steps,
                expected["steps"].as_array().unwrap().iter().collect::<Vec<_>>()
            );
            let old_losses = expected["losses"].as_array().unwrap();
            let losses = |lines: Vec<&Value>| -> Vec<f64> {
                lines.into_iter().map(|loss| loss.as_f64().unwrap()).collect()
            };
            let apart = apart(
                &losses(after.iter().map(|line| &line["loss"]).collect()),
                &losses(old_losses.iter().collect()),
            );
            eprintln!("{place}: losses {apart:.1e} apart");
            assert!(apart < BOUND, "{place}: losses {apart:e} apart");
            assert_near(
                &old.path(run).join("encoder.safetensors"),
                &old.path(&format!("{run}-encoder.safetensors")),
            );
        }
    }
}

/// Protocol, metric, settings and value of each result.
fn scores(results: &Value) -> Vec<[Value; 4]> {
    let results = results.as_array().unwrap().iter();
    results
        .map(|result| ["protocol", "metric", "settings", "value"].map(|key| result[key].clone()))
        .collect()
}

#[test]
fn encoders_and_features_have_their_old_scores() {
    for old in versions() {
        let result: Value =
            serde_json::from_slice(&std::fs::read(old.path("scores/result.json")).unwrap()).unwrap();
        let run = |out: &str| {
            let encoder = ["--encoder", "moco-encoder.safetensors", "--device", "flex"];
            let data = [
                "--train",
                "train",
                "--test",
                "test",
                "--no-report",
                "--json",
                "--out",
                out,
            ];
            old.json(&[&["evaluate", "run", "evaluate.toml"][..], &encoder, &data].concat())
        };
        let scores_of = |results: &Value| scores(results);
        assert_eq!(scores_of(&run("again")), scores_of(&result), "{}", old.version);
        for part in ["train", "test"] {
            let name = format!("features-{part}.safetensors");
            assert_near(&old.path("again").join(&name), &old.path("scores").join(&name));
        }
        // In the old folder, whose features belong to this encoder.
        let features = std::fs::read(old.path("scores/features-train.safetensors")).unwrap();
        assert_eq!(scores_of(&run("scores")), scores_of(&result), "{}", old.version);
        assert_eq!(
            std::fs::read(old.path("scores/features-train.safetensors")).unwrap(),
            features,
            "{}: features were extracted again",
            old.version
        );
        let of_features = old.json(&[
            "evaluate",
            "features",
            "evaluate.toml",
            "--train",
            "scores/features-train.safetensors",
            "--test",
            "scores/features-test.safetensors",
            "--json",
            "--out",
            "of-features",
        ]);
        assert_eq!(scores_of(&of_features), scores_of(&result), "{}", old.version);
        // The other encoder is read as its own network.
        let dino = old.json(&["weights", "inspect", "--json", "dino-encoder.safetensors"]);
        assert!(dino.to_string().contains("vit"), "{dino}");
    }
}

#[test]
fn a_curation_continues_takes_down_and_releases() {
    for old in versions() {
        old.moved("curation");
        let (config, out) = ("curation/curate.toml", "curation/out");
        let status = |place: &str| {
            let status = old.json(&["curate", "status", out, "--json"]);
            assert_said(
                &status,
                &old.expected["curation"],
                &format!("{}: {place}", old.version),
            );
        };
        status("as it was");
        old.passer(&["curate", "run", config, "--out", out]).success();
        status("nothing is left to do");
        // People's answers survive when stages are run again.
        old.passer(&["curate", "run", config, "--out", out, "--redo", "integrity"])
            .success();
        let again = old.json(&["curate", "status", out, "--json"]);
        let last = again["stages"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&last["done"], &last["kept"]),
            (&true.into(), &7.into()),
            "{again}"
        );
        old.passer(&["curate", "release", out]).failure();
        for version in ["v1", "v2"] {
            old.passer(&["shards", "verify", &format!("{out}/releases/{version}")])
                .success();
        }
        let report = old.json(&["curate", "takedown", out, "--keys", "p5", "--json"]);
        assert_said(&report["release"], &old.expected["third"], &old.version);
        let versions: Vec<&Value> = report["seen_in"]
            .as_array()
            .unwrap()
            .iter()
            .map(|seen| &seen[0])
            .collect();
        assert_eq!(versions, [&Value::from(1), &Value::from(2)], "{}", old.version);
        old.passer(&["shards", "verify", &format!("{out}/releases/v3")])
            .success();
        let removed = std::fs::read_to_string(old.path(out).join("releases/v3/removed.txt")).unwrap();
        assert_eq!(removed, "p5\n");
        // The audit's sample, without answers.
        let audit = old.json(&["curate", "audit", out, "--json"]);
        assert_eq!(audit["samples"][0]["photos"], 3, "{audit}");
        // Keys that the version lacked, with the meaning that it had, change nothing that was decided; one with
        // another meaning makes another release of the same photos.
        let released = |metadata: &str| {
            let set = format!("release.metadata={metadata}");
            let later = [
                "--set",
                &set,
                "--set",
                "source.folder.embedded_credit=false",
                // The config has the text that was shipped.
                "--set",
                "release.url=https://example.org/photos",
            ];
            old.passer(&[&["curate", "run", config, "--out", out][..], &later].concat())
                .success();
            old.passer(&["curate", "release", out])
        };
        released("strip_private").success();
        released("strip_private").failure();
        released("keep").success();
    }
}

#[test]
fn a_review_that_was_begun_keeps_its_answers() {
    for old in versions() {
        old.moved("curation-begun");
        let (config, out) = ("curation-begun/curate.toml", "curation-begun/out");
        let status = old.json(&["curate", "status", out, "--json"]);
        assert_said(&status, &old.expected["curation-begun"], &old.version);
        old.passer(&["curate", "run", config, "--out", out])
            .code(3)
            .stderr(predicates::str::contains("2 of 9 photos are labeled"));
        old.passer(&["curate", "release", out]).code(1);
    }
}
