//! The program's memory: an allocator that keeps large freed blocks and reuses them.
//!
//! A training step allocates and frees the same activations over and over. A system's allocator returns such
//! blocks to the system each time. The system then provides fresh pages and fills them with zeros, which
//! costs a tenth of a ResNet-50 step on the CPU. [`CachingAllocator`] keeps the blocks, up to a little more
//! than the program's peak use.
//!
//! The tests run under Miri too: `cargo +nightly miri test -p allocator`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod fresh;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Size in bytes from which blocks are kept. System allocators handle smaller ones well.
const LARGE: usize = 128 * 1024;
/// Bytes of the page before each block, which holds the block's size. Blocks are aligned to it, so vectors
/// straddle no cache line.
const PAGE: usize = 4096;
/// Size classes per power of two: a block is at most an eighth larger than requested.
const STEPS: usize = 8;
/// Size classes, up to 2⁴⁷ bytes.
const CLASSES: usize = 30 * STEPS;
/// Size classes above the requested one whose kept blocks are used: blocks of up to twice the size.
const LOOSE: usize = STEPS;

/// A global allocator that keeps large freed blocks for later requests of about the same size, and leaves
/// small blocks to the system.
///
/// Blocks in use and kept blocks together never exceed five quarters of the peak of the blocks in use.
pub struct CachingAllocator {
    state: Mutex<State>,
}

struct State {
    /// The first free block of each class.
    free: [*mut Block; CLASSES],
    /// Bytes in use, bytes kept, and the peak of the bytes in use.
    used: usize,
    kept: usize,
    peak: usize,
}

/// The header at the start of the page before a block.
struct Block {
    class: usize,
    /// The next free block of the class.
    next: *mut Block,
}

// SAFETY: the pointers are to blocks that have no other holder, so they may move between threads with the
// state.
unsafe impl Send for State {}

/// The smallest class that holds the request, or `None` for requests that the system handles.
fn class(layout: Layout) -> Option<usize> {
    if layout.size() < LARGE || layout.align() > PAGE {
        return None;
    }
    // Rounded up to an eighth of a power of two.
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

impl CachingAllocator {
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

    /// A block of a class or a little larger, null where there is no memory, and whether it is known to hold
    /// zeros.
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

impl Default for CachingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// A kept block of a class.
    fn take(&mut self, class: usize) -> Option<*mut Block> {
        let block = self.free[class];
        if block.is_null() {
            return None;
        }
        // SAFETY: a block in a list was freed by its user, and its first page holds the `Block` that was
        // written when it was mapped.
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

    /// Counts `size` bytes as in use, and returns kept blocks to the system until the total is within its
    /// bound.
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
                // SAFETY: the block was mapped with its class's size, and is no longer in any list.
                unsafe { fresh::free(block.cast(), PAGE + size_of(class)) };
            }
        }
    }
}

// SAFETY: small blocks always belong to `System`, because the layout, which callers keep, determines what is
// small. A large block has its class's size, at least as long and as aligned as requested. It is handed out
// to one caller at a time, because it is taken out of its list under the lock.
unsafe impl GlobalAlloc for CachingAllocator {
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
        let resized = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(resized)) {
            // SAFETY: the caller's promise.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some(old), Some(new)) if old == new => block,
            // SAFETY: the new block is `size` bytes long, the old one `layout.size()`, and they are distinct.
            _ => unsafe {
                let moved = self.alloc(resized);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step between checked bytes of a block. Under Miri, checking every byte would take minutes.
    const STRIDE: usize = if cfg!(miri) { 4093 } else { 1 };

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
        let memory = CachingAllocator::new();
        // SAFETY: blocks are freed with the layouts that they were allocated with, and used in between.
        unsafe {
            let asked = layout(3 * LARGE, 4);
            let first = memory.alloc(asked);
            assert_eq!(first.addr() % PAGE, 0);
            first.write_bytes(7, asked.size());
            memory.dealloc(first, asked);
            let again = memory.alloc_zeroed(layout(3 * LARGE - 100, 8));
            assert_eq!(again, first);
            let bytes = std::slice::from_raw_parts(again, 3 * LARGE - 100);
            assert!(bytes.iter().step_by(STRIDE).all(|b| *b == 0));
            memory.dealloc(again, layout(3 * LARGE - 100, 8));
        }
    }

    #[test]
    fn little_more_is_kept_than_was_in_use_at_a_time() {
        let memory = CachingAllocator::new();
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
        let memory = CachingAllocator::new();
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
        let memory = CachingAllocator::new();
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
                            assert!(bytes.iter().step_by(STRIDE).all(|b| *b == thread));
                            memory.dealloc(block, asked);
                        }
                    }
                });
            }
        });
        assert_eq!(memory.state().used, 0);
    }
}
