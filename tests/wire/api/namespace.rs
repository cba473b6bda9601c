//! Namespaces: there is one, by two names.

use jobmill::proto::v1::{self, JobState, submit_result::Result as Item};
use tonic::{Code, Response, Status};

use super::{shelf, submit};
use crate::support::{QUEUE, Rig, job, named, refusal, refused_item, soon, submission};

/// Every request about a namespace, of a job and a queue that are there; all but the stream's.
#[expect(clippy::needless_update, reason = "some requests have no other field")]
async fn every_call(rig: &Rig, namespace: &str, id: &str, request_id: &str) -> Vec<(&'static str, Status)> {
    fn end<T>(result: Result<Response<T>, Status>) -> Status {
        result.map_or_else(|status| status, |_| Status::ok(""))
    }
    macro_rules! call {
        ($client:ident, $method:ident, $request:ident { $($field:ident: $value:expr),* $(,)? }) => {{
            let request = v1::$request {
                $($field: $value,)*
                namespace: namespace.to_owned(),
                ..Default::default()
            };
            (stringify!($request), end(soon(rig.$client.clone().$method(request)).await))
        }};
    }
    let (id, request_id) = (|| id.to_owned(), || request_id.to_owned());
    let (spec, name) = (|| Some(job("echo")), || "made".to_owned());
    vec![
        call!(jobs, submit, SubmitRequest { job: spec(), request_id: request_id() }),
        call!(jobs, submit_batch, SubmitBatchRequest { jobs: vec![job("echo")] }),
        call!(jobs, submit_and_watch, SubmitAndWatchRequest { job: spec() }),
        call!(jobs, watch_status, WatchStatusRequest { ids: vec![id()] }),
        call!(jobs, get_job, GetJobRequest { id: id() }),
        call!(jobs, list_jobs, ListJobsRequest {}),
        call!(jobs, count_jobs, CountJobsRequest {}),
        call!(jobs, cancel_job, CancelJobRequest { id: id() }),
        call!(jobs, retry_job, RetryJobRequest { id: id() }),
        call!(jobs, delete_job, DeleteJobRequest { id: id() }),
        call!(queues, create_queue, CreateQueueRequest { name: name() }),
        call!(queues, get_queue, GetQueueRequest { name: name() }),
        call!(queues, list_queues, ListQueuesRequest {}),
        call!(queues, update_queue, UpdateQueueRequest { name: name() }),
        call!(queues, pause_queue, PauseQueueRequest { name: name() }),
        call!(queues, resume_queue, ResumeQueueRequest { name: name() }),
        call!(queues, purge_queue, PurgeQueueRequest { name: name() }),
        call!(queues, delete_queue, DeleteQueueRequest { name: name() }),
    ]
}

/// What becomes of the only item of a stream's message in a namespace.
async fn streamed(rig: &Rig, namespace: &str) -> Item {
    let item = v1::SubmitItem { job: Some(job("echo")), ..Default::default() };
    let request =
        v1::SubmitStreamRequest { items: vec![item], namespace: namespace.to_owned(), ..Default::default() };
    let mut jobs = rig.jobs.clone();
    let mut stream = soon(jobs.submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
    loop {
        let response = soon(stream.message()).await.unwrap().expect("a result");
        if let Some(result) = response.results.into_iter().next() {
            return result.result.expect("a result");
        }
    }
}

#[tokio::test]
async fn every_call_takes_the_only_namespace_by_its_name_and_without_one() {
    let rig = shelf().await;
    for namespace in ["", "default"] {
        let id = rig.submit(job("echo")).await.id;
        for (what, status) in every_call(&rig, namespace, &id, "").await {
            assert_eq!(status.code(), Code::Ok, "{what} in {namespace:?}: {status:?}");
        }
        let Item::Submitted(_) = streamed(&rig, namespace).await else { panic!("refused in {namespace:?}") };
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_call_in_another_namespace_is_not_found_and_changes_nothing() {
    let rig = shelf().await;
    let request = v1::CreateQueueRequest { name: "made".to_owned(), ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.unwrap();
    let id = rig.submit(job("echo")).await.id;
    let (job_before, queue_before) = (rig.get(&id).await, rig.queue("made").await);
    let calls = every_call(&rig, "other", &id, "unused").await;
    assert_eq!(calls.len(), 18);
    for (what, status) in calls {
        let refused = refusal(&status);
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::NotFound, "NAMESPACE_NOT_FOUND"),
            "{what}"
        );
        assert_eq!(refused.metadata["namespace"], "other", "{what}");
    }
    let Item::Error(error) = streamed(&rig, "other").await else { panic!("accepted") };
    assert_eq!(refused_item(&error), (Code::NotFound, "NAMESPACE_NOT_FOUND"));
    assert_eq!(error.metadata["namespace"], "other");
    assert_eq!((rig.get(&id).await, rig.queue("made").await), (job_before, queue_before));
    assert_eq!(rig.total().await, 1);
    let anew = submit(&rig, named("unused", job("echo"))).await.unwrap();
    assert_eq!(anew.outcome(), v1::SubmitOutcome::Created, "its request id is not used up");
    rig.stop().await;
}

#[tokio::test]
async fn a_request_id_is_one_in_the_namespace_by_both_of_its_names() {
    let rig = shelf().await;
    let in_namespace =
        |namespace: &str| v1::SubmitRequest { namespace: namespace.to_owned(), ..named("once", job("echo")) };
    let first = submit(&rig, in_namespace("")).await.unwrap();
    let again = submit(&rig, in_namespace("default")).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
    rig.stop().await;
}

#[tokio::test]
async fn jobs_and_queues_say_where_they_are() {
    let rig = Rig::simple().await;
    let id = rig.submit(job("echo")).await.id;
    let ended = rig.ends(&id).await;
    assert_eq!((ended.state(), ended.namespace.as_str()), (JobState::Succeeded, "default"));
    assert_eq!(rig.queue(QUEUE).await.namespace, "default");
    let listed = soon(rig.queues.clone().list_queues(v1::ListQueuesRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().queues[0].namespace, "default");
    rig.stop().await;
}

#[tokio::test]
async fn what_can_be_no_name_of_a_namespace_is_a_fault_of_the_request() {
    let rig = shelf().await;
    let long = "n".repeat(10_000);
    for name in ["Default", " ", "a\r\nb", "\u{202e}", long.as_str()] {
        let request = v1::SubmitRequest { namespace: name.to_owned(), ..submission(job("echo")) };
        let refused = refusal(&submit(&rig, request).await.unwrap_err());
        assert_eq!((refused.code, refused.fields), (Code::InvalidArgument, vec!["namespace".to_owned()]));
    }
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}
