//! The `jobmill` program.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A command's guard is this same program: it must not read arguments or start threads.
    jobmill::execute::command::guard_main().unwrap_or_else(cli::main)
}
