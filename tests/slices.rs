//! Features in slices, from outside: killed and repeated, read as one, and what is no whole.

use crate::runs::{photos, run, slow_features};
use crate::{files, passer};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// `passer features` of 32 photos.
fn features(folder: &Path, out: &Path, more: &[&str]) -> Command {
    let encoder = folder.join("moco-v2-legacy.pth.tar");
    slow_features(&encoder, &folder.join("photos"), out, more)
}

fn slice(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("features-0000{number}-of-00004.safetensors"))
}

/// The bytes of a tensor.
fn tensor(file: &Path, name: &str) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

/// The scores of stored features against those of `test`.
fn scores(train: &Path, test: &Path, out: &Path) -> assert_cmd::assert::Assert {
    passer()
        .args([
            "evaluate",
            "features",
            "configs/evaluate/diagnostics.toml",
            "--device",
            "flex",
            "--json",
        ])
        .arg("--train")
        .arg(train)
        .arg("--test")
        .arg(test)
        .arg("--out")
        .arg(out)
        .assert()
}

#[test]
fn slices_of_which_one_is_killed_are_read_as_the_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    photos(folder);
    crate::weights::fixture(folder, "moco-v2-legacy.pth.tar");
    let (whole, slices) = (folder.join("whole.safetensors"), folder.join("slices"));
    run(features(folder, &whole, &[]));

    // Slice 3 is killed with some of its rows on disk.
    let state = slices.join("features-00003-of-00004.safetensors.partial/state.json");
    let rows = || -> Option<u64> {
        let state = std::fs::read(&state).ok()?;
        serde_json::from_slice::<serde_json::Value>(&state).unwrap()["rows"].as_u64()
    };
    let mut child = features(folder, &slices, &["--slice", "3/4"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while rows().is_none() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        child.try_wait().unwrap().is_none(),
        "it ended before it could be killed"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((1..8).contains(&rows().unwrap()));

    // The others run as a scheduler starts them: a Slurm array from 5 to 8, a pod of an indexed job, and one by hand.
    let mut slurm = features(folder, &slices, &["--slice", "auto"]);
    slurm
        .env("SLURM_ARRAY_TASK_ID", "5")
        .env("SLURM_ARRAY_TASK_MIN", "5")
        .env("SLURM_ARRAY_TASK_COUNT", "4");
    run(slurm);
    let mut pod = features(folder, &slices, &["--slice", "auto/4"]);
    pod.env("JOB_COMPLETION_INDEX", "1");
    run(pod);
    run(features(folder, &slices, &["--slice", "4/4"]));

    // Read before it is whole: the missing slice and the command.
    let error = scores(&whole, &slices, &folder.join("early")).code(1);
    let text = String::from_utf8_lossy(&error.get_output().stderr).into_owned();
    assert!(text.contains("slice 3 of 4 is missing"), "{text}");
    let command = format!("--out {} --slice 3/4`", slices.display());
    assert!(
        text.contains("hint: make it") && text.contains(&command),
        "{text}"
    );

    run(features(folder, &slices, &["--slice", "3/4"]));
    assert_eq!(files(&slices, "").len(), 4, "nothing else is left");
    for name in ["pooled", "res4", "keys", "labels"] {
        let joined: Vec<u8> = (1..=4)
            .flat_map(|number| tensor(&slice(&slices, number), name))
            .collect();
        assert_eq!(joined, tensor(&whole, name), "{name}");
    }

    // Wherever features are read: the same scores, and the same refusal of other features' place.
    let outcomes = [&whole, &slices].map(|test| {
        let scores = scores(
            &whole,
            test,
            &folder.join(test.file_stem().unwrap()).with_extension("scores"),
        );
        String::from_utf8_lossy(&scores.success().get_output().stdout).into_owned()
    });
    assert_eq!(outcomes[0], outcomes[1]);
    let again = features(folder, &slices, &["--slice", "2/4"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("slice 2 of 4 is there already"));

    // What is no whole: one slice, all records into the folder, one slice twice.
    for (out, more, words) in [
        (
            &slices,
            &[][..],
            "is a folder, and the features of all records are a file",
        ),
        (
            &whole,
            &["--slice", "1/4"][..],
            "is a file, and slices are written into a folder",
        ),
        (
            &slices,
            &["--slice", "1/3"][..],
            "is of a division into 4 slices, not 3",
        ),
        (
            &slices,
            &["--slice", "1/4", "--dtype", "f16"][..],
            "is of another number type",
        ),
        (&slices, &["--slice", "auto"][..], "JOB_COMPLETION_INDEX"),
    ] {
        let output = features(folder, out, more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(words), "{text}");
        assert!(text.contains("hint: "), "{text}");
    }
    let alone = scores(&whole, &slice(&slices, 2), &folder.join("alone")).code(1);
    let text = String::from_utf8_lossy(&alone.get_output().stderr).into_owned();
    assert!(text.contains("holds slice 2 of 4 alone"), "{text}");
    assert!(
        text.contains(&format!("give the folder of all slices, {}", slices.display())),
        "{text}"
    );
    std::fs::copy(slice(&slices, 2), slices.join("copy.safetensors")).unwrap();
    let twice = scores(&whole, &slices, &folder.join("twice")).code(1);
    let text = String::from_utf8_lossy(&twice.get_output().stderr).into_owned();
    assert!(
        text.contains("slice 2 of 4 is there twice, as `copy.safetensors`"),
        "{text}"
    );
}
