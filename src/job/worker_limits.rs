//! Limits of the protocol of remote workers, which the server checks and its own library keeps.

/// Limit of a worker's pools.
pub(crate) const POOLS_MAX: usize = 64;
/// Limit of a pool's kinds.
pub(crate) const POOL_KINDS_MAX: usize = 1_000;
/// Limit of a pool's queues.
pub(crate) const POOL_QUEUES_MAX: usize = 1_000;
/// Byte limit of a pool's name.
pub(crate) const POOL_NAME_MAX_BYTES: usize = 63;
/// Byte limit of a worker's name.
pub(crate) const INSTANCE_MAX_BYTES: usize = 128;
/// Limit of the leases that a worker lists.
pub(crate) const HELLO_LEASES_MAX: usize = 10_000;
/// Limit of the frames in a message.
pub(crate) const FRAMES_MAX: usize = 4_096;
/// Byte limit of a failure's message, and of the reason for handing a job back. What exceeds it is cut off.
pub(crate) const MESSAGE_MAX_BYTES: usize = 1 << 10;
