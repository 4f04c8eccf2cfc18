//! A suite from outside: three encoders, three data sets, killed in the middle and resumed; and bad input,
//! whose reasons are in the table.

use crate::passer;
use crate::runs::{other_photos, photos};
use crate::weights::fixture;
use predicates::prelude::*;
use predicates::str::contains;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROTOCOLS: &str = r#"
test_transforms = [{ resize_exact = { width_px = 32, height_px = 32, filter = "bilinear" } }]
[data]
batch_images = 8
workers = 0
max_bad_fraction = 0.0
[[protocols]]
[protocols.knn-dino]
neighbors = [3]
headline_neighbors = 3
temperature = 0.07
[[protocols]]
[protocols.linear-cached]
scaling = "standardize"
batch_records = 8
epochs = 40
seeds = [0, 1]
optimizer = { sgd = { learning_rate_per_256 = 0.1, momentum = 0.9, weight_decay = 0.0, nesterov = false } }
schedule = { cosine_per_epoch = {} }
[[protocols]]
[protocols.svm-voc07]
scaling = "l2"
costs = [0.1, 1.0]
folds = 2
positive_weight = 2.0
tolerance = 1e-6
max_iterations = 100
"#;

/// Photos in folders, CIFAR's binary files, and a table with sets of classes; three encoders; the suite's
/// file.
fn prepare(folder: &Path) -> PathBuf {
    let photos = photos(folder);
    let record = |label: u8, at: usize| {
        let pixels = (0..3072).map(move |place| (place * (at + 2) % 251) as u8 / (1 + label));
        std::iter::once(label).chain(pixels)
    };
    let cifar: Vec<u8> = (0..36).flat_map(|at| record((at % 2) as u8, at)).collect();
    let (train, test) = cifar.split_at(24 * 3073);
    std::fs::write(folder.join("train.bin"), train).unwrap();
    std::fs::write(folder.join("test.bin"), test).unwrap();
    std::fs::write(
        folder.join("cifar.toml"),
        "name = 'C'\nmetric = 'mean_class'\n[splits.train]\nkind = 'cifar10'\npath = '.'\nfiles = ['train.bin']\n\
         [splits.test]\nkind = 'cifar10'\npath = '.'\nfiles = ['test.bin']\n",
    )
    .unwrap();
    for (name, pictures) in [("sets", &photos), ("other-sets", &other_photos(folder))] {
        let mut table = String::from("image,classes\n");
        for (at, picture) in crate::files(pictures, ".png").iter().enumerate() {
            let classes = ["a", "a|b", "b", ""][at % 4];
            let below = picture.strip_prefix(folder).unwrap().display();
            table.push_str(&format!("{below},{classes}\n"));
        }
        std::fs::write(folder.join(format!("{name}.csv")), table).unwrap();
        let described = format!(
            "kind = 'csv'\npath = '.'\nlabels = '{name}.csv'\nimage_column = 'image'\nlabel_column = 'classes'\nlabel_separator = '|'\n"
        );
        std::fs::write(folder.join(format!("{name}.toml")), described).unwrap();
    }
    fixture(folder, "moco-v2-legacy.pth.tar");
    fixture(folder, "torchvision-resnet.pth");
    std::fs::write(folder.join("protocols.toml"), PROTOCOLS).unwrap();
    let suite = folder.join("suite.toml");
    std::fs::write(
        &suite,
        "encoders = [{ name = 'moco', path = 'moco-v2-legacy.pth.tar' },\n\
         { name = 'supervised', path = 'torchvision-resnet.pth' },\n\
         { name = 'pixels', pixels = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] } }]\n\
         data_sets = [{ name = 'photos', train = 'photos', test = 'others' },\n\
         { name = 'cifar', train = 'cifar.toml#train', test = 'cifar.toml#test' },\n\
         { name = 'sets', train = 'sets.toml', test = 'other-sets.toml' }]\n\
         evaluations = [{ config = 'protocols.toml', transforms = 'config' }]\n",
    )
    .unwrap();
    suite
}

fn command(suite: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .args(["evaluate", "suite", "--device", "flex", "--out"])
        .arg(out)
        .arg(suite);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn one_suite_at_a_time_works_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let suite = prepare(folder.path());
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let lock = data::FolderLock::take(&out).unwrap();
    passer()
        .args(["evaluate", "suite"])
        .arg(&suite)
        .arg("--out")
        .arg(&out)
        .assert()
        .code(1)
        .stderr(contains("out` is in use by process").and(contains("hint: wait for it")));
    drop(lock);
}

#[test]
fn killed_in_the_middle_and_gone_on_the_table_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let suite = prepare(folder.path());
    let whole = folder.path().join("whole");
    let output = command(&suite, &whole).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // kNN and a linear probe do not support sets of classes: six of 27 scores are missing, and reported as
    // missing.
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("6 of 27 scores are missing"), "{text}");
    let table = std::fs::read_to_string(whole.join("table.md")).unwrap();
    assert_eq!(table, String::from_utf8_lossy(&output.stdout));
    assert_eq!(
        table.lines().filter(|line| line.starts_with("| ")).count(),
        1 + 9,
        "{table}"
    );
    assert!(table.contains("(mean_class)"), "{table}");
    assert!(
        table.contains("missing: knn-dino: the training set labels a record with a set of classes"),
        "{table}"
    );
    let cells: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(whole.join("table.json")).unwrap()).unwrap();
    assert_eq!(cells.as_array().unwrap().len(), 27);
    // The page links to a report of each pair, and both load nothing.
    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("6 missing") && page.contains("<h3>photos</h3>"));
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let reports: Vec<_> = links.iter().filter(|link| link.starts_with("reports/")).collect();
    assert_eq!(reports.len(), 9, "{links:?}");
    for report in reports {
        let text = std::fs::read_to_string(whole.join(report)).unwrap();
        assert!(
            text.contains("class=\"map\"") && !text.contains("://"),
            "{report}"
        );
    }

    let cut = folder.path().join("cut");
    let mut kills = 0;
    for wanted in [2, 7, 13] {
        let mut child = command(&suite, &cut).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        // Only in this folder, because folders of unfinished features appear and disappear elsewhere.
        let cells = cut.join("cells");
        while !cells.exists() || crate::files(&cells, "/result.json").len() < wanted {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "no {wanted} results within two minutes"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        kills += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        assert!(!cut.join("table.md").exists() || kills == 0);
    }
    assert!(kills > 0, "the suite was never killed in the middle");
    assert_eq!(command(&suite, &cut).output().unwrap().status.code(), Some(1));
    for name in ["table.md", "table.csv", "report.html"] {
        let read = |out: &Path| std::fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(read(&whole), read(&cut), "{name}");
    }
}

#[test]
fn a_suite_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let suite = prepare(folder.path());
    let text = std::fs::read_to_string(&suite).unwrap();
    let refused = |from: &str, to: &str, reason: &str| {
        std::fs::write(&suite, text.replace(from, to)).unwrap();
        passer()
            .args(["evaluate", "suite", "--device", "flex", "--out"])
            .arg(folder.path().join("out"))
            .arg(&suite)
            .assert()
            .code(1)
            .stderr(contains(reason));
    };
    refused(
        "name = 'pixels'",
        "name = 'moco'",
        "the name `moco` is given twice",
    );
    refused("protocols.toml", "nothing.toml", "nothing.toml` cannot be read");
    refused(
        "transforms = 'config'",
        "transforms = 'mine'",
        "`evaluations.transforms` must be one of",
    );
    passer()
        .args(["evaluate", "suite", "configs/evaluate/knn.toml", "--out", "x"])
        .assert()
        .code(1)
        .stderr(contains(
            "looks like an evaluation config; expected an evaluation suite",
        ));
    // A missing input gives missing scores, and the rest is computed.
    std::fs::write(
        &suite,
        text.replace("moco-v2-legacy.pth.tar", "gone.pth")
            .replace("train = 'photos'", "train = 'away'"),
    )
    .unwrap();
    passer()
        .args(["evaluate", "suite", "--device", "flex", "--out"])
        .arg(folder.path().join("part"))
        .arg(&suite)
        .assert()
        .code(1)
        .stdout(
            contains("gone.pth")
                .and(contains("away`: not found"))
                .and(contains("| cifar | pixels | ")),
        );
}
