//! UpdateJob over the wire: its faults, and what becomes of the job.

use jobmill::{
    proto::v1::{self, JobState, job_spec::Start},
    settings::QueueSettings,
};
use prost_types::{Duration, FieldMask};
use tonic::{Code, Status};

use super::shelf;
use crate::support::{Refusal, Rig, job, memory, queue, refusal, simple, soon, with_queue};

async fn update(rig: &Rig, id: &str, spec: v1::JobSpec, paths: &[&str]) -> Result<v1::Job, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = v1::UpdateJobRequest {
        id: id.to_owned(),
        spec: Some(spec),
        update_mask: Some(FieldMask { paths }),
        view: v1::JobView::Full.into(),
        ..Default::default()
    };
    soon(rig.jobs.clone().update_job(request)).await.map(|done| done.into_inner().job.expect("the job"))
}

async fn refused(rig: &Rig, id: &str, spec: v1::JobSpec, paths: &[&str]) -> Refusal {
    refusal(&update(rig, id, spec, paths).await.expect_err("a refusal"))
}

fn payload(text: &str) -> v1::JobSpec {
    v1::JobSpec { payload: Some(v1::Payload::of_text(text)), ..Default::default() }
}

#[tokio::test]
async fn named_fields_change_and_the_spec_shows_them_as_they_were_said() {
    let rig = shelf().await;
    let id = rig.submit(v1::JobSpec { priority: Some(3), ..job("echo") }).await.id;
    let hour = Duration { seconds: 3_600, nanos: 0 };
    let spec = v1::JobSpec {
        headers: [("tenant".to_owned(), "x".to_owned())].into(),
        start: Some(Start::Delay(hour)),
        // Not named, and so neither changed nor checked.
        priority: Some(1_000),
        ..payload("new")
    };
    let changed = update(&rig, &id, spec, &["payload", "headers", "delay"]).await.unwrap();
    assert_eq!((changed.state(), changed.revision), (JobState::Scheduled, 2));
    let said = changed.spec.clone().unwrap();
    assert_eq!((said.payload.unwrap().bytes(), said.priority), (&b"new"[..], Some(3)));
    assert_eq!((said.start, said.headers["tenant"].as_str()), (Some(Start::Delay(hour)), "x"));
    assert_eq!(rig.get(&id).await, v1::Job { pending: rig.get(&id).await.pending, ..changed });
    // A field that is named and not set gets its default; either name stands for the start.
    let paths = ["payload", "headers", "priority", "run_time"];
    let bare = update(&rig, &id, v1::JobSpec::default(), &paths).await.unwrap();
    assert_eq!((bare.state(), bare.spec.unwrap()), (JobState::Queued, job("echo")));
    rig.stop().await;
}

#[tokio::test]
async fn each_fault_names_its_field_and_the_way_out() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let spec = |start| v1::JobSpec { start: Some(start), ..Default::default() };
    let delay = |seconds| Start::Delay(Duration { seconds, nanos: 0 });
    let priority = v1::JobSpec { priority: Some(101), ..Default::default() };
    let headers = v1::JobSpec { headers: [("A".to_owned(), String::new())].into(), ..Default::default() };
    for (spec, paths, field, way_out) in [
        (v1::JobSpec::default(), &[][..], "update_mask", "it must have 1 to 16 of `delay`"),
        (job("echo"), &["kind"], "update_mask.paths[0]", "cancel the job, and submit another one"),
        (job("echo"), &["payload", "labels"], "update_mask.paths[1]", "cancel the job"),
        (priority, &["priority"], "spec.priority", "from -100 to 100"),
        (headers, &["headers"], "spec.headers", "a-z"),
        (spec(delay(-1)), &["delay"], "spec.delay", "is negative"),
        (spec(delay(5)), &["run_time"], "spec.delay", "name `delay` there"),
    ] {
        let status = update(&rig, &id, spec, paths).await.unwrap_err();
        let refused = refusal(&status);
        assert_eq!((refused.code, &refused.fields[..]), (Code::InvalidArgument, &[field.to_owned()][..]));
        assert!(status.message().contains(way_out), "{}", status.message());
    }
    let nothing = v1::UpdateJobRequest::default();
    let mut fields = refusal(&soon(rig.jobs.clone().update_job(nothing)).await.unwrap_err()).fields;
    fields.sort_unstable();
    assert_eq!(fields, ["id", "update_mask"]);
    assert_eq!(rig.get(&id).await.revision, 1, "nothing has changed");
    rig.stop().await;
}

#[tokio::test]
async fn what_has_ended_is_told_and_so_is_a_full_queue() {
    let rig = Rig::simple().await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    let ended = refused(&rig, &id, payload("late"), &["payload"]).await;
    assert_eq!((ended.reason.as_str(), ended.metadata["state"].as_str()), ("WRONG_STATE", "SUCCEEDED"));
    rig.stop().await;

    let full = QueueSettings { max_bytes: 300, ..queue(0) };
    let rig = Rig::start(simple(with_queue(memory(), "small", full))).await;
    let id = rig.submit(crate::queues::in_queue("small", "echo")).await.id;
    update(&rig, &id, payload(&"x".repeat(44)), &["payload"]).await.unwrap();
    let full = refused(&rig, &id, payload(&"x".repeat(45)), &["payload"]).await;
    assert_eq!((full.code, full.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert_eq!(rig.get(&id).await.revision, 2);
    rig.stop().await;
}
