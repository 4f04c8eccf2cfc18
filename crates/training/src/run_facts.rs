//! `run.json` of a run directory: the facts that a later process needs.

use data::{FileError, durable};
use std::io;
use std::path::{Path, PathBuf};
use weights::Origin;

/// The name of the file in a run directory.
pub(crate) const RUN_FACTS: &str = "run.json";
/// Its key for the lengths that the run got when it was resumed, oldest first; absent without any.
const LENGTHS: &str = "lengths";

/// The facts about a run, as its first process wrote them.
pub(crate) struct RunFacts {
    path: PathBuf,
    facts: serde_json::Map<String, serde_json::Value>,
}

impl RunFacts {
    /// Those in a run directory; `None` without the file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub(crate) fn read(run: &Path) -> Result<Option<Self>, FileError> {
        let path = run.join(RUN_FACTS);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::new("read", &path)(error)),
        };
        let facts = serde_json::from_slice(&text)
            .map_err(|error| FileError::new("read", &path)(io::Error::from(error)))?;
        Ok(Some(Self { path, facts }))
    }

    /// The data set's fingerprint.
    pub(crate) fn fingerprint(&self) -> Option<&str> {
        self.facts.get("fingerprint")?.as_str()
    }

    /// Optimizer steps of the whole run.
    pub(crate) fn steps(&self) -> Option<u64> {
        self.facts.get("steps")?.as_u64()
    }

    /// Writes that the run has another number of steps from step `done` on, in place of the first of both; `jump` is what
    /// its rates do there, and `config` names the file that keeps the earlier config.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn with_new_length(
        mut self,
        done: usize,
        [before, steps]: [usize; 2],
        jump: Option<&str>,
        config: &str,
    ) -> Result<(), FileError> {
        let change = serde_json::json!({
            "from_step": done,
            "steps_before": before,
            "steps": steps,
            "jump": jump,
            "config_before": config,
        });
        let lengths = self.facts.entry(LENGTHS).or_insert_with(|| serde_json::json!([]));
        if let Some(lengths) = lengths.as_array_mut()
            && lengths.last() != Some(&change)
        {
            lengths.push(change);
        }
        self.facts.insert("steps".into(), steps.into());
        durable::write_json(&self.path, &self.facts)
    }

    /// What the run started from; `None` for initial weights.
    ///
    /// # Errors
    /// A start that is described otherwise.
    pub(crate) fn origin(&self) -> Result<Option<Origin>, FileError> {
        let Some(origin) = self.facts.get("start").and_then(|start| start.get("origin")) else {
            return Ok(None);
        };
        let origin = serde_json::from_value(origin.clone());
        origin
            .map(Some)
            .map_err(|error| FileError::new("read", &self.path)(io::Error::from(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_other_content_is_an_error() {
        let run = tempfile::tempdir().unwrap();
        assert!(RunFacts::read(run.path()).unwrap().is_none());
        let write = |text: &str| std::fs::write(run.path().join(RUN_FACTS), text).unwrap();
        write(r#"{"fingerprint":"00ff","steps":12}"#);
        let facts = RunFacts::read(run.path()).unwrap().unwrap();
        assert_eq!((facts.fingerprint(), facts.steps()), (Some("00ff"), Some(12)));
        assert!(facts.origin().unwrap().is_none());
        write(r#"{"start":{"origin":3}}"#);
        let facts = RunFacts::read(run.path()).unwrap().unwrap();
        assert_eq!((facts.fingerprint(), facts.steps()), (None, None));
        assert!(facts.origin().unwrap_err().to_string().contains(RUN_FACTS));
        write("[");
        assert!(RunFacts::read(run.path()).is_err());
    }
}
