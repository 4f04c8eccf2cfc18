//! The program `passer`: its memory, and the call into the library beside it.

/// Activations of a step are allocated where those of the step before were.
#[global_allocator]
static MEMORY: allocator::CachingAllocator = allocator::CachingAllocator::new();

fn main() -> std::process::ExitCode {
    cli::run()
}
