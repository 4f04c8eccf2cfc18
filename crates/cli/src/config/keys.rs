//! `passer config keys` and `passer config schema`: the keys of config files for people, programs and editors.

use crate::configs::Kind;
use crate::failure::Failure;
use crate::output::wrapped;
use crate::schema::{self, Key};
use clap::ValueEnum;

#[derive(clap::Args)]
pub(crate) struct KeysArguments {
    /// A kind of config (pretrain, finetune, detection, evaluate, suite, dataset or curate), or words that the key or its
    /// sentence must hold
    #[arg(value_name = "KIND|WORD")]
    words: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct SchemaArguments {
    /// The kind of config file
    kind: Kind,
}

/// Width of a line of a sentence.
const WIDTH: usize = 110;

pub(super) fn list(arguments: &KeysArguments) -> anyhow::Result<()> {
    let (kind, words) = match arguments.words.split_first() {
        Some((first, rest)) => match Kind::from_str(first, true) {
            Ok(kind) => (Some(kind), rest),
            Err(_) => (None, arguments.words.as_slice()),
        },
        None => (None, arguments.words.as_slice()),
    };
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let kinds = Kind::ALL
        .into_iter()
        .filter(|of| kind.is_none_or(|kind| kind == *of));
    let mut known: Vec<Key> = vec![];
    let mut found: Vec<Key> = vec![];
    for kind in kinds {
        let keys = schema::keys(kind);
        let matching: Vec<Key> = keys.iter().filter(|key| holds(key, &words)).cloned().collect();
        // Only for keys that are shown: a range costs readings of a config.
        if !matching.is_empty() {
            found.extend(schema::with_ranges(kind, matching));
        }
        known.extend(keys);
    }
    if found.is_empty() {
        return Err(none(&words, &known).into());
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    for key in &found {
        print(key);
    }
    Ok(())
}

/// Whether all words are in a key's path or sentence.
fn holds(key: &Key, words: &[String]) -> bool {
    let text = format!("{} {}", key.path, key.description).to_lowercase();
    words.iter().all(|word| text.contains(word))
}

/// The error for words that no key holds, with the key that is spelled most like the first.
fn none(words: &[String], known: &[Key]) -> Failure {
    let wanted = words.first().map_or("", String::as_str);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let nearest = known.iter().min_by_key(|key| {
        let whole = strsim::levenshtein(&key.path, wanted);
        strsim::levenshtein(&last(&key.path), wanted).min(whole)
    });
    let message = format!("no key of a config holds `{}`", words.join("` and `"));
    Failure::new(message).hint(match nearest {
        Some(key) => format!(
            "the nearest is `{}` of {}; `passer config keys` lists all",
            key.path, key.kind
        ),
        None => "`passer config keys` lists all".into(),
    })
}

fn print(key: &Key) {
    let mut facts = vec![key.of_type.clone()];
    facts.extend(key.range.clone());
    match (key.required, &key.default) {
        (true, _) => facts.push("required".into()),
        (false, Some(default)) => facts.push(format!("absent: {default}")),
        (false, None) => facts.push("optional".into()),
    }
    println!("{} {}", key.kind, key.path);
    lines("    ", &facts.join("; "));
    lines("    ", &key.description);
    for choice in key.choices.iter().filter(|choice| !choice.description.is_empty()) {
        lines("      ", &format!("`{}`: {}", choice.name, choice.description));
    }
    if !key.papers.is_empty() {
        lines("    ", &format!("papers: {}", key.papers.join(", ")));
    }
}

/// A text in lines of at most [`WIDTH`].
fn lines(indent: &str, text: &str) {
    for line in wrapped(text, WIDTH - indent.len()) {
        println!("{indent}{line}");
    }
}

pub(super) fn schema(arguments: &SchemaArguments) -> anyhow::Result<()> {
    println!(
        "{}",
        serde_json::to_string_pretty(&schema::bounded(arguments.kind))?
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_no_key_holds_gets_the_nearest() {
        let known = schema::keys(Kind::Pretraining);
        let failure = anyhow::Error::from(none(&["momentun".into()], &known));
        let message = crate::failure::in_one_line(&failure);
        assert!(
            message.starts_with("no key of a config holds `momentun`; the nearest is `"),
            "{message}"
        );
        assert!(message.contains("momentum` of pretrain"), "{message}");
    }
}
