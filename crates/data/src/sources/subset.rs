//! Some records of another source, in a chosen order: a split, or a subset. Nothing is copied.

use std::sync::Arc;

use super::license_column::LicenseColumn;
use super::source::Source;
use crate::error::Error;
use crate::record::{Label, Metadata};

#[derive(Debug)]
pub(crate) struct Subset {
    pub(crate) whole: Arc<dyn Source>,
    /// Positions in the whole source, each below its length.
    pub(crate) positions: Vec<u32>,
}

impl Subset {
    fn of_whole(&self, position: usize) -> usize {
        self.positions[position] as usize
    }
}

impl Source for Subset {
    fn len(&self) -> usize {
        self.positions.len()
    }

    fn is_labeled(&self) -> bool {
        self.whole.is_labeled()
    }

    fn key(&self, position: usize) -> String {
        self.whole.key(self.of_whole(position))
    }

    fn label(&self, position: usize) -> Option<Label> {
        self.whole.label(self.of_whole(position))
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        self.whole.read_image(self.of_whole(position), image)
    }

    fn image_bytes(&self, position: usize) -> u64 {
        self.whole.image_bytes(self.of_whole(position))
    }

    fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        self.whole.metadata(self.of_whole(position))
    }

    fn licenses(&self) -> Result<LicenseColumn, Error> {
        Ok(self.whole.licenses()?.picked(&self.positions))
    }

    fn contents(&self) -> Result<Vec<u128>, Error> {
        let whole = self.whole.contents()?;
        Ok(self
            .positions
            .iter()
            .map(|position| whole[*position as usize])
            .collect())
    }

    fn undecided(&self, position: usize) -> &[u32] {
        self.whole.undecided(self.of_whole(position))
    }

    fn index_bytes(&self) -> usize {
        size_of_val(self.positions.as_slice())
    }
}
