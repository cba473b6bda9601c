//! The worker's thread: it moves frames between the session and the server, and connects again when a stream ends.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    WorkerError,
    control::Event,
    dial::Dial,
    handlers::Start,
    health::{Health, Summary},
    mailbox::Mailbox,
    session::{HELLO_MAX, Link, Session},
};
use crate::{
    client::{Client, ClientError, Code},
    clock::{Clock, Uptime},
    job::RetryPolicy,
    proto::v1::{ErrorReason, WorkRequest, WorkResponse},
};

/// The backoff between calls: the whole of it is random, so that workers that lost a server together do not come back
/// together.
const BACKOFF: RetryPolicy = RetryPolicy {
    delays: None,
    initial_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(10),
    multiplier: 2.0,
    jitter: 1.0,
};
/// The time after which a stream counts as a success, so that the backoff begins anew.
const STREAM_GOOD_AFTER: Duration = Duration::from_secs(10);
/// The random part that is added to the time after which the server wants to be called again.
const COME_BACK_JITTER_MAX: Duration = Duration::from_secs(1);
/// For how long a token that the server does not accept is read from its file again: it may have just been replaced.
const TOKEN_RETRY_FOR: Duration = Duration::from_secs(60);
/// Time limit for the server's end of a stream that the worker has ended.
const HALF_CLOSE_MAX: Duration = Duration::from_secs(5);

/// How a stream ended.
enum End {
    /// The session is over.
    Over,
    /// The server has asked for another call after this time.
    Closing(Duration),
    /// The stream or the connection broke, or could not be made.
    Broken(ClientError),
}

/// The worker's thread.
pub(super) struct Driver<D> {
    core: Core,
    dial: D,
    /// Random numbers from 0 to 1.
    random: Box<dyn Fn() -> f64 + Send>,
    /// Consecutive calls without a good stream.
    failures: u32,
    /// Whether the server has ever welcomed this worker.
    was_welcomed: bool,
    /// When the server first refused the token.
    token_refused: Option<Uptime>,
}

/// The session with its surroundings, without the connection.
struct Core {
    session: Session,
    mailbox: Arc<Mailbox<Event>>,
    /// Starts an attempt on the runtime of the handlers.
    start: Box<dyn Fn(Start) + Send>,
    clock: Clock,
    health: Health,
}

impl<D: Dial> Driver<D> {
    pub(super) fn new(
        session: Session,
        dial: D,
        start: impl Fn(Start) + Send + 'static,
        random: impl Fn() -> f64 + Send + 'static,
        health: Health,
    ) -> Self {
        let (mailbox, clock) = (Arc::clone(&session.mailbox), health.0.clock.clone());
        Driver {
            core: Core { session, mailbox, start: Box::new(start), clock, health },
            dial,
            random: Box::new(random),
            failures: 0,
            was_welcomed: false,
            token_refused: None,
        }
    }

    /// Runs until the session is over, or the server refuses the worker for good.
    pub(super) async fn run(mut self) -> Result<Summary, WorkerError> {
        while !self.core.session.is_over(self.core.now()) {
            let began = self.core.now();
            let end = self.stream().await;
            let core = &mut self.core;
            let is_welcomed = core.session.is_welcomed();
            self.was_welcomed |= is_welcomed;
            if is_welcomed {
                self.token_refused = None;
            }
            core.session.disconnected();
            core.settle();
            if is_welcomed && core.now().since(began) >= STREAM_GOOD_AFTER {
                self.failures = 0;
            }
            let delay = match end {
                End::Over => continue,
                End::Closing(after) => after + COME_BACK_JITTER_MAX.mul_f64((self.random)()),
                End::Broken(error) if self.is_fatal(&error, is_welcomed) => return self.refused(error).await,
                End::Broken(error) => {
                    self.failures += 1;
                    let delay = BACKOFF.delay(self.failures, (self.random)());
                    tracing::warn!(%error, again_in = ?delay, "not connected");
                    delay
                }
            };
            let again = self.core.now().after(delay);
            let clock = self.core.clock.clone();
            self.core.meanwhile(clock.sleep_until(again)).await;
        }
        let Core { session, .. } = self.core;
        Ok(Summary { counts: session.counts, unreported: session.leases.len() as u64 })
    }

    /// Stops what runs, because the server refuses this worker for good.
    async fn refused(mut self, error: ClientError) -> Result<Summary, WorkerError> {
        let core = &mut self.core;
        core.session.abandon(core.now());
        core.settle();
        core.meanwhile(std::future::pending::<()>()).await;
        Err(if error.reason() == ErrorReason::WorkerSuperseded {
            WorkerError::Superseded { instance: core.session.plan.instance.clone() }
        } else if error.refusal().is_some() {
            WorkerError::Refused(error)
        } else {
            WorkerError::Connection(error)
        })
    }

    /// Whether the server would refuse this worker again and again.
    fn is_fatal(&mut self, error: &ClientError, is_welcomed: bool) -> bool {
        if error.reason() == ErrorReason::WorkerSuperseded {
            return true;
        }
        let code = match error {
            ClientError::InvalidEndpoint { .. } | ClientError::InvalidFeature { .. } => return true,
            // What has worked before may work again, after a change of the server or of a proxy.
            ClientError::Untrusted { .. } | ClientError::NotJobmill { .. } => return !self.was_welcomed,
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } => return false,
            ClientError::Failed { code, .. } if !self.was_welcomed => *code,
            ClientError::Failed { .. } => return false,
            ClientError::Refused(refusal) => refusal.code,
        };
        if code == Code::Unauthenticated && self.dial.rereads_token() {
            let now = self.core.now();
            return now.since(*self.token_refused.get_or_insert(now)) >= TOKEN_RETRY_FOR;
        }
        !is_welcomed
            && matches!(
                code,
                Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::InvalidArgument
                    | Code::NotFound
                    | Code::Unimplemented
            )
    }

    /// Connects, opens a stream, and serves it to its end.
    async fn stream(&mut self) -> End {
        let Driver { core, dial, .. } = self;
        let clock = core.clock.clone();
        let limit = core.now().after(HELLO_MAX);
        let client = match core.meanwhile(within(&clock, limit, dial.dial())).await {
            None => return End::Over,
            Some(None) => return End::Broken(no_answer("the server")),
            Some(Some(Err(error))) => return End::Broken(error),
            Some(Some(Ok(client))) => client,
        };
        core.session.opened();
        // Room for one message: what is added while it waits goes into the next one.
        let (frames, queued) = mpsc::channel(1);
        core.send(&frames);
        let mut service = client.worker_service();
        let opened = service.work(ReceiverStream::new(queued));
        match core.meanwhile(within(&clock, limit, opened)).await {
            None => End::Over,
            Some(None) => End::Broken(no_answer(client.endpoint())),
            Some(Some(Err(status))) => End::Broken(client.error(&status)),
            Some(Some(Ok(response))) => core.serve(&client, frames, response.into_inner()).await,
        }
    }
}

impl Core {
    fn now(&self) -> Uptime {
        self.clock.uptime()
    }

    /// Passes on what the last input has brought about.
    fn settle(&mut self) {
        for start in self.session.starts.drain(..) {
            (self.start)(start);
        }
        self.health.0.update(self.session.numbers());
    }

    fn take_events(&mut self) {
        let now = self.now();
        for event in self.mailbox.take() {
            self.session.event(event, now);
        }
        self.settle();
    }

    fn tick(&mut self) {
        self.session.tick(self.now());
        self.settle();
    }

    fn receive(&mut self, message: WorkResponse) {
        let now = self.now();
        for frame in message.frames {
            self.session.receive(frame, now);
        }
        self.settle();
    }

    /// Queues what there is to send, as far as there is room.
    fn send(&mut self, frames: &mpsc::Sender<WorkRequest>) {
        while self.session.has_output()
            && let Ok(room) = frames.try_reserve()
            && let Some(message) = self.session.take_message(self.now())
        {
            room.send(message);
        }
    }

    /// Waits for a future while the session goes on. `None` if that is over first.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let (mailbox, clock) = (Arc::clone(&self.mailbox), self.clock.clone());
        loop {
            if self.session.is_over(self.now()) {
                return None;
            }
            tokio::select! {
                biased;
                done = &mut future => return Some(done),
                () = mailbox.filled() => self.take_events(),
                () = clock.sleep_until(self.session.wake()) => self.tick(),
            }
        }
    }

    /// Serves a stream to its end.
    async fn serve(
        &mut self,
        client: &Client,
        frames: mpsc::Sender<WorkRequest>,
        mut responses: Streaming<WorkResponse>,
    ) -> End {
        let (mailbox, clock) = (Arc::clone(&self.mailbox), self.clock.clone());
        loop {
            self.send(&frames);
            let now = self.now();
            if self.session.is_broken(now) {
                return End::Broken(no_answer(client.endpoint()));
            }
            let is_blocked = self.session.has_output() && !frames.is_closed();
            let is_over = self.session.is_over(now);
            if is_over || (matches!(self.session.link, Link::Closing(_)) && !is_blocked) {
                drop(frames);
                return self.half_closed(responses, is_over).await;
            }
            tokio::select! {
                biased;
                message = responses.message() => match message {
                    Ok(Some(message)) => self.receive(message),
                    Ok(None) => return End::Broken(ended(client.endpoint())),
                    Err(status) => return End::Broken(client.error(&status)),
                },
                () = mailbox.filled() => self.take_events(),
                // The room is used in the next round.
                _ = frames.reserve(), if is_blocked => {}
                () = clock.sleep_until(self.session.wake()) => self.tick(),
            }
        }
    }

    /// Takes the last answers of a stream on which nothing more is sent.
    async fn half_closed(&mut self, mut responses: Streaming<WorkResponse>, is_over: bool) -> End {
        let (mailbox, clock) = (Arc::clone(&self.mailbox), self.clock.clone());
        let limit = self.now().after(HALF_CLOSE_MAX);
        while self.now() < limit {
            tokio::select! {
                biased;
                message = responses.message() => match message {
                    Ok(Some(message)) => self.receive(message),
                    Ok(None) | Err(_) => break,
                },
                () = mailbox.filled() => self.take_events(),
                () = clock.sleep_until(limit.min(self.session.wake())) => self.tick(),
            }
        }
        match self.session.link {
            _ if is_over => End::Over,
            Link::Closing(after) => End::Closing(after),
            Link::Away | Link::Opened | Link::Greeted(_) | Link::Welcomed => End::Over,
        }
    }
}

/// Returns a future's result, or `None` if it does not come in time.
async fn within<T>(clock: &Clock, limit: Uptime, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = clock.sleep_until(limit) => None,
    }
}

fn no_answer(endpoint: &str) -> ClientError {
    ClientError::Timeout { endpoint: endpoint.to_owned(), after: HELLO_MAX }
}

fn ended(endpoint: &str) -> ClientError {
    ClientError::Failed {
        endpoint: endpoint.to_owned(),
        code: Code::Unavailable,
        message: "the server has ended the stream".to_owned(),
    }
}
