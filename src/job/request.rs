//! Ids of requests that may be repeated.

use sha2::{Digest, Sha256};

/// What became of a job that was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitOutcome {
    /// It is new.
    Created,
    /// Its request had come before, and this is the job of that time.
    Repeated,
    /// Its request had come before, and the job of that time has been deleted since.
    Gone,
}

/// The id of a request that may be repeated, as the store keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The id in 16 bytes.
    pub key: [u8; 16],
    /// What the request said, in 16 bytes.
    pub digest: [u8; 16],
}

impl RequestId {
    /// The key of a request id as the client wrote it: a UUID as it is, so that time-ordered ones keep their order,
    /// other text by its hash.
    #[must_use]
    pub fn key_of(text: &str) -> [u8; 16] {
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) => uuid.into_bytes(),
            Err(_) => Self::hash(&[b"jobmill request id", text.as_bytes()]),
        }
    }

    /// The first 16 bytes of the SHA-256 of some parts, each with its length.
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
