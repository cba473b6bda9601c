//! A worker that says exactly what its test wants.

use std::{collections::VecDeque, time::Duration};

use jobmill::{
    proto::v1::{
        self, lease_notice::Notice, report::Report as Content, server_frame::Frame,
        worker_frame::Frame as Said, worker_service_client::WorkerServiceClient,
    },
    serve::{Server, ServerBuilder},
    settings::{Settings, WorkerSettings},
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::support::{Rig, job, memory, queue, soon, with_queue};

/// Limit of the messages that the server has not read.
const MESSAGES_MAX: usize = 1_024;

/// The kind that remote workers run in these tests.
pub(super) const KIND: &str = "remote";

/// Returns settings of a server whose queue has no consumers of its own.
pub(super) fn remote_only(settings: Settings) -> Settings {
    with_queue(settings, crate::support::QUEUE, queue(0))
}

/// Returns settings with short times, for tests in which leases end.
pub(super) fn short(settings: Settings) -> Settings {
    let workers = WorkerSettings {
        lease: Duration::from_millis(400),
        receive_within: Duration::from_millis(400),
        stop_grace: Duration::from_millis(400),
        ping_every: Duration::from_secs(10),
    };
    Settings { workers, ..settings }
}

/// Returns a server in memory whose jobs only remote workers run.
pub(super) fn server() -> ServerBuilder {
    Server::builder(remote_only(memory()))
}

/// A worker's end of a stream.
pub(super) struct RawWorker {
    pub(super) said: mpsc::Sender<v1::WorkRequest>,
    pub(super) heard: Streaming<v1::WorkResponse>,
    frames: VecDeque<Frame>,
    pub(super) instance: String,
    pub(super) process: String,
}

/// Returns a hello with one pool that runs the kind of these tests.
pub(super) fn hello(instance: &str, process: &str) -> v1::Hello {
    v1::Hello {
        instance: instance.to_owned(),
        process: process.to_owned(),
        pools: vec![v1::WorkerPool { kinds: vec![KIND.to_owned()], ..Default::default() }],
        ..Default::default()
    }
}

pub(super) fn client(channel: &Channel) -> WorkerServiceClient<Channel> {
    WorkerServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20)
}

impl RawWorker {
    /// Opens a stream without a hello.
    pub(super) async fn silent(channel: &Channel) -> Self {
        let (said, requests) = mpsc::channel(MESSAGES_MAX);
        let heard = soon(client(channel).work(ReceiverStream::new(requests))).await.unwrap().into_inner();
        let (instance, process) = (String::new(), String::new());
        RawWorker { said, heard, frames: VecDeque::new(), instance, process }
    }

    /// Opens a stream, says hello, and returns the welcome too.
    pub(super) async fn greet(channel: &Channel, hello: v1::Hello) -> (Self, v1::Welcome) {
        let mut worker = RawWorker::silent(channel).await;
        (worker.instance, worker.process) = (hello.instance.clone(), hello.process.clone());
        worker.say(Said::Hello(hello));
        match worker.frame().await {
            Frame::Welcome(welcome) => (worker, welcome),
            other => panic!("{other:?}"),
        }
    }

    /// Opens the stream of the worker `w`, process `p`, with credits.
    pub(super) async fn ready(rig: &Rig, credits: i32) -> Self {
        let (worker, _) = RawWorker::greet(&rig.channel, hello("w", "p")).await;
        worker.credit(credits);
        worker
    }

    pub(super) fn say(&self, frame: Said) {
        self.say_all(vec![frame]);
    }

    pub(super) fn say_all(&self, frames: Vec<Said>) {
        let frames = frames.into_iter().map(|frame| v1::WorkerFrame { frame: Some(frame) }).collect();
        // The server may have ended the stream.
        if let Err(TrySendError::Full(_)) = self.said.try_send(v1::WorkRequest { frames }) {
            panic!("the server does not read");
        }
    }

    pub(super) fn credit(&self, count: i32) {
        if count > 0 {
            self.say(Said::Credit(v1::Credit { pool: String::new(), count }));
        }
    }

    pub(super) fn report(&self, lease: &v1::Lease, content: Content) {
        self.say(Said::Report(v1::Report { lease: Some(lease.clone()), report: Some(content) }));
    }

    /// Returns the next frame; panics at the end of the stream.
    pub(super) async fn frame(&mut self) -> Frame {
        self.try_frame().await.expect("an open stream").expect("a frame")
    }

    /// Returns the next frame, or `None` at the orderly end of the stream.
    pub(super) async fn try_frame(&mut self) -> Result<Option<Frame>, Status> {
        while self.frames.is_empty() {
            let Some(message) = soon(self.heard.message()).await? else { return Ok(None) };
            self.frames.extend(message.frames.into_iter().filter_map(|frame| frame.frame));
        }
        Ok(self.frames.pop_front())
    }

    /// Returns the error with which the server ends the stream.
    pub(super) async fn ends(&mut self) -> Status {
        loop {
            match self.try_frame().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended in order"),
                Err(status) => return status,
            }
        }
    }

    /// Returns the first frame that `select` takes. Those before it are kept for later.
    async fn first<T>(&mut self, mut select: impl FnMut(&Frame) -> Option<T>) -> T {
        let mut seen = 0;
        loop {
            while seen < self.frames.len() {
                if let Some(found) = select(&self.frames[seen]) {
                    self.frames.remove(seen);
                    return found;
                }
                seen += 1;
            }
            let message = soon(self.heard.message()).await.expect("an open stream").expect("a frame");
            self.frames.extend(message.frames.into_iter().filter_map(|frame| frame.frame));
        }
    }

    /// Returns the next assignment.
    pub(super) async fn assignment(&mut self) -> v1::Assignment {
        let is_assignment = |frame: &Frame| match frame {
            Frame::Assignment(assignment) => Some(assignment.clone()),
            _ => None,
        };
        self.first(is_assignment).await
    }

    /// Returns the next notice of a lease.
    pub(super) async fn notice(&mut self, lease: &v1::Lease) -> Notice {
        let of_lease = |frame: &Frame| match frame {
            Frame::Notice(notice) if notice.lease.as_ref() == Some(lease) => notice.notice.clone(),
            _ => None,
        };
        self.first(of_lease).await
    }

    /// Waits until the server has processed everything that was said before.
    pub(super) async fn sync(&mut self) {
        self.say(Said::Ping(v1::Ping { number: 7 }));
        let is_pong = |frame: &Frame| matches!(frame, Frame::Pong(v1::Pong { number: 7 })).then_some(());
        self.first(is_pong).await;
    }

    /// Takes the next assignment, up to the answer to *received*.
    pub(super) async fn start(&mut self) -> v1::Assignment {
        let assignment = self.assignment().await;
        let lease = lease(&assignment);
        self.report(lease, Content::Received(v1::Received {}));
        assert!(matches!(self.notice(lease).await, Notice::Held(_)));
        assignment
    }
}

pub(super) fn lease(assignment: &v1::Assignment) -> &v1::Lease {
    assignment.lease.as_ref().expect("a lease")
}

pub(super) fn assigned_id(assignment: &v1::Assignment) -> &str {
    &lease(assignment).job_id
}

pub(super) fn completed(result: &str) -> Content {
    Content::Completed(v1::Completed { result: Some(v1::Payload::of_text(result)) })
}

pub(super) fn failed(message: &str, retryable: bool) -> Content {
    Content::Failed(v1::Failed {
        message: message.to_owned(),
        retryable: Some(retryable),
        ..Default::default()
    })
}

pub(super) fn released(never_started: bool) -> Content {
    Content::Released(v1::Released { never_started, ..Default::default() })
}

pub(super) fn heartbeat() -> Content {
    Content::Heartbeat(v1::Heartbeat::default())
}

/// Returns a job for the workers of these tests.
pub(super) fn remote_job() -> v1::JobSpec {
    job(KIND)
}

/// Returns the reason of a refused report.
pub(super) fn refusal_of(notice: Notice) -> String {
    match notice {
        Notice::Refused(error) => error.reason,
        other => panic!("{other:?}"),
    }
}

/// Returns the number of jobs in a state.
pub(super) async fn count(rig: &Rig, state: v1::JobState) -> i64 {
    let filter = v1::JobFilter { states: vec![state as i32], ..Default::default() };
    let request = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
    soon(rig.jobs.clone().count_jobs(request)).await.unwrap().into_inner().total
}

/// Checks that the rules of leases and credits were never violated.
pub(super) async fn no_faults(rig: &Rig) {
    for fault in ["lease_overwritten", "job_leased_twice", "credits_exceeded"] {
        assert_eq!(
            rig.metric(&format!("jobmill_worker_faults_total{{fault=\"{fault}\"}}")).await,
            0.0,
            "{fault}"
        );
    }
}
