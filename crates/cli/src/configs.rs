//! Config files: one flat TOML, edited by `--set`, read strictly.

use crate::failure::Failure;
use anyhow::Context;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a config. `sets` are `key.path=value` edits, made on the table before it is read as `C`, so that they are
/// checked like the file itself.
pub(crate) fn read<C: DeserializeOwned>(path: &Path, sets: &[String]) -> anyhow::Result<C> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("config `{}` cannot be read", path.display()))?;
    parse(&text, sets).with_context(|| format!("config `{}` is not valid", path.display()))
}

/// [`read`] for a text at hand.
pub(crate) fn parse<C: DeserializeOwned>(text: &str, sets: &[String]) -> anyhow::Result<C> {
    if sets.is_empty() {
        // Straight from the text: errors then name line and column.
        return Ok(toml::from_str(text)?);
    }
    let mut table: toml::Table = text.parse()?;
    for edit in sets {
        set(&mut table, edit)?;
    }
    Ok(C::deserialize(table)?)
}

/// Carries out one `key.path=value`. Numbers in the path index lists.
fn set(table: &mut toml::Table, edit: &str) -> anyhow::Result<()> {
    let bad = |reason: &str| {
        Failure::new(format!("`--set {edit}`: {reason}"))
            .hint("write `--set key.path=value`, as in `--set training.epochs=1`")
    };
    let (path, value) = edit.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    // A value that is no TOML is a string: `--set backbone.resnet.stem=small` needs no quotes.
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys
        .pop()
        .filter(|key| !key.is_empty())
        .ok_or_else(|| bad("the key is empty"))?;
    let Some((first, rest)) = keys.split_first() else {
        table.insert(last.to_string(), value);
        return Ok(());
    };
    let missing = |key: &str| bad(&format!("`{key}` is not in the config"));
    let mut node = table.get_mut(*first).ok_or_else(|| missing(first))?;
    for key in rest {
        node = match node {
            toml::Value::Table(table) => table.get_mut(*key),
            toml::Value::Array(list) => key.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
            _ => None,
        }
        .ok_or_else(|| missing(key))?;
    }
    match node {
        toml::Value::Table(table) => {
            table.insert(last.to_string(), value);
        }
        toml::Value::Array(list) => {
            let place = last.parse::<usize>().ok().and_then(|index| list.get_mut(index));
            *place.ok_or_else(|| missing(last))? = value;
        }
        _ => return Err(missing(last).into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        epochs: usize,
        name: String,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        seed: u64,
        inner: Inner,
        list: Vec<Inner>,
    }
    const TEXT: &str = "seed = 1\ninner = { epochs = 2, name = 'a' }\nlist = [{ epochs = 3, name = 'b' }]";

    #[test]
    fn edits_reach_tables_lists_and_bare_words() {
        let sets = ["seed=7", "inner.name=small", "list.0.epochs=9"].map(String::from);
        let outer: Outer = parse(TEXT, &sets).unwrap();
        assert_eq!(
            (outer.seed, outer.inner.name.as_str(), outer.list[0].epochs),
            (7, "small", 9)
        );
    }

    #[test]
    fn edits_are_as_strict_as_the_file() {
        let error = |set: &str| format!("{:#}", parse::<Outer>(TEXT, &[set.to_string()]).unwrap_err());
        assert!(error("inner.epoch=3").contains("unknown field `epoch`"));
        assert!(error("inne.epochs=3").contains("`inne` is not in the config"));
        assert!(error("list.4.epochs=3").contains("`4` is not in the config"));
        assert!(error("seed").contains("no `=`"));
        assert!(error("seed=many").contains("invalid type"));
    }
}
