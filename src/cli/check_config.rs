//! Stand-in.
#![expect(missing_docs, clippy::needless_pass_by_value, reason = "stand-in")]
use std::process::ExitCode;
#[derive(clap::Args, Debug)]
pub(crate) struct CheckConfigArgs {}
pub(crate) fn run(_args: CheckConfigArgs) -> ExitCode {
    ExitCode::FAILURE
}
