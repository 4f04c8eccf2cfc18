//! The published PASS release, as tars or unpacked, without labels; its metadata come from
//! [`super::pass_metadata`].

use super::folder::{self, Labels};
use super::part::Layout;
use super::shard_set;

/// `kind = "pass"`.
pub(crate) const PASS: Layout = Layout {
    name: "pass",
    keys: &[],
    required: &[],
    in_folder: false,
    shards: Some(shard_set::shards_of),
    open: |place, store| {
        let shards = shard_set::shards_of(&place.path)?;
        if shards.paths.is_empty() {
            return folder::open(&place.path, Labels::Absent, None, store);
        }
        shard_set::open(shards, place.part.classes.clone().unwrap_or_default(), store)
    },
};
