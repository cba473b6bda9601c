//! The command line.

mod check_config;
mod logging;
mod serve;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "jobmill", version)]
enum Verb {
    Serve(serve::ServeArgs),
    CheckConfig(check_config::CheckConfigArgs),
}

pub(crate) async fn main() -> ExitCode {
    match Verb::parse() {
        Verb::Serve(args) => serve::run(args).await,
        Verb::CheckConfig(args) => check_config::run(args),
    }
}
