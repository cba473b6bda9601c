//! Calls with an unknown outcome are repeated; refused calls are not.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use super::{
    super::ClientError,
    client, client_with,
    fake::{Act, Fake},
    spec,
};
use crate::proto::v1::{self, SubmitOutcome};

fn submitted(outcome: SubmitOutcome) -> v1::SubmitResponse {
    let submitted = v1::Submitted { id: "1".into(), outcome: outcome.into() };
    v1::SubmitResponse { submitted: Some(submitted), ..Default::default() }
}

fn refused(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "jobmill", []);
    details.add_bad_request_violation("job.priority", "must be from -100 to 100");
    details.set_retry_info(Some(Duration::from_secs(3)));
    Status::with_error_details(code, "no", details)
}

fn acting(acts: impl IntoIterator<Item = Act<v1::SubmitResponse>>) -> Arc<Fake> {
    let fake = Fake::default();
    fake.submits.lock().extend(acts);
    Arc::new(fake)
}

fn request_ids(fake: &Fake) -> Vec<String> {
    fake.submitted.lock().iter().map(|request| request.request_id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_under_the_same_request_id() {
    let fake = acting([Act::Cut, Act::Answer(submitted(SubmitOutcome::Repeated))]);
    let answer = client(&fake).submit(spec()).await.unwrap();
    assert_eq!((answer.id(), answer.outcome()), ("1", SubmitOutcome::Repeated));
    let ids = request_ids(&fake);
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0].parse::<Uuid>().unwrap().get_version_num(), 7);
}

#[tokio::test(start_paused = true)]
async fn two_submissions_have_two_request_ids_and_ones_own_id_is_kept() {
    let fake = acting([(); 3].map(|()| Act::Answer(submitted(SubmitOutcome::Created))));
    let client = client(&fake);
    client.submit(spec()).await.unwrap();
    client.submit(spec()).await.unwrap();
    let own = v1::SubmitRequest { request_id: "own".into(), ..spec().into() };
    client.submit(own).await.unwrap();
    let ids = request_ids(&fake);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[2], "own");
}

#[tokio::test(start_paused = true)]
async fn every_unknown_outcome_is_repeated() {
    for code in [
        Code::Unavailable,
        Code::Internal,
        Code::Cancelled,
        Code::Unknown,
        Code::Aborted,
        Code::DeadlineExceeded,
    ] {
        let fake =
            acting([Act::Refuse(Status::new(code, "proxy")), Act::Answer(submitted(SubmitOutcome::Created))]);
        client(&fake).submit(spec()).await.unwrap();
        assert_eq!(fake.submitted.lock().len(), 2, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_has_taken_nothing_and_is_asked_again_as_long_as_there_is_time() {
    let stopping = || Act::Refuse(refused(Code::Unavailable, "STOPPING"));
    let fake = acting([stopping(), Act::Answer(submitted(SubmitOutcome::Created))]);
    client(&fake).submit(spec()).await.unwrap();

    let fake = acting([stopping()]);
    let once = client_with(&fake, |builder| builder.retry_for(Duration::ZERO));
    let error = once.submit(spec()).await.unwrap_err();
    assert!(!error.is_unknown_outcome(), "{error}");
    let fake = acting([Act::Refuse(refused(Code::Unavailable, "OUTCOME_UNKNOWN"))]);
    let once = client_with(&fake, |builder| builder.retry_for(Duration::ZERO));
    assert!(once.submit(spec()).await.unwrap_err().is_unknown_outcome());
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_of_the_client_there_is_one_more_try() {
    let fake =
        acting([Act::Refuse(Status::unavailable("away")), Act::Answer(submitted(SubmitOutcome::Created))]);
    let client = client(&fake);
    let pause = async {
        // By then the client has seen the first try fail, and waits for the second.
        while fake.submitted.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
    };
    let (answer, ()) = tokio::join!(client.submit(spec()), pause);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once_with_its_details() {
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::ResourceExhausted,
    ] {
        let fake = acting([Act::Refuse(refused(code, "WHY"))]);
        let error = client(&fake).submit(spec()).await.unwrap_err();
        assert!(!error.is_unknown_outcome());
        let ClientError::Refused(refusal) = error else { panic!("{code:?}: {error:?}") };
        assert_eq!((refusal.code, refusal.reason.as_str(), refusal.message.as_str()), (code, "WHY", "no"));
        assert_eq!(refusal.fields[0].field, "job.priority");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(3)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_comes_again_is_not_repeated() {
    for code in [Code::PermissionDenied, Code::Unauthenticated, Code::OutOfRange, Code::ResourceExhausted] {
        let fake = acting([Act::Refuse(Status::new(code, "proxy"))]);
        let error = client(&fake).submit(spec()).await.unwrap_err();
        assert!(matches!(error, ClientError::Failed { .. }), "{error:?}");
        assert!(error.is_unknown_outcome());
    }
    let fake = acting([Act::Refuse(Status::unimplemented("grpc-status header missing"))]);
    let error = client(&fake).submit(spec()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotJobmill { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn repeats_end_with_their_time() {
    // Tries at 0, 1, 3 and 7 s; the next would be at 15 s, and the time is 10 s.
    let fake = acting((0..9).map(|_| Act::Refuse(Status::unavailable("away"))));
    let error = client(&fake).submit(spec()).await.unwrap_err();
    assert!(matches!(error, ClientError::Failed { code: Code::Unavailable, .. }), "{error:?}");
    assert_eq!(fake.submitted.lock().len(), 4);

    let fake = acting((0..9).map(|_| Act::Refuse(Status::unavailable("away"))));
    let once = client_with(&fake, |builder| builder.retry_for(Duration::ZERO));
    once.submit(spec()).await.unwrap_err();
    assert_eq!(fake.submitted.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn jitter_shortens_the_delays() {
    // With the whole delay taken off, one try follows the other until the acts are used up.
    let fake = acting((0..7).map(|_| Act::Refuse(Status::unavailable("away"))));
    fake.submits.lock().push_back(Act::Answer(submitted(SubmitOutcome::Created)));
    let policy = crate::job::RetryPolicy { jitter: 1.0, ..crate::job::RetryPolicy::DEFAULT };
    let hasty = client_with(&fake, |builder| builder.retry_delays(policy).random(|| 1.0));
    hasty.submit(spec()).await.unwrap();
    assert_eq!(fake.submitted.lock().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_a_timeout() {
    let fake = acting([Act::Hang]);
    let client = client_with(&fake, |builder| builder.call_timeout(Duration::from_secs(20)));
    let error = client.submit(spec()).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer from http://fake.test:7733 within 20s");
    assert!(error.is_unknown_outcome());
    // Reads have the same limit, and are not repeated.
    let error = client.list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_told_as_such() {
    let fake = acting([]);
    let error = client(&fake).count_jobs(v1::JobFilter::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_what_it_must_have_is_an_error() {
    let fake = acting([]);
    let error = client(&fake).get_job("1", v1::JobView::Full).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the call to http://fake.test:7733 failed: the answer has no `job` (Internal)"
    );
    let fake = acting([Act::Answer(v1::SubmitResponse::default())]);
    let once = client_with(&fake, |builder| builder.retry_for(Duration::ZERO));
    let error = once.submit(spec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the call to http://fake.test:7733 failed: the answer has no `submitted` (Internal)"
    );
}
