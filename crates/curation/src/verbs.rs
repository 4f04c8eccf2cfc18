//! The program's actions on a curation, one file per verb. Verbs use everything below them: config, stages,
//! sources, the ledger.

pub(crate) mod audit;
pub(crate) mod release;
pub(crate) mod review;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod takedown;
mod thumbnail;
mod unseen;
