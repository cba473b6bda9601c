//! Mapping of an endpoint's response to a result or a failure.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};

use super::{
    error_chain,
    exchange::{Body, ExchangeError},
};
use crate::{
    clock::{Clock, Timestamp},
    execute::{Attempt, HandlerError, command::RESULT_MAX_BYTES},
    job::{FailureReason, Output, PayloadInfo},
};

/// Byte limit of a failure's body: it is read so that its connection can be reused.
const FAILURE_MAX_BYTES: usize = 16 << 10;
/// Time limit for reading a failure's body: the status alone decides the outcome.
const FAILURE_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The answers by which an endpoint asks to be called again later.
#[derive(Debug)]
pub(super) struct Snoozes {
    /// Their statuses.
    pub(super) statuses: Vec<u16>,
    /// The delay, unless a response has a `Retry-After`.
    pub(super) delay: Duration,
    /// Name of a limit that starts nothing until then.
    pub(super) pause: Option<String>,
}

/// The meaning of an HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StatusClass {
    /// The work succeeded.
    Done,
    /// The failure is retryable.
    Retry,
    /// The failure is permanent.
    Permanent,
}

fn class(status: StatusCode) -> StatusClass {
    match status.as_u16() {
        200..=299 => StatusClass::Done,
        408 | 425 | 429 | 500..=599 => StatusClass::Retry,
        _ => StatusClass::Permanent,
    }
}

/// Returns the attempt's outcome, and whether the response was read to its end.
pub(super) async fn judge(
    answer: Response<Body>,
    attempt: &Attempt,
    snoozes: &Snoozes,
    clock: &Clock,
) -> (Result<Output, HandlerError>, bool) {
    let (head, mut body) = answer.into_parts();
    if snoozes.statuses.contains(&head.status.as_u16()) {
        let now = date(&head.headers).unwrap_or_else(|| clock.now());
        let asked = head.headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
        let is_read = drained(&mut body, &mut BytesMut::new()).await;
        let error = HandlerError::snooze(asked.unwrap_or(snoozes.delay));
        return (Err(HandlerError { pause: snoozes.pause.as_deref().map(Into::into), ..error }), is_read);
    }
    let class = class(head.status);
    if class == StatusClass::Done {
        return match result(&head.headers, &mut body).await {
            Ok(bytes) => {
                (Ok(Output { bytes, info: PayloadInfo::typed(text(&head.headers, &CONTENT_TYPE)) }), true)
            }
            Err(error) => (Err(error), false),
        };
    }
    let mut excerpt = BytesMut::new();
    let is_read = drained(&mut body, &mut excerpt).await;
    let mut message = format!("answered with {}", head.status);
    if head.status.is_redirection() && head.headers.contains_key(LOCATION) {
        message.push_str(&format!(
            " and redirects to {:?}; redirects are not followed: put the final URL into the configuration",
            text(&head.headers, &LOCATION)
        ));
    }
    let excerpt = String::from_utf8_lossy(&excerpt);
    if !excerpt.trim().is_empty() {
        message.push_str(&format!(": {}", excerpt.trim()));
    }
    let failure = HandlerError::new(FailureReason::HandlerError, message, class == StatusClass::Retry)
        .with_code(head.status.as_str());
    let delay = match class {
        StatusClass::Retry => {
            let now = date(&head.headers).unwrap_or_else(|| clock.now());
            delay(&head.headers, attempt, now)
        }
        StatusClass::Done | StatusClass::Permanent => None,
    };
    let failure = match delay {
        Some(delay) => failure.with_delay(delay),
        None => failure,
    };
    (Err(failure), is_read)
}

async fn result(headers: &HeaderMap, body: &mut Body) -> Result<Bytes, HandlerError> {
    let too_large = || {
        let message =
            format!("the response body has more than {RESULT_MAX_BYTES} bytes, the limit of a result");
        HandlerError::new(FailureReason::ResultTooLarge, message, false)
    };
    let announced = text(headers, &CONTENT_LENGTH).parse::<u64>();
    if announced.is_ok_and(|bytes| bytes > RESULT_MAX_BYTES as u64) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    match read(body, RESULT_MAX_BYTES, &mut bytes).await {
        Ok(true) => Ok(bytes.freeze()),
        Ok(false) => Err(too_large()),
        Err(error) => Err(HandlerError::retryable(format!(
            "the answer broke off after {} bytes: {}",
            bytes.len(),
            error_chain(&error)
        ))),
    }
}

/// Reads the body of a response whose status decides the outcome. Returns whether it was read to its end.
async fn drained(body: &mut Body, into: &mut BytesMut) -> bool {
    let read = read(body, FAILURE_MAX_BYTES, into);
    matches!(tokio::time::timeout(FAILURE_READ_TIMEOUT, read).await, Ok(Ok(true)))
}

/// Reads up to `max` bytes; returns false if there are more.
async fn read(body: &mut Body, max: usize, into: &mut BytesMut) -> Result<bool, ExchangeError> {
    while let Some(data) = body.data().await {
        let data = data?;
        let room = max - into.len();
        into.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns a header as text, with invalid UTF-8 replaced; empty if there is none.
fn text(headers: &HeaderMap, name: &http::HeaderName) -> String {
    headers.get(name).map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Returns the delay of `Retry-After`, if the retry policy's own backoff could be shorter; at most the policy's maximum
/// delay.
fn delay(headers: &HeaderMap, attempt: &Attempt, now: Timestamp) -> Option<Duration> {
    let asked = retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)?;
    let policy = &attempt.job().spec.retry;
    let failure = attempt.job().failures() + 1;
    (asked > policy.delay(failure, 1.0)).then(|| asked.min(policy.longest_delay()))
}

/// Returns the endpoint's own time (`Date`): dates in its response are relative to it.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok().map(Timestamp::from)
}

/// Parses `Retry-After`, a number of seconds or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit into 64 bits saturate.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::from(date).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_meaning() {
        for (statuses, expected) in [
            (&[200, 201, 202, 204, 206, 299][..], StatusClass::Done),
            (&[408, 425, 429, 500, 501, 502, 503, 504, 599], StatusClass::Retry),
            (&[100, 101, 300, 301, 302, 303, 304, 307, 308, 399], StatusClass::Permanent),
            (&[400, 401, 403, 404, 409, 410, 413, 422, 424, 426, 499, 600, 999], StatusClass::Permanent),
        ] {
            for status in statuses {
                assert_eq!(class(StatusCode::from_u16(*status).unwrap()), expected, "{status}");
            }
        }
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        // 2027-01-15T08:00:00Z.
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Fri, 15 Jan 2027 08:02:00 GMT", Some(120)),
            ("Friday, 15-Jan-27 08:02:00 GMT", Some(120)),
            ("Fri, 15 Jan 2027 07:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
