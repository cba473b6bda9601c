//! Views: how much of a job an answer has.

use jobmill::proto::v1::{
    self, JobState, JobView, submit_and_watch_response::Event as SubmitEvent, watch_event::Event,
};

use super::{list, shelf, submit};
use crate::support::{QUEUE, Rig, job, named, payload, refusal, result, soon, spec, submission};

fn with_bytes(kind: &str) -> v1::JobSpec {
    v1::JobSpec { payload: Some(v1::Payload::of("bytes")), ..job(kind) }
}

fn viewed(view: JobView, request: v1::SubmitRequest) -> v1::SubmitRequest {
    v1::SubmitRequest { view: view as i32, ..request }
}

#[tokio::test]
async fn a_submission_is_answered_with_no_job_unless_a_view_asks_for_it() {
    let rig = shelf().await;
    let lean = submit(&rig, submission(with_bytes("echo"))).await.unwrap();
    assert_eq!((lean.outcome(), lean.job), (v1::SubmitOutcome::Created, None));
    for (view, bytes) in [(JobView::Basic, 0), (JobView::Result, 0), (JobView::Full, 5)] {
        let answer = submit(&rig, viewed(view, submission(with_bytes("echo")))).await.unwrap();
        let id = answer.id().to_owned();
        let job = answer.job.expect("a job");
        assert_eq!((&job.id, payload(&job).len()), (&id, bytes), "{view:?}");
        assert_eq!(spec(&job).payload.as_ref().unwrap().size_bytes, 5, "{view:?}");
        assert_eq!(*job, rig.look(&id, view).await.map(without_pending).unwrap(), "{view:?}");
    }
    rig.stop().await;
}

/// Returns a job without `pending`, which only GetJob computes.
fn without_pending(job: v1::Job) -> v1::Job {
    v1::Job { pending: Vec::new(), ..job }
}

#[tokio::test]
async fn a_repeat_is_answered_with_the_job_as_it_is_now() {
    let rig = Rig::simple().await;
    let first = submit(&rig, named("once", with_bytes("echo"))).await.unwrap();
    rig.ends(first.id()).await;
    let lean = submit(&rig, named("once", with_bytes("echo"))).await.unwrap();
    assert_eq!((lean.outcome(), lean.job), (v1::SubmitOutcome::Repeated, None));
    for (view, of_payload, of_result, attempts) in
        [(JobView::Basic, 0, 0, 0), (JobView::Result, 0, 5, 0), (JobView::Full, 5, 5, 1)]
    {
        let again = submit(&rig, viewed(view, named("once", with_bytes("echo")))).await.unwrap();
        let job = again.job.expect("a job");
        assert_eq!(job.state(), JobState::Succeeded, "{view:?}");
        let sizes = (payload(&job).len(), result(&job).len(), job.attempts.len());
        assert_eq!(sizes, (of_payload, of_result, attempts), "{view:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn the_view_is_no_part_of_a_request_that_is_repeated() {
    let rig = shelf().await;
    let first = submit(&rig, viewed(JobView::Full, named("once", job("echo")))).await.unwrap();
    let again = submit(&rig, viewed(JobView::Basic, named("once", job("echo")))).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
    rig.stop().await;
}

#[tokio::test]
async fn an_unknown_view_is_a_fault_of_its_own() {
    let rig = shelf().await;
    let refused = submit(&rig, v1::SubmitRequest { view: 4, ..submission(job("echo")) }).await.unwrap_err();
    assert_eq!(refusal(&refused).fields, ["view"]);
    let request = v1::SubmitAndWatchRequest { job: Some(job("echo")), view: 4, ..Default::default() };
    let refused = soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap_err();
    assert_eq!(refusal(&refused).fields, ["view"]);
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

/// Returns the jobs that a SubmitAndWatch shows after the answer to the submission.
async fn shown(rig: &Rig, view: JobView) -> Vec<v1::Job> {
    let request = v1::SubmitAndWatchRequest {
        job: Some(with_bytes("echo")),
        view: view as i32,
        detail: v1::WatchDetail::EveryTransition as i32,
        ..Default::default()
    };
    let mut stream = soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().expect("an answer");
    let Some(SubmitEvent::Submitted(submitted)) = first.event else { panic!("{first:?}") };
    assert_eq!(submitted.outcome(), v1::SubmitOutcome::Created);
    let begun = soon(stream.message()).await.unwrap().expect("the begin of the watch");
    let Some(SubmitEvent::Status(status)) = begun.event else { panic!("submitted twice") };
    assert!(matches!(status.events[..], [v1::WatchEvent { event: Some(Event::Synced(_)) }]), "{status:?}");
    // The queue was paused until here, so that the watch reports every change.
    rig.resume(QUEUE).await;
    let mut jobs = Vec::new();
    while let Some(message) = soon(stream.message()).await.unwrap() {
        let Some(SubmitEvent::Status(status)) = message.event else { panic!("submitted twice") };
        jobs.extend(status.events.into_iter().filter_map(|event| match event.event {
            Some(Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. })) => Some(*job),
            _ => None,
        }));
    }
    rig.pause(QUEUE).await;
    jobs
}

#[tokio::test]
async fn submit_and_watch_tells_as_much_as_its_view_has() {
    let rig = Rig::simple().await;
    rig.pause(QUEUE).await;
    for (view, of_payload, of_result) in
        [(JobView::Unspecified, 0, 0), (JobView::Basic, 0, 0), (JobView::Result, 0, 5), (JobView::Full, 5, 5)]
    {
        let jobs = shown(&rig, view).await;
        assert!(jobs.iter().all(|job| payload(job).len() == of_payload), "{view:?}: {jobs:?}");
        assert!(jobs.iter().all(|job| spec(job).payload.as_ref().unwrap().size_bytes == 5), "{view:?}");
        let (last, before) = jobs.split_last().expect("an end");
        assert_eq!((last.state(), result(last).len()), (JobState::Succeeded, of_result), "{view:?}");
        assert!(!before.is_empty() && before.iter().all(|job| job.result.is_none()), "{view:?}: {jobs:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn attempts_and_output_come_in_the_full_view_only() {
    let rig = Rig::simple().await;
    let id = rig.submit(with_bytes("echo")).await.id;
    rig.ends(&id).await;
    for view in [JobView::Basic, JobView::Result, JobView::Full] {
        let attempts = usize::from(view == JobView::Full);
        assert_eq!(rig.look(&id, view).await.unwrap().attempts.len(), attempts, "{view:?}");
        let listed = list(&rig, v1::JobFilter::default(), view).await;
        assert_eq!(listed[0].attempts.len(), attempts, "{view:?}");
    }
    assert_eq!(rig.get(&id).await, rig.look(&id, JobView::Full).await.unwrap());
    rig.stop().await;
}
