//! Opening data of every kind, the index, and data sets that are damaged as a whole.

use std::fs::{self, File};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::hex::hex;
use crate::shards::{PackOptions, SkippedMember, pack, pack_dataset, verify};
use crate::sources::index_file::Origin;
use crate::sources::table::Row;
use crate::sources::{files, tar_shard};

mod labels;
mod layouts;
mod licenses;
mod listing;
mod objects;
mod unclear;

fn open(path: &Path) -> Result<Dataset, Error> {
    Dataset::open(path.to_str().unwrap())
}

fn options(records_per_shard: usize) -> PackOptions {
    PackOptions {
        records_per_shard,
        prefix: "train".into(),
        subfolder: None,
        limit: None,
        shuffle_seed: None,
    }
}

fn picture(seed: u64) -> Vec<u8> {
    Dataset::synthetic(1, 8, 6, 0, seed).read(0).unwrap().image
}

fn tar_with(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Names are set as bytes, because the writer would reject `..`.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.finish().unwrap();
}

fn class_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, count) in [("bird", 3), ("ant", 2)] {
        fs::create_dir(folder.path().join(class)).unwrap();
        for at in 0..count {
            fs::write(
                folder.path().join(class).join(format!("{at}.v1.bmp")),
                picture(at + count * 10),
            )
            .unwrap();
        }
    }
    folder
}

#[test]
fn class_folders_are_labeled_in_byte_order() {
    let folder = class_folder();
    let data = open(folder.path()).unwrap();
    assert_eq!(
        (data.len(), data.class_names()),
        (5, ["ant".to_string(), "bird".into()].as_slice())
    );
    let record = data.read(2).unwrap();
    assert_eq!(
        (record.key.as_str(), record.label),
        ("bird/0_v1", Some(Label::Class(1)))
    );
    assert_eq!(record.image, picture(30));
    assert!(data.read(5).is_err());

    // The second opening takes the hashes from the index; a changed file is noticed.
    let fingerprint = data.fingerprint().to_string();
    assert_eq!(open(folder.path()).unwrap().fingerprint(), fingerprint);
    fs::write(folder.path().join("ant/0.v1.bmp"), picture(99).repeat(2)).unwrap();
    assert_ne!(open(folder.path()).unwrap().fingerprint(), fingerprint);
}

#[test]
fn folders_that_are_unclear_are_errors_with_a_cure() {
    let folder = class_folder();
    fs::create_dir(folder.path().join("bee")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("folder `bee` holds no image"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::NameClasses));
    fs::remove_dir(folder.path().join("bee")).unwrap();

    fs::write(folder.path().join("loose.bmp"), picture(0)).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`loose.bmp` lies beside folders that hold images"),
        "{error}"
    );

    let flat = folder.path().join("flat.toml");
    fs::write(&flat, "kind = \"flat\"\npath = \".\"").unwrap();
    let data = open(&flat).unwrap();
    assert_eq!((data.len(), data.is_labeled()), (6, false));

    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path()).unwrap_err().to_string();
    assert!(error.ends_with(
        "no image in it: nothing is there; expected images, class folders of images, or .tar shards"
    ));
    let error = open(&empty.path().join("none")).unwrap_err().to_string();
    assert!(
        error.contains("not found; expected a directory of shards"),
        "{error}"
    );
}

#[test]
fn descriptions_name_kind_path_and_classes() {
    let folder = class_folder();
    let file = folder.path().join("data.toml");
    let described = |text: &str| {
        fs::write(&file, text).unwrap();
        open(&file)
    };
    let data = described("kind = \"folder\"\npath = \".\"\nclasses = [\"bird\", \"bee\", \"ant\"]").unwrap();
    assert_eq!(
        data.read(0).unwrap().label,
        Some(Label::Class(2)),
        "ant comes third in the list"
    );
    let error = |text| described(text).unwrap_err().to_string();
    assert!(
        error("kind = \"folder\"\npath = \".\"\nclasses = [\"bird\"]")
            .contains("folder `ant` is none of the 1 classes")
    );
    assert!(
        error("kind = \"folder\"\npath = \".\"\nclases = []").contains("line 3: there is no key `clases`")
    );
    assert!(error("kind = \"folder\"\npath = \"no\"").contains("is not a folder"));
    assert!(
        error("kind = \"folder\"\npath = \".\"\nclasses = [\"a\", \"a\"]")
            .contains("line 3: `classes` must name each class once, got `a` twice")
    );
}

#[test]
fn packing_keeps_records_labels_and_fingerprint() {
    let folder = class_folder();
    let out = tempfile::tempdir().unwrap();
    let report = pack(
        folder.path().to_str().unwrap(),
        out.path(),
        &options(2),
        &|_, _| {},
    )
    .unwrap();
    assert_eq!((report.records, report.shards.len()), (5, 3));
    let (from, to) = (open(folder.path()).unwrap(), open(out.path()).unwrap());
    assert_eq!(to.fingerprint(), from.fingerprint());
    assert_eq!(to.class_names(), from.class_names());
    for position in 0..5 {
        assert_eq!(to.read(position).unwrap(), from.read(position).unwrap());
    }
    // The same shards by pattern and one by one; without the description there are no class names.
    let pattern = out.path().join("train-{000000..000002}.tar");
    let by_pattern = open(&pattern).unwrap();
    assert_eq!(
        (by_pattern.len(), by_pattern.fingerprint()),
        (5, from.fingerprint())
    );
    assert_eq!(open(&report.shards[2]).unwrap().len(), 1);
    let missing = out.path().join("train-{000000..000003}.tar");
    assert!(
        open(&missing)
            .unwrap_err()
            .to_string()
            .contains("train-000003.tar")
    );
    // A second run into the same folder would mix two data sets.
    let again = pack(
        folder.path().to_str().unwrap(),
        out.path(),
        &options(2),
        &|_, _| {},
    )
    .unwrap_err();
    assert!(
        again.to_string().contains("must be a folder without shards"),
        "{again}"
    );
    assert!(
        verify(out.path().to_str().unwrap(), &|_, _| {})
            .unwrap()
            .is_sound()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_packed_is_read(
        labels in prop::collection::vec(prop_oneof![
            Just(None),
            (0u32..9).prop_map(|class| Some(Label::Class(class))),
            prop::collection::btree_set(0u32..9, 0..4).prop_map(|set| Some(Label::Classes(set.into_iter().collect()))),
        ], 1..12),
        per_shard in 1usize..5,
        long in 1usize..150,
    ) {
        let records: Vec<Record> = labels.into_iter().enumerate().map(|(at, label)| Record {
            key: format!("{}/k{at}", "d".repeat(long)),
            image: picture(at as u64),
            label,
            metadata: Metadata {
                photographer: (at % 3 == 0).then(|| format!("Ä {at}")),
                latitude: (at % 2 == 0).then_some(at as f64 / 7.0),
                ..Metadata::default()
            },
        }).collect();
        let from = Dataset::from_records(records.clone(), Vec::new());
        let out = tempfile::tempdir().unwrap();
        let report = pack_dataset(&from, out.path(), &options(per_shard), &|_, _| {}).unwrap();
        prop_assert_eq!(&report.fingerprint, from.fingerprint());
        let to = open(out.path()).unwrap();
        let read: Vec<Record> = (0..to.len()).map(|position| to.read(position).unwrap()).collect();
        prop_assert_eq!(read, records);
    }
}

#[test]
fn archives_of_class_folders_are_packed_without_unpacking() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("a.tar");
    let images: Vec<Vec<u8>> = (0..8).map(picture).collect();
    tar_with(
        &plain,
        &[
            ("train/b/0.bmp", &images[0]),
            ("train/b/1.bmp", &images[1]),
            ("train/a/0.bmp", &images[2]),
            ("train/a/1.bmp", &images[3]),
            ("test/a/0.bmp", &images[4]),
            ("../../x.bmp", &images[5]),
            ("train/notes.txt", b"x"),
        ],
    );
    let packed = folder.path().join("a.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut File::open(&plain).unwrap(), &mut gzip).unwrap();
    gzip.finish().unwrap();

    let out = folder.path().join("out");
    let wanted = PackOptions {
        subfolder: Some("train".into()),
        limit: Some(2),
        ..options(10)
    };
    let report = pack(packed.to_str().unwrap(), &out, &wanted, &|_, _| {}).unwrap();
    assert_eq!((report.records, report.class_names.join(" ")), (2, "a b".into()));
    assert_eq!(report.skipped[0].name, "../../x.bmp");
    let data = open(&out).unwrap();
    let found: Vec<(String, Option<Label>)> = (0..2)
        .map(|at| (data.key(at).unwrap(), data.label(at).unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("b/0".into(), Some(Label::Class(1))),
            ("a/0".into(), Some(Label::Class(0)))
        ]
    );
    assert_eq!(data.read(1).unwrap().image, images[2]);

    let error = open(&packed).unwrap_err();
    assert_eq!(error.hint(), Some(crate::Hint::PackArchive));
}

#[test]
fn members_that_lead_out_are_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let image = picture(1);
    tar_with(
        &shard,
        &[
            ("../../x.bmp", &image),
            ("/etc/y.bmp", &image),
            ("ok.bmp", &image),
            ("noext", b"1"),
        ],
    );
    let data = open(&shard).unwrap();
    assert_eq!((data.len(), data.key(0).unwrap()), (1, "ok".to_string()));
    let shards = crate::shards::inspect(shard.to_str().unwrap()).unwrap().shards;
    let skipped: Vec<&str> = shards[0]
        .skipped
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(skipped, ["../../x.bmp", "/etc/y.bmp", "noext"]);
}

#[test]
fn packing_shards_names_what_does_not_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let (first, second) = (picture(1), picture(2));
    tar_with(&shard, &[("a/x.bmp", &first), ("a/x.bmp", &second)]);
    let out = folder.path().join("out");
    let report = pack(shard.to_str().unwrap(), &out, &options(10), &|_, _| {}).unwrap();
    assert_eq!(report.records, 1);
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(report.skipped[0].reason, "second image of its record");
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_an_error_that_says_so() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join(std::ffi::OsStr::from_bytes(b"bad\xff"));
    fs::create_dir(&class).unwrap();
    fs::write(class.join("1.bmp"), picture(1)).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is not UTF-8"), "{error}");
}

#[test]
fn a_cut_shard_is_an_error_that_names_it_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let images: Vec<Vec<u8>> = (0..4).map(picture).collect();
    tar_with(
        &shard,
        &[
            ("a.bmp", &images[0]),
            ("b.bmp", &images[1]),
            ("c.bmp", &images[2]),
            ("d.bmp", &images[3]),
        ],
    );
    assert_eq!(open(&shard).unwrap().len(), 4);
    let whole = fs::read(&shard).unwrap();
    for length in [0, 100, 700, whole.len() / 2 + 10] {
        fs::write(&shard, &whole[..length]).unwrap();
        // The stale index does not hide the damage.
        let error = open(&shard).unwrap_err();
        assert!(matches!(error, Error::DamagedShard { .. }), "{error}");
        assert!(error.to_string().contains("s.tar"), "{error}");
        assert_eq!(
            error.hint(),
            Some(crate::Hint::VerifyShard { path: shard.clone() })
        );
    }
    let report = verify(shard.to_str().unwrap(), &|_, _| {}).unwrap();
    assert_eq!(
        (
            report.damaged.len(),
            report.damaged[0].readable_records,
            report.is_sound()
        ),
        (1, 2, false)
    );
}

/// A cure is named only where its cause was seen: a shard that is whole on disk need not be copied again.
#[test]
fn a_shard_that_changes_while_it_is_open_or_whose_disk_fails_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    tar_with(&shard, &[("a.bmp", &picture(1)), ("b.bmp", &picture(2))]);
    let data = open(&shard).unwrap();
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..700]).unwrap();
    let error = data.read(1).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it became shorter after it was opened"),
        "{error}"
    );
    assert_eq!(error.hint(), None);

    use crate::sources::tar_shard::unread;
    use std::io::ErrorKind;
    let of = |kind: ErrorKind| unread(&shard, kind.into(), |reason| format!("cut: {reason}"));
    assert!(
        matches!(of(ErrorKind::UnexpectedEof), Error::DamagedShard { reason, .. } if reason.starts_with("cut"))
    );
    for kind in [ErrorKind::TimedOut, ErrorKind::PermissionDenied] {
        let error = of(kind);
        assert!(matches!(error, Error::Io(_)), "{error}");
    }
}

#[test]
fn verify_lists_a_web_page_among_shards_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.tar"), "<!DOCTYPE html><html>").unwrap();
    tar_with(&folder.path().join("b.tar"), &[("a.bmp", &picture(1))]);
    let report = verify(folder.path().to_str().unwrap(), &|_, _| {}).unwrap();
    assert_eq!((report.records, report.damaged.len()), (1, 1));
    assert_eq!(report.damaged[0].reason, "a web page, not a tar");
    assert_eq!(report.damaged[0].hint, Some(crate::Hint::DownloadAgain));
    // By itself its error has the cure.
    let error = verify(folder.path().join("a.tar").to_str().unwrap(), &|_, _| {}).unwrap_err();
    assert_eq!(error.hint(), Some(crate::Hint::DownloadAgain));
}

#[test]
fn a_file_that_is_no_tar_is_said_to_be_none_without_quoting_it() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    fs::write(&shard, "no tar\nat all\n".repeat(100)).unwrap();
    let error = open(&shard).unwrap_err().to_string();
    assert!(
        error.ends_with("cut or damaged at byte 0 of 1400: no tar header there"),
        "{error}"
    );
}

#[test]
fn verify_names_broken_images() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let image = picture(3);
    tar_with(
        &shard,
        &[("a.bmp", &image), ("b.jpg", b"<html>"), ("c.bmp", &image[..90])],
    );
    let report = verify(shard.to_str().unwrap(), &|_, _| {}).unwrap();
    let broken: Vec<&str> = report.broken.iter().map(|member| member.name.as_str()).collect();
    assert_eq!((report.records, broken), (3, vec!["b", "c"]));
    assert!(report.broken[0].reason.starts_with("not an image"));
}

/// One flipped bit leaves a picture that decodes; the hash in its metadata shows it.
#[test]
fn verify_names_images_that_are_not_those_of_their_hashes_and_files_that_are_not_those_of_the_sums() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let (whole, mut flipped) = (picture(1), picture(2));
    let json = |image: &[u8]| {
        let hash = hex(&<sha2::Sha256 as sha2::Digest>::digest(image));
        format!(r#"{{"content_hash":"{hash}"}}"#).into_bytes()
    };
    let jsons = [json(&whole), json(&flipped)];
    *flipped.last_mut().unwrap() ^= 1;
    let members: [(&str, &[u8]); 5] = [
        ("a.bmp", &whole),
        ("a.json", &jsons[0]),
        ("b.bmp", &flipped),
        ("b.json", &jsons[1]),
        ("c.bmp", &flipped),
    ];
    tar_with(&shard, &members);
    let spec = folder.path().to_str().unwrap();
    let report = verify(spec, &|_, _| {}).unwrap();
    let names = |members: &[SkippedMember]| {
        members
            .iter()
            .map(|member| member.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((report.broken.len(), report.changed.len()), (0, 0));
    assert_eq!(names(&report.altered), ["b"]);
    assert!(!report.is_sound());

    tar_with(&shard, &members[..2]);
    let sums = |credits: &str| {
        let of = |name: &str| crate::sha256_of_file(&folder.path().join(name)).unwrap().hex();
        fs::write(folder.path().join("CREDITS.txt"), "by Ann").unwrap();
        let text = format!("{}  s.tar\n{}  CREDITS.txt\n", of("s.tar"), of("CREDITS.txt"));
        fs::write(folder.path().join("SHA256SUMS"), text).unwrap();
        fs::write(folder.path().join("CREDITS.txt"), credits).unwrap();
        verify(spec, &|_, _| {}).unwrap()
    };
    let report = sums("by Ann");
    assert!(report.is_sound());
    assert_eq!(report.listing.count(crate::Reason::NotAnImage), 0);
    let report = sums("by Bob");
    assert_eq!(names(&report.files), ["CREDITS.txt"]);
    assert!(!report.is_sound());
}

#[test]
fn what_pythons_webdataset_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("python.tar");
    fs::write(&shard, include_bytes!("../../fixtures/python.tar")).unwrap();
    let data = open(&shard).unwrap();
    assert_eq!(data.len(), 4, "the record without an image is left out");
    let records: Vec<Record> = (0..4).map(|position| data.read(position).unwrap()).collect();
    let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["plain", "folder/other", "many", &"l".repeat(120)]);
    assert_eq!(records[0].label, Some(Label::Class(3)));
    assert_eq!(records[0].metadata.photographer.as_deref(), Some("Ann Bé"));
    assert_eq!(records[0].metadata.other["camera"], "X");
    assert_eq!(records[2].label, Some(Label::Classes(vec![1, 4])));
    assert!(
        records
            .iter()
            .all(|record| crate::decode(&record.image, &crate::DecodeLimits::DEFAULT).is_ok())
    );
}

#[test]
fn a_million_records_take_64_bytes_each() {
    const SHARDS: usize = 10;
    const RECORDS: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let store = IndexStore::with_cache(folder.path());
    for number in 0..SHARDS {
        // Names as long as PASS's, metadata and labels; opening does not read the bodies.
        let shard = folder.path().join(format!("s-{number:06}.tar"));
        fs::write(&shard, []).unwrap();
        let origin = Origin {
            ends_properly: true,
            ..tar_shard::origin(&shard).unwrap()
        };
        let mut table = Table::default();
        for row in 0..RECORDS {
            let at = (number * RECORDS + row) as u64;
            let hash: [u8; 32] = Sha256::digest(at.to_le_bytes()).into();
            assert!(table.push(Row {
                folder: format!("PASS_dataset/{}/", row / 10_000),
                name: hex(&hash)[..31].to_string(),
                image_block: Some(row as u32 * 3 + 1),
                image_bytes: 124_000,
                json: Some((row as u32 * 3 + 2, 300)),
                label: Some(Label::Class(row as u32 % 1000)),
                license: Some("Attribution License".into()),
                modified: None,
                hash,
            }));
        }
        store.save(&shard, false, &origin, &table).unwrap();
    }
    let data = Dataset::open_with(folder.path().to_str().unwrap(), &store).unwrap();
    assert_eq!(data.len(), SHARDS * RECORDS);
    let bytes = data.index_bytes() as f64 / data.len() as f64;
    assert!(bytes < 64.0, "{bytes}");
    assert_eq!(data.label(999_999).unwrap(), Some(Label::Class(999)));
}

#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn the_published_pass_layout_is_read_with_its_metadata() {
    let test_data =
        std::env::var_os("PASSER_TEST_DATA").expect("PASSER_TEST_DATA must name the folder of real inputs");
    let folder = tempfile::tempdir().unwrap();
    for path in files::list(&Path::new(&test_data).join("pass-mini")).unwrap() {
        fs::write(
            folder.path().join(path.file_name().unwrap()),
            fs::read(&path).unwrap(),
        )
        .unwrap();
    }
    let data = open(folder.path()).unwrap();
    assert!(data.len() >= 4 && !data.is_labeled());
    let records: Vec<Record> = (0..data.len())
        .map(|position| data.read(position).unwrap())
        .collect();
    assert!(
        records
            .iter()
            .all(|record| record.key.starts_with("PASS_dataset/"))
    );
    assert!(
        records
            .iter()
            .all(|record| record.metadata.license.as_deref() == Some("Attribution License"))
    );
    assert!(
        records
            .iter()
            .all(|record| record.metadata.photographer.is_some())
    );
}

#[test]
fn a_part_has_the_wholes_records_and_a_fingerprint_of_its_own() {
    let whole = std::sync::Arc::new(Dataset::synthetic(10, 8, 8, 3, 0));
    let part = Dataset::part(&whole, vec![7, 2]).unwrap();
    assert_eq!((part.len(), part.is_labeled()), (2, true));
    assert_eq!(part.key(0).unwrap(), whole.key(7).unwrap());
    assert_eq!(part.label(1).unwrap(), whole.label(2).unwrap());
    assert_eq!(part.read(1).unwrap().image, whole.read(2).unwrap().image);
    let mut image = vec![];
    part.read_image(0, &mut image).unwrap();
    assert_eq!(image, whole.read(7).unwrap().image);
    let other = Dataset::part(&whole, vec![2, 7]).unwrap();
    assert_ne!(part.fingerprint(), whole.fingerprint());
    assert_ne!(part.fingerprint(), other.fingerprint());
    assert!(matches!(
        Dataset::part(&whole, vec![10]),
        Err(Error::Position {
            position: 10,
            records: 10
        })
    ));
    assert!(part.label(2).is_err());
}
