//! `expected_revision`: a job is changed only if it still has the revision that the caller saw.

use jobmill::proto::v1::{self, JobState};
use tonic::{Code, Response, Status};

use super::shelf;
use crate::support::{Rig, job, refusal, soon};

/// An RPC about a job that may expect a revision.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Cancel,
    Retry,
    Update,
    Delete,
}

const CALLS: [Call; 4] = [Call::Cancel, Call::Retry, Call::Update, Call::Delete];

impl Call {
    async fn make(self, rig: &Rig, id: &str, expected: i64) -> Result<Option<v1::JobChange>, Status> {
        self.make_as(rig, id, expected, "").await
    }

    async fn make_as(
        self,
        rig: &Rig,
        id: &str,
        expected: i64,
        request_id: &str,
    ) -> Result<Option<v1::JobChange>, Status> {
        let (mut jobs, expected_revision) = (rig.jobs.clone(), Some(expected));
        let (id, request_id) = (id.to_owned(), request_id.to_owned());
        match self {
            Call::Cancel => {
                let request =
                    v1::CancelJobRequest { id, request_id, expected_revision, ..Default::default() };
                soon(jobs.cancel_job(request)).await.map(|done| done.into_inner().change)
            }
            Call::Retry => {
                let request = v1::RetryJobRequest { id, request_id, expected_revision, ..Default::default() };
                soon(jobs.retry_job(request)).await.map(|done| done.into_inner().change)
            }
            Call::Update => {
                let spec = Some(v1::JobSpec { priority: Some(7), ..Default::default() });
                let update_mask = Some(prost_types::FieldMask { paths: vec!["priority".to_owned()] });
                let request = v1::UpdateJobRequest {
                    id,
                    spec,
                    update_mask,
                    request_id,
                    expected_revision,
                    ..Default::default()
                };
                soon(jobs.update_job(request)).await.map(|done| done.into_inner().change)
            }
            Call::Delete => {
                let request =
                    v1::DeleteJobRequest { id, request_id, expected_revision, ..Default::default() };
                soon(jobs.delete_job(request)).await.map(Response::into_inner).map(|_| None)
            }
        }
    }

    /// Creates a job that the call would change and that has changed before.
    async fn job(self, rig: &Rig) -> v1::Job {
        let id = rig.submit(job("echo")).await.id;
        let cancelled = rig.cancel(&id).await.unwrap();
        if self == Call::Retry { cancelled } else { rig.retry(&id).await.unwrap() }
    }
}

#[tokio::test]
async fn a_revision_that_no_job_can_have_is_a_fault_of_the_request() {
    let rig = shelf().await;
    for call in CALLS {
        let job = call.job(&rig).await;
        for expected in [0, -1, i64::MIN] {
            let refused = refusal(&call.make(&rig, &job.id, expected).await.unwrap_err());
            assert_eq!(
                (refused.code, refused.fields),
                (Code::InvalidArgument, vec!["expected_revision".to_owned()]),
                "{call:?} {expected}"
            );
        }
        assert_eq!(rig.get(&job.id).await.revision, job.revision, "{call:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_has_changed_since_is_left_alone_and_its_revision_is_told() {
    let rig = shelf().await;
    for call in CALLS {
        let job = call.job(&rig).await;
        assert!(job.revision >= 2);
        for expected in [1, job.revision - 1, job.revision + 1, i64::MAX] {
            let refused = refusal(&call.make(&rig, &job.id, expected).await.unwrap_err());
            assert_eq!(
                (refused.code, refused.reason.as_str()),
                (Code::FailedPrecondition, "REVISION_MISMATCH"),
                "{call:?} {expected}"
            );
            let told = |key: &str| refused.metadata[key].clone();
            assert_eq!(told("job_id"), job.id);
            assert_eq!(
                (told("expected_revision"), told("revision")),
                (expected.to_string(), job.revision.to_string())
            );
        }
        let now = rig.get(&job.id).await;
        assert_eq!((now.revision, now.state()), (job.revision, job.state()), "{call:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn with_the_revision_that_is_told_the_call_passes() {
    let rig = shelf().await;
    for call in CALLS {
        let job = call.job(&rig).await;
        let refused = refusal(&call.make(&rig, &job.id, 1).await.unwrap_err());
        let revision = refused.metadata["revision"].parse().unwrap();
        let change = call.make(&rig, &job.id, revision).await.unwrap();
        match call {
            Call::Delete => assert_eq!(rig.find(&job.id).await.unwrap_err().code(), Code::NotFound),
            Call::Cancel | Call::Retry | Call::Update => {
                let change = change.expect("what became of it");
                assert_eq!(change.revision, revision + 1, "{call:?}");
                let now = rig.get(&job.id).await;
                assert_eq!((now.revision, now.state()), (change.revision, change.state()), "{call:?}");
            }
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn of_updates_with_the_same_etag_only_one_is_made() {
    let rig = shelf().await;
    for call in CALLS {
        let job = call.job(&rig).await;
        let calls = (0..20).map(|_| call.make(&rig, &job.id, job.revision));
        let answers = soon(futures_util::future::join_all(calls)).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{call:?}");
        let expected = if call == Call::Delete { "JOB_NOT_FOUND" } else { "REVISION_MISMATCH" };
        for status in lost {
            assert_eq!(refusal(&status.unwrap_err()).reason, expected, "{call:?}");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_is_answered_though_the_job_is_at_another_revision_by_its_own_doing() {
    let rig = shelf().await;
    for call in CALLS {
        let job = call.job(&rig).await;
        let request_id = format!("{call:?}");
        let first = call.make_as(&rig, &job.id, job.revision, &request_id).await.unwrap();
        let again = call.make_as(&rig, &job.id, job.revision, &request_id).await.unwrap();
        assert_eq!(again, first.map(|change| v1::JobChange { repeated: true, ..change }));
        // Another revision makes another request. A job that is deleted has no requests left.
        let status = call.make_as(&rig, &job.id, job.revision + 1, &request_id).await.unwrap_err();
        let expected = if call == Call::Delete { "JOB_NOT_FOUND" } else { "REQUEST_ID_REUSED" };
        assert_eq!(refusal(&status).reason, expected, "{call:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn the_revision_is_asked_before_the_state_and_after_whether_there_is_a_job() {
    let rig = Rig::simple().await;
    let id = rig.submit(job("echo")).await.id;
    let ended = rig.ends(&id).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    for call in [Call::Cancel, Call::Retry, Call::Update] {
        let reason = async |expected| refusal(&call.make(&rig, &id, expected).await.unwrap_err()).reason;
        assert_eq!(reason(ended.revision + 1).await, "REVISION_MISMATCH", "{call:?}");
        assert_eq!(reason(ended.revision).await, "WRONG_STATE", "{call:?}");
    }
    for call in CALLS {
        let refused = refusal(&call.make(&rig, "0000000000001", 1).await.unwrap_err());
        assert_eq!(refused.reason, "JOB_NOT_FOUND", "{call:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_expectation_that_holds_is_no_change_where_there_is_nothing_to_do() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let cancelled = rig.cancel(&id).await.unwrap();
    for _ in 0..2 {
        let change = Call::Cancel.make(&rig, &id, cancelled.revision).await.unwrap().unwrap();
        let told = (change.state(), change.done, change.revision, change.repeated);
        assert_eq!(told, (JobState::Cancelled, true, cancelled.revision, false));
    }
    rig.stop().await;
}
