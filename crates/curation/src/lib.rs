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
pub use ledger::{Decision, Funnel, FunnelStage, Ledger, ReasonCount, ReleaseLine};
pub use photo::Photo;
pub use photos::Photos;
pub use progress::Progress;
pub use settings::Change;
pub use sources::{Columns, DatasetConfig, FolderConfig, SourceConfig, TableConfig, YfccConfig};
pub use stages::balance::{BalanceConfig, SampleConfig};
pub use stages::detect::{
    Detector, Detectors, FaceScale, FacesConfig, NoDetectors, PersonsConfig, TilesConfig,
};
pub use stages::duplicates::{DuplicatesConfig, NearConfig};
pub use stages::fetch::{AddressFrom, FetchConfig, NoAi};
pub use stages::integrity::IntegrityConfig;
pub use stages::license::{AttributionField, License, LicenseConfig};
pub use stages::review::{Category, Disagreement, ReviewConfig};
pub use stages::{Stage, Work};
pub use verbs::audit::{Audit, AuditOptions, Estimate, OTHER_PHOTOS, Sample, audit, clopper_pearson};
pub use verbs::release::{Released, release};
pub use verbs::review::{ReviewOptions, Reviewed, cohens_kappa, serve};
pub use verbs::run::{RunOptions, run};
pub use verbs::status::status;
pub use verbs::takedown::{NearDuplicate, Takedown, TakedownReport, takedown};
