//! JSON for programs: the protocol's messages in their JSON mapping, with 64-bit numbers as numbers and without the
//! fields that were left out of a view. docs/command-line.md describes it.

mod dependencies;
mod keys;
mod limits;
mod schedules;
mod spec;
mod workers;

use serde_json::{Map, Value, json};

use self::spec::{payload, retry_policy, spec};
pub(super) use self::{
    dependencies::graph,
    keys::{released, unique_key},
    limits::{limit, limit_override, limit_value},
    schedules::{calendar, schedule, schedule_instant},
    workers::{worker, workers},
};
use jobmill::proto::v1::{
    Attempt, CheckpointStatus, CountJobsResponse, Failure, FailureReason, GetServerInfoResponse, Job,
    JobChange, JobState, Keep, Pending, PendingReason, Progress, Queue, QueueSettings, QueueStats, Retention,
    StateCount, SubmitOutcome, SubmitResponse, Submitted, WhenFull, keep, watch_event::Event,
};

/// Builder of a JSON object that leaves out empty fields.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn maybe(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(name, value),
            None => self,
        }
    }

    fn text(self, name: &str, text: &str) -> Self {
        self.maybe(name, (!text.is_empty()).then_some(text))
    }

    fn time(self, name: &str, time: Option<prost_types::Timestamp>) -> Self {
        self.maybe(name, time.map(|time| time.to_string()))
    }

    fn duration(self, name: &str, duration: Option<prost_types::Duration>) -> Self {
        self.maybe(name, duration.map(|duration| duration.to_string()))
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// Returns the name of an enum's value, or its number where this program does not know it.
fn named<E: TryFrom<i32>>(number: i32, name: impl Fn(&E) -> &'static str) -> Value {
    E::try_from(number).map_or_else(|_| number.into(), |known| name(&known).into())
}

fn state(number: i32) -> Value {
    named::<JobState>(number, JobState::as_str_name)
}

pub(super) fn job(job: &Job) -> Value {
    let attempts: Vec<_> = job.attempts.iter().map(attempt).collect();
    let pending: Vec<_> = job.pending.iter().map(pending).collect();
    let dependencies: Vec<_> = job.dependencies.iter().map(dependencies::dependency).collect();
    Object::default()
        .put("id", job.id.as_str())
        .maybe("spec", job.spec.as_ref().map(spec))
        .put("state", state(job.state))
        .put("done", job.done)
        .put("revision", job.revision)
        .put("attempt", job.attempt)
        .put("maxAttempts", job.max_attempts)
        .put("countedAttempts", job.counted_attempts)
        .maybe("failures", (job.failures != 0).then_some(job.failures))
        .maybe("processLosses", (job.process_losses != 0).then_some(job.process_losses))
        .maybe("snoozes", (job.snoozes != 0).then_some(job.snoozes))
        .maybe("snoozed", job.snoozed.then_some(true))
        .maybe("retryPolicy", job.retry_policy.as_ref().map(retry_policy))
        .duration("attemptTimeout", job.attempt_timeout)
        .time("createTime", job.create_time)
        .time("nextRunTime", job.next_run_time)
        .time("expireTime", job.expire_time)
        .time("deadlineTime", job.deadline_time)
        .time("startTime", job.start_time)
        .time("endTime", job.end_time)
        .text("namespace", &job.namespace)
        .time("updateTime", job.update_time)
        .text("requestId", &job.request_id)
        .maybe("progress", job.progress.as_ref().map(progress))
        .maybe("result", job.result.as_ref().map(payload))
        .maybe("lastFailure", job.last_failure.as_ref().map(failure))
        .maybe("attempts", (!attempts.is_empty()).then_some(attempts))
        .text("outputTail", &job.output_tail)
        .maybe("pending", (!pending.is_empty()).then_some(pending))
        .text("traceparent", &job.traceparent)
        .text("tracestate", &job.tracestate)
        .text("worker", &job.worker)
        .maybe("leaseToken", (job.lease_token != 0).then_some(job.lease_token))
        .maybe("checkpoint", job.checkpoint.as_ref().map(checkpoint))
        .maybe("uniqueKey", job.unique_key.as_ref().map(unique_key))
        .maybe("dependencies", (!dependencies.is_empty()).then_some(dependencies))
        .maybe("replaced", (job.replaced != 0).then_some(job.replaced))
        .maybe("schedule", job.schedule.as_ref().map(schedules::scheduled_by))
        .done()
}

/// Returns the state of a job and the reasons for which it does not run.
pub(super) fn waits(job: &Job) -> Value {
    let pending: Vec<_> = job.pending.iter().map(pending).collect();
    Object::default()
        .put("id", job.id.as_str())
        .put("state", state(job.state))
        .put("done", job.done)
        .put("pending", pending)
        .done()
}

fn pending(pending: &Pending) -> Value {
    Object::default()
        .put("reason", named::<PendingReason>(pending.reason, PendingReason::as_str_name))
        .text("subject", &pending.subject)
        .time("until", pending.until)
        .maybe("jobIds", (!pending.job_ids.is_empty()).then(|| json!(pending.job_ids)))
        .done()
}

fn retention(retention: &Retention) -> Value {
    Object::default()
        .maybe("succeeded", retention.succeeded.as_ref().map(kept))
        .maybe("failed", retention.failed.as_ref().map(kept))
        .maybe("cancelled", retention.cancelled.as_ref().map(kept))
        .maybe("expired", retention.expired.as_ref().map(kept))
        .done()
}

fn kept(keep: &Keep) -> Value {
    match keep.keep {
        Some(keep::Keep::Time(time)) => json!({ "time": time.to_string() }),
        Some(keep::Keep::Forever(forever)) => json!({ "forever": forever }),
        None => json!({}),
    }
}

fn progress(progress: &Progress) -> Value {
    Object::default()
        .maybe("fraction", progress.fraction)
        .text("text", &progress.text)
        .text("step", &progress.step)
        .done()
}

fn checkpoint(checkpoint: &CheckpointStatus) -> Value {
    Object::default()
        .put("number", checkpoint.number)
        .put("sizeBytes", checkpoint.size_bytes)
        .time("writeTime", checkpoint.write_time)
        .done()
}

fn failure(failure: &Failure) -> Value {
    Object::default()
        .put("reason", named::<FailureReason>(failure.reason, FailureReason::as_str_name))
        .put("message", failure.message.as_str())
        .text("code", &failure.code)
        .maybe("exitCode", failure.exit_code)
        .put("retryable", failure.retryable)
        .text("parentId", &failure.parent_id)
        .done()
}

fn attempt(attempt: &Attempt) -> Value {
    Object::default()
        .put("number", attempt.number)
        .time("startTime", attempt.start_time)
        .time("endTime", attempt.end_time)
        .maybe("failure", attempt.failure.as_ref().map(failure))
        .text("worker", &attempt.worker)
        .done()
}

/// Converts the answer to a submission: the result of `submit`, and the first line of `submit --watch`.
pub(super) fn submission(answer: &SubmitResponse) -> Value {
    Object::default()
        .maybe("submitted", answer.submitted.as_ref().map(submitted))
        .text("resumeToken", &answer.resume_token)
        .maybe("job", answer.job.as_deref().map(job))
        .done()
}

pub(super) fn submitted(submitted: &Submitted) -> Value {
    json!({ "id": submitted.id, "outcome": outcome(submitted.outcome) })
}

/// Converts the answer to a change of a job.
pub(super) fn change(change: &JobChange) -> Value {
    let change = json!({
        "id": change.id,
        "state": state(change.state),
        "done": change.done,
        "revision": change.revision,
        "repeated": change.repeated,
    });
    json!({ "change": change })
}

/// Converts the outcome of a submission.
pub(super) fn outcome(number: i32) -> Value {
    named::<SubmitOutcome>(number, SubmitOutcome::as_str_name)
}

/// Converts an event of a watch, named after its type, with the resume token where there is one.
pub(super) fn event(event: &Event, resume_token: Option<&str>) -> Value {
    let object = Object::default();
    let object = match event {
        Event::Snapshot(snapshot) => object.put("snapshot", job(snapshot)),
        Event::Synced(_) => object.put("synced", json!({})),
        Event::Updated(updated) => object.put(
            "updated",
            Object::default()
                .maybe("job", updated.job.as_deref().map(job))
                .maybe("merged", updated.merged)
                .done(),
        ),
        Event::Left(left) => {
            object.put("left", json!({ "id": left.id, "state": state(left.state), "done": left.done }))
        }
        Event::Deleted(deleted) => object.put("deleted", json!({ "id": deleted.id })),
        Event::NotFound(missing) => object.put("notFound", json!({ "id": missing.id })),
        Event::Bookmark(_) => object.put("bookmark", json!({})),
        Event::Closing(_) => object.put("closing", json!({})),
        Event::Resync(_) => object.put("resync", json!({})),
        Event::Output(line) => {
            object.put("output", json!({ "id": line.id, "attempt": line.attempt, "text": line.text }))
        }
    };
    object.maybe("resumeToken", resume_token).done()
}

/// Returns the object for a watch that was interrupted and reconnects.
pub(super) fn interrupted(cause: &str) -> Value {
    json!({ "interrupted": { "cause": cause } })
}

pub(super) fn counts(answer: &CountJobsResponse) -> Value {
    json!({ "counts": state_counts(&answer.counts), "total": answer.total, "exact": answer.exact })
}

fn state_counts(counts: &[StateCount]) -> Value {
    counts.iter().map(|count| json!({ "state": state(count.state), "count": count.count })).collect()
}

pub(super) fn queue(queue: &Queue) -> Value {
    Object::default()
        .put("name", queue.name.as_str())
        .put("paused", queue.paused)
        .put("declared", queue.declared)
        .text("etag", &queue.etag)
        .maybe("settings", queue.settings.as_ref().map(queue_settings))
        .maybe("stats", queue.stats.as_ref().map(queue_stats))
        .text("namespace", &queue.namespace)
        .done()
}

fn queue_settings(settings: &QueueSettings) -> Value {
    let when_full = named::<WhenFull>(settings.when_full, WhenFull::as_str_name);
    Object::default()
        .maybe("maxJobs", settings.max_jobs)
        .maybe("maxBytes", settings.max_bytes)
        .maybe("consumers", settings.consumers)
        .maybe("whenFull", (settings.when_full != 0).then_some(when_full))
        .duration("maxWait", settings.max_wait)
        .maybe("maxWaiters", settings.max_waiters)
        .maybe("acceptUnknownKinds", settings.accept_unknown_kinds)
        .text("fairBy", &settings.fair_by)
        .maybe("retention", settings.retention.as_ref().map(retention))
        .done()
}

fn queue_stats(stats: &QueueStats) -> Value {
    Object::default()
        .put("counts", state_counts(&stats.counts))
        .put("liveJobs", stats.live_jobs)
        .put("liveBytes", stats.live_bytes)
        .put("waiters", stats.waiters)
        .duration("oldestReadyAge", stats.oldest_ready_age)
        .done()
}

/// Converts a server's information, without the fields that the program adds.
pub(super) fn server(info: &GetServerInfoResponse) -> Map<String, Value> {
    let limits: Vec<_> =
        info.limits.iter().map(|limit| json!({ "name": limit.name, "value": limit.value })).collect();
    let grants: Vec<_> =
        info.grants.iter().map(|grant| json!({ "role": grant.role, "queues": grant.queues })).collect();
    let object = Object::default()
        .put("version", info.version.as_str())
        .put("storeId", info.store_id.as_str())
        .put("features", info.features.as_slice())
        .put("limits", limits)
        .time("time", info.time)
        .text("subject", &info.subject)
        .maybe("grants", (!grants.is_empty()).then_some(grants));
    object.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::describe::tests::failed_job;
    use jobmill::proto::v1::Payload;

    #[test]
    fn a_whole_job_in_json() {
        let text = serde_json::to_string_pretty(&job(&failed_job())).unwrap();
        insta::assert_snapshot!(text, @r#"
        {
          "attempt": 2,
          "attemptTimeout": "300s",
          "attempts": [
            {
              "endTime": "2026-01-02T03:04:05.500Z",
              "failure": {
                "exitCode": 1,
                "message": "no such file",
                "reason": "FAILURE_REASON_HANDLER_ERROR",
                "retryable": true
              },
              "number": 1,
              "startTime": "2026-01-02T03:04:05.010Z"
            },
            {
              "endTime": "2026-01-02T03:04:07.750Z",
              "failure": {
                "exitCode": 1,
                "message": "disk full",
                "reason": "FAILURE_REASON_HANDLER_ERROR",
                "retryable": true
              },
              "number": 2,
              "startTime": "2026-01-02T03:04:07Z"
            }
          ],
          "countedAttempts": 2,
          "createTime": "2026-01-02T03:04:05Z",
          "done": true,
          "endTime": "2026-01-02T03:04:07.750Z",
          "expireTime": "2026-01-02T04:04:05Z",
          "id": "06g3k5m0v4000",
          "lastFailure": {
            "exitCode": 1,
            "message": "disk \u001b]0;owned\u0007 full",
            "reason": "FAILURE_REASON_HANDLER_ERROR",
            "retryable": true
          },
          "maxAttempts": 2,
          "namespace": "default",
          "outputTail": "reading\nwriting\r\n",
          "requestId": "r-1",
          "result": {
            "data": "/wA=",
            "mediaType": "image/png",
            "sizeBytes": 2
          },
          "retryPolicy": {
            "initialDelay": "1s",
            "jitter": 0.2,
            "maxDelay": "60s",
            "multiplier": 2.0
          },
          "revision": 6,
          "spec": {
            "attemptTimeout": "300s",
            "delay": "1.500s",
            "expireAfter": "3600s",
            "headers": {
              "tenant": "acme"
            },
            "kind": "thumbnail",
            "labels": {
              "tenant": "acme\r"
            },
            "payload": {
              "mediaType": "text/plain",
              "metadata": {
                "key": "7"
              },
              "sizeBytes": 15,
              "text": "photo\n\u001b[31m.jpg"
            },
            "priority": 5,
            "queue": "images"
          },
          "startTime": "2026-01-02T03:04:07Z",
          "state": "JOB_STATE_FAILED",
          "updateTime": "2026-01-02T03:04:07.750Z"
        }
        "#);
    }

    #[test]
    fn bytes_that_are_left_out_are_told_by_their_size() {
        let left_out = Payload { media_type: "text/plain".into(), size_bytes: 9, ..Default::default() };
        let value = job(&Job { result: Some(left_out), state: 14, ..Default::default() });
        assert_eq!(value["result"], json!({ "mediaType": "text/plain", "sizeBytes": 9 }));
        assert_eq!(value["state"], 14);
        assert_eq!(value.get("spec"), None);
        assert_eq!(payload(&Payload::of("")), json!({ "text": "", "sizeBytes": 0 }));
    }

    #[test]
    fn a_waiting_job_tells_all_that_it_waits_for() {
        let paused = Pending {
            reason: PendingReason::QueuePaused.into(),
            subject: "images".into(),
            ..Default::default()
        };
        let later = Pending {
            reason: 14,
            subject: String::new(),
            until: Some(prost_types::Timestamp { seconds: 9, nanos: 0 }),
            job_ids: vec!["1".into()],
        };
        let next_run_time = later.until;
        let waiting = Job { pending: vec![paused, later], next_run_time, ..Default::default() };
        let value = job(&waiting);
        let expected = json!([
            { "reason": "PENDING_REASON_QUEUE_PAUSED", "subject": "images" },
            { "reason": 14, "until": "1970-01-01T00:00:09Z", "jobIds": ["1"] },
        ]);
        assert_eq!((&value["pending"], &value["nextRunTime"]), (&expected, &"1970-01-01T00:00:09Z".into()));
    }

    #[test]
    fn a_submission_is_told_with_its_outcome() {
        let answer = |outcome: SubmitOutcome, resume_token: &str, job| SubmitResponse {
            submitted: Some(Submitted { id: "1".into(), outcome: outcome.into() }),
            resume_token: resume_token.into(),
            job,
        };
        let lines = [
            submission(&answer(SubmitOutcome::Created, "dG9rZW4", None)),
            submission(&answer(SubmitOutcome::Gone, "", None)),
            submission(&answer(SubmitOutcome::Repeated, "", Some(Job::default().into())))["job"]["done"]
                .clone(),
        ];
        insta::assert_snapshot!(lines.map(|line| line.to_string()).join("\n"), @r#"
        {"resumeToken":"dG9rZW4","submitted":{"id":"1","outcome":"SUBMIT_OUTCOME_CREATED"}}
        {"submitted":{"id":"1","outcome":"SUBMIT_OUTCOME_GONE"}}
        false
        "#);
    }

    #[test]
    fn events_are_named_after_what_happened() {
        let updated = jobmill::proto::v1::JobUpdated { job: None, merged: Some(2) };
        let lines = [
            event(&Event::Updated(updated), Some("dG9rZW4")),
            event(&Event::Synced(jobmill::proto::v1::Synced {}), None),
            event(&Event::Left(jobmill::proto::v1::JobLeft { id: "1".into(), state: 7, done: true }), None),
            event(
                &Event::Output(jobmill::proto::v1::OutputLine {
                    id: "1".into(),
                    attempt: 2,
                    text: "\u{1b}".into(),
                }),
                None,
            ),
            interrupted("connection reset"),
        ];
        insta::assert_snapshot!(lines.map(|line| line.to_string()).join("\n"), @r#"
        {"resumeToken":"dG9rZW4","updated":{"merged":2}}
        {"synced":{}}
        {"left":{"done":true,"id":"1","state":"JOB_STATE_SUCCEEDED"}}
        {"output":{"attempt":2,"id":"1","text":"\u001b"}}
        {"interrupted":{"cause":"connection reset"}}
        "#);
    }
}
