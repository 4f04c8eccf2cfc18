//! Runs a curation with the library alone, which builds in a minute and without Burn. The full program is
//! `passer curate run`.
//!
//! `cargo run --release -p curation --example curate -- CONFIG DIR [release | takedown KEY]`

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (config, folder) = (
        arguments.next().unwrap_or_default(),
        PathBuf::from(arguments.next().unwrap_or_default()),
    );
    let stop = AtomicBool::new(false);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => {
            let config: curation::Config = toml::from_str(&std::fs::read_to_string(config)?)?;
            let started = Instant::now();
            let options = curation::RunOptions {
                only: None,
                redo: None,
                stop: &stop,
                detectors: &curation::NoDetectors,
                progress: &|_, _, _| {},
            };
            curation::run(&config, &folder, options)?;
            let funnel = curation::status(&folder)?;
            for stage in &funnel.stages {
                println!(
                    "{} {} kept {} dropped {:.1} s",
                    stage.name, stage.kept, stage.dropped, stage.seconds
                );
                for reason in &stage.reasons {
                    println!("  {} {}", reason.photos, reason.reason);
                }
            }
            println!("{:.1} s", started.elapsed().as_secs_f64());
        }
        (Some("release"), _) => println!("{:#?}", curation::release(&folder, "", &stop, &|_, _, _| {})?),
        (Some("takedown"), Some(key)) => {
            let asked = curation::Takedown {
                keys: &[key],
                reason: "",
                encoders: &[],
                stop: &stop,
                progress: &|_, _, _| {},
            };
            println!("{:#?}", curation::takedown(&folder, asked)?);
        }
        _ => return Err("expected CONFIG DIR [release | takedown KEY]".into()),
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!(
            "{}",
            status
                .lines()
                .find(|line| line.starts_with("VmHWM"))
                .unwrap_or_default()
        );
    }
    Ok(())
}
