//! Raw photographs and their metadata in; a licensed, balanced release out, with every decision in a ledger.
//!
//! A run is a chain: a *source* lists photos, *stages* keep or drop each of them, a *release* packs what is left.
//! [`Ledger`] (SQLite) is the only state. A stage asks it for photos that its predecessor kept and that it has not decided on
//! yet, and writes its decisions in transactions, so a run can be killed at any moment and goes on where it was.
//! The tables are described in `docs/curation.md`, for users who open them with tools of their own.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod audit;
mod balance;
mod config;
mod contents;
mod detectors;
mod draws;
mod duplicates;
mod error;
mod fetch;
mod integrity;
mod ledger;
mod licence;
mod near;
mod photo;
mod photos;
mod release;
mod review;
mod run;
mod sources;
mod stage;
mod status;
mod takedown;
mod thumbnail;

pub use audit::{Audit, AuditOptions, Estimate, OTHER_PHOTOS, Sample, audit, clopper_pearson};
pub use balance::{BalanceConfig, SampleConfig};
pub use config::{Config, SourceConfig, StageConfig};
pub use detectors::{Detector, Detectors, FaceScale, FacesConfig, NoDetectors, PersonsConfig, TilesConfig};
pub use duplicates::{DuplicatesConfig, NearConfig};
pub use error::Error;
pub use fetch::{AddressFrom, FetchConfig};
pub use integrity::IntegrityConfig;
pub use ledger::{Decision, Ledger};
pub use licence::{AttributionField, Licence, LicenceConfig};
pub use photo::Photo;
pub use photos::Photos;
pub use release::{ReleaseConfig, Released, release};
pub use review::{Category, Disagreement, ReviewConfig, ReviewOptions, Reviewed, cohens_kappa, serve};
pub use run::{RunOptions, run};
pub use sources::{Columns, DatasetConfig, FolderConfig, TableConfig, YfccConfig};
pub use stage::{Stage, Work};
pub use status::{Funnel, FunnelStage, ReasonCount, ReleaseLine, status};
pub use takedown::{NearDuplicate, Takedown, TakedownReport, takedown};

/// Called as long work goes on, with the stage's name, what is done and what there is in all (0 where it is not known).
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);
