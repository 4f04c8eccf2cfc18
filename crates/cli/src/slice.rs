//! `--slice`: one part of a job that many machines share, typed or read from the scheduler's environment.

use crate::failure::Failure;
use evaluation::Slice;
use std::str::FromStr;

/// What `--slice` says: `2/4`, `auto`, or `auto/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SliceArgument {
    Typed(Slice),
    /// The scheduler's, and the number of slices if it is typed.
    Auto(Option<usize>),
}

impl FromStr for SliceArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected I/N such as 2/4, auto, or auto/N".to_string();
        let number = |text: &str| text.parse::<usize>().map_err(|_| expected());
        match text.split_once('/') {
            None if text == "auto" => Ok(Self::Auto(None)),
            None => Err(expected()),
            Some(("auto", count)) => Ok(Self::Auto(Some(number(count)?))),
            Some((slice, count)) => Slice::new(number(slice)?, number(count)?).map(Self::Typed),
        }
    }
}

impl SliceArgument {
    /// The slice.
    ///
    /// # Errors
    /// `auto` without a scheduler's variables, or with ones that do not name a slice.
    pub(crate) fn slice(self) -> anyhow::Result<Slice> {
        match self {
            Self::Typed(slice) => Ok(slice),
            Self::Auto(count) => Ok(of_scheduler(count, |name| std::env::var(name).ok())?),
        }
    }
}

const SLURM_TASK: &str = "SLURM_ARRAY_TASK_ID";
const SLURM_COUNT: &str = "SLURM_ARRAY_TASK_COUNT";
const SLURM_FIRST: &str = "SLURM_ARRAY_TASK_MIN";
const SLURM_STEP: &str = "SLURM_ARRAY_TASK_STEP";
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";

/// The slice of this task of a Slurm array, or of this pod of Kubernetes' indexed job.
fn of_scheduler(typed: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> Result<Slice, Failure> {
    let number = |name: &str, text: String| {
        text.trim().parse::<usize>().map_err(|_| {
            Failure::new(format!(
                "`--slice auto`: `{name}` must be a whole number, got `{text}`"
            ))
        })
    };
    let read = |name: &str| variable(name).map(|text| number(name, text)).transpose();
    if let Some(task) = read(SLURM_TASK)? {
        let missing = |name: &str| {
            Failure::new(format!(
                "`--slice auto`: `{SLURM_TASK}` is set, and `{name}` is not"
            ))
            .hint("type the slice: `--slice 2/4`")
        };
        let count = read(SLURM_COUNT)?.ok_or_else(|| missing(SLURM_COUNT))?;
        let first = read(SLURM_FIRST)?.ok_or_else(|| missing(SLURM_FIRST))?;
        let step = read(SLURM_STEP)?.unwrap_or(1).max(1);
        if let Some(typed) = typed.filter(|typed| *typed != count) {
            return Err(Failure::new(format!(
                "`--slice auto/{typed}`: this Slurm array has {count} tasks (`{SLURM_COUNT}`)"
            ))
            .hint("submit an array of as many tasks as slices, or repeat single slices by their number: `--slice 3/4`"));
        }
        let place = task.checked_sub(first).filter(|place| place % step == 0);
        return match place.map(|place| place / step).filter(|place| *place < count) {
            Some(place) => Slice::new(place + 1, count).map_err(Failure::new),
            // A list such as `--array=1,3,8`.
            None => Err(Failure::new(format!(
                "`--slice auto`: task {task} is none of the {count} tasks from {first} on in steps of {step}"
            ))
            .hint("submit the array as a range, `sbatch --array=0-3`, or type the slice: `--slice 2/4`")),
        };
    }
    if let Some(index) = read(KUBERNETES)? {
        let Some(count) = typed else {
            return Err(Failure::new(format!(
                "`--slice auto`: `{KUBERNETES}` is {index}, and Kubernetes does not say of how many"
            ))
            .hint("add the job's `completions`: `--slice auto/N`"));
        };
        return Slice::new(index.saturating_add(1), count).map_err(|_| {
            Failure::new(format!(
                "`--slice auto/{count}`: `{KUBERNETES}` must be in 0..{count}, got {index}"
            ))
            .hint("give the job's `completions` as the number of slices")
        });
    }
    Err(Failure::new(format!(
        "`--slice auto`: neither `{SLURM_TASK}` (a Slurm array) nor `{KUBERNETES}` (Kubernetes' indexed job) is set"
    ))
    .hint("type the slice: `--slice 1/4`, `--slice 2/4` and so on"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn auto(typed: Option<usize>, set: &[(&str, &str)]) -> Result<(usize, usize), String> {
        let variable = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        of_scheduler(typed, variable)
            .map(|slice| (slice.number(), slice.count()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_slice_is_typed_or_left_to_the_scheduler() {
        let typed = Slice::new(2, 4).map(SliceArgument::Typed);
        assert_eq!("2/4".parse(), typed);
        assert_eq!("auto".parse(), Ok(SliceArgument::Auto(None)));
        assert_eq!("auto/8".parse(), Ok(SliceArgument::Auto(Some(8))));
        for wrong in ["", "2", "2/", "/4", "a/b", "2/4/8", "auto/x", "-1/4"] {
            let error = wrong.parse::<SliceArgument>().unwrap_err();
            assert!(error.starts_with("expected I/N"), "{wrong}: {error}");
        }
        assert!("5/4".parse::<SliceArgument>().unwrap_err().contains("1..=4"));
    }

    #[test]
    fn tasks_of_a_slurm_array_are_counted_from_its_first() {
        // `sbatch --array=10-40:10`.
        let array = |task| {
            [
                (SLURM_TASK, task),
                (SLURM_FIRST, "10"),
                (SLURM_COUNT, "4"),
                (SLURM_STEP, "10"),
            ]
        };
        for (task, number) in [("10", 1), ("20", 2), ("40", 4)] {
            assert_eq!(auto(None, &array(task)), Ok((number, 4)));
            assert_eq!(auto(Some(4), &array(task)), Ok((number, 4)));
        }
        // A list has no steps to count.
        let error = auto(None, &array("15")).unwrap_err();
        assert!(
            error.contains("task 15 is none of the 4 tasks from 10 on in steps of 10"),
            "{error}"
        );
        let error = auto(None, &array("50")).unwrap_err();
        assert!(error.contains("task 50 is none"), "{error}");
        // One task submitted again is an array of its own.
        let again = [(SLURM_TASK, "3"), (SLURM_FIRST, "3"), (SLURM_COUNT, "1")];
        let error = auto(Some(4), &again).unwrap_err();
        assert!(error.contains("this Slurm array has 1 tasks"), "{error}");
        let error = auto(None, &[(SLURM_TASK, "3")]).unwrap_err();
        assert!(error.contains("`SLURM_ARRAY_TASK_COUNT` is not"), "{error}");
    }

    #[test]
    fn kubernetes_needs_the_number_of_slices() {
        assert_eq!(auto(Some(4), &[(KUBERNETES, "0")]), Ok((1, 4)));
        assert_eq!(auto(Some(4), &[(KUBERNETES, "3")]), Ok((4, 4)));
        let error = auto(None, &[(KUBERNETES, "3")]).unwrap_err();
        assert!(error.contains("does not say of how many"), "{error}");
        let error = auto(Some(3), &[(KUBERNETES, "3")]).unwrap_err();
        assert!(error.contains("must be in 0..3, got 3"), "{error}");
        let error = auto(Some(4), &[(KUBERNETES, "x")]).unwrap_err();
        assert!(error.contains("must be a whole number, got `x`"), "{error}");
        // Nothing at all: both are named.
        let error = auto(None, &[]).unwrap_err();
        assert!(
            error.contains(SLURM_TASK) && error.contains(KUBERNETES),
            "{error}"
        );
    }
}
