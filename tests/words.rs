//! Messages that name what was typed, and cures that work as typed.

use crate::passer;
use crate::runs::photos;
use std::path::Path;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// stderr of a call that must end with this status.
fn refused(arguments: &[&str], status: i32) -> String {
    let assert = passer().args(arguments).assert().code(status);
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn a_flag_is_named_as_it_is_typed() {
    let home = tempfile::tempdir().unwrap();
    let photos = photos(home.path());
    let out = home.path().join("shards");
    let pack = ["shards", "pack", path(&photos), "--out", path(&out)];
    let error = refused(&[&pack[..], &["--records-per-shard", "0"]].concat(), 1);
    assert!(
        error.contains("error: `--records-per-shard` must be at least 1, got 0"),
        "{error}"
    );
    passer().args(pack).assert().success();
    let error = refused(&pack, 1);
    assert!(
        error.contains("error: `--out` must be a folder without shards")
            && error.contains("hint: give a new folder as `--out`"),
        "{error}"
    );
    let features = [
        "features",
        "--encoder",
        "x",
        "--data",
        "x",
        "--out",
        "x",
        "--device",
        "flex",
    ];
    for (flag, value, sentence) in [
        (
            "--batch-images",
            "0",
            "`--batch-images` must be at least 1, got 0",
        ),
        ("--size-px", "0", "`--size-px` must be at least 1, got 0"),
        (
            "--max-bad-fraction",
            "50",
            "`--max-bad-fraction` must be from 0 to 1, got 50",
        ),
    ] {
        let error = refused(&[&features[..], &[flag, value]].concat(), 1);
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn no_file_is_written_among_the_data() {
    let home = tempfile::tempdir().unwrap();
    let photos = photos(home.path());
    let before = std::fs::read_dir(&photos).unwrap().count();
    let [data, same] = [path(&photos).to_owned(), format!("{}/./", path(&photos))];
    for arguments in [
        vec!["shards", "pack", &data, "--out", &same],
        vec!["pretrain", "quickstart", "--data", &data, "--out", &same],
        vec![
            "evaluate",
            "finetune",
            "finetune-resnet18-cifar10",
            "--from-scratch",
            "--train",
            &data,
            "--test",
            &data,
            "--out",
            &same,
        ],
    ] {
        let error = refused(&arguments, 1);
        assert!(
            error.contains("`--out` must not be the folder of the data"),
            "{error}"
        );
    }
    assert_eq!(std::fs::read_dir(&photos).unwrap().count(), before);
}

#[test]
fn a_misspelt_flag_gets_no_advice_that_fails() {
    let views = ["views", "quickstart", "--data", "x", "--out", "x.png"];
    let error = refused(&[&views[..], &["--images", "3"]].concat(), 2);
    assert!(
        error.contains("unexpected argument '--images' found") && !error.contains("as a value"),
        "{error}"
    );
    // A flag that is near stays.
    let error = refused(&[&views[..], &["--recods", "3"]].concat(), 2);
    assert!(error.contains("'--records'"), "{error}");
}

#[test]
fn a_device_has_a_number_below_their_count() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("x.png");
    let error = |device: &str| {
        let features = ["features", "--encoder", "x", "--data", "x", "--out", path(&out)];
        refused(&[&features[..], &["--device", device]].concat(), 1)
    };
    let text = error("flex:1");
    assert!(
        text.contains("`flex:1`: the numbers of flex devices on this machine must be below 1, got 1")
            && text.contains("hint: there is one CPU: `--device flex`"),
        "{text}"
    );
    assert!(error("gpu").contains("by its number from 0, as cuda:1"));
}
