//! Commands as handlers.

/// Stand-in.
#[must_use]
pub fn guard_main() -> Option<std::process::ExitCode> {
    None
}
