//! The event file, read back by a decoder that shares nothing with its writer.

use super::*;
use std::collections::BTreeMap;

/// CRC-32C bit by bit, without a table.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let odd = (crc ^ u32::from(byte >> bit)) & 1 == 1;
            crc >>= 1;
            if odd {
                crc ^= 0x82F6_3B78;
            }
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// The messages of a file whose checksums hold.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![];
    while !bytes.is_empty() {
        let number = |part: &[u8]| u32::from_le_bytes(part.try_into().unwrap());
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&bytes[8..12]), checksum(&bytes[..8]));
        let message = &bytes[12..12 + length];
        assert_eq!(number(&bytes[12 + length..16 + length]), checksum(message));
        found.push(message.to_vec());
        bytes = &bytes[16 + length..];
    }
    found
}

/// A field of a message: a number (as its bits) or bytes.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Field {
    fn bytes(&self) -> &[u8] {
        match self {
            Field::Bytes(bytes) => bytes,
            Field::Number(number) => panic!("{number} is not a message"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return value;
        }
    }
}

/// The fields of a message, by number.
fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Field>> {
    let mut found = BTreeMap::<u64, Vec<Field>>::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let mut take = |length: usize| {
            let (taken, rest) = bytes.split_at(length);
            bytes = rest;
            taken.to_vec()
        };
        let field = match key & 7 {
            1 => Field::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
            5 => Field::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (taken, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(taken.to_vec())
            }
            wire => panic!("wire type {wire}"),
        };
        found.entry(key >> 3).or_default().push(field);
    }
    found
}

/// Wall time and value of every scalar, by tag and step.
fn scalars(path: &Path) -> BTreeMap<(String, u64), (f64, f32)> {
    let mut found = BTreeMap::new();
    for record in records(&fs::read(path).unwrap()) {
        let event = fields(&record);
        let number = |tag: u64| match event.get(&tag) {
            Some(values) => match values[0] {
                Field::Number(number) => number,
                Field::Bytes(_) => panic!("field {tag} has bytes"),
            },
            None => 0,
        };
        for summary in event.get(&5).into_iter().flatten() {
            for value in &fields(summary.bytes())[&1] {
                let value = fields(value.bytes());
                if let Some([Field::Number(bits)]) = value.get(&2).map(Vec::as_slice) {
                    let value_of_scalar = f32::from_bits(*bits as u32);
                    let key = (value[&1][0].text(), number(2));
                    let before = found.insert(key, (f64::from_bits(number(1)), value_of_scalar));
                    assert_eq!(before, None, "a scalar is there twice");
                }
            }
        }
    }
    found
}

fn line(step: usize) -> LogLine {
    LogLine {
        step,
        epoch: 0,
        loss: 1.0 / step as f32,
        learning_rate: 0.1,
        signals: BTreeMap::from([("similarity".into(), 0.0)]),
        loss_scale: None,
        skipped_steps: None,
        images_per_second: 8.0,
        data_wait: 0.5,
        device_memory_mib: None,
        device_busy: None,
        unix_seconds: Some(1000.5 + step as f64),
    }
}

fn event_files(run: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(BEGINNING))
        .collect();
    files.sort();
    files
}

#[test]
fn checksums_are_the_published_ones() {
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(masked_crc32c(b"123456789"), checksum(b"123456789"));
}

#[test]
fn every_number_of_every_line_is_read_back_once() {
    let run = tempfile::tempdir().unwrap();
    let mut events = EventFile::derive(run.path(), &[line(2), line(4)], &[]).unwrap();
    let mut old = line(6);
    old.unix_seconds = None;
    events.push(&old).unwrap();
    let files = event_files(run.path());
    let [file] = files.as_slice() else {
        panic!("{files:?}")
    };
    let read = scalars(file);
    assert_eq!(read.len(), 3 * 6);
    for step in [2, 4, 6] {
        for (tag, value) in line(step).scalars() {
            let (time, read) = read[&(tag.clone(), step as u64)];
            assert_eq!(read, value as f32, "{tag}");
            // A line without a time has that of its writing.
            match step {
                6 => assert!(time > 1.7e9, "{time}"),
                step => assert_eq!(time, 1000.5 + step as f64),
            }
        }
    }
    let first = fields(&records(&fs::read(file).unwrap())[0]);
    assert_eq!(first[&3][0].text(), "brain.Event:2");
}

#[test]
fn a_gap_in_the_log_breaks_every_curve() {
    let run = tempfile::tempdir().unwrap();
    let gaps = [(3, 6), (9, 12)].map(|(first, last)| crate::log_gap::MissingSteps { first, last });
    let mut events = EventFile::derive(run.path(), &[line(2), line(8)], &gaps).unwrap();
    events.push(&line(14)).unwrap();
    let file = event_files(run.path()).remove(0);
    let read = scalars(&file);
    for (step, is_gap) in [(2, false), (3, true), (8, false), (9, true), (14, false)] {
        for (tag, _) in line(2).scalars() {
            assert_eq!(read[&(tag.clone(), step)].1.is_nan(), is_gap, "{tag} at {step}");
        }
    }
    assert_eq!(read.len(), 5 * 6);
    let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
    assert!(text.contains("steps 3 to 6, 9 to 12 of metrics.jsonl are missing"));
}

#[test]
fn opening_a_run_again_makes_one_later_file() {
    let run = tempfile::tempdir().unwrap();
    let foreign = run.path().join("events.out.tfevents.1.host.7.0");
    fs::write(&foreign, b"of another program").unwrap();
    let mut names = vec![];
    for lines in [vec![line(2), line(4)], vec![line(2)], vec![]] {
        drop(EventFile::derive(run.path(), &lines, &[]).unwrap());
        let mut files = event_files(run.path());
        files.retain(|path| *path != foreign);
        assert_eq!(files.len(), 1);
        let steps = scalars(&files[0]).into_keys().map(|(_, step)| step);
        assert_eq!(steps.max(), lines.last().map(|line| line.step as u64));
        names.extend(files);
    }
    // Within one second too.
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    assert_eq!(fs::read(&foreign).unwrap(), b"of another program");
}

#[test]
fn the_config_and_the_views_are_in_the_file() {
    let run = tempfile::tempdir().unwrap();
    fs::write(run.path().join("config.toml"), "seed = 3\n[data]\n").unwrap();
    let picture = data::RgbImage {
        width: 6,
        height: 4,
        pixels: vec![90; 72],
    };
    let jpeg = data::thumbnail::to_jpeg(&picture, 90);
    fs::write(run.path().join(data::VIEWS_FILE), &jpeg).unwrap();
    drop(EventFile::derive(run.path(), &[], &[]).unwrap());
    let records = records(&fs::read(&event_files(run.path())[0]).unwrap());
    let summary = fields(fields(&records[2])[&5][0].bytes());
    let [config, views] = summary[&1].as_slice() else {
        panic!("{summary:?}")
    };
    let config = fields(config.bytes());
    assert_eq!(config[&1][0].text(), "run/config");
    let tensor = fields(config[&8][0].bytes());
    assert_eq!(tensor[&1], [Field::Number(7)]);
    assert_eq!(tensor[&8][0].text(), "    seed = 3\n    [data]\n");
    let plugin = fields(fields(config[&9][0].bytes())[&1][0].bytes());
    assert_eq!(plugin[&1][0].text(), "text");
    let image = fields(fields(views.bytes())[&4][0].bytes());
    assert_eq!(
        (&image[&1][0], &image[&2][0]),
        (&Field::Number(4), &Field::Number(6))
    );
    assert_eq!(image[&4][0].bytes(), jpeg);
}
