//! The program's actions on a curation, one file per verb. Verbs use everything below them: config, stages,
//! sources, the ledger.

pub(crate) mod audit;
mod looked;
pub(crate) mod release;
pub(crate) mod review;
pub(crate) mod run;
mod sheets;
pub(crate) mod stage_sheet;
pub(crate) mod status;
pub(crate) mod takedown;
mod thumbnail;
mod unseen;
pub(crate) mod why;
