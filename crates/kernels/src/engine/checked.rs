//! An engine that checks that all ranks make the same calls in the same order.

use super::Engine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Before each call of the inner engine, every rank tells the others which one it makes: ranks that differ stop with
/// a message, where they would otherwise wait for each other or mix their values. For tests: it doubles the calls.
#[derive(Debug)]
pub struct Checked {
    inner: Arc<dyn Engine>,
    calls: AtomicU64,
}

impl Checked {
    /// Checks the calls of `inner`.
    pub fn new(inner: Arc<dyn Engine>) -> Self {
        Self {
            inner,
            calls: AtomicU64::new(0),
        }
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// # Panics
    /// If another rank makes another call.
    fn check(&self, kind: &str, values: usize) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let own = format!("call {number}: {kind} of {values} values");
        let all = self.inner.gather_bytes(own.as_bytes());
        for (rank, other) in all.iter().enumerate() {
            assert!(
                other == own.as_bytes(),
                "ranks differ: rank {} makes {own}, rank {rank} {}",
                self.rank(),
                String::from_utf8_lossy(other)
            );
        }
    }
}

impl Engine for Checked {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn exchange(&self, values: &[f32], sends: &[usize], receives: &[usize]) -> Vec<f32> {
        // Ranks may send different numbers.
        self.check("exchange", 0);
        self.inner.exchange(values, sends, receives)
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        self.check("gather", own.len());
        self.inner.gather(own)
    }

    fn gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        self.check("gather_bytes", 0);
        self.inner.gather_bytes(own)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.check("broadcast", 0);
        self.inner.broadcast(bytes)
    }

    fn sum(&self, values: &mut [f32]) {
        self.check("sum", values.len());
        self.inner.sum(values);
    }

    fn scatter_sum(&self, values: &[f32]) -> Vec<f32> {
        self.check("scatter_sum", values.len());
        self.inner.scatter_sum(values)
    }

    fn barrier(&self) {
        self.check("barrier", 0);
        self.inner.barrier();
    }

    fn at_step(&self, step: usize) {
        self.inner.at_step(step);
    }
}
