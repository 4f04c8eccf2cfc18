//! Where records come from: tar shards, image folders, memory, and pictures made on the spot.

pub(crate) mod coco;
pub(crate) mod description;
pub(crate) mod files;
pub(crate) mod fingerprint;
pub(crate) mod folder;
pub(crate) mod index_file;
pub(crate) mod listed;
pub(crate) mod pass;
pub(crate) mod raster;
pub(crate) mod shard_set;
pub(crate) mod synthetic;
pub(crate) mod table;
pub(crate) mod tar_shard;
pub(crate) mod voc;
