//! Calls back from the endpoints of running attempts: `/checkpoint`.

use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};

use super::response::text;
use crate::{
    execute::{Callbacks, CalledAttempt, CheckpointError},
    job::{Output, PayloadInfo, checkpoint::CHECKPOINT_MAX_BYTES},
    timeouts,
};

/// Path of the calls.
pub(super) const PATH: &str = "/checkpoint";
/// Time limit for a checkpoint that is to be written at once. Half of a connection's.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// Answers a call.
pub(super) async fn answer(callbacks: &Callbacks, request: Request<Incoming>) -> Response<Full<Bytes>> {
    // The secret comes first: nothing else of a stranger's call is looked at.
    let Some(attempt) = secret(request.headers()).and_then(|secret| callbacks.find(secret)) else {
        let mut refused =
            text(StatusCode::UNAUTHORIZED, "the secret is not known, or its attempt has ended\n");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    };
    let commit_now = match request.uri().query() {
        None => false,
        Some("commit=now") => true,
        Some(_) => return text(StatusCode::BAD_REQUEST, "the query is not known: it may be commit=now\n"),
    };
    match *request.method() {
        Method::GET | Method::HEAD => earlier(&attempt),
        Method::PUT => put(&attempt, request, commit_now).await,
        _ => {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and PUT are allowed\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, PUT"));
            refused
        }
    }
}

fn secret(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Returns the state of earlier attempts.
fn earlier(attempt: &CalledAttempt) -> Response<Full<Bytes>> {
    let Some(Output { bytes, info }) = attempt.earlier_checkpoint() else {
        return text(StatusCode::NO_CONTENT, "");
    };
    let mut answer = text(StatusCode::OK, bytes.clone());
    let media_type = match info.media_type.as_str() {
        "" => "application/octet-stream",
        given => given,
    };
    match HeaderValue::from_str(media_type) {
        Ok(media_type) => drop(answer.headers_mut().insert(CONTENT_TYPE, media_type)),
        // A handler of another sort has left it with a type that no header can have.
        Err(_) => drop(answer.headers_mut().remove(CONTENT_TYPE)),
    }
    answer
}

async fn put(attempt: &CalledAttempt, request: Request<Incoming>, commit_now: bool) -> Response<Full<Bytes>> {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let info = PayloadInfo::typed(media_type.unwrap_or_default());
    let told = request.body().size_hint().lower();
    if told > CHECKPOINT_MAX_BYTES as u64 {
        return too_large(usize::try_from(told).unwrap_or(usize::MAX));
    }
    let bytes = match Limited::new(request.into_body(), CHECKPOINT_MAX_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_large(CHECKPOINT_MAX_BYTES + 1),
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("the state breaks off: {error}\n")),
    };
    // Copied, as the connection's buffer would be kept with the state otherwise.
    let state = Output { bytes: Bytes::copy_from_slice(&bytes), info };
    let committed = attempt.checkpoint(state, commit_now);
    let number = match (committed.number(), committed.refusal()) {
        (Some(number), _) => number,
        (None, Some(refusal)) => return refused(refusal),
        (None, None) => return refused(CheckpointError::Over),
    };
    if !commit_now {
        return text(StatusCode::ACCEPTED, format!("kept {number}\n"));
    }
    match timeouts::within(COMMIT_MAX, committed).await {
        Some(Ok(())) => text(StatusCode::OK, format!("committed {number}\n")),
        Some(Err(refusal)) => refused(refusal),
        None => {
            let late = format!("kept {number}; it is not on disk yet, and will be when there is room\n");
            text(StatusCode::SERVICE_UNAVAILABLE, late)
        }
    }
}

fn too_large(bytes: usize) -> Response<Full<Bytes>> {
    refused(CheckpointError::TooLarge { bytes, max_bytes: CHECKPOINT_MAX_BYTES })
}

fn refused(refusal: CheckpointError) -> Response<Full<Bytes>> {
    let status = match refusal {
        CheckpointError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        CheckpointError::Over => StatusCode::GONE,
    };
    text(status, format!("{refusal}\n"))
}
