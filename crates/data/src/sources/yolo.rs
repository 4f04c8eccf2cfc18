//! YOLO's text files: one per picture, a line per object, numbers as shares of the picture's sides.
//!
//! A line is `class cx cy width height`, or `class x y x y …` for an outline of at least three corners. A picture
//! without a file, or with an empty one, shows no object.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::WalkDir;

use super::listed::{self, Listed, Listing, wrong};
use super::objects::{self, Annotations, Mask};
use super::part::{Layout, Place, check_classes};
use crate::decode::upright_size;
use crate::error::Error;
use crate::listing::{Listing as LeftOut, Reason};
use crate::names;
use crate::record::Label;

/// `kind = "yolo"`: `path` holds `images` and `labels`, and `data.yaml` or `classes.txt` with the names.
pub(crate) const YOLO: Layout = Layout {
    name: "yolo",
    keys: &["labels", "images", "annotations"],
    required: &[],
    in_folder: true,
    shards: None,
    open: |place, store| {
        let (root, part) = (&place.path, place.part);
        let below = part.images.as_deref().unwrap_or("images");
        let (images, texts) = (
            root.join(below),
            text_folder(root, below, part.annotations.as_deref())?,
        );
        let (classes, named_by) = class_names(place, &texts)?;
        let (listing, left_out) = read(&images, &texts, classes, place.with_objects)?;
        let beside = named_by.unwrap_or_else(|| texts.clone());
        let mut opened = listed::open(&images, listing, &beside, store)?;
        opened.listing.merge(&left_out);
        Ok(opened)
    },
};

/// A number above this is no share of a side. Those between 1 and this are boxes that reach out.
const LARGEST_SHARE: f64 = 2.0;

/// The folder of the text files: as given, or the one that YOLO's programs search, `labels` for `images`.
fn text_folder(root: &Path, images: &str, given: Option<&str>) -> Result<PathBuf, Error> {
    if let Some(given) = given {
        return Ok(root.join(given));
    }
    let mut parts: Vec<&str> = images.split('/').collect();
    match parts.iter().rposition(|part| *part == "images") {
        Some(at) => parts[at] = "labels",
        None => {
            return Err(wrong(
                root,
                format!(
                    "`images` is `{images}`, without a folder `images` in it; name the folder of the text files as `annotations`"
                ),
            ));
        }
    }
    Ok(root.join(parts.join("/")))
}

/// Names of the classes, and the file that lists them: the description's, `labels`, `data.yaml`, or `classes.txt`.
fn class_names(place: &Place<'_>, texts: &Path) -> Result<(Vec<String>, Option<PathBuf>), Error> {
    if let Some(classes) = &place.part.classes {
        return Ok((classes.clone(), None));
    }
    let usual = [
        place.path.join("data.yaml"),
        place.path.join("classes.txt"),
        texts.join("classes.txt"),
    ];
    let file = match place.part.labels.is_some() {
        true => place.labels.clone(),
        false => usual
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| wrong(&place.path, "no names of classes: expected `data.yaml` or `classes.txt` in it, or `classes` in the description"))?,
    };
    let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
    let is_yaml = file
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
    let names = match is_yaml {
        true => names_in_yaml(&text).map_err(|reason| wrong(&file, reason))?,
        false => text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_string)
            .collect(),
    };
    if names.is_empty() {
        return Err(wrong(&file, "lists no name of a class"));
    }
    if let Some(count) = count_in_yaml(&text).filter(|count| is_yaml && *count != names.len()) {
        let reason = format!("`nc` must be the number of `names`, {}, got {count}", names.len());
        return Err(wrong(&file, reason));
    }
    let names: Vec<String> = names
        .iter()
        .map(|name| names::composed(name).into_owned())
        .collect();
    check_classes(Some(&names)).map_err(|reason| wrong(&file, format!("`names` {reason}")))?;
    Ok((names, Some(file)))
}

/// The list under the key `names`: in brackets, in braces by number, or a line for each.
fn names_in_yaml(text: &str) -> Result<Vec<String>, String> {
    let mut lines = text.lines().map(without_comment);
    let first = lines
        .by_ref()
        .find_map(|line| line.strip_prefix("names:").map(str::trim))
        .ok_or("no key `names` in it")?;
    let mut entries = Vec::new();
    match first.chars().next() {
        Some(open @ ('[' | '{')) => {
            let close = if open == '[' { ']' } else { '}' };
            let mut inside = first.trim_start_matches(open).to_string();
            while !inside.contains(close) {
                let line = lines.next().ok_or("its list of `names` has no end")?;
                inside = format!("{inside} {line}");
            }
            let end = inside.find(close).unwrap_or(inside.len());
            entries.extend(inside[..end].split(',').map(|entry| entry.trim().to_string()));
            entries.retain(|entry| !entry.is_empty());
        }
        Some(_) => return Err(format!("`names` must be a list, got `{first}`")),
        None => {
            for line in lines {
                let is_entry = line.starts_with([' ', '\t']) || line.starts_with("- ");
                match line.trim() {
                    "" => {}
                    entry if is_entry => entries.push(entry.trim_start_matches("- ").to_string()),
                    _ => break,
                }
            }
        }
    }
    let unquoted = |name: &str| name.trim().trim_matches(['\'', '"']).to_string();
    let mut names = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry
            .split_once(':')
            .map(|(number, name)| (number.trim().parse::<usize>(), name))
        {
            Some((Ok(number), name)) if number == names.len() => names.push(unquoted(name)),
            Some((Ok(number), _)) => {
                return Err(format!(
                    "`names` must count from 0 without gaps, got {number} after {} names",
                    names.len()
                ));
            }
            _ => names.push(unquoted(&entry)),
        }
    }
    Ok(names)
}

/// The number of classes that the key `nc` states, if it is there and a number.
fn count_in_yaml(text: &str) -> Option<usize> {
    let mut lines = text.lines().map(without_comment);
    lines.find_map(|line| line.strip_prefix("nc:")?.trim().parse().ok())
}

/// The line without what follows a `#`.
fn without_comment(line: &str) -> &str {
    let end = match line.find(" #") {
        _ if line.starts_with('#') => 0,
        Some(at) => at,
        None => line.len(),
    };
    line[..end].trim_end()
}

/// The objects of one picture.
#[derive(Default)]
struct Objects {
    size: Option<(u32, u32)>,
    lines: Vec<Line>,
    has_file: bool,
}

/// A line of a text file, in shares of the sides.
#[derive(Debug, PartialEq)]
struct Line {
    class: u32,
    /// Left, top, right, bottom.
    edges: [f64; 4],
    outline: Option<Vec<f64>>,
}

/// Reads all pictures and their files.
fn read(
    images: &Path,
    texts: &Path,
    classes: Vec<String>,
    with_objects: bool,
) -> Result<(Listing, LeftOut), Error> {
    let pictures = below(images, super::names::is_image_extension)?;
    let stem = |path: &str| path.rfind('.').map_or(path, |dot| &path[..dot]).to_string();
    let mut left_out = LeftOut::default();
    let known: HashSet<String> = pictures.iter().map(|path| stem(path)).collect();
    for text in below(texts, |extension| extension.eq_ignore_ascii_case("txt"))? {
        if !known.contains(&stem(&text)) && text != "classes.txt" {
            left_out.add(Reason::BoxesAlone, "", || text.clone());
        }
    }
    let read: Vec<Objects> = pictures
        .par_iter()
        .map(|picture| {
            let path = texts.join(format!("{}.txt", stem(picture)));
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Objects::default());
                }
                Err(error) => return Err(Error::io("read", &path)(error)),
            };
            let lines = text
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim().is_empty());
            let lines = lines.map(|(number, line)| {
                parse(line, &classes).map_err(|reason| wrong(&path, format!("line {}: {reason}", number + 1)))
            });
            Ok(Objects {
                lines: lines.collect::<Result<_, Error>>()?,
                size: with_objects
                    .then(|| upright_size(&images.join(picture)))
                    .flatten(),
                has_file: true,
            })
        })
        .collect::<Result<_, Error>>()?;
    if !read.is_empty() && read.iter().all(|objects| !objects.has_file) {
        return Err(wrong(
            texts,
            format!("has no text file of any picture in `{}`", images.display()),
        ));
    }
    let mut objects = with_objects.then(Annotations::default);
    let mut records = Vec::with_capacity(pictures.len());
    for (place, (path, of_picture)) in pictures.into_iter().zip(read).enumerate() {
        if !of_picture.has_file {
            left_out.add(Reason::NoBoxes, "", || path.clone());
        }
        let set: BTreeSet<u32> = of_picture.lines.iter().map(|line| line.class).collect();
        records.push(Listed {
            path,
            label: Some(Label::Classes(set.into_iter().collect())),
            undecided: Vec::new(),
        });
        let Some(objects) = &mut objects else { continue };
        let size = of_picture.size;
        objects.pictures.push(objects::Picture { id: None, size });
        let (width, height) = size.map_or((0.0, 0.0), |(width, height)| {
            (f64::from(width), f64::from(height))
        });
        for line in of_picture.lines {
            let [left, top, right, bottom] = line.edges;
            let outline = line.outline.map(|numbers| {
                let corners = numbers.as_chunks::<2>().0.iter();
                Mask::Polygons(vec![corners.flat_map(|[x, y]| [x * width, y * height]).collect()])
            });
            objects.push(objects::Annotation {
                picture: place as u64,
                class: u64::from(line.class),
                edges: Some([left * width, top * height, right * width, bottom * height]),
                mask: outline,
                ..objects::Annotation::default()
            });
        }
    }
    let listing = Listing {
        records,
        classes,
        others: HashSet::new(),
        objects,
    };
    Ok((listing, left_out))
}

/// Files with such an extension below a folder, with `/`, in order.
fn below(folder: &Path, is_wanted: fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let mut paths = Vec::new();
    let walk = WalkDir::new(folder)
        .min_depth(1)
        .follow_links(true)
        .sort_by_file_name();
    let is_searched = |entry: &walkdir::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    for entry in walk.into_iter().filter_entry(is_searched) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_path_buf();
            Error::io("list", &path)(error.into())
        })?;
        let extension = entry
            .path()
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if entry.file_type().is_file() && is_wanted(&extension) {
            let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
            paths.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(paths)
}

/// Reads a line.
fn parse(line: &str, classes: &[String]) -> Result<Line, String> {
    let mut words = line.split_whitespace();
    let word = words.next().unwrap_or_default();
    let class: u32 = word
        .parse()
        .map_err(|_| format!("the class must be a whole number, got `{word}`"))?;
    if class as usize >= classes.len() {
        return Err(format!(
            "the class must be below {}, the number of names, got {class}",
            classes.len()
        ));
    }
    let numbers: Vec<f64> = words
        .map(|word| {
            word.parse()
                .map_err(|_| format!("must have numbers, got `{word}`"))
        })
        .collect::<Result<_, String>>()?;
    if let Some(large) = numbers
        .iter()
        .find(|number| number.is_finite() && number.abs() > LARGEST_SHARE)
    {
        return Err(format!(
            "numbers must be shares of the picture's sides, 0 to 1, got {large}, as if in pixels"
        ));
    }
    match numbers[..] {
        [x, y, width, height] => Ok(Line {
            class,
            edges: [
                x - width / 2.0,
                y - height / 2.0,
                x + width / 2.0,
                y + height / 2.0,
            ],
            outline: None,
        }),
        _ if numbers.len() >= 6 && numbers.len().is_multiple_of(2) => {
            let (low, high) = (f64::INFINITY, f64::NEG_INFINITY);
            let mut edges = [low, low, high, high];
            for [x, y] in numbers.as_chunks::<2>().0 {
                edges = [
                    edges[0].min(*x),
                    edges[1].min(*y),
                    edges[2].max(*x),
                    edges[3].max(*y),
                ];
            }
            // `min` and `max` pass over numbers that are none.
            if numbers.iter().any(|number| !number.is_finite()) {
                edges = [f64::NAN; 4];
            }
            Ok(Line {
                class,
                edges,
                outline: Some(numbers),
            })
        }
        _ => Err(format!(
            "must be `class cx cy width height`, or a class and at least 3 corners, got {} numbers after the class",
            numbers.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_all_forms_of_yaml() {
        for text in [
            "path: .\nnames: [cat, 'big dog', \"x\"]\nnc: 3\n",
            "# data\nnames:\n- cat\n- big dog # the larger one\n- x\nnc: 3\n",
            "nc: 3\nnames:\n  0: cat\n  1: 'big dog'\n\n  2: x\ntrain: images\n",
            "names: {0: cat, 1: big dog,\n  2: x}\n",
            "names: [\n  cat,\n  big dog,\n  x,\n]\n",
        ] {
            assert_eq!(names_in_yaml(text).unwrap(), ["cat", "big dog", "x"], "{text}");
        }
        for (text, reason) in [
            ("nc: 3", "no key `names`"),
            ("names: 3", "must be a list, got `3`"),
            (
                "names:\n  1: cat",
                "must count from 0 without gaps, got 1 after 0 names",
            ),
            ("names: [cat", "has no end"),
        ] {
            let error = names_in_yaml(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn lines_are_boxes_or_outlines() {
        let names = ["a".to_string(), "b".to_string()];
        let line = parse("1 0.5 0.25 0.5 0.5", &names).unwrap();
        assert_eq!((line.class, line.edges), (1, [0.25, 0.0, 0.75, 0.5]));
        let line = parse("0 0.1 0.2 0.9 0.3 0.5 0.8", &names).unwrap();
        assert_eq!(line.edges, [0.1, 0.2, 0.9, 0.8]);
        assert_eq!(line.outline.unwrap().len(), 6);
        assert!(parse("0 nan 0.2 0.9 0.3", &names).unwrap().edges[0].is_nan());
        for (text, reason) in [
            (
                "cat 0.5 0.5 0.1 0.1",
                "the class must be a whole number, got `cat`",
            ),
            (
                "2 0.5 0.5 0.1 0.1",
                "the class must be below 2, the number of names, got 2",
            ),
            ("0 320 240 64 48", "0 to 1, got 320, as if in pixels"),
            ("0 0.5 0.5 0.1", "got 3 numbers after the class"),
            ("0 0.5 0.5 0.1 0.1 0.9", "got 5 numbers after the class"),
            ("0 0.5 0.5 0.1 x", "must have numbers, got `x`"),
        ] {
            assert!(
                parse(text, &names).is_err_and(|error| error.contains(reason)),
                "{text}"
            );
        }
    }
}
