//! The funnel of a curation, also while a run is in progress.

use std::path::Path;

use crate::error::Error;
use crate::ledger::{Funnel, Ledger};

/// Reads the funnel of the curation in `folder`, also during a run.
///
/// # Errors
/// No curation there, or a ledger that cannot be read.
pub fn status(folder: &Path) -> Result<Funnel, Error> {
    Ledger::open_read_only(folder)?.funnel()
}
