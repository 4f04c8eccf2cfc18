//! `passer shards`: pack, index, inspect and verify shards.

use crate::failure::{Failure, check_apart};
use crate::hints;
use crate::output::{counted, shell_word};
use crate::progress::ProgressBar;
use data::mebibytes;
use data::shards::{Inspection, PackOptions, Verification};
use data::terminal::escape;
use data::{Listing, Reason};
use std::path::PathBuf;
use std::sync::Mutex;

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Pack an image folder, a `.tar.gz`, `.tar.zst` or `.tar.bz2` of one, or other shards into new shards; image bytes stay untouched
    Pack(PackArguments),
    /// Rebuild the indexes of a data set
    Index(DataArgument),
    /// Count records, classes and bytes of a data set
    Inspect(DataArgument),
    /// Read and decode every record, compare it with its hash, and all files with SHA256SUMS; list what is wrong
    Verify(DataArgument),
}

#[derive(clap::Args)]
pub(crate) struct PackArguments {
    /// The records: an image folder (CLASS/name.jpg or flat), a .tar.gz, .tar.zst or .tar.bz2 of one (a .tar with
    /// `--subfolder`), shards, or a
    /// data-set description
    source: String,
    /// The output folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Pack only this folder of the source, e.g. `--subfolder train`
    #[arg(long, value_name = "NAME")]
    subfolder: Option<String>,
    /// Pack only N records, spread evenly over the source, so that sorted classes stay balanced
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Pack in a random order drawn from this seed (good for `order = { blocks = N }`)
    #[arg(long, value_name = "SEED")]
    shuffle_seed: Option<u64>,
    /// Records per shard
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    records_per_shard: usize,
    /// Prefix of the shards' names
    #[arg(long, value_name = "NAME", default_value = "shard")]
    prefix: String,
}

#[derive(clap::Args)]
pub(crate) struct DataArgument {
    /// A directory of shards, a brace pattern, an image folder, or a data-set description
    data: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Pack(arguments) => pack(arguments),
        Verb::Index(argument) => show(&data::shards::index(&argument.data)?, argument.json),
        Verb::Inspect(argument) => show(&data::shards::inspect(&argument.data)?, argument.json),
        Verb::Verify(argument) => verify(&argument),
    }
}

/// Calls `work` with a progress bar.
fn shown<R>(unit: &str, work: impl FnOnce(data::shards::OnProgress<'_>) -> R) -> R {
    let bar: Mutex<Option<ProgressBar>> = Mutex::new(None);
    let result = work(&|done, total| {
        if let Ok(mut bar) = bar.lock() {
            bar.get_or_insert_with(|| ProgressBar::new(unit, 0, total as u64))
                .at(done as u64);
        }
    });
    if let Ok(Some(bar)) = bar.into_inner() {
        bar.finish();
    }
    result
}

/// An error of an option under the name of its flag.
fn of_flags(error: data::Error) -> anyhow::Error {
    let data::Error::Option { option, reason } = error else {
        return error.into();
    };
    let failure = Failure::new(format!("`--{}` {reason}", option.replace('_', "-")));
    match option {
        "out" => failure.hint("give a new folder as `--out`").into(),
        _ => failure.into(),
    }
}

fn pack(arguments: PackArguments) -> anyhow::Result<()> {
    check_apart(&arguments.source, &arguments.out)?;
    let options = PackOptions {
        records_per_shard: arguments.records_per_shard,
        prefix: arguments.prefix,
        subfolder: arguments.subfolder,
        limit: arguments.limit,
        shuffle_seed: arguments.shuffle_seed,
    };
    let report = shown("record", |progress| {
        data::shards::pack(&arguments.source, &arguments.out, &options, progress)
    });
    let report = report.map_err(of_flags)?;
    for skipped in report.skipped.iter().take(10) {
        eprintln!("skipped `{}`: {}", escape(&skipped.name), skipped.reason);
    }
    if report.skipped.len() > 10 {
        eprintln!("and {} more", report.skipped.len() - 10);
    }
    if report.classes_look_like_splits {
        let names: Vec<String> = report
            .class_names
            .iter()
            .map(|name| format!("`{}`", escape(name)))
            .collect();
        eprintln!(
            "warning: the folders {} are taken as classes, and look like splits: `--subfolder {}` packs one of them by itself",
            names.join(", "),
            escape(&report.class_names[report.class_names.len() - 1])
        );
    }
    if let Some(wrapper) = report.listing.example(Reason::WrapperFolder) {
        eprintln!(
            "hint: `--subfolder {}` packs the folders in it as the classes",
            escape(wrapper)
        );
    }
    eprintln!(
        "{} in {}, {}, fingerprint {}",
        counted(report.records, "record"),
        counted(report.shards.len(), "shard"),
        match report.class_names.len() {
            0 => "no classes".to_owned(),
            1 => "1 class".to_owned(),
            classes => format!("{classes} classes"),
        },
        report.fingerprint
    );
    println!("{}", arguments.out.display());
    Ok(())
}

fn show(inspection: &Inspection, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(inspection)?);
        return Ok(());
    }
    println!("records      {}", inspection.records);
    println!("images       {}", mebibytes(inspection.image_bytes));
    println!(
        "index        {} in memory",
        mebibytes(inspection.index_bytes as u64)
    );
    println!("fingerprint  {}", inspection.fingerprint);
    println!("classes      {}", inspection.classes.len());
    for class in inspection.classes.iter().take(20) {
        println!(
            "  {:>6} {:<24} {}",
            class.class,
            class.name.as_deref().map(escape).unwrap_or_default(),
            class.records
        );
    }
    if inspection.classes.len() > 20 {
        println!(
            "  and {} more; `--json` has them all",
            inspection.classes.len() - 20
        );
    }
    println!("shards       {}", inspection.shards.len());
    for shard in inspection.shards.iter().take(20) {
        let skipped = match shard.skipped.len() {
            0 => String::new(),
            1 => ", 1 member belongs to no record".to_owned(),
            count => format!(", {count} members belong to no record"),
        };
        println!(
            "  {}: {} ({} with metadata), {}{skipped}",
            shard.path.display(),
            counted(shard.records, "record"),
            shard.with_metadata,
            mebibytes(shard.image_bytes)
        );
    }
    if inspection.shards.len() > 20 {
        println!(
            "  and {} more; `--json` has them all",
            inspection.shards.len() - 20
        );
    }
    print_listing(&inspection.listing);
    Ok(())
}

/// What is no record, or is one by a guess.
fn print_listing(listing: &Listing) {
    let lines = listing.lines();
    println!("not as records  {}", lines.len());
    for line in lines {
        println!("  {line}");
    }
}

fn verify(argument: &DataArgument) -> anyhow::Result<()> {
    let verification = shown("record", |progress| {
        data::shards::verify(&argument.data, progress)
    })?;
    if argument.json {
        println!("{}", serde_json::to_string_pretty(&verification)?);
    } else {
        println!("records   {}", verification.records);
        for (kind, members) in [
            ("broken", &verification.broken),
            ("changed", &verification.changed),
            ("altered", &verification.altered),
            ("files", &verification.files),
            ("repeated", &verification.repeated),
            ("no record", &verification.skipped),
        ] {
            println!("{kind:<9} {}", members.len());
            for member in members {
                println!("  {}: {}", escape(&member.name), escape(&member.reason));
            }
        }
        println!("damaged shards {}", verification.damaged.len());
        for shard in &verification.damaged {
            println!(
                "  {}: {} ({} whole records before it)",
                shard.path.display(),
                shard.reason,
                shard.readable_records
            );
        }
        print_listing(&verification.listing);
    }
    if verification.is_sound() && verification.records == 0 {
        let message = format!("`{}` holds no record: there is nothing to verify", argument.data);
        return Err(Failure::new(message)
            .hint("images are members such as `KEY.jpg`; members of no record are listed above")
            .into());
    }
    if verification.is_sound() {
        return Ok(());
    }
    let failure = Failure::new(format!(
        "`{}`: {}, {} changed, {}, {}, {}, {}",
        argument.data,
        counted(verification.broken.len(), "broken image"),
        verification.changed.len(),
        counted(verification.altered.len(), "altered image"),
        counted(verification.files.len(), "wrong file"),
        counted(verification.repeated.len(), "repeated key"),
        counted(verification.damaged.len(), "damaged shard")
    ));
    Err(match cures(&verification, &argument.data) {
        cures if cures.is_empty() => failure.into(),
        cures => failure.hint(cures).into(),
    })
}

/// The cures of the faults that were found, and of no other.
fn cures(verification: &Verification, data: &str) -> String {
    let mut cures = Vec::new();
    if !verification.broken.is_empty() {
        cures.push("training replaces broken images up to `data.max_bad_fraction`".to_owned());
    }
    for hint in verification
        .damaged
        .iter()
        .filter_map(|shard| shard.hint.as_ref())
    {
        let cure = match hint {
            data::Hint::CopyArchive => "copy damaged shards again".to_owned(),
            hint => hints::of_data(hint),
        };
        if !cures.contains(&cure) {
            cures.push(cure);
        }
    }
    if !verification.changed.is_empty() {
        cures.push(format!(
            "if the change was meant, run `passer shards index {}`",
            shell_word(data)
        ));
    }
    if !verification.altered.is_empty() || !verification.files.is_empty() {
        cures.push("copy the altered files again from where they were made".to_owned());
    }
    if !verification.repeated.is_empty() {
        cures.push("rename all records but one of a repeated key".to_owned());
    }
    cures.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::shards::{DamagedShard, SkippedMember};

    #[test]
    fn a_cure_is_named_only_where_its_fault_was_found() {
        let member = || SkippedMember {
            name: "k".into(),
            reason: "r".into(),
        };
        let broken = Verification {
            broken: vec![member()],
            ..Verification::default()
        };
        assert_eq!(
            cures(&broken, "d"),
            "training replaces broken images up to `data.max_bad_fraction`"
        );
        let others = Verification {
            changed: vec![member()],
            repeated: vec![member()],
            ..Verification::default()
        };
        assert_eq!(
            cures(&others, "my data"),
            "if the change was meant, run `passer shards index 'my data'`; rename all records but one of a repeated key"
        );
        for altered in [
            Verification {
                altered: vec![member()],
                ..Verification::default()
            },
            Verification {
                files: vec![member()],
                ..Verification::default()
            },
        ] {
            assert_eq!(
                cures(&altered, "d"),
                "copy the altered files again from where they were made"
            );
        }
        let shard = |hint| DamagedShard {
            path: "s.tar".into(),
            reason: "r".into(),
            readable_records: 0,
            hint,
        };
        let damaged = |hints: Vec<Option<data::Hint>>| Verification {
            damaged: hints.into_iter().map(shard).collect(),
            ..Verification::default()
        };
        let cut = || Some(data::Hint::CopyArchive);
        assert_eq!(
            cures(&damaged(vec![cut(), None, cut()]), "d"),
            "copy damaged shards again"
        );
        assert_eq!(
            cures(&damaged(vec![Some(data::Hint::FetchFromGitLfs)]), "d"),
            "fetch the file itself with `git lfs pull`"
        );
    }
}
