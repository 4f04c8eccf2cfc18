//! Weights in several files with an index: `model.safetensors.index.json` and `pytorch_model.bin.index.json`.
//!
//! The caller opens the files that the index names, in the same folder. Here they are one source of bytes, one
//! after the other, so that a tensor has one offset in it wherever it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};

use serde::Deserialize;

use super::checkpoint::{Checkpoint, Entry};
use super::error::{CheckpointError, MAX_ENTRIES, MAX_NAME, cut, damaged, long_name, many_entries};

/// Maximum files of one network.
const MAX_FILES: usize = 1024;

/// An index: which file holds which tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    files: Vec<String>,
    /// Position of the file of each tensor.
    tensors: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The index in a JSON text.
    ///
    /// # Errors
    /// Another text; a name of a file that is a path, because a stranger's index must not lead out of its folder.
    pub fn parse(json: &str) -> Result<Self, CheckpointError> {
        let index = serde_json::from_str::<Index>(json)
            .map_err(|error| damaged(format!("the index of its files cannot be read: {error}")))?;
        if index.weight_map.is_empty() {
            return Err(damaged("the index of its files names no tensor"));
        }
        if index.weight_map.len() > MAX_ENTRIES {
            return Err(many_entries());
        }
        if index.weight_map.keys().any(|name| name.len() > MAX_NAME) {
            return Err(long_name());
        }
        let files = index.weight_map.values().collect::<BTreeSet<_>>();
        if files.len() > MAX_FILES {
            return Err(CheckpointError::Limit(format!(
                "its index names more than {MAX_FILES} files"
            )));
        }
        let is_path = |file: &&&String| {
            file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', ':', '\0'])
        };
        if let Some(path) = files.iter().find(is_path) {
            return Err(damaged(format!(
                "the index of its files names `{}`, which is not the name of a file in its folder",
                cut(path)
            )));
        }
        let files = files.into_iter().cloned().collect::<Vec<_>>();
        let position = |file: String| files.binary_search(&file).expect("every file is in the list");
        let tensors = index.weight_map.into_iter();
        let tensors = tensors.map(|(name, file)| (name, position(file))).collect();
        Ok(Self { files, tensors })
    }

    /// The names of the files, sorted.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The table of contents of all files; `shards` holds them in the order of [`Self::files`].
    ///
    /// # Errors
    /// A file that cannot be read; tensors that are not where the index says.
    ///
    /// # Panics
    /// If the numbers of files differ.
    pub fn open<R: Read + Seek>(&self, shards: &mut Shards<R>) -> Result<Checkpoint, CheckpointError> {
        assert_eq!(
            shards.parts.len(),
            self.files.len(),
            "one source per file of the index"
        );
        let mut all = BTreeMap::new();
        let mut whole = None::<Checkpoint>;
        for (position, file) in self.files.iter().enumerate() {
            let Part { start, source, .. } = &mut shards.parts[position];
            let part = Checkpoint::open(source)?;
            let Entry::Dict(entries) = part.root else {
                return Err(damaged(format!("`{file}` holds no dictionary")));
            };
            for (name, mut entry) in entries {
                let Entry::Tensor(tensor) = &mut entry else {
                    return Err(damaged(format!("`{}` in `{file}` is not a tensor", cut(&name))));
                };
                tensor.start = tensor.start.saturating_add(*start);
                match self.tensors.get(&name) {
                    Some(expected) if *expected == position => {}
                    Some(expected) => {
                        return Err(damaged(format!(
                            "`{}` is in `{file}`, and the index says `{}`",
                            cut(&name),
                            self.files[*expected]
                        )));
                    }
                    None => {
                        return Err(damaged(format!(
                            "`{}` is in `{file}` and not in the index",
                            cut(&name)
                        )));
                    }
                }
                all.insert(name, entry);
            }
            whole.get_or_insert(Checkpoint {
                format: part.format,
                root: Entry::Dict(BTreeMap::new()),
                metadata: BTreeMap::new(),
                bytes: shards.length,
                description: None,
            });
        }
        let missing = self.tensors.iter().find(|(name, _)| !all.contains_key(*name));
        if let Some((name, file)) = missing {
            return Err(damaged(format!(
                "the index says that `{}` is in `{}`, which does not hold it",
                cut(name),
                self.files[*file]
            )));
        }
        let mut whole = whole.ok_or_else(|| damaged("the index of its files names no file"))?;
        whole.root = Entry::Dict(all);
        Ok(whole)
    }
}

/// Files one after the other as one source of bytes.
#[derive(Debug)]
pub struct Shards<R> {
    parts: Vec<Part<R>>,
    length: u64,
    at: u64,
}

#[derive(Debug)]
struct Part<R> {
    start: u64,
    length: u64,
    source: R,
}

impl<R: Read + Seek> Shards<R> {
    /// All bytes of the sources.
    ///
    /// # Errors
    /// A source that cannot seek.
    pub fn new(sources: Vec<R>) -> std::io::Result<Self> {
        let mut length = 0u64;
        let mut parts = vec![];
        for mut source in sources {
            let start = length;
            let own = source.seek(SeekFrom::End(0))?;
            length = length.saturating_add(own);
            parts.push(Part {
                start,
                length: own,
                source,
            });
        }
        Ok(Self { parts, length, at: 0 })
    }

    /// The sources, in order.
    pub fn sources(&mut self) -> impl Iterator<Item = &mut R> {
        self.parts.iter_mut().map(|part| &mut part.source)
    }
}

impl<R: Read + Seek> Read for Shards<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let at = self.at;
        // Parts are in order, and empty ones hold no byte.
        let Some(part) = self.parts.iter_mut().find(|part| at < part.start + part.length) else {
            return Ok(0);
        };
        part.source.seek(SeekFrom::Start(at - part.start))?;
        let left = usize::try_from(part.start + part.length - at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = part.source.read(&mut buffer[..length])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Shards<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(from) => self.length.checked_add_signed(from),
            SeekFrom::Current(from) => self.at.checked_add_signed(from),
        };
        self.at =
            at.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a position before the first byte"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};
    use std::io::Cursor;

    fn file(tensors: &[(&str, f32)]) -> Vec<u8> {
        let values = tensors
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_le_bytes()))
            .collect::<Vec<_>>();
        let views = values
            .iter()
            .map(|(name, bytes)| (name.clone(), TensorView::new(Dtype::F32, vec![1], bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    type Opened = (Checkpoint, Shards<Cursor<Vec<u8>>>);

    fn open(index: &str, files: &[Vec<u8>]) -> Result<Opened, CheckpointError> {
        let index = ShardIndex::parse(index)?;
        let mut shards = Shards::new(files.iter().cloned().map(Cursor::new).collect()).unwrap();
        Ok((index.open(&mut shards)?, shards))
    }

    const INDEX: &str =
        r#"{"metadata": {"total_size": 12}, "weight_map": {"a": "2.st", "b": "1.st", "c": "2.st"}}"#;

    #[test]
    fn tensors_are_read_from_the_file_that_holds_them() {
        let (checkpoint, mut shards) =
            open(INDEX, &[file(&[("b", 2.0)]), file(&[("a", 1.0), ("c", 3.0)])]).unwrap();
        let names = checkpoint.tensors().into_iter().map(|(name, _)| name);
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c"]);
        // In any order.
        for (name, expected) in [("c", 3.0), ("b", 2.0), ("a", 1.0), ("b", 2.0)] {
            let Some(Entry::Tensor(tensor)) = checkpoint.root.at(name) else {
                panic!("{name}")
            };
            let data = tensor.read(&mut shards).unwrap();
            assert_eq!(data.as_slice::<f32>().unwrap(), [expected], "{name}");
        }
        let mut all = vec![];
        shards.rewind().unwrap();
        shards.read_to_end(&mut all).unwrap();
        assert_eq!(all.len() as u64, checkpoint.bytes);
    }

    #[test]
    fn an_index_that_its_files_contradict_is_damaged() {
        let (b, ac) = (file(&[("b", 2.0)]), file(&[("a", 1.0), ("c", 3.0)]));
        let refused = |index: &str, files: &[Vec<u8>]| open(index, files).unwrap_err().to_string();
        let error = refused(INDEX, &[b.clone(), file(&[("a", 1.0)])]);
        assert!(
            error.ends_with("the index says that `c` is in `2.st`, which does not hold it"),
            "{error}"
        );
        let error = refused(INDEX, &[ac.clone(), b.clone()]);
        assert!(
            error.ends_with("`a` is in `1.st`, and the index says `2.st`"),
            "{error}"
        );
        let error = refused(INDEX, &[file(&[("b", 2.0), ("d", 4.0)]), ac]);
        assert!(
            error.ends_with("`d` is in `1.st` and not in the index"),
            "{error}"
        );
        for name in ["../x", "/etc/passwd", "a/b", "..", "", r"a\\b", "C:x"] {
            let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
            let error = ShardIndex::parse(&index).unwrap_err().to_string();
            assert!(
                error.contains("not the name of a file in its folder"),
                "{name}: {error}"
            );
        }
        for text in ["{}", "[]", r#"{"weight_map": {}}"#] {
            assert!(ShardIndex::parse(text).is_err(), "{text}");
        }
    }
}
