//! Workers whose tokens do not allow what they ask for, or not any more.

use std::{fs, time::Duration};

use jobmill::{
    proto::v1::{
        self, FailureReason, JobState, WorkerState, lease_notice::Notice, report::Report as Content,
        worker_frame::Frame as Said, worker_service_client::WorkerServiceClient,
    },
    serve::Server,
    settings::{Settings, TokenHash, WorkerSettings},
    worker::{Worker, WorkerError},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use crate::{
    library::Running,
    rig::{KIND, hello, no_faults, remote_only},
    support::{Refusal, Rig, connect, echo, folder, queue, refusal, soon, with_queue},
};

/// A server with tokens, each of which is its name.
struct Office {
    dir: TempDir,
    rig: Rig,
}

fn entry(name: &str, roles: &str, queues: &str) -> String {
    let hash = TokenHash::of(name);
    format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = {roles}\nqueues = {queues}\n")
}

fn entries(names: &[&str]) -> String {
    let all = [
        entry("boss", "['admin']", "['*']"),
        entry("worker", "['work']", "['*']"),
        entry("other", "['work']", "['*']"),
        entry("mailer", "['work']", "['mail']"),
        entry("reader", "['read', 'submit']", "['*']"),
    ];
    let named = |text: &&String| names.iter().any(|name| text.starts_with(&format!("[tokens.{name}]")));
    all.iter().filter(named).map(String::as_str).collect()
}

const ALL: [&str; 5] = ["boss", "worker", "other", "mailer", "reader"];

impl Office {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokens.toml"), entries(&ALL)).unwrap();
        let settings = with_queue(remote_only(folder(&dir.path().join("data"))), "mail", queue(0));
        let workers = WorkerSettings {
            lease: Duration::from_millis(1_500),
            receive_within: Duration::from_secs(10),
            ..settings.workers
        };
        let tokens = Some(dir.path().join("tokens.toml"));
        let rig = Rig::start(Server::builder(Settings { tokens, workers, ..settings })).await;
        Office { dir, rig }
    }

    /// Leaves only these tokens.
    fn leave(&self, names: &[&str]) {
        fs::write(self.dir.path().join("tokens.toml"), entries(names)).unwrap();
        self.rig.reload();
    }

    async fn submit(&self, queue: &str) -> String {
        let spec =
            v1::JobSpec { queue: queue.into(), kind: KIND.into(), max_attempts: 1, ..Default::default() };
        let request = with_token("boss", crate::support::submission(spec));
        soon(self.rig.jobs.clone().submit(request)).await.unwrap().into_inner().id().to_owned()
    }

    async fn get(&self, id: &str) -> v1::Job {
        let request = with_token("boss", v1::GetJobRequest { id: id.to_owned(), ..Default::default() });
        soon(self.rig.jobs.clone().get_job(request)).await.unwrap().into_inner().job.unwrap()
    }

    async fn reaches(&self, id: &str, state: JobState) {
        soon(async { while self.get(id).await.state() != state {} }).await;
    }

    async fn workers(&self) -> Vec<v1::Worker> {
        let request = with_token("boss", v1::ListWorkersRequest::default());
        let mut client = WorkerServiceClient::new(self.rig.channel.clone());
        soon(client.list_workers(request)).await.unwrap().into_inner().workers
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A worker's stream with a token.
struct TokenStream {
    said: mpsc::Sender<v1::WorkRequest>,
    heard: Streaming<v1::WorkResponse>,
}

impl TokenStream {
    async fn open(channel: &Channel, token: &str, hello: v1::Hello) -> Result<Self, Status> {
        let (said, requests) = mpsc::channel(16);
        let stream = with_token(token, ReceiverStream::new(requests));
        let heard = soon(WorkerServiceClient::new(channel.clone()).work(stream)).await?.into_inner();
        let mut opened = TokenStream { said, heard };
        opened.say(Said::Hello(hello)).await;
        let first = opened.next().await?;
        assert!(matches!(first, v1::server_frame::Frame::Welcome(_)), "{first:?}");
        Ok(opened)
    }

    async fn say(&self, frame: Said) {
        let frames = vec![v1::WorkerFrame { frame: Some(frame) }];
        self.said.send(v1::WorkRequest { frames }).await.unwrap();
    }

    async fn next(&mut self) -> Result<v1::server_frame::Frame, Status> {
        let message = soon(self.heard.message()).await?.expect("a message");
        Ok(message.frames.into_iter().next().unwrap().frame.unwrap())
    }

    /// Takes a job up to the answer to *received*.
    async fn start(&mut self) -> v1::Lease {
        self.say(Said::Credit(v1::Credit { pool: String::new(), count: 1 })).await;
        let v1::server_frame::Frame::Assignment(assignment) = self.next().await.unwrap() else {
            panic!("a job")
        };
        let report = Content::Received(v1::Received {});
        self.say(Said::Report(v1::Report { lease: assignment.lease.clone(), report: Some(report) })).await;
        self.next().await.unwrap();
        assignment.lease.unwrap()
    }
}

async fn refused(office: &Office, token: &str, hello: v1::Hello) -> (Code, Refusal) {
    let channel = connect(&office.rig.address().to_string()).await;
    match TokenStream::open(&channel, token, hello).await {
        Ok(_) => panic!("accepted"),
        Err(status) => (status.code(), refusal(&status)),
    }
}

fn on_queue(queue: &str) -> v1::Hello {
    let pools =
        vec![v1::WorkerPool { kinds: vec![KIND.into()], queues: vec![queue.into()], ..Default::default() }];
    v1::Hello { pools, ..hello("w", "p") }
}

#[tokio::test]
async fn a_worker_needs_the_role_work_on_the_queues_that_it_names() {
    let office = Office::open().await;
    assert_eq!(refused(&office, "reader", hello("w", "p")).await.0, Code::PermissionDenied);
    assert_eq!(refused(&office, "nobody", hello("w", "p")).await.0, Code::Unauthenticated);
    assert_eq!(refused(&office, "mailer", on_queue("default")).await.0, Code::PermissionDenied);
    let channel = &office.rig.channel;
    let lease_jobs = v1::LeaseJobsRequest {
        instance: "w".into(),
        process: "p".into(),
        kinds: vec![KIND.into()],
        queues: vec!["default".into()],
        ..Default::default()
    };
    let mut client = WorkerServiceClient::new(channel.clone());
    let status = soon(client.lease_jobs(with_token("mailer", lease_jobs))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    TokenStream::open(channel, "mailer", on_queue("mail")).await.unwrap();
    no_faults(&office.rig).await;
}

#[tokio::test]
async fn a_worker_that_names_no_queues_gets_jobs_only_from_those_that_its_token_may() {
    let office = Office::open().await;
    let mut mailer = TokenStream::open(&office.rig.channel, "mailer", hello("w", "p")).await.unwrap();
    let (other, mail) = (office.submit("default").await, office.submit("mail").await);
    assert_eq!(mailer.start().await.job_id, mail);
    mailer.say(Said::Credit(v1::Credit { pool: String::new(), count: 100 })).await;
    mailer.say(Said::Ping(v1::Ping { number: 1 })).await;
    assert!(matches!(mailer.next().await.unwrap(), v1::server_frame::Frame::Pong(_)));
    // A batch after the credits.
    office.submit("default").await;
    assert_eq!(office.get(&other).await.state(), JobState::Queued);
    no_faults(&office.rig).await;
}

#[tokio::test]
async fn the_same_instance_under_another_token_is_another_worker() {
    let office = Office::open().await;
    let mut first = TokenStream::open(&office.rig.channel, "worker", hello("w", "p")).await.unwrap();
    let id = office.submit("default").await;
    let lease = first.start().await;
    // Neither another process nor the same one takes anything over.
    for process in ["q", "p"] {
        let listed = v1::Hello { leases: vec![lease.clone()], ..hello("w", process) };
        let mut second = TokenStream::open(&office.rig.channel, "other", listed).await.unwrap();
        let forged = Content::Completed(v1::Completed::default());
        second.say(Said::Report(v1::Report { lease: Some(lease.clone()), report: Some(forged) })).await;
        let v1::server_frame::Frame::Notice(notice) = second.next().await.unwrap() else {
            panic!("a notice")
        };
        assert!(matches!(notice.notice, Some(Notice::Refused(error)) if error.reason == "LEASE_LOST"));
    }
    assert_eq!(office.get(&id).await.state(), JobState::Running);
    let report = Content::Completed(v1::Completed::default());
    first.say(Said::Report(v1::Report { lease: Some(lease), report: Some(report) })).await;
    office.reaches(&id, JobState::Succeeded).await;
    no_faults(&office.rig).await;
}

#[tokio::test]
async fn a_revoked_token_ends_the_stream_and_leases_stay_until_they_end() {
    let office = Office::open().await;
    let mut worker = TokenStream::open(&office.rig.channel, "worker", hello("w", "p")).await.unwrap();
    let id = office.submit("default").await;
    worker.start().await;
    office.leave(&["boss"]);
    let revoked = async {
        loop {
            // The tokens are read in the background.
            let _ = worker.said.try_send(v1::WorkRequest {
                frames: vec![v1::WorkerFrame { frame: Some(Said::Ping(v1::Ping { number: 1 })) }],
            });
            if let Err(status) = worker.next().await {
                return status;
            }
        }
    };
    assert_eq!(refusal(&soon(revoked).await).reason, "TOKEN_INVALID");
    assert_eq!(office.get(&id).await.state(), JobState::Running, "the lease lasts on");
    assert_eq!(office.workers().await[0].state(), WorkerState::Away);
    office.reaches(&id, JobState::Failed).await;
    assert_eq!(office.get(&id).await.last_failure.unwrap().reason(), FailureReason::Lost);
    no_faults(&office.rig).await;
}

#[tokio::test]
async fn a_revoked_token_gets_no_more_jobs_though_its_worker_is_silent() {
    let office = Office::open().await;
    let worker = TokenStream::open(&office.rig.channel, "worker", hello("w", "p")).await.unwrap();
    worker.say(Said::Credit(v1::Credit { pool: String::new(), count: 10 })).await;
    soon(async { while office.workers().await[0].pools[0].credits == 0 {} }).await;
    office.leave(&["boss"]);
    let mut client = WorkerServiceClient::new(office.rig.channel.clone());
    let is_read = async {
        loop {
            let request = with_token("worker", v1::ListWorkersRequest::default());
            if client.list_workers(request).await.unwrap_err().code() == Code::Unauthenticated {
                break;
            }
        }
    };
    soon(is_read).await;
    let id = office.submit("default").await;
    let mut worker = worker;
    let got = worker.next().await;
    assert!(got.is_err(), "{got:?}");
    office.reaches(&id, JobState::Queued).await;
    assert_eq!(office.get(&id).await.counted_attempts, 0);
    no_faults(&office.rig).await;
}

#[tokio::test]
async fn a_worker_of_the_library_that_is_refused_ends_and_says_why() {
    let office = Office::open().await;
    let address = office.rig.address().to_string();
    for token in ["reader", "nobody"] {
        let worker = Worker::with_connection(jobmill::client::Client::builder(&address).token(token));
        let ended = soon(Running::start(worker.handler(KIND, echo)).ends()).await;
        assert!(matches!(ended, Err(WorkerError::Refused(_))), "{ended:?}");
    }
    no_faults(&office.rig).await;
}
