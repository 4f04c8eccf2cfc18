//! The errors of a curation, one variant for each kind that a user can fix.

use std::path::{Path, PathBuf};

use crate::hint::Hint;
use crate::labeling::Labeling;
use crate::settings::Change;

/// An error of reading sources, running stages, keeping the ledger or making a release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A config key with an invalid value.
    #[error("`{key}` {reason}")]
    Config {
        /// The key, as written in the file.
        key: String,
        /// Expected and got.
        reason: String,
    },
    /// A source that does not match the config.
    #[error("source `{path}`: {reason}")]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// Expected and got.
        reason: String,
    },
    /// A file of a list of photos that cannot be read.
    #[error("cannot read the list of photos `{path}`")]
    List {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
        /// The cure.
        hint: Hint,
    },
    /// Several files of a config that cannot be opened, each with its own error.
    #[error("{} of the config cannot be opened:{}", data::counted(.0.len(), "file"), in_lines(.0))]
    Unread(Vec<Error>),
    /// An error of SQLite.
    #[error("ledger `{path}`: {reason}")]
    Ledger {
        /// The database.
        path: PathBuf,
        /// SQLite's message.
        reason: String,
    },
    /// There is no ledger where one is expected.
    #[error("`{path}` holds no curation: there is no `ledger.sqlite` in it")]
    NoCuration {
        /// The folder.
        path: PathBuf,
    },
    /// The ledger is missing, but its releases exist.
    #[error("the ledger `{path}` is missing or empty, but `{release}` was made by it")]
    LostLedger {
        /// The database.
        path: PathBuf,
        /// A release in the same folder.
        release: PathBuf,
    },
    /// The settings of a stage differ from those that its decisions were made with.
    #[error(
        "the settings of stage `{stage}` changed since it decided: {}",
        in_words(changes)
    )]
    Changed {
        /// The stage.
        stage: String,
        /// What changed.
        changes: Vec<Change>,
    },
    /// Another stage is where the ledger has decisions of this one.
    #[error("stage {place} was `{was}` when it decided, and is now `{stage}`")]
    Moved {
        /// The stage of the config.
        stage: String,
        /// Its number; 1 is the source.
        place: i64,
        /// The stage of the ledger.
        was: String,
    },
    /// A stage that cannot run yet, or cannot run at all.
    #[error("{}: {reason}", place(stage))]
    Stage {
        /// The stage, or the verb `audit` or `sheet`.
        stage: String,
        /// What is missing.
        reason: String,
        /// The cure, where one is known.
        hint: Option<Hint>,
    },
    /// Another process works in the folder.
    #[error("`{path}` is in use by {holder}")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Which process.
        holder: String,
    },
    /// Photos or shards that `data` could not read or write.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A release that cannot be made.
    #[error("release: {reason}")]
    Release {
        /// The reason.
        reason: String,
        /// The cure, where one is known.
        hint: Option<Hint>,
    },
    /// A takedown that cannot be done. Nothing was taken down.
    #[error("takedown: {reason}")]
    Takedown {
        /// The reason.
        reason: String,
        /// The cure.
        hint: Hint,
    },
    /// A takedown that is recorded, but whose follow-up work failed.
    #[error("{what} noted as taken down and in no release to come; the rest of the takedown was not done")]
    Recorded {
        /// The photos, as the beginning of a sentence: `photo `a` is`.
        what: String,
        /// The failure.
        #[source]
        source: Box<Error>,
    },
    /// The stage `review` waits for people's labels: a planned stop and no failure.
    #[error("stage `review` waits: {0}")]
    Waits(Labeling),
    /// The user interrupted the work; every decision so far is in the ledger.
    #[error("interrupted")]
    Interrupted,
}

/// Errors with their causes, a line each.
fn in_lines(errors: &[Error]) -> String {
    let lines = errors
        .iter()
        .map(|error| format!("\n  {}", data::with_causes(error)));
    lines.collect()
}

/// The changes, separated by commas.
fn in_words(changes: &[Change]) -> String {
    let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
    changes.join(", ")
}

/// Where something is missing: a stage of the config, or a verb, which is none.
fn place(stage: &str) -> String {
    match stage {
        "audit" | "sheet" => stage.to_owned(),
        stage => format!("stage `{stage}`"),
    }
}

impl Error {
    /// The cure, where one is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Error::Changed { stage, .. } | Error::Moved { stage, .. } => {
                Some(Hint::Redo { stage: stage.clone() })
            }
            Error::NoCuration { .. } => Some(Hint::RunFirst),
            Error::InUse { .. } => Some(Hint::WaitOrEnd),
            Error::Waits(_) => Some(Hint::LabelPhotos),
            Error::LostLedger { .. } => Some(Hint::RestoreLedger),
            Error::List { hint, .. } | Error::Takedown { hint, .. } => Some(hint.clone()),
            Error::Stage { hint, .. } | Error::Release { hint, .. } => hint.clone(),
            Error::Data(error) => error.hint().map(Hint::Data),
            Error::Recorded { source, .. } => Some(Hint::RepeatTakedown(source.hint().map(Box::new))),
            Error::Unread(errors) => {
                let hints: Vec<Hint> = errors.iter().filter_map(Error::hint).collect();
                (!hints.is_empty()).then_some(Hint::Several(hints))
            }
            Error::Io { .. }
            | Error::Config { .. }
            | Error::Source { .. }
            | Error::Ledger { .. }
            | Error::Interrupted => None,
        }
    }

    /// Whether the user interrupted the work.
    pub fn interrupted(&self) -> bool {
        match self {
            Error::Interrupted => true,
            Error::Recorded { source, .. } => source.interrupted(),
            _ => false,
        }
    }

    /// An [`Error::Io`] for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Config`].
    pub(crate) fn config(key: &str, reason: impl Into<String>) -> Error {
        Error::Config {
            key: key.to_string(),
            reason: reason.into(),
        }
    }

    /// Gives an error for a text of the config that says nothing. `what`: what it must be.
    pub(crate) fn unless_filled(key: &str, what: &str, text: &str) -> Result<(), Error> {
        match text.trim().is_empty() {
            true => Err(Error::config(key, format!("must be {what}, got none"))),
            false => Ok(()),
        }
    }

    /// Gives an error for a list of the config that has a name twice.
    pub(crate) fn unless_once(key: &str, names: &[&str]) -> Result<(), Error> {
        let mut rest = names.iter().enumerate();
        match rest.find(|(at, name)| names.iter().take(*at).any(|before| before == *name)) {
            Some((_, name)) => Err(Error::config(
                key,
                format!("must have each once, got `{name}` twice"),
            )),
            None => Ok(()),
        }
    }

    /// [`Error::unless_filled`] for a key that may be left out.
    pub(crate) fn unless_filled_or_absent(key: &str, what: &str, text: Option<&str>) -> Result<(), Error> {
        let what = format!("{what}, or be left out");
        text.map_or(Ok(()), |text| Error::unless_filled(key, &what, text))
    }

    /// An [`Error::Source`].
    pub(crate) fn source(path: &Path, reason: impl Into<String>) -> Error {
        Error::Source {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

impl From<data::FileError> for Error {
    fn from(error: data::FileError) -> Error {
        Error::Io {
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }
}

impl From<data::LockError> for Error {
    fn from(error: data::LockError) -> Error {
        match error {
            data::LockError::InUse { folder, holder } => Error::InUse { path: folder, holder },
            data::LockError::File(error) => error.into(),
        }
    }
}
