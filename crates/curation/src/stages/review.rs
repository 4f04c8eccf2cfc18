//! The stage that applies people's labels: it decides once every photo that can be shown has as many labels as
//! the config requires.
//!
//! Answers are rows of the ledger that no stage removes. They carry the photo's key and the content that was
//! shown. People give them on the page of `verbs/review.rs`. Labels of an audit's random sample use the same
//! page and tables, under the sample's number.

use std::collections::{BTreeSet, HashMap};

use data::DecodeLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Files, Stage, Work, decode_reason};
use crate::draws::{draw, fraction};
use crate::error::Error;
use crate::labeling::Labeling;
use crate::ledger::{Decision, Ledger};
use crate::photo::Photo;

/// The sample number of labels for the stage `review`; samples of an audit have their own numbers, from 1.
pub(crate) const REVIEW: i64 = 0;

/// The categories of PASS's annotators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// A person, whole or partly recognizable, also on a picture within the picture.
    Person,
    /// A part of a body: a hand, hair, a tattoo.
    BodyPart,
    /// A readable license plate.
    #[serde(rename = "licence_plate")]
    LicensePlate,
    /// A signature or handwriting.
    SignatureOrHandwriting,
    /// Not safe for work.
    Nsfw,
    /// Anything else harmful or disturbing.
    OtherHarm,
}

impl Category {
    /// All categories, in the order of their keys 1 to 6 on the page.
    pub const ALL: [Category; 6] = [
        Category::Person,
        Category::BodyPart,
        Category::LicensePlate,
        Category::SignatureOrHandwriting,
        Category::Nsfw,
        Category::OtherHarm,
    ];

    /// The name in configs and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Category::Person => "person",
            Category::BodyPart => "body_part",
            Category::LicensePlate => "licence_plate",
            Category::SignatureOrHandwriting => "signature_or_handwriting",
            Category::Nsfw => "nsfw",
            Category::OtherHarm => "other_harm",
        }
    }

    /// The category of that name.
    pub fn of(name: &str) -> Option<Category> {
        Category::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// The categories of one answer; an empty set means no objection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Categories(u8);

impl Categories {
    /// Reads names joined by commas; `None` if one of them is not a category.
    fn parse(text: &str) -> Option<Categories> {
        let names = text.split(',').filter(|name| !name.is_empty());
        names.map(Category::of).collect()
    }

    /// Reads a row of the ledger. A word that is not a category was written by hand, and must not count as
    /// "no objection".
    pub(crate) fn read(text: &str) -> Categories {
        Categories::parse(text).unwrap_or(Categories(u8::MAX))
    }

    pub(crate) fn has(self, category: Category) -> bool {
        self.0 & (1 << category as u8) != 0
    }

    pub(crate) fn any_of(self, others: Categories) -> bool {
        self.0 & others.0 != 0
    }

    pub(crate) fn names(self) -> Vec<&'static str> {
        let of = Category::ALL.into_iter().filter(|category| self.has(*category));
        of.map(Category::name).collect()
    }
}

impl FromIterator<Category> for Categories {
    fn from_iter<I: IntoIterator<Item = Category>>(categories: I) -> Self {
        Categories(
            categories
                .into_iter()
                .fold(0, |bits, category| bits | 1 << category as u8),
        )
    }
}

impl<'a> FromIterator<&'a Category> for Categories {
    fn from_iter<I: IntoIterator<Item = &'a Category>>(categories: I) -> Self {
        categories.into_iter().copied().collect()
    }
}

/// Which photos people see, and the effect of their answers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewConfig {
    /// Photos labeled with one of these are dropped; the other categories are only recorded. PASS: all six.
    pub drop: Vec<Category>,
    /// Share of the photos that two annotators label, from 0 to 1, drawn by `seed`; agreement is measured on
    /// them.
    #[serde(rename = "labelled_twice")]
    pub labeled_twice: f64,
    /// The decision on a photo that one annotator would drop and another would not.
    pub disagreement: Disagreement,
    /// Seed of the draw.
    pub seed: u64,
}

/// The rule where annotators differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disagreement {
    /// One annotator is enough to drop it.
    Drop,
    /// All annotators must agree to drop it.
    Keep,
}

impl ReviewConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.drop.is_empty() {
            return Err(Error::config(
                "stages.review.drop",
                "must be at least one category, got none",
            ));
        }
        let names: Vec<&str> = self.drop.iter().map(|category| category.name()).collect();
        Error::unless_once("stages.review.drop", &names)?;
        if !(0.0..=1.0).contains(&self.labeled_twice) {
            let reason = format!("must be 0 to 1, got {}", self.labeled_twice);
            return Err(Error::config("stages.review.labelled_twice", reason));
        }
        Ok(())
    }

    /// How many annotators must label a photo.
    pub(crate) fn wanted(&self, key: &str) -> u8 {
        1 + u8::from(fraction(draw(self.seed, "labelled_twice", &[key])) < self.labeled_twice)
    }

    fn judge(&self, photo: i64, answers: &[Categories]) -> Decision {
        let drop: Categories = self.drop.iter().collect();
        let against = answers.iter().filter(|answer| answer.any_of(drop)).count();
        let detail = answers
            .iter()
            .map(|answer| match answer.names()[..] {
                [] => "nothing".to_string(),
                ref names => names.join(", "),
            })
            .collect::<Vec<_>>()
            .join("; ");
        let dropped = match self.disagreement {
            Disagreement::Drop => against > 0,
            Disagreement::Keep => against == answers.len(),
        };
        let decision = match dropped {
            false => Decision::kept(photo),
            // The first of its categories in the page's order names the reason; the detail has all.
            true => {
                let named = Category::ALL.into_iter().find(|category| {
                    self.drop.contains(category) && answers.iter().any(|answer| answer.has(*category))
                });
                Decision::dropped(photo, named.map_or("review", Category::name))
            }
        };
        decision
            .score(against as f64 / answers.len().max(1) as f64)
            .detail(detail)
    }
}

/// Photos whose decisions are written together.
const BATCH: usize = 5_000;

impl Stage for ReviewConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let answers = answers_of(work.ledger, REVIEW)?;
        let given = |photo: i64| answers.get(&photo).map_or(&[][..], Vec::as_slice);
        let is_open = |photo: &Photo| given(photo.id).len() < usize::from(self.wanted(&photo.key));
        // All or nothing: an answer may be undone until the last one is given.
        let labeling = labeling(work.ledger, work.previous, self)?;
        if labeling.labeled < labeling.photos {
            wait_while_one_can_be_shown(work, &labeling, is_open)?;
        }
        loop {
            let photos = work.next(BATCH)?;
            if photos.is_empty() {
                return Ok(());
            }
            let (open, labeled): (Vec<Photo>, Vec<Photo>) = photos.into_iter().partition(&is_open);
            let mut decisions: Vec<Decision> = labeled
                .iter()
                .map(|photo| {
                    let categories: Vec<Categories> = given(photo.id)
                        .iter()
                        .map(|(_, categories)| *categories)
                        .collect();
                    self.judge(photo.id, &categories)
                })
                .collect();
            let files = work.files(&open)?;
            for photo in &open {
                match not_shown(&files, photo) {
                    Some(decision) => decisions.push(decision),
                    // It came back in this very moment.
                    None => return Err(Error::Waits(labeling)),
                }
            }
            work.decide(&decisions)?;
        }
    }
}

/// The decision on a photo that nobody can be shown: its file cannot be read or decoded, or its bytes are not
/// those that an earlier stage read. The page follows the same rule.
fn not_shown(files: &Files<'_>, photo: &Photo) -> Option<Decision> {
    let file = match files.read(photo) {
        Ok(file) => file,
        Err(decision) => return Some(decision),
    };
    let error = data::decode_and(&file.bytes, &DecodeLimits::DEFAULT, |_| ()).err()?;
    let decision = Decision::dropped(photo.id, decode_reason(&error)).detail(error.to_string());
    Some(decision.of_file(file.content))
}

/// Photos whose files are looked at together.
const SHOWN: usize = 64;

/// Returns if no photo that lacks labels can be shown.
///
/// # Errors
/// [`Error::Waits`] if one can; also where no photo has labels and none can be shown, as with a disk that is
/// not there.
fn wait_while_one_can_be_shown(
    work: &mut Work<'_>,
    labeling: &Labeling,
    is_open: impl Fn(&Photo) -> bool,
) -> Result<(), Error> {
    work.photos.check()?;
    let mut example = None;
    let mut cursor = 0;
    loop {
        work.check_stop()?;
        let mut open = work.ledger.survivors(work.previous, cursor, SHOWN)?;
        let Some(last) = open.last() else {
            break;
        };
        cursor = last.id;
        open.retain(&is_open);
        let files = work.files(&open)?;
        for photo in &open {
            match not_shown(&files, photo) {
                None => return Err(Error::Waits(labeling.clone())),
                Some(decision) => example = example.or(Some((photo.key.clone(), decision))),
            }
        }
    }
    match example {
        Some((key, decision)) if labeling.annotators == 0 => Err(Error::Stage {
            stage: "review".to_string(),
            reason: format!(
                "none of the {} photos can be shown, e.g. `{key}`: {}",
                labeling.photos,
                decision.detail.or(decision.reason).unwrap_or_default()
            ),
            hint: None,
        }),
        _ => Ok(()),
    }
}

/// How far people have labeled the photos that stage number `previous` kept.
pub(crate) fn labeling(ledger: &Ledger, previous: i64, config: &ReviewConfig) -> Result<Labeling, Error> {
    let answers = answers_of(ledger, REVIEW)?;
    let mut labeling = Labeling::default();
    let mut people = BTreeSet::new();
    ledger.for_each_survivor(previous, |photo, key| {
        let given = answers.get(&photo).map_or(&[][..], Vec::as_slice);
        let wanted = usize::from(config.wanted(key));
        people.extend(given.iter().map(|(annotator, _)| *annotator));
        labeling.photos += 1;
        labeling.labeled += u64::from(given.len() >= wanted);
        labeling.labels_open += wanted.saturating_sub(given.len()) as u64;
        labeling.wait_for_second += u64::from(wanted == 2 && given.len() == 1);
    })?;
    labeling.annotators = people.len() as u64;
    Ok(labeling)
}

/// The valid answers of a sample, by photo: each annotator with the categories.
pub(crate) fn answers_of(
    ledger: &Ledger,
    sample: i64,
) -> Result<HashMap<i64, Vec<(i64, Categories)>>, Error> {
    let mut answers: HashMap<i64, Vec<(i64, Categories)>> = HashMap::new();
    ledger.for_each_answer(sample, |photo, annotator, categories| {
        let given = answers.entry(photo).or_default();
        // Most photos have one answer; a vector that grows by itself would allocate room for four.
        given.reserve_exact(1);
        given.push((annotator, Categories::read(categories)));
    })?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_decides_and_disagreement_is_settled_as_the_config_says() {
        let mut config = ReviewConfig {
            drop: vec![Category::Nsfw, Category::Person],
            labeled_twice: 0.0,
            disagreement: Disagreement::Drop,
            seed: 0,
        };
        let said = |text: &str| Categories::parse(text).unwrap();
        let both = [said("nsfw,person"), said("licence_plate")];
        let decision = config.judge(1, &both);
        assert_eq!(
            (decision.kept, decision.reason.as_deref()),
            (false, Some("person"))
        );
        assert_eq!(decision.score, Some(0.5));
        assert_eq!(decision.detail.as_deref(), Some("person, nsfw; licence_plate"));
        config.disagreement = Disagreement::Keep;
        assert!(config.judge(1, &both).kept);
        assert!(!config.judge(1, &both[..1]).kept);
        assert!(Categories::parse("nobody").is_none());
        let shares: usize = (0..1000)
            .map(|key| {
                let config = ReviewConfig {
                    labeled_twice: 0.2,
                    ..config.clone()
                };
                usize::from(config.wanted(&key.to_string())) - 1
            })
            .sum();
        assert!((150..250).contains(&shares), "{shares}");
    }
}
