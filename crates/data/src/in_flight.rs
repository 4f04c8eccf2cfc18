//! Bytes that a picture needs in, permission to hold them out: a bound on the memory of all threads that
//! decode and resize at once.
//!
//! Each thread's picture is small, but a few large ones at the same moment would take the process. So a
//! thread reserves the bytes of its picture before it allocates them, and waits while other threads hold too
//! many. A picture that needs more than the bound waits until it is alone.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes of decoded pictures in flight: about 57 photos of 12 megapixels.
pub(crate) static PICTURES: InFlight = InFlight::new(2 << 30);

/// Bytes of encoded pictures in flight. Threads reserve here before [`PICTURES`], never after, so none waits
/// for itself.
pub(crate) static FILES: InFlight = InFlight::new(1 << 30);

/// A bound, and the bytes held below it.
#[derive(Debug)]
pub(crate) struct InFlight {
    bound: u64,
    held: Mutex<u64>,
    freed: Condvar,
    /// Held while waiting, so that a large picture is not overtaken by small ones forever.
    turn: Mutex<()>,
}

/// Reserved bytes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    of: &'a InFlight,
    bytes: u64,
}

impl InFlight {
    pub(crate) const fn new(bound: u64) -> InFlight {
        InFlight {
            bound,
            held: Mutex::new(0),
            freed: Condvar::new(),
            turn: Mutex::new(()),
        }
    }

    /// Waits until `bytes` more stay within the bound, or nothing else is held.
    ///
    /// Until the result is dropped, its thread must neither reserve here again nor wait for other threads.
    pub(crate) fn reserve(&self, bytes: u64) -> Held<'_> {
        let bytes = bytes.min(self.bound);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |held: &mut u64| *held + bytes > self.bound;
        let mut held = self
            .freed
            .wait_while(held, full)
            .unwrap_or_else(PoisonError::into_inner);
        *held += bytes;
        Held { of: self, bytes }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held -= self.bytes;
        // At most one thread waits: the one that has the turn.
        self.of.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn threads_never_hold_more_than_the_bound_and_all_come_through() {
        let bound = InFlight::new(100);
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (bound, now, most) = (&bound, &now, &most);
                scope.spawn(move || {
                    for round in 0..200u64 {
                        // Small ones, and one that needs more than there is.
                        let bytes = if round % 50 == thread {
                            1_000
                        } else {
                            7 * (thread + 1)
                        };
                        let held = bound.reserve(bytes);
                        let sum = now.fetch_add(held.bytes, Ordering::SeqCst) + held.bytes;
                        most.fetch_max(sum, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(held.bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100, "{most:?}");
        assert_eq!(*bound.held.lock().unwrap(), 0);
    }

    #[test]
    fn one_that_needs_more_than_the_bound_is_alone() {
        let bound = InFlight::new(10);
        let all = bound.reserve(u64::MAX);
        assert_eq!(all.bytes, 10);
        drop(all);
        assert_eq!(bound.reserve(0).bytes, 0);
    }
}
