//! A table of paths and labels beside a folder of pictures.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::listed::{self, Listed, Listing, wrong};
use super::part::{Column, LabelsAre, Layout, Part};
use crate::delimited::{Next, Rows};
use crate::error::Error;
use crate::hint::Hint;
use crate::names;
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
        "labels_are",
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

/// A table of paths and labels.
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
        Column::Name(name) => {
            let mut places = (0..header.len()).filter(|column| header[*column] == *name);
            let first = places.next().ok_or_else(|| {
                wrong(
                    path,
                    format!(
                        "has no column `{name}`, it has: {}{}",
                        names::listed(&header),
                        other_separator(&header, name)
                    ),
                )
            })?;
            match places.next() {
                None => Ok(first),
                Some(second) => Err(wrong(
                    path,
                    format!(
                        "has columns {first} and {second}, counted from 0, called `{name}`; rename one of them"
                    ),
                )),
            }
        }
    };
    let image = place(part.image_column.as_ref().unwrap_or(&Column::Number(0)))?;
    let label = part.label_column.as_ref().map(place).transpose()?;
    let only = part.only.iter().flatten();
    let only: Vec<(usize, &String)> = only
        .map(|(name, text)| Ok((place(&Column::Name(name.clone()))?, text)))
        .collect::<Result<_, Error>>()?;

    let mut rows: Vec<Pictured> = vec![];
    let mut others = HashSet::new();
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
            others.insert(path_of(cell(image)?));
            continue;
        }
        let picture = cell(image)?;
        if picture.is_empty() {
            return Err(wrong(path, format!("line {line} names no picture")));
        }
        let classes = match (label, &part.label_separator) {
            (None, _) => vec![],
            (Some(column), None) => vec![names::composed(cell(column)?).into_owned()],
            (Some(column), Some(between)) => cell(column)?
                .split(between.as_str())
                .map(|class| names::composed(class.trim()).into_owned())
                .filter(|class| !class.is_empty())
                .collect(),
        };
        if label.is_some() && part.label_separator.is_none() && classes[0].is_empty() {
            return Err(wrong(path, format!("line {line} (`{picture}`) has no label")));
        }
        rows.push((path_of(picture), classes));
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
    let (numbers, classes) = numbered(path, &rows, part)?;
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
        others,
        objects: None,
    })
}

/// Words for a header that was read as one column, because another sign separates its columns.
fn other_separator(header: &[String], name: &str) -> String {
    let [only] = header else { return String::new() };
    let sign = [',', ';', '\t', '|', ' ']
        .into_iter()
        .find(|sign| only.split(*sign).any(|title| title.trim() == name));
    sign.map_or(String::new(), |sign| {
        format!(
            "; its columns may be separated by `separator = \"{}\"`",
            sign.escape_debug()
        )
    })
}

/// The path of a picture. Tables may be written on any system, and keys always use `/`.
fn path_of(cell: &str) -> String {
    cell.replace('\\', "/").trim_start_matches("./").to_string()
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

/// The number of each class that occurs, and the names in order; no names where the labels are numbers and the
/// description has no `classes`.
///
/// One rule reads all labels of a table. It follows from the description, or, where that leaves it open, from
/// what all labels are; a label that breaks it is an error and never the sign of another rule.
fn numbered(
    path: &Path,
    rows: &[Pictured],
    part: &Part,
) -> Result<(HashMap<String, u32>, Vec<String>), Error> {
    // Each label with the first picture that has it, for messages.
    let mut occurring: BTreeMap<&str, &str> = BTreeMap::new();
    for (picture, classes) in rows {
        for class in classes {
            occurring.entry(class).or_insert(picture);
        }
    }
    let classes = part.classes.as_deref();
    match (part.labels_are, classes) {
        (Some(LabelsAre::Names), None) => Ok(by_new_names(&occurring)),
        (None | Some(LabelsAre::Names), Some(classes)) => by_names(path, &occurring, classes),
        (Some(LabelsAre::Numbers), _) => by_numbers(path, &occurring, classes.unwrap_or_default()),
        (None, None) => {
            if let Some((class, picture)) = occurring.iter().find(|(class, _)| is_unclear(class)) {
                return Err(ambiguous(
                    path,
                    format!("labels must be whole numbers from 0 or names, got `{class}` (`{picture}`)"),
                ));
            }
            let is_number = |class: &&str| number(class).is_some();
            let is_too_large =
                |class: &&str| !is_number(class) && class.bytes().all(|digit| digit.is_ascii_digit());
            if occurring
                .keys()
                .all(|class| is_number(class) || is_too_large(class))
                && let Some((class, picture)) = occurring.iter().find(|(class, _)| is_too_large(class))
            {
                let most = u32::MAX - 1;
                let reason =
                    format!("a number of a class must be at most {most}, got `{class}` (`{picture}`)");
                return Err(ambiguous(path, reason));
            }
            let a_number = occurring.iter().find(|(class, _)| is_number(class));
            let a_name = occurring.iter().find(|(class, _)| !is_number(class));
            match (a_number, a_name) {
                (Some((number, at)), Some((name, place))) => Err(ambiguous(
                    path,
                    format!(
                        "labels must be all numbers or all names, got `{number}` (`{at}`) and `{name}` (`{place}`)"
                    ),
                )),
                (_, None) => {
                    one_text_per_number(path, &occurring)?;
                    by_numbers(path, &occurring, &[])
                }
                (None, _) => Ok(by_new_names(&occurring)),
            }
        }
    }
}

/// A picture with its labels, as in the table.
type Pictured = (String, Vec<String>);

/// The class number that a label writes, digits alone.
fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    // In the index the largest number means "no label".
    let number = is_plain.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number != u32::MAX)
}

/// Whether a label is a number, but none that counts classes: tables of other programs write `1.0` and `-1`.
fn is_unclear(text: &str) -> bool {
    let is_plain = text.bytes().all(|digit| digit.is_ascii_digit());
    !is_plain && text.contains(|letter: char| letter.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

/// An error whose cure is to say in the description what the labels are.
fn ambiguous(path: &Path, reason: String) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason,
        hint: Some(Hint::StateLabels),
    }
}

/// The names that occur, in byte order.
fn by_new_names(occurring: &BTreeMap<&str, &str>) -> (HashMap<String, u32>, Vec<String>) {
    let names: Vec<String> = occurring.keys().map(|class| (*class).to_string()).collect();
    (names.iter().cloned().zip(0..).collect(), names)
}

fn by_names(
    path: &Path,
    occurring: &BTreeMap<&str, &str>,
    classes: &[String],
) -> Result<(HashMap<String, u32>, Vec<String>), Error> {
    let places: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut numbers = HashMap::new();
    for (class, picture) in occurring {
        let Some(place) = places.get(class) else {
            let what = format!("class `{class}` (`{picture}`)");
            // Read as a number it would be a class, and perhaps the wrong one.
            let as_number = number(class).and_then(|number| classes.get(number as usize));
            return Err(match as_number {
                Some(other) => ambiguous(
                    path,
                    format!(
                        "{what} is none of the {} classes of the data-set description: {}; as a number from 0 it would be `{other}`",
                        classes.len(),
                        names::listed(classes)
                    ),
                ),
                None => names::unknown_class(path, &what, classes),
            });
        };
        numbers.insert((*class).to_string(), *place);
    }
    Ok((numbers, classes.to_vec()))
}

/// `classes` may be empty: then every number is a class without a name.
fn by_numbers(
    path: &Path,
    occurring: &BTreeMap<&str, &str>,
    classes: &[String],
) -> Result<(HashMap<String, u32>, Vec<String>), Error> {
    let mut numbers = HashMap::new();
    for (class, picture) in occurring {
        let most = match classes.len() {
            0 => u32::MAX as usize,
            count => count,
        };
        let number = number(class)
            .filter(|number| (*number as usize) < most)
            .ok_or_else(|| {
                let expected = match classes.len() {
                    0 => "a number from 0".to_string(),
                    count => format!(
                        "a number from 0 to {}, one for each of the description's classes",
                        count - 1
                    ),
                };
                ambiguous(
                    path,
                    format!("label of `{picture}` must be {expected}, got `{class}`"),
                )
            })?;
        numbers.insert((*class).to_string(), number);
    }
    Ok((numbers, classes.to_vec()))
}

/// Gives an error for `1` beside `01`: one number, and two names.
fn one_text_per_number(path: &Path, occurring: &BTreeMap<&str, &str>) -> Result<(), Error> {
    let mut texts: HashMap<u32, &str> = HashMap::new();
    for class in occurring.keys() {
        let Some(number) = number(class) else { continue };
        if let Some(other) = texts.insert(number, class) {
            return Err(ambiguous(
                path,
                format!("labels `{other}` and `{class}` are one number, but two names"),
            ));
        }
    }
    Ok(())
}
