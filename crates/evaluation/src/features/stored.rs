//! Features that lie on disk, in a file or in a folder of slices, read as one.

use super::file::{Contents, KEYS, LABELS};
use super::matrix::{Features, Labels, Matrix, Origin, UNDECIDED};
use super::slice::Slice;
use super::work::{FeatureType, Work};
use crate::error::{Error, SliceFault, io};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Missing slices that a message names.
const NAMED_SLICES: usize = 5;

impl Features {
    /// Reads a features file, or a folder of slices, whole.
    ///
    /// # Errors
    /// [`Error::FeaturesFile`] if it is not a complete features file, [`Error::Slices`] if the slices in the folder are not
    /// one features file, [`Error::OneSlice`] for one of several slices.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let stored = Stored::open(path)?;
        let taps = stored.taps();
        stored.read(&taps)
    }

    /// The origin of stored features, without reading them.
    ///
    /// # Errors
    /// As [`Features::load`].
    pub fn read_origin(path: &Path) -> Result<Origin, Error> {
        Ok(Stored::open(path)?.origin().clone())
    }
}

/// Stored features whose tables of contents have been read: one file, or all slices in their order.
#[derive(Debug)]
pub(crate) struct Stored {
    first: Contents,
    /// The slices after the first; their origin, names of classes and listing are the first one's.
    more: Vec<Contents>,
}

impl Stored {
    /// Opens a file or a folder of slices.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Contents::open)
    }

    /// The same, where a file may be another program's: records without keys are numbered.
    pub(crate) fn of_anyone(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Contents::of_anyone)
    }

    fn open_with(path: &Path, open: impl FnOnce(&Path) -> Result<Contents, Error>) -> Result<Self, Error> {
        if path.is_dir() {
            return in_folder(path);
        }
        let contents = open(path)?;
        match contents.slice() {
            None => Ok(Self {
                first: contents,
                more: vec![],
            }),
            Some(slice) => Err(Error::OneSlice {
                path: path.to_path_buf(),
                number: slice.number(),
                count: slice.count(),
            }),
        }
    }

    /// The origin of the features.
    pub(crate) fn origin(&self) -> &Origin {
        &self.first.header.origin
    }

    /// Names of the taps.
    pub(crate) fn taps(&self) -> Vec<String> {
        self.first.taps()
    }

    fn parts(&self) -> impl Iterator<Item = &Contents> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Reads the given taps and everything about the records. Rows go to their place at once: no slice is in memory twice.
    pub(crate) fn read(self, taps: &[String]) -> Result<Features, Error> {
        // Check the claimed sizes before allocating memory for them.
        let mut widths = vec![];
        for name in taps {
            let mut width = 0;
            for part in self.parts() {
                match part.info(name)? {
                    (Dtype::F32 | Dtype::F16, shape)
                        if shape.len() == 2 && shape[1] > 0 && (width == 0 || width == shape[1]) =>
                    {
                        width = shape[1];
                    }
                    (dtype, shape) => {
                        let expected = match width {
                            0 => "width".to_string(),
                            width => width.to_string(),
                        };
                        return Err(part.reject(format!(
                            "tap `{name}` is {dtype:?} {shape:?}, expected F32 or F16 [records, {expected}]"
                        )));
                    }
                }
            }
            widths.push(width);
        }
        let (mut keys, mut counts) = (vec![], vec![]);
        for part in self.parts() {
            let of_part = part.keys(taps)?;
            counts.push(of_part.len());
            match keys.is_empty() {
                // A file alone is not copied.
                true => keys = of_part,
                false => keys.extend(of_part),
            }
        }
        let labels = self.labels(&keys, &counts)?;
        // Those of one part alone say nothing about the others.
        let hashes = self.parts().zip(&counts);
        let hashes: Option<Vec<Vec<u64>>> = hashes
            .map(|(part, records)| part.pixel_hashes(*records))
            .collect::<Result<_, _>>()?;
        let mut matrices = BTreeMap::new();
        for (name, width) in taps.iter().zip(widths) {
            for (part, records) in self.parts().zip(&counts) {
                let (_, shape) = part.info(name)?;
                if shape[0] != *records {
                    return Err(part.reject(format!(
                        "tap `{name}` has {} rows, but there are {records} keys",
                        shape[0]
                    )));
                }
            }
            let mut values = vec![0.0; keys.len() * width];
            let mut rest = values.as_mut_slice();
            for (part, records) in self.parts().zip(&counts) {
                let (rows, behind) = rest.split_at_mut(records * width);
                part.rows(name, rows)?;
                rest = behind;
            }
            matrices.insert(name.clone(), Matrix::new(keys.len(), width, values));
        }
        let bad_records = self.parts().map(|part| part.header.bad_records).sum();
        let header = self.first.header;
        Ok(Features {
            taps: matrices,
            labels,
            class_names: header.class_names,
            keys,
            pixel_hashes: hashes.map(|hashes| hashes.concat()),
            bad_records,
            listing: header.listing,
            seen: header.seen,
            origin: header.origin,
        })
    }

    /// The labels of all parts, which have `counts` of the `keys`.
    fn labels(&self, keys: &[String], counts: &[usize]) -> Result<Option<Labels>, Error> {
        // Columns end with the largest class, and a slice may not have it.
        let columns = (self.parts().filter(|part| part.has(LABELS)))
            .map(|part| Ok(part.info(LABELS)?.1.get(1).copied().unwrap_or(0)))
            .collect::<Result<Vec<_>, Error>>()?;
        let columns = columns.into_iter().max().unwrap_or(0);
        let mut labels = None;
        let mut rest = keys;
        for (index, (part, count)) in self.parts().zip(counts).enumerate() {
            let (of_part, behind) = rest.split_at(*count);
            rest = behind;
            let read = labels_of(part, of_part)?.map(|labels| widened(labels, *count, columns));
            match (&mut labels, read) {
                (labels, read) if index == 0 => *labels = read,
                (None, None) => {}
                (Some(Labels::Classes(all)), Some(Labels::Classes(classes))) => all.extend(classes),
                (Some(Labels::Sets { multi_hot: all, .. }), Some(Labels::Sets { multi_hot, .. })) => {
                    all.extend(multi_hot);
                }
                _ => return Err(self.other_labels(part)),
            }
        }
        Ok(labels)
    }

    /// The error that a part has no labels beside some that have, or labels of the other kind.
    fn other_labels(&self, part: &Contents) -> Error {
        let name = |part: &Contents| part.slice().map_or(String::new(), |slice| slice.to_string());
        part.reject(format!(
            "its records have no labels like those of {}: all records must have one class each, all a set of classes, or none",
            name(&self.first)
        ))
    }
}

/// The labels of `records` rows; sets with zeros up to `columns` classes.
fn widened(labels: Labels, records: usize, columns: usize) -> Labels {
    let Labels::Sets { classes, multi_hot } = labels else {
        return labels;
    };
    if classes == columns {
        return Labels::Sets { classes, multi_hot };
    }
    let mut wide = Vec::with_capacity(records * columns);
    for row in 0..records {
        wide.extend_from_slice(&multi_hot[row * classes..(row + 1) * classes]);
        wide.resize((row + 1) * columns, 0);
    }
    Labels::Sets {
        classes: columns,
        multi_hot: wide,
    }
}

fn labels_of(part: &Contents, keys: &[String]) -> Result<Option<Labels>, Error> {
    if !part.has(LABELS) {
        return Ok(None);
    }
    let records = keys.len();
    let labels = match part.info(LABELS)? {
        (Dtype::I64, shape) if shape == [records] => Labels::Classes(part.numbers(LABELS)?),
        (Dtype::U8, shape) if shape.len() == 2 && shape[0] == records => Labels::Sets {
            classes: shape[1],
            multi_hot: part.numbers(LABELS)?,
        },
        (dtype, shape) => {
            return Err(part.reject(format!(
                "`{LABELS}` is {dtype:?} {shape:?}, expected I64 [{records}] or U8 [{records}, classes]"
            )));
        }
    };
    match wrong_label(&labels, keys) {
        Some(reason) => Err(part.reject(reason)),
        None => Ok(Some(labels)),
    }
}

/// The fault in labels that another program wrote.
fn wrong_label(labels: &Labels, keys: &[String]) -> Option<String> {
    match labels {
        Labels::Classes(classes) => {
            let row = classes.iter().position(|class| *class < 0)?;
            Some(format!(
                "`{LABELS}` holds {} in row {row} (record `{}`): classes are numbers from 0; leave records without one out",
                classes[row], keys[row]
            ))
        }
        Labels::Sets { classes, multi_hot } => {
            let place = multi_hot.iter().position(|hot| *hot > UNDECIDED)?;
            let (row, class) = (place / classes, place % classes);
            Some(format!(
                "`{LABELS}` holds {} in row {row} (record `{}`), class {class}: expected 0 (not of the class), 1 (of it) or 2 \
                 (undecided)",
                multi_hot[place], keys[row]
            ))
        }
    }
}

/// Opens the slices in a folder: all of one division, each once.
fn in_folder(folder: &Path) -> Result<Stored, Error> {
    let fault = |fault: SliceFault| Error::Slices {
        folder: folder.to_path_buf(),
        fault,
    };
    let mut found: Vec<(Slice, Contents)> = vec![];
    let mut first: Option<(Slice, Work)> = None;
    for path in files(folder)? {
        let mut contents = Contents::open(&path)?;
        let (slice, work) = work_of(folder, &contents)?;
        match &first {
            None => first = Some((slice, work)),
            Some((of_first, expected)) => {
                differs(folder, &path, (slice, &work), expected, Some(*of_first))?;
                // Once instead of once per slice: names of a thousand classes in a thousand slices are a million.
                contents.header.origin = Origin::default();
                contents.header.class_names = vec![];
                contents.header.listing = data::Listing::default();
            }
        }
        found.push((slice, contents));
    }
    let Some((of_first, work)) = first else {
        return Err(fault(SliceFault::None));
    };
    let about = found.first().map(|(_, contents)| contents.header.clone());
    found.sort_by_key(|(slice, _)| slice.number());
    for pair in found.windows(2) {
        if let [(slice, one), (other, two)] = pair
            && slice == other
        {
            return Err(fault(SliceFault::Doubled {
                number: slice.number(),
                count: slice.count(),
                files: [file_name(&one.path), file_name(&two.path)],
            }));
        }
    }
    let count = of_first.count();
    if found.len() < count {
        let mut there = found.iter().map(|(slice, _)| slice.number()).peekable();
        let missing = (1..=count).filter(|number| there.next_if_eq(number).is_none());
        return Err(fault(SliceFault::Missing {
            numbers: missing.take(NAMED_SLICES).collect(),
            more: (count - found.len()).saturating_sub(NAMED_SLICES),
            count,
        }));
    }
    for (slice, contents) in &found {
        // Every record of its batches has a row or is counted.
        let rows = contents.rows_of_keys()?;
        let of_slice = Work {
            slice: Some(*slice),
            ..work.clone()
        };
        let records = of_slice.records_of(of_slice.batches());
        if rows + contents.header.bad_records != records {
            return Err(contents.reject(format!(
                "{slice} of {} records has {rows} rows and {} skipped records, expected {records} together",
                work.records, contents.header.bad_records
            )));
        }
    }
    let mut parts = found.into_iter().map(|(_, contents)| contents);
    let Some(mut first) = parts.next() else {
        return Err(fault(SliceFault::None));
    };
    if let Some(about) = about {
        first.header.origin = about.origin;
        first.header.class_names = about.class_names;
        first.header.listing = about.listing;
        first.header.seen = about.seen;
    }
    Ok(Stored {
        first,
        more: parts.collect(),
    })
}

/// A slice that is on disk.
#[derive(Debug)]
pub(super) struct SliceThere {
    pub(super) records: usize,
    /// Width of each tap, in the work's order.
    pub(super) widths: Vec<(String, usize)>,
    pub(super) bad_records: usize,
}

/// The slice of this work, if the folder holds it already.
///
/// # Errors
/// [`Error::Slices`] if the slice is there and is of other work, or another slice is: one is enough, because each was compared
/// with one before it. What two calls wrote at the same time is compared when the folder is read.
pub(super) fn slice_there(folder: &Path, slice: Slice, work: &Work) -> Result<Option<SliceThere>, Error> {
    if !folder.exists() {
        return Ok(None);
    }
    let files = files(folder)?;
    let own = folder.join(slice.file_name());
    let there = files.contains(&own);
    let other = match there {
        true => Some(&own),
        false => files.first(),
    };
    let Some(path) = other else {
        return Ok(None);
    };
    let mut expected = work.clone();
    expected.taps.sort();
    let contents = Contents::open(path)?;
    let (of_file, stored) = work_of(folder, &contents)?;
    differs(folder, path, (of_file, &stored), &expected, None)?;
    if !there {
        return Ok(None);
    }
    if of_file != slice {
        return Err(Error::Slices {
            folder: folder.to_path_buf(),
            fault: SliceFault::Differs {
                number: of_file.number(),
                count: of_file.count(),
                file: file_name(path),
                than: None,
                difference: "another slice than its name says".into(),
            },
        });
    }
    let width = |tap: &String| Ok((tap.clone(), contents.info(tap)?.1.get(1).copied().unwrap_or(0)));
    Ok(Some(SliceThere {
        records: contents.rows_of_keys()?,
        widths: work.taps.iter().map(width).collect::<Result<_, Error>>()?,
        bad_records: contents.header.bad_records,
    }))
}

/// Gives an error if the slice in a file is of other work than `expected`, or of another number of slices.
fn differs(
    folder: &Path,
    path: &Path,
    (slice, work): (Slice, &Work),
    expected: &Work,
    than: Option<Slice>,
) -> Result<(), Error> {
    let count = expected.slice.map_or(0, |slice| slice.count());
    let difference = if slice.count() != count {
        format!("a division into {} slices, not {count}", slice.count())
    } else {
        let stored = Work {
            slice: expected.slice,
            ..work.clone()
        };
        match expected.difference(&stored) {
            None => return Ok(()),
            Some(difference) => difference,
        }
    };
    Err(Error::Slices {
        folder: folder.to_path_buf(),
        fault: SliceFault::Differs {
            number: slice.number(),
            count: slice.count(),
            file: file_name(path),
            than: than.map(|slice| slice.number()),
            difference,
        },
    })
}

/// The slice in a file and the work that it is of.
fn work_of(folder: &Path, contents: &Contents) -> Result<(Slice, Work), Error> {
    let (Some(cut), Some(slice)) = (contents.header.slice, contents.slice()) else {
        return Err(Error::Slices {
            folder: folder.to_path_buf(),
            fault: SliceFault::Whole {
                file: file_name(&contents.path),
            },
        });
    };
    let mut taps = contents.taps();
    taps.sort();
    let mut feature_type = None;
    for tap in &taps {
        let of_tap = match contents.info(tap)? {
            (Dtype::F32, _) => FeatureType::F32,
            (Dtype::F16, _) => FeatureType::F16,
            (dtype, _) => {
                return Err(contents.reject(format!("tap `{tap}` is {dtype:?}, expected F32 or F16")));
            }
        };
        if *feature_type.get_or_insert(of_tap) != of_tap {
            return Err(contents.reject("its taps are partly F32 and partly F16".into()));
        }
    }
    let (Some(feature_type), true) = (feature_type, contents.has(KEYS)) else {
        return Err(contents.reject("it has no tap or no keys".into()));
    };
    let work = Work {
        origin: contents.header.origin.clone(),
        taps,
        feature_type,
        batch_images: cut.batch_images,
        records: cut.records,
        slice: Some(slice),
    };
    Ok((slice, work))
}

/// The features files in a folder by name. Hidden ones are those that are being written.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).map_err(io("read", folder))? {
        let entry = entry.map_err(io("read", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".safetensors") && !name.starts_with('.') {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests;
