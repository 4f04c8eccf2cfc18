//! Packing records into shards through the `webdataset` crate's writer.
//!
//! Images are copied byte for byte. The same records give the same shards to the byte at any time: times and
//! owners in the tar headers are fixed.

use std::collections::HashSet;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use serde::Serialize;
use webdataset::shard::Compression;
use webdataset::{Sample, TarWriter, Value};

use super::OnProgress;
use super::archive::{self, FolderArchive};
use super::check::{SkippedMember, skipped_members};
use crate::caught::caught;
use crate::content::{Content, content_of};
use crate::dataset::Dataset;
use crate::decode::no_image;
use crate::durable;
use crate::error::{DecodeError, Error};
use crate::listing::{Listing, Reason};
use crate::randomness::{Purpose, generator, shuffle};
use crate::record::{Label, Record};
use crate::sources::description;
use crate::sources::part::{Kind, Part};
use crate::sources::shard_set::{SHARDS, shards_in};

/// How records are spread over shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Records in each shard but the last. A few hundred megabytes per shard suit disks and networks.
    pub records_per_shard: usize,
    /// Names of the shards: `PREFIX-000000.tar` and so on.
    pub prefix: String,
    /// The folder within the source that holds the records, e.g. `train`; `None` takes all.
    pub subfolder: Option<String>,
    /// Take only this many records, spread evenly over the source (so class folders stay balanced).
    pub limit: Option<usize>,
    /// Pack in a random order drawn from this seed, so that blocks of neighbors are a fair sample. Not for
    /// compressed archives, which can only be read sequentially.
    pub shuffle_seed: Option<u64>,
}

/// The result of [`pack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackReport {
    /// The shards in order.
    pub shards: Vec<PathBuf>,
    /// Records in them.
    pub records: usize,
    /// Class names in the order of their numbers, as written to `dataset.toml`; empty if unknown.
    pub class_names: Vec<String>,
    /// Skipped members and files, with the reason.
    pub skipped: Vec<SkippedMember>,
    /// What lies in the source and became no record, or became one by a guess.
    pub listing: Listing,
    /// Whether the classes are probably splits (`train`, `test`), each of which should be packed separately.
    pub classes_look_like_splits: bool,
    /// Fingerprint of the shards as a data set.
    pub fingerprint: String,
}

/// Packs a data set (anything that [`Dataset::open`] accepts) or a compressed tar of an image folder (gzip, bzip2
/// or Zstandard) into shards in `out`.
///
/// `out` is created if it does not exist, and must not hold shards yet. Class names are written to
/// `out/dataset.toml`.
///
/// # Errors
/// [`Error`] where the source cannot be read, an option is invalid, or a file cannot be written. Shards
/// finished before the error stay.
pub fn pack(
    source: &str,
    out: &Path,
    options: &PackOptions,
    progress: OnProgress,
) -> Result<PackReport, Error> {
    if options.limit == Some(0) {
        let reason = "must be at least 1, got 0".to_string();
        return Err(Error::Option {
            option: "limit",
            reason,
        });
    }
    let path = Path::new(source);
    if path.is_file() && (archive::is_compressed(path) || options.subfolder.is_some()) {
        let archive = FolderArchive::open(path, options.subfolder.as_deref())?;
        return pack_archive(&archive, out, options, progress);
    }
    let folder = options.subfolder.as_ref().map(|subfolder| path.join(subfolder));
    let dataset = match &folder {
        Some(folder) => Dataset::open_with_any_objects(&folder.to_string_lossy())?,
        None => Dataset::open_with_any_objects(source)?,
    };
    pack_dataset(&dataset, out, options, progress)
}

/// [`pack`] for an open data set; `subfolder` is ignored.
///
/// # Errors
/// As for [`pack`].
pub fn pack_dataset(
    dataset: &Dataset,
    out: &Path,
    options: &PackOptions,
    progress: OnProgress,
) -> Result<PackReport, Error> {
    let mut positions = spread(dataset.len(), options.limit);
    if let Some(seed) = options.shuffle_seed {
        shuffle(&mut positions, &mut generator(seed, Purpose::PackOrder, 0, 0, 0));
    }
    let mut writer = Writer::create(out, options)?;
    for (done, position) in positions.iter().enumerate() {
        writer.write(dataset.read_with_objects(*position)?)?;
        progress(done + 1, positions.len());
    }
    writer.listing.merge(dataset.listing());
    // Members outside records do not reach the new shards: report them.
    for (_, table) in dataset.shard_tables() {
        writer.skipped.extend(skipped_members(table));
    }
    writer.finish(dataset.class_names())
}

fn pack_archive(
    archive: &FolderArchive,
    out: &Path,
    options: &PackOptions,
    progress: OnProgress,
) -> Result<PackReport, Error> {
    if options.shuffle_seed.is_some() {
        return Err(Error::Option {
            option: "shuffle_seed",
            reason: "must be absent for a compressed archive, which can only be packed in its own order"
                .to_string(),
        });
    }
    let chosen = spread(archive.len(), options.limit);
    let mut writer = Writer::create(out, options)?;
    let mut done = 0;
    archive.read(&chosen, |record| {
        writer.write(record)?;
        done += 1;
        progress(done, chosen.len());
        Ok(())
    })?;
    writer.skipped.extend(archive.skipped());
    writer.listing.merge(archive.listing());
    writer.finish(archive.class_names())
}

/// `limit` positions spread evenly over `records`, in order; all of them without a limit.
fn spread(records: usize, limit: Option<usize>) -> Vec<usize> {
    let taken = limit.unwrap_or(records).min(records);
    // The product needs more than 64 bits only beyond 2³² records.
    (0..taken)
        .map(|at| (at as u128 * records as u128 / taken as u128) as usize)
        .collect()
}

/// Shards being written.
struct Writer<'a> {
    out: &'a Path,
    options: &'a PackOptions,
    current: Option<OpenShard>,
    in_current: usize,
    shards: Vec<PathBuf>,
    records: usize,
    keys: HashSet<String>,
    skipped: Vec<SkippedMember>,
    listing: Listing,
}

impl<'a> Writer<'a> {
    fn create(out: &'a Path, options: &'a PackOptions) -> Result<Writer<'a>, Error> {
        if options.records_per_shard == 0 {
            let reason = "must be at least 1, got 0".to_string();
            return Err(Error::Option {
                option: "records_per_shard",
                reason,
            });
        }
        if options.prefix.is_empty() || options.prefix.contains(['/', '\\', '{', '}']) {
            let reason = format!("must be a plain file name, got `{}`", options.prefix);
            return Err(Error::Option {
                option: "prefix",
                reason,
            });
        }
        fs::create_dir_all(out).map_err(Error::io("make", out))?;
        let described = out.join(description::FILE_NAME);
        let old = shards_in(out)?
            .paths
            .into_iter()
            .next()
            .or_else(|| described.is_file().then_some(described));
        if let Some(old) = old {
            // Shards of another run in the same folder would silently merge two data sets into one.
            let reason = format!(
                "must be a folder without shards, got one with `{}` in it",
                old.display()
            );
            return Err(Error::Option {
                option: "out",
                reason,
            });
        }
        Ok(Writer {
            out,
            options,
            current: None,
            in_current: 0,
            shards: Vec::new(),
            records: 0,
            keys: HashSet::new(),
            skipped: Vec::new(),
            listing: Listing::default(),
        })
    }

    fn write(&mut self, record: Record) -> Result<(), Error> {
        let Some(extension) = extension(&record.image) else {
            let reason = no_image(&record.image).to_string();
            let key = record.key.clone();
            match content_of(&record.image) {
                Content::UnreadPicture(format) => {
                    let kind = format!(".{format}");
                    self.listing.add(Reason::UnsupportedFormat, &kind, || key);
                }
                _ => self.listing.add(Reason::NotAnImage, "", || key),
            }
            self.skipped.push(SkippedMember {
                name: record.key,
                reason,
            });
            return Ok(());
        };
        if !self.keys.insert(record.key.clone()) {
            return Err(Error::Record {
                key: record.key,
                reason:
                    "a second record has this key, and a shard can hold only one; rename one of the files"
                        .to_string(),
            });
        }
        let key = record.key.clone();
        let sample = match caught(|| sample(record, extension)) {
            Ok(sample) => sample?,
            Err(message) => {
                let reason = DecodeError::Panicked { message }.to_string();
                self.skipped.push(SkippedMember { name: key, reason });
                return Ok(());
            }
        };
        if self.in_current == self.options.records_per_shard {
            self.finish_shard()?;
        }
        let shard = match &mut self.current {
            Some(shard) => shard,
            None => {
                let name = format!("{}-{:06}.tar", self.options.prefix, self.shards.len());
                let shard = OpenShard::create(self.out.join(name))?;
                self.current.insert(shard)
            }
        };
        shard.write(&sample)?;
        self.in_current += 1;
        self.records += 1;
        Ok(())
    }

    fn finish_shard(&mut self) -> Result<(), Error> {
        if let Some(shard) = self.current.take() {
            self.shards.push(shard.finish()?);
            self.in_current = 0;
        }
        Ok(())
    }

    fn finish(mut self, class_names: &[String]) -> Result<PackReport, Error> {
        self.finish_shard()?;
        if self.records == 0 {
            return Err(Error::Empty {
                path: self.out.to_path_buf(),
                reason: "no record was packed".to_string(),
            });
        }
        if !class_names.is_empty() {
            let described = self.out.join(description::FILE_NAME);
            let content = Part {
                classes: Some(class_names.to_vec()),
                ..Part::new(Kind(&SHARDS), ".")
            };
            let text = toml::to_string(&content)
                .map_err(|error| Error::description(&described, error.to_string()))?;
            durable::write(&described, text.as_bytes())?;
        }
        // Opening the shards builds their indexes, and is a first check.
        let dataset = Dataset::reopen(&self.out.to_string_lossy())?;
        Ok(PackReport {
            shards: std::mem::take(&mut self.shards),
            records: self.records,
            class_names: class_names.to_vec(),
            classes_look_like_splits: self.options.subfolder.is_none()
                && self.listing.count(Reason::SplitsAsClasses) > 0,
            listing: std::mem::take(&mut self.listing),
            skipped: std::mem::take(&mut self.skipped),
            fingerprint: dataset.fingerprint().to_string(),
        })
    }
}

/// Writes one shard of these records, in this order; returns their number.
///
/// The same records give the same shard to the byte. The file gets its name only when it is whole. The caller
/// makes sure that keys differ.
///
/// # Errors
/// An error of the records, an image of an unsupported format, or a file that cannot be written.
pub fn write_shard<E: From<Error>>(
    path: &Path,
    records: impl IntoIterator<Item = Result<Record, E>>,
) -> Result<usize, E> {
    let mut shard = OpenShard::create(path.to_path_buf())?;
    let mut count = 0;
    for record in records {
        let record = record?;
        let extension = extension(&record.image).ok_or_else(|| Error::Record {
            key: record.key.clone(),
            reason: no_image(&record.image).to_string(),
        })?;
        shard.write(&sample(record, extension)?)?;
        count += 1;
    }
    shard.finish()?;
    Ok(count)
}

/// A record as the members of its shard.
fn sample(record: Record, extension: &'static str) -> Result<Sample, Error> {
    let mut sample = Sample::with_key(&record.key);
    sample.insert(extension, Value::Bytes(record.image.into()));
    match &record.label {
        Some(Label::Class(class)) => {
            sample.insert("cls", Value::Text(class.to_string()));
        }
        Some(Label::Classes(classes)) => {
            let list: Vec<String> = classes.iter().map(u32::to_string).collect();
            sample.insert("classes.json", Value::Text(format!("[{}]", list.join(", "))));
        }
        None => {}
    }
    if !record.metadata.is_empty() {
        let text = serde_json::to_string(&record.metadata).map_err(|error| Error::Record {
            key: record.key.clone(),
            reason: error.to_string(),
        })?;
        sample.insert("json", Value::Text(text));
    }
    Ok(sample)
}

/// A shard being written. It gets its name only when it is whole, so that an interrupted run leaves no half
/// shard.
struct OpenShard {
    path: PathBuf,
    file: durable::Writer,
    tar: TarWriter,
}

impl OpenShard {
    fn create(path: PathBuf) -> Result<OpenShard, Error> {
        let file = durable::Writer::create(&path)?;
        let out = BufWriter::with_capacity(1 << 18, file.handle()?);
        let tar = TarWriter::new(Box::new(out), Compression::None).map_err(failed(&path))?;
        let tar = tar.with_owner("passer", "passer").with_mode(0o644);
        Ok(OpenShard {
            tar: tar.with_mtime(Some(0)),
            file,
            path,
        })
    }

    fn write(&mut self, sample: &Sample) -> Result<(), Error> {
        self.tar.write(sample).map_err(failed(&self.path))?;
        Ok(())
    }

    fn finish(self) -> Result<PathBuf, Error> {
        self.tar.close().map_err(failed(&self.path))?;
        self.file.finish()?;
        Ok(self.path)
    }
}

fn failed(path: &Path) -> impl FnOnce(webdataset::Error) -> Error {
    let error = Error::io("write", path);
    move |source| error(std::io::Error::other(source))
}

/// Extension of the content's format, regardless of the file's old name.
fn extension(image: &[u8]) -> Option<&'static str> {
    match image::guess_format(image).ok()? {
        ImageFormat::Jpeg => Some("jpg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::WebP => Some("webp"),
        ImageFormat::Bmp => Some("bmp"),
        ImageFormat::Gif => Some("gif"),
        _ => None,
    }
}
