//! The kinds of sources of records. A source is one file: the reader and, if a data-set description can name
//! it, its entry of [`LAYOUTS`].

pub(crate) mod coco;
pub(crate) mod csv;
pub(crate) mod description;
pub(crate) mod files;
pub(crate) mod fingerprint;
pub(crate) mod folder;
pub(crate) mod index_file;
mod key;
pub(crate) mod license_column;
pub(crate) mod listed;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod objects;
pub(crate) mod part;
pub(crate) mod pass;
pub(crate) mod pass_metadata;
pub(crate) mod raster;
pub(crate) mod shard_set;
pub(crate) mod source;
pub(crate) mod subset;
pub(crate) mod synthetic;
pub(crate) mod table;
pub(crate) mod tar_shard;
pub(crate) mod voc;
pub(crate) mod walk;
pub(crate) mod yolo;

use part::Layout;

/// The values of `kind` in a data-set description.
pub(crate) const LAYOUTS: &[&Layout] = &[
    &shard_set::SHARDS,
    &folder::FOLDER,
    &folder::FLAT,
    &pass::PASS,
    &raster::CIFAR10,
    &raster::CIFAR100,
    &raster::IDX,
    &voc::VOC,
    &coco::COCO,
    &csv::CSV,
    &yolo::YOLO,
];
