//! One photo of a release, the common input of shards, tables and credits.

use crate::ledger::FileFacts;
use crate::photo::{Photo, is_private_address};

/// One photo of a release being made.
pub(super) struct Entry {
    pub(super) photo: Photo,
    pub(super) shard: usize,
    /// The facts that stages found about its file.
    pub(super) file: FileFacts,
    /// Whether an address of the photo is not published, because it is private.
    pub(super) has_private_address: bool,
}

impl Entry {
    /// The photo without its private addresses.
    pub(super) fn new(mut photo: Photo, shard: usize, file: FileFacts) -> Entry {
        let mut has_private_address = false;
        for address in [&mut photo.page_url, &mut photo.image_url] {
            has_private_address |= address.take_if(|url| is_private_address(url)).is_some();
        }
        Entry {
            photo,
            shard,
            file,
            has_private_address,
        }
    }
}
