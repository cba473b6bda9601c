//! The `jobmill` program.

mod cli;

fn main() -> std::process::ExitCode {
    if let Some(code) = jobmill::execute::command::guard_main() {
        return code;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(cli::main())
}
