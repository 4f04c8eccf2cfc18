//! The licenses of a data set: from shards, from an index of version 0.1, of a subset, from PASS's table.

use std::sync::Arc;

use super::*;

/// A shard of six records: two under one license, one under another, by address; one without, one with broken
/// metadata.
fn shard(folder: &Path) {
    let image = picture(1);
    let json = |name: &str, value: &str| format!(r#"{{"{name}":"{value}","photographer":"Ann"}}"#);
    let (by, address) = (
        json("licence", "CC BY 2.0"),
        json("licence_url", "https://example.org/l"),
    );
    tar_with(
        &folder.join("a.tar"),
        &[
            ("0.bmp", &image),
            ("1.bmp", &image),
            ("1.json", by.as_bytes()),
            ("2.json", by.as_bytes()),
            ("2.bmp", &image),
            ("3.bmp", &image),
            ("3.json", address.as_bytes()),
            ("4.bmp", &image),
            ("4.json", b"{"),
            ("5.bmp", &image),
            ("5.json", b"{}"),
        ],
    );
}

const COUNTED: &str = "not stated: 3; CC BY 2.0: 2; https://example.org/l: 1";

fn counted(data: &Dataset) -> String {
    data.licenses().unwrap().to_string()
}

#[test]
fn licenses_of_shards_come_with_the_index() {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path());
    // First built, then read from the index.
    for _ in 0..2 {
        assert_eq!(counted(&open(folder.path()).unwrap()), COUNTED);
    }
    let whole = Arc::new(open(folder.path()).unwrap());
    let part = Dataset::part(&whole, vec![3, 0, 2]).unwrap();
    assert_eq!(
        counted(&part),
        "CC BY 2.0: 1; https://example.org/l: 1; not stated: 1"
    );
    let mut records = (0..6).filter_map(|position| whole.read(position).ok());
    let memory = Dataset::from_records(records.by_ref().take(3).collect(), vec![]);
    assert_eq!(counted(&memory), "CC BY 2.0: 2; not stated: 1");
    assert_eq!(counted(&Dataset::synthetic(4, 8, 8, 0, 0)), "not stated: 4");
}

#[test]
fn an_index_of_version_0_1_gets_its_licenses_once() {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path());
    open(folder.path()).unwrap();
    let store = IndexStore::from_environment();
    let path = folder.path().join("a.tar");
    let (origin, mut table) = store.load(&path, false).unwrap();
    let whole = table.clone();
    table.licenses = None;
    store.save(&path, false, &origin, &table).unwrap();
    let data = open(folder.path()).unwrap();
    assert_eq!(counted(&data), COUNTED);
    assert_eq!(store.load(&path, false), Some((origin, whole)));
}

#[test]
fn licenses_of_passs_table_are_those_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["aa", "bb", "cc"] {
        fs::write(folder.path().join(format!("{name}.bmp")), picture(1)).unwrap();
    }
    let table =
        "unickname,licensename,hash\nAnn,Attribution License,aa\nBob,Attribution License,bb\nEve,,cc\n";
    fs::write(folder.path().join("pass_metadata.csv"), table).unwrap();
    let said = "Attribution License: 2; not stated: 1";
    assert_eq!(counted(&open(folder.path()).unwrap()), said);
    // The same release as tars.
    let tars = tempfile::tempdir().unwrap();
    let image = picture(1);
    tar_with(
        &tars.path().join("PASS.0.tar"),
        &[
            ("PASS_dataset/0/aa.bmp", &image),
            ("PASS_dataset/0/bb.bmp", &image),
            ("PASS_dataset/0/cc.bmp", &image),
        ],
    );
    fs::write(tars.path().join("pass_metadata.csv"), table).unwrap();
    assert_eq!(counted(&open(tars.path()).unwrap()), said);
    // An unreadable table must not count as "no licenses".
    fs::write(
        tars.path().join("pass_metadata.csv"),
        "licensename,hash\n\"A,aa\n",
    )
    .unwrap();
    assert!(open(tars.path()).unwrap().licenses().is_err());
}
