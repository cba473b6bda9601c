//! The `jobmill` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(cli::serve::ServeArgs),
    CheckConfig(cli::check_config::CheckConfigArgs),
}

fn main() -> ExitCode {
    if let Some(code) = jobmill::execute::command::guard_main() {
        return code;
    }
    match Arguments::parse().verb {
        Verb::Serve(args) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(cli::serve::run(args))
        }
        Verb::CheckConfig(args) => cli::check_config::run(args),
    }
}
