//! What makes a repeat of a change the same.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    admission::repeatable,
    api::{
        job_queue::{CancelJob, DeleteJob},
        queue_service::{CreateQueue, PurgeQueue, UpdateQueue},
    },
    clock::Timestamp,
    proto::v1,
};

/// A vector of `tests/vectors/changes.json`: what was said, and its digest.
#[derive(Deserialize)]
struct Vector {
    name: String,
    call: String,
    form: String,
    digest: String,
}

fn digest<V: Verb>(request: V::Request) -> (&'static str, [u8; 16]) {
    let mut validator = Validator::new(Timestamp::from_micros(0), "");
    let verb = V::read(request, &mut validator);
    validator.finish().unwrap();
    (V::NAME, repeatable("id", V::NAME, |said| verb.say(said)).unwrap().digest)
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
        "purge" => digest::<PurgeQueue>(v1::PurgeQueueRequest { name: queue, ..Default::default() }),
        other => panic!("no request is named {other}"),
    }
}

/// They hold for good, as those of submissions do.
#[test]
fn digests_are_those_of_the_vectors() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../../tests/vectors/changes.json")).unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let by_hand = hex(&Sha256::digest(vector.form.as_bytes())[..16]);
        let (call, digest) = made(&vector.name);
        let found = (call, by_hand, hex(&digest));
        assert_eq!(found, (&*vector.call, vector.digest.clone(), vector.digest), "{}", vector.name);
    }
}
