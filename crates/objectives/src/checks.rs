//! Checks of values that many methods' configs share.

use crate::method::Invalid;

/// Gives an error for sizes of 0.
pub(crate) fn sizes(sizes: &[(&str, usize)]) -> Result<(), Invalid> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((key, _)) => Err(Invalid::key(key, "must be at least 1, got 0")),
        None => Ok(()),
    }
}

/// Gives an error for a number of layers other than the papers' 2 or 3.
pub(crate) fn projector_layers(layers: usize) -> Result<(), Invalid> {
    if (2..=3).contains(&layers) {
        return Ok(());
    }
    Err(Invalid::key(
        "projector_layers",
        format!("must be 2 or 3, got {layers}"),
    ))
}

/// Gives an error for a queue that whole batches do not fill, because a batch's rows overwrite an older
/// batch's.
pub(crate) fn queue_images(key: &str, queue_images: usize, batch_images: usize) -> Result<(), Invalid> {
    if queue_images > 0 && queue_images.is_multiple_of(batch_images) {
        return Ok(());
    }
    Err(Invalid::key(
        key,
        format!("must be a multiple of `data.batch_images` ({batch_images}), got {queue_images}"),
    ))
}

/// Gives an error for negative or non-finite numbers.
pub(crate) fn weights(weights: &[(&str, f64)]) -> Result<(), Invalid> {
    match weights.iter().find(|(_, w)| !(w.is_finite() && *w >= 0.0)) {
        Some((key, weight)) => Err(Invalid::key(key, format!("must be at least 0, got {weight}"))),
        None => Ok(()),
    }
}

/// Gives an error for temperatures of 0 or less.
pub(crate) fn temperatures(temperatures: &[(&str, f64)]) -> Result<(), Invalid> {
    match temperatures.iter().find(|(_, t)| !(t.is_finite() && *t > 0.0)) {
        Some((key, temperature)) => Err(Invalid::key(
            key,
            format!("must be finite and above 0, got {temperature}"),
        )),
        None => Ok(()),
    }
}

/// Gives an error for momenta outside 0 to 1.
pub(crate) fn momenta(momenta: &[(&str, f64)]) -> Result<(), Invalid> {
    match momenta.iter().find(|(_, m)| !(0.0..=1.0).contains(m)) {
        Some((key, momentum)) => Err(Invalid::key(key, format!("must be in 0..1, got {momentum}"))),
        None => Ok(()),
    }
}
