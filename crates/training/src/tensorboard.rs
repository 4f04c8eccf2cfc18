//! TensorBoard's event file of a run: lines of `metrics.jsonl` in, `events.out.tfevents.…` out.
//!
//! The file is derived. It is made anew from `metrics.jsonl` whenever a run is opened and then appended to, so it has each
//! line once, however often the run was killed.
//!
//! A record is its length (u64), a checksum of the length, the message, and a checksum of the message, little-endian
//! ([format](https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h)). The messages have
//! the fields of `event.proto`, `summary.proto` and `tensor.proto` that are needed here.

use crate::log_gap::{MissingSteps, missing_in_words};
use crate::log_line::LogLine;
use data::FileError;
use prost::Message;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The start of the name of every event file, behind which come the seconds since 1970.
const BEGINNING: &str = "events.out.tfevents.";
/// The end of the names of Passer's event files: others' are never removed.
const ENDING: &str = ".passer";

/// Seconds since 1970-01-01 UTC, to the millisecond; 0 before that.
pub(crate) fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_millis() as f64 / 1e3)
}

/// A run's event file, open for more lines.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Makes a run's event file anew from the lines of its log, its texts (`config.toml`, `run.json`) and its views, and
    /// removes the earlier ones. Where lines are `missing`, the curves have a point that is no number, at which they break, and a
    /// text says which steps.
    pub(crate) fn derive(run: &Path, lines: &[LogLine], missing: &[MissingSteps]) -> Result<Self, FileError> {
        let now = unix_seconds();
        // TensorBoard goes from file to file in the order of their names, also where the clock was set back.
        let mut seconds = now as u64;
        for (path, of) in earlier(run)? {
            seconds = seconds.max(of + 1);
            fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        }
        let path = run.join(format!("{BEGINNING}{seconds:010}{ENDING}"));
        let file = File::create(&path).map_err(FileError::new("write", &path))?;
        let mut events = Self { path, file };
        let mut bytes = record(&Event {
            wall_time: now,
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        });
        // A TensorBoard that had read the removed file forgets its events.
        bytes.extend(record(&Event {
            wall_time: now,
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        }));
        let mut about = about(run);
        about.extend(missing_in_words(missing).map(|words| text("run/missing_steps", &words)));
        if !about.is_empty() {
            bytes.extend(record(&Event {
                wall_time: lines.first().and_then(|line| line.unix_seconds).unwrap_or(now),
                summary: Some(Summary { value: about }),
                ..Event::default()
            }));
        }
        let mut missing = missing.iter().peekable();
        let mut before: Option<&LogLine> = None;
        for line in lines {
            if let Some(gap) = missing.next_if(|gap| gap.last < line.step) {
                bytes.extend(
                    before
                        .map(|before| record(&of_gap(before, gap, now)))
                        .unwrap_or_default(),
                );
            }
            bytes.extend(record(&of_line(line, now)));
            before = Some(line);
        }
        if let (Some(before), Some(gap)) = (before, missing.next()) {
            bytes.extend(record(&of_gap(before, gap, now)));
        }
        events.write(&bytes)?;
        Ok(events)
    }

    /// Appends a line of the log.
    pub(crate) fn push(&mut self, line: &LogLine) -> Result<(), FileError> {
        self.write(&record(&of_line(line, unix_seconds())))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(bytes);
        written.map_err(FileError::new("write", &self.path))
    }
}

/// Passer's event files in a run directory, with the seconds in their names.
fn earlier(run: &Path) -> Result<Vec<(PathBuf, u64)>, FileError> {
    let mut found = vec![];
    for entry in fs::read_dir(run).map_err(FileError::new("list", run))? {
        let entry = entry.map_err(FileError::new("list", run))?;
        let name = entry.file_name();
        let middle = name.to_str().and_then(|name| name.strip_prefix(BEGINNING));
        let seconds = middle.and_then(|rest| rest.strip_suffix(ENDING)?.parse().ok());
        found.extend(seconds.map(|seconds| (entry.path(), seconds)));
    }
    Ok(found)
}

/// The scalars of a line; `otherwise` is the time of a line without one.
fn of_line(line: &LogLine, otherwise: f64) -> Event {
    let value = line.scalars().into_iter().map(|(tag, value)| Value {
        tag,
        simple_value: Some(value as f32),
        ..Value::default()
    });
    Event {
        wall_time: line.unix_seconds.unwrap_or(otherwise),
        step: line.step as i64,
        summary: Some(Summary {
            value: value.collect(),
        }),
        ..Event::default()
    }
}

/// The end of all curves of the line before a gap: a number that is none.
fn of_gap(before: &LogLine, gap: &MissingSteps, otherwise: f64) -> Event {
    let mut event = of_line(before, otherwise);
    event.step = gap.first as i64;
    for value in event.summary.iter_mut().flat_map(|summary| &mut summary.value) {
        value.simple_value = Some(f32::NAN);
    }
    event
}

/// The texts and the picture of a run directory, those that can be read.
fn about(run: &Path) -> Vec<Value> {
    let text = |(tag, name): (&str, &str)| Some(text(tag, &fs::read_to_string(run.join(name)).ok()?));
    let texts = [("run/config", "config.toml"), ("run/facts", "run.json")];
    let mut values: Vec<Value> = texts.into_iter().filter_map(text).collect();
    let views = fs::read(run.join(data::VIEWS_FILE)).ok();
    values.extend(views.and_then(|jpeg| {
        let picture = data::decode(&jpeg, &data::DecodeLimits::DEFAULT).ok()?;
        Some(Value {
            tag: "views".into(),
            image: Some(Image {
                height: picture.height as i32,
                width: picture.width as i32,
                colorspace: 3,
                encoded: jpeg,
            }),
            ..Value::default()
        })
    }));
    values
}

/// A text, indented so that Markdown shows it as it is.
fn text(tag: &str, text: &str) -> Value {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    Value {
        tag: tag.into(),
        tensor: Some(Tensor {
            dtype: STRING,
            shape: Some(Shape { dim: vec![] }),
            string_val: vec![indented.into_bytes()],
        }),
        metadata: Some(Metadata {
            plugin_data: Some(PluginData {
                plugin_name: "text".into(),
            }),
        }),
        ..Value::default()
    }
}

/// A message between its checksums.
fn record(event: &Event) -> Vec<u8> {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_crc32c(&length).to_le_bytes());
    bytes.extend(&message);
    bytes.extend(masked_crc32c(&message).to_le_bytes());
    bytes
}

/// The checksum of TensorFlow's records: CRC-32C, rotated and shifted, because a CRC over data with CRCs within is weak.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): reversed polynomial 0x82F63B78 (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 255) as usize];
    !bytes.iter().fold(!0, step)
}

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;
/// `DataType.DT_STRING`.
const STRING: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

#[cfg(test)]
mod tests;
