//! Credits of a photo in a folder: its sidecar's, then its file's, then the config's; who made it and under which
//! license it is goes out.
//!
//! Photographer and license belong together: a license that a file or a config states is that of the photographer
//! whom it names, and says nothing of a photo by somebody else.

use data::Reason;
use data::terminal::one_line;

use crate::embedded;
use crate::photo::Photo;
use crate::stages::license::{self, Denoted, LicenseConfig};

/// Names that cameras and programs write where no photographer was entered, in lowercase.
const NO_NAMES: &[&str] = &[
    "acdsee",
    "admin",
    "administrator",
    "adobe photoshop",
    "anonymous",
    "artist",
    "author",
    "camera",
    "canon",
    "default",
    "digital camera",
    "dji",
    "exif_jpeg_picture",
    "fujifilm",
    "gimp",
    "google",
    "gopro",
    "instagram",
    "jpeg_picture",
    "kodak",
    "konica minolta digital camera",
    "minolta digital camera",
    "n/a",
    "nikon",
    "no name",
    "none",
    "null",
    "olympus",
    "olympus digital camera",
    "owner",
    "panasonic",
    "pentax",
    "photographer",
    "photoshop",
    "picasa",
    "samsung",
    "sony",
    "sony dsc",
    "unbekannt",
    "undefined",
    "unknown",
    "unknown artist",
    "unknown author",
    "unknown photographer",
    "user",
    "username",
    "windows user",
    "your name",
];

/// Those of them that are nobody's, not a company's or an unknown person's either: cameras write `© Owner` too.
const NOBODY: &[&str] = &[
    "admin",
    "administrator",
    "artist",
    "author",
    "camera",
    "default",
    "n/a",
    "no name",
    "none",
    "null",
    "owner",
    "photographer",
    "undefined",
    "user",
    "username",
    "windows user",
    "your name",
];

/// Whether a copyright notice names nobody: `© 2024 Owner`.
fn is_notice_of_nobody(notice: &str) -> bool {
    let plain = notice.to_lowercase().replace("(c)", " ").replace('©', " ");
    let is_name = |word: &&str| {
        let is_year = word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit());
        !is_year && !["copyright", "by"].contains(word)
    };
    let letters = |word: &str| {
        word.trim_matches(|c: char| "<>()[]\"'?-.,:_".contains(c))
            .to_string()
    };
    let words: Vec<String> = plain.split_whitespace().map(letters).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(is_name).collect();
    NOBODY.contains(&words.join(" ").trim())
}

/// Takes away a name that is no photographer's, such as `Picasa`; returns it.
pub(super) fn without_no_name(name: &mut Option<String>) -> Option<String> {
    let taken = name.take_if(|name| is_no_name(name))?;
    Some(one_line(&taken)).filter(|name| !name.is_empty())
}

fn is_no_name(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let name = name.trim_matches(|c: char| "<>()[]\"'?-._ ".contains(c));
    name.is_empty() || NO_NAMES.contains(&name)
}

/// Whether two names are one person's.
fn is_same(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// What a file says of its rights that is no license.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    field: Field,
    text: String,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Notice,
    Terms,
    Statement,
    Owner,
}

/// Longest claim in a note, characters.
const LONGEST_IN_NOTE: usize = 200;
/// What a notice says beside a name: `© 2024 Ann`, `Photo by Ann`.
const WORDS_OF_NOTICES: [&str; 9] = [
    "c",
    "copyright",
    "by",
    "photo",
    "photograph",
    "photographer",
    "photography",
    "image",
    "picture",
];

impl Claim {
    /// For a person to read.
    pub(super) fn in_words(&self) -> String {
        let text: String = one_line(&self.text).chars().take(LONGEST_IN_NOTE).collect();
        match self.field {
            Field::Notice => format!("`{text}` is the file's copyright notice, not a license"),
            Field::Terms => format!("`{text}` are the file's terms of use, not the name of a license"),
            Field::Statement => {
                format!("`{text}` is where the file's rights are stated, not the address of a license")
            }
            Field::Owner => format!("`{text}` is the file's owner"),
        }
    }

    /// Whether it says nothing but that the picture is this person's: no other name, no terms.
    fn is_only_of(&self, person: Option<&str>) -> bool {
        let text = self.text.to_lowercase();
        let text = match person.map(|name| name.trim().to_lowercase()) {
            Some(name) if !name.is_empty() => text.replace(&name, " "),
            _ => text,
        };
        let is_year = |word: &str| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit());
        text.split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .all(|word| is_year(word) || WORDS_OF_NOTICES.contains(&word))
    }
}

/// Adds the credit that the file of a photo gives itself to that of its sidecar. Names in it that are no
/// photographer's are added to `no_names`. Returns its texts about rights that are no license.
///
/// `cc:license` is a license, whichever it is. Terms of use, a statement's address and a copyright notice are one
/// only if they denote one of the `licenses` or of Creative Commons, and nothing else.
pub(super) fn add_credit_of_file(
    photo: &mut Photo,
    mut file: embedded::Credit,
    licenses: &LicenseConfig,
    no_names: &mut Vec<String>,
) -> Vec<Claim> {
    for name in [&mut file.creator, &mut file.notice, &mut file.owner] {
        no_names.extend(without_no_name(name));
    }
    if let Some(notice) = file.notice.take_if(|notice| is_notice_of_nobody(notice)) {
        no_names.push(one_line(&notice));
    }
    let (mut names, mut addresses, mut claims) = (Vec::<String>::new(), Vec::new(), Vec::new());
    if let Some(text) = file.license {
        match is_address(&text) {
            true => addresses.push(text),
            false => names.push(text),
        }
    }
    for (field, text) in [
        (Field::Statement, file.statement),
        (Field::Terms, file.terms),
        (Field::Notice, file.notice),
        (Field::Owner, file.owner),
    ] {
        let Some(text) = text else { continue };
        match licenses.denoted(&text).filter(|_| field != Field::Owner) {
            Some(Denoted::Address) => addresses.push(text),
            Some(Denoted::Name) => names.push(text),
            None => claims.push(Claim { field, text }),
        }
    }
    let of_another = match (&photo.photographer, &file.creator) {
        (Some(known), Some(creator)) => !is_same(known, creator),
        _ => false,
    };
    if photo.license.is_none() && photo.license_url.is_none() && !of_another {
        let mut addresses = addresses.into_iter();
        photo.license_url = addresses.next();
        // A file that states several has none of them: the list knows no such name.
        let is_first = |other: &String| {
            photo
                .license_url
                .as_ref()
                .is_some_and(|first| license::is_same(first, other))
        };
        names.extend(addresses.filter(|address| !is_first(address)));
        names.dedup_by(|one, other| license::is_same(one, other));
        photo.license = Some(names.join(" / ")).filter(|name| !name.is_empty());
    }
    if photo.photographer.is_none() {
        photo.photographer = file.creator;
    }
    claims
}

fn is_address(text: &str) -> bool {
    let lower = text.trim().to_ascii_lowercase();
    ["http://", "https://"]
        .iter()
        .any(|scheme| lower.starts_with(scheme))
}

/// `photographer` and `licence` of the config.
pub(super) struct Configured {
    pub(super) photographer: Option<String>,
    pub(super) license: Option<String>,
}

impl Configured {
    /// Adds both to a photo that names no other photographer, and whose file claims nothing for anybody else.
    ///
    /// # Errors
    /// Why the photo, which has no license, does not get the one of the config.
    pub(super) fn add_to(&self, photo: &mut Photo, claims: &[Claim]) -> Result<(), Reason> {
        let own = self.photographer.as_deref();
        let named = photo.photographer.as_deref().or(photo.photographer_id.as_deref());
        let is_of_another = named.is_some_and(|named| !own.is_some_and(|own| is_same(own, named)));
        let lacks_license = photo.license.is_none() && photo.license_url.is_none();
        if is_of_another {
            return match lacks_license && self.license.is_some() {
                true => Err(Reason::OfAnotherPhotographer),
                false => Ok(()),
            };
        }
        let is_claimed = !claims.iter().all(|claim| claim.is_only_of(own));
        if lacks_license && self.license.is_some() {
            // Photographer and license of the config are one credit: both, or neither.
            if is_claimed {
                return Err(Reason::RightsOfOthers);
            }
            photo.license.clone_from(&self.license);
        }
        // A notice that names somebody else names the photographer.
        let names_another = |claim: &Claim| {
            let names_own = own.is_some_and(|own| has_name(&claim.text, own));
            (claim.field == Field::Owner || is_claim(&claim.text)) && !names_own && !claim.is_only_of(own)
        };
        if photo.photographer.is_none() && !claims.iter().any(names_another) {
            photo.photographer.clone_from(&self.photographer);
        }
        Ok(())
    }
}

fn has_name(text: &str, name: &str) -> bool {
    text.to_lowercase().contains(&name.trim().to_lowercase())
}

/// Whether a notice claims a copyright for somebody.
fn is_claim(notice: &str) -> bool {
    let notice = notice.to_lowercase();
    ["©", "(c)", "copyright"].iter().any(|mark| notice.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_string()).filter(|text| !text.is_empty())
    }

    /// Photographer and license of a photo whose sidecar, file and config state these; then whether the config's
    /// license was not for it. Empty: not stated. In a file, a license is an address.
    fn credited(sidecar: (&str, &str), file: (&str, &str), config: (&str, &str)) -> (String, String, bool) {
        let mut photo = Photo {
            photographer: text(sidecar.0),
            license: text(sidecar.1),
            ..Photo::default()
        };
        let file = embedded::Credit {
            creator: text(file.0),
            license: text(file.1),
            ..embedded::Credit::default()
        };
        let mut no_names: Vec<String> = without_no_name(&mut photo.photographer).into_iter().collect();
        let claims = add_credit_of_file(&mut photo, file, &LicenseConfig::default(), &mut no_names);
        let configured = Configured {
            photographer: text(config.0),
            license: text(config.1),
        };
        let refused = configured.add_to(&mut photo, &claims).is_err();
        let license = photo.license.or(photo.license_url).unwrap_or_default();
        (photo.photographer.unwrap_or_default(), license, refused)
    }

    #[test]
    fn the_licence_of_one_person_is_not_that_of_anothers_photo() {
        let mine = ("Ann Example", "CC-BY-4.0");
        let none = ("", "");
        let is = |photographer: &str, license: &str, of_another: bool| {
            (photographer.to_string(), license.to_string(), of_another)
        };
        assert_eq!(credited(none, none, mine), is("Ann Example", "CC-BY-4.0", false));
        // The photo names another person, in its file or sidecar, and states no license.
        assert_eq!(credited(none, ("Christoph", ""), mine), is("Christoph", "", true));
        assert_eq!(credited(("Christoph", ""), none, mine), is("Christoph", "", true));
        assert_eq!(
            credited(("Christoph", ""), ("Ann Example", ""), mine),
            is("Christoph", "", true)
        );
        // It names the configured one.
        assert_eq!(
            credited(none, (" ann EXAMPLE ", ""), mine),
            is(" ann EXAMPLE ", "CC-BY-4.0", false)
        );
        // A license of its own stays, whosever it is.
        assert_eq!(credited(("Ben", "CC0"), none, mine), is("Ben", "CC0", false));
        assert_eq!(
            credited(none, ("Ben", "http://by"), mine),
            is("Ben", "http://by", false)
        );
        assert_eq!(credited(("", "CC0"), none, mine), is("Ann Example", "CC0", false));
        // Neither does a file's license belong to another photographer of the sidecar.
        assert_eq!(
            credited(("Ben", ""), ("Christoph", "http://by"), mine),
            is("Ben", "", true)
        );
        assert_eq!(
            credited(("Ben", ""), ("BEN", "http://by"), mine),
            is("Ben", "http://by", false)
        );
        assert_eq!(
            credited(("Ben", ""), ("", "http://by"), mine),
            is("Ben", "http://by", false)
        );
        // A license without a photographer is nobody's in particular, so not that of a named person.
        assert_eq!(
            credited(("Ben", ""), none, ("", "CC-BY-4.0")),
            is("Ben", "", true)
        );
        assert_eq!(
            credited(none, none, ("", "CC-BY-4.0")),
            is("", "CC-BY-4.0", false)
        );
        assert_eq!(credited(("Ben", ""), none, ("Ann", "")), is("Ben", "", false));
    }

    #[test]
    fn a_photographer_that_only_an_identity_names_is_another_one() {
        let mut photo = Photo {
            photographer_id: text("1@N00"),
            ..Photo::default()
        };
        let configured = Configured {
            photographer: text("Ann"),
            license: text("CC0"),
        };
        assert_eq!(
            configured.add_to(&mut photo, &[]),
            Err(Reason::OfAnotherPhotographer)
        );
        assert_eq!((photo.photographer, photo.license), (None, None));
    }

    #[test]
    fn names_of_programs_and_cameras_are_no_photographers() {
        for name in [
            "Picasa",
            "OLYMPUS DIGITAL CAMERA",
            "unknown",
            "User",
            " picasa ",
            "<unknown>",
            "?",
            "SONY DSC",
        ] {
            let mut found = Some(name.to_string());
            without_no_name(&mut found);
            assert_eq!(found, None, "{name}");
            assert_eq!(
                credited(("", ""), (name, ""), ("Ann", "CC0")),
                ("Ann".to_string(), "CC0".to_string(), false),
                "{name}"
            );
        }
        for name in ["Picasa Pablo", "Ann User", "Olympus Smith", "Åse", "田中"] {
            assert!(!is_no_name(name), "{name}");
        }
    }

    #[test]
    fn a_notice_of_another_person_beside_an_address_names_the_photographer() {
        let photographer = |notice: &str| {
            let mut photo = Photo::default();
            let file = embedded::Credit {
                license: text("http://by"),
                notice: text(notice),
                ..embedded::Credit::default()
            };
            let claims = add_credit_of_file(&mut photo, file, &LicenseConfig::default(), &mut Vec::new());
            let configured = Configured {
                photographer: text("Ann Example"),
                license: text("CC0"),
            };
            assert_eq!(configured.add_to(&mut photo, &claims), Ok(()));
            assert_eq!(
                (photo.license, photo.license_url.as_deref()),
                (None, Some("http://by"))
            );
            photo.photographer
        };
        assert_eq!(photographer("© 2020 Christoph Braun"), None);
        assert_eq!(
            photographer("(c) ann example 2020").as_deref(),
            Some("Ann Example")
        );
        assert_eq!(
            photographer("This work is under CC BY 4.0").as_deref(),
            Some("Ann Example")
        );
        assert_eq!(photographer("Copyright 2024").as_deref(), Some("Ann Example"));
    }

    /// Name and address of the license, and the claims, of a photo whose file has this credit; with the list
    /// `CC-BY-4.0`, `public domain`, `https://ann.example/terms`.
    fn read(file: embedded::Credit) -> (String, String, Vec<String>) {
        let licenses: LicenseConfig = toml::from_str(
            "attribution = []\n[[accept]]\nname = \"CC-BY-4.0\"\nurls = [\"https://creativecommons.org/licenses/by/4.0/\"]\n\
             [[accept]]\nname = \"public domain\"\nurls = [\"https://ann.example/terms\"]\n",
        )
        .unwrap();
        let mut photo = Photo::default();
        let claims = add_credit_of_file(&mut photo, file, &licenses, &mut Vec::new());
        (
            photo.license.unwrap_or_default(),
            photo.license_url.unwrap_or_default(),
            claims.iter().map(|claim| claim.text.clone()).collect(),
        )
    }

    #[test]
    fn a_text_of_a_file_is_a_license_only_if_it_denotes_one_and_nothing_else() {
        let by = "https://creativecommons.org/licenses/by/4.0/deed.de";
        let is = |name: &str, address: &str, claims: &[&str]| {
            let claims = claims.iter().map(|claim| claim.to_string()).collect();
            (name.to_string(), address.to_string(), claims)
        };
        let notice = |words: &str| embedded::Credit {
            notice: text(words),
            ..embedded::Credit::default()
        };
        let terms = |words: &str| embedded::Credit {
            terms: text(words),
            ..embedded::Credit::default()
        };
        let statement = |words: &str| embedded::Credit {
            statement: text(words),
            ..embedded::Credit::default()
        };
        for words in [
            "© Jane Doe",
            "Copyright 2024 Canon",
            "Jane Doe",
            "All rights reserved",
            "© Ann, CC BY 4.0",
            "CC BY-NC",
            "Free for editorial use",
            "https://jane.example/rights",
        ] {
            assert_eq!(read(notice(words)), is("", "", &[words]));
            assert_eq!(read(terms(words)), is("", "", &[words]));
            assert_eq!(read(statement(words)), is("", "", &[words]));
        }
        for words in [
            "CC BY 4.0",
            "public domain",
            "Attribution-NonCommercial 2.0 Generic",
        ] {
            assert_eq!(read(notice(words)), is(words, "", &[]));
            assert_eq!(read(terms(words)), is(words, "", &[]));
        }
        for address in [by, "https://ann.example/terms"] {
            assert_eq!(read(notice(address)), is("", address, &[]));
            assert_eq!(read(statement(address)), is("", address, &[]));
        }
        // `cc:license` is a license, whichever it is.
        let cc = |words: &str| embedded::Credit {
            license: text(words),
            ..embedded::Credit::default()
        };
        assert_eq!(
            read(cc("https://jane.example/mine")),
            is("", "https://jane.example/mine", &[])
        );
        assert_eq!(read(cc("CC BY 4.0")), is("CC BY 4.0", "", &[]));
        // An owner is a person, even one called like a license.
        let owner = embedded::Credit {
            owner: text("CC BY 4.0"),
            ..embedded::Credit::default()
        };
        assert_eq!(read(owner), is("", "", &["CC BY 4.0"]));
        // One license in several fields, beside the notice of its owner.
        let several = |license: &str, statement: &str, terms: &str, notice: &str| embedded::Credit {
            license: text(license),
            statement: text(statement),
            terms: text(terms),
            notice: text(notice),
            ..embedded::Credit::default()
        };
        assert_eq!(
            read(several(
                by,
                "http://creativecommons.org/licenses/by/4.0/",
                "CC BY 4.0",
                "© Ann"
            )),
            is("CC BY 4.0", by, &["© Ann"])
        );
        // Several licenses: the list has no such name.
        let by_sa = "https://creativecommons.org/licenses/by-sa/4.0/";
        assert_eq!(read(several(by, by_sa, "", "")), is(by_sa, by, &[]));
        assert_eq!(
            read(several("", "", "CC BY 4.0", "CC BY-NC 4.0")),
            is("CC BY 4.0 / CC BY-NC 4.0", "", &[])
        );
    }

    #[test]
    fn a_cameras_notice_of_nobody_is_no_claim_and_is_counted() {
        let licenses: LicenseConfig = toml::from_str("attribution = []\naccept = []\n").unwrap();
        let claims = |words: &str| {
            let file = embedded::Credit {
                notice: text(words),
                ..embedded::Credit::default()
            };
            let mut no_names = Vec::new();
            let claims = add_credit_of_file(&mut Photo::default(), file, &licenses, &mut no_names);
            (claims.len(), no_names)
        };
        for words in [
            "© Owner",
            "Copyright (C) 2019 by <Your Name>",
            "(c) User, 2024",
            "©2024 owner.",
            "Copyright Artist",
        ] {
            assert_eq!(claims(words), (0, vec![words.to_string()]), "{words}");
        }
        // A company, a person, somebody unknown.
        for words in [
            "© 2024 Canon",
            "© Owner Jones",
            "© unknown photographer",
            "© 2024",
            "© Artist & Co.",
        ] {
            assert_eq!(claims(words), (1, vec![]), "{words}");
        }
    }

    #[test]
    fn the_configs_license_is_not_for_a_file_that_claims_rights_for_others_or_states_terms() {
        let licensed = |field: Field, words: &str| {
            let mut photo = Photo::default();
            let configured = Configured {
                photographer: text("Ann Example"),
                license: text("CC0"),
            };
            let claim = Claim {
                field,
                text: words.to_string(),
            };
            let added = configured.add_to(&mut photo, &[claim]);
            assert_eq!(photo.license.is_some(), added.is_ok());
            assert_eq!(photo.photographer.is_some(), added.is_ok());
            added
        };
        for words in [
            "© 2024 Ann Example",
            "Copyright (c) 2019-2024 by ANN EXAMPLE.",
            "Photo: Ann Example",
            "Ann Example Photography",
            "Copyright 2024",
            "©",
        ] {
            assert_eq!(licensed(Field::Notice, words), Ok(()), "{words}");
        }
        for words in [
            "© Jane Doe",
            "Copyright 2024 Canon",
            "© Ann Example. All rights reserved",
            "© Ann Example / Jane Doe",
            "© Ann Exampleson",
            "CC BY-NC",
            "Jane Doe",
        ] {
            assert_eq!(
                licensed(Field::Notice, words),
                Err(Reason::RightsOfOthers),
                "{words}"
            );
        }
        assert_eq!(licensed(Field::Owner, "Ann Example"), Ok(()));
        assert_eq!(licensed(Field::Owner, "Jane Doe"), Err(Reason::RightsOfOthers));
        assert_eq!(
            licensed(Field::Statement, "https://ann.example/rights"),
            Err(Reason::RightsOfOthers)
        );
    }
}
