//! JSON for programs: the protocol's messages in their JSON mapping, with 64-bit numbers as numbers and without the
//! fields that were left out of a view. docs/command-line.md describes it.

use serde_json::{Map, Value, json};

use super::values::base64;
use jobmill::proto::v1::{
    Attempt, CountJobsResponse, Failure, FailureReason, Job, JobState, PendingReason, Progress, Queue,
    QueueSettings, QueueStats, Retention, RetryPolicy, StateCount, SubmitResponse, WhenFull,
    watch_event::Event,
};

/// An object whose empty fields are left out.
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

    /// Bytes as base64 and, where they are text, as text.
    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return self;
        }
        let object = self.put(name, base64(bytes));
        object.maybe(&format!("{name}Text"), std::str::from_utf8(bytes).ok())
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// An enum's name, or its number where this program does not know it.
fn named<E: TryFrom<i32>>(number: i32, name: impl Fn(&E) -> &'static str) -> Value {
    E::try_from(number).map_or_else(|_| number.into(), |known| name(&known).into())
}

fn state(number: i32) -> Value {
    named::<JobState>(number, JobState::as_str_name)
}

pub(super) fn job(job: &Job) -> Value {
    let attempts: Vec<_> = job.attempts.iter().map(attempt).collect();
    let pending = named::<PendingReason>(job.pending_reason, PendingReason::as_str_name);
    Object::default()
        .put("id", job.id.as_str())
        .put("queue", job.queue.as_str())
        .put("kind", job.kind.as_str())
        .put("state", state(job.state))
        .put("done", job.done)
        .put("revision", job.revision)
        .put("attempt", job.attempt)
        .put("maxAttempts", job.max_attempts)
        .put("priority", job.priority)
        .put("labels", json!(job.labels))
        .text("requestId", &job.request_id)
        .text("payloadType", &job.payload_type)
        .bytes("payload", &job.payload)
        .maybe("retryPolicy", job.retry_policy.as_ref().map(retry_policy))
        .maybe("attemptTimeout", job.attempt_timeout.map(|timeout| timeout.to_string()))
        .maybe("runTime", job.run_time.map(|time| time.to_string()))
        .maybe("expireTime", job.expire_time.map(|time| time.to_string()))
        .maybe("createTime", job.create_time.map(|time| time.to_string()))
        .maybe("startTime", job.start_time.map(|time| time.to_string()))
        .maybe("endTime", job.end_time.map(|time| time.to_string()))
        .maybe("updateTime", job.update_time.map(|time| time.to_string()))
        .maybe("progress", job.progress.as_ref().map(progress))
        .text("resultType", &job.result_type)
        .bytes("result", &job.result)
        .maybe("failure", job.failure.as_ref().map(failure))
        .maybe("attempts", (!attempts.is_empty()).then_some(attempts))
        .text("outputTail", &job.output_tail)
        .maybe("pendingReason", (job.pending_reason != 0).then_some(pending))
        .text("traceparent", &job.traceparent)
        .done()
}

fn retention(retention: &Retention) -> Value {
    Object::default()
        .maybe("succeeded", retention.succeeded.map(|time| time.to_string()))
        .maybe("failed", retention.failed.map(|time| time.to_string()))
        .maybe("cancelled", retention.cancelled.map(|time| time.to_string()))
        .maybe("expired", retention.expired.map(|time| time.to_string()))
        .done()
}

fn retry_policy(policy: &RetryPolicy) -> Value {
    Object::default()
        .maybe("initialDelay", policy.initial_delay.map(|delay| delay.to_string()))
        .maybe("maxDelay", policy.max_delay.map(|delay| delay.to_string()))
        .put("multiplier", policy.multiplier)
        .maybe("jitter", policy.jitter)
        .done()
}

fn progress(progress: &Progress) -> Value {
    Object::default()
        .put("fraction", progress.fraction)
        .text("text", &progress.text)
        .text("step", &progress.step)
        .done()
}

fn failure(failure: &Failure) -> Value {
    Object::default()
        .put("reason", named::<FailureReason>(failure.reason, FailureReason::as_str_name))
        .put("message", failure.message.as_str())
        .text("code", &failure.code)
        .maybe("exitCode", failure.exit_code)
        .put("retryable", failure.retryable)
        .done()
}

fn attempt(attempt: &Attempt) -> Value {
    Object::default()
        .put("number", attempt.number)
        .maybe("startTime", attempt.start_time.map(|time| time.to_string()))
        .maybe("endTime", attempt.end_time.map(|time| time.to_string()))
        .maybe("failure", attempt.failure.as_ref().map(failure))
        .done()
}

/// The answer to a submission, as the first line of `submit --watch`.
pub(super) fn submitted(answer: &SubmitResponse) -> Value {
    Object::default()
        .maybe("submitted", answer.job.as_ref().map(job))
        .put("created", answer.created)
        .put("resumeToken", base64(&answer.resume_token))
        .done()
}

/// One event of a watch, named after what happened, with the token to resume from where there is one.
pub(super) fn event(event: &Event, resume_token: Option<&[u8]>) -> Value {
    let object = Object::default();
    let object = match event {
        Event::Snapshot(snapshot) => object.put("snapshot", job(snapshot)),
        Event::Synced(_) => object.put("synced", json!({})),
        Event::Updated(updated) => object.put(
            "updated",
            Object::default()
                .maybe("job", updated.job.as_ref().map(job))
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
    object.maybe("resumeToken", resume_token.map(base64)).done()
}

/// That a watch was interrupted and reconnects.
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
        .maybe("settings", queue.settings.as_ref().map(queue_settings))
        .maybe("stats", queue.stats.as_ref().map(queue_stats))
        .done()
}

fn queue_settings(settings: &QueueSettings) -> Value {
    let when_full = named::<WhenFull>(settings.when_full, WhenFull::as_str_name);
    Object::default()
        .maybe("maxJobs", settings.max_jobs)
        .maybe("maxBytes", settings.max_bytes)
        .maybe("consumers", settings.consumers)
        .maybe("whenFull", (settings.when_full != 0).then_some(when_full))
        .maybe("maxWait", settings.max_wait.map(|wait| wait.to_string()))
        .maybe("maxWaiters", settings.max_waiters)
        .maybe("acceptUnknownKinds", settings.accept_unknown_kinds)
        .maybe("retention", settings.retention.as_ref().map(retention))
        .done()
}

fn queue_stats(stats: &QueueStats) -> Value {
    Object::default()
        .put("counts", state_counts(&stats.counts))
        .put("liveJobs", stats.live_jobs)
        .put("liveBytes", stats.live_bytes)
        .put("waiters", stats.waiters)
        .maybe("oldestReadyAge", stats.oldest_ready_age.map(|age| age.to_string()))
        .done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::describe::tests::failed_job;

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
          "createTime": "2026-01-02T03:04:05Z",
          "done": true,
          "endTime": "2026-01-02T03:04:07.750Z",
          "failure": {
            "exitCode": 1,
            "message": "disk \u001b]0;owned\u0007 full",
            "reason": "FAILURE_REASON_HANDLER_ERROR",
            "retryable": true
          },
          "id": "06g3k5m0v4000",
          "kind": "thumbnail",
          "labels": {
            "tenant": "acme\r"
          },
          "maxAttempts": 2,
          "outputTail": "reading\nwriting\r\n",
          "payload": "cGhvdG8KG1szMW0uanBn",
          "payloadText": "photo\n\u001b[31m.jpg",
          "payloadType": "text/plain",
          "priority": 5,
          "queue": "images",
          "requestId": "r-1",
          "result": "aGFsZiBkb25l",
          "resultText": "half done",
          "resultType": "text/plain",
          "retryPolicy": {
            "initialDelay": "1s",
            "jitter": 0.2,
            "maxDelay": "60s",
            "multiplier": 2.0
          },
          "revision": 6,
          "startTime": "2026-01-02T03:04:07Z",
          "state": "JOB_STATE_FAILED",
          "updateTime": "2026-01-02T03:04:07.750Z"
        }
        "#);
    }

    #[test]
    fn a_result_that_is_not_text_is_base64_alone() {
        let value = job(&Job { result: vec![0xff, 0].into(), state: 14, ..Default::default() });
        assert_eq!(value["result"], "/wA=");
        assert_eq!(value.get("resultText"), None);
        assert_eq!(value["state"], 14);
    }

    #[test]
    fn events_are_named_after_what_happened() {
        let updated = jobmill::proto::v1::JobUpdated { job: None, merged: Some(2) };
        let lines = [
            event(&Event::Updated(updated), Some(b"token")),
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
        {"resumeToken":"dG9rZW4=","updated":{"merged":2}}
        {"synced":{}}
        {"left":{"done":true,"id":"1","state":"JOB_STATE_SUCCEEDED"}}
        {"output":{"attempt":2,"id":"1","text":"\u001b"}}
        {"interrupted":{"cause":"connection reset"}}
        "#);
    }
}
