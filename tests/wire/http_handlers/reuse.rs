//! HTTP/1.1 connections that are reused, or must not be.

use std::time::Duration;

use jobmill::{
    clock::{Clock, Timestamp},
    execute::http::HttpHandler,
    settings::HttpSettings,
};

use super::{Endpoint, call, failure, handler, outcome, settings};
use crate::support::manual_clock;

#[tokio::test]
async fn the_end_of_an_idle_connection_is_seen_before_the_next_request() {
    for farewell in ["", "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"] {
        let endpoint = Endpoint::start().await;
        let handler = handler(settings(&endpoint.url()));
        let first = call(&handler, "x");
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with("200 OK", "", "").await;
        outcome(first).await.unwrap();
        // The bytes wait unread in the kernel when the next request comes.
        line.answer(farewell).await;
        line.end().await;
        let second = call(&handler, "x");
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with("200 OK", "", "again").await;
        assert_eq!(outcome(second).await.unwrap().bytes, "again", "{farewell:?}");
    }
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_sent_again() {
    let endpoint = Endpoint::start().await;
    let handler = handler(settings(&endpoint.url()));
    let first = call(&handler, "x");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    outcome(first).await.unwrap();
    let second = call(&handler, "x");
    line.request().await;
    drop(line);
    let failure = failure(outcome(second).await);
    assert!(
        failure.message.starts_with("the request was not answered: ") && failure.retryable,
        "{failure:?}"
    );
    assert!(!endpoint.was_called(), "a second connection");
}

#[tokio::test]
async fn an_endpoint_that_closes_after_an_answer_gets_the_next_request_over_a_new_connection() {
    for (head, body) in [
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n", "done"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\n", "done"),
        ("HTTP/1.0 200 OK\r\n\r\n", "done"),
    ] {
        let endpoint = Endpoint::start().await;
        let handler = handler(settings(&endpoint.url()));
        for _ in 0..2 {
            let call = call(&handler, "x");
            let mut line = endpoint.accept().await;
            line.request().await;
            line.answer(&format!("{head}{body}")).await;
            if head.contains("content-length") {
                // The endpoint leaves it to the client to close.
                line.closed().await;
            } else {
                line.hang_up().await;
            }
            assert_eq!(outcome(call).await.unwrap().bytes, body, "{head}");
        }
    }
}

#[tokio::test]
async fn a_connection_is_idle_no_longer_than_either_side_keeps_it() {
    for (header, idle_timeout, kept, gone) in [
        // A second before the endpoint closes the connection, so that no request meets the close.
        ("keep-alive: timeout=5\r\n", 30, 3, 4),
        ("keep-alive: timeout=600\r\n", 30, 29, 30),
        ("", 2, 1, 2),
    ] {
        let endpoint = Endpoint::start().await;
        let clock = manual_clock();
        let idle_timeout = Duration::from_secs(idle_timeout);
        let settings = HttpSettings { idle_timeout, ..settings(&endpoint.url()) };
        let handler = HttpHandler::new(settings, Clock::Manual(clock.clone())).unwrap();
        let first = call(&handler, "x");
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with("200 OK", header, "").await;
        outcome(first).await.unwrap();
        clock.advance(Duration::from_secs(kept));
        let second = call(&handler, "x");
        line.request().await;
        line.answer_with("200 OK", header, "").await;
        outcome(second).await.unwrap();
        clock.advance(Duration::from_secs(gone));
        let third = call(&handler, "x");
        line.closed().await;
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with("200 OK", "", "").await;
        outcome(third).await.unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_connection_fresh() {
    let endpoint = Endpoint::start().await;
    let clock = manual_clock();
    let handler = HttpHandler::new(settings(&endpoint.url()), Clock::Manual(clock.clone())).unwrap();
    let first = call(&handler, "x");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    outcome(first).await.unwrap();
    clock.advance(Duration::from_secs(30));
    clock.set(Timestamp::from_micros(1_700_000_000_000_000));
    let second = call(&handler, "x");
    line.closed().await;
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    outcome(second).await.unwrap();
}

#[tokio::test]
async fn an_answer_may_come_before_the_whole_request_has_been_read() {
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), &"x".repeat(1 << 20));
    let mut line = endpoint.accept().await;
    line.head().await;
    line.answer("HTTP/1.1 413 Payload Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    // Most of the request is unread, so that the endpoint's kernel sends a reset.
    drop(line);
    let failure = failure(outcome(call).await);
    assert_eq!((failure.code.as_str(), failure.retryable), ("413", false), "{failure:?}");
}
