//! Checkpoints: written to a temporary folder, synced, renamed; the last K are kept, and partial ones never
//! appear.
//!
//! Student and state are Burn's records (`.bpk`), the optimizer's state is a safetensors file by parameter
//! path. `encoder.safetensors` next to them is for other programs.

use crate::error::{Error, device_reason};
use crate::loss_scale::LossScale;
use crate::optimizer::Optimizer;
use crate::run_log::Window;
use burn::module::{Module, ModuleVisitor, Param};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::{Bytes, FloatDType, Tensor};
use data::{FileError, durable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const STUDENT: &str = "student.bpk";
const STATE: &str = "state.bpk";
const OPTIMIZER: &str = "optimizer.safetensors";
const POSITION: &str = "position.json";

/// A finished checkpoint's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDir {
    /// Optimizer steps done.
    pub step: usize,
    /// `RUN/checkpoints/step-NNNNNNNN`.
    pub path: PathBuf,
}

/// Contents of a checkpoint besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimizer steps done. Together with the config's seed it determines the state of every generator and
    /// of the loader.
    pub(crate) step: usize,
    /// Values of the open window of `metrics.jsonl`.
    pub(crate) window: Window,
    /// The last finite loss seen.
    pub(crate) last_finite: Option<f32>,
    /// The loss scale of a run in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loss_scale: Option<LossScale>,
    /// CRC-32 (IEEE) of each file next to this one, computed on writing: corrupted bytes would still be valid
    /// numbers.
    #[serde(default)]
    pub(crate) checksums: BTreeMap<String, u32>,
}

/// Finished checkpoints of a run, oldest first.
pub fn list_checkpoints(run: &Path) -> Result<Vec<CheckpointDir>, Error> {
    let folder = run.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(FileError::new("list", &folder)(error).into()),
    };
    let mut found = vec![];
    for entry in entries {
        let entry = entry.map_err(FileError::new("list", &folder))?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix("step-"))
            .and_then(|step| step.parse().ok());
        if let Some(step) = step {
            found.push(CheckpointDir {
                step,
                path: entry.path(),
            });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// The newest finished checkpoint of a run.
pub fn latest_checkpoint(run: &Path) -> Result<Option<CheckpointDir>, Error> {
    Ok(list_checkpoints(run)?.pop())
}

/// Writes a checkpoint and removes all but the newest `keep`.
pub(crate) fn save<S: Module, T: Module>(
    run: &Path,
    student: &S,
    state: &T,
    optimizer: &Optimizer,
    encoder: &[u8],
    position: &Position,
    keep: usize,
) -> Result<CheckpointDir, Error> {
    let path = run.join("checkpoints").join(format!("step-{:08}", position.step));
    let folder = durable::Folder::create(&path)?;
    write_parts(folder.path(), student, state, optimizer, encoder, position)?;
    // The same step again (a second Ctrl-C after a resume): the new checkpoint has the same content.
    folder.replace()?;
    let all = list_checkpoints(run)?;
    for old in all.iter().take(all.len().saturating_sub(keep)) {
        durable::remove_folder(&old.path)?;
    }
    Ok(CheckpointDir {
        step: position.step,
        path,
    })
}

fn write_parts<S: Module, T: Module>(
    folder: &Path,
    student: &S,
    state: &T,
    optimizer: &Optimizer,
    encoder: &[u8],
    position: &Position,
) -> Result<(), Error> {
    let mut position = position.clone();
    let mut write = |name: &str, bytes: &[u8]| {
        position.checksums.insert(name.into(), crc32fast::hash(bytes));
        write_file(&folder.join(name), bytes)
    };
    let refused = |name: &str, reason: String| Error::Checkpoint {
        path: folder.join(name),
        reason,
    };
    let bytes = |name: &str, bytes: Result<Bytes, RecordError>| {
        bytes.map_err(|error| refused(name, error.to_string()))
    };
    write(
        STUDENT,
        &bytes(STUDENT, student.clone().into_record().into_bytes())?,
    )?;
    write(STATE, &bytes(STATE, state.clone().into_record().into_bytes())?)?;
    let of_optimizer = optimizer
        .to_bytes()
        .map_err(|reason| refused(OPTIMIZER, reason))?;
    write(OPTIMIZER, &of_optimizer)?;
    write("encoder.safetensors", encoder)?;
    let path = folder.join(POSITION);
    let text = serde_json::to_vec(&position)
        .map_err(std::io::Error::from)
        .map_err(FileError::new("write", &path))?;
    write_file(&path, &text)
}

/// Writes a file of an unfinished checkpoint, which is synced as a whole.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Ok(fs::write(path, bytes).map_err(FileError::new("write", path))?)
}

/// Reason of a record error, in one line: Burn's own text lists every tensor of a network.
fn record_reason(error: &RecordError, of: &str) -> String {
    /// Maximum tensors to name.
    const NAMED: usize = 3;
    let text = match error {
        RecordError::Io(text) => return format!("damaged: {text}"),
        RecordError::Validation(text) => text,
    };
    // `Missing tensors: ["name", ..]`, `Unused tensors: [..]` or `Apply errors: ["name: what is wrong", ..]`.
    let mut parts = text.split('"');
    let kind = parts.next().unwrap_or_default();
    let kind = match kind.trim_end_matches(['[', ' ', ':']) {
        "Missing tensors" => "tensors that the config needs are missing",
        "Unused tensors" => "tensors are there that the config does not need",
        "Apply errors" => "tensors differ",
        other => other,
    };
    let names: Vec<String> = parts
        .step_by(2)
        .map(|name| name.replace("Shape { dims: ", "").replace("] }", "]"))
        .collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = names[..names.len().min(NAMED)].join(", ");
    format!("does not fit the config's {of}: {kind}: {shown}{more}")
}

/// The path of a student or state tensor with NaN or infinity, if there is one: such a checkpoint would be
/// worse than the one that it replaces.
pub(crate) fn not_finite<S: Module, T: Module>(student: &S, state: &T) -> Result<Option<String>, String> {
    let mut zeros = Zeros::default();
    student.visit(&mut zeros);
    state.visit(&mut zeros);
    // One number is read from the device; the tensors are searched only if it is not finite.
    let is_finite = |zero: Tensor<1>| -> Result<bool, String> {
        let data = zero
            .try_into_data()
            .map_err(|error| device_reason(&error.to_string()))?;
        let value = data.try_to_vec::<f32>().map_err(|error| error.to_string())?;
        Ok(value[0].is_finite())
    };
    let sums = zeros.found.iter().map(|(_, zero)| zero.clone());
    if zeros.found.is_empty() || is_finite(Tensor::cat(sums.collect(), 0).sum())? {
        return Ok(None);
    }
    for (path, zero) in zeros.found {
        if !is_finite(zero)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// For every float tensor the sum of its products with zero: zero, or NaN if it holds NaN or infinity.
#[derive(Default)]
struct Zeros {
    path: Vec<String>,
    found: Vec<(String, Tensor<1>)>,
}

impl ModuleVisitor for Zeros {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let zero = (param.val().without_autodiff() * 0.0).sum().cast(FloatDType::F32);
        self.found.push((self.path.join("."), zero));
    }
}

/// The result of [`load`].
pub(crate) struct Loaded<S, T> {
    pub(crate) student: S,
    pub(crate) state: T,
    pub(crate) optimizer: Optimizer,
    pub(crate) position: Position,
}

/// Loads a checkpoint into freshly initialized modules. Modules that have already run are unsuitable: their
/// pending batch statistics would overwrite the loaded ones.
pub(crate) fn load<S: Module, T: Module>(
    checkpoint: &CheckpointDir,
    student: S,
    state: T,
    mut optimizer: Optimizer,
) -> Result<Loaded<S, T>, Error> {
    let refused = |path: PathBuf, reason: String| Error::Checkpoint { path, reason };
    let read = |name: &str| {
        let path = checkpoint.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(refused(path, "damaged: the file is missing".into()))
            }
            Err(error) => Err(FileError::new("read", &path)(error).into()),
        }
    };
    let (path, bytes) = read(POSITION)?;
    let position: Position =
        serde_json::from_slice(&bytes).map_err(|error| refused(path.clone(), format!("damaged: {error}")))?;
    if position.step != checkpoint.step {
        return Err(refused(
            path,
            format!(
                "says step {}, the folder's name says {}",
                position.step, checkpoint.step
            ),
        ));
    }
    let read_whole = |name: &str| {
        let (path, bytes) = read(name)?;
        // Checkpoints of earlier versions have no checksums.
        match position.checksums.get(name) {
            Some(checksum) if *checksum != crc32fast::hash(&bytes) => Err(refused(
                path,
                "damaged: its bytes are not those that were written".into(),
            )),
            _ => Ok((path, bytes)),
        }
    };

    let (path, bytes) = read_whole(STUDENT)?;
    let student = ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes))
        .and_then(|record| student.try_load_record(record))
        .map_err(|error| refused(path, record_reason(&error, "networks")))?;
    let (path, bytes) = read_whole(STATE)?;
    let state = ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes))
        .and_then(|record| state.try_load_record(record))
        .map_err(|error| refused(path, record_reason(&error, "objective")))?;
    let (path, bytes) = read_whole(OPTIMIZER)?;
    optimizer
        .load_bytes(&bytes, &student)
        .map_err(|reason| refused(path, reason))?;
    Ok(Loaded {
        student,
        state,
        optimizer,
        position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_a_few_tensors_and_count_the_rest() {
        let names: Vec<String> = (0..90).map(|i| format!("layer{i}.weight")).collect();
        let error = RecordError::Validation(format!("Missing tensors: {names:?}"));
        assert_eq!(
            record_reason(&error, "networks"),
            "does not fit the config's networks: tensors that the config needs are missing: \
             layer0.weight, layer1.weight, layer2.weight and 87 more"
        );
        let errors = [
            "queue: shape mismatch, expected Shape { dims: [32, 8] } but record has Shape { dims: [16, 8] }",
        ];
        let error = RecordError::Validation(format!("Apply errors: {errors:?}"));
        assert_eq!(
            record_reason(&error, "objective"),
            "does not fit the config's objective: tensors differ: \
             queue: shape mismatch, expected [32, 8] but record has [16, 8]"
        );
        assert_eq!(
            record_reason(&RecordError::Io("insufficient bytes".into()), "networks"),
            "damaged: insufficient bytes"
        );
    }
}
