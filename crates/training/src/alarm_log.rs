//! `alarms.jsonl`: each alarm of a run once, with the step at which it came.
//!
//! A resumed run reads its lines of the log again, which lead to the same findings, and repeats no alarm of the file.

use crate::alarm::{Alarm, Finding, Rules};
use crate::cause::{Cause, Remedy};
use crate::log_line::LogLine;
use crate::tensorboard::unix_seconds;
use data::FileError;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the file in a run directory.
pub(crate) const ALARMS: &str = "alarms.jsonl";

/// The alarms of a run, and the rules that find more.
pub(crate) struct AlarmLog {
    path: PathBuf,
    rules: Rules,
    given: BTreeSet<Cause>,
}

impl AlarmLog {
    /// Opens the file of a run whose log has these lines until now; half a line at its end is removed. Other lines that cannot be
    /// read stay, with a warning.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(crate) fn open(run: &Path, mut rules: Rules, lines: &[LogLine]) -> Result<Self, FileError> {
        let path = run.join(ALARMS);
        let Read {
            alarms,
            damaged,
            bytes,
        } = whole_lines(&path)?;
        if damaged > 0 {
            tracing::warn!(
                "`{}`: {damaged} lines cannot be read and stay as they are",
                path.display()
            );
        }
        if path.exists() {
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(bytes))
                .map_err(FileError::new("write", &path))?;
        }
        // What they found before is in the file, unless an earlier version wrote them: then the next line finds it again.
        for line in lines {
            rules.take(line);
        }
        Ok(Self {
            path,
            rules,
            given: alarms.iter().map(|alarm| alarm.alarm).collect(),
        })
    }

    /// Takes a new line of the log; returns and writes the alarms that it completes. `remedies` gives the advice against a cause.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn take(
        &mut self,
        line: &LogLine,
        remedies: impl Fn(Cause) -> Vec<Remedy>,
    ) -> Result<Vec<Alarm>, FileError> {
        let mut alarms = vec![];
        for finding in self.rules.take(line) {
            if !self.given.insert(finding.cause) {
                continue;
            }
            let remedies = remedies(finding.cause);
            let alarm = alarm(finding, line, remedies);
            let text = serde_json::to_vec(&alarm);
            let mut text = text.map_err(|error| FileError::new("write", &self.path)(error.into()))?;
            text.push(b'\n');
            let file = OpenOptions::new().append(true).create(true).open(&self.path);
            file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
                .map_err(FileError::new("write", &self.path))?;
            alarms.push(alarm);
        }
        Ok(alarms)
    }
}

fn alarm(finding: Finding, line: &LogLine, remedies: Vec<Remedy>) -> Alarm {
    Alarm {
        alarm: finding.cause,
        step: line.step,
        epoch: line.epoch,
        since_step: finding.since_step,
        signal: finding.signal.to_owned(),
        value: finding.value,
        limit: finding.limit,
        meaning: finding.cause.meaning().to_owned(),
        remedies,
        unix_seconds: unix_seconds(),
    }
}

/// The alarms of a run, in order, and the number of whole lines that cannot be read; none without the file.
///
/// # Errors
/// A file that cannot be read.
pub fn read_alarms(run: &Path) -> Result<(Vec<Alarm>, usize), FileError> {
    let read = whole_lines(&run.join(ALARMS))?;
    Ok((read.alarms, read.damaged))
}

/// A file of alarms.
struct Read {
    alarms: Vec<Alarm>,
    /// Whole lines that cannot be read: damaged, or of another version.
    damaged: usize,
    /// Bytes of the whole lines.
    bytes: u64,
}

/// The whole lines of a file.
fn whole_lines(path: &Path) -> Result<Read, FileError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(FileError::new("read", path)(error)),
    };
    let mut read = Read {
        alarms: vec![],
        damaged: 0,
        bytes: 0,
    };
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            break;
        };
        match serde_json::from_slice(whole) {
            Ok(alarm) => read.alarms.push(alarm),
            Err(_) => read.damaged += 1,
        }
        read.bytes += line.len() as u64;
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
