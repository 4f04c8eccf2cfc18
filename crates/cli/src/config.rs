//! `passer config`: the configs that the program carries, listed and printed.

use crate::configs::Kind;
use crate::configs::shipped::{SHIPPED, named, nearest};
use crate::failure::Failure;
use std::path::Path;

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// List the shipped configs, with what each is for
    List(ListArguments),
    /// Print a shipped config, to start one's own from
    Show(ShowArguments),
}

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    /// Only those whose path or description holds this word; may be repeated
    words: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct ShowArguments {
    /// Its name (`mae-vit-cifar10`) or path (`configs/pretrain/mae-vit-cifar10.toml`)
    name: String,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List(arguments) => list(&arguments),
        Verb::Show(arguments) => show(&arguments.name),
    }
}

/// What a config says of itself in its first line.
fn description(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix('#').unwrap_or_default().trim()
}

fn list(arguments: &ListArguments) -> anyhow::Result<()> {
    let wanted = |(name, text): &&(&str, &str)| {
        let shown = format!("{name} {}", description(text)).to_lowercase();
        name.ends_with(".toml")
            && arguments
                .words
                .iter()
                .all(|word| shown.contains(&word.to_lowercase()))
    };
    let found: Vec<_> = SHIPPED.iter().filter(wanted).collect();
    if arguments.json {
        let of = |(name, text): &&(&str, &str)| {
            serde_json::json!({
                "path": format!("configs/{name}"),
                "kind": Kind::of(text).map(Kind::name),
                "description": description(text),
            })
        };
        let all: Vec<_> = found.iter().map(of).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    if found.is_empty() {
        return Err(Failure::new(format!(
            "no shipped config holds `{}`",
            arguments.words.join("` and `")
        ))
        .hint("`passer config list` lists all")
        .into());
    }
    for (name, text) in found {
        println!("configs/{name}\n    {}", description(text));
    }
    Ok(())
}

fn show(name: &str) -> anyhow::Result<()> {
    let Some((_, text)) = named(Path::new(name)) else {
        let failure = Failure::new(format!(
            "there is no shipped config `{name}`, or several have this name"
        ));
        let hint = match nearest(Path::new(name)) {
            Some(near) => format!("the nearest is configs/{near}; `passer config list` lists all"),
            None => "`passer config list` lists all".into(),
        };
        return Err(failure.hint(hint).into());
    };
    print!("{text}");
    Ok(())
}
