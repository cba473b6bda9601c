//! Endpoints over HTTP as handlers: real servers on loopback that the test controls.

mod answers;
mod connections;
mod endpoint;
mod http2;
mod requests;
mod reuse;
mod streams;
mod targets;
mod tls;
mod waiting;

use jobmill::{
    clock::Clock,
    execute::{Attempt, Handler, HandlerError, http::HttpHandler},
    job::Output,
    proto::v1,
    serve::Server,
    settings::{HandlerSettings, HttpSettings, KindDefaults, KindSettings, Settings, Targets},
};

use crate::support::{Rig, defaults, manual_clock, memory, soon};
pub(crate) use endpoint::{Endpoint, EndpointConnection, Received};

type Outcome = Result<Output, HandlerError>;

/// Returns settings for an endpoint on loopback, which is allowed.
fn settings(url: &str) -> HttpSettings {
    let targets = Targets { allow_private: true, ..Targets::default() };
    HttpSettings { targets, ..HttpSettings::new(url.parse().unwrap()) }
}

fn handler(settings: HttpSettings) -> HttpHandler {
    HttpHandler::new(settings, Clock::Manual(manual_clock())).unwrap()
}

/// Starts an attempt that belongs to no server.
fn call(handler: &HttpHandler, payload: &str) -> tokio::task::JoinHandle<Outcome> {
    tokio::spawn(handler.run(Attempt::detached(payload.to_owned(), "text/plain", |_| {})))
}

async fn outcome(call: tokio::task::JoinHandle<Outcome>) -> Outcome {
    soon(call).await.expect("no panic")
}

/// Returns the outcome of an attempt that gets this answer.
async fn answered(answer: &str) -> Outcome {
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), "x");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer(answer).await;
    drop(line);
    outcome(call).await
}

/// Starts a server whose kind `call` is mapped to an endpoint, with a clock that stands still.
async fn rig(settings: HttpSettings) -> Rig {
    rig_with(settings, |_| ()).await
}

/// Adds a kind `call` that is mapped to an endpoint to settings.
fn kinds(mut settings: Settings, http: HttpSettings) -> Settings {
    let handler = HandlerSettings::Http(Box::new(http));
    let kind = KindSettings { handler, defaults: KindDefaults { max_attempts: 3, ..defaults() } };
    settings.kinds.insert("call".to_owned(), kind);
    settings
}

/// Starts a server as [`rig`] does, with changed settings.
async fn rig_with(http: HttpSettings, change: impl FnOnce(&mut Settings)) -> Rig {
    let mut settings = kinds(memory(), http);
    change(&mut settings);
    Rig::start(Server::builder(settings).clock(Clock::Manual(manual_clock()))).await
}

fn failure(outcome: Outcome) -> v1::Failure {
    let error = outcome.expect_err("a failure");
    let failure = error.failure();
    v1::Failure {
        reason: failure.reason as i32,
        message: failure.message.clone(),
        code: failure.code.clone(),
        exit_code: failure.exit_code,
        retryable: failure.retryable,
        parent_id: String::new(),
    }
}
