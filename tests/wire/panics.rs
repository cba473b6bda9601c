//! Panics in an attempt outside of the handler itself: they end that attempt and take no slot.

use std::time::Duration;

use bytes::Bytes;
use jobmill::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::Output,
    proto::v1::{FailureReason, JobSpec, JobState},
    serve::Server,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use crate::support::{QUEUE, Rig, defaults, echo, fail, job, memory, queue, with_queue};

/// A log subscriber that panics at a warning or an error.
struct BadLog;

impl Subscriber for BadLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        panic!("the log is broken");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A value that panics when it is dropped.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("it went off");
    }
}

/// A handler whose result exceeds the limit and panics when it is dropped.
async fn explodes(_: Attempt) -> Result<Output, HandlerError> {
    let bytes = Bytes::from_owner(Bomb(vec![0; 2 << 20]));
    Ok(Output { bytes, ..Output::default() })
}

/// A handler that panics when it is asked for its grace period.
struct PanicsOnGrace;

impl Handler for PanicsOnGrace {
    fn run(&self, _: Attempt) -> HandlerFuture {
        Box::pin(std::future::pending())
    }

    fn stop_grace(&self) -> Duration {
        panic!("no idea");
    }
}

/// Starts a server with one slot.
async fn start() -> Rig {
    let builder = Server::builder(with_queue(memory(), QUEUE, queue(1)));
    let builder = builder.handler("fail", defaults(), fail).handler("echo", defaults(), echo);
    Rig::start(builder.handler("explodes", defaults(), explodes).handler("vague", defaults(), PanicsOnGrace))
        .await
}

fn once(kind: &str) -> JobSpec {
    JobSpec { max_attempts: 1, ..job(kind) }
}

// All of the server but the committer's thread runs on the test's own thread.
#[tokio::test]
async fn an_attempt_whose_failure_can_not_be_logged_ends_as_it_would_have() {
    let rig = start().await;
    let broken = tracing::subscriber::set_default(BadLog);
    for _ in 0..3 {
        let failure = rig.ends(&rig.submit(once("fail")).await.id).await.last_failure.unwrap();
        assert_eq!((failure.reason(), &*failure.message), (FailureReason::HandlerError, "out of paper"));
    }
    assert_eq!(rig.ends(&rig.submit(job("echo")).await.id).await.state(), JobState::Succeeded);
    drop(broken);
    rig.stop().await;
}

#[tokio::test]
async fn a_panic_around_a_handler_ends_the_attempt_and_frees_its_slot() {
    let rig = start().await;
    for (kind, message) in [
        ("explodes", "the attempt panicked: it went off"),
        ("vague", "the attempt panicked: no idea"),
        ("explodes", "the attempt panicked: it went off"),
    ] {
        let failure = rig.ends(&rig.submit(once(kind)).await.id).await.last_failure.unwrap();
        assert_eq!((failure.reason(), &*failure.message), (FailureReason::Panic, message), "{kind}");
    }
    assert_eq!(rig.ends(&rig.submit(job("echo")).await.id).await.state(), JobState::Succeeded);
    rig.stop().await;
}
