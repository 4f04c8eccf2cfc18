//! Runs a loop with the widest vectors of this machine.

use pulp::{Arch, WithSimd};

/// Runs `operation` with AVX-512 if compiled in and available, else AVX2, NEON, or plain floats.
pub(crate) fn vectorized<O: WithSimd>(operation: O) -> O::Output {
    let arch = Arch::new();
    // `Arch` supports AVX2 only with a `pulp` feature that Burn's products leave off, and enabling it would
    // change them.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if matches!(arch, Arch::Scalar)
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return pulp::Simd::vectorize(simd, operation);
    }
    arch.dispatch(operation)
}

/// Number of chains of a sum, which the compiler vectorizes.
pub(crate) const LANES: usize = 32;

/// The sum of `term` over pairs; call it inside a function with the widest vectors enabled.
#[inline(always)]
pub(crate) fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut chains = [0.0; LANES];
    let (a_runs, b_runs) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_runs.remainder().iter().zip(b_runs.remainder());
    for (chain, (a, b)) in chains.iter_mut().zip(rest) {
        *chain += term(*a, *b);
    }
    for (a, b) in a_runs.zip(b_runs) {
        for lane in 0..LANES {
            chains[lane] += term(a[lane], b[lane]);
        }
    }
    chains.into_iter().sum()
}
