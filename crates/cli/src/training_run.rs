//! What verbs that train have in common: devices and ranks, how a run executes, and how it ends.

use crate::failure::{Failure, Interrupted};
use crate::launch::DevicesArguments;
use crate::output::counted;
use crate::progress::duration;
use crate::ranks::{RankArguments, Ranks};
use crate::training_progress::skipped;
use crate::{card, interrupt, provenance};
use burn::tensor::Device;
use serde_json::{Map, Value};
use std::path::Path;
use training::{Outcome, RunOptions, Summary};

/// Does the work of a verb: in this process, as one of the ranks that a launcher started, or in this program again on each
/// of several devices.
pub(crate) fn on_devices(
    devices: &DevicesArguments,
    ranks: &RankArguments,
    work: impl FnOnce(&Ranks) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(ended) = devices.launched() {
        return ended;
    }
    let ranks = Ranks::join(ranks)?;
    let result = work(&ranks);
    ranks.leave(result)
}

/// The flags of a run that continues.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct ResumeArguments {
    /// Resume from the newest checkpoint in --out
    #[arg(long)]
    pub(crate) resume: bool,
    /// With --resume and another `training.epochs` or `training.steps`: continue also where a run of that length would have had other
    /// rates from its start, as under a cosine; the learning rate jumps
    #[arg(long, requires = "resume")]
    pub(crate) allow_jump: bool,
}

impl ResumeArguments {
    /// A new run.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// A run that continues with its own length, if it has begun.
    pub(crate) fn if_begun(begun: bool) -> Self {
        Self {
            resume: begun,
            allow_jump: false,
        }
    }
}

/// How a run of a method executes; `facts` go to `run.json` beside those about the program.
pub(crate) fn options(
    (out, resume): (&Path, ResumeArguments),
    method: &str,
    facts: Map<String, Value>,
    device: &Device,
    ranks: &Ranks,
) -> anyhow::Result<RunOptions> {
    let mut provenance = provenance::facts(device);
    provenance.extend(facts);
    Ok(RunOptions {
        out: out.to_path_buf(),
        resume: resume.resume,
        allow_jump: resume.allow_jump,
        keep_failed_step: false,
        replicas: ranks.replicas(),
        stop: interrupt::flag()?,
        method: method.into(),
        provenance,
        gauge: card::gauge(device),
        device: device.clone(),
    })
}

/// Says how a run ended; rank 0 reports one that finished.
pub(crate) fn end(
    ranks: &Ranks,
    summary: &Summary,
    report: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if ranks.is_first() {
        report_bad_records(&summary.bad_records);
    }
    match (summary.outcome, ranks.is_first()) {
        (Outcome::Interrupted, true) => {
            if let Some(alarm) = &summary.alarm {
                let message = format!(
                    "the alarm `{}` ended the run at step {} of {}: {}",
                    alarm.alarm.name(),
                    summary.step,
                    summary.steps,
                    alarm.meaning
                );
                return Err(Failure::new(message)
                    .hint("start again with the advice above, or repeat the command with `--resume` to continue all the same")
                    .into());
            }
            eprintln!(
                "interrupted at step {} of {}; repeat the command with `--resume` to continue",
                summary.step, summary.steps
            );
            Err(Interrupted.into())
        }
        (Outcome::Interrupted, false) => Err(Interrupted.into()),
        (Outcome::Finished, true) => report(),
        (Outcome::Finished, false) => Ok(()),
    }
}

/// Prints the records that were skipped.
fn report_bad_records(bad: &data::BadRecords) {
    if bad.count > 0 {
        eprintln!(
            "warning: {} could not be decoded, replaced by the next good one:",
            counted(bad.count, "record")
        );
        for record in &bad.first {
            eprintln!("  {}: {}", record.key, record.reason);
        }
    }
}

/// Says that a smoke test passed.
pub(crate) fn smoke_passed(summary: &Summary, batch_images: usize) {
    println!(
        "smoke test passed: {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(batch_images, "synthetic image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
}
