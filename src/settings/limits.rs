//! Limits of settings. The protocol's comments state the same numbers, and requests are checked against these constants
//! too.

use std::{ops::RangeInclusive, time::Duration};

const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 365.25 days, as in `10years`.
const YEAR: u64 = DAY * 1461 / 4;

/// Maximum number of queues.
pub const QUEUES_MAX: usize = 1_000;
/// Maximum number of kinds in a configuration.
pub const KINDS_MAX: usize = 1_000;
/// Maximum number of consumers of all queues in a configuration together.
pub const CONSUMERS_TOTAL_MAX: u64 = 100_000;

/// Range of a queue's limit of jobs.
pub const QUEUE_JOBS: RangeInclusive<u64> = 1..=1_000_000_000;
/// Range of a queue's byte limit.
pub const QUEUE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Range of the number of a queue's attempts that run at once.
pub const QUEUE_CONSUMERS: RangeInclusive<u32> = 0..=10_000;
/// Range of the longest wait of a submission for room.
pub const QUEUE_MAX_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * MINUTE);
/// Range of the number of submissions that may wait for room.
pub const QUEUE_MAX_WAITERS: RangeInclusive<u32> = 0..=10_000;

/// Range of the size of the ballast, a file that reserves space for what must be written even to a full disk.
pub const BALLAST_BYTES: RangeInclusive<u64> = 0..=1 << 30;
/// Range of the free space below which new jobs are refused.
pub const MIN_FREE_BYTES: RangeInclusive<u64> = 0..=1 << 40;

/// Longest time that a job may wait or be kept.
pub const TEN_YEARS: Duration = Duration::from_secs(10 * YEAR);
/// Range of the time for which ended jobs are kept, if not for ever.
pub const KEEP: RangeInclusive<Duration> = Duration::ZERO..=TEN_YEARS;
/// Maximum number of different retention times of the server and all queues: the store sweeps for each of them
/// separately.
pub const KEEP_TIMES_MAX: usize = 32;

/// Range of a job's maximum number of attempts.
pub const MAX_ATTEMPTS: RangeInclusive<u32> = 1..=1_000;
/// Range of the timeout of an attempt.
pub const ATTEMPT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(30 * DAY);
/// Range of the first and the longest delay between attempts.
pub const RETRY_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * DAY);
/// Range of the factor from one delay to the next.
pub const RETRY_MULTIPLIER: RangeInclusive<f64> = 1.0..=100.0;
/// Range of the random part of a delay.
pub const RETRY_JITTER: RangeInclusive<f64> = 0.0..=1.0;

/// Maximum number of listed delays between attempts.
pub const RETRY_DELAYS_MAX: usize = 100;
/// Range of a job's deadline, from its acceptance.
pub const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(1)..=TEN_YEARS;
/// Range of a job's limit of snoozes.
pub const MAX_SNOOZES: RangeInclusive<u32> = 0..=1_000_000;
/// Range of a job's limit of process losses.
pub const MAX_PROCESS_LOSSES: RangeInclusive<u32> = 1..=100;
/// Default delay after an attempt that asks to be run again later.
pub const DEFAULT_SNOOZE_DELAY: Duration = Duration::from_secs(60);
/// Maximum number of HTTP statuses by which an endpoint asks to be called again later.
pub const SNOOZE_STATUSES_MAX: usize = 100;

/// Maximum number of schedules.
pub const SCHEDULES_MAX: usize = 200_000;
/// Maximum number of calendars.
pub const CALENDARS_MAX: usize = 1_000;
/// Maximum number of dates and ranges of a calendar, and of a schedule's own.
pub const DATES_MAX: usize = 2_000;
/// Maximum number of calendars of a schedule.
pub const CALENDARS_OF_SCHEDULE_MAX: usize = 16;
/// Range of the lateness above which an instant of a schedule is missed.
pub const CATCH_UP: RangeInclusive<Duration> = Duration::from_secs(10)..=TEN_YEARS;
/// Range of the number of failed jobs in a row after which a schedule is paused.
pub const PAUSE_AFTER_FAILURES: RangeInclusive<u32> = 1..=1_000;

/// Range of the share of submissions without a trace context that begin a trace.
pub const SAMPLE_RATIO: RangeInclusive<f64> = 0.0..=1.0;

/// Range of the time for which a stopping server waits for running attempts.
pub const DRAIN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(HOUR);

/// Range of the time between `SIGTERM` and `SIGKILL`.
pub const KILL_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * MINUTE);
/// Maximum number of elements of a command, including its program.
pub const ARGV_MAX: usize = 256;
/// Maximum length of an element of a command, and of the value of one of its variables. Linux itself takes less than
/// 128 KiB; more would fail only when the first job starts.
pub const ARGUMENT_BYTES_MAX: usize = 64 << 10;
/// Maximum number of variables set for a command, and of the server's own variables passed on to it.
pub const VARIABLES_MAX: usize = 256;
/// Range of exit codes that mark a failure.
pub const EXIT_CODES: RangeInclusive<i32> = 1..=255;

/// Range of the number of open connections.
pub const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;

/// Maximum number of limits.
pub const LIMITS_MAX: usize = 1_000;
/// Maximum number of the overrides of a limit.
pub const LIMIT_OVERRIDES_MAX: usize = 10_000;
/// Maximum number of the queues, and of the kinds, that a limit names.
pub const LIMIT_NAMES_MAX: usize = 100;
/// Range of the total weight of the jobs that run at once under a limit. With 0 it is paused.
pub const LIMIT_RUNNING: RangeInclusive<u32> = 0..=1_000_000;
/// Range of the number of tokens that come in each period of a rate. With 0 it is paused.
pub const RATE_COUNT: RangeInclusive<u32> = 0..=1_000_000;
/// Range of the period of a rate.
pub const RATE_PERIOD: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(31 * DAY);
/// Range of the largest number of tokens that a rate saves.
pub const RATE_BURST: RangeInclusive<u32> = 1..=1_000_000;
/// Range of a job's weight under a limit.
pub const WEIGHT: RangeInclusive<u32> = 1..=1_000_000;
/// Maximum number of the weights of a job.
pub const WEIGHTS_MAX: usize = 32;
/// Maximum length of a value of a limit, in bytes.
pub const LIMIT_VALUE_BYTES_MAX: usize = 256;

/// Range of the number of open connections that have not sent anything yet.
pub const HANDSHAKES: RangeInclusive<u32> = 1..=100_000;
/// Range of the time limit for a connection's TLS handshake and first bytes.
pub const HANDSHAKE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(5 * MINUTE);
/// Range of the number of open calls on one connection.
pub const STREAMS_PER_CONNECTION: RangeInclusive<u32> = 1..=100_000;
/// Range of the total size of a call's headers, in bytes.
pub const HEADER_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 20;
/// Range of the time of silence after which a connection is sent a keepalive ping.
pub const KEEPALIVE_INTERVAL: RangeInclusive<Duration> =
    Duration::from_secs(SECOND)..=Duration::from_secs(HOUR);
/// Range of the time limit for the answer to a keepalive ping.
pub const KEEPALIVE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(SECOND)..=Duration::from_secs(10 * MINUTE);

/// Range of the time for which a remote worker's lease lasts without a heartbeat.
pub const LEASE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(HOUR);
/// Range of the time in which a remote worker must answer that it has received a job.
pub const RECEIVE_WITHIN: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(10 * MINUTE);
/// Range of the time between the request to stop a remote attempt and the end of its lease.
pub const STOP_GRACE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(HOUR);
/// Range of the interval at which remote workers prove that they live.
pub const PING_EVERY: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(10 * MINUTE);

/// Maximum number of host names in a configuration, and of origins.
pub const HOSTS_MAX: usize = 100;
/// Maximum number of tokens.
pub const TOKENS_MAX: usize = 1_000;
/// Maximum number of a token's queue patterns.
pub const TOKEN_QUEUES_MAX: usize = 100;
/// Maximum length of an endpoint's URL, in bytes.
pub const URL_BYTES_MAX: usize = 4 << 10;
/// Maximum number of the operator's own headers of a request.
pub const HEADERS_MAX: usize = 32;
/// Maximum length of the value of such a header, in bytes.
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// Maximum number of signing secrets from each source.
pub const SIGNING_SECRETS_MAX: usize = 4;
/// Range of the length of a signing secret, in bytes.
pub const SIGNING_SECRET_BYTES: RangeInclusive<usize> = 24..=64;
/// Maximum size of a file of secrets or certificates, in bytes.
pub const CREDENTIAL_FILE_BYTES_MAX: u64 = 1 << 20;
/// Maximum number of networks that a kind may be allowed to connect to.
pub const NETWORKS_MAX: usize = 64;
/// Range of the time limit for connecting to an endpoint.
pub const CONNECT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(5 * MINUTE);
/// Range of the number of a kind's connections.
pub const HTTP_CONNECTIONS: RangeInclusive<u32> = 1..=10_000;
/// Range of an attempt's longest wait for a connection. Much less would send jobs into backoff again and again.
pub const CONNECTION_WAIT: RangeInclusive<Duration> = Duration::from_secs(SECOND)..=Duration::from_secs(HOUR);
/// Range of the time for which an idle connection to an endpoint is reused. With 0, a connection that requests can't
/// share is used only once.
pub const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(HOUR);

/// Maximum size of a configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
