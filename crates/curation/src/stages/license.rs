//! Licenses: exact matches against the config's list, and complete attribution.
//!
//! "Attribution License" is a substring of other names, so names and addresses are compared whole. People and
//! Creative Commons itself write name and address of one license in several ways; those that denote the same
//! license and version count as one ([`identity`]). Where a photo has both and they do not belong together,
//! nothing shows which one is wrong, so the photo is dropped.

mod identity;

use data::terminal::one_line;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ledger::Decision;
use crate::photo::{Photo, is_private_address};
use crate::stages::{Stage, Work};

/// The licenses that photos may have, and the fields that a credit needs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LicenseConfig {
    /// The licenses accepted; PASS: Flickr's `Attribution License` (CC BY 2.0) alone.
    pub accept: Vec<License>,
    /// The fields that a photo must have for its credit line.
    pub attribution: Vec<AttributionField>,
}

/// One license, by the name and the addresses that sources write. Other spellings of a license of Creative
/// Commons, with the same version, are accepted as the same.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct License {
    /// Its name, compared whole.
    pub name: String,
    /// Addresses of its text, compared whole; `http:` and `https:` are different, but for Creative Commons.
    pub urls: Vec<String>,
}

/// How a text denotes a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denoted {
    Name,
    Address,
}

/// Whether two names, or two addresses, are one license's.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let of = |text: &str| identity::of_address(text).or_else(|| identity::of_name(text));
    one == other || of(one).is_some_and(|one| of(other) == Some(one))
}

/// A part of a credit line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttributionField {
    /// Name of the photographer.
    Photographer,
    /// Title of the photo. CC licenses before 4.0 require it where there is one.
    Title,
    /// The photo's web page.
    PageUrl,
    /// Address of the license.
    #[serde(rename = "licence_url")]
    LicenseUrl,
}

impl LicenseConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.accept.is_empty() {
            return Err(Error::config(
                "stages.licence.accept",
                "must be at least one license, got none",
            ));
        }
        let fields = serde_json::to_value(&self.attribution).unwrap_or_default();
        let fields = fields.as_array().into_iter().flatten();
        let fields: Vec<&str> = fields.filter_map(|field| field.as_str()).collect();
        Error::unless_once("stages.licence.attribution", &fields)?;
        let is_blank = |text: &str| text.trim().is_empty();
        for (at, license) in self.accept.iter().enumerate() {
            let key = |name: &str| format!("stages.licence.accept.{at}.{name}");
            if is_blank(&license.name) {
                let reason = format!("must be the name of a license, got none for {:?}", license.urls);
                return Err(Error::config(&key("name"), reason));
            }
            if license.urls.iter().any(|url| is_blank(url)) {
                let reason = format!(
                    "must be addresses of the license `{}`, got an empty one",
                    license.name
                );
                return Err(Error::config(&key("urls"), reason));
            }
            let is_twice = |other: &License| other.name == license.name;
            if self.accept.iter().take(at).any(is_twice) {
                let reason = format!(
                    "must be another name than those before it, got `{}` twice: write its addresses in one entry",
                    license.name
                );
                return Err(Error::config(&key("name"), reason));
            }
        }
        Ok(())
    }

    /// Checks the license that a source gives to photos without one: a misspelled one would drop them all.
    ///
    /// # Errors
    /// A name that is not on the list, with the names that are.
    pub(crate) fn check_default(&self, key: &str, name: &str) -> Result<(), Error> {
        if self.by_name(name).is_some() {
            return Ok(());
        }
        let known: Vec<&str> = self.accept.iter().map(|license| license.name.as_str()).collect();
        let reason = format!(
            "must be one of the licenses in `stages.licence.accept`, which has {}, got `{}`; write one of them, or add this one \
             there as `[[stages.licence.accept]]`",
            data::names::listed(&known),
            one_line(name)
        );
        Err(Error::config(key, reason))
    }

    /// The entry of the list that matches a photo's license, or the reason why none does.
    pub(crate) fn entry(&self, photo: &Photo) -> Result<&License, &'static str> {
        let by_name = |name: &str| self.by_name(name);
        let by_url = |url: &str| self.by_url(url);
        match (photo.license.as_deref(), photo.license_url.as_deref()) {
            (None, None) => Err("no_licence"),
            (Some(name), None) => by_name(name).ok_or("licence_not_accepted"),
            (None, Some(url)) => by_url(url).ok_or("licence_not_accepted"),
            (Some(name), Some(url)) => match (by_name(name), by_url(url)) {
                // The address must belong to the named entry; two entries may share an address.
                (Some(entry), _) if entry.has_url(url) => Ok(entry),
                (None, None) => Err("licence_not_accepted"),
                _ => Err("licence_disagrees"),
            },
        }
    }

    fn by_name(&self, name: &str) -> Option<&License> {
        let exactly = self.accept.iter().find(|license| license.name == name);
        exactly.or_else(|| {
            let named = identity::of_name(name)?;
            self.accept.iter().find(|license| license.is(&named))
        })
    }

    fn by_url(&self, url: &str) -> Option<&License> {
        self.accept.iter().find(|license| license.has_url(url))
    }

    /// Whether a text that a file carries is a license, and nothing else: a name or an address of the list, or one
    /// that denotes a license of Creative Commons. `© Ann` is none, nor is `© Ann, CC BY 4.0`.
    pub(crate) fn denoted(&self, text: &str) -> Option<Denoted> {
        let text = text.trim();
        if self.by_url(text).is_some() || identity::of_address(text).is_some() {
            Some(Denoted::Address)
        } else if self.by_name(text).is_some() || identity::of_name(text).is_some() {
            Some(Denoted::Name)
        } else {
            None
        }
    }

    /// What the list says of a name and an address that do not belong together.
    fn disagreement(&self, name: &str, url: &str) -> String {
        let (name, url) = (one_line(name), one_line(url));
        match (self.by_name(&name), self.by_url(&url)) {
            (Some(_), Some(other)) => {
                format!("`{url}` is the address of `{}`, not of `{name}`", other.name)
            }
            (Some(_), None) => {
                format!("`{url}` is not among the addresses of `{name}`, nor of another license of the list")
            }
            (None, Some(other)) => format!(
                "`{url}` is the address of `{}`; `{name}` is not on the list",
                other.name
            ),
            (None, None) => format!("neither `{name}` nor `{url}` is on the list"),
        }
    }

    /// Decides on a photo. `note`: what the source says of its credit.
    fn judge(&self, photo: &Photo, note: Option<&str>) -> Decision {
        if let Err(reason) = self.entry(photo) {
            let dropped = Decision::dropped(photo.id, reason);
            // The other reasons are clear from the photo's own fields, which the ledger has.
            return match (reason, &photo.license, &photo.license_url) {
                ("licence_disagrees", Some(name), Some(url)) => dropped.detail(self.disagreement(name, url)),
                ("no_licence", ..) => {
                    let photographer = photo.photographer.as_ref().map(|name| {
                        format!(
                            "its photographer is `{}`, and no license is stated for it",
                            one_line(name)
                        )
                    });
                    let parts: Vec<String> =
                        photographer.into_iter().chain(note.map(str::to_string)).collect();
                    match parts.is_empty() {
                        true => dropped,
                        false => dropped.detail(parts.join("; ")),
                    }
                }
                _ => dropped,
            };
        }
        // A name of blanks and control characters prints as nothing.
        let known = |text: &Option<String>| text.as_ref().is_some_and(|text| !one_line(text).is_empty());
        for field in &self.attribution {
            let (present, reason) = match field {
                AttributionField::Photographer => (known(&photo.photographer), "no_photographer"),
                AttributionField::Title => (known(&photo.title), "no_title"),
                // A page that is not published credits nobody.
                AttributionField::PageUrl => (
                    known(&photo.page_url) && !photo.page_url.as_deref().is_some_and(is_private_address),
                    "no_page_url",
                ),
                AttributionField::LicenseUrl => (known(&photo.license_url), "no_licence_url"),
            };
            if !present {
                return Decision::dropped(photo.id, reason);
            }
        }
        Decision::kept(photo.id)
    }
}

impl License {
    fn has_url(&self, url: &str) -> bool {
        let is_it = || identity::of_address(url).is_some_and(|license| self.is(&license));
        self.urls.iter().any(|known| known == url) || is_it()
    }

    /// Whether its name or one of its addresses denotes a license of Creative Commons.
    fn is(&self, license: &str) -> bool {
        let mut addresses = self.urls.iter().filter_map(|url| identity::of_address(url));
        identity::of_name(&self.name).is_some_and(|name| name == license)
            || addresses.any(|address| address == license)
    }
}

impl Stage for LicenseConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        work.judge_each_with_notes(20_000, |photo, note| self.judge(photo, note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LicenseConfig {
        let license = |name: &str, urls: &[&str]| License {
            name: name.into(),
            urls: urls.iter().map(|url| url.to_string()).collect(),
        };
        LicenseConfig {
            accept: vec![
                license("Attribution License", &["http://by/2.0/"]),
                license("CC0", &["http://zero/"]),
            ],
            attribution: vec![AttributionField::Photographer, AttributionField::PageUrl],
        }
    }

    fn reason(name: Option<&str>, url: Option<&str>) -> Option<String> {
        let photo = Photo {
            license: name.map(str::to_string),
            license_url: url.map(str::to_string),
            photographer: Some("Ann".into()),
            page_url: Some("http://page".into()),
            ..Photo::default()
        };
        config().judge(&photo, None).reason
    }

    #[test]
    fn names_and_addresses_are_compared_whole_and_must_agree() {
        let by = Some("Attribution License");
        assert_eq!(reason(by, Some("http://by/2.0/")), None);
        assert_eq!(reason(by, None), None);
        assert_eq!(reason(None, Some("http://zero/")), None);
        let not = Some("licence_not_accepted".to_string());
        assert_eq!(reason(Some("Attribution-NonCommercial License"), None), not);
        assert_eq!(reason(Some("attribution license"), None), not);
        assert_eq!(reason(Some("X"), Some("http://x")), not);
        assert_eq!(reason(None, Some("http://by/2.0/x")), not);
        let disagrees = Some("licence_disagrees".to_string());
        assert_eq!(reason(by, Some("http://zero/")), disagrees);
        assert_eq!(reason(by, Some("http://by-nc/2.0/")), disagrees);
        assert_eq!(
            reason(Some("Attribution-NonCommercial License"), Some("http://by/2.0/")),
            disagrees
        );
        assert_eq!(reason(None, None), Some("no_licence".to_string()));
    }

    #[test]
    fn creative_commons_own_spellings_are_one_address_and_others_are_not() {
        let license = |name: &str, url: &str| License {
            name: name.into(),
            urls: vec![url.into()],
        };
        let list = LicenseConfig {
            accept: vec![
                license("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
                license("CC0", "http://creativecommons.org/publicdomain/zero/1.0/"),
            ],
            attribution: vec![],
        };
        let decided = |name: &str, url: &str| {
            let photo = Photo {
                license: Some(name.into()),
                license_url: Some(url.into()),
                ..Photo::default()
            };
            let decision = list.judge(&photo, None);
            (
                decision.reason.unwrap_or_default(),
                decision.detail.unwrap_or_default(),
            )
        };
        for same in [
            "https://creativecommons.org/licenses/by/4.0/",
            "http://creativecommons.org/licenses/by/4.0/",
            "https://creativecommons.org/licenses/by/4.0",
            "https://www.creativecommons.org/licenses/by/4.0/",
            "https://creativecommons.org/licenses/by/4.0/deed.en",
            "https://creativecommons.org/licenses/by/4.0/deed.pt_BR",
            "https://creativecommons.org/licenses/by/4.0/legalcode",
            "https://creativecommons.org/licenses/by/4.0/legalcode.de",
            "https://creativecommons.org/licenses/BY/4.0/",
            "https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1",
            "HTTPS://CreativeCommons.org/licenses/by/4.0/#terms",
        ] {
            assert_eq!(decided("CC-BY-4.0", same).0, "", "{same}");
        }
        assert_eq!(
            decided("CC0", "https://creativecommons.org/publicdomain/zero/1.0/deed.fr").0,
            ""
        );
        for other in [
            "https://creativecommons.org/licenses/by/3.0/",
            "https://creativecommons.org/licenses/by/4.0/us/",
            "https://creativecommons.org/licenses/by-nc/4.0/",
            "https://creativecommons.org.example.org/licenses/by/4.0/",
            "ftp://creativecommons.org/licenses/by/4.0/",
            "https://creativecommons.org/",
            "https://example.org/licenses/by/4.0",
        ] {
            let (reason, detail) = decided("CC-BY-4.0", other);
            assert_eq!(reason, "licence_disagrees", "{other}");
            assert_eq!(
                detail,
                format!(
                    "`{other}` is not among the addresses of `CC-BY-4.0`, nor of another license of the list"
                )
            );
        }
        assert_eq!(
            decided("CC-BY-4.0", "https://creativecommons.org/publicdomain/zero/1.0/").1,
            "`https://creativecommons.org/publicdomain/zero/1.0/` is the address of `CC0`, not of `CC-BY-4.0`"
        );
        // Other spellings of the name denote the license too, alone or with its address.
        for same in [
            "CC BY 4.0",
            "Creative Commons Attribution 4.0 International License",
        ] {
            assert_eq!(
                decided(same, "http://creativecommons.org/licenses/by/4.0/deed.en").0,
                ""
            );
            let photo = Photo {
                license: Some(same.into()),
                ..Photo::default()
            };
            assert!(list.judge(&photo, None).kept, "{same}");
        }
        assert_eq!(
            decided("CC BY 3.0", "https://creativecommons.org/licenses/by/4.0/"),
            (
                "licence_disagrees".to_string(),
                "`https://creativecommons.org/licenses/by/4.0/` is the address of `CC-BY-4.0`; `CC BY 3.0` is not on the list"
                    .to_string()
            )
        );
        assert_eq!(
            decided("CC BY", "https://creativecommons.org/licenses/by/4.0/").1,
            "`https://creativecommons.org/licenses/by/4.0/` is the address of `CC-BY-4.0`; `CC BY` is not on the list"
        );
    }

    #[test]
    fn a_default_license_must_be_on_the_list() {
        let list = config();
        assert!(list.check_default("source.folder.licence", "CC0").is_ok());
        assert_eq!(
            list.check_default("source.folder.licence", "CCBY")
                .unwrap_err()
                .to_string(),
            "`source.folder.licence` must be one of the licenses in `stages.licence.accept`, which has `Attribution License`, \
             `CC0`, got `CCBY`; write one of them, or add this one there as `[[stages.licence.accept]]`"
        );
        assert!(list.check_default("source.dataset.licence", "").is_err());
    }

    #[test]
    fn a_photo_without_a_license_names_its_photographer() {
        let mut photo = Photo {
            photographer: Some("Christoph\nB".into()),
            ..Photo::default()
        };
        let decision = config().judge(&photo, None);
        assert_eq!(decision.reason.as_deref(), Some("no_licence"));
        assert_eq!(
            decision.detail.as_deref(),
            Some("its photographer is `Christoph B`, and no license is stated for it")
        );
        photo.photographer = None;
        assert_eq!(config().judge(&photo, None).detail, None);
        let note = "`© Jane` is the file's copyright notice, not a license";
        assert_eq!(config().judge(&photo, Some(note)).detail.as_deref(), Some(note));
    }

    #[test]
    fn a_photo_without_attribution_goes() {
        let mut photo = Photo {
            license: Some("CC0".into()),
            photographer: Some(" \t".into()),
            ..Photo::default()
        };
        assert_eq!(
            config().judge(&photo, None).reason.as_deref(),
            Some("no_photographer")
        );
        photo.photographer = Some("Ann".into());
        assert_eq!(
            config().judge(&photo, None).reason.as_deref(),
            Some("no_page_url")
        );
        photo.page_url = Some("file:///home/ann/page.html".into());
        assert_eq!(
            config().judge(&photo, None).reason.as_deref(),
            Some("no_page_url")
        );
    }
}
