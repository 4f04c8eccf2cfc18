//! The local web page on which people label photos: those of the stage `review`, or those of an audit's
//! sample.

mod agreement;
mod discard;
mod guard;
mod http;
mod items;
mod pace;
mod queue;
mod requests;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub use agreement::cohens_kappa;
pub use discard::{Discarded, discard_answers};
pub use requests::Reviewed;
pub use server::{ReviewOptions, serve};
