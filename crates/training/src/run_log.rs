//! `metrics.jsonl`: one line per logging window, truncated to the checkpoint when a run is resumed. TensorBoard's event file
//! is made of its lines.
//!
//! Scalars stay on the device until a line is due and are then read in one transfer. Values of an open window
//! are part of a checkpoint, so a resumed run writes the same lines as an uninterrupted one, except for clock
//! fields.

use crate::error::{Error, device_reason};
use crate::log_gap::{MissingSteps, Until, missing_in_words, missing_until};
use crate::log_line::{DeviceGauge, LogLine, METRICS, lines_until};
use crate::loss_scale::LossScale;
use crate::objective::Loss;
use crate::tensorboard::{EventFile, unix_seconds};
use backbones::Replicas;
use burn::tensor::Tensor;
use data::FileError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Loss and signals of one step, on the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepValues {
    pub(crate) step: usize,
    pub(crate) learning_rate: f64,
    /// Bits of the f32 loss followed by those of the signals: JSON numbers would lose NaN.
    bits: Vec<u32>,
}

impl StepValues {
    pub(crate) fn loss(&self) -> f32 {
        f32::from_bits(self.bits[0])
    }
}

/// Values of the open window, as stored in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) names: Vec<String>,
    pub(crate) values: Vec<StepValues>,
}

impl Window {
    /// The names of the next step's signals. If they are not those of the open window, which a version with other signals began,
    /// its steps count for the loss alone.
    fn take_names(&mut self, names: Vec<String>) {
        if self.names != names {
            self.values.iter_mut().for_each(|step| step.bits.truncate(1));
            self.names = names;
        }
    }
}

/// Reason why no values came from the device.
#[derive(Debug)]
pub(crate) enum Drained {
    /// The first step whose loss is not finite.
    NotFinite(StepValues),
    /// The device's failure, and the number of steps that it may have happened in.
    Device { steps: usize, reason: String },
}

/// Writes `metrics.jsonl`.
pub(crate) struct RunLog {
    /// The file; `None` on ranks that do not write.
    file: Option<(PathBuf, File)>,
    /// TensorBoard's; `None` if it cannot be written, too.
    events: Option<EventFile>,
    /// Steps still on the device: step, learning rate, loss and signals in one `[1 + signals]` tensor.
    pending: Vec<(usize, f64, Tensor<1>)>,
    pub(crate) window: Window,
    /// The window of the newest line that this process wrote.
    pub(crate) closed: Option<Window>,
    pub(crate) last_finite: Option<f32>,
    /// Reads the device's card when a line is written.
    pub(crate) gauge: Option<DeviceGauge>,
    window_started: Instant,
    images: usize,
    waited: f64,
}

impl RunLog {
    /// Opens the log of a run at `until.step`, removing all later lines and a half-written one, and returns its lines too; without
    /// `run`, a log that only keeps the window. Lines that cannot be read stay where they are, with a warning, and so do those
    /// behind them. Lines that should be there and are not are a warning too, and a gap in TensorBoard's curves.
    pub(crate) fn open(
        run: Option<&PathBuf>,
        until: Until,
        window: Window,
        last_finite: Option<f32>,
    ) -> Result<(Self, Vec<LogLine>), Error> {
        let (mut file, mut events, mut lines) = (None, None, vec![]);
        if let Some(run) = run {
            let (path, opened, before) = Self::open_file(run, until.step)?;
            let missing = missing_until(&before, until);
            warn_of(&missing, run);
            file = Some((path, opened));
            events = keep_events(EventFile::derive(run, &before, &missing));
            lines = before;
        }
        let log = Self {
            file,
            events,
            pending: vec![],
            window,
            closed: None,
            last_finite,
            gauge: None,
            window_started: Instant::now(),
            images: 0,
            waited: 0.0,
        };
        Ok((log, lines))
    }

    /// The file cut to the lines of at most `step`, and these lines.
    fn open_file(run: &Path, step: usize) -> Result<(PathBuf, File, Vec<LogLine>), Error> {
        let path = run.join(METRICS);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::new("open", &path))?;
        let (log, bytes) = lines_until(&file, &path, step)?;
        if let Some(damage) = log.damage() {
            tracing::warn!("`{}`: {damage}; the others are kept", run.display());
        }
        file.set_len(bytes).map_err(FileError::new("write", &path))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(FileError::new("open", &path))?;
        Ok((path, file, log.lines))
    }

    /// Takes a step's loss without reading it.
    pub(crate) fn push(
        &mut self,
        step: usize,
        learning_rate: f64,
        loss: Loss,
        images: usize,
        waited_seconds: f64,
    ) {
        let names = loss.signals.iter().map(|(name, _)| (*name).to_string());
        self.window.take_names(names.collect());
        let mut values = vec![loss.total.without_autodiff()];
        values.extend(
            loss.signals
                .into_iter()
                .map(|(_, value)| value.without_autodiff()),
        );
        self.pending.push((step, learning_rate, Tensor::cat(values, 0)));
        self.images += images;
        self.waited += waited_seconds;
    }

    /// Reads pending values from the device into the window, in one transfer, as means over replicas.
    ///
    /// # Errors
    /// The first step whose loss is not finite, or a device that failed since the last call.
    pub(crate) fn drain(&mut self, replicas: &Replicas) -> Result<(), Drained> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let width = self.window.names.len() + 1;
        let all = Tensor::cat(pending.iter().map(|(_, _, values)| values.clone()).collect(), 0);
        let all = all.try_into_data().map_err(|error| Drained::Device {
            steps: pending.len(),
            reason: device_reason(&error.to_string()),
        })?;
        let mut all: Vec<f32> = all.convert::<f32>().try_to_vec().unwrap_or_default();
        if let Some(engine) = replicas.engine() {
            engine.sum(&mut all);
            all.iter_mut().for_each(|value| *value /= engine.size() as f32);
        }
        for ((step, learning_rate, _), values) in pending.into_iter().zip(all.chunks(width)) {
            let bits = values.iter().map(|value| value.to_bits()).collect();
            let values = StepValues {
                step,
                learning_rate,
                bits,
            };
            if !values.loss().is_finite() {
                return Err(Drained::NotFinite(values));
            }
            self.last_finite = Some(values.loss());
            self.window.values.push(values);
        }
        Ok(())
    }

    /// Writes the window (drained before) as one line and opens the next one. `measured` are further signals of its last step;
    /// `chance_loss` is [`Objective::chance_loss`](crate::Objective::chance_loss).
    pub(crate) fn write(
        &mut self,
        epoch: usize,
        loss_scale: Option<&LossScale>,
        measured: BTreeMap<String, f32>,
        chance_loss: Option<f64>,
    ) -> Result<Option<LogLine>, Error> {
        let values = std::mem::take(&mut self.window.values);
        let Some(last) = values.last() else {
            return Ok(None);
        };
        let mean = |index: usize| {
            let values = values.iter().filter_map(|step| step.bits.get(index));
            let values: Vec<f64> = values.map(|bits| f64::from(f32::from_bits(*bits))).collect();
            (values.iter().sum::<f64>() / values.len() as f64) as f32
        };
        let loss = mean(0);
        let names = self.window.names.iter().enumerate();
        let mut signals: BTreeMap<String, f32> = names
            .map(|(index, name)| (name.clone(), mean(index + 1)))
            .collect();
        signals.extend(measured);
        signals.extend(chance_loss.map(|chance| {
            let share = f64::from(loss) / chance;
            ("loss_over_chance".to_owned(), share as f32)
        }));
        let seconds = self.window_started.elapsed().as_secs_f64().max(1e-9);
        let device = self.gauge.as_ref().map(|read| read()).unwrap_or_default();
        let line = LogLine {
            step: last.step + 1,
            epoch,
            loss,
            learning_rate: last.learning_rate,
            signals,
            loss_scale: loss_scale.map(LossScale::value),
            skipped_steps: loss_scale.map(|scale| scale.skipped),
            images_per_second: self.images as f64 / seconds,
            data_wait: (self.waited / seconds).min(1.0),
            device_memory_mib: device.memory_mib,
            device_busy: device.busy,
            unix_seconds: Some(unix_seconds()),
        };
        self.window_started = Instant::now();
        self.images = 0;
        self.waited = 0.0;
        self.closed = Some(Window {
            names: self.window.names.clone(),
            values,
        });
        if let Some((path, file)) = &mut self.file {
            let text = serde_json::to_vec(&line);
            let mut text = text.map_err(|error| FileError::new("write", path)(error.into()))?;
            text.push(b'\n');
            file.write_all(&text).map_err(FileError::new("write", path))?;
        }
        if let Some(mut events) = self.events.take() {
            let pushed = events.push(&line);
            self.events = keep_events(pushed.map(|()| events));
        }
        Ok(Some(line))
    }

    /// Syncs the lines to disk: a checkpoint must not depend on lines that a power cut can remove.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        match &self.file {
            Some((path, file)) => Ok(file.sync_all().map_err(FileError::new("write", path))?),
            None => Ok(()),
        }
    }
}

/// Says which lines are lost, and that nothing else is.
fn warn_of(missing: &[MissingSteps], run: &Path) {
    if let Some(words) = missing_in_words(missing) {
        tracing::warn!(
            "`{}`: {words}: the file was cut, removed or damaged. The networks are those of the checkpoint; the curves of reports \
             and TensorBoard have a gap there. A copy of the file put in its place before the run is resumed closes it",
            run.display()
        );
    }
}

/// The event file, unless it failed: a run does not end because of a file that can be made anew.
fn keep_events(events: Result<EventFile, FileError>) -> Option<EventFile> {
    events
        .inspect_err(|error| {
            tracing::warn!(
                "no more of TensorBoard's event file: {error}; a resumed run makes it anew from `{METRICS}`"
            );
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_line::DeviceReading;
    use burn::tensor::Device;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn until(step: usize) -> Until {
        Until {
            step,
            every: 2,
            skipped: 0,
        }
    }

    fn loss(value: f32) -> Loss {
        let device = Device::flex().autodiff();
        let scalar = |value: f32| Tensor::<1>::from_floats([value], &device);
        Loss::new(scalar(value), vec![("similarity", scalar(value * 2.0))])
    }

    #[test]
    fn lines_are_window_means_and_are_cut_back_on_resume() {
        let run = tempfile::tempdir().unwrap();
        let (mut log, _) =
            RunLog::open(Some(&run.path().to_owned()), until(0), Window::default(), None).unwrap();
        for step in 0..6 {
            log.push(step, 0.1, loss(step as f32), 8, 0.0);
            if step % 2 == 1 {
                log.drain(&Replicas::single()).unwrap();
                log.write(0, None, BTreeMap::new(), None).unwrap();
            }
        }
        let path = run.path().join("metrics.jsonl");
        let lines = |path: &Path| -> Vec<LogLine> {
            std::fs::read_to_string(path)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        let all = lines(&path);
        assert_eq!(
            all.iter().map(|line| (line.step, line.loss)).collect::<Vec<_>>(),
            [(2, 0.5), (4, 2.5), (6, 4.5)]
        );
        assert_eq!(all[1].signals["similarity"], 5.0);
        // A half-written line, as after a kill, and lines after the checkpoint are removed.
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(br#"{"step": 8, "ep"#);
        std::fs::write(&path, &text).unwrap();
        drop(RunLog::open(Some(&run.path().to_owned()), until(4), Window::default(), None).unwrap());
        assert_eq!(lines(&path).len(), 2);
        // A line that cannot be read takes none behind it along.
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = text.replacen("{\"step\":2,", "{\"st", 1);
        std::fs::write(&path, format!("{damaged}{{\"step\": 8, \"ep")).unwrap();
        drop(RunLog::open(Some(&run.path().to_owned()), until(4), Window::default(), None).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        std::fs::write(&path, text).unwrap();
        // A whole last line without its newline is cut too: it would run into the next one.
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 1]).unwrap();
        drop(RunLog::open(Some(&run.path().to_owned()), until(4), Window::default(), None).unwrap());
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn each_line_has_what_the_devices_driver_reports_at_that_moment() {
        let run = tempfile::tempdir().unwrap();
        let (mut log, _) =
            RunLog::open(Some(&run.path().to_owned()), until(0), Window::default(), None).unwrap();
        let read = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&read);
        log.gauge = Some(Arc::new(move || DeviceReading {
            memory_mib: Some(1000 + counted.fetch_add(1, Ordering::Relaxed)),
            busy: None,
        }));
        for step in 0..4 {
            log.push(step, 0.1, loss(1.0), 8, 0.0);
            if step % 2 == 1 {
                log.drain(&Replicas::single()).unwrap();
                log.write(0, None, BTreeMap::new(), None).unwrap();
            }
        }
        let lines = crate::read_metrics(run.path()).unwrap().lines;
        let memory: Vec<_> = lines.iter().map(|line| line.device_memory_mib).collect();
        assert_eq!(memory, [Some(1000), Some(1001)]);
        assert_eq!(read.load(Ordering::Relaxed), 2, "once for a line, not for a step");
        let scalars = lines[1].scalars();
        assert!(
            scalars.contains(&("device/memory_mib".to_owned(), 1001.0)),
            "{scalars:?}"
        );
        assert!(
            !scalars.iter().any(|(name, _)| name == "device/busy"),
            "{scalars:?}"
        );
    }

    #[test]
    fn a_window_that_an_earlier_version_began_counts_for_the_loss_alone() {
        let run = tempfile::tempdir().unwrap();
        let earlier = Window {
            names: vec!["spread".into(), "entropy".into()],
            values: vec![StepValues {
                step: 0,
                learning_rate: 0.1,
                bits: [1.0f32, 7.0, 8.0].map(f32::to_bits).to_vec(),
            }],
        };
        let (mut log, _) = RunLog::open(Some(&run.path().to_owned()), until(1), earlier, Some(1.0)).unwrap();
        log.push(1, 0.1, loss(3.0), 8, 0.0);
        log.drain(&Replicas::single()).unwrap();
        let measured = BTreeMap::from([("gradient_norm".to_owned(), 0.5)]);
        let line = log.write(0, None, measured, Some(4.0)).unwrap().unwrap();
        assert_eq!((line.step, line.loss), (2, 2.0));
        let signals = [
            ("gradient_norm", 0.5),
            ("loss_over_chance", 0.5),
            ("similarity", 6.0),
        ];
        let signals = signals.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(line.signals, BTreeMap::from(signals));
    }

    #[test]
    fn a_loss_that_is_no_number_is_found_with_its_step() {
        let run = tempfile::tempdir().unwrap();
        let (mut log, _) =
            RunLog::open(Some(&run.path().to_owned()), until(0), Window::default(), None).unwrap();
        for (step, value) in [1.5, 2.5, f32::NAN, 1.0].into_iter().enumerate() {
            log.push(step, 0.1, loss(value), 8, 0.0);
        }
        let Drained::NotFinite(bad) = log.drain(&Replicas::single()).unwrap_err() else {
            panic!("the device is well");
        };
        assert_eq!((bad.step, log.last_finite), (2, Some(2.5)));
    }
}
