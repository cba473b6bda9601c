//! JSON of schedules and calendars.

use serde_json::Value;

use super::{Object, named, spec, state};
use jobmill::proto::v1::{
    Backfill, Calendar, InstantCount, InstantRange, JobSchedule, LastScheduledJob, LatePolicy, OverlapPolicy,
    Schedule, ScheduleInstant, ScheduleOrigin, SchedulePause, ScheduleSpec, ScheduleStatus,
};

pub(in super::super) fn schedule(schedule: &Schedule) -> Value {
    Object::default()
        .put("name", schedule.name.as_str())
        .maybe("spec", schedule.spec.as_ref().map(times))
        .maybe("job", schedule.job.as_ref().map(spec))
        .text("etag", &schedule.etag)
        .maybe("declared", schedule.declared.then_some(true))
        .maybe("pause", schedule.pause.as_ref().map(pause))
        .time("createTime", schedule.create_time)
        .put("generation", schedule.generation)
        .maybe("status", schedule.status.as_ref().map(status))
        .text("id", &schedule.id)
        .text("namespace", &schedule.namespace)
        .done()
}

fn times(spec: &ScheduleSpec) -> Value {
    let list = |texts: &[String]| (!texts.is_empty()).then(|| Value::from(texts.to_vec()));
    let failures = spec.pause_after_failures;
    Object::default()
        .maybe("crons", list(&spec.crons))
        .duration("every", spec.every)
        .text("timeZone", &spec.time_zone)
        .put("overlap", named::<OverlapPolicy>(spec.overlap, OverlapPolicy::as_str_name))
        .duration("catchUp", spec.catch_up)
        .duration("jitter", spec.jitter)
        .time("startTime", spec.start_time)
        .time("endTime", spec.end_time)
        .put("late", named::<LatePolicy>(spec.late, LatePolicy::as_str_name))
        .maybe("exclude", list(&spec.exclude))
        .maybe("calendars", list(&spec.calendars))
        .maybe("pauseAfterFailures", (failures > 0).then_some(failures))
        .done()
}

fn pause(pause: &SchedulePause) -> Value {
    Object::default()
        .time("since", pause.since)
        .text("reason", &pause.reason)
        .maybe("byFailures", pause.by_failures.then_some(true))
        .done()
}

fn status(status: &ScheduleStatus) -> Value {
    let waiting = status.waiting.as_ref().map(|waiting| {
        Object::default()
            .time("time", waiting.time)
            .time("since", waiting.since)
            .text("reason", &waiting.reason)
            .done()
    });
    let set_back = status
        .clock_set_back
        .map(|set_back| Object::default().time("to", set_back.to).time("from", set_back.from).done());
    Object::default()
        .put("next", status.next.iter().map(schedule_instant).collect::<Vec<_>>())
        .maybe("last", status.last.as_ref().map(last))
        .maybe("fired", status.fired.as_ref().map(count))
        .maybe("missed", status.missed.as_ref().map(count))
        .maybe("superseded", status.superseded.as_ref().map(count))
        .maybe("overlapped", status.overlapped.as_ref().map(count))
        .maybe("noRoom", status.no_room.as_ref().map(count))
        .maybe("waiting", waiting)
        .maybe("deferred", status.deferred.as_ref().map(schedule_instant))
        .maybe("failures", (status.failures > 0).then_some(status.failures))
        .maybe("backfill", status.backfill.as_ref().map(backfill))
        .maybe("clockSetBack", set_back)
        .put("ran", status.ran.iter().map(range).collect::<Vec<_>>())
        .done()
}

fn last(last: &LastScheduledJob) -> Value {
    Object::default()
        .text("jobId", &last.job_id)
        .time("time", last.time)
        .time("createTime", last.create_time)
        .put("state", state(last.state))
        .done()
}

fn count(count: &InstantCount) -> Value {
    Object::default()
        .put("number", count.number)
        .time("last", count.last)
        .maybe("atLeast", count.at_least.then_some(true))
        .done()
}

fn range(range: &InstantRange) -> Value {
    Object::default().time("first", range.first).time("last", range.last).done()
}

fn backfill(backfill: &Backfill) -> Value {
    Object::default()
        .time("startTime", backfill.start_time)
        .time("endTime", backfill.end_time)
        .maybe("again", backfill.again.then_some(true))
        .put("createdJobs", backfill.created_jobs)
        .text("jobId", &backfill.job_id)
        .time("requestTime", backfill.request_time)
        .time("finishTime", backfill.finish_time)
        .maybe("cancelled", backfill.cancelled.then_some(true))
        .text("waiting", &backfill.waiting)
        .done()
}

pub(in super::super) fn schedule_instant(instant: &ScheduleInstant) -> Value {
    Object::default()
        .time("time", instant.time)
        .time("fireTime", instant.fire_time)
        .text("localTime", &instant.local_time)
        .text("clockChange", &instant.clock_change)
        .done()
}

pub(in super::super) fn calendar(calendar: &Calendar) -> Value {
    Object::default()
        .put("name", calendar.name.as_str())
        .put("dates", calendar.dates.clone())
        .text("etag", &calendar.etag)
        .maybe("declared", calendar.declared.then_some(true))
        .text("namespace", &calendar.namespace)
        .done()
}

/// Returns the schedule that created a job.
pub(super) fn scheduled_by(by: &JobSchedule) -> Value {
    Object::default()
        .text("name", &by.name)
        .text("id", &by.id)
        .time("time", by.time)
        .put("origin", named::<ScheduleOrigin>(by.origin, ScheduleOrigin::as_str_name))
        .done()
}
