//! Files that others make, damaged by a stateless generator: each reader refuses them or reads them, without a panic, in 5 s and 1 GiB.
//!
//! `PASSER_DAMAGED_FILES=1000000` sets how many of each kind are tried, `PASSER_DAMAGED_FROM` the first seed, and
//! `PASSER_DAMAGED_SECONDS` ends each kind then. A file is a function of its kind and its seed. A crash that ends the program leaves
//! the seed in the file that `PASSER_DAMAGED_NOTE` names.

use crate::runs::photos;
use crate::{passer, root};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SLOWEST: Duration = Duration::from_secs(5);
const MOST_KIB: u64 = 1 << 20;

/// Numbers that are a function of the seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Pieces that readers of texts and of binary numbers stumble over.
const PIECES: [&[u8]; 30] = [
    b"-1",
    b"0",
    b"18446744073709551615",
    b"9223372036854775808",
    b"1e400",
    b"NaN",
    b"1e-320",
    b"null",
    b"\"",
    b"[",
    b"{",
    b"]",
    b"}",
    b",",
    b"\t",
    b"\r\n",
    b"\n",
    b"\0",
    b"<",
    b"&#0;",
    b"../..",
    b"\xEF\xBB\xBF",
    b"\xFF\xFE",
    b"\xC3\x28",
    b"\xFF\xFF\xFF\xFF",
    b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F",
    b"\x00\x00\x00\x80",
    b"\x00\x00\x00\x00\x01\x00\x00\x00",
    b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",
    b"e\xCC\x81",
];

/// One to four faults: bytes changed, lost, doubled, put in, cut off, repeated a thousand times.
fn damage(file: &mut Vec<u8>, draw: &mut Draw) {
    for _ in 0..1 + draw.below(4) {
        let length = file.len();
        // Tables of contents are at the start and at the end of a file.
        let at = match draw.below(4) {
            0 => draw.below(length.min(64)),
            1 => draw.below(length.min(4096)),
            2 => length.saturating_sub(1 + draw.below(4096)),
            _ => draw.below(length),
        };
        let end = (at + 1 + draw.below(12)).min(length);
        let at = at.min(end);
        match draw.below(12) {
            0 | 1 if at < length => file[at] = draw.below(256) as u8,
            2 | 3 if at < length => file[at] ^= 1 << draw.below(8),
            4 => file.insert(at, draw.below(256) as u8),
            5 => drop(file.drain(at..end)),
            6 => drop(file.splice(at..end, PIECES[draw.below(PIECES.len())].iter().copied())),
            7 => drop(file.splice(at..at, PIECES[draw.below(PIECES.len())].iter().copied())),
            8 => {
                let part = file[at..end].to_vec();
                file.splice(at..at, part);
            }
            9 => {
                let piece = PIECES[draw.below(PIECES.len())];
                let part = piece.repeat([2, 40, 1_000, 20_000][draw.below(4)]);
                file.splice(at..at, part);
            }
            10 => {
                let piece = PIECES[24 + draw.below(5)];
                let end = (at + piece.len()).min(length);
                file.splice(at..end, piece.iter().copied());
            }
            _ if draw.below(4) == 0 => file.truncate(at),
            _ => {}
        }
    }
}

/// The highest memory of this process, KiB; 0 where the system does not tell.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Damages one of `files` for each seed and hands it over, with its place among them; `read` says whether it was accepted.
fn try_all(kind: &str, files: &[Vec<u8>], mut read: impl FnMut(usize, &[u8]) -> bool) {
    let (count, from) = (
        number("PASSER_DAMAGED_FILES").unwrap_or(60),
        number("PASSER_DAMAGED_FROM").unwrap_or(0),
    );
    let seconds = number("PASSER_DAMAGED_SECONDS").map(Duration::from_secs);
    let note = std::env::var("PASSER_DAMAGED_NOTE").ok();
    for (place, file) in files.iter().enumerate() {
        assert!(
            read(place, file),
            "{kind}: file {place} is refused although it is whole"
        );
    }
    let began = Instant::now();
    let (mut tried, mut accepted, mut faults) = (0, 0, vec![]);
    let mut peak = peak_kib();
    for seed in from..from + count {
        if seconds.is_some_and(|seconds| began.elapsed() > seconds) || faults.len() > 20 {
            break;
        }
        if let Some(note) = &note {
            std::fs::write(note, format!("{kind} {seed}")).unwrap();
        }
        let mut draw = Draw(seed);
        let place = draw.below(files.len());
        let mut file = files[place].clone();
        damage(&mut file, &mut draw);
        let started = Instant::now();
        let outcome = data::caught(|| read(place, &file));
        tried += 1;
        match outcome {
            Ok(whole) => accepted += u64::from(whole),
            Err(message) => faults.push(format!("seed {seed} (file {place}): panic: {message}")),
        }
        if started.elapsed() > SLOWEST {
            faults.push(format!("seed {seed} (file {place}): {:?}", started.elapsed()));
        }
        let now = peak_kib();
        if now > peak + MOST_KIB {
            faults.push(format!(
                "seed {seed} (file {place}): {} MiB more",
                (now - peak) >> 10
            ));
        }
        peak = peak.max(now);
    }
    eprintln!(
        "{kind}: {tried} damaged files in {:.0} s, {accepted} accepted, {} faults",
        began.elapsed().as_secs_f64(),
        faults.len()
    );
    assert!(faults.is_empty(), "{kind}: {faults:#?}");
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = vec![];
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// Reads a file of weights as `passer weights inspect` does: table of contents, layout, and the first tensors.
fn weights_are_read(bytes: &[u8]) -> bool {
    let mut source = Cursor::new(bytes);
    let Ok(checkpoint) = weights::Checkpoint::open(&mut source) else {
        return false;
    };
    for (_, tensor) in checkpoint.tensors().into_iter().take(8) {
        let _ = tensor.read(&mut source);
    }
    let device = burn::tensor::Device::flex();
    let _ = weights::Import::plan(&checkpoint, &weights::ImportOptions::default(), &device);
    true
}

#[test]
fn weights_of_other_programs() {
    let folder = root().join("crates/weights/fixtures/layouts");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut files: Vec<Vec<u8>> = paths.iter().map(|path| unpacked(path)).collect();
    files.retain(|file| file.len() < 4 << 20);
    files.push(std::fs::read(root().join("crates/detection/fixtures/detectron2_cascade.pkl")).unwrap());
    try_all("weights", &files, |_, bytes| weights_are_read(bytes));
}

#[test]
#[cfg_attr(not(feature = "real-inputs"), ignore = "needs PASSER_TEST_DATA")]
fn networks_in_onnx() {
    let models = PathBuf::from(std::env::var("PASSER_TEST_DATA").unwrap()).join("models");
    let file = std::fs::read(models.join("yolox_nano.onnx")).unwrap();
    let device = burn::tensor::Device::flex();
    try_all("onnx", &[file], |_, bytes| {
        detection::Yolox::read(
            &mut Cursor::new(bytes),
            detection::YoloxConfig::persons(),
            &device,
        )
        .is_ok()
    });
}

#[test]
fn configs() {
    let of = |folder: &str| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join("configs").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
            .collect();
        paths.sort();
        paths.into_iter().map(|path| std::fs::read(path).unwrap())
    };
    let is_curation =
        |text: &str| data::settings::read::<curation::Config>(text, &[], |_| (), |_| Ok(())).is_ok();
    let is_evaluation =
        |text: &str| data::settings::read::<evaluation::Config>(text, &[], |_| (), |_| Ok(())).is_ok();
    let mut files: Vec<Vec<u8>> = of("curate").chain(of("evaluate")).collect();
    // Configs of fine-tunings are of a third kind.
    files.retain(|file| {
        let text = String::from_utf8_lossy(file);
        is_curation(&text) || is_evaluation(&text)
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.toml");
    try_all("toml", &files, |_, bytes| {
        std::fs::write(&path, bytes).unwrap();
        // Whatever it is meant to be.
        let _ = data::Dataset::about(path.to_str().unwrap());
        let text = String::from_utf8_lossy(bytes);
        let both = [is_curation(&text), is_evaluation(&text)];
        both.contains(&true)
    });
}

/// A picture as PNG.
fn png(width: u32, height: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 9, y as u8 * 7, 90]));
    let mut bytes = vec![];
    image
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

/// Opens a data set with its objects, and reads its records.
fn data_are_read(spec: &str) -> bool {
    let opened = data::Dataset::open_with_objects(spec).or_else(|_| data::Dataset::reopen(spec));
    let Ok(dataset) = opened else { return false };
    for position in 0..dataset.len().min(16) {
        let _ = (
            dataset.key(position),
            dataset.label(position),
            dataset.undecided(position),
        );
        if let Ok(record) = dataset.read(position) {
            drop(record);
        }
    }
    let _ = dataset.licenses();
    true
}

/// Files below a new folder, of which the one named `damaged` differs each time.
fn data_set(kind: &str, description: &str, files: &[(&str, Vec<u8>)], damaged: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let seeds: Vec<Vec<u8>> = damaged
        .iter()
        .map(|name| files.iter().find(|(other, _)| other == name).unwrap().1.clone())
        .collect();
    let mut count = 0;
    try_all(kind, &seeds, |place, bytes| {
        // A folder of its own, so that no index of an earlier one is taken.
        count += 1;
        let folder = home.path().join(format!("{count}"));
        for (name, whole) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = if *name == damaged[place] { bytes } else { whole };
            std::fs::write(path, bytes).unwrap();
        }
        let spec = folder.join("data.toml");
        std::fs::write(&spec, description).unwrap();
        let result = data::caught(|| data_are_read(&format!("{}#train", spec.display())));
        std::fs::remove_dir_all(&folder).unwrap();
        result.unwrap_or_else(|message| panic!("{message}"))
    });
}

#[test]
fn idx_files() {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5][..], &[7; 60]].concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 3, 0, 1, 2];
    let description = "name = \"n\"\nclasses = [\"a\", \"b\", \"c\"]\n[splits.train]\nkind = \"idx\"\npath = \"images\"\nlabels = \"labels\"\n";
    let packed = {
        let mut packer = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        std::io::Write::write_all(&mut packer, &images).unwrap();
        packer.finish().unwrap()
    };
    let plain = [("images", images), ("labels", labels.clone())];
    data_set("idx", description, &plain, &["images", "labels"]);
    let gz = [("images.gz", packed), ("labels", labels)];
    data_set("idx.gz", description, &gz, &["images.gz"]);
}

#[test]
fn coco_files() {
    let json = r#"{"info":{"year":2017},"images":[{"id":7,"file_name":"a.png","width":20,"height":16},{"id":9,"file_name":"b.png","width":20,"height":16}],
"annotations":[{"id":1,"image_id":7,"category_id":3,"bbox":[1.5,2,8.25,9],"area":70.5,"iscrowd":0,"segmentation":[[1,2,9,2,9,11,1,11]]},
{"id":2,"image_id":9,"category_id":4,"bbox":[0,0,4,4],"area":16,"iscrowd":1,"segmentation":{"size":[16,20],"counts":[0,4,316]}},
{"id":3,"image_id":9,"category_id":4,"bbox":[0,0,4,4],"area":16,"iscrowd":0,"segmentation":{"size":[16,20],"counts":"04l9"}}],
"categories":[{"id":3,"name":"cat","supercategory":"animal"},{"id":4,"name":"dog","supercategory":"animal"}]}"#;
    let files = [
        ("images/a.png", png(20, 16)),
        ("images/b.png", png(20, 16)),
        ("labels.json", json.into()),
    ];
    let description =
        "name = \"n\"\n[splits.train]\nkind = \"coco\"\npath = \"images\"\nlabels = \"labels.json\"\n";
    data_set("coco", description, &files, &["labels.json"]);
}

#[test]
fn voc_files() {
    let xml = "<?xml version=\"1.0\"?>\n<annotation><folder>VOC</folder><filename>a.png</filename><size><width>20</width><height>16</height><depth>3</depth></size><object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object><object><name>dog &amp; co</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4.5</ymax></bndbox></object></annotation>\n";
    let files = [
        ("JPEGImages/a.png", png(20, 16)),
        ("Annotations/a.xml", xml.into()),
        ("ImageSets/Main/trainval.txt", b"a\n".to_vec()),
    ];
    let description = "name = \"n\"\n[splits.train]\nkind = \"voc\"\npath = \".\"\nlist = \"trainval\"\n";
    let damaged = ["Annotations/a.xml", "ImageSets/Main/trainval.txt"];
    data_set("voc", description, &files, &damaged);
}

#[test]
fn yolo_files() {
    let files = [
        ("images/a.png", png(20, 16)),
        ("images/b.png", png(20, 16)),
        (
            "labels/a.txt",
            b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.9 0.1 0.9 0.9\n".to_vec(),
        ),
        ("labels/b.txt", b"".to_vec()),
        (
            "data.yaml",
            b"path: .\ntrain: images\nnc: 2\nnames:\n  0: cat\n  1: 'dog: big'\n".to_vec(),
        ),
    ];
    let description = "name = \"n\"\n[splits.train]\nkind = \"yolo\"\npath = \".\"\n";
    data_set("yolo", description, &files, &["labels/a.txt", "data.yaml"]);
}

#[test]
fn csv_tables() {
    let table = "image,label,split\na.png,cat;dog,train\n\"b.png\",\"cat\",train\nc.png,dog,test\n";
    let files = [
        ("images/a.png", png(8, 8)),
        ("images/b.png", png(8, 8)),
        ("labels.csv", table.into()),
    ];
    let description = "name = \"n\"\nclasses = [\"cat\", \"dog\"]\n[splits.train]\nkind = \"csv\"\npath = \"images\"\nlabels = \"labels.csv\"\nimage_column = \"image\"\nlabel_column = \"label\"\nseparator = \",\"\nlabel_separator = \";\"\nonly = { split = \"train\" }\n";
    data_set("csv", description, &files, &["labels.csv"]);
}

/// A shard of pictures with `.cls` and `.json`, and its index.
fn shard(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let path = folder.join("s-000000.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for name in ["a", "b"] {
        let members = [
            ("png", png(8, 8)),
            ("cls", b"1".to_vec()),
            (
                "json",
                br#"{"license":"CC0-1.0","objects":[{"class":0,"box":[1,1,4,4]}]}"#.to_vec(),
            ),
        ];
        for (kind, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive
                .append_data(&mut header, format!("{name}.{kind}"), &bytes[..])
                .unwrap();
        }
    }
    archive.into_inner().unwrap();
    data::Dataset::reopen(path.to_str().unwrap()).unwrap();
    let index = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let index = index.into_iter().find(|other| *other != path).unwrap();
    (std::fs::read(&path).unwrap(), std::fs::read(index).unwrap())
}

#[test]
fn shards_and_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let (tar, _) = shard(folder.path());
    let mut count = 0;
    try_all("shard", &[tar], |_, bytes| {
        count += 1;
        let own = folder.path().join(format!("{count}"));
        std::fs::create_dir(&own).unwrap();
        let path = own.join("s-000000.tar");
        std::fs::write(&path, bytes).unwrap();
        let result = data::caught(|| data_are_read(path.to_str().unwrap()));
        std::fs::remove_dir_all(&own).unwrap();
        result.unwrap_or_else(|message| panic!("{message}"))
    });
}

#[test]
fn indexes_of_shards() {
    let folder = tempfile::tempdir().unwrap();
    let (_, index) = shard(folder.path());
    let path = folder.path().join("s-000000.tar");
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let beside = entries
        .map(|entry| entry.unwrap().path())
        .find(|other| *other != path)
        .unwrap();
    // An index that is damaged is made anew, so every file opens.
    try_all("index", &[index], |_, bytes| {
        std::fs::write(&beside, bytes).unwrap();
        data_are_read(path.to_str().unwrap())
    });
}

#[test]
fn features_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    let encoder = root().join("tests/old/0.1/moco-encoder.safetensors");
    let mut command = passer();
    command
        .args(["features", "--device", "flex", "--size-px", "32", "--encoder"])
        .arg(encoder);
    command
        .arg("--data")
        .arg(photos(folder.path()))
        .arg("--out")
        .arg(&path)
        .assert()
        .success();
    let whole = std::fs::read(&path).unwrap();
    try_all("features", &[whole], |_, bytes| {
        std::fs::write(&path, bytes).unwrap();
        evaluation::Features::load(&path).is_ok()
    });
}
