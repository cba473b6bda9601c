//! The `jobmill` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: in a guard, nothing else of this program may run.
    if let Some(code) = jobmill::execute::command::guard_main() {
        return code;
    }
    ExitCode::SUCCESS
}
