//! Stateless draws: each is a function of the seed and of its purpose, never of the order of rows.

use sha2::{Digest, Sha256};

/// A number drawn uniformly from 0 to 2^128 - 1 for (`seed`, `purpose`, `parts`).
///
/// SHA-256 over the seed (8 bytes, little-endian) and each text, preceded by its length (8 bytes,
/// little-endian); the first 16 bytes, big-endian. So anyone can repeat a draw, and two photos never share
/// one.
pub(crate) fn draw(seed: u64, purpose: &str, parts: &[&str]) -> u128 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for text in std::iter::once(&purpose).chain(parts) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

/// A draw as a fraction from 0 to 1, for the ledger's scores.
pub(crate) fn fraction(draw: u128) -> f64 {
    (draw >> 64) as f64 / (u64::MAX as f64 + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_matters_and_parts_do_not_run_together() {
        let all = [
            draw(0, "balance", &["ab", "c"]),
            draw(1, "balance", &["ab", "c"]),
            draw(0, "sample", &["ab", "c"]),
            draw(0, "balance", &["a", "bc"]),
            draw(0, "balance", &["ab"]),
        ];
        let distinct: std::collections::HashSet<u128> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        // python3: int.from_bytes(sha256(bytes(8) + struct.pack("<Q", 6) + b"sample" + struct.pack("<Q", 1) + b"x").digest()[:16], "big")
        assert_eq!(draw(0, "sample", &["x"]), SAMPLE_OF_X);
        assert!((0.0..1.0).contains(&fraction(draw(0, "sample", &["x"]))));
    }

    const SAMPLE_OF_X: u128 = 233234275331128430371355632999038422744;
}
