//! `passer curate review` and `passer curate audit`: labels from people, and estimates from them.

use super::shown;
use crate::failure::Failure;
use anyhow::Context;
use curation::{AuditOptions, ReviewOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct ReviewArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// Where to listen; an address that other machines can reach needs a token, which is printed with the link
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7878")]
    listen: SocketAddr,
    /// A further host name under which browsers may reach the server
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Label this sample of `passer curate audit` instead of the photos of the stage `review`
    #[arg(long, value_name = "N")]
    sample: Option<i64>,
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
    eprintln!(
        "{} of {} photos have their labels",
        reviewed.done, reviewed.photos
    );
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
    for sample in &found.samples {
        let head = format!(
            "sample {:<4} {} of {} photos labeled, seed {}",
            sample.id, sample.labeled, sample.photos, sample.seed
        );
        match &sample.estimate {
            Some(estimate) => println!(
                "{head}: {} show people, {}, of all photos {} (95 %, Clopper and Pearson)",
                estimate.with_people,
                estimate.rate_in_words(),
                estimate.photos_in_words()
            ),
            None if !sample.current => println!("{head}: {}", curation::OTHER_PHOTOS),
            None => println!(
                "{head}: `passer curate review {} --sample {}`",
                arguments.dir.display(),
                sample.id
            ),
        }
    }
    println!("{}", found.sheet.display());
    Ok(())
}
