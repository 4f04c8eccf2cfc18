//! `passer completions`: a shell in, the script that completes this program's words out, with the names of the shipped configs where
//! a config is read.

use crate::configs::Kind;
use crate::configs::shipped::{SHIPPED, stem};
use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::{Shell, generate};

/// A verb that takes a config.
struct TakesConfig {
    verb: &'static [&'static str],
    /// The argument's name.
    argument: &'static str,
    /// The kinds that it takes; empty: all.
    kinds: &'static [Kind],
}

const TAKE_CONFIGS: [TakesConfig; 8] = [
    of(&["pretrain"], "config", &[Kind::Pretraining]),
    of(&["views"], "config", &[Kind::Pretraining]),
    of(&["evaluate", "run"], "config", &[Kind::Evaluation]),
    of(&["evaluate", "features"], "config", &[Kind::Evaluation]),
    of(
        &["evaluate", "finetune"],
        "config",
        &[Kind::FineTuning, Kind::Detection],
    ),
    of(&["evaluate", "suite"], "file", &[Kind::Suite]),
    of(&["curate", "run"], "config", &[Kind::Curation]),
    of(&["config", "show"], "name", &[]),
];

const fn of(verb: &'static [&'static str], argument: &'static str, kinds: &'static [Kind]) -> TakesConfig {
    TakesConfig {
        verb,
        argument,
        kinds,
    }
}

impl TakesConfig {
    /// The names that it takes.
    fn names(&self) -> Vec<&'static str> {
        let is = |text: &str| {
            self.kinds.is_empty() || Kind::of(text).is_some_and(|kind| self.kinds.contains(&kind))
        };
        let configs = SHIPPED
            .iter()
            .filter(|(name, text)| name.ends_with(".toml") && is(text));
        let mut names: Vec<&str> = configs.map(|(name, _)| stem(name)).collect();
        names.sort_unstable();
        // A name that several have is none.
        let is_alone = |name: &&str| names.iter().filter(|other| *other == name).count() == 1;
        names.iter().copied().filter(is_alone).collect()
    }

    /// The command with these names as values of the argument.
    fn named(&self, command: Command) -> Command {
        let named = |command: Command| {
            command.mut_arg(self.argument, |argument| {
                argument.value_parser(PossibleValuesParser::new(self.names()))
            })
        };
        self.within(command, 0, &named)
    }

    fn within(&self, command: Command, depth: usize, change: &dyn Fn(Command) -> Command) -> Command {
        match self.verb.get(depth) {
            None => change(command),
            Some(verb) => command.mut_subcommand(verb, |inner| self.within(inner, depth + 1, change)),
        }
    }
}

/// The script of a shell.
pub(crate) fn script(shell: Shell, mut command: Command) -> String {
    if shell == Shell::Bash {
        // There the shell adds files itself, where no name fits.
        command = TAKE_CONFIGS
            .iter()
            .fold(command, |command, verb| verb.named(command));
    }
    let mut script = vec![];
    generate(shell, &mut command, "passer", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Zsh => zsh(script),
        Shell::Fish => TAKE_CONFIGS
            .iter()
            .fold(script, |script, verb| script + &fish(verb)),
        _ => script,
    }
}

/// Names besides the files that the generated line offers.
fn fish(verb: &TakesConfig) -> String {
    let condition = match verb.verb {
        [verb, inner] => {
            format!("__fish_passer_using_subcommand {verb}; and __fish_seen_subcommand_from {inner}")
        }
        verb => format!("__fish_passer_using_subcommand {}", verb.join(" ")),
    };
    format!(
        "complete -c passer -n \"{condition}\" -a \"{}\" -d 'shipped config'\n",
        verb.names().join(" ")
    )
}

/// The script with a function for each verb that offers names and files, in place of files alone.
fn zsh(mut script: String) -> String {
    let mut functions = String::new();
    for verb in &TAKE_CONFIGS {
        let function = format!("_passer_configs_of_{}", verb.verb.join("_"));
        functions += &format!(
            "{function}() {{\n    _alternative 'configs:shipped config:({})' 'files:file:_files'\n}}\n",
            verb.names().join(" ")
        );
        // `(pretrain)`, then the lines of its arguments up to `&& ret=0`.
        let mut at = 0;
        for word in verb.verb {
            let case = format!("({word})\n");
            at += script[at..].find(&case).map_or(0, |found| found + case.len());
        }
        let argument = format!("':{} -- ", verb.argument);
        let line = script[at..].find(&argument).map(|found| at + found);
        let end = line.and_then(|line| Some((line, line + script[line..].find("' \\\n")?)));
        if let Some((line, end)) = end
            && let Some(action) = script[line..end].rfind(':')
        {
            script.replace_range(line + action + 1..end, &function);
        }
    }
    match script.find("if [ \"$funcstack[1]\"") {
        Some(tail) => script.insert_str(tail, &functions),
        None => script += &functions,
    }
    script
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_verb_that_takes_a_config_offers_the_names_of_its_kind() {
        let of = |verb: &[&str]| {
            let found = TAKE_CONFIGS.iter().find(|takes| takes.verb == verb);
            found.unwrap().names()
        };
        assert!(of(&["pretrain"]).contains(&"quickstart") && of(&["pretrain"]).contains(&"mae-vit-cifar10"));
        assert!(of(&["evaluate", "run"]).contains(&"knn"));
        assert!(!of(&["pretrain"]).contains(&"knn"));
        // Two configs have this name.
        assert!(!of(&["config", "show"]).contains(&"quickstart"));
        for takes in &TAKE_CONFIGS {
            assert!(!takes.names().is_empty(), "{:?}", takes.verb);
        }
        let names = of(&["pretrain"]).join(" ");
        let zsh = script(Shell::Zsh, crate::command());
        assert_eq!(zsh.matches(":_passer_configs_of_").count(), TAKE_CONFIGS.len());
        assert!(zsh.contains("as in configs/pretrain/:_passer_configs_of_pretrain' \\\n"));
        assert!(zsh.contains(&format!("shipped config:({names})")));
        let fish = script(Shell::Fish, crate::command());
        assert!(fish.contains(&format!(
            "-n \"__fish_passer_using_subcommand pretrain\" -a \"{names}\""
        )));
    }
}
