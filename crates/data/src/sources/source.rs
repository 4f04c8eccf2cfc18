//! The interface of a source of records, and the result of opening one.

use std::fmt::Debug;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::Identity;
use super::license_column::LicenseColumn;
use super::objects::ObjectTable;
use super::table::Table;
use crate::contents::content_of;
use crate::error::Error;
use crate::listing::Listing;
use crate::record::{Label, Metadata};

/// Records at positions 0 to `len() - 1`. Callers check positions.
pub(crate) trait Source: Debug + Send + Sync {
    /// Number of records.
    fn len(&self) -> usize;

    /// Whether at least one record has a label.
    fn is_labeled(&self) -> bool;

    /// Key of a record.
    fn key(&self, position: usize) -> String;

    /// Label of a record, from the index.
    fn label(&self, position: usize) -> Option<Label>;

    /// Reads the encoded image of a record into a reused buffer.
    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error>;

    /// Bytes of the encoded image of a record, as far as the index knows them.
    fn image_bytes(&self, _position: usize) -> u64 {
        0
    }

    /// The provenance of a record.
    fn metadata(&self, _position: usize) -> Result<Metadata, Error> {
        Ok(Metadata::default())
    }

    /// The licenses of all records, from the index where it has them; no record is read.
    fn licenses(&self) -> Result<LicenseColumn, Error> {
        Ok(LicenseColumn::default())
    }

    /// Classes for which a record is neither an example nor a counterexample, ascending.
    fn undecided(&self, _position: usize) -> &[u32] {
        &[]
    }

    /// The largest class of any record, where the source does not check the class numbers in its files.
    fn largest_class(&self) -> Option<u32> {
        None
    }

    /// The hash of each image as [`content_of`] shortens it, in order: from the stored index where there is one.
    fn contents(&self) -> Result<Vec<u128>, Error> {
        contents_by_reading(self)
    }

    /// The shards or the folder that contain the records, with their indexes.
    fn tables(&self) -> Vec<(&Path, &Table)> {
        Vec::new()
    }

    /// Heap memory of the index, bytes.
    fn index_bytes(&self) -> usize {
        self.tables().iter().map(|(_, table)| table.heap_bytes()).sum()
    }
}

/// The hashes of images that no index holds: those in memory, or of an index that could not be stored.
pub(crate) fn contents_by_reading<S: Source + ?Sized>(source: &S) -> Result<Vec<u128>, Error> {
    let hash = |image: &mut Vec<u8>, position| {
        source.read_image(position, image)?;
        Ok(content_of(&Sha256::digest(&image).into()))
    };
    (0..source.len())
        .into_par_iter()
        .map_init(Vec::new, hash)
        .collect()
}

/// An opened source.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) source: Box<dyn Source>,
    /// Names of the classes in the order of their numbers; empty where they are unknown.
    pub(crate) class_names: Vec<String>,
    /// Of all records.
    pub(crate) identity: Identity,
    /// What became no record, or became one by a guess.
    pub(crate) listing: Listing,
    /// Boxes and masks, where the reader has read any.
    pub(crate) objects: Option<ObjectTable>,
}
