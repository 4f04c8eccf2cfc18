//! What a reader of a run's numbers should know: a run that is not finished, data that were skipped, numbers that are none,
//! runs whose losses cannot be compared.

use super::directory::TrainingRun;
use super::words::grouped;
use data::{NOT_STATED, significant};
use std::collections::BTreeSet;

/// The share of time without data above which the loader holds the run up.
const SLOW_LOADER: f64 = 0.2;

/// What `run.json` says of a commit that the build did not know.
pub(super) const UNKNOWN: &str = "unknown";

/// Remarks on one run.
pub(super) fn of_run(run: &TrainingRun) -> Vec<String> {
    let mut remarks = run.faults.clone();
    if !run.finished {
        let of = run
            .steps()
            .map_or(String::new(), |steps| format!(" of {}", grouped(steps as f64)));
        let checkpoint = match run.checkpoint {
            Some(step) => format!("the newest checkpoint is of step {}", grouped(step as f64)),
            None => "there is no checkpoint".into(),
        };
        remarks.push(format!(
            "not finished: the log ends at step {}{of}, and {checkpoint}",
            grouped(run.lines.last().map_or(0.0, |line| line.step as f64))
        ));
    }
    remarks.extend(lengths(run));
    if run.unread_bytes > 0 {
        remarks.push(format!(
            "the last {} bytes of metrics.jsonl are no whole line and were not read",
            run.unread_bytes
        ));
    }
    let skipped = run.lines.last().and_then(|line| line.skipped_steps).unwrap_or(0);
    if skipped > 0 {
        remarks.push(format!(
            "{skipped} of {} steps were skipped because a gradient overflowed f16",
            grouped(run.step() as f64)
        ));
    }
    let not_finite: BTreeSet<&String> = run
        .lines
        .iter()
        .flat_map(|line| line.signals.iter().filter(|(_, value)| !value.is_finite()))
        .map(|(name, _)| name)
        .collect();
    for name in not_finite {
        let steps = run
            .lines
            .iter()
            .filter(|line| !line.signals.get(name).is_none_or(|value| value.is_finite()));
        let steps: Vec<usize> = steps.map(|line| line.step).collect();
        remarks.push(format!(
            "the signal {name} is not a finite number in {} of {} lines, first at step {}",
            steps.len(),
            run.lines.len(),
            grouped(steps.first().map_or(0.0, |step| *step as f64))
        ));
    }
    if let Some(wait) = run.data_wait().filter(|wait| *wait > SLOW_LOADER) {
        remarks.push(format!(
            "{} % of the time passed waiting for data: more data.workers, or a faster disk, would make the run faster",
            significant(wait * 100.0, 2)
        ));
    }
    remarks.extend(run.listing.lines());
    let not_stated = run
        .licenses
        .counts()
        .into_iter()
        .find(|(name, _)| *name == NOT_STATED);
    if let Some((_, photos)) = not_stated {
        remarks.push(format!(
            "{} images have no stated license",
            grouped(photos as f64)
        ));
    }
    remarks
}

/// The lengths that the run got when it was resumed.
fn lengths(run: &TrainingRun) -> Vec<String> {
    let lengths = run.facts.get("lengths").and_then(serde_json::Value::as_array);
    let in_words = |length: &serde_json::Value| {
        let count = |key: &str| Some(grouped(length.get(key)?.as_f64()?));
        let text = |key: &str| length.get(key)?.as_str();
        let jump = text("jump").map_or(String::new(), |jump| {
            format!(": a jump {}", jump.replace('`', ""))
        });
        Some(format!(
            "at step {} the run got {} steps in place of {} (before: {}){jump}",
            count("from_step")?,
            count("steps")?,
            count("steps_before")?,
            text("config_before")?
        ))
    };
    lengths.into_iter().flatten().filter_map(in_words).collect()
}

/// Remarks on runs side by side. What is not known of a run is no difference.
pub(super) fn of_all(runs: &[TrainingRun]) -> Vec<String> {
    let distinct = |of: &dyn Fn(&TrainingRun) -> Option<String>| {
        runs.iter().filter_map(of).collect::<BTreeSet<_>>().len() > 1
    };
    let of_fact = |key: &'static str| {
        move |run: &TrainingRun| {
            let known = run.fact(key).filter(|value| !["", UNKNOWN].contains(value));
            known.map(str::to_owned)
        }
    };
    let mut remarks = vec![];
    if distinct(&|run| Some(run.method().to_owned())) {
        remarks.push("the runs have different methods: their losses measure different things".to_owned());
    }
    if distinct(&of_fact("fingerprint")) {
        remarks.push("the runs were trained on different data (their fingerprints differ)".to_owned());
    }
    if distinct(&of_fact("commit")) {
        remarks.push("the runs were made by different commits of the program".to_owned());
    }
    if distinct(&of_fact("device")) {
        remarks.push("the runs ran on different devices: hours and rates cannot be compared".to_owned());
    }
    remarks
}
