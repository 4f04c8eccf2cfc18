//! COCO's JSON of images, annotations and categories: a set of classes per picture, or one class
//! (iNaturalist, Herbarium), and boxes and masks where they are asked for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::listed::{self, Listed, Listing, wrong};
use super::objects::{self, Annotations, Mask, optional_mask};
use super::part::Layout;
use crate::error::Error;
use crate::hint::Hint;
use crate::names;
use crate::record::Label;

/// `kind = "coco"`: `path` is the folder of the images, `labels` the annotations.
pub(crate) const COCO: Layout = Layout {
    name: "coco",
    keys: &["labels", "one_class"],
    required: &["labels"],
    in_folder: true,
    shards: None,
    open: |place, store| {
        let part = place.part;
        let read = match place.with_objects {
            true => read::<Option<Mask>>,
            false => read::<IgnoredAny>,
        };
        let listing = read(&place.labels, part.one_class, part.classes.as_deref())?;
        listed::open(&place.path, listing, &place.labels, store)
    },
};

#[derive(Deserialize)]
struct Content<M: ReadMask> {
    images: Vec<Image>,
    #[serde(deserialize_with = "one_by_one")]
    annotations: Read<M>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    #[serde(default)]
    width: Option<u32>,
    #[serde(default)]
    height: Option<u32>,
}

#[derive(Deserialize)]
struct Annotation<M: ReadMask> {
    #[serde(default)]
    id: Option<u64>,
    image_id: u64,
    category_id: u64,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    bbox: Option<Vec<f64>>,
    #[serde(default)]
    ignore: Option<u8>,
    #[serde(default, deserialize_with = "flag")]
    iscrowd: bool,
    #[serde(default, deserialize_with = "M::read")]
    segmentation: M,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// Whether masks are read, or only where the file goes on behind them.
trait ReadMask: Default {
    /// Whether boxes and masks are kept.
    const IS_READ: bool;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;

    fn mask(self) -> Option<Mask>;
}

impl ReadMask for IgnoredAny {
    const IS_READ: bool = false;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IgnoredAny, D::Error> {
        IgnoredAny::deserialize(deserializer)
    }

    fn mask(self) -> Option<Mask> {
        None
    }
}

impl ReadMask for Option<Mask> {
    const IS_READ: bool = true;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mask>, D::Error> {
        optional_mask(deserializer)
    }

    fn mask(self) -> Option<Mask> {
        self
    }
}

/// `iscrowd`: 0, 1, false or true.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Word(bool),
        Number(u8),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Word(is_set) => is_set,
        Flag::Number(number) => number != 0,
    })
}

impl<M: ReadMask> Annotation<M> {
    /// Whether it shows anything: it has an area, and a box of more than one pixel, as in VISSL.
    fn counts(&self) -> bool {
        let is_large = self
            .bbox
            .as_ref()
            .is_none_or(|sides| sides.len() == 4 && sides[2] > 1.0 && sides[3] > 1.0);
        self.ignore != Some(1) && self.area.is_none_or(|area| area > 0.0) && is_large
    }
}

/// The annotations as columns, because a file may have a million of them, with masks of a gigabyte.
struct Read<M> {
    annotations: Annotations,
    /// Of each annotation, whether its class counts for its picture.
    counts: Vec<bool>,
    masks: PhantomData<M>,
}

/// Reads annotation after annotation, so that no more than one of them is in memory as the file has it.
fn one_by_one<'de, M: ReadMask, D: Deserializer<'de>>(deserializer: D) -> Result<Read<M>, D::Error> {
    struct List<M>(PhantomData<M>);

    impl<'de, M: ReadMask> Visitor<'de> for List<M> {
        type Value = Read<M>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of annotations")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read<M>, A::Error> {
            let mut read = Read {
                annotations: Annotations::default(),
                counts: Vec::new(),
                masks: PhantomData,
            };
            while let Some(annotation) = list.next_element::<Annotation<M>>()? {
                read.counts.push(annotation.counts());
                let edges = match annotation.bbox.as_deref() {
                    None | Some([]) => None,
                    Some(&[left, top, width, height]) => Some([left, top, left + width, top + height]),
                    Some(other) => {
                        return Err(A::Error::invalid_length(
                            other.len(),
                            &"`bbox` of 4 numbers: left, top, width, height",
                        ));
                    }
                };
                read.annotations.push(objects::Annotation {
                    id: annotation.id,
                    picture: annotation.image_id,
                    class: annotation.category_id,
                    edges,
                    area: annotation.area,
                    is_crowd: annotation.iscrowd,
                    is_difficult: false,
                    mask: annotation.segmentation.mask(),
                });
            }
            Ok(read)
        }
    }

    deserializer.deserialize_seq(List(PhantomData))
}

/// The file's content, or the error of one that is cut, or no JSON, or of another kind.
fn content<M: ReadMask>(path: &Path) -> Result<Content<M>, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let content = serde_json::from_reader(BufReader::with_capacity(1 << 20, file));
    content.map_err(|error| match error.classify() {
        serde_json::error::Category::Io => Error::io("read", path)(error.into()),
        serde_json::error::Category::Eof => Error::Unreadable {
            spec: path.display().to_string(),
            reason: format!("cut: {error}"),
            hint: Some(Hint::DownloadAgain),
        },
        serde_json::error::Category::Syntax if is_no_number(path, &error) => wrong(
            path,
            format!("has NaN or Infinity, which JSON does not have: {error}"),
        ),
        _ => wrong(
            path,
            format!("not COCO's JSON of images, annotations and categories: {error}"),
        ),
    })
}

/// Whether Python's `NaN` or `Infinity` is at the place of a syntax error.
fn is_no_number(path: &Path, error: &serde_json::Error) -> bool {
    let read = || -> Option<Vec<u8>> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).ok()?);
        for _ in 1..error.line() {
            file.skip_until(b'\n').ok()?;
        }
        // The column is that of the wrong letter, which may be the second one of `NaN` or of `-Infinity`.
        file.seek_relative(i64::try_from(error.column().saturating_sub(3)).ok()?)
            .ok()?;
        let mut near = [0; 8];
        let length = file.read(&mut near).ok()?;
        Some(near[..length].to_vec())
    };
    let near = read().unwrap_or_default();
    [&b"NaN"[..], b"Inf"]
        .iter()
        .any(|word| near.windows(3).any(|letters| letters == *word))
}

/// Reads the file. Classes are its categories in the order of their ids, or those of the description, which
/// names categories.
fn read<M: ReadMask>(path: &Path, one_class: bool, classes: Option<&[String]>) -> Result<Listing, Error> {
    let content = content::<M>(path)?;
    let mut categories = content.categories;
    categories.sort_by_key(|category| category.id);
    if let Some(pair) = categories.windows(2).find(|pair| pair[0].id == pair[1].id) {
        let [one, two] = [&pair[0], &pair[1]];
        return Err(wrong(
            path,
            format!(
                "lists category {} twice, as `{}` and as `{}`",
                one.id, one.name, two.name
            ),
        ));
    }
    for category in &mut categories {
        category.name = names::composed(&category.name).into_owned();
    }
    // Among kingdoms iNaturalist uses a name twice; numbers then distinguish them.
    let unique: BTreeSet<&String> = categories.iter().map(|category| &category.name).collect();
    if unique.len() < categories.len() {
        for category in &mut categories {
            category.name = format!("{} {}", category.id, category.name);
        }
    }
    let names: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => categories.iter().map(|category| category.name.clone()).collect(),
    };
    // By name: a description that lists the classes in another order, or a part of them, means what it says.
    let by_name: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let numbers: HashMap<u64, Option<u32>> = categories
        .iter()
        .map(|category| (category.id, by_name.get(category.name.as_str()).copied()))
        .collect();
    let places: HashMap<u64, usize> = content.images.iter().map(|image| image.id).zip(0..).collect();
    if places.len() < content.images.len() {
        let mut seen = HashSet::new();
        let twice = content.images.iter().find(|image| !seen.insert(image.id));
        let (id, name) = twice.map_or((0, ""), |image| (image.id, image.file_name.as_str()));
        return Err(wrong(
            path,
            format!("lists image {id} twice, the second time as `{name}`"),
        ));
    }
    let Read {
        mut annotations,
        counts,
        ..
    } = content.annotations;
    if annotations.len() == 0 && !content.images.is_empty() {
        return Err(Error::Unreadable {
            spec: path.display().to_string(),
            reason: format!(
                "lists {} images and not one annotation, so it is unclear whether they show nothing or their labels are not published",
                content.images.len()
            ),
            hint: Some(Hint::DescribeAsFlat),
        });
    }
    let mut sets = vec![BTreeSet::new(); content.images.len()];
    for (at, counts) in counts.into_iter().enumerate() {
        let (image, category) = (annotations.picture_of[at], annotations.class_of[at]);
        if !counts && !M::IS_READ {
            continue;
        }
        let (Some(place), Some(number)) = (places.get(&image), numbers.get(&category)) else {
            return Err(wrong(
                path,
                format!(
                    "an annotation is of image {image} and category {category}, of which it lists no such one"
                ),
            ));
        };
        let Some(number) = number else {
            let name = categories.iter().find(|known| known.id == category);
            let name = name.map_or("", |category| category.name.as_str());
            return Err(names::unknown_class(
                path,
                &format!("category `{name}` ({category})"),
                &names,
            ));
        };
        (annotations.picture_of[at], annotations.class_of[at]) = (*place as u64, u64::from(*number));
        if counts {
            sets[*place].insert(*number);
        }
    }
    let objects = M::IS_READ.then(|| {
        annotations.pictures = content
            .images
            .iter()
            .map(|image| objects::Picture {
                id: Some(image.id),
                size: image.width.zip(image.height),
            })
            .collect();
        annotations.category_ids = names
            .iter()
            .map(|name| {
                let known = categories.iter().find(|category| category.name == *name);
                known.map_or(0, |category| category.id)
            })
            .collect();
        annotations
    });
    if objects.as_ref().is_some_and(Annotations::look_relative) {
        return Err(wrong(
            path,
            "every `bbox` lies within 0 to 1, so they are probably shares of the picture's sides; they must be in pixels: left, top, width, height",
        ));
    }
    let records = content.images.into_iter().zip(sets).map(|(image, set)| {
        let label = match (one_class, set.len()) {
            (false, _) => Label::Classes(set.into_iter().collect()),
            (true, 1) => Label::Class(set.into_iter().next().unwrap_or_default()),
            (true, count) => {
                return Err(wrong(
                    path,
                    format!(
                        "image `{}` has {count} classes, and `one_class` says that each has one",
                        image.file_name
                    ),
                ));
            }
        };
        Ok(Listed {
            path: image.file_name,
            label: Some(label),
            undecided: vec![],
        })
    });
    Ok(Listing {
        records: records.collect::<Result<_, _>>()?,
        classes: names,
        others: HashSet::new(),
        objects,
    })
}
