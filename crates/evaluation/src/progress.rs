//! The progress of long work, for the caller to show.

/// Progress within a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The current work: `features of the training set`, or a protocol's name.
    pub stage: &'a str,
    /// Units done.
    pub done: usize,
    /// Units of the whole stage.
    pub total: usize,
    /// The unit: `images`, `epochs`.
    pub unit: &'static str,
}
