//! The configs that the program carries: those of `configs/` at its build.

use super::Kind;
use std::borrow::Cow;
use std::path::Path;

/// The path of each below `configs/`, and its text; sorted.
pub(crate) const SHIPPED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// The text of a config: the file at `path`, or, where there is none, the shipped one of that path (`configs/pretrain/NAME.toml`) or
/// name (`NAME`), then with its path below `configs/`. `kinds`: what is expected, which chooses among several of one name.
///
/// # Errors
/// A file that cannot be read, and is none of the shipped ones.
pub(crate) fn text(
    path: &Path,
    kinds: &[Kind],
) -> std::io::Result<(Cow<'static, str>, Option<&'static str>)> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match named(path, kinds) {
            Some((name, text)) => Ok((Cow::Borrowed(text), Some(name))),
            None => Err(error),
        },
        read => Ok((Cow::Owned(read?), None)),
    }
}

type Shipped = (&'static str, &'static str);

/// The shipped config of this path or name.
pub(crate) fn named(path: &Path, kinds: &[Kind]) -> Option<Shipped> {
    let wanted = path.to_str()?;
    let wanted = wanted.strip_prefix("./").unwrap_or(wanted);
    let wanted = wanted.strip_prefix("configs/").unwrap_or(wanted);
    if let Some(of_path) = SHIPPED.iter().find(|(name, _)| *name == wanted) {
        return Some(*of_path);
    }
    let of_name: Vec<Shipped> = all().filter(|(name, _)| stem(name) == wanted).collect();
    match of_name.as_slice() {
        [only] => Some(*only),
        several => match of_kinds(several, kinds).as_slice() {
            [only] => Some(*only),
            _ => None,
        },
    }
}

/// Without the files that are no configs.
fn all() -> impl Iterator<Item = Shipped> {
    SHIPPED
        .iter()
        .copied()
        .filter(|(name, _)| name.ends_with(".toml"))
}

/// The texts of one kind.
pub(crate) fn of_kind(kind: Kind) -> impl Iterator<Item = &'static str> {
    all()
        .map(|(_, text)| text)
        .filter(move |text| Kind::of(text) == Some(kind))
}

fn of_kinds(shipped: &[Shipped], kinds: &[Kind]) -> Vec<Shipped> {
    let is = |(_, text): &Shipped| Kind::of(text).is_some_and(|kind| kinds.contains(&kind));
    shipped.iter().copied().filter(is).collect()
}

/// `moco-v2-resnet50-pass` of `pretrain/moco-v2-resnet50-pass.toml`.
pub(crate) fn stem(name: &str) -> &str {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.strip_suffix(".toml").unwrap_or(file)
}

/// The shipped configs whose names are nearest to that of `path`: those of this name, or those with it in theirs, or the one that is
/// spelled most like it, or those with a word that is spelled nearly so. Those of the expected kinds, if there are any.
fn nearest(path: &Path, kinds: &[Kind]) -> Vec<&'static str> {
    let Some(wanted) = path.file_stem().and_then(|name| name.to_str()) else {
        return vec![];
    };
    let preferred = |found: Vec<Shipped>| match of_kinds(&found, kinds) {
        expected if expected.is_empty() => found,
        expected => expected,
    };
    let holds = |(name, _): &Shipped| match stem(name) {
        // One or two letters are in every other name.
        _ if wanted.len() < 3 => false,
        name => name.contains(wanted),
    };
    let distance = |name: &str| strsim::levenshtein(stem(name), wanted);
    let is_near = |(name, _): &Shipped| 3 * distance(name) <= wanted.len();
    let found_by = |is_found: &dyn Fn(&Shipped) -> bool| {
        let mut found = preferred(all().filter(is_found).collect());
        found.sort_by_key(|(name, _)| distance(name));
        found
    };
    let mut found = found_by(&|(name, _)| stem(name) == wanted);
    if found.is_empty() {
        found = found_by(&holds);
    }
    if found.is_empty() {
        found = found_by(&is_near);
        found.truncate(1);
    }
    if found.is_empty() && wanted.len() >= 3 {
        // A word of it, misspelled: `mea`.
        let has_word = |(name, _): &Shipped| {
            let mut words = stem(name).split('-');
            words.any(|word| 3 * strsim::osa_distance(word, wanted) <= wanted.len())
        };
        found = found_by(&has_word);
    }
    found.into_iter().map(|(name, _)| name).collect()
}

/// What to write in place of a name that no shipped config has, or several have.
pub(crate) fn hint(path: &Path, kinds: &[Kind]) -> String {
    const SHOWN: usize = 3;
    let names = nearest(path, kinds);
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("configs/{name}"))
        .collect();
    let word = path.file_stem().unwrap_or_default().to_string_lossy();
    match (shown.as_slice(), names.len()) {
        ([], _) => "`passer config list` has the shipped ones".into(),
        ([one], _) => format!("a shipped one is {one}; `passer config list` has all"),
        (shown, count) if count <= SHOWN => {
            format!(
                "shipped ones are {}; `passer config list` has all",
                shown.join(", ")
            )
        }
        (shown, count) => format!(
            "shipped ones are {} and {} more: `passer config list {word}` has them",
            shown.join(", "),
            count - SHOWN
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_config_is_found_by_path_and_by_name_and_a_file_comes_first() {
        let moco = "moco-v2-resnet50-pass";
        let (name, text) = named(Path::new(moco), &[]).unwrap();
        assert_eq!(name, format!("pretrain/{moco}.toml"));
        assert!(text.contains("[objective.moco]"));
        for path in [
            format!("configs/pretrain/{moco}.toml"),
            format!("./configs/pretrain/{moco}.toml"),
            format!("pretrain/{moco}.toml"),
        ] {
            assert_eq!(named(Path::new(&path), &[]), Some((name, text)), "{path}");
        }
        assert_eq!(named(Path::new("/elsewhere/knn.toml"), &[]), None);
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("knn.toml");
        std::fs::write(&own, "own").unwrap();
        assert_eq!(super::text(&own, &[]).unwrap(), ("own".into(), None));
        let (text, name) = super::text(Path::new("knn"), &[]).unwrap();
        assert_eq!(name, Some("evaluate/knn.toml"));
        assert!(text.contains("[[protocols]]"));
        let missing = super::text(&folder.path().join("other.toml"), &[]).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn of_two_configs_with_one_name_the_expected_kind_is_meant() {
        let quickstart = |kinds: &[Kind]| named(Path::new("quickstart"), kinds).map(|(name, _)| name);
        assert_eq!(quickstart(&[Kind::Pretraining]), Some("pretrain/quickstart.toml"));
        assert_eq!(quickstart(&[Kind::Evaluation]), Some("evaluate/quickstart.toml"));
        assert_eq!(quickstart(&[]), None);
        assert_eq!(quickstart(&[Kind::Suite]), None);
        assert_eq!(
            hint(Path::new("quickstart"), &[]),
            "shipped ones are configs/evaluate/quickstart.toml, configs/pretrain/quickstart.toml; `passer config list` has all"
        );
    }

    #[test]
    fn the_nearest_names_are_those_that_hold_the_word_or_are_spelled_like_it() {
        let hint = |name: &str, kind| hint(Path::new(name), &[kind]);
        assert_eq!(
            hint("configs/pretrain/moco-v2-resnet5-pass.toml", Kind::Pretraining),
            "a shipped one is configs/pretrain/moco-v2-resnet50-pass.toml; `passer config list` has all"
        );
        // Fine-tunings of MAE's have other purposes.
        let of_mae = nearest(Path::new("mae"), &[Kind::Pretraining]);
        assert!(!of_mae.is_empty());
        assert!(
            of_mae.iter().all(|name| name.starts_with("pretrain/mae-")),
            "{of_mae:?}"
        );
        for word in ["mae", "mea", "mase"] {
            assert!(
                hint(word, Kind::Pretraining).starts_with("shipped ones are configs/pretrain/mae-"),
                "{word}"
            );
        }
        assert_eq!(
            hint("no-such.toml", Kind::Pretraining),
            "`passer config list` has the shipped ones"
        );
        assert_eq!(
            hint("v", Kind::Pretraining),
            "`passer config list` has the shipped ones"
        );
    }
}
