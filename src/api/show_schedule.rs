//! Conversion of schedules and calendars to protobuf messages.

use std::collections::HashMap;

use super::convert;
use crate::{
    clock::Timestamp,
    job::{JobDraft, JobId, StateName, When, names},
    proto::v1,
    settings::{
        Backfill, CalendarInfo, FutureInstant, Late, Overlap, ScheduleInfo, ScheduleRun, ScheduleSettings,
        SkipCount,
    },
};

/// Present states of jobs.
pub(super) type States = HashMap<JobId, StateName>;

/// Converts a schedule with its next instants. `states` has the present states of its jobs that exist.
pub(super) fn schedule(info: &ScheduleInfo, next: &[FutureInstant], states: &States) -> v1::Schedule {
    v1::Schedule {
        name: info.name.to_string(),
        spec: Some(spec(&info.settings)),
        job: Some(job_spec(&info.settings.job)),
        etag: info.etag(),
        declared: info.declared,
        pause: info.paused.as_ref().map(|pause| v1::SchedulePause {
            since: Some(convert::timestamp(pause.since)),
            reason: pause.reason.clone(),
            by_failures: pause.by_failures,
        }),
        create_time: Some(convert::timestamp(info.created)),
        generation: info.generation as i64,
        status: Some(status(&info.run, next, states)),
        id: info.id.to_string(),
        namespace: names::NAMESPACE.to_owned(),
    }
}

fn spec(settings: &ScheduleSettings) -> v1::ScheduleSpec {
    let times = &settings.times;
    let overlap = match settings.overlap {
        Overlap::Skip => v1::OverlapPolicy::Skip,
        Overlap::Allow => v1::OverlapPolicy::Allow,
        Overlap::QueueOne => v1::OverlapPolicy::QueueOne,
        Overlap::CancelRunning => v1::OverlapPolicy::CancelRunning,
    };
    let late = match settings.late {
        Late::Latest => v1::LatePolicy::Latest,
        Late::All => v1::LatePolicy::All,
    };
    v1::ScheduleSpec {
        crons: times.spec.crons.clone(),
        every: times.spec.every.map(convert::duration),
        time_zone: times.spec.time_zone.clone(),
        overlap: overlap as i32,
        catch_up: settings.catch_up.map(convert::duration),
        jitter: times.spec.jitter.map(convert::duration),
        start_time: times.spec.start.map(convert::timestamp),
        end_time: times.spec.end.map(convert::timestamp),
        late: late as i32,
        exclude: times.excluded.iter().map(ToString::to_string).collect(),
        calendars: times.calendars.clone(),
        pause_after_failures: settings.pause_after_failures.map_or(0, |failures| failures as i32),
    }
}

/// Converts the job of a schedule, with its payload.
fn job_spec(draft: &JobDraft) -> v1::JobSpec {
    use v1::job_spec::{Deadline, Expiry, Start};

    let payload = &draft.payload_info;
    let has_payload = !draft.payload.is_empty() || !payload.is_empty();
    v1::JobSpec {
        queue: draft.queue.clone(),
        kind: draft.kind.clone(),
        payload: has_payload.then(|| v1::Payload {
            body: (!draft.payload.is_empty()).then(|| v1::payload::Body::Data(draft.payload.clone())),
            media_type: payload.media_type.clone(),
            metadata: payload.metadata.clone(),
            size_bytes: draft.payload.len() as i32,
        }),
        labels: draft.labels.clone(),
        headers: draft.headers.clone(),
        priority: draft.priority.map(i32::from),
        max_attempts: draft.max_attempts.map_or(0, |attempts| attempts as i32),
        retry_policy: draft.retry.as_ref().map(|policy| convert::retry_policy(policy).into()),
        attempt_timeout: draft.attempt_timeout.map(convert::duration),
        start: draft.start.map(|start| match start {
            When::At(time) => Start::RunTime(convert::timestamp(time)),
            When::After(delay) => Start::Delay(convert::duration(delay)),
        }),
        expiry: draft.expiry.map(|expiry| match expiry {
            When::At(time) => Expiry::ExpireTime(convert::timestamp(time)),
            When::After(time) => Expiry::ExpireAfter(convert::duration(time)),
        }),
        deadline: draft.deadline.map(|deadline| match deadline {
            When::At(time) => Deadline::DeadlineTime(convert::timestamp(time)),
            When::After(time) => Deadline::DeadlineAfter(convert::duration(time)),
        }),
        max_snoozes: draft.max_snoozes.map(|snoozes| snoozes as i32),
        max_process_losses: draft.max_process_losses.map_or(0, |losses| losses as i32),
        // A schedule's job has none: the schedule's overlap policy takes its place.
        unique_key: None,
        depends_on: Vec::new(),
        weights: draft.weights.iter().map(|(limit, weight)| (limit.clone(), *weight as i32)).collect(),
    }
}

fn status(run: &ScheduleRun, next: &[FutureInstant], states: &States) -> v1::ScheduleStatus {
    let last = run.last.map(|last| {
        let state = states.get(&last.job).copied().or(last.outcome);
        v1::LastScheduledJob {
            job_id: last.job.to_string(),
            time: Some(convert::timestamp(last.instant)),
            create_time: Some(convert::timestamp(last.fired)),
            state: state.map_or(v1::JobState::Unspecified, convert::state) as i32,
        }
    });
    v1::ScheduleStatus {
        next: next.iter().map(instant).collect(),
        last,
        fired: count(run.counts.fired),
        missed: count(run.counts.missed),
        superseded: count(run.counts.superseded),
        overlapped: count(run.counts.overlapped),
        no_room: count(run.counts.no_room),
        waiting: run.waits.as_ref().map(|waits| v1::WaitingInstant {
            time: Some(convert::timestamp(waits.instant)),
            since: Some(convert::timestamp(waits.since)),
            reason: waits.reason.clone(),
        }),
        deferred: run.deferred.as_ref().map(|deferred| instant(&deferred.instant)),
        failures: run.failures as i32,
        backfill: run.backfill.as_ref().map(backfill),
        clock_set_back: run.set_back.map(|set_back| v1::ClockSetBack {
            to: Some(convert::timestamp(set_back.to)),
            from: Some(convert::timestamp(set_back.from)),
        }),
        ran: run.ran.ranges().iter().map(range).collect(),
    }
}

fn count(count: SkipCount) -> Option<v1::InstantCount> {
    (!count.is_none()).then(|| v1::InstantCount {
        number: count.number as i64,
        last: Some(convert::timestamp(count.last)),
        at_least: count.is_least,
    })
}

fn range((first, last): &(Timestamp, Timestamp)) -> v1::InstantRange {
    v1::InstantRange { first: Some(convert::timestamp(*first)), last: Some(convert::timestamp(*last)) }
}

fn backfill(backfill: &Backfill) -> v1::Backfill {
    v1::Backfill {
        start_time: Some(convert::timestamp(backfill.from)),
        end_time: Some(convert::timestamp(backfill.until)),
        again: backfill.again,
        created_jobs: backfill.created as i32,
        job_id: backfill.job.map(|job| job.to_string()).unwrap_or_default(),
        request_time: Some(convert::timestamp(backfill.started)),
        finish_time: backfill.end.map(|end| convert::timestamp(end.at)),
        cancelled: backfill.end.is_some_and(|end| end.cancelled),
        waiting: backfill.waits.clone(),
    }
}

/// Converts an instant.
pub(super) fn instant(instant: &FutureInstant) -> v1::ScheduleInstant {
    v1::ScheduleInstant {
        time: Some(convert::timestamp(instant.nominal)),
        fire_time: Some(convert::timestamp(instant.fires)),
        ..v1::ScheduleInstant::default()
    }
}

/// Converts a calendar.
pub(super) fn calendar(info: &CalendarInfo) -> v1::Calendar {
    v1::Calendar {
        name: info.name.to_string(),
        dates: info.dates.iter().map(ToString::to_string).collect(),
        etag: info.etag(),
        declared: info.declared,
        namespace: names::NAMESPACE.to_owned(),
    }
}
