//! Candidate boxes and true boxes in, the true box of each candidate out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BoundingBox, Edges, iou};

/// Which candidates stand for which true box.
///
/// Ren et al., *Faster R-CNN*, 2015, §3.1.2, with torchvision's rules for ties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatcherConfig {
    /// Candidates whose largest IoU is below this are background: 0.3 for anchors, 0.5 for proposals.
    pub background_below: f32,
    /// Candidates whose largest IoU is this or more stand for that box: 0.7 for anchors, 0.5 for proposals.
    /// Those between the two are ignored.
    pub foreground_from: f32,
    /// Whether each true box's best candidates stand for their own best box even below `foreground_from`: true for
    /// anchors.
    pub low_quality: bool,
}

/// What a candidate stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The true box of this index.
    Truth(usize),
    /// None.
    Background,
    /// Neither: it takes part in no loss.
    Ignored,
}

impl MatcherConfig {
    /// The match of each candidate. Of equal IoUs the first true box wins. Without true boxes all is background.
    ///
    /// With `low_quality`, every candidate whose IoU with any true box equals that box's largest, also if that is 0,
    /// gets its own best box back, which may be another box.
    pub fn match_boxes(&self, truth: &[BoundingBox], candidates: &[BoundingBox]) -> Vec<Match> {
        if truth.is_empty() {
            return vec![Match::Background; candidates.len()];
        }
        let overlap = |truth: &BoundingBox, candidate: &BoundingBox| iou(truth, candidate, Edges::Continuous);
        let mut largest = vec![f32::NEG_INFINITY; truth.len()];
        let best = candidates.iter().map(|candidate| {
            let mut best = (f32::NEG_INFINITY, 0);
            for (index, largest) in largest.iter_mut().enumerate() {
                let overlap = overlap(&truth[index], candidate);
                *largest = largest.max(overlap);
                if overlap > best.0 {
                    best = (overlap, index);
                }
            }
            best
        });
        let best = best.collect::<Vec<_>>();
        let is_a_best = |candidate: &BoundingBox| {
            let mut pairs = truth.iter().zip(&largest);
            pairs.any(|(truth, largest)| overlap(truth, candidate) == *largest)
        };
        let matched = best.into_iter().zip(candidates);
        let matched = matched.map(|((overlap, index), candidate)| {
            if overlap >= self.foreground_from || self.low_quality && is_a_best(candidate) {
                Match::Truth(index)
            } else if overlap < self.background_below {
                Match::Background
            } else {
                Match::Ignored
            }
        });
        matched.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Match::{Background, Ignored, Truth};

    const ANCHORS: MatcherConfig = MatcherConfig {
        background_below: 0.3,
        foreground_from: 0.7,
        low_quality: true,
    };
    const PROPOSALS: MatcherConfig = MatcherConfig {
        background_below: 0.5,
        foreground_from: 0.5,
        low_quality: false,
    };

    fn boxes<const N: usize>(edges: [[f32; 4]; N]) -> Vec<BoundingBox> {
        edges.into_iter().map(BoundingBox::from_edges).collect()
    }

    /// A box of 10 × 10 of which the first `shared` columns lie in the box from 0 to 10.
    fn sharing(shared: f32) -> [f32; 4] {
        [10.0 - shared, 0.0, 20.0 - shared, 10.0]
    }

    #[test]
    fn thresholds_belong_to_the_upper_side() {
        // IoUs: 5/15 = 1/3, 1, 2/18 = 1/9.
        let truth = boxes([[0.0, 0.0, 10.0, 10.0]]);
        let candidates = boxes([sharing(5.0), sharing(10.0), sharing(2.0)]);
        let at = |background_below: f32, foreground_from: f32| {
            let config = MatcherConfig {
                background_below,
                foreground_from,
                low_quality: false,
            };
            config.match_boxes(&truth, &candidates)
        };
        let third = 50.0f32 / 150.0;
        assert_eq!(at(0.3, 0.7), [Ignored, Truth(0), Background]);
        assert_eq!(at(0.3, third), [Truth(0), Truth(0), Background]);
        assert_eq!(at(third, 0.7), [Ignored, Truth(0), Background]);
        assert_eq!(at(third + 1e-6, 0.7), [Background, Truth(0), Background]);
    }

    #[test]
    fn the_first_of_equal_boxes_wins() {
        let same = [0.0, 0.0, 10.0, 10.0];
        let matched = PROPOSALS.match_boxes(&boxes([same, same]), &boxes([same, sharing(9.0)]));
        assert_eq!(matched, [Truth(0), Truth(0)]);
    }

    #[test]
    fn every_best_candidate_of_a_box_gets_its_own_best_box() {
        // Box 0's best candidates are both of IoU 1/3; box 1 is the third candidate, and shares 2 columns with box 0.
        let truth = boxes([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0]]);
        let candidates = boxes([sharing(5.0), [-5.0, 0.0, 5.0, 10.0], [100.0, 0.0, 110.0, 10.0]]);
        assert_eq!(
            ANCHORS.match_boxes(&truth, &candidates),
            [Truth(0), Truth(0), Truth(1)]
        );
        assert_eq!(
            PROPOSALS.match_boxes(&truth, &candidates),
            [Background, Background, Truth(1)]
        );
        // The only candidate is the best one of both boxes: it stands for its own best box, the second.
        let one = boxes([[104.0, 0.0, 114.0, 10.0]]);
        assert_eq!(ANCHORS.match_boxes(&truth, &one), [Truth(1)]);
    }

    #[test]
    fn a_best_iou_of_zero_is_a_best_too() {
        // Nothing overlaps the second box: all candidates have its largest IoU, 0, and so stand for their own best box.
        let truth = boxes([[0.0, 0.0, 10.0, 10.0], [500.0, 500.0, 510.0, 510.0]]);
        let candidates = boxes([sharing(10.0), sharing(2.0), [50.0, 50.0, 60.0, 60.0]]);
        assert_eq!(
            ANCHORS.match_boxes(&truth, &candidates),
            [Truth(0), Truth(0), Truth(0)]
        );
    }

    #[test]
    fn without_boxes_all_is_background() {
        let candidates = boxes([sharing(1.0), sharing(2.0)]);
        assert_eq!(ANCHORS.match_boxes(&[], &candidates), [Background, Background]);
        assert!(ANCHORS.match_boxes(&candidates, &[]).is_empty());
    }
}
