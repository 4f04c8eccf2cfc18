//! Checks of numbers that many methods' configs have in common; each message names the key.

/// Refuses sizes of 0.
pub(crate) fn sizes(method: &str, sizes: &[(&str, usize)]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((key, _)) => Err(format!("`objective.{method}.{key}` must be at least 1, got 0")),
        None => Ok(()),
    }
}

/// Refuses a number of layers other than 2 or 3, which is what the papers have.
pub(crate) fn projector_layers(method: &str, layers: usize) -> Result<(), String> {
    if (2..=3).contains(&layers) {
        return Ok(());
    }
    Err(format!(
        "`objective.{method}.projector_layers` must be 2 or 3, got {layers}"
    ))
}

/// Refuses numbers below 0 and not finite ones.
pub(crate) fn weights(method: &str, weights: &[(&str, f64)]) -> Result<(), String> {
    match weights.iter().find(|(_, w)| !(w.is_finite() && *w >= 0.0)) {
        Some((key, weight)) => Err(format!(
            "`objective.{method}.{key}` must be at least 0, got {weight}"
        )),
        None => Ok(()),
    }
}

/// Refuses temperatures that are not above 0.
pub(crate) fn temperatures(method: &str, temperatures: &[(&str, f64)]) -> Result<(), String> {
    match temperatures.iter().find(|(_, t)| !(t.is_finite() && *t > 0.0)) {
        Some((key, temperature)) => Err(format!(
            "`objective.{method}.{key}` must be finite and above 0, got {temperature}"
        )),
        None => Ok(()),
    }
}

/// Refuses shares outside 0 to 1: what stays of a moving average at each step.
pub(crate) fn momenta(method: &str, momenta: &[(&str, f64)]) -> Result<(), String> {
    match momenta.iter().find(|(_, m)| !(0.0..=1.0).contains(m)) {
        Some((key, momentum)) => Err(format!(
            "`objective.{method}.{key}` must be in 0..1, got {momentum}"
        )),
        None => Ok(()),
    }
}
