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
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder of a run's checkpoints.
const FOLDER: &str = "checkpoints";
const STUDENT: &str = "student.bpk";
const STATE: &str = "state.bpk";
const OPTIMIZER: &str = "optimizer.safetensors";
const POSITION: &str = "position.json";
/// Embeddings and assignments of the newest steps, for the log. Absent without any, and in checkpoints of version 0.2 and earlier.
const WATCHED: &str = "watched.safetensors";
const ENCODER: &str = "encoder.safetensors";

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
    /// The window of the newest line, if that line came only because the run ended: a run that is made longer opens it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<Window>,
    /// The content of `watched.safetensors`.
    #[serde(skip)]
    pub(crate) watched: Option<Vec<u8>>,
}

/// Finished checkpoints of a run, oldest first.
pub fn list_checkpoints(run: &Path) -> Result<Vec<CheckpointDir>, Error> {
    list_in(&run.join(FOLDER))
}

/// Those in the folder `checkpoints` itself.
fn list_in(folder: &Path) -> Result<Vec<CheckpointDir>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(FileError::new("list", folder)(error).into()),
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(FileError::new("list", folder))?.path();
        if let Some(step) = step_of(&path) {
            found.push(CheckpointDir { step, path });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// The step in the name of a checkpoint's folder.
fn step_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// The checkpoint that a path names: its own folder, or the newest one of a run directory or of a folder `checkpoints`.
pub(crate) fn at(path: &Path) -> Result<Option<CheckpointDir>, Error> {
    if path.join(POSITION).is_file() {
        return Ok(Some(CheckpointDir {
            step: step_of(path).unwrap_or(0),
            path: path.to_owned(),
        }));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    if let Some(newest) = latest_checkpoint(path)? {
        return Ok(Some(newest));
    }
    // Other programs have folders of such names too.
    let mut own = list_in(path)?;
    own.retain(|checkpoint| checkpoint.path.join(POSITION).is_file());
    Ok(own.pop())
}

/// The newest finished checkpoint of a run.
pub fn latest_checkpoint(run: &Path) -> Result<Option<CheckpointDir>, Error> {
    Ok(list_checkpoints(run)?.pop())
}

/// Writes a checkpoint and removes all but the newest `keep.0`, and that of step `keep.1`.
pub(crate) fn save<S: Module, T: Module>(
    run: &Path,
    student: &S,
    state: &T,
    optimizer: &Optimizer,
    encoder: &[u8],
    position: &Position,
    keep: (usize, Option<usize>),
) -> Result<CheckpointDir, Error> {
    let path = run.join(FOLDER).join(format!("step-{:08}", position.step));
    let folder = durable::Folder::create(&path)?;
    let mut position = position.clone();
    position
        .checksums
        .insert(ENCODER.into(), crc32fast::hash(encoder));
    write_file(&folder.path().join(ENCODER), encoder)?;
    each_file(
        folder.path(),
        student,
        state,
        optimizer,
        &position,
        |name, bytes| write_file(&folder.path().join(name), bytes),
    )?;
    // The same step again (a second Ctrl-C after a resume): the new checkpoint has the same content.
    folder.replace()?;
    let all = list_checkpoints(run)?;
    let surplus = all.iter().take(all.len().saturating_sub(keep.0));
    for old in surplus.filter(|old| Some(old.step) != keep.1) {
        durable::remove_folder(&old.path)?;
    }
    Ok(CheckpointDir {
        step: position.step,
        path,
    })
}

/// Hands each file of a checkpoint to `sink`, one at a time so that only one is in memory; `position.json` is the last.
///
/// # Errors
/// A module that Burn cannot write, and those of `sink`; `folder` is for messages.
fn each_file<S: Module, T: Module>(
    folder: &Path,
    student: &S,
    state: &T,
    optimizer: &Optimizer,
    position: &Position,
    mut sink: impl FnMut(&str, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut position = position.clone();
    let mut write = |name: &str, bytes: &[u8]| {
        position.checksums.insert(name.into(), crc32fast::hash(bytes));
        sink(name, bytes)
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
    let watched = position.watched.clone();
    if let Some(watched) = &watched {
        write(WATCHED, watched)?;
    }
    let text = serde_json::to_vec(&position)
        .map_err(std::io::Error::from)
        .map_err(FileError::new("write", &folder.join(POSITION)))?;
    sink(POSITION, &text)
}

/// A checkpoint's files by name, in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// The files of these modules.
    ///
    /// # Errors
    /// A module that Burn cannot write.
    pub(crate) fn of<S: Module, T: Module>(modules: &Loaded<S, T>) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        each_file(
            Path::new("of rank 0"),
            &modules.student,
            &modules.state,
            &modules.optimizer,
            &modules.position,
            |name, bytes| {
                files.insert(name.to_owned(), bytes.to_vec());
                Ok(())
            },
        )?;
        Ok(Self(files))
    }

    /// Those with these names of a checkpoint on disk, and its position.
    ///
    /// # Errors
    /// A file that is missing, or cannot be read.
    pub(crate) fn read(checkpoint: &CheckpointDir, names: &[&str]) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = checkpoint.path.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok((name.to_owned(), bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Checkpoint {
                    path,
                    reason: "damaged: the file is missing".into(),
                }),
                Err(error) => Err(FileError::new("read", &path)(error).into()),
            }
        };
        let names = [POSITION].into_iter().chain(names.iter().copied());
        names.map(read).collect::<Result<_, _>>().map(Self)
    }

    /// One text of bytes for another rank: names and lengths in one line of JSON, then the files.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let lengths: BTreeMap<&str, usize> = self
            .0
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.len()))
            .collect();
        let mut all = serde_json::to_vec(&lengths).unwrap_or_default();
        all.push(b'\n');
        self.0.values().for_each(|bytes| all.extend_from_slice(bytes));
        all
    }

    /// # Errors
    /// Bytes that [`to_bytes`](Self::to_bytes) did not write.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let refused = || Error::Checkpoint {
            path: PathBuf::from("of rank 0"),
            reason: "damaged on its way to this rank".into(),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(refused)?;
        let (line, mut rest) = (&bytes[..end], &bytes[end + 1..]);
        let lengths: BTreeMap<String, usize> = serde_json::from_slice(line).map_err(|_| refused())?;
        let mut files = BTreeMap::new();
        for (name, length) in lengths {
            let (own, others) = rest.split_at_checked(length).ok_or_else(refused)?;
            files.insert(name, own.to_vec());
            rest = others;
        }
        Ok(Self(files))
    }

    fn bytes(&self, folder: &Path, name: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.0.get(name).cloned();
        bytes.ok_or_else(|| refused(folder, name, "damaged: the file is missing".into()))
    }

    fn position(&self, folder: &Path) -> Result<Position, Error> {
        serde_json::from_slice(&self.bytes(folder, POSITION)?)
            .map_err(|error| refused(folder, POSITION, format!("damaged: {error}")))
    }

    /// The bytes of a file, if they are those that were written.
    fn whole(&self, folder: &Path, position: &Position, name: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.bytes(folder, name)?;
        // Checkpoints of earlier versions have no checksums.
        match position.checksums.get(name) {
            Some(checksum) if *checksum != crc32fast::hash(&bytes) => {
                Err(refused(folder, name, OTHER_BYTES.into()))
            }
            _ => Ok(bytes),
        }
    }

    /// A module with those tensors of one file that it has too; the paths of its other ones go to `kept`.
    fn part<M: Module>(
        &self,
        folder: &Path,
        position: &Position,
        name: &str,
        module: M,
        kept: &mut Vec<String>,
    ) -> Result<M, Error> {
        let before = backbones::parameters(&module);
        let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(self.whole(folder, position, name)?))
            .map_err(|error| refused(folder, name, record_reason(&error, "networks")))?;
        let module = module.load_record(record.allow_partial(true).allow_unused(true).validate(false));
        // A tensor that was found brings its id.
        for (before, after) in before.iter().zip(backbones::parameters(&module)) {
            if before.id == after.id {
                kept.push(after.path);
            }
        }
        Ok(module)
    }

    /// The modules with the checkpoint's values; `folder` is for messages. Modules must be freshly initialized: pending
    /// batch statistics of others would overwrite the loaded ones.
    ///
    /// # Errors
    /// Damaged files, and files of other networks.
    pub(crate) fn load<S: Module, T: Module>(
        &self,
        folder: &Path,
        student: S,
        state: T,
        mut optimizer: Optimizer,
    ) -> Result<Loaded<S, T>, Error> {
        let refused = |name: &str, reason| refused(folder, name, reason);
        let mut position = self.position(folder)?;
        if position.checksums.contains_key(WATCHED) {
            position.watched = Some(self.whole(folder, &position, WATCHED)?);
        }
        let whole = |name: &str| self.whole(folder, &position, name);
        let student = ModuleRecord::from_bytes(Bytes::from_bytes_vec(whole(STUDENT)?))
            .and_then(|record| student.try_load_record(record))
            .map_err(|error| refused(STUDENT, record_reason(&error, "networks")))?;
        let state = ModuleRecord::from_bytes(Bytes::from_bytes_vec(whole(STATE)?))
            .and_then(|record| state.try_load_record(record))
            .map_err(|error| refused(STATE, record_reason(&error, "objective")))?;
        optimizer
            .load_bytes(&whole(OPTIMIZER)?, &student)
            .map_err(|reason| refused(OPTIMIZER, reason))?;
        Ok(Loaded {
            student,
            state,
            optimizer,
            position,
        })
    }
}

/// Whichever tensors of a checkpoint the modules have, by path and shape, and the paths of those that keep their values.
/// Not the optimizer's: it starts anew.
///
/// # Errors
/// Files that are missing or damaged.
pub(crate) fn take_over<S: Module, T: Module>(
    checkpoint: &CheckpointDir,
    student: S,
    state: T,
) -> Result<(S, T, Vec<String>), Error> {
    let files = Files::read(checkpoint, &[STUDENT, STATE])?;
    let position = files.position(&checkpoint.path)?;
    let mut kept = vec![];
    let student = files.part(&checkpoint.path, &position, STUDENT, student, &mut kept)?;
    let state = files.part(&checkpoint.path, &position, STATE, state, &mut kept)?;
    Ok((student, state, kept))
}

/// Gives an error if a file beside a checkpoint's `position.json` has other bytes than were written; it is read in pieces. Nothing
/// is known of files without a checksum, which earlier versions wrote.
///
/// # Errors
/// A file that is missing, damaged or cannot be read.
pub(crate) fn check_file(folder: &Path, name: &str) -> Result<(), Error> {
    let Ok(text) = fs::read(folder.join(POSITION)) else {
        return Ok(());
    };
    let position: Position = serde_json::from_slice(&text)
        .map_err(|error| refused(folder, POSITION, format!("damaged: {error}")))?;
    position.check(folder, name)
}

impl Position {
    /// The same for a checkpoint of this position.
    fn check(&self, folder: &Path, name: &str) -> Result<(), Error> {
        const PIECE: usize = 1 << 20;
        let Some(expected) = self.checksums.get(name) else {
            return Ok(());
        };
        let path = folder.join(name);
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused(folder, name, "damaged: the file is missing".into()));
            }
            Err(error) => return Err(FileError::new("read", &path)(error).into()),
        };
        let (mut hasher, mut piece) = (crc32fast::Hasher::new(), vec![0; PIECE]);
        loop {
            match file.read(&mut piece).map_err(FileError::new("read", &path))? {
                0 => break,
                length => hasher.update(&piece[..length]),
            }
        }
        match hasher.finalize() == *expected {
            true => Ok(()),
            false => Err(refused(folder, name, OTHER_BYTES.into())),
        }
    }
}

/// Of a file whose checksum is another one.
const OTHER_BYTES: &str = "damaged: its bytes are not those that were written";

/// Writes a file of an unfinished checkpoint, which is synced as a whole.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Ok(fs::write(path, bytes).map_err(FileError::new("write", path))?)
}

fn refused(folder: &Path, name: &str, reason: String) -> Error {
    Error::Checkpoint {
        path: folder.join(name),
        reason,
    }
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

/// The paths of all tensors of student and state with NaN or infinity.
pub(crate) fn tensors_not_finite<S: Module, T: Module>(
    student: &S,
    state: &T,
) -> Result<Vec<String>, String> {
    let mut zeros = Zeros::default();
    student.visit(&mut zeros);
    state.visit(&mut zeros);
    let (paths, zeros): (Vec<_>, Vec<_>) = zeros.found.into_iter().unzip();
    if zeros.is_empty() {
        return Ok(vec![]);
    }
    let data = Tensor::cat(zeros, 0)
        .try_into_data()
        .map_err(|error| device_reason(&error.to_string()))?;
    let paths = paths.into_iter().zip(data.iter::<f32>());
    Ok(paths
        .filter(|(_, zero)| !zero.is_finite())
        .map(|(path, _)| path)
        .collect())
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

/// Networks and optimizer, and where their run is.
pub(crate) struct Loaded<S, T> {
    pub(crate) student: S,
    pub(crate) state: T,
    pub(crate) optimizer: Optimizer,
    pub(crate) position: Position,
}

/// Loads a checkpoint into freshly initialized modules: see [`Files::load`].
///
/// # Errors
/// Those of [`Files::load`], files that cannot be read, and a step that is not the folder's.
pub(crate) fn load<S: Module, T: Module>(
    checkpoint: &CheckpointDir,
    student: S,
    state: T,
    optimizer: Optimizer,
) -> Result<Loaded<S, T>, Error> {
    // Checkpoints of earlier versions have none.
    let watched = checkpoint.path.join(WATCHED).exists().then_some(WATCHED);
    let names: Vec<&str> = [STUDENT, STATE, OPTIMIZER].into_iter().chain(watched).collect();
    let files = Files::read(checkpoint, &names)?;
    let loaded = files.load(&checkpoint.path, student, state, optimizer)?;
    if loaded.position.step != checkpoint.step {
        return Err(Error::Checkpoint {
            path: checkpoint.path.join(POSITION),
            reason: format!(
                "says step {}, the folder's name says {}",
                loaded.position.step, checkpoint.step
            ),
        });
    }
    // Other programs, and `passer evaluate`, read files that a resume does not.
    let read = |name: &&String| !names.contains(&name.as_str());
    for other in loaded.position.checksums.keys().filter(read) {
        loaded.position.check(&checkpoint.path, other)?;
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_found_by_its_folder_its_run_and_the_folder_of_all() {
        let run = tempfile::tempdir().unwrap();
        let all = run.path().join(FOLDER);
        for step in [4, 12] {
            let folder = all.join(format!("step-{step:08}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(POSITION), "{}").unwrap();
        }
        let found = |path: &Path| at(path).unwrap().map(|checkpoint| checkpoint.step);
        assert_eq!(found(run.path()), Some(12));
        assert_eq!(found(&all), Some(12));
        assert_eq!(found(&all.join("step-00000004")), Some(4));
        assert_eq!(found(&all.join("step-00000099")), None);
        // Another program's folder of such a name.
        let other = tempfile::tempdir().unwrap();
        fs::create_dir(other.path().join("step-7")).unwrap();
        assert_eq!(found(other.path()), None);
        assert_eq!(
            Files::read(&latest_checkpoint(run.path()).unwrap().unwrap(), &[])
                .unwrap()
                .0
                .len(),
            1
        );
    }

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
