//! Records that are already in memory, such as images bundled with the program.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::HashedKeys;
use super::license_column::{LicenseColumn, license_of};
use super::source::Source;
use crate::error::Error;
use crate::record::{Label, Metadata, Record};

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) records: Vec<Record>,
}

impl Memory {
    /// Keys with the hashes of their images.
    pub(crate) fn hashed_keys(&self) -> HashedKeys<'_> {
        let hashes: Vec<[u8; 32]> = self
            .records
            .par_iter()
            .map(|record| Sha256::digest(&record.image).into())
            .collect();
        HashedKeys::sorted(self.records.iter().map(|record| &record.key).zip(hashes))
    }
}

impl Source for Memory {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn is_labeled(&self) -> bool {
        self.records.iter().any(|record| record.label.is_some())
    }

    fn key(&self, position: usize) -> String {
        self.records[position].key.clone()
    }

    fn label(&self, position: usize) -> Option<Label> {
        self.records[position].label.clone()
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        image.clear();
        image.extend_from_slice(&self.records[position].image);
        Ok(())
    }

    fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        Ok(self.records[position].metadata.clone())
    }

    fn licenses(&self) -> Result<LicenseColumn, Error> {
        let mut licenses = LicenseColumn::default();
        for (position, record) in self.records.iter().enumerate() {
            licenses.push(position, license_of(&record.metadata));
        }
        Ok(licenses)
    }
}
