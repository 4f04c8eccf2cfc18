//! Matches in, the few candidates of each image that take part in a loss out.

use backbones::draws::choose;
use backbones::{Context, Draws};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Match;

/// How many candidates of an image take part in a loss.
///
/// Girshick, *Fast R-CNN*, 2015, §2.3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    /// Candidates per image: 256 anchors, 512 proposals. There are fewer if an image has fewer of them.
    pub per_image: usize,
    /// At most this share of them stands for true boxes: 0.5 of anchors, 0.25 of proposals. Background fills the rest.
    pub positive_fraction: f32,
}

/// Candidates of an image that take part in a loss, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Those that stand for a true box.
    pub positive: Vec<usize>,
    /// Background.
    pub negative: Vec<usize>,
}

/// The source of a sample: draws of the step in training, given indices in a comparison with another program.
pub trait Choose {
    /// `count` of the candidates, in any order; `count` is at most their number. `purpose` is the part of the network,
    /// `image` the index in the batch.
    fn choose(&self, purpose: &str, image: usize, candidates: Vec<usize>, count: usize) -> Vec<usize>;
}

/// Draws without replacement, by the purpose and the image's place in the whole step: the same however the step is
/// divided into micro-batches and replicas.
#[derive(Clone, Copy, Debug)]
pub struct ImageDraws {
    draws: Draws,
    first_image: u64,
}

impl ImageDraws {
    /// The draws of a micro-batch of this many images.
    pub fn new(context: &Context, images: usize) -> Self {
        Self {
            draws: context.draws.whole_step(),
            first_image: (context.place() * images) as u64,
        }
    }
}

impl Choose for ImageDraws {
    fn choose(&self, purpose: &str, image: usize, mut candidates: Vec<usize>, count: usize) -> Vec<usize> {
        let mut rng = self.draws.rng(purpose, self.first_image + image as u64);
        choose(&mut rng, &mut candidates, count);
        candidates.truncate(count);
        candidates
    }
}

impl SamplerConfig {
    /// A sample of an image's candidates.
    pub fn sample(&self, matches: &[Match], purpose: &str, image: usize, from: &dyn Choose) -> Samples {
        let of = |wanted: fn(&Match) -> bool| {
            let chosen = matches.iter().enumerate().filter(|(_, matched)| wanted(matched));
            chosen.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let positive = of(|matched| matches!(matched, Match::Truth(_)));
        let negative = of(|matched| *matched == Match::Background);
        let most = (self.per_image as f64 * f64::from(self.positive_fraction)) as usize;
        let positives = most.min(positive.len());
        let negatives = (self.per_image - positives).min(negative.len());
        let choose = |kind: &str, candidates: Vec<usize>, count: usize| {
            if count == candidates.len() {
                return candidates;
            }
            let mut chosen = from.choose(&format!("{purpose}.{kind}"), image, candidates, count);
            chosen.sort_unstable();
            chosen
        };
        Samples {
            positive: choose("positive", positive, positives),
            negative: choose("negative", negative, negatives),
        }
    }
}

impl Samples {
    /// All of them, ascending.
    pub fn all(&self) -> Vec<usize> {
        let mut all = [self.positive.as_slice(), &self.negative].concat();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backbones::RunPosition;

    const CONFIG: SamplerConfig = SamplerConfig {
        per_image: 8,
        positive_fraction: 0.25,
    };

    fn step(number: u64) -> Context {
        Context::training(RunPosition::at(0, 1, 1), Draws::new(1, number))
    }

    fn matches(positive: usize, ignored: usize, background: usize) -> Vec<Match> {
        let mut all = vec![Match::Truth(0); positive];
        all.extend(vec![Match::Ignored; ignored]);
        all.extend(vec![Match::Background; background]);
        all
    }

    #[test]
    fn background_fills_what_is_missing_but_nothing_fills_background() {
        let count = |positive, background| {
            let matches = matches(positive, 3, background);
            let samples = CONFIG.sample(&matches, "test", 0, &ImageDraws::new(&step(2), 4));
            assert!(samples.positive.iter().all(|i| *i < positive));
            assert!(samples.negative.iter().all(|i| *i >= positive + 3));
            assert!(samples.all().is_sorted());
            (samples.positive.len(), samples.negative.len())
        };
        assert_eq!(count(10, 20), (2, 6));
        assert_eq!(count(1, 20), (1, 7));
        assert_eq!(count(10, 3), (2, 3));
        assert_eq!(count(0, 0), (0, 0));
    }

    #[test]
    fn draws_depend_on_step_and_image_and_are_without_replacement() {
        let matches = matches(40, 0, 400);
        let draws = |number| ImageDraws::new(&step(number), 4);
        let at = |number, image| CONFIG.sample(&matches, "test", image, &draws(number));
        assert_eq!(at(0, 0), at(0, 0));
        assert_ne!(at(0, 0), at(0, 1));
        assert_ne!(at(0, 0), at(1, 0));
        // The second image of the second micro-batch of four is the sixth of the step.
        let second = ImageDraws::new(&step(0).micro_batch(1, 2), 4);
        assert_eq!(at(0, 5), CONFIG.sample(&matches, "test", 1, &second));
        let all = at(0, 0).all();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
    }

    #[test]
    fn each_candidate_is_drawn_equally_often() {
        let matches = matches(0, 0, 16);
        let mut counts = [0usize; 16];
        for number in 0..4000 {
            let draws = ImageDraws::new(&step(number), 4);
            for index in CONFIG.sample(&matches, "test", 0, &draws).negative {
                counts[index] += 1;
            }
        }
        // Half of 4,000 each; the standard deviation is 32.
        assert!(
            counts.iter().all(|count| (1850..2150).contains(count)),
            "{counts:?}"
        );
    }

    struct Last;
    impl Choose for Last {
        fn choose(&self, _: &str, _: usize, candidates: Vec<usize>, count: usize) -> Vec<usize> {
            candidates.into_iter().rev().take(count).collect()
        }
    }

    #[test]
    fn indices_can_be_given() {
        let samples = CONFIG.sample(&matches(4, 1, 9), "test", 0, &Last);
        assert_eq!(samples.positive, [2, 3]);
        assert_eq!(samples.negative, [8, 9, 10, 11, 12, 13]);
    }
}
