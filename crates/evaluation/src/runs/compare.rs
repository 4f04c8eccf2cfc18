//! What differs between runs: keys of their configs, and which of them are one experiment over several seeds.

use super::directory::TrainingRun;
use super::series::{Sample, merged, of_run};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The key of a config that may differ within an experiment.
const SEED: &str = "seed";

/// One curve of every chart: a run, or the mean of runs whose configs differ in the seed alone.
pub(super) struct Curve<'a> {
    /// The name of the run, or a name for all of them.
    pub(super) name: String,
    pub(super) runs: Vec<&'a TrainingRun>,
    pub(super) series: BTreeMap<String, Vec<Sample>>,
}

/// A number at the ends of several runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LastSpread {
    pub(super) mean: f64,
    /// Sample standard deviation (n - 1).
    pub(super) standard_deviation: f64,
    pub(super) values: Vec<f64>,
}

/// The runs as curves, in the order in which they were named.
pub(super) fn curves_of(runs: &[TrainingRun]) -> Vec<Curve<'_>> {
    let mut groups: Vec<Vec<&TrainingRun>> = vec![];
    for run in runs {
        match groups
            .iter_mut()
            .find(|group| differ_in_the_seed_alone(group[0], run))
        {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups.into_iter().map(curve).collect()
}

fn curve(runs: Vec<&TrainingRun>) -> Curve<'_> {
    let mut each: Vec<_> = runs.iter().map(|run| of_run(run)).collect();
    if each.len() == 1 {
        return Curve {
            name: runs[0].name.clone(),
            series: each.swap_remove(0),
            runs,
        };
    }
    let names: BTreeSet<&String> = each.iter().flat_map(BTreeMap::keys).collect();
    let series = names.into_iter().map(|name| {
        let of_name: Vec<&[Sample]> = each
            .iter()
            .filter_map(|run| Some(run.get(name)?.as_slice()))
            .collect();
        (name.clone(), merged(&of_name))
    });
    let series = series.collect();
    let name = format!("{} ({} seeds)", common_beginning(&runs), runs.len());
    Curve { name, runs, series }
}

/// What the names of all runs begin with, or all names.
fn common_beginning(runs: &[&TrainingRun]) -> String {
    let first: Vec<char> = runs[0].name.chars().collect();
    let shared = runs.iter().map(|run| {
        let same = run.name.chars().zip(&first).take_while(|(a, b)| a == *b);
        same.count()
    });
    let shared = shared.min().unwrap_or(0);
    let text: String = first[..shared].iter().collect();
    let text = text
        .trim_end_matches(|letter: char| !letter.is_alphanumeric())
        .trim_end_matches("seed")
        .trim_end_matches(|letter: char| !letter.is_alphanumeric());
    match text {
        "" => runs
            .iter()
            .map(|run| run.name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        text => text.to_owned(),
    }
}

/// Whether two runs are one experiment: the same config but for another seed, on the same data.
fn differ_in_the_seed_alone(a: &TrainingRun, b: &TrainingRun) -> bool {
    let others = |run: &TrainingRun| {
        let mut config = run.config.clone();
        config.remove(SEED);
        config
    };
    a.seed() != b.seed() && a.fact("fingerprint") == b.fact("fingerprint") && others(a) == others(b)
}

impl Curve<'_> {
    /// The last numbers of all runs, by name; those that some run lacks are left out.
    pub(super) fn last_spreads(&self) -> BTreeMap<String, LastSpread> {
        let each: Vec<BTreeMap<String, f64>> = self.runs.iter().map(|run| run.last()).collect();
        let names = each.first().into_iter().flat_map(BTreeMap::keys);
        let spread = |name: &String| {
            let values = each.iter().map(|last| last.get(name).copied());
            let values = values.collect::<Option<Vec<f64>>>()?;
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let spread = LastSpread {
                mean,
                standard_deviation: (squares / (count - 1.0).max(1.0)).sqrt(),
                values,
            };
            Some((name.clone(), spread))
        };
        names.filter_map(spread).collect()
    }
}

/// The keys of the configs that are not the same in all runs, each with its values in the order of the runs; `None` where a
/// run has no such key.
pub(super) fn differences(runs: &[TrainingRun]) -> Vec<(&str, Vec<Option<&str>>)> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.config.keys()).collect();
    let values = |key: &'_ String| -> Vec<Option<&str>> {
        let each = runs.iter().map(|run| run.config.get(key).map(String::as_str));
        each.collect()
    };
    keys.into_iter()
        .map(|key| (key.as_str(), values(key)))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}
