//! Text output for workers: a table, or one worker in full.

use clap::builder::styling::AnsiColor;

use super::super::{
    table::{Table, Text, plain},
    text,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{LeaseStatus, PoolStatus, Worker, WorkerState},
};

/// Limit of the column of kinds, so that a row fits on a line of most terminals.
const KINDS_MAX_CHARS: usize = 40;

/// Returns the name of a worker's state, or its number where this program does not know it.
fn state(number: i32) -> Text {
    match WorkerState::try_from(number) {
        Ok(state) => {
            let name = state.as_str_name().trim_start_matches("WORKER_STATE_").to_lowercase();
            let colour = match state {
                WorkerState::Unspecified | WorkerState::Connected => None,
                WorkerState::Away => Some(AnsiColor::Red),
                WorkerState::Draining => Some(AnsiColor::Yellow),
            };
            (name, colour)
        }
        Err(_) => plain(format!("state {number}")),
    }
}

/// Formats workers as a table.
pub(super) fn list(workers: &[Worker], now: Timestamp, colour: bool) -> String {
    let header = ["INSTANCE", "STATE", "SINCE", "KINDS", "CREDITS", "LEASES", "ADDRESS"];
    let mut table = Table::new(header, colour).numbers([4, 5]);
    for worker in workers {
        let mut kinds: Vec<_> =
            worker.pools.iter().flat_map(|pool| &pool.kinds).map(String::as_str).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let since = worker.since.as_ref().map(from_wire_timestamp);
        let credits: i64 = worker.pools.iter().map(|pool| i64::from(pool.credits)).sum();
        table.row([
            plain(text::escape(&worker.instance)),
            state(worker.state),
            plain(since.map(|since| text::relative(since, now)).unwrap_or_default()),
            plain(text::escape(&text::shortened(&kinds.join(" "), KINDS_MAX_CHARS))),
            plain(credits.to_string()),
            plain(worker.lease_count.to_string()),
            plain(text::escape(&worker.address)),
        ]);
    }
    table.render()
}

/// Formats a worker with all of its details.
pub(super) fn in_full(worker: &Worker, now: Timestamp, colour: bool) -> String {
    let (state, state_colour) = state(worker.state);
    let state = if colour { text::coloured(&state, state_colour) } else { state };
    let mut fields = vec![
        ("instance", text::escape(&worker.instance).into_owned()),
        ("process", text::escape(&worker.process).into_owned()),
        ("state", state),
    ];
    if let Some(since) = &worker.since {
        fields.push(("since", text::instant(from_wire_timestamp(since), now)));
    }
    let texts =
        [("subject", &worker.subject), ("version", &worker.client_version), ("address", &worker.address)];
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    fields.extend(texts.map(|(name, value)| (name, text::escape(value).into_owned())));
    if !worker.labels.is_empty() {
        let labels =
            worker.labels.iter().map(|(key, value)| text::escape(&format!("{key}={value}")).into_owned());
        fields.push(("labels", labels.collect::<Vec<_>>().join(" ")));
    }
    fields.extend(text::listed("pools", worker.pools.iter().map(pool)));
    fields.push(("leases", worker.lease_count.to_string()));
    let mut page = text::fields(fields);
    if !worker.leases.is_empty() {
        page.push('\n');
        page.push_str(&leases(&worker.leases, now, colour));
        page.push('\n');
    }
    page
}

/// Formats a pool: `resize: 4 credits for thumbnail, preview from images`.
fn pool(pool: &PoolStatus) -> String {
    let name = if pool.name.is_empty() { String::new() } else { format!("{}: ", text::escape(&pool.name)) };
    let credits = text::counted(u64::try_from(pool.credits).unwrap_or(0), "credit");
    let kinds = pool.kinds.join(", ");
    let queues = if pool.queues.is_empty() { "all queues".to_owned() } else { pool.queues.join(", ") };
    format!("{name}{credits} for {} from {}", text::escape(&kinds), text::escape(&queues))
}

fn leases(leases: &[LeaseStatus], now: Timestamp, colour: bool) -> String {
    let header = ["JOB", "QUEUE", "KIND", "ATTEMPT", "HELD SINCE", "REMAINING", "STATE"];
    let mut table = Table::new(header, colour).numbers([3, 5]);
    for held in leases {
        let id = held.lease.as_ref().map(|lease| lease.job_id.as_str()).unwrap_or_default();
        let since = held.assign_time.as_ref().map(from_wire_timestamp);
        let remaining = held.remaining.as_ref().map(|left| text::duration(from_wire_duration(left)));
        let state = match (held.received, held.stopping) {
            (_, true) => ("stopping".to_owned(), Some(AnsiColor::Yellow)),
            (true, false) => ("running".to_owned(), Some(AnsiColor::Cyan)),
            (false, false) => plain("not received"),
        };
        table.row([
            plain(text::escape(id)),
            plain(text::escape(&held.queue)),
            plain(text::escape(&held.kind)),
            plain(held.attempt.to_string()),
            plain(since.map(|since| text::relative(since, now)).unwrap_or_default()),
            plain(remaining.unwrap_or_default()),
            state,
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::{describe::tests::at, json};
    use jobmill::{
        client::{to_wire_duration, to_wire_timestamp},
        proto::v1::Lease,
    };

    fn worker() -> Worker {
        let lease = |job_id: &str, token, received, stopping| LeaseStatus {
            lease: Some(Lease { job_id: job_id.into(), token }),
            queue: "images".into(),
            kind: "thumbnail".into(),
            attempt: 2,
            assign_time: Some(to_wire_timestamp(at(0))),
            received,
            remaining: Some(to_wire_duration(Duration::from_millis(23_400))),
            stopping,
        };
        let pool = |name: &str, kinds: &[&str], queues: &[&str], credits| PoolStatus {
            name: name.into(),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            credits,
        };
        Worker {
            instance: "resizer-1".into(),
            process: "f00d\u{1b}".into(),
            subject: "resizer".into(),
            state: WorkerState::Draining.into(),
            client_version: "jobmill 0.1.0".into(),
            labels: [("zone".to_owned(), "b\n".to_owned())].into(),
            address: "10.0.0.7:51000".into(),
            since: Some(to_wire_timestamp(at(-60_000))),
            pools: vec![
                pool("", &["thumbnail", "preview"], &[], 3),
                pool("slow", &["encode"], &["video"], 1),
            ],
            leases: vec![lease("06g3k5m0v4000", 7, true, true), lease("06g3k5m0v4001", 8, false, false)],
            lease_count: 2,
        }
    }

    #[test]
    fn workers_in_a_table() {
        let away = Worker {
            state: WorkerState::Away.into(),
            instance: "old".into(),
            lease_count: 1,
            ..Default::default()
        };
        insta::assert_snapshot!(list(&[away, worker()], at(0), false), @r"
        INSTANCE   STATE     SINCE   KINDS                     CREDITS  LEASES  ADDRESS
        old        away                                              0       1
        resizer-1  draining  1m ago  encode preview thumbnail        4       2  10.0.0.7:51000
        ");
    }

    #[test]
    fn a_worker_in_full() {
        insta::assert_snapshot!(in_full(&worker(), at(90_000), false), @r"
        instance      resizer-1
        process       f00d\x1b
        state         draining
        since         2026-01-02T03:03:05Z (2m 30s ago)
        subject       resizer
        version       jobmill 0.1.0
        address       10.0.0.7:51000
        labels        zone=b\n
        pools         3 credits for thumbnail, preview from all queues
                      slow: 1 credit for encode from video
        leases        2

        JOB            QUEUE   KIND       ATTEMPT  HELD SINCE  REMAINING  STATE
        06g3k5m0v4000  images  thumbnail        2  1m 30s ago        23s  stopping
        06g3k5m0v4001  images  thumbnail        2  1m 30s ago        23s  not received
        ");
        let none = Worker { instance: "idle".into(), process: "p".into(), state: 9, ..Default::default() };
        insta::assert_snapshot!(in_full(&none, at(0), false), @r"
        instance      idle
        process       p
        state         state 9
        leases        0
        ");
    }

    #[test]
    fn a_worker_in_json() {
        let short =
            Worker { leases: worker().leases[..1].to_vec(), pools: worker().pools[1..].to_vec(), ..worker() };
        insta::assert_snapshot!(serde_json::to_string_pretty(&json::worker(&short)).unwrap(), @r#"
        {
          "address": "10.0.0.7:51000",
          "clientVersion": "jobmill 0.1.0",
          "instance": "resizer-1",
          "labels": {
            "zone": "b\n"
          },
          "leaseCount": 2,
          "leases": [
            {
              "assignTime": "2026-01-02T03:04:05Z",
              "attempt": 2,
              "kind": "thumbnail",
              "lease": {
                "jobId": "06g3k5m0v4000",
                "token": 7
              },
              "queue": "images",
              "received": true,
              "remaining": "23.400s",
              "stopping": true
            }
          ],
          "pools": [
            {
              "credits": 1,
              "kinds": [
                "encode"
              ],
              "name": "slow",
              "queues": [
                "video"
              ]
            }
          ],
          "process": "f00d\u001b",
          "since": "2026-01-02T03:03:05Z",
          "state": "WORKER_STATE_DRAINING",
          "subject": "resizer"
        }
        "#);
    }
}
