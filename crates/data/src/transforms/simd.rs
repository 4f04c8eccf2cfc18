//! One door to wide registers: loops run through [`vectorized`] are compiled a second time for AVX2 and taken where the
//! machine has it. The results are the same to the bit, for no operation is fused or reordered by it.

/// Calls `kernel(arguments)` with the widest registers that are sure to help.
///
/// The kernel must be an `#[inline(always)]` function, not a closure: it is compiled for AVX2 by being inlined, and a closure
/// may not be.
#[inline(always)]
pub(super) fn vectorized<A, R>(kernel: impl FnOnce(A) -> R, arguments: A) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, Call(kernel, arguments));
    }
    kernel(arguments)
}

#[cfg(target_arch = "x86_64")]
struct Call<K, A>(K, A);

#[cfg(target_arch = "x86_64")]
impl<A, R, K: FnOnce(A) -> R> pulp::WithSimd for Call<K, A> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> R {
        (self.0)(self.1)
    }
}
