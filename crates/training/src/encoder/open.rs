//! The files of weights behind a path: a file, a run directory, a folder of Hugging Face Transformers or timm, or
//! an index of several files; with the `config.json` that belongs to them.

use super::ENCODER;
use crate::checkpoint;
use crate::error::Error;
use crate::run_facts::RunFacts;
use data::{FileError, hex};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use weights::{Checkpoint, Description, Hint, ShardIndex, Shards, WeightsError};

/// Opened files of weights, at their start.
pub(crate) struct Opened {
    /// The file, or the index of several.
    pub(crate) path: PathBuf,
    /// Their bytes.
    pub(crate) source: Shards<File>,
    /// SHA-256 of the file, hexadecimal; of several, the SHA-256 of theirs, one per line.
    pub(crate) hash: String,
    /// If it is of a run that is not finished: how far that is.
    pub(crate) unfinished: Option<UnfinishedRun>,
    index: Option<ShardIndex>,
    description: Option<Description>,
}

/// How far a run is that is not finished: its newest checkpoint stands for its encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfinishedRun {
    /// Steps of the checkpoint.
    pub step: usize,
    /// Steps of the whole run, where known.
    pub steps: Option<u64>,
}

impl std::fmt::Display for UnfinishedRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the run is not finished: this is its checkpoint of step {}",
            self.step
        )?;
        self.steps.map_or(Ok(()), |steps| write!(f, " of {steps}"))
    }
}

impl Opened {
    /// The table of contents.
    pub(crate) fn checkpoint(&mut self) -> Result<Checkpoint, WeightsError> {
        let mut checkpoint = match &self.index {
            Some(index) => index.open(&mut self.source)?,
            None => Checkpoint::open(&mut self.source)?,
        };
        checkpoint.description.clone_from(&self.description);
        Ok(checkpoint)
    }
}

/// The names of weights in a folder of Transformers or timm, in the order in which Transformers takes them.
const NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Largest `config.json` and largest index; real ones have kilobytes and megabytes.
const MAX_CONFIG: u64 = 4 << 20;
const MAX_INDEX: u64 = 64 << 20;

/// Opens the weights behind a path. A run that is not finished is noted.
pub(crate) fn open_encoder(path: &Path) -> Result<Opened, Error> {
    let (path, unfinished) = match path.is_dir() {
        true => in_folder(path)?,
        false => (path.to_path_buf(), None),
    };
    if let Some(unfinished) = unfinished {
        tracing::warn!("encoder `{}`: {unfinished}", path.display());
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if let Some(index) = index_of(name)
        && path.with_file_name(&index).is_file()
    {
        let reason = format!("it is one of several files with one network, which `{index}` lists");
        return Err(refused(&path, reason, Some(Hint::GiveFolder)));
    }
    if name == ENCODER
        && let Some(folder) = path.parent()
    {
        checkpoint::check_file(folder, ENCODER)?;
    }
    let (index, files) = if name.ends_with(".index.json") {
        let text = text(&path, MAX_INDEX)?.unwrap_or_default();
        let index = ShardIndex::parse(&text)
            .map_err(|error| refused(&path, data::terminal::escape(&error.to_string()), error.hint()))?;
        let files = index.files().iter().map(|file| path.with_file_name(file));
        let files = files.collect();
        (Some(index), files)
    } else {
        (None, vec![path.clone()])
    };
    let mut sources = vec![];
    let mut hashes = vec![];
    for file in &files {
        let failed = || FileError::new("read", file);
        // A device or a pipe may be endless, and cannot seek back to a table of contents.
        if !std::fs::metadata(file).map_err(failed())?.is_file() {
            return Err(refused(file, "neither a file nor a folder", None));
        }
        let mut source = File::open(file).map_err(failed())?;
        hashes.push(data::sha256_of(&mut source).map_err(failed())?.hex());
        source.rewind().map_err(failed())?;
        sources.push(source);
    }
    let hash = match &index {
        Some(_) => hex(&Sha256::digest(hashes.join("\n"))),
        None => hashes.concat(),
    };
    // A file of another name beside a `config.json` may be anyone's.
    let description = match NAMES.contains(&name) || index.is_some() {
        true => description(&path)?,
        false => None,
    };
    Ok(Opened {
        source: Shards::new(sources).map_err(FileError::new("read", &path))?,
        path,
        hash,
        unfinished,
        index,
        description,
    })
}

/// The weights in a folder.
fn in_folder(folder: &Path) -> Result<(PathBuf, Option<UnfinishedRun>), Error> {
    let own = folder.join(ENCODER);
    if own.is_file() {
        return Ok((own, None));
    }
    if let Some(newest) = checkpoint::at(folder)? {
        // `RUN/checkpoints/step-NNNNNNNN`.
        let run = newest
            .path
            .ancestors()
            .nth(2)
            .filter(|run| !run.join(ENCODER).exists());
        let unfinished = run.map(|run| UnfinishedRun {
            step: newest.step,
            steps: RunFacts::read(run).ok().flatten().and_then(|facts| facts.steps()),
        });
        return Ok((newest.path.join(ENCODER), unfinished));
    }
    let named = |folder: &Path| {
        let mut files = NAMES.iter().map(|name| folder.join(name));
        files.find(|file| file.is_file())
    };
    let file = named(folder).or_else(|| named(&snapshot(folder)?));
    file.map(|file| (file, None)).ok_or_else(|| {
        let reason = "the folder holds no `encoder.safetensors` and no checkpoint, and no `model.safetensors` or \
                      `pytorch_model.bin` of other programs";
        let reason = match others(folder).as_slice() {
            [] => reason.to_owned(),
            others => format!("{reason}; it holds {}", data::terminal::escape(&others.join(", "))),
        };
        refused(folder, reason, None)
    })
}

/// What else in a folder may hold weights, the first few names: files, and folders such as `checkpoint-500`.
fn others(folder: &Path) -> Vec<String> {
    const SHOWN: usize = 4;
    const KINDS: [&str; 6] = ["safetensors", "bin", "pth", "pt", "ckpt", "tar"];
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = entries
        .filter(|entry| {
            let path = entry.path();
            let kind = path
                .extension()
                .and_then(|kind| kind.to_str())
                .unwrap_or_default();
            KINDS.contains(&kind) || NAMES.iter().any(|name| path.join(name).is_file())
        })
        .map(|entry| format!("`{}`", entry.file_name().to_string_lossy()))
        .collect::<Vec<_>>();
    found.sort();
    found.truncate(SHOWN);
    found
}

/// The one snapshot in a folder of Hugging Face's cache (`models--facebook--dinov2-base`), or the one that its
/// `main` names.
fn snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let main = std::fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
    let main = main.trim();
    if !main.is_empty() && main.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(snapshots.join(main));
    }
    let mut all = std::fs::read_dir(snapshots).ok()?.flatten();
    let only = all.next()?;
    all.next().is_none().then(|| only.path())
}

/// The index that a file of this name belongs to: of `model-00001-of-00003.safetensors` it is
/// `model.safetensors.index.json`.
fn index_of(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && digits(number)).then(|| format!("{stem}.{kind}.index.json"))
}

/// The description beside a file of weights.
fn description(file: &Path) -> Result<Option<Description>, Error> {
    let config = file.with_file_name("config.json");
    let Some(text_of_config) = text(&config, MAX_CONFIG)? else {
        return Ok(None);
    };
    let preprocessor = text(&file.with_file_name("preprocessor_config.json"), MAX_CONFIG)?;
    Description::read(&text_of_config, preprocessor.as_deref())
        .map_err(|reason| refused(&config, data::terminal::escape(&reason), None))
}

/// A text file; `None` if there is none.
fn text(path: &Path, longest: u64) -> Result<Option<String>, Error> {
    let failed = || FileError::new("read", path);
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = vec![];
    let file = File::open(path).map_err(failed())?;
    file.take(longest + 1).read_to_end(&mut text).map_err(failed())?;
    if text.len() as u64 > longest {
        return Err(refused(
            path,
            format!("it is larger than {} MiB", longest >> 20),
            None,
        ));
    }
    match String::from_utf8(text) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refused(path, "it is not a UTF-8 text", None)),
    }
}

fn refused(path: &Path, reason: impl Into<String>, hint: Option<Hint>) -> Error {
    Error::Encoder {
        path: path.to_path_buf(),
        reason: reason.into(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_names_its_index() {
        for (name, index) in [
            (
                "model-00001-of-00003.safetensors",
                Some("model.safetensors.index.json"),
            ),
            (
                "pytorch_model-00002-of-00002.bin",
                Some("pytorch_model.bin.index.json"),
            ),
            ("model.safetensors", None),
            ("best-of-5.pth", None),
            ("a-x-of-3.bin", None),
        ] {
            assert_eq!(index_of(name).as_deref(), index, "{name}");
        }
    }
}
