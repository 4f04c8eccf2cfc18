//! Boxes and masks as the files of a data set have them in, checked columns out, in the order of its records.
//!
//! A data set may have a million objects, so there is no struct and no `String` per object in memory: readers
//! fill [`Annotations`] while they read, masks are packed into one arena of bytes, and [`ObjectTable`] is the
//! same columns with the objects of each record side by side.

mod mask;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

pub(crate) use mask::{Mask, optional_mask};

use super::table::Table;
use crate::decode::upright_size;
use crate::listing::{Listing, Reason};
use crate::targets::{BoundingBox, ImageTargets, Object, Polygon, Segmentation};

/// How far an edge may lie outside of the picture and still be a rounding, px.
const ROUNDING_PX: f64 = 0.01;

const CROWD: u8 = 1;
const DIFFICULT: u8 = 2;

/// An object as a file has it.
#[derive(Debug, Default)]
pub(crate) struct Annotation {
    /// The file's number of it, if it has one.
    pub(crate) id: Option<u64>,
    /// The picture's place among [`Annotations::pictures`], or its id before the reader knows the pictures.
    pub(crate) picture: u64,
    /// The class, or the data set's own number of it before the reader knows the classes.
    pub(crate) class: u64,
    /// Left, top, right and bottom edge, px; `None` where the file has no box.
    pub(crate) edges: Option<[f64; 4]>,
    /// As the file states it, px².
    pub(crate) area: Option<f64>,
    pub(crate) is_crowd: bool,
    pub(crate) is_difficult: bool,
    pub(crate) mask: Option<Mask>,
}

/// A picture of which objects are listed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Picture {
    /// The data set's number of it; absent: its position.
    pub(crate) id: Option<u64>,
    /// Width and height, px, where the file states them.
    pub(crate) size: Option<(u32, u32)>,
}

/// The objects of a source in the order of its files, while they are read.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    pub(crate) pictures: Vec<Picture>,
    /// The data set's own numbers of the classes, in their order; empty where it has none.
    pub(crate) category_ids: Vec<u64>,
    ids: Vec<Option<u64>>,
    pub(crate) picture_of: Vec<u64>,
    pub(crate) class_of: Vec<u64>,
    /// Not a number in all four where there is no box.
    edges: Vec<[f64; 4]>,
    has_box: Vec<bool>,
    areas: Vec<f64>,
    flags: Vec<u8>,
    mask_ends: Vec<u64>,
    masks: Vec<u8>,
}

impl Annotations {
    pub(crate) fn push(&mut self, annotation: Annotation) {
        self.ids.push(annotation.id);
        self.picture_of.push(annotation.picture);
        self.class_of.push(annotation.class);
        self.has_box.push(annotation.edges.is_some());
        self.edges.push(annotation.edges.unwrap_or_default());
        self.areas.push(annotation.area.unwrap_or(f64::NAN));
        let crowd = if annotation.is_crowd { CROWD } else { 0 };
        let difficult = if annotation.is_difficult { DIFFICULT } else { 0 };
        self.flags.push(crowd | difficult);
        if let Some(mask) = annotation.mask {
            mask.pack(&mut self.masks);
        }
        self.mask_ends.push(self.masks.len() as u64);
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    fn mask(&self, at: usize) -> Option<Mask> {
        let start = match at {
            0 => 0,
            at => self.mask_ends[at - 1],
        };
        Mask::unpack(&self.masks[start as usize..self.mask_ends[at] as usize])
    }

    /// Whether the boxes are shares of the picture's sides and no pixels: all of them, at least one, end within the
    /// first pixel.
    pub(crate) fn look_relative(&self) -> bool {
        let mut boxes = self
            .edges
            .iter()
            .zip(&self.has_box)
            .filter(|(_, has_box)| **has_box);
        let ends_within = |(edges, _): (&[f64; 4], &bool)| edges[2] <= 1.0 && edges[3] <= 1.0;
        boxes.clone().next().is_some() && boxes.all(ends_within)
    }

    /// Checks every object of records that are files in a folder. Those that are useless are left out and
    /// counted in `listing`.
    ///
    /// `places` names for each record of the table its place among the pictures. Sizes that the files do not state
    /// are read from the pictures' headers.
    pub(crate) fn into_table(
        mut self,
        root: &Path,
        places: &[usize],
        table: &Table,
        listing: &mut Listing,
    ) -> ObjectTable {
        let sizes: Vec<(usize, Option<(u32, u32)>)> = places
            .par_iter()
            .enumerate()
            .filter(|(_, place)| self.pictures[**place].size.is_none())
            .map(|(record, place)| {
                let path = root.join(table.folder(record)).join(table.name(record));
                (*place, upright_size(&path))
            })
            .collect();
        for (place, size) in sizes {
            self.pictures[place].size = size;
        }
        self.checked(places, |record| table.key(record), listing)
    }

    /// [`Annotations::into_table`] where all sizes are known that can be. A picture without one is broken, which is
    /// counted when it is decoded; its objects are left out.
    pub(crate) fn checked(
        self,
        order: &[usize],
        key: impl Fn(usize) -> String,
        listing: &mut Listing,
    ) -> ObjectTable {
        let mut of_picture: Vec<Vec<u32>> = vec![Vec::new(); self.pictures.len()];
        for (at, picture) in self.picture_of.iter().enumerate() {
            of_picture[*picture as usize].push(at as u32);
        }
        let unique: HashSet<u64> = self.ids.iter().flatten().copied().collect();
        // Metrics need numbers that are unique and not 0.
        let has_ids = unique.len() == self.ids.len() && !unique.contains(&0);
        let mut columns = Columns {
            boxes: vec![BoundingBox::default(); self.len()],
            ..Columns::default()
        };
        let mut table = ObjectTable::default();
        for (record, place) in order.iter().enumerate() {
            let picture = self.pictures[*place];
            let (width, height) = picture.size.unwrap_or_default();
            let objects = match picture.size {
                Some(_) => &of_picture[*place][..],
                None => &[],
            };
            for at in objects {
                let index = *at as usize;
                let name = || {
                    format!(
                        "{}: object {}",
                        key(record),
                        self.ids[index].unwrap_or(u64::from(*at) + 1)
                    )
                };
                if let Some(checked) = self.check(index, (width, height), name, listing) {
                    columns.boxes[index] = checked;
                    table.order.push(*at);
                }
            }
            table.ends.push(table.order.len() as u32);
            table
                .pictures
                .push((picture.id.unwrap_or(record as u64), width, height));
        }
        columns.ids = match has_ids {
            true => self.ids.iter().flatten().copied().collect(),
            false => (1..=self.len() as u64).collect(),
        };
        columns.classes = self.class_of.iter().map(|class| *class as u32).collect();
        columns.areas = self.areas;
        columns.flags = self.flags;
        columns.mask_ends = self.mask_ends;
        columns.masks = self.masks;
        columns.masks.shrink_to_fit();
        columns.category_ids = self.category_ids;
        table.columns = Arc::new(columns);
        table
    }

    /// The box of an object within its picture; `None` where the object is of no use.
    fn check(
        &self,
        at: usize,
        (width, height): (u32, u32),
        name: impl Fn() -> String,
        listing: &mut Listing,
    ) -> Option<BoundingBox> {
        let mut count = |reason| listing.add(reason, "", &name);
        if !self.has_box[at] {
            count(Reason::ObjectWithoutBox);
            return None;
        }
        let edges = self.edges[at];
        if edges.iter().any(|edge| !edge.is_finite()) {
            count(Reason::BoxNotFinite);
            return None;
        }
        let [left, top, right, bottom] = edges;
        if right <= left || bottom <= top {
            count(Reason::BoxWithoutSize);
            return None;
        }
        let (across, down) = (f64::from(width), f64::from(height));
        let clipped = [
            left.clamp(0.0, across),
            top.clamp(0.0, down),
            right.clamp(0.0, across),
            bottom.clamp(0.0, down),
        ];
        let [left, top, right, bottom] = clipped.map(|edge| edge as f32);
        let bounding_box = BoundingBox {
            left,
            top,
            right,
            bottom,
        };
        if bounding_box.is_empty() {
            count(Reason::BoxOutside);
            return None;
        }
        let beyond = edges
            .iter()
            .zip(clipped)
            .map(|(edge, clipped)| (edge - clipped).abs());
        if beyond.fold(0.0, f64::max) > ROUNDING_PX {
            count(Reason::BoxClipped);
        }
        match self.mask(at) {
            None => Some(bounding_box),
            Some(Mask::Polygons(polygons)) => {
                let wrong = polygons
                    .iter()
                    .filter(|polygon| Polygon::from_flat(polygon).is_err())
                    .count();
                listing.add_many(Reason::BadPolygon, "", wrong as u64, &name);
                (wrong < polygons.len()).then_some(bounding_box)
            }
            Some(Mask::Rle(rle)) if (rle.width(), rle.height()) == (width, height) => Some(bounding_box),
            Some(Mask::Rle(rle)) => {
                listing.add(Reason::MaskOfOtherSize, "", || {
                    format!(
                        "{}: {} x {} px in a picture of {width} x {height} px",
                        name(),
                        rle.width(),
                        rle.height()
                    )
                });
                None
            }
            Some(Mask::Broken(reason)) => {
                listing.add(Reason::BadMask, "", || format!("{}: {reason}", name()));
                None
            }
        }
    }
}

/// The objects of all records.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectTable {
    columns: Arc<Columns>,
    /// Objects of the records, one record after the other: places in the columns.
    order: Vec<u32>,
    /// Where each record's objects end in `order`.
    ends: Vec<u32>,
    /// The data set's number of each record's picture, its width and its height.
    pictures: Vec<(u64, u32, u32)>,
}

/// What is known of each object, in the order of the files.
#[derive(Debug, Default)]
struct Columns {
    category_ids: Vec<u64>,
    ids: Vec<u64>,
    classes: Vec<u32>,
    boxes: Vec<BoundingBox>,
    areas: Vec<f64>,
    flags: Vec<u8>,
    mask_ends: Vec<u64>,
    masks: Vec<u8>,
}

impl ObjectTable {
    fn of_record(&self, record: usize) -> &[u32] {
        let start = match record {
            0 => 0,
            record => self.ends[record - 1],
        };
        &self.order[start as usize..self.ends[record] as usize]
    }

    /// Width and height of a record's picture, px.
    pub(crate) fn size(&self, record: usize) -> (u32, u32) {
        let (_, width, height) = self.pictures[record];
        (width, height)
    }

    /// Whether a record has an object, and one that is no crowd.
    pub(crate) fn has_objects(&self, record: usize) -> (bool, bool) {
        let objects = self.of_record(record);
        let is_crowd = |at: &u32| self.columns.flags[*at as usize] & CROWD != 0;
        (!objects.is_empty(), !objects.iter().all(is_crowd))
    }

    pub(crate) fn targets(&self, record: usize) -> ImageTargets {
        let columns = &*self.columns;
        let (image_id, width, height) = self.pictures[record];
        let objects = self.of_record(record).iter().map(|at| {
            let at = *at as usize;
            let start = if at == 0 { 0 } else { columns.mask_ends[at - 1] };
            let mask = Mask::unpack(&columns.masks[start as usize..columns.mask_ends[at] as usize]);
            let segmentation = mask.and_then(Mask::into_segmentation);
            let bounding_box = columns.boxes[at];
            let area = match (columns.areas[at], &segmentation) {
                (stated, _) if stated.is_finite() => stated,
                (_, Some(mask)) => mask.to_rle(width, height).area() as f64,
                (_, None) => f64::from(bounding_box.area()),
            };
            Object {
                id: columns.ids[at],
                class: columns.classes[at],
                bounding_box,
                segmentation,
                area,
                is_crowd: columns.flags[at] & CROWD != 0,
                is_difficult: columns.flags[at] & DIFFICULT != 0,
            }
        });
        ImageTargets {
            image_id,
            width,
            height,
            objects: objects.collect(),
        }
    }

    /// The data set's own numbers of the classes; empty where it has none.
    pub(crate) fn category_ids(&self) -> &[u64] {
        &self.columns.category_ids
    }

    /// The objects of some records, in this order. Nothing but places is copied.
    pub(crate) fn picked(&self, positions: &[u32]) -> ObjectTable {
        let mut picked = ObjectTable {
            columns: Arc::clone(&self.columns),
            ..ObjectTable::default()
        };
        for position in positions {
            picked.order.extend(self.of_record(*position as usize));
            picked.ends.push(picked.order.len() as u32);
            picked.pictures.push(self.pictures[*position as usize]);
        }
        picked
    }
}
