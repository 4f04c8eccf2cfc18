//! `retrieval`: each query ranks a gallery by cosine similarity; records of its own class should rank first.
//! Reports the mean average precision over the whole ranking, and metric learning's recall at k.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::features::{Scaling, normalize_rows};
use crate::progress::Event;
use crate::result::Score;
use crate::solvers::products;
use crate::split::Split;
use crate::task::{Splits, Task};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "retrieval";
/// Maximum number of queries that one thread ranks at a time, and of cosines that it may hold (32 MiB).
const BLOCK_QUERIES: usize = 64;
const BLOCK_COSINES: usize = 8 << 20;
/// Blocks between two reports of progress.
const REPORT_BLOCKS: usize = 64;

/// Retrieval on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// Scaling of the features; rows are always L2-normalized afterwards.
    pub scaling: Scaling,
    /// The gallery: `"test"`, all test records except the query itself (leave one out, usual in metric
    /// learning), or `"train"`. The queries are the test records.
    pub gallery: Split,
    /// The k of recall at k: the share of queries with a record of their class among the first k. Usual: 1, 2, 4, 8, or 1, 5, 10.
    pub recall_at: Vec<usize>,
}

impl Protocol for Retrieval {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        match self.recall_at.contains(&0) {
            true => Err(format!(
                "`{table}.recall_at` must be at least 1, got {:?}",
                self.recall_at
            )),
            false => Ok(()),
        }
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::of(self.gallery))
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        self.needs().labels.task(splits)?;
        check_records(self, splits.of(self.gallery).records())
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(self.needs().labels)?;
        let classes = task.classes.count();
        Ok(Scored::new(retrieval(self, task, bench.progress)?, classes))
    }
}

/// Gives an error for recall at more records than a query ranks; `records` are in the gallery.
fn check_records(config: &Retrieval, records: usize) -> Result<(), Error> {
    let available = records - usize::from(config.gallery == Split::Test);
    match config.recall_at.iter().copied().max() {
        Some(most) if most > available => Err(Error::RecallAt {
            k: most,
            set: config.gallery.name(),
            records: available,
        }),
        _ => Ok(()),
    }
}

/// Mean average precision, and recall at each k.
fn retrieval(
    config: &Retrieval,
    task: Task<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let leave_one_out = config.gallery == Split::Test;
    let mut task = task.scaled(config.scaling);
    normalize_rows(task.test.to_mut());
    let (gallery, gallery_classes) = match config.gallery {
        Split::Train => {
            normalize_rows(task.train.to_mut());
            (&task.train, &task.train_classes)
        }
        Split::Test => (&task.test, &task.test_classes),
    };
    check_records(config, gallery.rows)?;
    let mut by_class = vec![vec![]; task.classes.count()];
    for (row, class) in gallery_classes.iter().enumerate() {
        by_class[*class as usize].push(row as u32);
    }

    let block = (BLOCK_COSINES / gallery.rows).clamp(1, BLOCK_QUERIES);
    let blocks = task.test.rows.div_ceil(block);
    let mut ranked: Vec<Option<Ranked>> = Vec::with_capacity(task.test.rows);
    let mut next = 0;
    while next < blocks {
        let end = blocks.min(next + REPORT_BLOCKS);
        let found: Vec<Vec<Option<Ranked>>> = (next..end)
            .into_par_iter()
            .map(|index| {
                let first = index * block;
                let last = task.test.rows.min(first + block);
                let cosines = products(&task.test, first..last, &gallery.values);
                cosines
                    .chunks_exact(gallery.rows)
                    .zip(first..last)
                    .map(|(cosines, query)| {
                        let class = task.test_classes[query] as usize;
                        let itself = leave_one_out.then_some(query);
                        rank(cosines, &by_class[class], itself)
                    })
                    .collect()
            })
            .collect();
        ranked.extend(found.into_iter().flatten());
        next = end;
        progress(Event {
            stage: PROTOCOL,
            done: ranked.len(),
            total: task.test.rows,
            unit: "queries",
        });
    }

    let known: Vec<Ranked> = ranked.into_iter().flatten().collect();
    let without_match = task.test.rows - known.len();
    if known.is_empty() {
        return Err(Error::NoMatch);
    }
    let count = known.len() as f64;
    let score = |metric, value, k: Option<usize>| Score {
        metric,
        value,
        headline: metric == "map",
        spread: None,
        details: [
            k.map(|k| ("k".to_string(), json!(k))),
            Some(("queries_without_match".to_string(), json!(without_match))),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    let precision = known.iter().map(|query| query.average_precision).sum::<f64>() / count;
    let mut scores = vec![score("map", precision, None)];
    scores.extend(config.recall_at.iter().map(|&k| {
        let found = known.iter().filter(|query| query.first_match < k).count();
        score("recall", found as f64 / count, Some(k))
    }));
    Ok(scores)
}

/// The result of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ranked {
    average_precision: f64,
    /// Records of other classes before the first of its own; ties rank the lower row first.
    first_match: usize,
}

/// Ranks a gallery by its cosines with a query. `own` are the rows of the query's class, ascending. `None` if
/// the gallery has no such row except the query itself.
///
/// Average precision is the mean, over the rows of the class, of the precision at their cosine; equal cosines
/// form one threshold, as in scikit-learn's `average_precision_score`. The gallery is never fully sorted:
/// each other row is counted at the first row of the class that ranks at or below it.
fn rank(cosines: &[f32], own: &[u32], itself: Option<usize>) -> Option<Ranked> {
    let is_itself = |row: usize| itself == Some(row);
    let mut matches: Vec<(f32, u32)> = own
        .iter()
        .filter(|row| !is_itself(**row as usize))
        .map(|row| (cosines[*row as usize], *row))
        .collect();
    matches.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let &(best, best_row) = matches.first()?;

    // others[i]: rows of other classes with a cosine below that of i matches, and at least the next match's.
    let mut others = vec![0usize; matches.len() + 1];
    let mut first_match = 0;
    let mut own = own.iter().peekable();
    for (row, &cosine) in cosines.iter().enumerate() {
        if own.next_if(|own| **own as usize == row).is_some() {
            continue;
        }
        first_match += usize::from(cosine > best || (cosine == best && row < best_row as usize));
        others[matches.partition_point(|(other, _)| *other > cosine)] += 1;
    }
    let (mut seen_matches, mut seen_others, mut sum) = (0, 0, 0.0);
    for threshold in matches.chunk_by(|a, b| a.0 == b.0) {
        seen_others += others[seen_matches..seen_matches + threshold.len()]
            .iter()
            .sum::<usize>();
        seen_matches += threshold.len();
        sum += threshold.len() as f64 * seen_matches as f64 / (seen_matches + seen_others) as f64;
    }
    Some(Ranked {
        average_precision: sum / matches.len() as f64,
        first_match,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::solvers::average_precision;
    use crate::testing::{Fixture, features};

    fn config(gallery: Split) -> Retrieval {
        Retrieval {
            scaling: Scaling::None,
            gallery,
            recall_at: vec![1, 2],
        }
    }

    #[test]
    fn a_ranking_by_hand() {
        // Own rows 1 and 4 of five, the query itself row 0: ranked 2, 1, 3, 4. Precision 1/2 and 2/4.
        let cosines = [1.0, 0.8, 0.9, 0.7, 0.6];
        let ranked = rank(&cosines, &[0, 1, 4], Some(0)).unwrap();
        assert_eq!(
            ranked,
            Ranked {
                average_precision: 0.5,
                first_match: 1
            }
        );
        // In another gallery row 0 is an ordinary match: precision 1, 2/3, 3/5.
        let ranked = rank(&cosines, &[0, 1, 4], None).unwrap();
        assert!((ranked.average_precision - (1.0 + 2.0 / 3.0 + 0.6) / 3.0).abs() < 1e-12);
        assert_eq!(ranked.first_match, 0);
        assert_eq!(rank(&cosines, &[3], Some(3)), None);
    }

    #[test]
    fn rankings_with_equal_cosines_are_those_of_the_curve() {
        for shift in 0..20usize {
            let cosines: Vec<f32> = (0..60)
                .map(|row| ((row * 7 + shift * 13) % 11) as f32 / 11.0)
                .collect();
            let own: Vec<u32> = (0..60).filter(|row| (row * 5 + shift as u32) % 7 < 2).collect();
            let truth: Vec<bool> = (0..60).map(|row| own.contains(&row)).collect();
            let scores: Vec<f64> = cosines.iter().map(|cosine| f64::from(*cosine)).collect();
            let reference = average_precision(&scores, &truth).unwrap();
            let ours = rank(&cosines, &own, None).unwrap().average_precision;
            assert!((ours - reference).abs() < 1e-12, "{ours} {reference}");
        }
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (scikit-learn 1.9.1).
    #[test]
    fn scores_are_those_of_scikit_learns_average_precision() {
        let fixture = Fixture(include_bytes!("../../fixtures/retrieval.safetensors"));
        let (train, test) = (fixture.features("train"), fixture.features("test"));
        for (name, gallery) in [("train", Split::Train), ("test", Split::Test)] {
            let task = Task::new(&train, &test, POOLED).unwrap();
            let config = Retrieval {
                recall_at: vec![1, 5, 10],
                ..config(gallery)
            };
            let scores = retrieval(&config, task, &mut |_| {}).unwrap();
            let reference = fixture.values(&format!("{name}_scores"));
            assert_eq!(scores.len(), reference.len());
            for (score, reference) in scores.iter().zip(reference) {
                assert!(
                    (score.value - reference).abs() < 1e-6,
                    "{name}: {score:?} {reference}"
                );
            }
        }
    }

    #[test]
    fn queries_without_a_match_are_left_out_and_counted() {
        // Directions 0, 0.1, 1.5: classes 0, 0, 1. The last one's class has no other record.
        let set = features(2, vec![1.0, 0.0, 1.0, 0.1, 0.0, 1.0], vec![0, 0, 1]);
        let task = Task::new(&set, &set, POOLED).unwrap();
        let mut events = vec![];
        let mut progress = |event: Event<'_>| events.push((event.done, event.total));
        let scores = retrieval(&config(Split::Test), task, &mut progress).unwrap();
        assert_eq!(events, [(3, 3)]);
        let read: Vec<_> = scores
            .iter()
            .map(|score| (score.metric, score.value, score.headline))
            .collect();
        assert_eq!(
            read,
            [("map", 1.0, true), ("recall", 1.0, false), ("recall", 1.0, false)]
        );
        assert_eq!(scores[2].details["k"], 2);
        assert_eq!(scores[0].details["queries_without_match"], 1);

        let single = features(1, vec![1.0, 2.0, 3.0], vec![0, 1, 2]);
        let task = Task::new(&single, &single, POOLED).unwrap();
        assert_eq!(
            retrieval(&config(Split::Test), task, &mut |_| {})
                .unwrap_err()
                .to_string(),
            "retrieval: no test record has another one of its class, so there is nothing to find"
        );
    }

    #[test]
    fn a_k_larger_than_the_gallery_is_an_error_that_names_both() {
        let set = features(1, vec![1.0, 2.0, 3.0], vec![0, 1, 1]);
        let task = Task::new(&set, &set, POOLED).unwrap();
        let config = Retrieval {
            recall_at: vec![1, 3],
            ..config(Split::Test)
        };
        assert_eq!(
            retrieval(&config, task, &mut |_| {}).unwrap_err().to_string(),
            "retrieval: `recall_at` must be at most the 2 records of the test set that a query ranks, got 3"
        );
        assert!(
            Retrieval {
                recall_at: vec![0],
                ..config
            }
            .validate("protocols.0.x")
            .unwrap_err()
            .contains("recall_at")
        );
    }
}
