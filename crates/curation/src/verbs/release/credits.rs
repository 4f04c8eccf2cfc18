//! `CREDITS.txt`: one line per photo, as its license requires.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use data::terminal::one_line;

use super::entry::Entry;
use crate::config::ReleaseConfig;
use crate::embedded::FileMetadata;
use crate::error::Error;

pub(super) struct Credits {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Credits {
    pub(super) fn create(folder: &Path, config: &ReleaseConfig, version: u32) -> Result<Credits, Error> {
        let path = folder.join("CREDITS.txt");
        let file = File::create(&path).map_err(Error::io("write", &path))?;
        let mut credits = Credits {
            path,
            file: BufWriter::new(file),
        };
        credits.line(&format!(
            "{}, version {version}. Each photo belongs to its photographer and is used under the license named with it. {}",
            one_line(&config.name),
            match config.file_metadata() {
                FileMetadata::Keep => "None was changed.",
                _ => "No picture was changed; metadata within the files were removed (DATASHEET.md).",
            }
        ))?;
        credits.line(&format!(
            "To have a photo taken down: {}\n",
            one_line(&config.contact)
        ))?;
        Ok(credits)
    }

    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), Error> {
        self.line(&credit(entry))
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.file.flush().map_err(Error::io("write", &self.path))
    }

    fn line(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.file, "{text}").map_err(Error::io("write", &self.path))
    }
}

/// `KEY: "Title" by Photographer (PAGE), LICENSE (ADDRESS)`; strangers' text cannot start a new line.
fn credit(entry: &Entry) -> String {
    let photo = &entry.photo;
    let text = |field: &Option<String>| field.as_deref().map(one_line).filter(|text| !text.is_empty());
    let mut line = format!("{}:", photo.key);
    if let Some(title) = text(&photo.title) {
        line.push_str(&format!(" \"{title}\""));
    }
    line.push_str(&format!(
        " by {}",
        text(&photo.photographer).unwrap_or_else(|| "unknown".to_string())
    ));
    if let Some(page) = text(&photo.page_url) {
        line.push_str(&format!(" ({page})"));
    }
    match (text(&photo.license), text(&photo.license_url)) {
        (Some(name), Some(url)) => line.push_str(&format!(", {name} ({url})")),
        (Some(one), None) | (None, Some(one)) => line.push_str(&format!(", {one}")),
        (None, None) => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::FileFacts;
    use crate::photo::Photo;

    #[test]
    fn strangers_text_stays_in_its_line() {
        let entry = Entry::new(
            Photo {
                key: "ab".into(),
                photographer: Some("A\nFAKE: all rights".into()),
                title: Some("Sea\t\u{202e}evil".into()),
                page_url: Some("http://page/1".into()),
                license: Some("Attribution License".into()),
                license_url: Some("http://by/2.0/".into()),
                ..Photo::default()
            },
            0,
            FileFacts::default(),
        );
        assert_eq!(
            credit(&entry),
            "ab: \"Sea evil\" by A FAKE: all rights (http://page/1), Attribution License (http://by/2.0/)"
        );
    }
}
