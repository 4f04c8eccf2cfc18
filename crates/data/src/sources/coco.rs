//! COCO's JSON of images, annotations and categories: a set of classes per picture, or one class
//! (iNaturalist, Herbarium).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;

use super::listed::{self, Listed, Listing, wrong};
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
        let listing = read(&place.labels, part.one_class, part.classes.as_deref())?;
        listed::open(&place.path, listing, &place.labels, store)
    },
};

#[derive(Deserialize)]
struct Content {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    bbox: Option<Vec<f64>>,
    #[serde(default)]
    ignore: Option<u8>,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

impl Annotation {
    /// Whether it shows anything: it has an area, and a box of more than one pixel, as in VISSL.
    fn counts(&self) -> bool {
        let is_large = self
            .bbox
            .as_ref()
            .is_none_or(|sides| sides.len() == 4 && sides[2] > 1.0 && sides[3] > 1.0);
        self.ignore != Some(1) && self.area.is_none_or(|area| area > 0.0) && is_large
    }
}

/// Reads the file. Classes are its categories in the order of their ids, or those of the description, which
/// names categories.
fn read(path: &Path, one_class: bool, classes: Option<&[String]>) -> Result<Listing, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let content: Content =
        serde_json::from_reader(BufReader::with_capacity(1 << 20, file)).map_err(|error| {
            wrong(
                path,
                format!("not COCO's JSON of images, annotations and categories: {error}"),
            )
        })?;
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
    if content.annotations.is_empty() && !content.images.is_empty() {
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
    for annotation in content
        .annotations
        .iter()
        .filter(|annotation| annotation.counts())
    {
        let (Some(place), Some(number)) = (
            places.get(&annotation.image_id),
            numbers.get(&annotation.category_id),
        ) else {
            return Err(wrong(
                path,
                format!(
                    "an annotation is of image {} and category {}, of which it lists no such one",
                    annotation.image_id, annotation.category_id
                ),
            ));
        };
        let Some(number) = number else {
            let category = categories
                .iter()
                .find(|category| category.id == annotation.category_id);
            let name = category.map_or("", |category| category.name.as_str());
            return Err(names::unknown_class(
                path,
                &format!("category `{name}` ({})", annotation.category_id),
                &names,
            ));
        };
        sets[*place].insert(*number);
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
    })
}
