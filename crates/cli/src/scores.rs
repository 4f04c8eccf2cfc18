//! Scores in words, for tables and model cards.

use data::{percent, significant};
use evaluation::Outcome;

/// A score in words: protocol with its variant, value with its unit, and uncertainty with its sign or nothing.
pub(crate) fn words(outcome: &Outcome) -> [String; 3] {
    let name = match outcome.variant() {
        Some(variant) => format!("{} ({variant})", outcome.protocol),
        None => outcome.protocol.clone(),
    };
    let value = match outcome.is_share() {
        true => percent(outcome.value, 2),
        false => significant(outcome.value, 4),
    };
    // Beside the value, in its unit: after the number of records it would read as that number's
    // uncertainty.
    let uncertainty = match outcome.uncertainty() {
        Some(uncertainty) if outcome.is_share() => format!("+- {:.2}", 100.0 * uncertainty),
        Some(uncertainty) => format!("+- {}", significant(uncertainty, 2)),
        None => String::new(),
    };
    [name, value, uncertainty]
}
