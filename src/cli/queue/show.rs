//! Text output for queues: a table, or one queue in full.

use super::super::{
    table::{Table, plain},
    text, values,
};
use jobmill::{
    client::from_wire_duration,
    proto::v1::{JobState, Queue, QueueStats, StateCount, WhenFull},
};

fn count_of(stats: &QueueStats, states: &[JobState]) -> u64 {
    let fits =
        |count: &&StateCount| JobState::try_from(count.state).is_ok_and(|state| states.contains(&state));
    stats.counts.iter().filter(fits).map(|count| u64::try_from(count.count).unwrap_or(0)).sum()
}

/// Returns the number of jobs that a purge would delete.
pub(super) fn waiting(stats: &QueueStats) -> u64 {
    count_of(stats, &[JobState::Scheduled, JobState::Blocked, JobState::Queued, JobState::BackingOff])
}

/// Formats queues as a table.
pub(super) fn list(queues: &[Queue], colour: bool) -> String {
    let header = ["QUEUE", "STATE", "LIVE", "OF", "RUNNING", "QUEUED", "LATER", "FAILED", "OLDEST READY"];
    let mut table = Table::new(header, colour).numbers([2, 3, 4, 5, 6, 7]);
    for queue in queues {
        let stats = queue.stats.clone().unwrap_or_default();
        let settings = queue.settings.clone().unwrap_or_default();
        let count = |states: &[JobState]| plain(count_of(&stats, states).to_string());
        let age = stats.oldest_ready_age.as_ref().map(|age| text::duration(from_wire_duration(age)));
        table.row([
            plain(text::escape(&queue.name)),
            plain(if queue.paused { "paused" } else { "active" }),
            plain(stats.live_jobs.to_string()),
            plain(settings.max_jobs.map(|max| max.to_string()).unwrap_or_default()),
            count(&[JobState::Running, JobState::Cancelling]),
            count(&[JobState::Queued]),
            count(&[JobState::Scheduled, JobState::Blocked, JobState::BackingOff]),
            count(&[JobState::Failed]),
            plain(age.unwrap_or_default()),
        ]);
    }
    table.render()
}

/// Formats a queue with all of its details.
pub(super) fn in_full(queue: &Queue) -> String {
    let settings = queue.settings.clone().unwrap_or_default();
    let stats = queue.stats.clone().unwrap_or_default();
    let size = |bytes: i64| text::bytes(u64::try_from(bytes).unwrap_or(0));
    let of = |used: String, max: Option<String>| match max {
        Some(max) => format!("{used} of {max}"),
        None => used,
    };
    let mut fields = vec![
        ("queue", text::escape(&queue.name).into_owned()),
        ("state", if queue.paused { "paused".to_owned() } else { "active".to_owned() }),
        ("etag", text::escape(&queue.etag).into_owned()),
        ("live jobs", of(stats.live_jobs.to_string(), settings.max_jobs.map(|max| max.to_string()))),
        ("live bytes", of(size(stats.live_bytes), settings.max_bytes.map(size))),
    ];
    if let Some(consumers) = settings.consumers {
        fields.push(("consumers", consumers.to_string()));
    }
    let wait = settings.max_wait.as_ref().map(|wait| text::duration(from_wire_duration(wait)));
    match WhenFull::try_from(settings.when_full) {
        Ok(WhenFull::Reject) => fields.push(("when full", "reject".to_owned())),
        Ok(WhenFull::Wait) => {
            fields.push(("when full", format!("wait up to {}", wait.unwrap_or_else(|| "30s".to_owned()))));
        }
        Ok(WhenFull::Unspecified) | Err(_) => {}
    }
    fields.push(("waiters", of(stats.waiters.to_string(), settings.max_waiters.map(|max| max.to_string()))));
    if settings.accept_unknown_kinds == Some(true) {
        fields.push(("unknown kinds", "accepted".to_owned()));
    }
    if !settings.fair_by.is_empty() {
        fields.push(("fair by", settings.fair_by.clone()));
    }
    let retention = settings.retention.unwrap_or_default();
    for (name, keep) in [
        ("succeeded", retention.succeeded),
        ("failed", retention.failed),
        ("cancelled", retention.cancelled),
        ("expired", retention.expired),
    ] {
        if let Some(kept) = keep.as_ref().and_then(values::kept) {
            fields.push((name, format!("kept {kept}")));
        }
    }
    if queue.declared {
        fields.push(("declared", "in the configuration file".to_owned()));
    }
    if let Some(age) = &stats.oldest_ready_age {
        fields.push(("oldest ready", text::duration(from_wire_duration(age))));
    }
    for count in &stats.counts {
        fields.push(("", format!("{} {}", count.count, text::state(count.state))));
    }
    text::fields(fields)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::{json, values::KeepArg};
    use jobmill::{
        client::to_wire_duration,
        proto::v1::{QueueSettings, Retention},
    };

    fn queue() -> Queue {
        let count = |state: JobState, count| StateCount { state: state.into(), count };
        Queue {
            name: "images".into(),
            settings: Some(QueueSettings {
                max_jobs: Some(100_000),
                max_bytes: Some(1 << 30),
                consumers: Some(4),
                when_full: WhenFull::Wait.into(),
                max_wait: Some(to_wire_duration(Duration::from_secs(30))),
                max_waiters: Some(1_000),
                accept_unknown_kinds: Some(false),
                fair_by: "tenant".to_owned(),
                retention: Some(Retention {
                    failed: KeepArg::Forever.to_wire(),
                    expired: KeepArg::For(Duration::from_secs(90)).to_wire(),
                    ..Retention::default()
                }),
            }),
            paused: true,
            declared: true,
            stats: Some(QueueStats {
                counts: vec![
                    count(JobState::Scheduled, 2),
                    count(JobState::Queued, 30),
                    count(JobState::Running, 4),
                    count(JobState::Failed, 1),
                ],
                live_jobs: 36,
                live_bytes: 12_345,
                waiters: 0,
                oldest_ready_age: Some(to_wire_duration(Duration::from_secs(75))),
            }),
            etag: "3f9a".into(),
            namespace: "default".into(),
        }
    }

    #[test]
    fn queues_in_a_table() {
        let idle = Queue { name: "default".into(), ..Default::default() };
        insta::assert_snapshot!(list(&[idle, queue()], false), @r"
        QUEUE    STATE   LIVE      OF  RUNNING  QUEUED  LATER  FAILED  OLDEST READY
        default  active     0                0       0      0       0
        images   paused    36  100000        4      30      2       1  1m 15s
        ");
    }

    #[test]
    fn a_queue_in_full() {
        insta::assert_snapshot!(in_full(&queue()), @r"
        queue         images
        state         paused
        etag          3f9a
        live jobs     36 of 100000
        live bytes    12.1 KiB of 1 GiB
        consumers     4
        when full     wait up to 30s
        waiters       0 of 1000
        fair by       tenant
        failed        kept for ever
        expired       kept 1m 30s
        declared      in the configuration file
        oldest ready  1m 15s
                      2 SCHEDULED
                      30 QUEUED
                      4 RUNNING
                      1 FAILED
        ");
    }

    #[test]
    fn a_queue_in_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&json::queue(&queue())).unwrap(), @r#"
        {
          "declared": true,
          "etag": "3f9a",
          "name": "images",
          "namespace": "default",
          "paused": true,
          "settings": {
            "acceptUnknownKinds": false,
            "consumers": 4,
            "fairBy": "tenant",
            "maxBytes": 1073741824,
            "maxJobs": 100000,
            "maxWait": "30s",
            "maxWaiters": 1000,
            "retention": {
              "expired": {
                "time": "90s"
              },
              "failed": {
                "forever": true
              }
            },
            "whenFull": "WHEN_FULL_WAIT"
          },
          "stats": {
            "counts": [
              {
                "count": 2,
                "state": "JOB_STATE_SCHEDULED"
              },
              {
                "count": 30,
                "state": "JOB_STATE_QUEUED"
              },
              {
                "count": 4,
                "state": "JOB_STATE_RUNNING"
              },
              {
                "count": 1,
                "state": "JOB_STATE_FAILED"
              }
            ],
            "liveBytes": 12345,
            "liveJobs": 36,
            "oldestReadyAge": "75s",
            "waiters": 0
          }
        }
        "#);
    }
}
