//! The data sheet: the questions of Gebru et al., *Datasheets for Datasets* (2021), filled in from the
//! ledger.
//!
//! Where the ledger has no data, the sheet refers the question to the publisher; an invented text would be
//! worse.

use data::markdown::escaped;
use std::collections::BTreeMap;

use super::Release;
use super::tally::Tally;
use crate::config::StageConfig;
use crate::embedded::{FileMetadata, Kinds};
use crate::photo::Photo;
use crate::sources::SourceConfig;
use crate::stages::detect::{FaceScale, FacesConfig, PersonsConfig};
use crate::stages::license::LicenseConfig;

/// The most reasons that are named per stage, most frequent first.
const REASONS: usize = 8;
const OPEN: &str = "*To be answered by the publisher.*";

pub(super) fn datasheet(release: &Release<'_>) -> String {
    let config = &release.config.release;
    let tally = &release.tally;
    let mut text = format!(
        "# Data sheet: {}\n\nVersion {}, made {}, fingerprint `{}`.\nNumbers come from the ledger of the curation; the questions from Gebru et al., *Datasheets for Datasets*.\n",
        escaped(&config.name),
        release.version,
        release.made,
        release.fingerprint
    );
    let mut section = |title: &str, answers: &[(&str, String)]| {
        text.push_str(&format!("\n## {title}\n"));
        for (question, answer) in answers {
            text.push_str(&format!("\n**{question}**\n{answer}\n"));
        }
    };
    section(
        "Motivation",
        &[
            (
                "For what purpose was the data set created?",
                escaped(&config.description),
            ),
            ("Who created it?", escaped(&config.publisher)),
            ("Who funded it?", OPEN.to_string()),
        ],
    );
    section(
        "Composition",
        &[
            (
                "What do the instances represent, and how many are there?",
                format!(
                    "{} photographs, {}, by {} photographers; at most {} by one.",
                    tally.records,
                    data::mebibytes(tally.bytes),
                    tally.photographers.len(),
                    tally.photographers.values().max().copied().unwrap_or(0)
                ),
            ),
            (
                "Is it a sample of a larger set?",
                format!("Yes. How it was chosen:\n\n{}", funnel(release)),
            ),
            ("What data does each instance consist of?", instance(release)),
            ("Is there a label?", labels(release)),
            ("When were the photos taken?", years(release)),
            ("How large are they?", sizes(release)),
            ("Are there errors, noise or redundancies?", redundancies(release)),
            (
                "Does it relate to people, or contain data that might be private or offensive?",
                format!(
                    "{} Names of photographers are given as credit, and must not be used for anything else. {}",
                    people(release),
                    places_and_metadata(release)
                ),
            ),
        ],
    );
    section(
        "Collection process",
        &[
            ("How was the data acquired?", source(release)),
            ("Over what time was it collected?", OPEN.to_string()),
            (
                "Were the photographers asked?",
                format!(
                    "Not by this program. {}\n\n{}",
                    whose_licenses(release),
                    licenses(release)
                ),
            ),
        ],
    );
    section(
        "Preprocessing",
        &[
            ("Was anything done to the data?", preprocessing(tally)),
            (
                "Is the software available?",
                "Yes: Passer, `passer curate`.".to_string(),
            ),
        ],
    );
    section(
        "Uses",
        &[
            ("What has it been used for?", OPEN.to_string()),
            (
                "What should it not be used for?",
                "Linking names to photos beyond giving credit.".to_string(),
            ),
        ],
    );
    section(
        "Distribution and maintenance",
        &[
            ("Under which license?", format!("The collection: {}; each photo under its own, see `CREDITS.txt`.", escaped(&config.license_url))),
            ("Where?", escaped(&config.url)),
            ("How can a photo be taken down?", escaped(&config.contact)),
            ("Will it be updated?", "Photos that are taken down are gone from the next version; `VERSION_HISTORY.md` has them all.".to_string()),
        ],
    );
    text
}

fn has(release: &Release<'_>, stage: &str) -> bool {
    release.funnel.stages.iter().any(|known| known.name == stage)
}

/// Which detectors and annotators looked for people, and which checks did not run.
pub(super) fn people(release: &Release<'_>) -> String {
    let mut said = Vec::new();
    let dropped = |name: &str| {
        let stage = release.funnel.stages.iter().find(|stage| stage.name == name);
        stage.map_or(0, |stage| stage.dropped)
    };
    for stage in &release.config.stages {
        let (network, weights) = match release.weights.get(stage.name()) {
            Some((network, weights)) => (network.as_deref(), weights.as_str()),
            None => (None, "unknown"),
        };
        match stage {
            StageConfig::Faces(config) => said.push(faces_in_words(config, weights, dropped("faces"))),
            StageConfig::Persons(config) => {
                // Ledgers of version 0.2 and before do not name it, and knew no other.
                let network = network.unwrap_or("a YOLOX network");
                said.push(persons_in_words(config, network, weights, dropped("persons")));
            }
            StageConfig::Review(config) => {
                let stage = release.funnel.stages.iter().find(|stage| stage.name == "review");
                said.push(release.looked.review_in_words(config, stage));
            }
            _ => {}
        }
    }
    if said.is_empty() {
        said.push("**Photos were not checked for people.**".to_string());
        said.extend(unseen_in_words(&release.tally));
        said.push(release.looked.estimate_in_words().to_string());
        return said.join(" ");
    }
    if !has(release, "faces") {
        said.push("Faces were not looked for by a detector.".to_string());
    }
    let detects_persons =
        |stage: &StageConfig| matches!(stage, StageConfig::Persons(config) if config.class == COCO_PERSON);
    if !release.config.stages.iter().any(detects_persons) {
        said.push("Persons were not looked for by a detector.".to_string());
    }
    said.extend(unseen_in_words(&release.tally));
    said.push(match has(release, "review") {
        true => "Detectors and people miss some, so some will be left.".to_string(),
        false if release.looked.has_estimate() => {
            "**People looked at a sample of the photos alone.** Detectors miss people, so some will be left."
                .to_string()
        }
        false => "**Nobody looked at the photos themselves.** Detectors miss people, so some will be left."
            .to_string(),
    });
    said.push(release.looked.estimate_in_words().to_string());
    said.extend(release.looked.discarded_in_words());
    said.join(" ")
}

/// COCO's number of the class of persons.
const COCO_PERSON: usize = 0;

fn faces_in_words(config: &FacesConfig, weights: &str, dropped: u64) -> String {
    let size = match config.scale {
        FaceScale::Original => "at the photos' own size".to_string(),
        FaceScale::Sides {
            shorter_px,
            longer_px,
        } => format!("at a shorter side of {shorter_px} px and a longer one of at most {longer_px} px"),
    };
    format!(
        "Faces were looked for with RetinaFace (weights SHA-256 `{weights}`) {size}: {dropped} photos with a face that scored more than {}, or that could not be read, were dropped.",
        threshold(config.score)
    )
}

fn persons_in_words(config: &PersonsConfig, network: &str, weights: &str, dropped: u64) -> String {
    let what = match config.class {
        COCO_PERSON => "Persons were looked for".to_string(),
        class => format!("Objects of class {class} (0 is a person in COCO's list) were looked for"),
    };
    format!(
        "{what} with {network} (weights SHA-256 `{weights}`, class {}): {dropped} photos with one that scored more than {}, or that could not be read, were dropped.",
        config.class,
        threshold(config.score)
    )
}

/// A threshold of scores. None is above 1.
fn threshold(score: f64) -> String {
    match score < 1.0 {
        true => score.to_string(),
        false => format!("{score}, **which no detection can**"),
    }
}

/// The parts of files that no stage looked at.
fn unseen_in_words(tally: &Tally) -> Option<String> {
    let records = tally.records;
    let animated = (tally.animated > 0).then(|| {
        format!(
            "**{} of {records} files are animations, of which the stages looked at the first frame alone.**",
            tally.animated
        )
    });
    let transparent = (tally.transparent > 0).then(|| {
        format!(
            "**{} of {records} files have transparent pixels, at which the stages looked as if they were opaque.**",
            tally.transparent
        )
    });
    let said: Vec<String> = animated.into_iter().chain(transparent).collect();
    Some(said.join(" ")).filter(|said| !said.is_empty())
}

/// Which places are given, and which metadata within the files were removed or left, by kind.
pub(super) fn places_and_metadata(release: &Release<'_>) -> String {
    let tally = &release.tally;
    let kinds: Vec<String> = tally
        .embedded
        .iter()
        .map(|(kind, photos)| format!("{} in {photos}", Kinds::in_words(kind)))
        .collect();
    let places = match release.config.release.coordinates {
        true => format!(
            "The tables and JSON files give the places of {} photos.",
            tally.with_coordinates
        ),
        false => "The tables and JSON files give no places.".to_string(),
    };
    let records = tally.records;
    let within = match (release.config.release.file_metadata(), kinds.is_empty()) {
        (FileMetadata::Keep, true) => {
            "The files were searched for metadata of their own (EXIF, XMP, IPTC, comments): none but orientation, resolution, color and credit were found.".to_string()
        }
        (FileMetadata::Keep, false) => format!(
            "**Metadata within the files (EXIF, XMP, IPTC, comments) were left in them**; of {records} photos: {}.",
            kinds.join("; ")
        ),
        (level, none) => format!(
            "Metadata within the files (EXIF, XMP, IPTC, comments, thumbnails) were removed, all but {}; {}.",
            match level {
                FileMetadata::StripAll => "orientation and color",
                _ => "orientation, resolution, color and the photographer's credit",
            },
            match none {
                true => format!("{records} photos held none"),
                false => format!("of {records} photos: {}", kinds.join("; ")),
            }
        ),
    };
    format!("{places} {within}")
}

/// What happened to the files, and whether their pixels were compared.
fn preprocessing(tally: &Tally) -> String {
    let (rewritten, open) = (tally.rewritten, tally.not_compared);
    if rewritten == 0 {
        return "No: the files are those of the source, byte for byte.".to_string();
    }
    let compared = match open {
        0 => "their pixels were compared with those of the source's files, and are the same".to_string(),
        open => format!(
            "the pixels of {} of them were compared with those of the source's files, and are the same; **{open} do not decode, or not to their last frame, so that their pixels were not compared, or not all**",
            rewritten - open
        ),
    };
    format!(
        "Pixels were not changed. Metadata within {rewritten} of {} files were written anew without what is named above; {compared}. The other files are those of the source, byte for byte. Hashes are those of the files in this release.",
        tally.records
    )
}

fn funnel(release: &Release<'_>) -> String {
    let mut text = "| stage | kept | dropped | reasons |\n|---|---|---|---|\n".to_string();
    for stage in &release.funnel.stages {
        let mut reasons: Vec<String> = stage
            .reasons
            .iter()
            .take(REASONS)
            .map(|reason| format!("{} {}", escaped(&reason.reason), reason.photos))
            .collect();
        let remarks = stage.remarks.iter();
        reasons
            .extend(remarks.map(|remark| format!("kept with {} {}", escaped(&remark.reason), remark.photos)));
        let others = stage.reasons.get(REASONS..).unwrap_or_default();
        if !others.is_empty() {
            let photos: u64 = others.iter().map(|reason| reason.photos).sum();
            reasons.push(format!("{} other reasons {photos}", others.len()));
        }
        text.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            stage.name,
            stage.kept,
            stage.dropped,
            reasons.join(", ")
        ));
    }
    text.push_str(&format!("| taken down | | {} | |", release.funnel.taken_down));
    text
}

fn instance(release: &Release<'_>) -> String {
    let place = if release.config.release.coordinates {
        ", place"
    } else {
        ""
    };
    let mut text = format!(
        "The picture; photographer, title, license, page, date{place} where they are known (`metadata.parquet`, and a JSON file beside each photo in the shards)."
    );
    if matches!(release.config.source, SourceConfig::Folder(_)) {
        text.push_str(" The key of a photo is its path in the publisher's folder, without the ending.");
    }
    let withheld = release.tally.private_addresses;
    if withheld > 0 {
        text.push_str(&format!(
            " Addresses of {withheld} photos were left out, because they lead to no public page or hold a user's name."
        ));
    }
    text
}

fn labels(release: &Release<'_>) -> String {
    match release.tally.labels.len() {
        0 => "No.".to_string(),
        classes => {
            let counts = release.tally.labels.values();
            format!(
                "Yes: {classes} classes of {} to {} photos.",
                counts.clone().min().copied().unwrap_or(0),
                counts.max().copied().unwrap_or(0)
            )
        }
    }
}

fn years(release: &Release<'_>) -> String {
    let counts: Vec<String> = release
        .tally
        .years
        .iter()
        .take(60)
        .map(|(year, count)| format!("{}: {count}", escaped(year)))
        .collect();
    format!(
        "As the cameras or the source wrote it, photos by year: {}.",
        counts.join(", ")
    )
}

fn sizes(release: &Release<'_>) -> String {
    let mut sides = release.tally.short_sides_px.clone();
    if sides.is_empty() {
        return "Not measured.".to_string();
    }
    sides.sort_unstable();
    format!(
        "Shorter side from {} to {} px, half of them above {} px.",
        sides[0],
        sides[sides.len() - 1],
        sides[sides.len() / 2]
    )
}

fn source(release: &Release<'_>) -> String {
    let what = match &release.config.source {
        SourceConfig::Yfcc100m(_) => "From the metadata of YFCC100M (Thomee et al., 2016)",
        SourceConfig::Csv(_) | SourceConfig::Parquet(_) => "From a table of photos",
        SourceConfig::Folder(_) => "From a folder of photos with their metadata",
        SourceConfig::Dataset(_) => "From an existing data set",
    };
    match release.config.fetches() {
        true => format!("{what}; the files were downloaded from their addresses."),
        false => format!("{what}."),
    }
}

fn licenses(release: &Release<'_>) -> String {
    let mut text = "| license | address | photos |\n|---|---|---|\n".to_string();
    for ((name, url), count) in by_license(&release.tally.licenses, release.config.licenses()) {
        text.push_str(&format!("| {} | {} | {count} |\n", escaped(&name), escaped(&url)));
    }
    text
}

/// Who says that the photos have their licenses.
fn whose_licenses(release: &Release<'_>) -> String {
    match release.config.source.default_license() {
        Some((_, name)) => format!(
            "The photos have the licenses below: as the source states them or, where it states none, `{}`, as the publisher of this data set states it.",
            escaped(name)
        ),
        None => "The photos have the licenses below, as the source states them.".to_string(),
    }
}

fn redundancies(release: &Release<'_>) -> String {
    let mut text = match has(release, "duplicates") {
        true => "Equal files of the source were removed, and nearly equal ones as far as the config says."
            .to_string(),
        false => "Duplicates were not looked for.".to_string(),
    };
    let repeated = release.tally.repeated;
    if repeated > 0 {
        text.push_str(&format!(
            " {repeated} files of this release equal another one of it, to the byte."
        ));
    }
    text
}

/// Photos by the license of the config's list, so that spellings of one license count together; by name and address
/// as they are where the list has none.
fn by_license(
    spellings: &BTreeMap<(String, String), usize>,
    list: Option<&LicenseConfig>,
) -> BTreeMap<(String, String), usize> {
    let mut licenses = BTreeMap::new();
    for ((name, url), count) in spellings {
        let filled = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        let photo = Photo {
            license: filled(name),
            license_url: filled(url),
            ..Photo::default()
        };
        let license = match list.and_then(|list| list.entry(&photo).ok()) {
            Some(entry) => (
                entry.name.clone(),
                entry.urls.first().cloned().unwrap_or_default(),
            ),
            None => (name.clone(), url.clone()),
        };
        *licenses.entry(license).or_default() += count;
    }
    licenses
}

/// How the photos were chosen, in one line.
pub(super) fn datasheet_line(release: &Release<'_>) -> String {
    let stages: Vec<String> = release
        .funnel
        .stages
        .iter()
        .map(|stage| format!("{}: {} kept, {} dropped", stage.name, stage.kept, stage.dropped))
        .collect();
    format!("{} Stages: {}.", source(release), stages.join("; "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_detector_of_other_things_and_a_threshold_that_nothing_reaches_are_no_search_for_people() {
        let persons = |class: usize, score: f64| PersonsConfig {
            weights: "w".into(),
            class,
            score,
            candidate_score: 0.02,
            nms_iou: 0.45,
            batch_images: 8,
            sides: None,
            tiles: None,
        };
        assert_eq!(
            persons_in_words(&persons(0, 0.5), "a YOLOX network", "ab", 3),
            "Persons were looked for with a YOLOX network (weights SHA-256 `ab`, class 0): 3 photos with one that scored more than 0.5, or that could not be read, were dropped."
        );
        assert_eq!(
            persons_in_words(&persons(17, 1.0), "a YOLOX network", "ab", 0),
            "Objects of class 17 (0 is a person in COCO's list) were looked for with a YOLOX network (weights SHA-256 `ab`, class 17): 0 photos with one that scored more than 1, **which no detection can**, or that could not be read, were dropped."
        );
    }

    #[test]
    fn the_sheet_says_of_how_many_changed_files_pixels_were_compared() {
        let words = |rewritten, not_compared| {
            preprocessing(&Tally {
                records: 9,
                rewritten,
                not_compared,
                ..Tally::default()
            })
        };
        assert_eq!(
            words(0, 0),
            "No: the files are those of the source, byte for byte."
        );
        let all = words(4, 0);
        assert!(
            all.contains("within 4 of 9 files") && all.contains("are the same. The other"),
            "{all}"
        );
        let some = words(4, 1);
        assert!(
            some.contains("the pixels of 3 of them") && some.contains("**1 do not decode"),
            "{some}"
        );
    }

    #[test]
    fn spellings_of_one_license_are_one_row() {
        let list: LicenseConfig = toml::from_str(
            "attribution = []\n[[accept]]\nname = \"CC-BY-4.0\"\nurls = [\"https://creativecommons.org/licenses/by/4.0/\"]\n",
        )
        .unwrap();
        let of = |name: &str, url: &str, count: usize| ((name.to_string(), url.to_string()), count);
        let address = "https://creativecommons.org/licenses/by/4.0/";
        let spellings = [
            of("CC-BY-4.0", "", 1),
            of("CC BY 4.0", address, 2),
            of("", "http://creativecommons.org/licenses/by/4.0", 3),
            of("CC0", "", 4),
        ];
        let spellings = BTreeMap::from(spellings);
        assert_eq!(
            by_license(&spellings, Some(&list)),
            BTreeMap::from([of("CC-BY-4.0", address, 6), of("CC0", "", 4)])
        );
        assert_eq!(by_license(&spellings, None), spellings);
    }
}
