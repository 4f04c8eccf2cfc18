//! The one rule of what a file or folder of a data set is: by its name where the name decides, by its first
//! bytes elsewhere. Image folders, archives, shards and the sources of a curation all use it.

use std::io;

use super::index_file;
use crate::content::{Content, content_of};
use crate::durable;
use crate::listing::Reason;

/// Extensions of images, lower case, that other programs too take for images. The content decides the format
/// when a file is decoded.
const IMAGES: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];

/// Extensions of documents and tables: their content is not read.
const DOCUMENTS: [&str; 20] = [
    "txt", "json", "jsonl", "ndjson", "geojson", "xml", "csv", "tsv", "md", "rst", "yaml", "yml", "toml",
    "html", "htm", "cls", "npy", "npz", "mat", "parquet",
];

/// Documents without an extension, as programs and publishers name them.
const DOCUMENT_NAMES: [&str; 11] = [
    "README",
    "LICENSE",
    "LICENCE",
    "COPYING",
    "NOTICE",
    "AUTHORS",
    "CITATION",
    // Checksums, as `sha256sum --check` and its like read them.
    "MD5SUMS",
    "SHA1SUMS",
    "SHA256SUMS",
    "SHA512SUMS",
];

/// Extensions of archives that are read nowhere among images.
const ARCHIVES: [&str; 13] = [
    "tar", "gz", "tgz", "bz2", "tbz2", "zst", "tzst", "xz", "txz", "zip", "7z", "rar", "lz4",
];

/// Extensions of downloads that did not end, and of copies that editors leave.
const UNFINISHED: [&str; 15] = [
    "part",
    "partial",
    "crdownload",
    "download",
    "opdownload",
    "filepart",
    "tmp",
    "temp",
    "aria2",
    "bak",
    "backup",
    "old",
    "orig",
    "swp",
    "unfinished",
];

/// Folders of systems and other programs, lower case.
const SYSTEM_FOLDERS: [&str; 22] = [
    // Synology, QNAP.
    "@eadir",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "~snapshot",
    // Windows.
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "found.000",
    "$windows.~bt",
    "windowsapps",
    // macOS.
    "__macosx",
    "network trash folder",
    "temporary items",
    "thevolumesettingsfolder",
    // Linux, Python, thumbnails.
    "lost+found",
    "__pycache__",
    "thumbs.db",
    "picasaoriginals",
];

/// Endings of folders that photo programs keep as one file: originals beside smaller copies of them, previews.
const PACKAGES: [&str; 6] = [
    ".photoslibrary",
    ".photolibrary",
    ".migratedphotolibrary",
    ".aplibrary",
    ".lrdata",
    ".cocatalog",
];

/// Files of systems and other programs, lower case.
const SYSTEM_FILES: [&str; 14] = [
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "picasa.ini",
    "icon\r",
    ".ds_store",
    ".localized",
    ".directory",
    ".picasa.ini",
    ".nomedia",
    ".gitkeep",
    ".gitattributes",
    "iconcache.db",
];

/// Hidden folders of systems and other programs, lower case; `.trash-1000` begins like one of them.
const HIDDEN_SYSTEM_FOLDERS: [&str; 16] = [
    ".git",
    ".svn",
    ".cache",
    ".huggingface",
    ".ipynb_checkpoints",
    ".thumbnails",
    ".@__thumb",
    ".appledouble",
    ".spotlight-v100",
    ".trashes",
    ".trash",
    ".fseventsd",
    ".temporaryitems",
    ".documentrevisions-v100",
    ".dtrash",
    ".picasaoriginals",
];

/// The picture of a run's first views, in its directory. Hidden: a run directory may lie within its images, and is then no part of
/// them.
pub const VIEWS_FILE: &str = ".views.jpg";

/// Files that this program writes into data sets or reads beside their records.
const OWN_FILES: [&str; 4] = ["dataset.toml", "pass_metadata.csv", ".passer.idx", VIEWS_FILE];

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An image by its name.
    Image,
    /// An image by its content; with its extension.
    ImageByContent(String),
    /// No record: the reason, and the kind of files.
    LeftOut(Reason, String),
    /// A file of this program.
    Own,
}

/// Whether an extension (without dot, any case) names an image.
pub(crate) fn is_image_extension(extension: &str) -> bool {
    is_one_of(&IMAGES, extension)
}

fn is_one_of(list: &[&str], text: &str) -> bool {
    list.iter().any(|known| text.eq_ignore_ascii_case(known))
}

/// The extension, without its dot; empty where there is none.
pub(crate) fn extension(name: &str) -> &str {
    name.rfind('.').map_or("", |dot| &name[dot + 1..])
}

/// The kind of files that an extension names: `.heic`, or `without an extension`.
pub(crate) fn kind_of_files(name: &str) -> String {
    let extension = extension(name);
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-+".contains(letter);
    match !extension.is_empty() && extension.len() <= 12 && extension.chars().all(is_plain) {
        true => format!(".{}", extension.to_lowercase()),
        false => "without an extension".to_string(),
    }
}

/// Why a folder of this name is skipped with everything in it; `None` for a folder that may hold images.
pub(crate) fn skipped_folder(name: &str) -> Option<Reason> {
    let lower = name.to_ascii_lowercase();
    if SYSTEM_FOLDERS.contains(&lower.as_str())
        || HIDDEN_SYSTEM_FOLDERS.contains(&lower.as_str())
        || lower.starts_with(".trash-")
        // What old programs make of a tar's extended headers.
        || lower.starts_with("paxheader")
        || PACKAGES.iter().any(|ending| lower.ends_with(ending))
    {
        return Some(Reason::SystemFolder);
    }
    name.starts_with('.').then_some(Reason::HiddenFolder)
}

/// The first folder of a member's path that is skipped, with the path up to it.
pub(crate) fn skipped_folder_in(path: &str) -> Option<(Reason, &str)> {
    let mut at = 0;
    while let Some(slash) = path[at..].find('/') {
        let name = &path[at..at + slash];
        if name != "."
            && !name.is_empty()
            && let Some(reason) = skipped_folder(name)
        {
            return Some((reason, &path[..at + slash]));
        }
        at += slash + 1;
    }
    None
}

/// Why a file of this name is skipped whatever it holds; the second value is the kind of files.
pub(crate) fn skipped_file(name: &str) -> Option<(Reason, String)> {
    let lower = name.to_ascii_lowercase();
    if SYSTEM_FILES.contains(&lower.as_str()) || name.starts_with("._")
        || lower.starts_with(".nfs")
        // Notes of NTFS on a file's origin, as copies to other systems show them.
        || lower.ends_with(":zone.identifier")
        || lower.ends_with(":encryptable")
    {
        return Some((Reason::SystemFile, String::new()));
    }
    if name.starts_with('.') {
        return Some((Reason::HiddenFile, String::new()));
    }
    let extension = extension(name);
    if is_one_of(&UNFINISHED, extension) || name.ends_with('~') {
        return Some((Reason::UnfinishedFile, kind_of_files(name)));
    }
    None
}

/// Whether a file of this name is a photo, or may be one by its content.
pub(crate) fn may_be_photo(name: &str) -> bool {
    skipped_file(name).is_none()
        && !is_one_of(&DOCUMENTS, extension(name))
        && !is_one_of(&ARCHIVES, extension(name))
}

/// Whether a file of this name is an index or another file that this program keeps beside the data, or half of one that a killed
/// process left behind.
pub(crate) fn is_of_this_program(name: &str) -> bool {
    let name = durable::final_name(name).unwrap_or(name);
    OWN_FILES.contains(&name) || name.ends_with(".tar.idx")
}

/// What a file is; `start` reads its first bytes, and is called only where the name does not decide.
///
/// # Errors
/// Those of `start`.
pub(crate) fn kind(name: &str, start: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Kind> {
    let extension = extension(name);
    // Most files are images: this comes first.
    if !name.starts_with('.') && is_image_extension(extension) {
        return Ok(Kind::Image);
    }
    if is_of_this_program(name) {
        return Ok(Kind::Own);
    }
    if let Some((reason, kind)) = skipped_file(name) {
        return Ok(Kind::LeftOut(reason, kind));
    }
    if is_one_of(&DOCUMENTS, extension) || is_one_of(&DOCUMENT_NAMES, name) {
        return Ok(Kind::LeftOut(Reason::Document, kind_of_files(name)));
    }
    if is_one_of(&ARCHIVES, extension) {
        return Ok(Kind::LeftOut(Reason::Archive, kind_of_files(name)));
    }
    let start = start()?;
    // The index of a table lies beside it, in a folder of images perhaps.
    match start.starts_with(index_file::MAGIC) {
        true => Ok(Kind::Own),
        false => Ok(by_content(name, content_of(&start))),
    }
}

/// What a file is whose name does not decide.
fn by_content(name: &str, content: Content) -> Kind {
    let reason = match content {
        Content::Image => return Kind::ImageByContent(kind_of_files(name)),
        // The name of a raw file says more than its content, which is TIFF for many cameras.
        Content::UnreadPicture(format) => {
            let kind = match extension(name) {
                "" => format!(".{format}"),
                _ => kind_of_files(name),
            };
            return Kind::LeftOut(Reason::UnsupportedFormat, kind);
        }
        Content::Archive(_) | Content::Compressed(_) | Content::Tar => Reason::Archive,
        Content::AppleDouble => Reason::SystemFile,
        Content::GitLfsPointer | Content::WebPage | Content::Empty | Content::Other => {
            match is_unread_extension(extension(name)) {
                true => Reason::UnsupportedFormat,
                false => Reason::NotAnImage,
            }
        }
    };
    Kind::LeftOut(reason, kind_of_files(name))
}

/// Extensions of pictures in unsupported formats, lower case, whose content may have no mark.
fn is_unread_extension(extension: &str) -> bool {
    const UNREAD: [&str; 32] = [
        "tif", "tiff", "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jxr", "tga", "ppm", "pgm", "pbm",
        "pnm", "exr", "hdr", "psd", "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "orf", "rw2",
        "raf", "pef", "srw", "x3f",
    ];
    is_one_of(&UNREAD, extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_name(name: &str) -> Kind {
        kind(name, || panic!("{name} was opened")).unwrap()
    }

    #[test]
    fn names_that_decide_open_no_file() {
        assert_eq!(by_name("a.JPEG"), Kind::Image);
        for own in [
            ".passer.idx",
            ".views.jpg",
            ".partial-.passer.idx",
            ".partial-.passer.idx-12-0",
            ".partial-a.tar.idx",
            ".partial-.views.jpg",
        ] {
            assert_eq!(by_name(own), Kind::Own, "{own}");
        }
        // Half a shard, by a `pack` that was killed, is none of these.
        let half = Kind::LeftOut(Reason::HiddenFile, String::new());
        assert_eq!(by_name(".partial-a.tar"), half);
        for (name, reason) in [
            ("._a.jpg", Reason::SystemFile),
            (".DS_Store", Reason::SystemFile),
            ("THUMBS.DB", Reason::SystemFile),
            (".a.jpg", Reason::HiddenFile),
            ("a.jpg.part", Reason::UnfinishedFile),
            ("a.jpg~", Reason::UnfinishedFile),
            ("README.md", Reason::Document),
            ("SHA256SUMS", Reason::Document),
            ("b.tar.zst", Reason::Archive),
        ] {
            assert!(
                matches!(by_name(name), Kind::LeftOut(found, _) if found == reason),
                "{name}"
            );
        }
    }

    #[test]
    fn other_names_are_decided_by_the_content() {
        let of = |name: &str, start: &[u8]| kind(name, || Ok(start.to_vec())).unwrap();
        let jpeg = b"\xff\xd8\xff\xe0";
        for (name, files) in [
            ("x.jfif", ".jfif"),
            ("z", "without an extension"),
            ("w.jpg_large", ".jpg_large"),
            // Phones name copies for a chat like this.
            ("IMG_1.HEIC", ".heic"),
        ] {
            assert_eq!(of(name, jpeg), Kind::ImageByContent(files.into()), "{name}");
        }
        assert_eq!(of("t.csv.idx", b"PASSERIX\x01\0\0\0"), Kind::Own);
        assert_eq!(
            of("u.idx", b"idx"),
            Kind::LeftOut(Reason::NotAnImage, ".idx".into())
        );
        let heic = b"\0\0\0\x18ftypheic";
        assert_eq!(
            of("IMG_2", heic),
            Kind::LeftOut(Reason::UnsupportedFormat, ".heic".into())
        );
        assert_eq!(
            of("a.NEF", b"MM\0*"),
            Kind::LeftOut(Reason::UnsupportedFormat, ".nef".into())
        );
        assert_eq!(
            of("a.mov", b"\0\0\0\x14ftypqt  "),
            Kind::LeftOut(Reason::NotAnImage, ".mov".into())
        );
    }

    #[test]
    fn folders_of_other_programs_are_found_in_any_part_of_a_path() {
        assert_eq!(
            skipped_folder_in("a/@eaDir/x.jpg/T.jpg"),
            Some((Reason::SystemFolder, "a/@eaDir"))
        );
        assert_eq!(skipped_folder_in("./a/x.jpg"), None);
        assert_eq!(skipped_folder_in(".b/x.jpg"), Some((Reason::HiddenFolder, ".b")));
        assert_eq!(skipped_folder(".Trash-1000"), Some(Reason::SystemFolder));
        assert_eq!(skipped_folder("n01440764"), None);
        // Each photo lies in it two times or more, in several sizes.
        for package in [
            "Photos Library.photoslibrary",
            "2019.lrdata",
            "Old.APLIBRARY",
            "Session.cocatalog",
        ] {
            assert_eq!(skipped_folder(package), Some(Reason::SystemFolder), "{package}");
        }
        assert_eq!(skipped_folder("photoslibrary"), None);
    }
}
