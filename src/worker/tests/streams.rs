//! The whole worker against a scripted server: streams that end, and the thread that keeps leases.

use std::{
    future::pending,
    pin::Pin,
    sync::{Arc, mpsc as blocking},
    thread,
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::drive::{assignment, held, notice, welcome};
use crate::{
    client::{Client, to_wire_duration},
    execute::{Attempt, Handler, HandlerError, StopCause},
    job::Output,
    proto::v1::{
        self,
        lease_notice::Notice,
        report::Report,
        server_frame::Frame,
        worker_frame,
        worker_service_server::{WorkerService, WorkerServiceServer},
    },
    worker::{
        Health, Summary, Worker, WorkerError, connection::Driver, control::Event, dial::Dialer, handlers,
        mailbox::Mailbox, plan::Plan, session::Session,
    },
};

/// A call of `Work` in the hands of the test.
struct Call {
    requests: Streaming<v1::WorkRequest>,
    waiting: Vec<worker_frame::Frame>,
    responses: mpsc::Sender<Result<v1::WorkResponse, Status>>,
}

struct Fake(mpsc::Sender<Call>);

#[tonic::async_trait]
impl WorkerService for Fake {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<v1::WorkResponse, Status>> + Send>>;

    async fn work(
        &self,
        request: Request<Streaming<v1::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let (responses, queued) = mpsc::channel(64);
        let call = Call { requests: request.into_inner(), waiting: Vec::new(), responses };
        self.0.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queued))))
    }

    async fn lease_jobs(
        &self,
        _: Request<v1::LeaseJobsRequest>,
    ) -> Result<Response<v1::LeaseJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn report_jobs(
        &self,
        _: Request<v1::ReportJobsRequest>,
    ) -> Result<Response<v1::ReportJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn drain_workers(
        &self,
        _: Request<v1::DrainWorkersRequest>,
    ) -> Result<Response<v1::DrainWorkersResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl Call {
    /// The next frame; `None` when the worker has ended the stream.
    async fn next(&mut self) -> Option<worker_frame::Frame> {
        while self.waiting.is_empty() {
            let message = self.requests.message().await.ok()??;
            self.waiting = message.frames.into_iter().rev().map(|frame| frame.frame.unwrap()).collect();
        }
        self.waiting.pop()
    }

    async fn hello(&mut self) -> v1::Hello {
        match self.next().await {
            Some(worker_frame::Frame::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The next report; other frames are passed over.
    async fn report(&mut self) -> Option<Report> {
        loop {
            if let worker_frame::Frame::Report(report) = self.next().await? {
                return report.report;
            }
        }
    }

    async fn tell(&self, frame: Frame) {
        let frames = vec![v1::ServerFrame { frame: Some(frame) }];
        self.responses.send(Ok(v1::WorkResponse { frames })).await.unwrap();
    }

    async fn welcome(&self, leases: Vec<v1::LeaseNotice>) {
        let heartbeat_every = Some(to_wire_duration(Duration::from_millis(10)));
        self.tell(Frame::Welcome(v1::Welcome { heartbeat_every, ..welcome(leases) })).await;
    }

    /// Assigns a job, and confirms it.
    async fn run(&mut self, job: i64) {
        self.tell(Frame::Assignment(assignment(job))).await;
        assert!(matches!(self.report().await, Some(Report::Received(_))));
        self.tell(Frame::Notice(notice(job, held()))).await;
    }

    async fn ended(&self, job: i64) {
        self.tell(Frame::Notice(notice(job, Notice::Ended(v1::LeaseEnded {})))).await;
    }
}

/// Starts a server on the present runtime. Returns its address, and its calls.
async fn server() -> (String, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (calls, called) = mpsc::channel(8);
    let service = WorkerServiceServer::new(Fake(calls));
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio_util::task::TaskTracker::new().spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, called)
}

/// Runs a worker on the present runtime, without a thread of its own and without random delays.
fn worker(
    address: &str,
    plan: Plan,
) -> (Arc<Mailbox<Event>>, impl Future<Output = Result<Summary, WorkerError>>) {
    let mailbox = Arc::<Mailbox<Event>>::default();
    let session = Session::new(plan, Arc::clone(&mailbox));
    let dialer = Dialer { builder: Client::builder(address), token_file: None };
    let attempts = tokio_util::task::TaskTracker::new();
    let start = move |start| drop(attempts.spawn(handlers::run(start)));
    let health = Health::new(crate::clock::Clock::System);
    (mailbox, Driver::new(session, dialer, start, || 0.0, health).run())
}

fn plan(handler: impl Handler) -> Plan {
    super::drive::plan(1, handler)
}

async fn until_stopped(attempt: Attempt) -> Result<Output, HandlerError> {
    attempt.cancelled().await;
    Ok(Output::new(attempt.stop_cause().map_or("", StopCause::as_str)))
}

#[tokio::test]
async fn a_worker_calls_again_after_any_end_of_its_stream() {
    let (address, mut calls) = server().await;
    let (mailbox, run) = worker(&address, plan(until_stopped));
    let script = async {
        let mut first = calls.recv().await.unwrap();
        let process = first.hello().await.process;
        first.welcome(Vec::new()).await;
        first.run(1).await;
        let ends =
            [None, Some(Status::cancelled("")), Some(Status::unavailable("")), Some(Status::internal(""))];
        let mut call = first;
        for end in ends {
            if let Some(status) = end {
                call.responses.send(Err(status)).await.unwrap();
            }
            drop(call);
            call = calls.recv().await.unwrap();
            let hello = call.hello().await;
            assert_eq!((hello.process, hello.leases.len()), (process.clone(), 1));
            call.welcome(vec![notice(1, held())]).await;
        }
        // A stream that the server wants to end: the worker ends it, and comes back.
        let come_back_in = Some(to_wire_duration(Duration::ZERO));
        call.tell(Frame::Closing(v1::WorkClosing { reason: "restart".into(), come_back_in })).await;
        while call.next().await.is_some() {}
        drop(call);
        let mut call = calls.recv().await.unwrap();
        assert_eq!(call.hello().await.leases.len(), 1);
        call.welcome(vec![notice(1, held())]).await;
        mailbox.push(Event::Force);
        while !matches!(call.report().await, Some(Report::Released(_) | Report::Completed(_))) {}
        call.ended(1).await;
        while call.next().await.is_some() {}
    };
    let (ended, ()) = tokio::join!(run, script);
    assert_eq!(ended.unwrap().unreported, 0);
}

#[tokio::test]
async fn a_worker_whose_instance_was_taken_over_stops_its_attempts_and_says_so() {
    let (address, mut calls) = server().await;
    let (_mailbox, run) = worker(&address, plan(until_stopped));
    let script = async {
        let mut call = calls.recv().await.unwrap();
        call.hello().await;
        call.welcome(Vec::new()).await;
        call.run(1).await;
        // The attempt runs when its first heartbeat comes.
        assert!(matches!(call.report().await, Some(Report::Heartbeat(_))));
        let details = tonic_types::ErrorDetails::with_error_info("WORKER_SUPERSEDED", "jobmill", []);
        let status = <Status as tonic_types::StatusExt>::with_error_details(
            tonic::Code::FailedPrecondition,
            "a newer process",
            details,
        );
        call.responses.send(Err(status)).await.unwrap();
        drop(call);
        calls
    };
    let (ended, mut calls) = tokio::join!(run, script);
    assert!(matches!(ended, Err(WorkerError::Superseded { instance }) if instance == "w"));
    assert!(calls.try_recv().is_err(), "it stays away");
}

#[tokio::test]
async fn a_refusal_before_welcome_ends_the_worker() {
    let (address, mut calls) = server().await;
    let (_mailbox, run) = worker(&address, plan(until_stopped));
    let script = async {
        let call = calls.recv().await.unwrap();
        call.responses.send(Err(Status::permission_denied("no role"))).await.unwrap();
    };
    let (ended, ()) = tokio::join!(run, script);
    assert!(matches!(ended, Err(WorkerError::Connection(_))), "{ended:?}");
}

#[tokio::test]
async fn a_shutdown_lets_the_attempt_finish_and_tells_what_was_done() {
    let (address, mut calls) = server().await;
    let plan = Plan { drain_timeout: Duration::ZERO, ..plan(until_stopped) };
    let (mailbox, run) = worker(&address, plan);
    let script = async {
        let mut call = calls.recv().await.unwrap();
        call.hello().await;
        call.welcome(Vec::new()).await;
        call.run(1).await;
        assert!(matches!(call.report().await, Some(Report::Heartbeat(_))));
        mailbox.push(Event::Drain);
        loop {
            match call.next().await {
                Some(worker_frame::Frame::Draining(_)) => break,
                Some(_) => {}
                None => panic!("the worker did not say that it drains"),
            }
        }
        loop {
            if let Some(Report::Completed(completed)) = call.report().await {
                assert_eq!(completed.result.unwrap().bytes(), b"shutdown");
                break;
            }
        }
        call.ended(1).await;
        assert!(call.next().await.is_none(), "the worker closes the stream");
    };
    let (ended, ()) = tokio::join!(run, script);
    let summary = ended.unwrap();
    assert_eq!((summary.counts.started, summary.counts.succeeded, summary.unreported), (1, 1, 0));
}

#[tokio::test]
async fn heartbeats_go_on_while_a_handler_blocks_its_runtime() {
    let (address, mut calls) = server().await;
    let (release, released) = blocking::sync_channel::<()>(1);
    let released = Arc::new(parking_lot::Mutex::new(released));
    let blocks = move |_: Attempt| {
        let released = Arc::clone(&released);
        async move {
            released.lock().recv().map_err(HandlerError::permanent)?;
            Ok(Output::default())
        }
    };
    let worker = Worker::builder(&address).handler("k", blocks).concurrency(1).max_jobs(1).build().unwrap();
    // The worker's runtime has one thread, which the handler blocks.
    let (done, ended) = oneshot::channel();
    let running = thread::Builder::new().spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        done.send(runtime.block_on(worker.run())).unwrap();
    });
    let mut call = calls.recv().await.unwrap();
    call.hello().await;
    call.welcome(Vec::new()).await;
    call.run(1).await;
    for _ in 0..5 {
        assert!(matches!(call.report().await, Some(Report::Heartbeat(_))));
        call.tell(Frame::Notice(notice(1, held()))).await;
    }
    release.send(()).unwrap();
    while !matches!(call.report().await, Some(Report::Completed(_))) {}
    call.ended(1).await;
    assert!(call.next().await.is_none());
    drop(call);
    assert_eq!(ended.await.unwrap().unwrap().counts.succeeded, 1);
    running.unwrap().join().unwrap();
}

#[tokio::test]
async fn a_worker_that_is_dropped_cuts_its_attempts_off() {
    let (address, mut calls) = server().await;
    let (dropped, mut is_dropped) = mpsc::channel::<()>(1);
    let never = move |_: Attempt| {
        let dropped = dropped.clone();
        async move {
            let _dropped = dropped;
            pending().await
        }
    };
    let worker = Worker::builder(&address).handler("k", never).build().unwrap();
    let script = async {
        let mut call = calls.recv().await.unwrap();
        call.hello().await;
        call.welcome(Vec::new()).await;
        call.run(1).await;
        assert!(matches!(call.report().await, Some(Report::Heartbeat(_))));
        call
    };
    let mut call = tokio::select! {
        ended = worker.run() => panic!("{ended:?}"),
        call = script => call,
    };
    while !matches!(call.report().await, Some(Report::Released(_))) {}
    call.ended(1).await;
    assert!(call.next().await.is_none());
    drop(call);
    // The worker's thread has ended, and with it the last clone of the sender.
    assert!(is_dropped.recv().await.is_none());
}
