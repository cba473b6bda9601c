//! Requests as an endpoint receives them.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use jobmill::{
    execute::{Attempt, Handler},
    job::FailureReason,
    proto::v1::{self, JobState},
    settings::HttpSettings,
};
use sha2::Sha256;

use super::{Endpoint, Received, call, handler, outcome, rig, rig_with, settings};
use crate::support::{job, named, result, result_type, soon, submission};

#[tokio::test]
async fn a_job_is_posted_and_the_answer_is_its_result() {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    let spec = v1::JobSpec {
        payload: Some(v1::Payload::of(r#"{"to": "ada"}"#).with_type("application/json")),
        ..job("call")
    };
    let submitted = rig.submit(spec).await;
    let mut line = endpoint.accept().await;
    let request = line.request().await;
    assert_eq!(request.first_line, "POST /jobs?a=b HTTP/1.1");
    assert_eq!(request.body, br#"{"to": "ada"}"#);
    for (name, value) in [
        ("host", &*format!("127.0.0.1:{}", endpoint.port())),
        ("content-type", "application/json"),
        ("user-agent", concat!("jobmill/", env!("CARGO_PKG_VERSION"))),
        ("jobmill-job-id", &submitted.id),
        ("jobmill-queue", "default"),
        ("jobmill-kind", "call"),
        ("jobmill-attempt", "1"),
        ("jobmill-max-attempts", "3"),
        ("idempotency-key", &submitted.id),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(request.header("jobmill-lease").parse::<u64>().is_ok());
    for absent in ["webhook-id", "webhook-signature", "traceparent", "transfer-encoding", "authorization"] {
        assert_eq!(request.find(absent), None);
    }
    line.answer_with("201 Created", "content-type: text/csv\r\n", "a,b\n").await;
    let done = rig.ends(&submitted.id).await;
    assert_eq!(done.state(), JobState::Succeeded, "{:?}", done.last_failure);
    assert_eq!((result(&done), result_type(&done)), (&b"a,b\n"[..], "text/csv"));
    rig.stop().await;
}

#[tokio::test]
async fn the_trace_context_of_the_attempt_goes_along() {
    const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let given = async |collector: Option<&str>| {
        let endpoint = Endpoint::start().await;
        let rig = rig_with(settings(&endpoint.url()), |settings| {
            settings.traces.endpoint = collector.map(str::to_owned);
        })
        .await;
        let submission = v1::SubmitRequest { view: v1::JobView::Basic as i32, ..submission(job("call")) };
        let mut request = tonic::Request::new(submission);
        request.metadata_mut().insert("traceparent", CONTEXT.parse().unwrap());
        let submitted = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner().job.unwrap();
        let mut line = endpoint.accept().await;
        let context = line.request().await.header("traceparent").to_owned();
        line.answer_with("200 OK", "", "").await;
        rig.stop().await;
        (context, submitted.traceparent)
    };
    assert_eq!(given(None).await.0, CONTEXT, "without spans of its own, as it came");
    // Spans are created whether a collector takes them or not.
    let (attempt, submission) = given(Some("http://127.0.0.1:1")).await;
    assert_eq!((&attempt[..35], &submission[..35]), (&CONTEXT[..35], &CONTEXT[..35]), "one trace");
    assert!(attempt != CONTEXT && attempt != submission, "{attempt} {submission}");
}

#[tokio::test]
async fn what_a_job_brings_along_goes_into_headers_of_the_request() {
    let endpoint = Endpoint::start().await;
    let rig = rig(settings(&endpoint.url())).await;
    let entry = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let spec = v1::JobSpec {
        payload: Some(v1::Payload { metadata: entry("key.id/1", "a\r\nb"), ..v1::Payload::of("x") }),
        labels: entry("town", "Zürich"),
        headers: [("tenant".to_owned(), "a b".to_owned()), ("x_1.y".to_owned(), "~\t!".to_owned())].into(),
        attempt_timeout: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
        ..job("call")
    };
    soon(rig.jobs.clone().submit(named("a request: 100%", spec))).await.unwrap();
    let mut line = endpoint.accept().await;
    let request = line.request().await;
    for (name, value) in [
        ("jobmill-header-tenant", "a b"),
        ("jobmill-header-x_1.y", "~\t!"),
        ("jobmill-request-id", "a%20request%3A%20100%25"),
        ("jobmill-labels", r#"{"town":"Z\u00fcrich"}"#),
        ("jobmill-payload-metadata", r#"{"key.id/1":"a\r\nb"}"#),
        ("jobmill-deadline", "2027-01-15T08:01:30Z"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert_eq!(request.find("tenant"), None, "it must not pass for a header of the operator's");
    line.answer_with("200 OK", "", "").await;

    rig.submit(job("call")).await;
    let request = line.request().await;
    for absent in ["jobmill-request-id", "jobmill-labels", "jobmill-payload-metadata", "tracestate"] {
        assert_eq!(request.find(absent), None, "{absent}");
    }
    line.answer_with("200 OK", "", "").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_empty_payload_is_an_empty_body_of_no_known_type() {
    let endpoint = Endpoint::start().await;
    let attempt = Attempt::detached("", "", |_| {});
    let call = tokio::spawn(handler(settings(&endpoint.url())).run(attempt));
    let mut line = endpoint.accept().await;
    let request = line.request().await;
    assert_eq!(
        (request.header("content-length"), request.header("content-type")),
        ("0", "application/octet-stream")
    );
    line.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    let output = outcome(call).await.unwrap();
    assert_eq!((output.bytes.len(), output.info.media_type.as_str()), (0, ""));
}

#[tokio::test]
async fn the_operators_headers_are_sent_and_not_shown() {
    let endpoint = Endpoint::start().await;
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer s3cret"));
    let settings = HttpSettings { headers, ..settings(&endpoint.url()) };
    assert!(!format!("{settings:?}").contains("s3cret"));
    let call = call(&handler(settings), "");
    let mut line = endpoint.accept().await;
    assert_eq!(line.request().await.header("authorization"), "Bearer s3cret");
    line.answer_with("200 OK", "", "").await;
    outcome(call).await.unwrap();
}

/// Returns whether one of a request's signatures is made with `key`.
fn is_signed(request: &Received, key: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(request.header("webhook-id").as_bytes());
    mac.update(b".");
    mac.update(request.header("webhook-timestamp").as_bytes());
    mac.update(b".");
    mac.update(&request.body);
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    request.header("webhook-signature").split(' ').any(|signature| signature == expected)
}

#[tokio::test]
async fn each_secret_makes_a_signature_of_its_own() {
    let endpoint = Endpoint::start().await;
    let (old, new) = ([1; 24], [2; 64]);
    let secret = |key: &[u8]| format!("whsec_{}", BASE64_STANDARD.encode(key)).parse().unwrap();
    let signing_secrets = vec![secret(&old), secret(&new)];
    let settings = HttpSettings { signing_secrets, ..settings(&endpoint.url()) };
    let call = call(&handler(settings), "some \u{0} bytes");
    let mut line = endpoint.accept().await;
    let mut request = line.request().await;
    assert_eq!(request.header("webhook-id"), request.header("jobmill-job-id"));
    assert_eq!(request.header("webhook-timestamp"), "1800000000", "the injected clock's");
    assert!(is_signed(&request, &old) && is_signed(&request, &new));
    assert!(!is_signed(&request, &[3; 24]), "nobody else's");
    request.body.push(b'!');
    assert!(!is_signed(&request, &old), "the body counts");
    line.answer_with("200 OK", "", "").await;
    outcome(call).await.unwrap();
}

#[tokio::test]
async fn line_breaks_in_a_jobs_values_never_reach_the_wire() {
    let endpoint = Endpoint::start().await;
    let attempt = Attempt::detached("", "text/plain\r\nX-Admin: yes", |_| {});
    let error = soon(handler(settings(&endpoint.url())).run(attempt)).await.expect_err("refused");
    assert_eq!((error.failure().reason, error.failure().retryable), (FailureReason::StartFailed, false));
    assert!(error.message().contains("content-type") && !endpoint.was_called(), "{error:?}");
}
