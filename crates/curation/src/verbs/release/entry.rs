//! One photo of a release, as shards, tables and credits take it.

use crate::ledger::FileFacts;
use crate::photo::Photo;

/// One photo of a release being made.
pub(super) struct Entry {
    pub(super) photo: Photo,
    pub(super) shard: usize,
    /// What stages found out about its file.
    pub(super) file: FileFacts,
}
