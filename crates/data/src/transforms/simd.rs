//! Access to wide registers: loops run through [`vectorized`] are compiled a second time for AVX2, which runs
//! where the machine has it. The results are the same to the bit, because no operation is fused or reordered.

/// A loop and its operands.
///
/// A type instead of a closure: the code is compiled for AVX2 by being inlined, which only a method marked
/// `#[inline(always)]` guarantees. A large closure stays a separate function with narrow registers.
pub(super) trait Kernel {
    /// The loop's result.
    type Output;

    /// Runs the loop. It must be marked `#[inline(always)]`, and so must every function that it calls.
    fn run(self) -> Self::Output;
}

/// Runs a kernel with the widest registers that are known to help.
pub(super) fn vectorized<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, Wide(kernel));
    }
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
struct Wide<K>(K);

#[cfg(target_arch = "x86_64")]
impl<K: Kernel> pulp::WithSimd for Wide<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> K::Output {
        self.0.run()
    }
}
