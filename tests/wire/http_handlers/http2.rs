//! HTTP/2: requests that were certainly not processed are sent again, those that may have been are not, and dead
//! connections are abandoned.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    execute::http::HttpHandler,
    proto::v1::{self, FailureReason, JobState},
    settings::HttpSettings,
};

use super::{
    call, failure, handler, outcome, rig,
    streams::{CANCEL, ENHANCE_YOUR_CALM, Frames, NO_ERROR, REFUSED_STREAM},
    tls::Secure,
};
use crate::{
    frames::{DATA, END_STREAM, RST_STREAM},
    support::{job, manual_clock, result, soon},
};

async fn endpoint() -> (Secure, HttpHandler) {
    let secure = Secure::start(&["h2"]).await;
    let handler = handler(secure.settings("localhost"));
    (secure, handler)
}

#[tokio::test]
async fn what_an_endpoint_says_it_did_not_process_is_no_failed_attempt() {
    let secure = Secure::start(&["h2"]).await;
    let rig = rig(secure.settings("localhost")).await;
    let only = v1::JobSpec { max_attempts: 1, payload: Some(v1::Payload::of("x")), ..job("call") };
    let ids = rig.submit_batch(vec![only; 3]).await;
    let mut first = Frames::accept(&secure).await;
    let streams = [first.request().await, first.request().await, first.request().await];
    assert_eq!(streams, [1, 3, 5]);
    first.go_away(1, NO_ERROR).await;
    let mut second = Frames::accept(&secure).await;
    let again = [second.request().await, second.request().await];
    second.reset(again[1], REFUSED_STREAM).await;
    let third = second.request().await;
    for stream in [again[0], third] {
        second.answer(stream, "again").await;
    }
    // The request that the endpoint took before its GOAWAY goes on.
    first.answer(1, "once").await;
    let mut results = Vec::new();
    for id in &ids {
        let done = rig.ends(id).await;
        assert_eq!((done.state(), done.attempt), (JobState::Succeeded, 1), "{:?}", done.last_failure);
        results.push(String::from_utf8(result(&done).to_vec()).unwrap());
    }
    results.sort_unstable();
    assert_eq!(results, ["again", "again", "once"]);
    first.closed().await;
    rig.stop().await;
}

#[tokio::test]
async fn what_an_endpoint_may_have_processed_is_not_sent_again() {
    let (secure, handler) = endpoint().await;
    // Below the GOAWAY's last stream, then cut off; reset with another code; and closed without notice.
    for (last_stream, code) in [(Some(1), None), (None, Some(CANCEL)), (None, None)] {
        let call = call(&handler, "x");
        let mut frames = Frames::accept(&secure).await;
        let stream = frames.request().await;
        if let Some(last_stream) = last_stream {
            frames.go_away(last_stream, NO_ERROR).await;
        }
        if let Some(code) = code {
            frames.reset(stream, code).await;
        }
        drop(frames);
        let failure = failure(outcome(call).await);
        assert_eq!((failure.reason(), failure.retryable), (FailureReason::HandlerError, true));
        assert!(failure.message.starts_with("the request was not answered: "), "{failure:?}");
        assert!(!secure.endpoint.was_called(), "a second connection");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_each_time_is_a_failure_in_the_end() {
    let (secure, handler) = endpoint().await;
    let call = call(&handler, "x");
    let mut frames = Frames::accept(&secure).await;
    for _ in 0..11 {
        let stream = frames.request().await;
        frames.reset(stream, REFUSED_STREAM).await;
    }
    let failure = failure(outcome(call).await);
    assert!(
        failure.message.starts_with("the request was not processed, though sent 11 times: "),
        "{failure:?}"
    );
    assert!(failure.retryable);
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_the_same_to_the_last_byte() {
    let secure = Secure::start(&["h2"]).await;
    let signing_secrets = vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()];
    let settings = HttpSettings { signing_secrets, ..secure.settings("localhost") };
    let clock = manual_clock();
    let handler = HttpHandler::new(settings, Clock::Manual(clock.clone())).unwrap();
    let call = call(&handler, "payload");
    let mut connection = soon(h2::server::handshake(secure.accept().await.unwrap())).await.unwrap();
    let (first, mut refusal) = soon(connection.accept()).await.unwrap().unwrap();
    let served = async {
        refusal.send_reset(h2::Reason::REFUSED_STREAM);
        clock.advance(Duration::from_secs(1));
        let (again, mut answer) = connection.accept().await.unwrap().unwrap();
        assert_eq!((again.uri(), again.headers()), (first.uri(), first.headers()));
        assert_eq!(again.headers()["webhook-timestamp"], "1800000000");
        let taken = async {
            let mut body = again.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "payload");
            let head = http::Response::new(());
            answer.send_response(head, true).unwrap();
        };
        // The connection makes progress only while it is polled.
        tokio::join!(taken, async { while let Some(Ok(_)) = connection.accept().await {} })
    };
    tokio::select! {
        _ = soon(served) => panic!("the connection goes on"),
        outcome = outcome(call) => assert_eq!(outcome.unwrap().bytes, ""),
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_asks_for_calm_is_given_a_pause() {
    let (secure, handler) = endpoint().await;
    let call = call(&handler, "x");
    let mut first = Frames::accept(&secure).await;
    first.request().await;
    first.go_away(0, ENHANCE_YOUR_CALM).await;
    first.closed().await;
    let at_once = tokio::time::timeout(Duration::from_millis(19), secure.accept()).await;
    assert!(at_once.is_err(), "at once");
    let mut second = Frames::accept(&secure).await;
    let stream = second.request().await;
    second.answer(stream, "calm").await;
    assert_eq!(outcome(call).await.unwrap().bytes, "calm");
}

#[tokio::test]
async fn a_connection_that_says_goaway_is_replaced_within_the_limit() {
    let secure = Secure::start(&["h2"]).await;
    let handler = handler(HttpSettings { max_connections: 2, ..secure.settings("localhost") });
    let first = call(&handler, "1");
    let mut old = Frames::accept(&secure).await;
    let stream = old.request().await;
    old.go_away(stream, NO_ERROR).await;
    let second = call(&handler, "2");
    let mut new = Frames::accept(&secure).await;
    let taken = new.request().await;
    // Two connections have a request each: a third request waits.
    let third = call(&handler, "3");
    old.answer(stream, "old").await;
    assert_eq!(outcome(first).await.unwrap().bytes, "old");
    let next = new.request().await;
    assert!(!secure.endpoint.was_called(), "a third connection");
    new.answer(next, "new").await;
    new.answer(taken, "new").await;
    for call in [second, third] {
        assert_eq!(outcome(call).await.unwrap().bytes, "new");
    }
    old.closed().await;
}

#[tokio::test]
async fn an_endpoint_has_no_more_streams_than_it_takes() {
    let (secure, handler) = endpoint().await;
    let first = call(&handler, "1");
    let mut one = Frames::accept_with(&secure, Some(1)).await;
    let stream = one.request().await;
    one.settled().await;
    let second = call(&handler, "2");
    let mut other = Frames::accept_with(&secure, None).await;
    let elsewhere = other.request().await;
    other.answer(elsewhere, "").await;
    outcome(second).await.unwrap();
    // Now the second connection takes no more streams, and the first is free again.
    other.settings(Some(0)).await;
    other.settled().await;
    one.answer(stream, "").await;
    outcome(first).await.unwrap();
    let third = call(&handler, "3");
    let stream = one.request().await;
    one.answer(stream, "").await;
    outcome(third).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_silently_is_detected_and_abandoned() {
    let (secure, handler) = endpoint().await;
    let first = call(&handler, "x");
    let mut dead = Frames::accept(&secure).await;
    dead.request().await;
    dead.ping().await;
    let failure = failure(outcome(first).await);
    assert_eq!(
        failure.message,
        "the request was not answered: the connection has died: nothing was received for 10s, not even the answer to a ping"
    );
    assert!(failure.retryable);
    let second = call(&handler, "x");
    let mut frames = Frames::accept(&secure).await;
    let stream = frames.request().await;
    frames.answer(stream, "alive").await;
    assert_eq!(outcome(second).await.unwrap().bytes, "alive");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_slow_but_alive_is_waited_for() {
    let (secure, handler) = endpoint().await;
    let call = call(&handler, "x");
    let mut frames = Frames::accept(&secure).await;
    let stream = frames.request().await;
    for _ in 0..10 {
        let ping = frames.ping().await;
        frames.pong(&ping).await;
    }
    frames.answer(stream, "at last").await;
    assert_eq!(outcome(call).await.unwrap().bytes, "at last");
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_a_request_timed_out_must_answer_before_it_is_used_again() {
    for is_alive in [true, false] {
        let (secure, handler) = endpoint().await;
        let first = call(&handler, "x");
        let mut frames = Frames::accept(&secure).await;
        let stream = frames.request().await;
        frames.settled().await;
        // As the end of an attempt's timeout does.
        first.abort();
        let reset = frames.next().await.unwrap();
        assert_eq!((reset.kind, reset.stream), (RST_STREAM, stream));
        let second = call(&handler, "x");
        let ping = frames.ping().await;
        if is_alive {
            frames.pong(&ping).await;
        } else {
            frames = Frames::accept(&secure).await;
        }
        let stream = frames.request().await;
        frames.answer(stream, "alive").await;
        assert_eq!(outcome(second).await.unwrap().bytes, "alive");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_while_its_connection_is_asked_leaves_that_in_use() {
    let (secure, handler) = endpoint().await;
    let first = call(&handler, "x");
    let mut frames = Frames::accept(&secure).await;
    frames.request().await;
    frames.settled().await;
    first.abort();
    frames.next().await.unwrap();
    let second = call(&handler, "x");
    let ping = frames.ping().await;
    second.abort();
    frames.pong(&ping).await;
    frames.answers_pings = true;
    let third = call(&handler, "x");
    let stream = frames.request().await;
    frames.answer(stream, "").await;
    outcome(third).await.unwrap();
}

#[tokio::test]
async fn only_what_is_received_keeps_a_connection_fresh() {
    let secure = Secure::start(&["h2"]).await;
    let clock = manual_clock();
    let handler = HttpHandler::new(secure.settings("localhost"), Clock::Manual(clock.clone())).unwrap();
    let first = call(&handler, "x");
    let mut frames = Frames::accept(&secure).await;
    let stream = frames.request().await;
    frames.answer(stream, "").await;
    outcome(first).await.unwrap();
    // After 2 s of silence the connection is pinged, and reused.
    clock.advance(Duration::from_secs(2));
    let second = call(&handler, "x");
    let ping = frames.ping().await;
    frames.pong(&ping).await;
    let stream = frames.request().await;
    frames.answer(stream, "").await;
    outcome(second).await.unwrap();
    // After 30 s without requests the connection is not even pinged.
    clock.advance(Duration::from_secs(30));
    let third = call(&handler, "x");
    frames.closed().await;
    let mut frames = Frames::accept(&secure).await;
    let stream = frames.request().await;
    frames.answer(stream, "").await;
    outcome(third).await.unwrap();
}

#[tokio::test]
async fn a_name_is_looked_up_anew_though_its_connection_goes_on() {
    let secure = Secure::start(&["h2"]).await;
    let clock = manual_clock();
    let handler = HttpHandler::new(secure.settings("localhost"), Clock::Manual(clock.clone())).unwrap();
    let long = call(&handler, "x");
    let mut old = Frames::accept(&secure).await;
    let stream = old.request().await;
    for _ in 0..5 {
        let call = call(&handler, "x");
        let stream = old.request().await;
        old.answer(stream, "").await;
        outcome(call).await.unwrap();
        clock.advance(Duration::from_secs(60));
    }
    let next = call(&handler, "x");
    let mut new = Frames::accept(&secure).await;
    let taken = new.request().await;
    new.answer(taken, "new").await;
    assert_eq!(outcome(next).await.unwrap().bytes, "new");
    old.answer(stream, "old").await;
    assert_eq!(outcome(long).await.unwrap().bytes, "old");
    old.closed().await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_endpoint_has_taken_the_whole_request() {
    for reset in [true, false] {
        let (secure, handler) = endpoint().await;
        // A body larger than the endpoint's window.
        let call = call(&handler, &"x".repeat(200 << 10));
        let mut frames = Frames::accept(&secure).await;
        let mut taken = 0;
        while taken < 0xffff {
            let frame = frames.next().await.unwrap();
            taken += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        // An informational response comes before the answer.
        frames.status(1, 103, 0).await;
        frames.answer(1, "enough").await;
        if reset {
            frames.reset(1, NO_ERROR).await;
        }
        assert_eq!(outcome(call).await.unwrap().bytes, "enough");
        if !reset {
            let frame = frames.next().await.unwrap();
            assert_eq!((frame.kind, frame.payload), (RST_STREAM, CANCEL.to_be_bytes().to_vec()));
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_result_and_is_not_asked_for_again() {
    for code in [NO_ERROR, REFUSED_STREAM, CANCEL] {
        let (secure, handler) = endpoint().await;
        let call = call(&handler, "x");
        let mut frames = Frames::accept(&secure).await;
        let stream = frames.request().await;
        frames.status(stream, 200, 0).await;
        frames.send(DATA, 0, stream, b"half").await;
        frames.reset(stream, code).await;
        let failure = failure(outcome(call).await);
        assert!(failure.message.starts_with("the answer broke off after 4 bytes: "), "{failure:?}");
        assert!(failure.retryable && !secure.endpoint.was_called());
    }
}

#[tokio::test]
async fn a_connection_whose_server_answers_421_is_replaced() {
    let (secure, handler) = endpoint().await;
    let first = call(&handler, "x");
    let mut old = Frames::accept(&secure).await;
    let stream = old.request().await;
    old.answer(stream, "").await;
    outcome(first).await.unwrap();
    let second = call(&handler, "x");
    let stream = old.request().await;
    old.status(stream, 421, END_STREAM).await;
    let mut new = Frames::accept(&secure).await;
    let stream = new.request().await;
    // A 421 on a new connection is final.
    new.status(stream, 421, END_STREAM).await;
    let failure = failure(outcome(second).await);
    assert_eq!((failure.code.as_str(), failure.retryable), ("421", false));
}
