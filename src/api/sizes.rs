//! Size limits of messages.

/// Byte limit of a gRPC message that the server accepts: 4 MiB.
pub(super) const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// Byte limit of a response message, unless it has a single job, so that it fits into the 4 MiB that clients accept by
/// default: with 1,000 failed attempts, a job takes up to 3.3 MiB.
pub(super) const ENOUGH_BYTES: usize = 3 << 19;

/// Byte limit of all incomplete messages of a server. A message counts with its whole length once that is known, since
/// its buffer is allocated then; a message that arrives in one frame never counts.
pub(super) const UNFINISHED_MAX_BYTES: usize = 256 << 20;
