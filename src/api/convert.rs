//! Conversion from Jobmill's types to protobuf messages.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;

use super::dependencies;
use crate::{
    clock::Timestamp,
    engine::QueueEntry,
    job::{
        AttemptRecord, Extras, Failure, Job, JobId, KeyName, LeaseToken, OnConflict, Output,
        PartialRetryPolicy, PayloadInfo, Progress, ScheduleOrigin, ScheduledBy, Spec, State, StateName,
        SubmitOutcome, Tally, UniqueKey, UniqueScope, When, names,
    },
    proto::v1,
    settings::{Keep, QueueRetention, QueueSettings, WhenFull},
    store::{HeldKey, WholeJob},
    watch::{OutputLine, WatchEvent},
};

pub(super) fn state(state: StateName) -> v1::JobState {
    match state {
        StateName::Scheduled => v1::JobState::Scheduled,
        StateName::Blocked => v1::JobState::Blocked,
        StateName::Queued => v1::JobState::Queued,
        StateName::Running => v1::JobState::Running,
        StateName::BackingOff => v1::JobState::BackingOff,
        StateName::Cancelling => v1::JobState::Cancelling,
        StateName::Succeeded => v1::JobState::Succeeded,
        StateName::Failed => v1::JobState::Failed,
        StateName::Cancelled => v1::JobState::Cancelled,
        StateName::Expired => v1::JobState::Expired,
    }
}

/// Converts a job, in JOB_VIEW_BASIC.
pub(super) fn job(job: &Job) -> v1::Job {
    let spec = &job.spec;
    let mut proto = v1::Job {
        id: job.id.to_string(),
        namespace: names::NAMESPACE.to_owned(),
        spec: Some(said(spec)),
        state: state(job.state.name()) as i32,
        done: job.state.is_done(),
        revision: job.revision as i64,
        attempt: job.attempt as i32,
        max_attempts: job.max_attempts as i32,
        retry_policy: Some(retry_policy(&spec.retry.clone().into())),
        attempt_timeout: Some(duration(spec.attempt_timeout)),
        next_run_time: job.state.due().map(timestamp),
        expire_time: spec.expires.map(timestamp),
        create_time: Some(timestamp(spec.created)),
        start_time: job.started.map(timestamp),
        end_time: job.ended.map(timestamp),
        update_time: Some(timestamp(job.updated)),
        progress: job.progress.as_deref().map(progress),
        result: job.result.as_deref().map(|result| payload(&result.info, u64::from(result.bytes))),
        last_failure: job.failure.as_deref().map(failure),
        worker: job.remote.worker().map_or_else(String::new, |worker| worker.instance().to_owned()),
        lease_token: job.state.lease().map_or(0, LeaseToken::as_i64),
        counted_attempts: job.counted_attempts() as i32,
        failures: job.failures() as i32,
        process_losses: job.rare().process_losses as i32,
        snoozes: job.rare().snoozes as i32,
        snoozed: job.rare().snoozed,
        deadline_time: spec.deadline().map(timestamp),
        replaced: job.rare().replaced as i32,
        ..v1::Job::default()
    };
    if let Some(extras) = &spec.extras {
        proto.request_id.clone_from(&extras.request_id);
        proto.traceparent.clone_from(&extras.traceparent);
        proto.tracestate.clone_from(&extras.tracestate);
        proto.schedule = extras.schedule.as_deref().map(scheduled_by);
    }
    proto
}

fn scheduled_by(by: &ScheduledBy) -> v1::JobSchedule {
    let origin = match by.origin {
        ScheduleOrigin::Scheduled => v1::ScheduleOrigin::Scheduled,
        ScheduleOrigin::Triggered => v1::ScheduleOrigin::Triggered,
        ScheduleOrigin::Backfilled => v1::ScheduleOrigin::Backfilled,
    };
    v1::JobSchedule {
        name: by.name.clone(),
        id: by.id.to_string(),
        time: Some(timestamp(by.instant)),
        origin: origin as i32,
    }
}

/// Converts the outcome of a submission.
pub(super) fn submitted(id: JobId, outcome: SubmitOutcome) -> v1::Submitted {
    let outcome = match outcome {
        SubmitOutcome::Created => v1::SubmitOutcome::Created,
        SubmitOutcome::Repeated => v1::SubmitOutcome::Repeated,
        SubmitOutcome::Gone => v1::SubmitOutcome::Gone,
        SubmitOutcome::Existing => v1::SubmitOutcome::Existing,
        SubmitOutcome::Replaced => v1::SubmitOutcome::Replaced,
    };
    v1::Submitted { id: id.to_string(), outcome: outcome as i32 }
}

/// Converts the job's spec, as the client submitted it.
fn said(spec: &Spec) -> v1::JobSpec {
    use v1::job_spec::{Deadline, Expiry, Start};

    static NONE: LazyLock<Extras> = LazyLock::new(Extras::default);
    let extras = spec.extras.as_deref().unwrap_or(&NONE);
    let said = &extras.said;
    let size = spec.payload_bytes();
    v1::JobSpec {
        queue: spec.queue.as_str().to_owned(),
        kind: spec.kind.as_str().to_owned(),
        payload: (size > 0 || !extras.payload.is_empty()).then(|| payload(&extras.payload, size)),
        labels: extras.labels.clone(),
        headers: extras.headers.clone(),
        priority: (said.priority || spec.priority != 0).then(|| i32::from(spec.priority)),
        max_attempts: said.max_attempts.map_or(0, |attempts| attempts as i32),
        retry_policy: said.retry.as_ref().map(|policy| retry_policy(policy).into()),
        attempt_timeout: said.attempt_timeout.then(|| duration(spec.attempt_timeout)),
        start: said.start.map(|start| match start {
            When::At(time) => Start::RunTime(timestamp(time)),
            When::After(delay) => Start::Delay(duration(delay)),
        }),
        expiry: said.expiry.map(|expiry| match expiry {
            When::At(time) => Expiry::ExpireTime(timestamp(time)),
            When::After(time) => Expiry::ExpireAfter(duration(time)),
        }),
        deadline: said.deadline.map(|deadline| match deadline {
            When::At(time) => Deadline::DeadlineTime(timestamp(time)),
            When::After(time) => Deadline::DeadlineAfter(duration(time)),
        }),
        max_snoozes: said.max_snoozes.map(|snoozes| snoozes as i32),
        max_process_losses: said.max_process_losses.map_or(0, |losses| losses as i32),
        unique_key: extras.unique.as_deref().map(|key| said_key(key).into()),
        // They are in a table of their own.
        depends_on: Vec::new(),
        weights: extras.weights.iter().map(|(limit, weight)| (limit.clone(), *weight as i32)).collect(),
    }
}

/// Converts a unique key, as the client submitted it.
fn said_key(unique: &UniqueKey) -> v1::UniqueKey {
    let policy = |policy: Option<OnConflict>| {
        let policy = match policy {
            None => v1::OnConflict::Unspecified,
            Some(OnConflict::ReturnExisting) => v1::OnConflict::ReturnExisting,
            Some(OnConflict::Reject) => v1::OnConflict::Reject,
            Some(OnConflict::Replace) => v1::OnConflict::Replace,
            Some(OnConflict::Follow) => v1::OnConflict::Follow,
            Some(OnConflict::Cancel) => v1::OnConflict::Cancel,
        };
        policy as i32
    };
    v1::UniqueKey {
        key: unique.key.clone(),
        scope: unique.scope.map_or(v1::UniqueScope::Unspecified, scope) as i32,
        on_waiting: policy(unique.on_waiting),
        on_started: policy(unique.on_started),
        hold: unique.hold.map(duration),
        debounce: unique.debounce.map(|debounce| v1::Debounce {
            quiet: Some(duration(debounce.quiet)),
            max_wait: debounce.max_wait.map(duration),
        }),
        throttle: unique.throttle.map(duration),
    }
}

pub(super) fn scope(scope: UniqueScope) -> v1::UniqueScope {
    match scope {
        UniqueScope::Kind => v1::UniqueScope::Kind,
        UniqueScope::Queue => v1::UniqueScope::Queue,
        UniqueScope::Namespace => v1::UniqueScope::Namespace,
    }
}

/// Converts a unique key that is held.
pub(super) fn unique_key(name: &KeyName, held: &HeldKey) -> v1::UniqueKeyStatus {
    v1::UniqueKeyStatus {
        key: name.key.clone(),
        scope: scope(name.scope) as i32,
        holder_id: held.row.holder.to_string(),
        successor_id: held.row.successor.map(|id| id.to_string()).unwrap_or_default(),
        held_until: held.held_until.map(timestamp),
        queue: name.queue.clone(),
        kind: name.kind.clone(),
    }
}

/// Describes a payload without its bytes.
fn payload(info: &PayloadInfo, size: u64) -> v1::Payload {
    v1::Payload {
        body: None,
        media_type: info.media_type.clone(),
        metadata: info.metadata.clone(),
        size_bytes: i32::try_from(size).unwrap_or(i32::MAX),
    }
}

/// Converts bytes with their description.
pub(super) fn output(output: Output) -> v1::Payload {
    let size = output.bytes.len() as u64;
    v1::Payload { body: Some(v1::payload::Body::Data(output.bytes)), ..payload(&output.info, size) }
}

/// Adds the bytes of a job's payload.
pub(super) fn add_payload(job: &mut v1::Job, bytes: Bytes) {
    if let Some(payload) = job.spec.as_mut().and_then(|spec| spec.payload.as_mut()) {
        payload.body = Some(v1::payload::Body::Data(bytes));
    }
}

/// Adds the fields that JOB_VIEW_RESULT has beyond JOB_VIEW_BASIC.
pub(super) fn add_result(job: &mut v1::Job, bytes: Bytes) {
    if let Some(result) = &mut job.result {
        result.body = Some(v1::payload::Body::Data(bytes));
    }
}

/// Adds the fields that JOB_VIEW_FULL has beyond JOB_VIEW_BASIC.
pub(super) fn add_all(job: &mut v1::Job, whole: WholeJob) {
    add_payload(job, whole.payload);
    add_result(job, whole.result);
    job.attempts = whole.attempts.iter().map(attempt).collect();
    job.output_tail = whole.output_tail;
    dependencies::add_edges(job, &whole.dependencies);
    job.checkpoint = whole.checkpoint.map(|checkpoint| v1::CheckpointStatus {
        number: checkpoint.number,
        size_bytes: checkpoint.state.bytes.len() as i32,
        write_time: Some(timestamp(checkpoint.written)),
    });
}

/// Converts a job, in JOB_VIEW_FULL.
pub(super) fn whole_job(whole: WholeJob) -> v1::Job {
    let mut proto = job(&whole.job);
    add_all(&mut proto, whole);
    proto
}

/// Returns the reasons why a job does not run yet.
pub(super) fn pending(
    job: &Job,
    queue: Option<&QueueEntry>,
    runs_here: bool,
    (key, on_others): (Option<&v1::UniqueKeyStatus>, Option<v1::Pending>),
    on_limits: Vec<v1::Pending>,
    now: Timestamp,
) -> Vec<v1::Pending> {
    use v1::PendingReason as Reason;

    let names = (job.spec.queue.as_str(), job.spec.kind.as_str());
    let mut pending = Vec::new();
    let mut add = |reason: Reason, subject: &str, until: Option<Timestamp>| {
        let until = until.map(timestamp);
        let subject = subject.to_owned();
        pending.push(v1::Pending { reason: reason as i32, subject, until, job_ids: Vec::new() });
    };
    match job.state {
        State::Scheduled { due } | State::BackingOff { due } => add(Reason::RunTime, "", Some(due)),
        State::Blocked { due } => {
            let mut pending = vec![on_others.unwrap_or_else(|| {
                let key = key.cloned().unwrap_or_default();
                let job_ids = Some(key.holder_id).filter(|id| !id.is_empty()).into_iter().collect();
                v1::Pending { reason: Reason::UniqueKey as i32, subject: key.key, until: None, job_ids }
            })];
            if due > now {
                let (reason, until) = (Reason::RunTime as i32, Some(timestamp(due)));
                pending.push(v1::Pending { reason, until, ..Default::default() });
            }
            return pending;
        }
        State::Queued { .. } => {}
        State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => return pending,
    }
    let is_paused = queue.is_some_and(|queue| queue.info().paused);
    if is_paused {
        add(Reason::QueuePaused, names.0, None);
    }
    if !runs_here {
        add(Reason::NoWorkerForKind, names.1, None);
    }
    pending.extend(on_limits);
    if pending.is_empty() {
        pending.push(v1::Pending {
            reason: Reason::NoFreeSlot as i32,
            subject: names.0.to_owned(),
            until: None,
            job_ids: Vec::new(),
        });
    }
    pending
}

fn attempt(attempt: &AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number as i32,
        start_time: Some(timestamp(attempt.started)),
        end_time: attempt.ended.map(timestamp),
        failure: attempt.failure.as_ref().map(failure),
        worker: attempt.worker.as_ref().map_or_else(String::new, |worker| worker.instance().to_owned()),
    }
}

fn failure(failure: &Failure) -> v1::Failure {
    v1::Failure {
        // The enum values are the same by definition.
        reason: failure.reason as i32,
        message: failure.message.clone(),
        code: failure.code.clone(),
        exit_code: failure.exit_code,
        retryable: failure.retryable,
        parent_id: failure.parent.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn progress(progress: &Progress) -> v1::Progress {
    v1::Progress { fraction: progress.fraction, text: progress.text.clone(), step: progress.step.clone() }
}

pub(super) fn retry_policy(policy: &PartialRetryPolicy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        initial_delay: policy.initial_delay.map(duration),
        max_delay: policy.max_delay.map(duration),
        multiplier: policy.multiplier,
        jitter: policy.jitter,
        delays: policy.delays.iter().flat_map(|delays| delays.iter()).map(|delay| duration(*delay)).collect(),
    }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

pub(super) fn timestamp(instant: Timestamp) -> prost_types::Timestamp {
    let micros = instant.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

/// Converts a watch event. Jobs are in JOB_VIEW_BASIC.
pub(super) fn event(event: &WatchEvent) -> v1::WatchEvent {
    use v1::watch_event::Event;

    let event = match event {
        WatchEvent::Snapshot(snapshot) => Event::Snapshot(job(snapshot).into()),
        WatchEvent::Synced => Event::Synced(v1::Synced {}),
        WatchEvent::Updated { job: updated, merged } => Event::Updated(v1::JobUpdated {
            job: Some(job(updated).into()),
            merged: merged.map(|merged| merged as i64),
        }),
        WatchEvent::Left { id, state: left_to } => Event::Left(v1::JobLeft {
            id: id.to_string(),
            state: state(*left_to) as i32,
            done: left_to.is_done(),
        }),
        WatchEvent::Deleted(id) => Event::Deleted(v1::JobDeleted { id: id.to_string() }),
        WatchEvent::NotFound(id) => Event::NotFound(v1::JobNotFound { id: id.to_string() }),
        WatchEvent::Bookmark => Event::Bookmark(v1::Bookmark {}),
        WatchEvent::Closing => Event::Closing(v1::Closing { reason: v1::ClosingReason::Shutdown as i32 }),
        WatchEvent::Resync => Event::Resync(v1::Resync {}),
        WatchEvent::Output(OutputLine { id, attempt, text }) => Event::Output(v1::OutputLine {
            id: id.to_string(),
            attempt: *attempt as i32,
            text: text.as_ref().to_owned(),
        }),
    };
    v1::WatchEvent { event: Some(event) }
}

pub(super) fn queue_settings(settings: &QueueSettings) -> v1::QueueSettings {
    let when_full = match settings.when_full {
        WhenFull::Wait => v1::WhenFull::Wait,
        WhenFull::Reject => v1::WhenFull::Reject,
    };
    v1::QueueSettings {
        max_jobs: Some(settings.max_jobs as i64),
        max_bytes: Some(settings.max_bytes as i64),
        consumers: Some(settings.consumers as i32),
        when_full: when_full as i32,
        max_wait: Some(duration(settings.max_wait)),
        max_waiters: Some(settings.max_waiters as i32),
        accept_unknown_kinds: Some(settings.accept_unknown_kinds),
        fair_by: settings.fair_by.as_deref().unwrap_or_default().to_owned(),
        retention: retention(&settings.retention),
    }
}

/// Converts the queue's own retention settings; `None` if it sets none.
fn retention(retention: &QueueRetention) -> Option<v1::Retention> {
    let keep = |keep: Option<Keep>| {
        keep.map(|keep| {
            let keep = match keep {
                Keep::For(time) => v1::keep::Keep::Time(duration(time)),
                Keep::Forever => v1::keep::Keep::Forever(true),
            };
            v1::Keep { keep: Some(keep) }
        })
    };
    (*retention != QueueRetention::default()).then(|| v1::Retention {
        succeeded: keep(retention.succeeded),
        failed: keep(retention.failed),
        cancelled: keep(retention.cancelled),
        expired: keep(retention.expired),
    })
}

/// Sums the jobs of each state that has any.
pub(super) fn state_counts<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Vec<v1::StateCount> {
    let mut counts = std::collections::BTreeMap::new();
    for tally in tallies {
        *counts.entry(tally.state).or_insert(0) += tally.jobs;
    }
    counts_by_state(counts)
}

pub(super) fn counts_by_state(counts: std::collections::BTreeMap<StateName, u64>) -> Vec<v1::StateCount> {
    counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| v1::StateCount { state: state(name) as i32, count: count as i64 })
        .collect()
}
