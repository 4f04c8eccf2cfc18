//! Why slices of features are not one file, and what to do about it.

use super::Hint;
use std::path::Path;

/// Why the slices in a folder are not one features file. Slices are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceFault {
    /// No file in it holds features.
    #[error("it holds no slices of features")]
    None,

    /// A file holds all records.
    #[error("`{file}` in it is no slice")]
    Whole {
        /// The file's name.
        file: String,
    },

    /// Slices are missing.
    #[error("{}", missing(numbers, *more, *count))]
    Missing {
        /// The first of them.
        numbers: Vec<usize>,
        /// How many more.
        more: usize,
        /// The number of slices.
        count: usize,
    },

    /// A slice is there twice.
    #[error("slice {number} of {count} is there twice, as `{}` and `{}`", files[0], files[1])]
    Doubled {
        /// The slice.
        number: usize,
        /// The number of slices.
        count: usize,
        /// Names of the two files.
        files: [String; 2],
    },

    /// A slice is of other work.
    #[error(
        "slice {number} of {count} (`{file}`) is of {difference}{}",
        than.map_or(String::new(), |than| format!(", unlike slice {than}"))
    )]
    Differs {
        /// The slice.
        number: usize,
        /// The number of slices.
        count: usize,
        /// Its file's name.
        file: String,
        /// The slice that it was compared with; `None` for the work of this call.
        than: Option<usize>,
        /// How it differs.
        difference: String,
    },
}

/// `slice 3 of 4 is missing`, `slices 3, 7 and 12 more of 64 are missing`.
fn missing(numbers: &[usize], more: usize, count: usize) -> String {
    let names: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match (names.as_slice(), more) {
        ([one], 0) => format!("slice {one} of {count} is missing"),
        (names, 0) => format!("slices {} of {count} are missing", names.join(", ")),
        (names, more) => format!(
            "slices {} and {more} more of {count} are missing",
            names.join(", ")
        ),
    }
}

impl SliceFault {
    /// What the user can do about the fault.
    pub(super) fn hint(&self, folder: &Path) -> Hint {
        match self {
            Self::None => Hint::MakeSlices(folder.to_path_buf()),
            Self::Whole { file } => Hint::RemoveFromFolder(folder.join(file)),
            Self::Doubled { files, .. } => Hint::RemoveFromFolder(folder.join(&files[0])),
            Self::Missing { numbers, count, .. } => Hint::MakeSlice {
                folder: folder.to_path_buf(),
                number: numbers.first().copied().unwrap_or(1),
                count: *count,
                remove: None,
            },
            Self::Differs { file, than: None, .. } => Hint::OtherFolder(folder.join(file)),
            Self::Differs {
                number, count, file, ..
            } => Hint::MakeSlice {
                folder: folder.to_path_buf(),
                number: *number,
                count: *count,
                remove: Some(folder.join(file)),
            },
        }
    }
}
