//! Compiles the protocol in pure Rust, so that building needs no protoc.

use std::{env, error::Error, fs, path::Path};

const PROTO_ROOT: &str = "proto";
const PUBLIC: [&str; 2] = ["jobmill/v1/job_queue.proto", "jobmill/v1/queue.proto"];
const BENCH: [&str; 1] = ["jobmill/bench/v1/bench.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    compile(&PUBLIC, Some("jobmill_v1.bin"))?;
    compile(&BENCH, None)
}

/// Generates messages, client and server; keeps the descriptors for reflection under the given name.
fn compile(files: &[&str], descriptors: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    if let Some(name) = descriptors {
        fs::write(Path::new(&env::var("OUT_DIR")?).join(name), compiler.encode_file_descriptor_set())?;
    }
    tonic_prost_build::configure()
        .bytes(".jobmill.v1.Payload.data")
        .btree_map(".jobmill.v1")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
