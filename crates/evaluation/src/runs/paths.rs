//! Absolute paths of this machine in, what a page for others shows of them out.

use std::path::{Component, Path, PathBuf};

/// The folder that a run directory lies in, from which the page names what lies beside the run.
pub(super) fn folder_of(run: &Path) -> PathBuf {
    let run = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    run.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A word of a command, or a value of a config, whose absolute paths are relative to the run where they lie beside it
/// (`../first`), and otherwise a name alone (`…/photos`). `folder` is that of [`folder_of`].
pub(super) fn shown(word: &str, folder: &Path) -> String {
    let Some(start) = start_of_path(word) else {
        return word.to_owned();
    };
    let (before, path) = word.split_at(start);
    // A text in quotes ends with its quote.
    let quote = before.chars().next_back().filter(|mark| "\"'".contains(*mark));
    let end = quote.and_then(|quote| path.find(quote)).unwrap_or(path.len());
    let (path, behind) = path.split_at(end);
    format!("{before}{}{behind}", without_folders(Path::new(path), folder))
}

/// A text with [`shown`] in place of each of these values.
pub(super) fn all_shown<'v>(text: &str, values: impl Iterator<Item = &'v str>, folder: &Path) -> String {
    let mut values: Vec<&str> = values.filter(|value| start_of_path(value).is_some()).collect();
    // One may begin with another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    let replace = |text: String, value: &&str| text.replace(*value, &shown(value, folder));
    values.iter().fold(text.to_owned(), replace)
}

/// Where an absolute path begins: at the start, behind `=`, or in quotes.
fn start_of_path(word: &str) -> Option<usize> {
    let begins = |at: usize| {
        let rest = word.as_bytes().get(at..).unwrap_or_default();
        let is_drive = matches!(rest, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
        rest.starts_with(b"/") || rest.starts_with(b"\\\\") || is_drive
    };
    let marks = word.match_indices(['=', '"', '\'']).map(|(at, _)| at + 1);
    [0].into_iter().chain(marks).find(|at| begins(*at))
}

fn without_folders(path: &Path, folder: &Path) -> String {
    let is_root = !folder
        .components()
        .any(|part| matches!(part, Component::Normal(_)));
    match path.strip_prefix(folder) {
        Ok(beside) if !is_root => Path::new("..").join(beside).display().to_string(),
        _ => match path.file_name() {
            Some(name) => format!("…/{}", name.to_string_lossy()),
            None => "…".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_from_the_run_or_by_its_name() {
        let folder = Path::new("/home/ann/runs");
        for (word, expected) in [
            (
                "/home/ann/runs/first/encoder.safetensors",
                "../first/encoder.safetensors",
            ),
            ("/home/ann/photos", "…/photos"),
            (
                "--data=/data/train-{000..143}.tar",
                "--data=…/train-{000..143}.tar",
            ),
            ("start.encoder=/w/a.pth", "start.encoder=…/a.pth"),
            ("\"/w/a.pth\"", "\"…/a.pth\""),
            ("encoder = '/w/a.pth' # mine", "encoder = '…/a.pth' # mine"),
            ("/", "…"),
            // These say nothing of the machine.
            ("photos/train", "photos/train"),
            ("training.epochs=1", "training.epochs=1"),
            ("https://example.org/a", "https://example.org/a"),
            ("", ""),
        ] {
            assert_eq!(shown(word, folder), expected, "{word}");
        }
        assert_eq!(shown("/runs/first", Path::new("/")), "…/first");
        let text = "a = \"/w/a\"\nb = \"/w/a/b\"\nc = 3\n";
        assert_eq!(
            all_shown(text, ["/w/a", "/w/a/b", "3"].into_iter(), folder),
            "a = \"…/a\"\nb = \"…/b\"\nc = 3\n"
        );
    }
}
