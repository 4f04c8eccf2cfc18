//! How errors reach the user: one `error:` line, its causes, and the cure where it is known.

use crate::hints;
use anyhow::Context;
use data::terminal::escape_lines;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

/// An error of the program itself, with its cure.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A message without a cure.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds the cure.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Creates the folder of an output file.
pub(crate) fn make_folder_of(file: &Path) -> anyhow::Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display())),
        None => Ok(()),
    }
}

/// Gives an error if the folder `--out` is the folder of the data, where its files would be taken for data.
pub(crate) fn check_apart(data: &str, out: &Path) -> anyhow::Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    match (real(Path::new(data)), real(out)) {
        (Some(data), Some(folder)) if data == folder => Err(Failure::new(format!(
            "`--out` must not be the folder of the data, got `{}`",
            out.display()
        ))
        .hint("give a folder of its own as `--out`")
        .into()),
        _ => Ok(()),
    }
}

/// The run ended early because the user interrupted it; the message has been printed.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Processes that this one started ended with this exit status; they have printed the reason.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) u8);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended with status {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// This process's name in messages, where a launcher started several.
static NAME: OnceLock<String> = OnceLock::new();

/// Names this process in the messages to come: `rank 1 on HOST`.
pub(crate) fn name_process(name: String) {
    let _ = NAME.set(name);
}

/// `rank 1 on HOST: `, before an error's line; empty in one process.
fn prefix() -> String {
    NAME.get().map_or(String::new(), |name| format!("{name}: "))
}

/// A curation stopped as planned, until people have labeled photos; the message has been printed.
#[derive(Debug)]
pub(crate) struct WaitsForPeople;

impl fmt::Display for WaitsForPeople {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waiting for people's labels")
    }
}

impl std::error::Error for WaitsForPeople {}

/// The exit status of a command that waits for people: no failure, and not done either.
const WAITS: u8 = 3;

/// Prints an error with its causes and its hint, once.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() {
        // The status that a shell reports for a program that SIGINT ended.
        return ExitCode::from(130);
    }
    if error.is::<WaitsForPeople>() {
        return ExitCode::from(WAITS);
    }
    if error.is::<DoesNotLoad>() || error.is::<Problems>() {
        return ExitCode::FAILURE;
    }
    if let Some(Ended(status)) = error.downcast_ref() {
        return ExitCode::from(*status);
    }
    if is_of_another_rank(error) {
        let_another_rank_report();
    }
    crate::output::set_quiet(false);
    eprintln!(
        "{}error: {}",
        prefix(),
        escape_lines(error.to_string().trim_end())
    );
    // A transparent error repeats its source's message: print each message once.
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let message = cause.to_string();
        if !last.contains(&message) {
            eprintln!("caused by: {}", escape_lines(message.trim_end()));
        }
        last = message;
    }
    if let Some(hint) = error.chain().find_map(hint) {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::FAILURE
}

/// Waits while another rank reports why all end, which says more. As its launcher or MPI then ends all of them, what comes
/// after this wait is seen only if something went wrong there.
pub(crate) fn let_another_rank_report() {
    std::thread::sleep(Duration::from_secs(5));
}

/// Whether another rank reports why this one ends.
fn is_of_another_rank(error: &anyhow::Error) -> bool {
    use evaluation::Error::Training;
    use training::Error::OtherRank;
    matches!(error.downcast_ref(), Some(OtherRank { .. }))
        || matches!(error.downcast_ref(), Some(Training(OtherRank { .. })))
}

/// The cure of one error of a chain.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        failure.hint.clone()
    } else if let Some(error) = error.downcast_ref::<training::Error>() {
        hints::of_training(error)
    } else if let Some(error) = error.downcast_ref::<data::Error>() {
        error.hint().as_ref().map(hints::of_data)
    } else if let Some(error) = error.downcast_ref::<evaluation::Error>() {
        hints::of_evaluation(error)
    } else if let Some(error) = error.downcast_ref::<curation::Error>() {
        error.hint().as_ref().map(hints::of_curation)
    } else if let Some(error) = error.downcast_ref::<detection::DetectionError>() {
        hints::of_detection(error)
    } else {
        None
    }
}

/// An error with its causes and its hint in one line, for a library's message.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    match error.chain().find_map(hint) {
        Some(hint) => format!("{error:#}; {hint}"),
        None => format!("{error:#}"),
    }
}

/// The exit status of `passer doctor` where something has to be mended: its lines have been printed.
#[derive(Debug)]
pub(crate) struct Problems;

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there are problems")
    }
}

impl std::error::Error for Problems {}

/// The exit status of the inspection of a file that does not load: its report has been printed.
#[derive(Debug)]
pub(crate) struct DoesNotLoad;

impl fmt::Display for DoesNotLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file does not load")
    }
}

impl std::error::Error for DoesNotLoad {}
