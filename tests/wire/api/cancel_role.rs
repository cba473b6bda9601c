//! The role `cancel`, which permits to cancel jobs in its queues, and nothing more.

use std::fs;

use jobmill::{
    proto::v1::{self, JobState, JobView},
    settings::{Settings, TokenHash},
};
use tempfile::TempDir;
use tonic::{Code, Request, Response, Status};

use crate::{
    queues::in_queue,
    support::{QUEUE, Rig, memory, queue, refusal, simple, soon, submission, with_queue},
};

const MAIL: &str = "mail";

/// A server with tokens; each token is its holder's name.
struct TokenServer {
    rig: Rig,
    _dir: TempDir,
}

const TOKENS: [(&str, &str, &str); 6] = [
    ("boss", "['admin']", "['*']"),
    ("guard", "['cancel', 'read']", "['mail*']"),
    ("producer", "['submit', 'cancel', 'read']", "['mail*']"),
    ("blind", "['submit', 'cancel']", "['mail*']"),
    ("lone", "['cancel']", "['*']"),
    ("reader", "['read', 'submit', 'work']", "['*']"),
];

fn shown<T>(token: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

impl TokenServer {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.toml");
        let entry = |(name, roles, queues): (&str, &str, &str)| {
            let hash = TokenHash::of(name);
            format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = {roles}\nqueues = {queues}\n")
        };
        fs::write(&file, TOKENS.map(entry).concat()).unwrap();
        let settings = with_queue(with_queue(memory(), QUEUE, queue(0)), MAIL, queue(0));
        let rig = Rig::start(simple(Settings { tokens: Some(file), ..settings })).await;
        TokenServer { rig, _dir: dir }
    }

    async fn submit(&self, token: &str, queue: &str) -> String {
        let request = shown(token, submission(in_queue(queue, "echo")));
        soon(self.rig.jobs.clone().submit(request)).await.unwrap().into_inner().id().to_owned()
    }

    async fn cancel(&self, token: &str, id: &str) -> Result<v1::JobChange, Status> {
        let request = v1::CancelJobRequest { id: id.to_owned(), ..Default::default() };
        let answer = soon(self.rig.jobs.clone().cancel_job(shown(token, request))).await;
        answer.map(|done| done.into_inner().change.expect("what became of it"))
    }

    async fn retry(&self, token: &str, id: &str) -> Result<(), Status> {
        let request = v1::RetryJobRequest { id: id.to_owned(), ..Default::default() };
        soon(self.rig.jobs.clone().retry_job(shown(token, request))).await.map(|_| ())
    }

    async fn delete(&self, token: &str, id: &str) -> Result<(), Status> {
        let request = v1::DeleteJobRequest { id: id.to_owned(), ..Default::default() };
        soon(self.rig.jobs.clone().delete_job(shown(token, request))).await.map(|_| ())
    }

    async fn state(&self, id: &str) -> JobState {
        let request = v1::GetJobRequest { id: id.to_owned(), ..Default::default() };
        let found = soon(self.rig.jobs.clone().get_job(shown("boss", request))).await;
        found.map(Response::into_inner).unwrap().job.unwrap().state()
    }
}

fn denied(status: Status, role: &str, queue: &str) {
    let refused = refusal(&status);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::PermissionDenied, "ROLE_MISSING"));
    assert_eq!((refused.metadata["role"].as_str(), refused.metadata["queue"].as_str()), (role, queue));
}

fn not_found(status: Status, id: &str) {
    let refused = refusal(&status);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    assert_eq!(refused.metadata["job_id"], id);
}

#[tokio::test]
async fn it_cancels_on_its_queues_only() {
    let office = TokenServer::open().await;
    let (letter, other) = (office.submit("boss", MAIL).await, office.submit("boss", QUEUE).await);
    not_found(office.cancel("guard", &other).await.unwrap_err(), &other);
    assert_eq!(office.state(&other).await, JobState::Queued);
    let change = office.cancel("guard", &letter).await.unwrap();
    assert_eq!((change.id.as_str(), change.state()), (letter.as_str(), JobState::Cancelled));
    assert_eq!(office.state(&letter).await, JobState::Cancelled);
    office.rig.stop().await;
}

#[tokio::test]
async fn it_does_not_retry_or_delete_or_manage_queues() {
    let office = TokenServer::open().await;
    let letter = office.submit("boss", MAIL).await;
    office.cancel("guard", &letter).await.unwrap();
    for token in ["guard", "producer", "blind", "lone"] {
        denied(office.retry(token, &letter).await.unwrap_err(), "admin", "*");
        denied(office.delete(token, &letter).await.unwrap_err(), "admin", "*");
        let pause = v1::PauseQueueRequest { name: MAIL.to_owned(), ..Default::default() };
        denied(
            soon(office.rig.queues.clone().pause_queue(shown(token, pause))).await.unwrap_err(),
            "admin",
            "*",
        );
        let purge = v1::PurgeQueueRequest { name: MAIL.to_owned(), ..Default::default() };
        denied(
            soon(office.rig.queues.clone().purge_queue(shown(token, purge))).await.unwrap_err(),
            "admin",
            "*",
        );
    }
    assert_eq!(office.state(&letter).await, JobState::Cancelled);
    office.rig.stop().await;
}

#[tokio::test]
async fn it_is_a_part_of_admin_and_of_no_other_role() {
    let office = TokenServer::open().await;
    let letter = office.submit("boss", MAIL).await;
    denied(office.cancel("reader", &letter).await.unwrap_err(), "cancel", "*");
    assert_eq!(office.state(&letter).await, JobState::Queued);
    office.cancel("boss", &letter).await.unwrap();
    assert_eq!(office.state(&letter).await, JobState::Cancelled);
    office.rig.stop().await;
}

#[tokio::test]
async fn who_may_submit_read_and_cancel_cancels_what_it_submitted() {
    let office = TokenServer::open().await;
    let letter = office.submit("producer", MAIL).await;
    office.cancel("producer", &letter).await.unwrap();
    assert_eq!(office.state(&letter).await, JobState::Cancelled);
    office.rig.stop().await;
}

#[tokio::test]
async fn who_may_submit_and_cancel_cancels_what_it_submitted_though_it_may_not_read() {
    let office = TokenServer::open().await;
    for (submitter, canceller) in [("blind", "blind"), ("boss", "blind"), ("boss", "lone")] {
        let letter = office.submit(submitter, MAIL).await;
        let change = office.cancel(canceller, &letter).await.unwrap();
        let told = (change.id.as_str(), change.state(), change.done, change.revision);
        assert_eq!(told, (letter.as_str(), JobState::Cancelled, true, 2), "{canceller}");
        assert_eq!(office.state(&letter).await, JobState::Cancelled, "{canceller}");
    }
    // It may not learn whether a job exists in another queue.
    let other = office.submit("boss", QUEUE).await;
    not_found(office.cancel("blind", &other).await.unwrap_err(), &other);
    assert_eq!(office.state(&other).await, JobState::Queued);
    office.rig.stop().await;
}

#[tokio::test]
async fn it_alone_is_not_answered_with_the_job_and_then_cancels_nothing() {
    let office = TokenServer::open().await;
    for view in [JobView::Basic, JobView::Result, JobView::Full] {
        let letter = office.submit("blind", MAIL).await;
        for request_id in ["", letter.as_str()] {
            let request = v1::CancelJobRequest {
                id: letter.clone(),
                request_id: request_id.to_owned(),
                view: view as i32,
                ..Default::default()
            };
            let call = office.rig.jobs.clone().cancel_job(shown("blind", request.clone())).await;
            denied(call.unwrap_err(), "read", MAIL);
            assert_eq!(office.state(&letter).await, JobState::Queued, "{view:?}");
        }
        // A repeat of its own call is treated the same.
        let request =
            v1::CancelJobRequest { id: letter.clone(), request_id: letter.clone(), ..Default::default() };
        soon(office.rig.jobs.clone().cancel_job(shown("blind", request.clone()))).await.unwrap();
        let repeat = v1::CancelJobRequest { view: view as i32, ..request };
        denied(
            soon(office.rig.jobs.clone().cancel_job(shown("blind", repeat.clone()))).await.unwrap_err(),
            "read",
            MAIL,
        );
        let seen =
            soon(office.rig.jobs.clone().cancel_job(shown("guard", repeat))).await.unwrap().into_inner();
        assert_eq!(seen.job.map(|job| job.state()), Some(JobState::Cancelled), "{view:?}");
    }
    office.rig.stop().await;
}

#[tokio::test]
async fn a_repeat_by_one_who_may_not_cancel_the_job_tells_nothing() {
    let office = TokenServer::open().await;
    let other = office.submit("boss", QUEUE).await;
    let request = |view: JobView| v1::CancelJobRequest {
        id: other.clone(),
        request_id: "once".to_owned(),
        view: view as i32,
        ..Default::default()
    };
    let cancel = async |token: &str, view: JobView| {
        let answer = soon(office.rig.jobs.clone().cancel_job(shown(token, request(view)))).await;
        answer.map(Response::into_inner)
    };
    not_found(cancel("guard", JobView::Full).await.unwrap_err(), &other);
    assert_eq!(office.state(&other).await, JobState::Queued);
    let first = cancel("boss", JobView::Full).await.unwrap();
    assert!(first.job.is_some());
    not_found(cancel("guard", JobView::Full).await.unwrap_err(), &other);
    office.rig.stop().await;
}

#[tokio::test]
async fn it_does_not_let_its_caller_look_at_jobs() {
    let office = TokenServer::open().await;
    let letter = office.submit("blind", MAIL).await;
    for token in ["blind", "lone"] {
        let get = v1::GetJobRequest { id: letter.clone(), ..Default::default() };
        denied(soon(office.rig.jobs.clone().get_job(shown(token, get))).await.unwrap_err(), "read", "*");
        let list = v1::ListJobsRequest::default();
        denied(soon(office.rig.jobs.clone().list_jobs(shown(token, list))).await.unwrap_err(), "read", "*");
    }
    office.rig.stop().await;
}
