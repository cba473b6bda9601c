//! Connections: reused, counted, and closed with their request.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    execute::{Attempt, Handler, http::HttpHandler},
    proto::v1::{FailureReason, JobState},
    settings::HttpSettings,
};
use tokio::net::TcpListener;

use super::{Endpoint, call, failure, handler, outcome, rig, settings};
use crate::support::{job, manual_clock, soon};

#[tokio::test]
async fn attempts_one_after_the_other_share_a_connection() {
    let endpoint = Endpoint::start().await;
    let handler = handler(settings(&endpoint.url()));
    let mut line = None;
    for (status, body) in
        [("200 OK", "done"), ("204 No Content", ""), ("503 Service Unavailable", "busy"), ("200 OK", "")]
    {
        let call = call(&handler, "x");
        let line = match &mut line {
            Some(line) => line,
            None => line.insert(endpoint.accept().await),
        };
        line.request().await;
        line.answer_with(status, "", body).await;
        assert_eq!(outcome(call).await.is_ok(), status.starts_with('2'));
    }
    assert!(!endpoint.was_called(), "a second connection");
    drop(handler);
    line.unwrap().closed().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_in_between_is_replaced() {
    let endpoint = Endpoint::start().await;
    let handler = handler(settings(&endpoint.url()));
    for _ in 0..3 {
        let call = call(&handler, "x");
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with("200 OK", "", "").await;
        outcome(call).await.unwrap();
        // Closed without notice, as servers do with idle connections.
        line.hang_up().await;
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used_again() {
    let endpoint = Endpoint::start().await;
    let clock = manual_clock();
    let handler = HttpHandler::new(settings(&endpoint.url()), Clock::Manual(clock.clone())).unwrap();
    let first = call(&handler, "x");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    outcome(first).await.unwrap();
    clock.advance(Duration::from_secs(30));
    let second = call(&handler, "x");
    line.closed().await;
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    outcome(second).await.unwrap();
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let endpoint = Endpoint::start().await;
    let handler = handler(HttpSettings { max_connections: 2, ..settings(&endpoint.url()) });
    let calls: Vec<_> = (0..6).map(|_| call(&handler, "x")).collect();
    let mut lines = [endpoint.accept().await, endpoint.accept().await];
    for _ in 0..3 {
        for line in &mut lines {
            line.request().await;
        }
        // Both connections have a request each, so that no third one may be opened.
        assert!(!endpoint.was_called());
        for line in &mut lines {
            line.answer_with("200 OK", "", "").await;
        }
    }
    for call in calls {
        outcome(call).await.unwrap();
    }
    assert!(!endpoint.was_called());
}

#[tokio::test]
async fn cancelling_closes_the_connection_at_once() {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"] {
        let id = rig.submit(job("call")).await.id;
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer(head).await;
        rig.cancel(&id).await.unwrap();
        line.closed().await;
        let cancelled = rig.ends(&id).await;
        assert_eq!(cancelled.state(), JobState::Cancelled);
        assert_eq!(cancelled.last_failure.unwrap().reason(), FailureReason::Cancelled);
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_tried_again() {
    // Nothing listens at this port.
    let nobody = settings("http://127.0.0.1:1/");
    let failure = failure(outcome(call(&handler(nobody), "")).await);
    assert_eq!((failure.reason(), failure.retryable), (FailureReason::StartFailed, true));
    assert!(failure.message.starts_with("can't connect to 127.0.0.1:1: "), "{failure:?}");

    let nowhere = settings("http://no-such-host.invalid/");
    let failure = super::failure(outcome(call(&handler(nowhere), "")).await);
    assert_eq!((failure.reason(), failure.retryable), (FailureReason::StartFailed, true));
    assert!(failure.message.contains("can't be looked up"), "{failure:?}");
}

#[tokio::test]
async fn connecting_has_a_limit() {
    // The connection is accepted, but the TLS handshake is not answered.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://127.0.0.1:{}/", silent.local_addr().unwrap().port());
    let settings = HttpSettings { connect_timeout: Duration::from_millis(20), ..settings(&url) };
    let failure = failure(outcome(call(&handler(settings), "")).await);
    assert_eq!((failure.reason(), failure.retryable), (FailureReason::StartFailed, true));
    assert_eq!(failure.message, "the host 127.0.0.1 was not connected to within 20ms");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_open() {
    let endpoint = Endpoint::start().await;
    let handler = handler(settings(&endpoint.url()));
    let run = handler.run(Attempt::detached("", "", |_| {}));
    let mut line = tokio::select! {
        _ = run => panic!("nobody has answered"),
        line = async {
            let mut line = endpoint.accept().await;
            line.request().await;
            line
        } => line,
    };
    soon(line.closed()).await;
}
