//! The interpretation of an endpoint's answer.

use std::time::Duration;

use jobmill::{
    proto::v1::{self, FailureReason, JobState},
    settings::HttpSettings,
};
use prost_types::Timestamp;

use super::{Endpoint, answered, call, failure, handler, outcome, rig, settings};
use crate::support::job;

#[tokio::test]
async fn each_class_of_status_has_its_meaning() {
    for status in ["200 OK", "202 Accepted", "299 Whatever"] {
        let output = answered(&format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok")).await.unwrap();
        assert_eq!(output.bytes, "ok", "{status}");
    }
    for (status, retryable) in [
        ("301 Moved Permanently", false),
        ("304 Not Modified", false),
        ("400 Bad Request", false),
        ("401 Unauthorized", false),
        ("404 Not Found", false),
        ("408 Request Timeout", true),
        ("409 Conflict", false),
        ("410 Gone", false),
        ("422 Unprocessable Entity", false),
        ("425 Too Early", true),
        ("429 Too Many Requests", true),
        ("500 Internal Server Error", true),
        ("501 Not Implemented", true),
        ("503 Service Unavailable", true),
    ] {
        let body = if status.starts_with("304") { "" } else { " out of\nink " };
        let length = body.len();
        let failure =
            failure(answered(&format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")).await);
        assert_eq!(failure.reason(), FailureReason::HandlerError);
        assert_eq!((failure.code.as_str(), failure.retryable), (&status[..3], retryable), "{status}");
        let excerpt = if body.is_empty() { "" } else { ": out of\nink" };
        assert_eq!(failure.message, format!("answered with {status}{excerpt}"));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Endpoint::start().await;
    let location = elsewhere.url();
    for status in ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let failure = failure(
            answered(&format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
                .await,
        );
        assert!(!failure.retryable && failure.message.contains(&location), "{failure:?}");
    }
    assert!(!elsewhere.was_called());
}

/// Returns the delay from a job's first attempt to its second in seconds, and the job.
async fn retried_after(headers: &str) -> (i64, v1::Job) {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    let id = rig.submit(job("call")).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("503 Service Unavailable", headers, "busy").await;
    let waiting = rig.reaches(&id, JobState::BackingOff).await;
    rig.stop().await;
    let Timestamp { seconds, .. } = waiting.next_run_time.unwrap();
    (seconds - 1_800_000_000, waiting)
}

#[tokio::test]
async fn retry_after_is_honoured_between_the_policys_own_delay_and_its_longest() {
    for (headers, seconds) in [
        ("", 1),
        ("retry-after: 120\r\n", 120),
        ("retry-after: 0\r\n", 1),
        ("retry-after: 999999999999\r\n", 3600),
        ("retry-after: Fri, 15 Jan 2027 08:05:00 GMT\r\n", 300),
        ("retry-after: Fri, 15 Jan 2027 07:00:00 GMT\r\n", 1),
        // By the endpoint's own clock, which may be an hour off ours.
        ("date: Fri, 15 Jan 2027 09:00:00 GMT\r\nretry-after: Fri, 15 Jan 2027 09:05:00 GMT\r\n", 300),
        ("retry-after: tomorrow\r\n", 1),
    ] {
        let (after, waiting) = retried_after(headers).await;
        assert_eq!(after, seconds, "{headers}");
        assert_eq!(waiting.last_failure.unwrap().code, "503");
    }
}

#[tokio::test]
async fn a_status_that_the_operator_names_snoozes_for_the_time_that_the_endpoint_tells() {
    for (status, headers, seconds) in [
        ("429 Too Many Requests", "", 60),
        ("429 Too Many Requests", "retry-after: 120\r\n", 120),
        ("202 Accepted", "retry-after: 1\r\n", 1),
    ] {
        let endpoint = Endpoint::start().await;
        let settings = HttpSettings { snooze_statuses: vec![429, 202], ..settings(&endpoint.url()) };
        let rig = rig(settings).await;
        let id = rig.submit(job("call")).await.id;
        let mut line = endpoint.accept().await;
        line.request().await;
        line.answer_with(status, headers, "later").await;
        let waiting = rig.reaches(&id, JobState::BackingOff).await;
        assert_eq!((waiting.snoozed, waiting.counted_attempts), (true, 0), "{status}");
        assert_eq!(waiting.next_run_time.unwrap().seconds - 1_800_000_000, seconds, "{status}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn jobs_that_were_told_the_same_retry_after_do_not_all_come_back_at_once() {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    let retry_policy = Some(Box::new(v1::RetryPolicy { jitter: Some(1.0), ..v1::RetryPolicy::default() }));
    let mut line = None;
    let mut due = Vec::new();
    // The last delay is less than the policy's first one, and the jitter might cut that below it.
    for asked in [100, 100, 100, 1] {
        let id = rig.submit(v1::JobSpec { retry_policy: retry_policy.clone(), ..job("call") }).await.id;
        let line = match &mut line {
            Some(line) => line,
            None => line.insert(endpoint.accept().await),
        };
        line.request().await;
        line.answer_with("429 Too Many Requests", &format!("retry-after: {asked}\r\n"), "").await;
        let Timestamp { seconds, nanos } =
            rig.reaches(&id, JobState::BackingOff).await.next_run_time.unwrap();
        let after = (seconds - 1_800_000_000) as f64 + f64::from(nanos) / 1e9;
        assert!((f64::from(asked)..=f64::from(2 * asked)).contains(&after), "{after} s after {asked}");
        due.push((seconds, nanos));
    }
    due.sort_unstable();
    due.dedup();
    assert_eq!(due.len(), 4, "each at another time");
    rig.stop().await;
}

#[tokio::test]
async fn a_result_over_the_cap_is_cut_off() {
    const CAP: usize = 1 << 20;
    let endpoint = Endpoint::start().await;
    let handler = handler(settings(&endpoint.url()));

    // A body that just fits.
    let fits = call(&handler, "");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", &"x".repeat(CAP)).await;
    assert_eq!(outcome(fits).await.unwrap().bytes.len(), CAP);

    // An announced length over the limit: the body is not even read.
    let announced = call(&handler, "");
    line.request().await;
    line.answer(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CAP + 1)).await;
    let announced = failure(outcome(announced).await);
    assert_eq!((announced.reason(), announced.retryable), (FailureReason::ResultTooLarge, false));
    line.closed().await;

    // An endless body: the endpoint is cut off.
    let endless = call(&handler, "");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    line.chatter(&format!("10000\r\n{}\r\n", "x".repeat(0x10000))).await;
    assert_eq!(failure(outcome(endless).await).reason(), FailureReason::ResultTooLarge);
}

#[tokio::test]
async fn a_failures_body_is_read_in_part() {
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), "");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    line.chatter("é again and again; ").await;
    let failure = failure(outcome(call).await);
    assert!(failure.message.starts_with("answered with 400 Bad Request: é again"), "{failure:?}");
    assert!((1000..=1024).contains(&failure.message.len()) && !failure.retryable, "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failures_body_that_does_not_come_is_not_waited_for() {
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), "");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer("HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\nfor good").await;
    let failure = failure(outcome(call).await);
    assert_eq!((failure.message.as_str(), failure.retryable), ("answered with 410 Gone: for good", false));
    line.closed().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_result() {
    for (answer, problem) in [
        ("", "the request was not answered"),
        ("HTTP/1.1 200", "the request was not answered"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "the answer broke off after 4 bytes"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "broke off after 4 bytes"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "the request was not answered"),
    ] {
        let failure = failure(answered(answer).await);
        assert!(failure.message.contains(problem) && failure.retryable, "{answer:?}: {failure:?}");
    }
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(40 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200));
    for answer in [long, many] {
        let failure = failure(answered(&answer).await);
        assert!(failure.message.contains("too large") && failure.retryable, "{failure:?}");
    }
    // Endless headers are cut off, too.
    let endpoint = Endpoint::start().await;
    let call = call(&handler(settings(&endpoint.url())), "");
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer("HTTP/1.1 200 OK\r\n").await;
    line.chatter("x: y\r\n").await;
    failure_is_too_large(outcome(call).await);
}

fn failure_is_too_large(outcome: super::Outcome) {
    let failure = failure(outcome);
    assert!(failure.message.contains("too large"), "{failure:?}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_let_go() {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    let attempt_timeout = Some(prost_types::Duration::try_from(Duration::from_millis(50)).unwrap());
    let id = rig.submit(v1::JobSpec { attempt_timeout, max_attempts: 1, ..job("call") }).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer("HTTP/1.1 200").await;
    line.closed().await;
    assert_eq!(rig.ends(&id).await.last_failure.unwrap().reason(), FailureReason::Timeout);
    rig.stop().await;
}
