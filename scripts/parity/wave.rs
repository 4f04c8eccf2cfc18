//! The formula by which the scripts of this folder and the tests of all crates fill tensors: no file holds their values.

// No crate uses all of it.
#![allow(dead_code)]

/// Uniform-looking numbers in [-1, 1): the scripts' `u` and `formula` of the tensor with this number.
pub(crate) fn wave(tensor: usize, count: usize) -> Vec<f64> {
    let wave = |index: usize| 43758.5453 * (12.9898 * index as f64 + 78.233 * tensor as f64).sin();
    (0..count)
        .map(|index| 2.0 * (wave(index) - wave(index).floor()) - 1.0)
        .collect()
}

/// The number of a tensor by its name: the scripts' `number`.
pub(crate) fn number(name: &str) -> usize {
    let terms = name.bytes().enumerate();
    terms
        .map(|(place, byte)| (place + 1) * usize::from(byte))
        .sum::<usize>()
        % 997
}
