//! `SHA256SUMS`, the checksums beside the files of a release: a folder comes in; the files that are missing,
//! altered or not listed go out.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use walkdir::WalkDir;

use crate::error::Error;
use crate::sha256::sha256_of_file;
use crate::sources::names;
use crate::sources::tar_shard::leaves_the_shard;

/// Name of the file of checksums, as `sha256sum --check` reads it.
const CHECKSUMS: &str = "SHA256SUMS";

/// Compares the files of a folder with its `SHA256SUMS`. Returns names and faults, sorted by name; none where the
/// folder has no such file. Files of systems and this program's indexes need not be listed.
///
/// # Errors
/// Files that exist and cannot be read.
pub(super) fn faults(folder: &Path) -> Result<Vec<(String, String)>, Error> {
    let path = folder.join(CHECKSUMS);
    let text = match std::fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let mut listed = BTreeSet::new();
    let mut faults = Vec::new();
    for (at, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let Some((hash, name)) = entry(line) else {
            let fault = format!(
                "line {} is not a hash and the name of a file in this folder",
                at + 1
            );
            faults.push((CHECKSUMS.to_string(), fault));
            continue;
        };
        listed.insert(name.to_string());
        let file = folder.join(name);
        if !file.is_file() {
            faults.push((name.to_string(), format!("is missing; {CHECKSUMS} lists it")));
        } else if sha256_of_file(&file)?.hex() != hash.to_ascii_lowercase() {
            faults.push((
                name.to_string(),
                format!("was altered; its hash is not that of {CHECKSUMS}"),
            ));
        }
    }
    for entry in WalkDir::new(folder).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::io("list", folder)(error.into()))?;
        let file_name = entry.file_name().to_string_lossy();
        let name = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let name = name.to_string_lossy().replace('\\', "/");
        let is_expected = name == CHECKSUMS
            || names::is_of_this_program(&file_name)
            || names::skipped_file(&file_name).is_some();
        if entry.file_type().is_file() && !is_expected && !listed.contains(&name) {
            faults.push((name, format!("is not listed in {CHECKSUMS}")));
        }
    }
    faults.sort();
    Ok(faults)
}

/// Hash and name of a line such as `HASH  NAME` or `HASH *NAME`.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (hash, name) = line.trim_end_matches('\r').split_once(' ')?;
    let name = name.strip_prefix([' ', '*'])?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.strip_prefix("./").unwrap_or(name);
    (is_hash && !name.is_empty() && !leaves_the_shard(name)).then_some((hash, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn missing_altered_and_unlisted_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        assert_eq!(faults(home).unwrap(), []);
        fs::write(home.join("abc"), "abc").unwrap();
        fs::create_dir(home.join("in")).unwrap();
        fs::write(home.join("in/empty.txt"), "").unwrap();
        let abc = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let sums = |text: &str| fs::write(home.join(CHECKSUMS), text).unwrap();
        sums(&format!("{abc}  abc\n{empty} *in/empty.txt\r\n\n"));
        // Neither an index of this program nor a system's file was there when the checksums were made.
        fs::write(home.join("s.tar.idx"), "").unwrap();
        fs::write(home.join(".DS_Store"), "").unwrap();
        assert_eq!(faults(home).unwrap(), []);
        fs::write(home.join("abc"), "abd").unwrap();
        fs::rename(home.join("in/empty.txt"), home.join("in/other.txt")).unwrap();
        sums(&format!(
            "{abc}  abc\n{empty}  in/empty.txt\n{empty}  ../abc\nabc\n"
        ));
        let found = faults(home).unwrap();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, fault)| (name.as_str(), fault.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "SHA256SUMS",
                    "line 3 is not a hash and the name of a file in this folder"
                ),
                (
                    "SHA256SUMS",
                    "line 4 is not a hash and the name of a file in this folder"
                ),
                ("abc", "was altered; its hash is not that of SHA256SUMS"),
                ("in/empty.txt", "is missing; SHA256SUMS lists it"),
                ("in/other.txt", "is not listed in SHA256SUMS"),
            ]
        );
    }
}
