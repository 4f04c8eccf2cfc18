//! Tables, folders and data sets, read from the start and from any row on.

use std::fs;
use std::path::{Path, PathBuf};

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::photo::Photo;

fn all(config: &SourceConfig, from: Position) -> Vec<(Row, Position)> {
    let mut rows = open(config, None, from).unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        found.push((row, rows.position()));
    }
    found
}

/// Reads all rows, and checks that resuming after each row gives the remaining rows.
fn rows(config: &SourceConfig) -> Vec<Row> {
    let whole = all(config, Position::default());
    for at in 0..whole.len() {
        assert_eq!(
            all(config, whole[at].1.clone()),
            whole[at + 1..],
            "after row {at}"
        );
    }
    whole.into_iter().map(|(row, _)| row).collect()
}

fn table(files: Vec<PathBuf>) -> TableConfig {
    let column = |name: &str| Some(name.to_string());
    TableConfig {
        files,
        delimiter: None,
        columns: Columns {
            key: "hash".into(),
            photographer: column("unickname"),
            latitude: column("latitude"),
            longitude: column("longitude"),
            license: column("licensename"),
            ..Columns::default()
        },
        url_encoded: vec!["unickname".into()],
    }
}

fn reasons(rows: &[Row]) -> Vec<Option<&'static str>> {
    rows.iter().map(|row| row.refused).collect()
}

#[test]
fn the_csv_of_pass_and_hostile_rows_are_read() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (home.path().join("a.csv"), home.path().join("b.csv"));
    fs::write(
        &first,
        "\u{feff},unickname,datetaken,licensename,hash,latitude,longitude\n\
         9,striatic,2004-05-11 02:00:33.0,Attribution License,fff0eece99cc71c2e91fe716051599,53.535233,-113.565075\n\
         1284082,PaperBird+Photography%3C3,2007-05-06,Attribution License,75f7305b1fd94044e14bdcdde469dbb2,,\n\
         1,a,b,c\n\
         2,x,,Attribution License,../../etc/passwd,,\n\
         3,\"two\nlines\",,Attribution License,k3,-33.5,-70.25\n",
    )
    .unwrap();
    let mut hostile =
        b",unickname,datetaken,licensename,hash,latitude,longitude\n4,bad\xff,,L,k4,,\n5,".to_vec();
    hostile.extend([b'n'; 1 << 20]);
    hostile.extend(b",,L,k5,,\n6,n,,L,,,\n7,n,,L,k7,91,181\n");
    fs::write(&second, hostile).unwrap();
    let rows = rows(&SourceConfig::Csv(table(vec![first, second])));
    assert_eq!(
        reasons(&rows),
        [
            None,
            None,
            Some("malformed_row"),
            Some("unsafe_key"),
            None,
            Some("broken_text"),
            Some("field_too_long"),
            Some("no_key"),
            None
        ]
    );
    assert_eq!(rows[0].photo.longitude, Some(-113.565075));
    assert_eq!(
        rows[1].photo.photographer.as_deref(),
        Some("PaperBird Photography<3")
    );
    assert_eq!(rows[4].photo.photographer.as_deref(), Some("two\nlines"));
    assert_eq!((rows[8].photo.latitude, rows[8].photo.longitude), (None, None));
    assert_eq!(
        rows.iter().map(|row| row.photo.id).collect::<Vec<_>>(),
        (1..=9).collect::<Vec<_>>()
    );
}

#[test]
fn a_column_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.csv");
    fs::write(&path, "hash,who\n1,2\n").unwrap();
    let Err(error) = open(&SourceConfig::Csv(table(vec![path])), None, Position::default()) else {
        panic!("read without its columns");
    };
    assert!(
        error
            .to_string()
            .contains("no column `unickname`; found `hash`, `who`"),
        "{error}"
    );
}

#[test]
fn parquet_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.parquet");
    let schema = "message m { required binary hash (utf8); optional binary unickname (utf8); optional double latitude; \
                  optional double longitude; optional binary licensename (utf8); }";
    let mut writer = SerializedFileWriter::new(
        fs::File::create(&path).unwrap(),
        parse_message_type(schema).unwrap().into(),
        WriterProperties::builder().build().into(),
    )
    .unwrap();
    for group in 0..2 {
        let mut rows = writer.next_row_group().unwrap();
        let text = |name: &str| {
            [
                ByteArray::from(format!("{name}{group}a").as_str()),
                ByteArray::from(format!("{name}{group}b").as_str()),
            ]
        };
        for column in 0..5 {
            let mut writer = rows.next_column().unwrap().unwrap();
            match column {
                0 => writer
                    .typed::<ByteArrayType>()
                    .write_batch(&text("k"), None, None),
                1 => writer
                    .typed::<ByteArrayType>()
                    .write_batch(&text("n+")[..1], Some(&[1, 0]), None),
                2 | 3 => writer
                    .typed::<DoubleType>()
                    .write_batch(&[-33.5], Some(&[0, 1]), None),
                _ => writer
                    .typed::<ByteArrayType>()
                    .write_batch(&text("L"), Some(&[1, 1]), None),
            }
            .unwrap();
            writer.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.close().unwrap();
    let rows = rows(&SourceConfig::Parquet(table(vec![path])));
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[2].photo.key, "k1a");
    assert_eq!(rows[2].photo.photographer.as_deref(), Some("n 1a"));
    assert_eq!(
        (rows[3].photo.photographer.clone(), rows[3].photo.latitude),
        (None, Some(-33.5))
    );
}

fn photo_file(path: &Path, sidecar: Option<&str>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
    if let Some(sidecar) = sidecar {
        fs::write(path.with_extension("json"), sidecar).unwrap();
    }
}

#[test]
fn folders_are_read_with_their_sidecars_and_classes() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("photos");
    photo_file(
        &root.join("cat/one.two.jpg"),
        Some(r#"{"photographer":"Ann","licence":"CC0","title":"t","latitude":-1.5,"longitude":500}"#),
    );
    photo_file(&root.join("dog/a.PNG"), None);
    photo_file(&root.join("dog/b.jpg"), Some("not json"));
    photo_file(&root.join("loose.jpg"), None);
    photo_file(&root.join("notes.txt"), None);
    let config = |class_folders| {
        SourceConfig::Folder(FolderConfig {
            folder: root.clone(),
            class_folders,
            license: None,
            photographer: None,
            embedded_credit: false,
        })
    };
    let labeled = rows(&config(true));
    assert_eq!(
        reasons(&labeled),
        [None, None, Some("broken_sidecar"), Some("no_class_folder")]
    );
    let expected = Photo {
        id: 1,
        key: "cat/one_two".into(),
        photographer: Some("Ann".into()),
        license: Some("CC0".into()),
        title: Some("t".into()),
        latitude: Some(-1.5),
        label: Some("cat".into()),
        locator: Some("cat/one.two.jpg".into()),
        ..Photo::default()
    };
    assert_eq!(labeled[0].photo, expected);
    assert_eq!(reasons(&rows(&config(false)))[3], None);
}

#[test]
fn what_a_folder_holds_beside_photos_is_a_row_with_a_reason_or_counted() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("photos");
    let write = |name: &str, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    // A camera writes both; the sidecar is of both.
    write("IMG_1.JPG", b"x");
    write("IMG_1.CR2", b"II*\0\x10\0\0\0CR");
    write("IMG_1.json", b"{}");
    write("b/IMG_2.heic", b"\0\0\0\x18ftypheic");
    // A phone's JPEG that a chat has renamed, and one without an extension.
    write("b/IMG_3.heic", b"\xff\xd8\xff\xe0");
    write("b/IMG_4", b"\xff\xd8\xff\xe0");
    write("b/IMG_3.MOV", b"\0\0\0\x14ftypqt  ");
    write("b/scan.tif", b"MM\0*");
    write("@eaDir/x.jpg", b"x");
    write("b/Thumbs.db", b"x");
    write("b/notes.txt", b"x");
    // Sidecars: of a renamed photo, of a photo that is gone, one that is not read for its capitals.
    write("b/IMG_3.heic.json", b"{}");
    write("b/IMG_5.jpg.json", b"{}");
    write("b/notes.json", b"{}");
    write("b/IMG_4.JSON", b"{}");
    let config = SourceConfig::Folder(FolderConfig {
        folder: root.clone(),
        class_folders: false,
        license: None,
        photographer: None,
        embedded_credit: false,
    });
    let found = rows(&config);
    let listed: Vec<(&str, Option<&str>)> = found
        .iter()
        .map(|row| (row.photo.key.as_str(), row.refused))
        .collect();
    assert_eq!(
        listed,
        [
            ("IMG_1_CR2", Some("unsupported_format")),
            ("IMG_1", None),
            ("b/IMG_2_heic", Some("unsupported_format")),
            ("b/IMG_3", None),
            ("b/IMG_4", None),
            ("b/scan_tif", Some("unsupported_format")),
        ]
    );
    let mut source = open(&config, None, Position::default()).unwrap();
    while source.next().unwrap().is_some() {}
    let listing = source.listing();
    let counted: Vec<(data::Reason, &str, u64)> = listing
        .notes()
        .iter()
        .map(|note| (note.reason, note.example.as_str(), note.count))
        .collect();
    assert_eq!(
        counted,
        [
            (data::Reason::NotAnImage, "b/IMG_3.MOV", 1),
            (data::Reason::SystemFile, "b/Thumbs.db", 1),
            (data::Reason::SystemFolder, "@eaDir", 1),
            (data::Reason::SidecarAlone, "b/IMG_4.JSON", 3),
            (data::Reason::Document, "b/notes.txt", 1),
            (data::Reason::ImageByContent, "b/IMG_3.heic", 1),
            (data::Reason::ImageByContent, "b/IMG_4", 1),
        ]
    );
    // Resumed behind the last row, the count is of the whole folder.
    let last = all(&config, Position::default()).pop().unwrap().1;
    let mut source = open(&config, None, last).unwrap();
    assert!(source.next().unwrap().is_none());
    assert_eq!(source.listing(), listing);
}

#[test]
fn a_folder_without_a_photo_is_an_error_that_says_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let config = SourceConfig::Folder(FolderConfig {
        folder: home.path().to_path_buf(),
        class_folders: false,
        license: None,
        photographer: None,
        embedded_credit: false,
    });
    let error = || {
        open(&config, None, Position::default())
            .unwrap()
            .next()
            .unwrap_err()
            .to_string()
    };
    assert!(
        error().contains("no photo in it: nothing is there"),
        "{}",
        error()
    );
    fs::write(home.path().join("photos.zip"), b"PK\x03\x04").unwrap();
    assert!(error().contains("1 .zip (such as `photos.zip`)"), "{}", error());
}

/// `PASSER_TEST_DATA/pass-mini`: the layout of the PASS release, with real rows.
#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn the_pass_release_is_read() {
    let data =
        std::env::var_os("PASSER_TEST_DATA").expect("PASSER_TEST_DATA must name the folder of real inputs");
    let home = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(Path::new(&data).join("pass-mini"))
        .unwrap()
        .flatten()
    {
        fs::copy(entry.path(), home.path().join(entry.file_name())).unwrap();
    }
    let config = SourceConfig::Dataset(DatasetConfig {
        data: home.path().to_string_lossy().into_owned(),
        license: None,
    });
    let rows = rows(&config);
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row.refused.is_none()));
    let bird = rows
        .iter()
        .find(|row| row.photo.key == "75f7305b1fd94044e14bdcdde469dbb2")
        .unwrap();
    assert_eq!(
        bird.photo.photographer.as_deref(),
        Some("PaperBird Photography<3")
    );
    assert_eq!(bird.photo.license.as_deref(), Some("Attribution License"));
}
