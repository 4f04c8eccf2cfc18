//! The configs that the program carries: those of `configs/` at its build.

use std::borrow::Cow;
use std::path::Path;

/// The path of each below `configs/`, and its text; sorted.
pub(crate) const SHIPPED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// The text of a config: the file at `path`, or, where there is none, the shipped one of that path (`configs/pretrain/NAME.toml`) or
/// name (`NAME`).
///
/// # Errors
/// A file that cannot be read, and is none of the shipped ones.
pub(crate) fn text(path: &Path) -> std::io::Result<Cow<'static, str>> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match named(path) {
            Some((_, text)) => Ok(Cow::Borrowed(text)),
            None => Err(error),
        },
        read => read.map(Cow::Owned),
    }
}

/// The shipped config of this path or name.
pub(crate) fn named(path: &Path) -> Option<(&'static str, &'static str)> {
    let wanted = path.to_str()?;
    let wanted = wanted.strip_prefix("./").unwrap_or(wanted);
    let wanted = wanted.strip_prefix("configs/").unwrap_or(wanted);
    let of_path = SHIPPED.iter().find(|(name, _)| *name == wanted);
    of_path.or_else(|| by_name(wanted)).copied()
}

/// The one shipped config with this name, without folder and ending.
fn by_name(wanted: &str) -> Option<&'static (&'static str, &'static str)> {
    let mut found = SHIPPED.iter().filter(|(name, _)| stem(name) == wanted);
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

/// `moco-v2-resnet50-pass` of `pretrain/moco-v2-resnet50-pass.toml`.
fn stem(name: &str) -> &str {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.strip_suffix(".toml").unwrap_or(file)
}

/// The shipped config whose name is nearest to that of `path`, if one is near.
pub(crate) fn nearest(path: &Path) -> Option<&'static str> {
    let wanted = path.file_stem()?.to_str()?;
    let distance = |name: &str| strsim::levenshtein(stem(name), wanted);
    let names = SHIPPED.iter().map(|(name, _)| *name);
    names
        .min_by_key(|name| distance(name))
        .filter(|name| 3 * distance(name) <= wanted.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_config_is_found_by_path_and_by_name_and_a_file_comes_first() {
        let moco = "moco-v2-resnet50-pass";
        let (name, text) = named(Path::new(moco)).unwrap();
        assert_eq!(name, format!("pretrain/{moco}.toml"));
        assert!(text.contains("[objective.moco]"));
        for path in [
            format!("configs/pretrain/{moco}.toml"),
            format!("./configs/pretrain/{moco}.toml"),
            format!("pretrain/{moco}.toml"),
        ] {
            assert_eq!(named(Path::new(&path)), Some((name, text)), "{path}");
        }
        // Two configs have this name, in two folders.
        assert_eq!(named(Path::new("quickstart")), None);
        assert_eq!(named(Path::new("/elsewhere/knn.toml")), None);
        assert_eq!(
            nearest(Path::new("configs/pretrain/moco-v2-resnet5-pass.toml")),
            Some("pretrain/moco-v2-resnet50-pass.toml")
        );
        assert_eq!(nearest(Path::new("no-such.toml")), None);
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("knn.toml");
        std::fs::write(&own, "own").unwrap();
        assert_eq!(super::text(&own).unwrap(), "own");
        let missing = super::text(&folder.path().join("other.toml")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}
