//! Discards the answers of one annotator, as after labeling under a wrong name or with a wrong rule.

use std::path::Path;

use data::names::listed;

use super::items::failed;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::Ledger;
use crate::stages::review::REVIEW;

/// The result of [`discard_answers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// Answers that counted before.
    pub answers: u64,
    /// Whether the stage `review` has decided with them, so that it must decide again.
    pub decided: bool,
}

/// Discards all valid answers of the annotator `name`: those for the stage `review`, or those of a sample. They
/// stay in the ledger, with the state `discarded`.
///
/// # Errors
/// No curation in `folder`, or one in use; a name that nobody has.
pub fn discard_answers(folder: &Path, sample: Option<i64>, name: &str) -> Result<Discarded, Error> {
    let mut ledger = Ledger::open_existing(folder)?;
    let known = ledger.annotators()?;
    let Some((annotator, _)) = known.iter().find(|(_, known)| known == name) else {
        let names: Vec<&str> = known.iter().map(|(_, name)| name.as_str()).collect();
        return Err(failed(
            match names[..] {
                [] => format!("there is no annotator `{name}`: nobody has labeled yet"),
                _ => format!("there is no annotator `{name}`; known are {}", listed(&names)),
            },
            Some(Hint::NothingDiscarded),
        ));
    };
    let keys = ledger.discard_answers(sample.unwrap_or(REVIEW), *annotator)?;
    Ok(Discarded {
        answers: keys.len() as u64,
        decided: sample.is_none() && ledger.stage("review")?.is_some_and(|row| row.done),
    })
}
