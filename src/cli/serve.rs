//! Stand-in.
#![expect(missing_docs, clippy::unused_async, reason = "stand-in")]
use std::process::ExitCode;
#[derive(clap::Args, Debug)]
pub(crate) struct ServeArgs {}
pub(crate) async fn run(_args: ServeArgs) -> ExitCode {
    ExitCode::FAILURE
}
