//! Request ids, which make requests idempotent.

use sha2::{Digest, Sha256};

/// Outcome of a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitOutcome {
    /// A new job was created.
    Created,
    /// The request is a repeat, and its job still exists.
    Repeated,
    /// The request is a repeat, and its job has been deleted.
    Gone,
    /// Another job holds the unique key, and no job was created.
    Existing,
    /// A job that waits with the unique key took over the input, and no job was created.
    Replaced,
}

/// Id of an idempotent request, as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The request id in 16 bytes.
    pub key: [u8; 16],
    /// Digest of the request's content, in 16 bytes.
    pub digest: [u8; 16],
}

impl RequestId {
    /// Returns the key of a request id as the client wrote it. A UUID is used as it is, so that time-ordered ones keep
    /// their order; other text is hashed.
    #[must_use]
    pub fn key_of(text: &str) -> [u8; 16] {
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) => uuid.into_bytes(),
            Err(_) => Self::hash(&[b"jobmill request id", text.as_bytes()]),
        }
    }

    /// Returns the first 16 bytes of the SHA-256 of several parts, each with its length.
    #[must_use]
    pub fn hash(parts: &[&[u8]]) -> [u8; 16] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        first
    }
}
