//! One line of input: a job as JSON.

use std::collections::BTreeMap;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use serde_json::Value;

use super::super::values;
use jobmill::{
    client::{to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{JobSpec, RetryPolicy, SubmitItem},
};

/// What is wrong with a line.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// Where, counted in bytes from 1; absent where it is the line as a whole.
    pub(super) column: Option<usize>,
    pub(super) message: String,
}

/// A job and its request id, in protobuf's JSON mapping; the original field names are understood as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct Line {
    queue: Option<String>,
    kind: Option<String>,
    payload: Option<Base64>,
    #[serde(alias = "payload_text")]
    payload_text: Option<String>,
    #[serde(alias = "payload_json")]
    payload_json: Option<Value>,
    #[serde(alias = "payload_type")]
    payload_type: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    priority: Option<Whole>,
    #[serde(alias = "max_attempts")]
    max_attempts: Option<Whole>,
    #[serde(alias = "retry_policy")]
    retry_policy: Option<Retry>,
    #[serde(alias = "attempt_timeout")]
    attempt_timeout: Option<Span>,
    #[serde(alias = "run_time")]
    run_time: Option<Instant>,
    #[serde(alias = "expire_time")]
    expire_time: Option<Instant>,
    #[serde(alias = "request_id")]
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct Retry {
    #[serde(alias = "initial_delay")]
    initial_delay: Option<Span>,
    #[serde(alias = "max_delay")]
    max_delay: Option<Span>,
    multiplier: Option<f64>,
    jitter: Option<f64>,
}

/// Bytes.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Base64(Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // The mapping takes both alphabets, with or without padding.
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let standard = GeneralPurpose::new(&alphabet::STANDARD, config);
        let url_safe = GeneralPurpose::new(&alphabet::URL_SAFE, config);
        let bytes = standard.decode(&text).or_else(|_| url_safe.decode(&text));
        bytes.map(Base64).map_err(|_| "payload must be base64; text goes into payloadText")
    }
}

/// A number, which the mapping lets be a string.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Whole(i32);

impl TryFrom<Value> for Whole {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_i64().and_then(|number| i32::try_from(number).ok()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        number.map(Whole).ok_or("must be a whole number of 32 bits")
    }
}

/// `1.5s`; also `5m` and the like, as everywhere else in this program.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Span(std::time::Duration);

impl TryFrom<String> for Span {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        fraction(&text)
            .or_else(|| values::duration(&text).ok())
            .map(Span)
            .ok_or("a duration is written like \"1.5s\", \"250ms\" or \"5m\"")
    }
}

/// `1.5s`, with up to nine digits after the point.
fn fraction(text: &str) -> Option<std::time::Duration> {
    let (seconds, rest) = text.strip_suffix('s')?.split_once('.')?;
    let digits = (1..=9).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_digit());
    let nanos: u32 = format!("{rest:0<9}").parse().ok().filter(|_| digits)?;
    Some(std::time::Duration::new(seconds.parse().ok()?, nanos))
}

/// RFC 3339.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Instant(Timestamp);

impl TryFrom<String> for Instant {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        values::instant(&text).map(Instant)
    }
}

/// Reads a line. A job that names no queue gets `queue`.
pub(super) fn parse(line: &[u8], queue: &str) -> Result<SubmitItem, Fault> {
    if line.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        // An array of all the values would do as well, otherwise.
        return Err(Fault { column: Some(1), message: "a line must be a JSON object".to_owned() });
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        let said = error.to_string();
        // The place is told by itself.
        let message = said.rsplit_once(" at line ").map_or(said.as_str(), |(message, _)| message);
        Fault { column: Some(error.column()), message: message.to_owned() }
    })?;
    let json_type = line.payload_json.is_some().then(|| "application/json".to_owned());
    let payload = match (line.payload, line.payload_text, line.payload_json) {
        (payload, None, None) => payload.map(|payload| payload.0).unwrap_or_default(),
        (None, Some(text), None) => text.into_bytes(),
        (None, None, Some(json)) => json.to_string().into_bytes(),
        _ => {
            let message = "only one of payload, payloadText and payloadJson may be given".to_owned();
            return Err(Fault { column: None, message });
        }
    };
    let wire = |span: Option<Span>| span.map(|span| to_wire_duration(span.0));
    let job = JobSpec {
        queue: line.queue.unwrap_or_else(|| queue.to_owned()),
        kind: line.kind.unwrap_or_default(),
        payload: payload.into(),
        payload_type: line.payload_type.or(json_type).unwrap_or_default(),
        labels: line.labels.unwrap_or_default(),
        priority: line.priority.map_or(0, |number| number.0),
        max_attempts: line.max_attempts.map_or(0, |number| number.0),
        retry_policy: line.retry_policy.map(|policy| RetryPolicy {
            initial_delay: wire(policy.initial_delay),
            max_delay: wire(policy.max_delay),
            multiplier: policy.multiplier.unwrap_or_default(),
            jitter: policy.jitter,
        }),
        attempt_timeout: wire(line.attempt_timeout),
        run_time: line.run_time.map(|instant| to_wire_timestamp(instant.0)),
        expire_time: line.expire_time.map(|instant| to_wire_timestamp(instant.0)),
    };
    Ok(SubmitItem { job: Some(job), request_id: line.request_id.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(line: &str) -> SubmitItem {
        parse(line.as_bytes(), "default").unwrap()
    }

    #[test]
    fn every_field_of_a_job_can_be_said() {
        let line = r#"{"queue": "q", "kind": "k", "payload": "aGk=", "payloadType": "text/plain",
            "labels": {"a": "b"}, "priority": -5, "maxAttempts": "3",
            "retryPolicy": {"initialDelay": "1.5s", "maxDelay": "1m", "multiplier": 3, "jitter": 0},
            "attemptTimeout": "90s", "runTime": "1970-01-01T00:00:02Z",
            "expireTime": "1970-01-01T00:00:03Z", "requestId": "r"}"#;
        let duration = |millis| Some(to_wire_duration(std::time::Duration::from_millis(millis)));
        let policy = RetryPolicy {
            initial_delay: duration(1_500),
            max_delay: duration(60_000),
            multiplier: 3.0,
            jitter: Some(0.0),
        };
        let job = JobSpec {
            queue: "q".into(),
            kind: "k".into(),
            payload: "hi".into(),
            payload_type: "text/plain".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            priority: -5,
            max_attempts: 3,
            retry_policy: Some(policy),
            attempt_timeout: duration(90_000),
            run_time: Some(to_wire_timestamp(Timestamp::from_micros(2_000_000))),
            expire_time: Some(to_wire_timestamp(Timestamp::from_micros(3_000_000))),
        };
        assert_eq!(item(line), SubmitItem { job: Some(job), request_id: "r".into() });
    }

    #[test]
    fn what_is_not_said_is_left_to_the_server_but_for_the_queue() {
        let job = JobSpec { queue: "default".into(), kind: "k".into(), ..Default::default() };
        assert_eq!(item(r#"{"kind": "k"}"#).job, Some(job.clone()));
        assert_eq!(item(r#"{"kind": "k", "labels": null, "run_time": null}"#).job, Some(job));
    }

    #[test]
    fn a_payload_may_be_text_or_json() {
        let payload = |line: &str| {
            let job = item(line).job.unwrap();
            (String::from_utf8(job.payload.to_vec()).unwrap(), job.payload_type)
        };
        assert_eq!(payload(r#"{"payloadText": "ü\n"}"#), ("ü\n".into(), String::new()));
        let json = ("{\"a\":[1,null]}".to_owned(), "application/json".to_owned());
        assert_eq!(payload(r#"{"payloadJson": {"a": [1, null]}}"#), json);
        assert_eq!(payload(r#"{"payload_json": 1, "payloadType": "x/y"}"#).1, "x/y");
        assert_eq!(payload(r#"{"payload": "-_8"}"#.replace("-_8", "aGk").as_str()).0, "hi");
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        let said: Vec<String> = [
            "[]",
            "kind: k",
            r#"{"kind": "k""#,
            r#"{"kind": "k"} x"#,
            r#"{"kind": 7}"#,
            r#"{"kimd": "k"}"#,
            r#"{"payload": "no base64!"}"#,
            r#"{"priority": 1.5}"#,
            r#"{"attemptTimeout": "soon"}"#,
            r#"{"attemptTimeout": "-1s"}"#,
            r#"{"attemptTimeout": "1.0000000001s"}"#,
            r#"{"runTime": "tomorrow"}"#,
            r#"{"payload": "aGk=", "payloadText": "hi"}"#,
        ]
        .into_iter()
        .map(|line| {
            let fault = parse(line.as_bytes(), "default").unwrap_err();
            let column = fault.column.map_or("-".to_owned(), |column| column.to_string());
            format!("{column:>2} {}", fault.message.chars().take(72).collect::<String>())
        })
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
         1 a line must be a JSON object
         1 a line must be a JSON object
        12 EOF while parsing an object
        15 trailing characters
        10 invalid type: integer `7`, expected a string
         7 unknown field `kimd`, expected one of `queue`, `kind`, `payload`, `paylo
        25 payload must be base64; text goes into payloadText
        17 must be a whole number of 32 bits
        26 a duration is written like "1.5s", "250ms" or "5m"
        25 a duration is written like "1.5s", "250ms" or "5m"
        35 a duration is written like "1.5s", "250ms" or "5m"
        23 write it like 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+02:00
         - only one of payload, payloadText and payloadJson may be given
        "#);
    }
}
