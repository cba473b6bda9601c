//! What settings may be. The protocol's comments state the same numbers, and requests are held to these constants too.

use std::{ops::RangeInclusive, time::Duration};

const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 365.25 days, as in `10years`.
const YEAR: u64 = DAY * 1461 / 4;

/// How many queues there may be.
pub const QUEUES_MAX: usize = 1_000;
/// How many kinds a configuration may declare.
pub const KINDS_MAX: usize = 1_000;
/// How many consumers all queues of a configuration may have together.
pub const CONSUMERS_TOTAL_MAX: u64 = 100_000;

/// How many jobs a queue may hold.
pub const QUEUE_JOBS: RangeInclusive<u64> = 1..=1_000_000_000;
/// How many bytes a queue's jobs may take.
pub const QUEUE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// How many attempts of a queue may run at once.
pub const QUEUE_CONSUMERS: RangeInclusive<u32> = 0..=10_000;
/// How long a submission may wait for room.
pub const QUEUE_MAX_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * MINUTE);
/// How many submissions may wait for room.
pub const QUEUE_MAX_WAITERS: RangeInclusive<u32> = 0..=10_000;

/// How much space a file may keep for what must be written to a full disk.
pub const BALLAST_BYTES: RangeInclusive<u64> = 0..=1 << 30;
/// How much space may have to be free for new jobs to be taken.
pub const MIN_FREE_BYTES: RangeInclusive<u64> = 0..=1 << 40;

/// The longest time that a job may wait or be kept for.
pub const TEN_YEARS: Duration = Duration::from_secs(10 * YEAR);
/// How long ended jobs may be kept, if not for ever.
pub const KEEP: RangeInclusive<Duration> = Duration::ZERO..=TEN_YEARS;
/// How many different times all queues and the server's own retention may name: each costs the store a walk of its own.
pub const KEEP_TIMES_MAX: usize = 32;

/// How many attempts of a job may start.
pub const MAX_ATTEMPTS: RangeInclusive<u32> = 1..=1_000;
/// How long one attempt may take.
pub const ATTEMPT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(30 * DAY);
/// How long a retry may be delayed: the first delay and the longest one.
pub const RETRY_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * DAY);
/// How much longer each delay may be than the one before it.
pub const RETRY_MULTIPLIER: RangeInclusive<f64> = 1.0..=100.0;
/// How large the random part of a delay may be.
pub const RETRY_JITTER: RangeInclusive<f64> = 0.0..=1.0;

/// Of submissions without a trace context, how many may begin a trace.
pub const SAMPLE_RATIO: RangeInclusive<f64> = 0.0..=1.0;

/// How long a stopping server may wait for running attempts.
pub const DRAIN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(HOUR);

/// How long a command may have between `SIGTERM` and `SIGKILL`.
pub const KILL_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * MINUTE);
/// How many elements a command may have, its program included.
pub const ARGV_MAX: usize = 256;
/// How long one element of a command, or the value of one of its variables, may be. Linux itself takes less than
/// 128 KiB; more would fail only when the first job starts.
pub const ARGUMENT_BYTES_MAX: usize = 64 << 10;
/// How many variables a command may be given, and how many of the server's own it may be allowed.
pub const VARIABLES_MAX: usize = 256;
/// What an exit code may be that marks a failure.
pub const EXIT_CODES: RangeInclusive<i32> = 1..=255;

/// How many connections may be open.
pub const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;
/// How many connections may be open that have not said anything yet.
pub const HANDSHAKES: RangeInclusive<u32> = 1..=100_000;
/// How long a connection may have for its TLS handshake and its first bytes.
pub const HANDSHAKE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(5 * MINUTE);
/// How many calls one connection may have open.
pub const STREAMS_PER_CONNECTION: RangeInclusive<u32> = 1..=100_000;
/// How many bytes the headers of a call may take together.
pub const HEADER_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 20;
/// How long a connection may be silent before it is asked whether it is alive.
pub const KEEPALIVE_INTERVAL: RangeInclusive<Duration> =
    Duration::from_secs(SECOND)..=Duration::from_secs(HOUR);
/// How long a connection may take to say that it is alive.
pub const KEEPALIVE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(SECOND)..=Duration::from_secs(10 * MINUTE);

/// How many names of hosts a configuration may have, and how many origins.
pub const HOSTS_MAX: usize = 100;
/// How many tokens there may be.
pub const TOKENS_MAX: usize = 1_000;
/// How many patterns for queues a token may have.
pub const TOKEN_QUEUES_MAX: usize = 100;
/// How long the URL of an endpoint may be.
pub const URL_BYTES_MAX: usize = 4 << 10;
/// How many headers of the operator's own a request may have.
pub const HEADERS_MAX: usize = 32;
/// How long the value of such a header may be.
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// How many secrets of each source requests may be signed with.
pub const SIGNING_SECRETS_MAX: usize = 4;
/// How long a signing secret may be.
pub const SIGNING_SECRET_BYTES: RangeInclusive<usize> = 24..=64;
/// How large a file of secrets or certificates may be.
pub const CREDENTIAL_FILE_BYTES_MAX: u64 = 1 << 20;
/// How many networks a kind may be allowed to connect to.
pub const NETWORKS_MAX: usize = 64;
/// How long it may take to connect to an endpoint.
pub const CONNECT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(5 * MINUTE);
/// How many connections a kind may have.
pub const HTTP_CONNECTIONS: RangeInclusive<u32> = 1..=10_000;
/// How long an attempt may wait for a connection. Much less would only have its job come and go.
pub const CONNECTION_WAIT: RangeInclusive<Duration> = Duration::from_secs(SECOND)..=Duration::from_secs(HOUR);
/// How long a connection to an endpoint may be idle and be used again; 0 uses each once where requests can't share it.
pub const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(HOUR);

/// How large a configuration file may be.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
