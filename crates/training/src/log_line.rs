//! One line of `metrics.jsonl`: what a run logs of a window of steps, and how such files are read.

use data::FileError;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

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
        scalars
    }
}

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
    /// Its lines, in order.
    pub lines: Vec<LogLine>,
    /// Bytes behind them: a line that is being written, or was when the run was killed.
    pub unread_bytes: u64,
}

/// The lines of a run's `metrics.jsonl`, up to the first that is not whole: a run may be writing it. Without the file there
/// are none.
///
/// # Errors
/// A file that cannot be read.
pub fn read_metrics(run: &Path) -> Result<Metrics, FileError> {
    let path = run.join(METRICS);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Metrics::default()),
        Err(error) => return Err(FileError::new("read", &path)(error)),
    };
    let length = file.metadata().map_err(FileError::new("read", &path))?.len();
    let (lines, bytes) = whole_lines(&file, &path, usize::MAX)?;
    Ok(Metrics {
        lines,
        unread_bytes: length.saturating_sub(bytes),
    })
}

/// The first lines of an open log that are whole and of at most this step, and the bytes that they take.
pub(crate) fn whole_lines(file: &File, path: &Path, step: usize) -> Result<(Vec<LogLine>, u64), FileError> {
    let mut reader = BufReader::new(file);
    let (mut lines, mut bytes, mut text) = (vec![], 0, vec![]);
    loop {
        text.clear();
        let read = reader.read_until(b'\n', &mut text);
        read.map_err(FileError::new("read", path))?;
        // Without its newline, the next line would run into it.
        let whole = text.strip_suffix(b"\n").unwrap_or_default();
        match serde_json::from_slice::<LogLine>(whole) {
            Ok(line) if line.step <= step => {
                bytes += text.len() as u64;
                lines.push(line);
            }
            _ => return Ok((lines, bytes)),
        }
    }
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
