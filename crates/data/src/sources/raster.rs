//! Small pictures as raw pixels in one file: CIFAR's binary files and IDX, MNIST's format.
//!
//! The pixels stay in memory unchanged. A record's image is a BMP, made of them at each read without loss; it
//! is the same to the byte everywhere.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::{HashedKeys, Identity};
use super::part::{Layout, Place};
use super::source::{Opened, Source};
use crate::error::Error;
use crate::hint::Hint;
use crate::listing::Listing;
use crate::record::Label;

/// `kind = "cifar10"`: CIFAR-10's binary files, `files` of the folder `path`.
pub(crate) const CIFAR10: Layout = Layout {
    name: "cifar10",
    keys: &["files"],
    required: &["files"],
    in_folder: true,
    shards: None,
    open: |place, _| {
        let names = cifar_names(&place.path, "batches.meta.txt", 10)?;
        opened(cifar(&place.path, files(place), 1, 10)?, names, place)
    },
};

/// `kind = "cifar100"`: CIFAR-100's binary files, with the fine labels.
pub(crate) const CIFAR100: Layout = Layout {
    name: "cifar100",
    keys: &["files"],
    required: &["files"],
    in_folder: true,
    shards: None,
    open: |place, _| {
        let names = cifar_names(&place.path, "fine_label_names.txt", 100)?;
        opened(cifar(&place.path, files(place), 2, 100)?, names, place)
    },
};

/// `kind = "idx"`: MNIST's format, with the images in `path` and the labels in `labels`, gzipped or not.
pub(crate) const IDX: Layout = Layout {
    name: "idx",
    keys: &["labels"],
    required: &[],
    in_folder: false,
    shards: None,
    open: |place, _| {
        let labels = place.part.labels.as_ref().map(|_| place.labels.as_path());
        opened(idx(&place.path, labels)?, None, place)
    },
};

fn files<'a>(place: &'a Place<'_>) -> &'a [String] {
    place.part.files.as_deref().unwrap_or_default()
}

fn opened(raster: Raster, names: Option<Vec<String>>, place: &Place<'_>) -> Result<Opened, Error> {
    if raster.len() == 0 {
        return Err(Error::Empty {
            path: place.path.clone(),
            reason: "no record in it".to_string(),
        });
    }
    let mut listing = Listing::default();
    Ok(Opened {
        class_names: place.part.classes.clone().or(names).unwrap_or_default(),
        identity: Identity::of(&[raster.hashed_keys()], &mut listing),
        listing,
        source: Box::new(raster),
        objects: None,
    })
}

/// Pictures of one size.
#[derive(Debug)]
struct Raster {
    width: usize,
    height: usize,
    /// 3: planes of red, green and blue; 1: gray.
    channels: usize,
    /// The pictures, concatenated.
    pixels: Vec<u8>,
    labels: Vec<u32>,
    /// First part of the keys of each file, and its first record.
    files: Vec<(usize, String)>,
}

impl Source for Raster {
    fn len(&self) -> usize {
        self.pixels.len() / (self.width * self.height * self.channels).max(1)
    }

    fn is_labeled(&self) -> bool {
        !self.labels.is_empty()
    }

    /// `data_batch_1/00042`.
    fn key(&self, position: usize) -> String {
        let file = self.files.partition_point(|(first, _)| *first <= position) - 1;
        let (first, name) = &self.files[file];
        format!("{name}/{:05}", position - first)
    }

    fn label(&self, position: usize) -> Option<Label> {
        self.labels.get(position).map(|class| Label::Class(*class))
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        self.bmp(position, image);
        Ok(())
    }

    fn largest_class(&self) -> Option<u32> {
        self.labels.iter().copied().max()
    }
}

impl Raster {
    /// Keys with the hashes of their images.
    fn hashed_keys(&self) -> HashedKeys<'_> {
        let hashes: Vec<[u8; 32]> = (0..self.len())
            .into_par_iter()
            .map(|position| {
                let mut image = vec![];
                self.bmp(position, &mut image);
                Sha256::digest(&image).into()
            })
            .collect();
        let pairs = hashes.into_iter().enumerate();
        HashedKeys::sorted(pairs.map(|(position, hash)| (self.key(position), hash)))
    }

    /// The picture as a BMP of 24 bits a pixel.
    fn bmp(&self, position: usize, out: &mut Vec<u8>) {
        const HEADER: usize = 54;
        let (width, height) = (self.width, self.height);
        let area = width * height;
        let bytes = area * self.channels;
        let picture = &self.pixels[position * bytes..][..bytes];
        // Rows are padded to multiples of four bytes.
        let row = (width * 3).div_ceil(4) * 4;
        out.clear();
        out.resize(HEADER + row * height, 0);
        out[..2].copy_from_slice(b"BM");
        for (at, value) in [
            (2, out.len() as u32),
            (10, HEADER as u32),
            (14, 40),
            (18, width as u32),
            (22, height as u32),
            // One plane of 24 bits.
            (26, 1 | 24 << 16),
            (34, (row * height) as u32),
        ] {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for y in 0..height {
            // Rows from the bottom, pixels as blue, green, red.
            let start = HEADER + (height - 1 - y) * row;
            for x in 0..width {
                let at = y * width + x;
                let [red, green, blue] = match self.channels {
                    3 => [picture[at], picture[area + at], picture[2 * area + at]],
                    _ => [picture[at]; 3],
                };
                out[start + 3 * x..start + 3 * x + 3].copy_from_slice(&[blue, green, red]);
            }
        }
    }
}

fn wrong(path: &Path, reason: String) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason,
        hint: Some(Hint::DownloadAgain),
    }
}

fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_string()
}

/// CIFAR's binary files: `label_bytes` of labels (the last one counts), then 32 x 32 px in planes of red,
/// green, blue.
fn cifar(folder: &Path, files: &[String], label_bytes: usize, classes: u32) -> Result<Raster, Error> {
    const PIXELS: usize = 3 * 32 * 32;
    let mut raster = Raster {
        width: 32,
        height: 32,
        channels: 3,
        pixels: vec![],
        labels: vec![],
        files: vec![],
    };
    for file in files {
        let path = folder.join(file);
        let content = read(&path)?;
        let bytes = label_bytes + PIXELS;
        // What `pickle` begins with, in its versions from 2 on.
        if content.starts_with(&[0x80]) && content.len() % bytes != 0 {
            let reason = "a pickle of CIFAR's version for Python; take the binary version of the data set";
            return Err(wrong(&path, reason.to_string()));
        }
        if content.is_empty() || content.len() % bytes != 0 {
            return Err(wrong(
                &path,
                format!(
                    "must have a multiple of {bytes} bytes (records of 32 x 32 px), got {}",
                    content.len()
                ),
            ));
        }
        raster.files.push((raster.labels.len(), stem(&path)));
        for record in content.chunks_exact(bytes) {
            let label = u32::from(record[label_bytes - 1]);
            if label >= classes {
                return Err(wrong(
                    &path,
                    format!(
                        "record {} must be of a class in 0..{}, got {label}",
                        raster.labels.len(),
                        classes - 1
                    ),
                ));
            }
            raster.labels.push(label);
            raster.pixels.extend_from_slice(&record[label_bytes..]);
        }
    }
    Ok(raster)
}

/// The class names that ship with CIFAR, if they are beside its files.
fn cifar_names(folder: &Path, name: &str, classes: usize) -> Result<Option<Vec<String>>, Error> {
    let path = folder.join(name);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io("read", &path))?,
    };
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(str::to_string).collect();
    match names.len() == classes {
        true => Ok(Some(names)),
        false => Err(wrong(
            &path,
            format!("must name {classes} classes, one a line, got {}", names.len()),
        )),
    }
}

/// IDX: images of 8 bits, and a label for each.
fn idx(images: &Path, labels: Option<&Path>) -> Result<Raster, Error> {
    let (dimensions, pixels) = idx_array(images)?;
    let [records, height, width] = dimensions[..] else {
        return Err(wrong(
            images,
            format!(
                "must have 3 dimensions (records, rows, columns), got {}",
                dimensions.len()
            ),
        ));
    };
    let mut raster = Raster {
        width,
        height,
        channels: 1,
        pixels,
        labels: vec![],
        files: vec![(0, stem(images))],
    };
    if let Some(path) = labels {
        let (dimensions, values) = idx_array(path)?;
        if dimensions != [records] {
            return Err(wrong(
                path,
                format!(
                    "has labels of shape {dimensions:?}, and `{}` has {records} images",
                    images.display()
                ),
            ));
        }
        raster.labels = values.into_iter().map(u32::from).collect();
    }
    Ok(raster)
}

/// Dimensions and values of an IDX file of bytes. It unpacks at most the length that the header announces.
fn idx_array(path: &Path) -> Result<(Vec<usize>, Vec<u8>), Error> {
    let damaged = |reason: &str| wrong(path, format!("not an IDX file of bytes: {reason}"));
    let mut file = open(path)?;
    let mut next = |bytes: usize| -> Result<Vec<u8>, Error> {
        let mut content = vec![];
        let read = (&mut file).take(bytes as u64).read_to_end(&mut content);
        read.map_err(|error| unreadable(path, error))?;
        Ok(content)
    };
    let [0, 0, kind, rank] = next(4)?[..] else {
        return Err(damaged("it does not begin with two zeros"));
    };
    if kind != 8 {
        return Err(damaged("its magic number is of another type"));
    }
    if !(1..=3).contains(&rank) {
        return Err(damaged(&format!(
            "it must have 1 dimension (labels) or 3 (gray pictures), got {rank}"
        )));
    }
    let header = next(4 * usize::from(rank))?;
    if header.len() < 4 * usize::from(rank) {
        return Err(damaged("it ends in its header"));
    }
    let dimensions: Vec<usize> = header
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| u32::from_be_bytes(*bytes) as usize)
        .collect();
    let values = dimensions
        .iter()
        .try_fold(1usize, |product, side| product.checked_mul(*side))
        .filter(|values| *values < usize::MAX)
        .ok_or_else(|| damaged(&format!("its header says {dimensions:?}")))?;
    let content = next(values + 1)?;
    if content.len() != values {
        let follow = match content.len() > values {
            true => "more bytes than that follow".to_string(),
            false => format!("{} bytes follow", content.len()),
        };
        return Err(damaged(&format!("its header says {dimensions:?}, and {follow}")));
    }
    Ok((dimensions, content))
}

/// A file, unpacked where it is gzipped; `NAME.gz` where `NAME` does not exist.
fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let packed = PathBuf::from(format!("{}.gz", path.display()));
    let path = if !path.exists() && packed.exists() {
        &packed
    } else {
        path
    };
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io("read", path))?);
    let start = file.fill_buf().map_err(Error::io("read", path))?;
    Ok(match start.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(GzDecoder::new(file)),
        false => Box::new(file),
    })
}

/// The whole file.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut plain = vec![];
    open(path)?
        .read_to_end(&mut plain)
        .map_err(|error| unreadable(path, error))?;
    Ok(plain)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::UnexpectedEof => wrong(path, format!("damaged gzip: {error}")),
        _ => Error::io("read", path)(error),
    }
}
