//! One photo of a release, the common input of shards, tables and credits.

use crate::ledger::FileFacts;
use crate::photo::Photo;

/// One photo of a release being made.
pub(super) struct Entry {
    pub(super) photo: Photo,
    pub(super) shard: usize,
    /// The facts that stages found about its file.
    pub(super) file: FileFacts,
}
