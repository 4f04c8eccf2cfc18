//! Pascal VOC: a set of classes per picture, from the XML of its objects.
//!
//! A class counts if at least one object of it is not `difficult`. If all of its objects are, the picture is
//! neither an example nor a counterexample, as in VOC's own lists of a class (0 there) and in VISSL's labels
//! (-1).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::files;
use super::listed::{self, Listed, Listing, wrong};
use super::part::Layout;
use crate::error::Error;
use crate::record::Label;

/// `kind = "voc"`: `path` holds `JPEGImages`, `Annotations` and `ImageSets/Main`; `list` names one of its
/// lists.
pub(crate) const VOC: Layout = Layout {
    name: "voc",
    keys: &["list", "images", "annotations"],
    required: &[],
    in_folder: true,
    shards: None,
    open: |place, store| {
        let (root, part) = (&place.path, place.part);
        let images = root.join(part.images.as_deref().unwrap_or("JPEGImages"));
        let annotations = root.join(part.annotations.as_deref().unwrap_or("Annotations"));
        let list = part
            .list
            .as_ref()
            .map(|list| root.join(format!("ImageSets/Main/{list}.txt")));
        let listing = read(&images, &annotations, list.as_deref(), part.classes.as_deref())?;
        listed::open(&images, listing, &list.unwrap_or(annotations), store)
    },
};

/// An annotation: the picture's file name, if given, and for each class whether some object of it is easy.
type Annotation = (Option<String>, BTreeMap<String, bool>);

/// Reads the annotations of a list, or all.
fn read(
    images: &Path,
    annotations: &Path,
    list: Option<&Path>,
    classes: Option<&[String]>,
) -> Result<Listing, Error> {
    let names: Vec<String> = match list {
        Some(list) => {
            let text = fs::read_to_string(list).map_err(Error::io("read", list))?;
            // Lists of one class have a second column.
            text.lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_string)
                .collect()
        }
        None => files::list(annotations)?
            .iter()
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension.eq_ignore_ascii_case("xml"))
            })
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect(),
    };
    let read: Vec<Annotation> = names
        .par_iter()
        .map(|name| {
            let path = annotations.join(format!("{name}.xml"));
            let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            parse(&text).map_err(|reason| wrong(&path, format!("not a VOC annotation: {reason}")))
        })
        .collect::<Result<_, Error>>()?;
    let classes: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => {
            let names: BTreeSet<&String> = read.iter().flat_map(|(_, objects)| objects.keys()).collect();
            names.into_iter().cloned().collect()
        }
    };
    let numbers: HashMap<&String, u32> = classes.iter().zip(0..).collect();
    let mut records = Vec::with_capacity(names.len());
    for (name, (file, objects)) in names.iter().zip(read) {
        let (mut present, mut undecided) = (vec![], vec![]);
        for (class, is_easy) in objects {
            let number = numbers.get(&class).copied().ok_or_else(|| {
                wrong(
                    &annotations.join(format!("{name}.xml")),
                    format!(
                        "class `{class}` is none of the {} classes of the data-set description",
                        classes.len()
                    ),
                )
            })?;
            match is_easy {
                true => present.push(number),
                false => undecided.push(number),
            }
        }
        present.sort_unstable();
        undecided.sort_unstable();
        // VOC names its pictures like their annotations; other programs write the name into the annotation.
        let usual = format!("{name}.jpg");
        let path = match file {
            Some(file) if !images.join(&usual).is_file() => file,
            _ => usual,
        };
        records.push(Listed {
            path,
            label: Some(Label::Classes(present)),
            undecided,
        });
    }
    Ok(Listing { records, classes })
}

/// Finds the few relevant elements at any depth. Parts of an object (VOC's heads and hands) have different
/// names and are ignored.
fn parse(text: &str) -> Result<Annotation, String> {
    if !text.contains("<annotation") {
        return Err("no `annotation` element".to_string());
    }
    let mut objects = BTreeMap::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<object>") {
        let (object, behind) = after.split_once("</object>").ok_or("an `object` does not end")?;
        rest = behind;
        let mut without_parts = String::new();
        let mut left = object;
        while let Some((before, part)) = left.split_once("<part>") {
            without_parts.push_str(before);
            left = part.split_once("</part>").ok_or("a `part` does not end")?.1;
        }
        without_parts.push_str(left);
        let name = element(&without_parts, "name").ok_or("an `object` has no `name`")?;
        let is_easy = element(&without_parts, "difficult").is_none_or(|value| value != "1");
        *objects.entry(name).or_insert(false) |= is_easy;
    }
    Ok((element(text, "filename"), objects))
}

/// The text of the first element of this name.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = after.split_once(&format!("</{name}>"))?;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    Some(plain.iter().fold(value.trim().to_string(), |value, (entity, c)| {
        value.replace(entity, c)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_without_their_parts() {
        let object = |name: &str, difficult: &str| {
            format!(
                "<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name></part></object>"
            )
        };
        let text = format!(
            "<annotation><filename>a&amp;b.jpg</filename>{}{}{}{}</annotation>",
            object("dog", "1"),
            object("person", "1"),
            object("person", "0"),
            "<object>\n<part><name>hand</name></part>\n<name> cat </name></object>"
        );
        let (file, objects) = parse(&text).unwrap();
        assert_eq!(file.as_deref(), Some("a&b.jpg"));
        let objects: Vec<_> = objects
            .iter()
            .map(|(name, easy)| (name.as_str(), *easy))
            .collect();
        assert_eq!(objects, [("cat", true), ("dog", false), ("person", true)]);
        assert!(parse("<html/>").is_err());
        assert!(parse("<annotation><object><name>x</name>").is_err());
    }
}
