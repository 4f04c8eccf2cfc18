//! The interface of a source of records, and the result of opening one.

use std::fmt::Debug;
use std::path::Path;

use super::fingerprint::HashedKeys;
use super::license_column::LicenseColumn;
use super::table::Table;
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

    /// The shards or the folder that contain the records, with their indexes.
    fn tables(&self) -> Vec<(&Path, &Table)> {
        Vec::new()
    }

    /// Heap memory of the index, bytes.
    fn index_bytes(&self) -> usize {
        self.tables().iter().map(|(_, table)| table.heap_bytes()).sum()
    }
}

/// An opened source.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) source: Box<dyn Source>,
    /// Names of the classes in the order of their numbers; empty where they are unknown.
    pub(crate) class_names: Vec<String>,
    /// Keys and content hashes of all records, in parts.
    pub(crate) hashed: Vec<HashedKeys>,
    /// What became no record, or became one by a guess.
    pub(crate) listing: Listing,
}
