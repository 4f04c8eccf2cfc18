//! Credits of a photo in a folder: its sidecar's, then its file's, then the config's; who made it and under which
//! license it is goes out.
//!
//! Photographer and license belong together: a license that a file or a config states is that of the photographer
//! whom it names, and says nothing of a photo by somebody else.

use data::terminal::one_line;

use crate::embedded;
use crate::photo::Photo;

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

/// Adds the credit that the file of a photo gives itself to that of its sidecar. Names in it that are no
/// photographer's are added to `no_names`. Returns its copyright notice, where that is
/// not taken for the license.
pub(super) fn add_credit_of_file(
    photo: &mut Photo,
    mut file: embedded::Credit,
    no_names: &mut Vec<String>,
) -> Option<String> {
    no_names.extend(without_no_name(&mut file.creator));
    no_names.extend(without_no_name(&mut file.rights));
    let of_another = match (&photo.photographer, &file.creator) {
        (Some(known), Some(creator)) => !is_same(known, creator),
        _ => false,
    };
    if photo.license.is_none() && photo.license_url.is_none() && !of_another {
        photo.license_url = file.license_url;
        // Beside an address, a notice such as `© Ann` is not the name of its license.
        photo.license = file.rights.clone().filter(|_| photo.license_url.is_none());
    }
    if photo.photographer.is_none() {
        photo.photographer = file.creator;
    }
    file.rights
        .filter(|rights| photo.license.as_ref() != Some(rights))
}

/// `photographer` and `licence` of the config.
pub(super) struct Configured {
    pub(super) photographer: Option<String>,
    pub(super) license: Option<String>,
}

impl Configured {
    /// Adds both to a photo that names no other photographer. Returns false where the photo has no license and the
    /// one of the config is not for it.
    pub(super) fn add_to(&self, photo: &mut Photo, notice: Option<&str>) -> bool {
        let own = self.photographer.as_deref();
        let named = photo.photographer.as_deref().or(photo.photographer_id.as_deref());
        let is_of_another = named.is_some_and(|named| !own.is_some_and(|own| is_same(own, named)));
        let lacks_license = photo.license.is_none() && photo.license_url.is_none();
        if is_of_another {
            return !(lacks_license && self.license.is_some());
        }
        if lacks_license {
            photo.license.clone_from(&self.license);
        }
        // A notice that names somebody else names the photographer.
        let names_own = |notice: &str| own.is_some_and(|own| has_name(notice, own));
        if photo.photographer.is_none()
            && !notice.is_some_and(|notice| is_claim(notice) && !names_own(notice))
        {
            photo.photographer.clone_from(&self.photographer);
        }
        true
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
            license_url: text(file.1),
            rights: None,
        };
        let mut no_names: Vec<String> = without_no_name(&mut photo.photographer).into_iter().collect();
        add_credit_of_file(&mut photo, file, &mut no_names);
        let configured = Configured {
            photographer: text(config.0),
            license: text(config.1),
        };
        let speaks = configured.add_to(&mut photo, None);
        let license = photo.license.or(photo.license_url).unwrap_or_default();
        (photo.photographer.unwrap_or_default(), license, !speaks)
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
        assert!(!configured.add_to(&mut photo, None));
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
                creator: None,
                license_url: text("http://by"),
                rights: text(notice),
            };
            let notice = add_credit_of_file(&mut photo, file, &mut Vec::new());
            let configured = Configured {
                photographer: text("Ann Example"),
                license: text("CC0"),
            };
            assert!(configured.add_to(&mut photo, notice.as_deref()));
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
    }
}
