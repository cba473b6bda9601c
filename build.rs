//! Compiles the protobuf files in pure Rust, so that the build needs no protoc, and generates what all calls that change
//! something have in common.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::Type,
};

const PUBLIC_ROOT: &str = "proto";
const PUBLIC: [&str; 6] = [
    "jobmill/v1/job_queue.proto",
    "jobmill/v1/limit.proto",
    "jobmill/v1/queue.proto",
    "jobmill/v1/schedule.proto",
    "jobmill/v1/server.proto",
    "jobmill/v1/worker.proto",
];
const PACKAGE: &str = "jobmill.v1";
/// The empty service of `jobmill bench`, for comparison; it is not part of the public API.
const BENCH_ROOT: &str = "src/cli/bench";
const BENCH: [&str; 1] = ["empty.proto"];

/// Calls whose methods in the Rust client are written by hand.
const WRITTEN_BY_HAND: [&str; 2] = ["Submit", "SubmitBatch"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PUBLIC_ROOT}");
    println!("cargo:rerun-if-changed={BENCH_ROOT}/{}", BENCH[0]);
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = compiler(PUBLIC_ROOT)?;
    compiler.open_files(PUBLIC)?;
    fs::write(folder.join("jobmill_v1.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    fs::write(folder.join("requests.rs"), requests(&descriptors)?)?;
    fs::write(folder.join("changes.rs"), changes(&descriptors)?)?;
    generate(descriptors)?;
    if has_feature("CLI") {
        let mut compiler = self::compiler(BENCH_ROOT)?;
        compiler.open_files(BENCH)?;
        generate(compiler.file_descriptor_set())?;
    }
    Ok(())
}

fn has_feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

fn compiler(root: &str) -> Result<protox::Compiler, protox::Error> {
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true);
    Ok(compiler)
}

/// Generates messages, client and server.
fn generate(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .build_client(has_feature("CLIENT"))
        .build_server(has_feature("SERVER"))
        .bytes(".jobmill.v1.Payload.data")
        .btree_map(".jobmill.v1")
        // They are large, and most requests and answers have none: each job is moved several times.
        .boxed(".jobmill.v1.JobSpec.retry_policy")
        .boxed(".jobmill.v1.JobSpec.unique_key")
        .boxed(".jobmill.v1.SubmitResponse.job")
        .boxed(".jobmill.v1.WatchEvent.event.snapshot")
        .boxed(".jobmill.v1.JobUpdated.job")
        .compile_fds(descriptors)?;
    Ok(())
}

fn public(descriptors: &FileDescriptorSet) -> impl Iterator<Item = &FileDescriptorProto> {
    descriptors.file.iter().filter(|file| file.package() == PACKAGE)
}

fn has_text(message: &DescriptorProto, name: &str) -> bool {
    message.field.iter().any(|field| field.name() == name && field.r#type() == Type::String)
}

/// Implements `ChangeRequest` for each request that has a request id, and conversions from a text for each with a field
/// `id` or `name`.
fn requests(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    let messages = public(descriptors).flat_map(|file| &file.message_type);
    for message in messages.filter(|message| message.name().ends_with("Request")) {
        let name = message.name();
        if has_text(message, "request_id") && has_text(message, "namespace") {
            writeln!(
                code,
                "impl ChangeRequest for v1::{name} {{\n\
                    fn namespace(&self) -> &str {{ &self.namespace }}\n\
                    fn request_id(&self) -> &str {{ &self.request_id }}\n\
                    fn request_id_mut(&mut self) -> &mut String {{ &mut self.request_id }}\n\
                }}"
            )?;
        }
        for field in ["id", "name"].into_iter().filter(|field| has_text(message, field)) {
            for (text, owned) in
                [("String", "text"), ("&String", "text.clone()"), ("&str", "text.to_owned()")]
            {
                writeln!(
                    code,
                    "impl From<{text}> for v1::{name} {{\n\
                        fn from(text: {text}) -> Self {{ Self {{ {field}: {owned}, ..Self::default() }} }}\n\
                    }}"
                )?;
            }
        }
    }
    Ok(code)
}

/// The Rust client's methods for unary calls whose requests have an id, with the protocol's comments.
fn changes(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let has_id = |request: &str| {
        let name = request.rsplit('.').next();
        let mut messages = public(descriptors).flat_map(|file| &file.message_type);
        messages.any(|message| Some(message.name()) == name && has_text(message, "request_id"))
    };
    let mut code = String::from("impl Client {\n");
    for file in public(descriptors) {
        for (at_service, service) in file.service.iter().enumerate() {
            let unary = |method: &MethodDescriptorProto| {
                !method.client_streaming()
                    && !method.server_streaming()
                    && has_id(method.input_type())
                    && !WRITTEN_BY_HAND.contains(&method.name())
            };
            for (at, method) in service.method.iter().enumerate().filter(|(_, method)| unary(method)) {
                let comment = comment(file, [6, at_service as i32, 2, at as i32]);
                code += &change(service, method, comment)?;
            }
        }
    }
    code.push('}');
    Ok(code)
}

/// One method of the Rust client.
fn change(
    service: &ServiceDescriptorProto,
    method: &MethodDescriptorProto,
    comment: &str,
) -> Result<String, Box<dyn Error>> {
    let [service, name] = [service.name(), method.name()].map(snake_case);
    let [request, response] =
        [method.input_type(), method.output_type()].map(|path| path.rsplit('.').next().unwrap_or(path));
    let mut code = String::new();
    for line in comment.lines() {
        writeln!(code, "///{line}")?;
    }
    writeln!(
        code,
        "///\n\
        /// While the outcome is unknown the call is repeated under the same request id, a new one unless the request\n\
        /// has one.\n\
        ///\n\
        /// # Errors\n\
        /// [`ClientError`]: those above as [`ClientError::Refused`], and others where there was no answer.\n\
        pub async fn {name}(&self, request: impl Into<v1::{request}>) -> Result<v1::{response}, ClientError> {{\n\
            self.change(request.into(), async |request| self.{service}().{name}(request).await).await\n\
        }}"
    )?;
    Ok(code)
}

/// The comment above an element, by its path in the descriptors.
fn comment(file: &FileDescriptorProto, path: [i32; 4]) -> &str {
    let locations = file.source_code_info.as_ref().map_or(&[][..], |info| &info.location);
    locations.iter().find(|location| location.path == path).map_or("", |found| found.leading_comments())
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
