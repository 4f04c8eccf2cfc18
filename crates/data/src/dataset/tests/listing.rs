//! What other programs leave in folders, archives and shards: no record of it, and none without a count.

use super::*;
use crate::{Listing, Reason};

const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
const TIFF: &[u8] = b"II*\0\x08\0\0\0\0\0";

fn write(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Reason, kind, count and example of each note.
fn notes(listing: &Listing) -> Vec<(Reason, &str, u64, &str)> {
    let notes = listing.notes().iter();
    notes
        .map(|note| (note.reason, note.kind.as_str(), note.count, note.example.as_str()))
        .collect()
}

fn keys(data: &Dataset) -> Vec<String> {
    (0..data.len()).map(|at| data.key(at).unwrap()).collect()
}

/// The members as a tar, compressed as `compress` does.
fn archive(path: &Path, members: &[(&str, &[u8])], compress: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let plain = path.with_extension("plain");
    tar_with(&plain, members);
    fs::write(path, compress(fs::read(&plain).unwrap())).unwrap();
    fs::remove_file(plain).unwrap();
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(plain: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn folders_of_nas_windows_and_mac_are_no_classes_and_their_files_no_records() {
    let folder = class_folder();
    let root = folder.path();
    for name in [
        "@eaDir/0.bmp/SYNOPHOTO_THUMB_M.jpg",
        "ant/@eaDir/0.bmp/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/$R1.jpg",
        "__MACOSX/ant/._0.v1.bmp",
        ".thumbnails/x.jpg",
        ".secret/x.jpg",
        "ant/._0.v1.bmp",
        "ant/.DS_Store",
        "bird/Thumbs.db",
        "ant/.hidden.jpg",
        "ant/1.jpg.part",
        "bird/notes.txt",
        "bird/clip.mov",
    ] {
        write(root, name, &picture(7));
    }
    write(root, "bird/clip.mov", b"\0\0\0\x14ftypqt  ");
    let data = open(root).unwrap();
    assert_eq!(data.class_names(), ["ant", "bird"]);
    assert_eq!(data.len(), 5);
    assert_eq!(
        notes(data.listing()),
        [
            (Reason::NotAnImage, ".mov", 1, "bird/clip.mov"),
            (Reason::SystemFile, "", 3, "ant/.DS_Store"),
            (Reason::SystemFolder, "", 5, "$RECYCLE.BIN"),
            (Reason::HiddenFile, "", 1, "ant/.hidden.jpg"),
            (Reason::HiddenFolder, "", 1, ".secret"),
            (Reason::UnfinishedFile, ".part", 1, "ant/1.jpg.part"),
            (Reason::Document, ".txt", 1, "bird/notes.txt"),
        ]
    );
    // The second opening, with an index, counts the same; so do inspecting and verifying.
    assert_eq!(open(root).unwrap().listing(), data.listing());
    let spec = root.to_str().unwrap();
    assert_eq!(&crate::shards::inspect(spec).unwrap().listing, data.listing());
    assert_eq!(&verify(spec, &|_, _| {}).unwrap().listing, data.listing());
    let out = tempfile::tempdir().unwrap();
    let report = pack(spec, out.path(), &options(10), &|_, _| {}).unwrap();
    assert_eq!((report.records, &report.listing), (5, data.listing()));
    // What was packed is clean.
    assert!(open(out.path()).unwrap().listing().is_empty());
}

#[test]
fn the_content_decides_where_a_name_does_not() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.jfif", "y.jpe", "z", "w.jpg_large", "v.HEIC"] {
        write(folder.path(), &format!("a/{name}"), &picture(1));
    }
    write(folder.path(), "a/real.heic", HEIC);
    write(folder.path(), "a/scan", TIFF);
    write(folder.path(), "a/empty", b"");
    let data = open(folder.path()).unwrap();
    assert_eq!(keys(&data), ["a/v", "a/w", "a/x", "a/y", "a/z"]);
    assert_eq!(
        notes(data.listing()),
        [
            (Reason::UnsupportedFormat, ".heic", 1, "a/real.heic"),
            (Reason::UnsupportedFormat, ".tiff", 1, "a/scan"),
            (Reason::NotAnImage, "without an extension", 1, "a/empty"),
            (Reason::ImageByContent, ".heic", 1, "a/v.HEIC"),
            (Reason::ImageByContent, ".jpg_large", 1, "a/w.jpg_large"),
            (Reason::ImageByContent, ".jfif", 1, "a/x.jfif"),
            (Reason::ImageByContent, ".jpe", 1, "a/y.jpe"),
            (Reason::ImageByContent, "without an extension", 1, "a/z"),
            (Reason::OnlyClass, "", 1, "a"),
        ]
    );
}

#[test]
fn compressed_shards_and_images_beside_shards_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let image = picture(1);
    tar_with(&folder.path().join("s-0.tar"), &[("a.bmp", &image)]);
    fs::copy(folder.path().join("s-0.tar"), folder.path().join("plain")).unwrap();
    let plain = fs::read(folder.path().join("plain")).unwrap();
    fs::remove_file(folder.path().join("plain")).unwrap();
    write(folder.path(), "s-1.tar.gz", &gzip(&plain));
    write(
        folder.path(),
        "s-2.tar.zst",
        &zstd::encode_all(&plain[..], 1).unwrap(),
    );
    write(folder.path(), "loose.jpg", &image);
    write(folder.path(), "class/x.jpg", &image);
    write(folder.path(), "README.md", b"text");
    let data = open(folder.path()).unwrap();
    let expected = [
        (Reason::CompressedShard, ".gz", 1, "s-1.tar.gz"),
        (Reason::CompressedShard, ".zst", 1, "s-2.tar.zst"),
        (Reason::BesideShards, "folders", 1, "class"),
        (Reason::BesideShards, ".jpg", 1, "loose.jpg"),
        (Reason::Document, ".md", 1, "README.md"),
    ];
    assert_eq!((data.len(), notes(data.listing())), (1, expected.to_vec()));
    // The index that now lies beside the shard is not counted.
    assert_eq!(notes(open(folder.path()).unwrap().listing()), expected);
    let verified = verify(folder.path().to_str().unwrap(), &|_, _| {}).unwrap();
    assert_eq!(notes(&verified.listing), expected);

    let alone = tempfile::tempdir().unwrap();
    write(alone.path(), "s-1.tar.gz", &gzip(&plain));
    let error = open(alone.path()).unwrap_err();
    assert!(
        error.to_string().contains("1 .gz (such as `s-1.tar.gz`)"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::UnpackShards));
    let file = alone.path().join("renamed.tar");
    write(alone.path(), "renamed.tar", &bzip2(&plain));
    assert_eq!(
        open(&file).unwrap_err().hint(),
        Some(crate::Hint::UnpackOrPack {
            compression: crate::Compression::Bzip2
        })
    );
}

#[test]
fn every_compression_is_packed_and_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let images: Vec<Vec<u8>> = (0..4).map(picture).collect();
    let members: Vec<(&str, &[u8])> = ["b/0.bmp", "b/1.bmp", "a/0.bmp", "a/1"]
        .into_iter()
        .zip(images.iter().map(Vec::as_slice))
        .collect();
    let mut fingerprints = Vec::new();
    for (number, compress) in [
        (|plain: Vec<u8>| gzip(&plain)) as fn(Vec<u8>) -> Vec<u8>,
        |plain| bzip2(&plain),
        |plain| zstd::encode_all(&plain[..], 1).unwrap(),
        // In two streams, as tools that compress in parallel write.
        |plain| [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        // The name says nothing.
        let path = folder.path().join(format!("photos{number}"));
        archive(&path, &members, compress);
        let out = folder.path().join(format!("out{number}"));
        let report = pack(path.to_str().unwrap(), &out, &options(10), &|_, _| {}).unwrap();
        assert_eq!((report.records, report.class_names.join(" ")), (4, "a b".into()));
        assert_eq!(
            notes(&report.listing),
            [(Reason::ImageByContent, "without an extension", 1, "a/1")]
        );
        let data = open(&out).unwrap();
        assert_eq!(data.read(3).unwrap().image, images[3]);
        fingerprints.push(report.fingerprint);
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1);
}

#[test]
fn what_is_in_an_archive_and_no_image_is_counted_like_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let image = picture(1);
    let path = folder.path().join("photos.tar.gz");
    let members: [(&str, &[u8]); 9] = [
        ("photos/a/0.bmp", &image),
        ("photos/b/0.bmp", &image),
        ("__MACOSX/photos/a/._0.bmp", b"\0\x05\x16\x07\0\x02\0\0"),
        ("photos/a/.0.bmp", &image),
        ("photos/a/@eaDir/0.bmp/T.jpg", &image),
        ("photos/a/1.heic", HEIC),
        ("photos/b/inner.zip", b"PK\x03\x04"),
        ("photos/notes.txt", b"x"),
        ("photos/.DS_Store", b"x"),
    ];
    archive(&path, &members, |plain| gzip(&plain));
    let spec = path.to_str().unwrap();
    let report = pack(spec, &folder.path().join("out"), &options(10), &|_, _| {}).unwrap();
    assert_eq!(report.records, 2);
    assert_eq!(
        notes(&report.listing),
        [
            (Reason::UnsupportedFormat, ".heic", 1, "photos/a/1.heic"),
            (Reason::Archive, ".zip", 1, "photos/b/inner.zip"),
            (Reason::SystemFile, "", 1, "photos/.DS_Store"),
            (Reason::SystemFolder, "", 2, "__MACOSX/photos/a/._0.bmp"),
            (Reason::HiddenFile, "", 1, "photos/a/.0.bmp"),
            (Reason::Document, ".txt", 1, "photos/notes.txt"),
            // `tar czf photos.tar.gz photos`: the folder around everything is no class.
            (Reason::WrapperFolder, "", 1, "photos"),
        ]
    );
    let inside = PackOptions {
        subfolder: Some("photos".into()),
        ..options(10)
    };
    let report = pack(spec, &folder.path().join("inside"), &inside, &|_, _| {}).unwrap();
    assert_eq!(report.class_names, ["a", "b"]);
    assert_eq!(report.listing.count(Reason::WrapperFolder), 0);
}

#[test]
fn of_several_images_the_photo_is_taken_and_never_the_mask() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let [mask, photo] = [picture(1), picture(2)];
    let members: [(&str, &[u8]); 9] = [
        ("0.png", &mask),
        ("0.webp", &photo),
        ("1.jpg", &photo),
        ("1.png", &mask),
        ("1.seg.png", &mask),
        ("2", &mask),
        ("2.cls", b"3"),
        ("2.jpeg", &photo),
        ("3.png", &mask),
    ];
    tar_with(&shard, &members);
    let data = open(&shard).unwrap();
    assert_eq!(keys(&data), ["0", "1", "2", "3"]);
    let taken = |at: usize| data.read(at).unwrap().image;
    assert_eq!(
        [taken(0), taken(1), taken(2)],
        [photo.clone(), photo.clone(), photo]
    );
    assert_eq!((taken(3), data.label(2).unwrap()), (mask, Some(Label::Class(3))));
    assert_eq!(
        notes(data.listing()),
        [
            (Reason::FurtherImage, ".seg.png", 1, "1.seg.png"),
            (Reason::OneOfSeveralImages, "", 3, "0.webp, not 0.png"),
        ]
    );
    // From the index too.
    assert_eq!(open(&shard).unwrap().listing(), data.listing());
}

#[test]
fn members_that_are_no_record_are_counted_and_a_shard_without_any_says_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("s.tar");
    let image = picture(1);
    let members: [(&str, &[u8]); 10] = [
        ("a.jfif", &image),
        ("a.txt", b"a caption"),
        ("b.cls", b"1"),
        ("c.heic", HEIC),
        (".d.jpg", &image),
        ("@eaDir/e.jpg", &image),
        ("__photos__/f.jpg", &image),
        ("__index__", b"x"),
        ("g.input.jpg", &image),
        ("g.output.jpg", &image),
    ];
    tar_with(&shard, &members);
    let data = open(&shard).unwrap();
    assert_eq!(keys(&data), ["a"]);
    let expected = [
        (Reason::UnsupportedFormat, ".heic", 1, "c.heic"),
        (Reason::SystemFolder, "", 2, "@eaDir/e.jpg"),
        (Reason::HiddenFile, "", 1, ".d.jpg"),
        (Reason::NoImage, ".cls", 1, "b.cls"),
        (Reason::OtherName, ".input.jpg", 1, "g.input.jpg"),
        (Reason::OtherName, ".output.jpg", 1, "g.output.jpg"),
        (Reason::ImageByContent, ".jfif", 1, "a.jfif"),
    ];
    assert_eq!(notes(data.listing()), expected);

    let named = folder.path().join("named.tar");
    tar_with(&named, &[("0.input.jpg", &image), ("1.input.jpg", &image)]);
    let error = open(&named).unwrap_err();
    assert!(
        error.to_string().contains("2 .input.jpg (such as `0.input.jpg`)"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::NameImages));
    let outer = folder.path().join("train.tar");
    tar_with(
        &outer,
        &[("n0.tar", &fs::read(&named).unwrap()), ("n1.tar", b"x")],
    );
    let error = open(&outer).unwrap_err();
    assert!(error.to_string().contains("2 .tar (such as `n0.tar`)"), "{error}");
    assert_eq!(error.hint(), Some(crate::Hint::UnpackInner));
}

#[test]
fn archives_one_behind_the_other_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
    let (a, b) = (picture(1), picture(2));
    tar_with(&one, &[("a.bmp", &a), ("b.bmp", &b)]);
    tar_with(&two, &[("b.bmp", &a), ("C.bmp", &b), ("c.bmp", &b)]);
    let both = [fs::read(&one).unwrap(), fs::read(&two).unwrap()].concat();
    let shard = folder.path().join("both.tar");
    fs::write(&shard, &both).unwrap();
    let data = open(&shard).unwrap();
    assert_eq!(keys(&data), ["a", "b", "b", "C", "c"]);
    assert_eq!(data.read(4).unwrap().image, b);
    let expected = [
        (Reason::RepeatedKey, "", 1, "b"),
        (Reason::KeysEqualButForCase, "", 1, "C, c"),
        (Reason::ConcatenatedArchives, "", 1, "both.tar"),
    ];
    assert_eq!(notes(data.listing()), expected);
    assert_eq!(
        notes(&verify(shard.to_str().unwrap(), &|_, _| {}).unwrap().listing),
        expected
    );
    // Bytes behind the end are no archive.
    let tail = folder.path().join("tail.tar");
    fs::write(&tail, [fs::read(&one).unwrap(), b"appended".repeat(200)].concat()).unwrap();
    let data = open(&tail).unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(notes(data.listing()), [(Reason::BehindTheEnd, "", 1, "tail.tar")]);

    let packed = folder.path().join("both.tar.gz");
    archive(&packed, &[("x/a.bmp", &a)], |plain| {
        gzip(&[plain.clone(), plain].concat())
    });
    let error = pack(
        packed.to_str().unwrap(),
        &folder.path().join("out"),
        &options(9),
        &|_, _| {},
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("a second record has this key")
    );
}

#[test]
fn a_shard_that_is_something_else_is_named_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str, content: &[u8]| {
        write(folder.path(), name, content);
        let error = open(&folder.path().join(name)).unwrap_err();
        (error.to_string(), error.hint())
    };
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    for name in ["lfs.tar", "lfs.bin"] {
        let (error, hint) = told(name, pointer);
        assert!(error.contains("Git LFS's pointer to the file"), "{error}");
        assert_eq!(hint, Some(crate::Hint::FetchFromGitLfs));
    }
    let (error, hint) = told("page.tar", b"<!DOCTYPE html><html>");
    assert!(error.contains("a web page, not a tar"), "{error}");
    assert_eq!(hint, Some(crate::Hint::DownloadAgain));
    assert!(told("photo.tar", &picture(1)).0.contains("an image, not a tar"));
    let (error, hint) = told("photo", &picture(1));
    assert!(error.contains("one picture is no data set"), "{error}");
    assert_eq!(hint, Some(crate::Hint::GiveFolder));
}

#[test]
fn pictures_that_a_table_does_not_name_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in [
        "img/a/0.bmp",
        "img/a/1.bmp",
        "img/a/2.bmp",
        "img/b/3.BMP",
        "img/b/listed.dat",
        "img/b/more.dat",
        "img/@eaDir/4.bmp",
    ] {
        write(root, name, &picture(1));
    }
    write(root, "img/b/x.heic", HEIC);
    write(root, "img/b/other.txt", &picture(2));
    write(root, "img/notes.txt", b"x");
    let table =
        "path,label,split\na/0.bmp,x,train\n.\\a\\1.bmp,y,test\nb/listed.dat,x,train\nb/other.txt,y,train\n";
    write(root, "t.csv", table.as_bytes());
    let description = "kind = 'csv'\npath = 'img'\nlabels = 't.csv'\nimage_column = 'path'\nlabel_column = 'label'\nonly = { split = 'train' }\n";
    write(root, "d.toml", description.as_bytes());
    let data = open(&root.join("d.toml")).unwrap();
    assert_eq!(data.len(), 3);
    // `1.bmp` is in the other split; what the table lists is no guess, whatever its name.
    assert_eq!(
        notes(data.listing()),
        [
            (Reason::NotListed, ".bmp", 2, "a/2.bmp"),
            (Reason::NotListed, ".dat", 1, "b/more.dat"),
            (Reason::NotListed, ".heic", 1, "b/x.heic"),
        ]
    );
    assert_eq!(
        data.listing().lines()[0],
        "pictures that the labels do not name were skipped: 2 .bmp (such as `a/2.bmp`), 1 .dat (such as `b/more.dat`), \
         1 .heic (such as `b/x.heic`); \
         add them to the labels if they belong to the data"
    );
}

#[cfg(unix)]
#[test]
fn what_a_table_does_not_need_may_be_broken() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "0.bmp", &picture(1));
    std::os::unix::fs::symlink("nowhere.bmp", folder.path().join("gone.bmp")).unwrap();
    std::os::unix::fs::symlink(".", folder.path().join("round")).unwrap();
    write(folder.path(), "t.csv", b"0.bmp,1\n");
    let description = "kind = 'csv'\npath = '.'\nlabels = 't.csv'\nimage_column = 0\nlabel_column = 1\n";
    write(folder.path(), "d.toml", description.as_bytes());
    // The second time, the table's own index lies beside it.
    for _ in 0..2 {
        let data = open(&folder.path().join("d.toml")).unwrap();
        assert!(data.listing().is_empty());
    }
}

#[test]
fn classes_by_a_guess_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let guessed = |names: &[&str]| {
        let root = folder.path().join(names.join("-").replace('/', "_"));
        for name in names {
            write(&root, &format!("{name}/x.bmp"), &picture(1));
        }
        let data = open(&root).unwrap();
        let notes = notes(data.listing()).into_iter();
        notes
            .map(|(reason, _, count, example)| (reason, count, example.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(guessed(&["one"]), [(Reason::OnlyClass, 1, "one".into())]);
    assert_eq!(guessed(&["w/a", "w/b"]), [(Reason::WrapperFolder, 1, "w".into())]);
    assert_eq!(
        guessed(&["train", "test"]),
        [(Reason::SplitsAsClasses, 2, "test".into())]
    );
    assert_eq!(
        guessed(&["Cat", "cat", "dog"]),
        [
            (Reason::KeysEqualButForCase, 1, "Cat/x, cat/x".into()),
            (Reason::ClassesEqualButForCase, 1, "Cat, cat".into()),
        ]
    );
    for splits in [
        ["train2017", "val2017"],
        ["test_images", "train_images"],
        ["train", "unlabeled"],
    ] {
        assert_eq!(guessed(&splits), [(Reason::SplitsAsClasses, 2, splits[0].into())]);
    }
    for parts in [["images", "masks"], ["Annotations", "JPEGImages"]] {
        assert_eq!(guessed(&parts), [(Reason::PartsAsClasses, 2, parts[0].into())]);
    }
    // Classes of things that have these words in their names.
    assert_eq!(guessed(&["bullet train", "test tube"]), []);
    assert_eq!(guessed(&["images", "paintings"]), []);
    assert_eq!(guessed(&["a", "b"]), []);
}

#[test]
fn masks_and_small_copies_beside_their_photos_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "a/x.bmp",
        "a/x_mask.png",
        "a/x_thumb.bmp",
        "b/y (1).bmp",
        "b/y (1)_MASK.png",
        "b/mask.bmp",
        "b/z_seg.bmp",
    ] {
        write(folder.path(), name, &picture(1));
    }
    let data = open(folder.path()).unwrap();
    // `z_seg` has no photo that it would be of.
    let companions: Vec<(u64, &str)> = notes(data.listing())
        .into_iter()
        .filter(|(reason, ..)| *reason == Reason::Companion)
        .map(|(_, _, count, example)| (count, example))
        .collect();
    assert_eq!(companions, [(3, "a/x_mask.png")]);
    assert_eq!(data.len(), 7);
}

#[test]
fn an_address_is_no_file_of_this_machine() {
    for spec in [
        "s3://bucket/train-{000..010}.tar",
        "https://host.example/a.tar",
        "hdfs://x/y",
    ] {
        let error = crate::Dataset::open(spec).unwrap_err().to_string();
        assert!(error.contains("only files on this machine are read"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_to_the_same_data_and_pipes_are_counted() {
    use std::os::unix::fs::symlink;
    let folder = class_folder();
    symlink(folder.path().join("ant"), folder.path().join("emmet")).unwrap();
    let elsewhere = class_folder();
    symlink(elsewhere.path().join("bird"), folder.path().join("fowl")).unwrap();
    // Emacs locks a file that is edited with a link to nowhere.
    symlink("user@host.1:2", folder.path().join("ant/.#notes")).unwrap();
    symlink("0.v1.bmp", folder.path().join("bird/again.bmp")).unwrap();
    symlink(
        elsewhere.path().join("ant/0.v1.bmp"),
        folder.path().join("bird/new.bmp"),
    )
    .unwrap();
    let socket = std::os::unix::net::UnixListener::bind(folder.path().join("ant/s.jpg")).unwrap();
    let data = open(folder.path()).unwrap();
    drop(socket);
    assert_eq!(data.len(), 2 + 3 + 2 + 3 + 2);
    assert_eq!(
        notes(data.listing()),
        [
            // Each once more through the link.
            (Reason::HiddenFile, "", 2, "ant/.#notes"),
            (Reason::NotAFile, "", 2, "ant/s.jpg"),
            (Reason::LinkedTwice, "files", 1, "bird/again.bmp"),
            (Reason::LinkedTwice, "folders", 1, "emmet"),
        ]
    );
}

#[test]
fn two_files_of_one_key_are_told_when_a_folder_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a/x.png", "a/x.jpg", "b/y.jpg"] {
        write(folder.path(), name, &picture(1));
    }
    let data = open(folder.path()).unwrap();
    assert_eq!(notes(data.listing()), [(Reason::RepeatedKey, "", 1, "a/x")]);
    let found = verify(folder.path().to_str().unwrap(), &|_, _| {}).unwrap();
    assert_eq!(
        (found.repeated[0].name.as_str(), found.is_sound()),
        ("a/x", false)
    );
}

#[test]
fn an_index_of_an_earlier_version_that_skipped_members_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = IndexStore::with_cache(folder.path());
    let shard = folder.path().join("s.tar");
    let image = picture(1);
    tar_with(&shard, &[("a.bmp", &image), ("b.cls", b"1")]);
    let (origin, mut table) = tar_shard::scan(&shard).unwrap();
    table.listing = None;
    store.save(&shard, false, &origin, &table).unwrap();
    let spec = shard.to_str().unwrap();
    let data = Dataset::open_with(spec, &store).unwrap();
    assert_eq!(notes(data.listing()), [(Reason::NoImage, ".cls", 1, "b.cls")]);
    assert!(store.load(&shard, false).unwrap().1.listing.is_some());
    // One that skipped nothing is taken as it is.
    table.skipped_count = 0;
    store.save(&shard, false, &origin, &table).unwrap();
    assert!(Dataset::open_with(spec, &store).unwrap().listing().is_empty());
    assert!(store.load(&shard, false).unwrap().1.listing.is_none());
}
