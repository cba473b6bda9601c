//! Bounds of messages.

/// The longest gRPC message that is read: 4 MiB.
pub(super) const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// A message has at most so many bytes, or a single job, so that it fits into the 4 MiB that clients read by default:
/// with 1,000 failed attempts, a job takes up to 3.3 MiB.
pub(super) const ENOUGH_BYTES: usize = 3 << 19;

/// All unfinished messages of a server take at most so many bytes. One counts as a whole once its length is known, since
/// room for all of it is made then; one that comes in one frame never counts.
pub(super) const UNFINISHED_MAX_BYTES: usize = 256 << 20;
