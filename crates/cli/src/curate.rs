//! `passer curate`: from raw photos to a release, stage by stage, and takedowns.

mod look;
mod review;

use crate::detectors::OnDevice;
use crate::devices::DeviceArgument;
use crate::failure::{Failure, Interrupted, WaitsForPeople};
use crate::progress::{ProgressBar, duration};
use curation::{Config, Funnel, RunOptions, Takedown, TakedownReport};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Run the stages of a config that are not done yet; resumes an interrupted run
    Run(RunArguments),
    /// Show what each stage kept and dropped, and why; also during a run
    Status(StatusArguments),
    /// Pack the photos that the last stage kept into the next version of the release
    Release(ReleaseArguments),
    /// Serve a local web page on which people label photos
    Review(review::ReviewArguments),
    /// Show the photos that detectors were least sure about; estimate how many people are left
    Audit(review::AuditArguments),
    /// Show the photos that a stage dropped or kept: a sheet with scores, boxes, and duplicates side by side
    Sheet(look::SheetArguments),
    /// Show every decision on one photo, with its detail
    Why(look::WhyArguments),
    /// Remove photos for good, release a version without them, list the releases and encoders that contain them
    Takedown(TakedownArguments),
}

#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// A config file, as in configs/curate/
    config: PathBuf,
    /// The folder of the curation, created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Run only this stage; `source` is one too
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Remove the decisions of this stage and of the stages after it, and decide again
    #[arg(long, value_name = "NAME")]
    redo: Option<String>,
    /// Change a key of the config, as in `--set stages.faces.score=0.4`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(clap::Args)]
pub(crate) struct StatusArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Also list all licenses of the source, as they are written there, with counts
    #[arg(long)]
    licences: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct ReleaseArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Text for this version in the version history
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

#[derive(clap::Args)]
pub(crate) struct TakedownArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Keys of the photos, separated by commas (column `hash` of pass_metadata.csv); the name of a photo's file does too
    #[arg(
        long,
        value_name = "KEYS",
        value_delimiter = ',',
        required_unless_present = "keys_file"
    )]
    keys: Vec<String>,
    /// A file with one key per line
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// Reason, kept in the ledger and not published
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Folders of runs to search for encoders trained on the photos
    #[arg(long, value_name = "DIR", num_args = 1..)]
    encoders: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Run(arguments) => stages(&arguments),
        Verb::Status(arguments) => status(&arguments),
        Verb::Release(arguments) => release(&arguments),
        Verb::Review(arguments) => review::review(&arguments),
        Verb::Audit(arguments) => review::audit(&arguments),
        Verb::Sheet(arguments) => look::sheet(&arguments),
        Verb::Why(arguments) => look::why(&arguments),
        Verb::Takedown(arguments) => takedown(arguments),
    }
}

fn stages(arguments: &RunArguments) -> anyhow::Result<()> {
    let check = |config: &Config| config.validate().map_err(|error| error.to_string());
    let (path, sets) = (&arguments.config, &arguments.set);
    let config = crate::configs::read(path, sets, crate::configs::Kind::Curation, check)?;
    let result = shown(|stop, progress| {
        let options = RunOptions {
            only: arguments.stage.as_deref(),
            redo: arguments.redo.as_deref(),
            stop,
            detectors: &OnDevice(&arguments.device),
            progress,
        };
        curation::run(&config, &arguments.out, options)
    });
    let is_planned_end = match &result {
        Ok(()) => true,
        Err(error) => matches!(
            error.downcast_ref::<curation::Error>(),
            Some(curation::Error::Waits(_))
        ),
    };
    if is_planned_end {
        warn_of_unlisted(arguments);
    }
    match result {
        Ok(()) => {}
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted; the same command continues");
            return Err(error);
        }
        Err(error) => match error.downcast::<curation::Error>() {
            Ok(curation::Error::Waits(labeling)) => return waits(&labeling, arguments),
            Ok(error) => return Err(error.into()),
            Err(error) => return Err(error),
        },
    }
    if let Some(memory) = crate::machine::peak_memory_mib() {
        eprintln!("peak memory {memory} MiB");
    }
    print_funnel(&curation::status(&arguments.out)?);
    Ok(())
}

/// Photos that came into the folder later are in no stage: says how many, and what to type.
fn warn_of_unlisted(arguments: &RunArguments) {
    use crate::output::shell_word;
    // The run itself has ended well; a folder that is gone by now matters to the next one.
    let Ok(Some(unlisted)) = curation::unlisted(&arguments.out) else {
        return;
    };
    let mut command = format!(
        "passer curate run {}",
        shell_word(&arguments.config.display().to_string())
    );
    for set in &arguments.set {
        command.push_str(&format!(" --set {}", shell_word(set)));
    }
    let out = shell_word(&arguments.out.display().to_string());
    let example = match unlisted.example.as_str() {
        "" => String::new(),
        example => format!(" (such as `{}`)", data::terminal::escape(example)),
    };
    eprintln!(
        "warning: {} came into the source after it was listed{example} and {} in no stage; to list the source again: \
         `{command} --redo source --out {out}`",
        crate::output::counted(unlisted.photos as usize, "photo"),
        if unlisted.photos == 1 { "is" } else { "are" },
    );
}

/// The run stops as planned: people label now.
fn waits(labeling: &curation::Labeling, arguments: &RunArguments) -> anyhow::Result<()> {
    print_funnel(&curation::status(&arguments.out)?);
    let dir = crate::output::shell_word(&arguments.out.display().to_string());
    eprintln!("waiting for people: {labeling}");
    // Whether anything but second labels is missing.
    if labeling.labels_open > labeling.wait_for_second {
        eprintln!(
            "next: `passer curate review {dir}`, a web page where people label them; then this command again"
        );
    } else {
        eprintln!(
            "{}",
            review::second_person(labeling.wait_for_second, &arguments.out)
        );
    }
    Err(WaitsForPeople.into())
}

fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    let funnel = curation::status(&arguments.dir)?;
    let licenses = match arguments.licences {
        true => Some(curation::licenses(&arguments.dir)?),
        false => None,
    };
    if arguments.json {
        let mut found = serde_json::to_value(&funnel)?;
        if let Some(licenses) = &licenses {
            found["licences"] = serde_json::to_value(licenses)?;
        }
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    print_funnel(&funnel);
    if let Some(licenses) = &licenses {
        look::print_licenses(licenses);
    }
    Ok(())
}

fn release(arguments: &ReleaseArguments) -> anyhow::Result<()> {
    let released =
        shown(|stop, progress| curation::release(&arguments.dir, &arguments.note, stop, progress))?;
    eprintln!(
        "version {}: {} ({} added, {} removed), fingerprint {}",
        released.version,
        crate::output::counted(released.records, "photo"),
        released.added,
        released.removed,
        released.fingerprint
    );
    println!("{}", released.folder.display());
    Ok(())
}

fn takedown(mut arguments: TakedownArguments) -> anyhow::Result<()> {
    if let Some(file) = &arguments.keys_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", file.display())))?;
        // Windows editors put a byte order mark first.
        let text = text.trim_start_matches('\u{feff}');
        arguments.keys.extend(text.lines().map(str::to_string));
    }
    let keys = arguments.keys.iter().map(|key| key.trim());
    arguments.keys = keys.filter(|key| !key.is_empty()).map(str::to_string).collect();
    if arguments.keys.is_empty() {
        return Err(Failure::new("no keys are given: nothing was taken down")
            .hint("`--keys KEY,KEY`, or `--keys-file FILE` with one key a line")
            .into());
    }
    let report = shown(|stop, progress| {
        let asked = Takedown {
            keys: &arguments.keys,
            reason: &arguments.reason,
            encoders: &arguments.encoders,
            stop,
            progress,
        };
        curation::takedown(&arguments.dir, asked)
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    print_takedown(&report, &arguments);
    Ok(())
}

/// The result of a takedown on stdout; the user's possible next steps on stderr.
fn print_takedown(report: &TakedownReport, arguments: &TakedownArguments) {
    println!("taken down       {}", report.taken_down.len());
    if !report.already.is_empty() {
        println!("were down before {}", data::names::listed(&report.already));
    }
    if !report.same_content.is_empty() {
        println!(
            "the same bytes   {}, taken down too",
            data::names::listed(&report.same_content)
        );
    }
    for path in &report.deleted {
        println!("deleted          {}", path.display());
    }
    for path in &report.sheets {
        println!("cut out of       {}", path.display());
    }
    for (version, fingerprint) in &report.seen_in {
        println!("seen in          version {version}, fingerprint {fingerprint}");
    }
    match (
        &report.encoders[..],
        arguments.encoders.is_empty(),
        report.seen_in.is_empty(),
    ) {
        ([], false, false) => println!("encoders         none in the folders given"),
        ([], true, false) => {
            println!(
                "encoders         not searched: `--encoders DIR` lists those that carry these fingerprints"
            );
        }
        (encoders, ..) => {
            for (path, fingerprint) in encoders {
                println!("trained on it    {} ({fingerprint})", path.display());
            }
        }
    }
    if let Some(released) = &report.release {
        println!(
            "next version     {} with {}, {}",
            released.version,
            crate::output::counted(released.records, "photo"),
            released.folder.display()
        );
    }
    if report.none_left {
        println!("next version     none: no other photo is left");
    }
    print_near_duplicates(report, arguments);
    for (key, reason) in &report.content_unknown {
        eprintln!(
            "`{key}` is taken down by its key only, because its file cannot be read ({reason}): the same bytes under another key \
             are not recognized; the same command adds them once the file is there"
        );
    }
    for (version, _) in &report.seen_in {
        eprintln!("`releases/v{version}` still holds it on this disk; delete the folder if you must");
    }
}

/// Photos that are only similar to one that was taken down, and the command that takes them down too.
fn print_near_duplicates(report: &TakedownReport, arguments: &TakedownArguments) {
    for near in &report.near_duplicates {
        println!(
            "looks like it    {} ({}, {} bits), {}",
            near.key,
            near.of,
            near.distance,
            match near.survives {
                true => "which stays",
                false => "dropped now; it may come back when its stage decides again",
            }
        );
    }
    if !report.near_duplicates.is_empty() {
        let keys: std::collections::BTreeSet<&str> = report
            .near_duplicates
            .iter()
            .map(|near| near.key.as_str())
            .collect();
        let keys: Vec<&str> = keys.into_iter().collect();
        eprintln!(
            "photos that only look like one that was taken down are not taken down; to do so: `{}`",
            takedown_command(&arguments.dir, &keys)
        );
    }
}

/// The command that takes photos down, ready to paste.
fn takedown_command(dir: &std::path::Path, keys: &[&str]) -> String {
    use crate::output::shell_word;
    let dir = shell_word(&dir.display().to_string());
    // `--keys` separates keys at commas and removes spaces around them.
    if keys.iter().all(|key| !key.contains(',') && key.trim() == *key) {
        return format!(
            "passer curate takedown {dir} --keys {}",
            shell_word(&keys.join(","))
        );
    }
    let words: Vec<String> = keys.iter().map(|key| shell_word(key)).collect();
    format!(
        "printf '%s\\n' {} | passer curate takedown {dir} --keys-file /dev/stdin",
        words.join(" ")
    )
}

/// Calls `work` with a flag for Ctrl-C and a display of its progress.
fn shown<R>(
    work: impl FnOnce(&AtomicBool, curation::Progress<'_>) -> Result<R, curation::Error>,
) -> anyhow::Result<R> {
    let stop = crate::interrupt::flag_saying(
        "stopping after the current batch; decisions so far are kept; press again to stop at once",
    )?;
    let bar: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);
    let started = Instant::now();
    let result = work(&stop, &|stage, done, total| {
        let Ok(mut bar) = bar.lock() else {
            return;
        };
        if bar.as_ref().is_none_or(|(name, _)| name != stage) {
            if let Some((_, old)) = bar.take() {
                old.finish();
            }
            *bar = Some((stage.to_string(), ProgressBar::new(stage, done, total)));
        }
        if let Some((_, bar)) = bar.as_mut() {
            bar.at(done);
        }
    });
    if let Ok(Some((_, bar))) = bar.into_inner() {
        bar.finish();
    }
    match result {
        Ok(value) => {
            tracing::info!("took {}", duration(started.elapsed().as_secs_f64()));
            Ok(value)
        }
        Err(curation::Error::Interrupted) => Err(Interrupted.into()),
        Err(error @ curation::Error::Recorded { .. }) if error.interrupted() => {
            eprintln!("{error}; the same command does it");
            Err(Interrupted.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn print_funnel(funnel: &Funnel) {
    println!(
        "{:<12} {:>12} {:>12}   {:>12}",
        "stage", "kept", "dropped", "time"
    );
    for stage in &funnel.stages {
        println!(
            "{:<12} {:>12} {:>12}   {:>12}{}",
            stage.name,
            stage.kept,
            stage.dropped,
            duration(stage.seconds),
            if stage.done { "" } else { "  not done" }
        );
        if let Some(labeling) = funnel.review.as_ref().filter(|_| stage.name == "review") {
            println!("{:<12} {labeling}", "");
        }
        for remark in &stage.remarks {
            println!("{:<12} {:>12} {:>12}   {}", "", remark.photos, "", remark.reason);
        }
        for reason in &stage.reasons {
            println!("{:<12} {:>12} {:>12}   {}", "", "", reason.photos, reason.reason);
        }
    }
    for line in funnel.listing.lines() {
        println!("{:<12} {line}", "listing");
    }
    if funnel.taken_down > 0 {
        println!("{:<12} {:>12} {:>12}", "taken down", "", funnel.taken_down);
    }
    for release in &funnel.releases {
        println!(
            "release {:<4} {:>12} {}, {} added, {} removed, fingerprint {}",
            release.version,
            release.records,
            if release.records == 1 { "photo" } else { "photos" },
            release.added,
            release.removed,
            release.fingerprint
        );
    }
}
