//! Tests of the idempotency digests of changes.

use super::*;
use crate::{
    admission::vectors,
    api::{
        job_queue::{CancelJob, DeleteJob},
        queue_service::{CreateQueue, PurgeQueue, UpdateQueue},
        update_job::UpdateJob,
    },
    clock::Timestamp,
    proto::v1,
};

fn digest<V: Verb>(request: V::Request) -> (&'static str, [u8; 16]) {
    let mut validator = Validator::new(Timestamp::from_micros(0), "");
    let verb = V::read(request, &mut validator);
    validator.finish().unwrap();
    (V::NAME, repeatable_request(&verb, "id").unwrap().digest)
}

fn settings() -> v1::QueueSettings {
    let time = prost_types::Duration { seconds: 3_600, nanos: 0 };
    let keep = |keep| Some(v1::Keep { keep: Some(keep) });
    v1::QueueSettings {
        max_jobs: Some(1_000),
        when_full: v1::WhenFull::Reject as i32,
        max_wait: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        accept_unknown_kinds: Some(true),
        retention: Some(v1::Retention {
            failed: keep(v1::keep::Keep::Time(time)),
            expired: keep(v1::keep::Keep::Forever(true)),
            ..v1::Retention::default()
        }),
        ..v1::QueueSettings::default()
    }
}

fn made(name: &str) -> (&'static str, [u8; 16]) {
    let (id, queue) = ("1m8f78qr30000".to_owned(), "mail".to_owned());
    match name {
        "cancel" => {
            let expected_revision = Some(3);
            digest::<CancelJob>(v1::CancelJobRequest { id, expected_revision, ..Default::default() })
        }
        "delete" => digest::<DeleteJob>(v1::DeleteJobRequest { id, ..Default::default() }),
        "create" => {
            let settings = Some(settings());
            digest::<CreateQueue>(v1::CreateQueueRequest { name: queue, settings, ..Default::default() })
        }
        "update" => {
            let consumers = Some(4);
            let settings = Some(v1::QueueSettings { consumers, ..Default::default() });
            let paths = ["settings.max_jobs", "settings.consumers"].map(str::to_owned).into();
            digest::<UpdateQueue>(v1::UpdateQueueRequest {
                queue: Some(v1::Queue {
                    name: queue,
                    etag: "1-2".to_owned(),
                    settings,
                    ..Default::default()
                }),
                update_mask: Some(prost_types::FieldMask { paths }),
                ..Default::default()
            })
        }
        "update job" => {
            let payload = v1::Payload::of_text("new");
            let delay = prost_types::Duration { seconds: 5, nanos: 0 };
            let spec = v1::JobSpec {
                payload: Some(payload.with_type("a/b")),
                start: Some(v1::job_spec::Start::Delay(delay)),
                // Not named: it is no part of the request.
                priority: Some(7),
                ..Default::default()
            };
            let paths = ["payload", "expire_time", "delay"].map(str::to_owned).into();
            digest::<UpdateJob>(v1::UpdateJobRequest {
                id,
                spec: Some(spec),
                update_mask: Some(prost_types::FieldMask { paths }),
                ..Default::default()
            })
        }
        "purge" => digest::<PurgeQueue>(v1::PurgeQueueRequest { name: queue, ..Default::default() }),
        other => panic!("no request is named {other}"),
    }
}

/// The digests must never change, as those of submissions.
#[test]
fn digests_are_those_of_the_vectors() {
    vectors::check(include_str!("../../../tests/vectors/changes.json"), 6, |name, call| {
        let (made_by, digest) = made(name);
        assert_eq!(made_by, call, "{name}");
        digest
    });
}
