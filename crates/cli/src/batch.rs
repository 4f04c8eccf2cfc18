//! A batch that is larger than the data: the keys to change, in a command to type.

use crate::failure::Failure;
use crate::output::shell_word;
use training::TrainingConfig;

/// Keys of a config that count images of a batch and must divide it, with their values.
pub(crate) type Divisors<'c> = [(&'c str, Option<usize>)];

/// The error of a training run. Where its batch is larger than the data, all keys that have to change are named: those of
/// `training`, and `more`; of a run that resumes, none may change.
pub(crate) fn explained(
    error: evaluation::Error,
    training: &TrainingConfig,
    more: &Divisors<'_>,
    resumes: bool,
) -> anyhow::Error {
    use data::Error::BatchTooLarge;
    use evaluation::Error::{Data, Training};
    let mut divisors = vec![
        ("training.batch_norm_images", training.batch_norm_images),
        ("training.micro_batch_images", training.micro_batch_images),
    ];
    divisors.extend_from_slice(more);
    match &error {
        Data(BatchTooLarge {
            batch_images,
            records,
        })
        | Training(training::Error::Data(BatchTooLarge {
            batch_images,
            records,
        })) => Failure::new(format!("`data.{}", error.to_string().trim_start_matches('`')))
            .hint(match resumes {
                true => format!(
                    "give at least {batch_images} records, those that the run was started with, or start a new run with another `--out`"
                ),
                false => cure(
                    *batch_images,
                    *records as usize,
                    &divisors,
                    std::env::args(),
                ),
            })
            .into(),
        _ => match error {
            Training(error) => error.into(),
            error => error.into(),
        },
    }
}

/// Batches of the largest power of two that the data fill, by the same command with more edits.
fn cure(
    batch_images: usize,
    records: usize,
    divisors: &Divisors<'_>,
    command: impl Iterator<Item = String>,
) -> String {
    let batch = 1usize << records.max(1).ilog2();
    let mut edits = vec![format!("data.batch_images={batch}")];
    for (key, images) in divisors {
        if let Some(images) = images.filter(|images| !batch.is_multiple_of(*images)) {
            let divisor = 1 << images.min(batch).ilog2();
            edits.push(format!("{key}={divisor}"));
        }
    }
    let mut words = vec!["passer".to_string()];
    words.extend(command.skip(1).map(|word| shell_word(&word)));
    for edit in &edits {
        words.push(format!("--set {edit}"));
    }
    format!(
        "give at least {batch_images} records, or take batches of {batch}: `{}`",
        words.join(" ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_resumes_keeps_its_batch() {
        let config = include_str!("../../../configs/pretrain/quickstart.toml");
        let config: training::Config<objectives::ObjectiveConfig> = toml::from_str(config).unwrap();
        let error = || {
            evaluation::Error::Data(data::Error::BatchTooLarge {
                batch_images: 16,
                records: 9,
            })
        };
        let report = |resumes| {
            let error = explained(error(), &config.training, &[], resumes);
            (error.to_string(), crate::failure::in_one_line(&error))
        };
        let (message, whole) = report(true);
        assert!(
            message.starts_with("`data.batch_images` ") && message.ends_with("got 16"),
            "{message}"
        );
        assert!(
            whole.contains("another `--out`") && !whole.contains("--set"),
            "{whole}"
        );
        let (_, whole) = report(false);
        assert!(whole.contains("--set data.batch_images=8"), "{whole}");
    }

    #[test]
    fn every_key_that_must_change_is_in_the_command() {
        let command = ["target/passer", "pretrain", "a b.toml", "--data", "shards"];
        let divisors = [
            ("training.batch_norm_images", Some(32)),
            ("training.micro_batch_images", None),
            ("objective.mixing.images", Some(4)),
        ];
        assert_eq!(
            cure(256, 12, &divisors, command.into_iter().map(String::from)),
            "give at least 256 records, or take batches of 8: `passer pretrain 'a b.toml' --data shards --set \
             data.batch_images=8 --set training.batch_norm_images=8`"
        );
    }
}
