//! Runs a loop with the widest vectors of the machine at hand.

use pulp::{Arch, WithSimd};

/// Runs `operation` with AVX-512 where it is compiled in and there, else AVX2, NEON, or plain floats.
pub(crate) fn vectorised<O: WithSimd>(operation: O) -> O::Output {
    let arch = Arch::new();
    // `Arch` knows AVX2 only with a feature of `pulp` that Burn's products leave off, and changing it would be a
    // change for them.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if matches!(arch, Arch::Scalar)
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return pulp::Simd::vectorize(simd, operation);
    }
    arch.dispatch(operation)
}
