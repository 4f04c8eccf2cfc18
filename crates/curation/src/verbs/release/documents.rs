//! The documents of a release, and the checksums over all of its files.

use data::markdown::escaped;
use std::path::Path;

use data::terminal::one_line;

use super::files::{CHECKSUMS, Checksum};
use super::{Release, croissant, datasheet, files};
use crate::error::Error;

pub(super) fn write(folder: &Path, release: &Release<'_>) -> Result<(), Error> {
    files::write(&folder.join("VERSION_HISTORY.md"), &history(release))?;
    if !release.removed.is_empty() {
        let keys: String = release.removed.iter().map(|key| format!("{key}\n")).collect();
        files::write(&folder.join("removed.txt"), &keys)?;
    }
    files::write(&folder.join("DATASHEET.md"), &datasheet::datasheet(release))?;
    // Croissant names the checksums of the downloadable files; the list is written last and covers every
    // file.
    let mut sums = Vec::new();
    for path in files::list(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        sums.push(Checksum::of(name, &path)?);
    }
    let path = folder.join("croissant.json");
    files::write(&path, &croissant::croissant(release, &sums))?;
    sums.push(Checksum::of("croissant.json".to_string(), &path)?);
    sums.sort_by(|a, b| a.name.cmp(&b.name));
    let text: String = sums
        .iter()
        .map(|sum| format!("{}  {}\n", sum.sha256, sum.name))
        .collect();
    files::write(&folder.join(CHECKSUMS), &text)
}

/// Newest first.
fn history(release: &Release<'_>) -> String {
    let mut text = format!(
        "# Version history of {}\n",
        one_line(&release.config.release.name)
    );
    for line in release.funnel.releases.iter().rev() {
        text.push_str(&format!(
            "\n## Version {} ({})\n\n{} {}: {} came, {} went. {}\n\nFingerprint `{}`.\n",
            line.version,
            line.made.get(..10).unwrap_or(&line.made),
            line.records,
            if line.records == 1 { "photo" } else { "photos" },
            line.added,
            line.removed,
            escaped(&line.note),
            line.fingerprint
        ));
    }
    text
}
