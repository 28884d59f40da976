//! The process. What it does is in `pierglass::cli`.

use std::process::ExitCode;

/// Buffers that are taken and given back all the time stay warm, and idle connections take a third less; what is
/// not used any more goes back to the system in the background. Measured: docs/performance.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pierglass::cli::run()
}
