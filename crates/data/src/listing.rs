//! What lies in a data set and became no record, or became one by a guess: counted by reason, each with an
//! example.
//!
//! Every source of records fills a [`Listing`]; opening a data set prints it, and `run.json`, `result.json` and
//! the ledger of a curation store it. [`Reason`] is the one list of all reasons.

use serde::{Deserialize, Serialize};

use crate::terminal::escape;

/// Kinds of files that are counted separately for one reason; more are counted together.
const MOST_KINDS: usize = 12;
/// The kind of files beyond [`MOST_KINDS`].
const OTHER_KINDS: &str = "of other kinds";

/// Why something is no record, or is one by a guess. The names are those in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// A picture in an unsupported format: HEIC, TIFF, AVIF, raw files.
    UnsupportedFormat,
    /// A file whose content is no image.
    NotAnImage,
    /// An archive among images, or within a shard.
    Archive,
    /// A compressed shard, which cannot be read in any order.
    CompressedShard,
    /// Images or folders beside shards.
    BesideShards,
    /// A file that a system or another program keeps for itself: `.DS_Store`, `Thumbs.db`, `._name`.
    SystemFile,
    /// A folder that a system or another program keeps for itself, with everything in it: `@eaDir`, `__MACOSX`.
    SystemFolder,
    /// A file whose name begins with a dot.
    HiddenFile,
    /// A folder whose name begins with a dot, with everything in it.
    HiddenFolder,
    /// A download that did not end, or an editor's copy.
    UnfinishedFile,
    /// A link, pipe or device where a file is expected.
    NotAFile,
    /// A file of more than 4 GiB.
    TooLarge,
    /// A member whose path leads out of its archive.
    LeadsOut,
    /// Members of a key that has no image.
    NoImage,
    /// Images of a key that has none called `KEY.jpg`, such as `KEY.input.jpg`.
    OtherName,
    /// A further image of a record that has one.
    FurtherImage,
    /// Bytes behind the end of an archive.
    BehindTheEnd,
    /// Pictures in the folder of a label file that does not name them.
    NotListed,
    /// Sidecars of a curation without a photo of their name.
    SidecarAlone,
    /// Texts, tables and other documents, which nobody takes for photos.
    Document,
    /// A key of a sidecar that means nothing: `license` for `licence`.
    UnknownKey,
    /// A file of boxes without a picture of its name.
    BoxesAlone,
    /// An object without a box.
    ObjectWithoutBox,
    /// A box with a number that is infinite or none.
    BoxNotFinite,
    /// A box whose right edge is not right of its left one, or whose lower edge is not below its upper one.
    BoxWithoutSize,
    /// A box of which no part is in the picture.
    BoxOutside,
    /// A polygon of fewer than three corners, of an odd count of numbers, or of numbers of no picture. An object
    /// of which no other polygon is left is skipped too.
    BadPolygon,
    /// A mask as run lengths of another size than its picture.
    MaskOfOtherSize,
    /// Run lengths that are no mask.
    BadMask,
    /// A picture without an object, in training.
    NoObject,
    /// A picture whose objects are all crowds, in training.
    OnlyCrowds,
    /// A name that cameras and programs write as the photographer: `Picasa`.
    NoPhotographersName,
    /// Photos by another photographer than the one of a config, whose license is not for them.
    OfAnotherPhotographer,
    /// Photos whose files claim rights for others than the photographer of a config, or state terms, so that the
    /// config's license is not for them.
    RightsOfOthers,
    /// Guess: a file that is an image by its content and not by its name.
    ImageByContent,
    /// Guess: a record with several images, one of which was taken.
    OneOfSeveralImages,
    /// Guess: images called like another one with an ending of masks or small copies, taken as photos.
    Companion,
    /// Guess: records that share a key.
    RepeatedKey,
    /// Guess: keys that differ in upper and lower case alone.
    KeysEqualButForCase,
    /// Guess: several archives, one behind the other, read as one.
    ConcatenatedArchives,
    /// Guess: a link to a file or folder of the same data, whose images are records twice.
    LinkedTwice,
    /// Guess: the only folder, taken as the only class.
    OnlyClass,
    /// Guess: the same, with the images in folders within it, as in an archive of one folder.
    WrapperFolder,
    /// Guess: folders with the names of splits, taken as classes.
    SplitsAsClasses,
    /// Guess: folders with the names of parts of a data set, such as `images` and `masks`, taken as classes.
    PartsAsClasses,
    /// Guess: class names that are others joined by a sign, such as `cat|dog`.
    JoinedClasses,
    /// Guess: class names that differ in upper and lower case, or in blanks around them, alone.
    ClassesEqualButForCase,
    /// Guess: a box that reaches out of the picture, of which the part within was taken.
    BoxClipped,
    /// Guess: a picture without a file or list of boxes, taken as one that shows no object.
    NoBoxes,
}

impl Reason {
    /// The reason for one member, as lists of skipped members name it.
    pub(crate) fn of_one(self) -> &'static str {
        match self {
            Reason::UnsupportedFormat => "a picture in an unsupported format; convert it to JPEG or PNG",
            Reason::NotAnImage => "not an image",
            Reason::Archive => "an archive",
            Reason::CompressedShard => "a compressed shard",
            Reason::BesideShards => "beside the shards",
            Reason::SystemFile => "a file of the system or of another program",
            Reason::SystemFolder => "in a folder of the system or of another program",
            Reason::HiddenFile => "hidden",
            Reason::HiddenFolder => "in a hidden folder",
            Reason::UnfinishedFile => "an unfinished download or a backup copy",
            Reason::NotAFile => "not a plain file",
            Reason::TooLarge => "larger than 4 GiB",
            Reason::LeadsOut => "its path leads out of the archive",
            Reason::NoImage => "no image",
            Reason::OtherName => "not named like `KEY.jpg`",
            Reason::FurtherImage => "second image of its record",
            Reason::BehindTheEnd => "behind the end of the archive",
            Reason::NotListed => "not named by the labels",
            Reason::SidecarAlone => "a sidecar without its photo",
            Reason::Document => "a document",
            Reason::UnknownKey => "an unknown key",
            Reason::BoxesAlone => "boxes without their picture",
            Reason::ObjectWithoutBox => "an object without a box",
            Reason::BoxNotFinite => "a box that is not finite",
            Reason::BoxWithoutSize => "a box without size",
            Reason::BoxOutside => "a box outside of its picture",
            Reason::BadPolygon => "no polygon",
            Reason::MaskOfOtherSize => "a mask of another size than its picture",
            Reason::BadMask => "no mask",
            Reason::NoObject => "a picture without an object",
            Reason::OnlyCrowds => "a picture of crowds alone",
            Reason::NoPhotographersName => "not a photographer's name",
            Reason::OfAnotherPhotographer => "of another photographer",
            Reason::RightsOfOthers => "with a copyright notice that is no license",
            _ => "a guess",
        }
    }

    /// Whether records were made by a guess; otherwise something is no record.
    pub fn is_guess(self) -> bool {
        self >= Reason::ImageByContent
    }

    /// Whether it is only counted: nobody takes such files for records.
    fn is_quiet(self) -> bool {
        self == Reason::Document
    }

    /// The event, and the cure if there is one.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Reason::UnsupportedFormat => (
                "pictures in unsupported formats were skipped",
                "convert them to JPEG or PNG",
            ),
            Reason::NotAnImage => ("files without an image in them were skipped", ""),
            Reason::Archive => (
                "archives were not opened",
                "unpack them, or pack each of them into shards",
            ),
            Reason::CompressedShard => (
                "compressed shards were skipped, because their records cannot be read in any order",
                "unpack them",
            ),
            Reason::BesideShards => (
                "only the shards are read; beside them were skipped",
                "move them into a folder of their own",
            ),
            Reason::SystemFile => ("files of the system or of other programs were skipped", ""),
            Reason::SystemFolder => (
                "folders of the system or of other programs were skipped, with all that is in them",
                "",
            ),
            Reason::HiddenFile => ("hidden files were skipped", "rename them if they are photos"),
            Reason::HiddenFolder => (
                "hidden folders were skipped, with all that is in them",
                "rename them if they hold photos",
            ),
            Reason::UnfinishedFile => ("unfinished downloads and backup copies were skipped", ""),
            Reason::NotAFile => (
                "links, pipes and devices were skipped",
                "put the files themselves there",
            ),
            Reason::TooLarge => ("files of more than 4 GiB were skipped", ""),
            Reason::LeadsOut => ("members whose paths lead out of the archive were skipped", ""),
            Reason::NoImage => (
                "keys without an image were skipped",
                "the members of a record must be neighbors in the tar",
            ),
            Reason::OtherName => (
                "images were skipped that are not named like `KEY.jpg`, where a key ends at the first dot",
                "rename one of each record",
            ),
            Reason::FurtherImage => ("further images of records were not used", ""),
            Reason::BehindTheEnd => ("bytes behind the end of the archive were skipped", ""),
            Reason::NotListed => (
                "pictures that the labels do not name were skipped",
                "add them to the labels if they belong to the data",
            ),
            Reason::SidecarAlone => (
                "sidecars without a photo of their name were skipped",
                "`name.json` or `name.jpg.json` is read beside `name.jpg`",
            ),
            Reason::Document => ("documents and tables are no records", ""),
            Reason::UnknownKey => (
                "keys of sidecars that mean nothing were ignored",
                "a license is `licence` and `licence_url`, its author `photographer`",
            ),
            Reason::BoxesAlone => (
                "files of boxes without a picture of their name were skipped",
                "`labels/name.txt` is read beside `images/name.jpg`",
            ),
            Reason::ObjectWithoutBox => ("objects without a box were skipped", ""),
            Reason::BoxNotFinite => ("objects whose box is not finite were skipped", ""),
            Reason::BoxWithoutSize => (
                "objects whose box has no width or no height were skipped",
                "check the order of its numbers",
            ),
            Reason::BoxOutside => (
                "objects whose box is outside of the picture were skipped",
                "check whether the boxes belong to pictures of this size",
            ),
            Reason::BadPolygon => (
                "polygons of fewer than 3 corners, of an odd count of numbers, or with numbers of no picture were skipped, and objects without another one",
                "",
            ),
            Reason::MaskOfOtherSize => (
                "objects whose mask has another size than the picture were skipped",
                "",
            ),
            Reason::BadMask => ("objects whose run lengths are no mask were skipped", ""),
            Reason::NoObject => ("pictures without an object are not trained on", ""),
            Reason::OnlyCrowds => ("pictures whose objects are all crowds are not trained on", ""),
            Reason::NoPhotographersName => (
                "names that programs and cameras write were not taken for photographers",
                "",
            ),
            Reason::OfAnotherPhotographer => (
                "photos name another photographer and no license, so the config's `licence` is not for them",
                "write their license into their sidecars if you know it",
            ),
            Reason::RightsOfOthers => (
                "photos have a copyright notice or terms of use that are no license and say more than the config's `photographer`, so the config's `licence` is not for them",
                "write their license into their sidecars if you know it",
            ),
            Reason::ImageByContent => ("files were taken as images by their content", ""),
            Reason::OneOfSeveralImages => (
                "records have several images, of which JPEG was preferred, then WebP, then PNG",
                "remove the other ones if it is the wrong one",
            ),
            Reason::Companion => (
                "images that are called like another one with `_mask`, `_thumb` or the like are records too",
                "move them out of the folder if they are no photos",
            ),
            Reason::RepeatedKey => (
                "keys occur more than once, and each time is a record",
                "remove what is there twice, or rename it",
            ),
            Reason::KeysEqualButForCase => (
                "keys differ in upper and lower case alone, and are one file on some systems",
                "",
            ),
            Reason::ConcatenatedArchives => (
                "files hold several archives, one behind the other, and all were read",
                "",
            ),
            Reason::LinkedTwice => (
                "links to files or folders of the same data were followed, so those images are records twice",
                "remove the links",
            ),
            Reason::OnlyClass => (
                "all images lie in one folder, which was taken as the only class",
                "if it is no class, give that folder itself",
            ),
            Reason::WrapperFolder => (
                "all images lie in folders within one folder, which was taken as the only class",
                "to take the folders in it as the classes, give that folder itself",
            ),
            Reason::SplitsAsClasses => (
                "folders with the names of splits were taken as classes",
                "give one of them by itself",
            ),
            Reason::PartsAsClasses => (
                "folders with the names of parts of a data set were taken as classes",
                "give the folder of the photos by itself",
            ),
            Reason::JoinedClasses => (
                "classes have names that are other classes' names, joined",
                "if a picture may have several classes, say `label_separator` in the data-set description",
            ),
            Reason::ClassesEqualButForCase => (
                "class names differ in upper and lower case or in blanks alone",
                "",
            ),
            Reason::BoxClipped => ("boxes that reach out of the picture were cut at its edges", ""),
            Reason::NoBoxes => (
                "pictures without boxes were taken to show no object",
                "check the names of their files",
            ),
        }
    }
}

/// One reason, with the number of times and an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The reason.
    pub reason: Reason,
    /// What kind of files: an extension such as `.heic`, or empty where there is only one kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// How often.
    pub count: u64,
    /// The first one.
    pub example: String,
}

/// What became no record, or became one by a guess, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listing {
    /// In the order of the reasons; within a reason in order of appearance.
    notes: Vec<Note>,
}

impl Listing {
    /// Counts one more; the first of its reason and kind is the example.
    pub fn add(&mut self, reason: Reason, kind: &str, example: impl FnOnce() -> String) {
        self.add_many(reason, kind, 1, example);
    }

    /// Counts several.
    pub fn add_many(&mut self, reason: Reason, kind: &str, count: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        let start = self.notes.partition_point(|note| note.reason < reason);
        let end = self.notes.partition_point(|note| note.reason <= reason);
        let known = |kind: &str| (start..end).find(|&at| self.notes[at].kind == kind);
        let (kind, known) = match known(kind) {
            None if end - start >= MOST_KINDS => (OTHER_KINDS, known(OTHER_KINDS)),
            known => (kind, known),
        };
        match known {
            Some(at) => self.notes[at].count += count,
            None => self.notes.insert(
                end,
                Note {
                    reason,
                    kind: kind.to_string(),
                    count,
                    example: example(),
                },
            ),
        }
    }

    /// Adds the counts of another part of the data.
    pub fn merge(&mut self, other: &Listing) {
        for note in &other.notes {
            self.add_many(note.reason, &note.kind, note.count, || note.example.clone());
        }
    }

    /// Whether everything became a record, and nothing was guessed.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// The notes, in the order of the reasons.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How often a reason was met.
    pub fn count(&self, reason: Reason) -> u64 {
        self.of(reason).map(|note| note.count).sum()
    }

    /// The example of a reason.
    pub fn example(&self, reason: Reason) -> Option<&str> {
        self.of(reason).next().map(|note| note.example.as_str())
    }

    fn of(&self, reason: Reason) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(move |note| note.reason == reason)
    }

    /// One line for each reason: `hidden files were skipped: 2 (such as `a/.x.jpg`)`. Names are escaped.
    pub fn lines(&self) -> Vec<String> {
        self.reasons().map(|reason| self.line(reason)).collect()
    }

    /// The reasons, each once.
    fn reasons(&self) -> impl Iterator<Item = Reason> {
        let first = |at: &usize| *at == 0 || self.notes[at - 1].reason != self.notes[*at].reason;
        (0..self.notes.len())
            .filter(first)
            .map(|at| self.notes[at].reason)
    }

    fn line(&self, reason: Reason) -> String {
        let (event, cure) = reason.words();
        let cure = match cure.is_empty() {
            false => format!("; {cure}"),
            true => String::new(),
        };
        format!("{event}: {}{cure}", self.counts(reason))
    }

    /// `2 .heic (such as `a.HEIC`), 1 .tiff (such as `c.tiff`)`.
    fn counts(&self, reason: Reason) -> String {
        let counts = self.of(reason).map(|note| {
            let kind = match note.kind.as_str() {
                "" => String::new(),
                kind => format!(" {}", escape(kind)),
            };
            match reason {
                // There is one of it.
                Reason::OnlyClass | Reason::WrapperFolder => format!("`{}`", escape(&note.example)),
                _ => format!("{}{kind} (such as `{}`)", note.count, escape(&note.example)),
            }
        });
        counts.collect::<Vec<_>>().join(", ")
    }

    /// Everything that is no record, for the message that there is no record at all; `None` where nothing is
    /// there.
    pub(crate) fn instead(&self) -> Option<String> {
        let lines: Vec<String> = self
            .reasons()
            .filter(|reason| !reason.is_guess())
            .map(|reason| match reason {
                Reason::UnsupportedFormat | Reason::CompressedShard | Reason::Archive => self.counts(reason),
                reason => format!("{}, {}", self.counts(reason), reason.of_one()),
            })
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    /// Warns of everything, one line for each reason. Documents alone are no reason for a warning.
    pub fn warn(&self, data: &str) {
        let reasons: Vec<Reason> = self.reasons().filter(|reason| !reason.is_quiet()).collect();
        for reason in reasons {
            tracing::warn!("`{}`: {}", escape(data), self.line(reason));
        }
    }
}

impl FromIterator<Note> for Listing {
    fn from_iter<T: IntoIterator<Item = Note>>(notes: T) -> Listing {
        let mut listing = Listing::default();
        for note in notes {
            listing.add_many(note.reason, &note.kind, note.count, || note.example);
        }
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_by_kind_with_the_first_as_example() {
        let mut listing = Listing::default();
        for name in ["b.heic", "c.tiff", "d.heic"] {
            let kind = &name[1..];
            listing.add(Reason::UnsupportedFormat, kind, || name.to_string());
        }
        listing.add(Reason::RepeatedKey, "", || "k".into());
        let mut part = Listing::default();
        part.add(Reason::HiddenFile, "", || ".x\n.jpg".into());
        part.add_many(Reason::RepeatedKey, "", 4, || "other".into());
        listing.merge(&part);
        assert_eq!(listing.count(Reason::UnsupportedFormat), 3);
        assert_eq!(listing.count(Reason::RepeatedKey), 5);
        assert_eq!(listing.example(Reason::RepeatedKey), Some("k"));
        let lines = listing.lines();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            "pictures in unsupported formats were skipped: 2 .heic (such as `b.heic`), 1 .tiff (such as `c.tiff`); convert \
             them to JPEG or PNG"
        );
        assert!(lines[1].starts_with("hidden files were skipped: 1 (such as `.x\\n.jpg`)"));
        // A guess makes records, so it says nothing of what lies there instead of records.
        let instead = listing.instead().unwrap();
        assert!(instead.contains(".tiff") && !instead.contains("`k`"), "{instead}");
        let text = serde_json::to_string(&listing).unwrap();
        assert!(text.starts_with(r#"[{"reason":"unsupported_format","kind":".heic","count":2,"#));
        assert_eq!(serde_json::from_str::<Listing>(&text).unwrap(), listing);
    }

    #[test]
    fn a_thousand_kinds_take_no_room() {
        let mut listing = Listing::default();
        for number in 0..1000 {
            listing.add(Reason::NotAnImage, &format!(".{number}"), || number.to_string());
        }
        assert_eq!(listing.notes().len(), MOST_KINDS + 1);
        assert_eq!(listing.count(Reason::NotAnImage), 1000);
    }
}
