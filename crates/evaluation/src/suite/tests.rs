//! Suites on tiny synthetic folders: the table, missing scores, resuming, shared features.

use super::*;
use crate::testing::{NORMALIZE, backbone};
use std::cell::RefCell;

const PROTOCOLS: &str = r#"
test_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }]
[data]
batch_images = 16
workers = 0
max_bad_fraction = 0.0
[[protocols]]
[protocols.knn-dino]
neighbors = [5, 1]
headline_neighbors = 5
temperature = 0.07
[[protocols]]
[protocols.few-shot]
scaling = "l2"
support = "train"
ways = 2
shots = 1
queries = 3
episodes = 10
classifier = "nearest_centroid"
seed = 0
[[protocols]]
[protocols.few-shot]
scaling = "none"
support = "train"
ways = 2
shots = 1
queries = 3
episodes = 10
classifier = "nearest_centroid"
seed = 0
"#;

fn pack_into(set: &Dataset, folder: &Path) {
    let options = data::shards::PackOptions {
        records_per_shard: 100,
        prefix: "x".into(),
        subfolder: None,
        limit: None,
        shuffle_seed: None,
    };
    data::shards::pack_dataset(set, folder, &options, &|_, _| {}).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, records, classes) in [
        ("a-train", 40, 2),
        ("a-test", 20, 2),
        ("b-train", 3, 2),
        ("b-test", 20, 2),
    ] {
        let seed = u64::from(name.ends_with("test"));
        let set = Dataset::synthetic(records, 10, 10, classes, seed);
        pack_into(&set, &folder.path().join(name));
    }
    std::fs::write(
        folder.path().join("a.toml"),
        "name = 'A'\nmetric = 'mean_class'\n[splits.train]\nkind = 'shards'\npath = 'a-train'\n\
         [splits.test]\nkind = 'shards'\npath = 'a-test'\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("protocols.toml"), PROTOCOLS).unwrap();
    folder
}

const SUITE: &str = "
encoders = [{ name = 'net', path = 'net' }, { name = 'pixels', pixels = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] } },
    { name = 'gone', path = 'gone' }]
data_sets = [{ name = 'A', train = 'a.toml#train', test = 'a.toml#test' }, { name = 'B', train = 'b-train', test = 'b-test' },
    { name = 'C', train = 'nowhere', test = 'nowhere' }]
evaluations = [{ config = 'protocols.toml', transforms = 'config' }]
";

fn read(path: &Path) -> Result<Config, Error> {
    toml::from_str(&std::fs::read_to_string(path).unwrap()).map_err(|error| Error::Config(error.to_string()))
}

/// The tables, and the stages that ran.
fn run_in(folder: &Path, suite: &Suite) -> (SuiteTables, Vec<String>) {
    let device = Device::flex();
    let mut known = 0;
    let open = |entry: &EncoderEntry, path: &Path| match entry.name.as_str() {
        "net" => Ok(Encoder::new(
            "net",
            "hash",
            &backbone(0, &Device::flex()),
            NORMALIZE,
        )),
        _ => Err(format!("`{}`: no such file", path.file_name().unwrap().to_string_lossy()).into()),
    };
    let stages = RefCell::new(vec![]);
    let tables = run(
        suite,
        &mut SuiteContext {
            folder,
            out: &folder.join("out"),
            device: &device,
            provenance: Provenance::default(),
            read: &read,
            open: &open,
            reports: true,
            on_cell: &mut |_, done, total| {
                known += 1;
                assert_eq!(
                    (done, total),
                    (known, suite.encoders.len() * suite.data_sets.len() * 3)
                );
            },
            progress: &mut |event| stages.borrow_mut().push(event.stage.to_string()),
        },
    )
    .unwrap();
    (tables, stages.into_inner())
}

#[test]
fn what_can_be_asked_is_in_the_table_and_the_rest_is_missing_with_its_reason() {
    let folder = folder();
    let suite: Suite = toml::from_str(SUITE).unwrap();
    let (tables, stages) = run_in(folder.path(), &suite);
    let cells = &tables.cells;
    assert_eq!(cells.len(), 27);
    let cell = |encoder: &str, data_set: &str, column: &str| {
        let mut found = cells.iter();
        found
            .find(|cell| {
                (cell.encoder.as_str(), cell.data_set.as_str()) == (encoder, data_set)
                    && cell.column == column
            })
            .unwrap()
    };
    // The description's metric, at the headline's k.
    let quoted = cell("net", "A", "knn-dino k 5").quoted().unwrap();
    assert_eq!(
        (quoted.metric.as_str(), &quoted.settings["neighbors"]),
        ("mean_class", &5.into())
    );
    let first = cell("pixels", "A", "few-shot 2-way 1-shot (protocols)");
    let second = cell("pixels", "A", "few-shot 2-way 1-shot (protocols 2)");
    assert_ne!(
        first.outcomes[0].settings["scaling"],
        second.outcomes[0].settings["scaling"]
    );
    assert_eq!(
        cell("net", "B", "knn-dino k 5").missing.as_deref().unwrap(),
        "knn-dino: `neighbors` must be at most the 3 training records, got 5"
    );
    assert!(
        cell("net", "C", "knn-dino k 5")
            .missing
            .as_ref()
            .unwrap()
            .contains("nowhere`: not found")
    );
    assert_eq!(
        cell("gone", "A", "knn-dino k 5").missing.as_deref().unwrap(),
        "`gone`: no such file"
    );
    // Two encoders, two data sets, train and test: each goes through an encoder once.
    let extracted = stages
        .iter()
        .filter(|stage| *stage == "features of the test set")
        .count();
    assert_eq!(extracted, 2 * 2 * 2, "20 images are two batches");

    let table = &tables.markdown;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0],
        "| data set | encoder | knn-dino k 5 | few-shot 2-way 1-shot (protocols) | few-shot 2-way 1-shot (protocols 2) |"
    );
    assert!(
        lines[2].starts_with("| A | net | ") && lines[2].contains("(mean_class)"),
        "{table}"
    );
    assert!(lines[5].starts_with("| B | net | missing ["), "{table}");
    assert!(table.contains("] missing: `gone`: no such file"), "{table}");
    let sheet = table::csv(cells);
    assert!(
        sheet.contains("A,net,knn-dino k 5,knn-dino,k 5,mean_class,"),
        "{sheet}"
    );
    assert!(
        sheet.contains("\"knn-dino: `neighbors` must be at most the 3 training records, got 5\""),
        "{sheet}"
    );

    // A report of each pair with scores, and a page with the table that links to them.
    let report = |encoder: &str, data_set: &str| {
        std::fs::read_to_string(report_path(&folder.path().join("out"), encoder, data_set))
    };
    let text = report("net", "A").unwrap();
    assert!(text.contains("few-shot (2-way 1-shot nearest centroid)") && text.contains(" on A</h1>"));
    assert!(report("pixels", "A").is_ok() && report("gone", "A").is_err() && report("net", "C").is_err());
    let page = std::fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    assert_eq!(
        tables.files.last().unwrap(),
        &folder.path().join("out/report.html")
    );
    assert!(page.contains("<h3>A</h3>") && page.contains("<a href=\"reports/net/A.html\">net</a>"));
    assert!(page.contains("missing <a href=\"#reason-1\">[1]</a>") && page.contains("<li id=\"reason-1\">"));
    assert!(page.contains("(mean_class)") && page.contains("<th scope=\"row\">gone</th>"));

    // Again: nothing is computed, and the table is the same.
    let (again, stages) = run_in(folder.path(), &suite);
    assert!(stages.is_empty(), "{stages:?}");
    assert_eq!((&again.markdown, table::csv(&again.cells)), (table, sheet));
}

#[test]
fn test_images_that_are_not_new_are_named_below_the_table_and_in_the_reports() {
    let folder = folder();
    let (train, new) = (
        Dataset::synthetic(40, 10, 10, 2, 0),
        Dataset::synthetic(20, 10, 10, 2, 1),
    );
    let record = |at: usize| data::Record {
        key: format!("copy-{at}"),
        ..if at < 4 { &train } else { &new }.read(at).unwrap()
    };
    let names = train.class_names().to_vec();
    let test = Dataset::from_records((0..20).map(record).collect(), names);
    pack_into(&test, &folder.path().join("d-test"));
    let suite: Suite = toml::from_str(
        "encoders = [{ name = 'net', path = 'net' }]
data_sets = [{ name = 'A', train = 'a.toml#train', test = 'a.toml#test' }, { name = 'D', train = 'a-train', test = 'd-test' }]
evaluations = [{ config = 'protocols.toml', transforms = 'config' }]",
    )
    .unwrap();
    let (tables, _) = run_in(folder.path(), &suite);
    let remarks: Vec<&str> = (tables.markdown.lines())
        .filter(|line| line.starts_with("Not new"))
        .collect();
    assert_eq!(
        remarks,
        ["Not new on D: 4 of 20 test images lie in the training set too"]
    );
    let page = std::fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    let line = "<p class=\"wrong\">Not new on D: 4 of 20 test images lie in the training set too.</p>";
    assert_eq!(page.matches(line).count(), 1);
    let report = |data_set: &str| {
        let path = report_path(&folder.path().join("out"), "net", data_set);
        std::fs::read_to_string(path).unwrap()
    };
    let line = "<p class=\"wrong\">4 of 20 test images lie in the training set too.</p>";
    assert_eq!(report("D").matches(line).count(), 1);
    assert!(!report("A").contains("<p class=\"wrong\">"));
}

#[test]
fn suites_that_contradict_themselves_are_refused() {
    let refused = |from: &str, to: &str| {
        let suite: Suite = toml::from_str(&SUITE.replace(from, to)).unwrap();
        suite.validate().unwrap_err()
    };
    assert!(refused("name = 'pixels'", "name = 'net'").contains("the name `net` is given twice"));
    assert!(refused("name = 'gone'", "name = '../gone'").contains("must be letters"));
    assert!(refused("path = 'gone'", "backbone = 'resnet50'").contains("either `path` or `pixels`"));
    assert!(
        refused(
            "transforms = 'config'",
            "transforms = 'config', data_sets = ['D']"
        )
        .contains("`evaluations.0.data_sets` must be names of `data_sets`")
    );
    assert!(
        refused("path = 'net'", "path = 'net', part = 'both'")
            .contains(".part` must be one of `student`, `teacher`, got \"both\"")
    );
}
