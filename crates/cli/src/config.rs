//! `passer config`: the configs that the program carries, listed and printed; keys and schemas of configs; new configs.

mod keys;
mod new;

use crate::configs::Kind;
use crate::configs::shipped::{self, SHIPPED, named};
use crate::failure::Failure;
use std::path::Path;

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// List the shipped configs, with what each is for
    List(ListArguments),
    /// Print a shipped config, to start one's own from
    Show(ShowArguments),
    /// List the keys of config files: type, range, default, what each says, and the papers behind it
    Keys(keys::KeysArguments),
    /// Print the JSON Schema of a kind of config file, with which editors complete and check
    Schema(keys::SchemaArguments),
    /// Write a complete, commented pretraining config for data of one's own, scaled from a shipped one
    New(new::Arguments),
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
        Verb::Keys(arguments) => keys::list(&arguments),
        Verb::Schema(arguments) => keys::schema(&arguments),
        Verb::New(arguments) => new::run(&arguments),
    }
}

/// What a config says of itself in its first line, to the end of the sentence.
fn description(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix('#'));
    let lines: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
    let mut whole = lines.join(" ");
    let first = lines.first().map_or(0, |line| line.len());
    let ends = |at: &usize| {
        let behind = whole[at + 1..].trim_start().chars().next();
        let is_apart = whole[at + 1..].starts_with(' ') || behind.is_none();
        is_apart && behind.is_none_or(|letter| !letter.is_lowercase())
    };
    let mut stops = whole.match_indices('.').map(|(at, _)| at);
    if let Some(end) = stops.find(|at| at + 1 >= first && ends(at)) {
        whole.truncate(end + 1);
    }
    whole
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
    if found.is_empty() {
        return Err(Failure::new(format!(
            "no shipped config holds `{}`",
            arguments.words.join("` and `")
        ))
        .hint("`passer config list` lists all")
        .into());
    }
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
    for (name, text) in found {
        println!("configs/{name}\n    {}", description(text));
    }
    Ok(())
}

fn show(name: &str) -> anyhow::Result<()> {
    let path = Path::new(name);
    let Some((_, text)) = named(path, &[]) else {
        let twice = SHIPPED
            .iter()
            .filter(|(known, _)| shipped::stem(known) == name)
            .count();
        let message = match twice {
            0 => format!("there is no shipped config `{name}`"),
            count => format!("{count} shipped configs have the name `{name}`"),
        };
        return Err(Failure::new(message).hint(shipped::hint(path, &[])).into());
    };
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_description_ends_with_its_sentence() {
        for (text, expected) in [
            ("# One line.\nseed = 0", "One line."),
            (
                "# Two sentences. In one line.\n# More.",
                "Two sentences. In one line.",
            ),
            (
                "# Photos of docs/a.md, which\n# goes on, e.g. here. Another.\n",
                "Photos of docs/a.md, which goes on, e.g. here.",
            ),
            ("# No end\n#\n# Another paragraph.", "No end"),
            ("# No end\nseed = 0 # a.", "No end"),
            ("seed = 0", ""),
        ] {
            assert_eq!(description(text), expected);
        }
        for (name, text) in SHIPPED.iter().filter(|(name, _)| name.ends_with(".toml")) {
            let description = description(text);
            assert!(
                description.ends_with('.') || description.ends_with(':'),
                "{name}: {description}"
            );
        }
    }
}
