//! A data set's boxes and masks: opening it with them, those of a record, and the records to train on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::error::Error;
use crate::listing::Reason;
use crate::record::{Metadata, Record};
use crate::sources::index_file::IndexStore;
use crate::sources::objects::{Annotation, Annotations, Mask, Picture, optional_mask};
use crate::targets::{ImageTargets, Segmentation};

/// The key of a `KEY.json` that lists its record's objects.
const OBJECTS: &str = "objects";

/// What `KEY.json` says of its picture's objects. Absent `objects`: nothing is known of them.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(default)]
    image_id: Option<u64>,
    #[serde(default)]
    width: Option<u32>,
    #[serde(default)]
    height: Option<u32>,
    #[serde(default)]
    objects: Option<Vec<ListedObject>>,
}

/// An object in `KEY.json`: COCO's names, and `class`, which counts from 0.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedObject {
    #[serde(default)]
    id: Option<u64>,
    class: u32,
    #[serde(default)]
    bbox: Option<[f64; 4]>,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
    #[serde(default)]
    difficult: u8,
    #[serde(default, deserialize_with = "optional_mask")]
    segmentation: Option<Mask>,
}

/// [`ListedObject`], to be written.
#[derive(Debug, Serialize)]
struct WrittenObject {
    id: u64,
    class: u32,
    bbox: [f64; 4],
    area: f64,
    #[serde(skip_serializing_if = "is_zero")]
    iscrowd: u8,
    #[serde(skip_serializing_if = "is_zero")]
    difficult: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<WrittenMask>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WrittenMask {
    Polygons(Vec<Vec<f64>>),
    Rle { size: [u32; 2], counts: String },
}

fn is_zero(flag: &u8) -> bool {
    *flag == 0
}

impl Dataset {
    /// [`Dataset::open`] with the boxes and masks of its records: `kind = "coco"`, `"voc"` or `"yolo"`, or shards
    /// with `objects` in their `KEY.json`.
    ///
    /// Every object is checked. Those of no use, such as boxes outside of their picture, are left out and counted
    /// in [`Dataset::listing`].
    ///
    /// # Errors
    /// As for [`Dataset::open`]; and [`Error::Unreadable`] where the data have no boxes, or have them as shares of
    /// the picture where pixels are expected, or the reverse.
    pub fn open_with_objects(spec: &str) -> Result<Dataset, Error> {
        let dataset = Self::open_with_objects_in(spec, &IndexStore::from_environment())?;
        dataset.warn(spec);
        Ok(dataset)
    }

    pub(crate) fn open_with_objects_in(spec: &str, store: &IndexStore) -> Result<Dataset, Error> {
        let dataset = Self::open_reading(spec, store, true)?.with_listed_objects()?;
        if dataset.objects.is_none() {
            return Err(Error::Unreadable {
                spec: spec.to_string(),
                reason: format!(
                    "has no boxes; expected a description of kind `coco`, `voc` or `yolo`, or shards with `{OBJECTS}` in their `KEY.json`"
                ),
                hint: None,
            });
        }
        Ok(dataset)
    }

    /// [`Dataset::open`] with whatever boxes and masks its layout has in files of their own.
    pub(crate) fn open_with_any_objects(spec: &str) -> Result<Dataset, Error> {
        let dataset = Self::open_reading(spec, &IndexStore::from_environment(), true)?;
        dataset.warn(spec);
        Ok(dataset)
    }

    /// The data set with the objects that the metadata of its records list, unless it has objects already.
    ///
    /// # Errors
    /// [`Error`] for metadata that cannot be read, and [`Error::Record`] for objects that are written wrongly.
    pub fn with_listed_objects(mut self) -> Result<Dataset, Error> {
        if self.objects.is_some() {
            return Ok(self);
        }
        let mut annotations = Annotations::default();
        let (mut listed, mut silent) = (0, Vec::new());
        for position in 0..self.len() {
            let metadata = self.source.metadata(position)?;
            let wrong = |reason: String| Error::Record {
                key: self.source.key(position),
                reason: format!("`{OBJECTS}` of its metadata: {reason}"),
            };
            let found = read_listed(metadata).map_err(|error| wrong(error.to_string()))?;
            let mut size = found.width.zip(found.height);
            match &found.objects {
                Some(_) => listed += 1,
                None => silent.push(position),
            }
            if size.is_none() && found.objects.is_some() {
                let mut image = Vec::new();
                self.source.read_image(position, &mut image)?;
                size = crate::decode::upright_size_of(&image);
            }
            annotations.pictures.push(Picture {
                id: found.image_id,
                size,
            });
            for object in found.objects.into_iter().flatten() {
                let names = self.class_names.len();
                if names > 0 && object.class as usize >= names {
                    return Err(wrong(format!(
                        "`class` must be below {names}, the number of names, got {}",
                        object.class
                    )));
                }
                annotations.push(Annotation {
                    id: object.id,
                    picture: position as u64,
                    class: u64::from(object.class),
                    edges: object
                        .bbox
                        .map(|[left, top, width, height]| [left, top, left + width, top + height]),
                    area: object.area,
                    is_crowd: object.iscrowd != 0,
                    is_difficult: object.difficult != 0,
                    mask: object.segmentation,
                });
            }
        }
        if listed == 0 {
            return Ok(self);
        }
        if annotations.look_relative() {
            return Err(Error::Unreadable {
                spec: self.source.key(0),
                reason: format!(
                    "every `bbox` of the records' `{OBJECTS}` lies within 0 to 1, so they are probably shares of the picture's sides; they must be in pixels"
                ),
                hint: None,
            });
        }
        let source = &self.source;
        self.listing
            .add_many(Reason::NoBoxes, "", silent.len() as u64, || {
                silent
                    .first()
                    .map_or_else(String::new, |first| source.key(*first))
            });
        let order: Vec<usize> = (0..source.len()).collect();
        let table = annotations.checked(&order, |record| source.key(record), &mut self.listing);
        self.objects = Some(table);
        Ok(self)
    }

    /// Whether the data set was opened with boxes.
    pub fn has_objects(&self) -> bool {
        self.objects.is_some()
    }

    /// The objects of a record; `None` where the data set was opened without them.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn targets(&self, position: usize) -> Result<Option<ImageTargets>, Error> {
        self.check(position)?;
        Ok(self.objects.as_ref().map(|objects| objects.targets(position)))
    }

    /// Width and height of a record's picture, px, as its annotations state them; `None` without objects.
    pub(crate) fn stated_size(&self, position: usize) -> Option<(u32, u32)> {
        self.objects.as_ref().map(|objects| objects.size(position))
    }

    /// The data set's own number of a class, as results have it: COCO's category id, or else the class + 1.
    pub fn category_id(&self, class: u32) -> u64 {
        let ids = self
            .objects
            .as_ref()
            .map_or(&[][..], |objects| objects.category_ids());
        ids.get(class as usize).copied().unwrap_or(u64::from(class) + 1)
    }

    /// The class of the data set's own number of it; `None` for a number of no class.
    pub fn class_of_category(&self, category_id: u64) -> Option<u32> {
        (0..self.class_names.len() as u32).find(|class| self.category_id(*class) == category_id)
    }

    /// The records that a detector is trained on: those with at least one object that is no crowd. The others are
    /// counted in the result's listing.
    ///
    /// # Errors
    /// [`Error::Option`] where none is left, or the data set was opened without objects.
    pub fn with_objects_to_train_on(whole: &Arc<Dataset>) -> Result<Dataset, Error> {
        let mut positions = Vec::new();
        let mut listing = whole.listing.clone();
        for position in 0..whole.len() {
            let has = whole
                .objects
                .as_ref()
                .map_or((false, false), |objects| objects.has_objects(position));
            let key = || whole.source.key(position);
            match has {
                (_, true) => positions.push(position as u32),
                (true, false) => listing.add(Reason::OnlyCrowds, "", key),
                (false, false) => listing.add(Reason::NoObject, "", key),
            }
        }
        if positions.is_empty() {
            let instead = listing.instead().unwrap_or_default();
            return Err(Error::Option {
                option: "data",
                reason: format!("must have a picture with an object to train on, got none ({instead})"),
            });
        }
        let mut part = Self::part(whole, positions)?;
        part.listing = listing;
        Ok(part)
    }

    /// A whole record whose metadata list its objects, as shards have them.
    pub(crate) fn read_with_objects(&self, position: usize) -> Result<Record, Error> {
        let mut record = self.read(position)?;
        if let Some(targets) = self.targets(position)?
            && targets.width > 0
        {
            list_in(&mut record.metadata, targets);
        }
        Ok(record)
    }
}

/// The part of the metadata that is about objects.
fn read_listed(metadata: Metadata) -> Result<Listed, serde_json::Error> {
    let has_objects = metadata.other.contains_key(OBJECTS);
    match has_objects {
        true => serde_json::from_value(serde_json::Value::Object(metadata.other)),
        // `width` and the like are then of another meaning.
        false => Ok(Listed {
            image_id: None,
            width: None,
            height: None,
            objects: None,
        }),
    }
}

/// Writes the objects into the metadata.
fn list_in(metadata: &mut Metadata, targets: ImageTargets) {
    let objects = targets.objects.into_iter().map(|object| WrittenObject {
        id: object.id,
        class: object.class,
        bbox: {
            let [left, top, right, bottom] = object.bounding_box.edges().map(f64::from);
            [left, top, right - left, bottom - top]
        },
        area: object.area,
        iscrowd: u8::from(object.is_crowd),
        difficult: u8::from(object.is_difficult),
        segmentation: object.segmentation.map(|mask| match mask {
            Segmentation::Polygons(polygons) => {
                WrittenMask::Polygons(polygons.iter().map(|polygon| polygon.to_flat()).collect())
            }
            Segmentation::Rle(rle) => WrittenMask::Rle {
                size: [rle.height(), rle.width()],
                counts: rle.to_compressed(),
            },
        }),
    });
    let objects: Vec<WrittenObject> = objects.collect();
    let objects = serde_json::to_value(objects).unwrap_or_default();
    for (key, value) in [
        ("image_id", targets.image_id.into()),
        ("width", targets.width.into()),
        ("height", targets.height.into()),
        (OBJECTS, objects),
    ] {
        metadata.other.insert(key.to_string(), value);
    }
}
