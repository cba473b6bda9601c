//! Compiles the protocol in pure Rust, so that building needs no protoc.

use std::{env, error::Error, fs, path::Path};

const PUBLIC_ROOT: &str = "proto";
const PUBLIC: [&str; 3] = ["jobmill/v1/job_queue.proto", "jobmill/v1/queue.proto", "jobmill/v1/server.proto"];
/// The empty service that the bench compares with: no part of the public API.
const BENCH_ROOT: &str = "src/cli/bench";
const BENCH: [&str; 1] = ["empty.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PUBLIC_ROOT}");
    println!("cargo:rerun-if-changed={BENCH_ROOT}/{}", BENCH[0]);
    compile(PUBLIC_ROOT, &PUBLIC, Some("jobmill_v1.bin"))?;
    if env::var_os("CARGO_FEATURE_CLI").is_some() {
        compile(BENCH_ROOT, &BENCH, None)?;
    }
    Ok(())
}

/// Generates messages, client and server; keeps the descriptors for reflection under the given name.
fn compile(root: &str, files: &[&str], descriptors: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    if let Some(name) = descriptors {
        fs::write(Path::new(&env::var("OUT_DIR")?).join(name), compiler.encode_file_descriptor_set())?;
    }
    tonic_prost_build::configure()
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .bytes(".jobmill.v1.Payload.data")
        .btree_map(".jobmill.v1")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
