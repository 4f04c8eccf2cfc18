//! Packing, indexing, inspecting and checking shards: the library behind `passer shards`.

mod archive;
mod check;
mod checksums;
mod pack;

pub use check::{
    ClassCount, DamagedShard, Inspection, ShardSummary, SkippedMember, Verification, index, inspect, verify,
};
pub use pack::{PackOptions, PackReport, pack, pack_dataset, write_shard};

/// Called during long work with the count done and the total.
pub type OnProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);
