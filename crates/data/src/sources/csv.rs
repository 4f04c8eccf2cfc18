//! A table of paths and labels beside a folder of pictures.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::listed::{self, Listed, Listing, wrong};
use super::part::{Column, Layout, Part};
use crate::delimited::{Next, Rows};
use crate::error::Error;
use crate::record::Label;

/// `kind = "csv"`: `path` is the folder of the images, `labels` the table.
pub(crate) const CSV: Layout = Layout {
    name: "csv",
    keys: &[
        "labels",
        "image_column",
        "label_column",
        "separator",
        "label_separator",
        "only",
    ],
    required: &["labels", "image_column"],
    in_folder: true,
    shards: None,
    open: |place, store| {
        let listing = read(&place.labels, place.part)?;
        listed::open(&place.path, listing, &place.labels, store)
    },
};

/// A table of paths and labels. Labels are class names if the description lists classes, or if any label is
/// not a number.
fn read(path: &Path, part: &Part) -> Result<Listing, Error> {
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
        // Tables may be written on any system, and keys always use `/`.
        rows.push((
            picture.replace('\\', "/").trim_start_matches("./").to_string(),
            classes,
        ));
    }
    if rows.is_empty()
        && let Some(only) = &part.only
    {
        let conditions: Vec<String> = only
            .iter()
            .map(|(column, text)| format!("{column} = {text}"))
            .collect();
        return Err(Error::Empty {
            path: path.to_path_buf(),
            reason: format!("no row in it has {}", conditions.join(" and ")),
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

/// The number of each class that occurs, and the names in order; no names where the table has numbers and the
/// description has no `classes`.
fn numbered(
    path: &Path,
    rows: &[(String, Vec<String>)],
    names: Option<&[String]>,
) -> Result<(HashMap<String, u32>, Vec<String>), Error> {
    let occurring: HashSet<&String> = rows.iter().flat_map(|(_, classes)| classes).collect();
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    let all_numbers = occurring.iter().all(|class| number(class).is_some());
    let ordered: Vec<String> = match names {
        Some(names) => names.to_vec(),
        None if all_numbers => vec![],
        None => {
            let mut sorted: Vec<String> = occurring.iter().map(|class| (*class).clone()).collect();
            sorted.sort_unstable();
            sorted
        }
    };
    let places: HashMap<&String, u32> = ordered.iter().zip(0..).collect();
    let mut numbers = HashMap::new();
    for class in occurring {
        let is_in_range = |number: &u32| ordered.is_empty() || (*number as usize) < ordered.len();
        let place = places.get(class).copied();
        let place = place
            .or_else(|| number(class).filter(is_in_range))
            .ok_or_else(|| {
                wrong(
                    path,
                    format!(
                        "class `{class}` is none of the {} classes of the data-set description",
                        ordered.len()
                    ),
                )
            })?;
        numbers.insert(class.clone(), place);
    }
    Ok((numbers, ordered))
}
