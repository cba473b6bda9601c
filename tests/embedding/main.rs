//! The server embedded in another program: handlers, closures and watches in one process, and what remains after it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod closures;
mod jobs;
mod runtime_ends;

use std::time::Duration;

use jobmill::{
    execute::{Attempt, HandlerError},
    handle::Handle,
    job::{JobId, Output, PayloadInfo},
    serve::{Server, ServerBuilder},
    settings::{KindDefaults, QueueSettings, Settings, StoreSettings},
};
use tokio::sync::oneshot;

/// Timeout of a test's waits, far longer than a busy machine needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn builder(store: StoreSettings) -> ServerBuilder {
    builder_with(store, QueueSettings::default())
}

/// Returns a builder with a second queue, `small`.
fn builder_with(store: StoreSettings, small: QueueSettings) -> ServerBuilder {
    let mut settings = Settings::new(store);
    settings.drain_timeout = Duration::from_secs(1);
    settings.queues.insert("small".to_owned(), small);
    Server::builder(settings).handler("shout", KindDefaults::default(), shout).without_listener()
}

async fn start() -> Server {
    builder(StoreSettings::Memory).start().await.unwrap()
}

async fn stop(server: Server) {
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future).await.expect("it hangs")
}

async fn shout(attempt: Attempt) -> Result<Output, HandlerError> {
    let text = std::str::from_utf8(attempt.payload())?;
    if text.is_empty() {
        return Err(HandlerError::permanent("nothing to shout").with_code("EMPTY"));
    }
    attempt.output_line("shouting");
    Ok(text_output(&text.to_uppercase()))
}

fn text_output(text: &str) -> Output {
    Output { bytes: text.to_owned().into(), info: PayloadInfo::typed("text/plain") }
}

/// Takes the only slot of the queue `small` until the sender is used or dropped.
async fn occupy(handle: &Handle) -> (JobId, oneshot::Sender<()>) {
    let (release, released) = oneshot::channel();
    let (started, has_started) = oneshot::channel();
    let work = async move |_| {
        let _ = started.send(());
        let _ = released.await;
        Ok(Output::default())
    };
    let job = soon(handle.spawn("small", work)).await.unwrap();
    soon(has_started).await.unwrap();
    (job.id(), release)
}

fn one_slot() -> QueueSettings {
    QueueSettings { consumers: 1, ..QueueSettings::default() }
}
