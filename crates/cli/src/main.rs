//! The program `passer`: its allocator, and the call into the library beside it.

/// A step's activations reuse the memory of the previous step's.
#[global_allocator]
static MEMORY: allocator::CachingAllocator = allocator::CachingAllocator::new();

fn main() -> std::process::ExitCode {
    cli::run()
}
