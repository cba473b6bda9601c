//! Every call that changes something has a request id, and is repeated under it.

use std::{collections::BTreeMap, sync::Arc};

use tonic::Code;

use super::{
    super::{Client, ClientError},
    client, client_with,
    fake::{Act, Fake},
    spec,
};
use crate::proto::v1::{self, ErrorReason};

/// Makes a call of each kind, with a request id of its own where one is given. The methods of other calls come from the
/// same lines of `build.rs`.
async fn call_all(client: &Client, own: &str) -> Result<(), ClientError> {
    let request_id = || own.to_owned();
    client.submit_batch(v1::SubmitBatchRequest { request_id: request_id(), ..Default::default() }).await?;
    client.cancel_job(v1::CancelJobRequest { request_id: request_id(), ..From::from("1") }).await?;
    client.pause_queue(v1::PauseQueueRequest { request_id: request_id(), ..From::from("default") }).await?;
    client.update_queue(v1::UpdateQueueRequest { request_id: request_id(), ..Default::default() }).await?;
    Ok(())
}

const CHANGES: usize = 4;

fn ids_by_call(fake: &Fake) -> BTreeMap<String, Vec<String>> {
    let mut ids = BTreeMap::<_, Vec<_>>::new();
    for (call, id) in fake.changes.lock().iter() {
        ids.entry(call.clone()).or_default().push(id.clone());
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn every_lost_answer_is_asked_for_again_under_the_same_new_id() {
    let fake = Arc::new(Fake::default());
    call_all(&client(&fake), "").await.unwrap();
    let ids = ids_by_call(&fake);
    assert_eq!(ids.len(), CHANGES);
    for (call, ids) in &ids {
        assert_eq!(ids.len(), 2, "{call}");
        assert_eq!(ids[0], ids[1], "{call}");
        assert!(!ids[0].is_empty(), "{call}");
    }
    let different: std::collections::BTreeSet<_> = ids.values().map(|ids| &ids[0]).collect();
    assert_eq!(different.len(), CHANGES);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_was_given_is_kept() {
    let fake = Arc::new(Fake::default());
    call_all(&client(&fake), "own").await.unwrap();
    let ids = ids_by_call(&fake);
    assert_eq!(ids.len(), CHANGES);
    assert!(ids.values().flatten().all(|id| id == "own"), "{ids:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_may_be_made_by_any_thread() {
    let fake = Arc::new(Fake::default());
    let client = client(&fake);
    let calls = async move { call_all(&client, "").await.is_ok() };
    fn is_send(_: &(impl Send + 'static)) {}
    is_send(&calls);
    assert!(calls.await);
}

#[tokio::test(start_paused = true)]
async fn what_is_required_goes_with_every_call() {
    let answer = || {
        let submitted = Some(v1::Submitted { id: "1".into(), ..Default::default() });
        Act::Answer(v1::SubmitResponse { submitted, ..Default::default() })
    };
    let fake = Fake::default();
    fake.submits.lock().extend([answer(), answer()]);
    let fake = Arc::new(fake);
    client(&fake).submit(spec()).await.unwrap();
    let picky = client_with(&fake, |builder| builder.require(["wait", "headers"]).require(["request-ids"]));
    picky.submit(spec()).await.unwrap();
    assert_eq!(*fake.required.lock(), ["wait,headers,request-ids"]);
}

#[tokio::test]
async fn what_can_not_be_a_feature_is_refused_before_anything_is_sent() {
    for name in ["", "a,b", "a b", "é", "a\n"] {
        let error = Client::builder("127.0.0.1:1").require([name]).connect_lazy().unwrap_err();
        assert!(!error.is_unknown_outcome());
        assert!(matches!(&error, ClientError::InvalidFeature { name: told } if told == name), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn reasons_are_told_apart_by_their_type() {
    use super::super::Refusal;

    let refused = |refusal| ClientError::Refused(Box::new(refusal));
    let mut refusal = Refusal::new(Code::ResourceExhausted, ErrorReason::QueueFull, "full");
    assert_eq!((refusal.reason.as_str(), refusal.reason()), ("QUEUE_FULL", ErrorReason::QueueFull));
    refusal.reason = "OF_THE_FUTURE".into();
    assert_eq!(refusal.reason(), ErrorReason::Unspecified);
    let feature = Refusal::new(Code::Unimplemented, ErrorReason::FeatureUnknown, "");
    assert!(feature.is_definite());
    assert_eq!(refused(feature).reason(), ErrorReason::FeatureUnknown);
    let timeout = ClientError::Timeout { endpoint: String::new(), after: std::time::Duration::ZERO };
    assert_eq!((timeout.reason(), timeout.refusal()), (ErrorReason::Unspecified, None));
}
