//! `passer pretrain`: a config and data in, a run directory out.

use crate::failure::{Failure, check_apart};
use crate::launch::DevicesArguments;
use crate::on_event::{EventArguments, EventCommand};
use crate::output::{counted, shell_word};
use crate::progress::duration;
use crate::ranks::{RankArguments, Ranks};
use crate::training_progress::{TrainingProgress, skipped};
use crate::training_run::ResumeArguments;
use crate::{batch, configs, devices, machine, smoke, training_run};
use data::significant;
use objectives::ObjectiveConfig;
use serde_json::Map;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{Config, Summary};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The experiment, a TOML file as in configs/pretrain/
    config: PathBuf,
    /// Photographs: a directory of shards, a brace pattern, an image folder, or a data-set description
    #[arg(long, value_name = "DATA", required_unless_present = "smoke")]
    data: Option<String>,
    /// The run directory to make (or, with --resume, to continue)
    #[arg(long, value_name = "RUN", required_unless_present = "smoke")]
    out: Option<PathBuf>,
    #[command(flatten)]
    devices: DevicesArguments,
    #[command(flatten)]
    ranks: RankArguments,
    /// Start from this encoder in place of initial weights: a run directory, an encoder file, or weights of another
    /// program (`[start]` in the config has more settings)
    #[arg(long, value_name = "ENCODER")]
    start: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArguments,
    /// Test the config on this machine: two steps of four synthetic images (in f16, twelve steps)
    #[arg(long, conflicts_with_all = ["data", "resume", "on_event"])]
    smoke: bool,
    /// Change a key of the config, as in `--set training.epochs=1`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    events: EventArguments,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    training_run::on_devices(&arguments.devices, &arguments.ranks, |ranks| {
        on_ranks(&arguments, ranks)
    })
}

/// What every rank reads and opens for itself.
struct Inputs {
    config: Config<ObjectiveConfig>,
    device: burn::tensor::Device,
    /// `None` in a smoke test.
    dataset: Option<Arc<data::Dataset>>,
}

fn inputs(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<Inputs> {
    // Before the data are opened, which can take minutes, and before a smoke test shrinks the config.
    let memory = machine::host_memory_mib().map_or(u64::MAX, |mib| mib << 20);
    let check = |config: &Config<ObjectiveConfig>| {
        config.validate()?;
        // A config too large for this machine fails in the allocator, which names no key.
        objectives::parameter_budget::check(config, Some(memory))
    };
    let config = configs::read_for_run(
        &arguments.config,
        &arguments.sets,
        configs::Kind::Pretraining,
        arguments.resume.resume,
        arguments.start.as_deref(),
        configs::Checks {
            values: check,
            // A smoke test shrinks what would be too long for its steps.
            length: Config::validate_length,
            epochs: |config: &Config<ObjectiveConfig>| (config.training.epochs, config.epochs_needed()),
        },
    )?;
    let device = arguments.devices.one().open_on(ranks)?;
    let data = arguments.data.as_ref().filter(|_| !arguments.smoke);
    if let (Some(data), Some(out)) = (data, &arguments.out) {
        check_apart(data, out)?;
    }
    let dataset = data.map(|data| data::Dataset::open(data)).transpose()?;
    Ok(Inputs {
        config,
        device,
        dataset: dataset.map(Arc::new),
    })
}

fn on_ranks(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<()> {
    let Inputs {
        mut config,
        device,
        dataset,
    } = ranks.agree(inputs(arguments, ranks))?;
    ranks.check_devices(devices::address(&device))?;
    if arguments.smoke {
        let dataset = smoke::shrink(&mut config);
        let scratch = smoke::Scratch::new();
        let out = arguments.out.as_deref().unwrap_or(scratch.path());
        let events = EventCommand::none();
        let summary = pretrain(
            &config,
            dataset,
            (out, ResumeArguments::none()),
            events,
            &device,
            ranks,
        )?;
        if !ranks.is_first() {
            return Ok(());
        }
        if summary.skipped_steps >= summary.step && summary.step > 0 {
            // No step was trained, so nothing was tested.
            let message = format!(
                "smoke test failed: no step was applied: gradients overflowed f16 in each of {}",
                counted(summary.step, "step")
            );
            return Err(Failure::new(message)
                .hint("use `training.precision = \"bf16\"` where the device has it, or `\"f32\"`")
                .into());
        }
        training_run::smoke_passed(&summary, config.data.batch_images);
        return Ok(());
    }
    // clap requires both unless --smoke.
    let (Some(dataset), Some(out)) = (dataset, &arguments.out) else {
        return Err(Failure::new("`--data` and `--out` are needed").into());
    };
    let events = match ranks.is_first() {
        true => arguments.events.of_run(out),
        false => EventCommand::none(),
    };
    let summary = pretrain(&config, dataset, (out, arguments.resume), events, &device, ranks)?;
    training_run::end(ranks, &summary, || {
        report(&summary, &config, out, &device);
        Ok(())
    })
}

/// Runs a config, shows its progress, and runs the command of `--on-event`.
pub(crate) fn pretrain(
    config: &Config<ObjectiveConfig>,
    dataset: Arc<data::Dataset>,
    (out, resume): (&Path, ResumeArguments),
    events: EventCommand,
    device: &burn::tensor::Device,
    ranks: &Ranks,
) -> anyhow::Result<Summary> {
    let shows = ranks.is_first();
    if shows {
        eprintln!(
            "pretraining {} with {} on {}, {}{}",
            config.backbone.name(),
            config.objective.name(),
            counted(dataset.len(), "record"),
            devices::describe(device),
            ranks.of_each(config.data.batch_images)
        );
    }
    let method = config.objective.name();
    let mut options = training_run::options((out, resume), method, Map::new(), device, ranks)?;
    options.keep_failed_step = true;
    let mut shown = TrainingProgress::new(out, events);
    let summary = objectives::pretrain(config, dataset, &options, &mut |event| {
        if shows {
            shown.show(&event);
        }
    });
    shown.end(summary.as_ref());
    // Scripts pass `--resume` to new runs too.
    let resumes = resume.resume && out.join("config.toml").exists();
    summary.map_err(|error| batch::explained(error.into(), &config.training, &[], resumes))
}

/// Prints how a finished run was and the next command.
fn report(summary: &Summary, config: &Config<ObjectiveConfig>, out: &Path, device: &burn::tensor::Device) {
    let mut memory =
        machine::peak_memory_mib().map_or(String::new(), |mib| format!(", peak memory {mib} MiB"));
    // A GPU's allocator keeps its memory, so the amount it holds now is the peak.
    if let Some(usage) = device.memory_pool_usage() {
        memory += &format!(", {} MiB on the device", usage.bytes_reserved >> 20);
    }
    // Each line of the log, and so that of the last step, has a loss.
    let done = match summary.last_loss {
        Some(_) => "finished",
        None => "nothing was left to do: the run is finished, with",
    };
    eprintln!(
        "{done} {} of {} in {}{}{}{memory}",
        counted(summary.steps, "step"),
        counted(config.data.batch_images, "image"),
        duration(summary.seconds),
        summary.last_loss.map_or(String::new(), |loss| format!(
            ", last loss {}",
            significant(loss.into(), 5)
        )),
        skipped(summary.skipped_steps),
    );
    println!("{}", out.join("encoder.safetensors").display());
    let px = training::dataset_views(&config.views)
        .into_iter()
        .map(|(width, height)| width.max(height))
        .max();
    eprintln!(
        "next: passer evaluate run {} --encoder {} --train TRAIN --test TEST --out {}",
        evaluation_config(px.unwrap_or(224)),
        shell_word(&out.display().to_string()),
        shell_word(&out.join("evaluation").display().to_string())
    );
}

/// The evaluation config for an encoder whose largest views were `px` wide, with the keys to set in it: an
/// encoder trained on small pictures has worse scores on pictures of 224 px, and no message would explain it.
fn evaluation_config(px: u32) -> String {
    match px {
        32 => "configs/evaluate/small-images.toml".into(),
        ..=64 => format!(
            "configs/evaluate/small-images.toml --set test_transforms.0.resize_exact.width_px={px} --set test_transforms.0.resize_exact.height_px={px}"
        ),
        _ => "configs/evaluate/knn.toml".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_comes_next_can_be_pasted() {
        assert_eq!(skipped(0), "");
        assert_eq!(skipped(1), ", 1 step skipped (loss scale)");
        assert_eq!(shell_word("runs/my-run_1"), "runs/my-run_1");
        assert_eq!(shell_word("runs/my run"), "'runs/my run'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(evaluation_config(224), "configs/evaluate/knn.toml");
        assert_eq!(evaluation_config(32), "configs/evaluate/small-images.toml");
        assert!(evaluation_config(28).contains("resize_exact.width_px=28"));
    }
}
