//! The only namespace, `default`, which may also be left empty.

use jobmill::proto::v1::{self, JobState, submit_result::Result as Item};
use tonic::{Code, Status};

use super::{
    raw::{self, Fixtures, Rpc, rpcs, state},
    shelf, submit,
};
use crate::support::{QUEUE, Rig, job, named, refusal, refused_item, soon, submission};

/// Returns all RPCs but the streams of requests: one answers item by item, the other names it in its hello.
fn unary() -> impl Iterator<Item = Rpc> {
    rpcs().into_iter().filter(|rpc| !["SubmitStream", "Work"].contains(&rpc.short()))
}

/// Opens the stream of a worker in a namespace.
async fn work(rig: &Rig, namespace: &str) -> Result<Option<bytes::Bytes>, Status> {
    let hello = v1::Hello { namespace: namespace.to_owned(), ..raw::hello("w") };
    raw::call(rig, "jobmill.v1.WorkerService/Work", &[], &raw::greeting(hello)).await
}

/// Returns the result of a stream's only item in a namespace.
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
        for rpc in unary() {
            let queue = format!("{}{namespace}", rpc.short().to_lowercase());
            let fixtures = Fixtures::set_up(&rig, &queue).await;
            let request = rpc.with_text(fixtures.request(&rpc, &queue), "namespace", namespace);
            let refused = raw::call(&rig, &rpc.name, &[], &request).await.err();
            assert!(refused.is_none(), "{} in {namespace:?}: {refused:?}", rpc.name);
        }
        work(&rig, namespace).await.unwrap();
        let Item::Submitted(_) = streamed(&rig, namespace).await else { panic!("refused in {namespace:?}") };
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_call_in_another_namespace_is_not_found_and_changes_nothing() {
    let rig = shelf().await;
    let fixtures = Fixtures::set_up(&rig, "made").await;
    let before = state(&rig).await;
    for rpc in unary() {
        let request = rpc.with_text(fixtures.request(&rpc, "unused"), "namespace", "other");
        let refused = raw::call(&rig, &rpc.name, &[], &request).await.expect_err(&rpc.name);
        let refused = refusal(&refused);
        let told = (refused.code, refused.reason.as_str());
        assert_eq!(told, (Code::NotFound, "NAMESPACE_NOT_FOUND"), "{}", rpc.name);
        assert_eq!(refused.metadata["namespace"], "other", "{}", rpc.name);
    }
    let Item::Error(error) = streamed(&rig, "other").await else { panic!("accepted") };
    assert_eq!(refused_item(&error), (Code::NotFound, "NAMESPACE_NOT_FOUND"));
    assert_eq!(error.metadata["namespace"], "other");
    assert_eq!(state(&rig).await, before);
    let refused = work(&rig, "other").await.expect_err("another namespace");
    assert_eq!(refusal(&refused).reason, "NAMESPACE_NOT_FOUND");
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
