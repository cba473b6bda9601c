//! The `jobmill` program.

mod cli;

use std::process::ExitCode;

/// The global allocator. Calls allocate on many threads and free on others, which mimalloc does better than the
/// system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A command's guard is this same program: it must not read arguments or start threads.
    jobmill::execute::command::guard_main().unwrap_or_else(cli::main)
}
