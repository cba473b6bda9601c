//! Validation of what workers say.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive, time::Duration};

use tonic::Status;

use super::validate::{Field, Validator};
use crate::{
    admission::rules::{self, shown},
    clock::Timestamp,
    execute::cut,
    job::{
        Checkpoint, Failure, FailureReason, JobId, LeaseToken, Output, Progress,
        checkpoint::CHECKPOINT_MAX_BYTES,
        worker_limits::{
            HELLO_LEASES_MAX, INSTANCE_MAX_BYTES, MESSAGE_MAX_BYTES, POOL_KINDS_MAX, POOL_NAME_MAX_BYTES,
            POOL_QUEUES_MAX, POOLS_MAX,
        },
    },
    proto::v1,
    settings::limits,
    workers::{Introduction, PoolInfo, WorkerReport},
};

const PROCESS_MAX_BYTES: usize = 64;
const CLIENT_VERSION_MAX_BYTES: usize = 128;
const CODE_MAX_BYTES: usize = 128;
const PROGRESS_TEXT_MAX_BYTES: usize = 256;
/// Range of the wait of LeaseJobs.
const LEASE_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Range of the time in which a worker is to end.
const DRAIN_WITHIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 3_600);
const DRAIN_WITHIN_DEFAULT: Duration = Duration::from_secs(30);
/// Job limit of a call of LeaseJobs.
pub(super) const LEASED_MAX: i32 = 100;

/// A validated hello.
#[derive(Debug, Default)]
pub(super) struct HelloDraft {
    pub(super) instance: String,
    pub(super) process: String,
    pub(super) about: Introduction,
    pub(super) leases: Vec<(JobId, LeaseToken)>,
}

impl HelloDraft {
    /// Returns the kinds of all pools.
    pub(super) fn kinds(&self) -> BTreeSet<String> {
        self.about.pools.iter().flat_map(|pool| pool.kinds.iter().cloned()).collect()
    }
}

impl Validator {
    /// Validates the names of a worker's process.
    pub(super) fn worker_process(&mut self, field: &dyn Display, instance: &str, process: &str) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        if !(1..=INSTANCE_MAX_BYTES).contains(&instance.len()) || !instance.bytes().all(allowed) {
            let problem =
                format!("is {}; it must be 1 to 128 of a-z, A-Z, 0-9, `-`, `_`, `.`, `:`", shown(instance));
            self.fault(Field { of: field, name: "instance" }, problem);
        }
        let visible = |b: u8| (0x21..0x7f).contains(&b);
        if !(1..=PROCESS_MAX_BYTES).contains(&process.len()) || !process.bytes().all(visible) {
            let problem = format!(
                "is {}; it must be 1 to 64 visible ASCII characters, drawn at random when the process starts",
                shown(process)
            );
            self.fault(Field { of: field, name: "process" }, problem);
        }
    }

    pub(super) fn hello(&mut self, hello: v1::Hello) -> HelloDraft {
        let at = |name| Field { of: &"hello", name };
        self.worker_process(&"hello", &hello.instance, &hello.process);
        if hello.client_version.len() > CLIENT_VERSION_MAX_BYTES {
            let problem = format!(
                "has {} bytes; at most {CLIENT_VERSION_MAX_BYTES} are allowed",
                hello.client_version.len()
            );
            self.fault(at("client_version"), problem);
        }
        self.labels(at("labels"), &hello.labels);
        if !(1..=POOLS_MAX).contains(&hello.pools.len()) {
            let problem = format!("has {} entries; 1 to {POOLS_MAX} are allowed", hello.pools.len());
            self.fault(at("pools"), problem);
        }
        let mut pools: Vec<PoolInfo> = Vec::new();
        for (index, pool) in hello.pools.into_iter().take(POOLS_MAX).enumerate() {
            let field = format!("hello.pools[{index}]");
            if pools.iter().any(|earlier| earlier.name == pool.name) {
                self.fault(&field, format!("another pool is named {} too", shown(&pool.name)));
            }
            self.pool_name(&field, &pool.name);
            pools.push(self.pool(&field, pool.name, pool.kinds, pool.queues));
        }
        if hello.leases.len() > HELLO_LEASES_MAX {
            let problem =
                format!("has {} entries; at most {HELLO_LEASES_MAX} are allowed", hello.leases.len());
            self.fault(at("leases"), problem);
        }
        let leases = hello.leases.iter().take(HELLO_LEASES_MAX).enumerate();
        let leases =
            leases.map(|(index, lease)| self.lease(&format_args!("hello.leases[{index}]"), Some(lease)));
        let leases = leases.collect();
        let about = Introduction {
            client_version: hello.client_version,
            labels: hello.labels,
            address: String::new(),
            pools,
        };
        HelloDraft { instance: hello.instance, process: hello.process, about, leases }
    }

    fn pool_name(&mut self, field: &dyn Display, name: &str) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.len() > POOL_NAME_MAX_BYTES || !name.bytes().all(allowed) {
            let problem =
                format!("is {}; it must be at most 63 of a-z, A-Z, 0-9, `-`, `_`, `.`", shown(name));
            self.fault(Field { of: field, name: "name" }, problem);
        }
    }

    /// Validates the kinds and queues of a pool.
    pub(super) fn pool(
        &mut self,
        field: &dyn Display,
        name: String,
        kinds: Vec<String>,
        queues: Vec<String>,
    ) -> PoolInfo {
        if !(1..=POOL_KINDS_MAX).contains(&kinds.len()) {
            let problem = format!("has {} entries; 1 to {POOL_KINDS_MAX} are allowed", kinds.len());
            self.fault(Field { of: field, name: "kinds" }, problem);
        }
        for (index, kind) in kinds.iter().take(POOL_KINDS_MAX).enumerate() {
            if let Err(problem) = rules::kind(kind) {
                self.fault(format_args!("{field}.kinds[{index}]"), problem);
            }
        }
        if queues.len() > POOL_QUEUES_MAX {
            let problem = format!("has {} entries; at most {POOL_QUEUES_MAX} are allowed", queues.len());
            self.fault(Field { of: field, name: "queues" }, problem);
        }
        for (index, queue) in queues.iter().take(POOL_QUEUES_MAX).enumerate() {
            self.queue_name(format_args!("{field}.queues[{index}]"), queue);
        }
        PoolInfo { name, kinds, queues }
    }

    pub(super) fn lease(&mut self, field: &dyn Display, lease: Option<&v1::Lease>) -> (JobId, LeaseToken) {
        let Some(lease) = lease else {
            self.fault(field, "is required");
            return (JobId::from_raw(0), LeaseToken::from_raw(0));
        };
        let id = self.job_id(Field { of: field, name: "job_id" }, &lease.job_id);
        if lease.token <= 0 {
            self.fault(
                Field { of: field, name: "token" },
                format!("is {}; it must be positive", lease.token),
            );
        }
        (id, LeaseToken::from_raw(lease.token))
    }

    /// Validates a report's content.
    pub(super) fn report(
        &mut self,
        field: &dyn Display,
        report: Option<v1::report::Report>,
    ) -> Option<WorkerReport> {
        use v1::report::Report;

        Some(match report {
            None => {
                self.fault(field, "names no report that this server knows");
                return None;
            }
            Some(Report::Received(v1::Received {})) => WorkerReport::Received,
            Some(Report::Heartbeat(heartbeat)) => WorkerReport::Heartbeat {
                progress: heartbeat.progress.map(|progress| self.progress(progress)),
                checkpoint: heartbeat.checkpoint.map(|checkpoint| {
                    self.checkpoint(&Field { of: field, name: "heartbeat.checkpoint" }, checkpoint)
                }),
            },
            Some(Report::Completed(completed)) => {
                let at = Field { of: field, name: "completed.result" };
                let (bytes, info) = self.payload_of_any_size(at, completed.result);
                WorkerReport::Completed(Output { bytes, info })
            }
            Some(Report::Failed(failed)) => {
                let delay =
                    self.retry_delay(Field { of: field, name: "failed.retry_delay" }, failed.retry_delay);
                let reason = self.failure_reason(Field { of: field, name: "failed.reason" }, failed.reason);
                let failure = Failure {
                    reason,
                    message: cut(&failed.message, MESSAGE_MAX_BYTES).to_owned(),
                    code: cut(&failed.code, CODE_MAX_BYTES).to_owned(),
                    exit_code: failed.exit_code,
                    retryable: failed.retryable.unwrap_or(true),
                    parent: None,
                };
                WorkerReport::Failed { failure, delay, process_died: failed.process_died }
            }
            Some(Report::Snoozed(snoozed)) => {
                let at = Field { of: field, name: "snoozed.delay" };
                if snoozed.delay.is_none() {
                    self.fault(at, "is required");
                }
                let delay = self.retry_delay(at, snoozed.delay).unwrap_or_default();
                let pause = (!snoozed.pause_limit.is_empty()).then_some(snoozed.pause_limit);
                if let Some(limit) = &pause {
                    self.limit_name(Field { of: field, name: "snoozed.pause_limit" }, limit);
                }
                WorkerReport::Snoozed { delay, pause }
            }
            Some(Report::Released(released)) => WorkerReport::Released {
                reason: cut(&released.reason, MESSAGE_MAX_BYTES).to_owned(),
                never_started: released.never_started,
                delay: self
                    .retry_delay(Field { of: field, name: "released.retry_delay" }, released.retry_delay),
            },
            Some(Report::Output(output)) => WorkerReport::Output(output.lines),
        })
    }

    /// Validates the class of a failure. Others than these are decided by the server.
    fn failure_reason(&mut self, field: Field<'_>, number: i32) -> FailureReason {
        match v1::FailureReason::try_from(number) {
            Ok(v1::FailureReason::Unspecified | v1::FailureReason::HandlerError) => {
                FailureReason::HandlerError
            }
            Ok(v1::FailureReason::Panic) => FailureReason::Panic,
            Ok(v1::FailureReason::StartFailed) => FailureReason::StartFailed,
            Ok(_) | Err(_) => {
                let problem = "must be HANDLER_ERROR, PANIC or START_FAILED: the server decides on others";
                self.fault(field, format!("is {number}; it {problem}"));
                FailureReason::HandlerError
            }
        }
    }

    fn retry_delay(&mut self, field: Field<'_>, delay: Option<prost_types::Duration>) -> Option<Duration> {
        self.duration(field, &delay?, &limits::RETRY_DELAY)
    }

    fn progress(&mut self, progress: v1::Progress) -> Progress {
        Progress {
            fraction: progress
                .fraction
                .filter(|fraction| !fraction.is_nan())
                .map(|fraction| fraction.clamp(0.0, 1.0)),
            text: cut(&progress.text, PROGRESS_TEXT_MAX_BYTES).to_owned(),
            step: cut(&progress.step, PROGRESS_TEXT_MAX_BYTES).to_owned(),
        }
    }

    fn checkpoint(&mut self, field: &dyn Display, checkpoint: v1::Checkpoint) -> (Checkpoint, bool) {
        if checkpoint.number <= 0 {
            let problem = format!("is {}; checkpoints are numbered from 1", checkpoint.number);
            self.fault(Field { of: field, name: "number" }, problem);
        }
        let at = Field { of: field, name: "state" };
        let (bytes, info) = self.payload_of_any_size(at, checkpoint.state);
        if bytes.len() > CHECKPOINT_MAX_BYTES {
            let problem = format!(
                "has {} bytes; at most {CHECKPOINT_MAX_BYTES} are allowed: store large state elsewhere and keep a \
                 reference to it",
                bytes.len()
            );
            self.fault(at, problem);
        }
        let state = Output { bytes, info };
        (Checkpoint { number: checkpoint.number, state }, checkpoint.commit_now)
    }

    /// Validates the wait of LeaseJobs.
    pub(super) fn lease_wait(&mut self, wait: Option<prost_types::Duration>) -> Duration {
        wait.and_then(|wait| self.duration("wait", &wait, &LEASE_WAIT)).unwrap_or_default()
    }

    /// Validates the number of jobs of LeaseJobs.
    pub(super) fn leased_max(&mut self, max_jobs: i32) -> u32 {
        if !(0..=LEASED_MAX).contains(&max_jobs) {
            self.fault(
                "max_jobs",
                format!("is {max_jobs}; it must be from 0 to {LEASED_MAX}, and 0 means 1"),
            );
        }
        u32::try_from(max_jobs).unwrap_or(1).max(1)
    }

    /// Validates the time in which workers are to end.
    pub(super) fn drain_within(&mut self, within: Option<prost_types::Duration>) -> Duration {
        let within = within.and_then(|within| self.duration("within", &within, &DRAIN_WITHIN));
        within.unwrap_or(DRAIN_WITHIN_DEFAULT)
    }
}

/// A validated report and its lease.
pub(super) type LeasedReport = ((JobId, LeaseToken), WorkerReport);

/// Validates a report, with its lease. The lease is returned even if the report is invalid, for the answer.
pub(super) fn report(
    now: Timestamp,
    report: v1::Report,
) -> (Option<v1::Lease>, Result<LeasedReport, Status>) {
    let mut validator = Validator::new(now, "");
    let lease = validator.lease(&"report.lease", report.lease.as_ref());
    let content = validator.report(&"report", report.report);
    let valid = validator.finish().map(|()| content);
    let valid = valid.and_then(|content| {
        let content =
            content.ok_or_else(|| Status::internal("a report without content passed its validation"))?;
        Ok((lease, content))
    });
    (report.lease, valid)
}
