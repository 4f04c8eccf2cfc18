//! Every `passer …` line of the pages, and every command in a message, is one that the program understands.

use super::pages;
use crate::{files, root};
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Words of a shell command line, without its comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ';') => {
                words.extend(word.take());
                words.push(";".into());
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The calls of `passer` in a line, each without the program's name.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = words(line);
    let commands = words.split(|word| word == ";" || word == "&&" || word == "|");
    let call = |command: &[String]| {
        let command: Vec<String> = command
            .iter()
            .skip_while(|word| {
                // Environment variables come first.
                let name = word.split_once('=').map_or("", |(name, _)| name);
                !name.is_empty()
                    && name
                        .chars()
                        .all(|letter| letter.is_ascii_uppercase() || letter == '_')
            })
            .cloned()
            .collect();
        let first = command.first()?;
        if first == "passer" || first.ends_with("/passer") {
            return Some(command[1..].to_vec());
        }
        let cargo = first == "cargo"
            && command.get(1).is_some_and(|verb| verb == "run")
            && !command.iter().any(|word| word == "--example");
        let at = command.iter().position(|word| word == "--").filter(|_| cargo)?;
        Some(command[at + 1..].to_vec())
    };
    commands.filter_map(call).collect()
}

/// The commands that a synopsis covers: with and without `[--json]`, each of `A|B`, one repetition for `...`.
fn spelled_out(call: &[String]) -> Vec<Vec<String>> {
    let without = |optional: bool| {
        let mut depth = 0;
        let mut found = vec![];
        for word in call {
            let opens = word.starts_with('[');
            depth += usize::from(opens);
            if depth == 0 || optional {
                // A repetition: one is enough. Alone it means more arguments.
                let word = match word.as_str() {
                    "..." => word,
                    _ => word.trim_end_matches("..."),
                };
                let word = if depth > 0 {
                    word.trim_start_matches('[').trim_end_matches(']')
                } else {
                    word
                };
                found.push(word.to_owned());
            }
            if depth > 0 && word.trim_end_matches("...").ends_with(']') {
                depth -= 1;
            }
        }
        found
    };
    let mut commands = vec![];
    for command in [without(false), without(true)] {
        let most = command
            .iter()
            .map(|word| word.split('|').count())
            .max()
            .unwrap_or(1);
        for choice in 0..most {
            let chosen = |word: &String| {
                let kinds: Vec<&str> = word.split('|').collect();
                kinds[choice.min(kinds.len() - 1)].to_owned()
            };
            commands.push(command.iter().map(chosen).collect());
        }
    }
    commands
}

/// Parses a call like the program. A placeholder in capitals may stand for a value of any type.
fn parse(mut call: Vec<String>) -> Result<(), String> {
    let more = call
        .last()
        .is_some_and(|last| matches!(last.as_str(), "…" | "..."));
    if more {
        call.pop();
    }
    let placeholder = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || "_:.-".contains(letter))
    };
    let candidates = || ["1", "127.0.0.1:1", "0.5"].iter();
    // The current placeholder, and the values that it has not stood for yet.
    let mut asked: Option<(usize, std::slice::Iter<'_, &str>)> = None;
    loop {
        let arguments = std::iter::once("passer").chain(call.iter().map(String::as_str));
        let Err(error) = cli::command().try_get_matches_from(arguments) else {
            return Ok(());
        };
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Ok(()),
            ErrorKind::MissingRequiredArgument if more => return Ok(()),
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
                let value = error.get(ContextKind::InvalidValue);
                let value = match value {
                    Some(ContextValue::String(value)) => value.clone(),
                    _ => String::new(),
                };
                let known = match error.get(ContextKind::ValidValue) {
                    Some(ContextValue::Strings(values)) => values.first().cloned(),
                    _ => None,
                };
                let (at, mut untried) = match asked.take().filter(|(at, _)| call[*at] == value) {
                    Some(asked) => asked,
                    None => match call.iter().position(|word| *word == value && placeholder(word)) {
                        Some(at) => (at, candidates()),
                        None => return Err(error.to_string()),
                    },
                };
                call[at] = match known.or_else(|| untried.next().map(|value| (*value).to_owned())) {
                    Some(value) => value,
                    None => return Err(error.to_string()),
                };
                asked = Some((at, untried));
            }
            _ => return Err(error.to_string()),
        }
    }
}

#[test]
fn commands_are_read_as_a_shell_and_a_reader_would() {
    assert_eq!(
        calls("A_B=/x passer a 'b c' --d=\"e\"   # f; passer g"),
        [["a", "b c", "--d=e"]]
    );
    assert_eq!(calls("cargo run --release -- quickstart"), [["quickstart"]]);
    assert_eq!(calls("python3 x.py; passer devices").len(), 1);
    assert!(calls("cargo build --release    # target/release/passer").is_empty());
    let call = calls("passer curate audit DIR [--draw N --seed SEED] [--json]");
    let all = spelled_out(&call[0]);
    assert_eq!(all[0], ["curate", "audit", "DIR"]);
    assert_eq!(all[1].len(), 8);
    for command in all {
        parse(command).unwrap();
    }
    let wrong = |line: &str| parse(calls(line)[0].clone()).unwrap_err();
    assert!(wrong("passer curate audit DIR --drwa N").contains("--drwa"));
    assert!(wrong("passer curate audit DIR --draw few").contains("few"));
    assert!(wrong("passer pretrian").contains("pretrian"));
    assert!(
        wrong("passer pretrain CONFIG …  --nonsense").contains('…')
            || wrong("passer nonsense …").contains("nonsense")
    );
}

/// Messages, hints and help name commands in backquotes; a user types them as they are.
#[test]
fn every_command_in_a_message_is_understood_by_the_program() {
    let mut wrong = vec![];
    let mut count = 0;
    for path in files(&root().join("crates"), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        if path.ends_with("tests.rs") {
            continue;
        }
        // Literals that go on in the next line, and what `format!` fills in.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = text
            .split("\\\n")
            .map(str::trim_start)
            .collect::<Vec<_>>()
            .concat();
        for (at, _) in lines.match_indices("`passer ") {
            let Some(command) = lines[at + 1..].split('`').next() else {
                continue;
            };
            let plain = filled_in(command);
            if plain.contains('\n') || plain.contains('…') {
                continue;
            }
            for mut call in calls(&plain) {
                // A command may be named without the arguments that it requires.
                call.push("…".to_owned());
                count += 1;
                if let Err(error) = parse(call)
                    && !is_shortened(&error)
                {
                    let file = path.strip_prefix(root()).unwrap().display();
                    wrong.push(format!("{file}: `{command}`: {error}"));
                }
            }
        }
    }
    assert!(count > 40, "{count}");
    assert!(
        wrong.is_empty(),
        "commands that the program refuses:\n{}",
        wrong.join("\n")
    );
}

/// Whether an error is only about what a shortened command leaves out: its verb, or an option's value.
fn is_shortened(error: &str) -> bool {
    !error.starts_with("error:")
        || error.contains("requires a subcommand")
        || error.contains("a value is required")
}

/// A command of a format string, with a word for each value.
fn filled_in(command: &str) -> String {
    let mut plain = String::new();
    let mut rest = command;
    while let Some((before, value)) = rest.split_once('{') {
        plain.push_str(before);
        plain.push_str("VALUE");
        rest = value.split_once('}').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[test]
fn every_passer_line_is_understood_by_the_program() {
    let mut lines = vec![];
    for page in pages() {
        for block in page.parts().0 {
            // Blocks in other languages hold no command line.
            if !["", "sh", "bash", "shell", "console", "text"].contains(&block.info.as_str()) {
                continue;
            }
            let numbered = block.lines.iter().enumerate();
            lines.extend(
                numbered.map(|(at, line)| (format!("{}:{}", page.name, block.line + at), line.clone())),
            );
        }
    }
    for path in files(&root().join("configs"), ".toml") {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let run = text.lines().find_map(|line| line.strip_prefix("# Run:"));
        lines.extend(run.map(|run| (name, run.to_owned())));
    }
    let mut wrong = vec![];
    let mut count = 0;
    for (place, line) in lines {
        let line = line.trim_start_matches(['$', ' ']);
        for call in calls(line) {
            for command in spelled_out(&call) {
                count += 1;
                if let Err(error) = parse(command.clone()) {
                    wrong.push(format!("{place}: passer {}: {error}", command.join(" ")));
                }
            }
        }
    }
    assert!(count > 50, "{count}");
    assert!(
        wrong.is_empty(),
        "commands that the program refuses:\n{}",
        wrong.join("\n")
    );
}
