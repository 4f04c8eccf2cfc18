//! Counts over the photos of a release, for its documents.

use std::collections::{BTreeMap, HashMap};

use super::entry::Entry;
use super::file::ReleasedFile;
use crate::draws::draw;
use crate::stages::integrity::TRANSPARENT;

/// Counts over the photos of a release.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) records: usize,
    pub(super) bytes: u64,
    pub(super) licenses: BTreeMap<(String, String), usize>,
    pub(super) labels: BTreeMap<String, usize>,
    pub(super) photographers: HashMap<u128, usize>,
    pub(super) with_coordinates: usize,
    pub(super) years: BTreeMap<String, usize>,
    pub(super) short_sides_px: Vec<u32>,
    /// Photos by the kind of metadata within their files that was removed or, where all stay, that they hold.
    pub(super) embedded: BTreeMap<&'static str, usize>,
    /// Photos whose released file is not the source's, byte for byte.
    pub(super) rewritten: usize,
    /// Photos of them of which a picture or a frame does not decode, so that nothing shows that it stayed the same.
    pub(super) not_compared: usize,
    /// Photos of which an address is not published, because it is private.
    pub(super) private_addresses: usize,
    /// Photos whose released file equals that of another one.
    pub(super) repeated: usize,
    /// Animations, of which stages looked at the first frame alone.
    pub(super) animated: usize,
    /// Pictures in which `integrity` found transparent pixels, at which stages looked as if they were opaque.
    pub(super) transparent: usize,
}

impl Tally {
    pub(super) fn add(&mut self, entry: &Entry, file: &ReleasedFile) {
        let photo = &entry.photo;
        self.records += 1;
        self.bytes += file.bytes.len() as u64;
        self.rewritten += usize::from(file.original.is_some());
        self.not_compared += usize::from(!file.is_compared);
        self.private_addresses += usize::from(entry.has_private_address);
        self.animated += usize::from(file.frames > 1);
        self.transparent += usize::from(entry.file.remark.as_deref() == Some(TRANSPARENT));
        for (kind, _) in file.embedded.names() {
            *self.embedded.entry(kind).or_default() += 1;
        }
        let license = (
            photo.license.clone().unwrap_or_default(),
            photo.license_url.clone().unwrap_or_default(),
        );
        *self.licenses.entry(license).or_default() += 1;
        if let Some(label) = &photo.label {
            *self.labels.entry(label.clone()).or_default() += 1;
        }
        if let Some(who) = photo.photographer_identity() {
            *self
                .photographers
                .entry(draw(0, "photographer", &[who]))
                .or_default() += 1;
        }
        self.with_coordinates += usize::from(photo.latitude.is_some() && photo.longitude.is_some());
        let year = photo
            .date_taken
            .as_deref()
            .and_then(|date| date.get(..4))
            .filter(|year| year.bytes().all(|b| b.is_ascii_digit()));
        *self
            .years
            .entry(year.unwrap_or("unknown").to_string())
            .or_default() += 1;
        if let (Some(width), Some(height)) = (entry.file.width_px, entry.file.height_px) {
            self.short_sides_px.push(width.min(height));
        }
    }
}
