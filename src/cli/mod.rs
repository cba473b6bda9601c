//! The command line.

mod bench;
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
    Bench {
        #[command(flatten)]
        args: bench::BenchArgs,
        /// Write the figures as JSON
        #[arg(long)]
        json: bool,
    },
    #[command(name = "__bench-server", hide = true)]
    BenchServer(bench::BenchServerArgs),
}

pub(crate) async fn main() -> ExitCode {
    match Verb::parse() {
        Verb::Serve(args) => serve::run(args).await,
        Verb::Bench { args, json } => bench::run(args, json).await,
        Verb::BenchServer(args) => bench::run_server(args).await,
        Verb::CheckConfig(args) => check_config::run(args),
    }
}
