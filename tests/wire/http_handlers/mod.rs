//! Endpoints over HTTP as handlers: real servers on loopback that answer what the test says when it says so.

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
use endpoint::{Endpoint, Line, Received};

type Outcome = Result<Output, HandlerError>;

/// How to call an endpoint at loopback, which is allowed.
fn settings(url: &str) -> HttpSettings {
    let targets = Targets { allow_private: true, ..Targets::default() };
    HttpSettings { targets, ..HttpSettings::new(url.parse().unwrap()) }
}

fn handler(settings: HttpSettings) -> HttpHandler {
    HttpHandler::new(settings, Clock::Manual(manual_clock())).unwrap()
}

/// An attempt of no server's job, on its way.
fn call(handler: &HttpHandler, payload: &str) -> tokio::task::JoinHandle<Outcome> {
    tokio::spawn(handler.run(Attempt::detached(payload.to_owned(), "text/plain", |_| {})))
}

async fn outcome(call: tokio::task::JoinHandle<Outcome>) -> Outcome {
    soon(call).await.expect("no panic")
}

/// What becomes of an attempt that gets this answer.
async fn answered(answer: &str) -> Outcome {
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), "x");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer(answer).await;
    drop(line);
    outcome(call).await
}

/// A server whose kind `call` is mapped to an endpoint, with a clock that stands still.
async fn rig(settings: HttpSettings) -> Rig {
    rig_with(settings, |_| ()).await
}

/// These settings with a kind `call` that is mapped to an endpoint.
fn kinds(mut settings: Settings, http: HttpSettings) -> Settings {
    let handler = HandlerSettings::Http(Box::new(http));
    let kind = KindSettings { handler, defaults: KindDefaults { max_attempts: 3, ..defaults() } };
    settings.kinds.insert("call".to_owned(), kind);
    settings
}

/// The same, with other settings of the server, too.
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
    }
}
