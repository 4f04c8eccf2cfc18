//! Raw photographs and their metadata in; a licensed, balanced release out, with every decision in a ledger.
//!
//! A run is a chain: a *source* lists photos, *stages* keep or drop each of them, a *release* packs what is
//! left. [`Ledger`] (SQLite) is the only state. A stage requests photos that its predecessor kept and that
//! have no decision yet, and writes its decisions in transactions, so a run can be killed at any moment and
//! resumes there. The tables are described in `docs/curation.md`, for users who open them with their own
//! tools.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod config;
mod draws;
mod embedded;
mod error;
mod hint;
mod labeling;
mod ledger;
mod photo;
mod photos;
mod progress;
mod settings;
mod sources;
mod stages;
mod verbs;

pub use config::{Config, ReleaseConfig, StageConfig};
pub use embedded::FileMetadata;
pub use error::Error;
pub use hint::{Hint, Weights};
pub use labeling::Labeling;
pub use ledger::{
    Decision, DuplicateOf, Funnel, FunnelStage, GivenAnswer, Ledger, LicenseCount, ReasonCount, ReleaseLine,
    TakenDown, Verdict,
};
pub use photo::Photo;
pub use photos::Photos;
pub use progress::Progress;
pub use settings::Change;
pub use sources::{Columns, DatasetConfig, FolderConfig, SourceConfig, TableConfig, YfccConfig};
pub use stages::balance::{BalanceConfig, SampleConfig};
pub use stages::detect::{
    DetectedBox, Detector, Detectors, FaceScale, FacesConfig, NoDetectors, PersonsConfig, SidesConfig,
    TilesConfig,
};
pub use stages::duplicates::{DuplicatesConfig, NearConfig};
pub use stages::fetch::{AddressFrom, FetchConfig, NoAi};
pub use stages::integrity::{IntegrityConfig, Unseen};
pub use stages::license::{AttributionField, License, LicenseConfig};
pub use stages::review::{Category, Disagreement, ReviewConfig};
pub use stages::{Stage, Work};
pub use verbs::audit::{
    Audit, AuditOptions, Estimate, FoundPhoto, OTHER_PHOTOS, Sample, audit, clopper_pearson,
};
pub use verbs::release::{Released, release};
pub use verbs::review::{Discarded, ReviewOptions, Reviewed, cohens_kappa, discard_answers, serve};
pub use verbs::run::{RunOptions, run};
pub use verbs::stage_sheet::{SheetMade, SheetOptions, stage_sheet};
pub use verbs::status::{Unlisted, licenses, status, unlisted};
pub use verbs::takedown::{NearDuplicate, Takedown, TakedownReport, takedown};
pub use verbs::why::{Why, WhyRow, why};
