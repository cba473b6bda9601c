//! The payload of a job, from the command line.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{exit::Failure, text, values};
use jobmill::{
    client::{ClientError, Code},
    proto::v1::Payload,
};

/// The server's size limit of a payload.
const PAYLOAD_MAX_BYTES: u64 = 1 << 20;
/// Size limit of reading a payload. A larger one would not fit into a message, and the server could not say why it
/// refuses it.
pub(super) const PAYLOAD_READ_MAX_BYTES: u64 = 3 << 20;

/// Where a job's payload comes from.
#[derive(Debug, clap::Args)]
pub(super) struct PayloadArgs {
    /// Input of the handler as text; see also --file and --stdin
    #[arg(conflicts_with_all = ["file", "stdin"])]
    payload: Option<String>,
    /// Read the handler's input from a file
    #[arg(long, value_name = "PATH", conflicts_with = "stdin")]
    file: Option<PathBuf>,
    /// Read the handler's input from standard input
    #[arg(long)]
    stdin: bool,
    /// The media type of the input
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    payload_type: String,
    /// Metadata of the input, such as its encoding; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::entry)]
    payload_metadata: Vec<(String, String)>,
}

impl PayloadArgs {
    /// Returns whether a payload without bytes is asked for, or any other.
    pub(super) fn is_given(&self) -> bool {
        let PayloadArgs { payload, file, stdin, payload_type, payload_metadata } = self;
        let has_bytes = payload.is_some() || file.is_some() || *stdin;
        has_bytes || !payload_type.is_empty() || !payload_metadata.is_empty()
    }

    /// Returns the payload, if there is one. Only a payload that is given as an argument is certainly text.
    pub(super) fn payload(&self) -> Result<Option<Payload>, Failure> {
        let payload = match (&self.payload, &self.file) {
            (Some(text), _) => Payload::of_text(text.as_str()),
            (None, Some(path)) => Payload::of(read_file(path)?),
            (None, None) if self.stdin => Payload::of(read(std::io::stdin().lock(), "standard input")?),
            (None, None) => Payload::default(),
        };
        let metadata = self.payload_metadata.iter().cloned().collect();
        let payload = Payload { metadata, ..payload.with_type(self.payload_type.as_str()) };
        Ok((payload != Payload::default()).then_some(payload))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::usage(format!("`{name}` can't be read: {error}")))?;
    read(file, &format!("`{name}`"))
}

/// Reads a payload. Refuses only what no message could hold; the server checks its own limit.
fn read(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_READ_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{name} can't be read: {error}")))?;
    if bytes.len() as u64 > PAYLOAD_READ_MAX_BYTES {
        let size = text::bytes(PAYLOAD_READ_MAX_BYTES);
        return Err(too_large(&format!("{name} has more than {size}")));
    }
    Ok(bytes)
}

fn too_large(what: &str) -> Failure {
    let limit = text::bytes(PAYLOAD_MAX_BYTES);
    Failure::usage(format!("{what}; the limit of a payload is {limit}"))
        .with_next("Keep large input where the handler can read it, and submit its name.")
}

/// Replaces the transport's error for a message over the server's limit, which gives no advice.
pub(super) fn explained(error: ClientError) -> Failure {
    if let ClientError::Failed { code: Code::OutOfRange | Code::ResourceExhausted, message, .. } = &error
        && message.contains("message")
    {
        return too_large("the job is too large for one message");
    }
    error.into()
}
