//! Pictures in a folder whose labels lie in a file beside them: Pascal VOC, COCO's JSON, tables of paths and labels.
//!
//! Each reader makes a list of paths and labels; what is the same for all, from hashing to keys, is here.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::description::{Column, Part};
use super::index_file::IndexStore;
use super::table::{Row, Table};
use super::{coco, files, folder, voc};
use crate::delimited::{Next, Rows};
use crate::error::Error;
use crate::record::Label;

/// A picture, before it is known to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path below the folder of the pictures, with `/`.
    pub(crate) path: String,
    pub(crate) label: Option<Label>,
    /// Classes of which it is neither an example nor a counterexample (VOC's `difficult`).
    pub(crate) undecided: Vec<u32>,
}

/// What a reader found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) records: Vec<Listed>,
    pub(crate) classes: Vec<String>,
}

/// A listed data set, opened.
pub(crate) struct Opened {
    pub(crate) root: PathBuf,
    pub(crate) table: Table,
    pub(crate) classes: Vec<String>,
    /// By position, for the few records that have any.
    pub(crate) undecided: HashMap<usize, Vec<u32>>,
}

/// What the readers say of a file that is not as it should be.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: reason.into(),
        hint: None,
    }
}

/// VOC: images at `images` below the root, listed by annotations.
pub(crate) fn open_voc(root: &Path, part: &Part, store: &IndexStore) -> Result<Opened, Error> {
    let images = part.images.as_deref().unwrap_or("JPEGImages");
    let annotations = root.join(part.annotations.as_deref().unwrap_or("Annotations"));
    let list = part
        .list
        .as_ref()
        .map(|list| root.join(format!("ImageSets/Main/{list}.txt")));
    let listing = voc::read(
        &root.join(images),
        &annotations,
        list.as_deref(),
        part.classes.as_deref(),
    )?;
    let index = list.unwrap_or(annotations);
    open(&root.join(images), listing, &index, store)
}

pub(crate) fn open_coco(
    root: &Path,
    labels: &Path,
    part: &Part,
    store: &IndexStore,
) -> Result<Opened, Error> {
    let listing = coco::read(labels, part.one_class, part.classes.as_deref())?;
    open(root, listing, labels, store)
}

pub(crate) fn open_csv(root: &Path, table: &Path, part: &Part, store: &IndexStore) -> Result<Opened, Error> {
    open(root, read_csv(table, part)?, table, store)
}

/// Looks every picture up; `beside` is where the index of their hashes lies.
fn open(root: &Path, listing: Listing, beside: &Path, store: &IndexStore) -> Result<Opened, Error> {
    let mut records = listing.records;
    if records.is_empty() {
        return Err(Error::Empty {
            path: beside.to_path_buf(),
            reason: "no record in it".to_string(),
        });
    }
    // One order whatever that of the file is; and folders that stay together take little memory.
    records.sort_by(|one, two| one.path.cmp(&two.path));
    if let Some(pair) = records.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(wrong(beside, format!("`{}` is listed twice", pair[0].path)));
    }
    let mut undecided = HashMap::new();
    let mut rows = Vec::with_capacity(records.len());
    for (position, record) in records.into_iter().enumerate() {
        if record.path.starts_with('/') || record.path.split('/').any(|part| part == "..") {
            return Err(wrong(
                beside,
                format!("`{}` leads out of `{}`", record.path, root.display()),
            ));
        }
        let path = root.join(&record.path);
        let metadata = fs::metadata(&path).map_err(|error| {
            wrong(
                beside,
                format!(
                    "lists `{}`, which is not in `{}`: {error}",
                    record.path,
                    root.display()
                ),
            )
        })?;
        let (folder, name) = record
            .path
            .split_at(record.path.rfind('/').map_or(0, |slash| slash + 1));
        if !record.undecided.is_empty() {
            undecided.insert(position, record.undecided);
        }
        rows.push(Row {
            folder: folder.to_string(),
            name: name.to_string(),
            image_bytes: u32::try_from(metadata.len()).map_err(|_| wrong(&path, "larger than 4 GiB"))?,
            label: record.label,
            modified: Some(files::modified_ns(&metadata)),
            ..Row::default()
        });
    }
    Ok(Opened {
        table: folder::with_hashes(root, rows, store, Some(beside))?,
        root: root.to_path_buf(),
        classes: listing.classes,
        undecided,
    })
}

/// A table of paths and labels. Labels are names of classes where the description has those, or where one is no number.
fn read_csv(path: &Path, part: &Part) -> Result<Listing, Error> {
    let has_header = matches!(part.image_column, Some(Column::Name(_)));
    let separator = part
        .separator
        .as_ref()
        .map_or(b',', |separator| separator.as_bytes()[0]);
    let file = File::open(path).map_err(Error::io("read", path))?;
    let damaged = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => wrong(path, format!("not a table: {error}")),
        _ => Error::io("read", path)(error),
    };
    let mut table = Rows::new(BufReader::with_capacity(1 << 20, file), separator).map_err(damaged)?;
    let header = match has_header {
        true => next_row(&mut table, None).map_err(damaged)?.unwrap_or_default(),
        false => Vec::new(),
    };
    let place = |column: &Column| match column {
        Column::Number(number) => Ok(*number),
        Column::Name(name) => header.iter().position(|title| title == name).ok_or_else(|| {
            wrong(
                path,
                format!("has no column `{name}`, it has: {}", header.join(", ")),
            )
        }),
    };
    let image = place(part.image_column.as_ref().unwrap_or(&Column::Number(0)))?;
    let label = part.label_column.as_ref().map(place).transpose()?;
    let only = part.only.iter().flatten();
    let only: Vec<(usize, &String)> = only
        .map(|(name, text)| Ok((place(&Column::Name(name.clone()))?, text)))
        .collect::<Result<_, Error>>()?;

    let mut rows: Vec<(String, Vec<String>)> = vec![];
    let mut width = has_header.then_some(header.len());
    while let Some(row) = next_row(&mut table, width).map_err(damaged)? {
        width = Some(row.len());
        let line = table.line();
        let cell = |column: usize| {
            row.get(column)
                .map(String::as_str)
                .ok_or_else(|| wrong(path, format!("line {line} has no column {column}")))
        };
        if only
            .iter()
            .map(|(column, text)| Ok(cell(*column)? == *text))
            .collect::<Result<Vec<_>, Error>>()?
            .contains(&false)
        {
            continue;
        }
        let picture = cell(image)?;
        if picture.is_empty() {
            return Err(wrong(path, format!("line {line} names no picture")));
        }
        let classes = match (label, &part.label_separator) {
            (None, _) => vec![],
            (Some(column), None) => vec![cell(column)?.to_string()],
            (Some(column), Some(between)) => cell(column)?
                .split(between.as_str())
                .map(|class| class.trim().to_string())
                .filter(|class| !class.is_empty())
                .collect(),
        };
        if label.is_some() && part.label_separator.is_none() && classes[0].is_empty() {
            return Err(wrong(path, format!("line {line} (`{picture}`) has no label")));
        }
        // Tables may come from anywhere, and keys have `/` on every system.
        rows.push((
            picture.replace('\\', "/").trim_start_matches("./").to_string(),
            classes,
        ));
    }
    if rows.is_empty()
        && let Some(only) = &part.only
    {
        let wanted: Vec<String> = only
            .iter()
            .map(|(column, text)| format!("{column} = {text}"))
            .collect();
        return Err(Error::Empty {
            path: path.to_path_buf(),
            reason: format!("no row in it has {}", wanted.join(" and ")),
        });
    }
    let (numbers, classes) = numbered(path, &rows, part.classes.as_deref())?;
    let records = rows.into_iter().map(|(picture, classes)| {
        let mut classes: Vec<u32> = classes.iter().map(|class| numbers[class]).collect();
        classes.sort_unstable();
        classes.dedup();
        Listed {
            path: picture,
            label: match (label, &part.label_separator) {
                (None, _) => None,
                (Some(_), None) => Some(Label::Class(classes[0])),
                (Some(_), Some(_)) => Some(Label::Classes(classes)),
            },
            undecided: vec![],
        }
    });
    Ok(Listing {
        records: records.collect(),
        classes,
    })
}

/// The trimmed cells of the next row, `width` of them where that is given; `None` at the end.
fn next_row(table: &mut Rows<BufReader<File>>, width: Option<usize>) -> io::Result<Option<Vec<String>>> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    match table.next_row()? {
        Next::End => return Ok(None),
        Next::TooLong => return Err(invalid(format!("line {} is longer than 4 MiB", table.line()))),
        Next::Row => {}
    }
    if let Some(width) = width
        && table.width() != width
    {
        return Err(invalid(format!(
            "line {} must have {width} fields as the first row has, got {}",
            table.line(),
            table.width()
        )));
    }
    let cells = table.fields().map(|cell| match std::str::from_utf8(cell) {
        Ok(cell) => Ok(cell.trim().to_string()),
        Err(_) => Err(invalid(format!("line {} is not UTF-8", table.line()))),
    });
    Ok(Some(cells.collect::<io::Result<_>>()?))
}

/// The number of each class that occurs, and the names in order; no names where the table has numbers and nobody named them.
fn numbered(
    path: &Path,
    rows: &[(String, Vec<String>)],
    names: Option<&[String]>,
) -> Result<(HashMap<String, u32>, Vec<String>), Error> {
    let found: HashSet<&String> = rows.iter().flat_map(|(_, classes)| classes).collect();
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    let all_numbers = found.iter().all(|class| number(class).is_some());
    let mut numbers = HashMap::new();
    let mut made: Vec<String> = vec![];
    match names {
        None if !all_numbers => {
            made = found.iter().map(|class| (*class).clone()).collect();
            made.sort_unstable();
        }
        None => {}
        Some(names) => made = names.to_vec(),
    }
    for class in found {
        let place = match made.iter().position(|name| name == class) {
            Some(place) => Some(place as u32),
            None => number(class).filter(|number| made.is_empty() || (*number as usize) < made.len()),
        };
        let place = place.ok_or_else(|| {
            wrong(
                path,
                format!(
                    "class `{class}` is none of the {} classes of the data-set description",
                    made.len()
                ),
            )
        })?;
        numbers.insert(class.clone(), place);
    }
    Ok((numbers, made))
}
