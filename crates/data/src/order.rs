//! The order of the records within an epoch: one integer per position, a function of seed and epoch alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::randomness::{Purpose, generator, shuffle};

/// How an epoch walks through the data set (TOML: `order = "global"` or `order = { blocks = 16 }`).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// All records in a uniformly random order, a new one each epoch. The last partial batch is dropped.
    Global,
    /// Neighboring records form blocks of this many; the blocks are shuffled, and the records within each.
    ///
    /// For disks and network stores with slow seeks: a block is read sequentially. Longer blocks mean fewer
    /// seeks and more similar records in a batch, so the shards should have been packed in random order. The
    /// last partial batch is dropped.
    Blocks(usize),
    /// The data set's own order, every epoch the same, for evaluation. The last partial batch is kept, and a
    /// broken record is dropped instead of replaced, so that no record occurs twice.
    Sequential,
}

impl Order {
    /// Gives an error for blocks without records.
    ///
    /// # Errors
    /// The second half of a sentence: `must be …, got …`.
    pub fn validate(self) -> Result<(), String> {
        match self {
            Order::Blocks(0) => Err("must have blocks of at least 1 record, got 0".to_string()),
            _ => Ok(()),
        }
    }

    /// Whether every batch must be full.
    pub(crate) fn drops_last(self) -> bool {
        self != Order::Sequential
    }

    /// The record positions of one epoch, in order of visits; each exactly once.
    pub(crate) fn epoch(self, records: u32, seed: u64, epoch: u64) -> Vec<u32> {
        let mut source = generator(seed, Purpose::EpochOrder, epoch, 0, 0);
        match self {
            Order::Sequential => (0..records).collect(),
            Order::Global => {
                let mut positions: Vec<u32> = (0..records).collect();
                shuffle(&mut positions, &mut source);
                positions
            }
            Order::Blocks(block_records) => {
                let block_records = u32::try_from(block_records.max(1)).unwrap_or(u32::MAX);
                let mut starts: Vec<u32> = (0..records).step_by(block_records as usize).collect();
                shuffle(&mut starts, &mut source);
                let mut positions = Vec::with_capacity(records as usize);
                for start in starts {
                    let first = positions.len();
                    positions.extend(start..records.min(start.saturating_add(block_records)));
                    shuffle(&mut positions[first..], &mut source);
                }
                positions
            }
        }
    }
}

/// The positions rearranged so that each run of `images` is of one group, wide or not, as long as the group has
/// enough; the first of a group come first. What is left of both is at the end.
pub(crate) fn by_group(positions: &[u32], images: usize, is_wide: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut grouped = Vec::with_capacity(positions.len());
    let mut waiting = [Vec::new(), Vec::new()];
    for position in positions {
        let group = &mut waiting[usize::from(is_wide(*position))];
        group.push(*position);
        if group.len() == images {
            grouped.append(group);
        }
    }
    grouped.extend(waiting.into_iter().flatten());
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_once(records in 1u32..500, seed: u64, epoch in 0u64..1000, block in 1usize..40) {
            for order in [Order::Global, Order::Blocks(block), Order::Sequential] {
                let mut positions = order.epoch(records, seed, epoch);
                positions.sort_unstable();
                prop_assert_eq!(positions, (0..records).collect::<Vec<u32>>());
            }
        }
    }

    #[test]
    fn groups_fill_runs_in_the_order_of_their_positions() {
        let is_wide = |position: u32| position >= 10;
        let grouped = by_group(&[1, 11, 12, 2, 13, 3, 4, 14, 15, 16], 2, is_wide);
        assert_eq!(grouped, [11, 12, 1, 2, 3, 4, 13, 14, 15, 16]);
        let odd = by_group(&[1, 11, 2, 12, 3, 13, 14], 2, is_wide);
        assert_eq!(odd, [1, 2, 11, 12, 13, 14, 3]);
        assert_eq!(
            by_group(&[1, 11, 2, 12], 3, is_wide),
            [1, 2, 11, 12],
            "what is left"
        );
    }

    #[test]
    fn epochs_and_seeds_differ_and_repeat() {
        let order = |seed, epoch| Order::Global.epoch(100, seed, epoch);
        assert_eq!(order(1, 2), order(1, 2));
        assert_ne!(order(1, 2), order(1, 3));
        assert_ne!(order(1, 2), order(2, 2));
    }

    #[test]
    fn blocks_stay_together() {
        let positions = Order::Blocks(16).epoch(100, 3, 0);
        let mut blocks: Vec<u32> = positions.iter().map(|position| position / 16).collect();
        blocks.dedup();
        assert_eq!(blocks.len(), 7, "each block is one stretch: {blocks:?}");
        assert!(positions != (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn the_global_order_is_uniform() {
        // Over many epochs the first record visited must be each of 10 about equally often.
        let mut counts = [0u32; 10];
        for epoch in 0..5000 {
            counts[Order::Global.epoch(10, 7, epoch)[0] as usize] += 1;
        }
        assert!(
            counts.iter().all(|&count| (400..600).contains(&count)),
            "{counts:?}"
        );
    }

    #[test]
    fn toml_forms() {
        #[derive(Deserialize)]
        struct Config {
            order: Order,
        }
        let read = |text| toml::from_str::<Config>(text).map(|config| config.order);
        assert_eq!(read("order = \"global\"").unwrap(), Order::Global);
        assert_eq!(read("order = { blocks = 16 }").unwrap(), Order::Blocks(16));
        assert_eq!(read("order = \"sequential\"").unwrap(), Order::Sequential);
        assert!(read("order = \"random\"").is_err());
    }
}
