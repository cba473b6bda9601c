//! The `jobmill` program.

mod cli;

use std::process::ExitCode;

/// Calls allocate on many threads and free on others, which this one is better at than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A command's guard is this same program: it must not read arguments or start threads.
    jobmill::execute::command::guard_main().unwrap_or_else(cli::main)
}
