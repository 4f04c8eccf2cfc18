//! Outputs without an initial fill of zeros.

// With `matrix.rs` this crate's only code with `unsafe`: see docs/decisions/0016-allocator.md.
#![allow(unsafe_code)]

/// `count` floats with arbitrary values, for a caller that writes every one of them before reading it.
/// Zeroing a large block takes as long as many operations.
pub(crate) fn uninitialized(count: usize) -> Vec<f32> {
    if cfg!(miri) {
        return vec![0.0; count];
    }
    let mut floats = Vec::<f32>::with_capacity(count);
    // SAFETY: the capacity is there, and any bits are a float. The empty assembly makes the memory initialized for the
    // compiler: it receives the pointer, so it may have written there.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) floats.as_mut_ptr(), options(nostack, preserves_flags));
        floats.set_len(count);
    }
    floats
}
