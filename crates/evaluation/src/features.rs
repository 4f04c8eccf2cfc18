//! Features: an encoder's rows for the records of a data set, computed, resumed after a kill, written, read
//! and cached.

mod cache;
mod extract;
mod file;
mod labels;
mod matrix;
mod others;
mod records;
mod resumable;
mod scaling;
mod slice;
mod stored;
mod work;

pub use cache::FeatureCache;
pub use extract::{Extraction, Writing, Written};
pub use matrix::{Features, Labels, Matrix, Origin, SeenInPretraining, UNDECIDED};
pub use others::{check_keys_for_npy, write_npy, write_parquet};
pub use records::Records;
pub use resumable::Unfinished;
pub use scaling::Scaling;
pub use slice::Slice;
pub use work::FeatureType;

pub(crate) use extract::{in_order, origin, view_group};
pub(crate) use labels::class_labels;
pub(crate) use matrix::class_name;
pub(crate) use scaling::{column_means, normalize_rows, scale, subtract};
pub(crate) use stored::Stored;
