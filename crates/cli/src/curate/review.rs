//! `passer curate review` and `passer curate audit`: labels from people, and estimates from them.

use super::shown;
use crate::failure::Failure;
use crate::output::{counted, shell_word};
use anyhow::Context;
use curation::{AuditOptions, ReviewOptions, Reviewed, Sample};
use data::terminal::one_line;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct ReviewArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Where to listen; an address that other machines can reach needs a token, which is printed with the link
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7878", value_parser = listening)]
    listen: SocketAddr,
    /// A further host name under which browsers may reach the server
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Label this sample of `passer curate audit` instead of the photos of the stage `review`
    #[arg(long, value_name = "N")]
    sample: Option<i64>,
    /// Serve nothing: discard all answers of this annotator; the ledger keeps them as `discarded`
    #[arg(long, value_name = "NAME")]
    discard: Option<String>,
}

/// An address with its port; a port alone, or one of `localhost`, is on loopback.
fn listening(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => text
            .parse()
            .map_err(|_| "must be ADDRESS:PORT such as `127.0.0.1:7878`, or a port".to_string()),
    }
}

#[derive(clap::Args)]
pub(crate) struct AuditArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Photos on the contact sheet
    #[arg(long, value_name = "N", default_value_t = 200)]
    sheet_photos: usize,
    /// The contact sheet; default: `audit.html` in the folder of the curation
    #[arg(long, value_name = "FILE.html")]
    sheet: Option<PathBuf>,
    /// Draw a random sample of N photos, which people label with `passer curate review --sample`
    #[arg(long, value_name = "N")]
    draw: Option<usize>,
    /// The seed of the draw
    #[arg(long, value_name = "SEED", default_value_t = 0, requires = "draw")]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `passer curate review`
pub(super) fn review(arguments: &ReviewArguments) -> anyhow::Result<()> {
    if let Some(name) = &arguments.discard {
        return discard(arguments, name);
    }
    let token = match arguments.listen.ip().is_loopback() {
        true => None,
        false => Some(token(&arguments.dir)?),
    };
    let stop = crate::interrupt::flag_saying("stopping; every answer is saved; press again to stop at once")?;
    let options = ReviewOptions {
        listen: arguments.listen,
        hosts: &arguments.host,
        token: token.as_deref(),
        sample: arguments.sample,
        stop: &stop,
        ready: &|address| {
            let query = token
                .as_ref()
                .map_or(String::new(), |token| format!("?token={token}"));
            println!("http://{address}/{query}");
            let _ = std::io::stdout().flush();
            if address.ip().is_unspecified() {
                eprintln!(
                    "replace {} by the address under which others reach this machine",
                    address.ip()
                );
            }
            if token.is_some() {
                eprintln!(
                    "anyone with the link can label; traffic is unencrypted: on a network that others can read, omit \
                     `--listen` and use `ssh -L 7878:127.0.0.1:7878`"
                );
            }
            eprintln!("Ctrl-C ends; every answer is saved before the page shows it");
        },
    };
    let reviewed = curation::serve(&arguments.dir, options)?;
    print_reviewed(&reviewed, arguments);
    Ok(())
}

/// What has labels, what is missing, and the next command.
fn print_reviewed(reviewed: &Reviewed, arguments: &ReviewArguments) {
    let Reviewed {
        photos,
        done,
        wait_for_second,
        not_shown,
    } = reviewed;
    eprintln!("{done} of {photos} photos have their labels");
    for (key, reason) in not_shown.iter().take(NAMED) {
        eprintln!("not shown: `{}`: {}", one_line(key), one_line(reason));
    }
    if not_shown.len() > NAMED {
        eprintln!("not shown: {} more", not_shown.len() - NAMED);
    }
    if !not_shown.is_empty() {
        eprintln!(
            "photos that cannot be shown got no answer; bring their files back, or the stage drops them once all others \
             have their labels"
        );
    }
    let dir = shell_word(&arguments.dir.display().to_string());
    let missing = photos - done;
    if missing > not_shown.len() as u64 {
        match (arguments.sample, *wait_for_second) {
            (None, 1..) => eprintln!("{}", second_person(*wait_for_second, &arguments.dir)),
            _ => eprintln!("the same command shows the others"),
        }
        return;
    }
    match arguments.sample {
        None => eprintln!("next: `{}`", run_again(&arguments.dir)),
        Some(_) => eprintln!("next: `passer curate audit {dir}`"),
    }
}

/// Photos that are named, at most.
const NAMED: usize = 20;

/// The command that continues a curation with its own config.
fn run_again(dir: &Path) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    format!(
        "passer curate run {} --out {}",
        word(&dir.join("config.toml")),
        word(dir)
    )
}

/// Who is missing where photos wait for a second label, and what one person alone can do.
pub(super) fn second_person(photos: u64, dir: &Path) -> String {
    format!(
        "{} a second person, as `labelled_twice` says: somebody else labels under another name (`passer curate review {}`); \
         if nobody else does, `{} --set stages.review.labelled_twice=0.0`",
        match photos {
            1 => "1 photo waits for".to_string(),
            photos => format!("{photos} photos wait for"),
        },
        shell_word(&dir.display().to_string()),
        run_again(dir)
    )
}

/// `--discard`
fn discard(arguments: &ReviewArguments, name: &str) -> anyhow::Result<()> {
    let discarded = curation::discard_answers(&arguments.dir, arguments.sample, name)?;
    println!(
        "{} of `{}` discarded: the ledger keeps them as `discarded`, and they no longer count",
        counted(discarded.answers as usize, "answer"),
        one_line(name)
    );
    if discarded.decided {
        eprintln!(
            "the stage `review` has decided with them: `passer curate run CONFIG --out DIR --redo review` decides without them"
        );
    }
    Ok(())
}

/// The token of a curation: drawn once and kept beside the ledger, so that links survive a restart of the
/// server.
fn token(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("review-token");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let token = text.trim();
        if token.len() >= 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(token.to_string());
        }
        return Err(Failure::new(format!("`{}` holds no token", path.display()))
            .hint("delete it, and another one is drawn")
            .into());
    }
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new(format!("no token can be drawn: {error}")))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(&path)
        .and_then(|mut file| writeln!(file, "{token}"))
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(token)
}

/// `passer curate audit`
pub(super) fn audit(arguments: &AuditArguments) -> anyhow::Result<()> {
    let found = shown(|stop, progress| {
        let options = AuditOptions {
            sheet_photos: arguments.sheet_photos,
            sheet: arguments.sheet.as_deref(),
            draw: arguments.draw.map(|size| (size, arguments.seed)),
            stop,
            progress,
        };
        curation::audit(&arguments.dir, options)
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!(
        "photos      {} after stage `{}`, {} with a detector's score",
        found.photos, found.stage, found.with_score
    );
    if let Some(next) = &found.before {
        println!("before      stage `{next}`, which is not done: these are not the photos of a release yet");
    }
    for sample in &found.samples {
        print_sample(sample, &arguments.dir);
    }
    println!("{}", found.sheet.display());
    Ok(())
}

/// A sample: its estimate, what it found, and the line that takes that down.
fn print_sample(sample: &Sample, dir: &Path) {
    let head = format!(
        "sample {:<4} {} of {} photos labeled, seed {}",
        sample.id, sample.labeled, sample.photos, sample.seed
    );
    let since = match sample.taken_down_since {
        None | Some(0) => String::new(),
        Some(photos) => format!(", before {} taken down since", counted(photos as usize, "photo")),
    };
    match &sample.estimate {
        Some(estimate) => println!(
            "{head}: {} show people, {}, of all photos {} (95 %, Clopper and Pearson){since}",
            estimate.with_people,
            estimate.rate_in_words(),
            estimate.photos_in_words()
        ),
        None if sample.taken_down_since.is_none() => println!("{head}: {}", curation::OTHER_PHOTOS),
        None if sample.taken_down_since > Some(0) => {
            println!("{head}: photos of it were taken down before it was labeled whole; draw another one");
        }
        None => println!(
            "{head}: `passer curate review {} --sample {}`",
            shell_word(&dir.display().to_string()),
            sample.id
        ),
    }
    for photo in &sample.found {
        println!(
            "found       {}: {}{}",
            one_line(&photo.key),
            photo.categories.join(", ").replace('_', " "),
            if photo.taken_down { ", taken down" } else { "" }
        );
    }
    let keys: Vec<&str> = sample
        .found
        .iter()
        .filter(|photo| !photo.taken_down)
        .map(|photo| photo.key.as_str())
        .collect();
    if !keys.is_empty() {
        println!("to take down what was found:");
        println!("{}", super::takedown_command(dir, &keys));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        let loopback = Ok(SocketAddr::from(([127, 0, 0, 1], 7999)));
        for text in ["7999", "localhost:7999", "127.0.0.1:7999"] {
            assert_eq!(listening(text), loopback, "{text}");
        }
        assert_eq!(listening("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        for text in ["", "localhost", "70000", "example.org:80"] {
            assert!(listening(text).is_err(), "{text}");
        }
    }
}
