//! Blocks taken directly from the system's pages, because a C library's allocator would cache some of them a
//! second time.

pub(crate) use system::{ZERO, block, free};

#[cfg(unix)]
mod system {
    use std::ptr::null_mut;

    /// Fresh pages are zero.
    pub(crate) const ZERO: bool = true;
    /// Bytes of a huge page, which saves 511 of 512 page faults and most address translations. Miri does not
    /// support the advice.
    #[cfg(all(target_os = "linux", not(miri)))]
    const HUGE: usize = 2 << 20;

    pub(crate) fn block(size: usize) -> *mut u8 {
        let (flags, access) = (
            libc::MAP_PRIVATE | libc::MAP_ANON,
            libc::PROT_READ | libc::PROT_WRITE,
        );
        // SAFETY: a new mapping at an address that the kernel chooses overlaps no other memory.
        let block = unsafe { libc::mmap(null_mut(), size, access, flags, -1, 0) };
        if block == libc::MAP_FAILED {
            return null_mut();
        }
        #[cfg(all(target_os = "linux", not(miri)))]
        if size >= HUGE {
            // SAFETY: advice on our own mapping. If the kernel rejects it, it returns an error without
            // further effect.
            unsafe { libc::madvise(block, size, libc::MADV_HUGEPAGE) };
        }
        block.cast()
    }

    /// # Safety
    /// `block` came from [`block`] with this size, and is no longer in use.
    pub(crate) unsafe fn free(block: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(block.cast(), size) };
    }
}

#[cfg(not(unix))]
mod system {
    use std::alloc::{GlobalAlloc, Layout, System};

    pub(crate) const ZERO: bool = false;

    fn layout(size: usize) -> Layout {
        // SAFETY: a page is a power of two, and sizes are far below the largest number.
        unsafe { Layout::from_size_align_unchecked(size, crate::PAGE) }
    }

    pub(crate) fn block(size: usize) -> *mut u8 {
        // SAFETY: the size is not zero.
        unsafe { System.alloc(layout(size)) }
    }

    /// # Safety
    /// `block` came from [`block`] with this size, and is no longer in use.
    pub(crate) unsafe fn free(block: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout(size)) };
    }
}
