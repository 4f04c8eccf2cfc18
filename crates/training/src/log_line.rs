//! One line of `metrics.jsonl`: what a run logs of a window of steps, and how such files are read.

use data::FileError;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// The name of the log in a run directory.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`; `docs/watching.md` has the schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Optimizer steps done when the line was written.
    pub step: usize,
    /// The epoch of the window's last step, from 0.
    pub epoch: usize,
    /// Mean loss of the window's steps.
    pub loss: f32,
    /// Learning rate of the window's last step.
    pub learning_rate: f64,
    /// Means of the objective's signals over the window. In JSON, a value that is not finite is `null`.
    #[serde(deserialize_with = "signals")]
    pub signals: BTreeMap<String, f32>,
    /// In f16: the loss scale after the window's last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// In f16: steps skipped because a gradient overflowed, since the run's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<usize>,
    /// Clock field: images (not views) per second over the window, in this process.
    pub images_per_second: f64,
    /// Clock field: the share of the window's time spent waiting for the loader, 0..1.
    pub data_wait: f64,
    /// Clock field: MiB in use on the device's card when the line was written, by all programs; where its driver reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_memory_mib: Option<u64>,
    /// Clock field: the share of the driver's last sampling period, below a second, in which the device's card computed, 0..1;
    /// where its driver reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_busy: Option<f64>,
    /// Clock field: when the line was written, seconds since 1970-01-01 UTC, to the millisecond. Version 0.2 and earlier
    /// did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_seconds: Option<f64>,
}

impl LogLine {
    /// Every number of the line but its step and its time, with a name in a group: `train/loss`,
    /// `signals/positive_similarity`, `speed/data_wait`.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        // Each field by name, so that a new one must be placed here.
        let Self {
            step: _,
            epoch,
            loss,
            learning_rate,
            signals,
            loss_scale,
            skipped_steps,
            images_per_second,
            data_wait,
            device_memory_mib,
            device_busy,
            unix_seconds: _,
        } = self;
        let mut scalars = vec![
            ("train/loss".to_owned(), as_written(*loss)),
            ("train/learning_rate".to_owned(), *learning_rate),
            ("train/epoch".to_owned(), *epoch as f64),
        ];
        let of_signals = signals.iter();
        scalars.extend(of_signals.map(|(name, value)| (format!("signals/{name}"), as_written(*value))));
        scalars.extend(loss_scale.map(|scale| ("f16/loss_scale".to_owned(), scale)));
        scalars.extend(skipped_steps.map(|steps| ("f16/skipped_steps".to_owned(), steps as f64)));
        scalars.push(("speed/images_per_second".to_owned(), *images_per_second));
        scalars.push(("speed/data_wait".to_owned(), *data_wait));
        scalars.extend(device_busy.map(|share| ("device/busy".to_owned(), share)));
        scalars.extend(device_memory_mib.map(|mib| ("device/memory_mib".to_owned(), mib as f64)));
        scalars
    }
}

/// What the driver of a device's card reports of it at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceReading {
    /// MiB in use, by all programs.
    pub memory_mib: Option<u64>,
    /// The share of the driver's last sampling period in which the card computed, 0..1.
    pub busy: Option<f64>,
}

/// Reads a device's card without waiting for its work; called once for each line of the log.
pub type DeviceGauge = Arc<dyn Fn() -> DeviceReading + Send + Sync>;

/// The number that the log has for a 32-bit one: 0.1, not 0.10000000149011612.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// JSON has no NaN: such a signal is written as `null`.
fn signals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f32>, D::Error> {
    let read = BTreeMap::<String, Option<f32>>::deserialize(deserializer)?;
    let values = read.into_iter();
    Ok(values
        .map(|(name, value)| (name, value.unwrap_or(f32::NAN)))
        .collect())
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Its lines that can be read, in order.
    pub lines: Vec<LogLine>,
    /// The numbers, from 1, of the lines that cannot: something else was written there, or the disk damaged them.
    pub damaged: Vec<usize>,
    /// Bytes behind the last line break: a line that is being written, or was when the run was killed.
    pub unread_bytes: u64,
}

impl Metrics {
    /// `1 line of metrics.jsonl cannot be read (line 3)`; `None` if every line can.
    pub fn damage(&self) -> Option<String> {
        let first = self.damaged.first()?;
        Some(match self.damaged.len() {
            1 => format!("1 line of {METRICS} cannot be read (line {first})"),
            count => format!("{count} lines of {METRICS} cannot be read (the first is line {first})"),
        })
    }
}

/// The lines of a run's `metrics.jsonl`; those that cannot be read are counted, and the others are kept. A run may be writing
/// the last one. Without the file there are none.
///
/// # Errors
/// A file that cannot be read.
pub fn read_metrics(run: &Path) -> Result<Metrics, FileError> {
    let path = run.join(METRICS);
    match File::open(&path) {
        Ok(file) => Ok(lines_until(&file, &path, usize::MAX)?.0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Metrics::default()),
        Err(error) => Err(FileError::new("read", &path)(error)),
    }
}

/// The lines of an open log before the first of a later step, and the bytes from its start to the end of the last of them.
pub(crate) fn lines_until(file: &File, path: &Path, step: usize) -> Result<(Metrics, u64), FileError> {
    let mut reader = BufReader::new(file);
    let (mut log, mut kept, mut read, mut text) = (Metrics::default(), 0, 0, vec![]);
    for number in 1.. {
        text.clear();
        let result = reader.read_until(b'\n', &mut text);
        read += result.map_err(FileError::new("read", path))? as u64;
        // Without its newline, the next line would run into it.
        let Some(whole) = text.strip_suffix(b"\n") else {
            log.unread_bytes = text.len() as u64;
            break;
        };
        match serde_json::from_slice::<LogLine>(whole) {
            Ok(line) if line.step > step => break,
            Ok(line) => {
                kept = read;
                log.lines.push(line);
            }
            Err(_) => log.damaged.push(number),
        }
    }
    Ok((log, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> LogLine {
        LogLine {
            step: 7,
            epoch: 1,
            loss: 2.5,
            learning_rate: 0.1,
            signals: BTreeMap::from([("similarity".into(), f32::NAN), ("spread".into(), 0.25)]),
            loss_scale: None,
            skipped_steps: None,
            images_per_second: 64.0,
            data_wait: 0.5,
            device_memory_mib: None,
            device_busy: None,
            unix_seconds: Some(1.5),
        }
    }

    #[test]
    fn a_signal_that_is_no_number_ends_no_log() {
        let text = serde_json::to_string(&line()).unwrap();
        assert!(text.contains(r#""similarity":null"#), "{text}");
        let read: LogLine = serde_json::from_str(&text).unwrap();
        assert!(read.signals["similarity"].is_nan());
        assert_eq!(read.signals["spread"], 0.25);
    }

    #[test]
    fn lines_of_earlier_versions_have_no_time() {
        let text = r#"{"step":50,"epoch":1,"loss":0.5,"learning_rate":0.01,"signals":{},"images_per_second":2.0,"data_wait":0.1}"#;
        let read: LogLine = serde_json::from_str(text).unwrap();
        assert_eq!(read.unix_seconds, None);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_line_that_is_being_written_is_counted_in_bytes() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(read_metrics(run.path()).unwrap(), Metrics::default());
        let mut line = line();
        line.signals.remove("similarity");
        let text = serde_json::to_string(&line).unwrap();
        std::fs::write(run.path().join(METRICS), format!("{text}\n{text}\n{text}")).unwrap();
        let read = read_metrics(run.path()).unwrap();
        assert_eq!(read.lines, [line.clone(), line]);
        assert_eq!(read.unread_bytes, text.len() as u64);
        assert_eq!((read.damaged.len(), read.damage()), (0, None));
    }

    #[test]
    fn a_damaged_line_hides_none_of_the_others() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join(METRICS);
        let text = |step: usize| {
            let mut line = line();
            (line.step, line.signals) = (step, BTreeMap::new());
            serde_json::to_string(&line).unwrap() + "\n"
        };
        let log = text(1) + "{\"step\":2,\"ep\n" + &text(3) + &text(4) + "\0\0\n" + &text(6);
        std::fs::write(&path, &log).unwrap();
        let read = read_metrics(run.path()).unwrap();
        let steps = |log: &Metrics| log.lines.iter().map(|line| line.step).collect::<Vec<_>>();
        assert_eq!((steps(&read), read.unread_bytes), (vec![1, 3, 4, 6], 0));
        assert_eq!(read.damaged, [2, 5]);
        assert_eq!(
            read.damage().unwrap(),
            "2 lines of metrics.jsonl cannot be read (the first is line 2)"
        );
        // Up to a step: to the end of its line.
        let file = File::open(&path).unwrap();
        let (until, bytes) = lines_until(&file, &path, 3).unwrap();
        assert_eq!((steps(&until), until.damaged), (vec![1, 3], vec![2]));
        assert_eq!(bytes as usize, log.find(&text(4)).unwrap());
    }

    #[test]
    fn every_number_has_a_name_in_a_group() {
        let mut f16 = line();
        (f16.loss_scale, f16.skipped_steps) = (Some(512.0), Some(3));
        f16.loss = 0.1;
        let scalars = f16.scalars();
        let find = |name: &str| scalars.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(scalars.len(), 9);
        assert_eq!(
            [
                "train/loss",
                "train/learning_rate",
                "train/epoch",
                "signals/spread"
            ]
            .map(find),
            [0.1, 0.1, 1.0, 0.25]
        );
        assert_eq!(
            [
                "f16/loss_scale",
                "f16/skipped_steps",
                "speed/images_per_second",
                "speed/data_wait"
            ]
            .map(find),
            [512.0, 3.0, 64.0, 0.5]
        );
        assert!(find("signals/similarity").is_nan());
    }
}
