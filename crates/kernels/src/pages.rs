//! Large blocks of memory, kept when they are freed and handed out again.
//!
//! A training step allocates and frees the same activations over and over. A system's allocator gives such blocks back to
//! the system each time, which then hands out fresh pages and fills them with zeros: on the CPU a tenth of a ResNet-50
//! step. This allocator keeps them, but little more than the program once needed at a time.

// With `matrix.rs` the one place of the project with `unsafe`: an allocator cannot be written, nor memory left unwritten, without it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes from which a block is kept. Below, system allocators do well.
const LARGE: usize = 128 * 1024;
/// A page, which comes before each block and tells its size; blocks are aligned to it, so vectors straddle no cache line.
const PAGE: usize = 4096;
/// Sizes from one power of two to the next: what a block is larger than asked is an eighth at most.
const STEPS: usize = 8;
/// Sizes that are told apart, up to 2⁴⁷ bytes.
const CLASSES: usize = 30 * STEPS;
/// Kept blocks of up to twice the size asked for are taken.
const LOOSE: usize = STEPS;

/// An allocator that keeps large freed blocks for the next that asks for about as much, and leaves small ones to the
/// system.
///
/// Blocks in use and blocks kept are together never more than five quarters of the most that was in use at a time.
pub struct KeepPages {
    state: Mutex<State>,
}

struct State {
    /// The first free block of each class.
    free: [*mut Block; CLASSES],
    /// Bytes in use, kept, and the most in use so far.
    used: usize,
    kept: usize,
    peak: usize,
}

/// What the page before a block begins with.
struct Block {
    class: usize,
    /// The next free block of the class.
    next: *mut Block,
}

// SAFETY: the pointers are to blocks that nobody else holds, so they may go from thread to thread with the state.
unsafe impl Send for State {}

/// The smallest class that holds what is asked, or none for what is left to the system.
fn class(layout: Layout) -> Option<usize> {
    if layout.size() < LARGE || layout.align() > PAGE {
        return None;
    }
    // Rounded up to a power of two's eighth.
    let step = (1usize << layout.size().ilog2()) / STEPS;
    let size = layout.size().div_ceil(step) * step;
    let power = size.ilog2();
    let class = (power - LARGE.ilog2()) as usize * STEPS + (size - (1 << power)) / ((1 << power) / STEPS);
    (class < CLASSES).then_some(class)
}

/// Bytes of a class's blocks.
fn size_of(class: usize) -> usize {
    let power = LARGE << (class / STEPS);
    power + class % STEPS * (power / STEPS)
}

impl KeepPages {
    /// An allocator that keeps nothing yet.
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                free: [null_mut(); CLASSES],
                used: 0,
                kept: 0,
                peak: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of a class or a little more, null where there is no memory, and whether it is known to hold zeros.
    fn block(&self, class: usize) -> (*mut u8, bool) {
        let mut state = self.state();
        let kept = (class..CLASSES.min(class + LOOSE + 1)).find_map(|class| state.take(class));
        if let Some(block) = kept {
            // SAFETY: as in `take`.
            state.begin(size_of(unsafe { (*block).class }));
            drop(state);
            return (block.cast::<u8>().wrapping_add(PAGE), false);
        }
        state.begin(size_of(class));
        drop(state);
        let block = fresh::block(PAGE + size_of(class));
        if block.is_null() {
            self.state().used -= size_of(class);
            return (null_mut(), false);
        }
        let next = null_mut();
        // SAFETY: the page is ours, and there is room for a `Block`.
        unsafe { block.cast::<Block>().write(Block { class, next }) };
        (block.wrapping_add(PAGE), fresh::ZERO)
    }
}

impl Default for KeepPages {
    fn default() -> Self {
        Self::new()
    }
}

/// Blocks straight from the system's pages: a C library's allocator would keep some of them too, once more.
#[cfg(unix)]
mod fresh {
    use std::ptr::null_mut;

    /// Fresh pages are zero.
    pub(super) const ZERO: bool = true;
    /// The size of a huge page, which spares 511 of 512 page faults and most look-ups of addresses. Miri knows no such advice.
    #[cfg(all(target_os = "linux", not(miri)))]
    const HUGE: usize = 2 << 20;

    pub(super) fn block(size: usize) -> *mut u8 {
        let (flags, access) = (
            libc::MAP_PRIVATE | libc::MAP_ANON,
            libc::PROT_READ | libc::PROT_WRITE,
        );
        // SAFETY: a new mapping of the kernel's choice touches nobody's memory.
        let block = unsafe { libc::mmap(null_mut(), size, access, flags, -1, 0) };
        if block == libc::MAP_FAILED {
            return null_mut();
        }
        #[cfg(all(target_os = "linux", not(miri)))]
        if size >= HUGE {
            // SAFETY: advice on our own mapping. A kernel that does not take it says so, and nothing is lost.
            unsafe { libc::madvise(block, size, libc::MADV_HUGEPAGE) };
        }
        block.cast()
    }

    /// # Safety
    /// `block` came from [`block`] with this size, and nobody uses it any more.
    pub(super) unsafe fn free(block: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(block.cast(), size) };
    }
}

#[cfg(not(unix))]
mod fresh {
    use std::alloc::{GlobalAlloc, Layout, System};

    pub(super) const ZERO: bool = false;

    fn layout(size: usize) -> Layout {
        // SAFETY: a page is a power of two, and sizes are far from the largest number.
        unsafe { Layout::from_size_align_unchecked(size, super::PAGE) }
    }

    pub(super) fn block(size: usize) -> *mut u8 {
        // SAFETY: the size is not zero.
        unsafe { System.alloc(layout(size)) }
    }

    /// # Safety
    /// `block` came from [`block`] with this size, and nobody uses it any more.
    pub(super) unsafe fn free(block: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout(size)) };
    }
}

impl State {
    /// A kept block of a class.
    fn take(&mut self, class: usize) -> Option<*mut Block> {
        let block = self.free[class];
        if block.is_null() {
            return None;
        }
        // SAFETY: a block in a list was freed by its user, and its first page holds the `Block` that was written when
        // it was mapped.
        self.free[class] = unsafe { (*block).next };
        self.kept -= size_of(class);
        Some(block)
    }

    fn keep(&mut self, block: *mut Block) {
        // SAFETY: the page is ours, and holds a `Block` since it was mapped.
        let block_of = unsafe { &mut *block };
        block_of.next = self.free[block_of.class];
        self.free[block_of.class] = block;
        self.used -= size_of(block_of.class);
        self.kept += size_of(block_of.class);
    }

    /// Notes that `size` bytes are in use now. If they are new, so many kept ones go back to the system that the
    /// total stays within its bound.
    fn begin(&mut self, size: usize) {
        self.used += size;
        self.peak = self.peak.max(self.used);
        let most = self.peak + self.peak / 4;
        let mut class = CLASSES;
        while self.used + self.kept > most && class > 0 {
            class -= 1;
            while self.used + self.kept > most
                && let Some(block) = self.take(class)
            {
                // SAFETY: the block was mapped with its class's size, and is in no list any more.
                unsafe { fresh::free(block.cast(), PAGE + size_of(class)) };
            }
        }
    }
}

// SAFETY: small blocks are `System`'s throughout, since what is small is decided by the layout, which callers keep. A
// large block is its class's, at least as long and as aligned as asked; it is handed out to one caller at a time, because
// taking it out of its list is done under the lock.
unsafe impl GlobalAlloc for KeepPages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(class) => self.block(class).0,
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some(_) => self.state().keep(block.wrapping_sub(PAGE).cast()),
            // SAFETY: the caller's promise; such a block came from `System` with this layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let (block, zero) = self.block(class);
        if !block.is_null() && !zero {
            // SAFETY: the block is as long as the layout.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise that `size`, rounded up to the alignment, is a layout's.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(wanted)) {
            // SAFETY: the caller's promise.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some(old), Some(new)) if old == new => block,
            // SAFETY: the new block is `size` bytes long, the old one `layout.size()`, and they are two.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

/// `count` floats for the caller to write: they hold whatever the memory held, because filling a large block with zeros
/// that are then written over takes as long as many an operation.
pub(crate) fn unwritten(count: usize) -> Vec<f32> {
    if cfg!(miri) {
        return vec![0.0; count];
    }
    let mut floats = Vec::<f32>::with_capacity(count);
    // SAFETY: the capacity is there, and any bits are a float. That the memory counts as written is the empty assembly's
    // doing: it is given the pointer, and to the compiler may have written there.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) floats.as_mut_ptr(), options(nostack, preserves_flags));
        floats.set_len(count);
    }
    floats
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn classes_hold_what_is_asked_and_an_eighth_more_at_most() {
        let mut last = 0;
        for size in (LARGE..40 * LARGE).step_by(1013).chain([usize::MAX >> 20]) {
            let class = class(layout(size, 64)).unwrap();
            assert!(size_of(class) >= size && size_of(class) - size <= size / STEPS);
            assert!(class >= last && class < CLASSES);
            last = class;
        }
        assert!(class(layout(LARGE - 1, 64)).is_none() && class(layout(LARGE, 2 * PAGE)).is_none());
    }

    #[test]
    fn a_freed_block_comes_again_and_zeros_are_zeros() {
        let memory = KeepPages::new();
        // SAFETY: blocks are freed with the layouts that they were allocated with, and used in between.
        unsafe {
            let asked = layout(3 * LARGE, 4);
            let first = memory.alloc(asked);
            assert_eq!(first.addr() % PAGE, 0);
            first.write_bytes(7, asked.size());
            memory.dealloc(first, asked);
            let again = memory.alloc_zeroed(layout(3 * LARGE - 100, 8));
            assert_eq!(again, first);
            assert!(
                std::slice::from_raw_parts(again, 3 * LARGE - 100)
                    .iter()
                    .all(|b| *b == 0)
            );
            memory.dealloc(again, layout(3 * LARGE - 100, 8));
        }
    }

    #[test]
    fn little_more_is_kept_than_was_in_use_at_a_time() {
        let memory = KeepPages::new();
        // SAFETY: as above.
        unsafe {
            for size in [5, 9, 17, 33, 6, 3] {
                let asked = layout(size * LARGE, 16);
                memory.dealloc(memory.alloc(asked), asked);
                let state = memory.state();
                assert!(state.used == 0 && state.kept <= state.peak * 5 / 4, "{size}");
            }
            assert_eq!(
                memory.state().peak,
                size_of(class(layout(33 * LARGE, 16)).unwrap())
            );
        }
    }

    #[test]
    fn contents_move_along() {
        let memory = KeepPages::new();
        // SAFETY: as above.
        unsafe {
            let mut asked = layout(1000, 8);
            let mut block = memory.alloc(asked);
            for i in 0..1000 {
                block.add(i).write(i as u8);
            }
            for size in [LARGE, LARGE + 1, 10 * LARGE, 4 * LARGE, 1000] {
                block = memory.realloc(block, asked, size);
                asked = layout(size, 8);
                assert!((0..1000).all(|i| block.add(i).read() == i as u8), "{size}");
            }
            memory.dealloc(block, asked);
            assert_eq!(memory.state().used, 0);
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        let memory = KeepPages::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..if cfg!(miri) { 1 } else { 200 } {
                        let asked = layout(LARGE + round % 3 * LARGE, 8);
                        // SAFETY: as above.
                        unsafe {
                            let block = memory.alloc(asked);
                            block.write_bytes(thread, asked.size());
                            let bytes = std::slice::from_raw_parts(block, asked.size());
                            assert!(bytes.iter().all(|b| *b == thread));
                            memory.dealloc(block, asked);
                        }
                    }
                });
            }
        });
        assert_eq!(memory.state().used, 0);
    }
}
