//! `--on-event`: the events of a run in, a command of the user's for each of them out. The run never waits for it.

use crate::output::counted;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use training::{Event, Outcome, Summary};

#[derive(clap::Args)]
pub(crate) struct EventArguments {
    /// Run this command at each event of the run (start, alarm, checkpoint, end), with the event as JSON on its standard
    /// input and its name in PASSER_EVENT
    #[arg(long, value_name = "CMD")]
    on_event: Option<String>,
}

impl EventArguments {
    /// The command for the events of the run in this directory.
    pub(crate) fn of_run(&self, out: &Path) -> EventCommand {
        match &self.on_event {
            Some(command) => EventCommand::new(command.clone(), out),
            None => EventCommand::none(),
        }
    }
}

/// Time that the end of a run leaves to commands that still run.
const LAST_SECONDS: u64 = 10;

/// Time that one command may take: those behind it wait.
const MOST_SECONDS: u64 = 60;

/// Runs the user's command, one event after the other, beside the run.
pub(crate) struct EventCommand(Option<Queue>);

struct Queue {
    events: Sender<(String, Value)>,
    worker: JoinHandle<()>,
    run: String,
    /// Events that no command has begun with.
    waiting: Arc<AtomicUsize>,
    /// Whether a warning has said that events wait.
    warned: AtomicBool,
}

impl EventCommand {
    /// No command.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    fn new(command: String, out: &Path) -> Self {
        let (events, queue) = mpsc::channel::<(String, Value)>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let begun = Arc::clone(&waiting);
        let worker = std::thread::spawn(move || {
            let mut reported = false;
            for (name, event) in queue {
                begun.fetch_sub(1, Ordering::Relaxed);
                let most = Duration::from_secs(MOST_SECONDS);
                if let Err(reason) = run(&command, &name, &event, most)
                    && !reported
                {
                    reported = true;
                    tracing::warn!(
                        "the command of `--on-event` failed at the event `{name}`: {reason}; more failures are not reported"
                    );
                }
            }
        });
        let out = std::path::absolute(out).unwrap_or_else(|_| out.to_path_buf());
        Self(Some(Queue {
            events,
            worker,
            run: out.display().to_string(),
            waiting,
            warned: AtomicBool::new(false),
        }))
    }

    fn send(&self, name: &str, facts: Value) {
        let Some(queue) = &self.0 else { return };
        let mut event = Map::new();
        event.insert("event".into(), name.into());
        event.insert("run".into(), queue.run.clone().into());
        if let Value::Object(facts) = facts {
            event.extend(facts);
        }
        // One event may wait for the one before it; two wait for a command that takes longer than what happens.
        if queue.waiting.fetch_add(1, Ordering::Relaxed) >= 2 && !queue.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the command of `--on-event` still runs: the event `{name}` and those before it wait for it"
            );
        }
        // It fails only if the thread has panicked, which costs events and no run.
        let _ = queue.events.send((name.into(), Value::Object(event)));
    }

    /// Passes on the events of the loop that are rare.
    pub(crate) fn pass(&self, event: &Event<'_>) {
        match event {
            Event::Start { step, steps, .. } => self.send("start", json!({"step": step, "steps": steps})),
            Event::Alarm(alarm) => {
                self.send("alarm", serde_json::to_value(alarm).unwrap_or_default());
            }
            Event::Checkpoint(checkpoint) => {
                // The command may change its folder.
                let path = std::path::absolute(&checkpoint.path).unwrap_or_else(|_| checkpoint.path.clone());
                let facts = json!({"step": checkpoint.step, "path": path});
                self.send("checkpoint", facts);
            }
            Event::NewLength(_) | Event::Step { .. } | Event::Log(_) => {}
        }
    }

    /// Passes on how a run ended, and leaves the commands some seconds.
    pub(crate) fn end<E: std::fmt::Display>(self, result: Result<&Summary, &E>) {
        let facts = match result {
            Ok(summary) => {
                let outcome = match (summary.outcome, &summary.alarm) {
                    (Outcome::Finished, _) => "finished",
                    (Outcome::Interrupted, Some(_)) => "alarm",
                    (Outcome::Interrupted, None) => "interrupted",
                };
                json!({"outcome": outcome, "step": summary.step, "steps": summary.steps})
            }
            Err(error) => json!({"outcome": "failed", "error": format!("{error:#}")}),
        };
        self.send("end", facts);
        let Some(Queue {
            events,
            worker,
            waiting,
            ..
        }) = self.0
        else {
            return;
        };
        drop(events);
        let ended = Instant::now();
        while !worker.is_finished() {
            if ended.elapsed().as_secs() >= LAST_SECONDS {
                tracing::warn!(
                    "the command of `--on-event` still runs after {LAST_SECONDS} s: not waited for; {} were not passed on",
                    counted(waiting.load(Ordering::Relaxed), "event")
                );
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs the command for an event, and ends it with what it started after the time that it may take.
fn run(command: &str, name: &str, event: &Value, most: Duration) -> Result<(), String> {
    let mut shell = shell(command);
    shell
        .env("PASSER_EVENT", name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = shell.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read it.
        let _ = writeln!(stdin, "{event}");
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if begun.elapsed() >= most {
            end_group(&mut child);
            return Err(format!("it was ended after {} s", most.as_secs_f64()));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match status.success() {
        true => Ok(()),
        false => Err(status.to_string()),
    }
}

/// Kills a command and, where there are groups of processes, what it started.
fn end_group(child: &mut Child) {
    #[cfg(unix)]
    {
        // The shell leads a group of its own: see `shell`.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("sh");
    // A group of its own: Ctrl-C ends the run, and the command says so.
    shell.arg("-c").arg(command).process_group(0);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command);
    shell
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let late = folder.path().join("late");
        let command = format!("(sleep 3; touch '{}') & wait", late.display());
        let begun = Instant::now();
        let reason = run(&command, "start", &json!({}), Duration::from_millis(200)).unwrap_err();
        assert_eq!(reason, "it was ended after 0.2 s");
        assert!(begun.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(3200));
        assert!(!late.exists());
        // Another one is waited for.
        assert_eq!(
            run("sleep 0.1", "start", &json!({}), Duration::from_secs(60)),
            Ok(())
        );
    }
}
