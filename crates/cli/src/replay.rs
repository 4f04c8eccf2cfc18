//! `passer replay`: a run directory in; some of its steps again, compared with its log, and the place and the records that give no
//! finite values, out.

use crate::configs::{self, Kind};
use crate::devices::DeviceArgument;
use crate::failure::{Failure, Interrupted};
use crate::output::counted;
use crate::progress::ProgressBar;
use crate::ranks::Ranks;
use crate::training_run::{self, ResumeArguments};
use data::significant;
use data::terminal::escape;
use objectives::ObjectiveConfig;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{Config, Culprits, Event, Finding, Place, Replayed, StepsToReplay};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The directory of a run of `passer pretrain`
    run: PathBuf,
    /// The run's photographs; without it those that its command names
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Run the steps from the nearest checkpoint to this one, counted from 1; without it those to the step that failed
    #[arg(long, value_name = "S", conflicts_with = "first")]
    step: Option<usize>,
    /// Run the first N steps, from the run's start
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    #[command(flatten)]
    device: DeviceArgument,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The largest difference of a line's loss, relative to the run's, that rounding explains on another device or with another
/// number of threads.
const TOLERANCE: f64 = 0.01;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let config_path = run.join("config.toml");
    if !config_path.is_file() {
        let message = format!(
            "`{}` is not a run directory: it holds no config.toml",
            run.display()
        );
        return Err(Failure::new(message)
            .hint("give the folder that `passer pretrain --out` made")
            .into());
    }
    let config: Config<ObjectiveConfig> =
        configs::read(&config_path, &[], Kind::Pretraining, Config::validate)?;
    let facts = facts(run);
    let data = arguments
        .data
        .clone()
        .or_else(|| data_of(&facts))
        .ok_or_else(|| {
            Failure::new(format!(
                "`{}` does not say what data it learned from",
                run.display()
            ))
            .hint("name them with `--data`")
        })?;
    let device = arguments.device.open()?;
    let dataset = Arc::new(data::Dataset::open(&data)?);
    let which = match (arguments.step, arguments.first) {
        (Some(step), _) => StepsToReplay::UpTo(step),
        (None, Some(steps)) => StepsToReplay::First(steps),
        (None, None) => StepsToReplay::Failed,
    };
    // As a run that continues: settings that cannot take effect only give warnings.
    let resume = ResumeArguments::if_begun(true);
    let method = config.objective.name();
    let options = training_run::options((run, resume), method, Map::new(), &device, &Ranks::single())?;
    let exact = is_exact(&facts, &options.provenance);
    let ranks = facts.get("ranks").and_then(Value::as_u64).unwrap_or(1);
    if ranks > 1 {
        tracing::warn!(
            "the run began on {ranks} ranks, which draw for themselves: the replay has other draws, and its losses need not be the run's"
        );
    }
    let mut bar = None;
    let replayed = objectives::replay(&config, dataset, &options, which, &mut |event| match event {
        Event::Start { step, steps, .. } => {
            eprintln!("steps {} to {steps} of `{}`", step + 1, run.display());
            bar = Some(ProgressBar::new("step", step as u64, steps as u64));
        }
        Event::Step { step } => {
            if let Some(bar) = &mut bar {
                bar.at(step as u64);
            }
        }
        _ => {}
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let replayed = replayed?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&replayed)?);
    } else {
        println!("{}", in_words(&replayed, exact));
        for line in replayed.finding.iter().flat_map(finding) {
            println!("{line}");
        }
    }
    match (replayed.interrupted, ranks == 1 && differs(&replayed, exact)) {
        (true, _) => Err(Interrupted.into()),
        (false, true) => Err(Failure::new("the steps of the replay are not those of the run")
            .hint("the run's commit, device and number of threads are in its run.json")
            .into()),
        (false, false) => Ok(()),
    }
}

/// `run.json`; empty where it cannot be read.
fn facts(run: &Path) -> Map<String, Value> {
    let text = std::fs::read(run.join("run.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// What the run's command names as its data.
fn data_of(facts: &Map<String, Value>) -> Option<String> {
    let words = facts.get("command")?.as_array()?;
    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
    let data = words.iter().enumerate().find_map(|(place, word)| match *word {
        "--data" => words.get(place + 1).copied(),
        word => word.strip_prefix("--data="),
    });
    data.map(str::to_owned)
}

/// Whether the replay must have the run's bits: the same program on the CPU with as many threads.
fn is_exact(run: &Map<String, Value>, now: &Map<String, Value>) -> bool {
    let same = |key: &str| run.get(key).is_some() && run.get(key) == now.get(key);
    let on_the_cpu = now.get("device").and_then(Value::as_str) == Some("flex (CPU)");
    on_the_cpu
        && ["device", "cpu_threads", "commit", "passer"]
            .into_iter()
            .all(same)
}

fn differs(replayed: &Replayed, exact: bool) -> bool {
    match exact {
        true => !replayed.differences.is_empty(),
        false => replayed.largest_loss_difference > TOLERANCE,
    }
}

/// The steps and the comparison in one line.
fn in_words(replayed: &Replayed, exact: bool) -> String {
    let steps = format!(
        "ran {} again, {} to {}",
        counted(replayed.to - replayed.from, "step"),
        replayed.from + 1,
        replayed.to
    );
    let steps = match replayed.to == replayed.from {
        true => "ran no whole step again".to_owned(),
        false => steps,
    };
    let lines = counted(replayed.lines, "line");
    let steps = match replayed.not_logged {
        missing if missing > 0 && replayed.lines > 0 => {
            format!("{steps}; {} of them missing in the log", counted(missing, "line"))
        }
        _ => steps,
    };
    match (replayed.lines, replayed.differences.first()) {
        (0, _) => format!("{steps}; the log has no line of them"),
        (_, None) => format!("{steps}; {lines} of the log compared, equal to the bit"),
        (_, Some(first)) => {
            let value = |value: Option<f64>| value.map_or("not finite".into(), |value| format!("{value}"));
            let bound = match exact {
                true => "this program, device and number of threads should give the same bits".to_owned(),
                false => format!(
                    "another program, device or number of threads may differ by {}",
                    significant(TOLERANCE, 2)
                ),
            };
            format!(
                "{steps}; of {lines} of the log {} differ, the first at step {}: `{}` was {} and is {}; losses differ by {} at most \
                 (relative), and {bound}",
                replayed.differences.len(),
                first.step,
                first.key,
                value(first.logged),
                value(first.replayed),
                significant(replayed.largest_loss_difference, 2)
            )
        }
    }
}

/// What is not finite, and which records lead there, a line each.
fn finding(finding: &Finding) -> Vec<String> {
    let step = finding.step;
    let place = match &finding.place {
        Place::Weights { names } => {
            let more = match names.len() {
                0 | 1 => " is".to_owned(),
                count => format!(" and {} besides are", counted(count - 1, "tensor")),
            };
            let first = names.first().map_or("", String::as_str);
            format!(
                "step {step}: `{first}`{more} not finite before the step: the step before it, or a checkpoint, made it so"
            )
        }
        Place::Images => format!("step {step}: normalized pixels are not finite"),
        Place::Output { layer, rows, of } => {
            format!(
                "step {step}: `{layer}` is the first layer whose output is not finite, in {rows} of its {of} rows"
            )
        }
        Place::Loss => format!("step {step}: the loss is not finite, behind layers whose outputs are"),
        Place::Gradient { layer, others } => {
            let more = match others {
                0 => String::new(),
                others => format!(", before {} of other layers", counted(*others, "parameter")),
            };
            format!(
                "step {step}: `{layer}` is the first layer in the backward pass whose gradient is not finite{more}"
            )
        }
        Place::Sum => format!("step {step}: the sum of the micro-batches' gradients is not finite"),
    };
    let listed = |records: &[training::Record]| -> Vec<String> {
        let line =
            |record: &training::Record| format!("  {} (position {})", escape(&record.key), record.position);
        records.iter().map(line).collect()
    };
    let mut lines = vec![place];
    match (&finding.records, &finding.place) {
        (Culprits::Any, Place::Weights { .. } | Place::Sum) => {}
        (Culprits::Any, _) => {
            lines.push("no record leads there: other images in their places give the same; the weights do, or the rate".into());
        }
        (Culprits::Each(records), _) => {
            lines.push("records of the batch that lead there, each alone:".into());
            lines.extend(listed(records));
        }
        (Culprits::Together(records), _) => {
            lines.push("records of the batch that lead there, only together:".into());
            lines.extend(listed(records));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_data_of_a_command_are_found() {
        let of = |words: Value| data_of(json!({ "command": words }).as_object().unwrap());
        let words = json!(["passer", "pretrain", "c.toml", "--data", "photos", "--out", "run"]);
        assert_eq!(of(words).as_deref(), Some("photos"));
        assert_eq!(of(json!(["passer", "--data=a b"])).as_deref(), Some("a b"));
        assert_eq!(of(json!(["passer", "--data"])), None);
        assert_eq!(data_of(&Map::new()), None);
    }

    #[test]
    fn bits_must_agree_on_the_same_cpu_and_losses_elsewhere() {
        let facts = |threads: usize| {
            let facts = json!({"device": "flex (CPU)", "cpu_threads": threads, "commit": "a", "passer": "1"});
            facts.as_object().unwrap().clone()
        };
        assert!(is_exact(&facts(2), &facts(2)));
        assert!(!is_exact(&facts(2), &facts(4)));
        assert!(!is_exact(&Map::new(), &facts(2)));
        let mut replayed = Replayed {
            from: 4,
            to: 8,
            lines: 2,
            not_logged: 0,
            differences: vec![],
            largest_loss_difference: 0.0,
            finding: None,
            interrupted: false,
        };
        assert_eq!(
            in_words(&replayed, true),
            "ran 4 steps again, 5 to 8; 2 lines of the log compared, equal to the bit"
        );
        replayed.not_logged = 1;
        assert_eq!(
            in_words(&replayed, true),
            "ran 4 steps again, 5 to 8; 1 line of them missing in the log; 2 lines of the log compared, equal to the bit"
        );
        replayed.not_logged = 0;
        replayed.differences.push(training::Difference {
            step: 6,
            key: "loss".into(),
            logged: Some(2.0),
            replayed: Some(2.001),
        });
        replayed.largest_loss_difference = 0.0005;
        assert!(differs(&replayed, true) && !differs(&replayed, false));
        assert!(in_words(&replayed, false).contains("the first at step 6: `loss` was 2 and is 2.001"));
        replayed.largest_loss_difference = f64::INFINITY;
        assert!(differs(&replayed, false));
    }

    #[test]
    fn a_finding_names_the_layer_and_the_records() {
        let lines = finding(&Finding {
            step: 7,
            place: Place::Output {
                layer: "backbone.bn1".into(),
                rows: 16,
                of: 16,
            },
            records: Culprits::Each(vec![training::Record {
                position: 3,
                key: "white\u{1b}".into(),
            }]),
        });
        assert_eq!(
            lines,
            [
                "step 7: `backbone.bn1` is the first layer whose output is not finite, in 16 of its 16 rows",
                "records of the batch that lead there, each alone:",
                "  white\\u{1b} (position 3)",
            ]
        );
    }
}
