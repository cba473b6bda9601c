//! One line of input: a job as JSON.

use std::collections::BTreeMap;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use serde_json::Value;

use super::super::{
    dependencies::DependencyFields,
    unique::{PolicyArg, ScopeArg},
    values,
};
use jobmill::{
    client::{to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        Debounce, JobSpec, OnConflict, Payload, RetryPolicy, SubmitItem, UniqueKey, UniqueScope,
        job_spec::{Deadline, Expiry, Start},
    },
};

/// A fault in a line.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// The column, counted in bytes from 1; absent where the fault is in the line as a whole.
    pub(super) column: Option<usize>,
    pub(super) message: String,
}

/// A job and its request id, in protobuf's JSON mapping; the original field names are understood as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct JobLine {
    queue: Option<String>,
    kind: Option<String>,
    payload: Option<PayloadFields>,
    #[serde(alias = "payload_text")]
    payload_text: Option<String>,
    #[serde(alias = "payload_json")]
    payload_json: Option<Value>,
    labels: Option<BTreeMap<String, String>>,
    headers: Option<BTreeMap<String, String>>,
    priority: Option<Whole>,
    #[serde(alias = "max_attempts")]
    max_attempts: Option<Whole>,
    #[serde(alias = "retry_policy")]
    retry_policy: Option<Retry>,
    #[serde(alias = "attempt_timeout")]
    attempt_timeout: Option<Span>,
    #[serde(alias = "run_time")]
    run_time: Option<Instant>,
    delay: Option<Span>,
    #[serde(alias = "expire_time")]
    expire_time: Option<Instant>,
    #[serde(alias = "expire_after")]
    expire_after: Option<Span>,
    #[serde(alias = "deadline_time")]
    deadline_time: Option<Instant>,
    #[serde(alias = "deadline_after")]
    deadline_after: Option<Span>,
    #[serde(alias = "max_snoozes")]
    max_snoozes: Option<Whole>,
    #[serde(alias = "max_process_losses")]
    max_process_losses: Option<Whole>,
    #[serde(alias = "depends_on")]
    depends_on: Option<Vec<DependencyFields>>,
    #[serde(alias = "unique_key")]
    unique_key: Option<Unique>,
    weights: Option<BTreeMap<String, Whole>>,
    #[serde(alias = "request_id")]
    request_id: Option<String>,
}

/// The payload as an object.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct PayloadFields {
    data: Option<Base64>,
    text: Option<String>,
    #[serde(alias = "media_type")]
    media_type: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    /// Ignored. Accepted so that the `spec` of a job in JSON output can be submitted again.
    #[serde(alias = "size_bytes", rename = "sizeBytes")]
    _size_bytes: Option<Whole>,
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
    delays: Option<Vec<Span>>,
}

/// A unique key. The values of its enums have short forms, as in the options of this program.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct Unique {
    key: Option<String>,
    scope: Option<ScopeArg>,
    #[serde(alias = "on_waiting")]
    on_waiting: Option<PolicyArg>,
    #[serde(alias = "on_started")]
    on_started: Option<PolicyArg>,
    hold: Option<Span>,
    debounce: Option<DebounceFields>,
    throttle: Option<Span>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct DebounceFields {
    quiet: Option<Span>,
    #[serde(alias = "max_wait")]
    max_wait: Option<Span>,
}

impl Unique {
    fn into_wire(self) -> UniqueKey {
        let wire = |span: Option<Span>| span.map(|span| to_wire_duration(span.0));
        let policy =
            |policy: Option<PolicyArg>| policy.map_or(OnConflict::Unspecified, PolicyArg::to_wire).into();
        UniqueKey {
            key: self.key.unwrap_or_default(),
            scope: self.scope.map_or(UniqueScope::Unspecified, ScopeArg::to_wire).into(),
            on_waiting: policy(self.on_waiting),
            on_started: policy(self.on_started),
            hold: wire(self.hold),
            debounce: self
                .debounce
                .map(|debounce| Debounce { quiet: wire(debounce.quiet), max_wait: wire(debounce.max_wait) }),
            throttle: wire(self.throttle),
        }
    }
}

/// Bytes, given in base64.
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
        bytes.map(Base64).map_err(|_| "data must be base64; text goes into text")
    }
}

/// A 32-bit number, which the JSON mapping allows as a string, too.
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

/// A duration: `1.5s`, or `5m` and the like, as in the options of this program.
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

/// Parses seconds with a fraction, `1.5s`, with up to nine digits after the point.
fn fraction(text: &str) -> Option<std::time::Duration> {
    let (seconds, rest) = text.strip_suffix('s')?.split_once('.')?;
    let digits = (1..=9).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_digit());
    let nanos: u32 = format!("{rest:0<9}").parse().ok().filter(|_| digits)?;
    Some(std::time::Duration::new(seconds.parse().ok()?, nanos))
}

/// An instant in RFC 3339.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Instant(Timestamp);

impl TryFrom<String> for Instant {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        values::instant(&text).map(Instant)
    }
}

/// Parses a line. A job that names no queue gets `queue`.
pub(super) fn parse(line: &[u8], queue: &str) -> Result<SubmitItem, Fault> {
    if line.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        // An array of all the values would be accepted, too, otherwise.
        return Err(Fault { column: Some(1), message: "a line must be a JSON object".to_owned() });
    }
    let line: JobLine = serde_json::from_slice(line).map_err(|error| {
        let said = error.to_string();
        // The position is reported separately.
        let message = said.rsplit_once(" at line ").map_or(said.as_str(), |(message, _)| message);
        Fault { column: Some(error.column()), message: message.to_owned() }
    })?;
    let start = match (line.run_time, line.delay) {
        (None, None) => None,
        (Some(instant), None) => Some(Start::RunTime(to_wire_timestamp(instant.0))),
        (None, Some(span)) => Some(Start::Delay(to_wire_duration(span.0))),
        (Some(_), Some(_)) => return Err(one_of("runTime and delay")),
    };
    let expiry = match (line.expire_time, line.expire_after) {
        (None, None) => None,
        (Some(instant), None) => Some(Expiry::ExpireTime(to_wire_timestamp(instant.0))),
        (None, Some(span)) => Some(Expiry::ExpireAfter(to_wire_duration(span.0))),
        (Some(_), Some(_)) => return Err(one_of("expireTime and expireAfter")),
    };
    let deadline = match (line.deadline_time, line.deadline_after) {
        (None, None) => None,
        (Some(instant), None) => Some(Deadline::DeadlineTime(to_wire_timestamp(instant.0))),
        (None, Some(span)) => Some(Deadline::DeadlineAfter(to_wire_duration(span.0))),
        (Some(_), Some(_)) => return Err(one_of("deadlineTime and deadlineAfter")),
    };
    let wire = |span: Option<Span>| span.map(|span| to_wire_duration(span.0));
    let job = JobSpec {
        queue: line.queue.unwrap_or_else(|| queue.to_owned()),
        kind: line.kind.unwrap_or_default(),
        payload: payload(line.payload, line.payload_text, line.payload_json)?,
        labels: line.labels.unwrap_or_default(),
        headers: line.headers.unwrap_or_default(),
        priority: line.priority.map(|number| number.0),
        max_attempts: line.max_attempts.map_or(0, |number| number.0),
        retry_policy: line.retry_policy.map(|policy| {
            Box::new(RetryPolicy {
                initial_delay: wire(policy.initial_delay),
                max_delay: wire(policy.max_delay),
                multiplier: policy.multiplier,
                jitter: policy.jitter,
                delays: policy.delays.into_iter().flatten().map(|span| to_wire_duration(span.0)).collect(),
            })
        }),
        attempt_timeout: wire(line.attempt_timeout),
        start,
        expiry,
        deadline,
        max_snoozes: line.max_snoozes.map(|number| number.0),
        max_process_losses: line.max_process_losses.map_or(0, |number| number.0),
        depends_on: line.depends_on.into_iter().flatten().map(DependencyFields::into_wire).collect(),
        unique_key: line.unique_key.map(|key| Box::new(key.into_wire())),
        weights: line.weights.into_iter().flatten().map(|(limit, weight)| (limit, weight.0)).collect(),
    };
    Ok(SubmitItem { job: Some(job), request_id: line.request_id.unwrap_or_default() })
}

/// Builds the payload from one of four fields for its bytes.
fn payload(
    said: Option<PayloadFields>,
    short_text: Option<String>,
    short_json: Option<Value>,
) -> Result<Option<Payload>, Fault> {
    if said.is_none() && short_text.is_none() && short_json.is_none() {
        return Ok(None);
    }
    let PayloadFields { data, text, media_type, metadata, .. } = said.unwrap_or_default();
    let payload = match (data, text, short_text, short_json) {
        (None, None, None, None) => Payload::default(),
        (Some(data), None, None, None) => Payload::of(data.0),
        (None, Some(text), None, None) | (None, None, Some(text), None) => Payload::of_text(text),
        (None, None, None, Some(json)) => Payload::of_text(json.to_string()).with_type("application/json"),
        _ => return Err(one_of("payload.data, payload.text, payloadText and payloadJson")),
    };
    let media_type = media_type.unwrap_or_else(|| payload.media_type.clone());
    Ok(Some(Payload { metadata: metadata.unwrap_or_default(), ..payload.with_type(media_type) }))
}

fn one_of(names: &str) -> Fault {
    Fault { column: None, message: format!("only one of {names} may be given") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dependencies::dependency;
    use crate::cli::describe::tests::failed_job;

    fn item(line: &str) -> SubmitItem {
        parse(line.as_bytes(), "default").unwrap()
    }

    #[test]
    fn every_field_of_a_job_can_be_said() {
        let line = r#"{"queue": "q", "kind": "k",
            "payload": {"data": "aGk=", "mediaType": "text/plain", "metadata": {"key": "7"}, "sizeBytes": 2},
            "labels": {"a": "b"}, "headers": {"c": "d"}, "priority": -5, "maxAttempts": "3",
            "retryPolicy": {"initialDelay": "1.5s", "maxDelay": "1m", "multiplier": 3, "jitter": 0, "delays": ["5s", "60s"]},
            "attemptTimeout": "90s", "runTime": "1970-01-01T00:00:02Z",
            "expireTime": "1970-01-01T00:00:03Z", "deadlineTime": "1970-01-01T00:00:04Z", "maxSnoozes": 7,
            "maxProcessLosses": 2, "requestId": "r",
            "dependsOn": [{"jobId": "a"}, {"jobId": "b", "condition": "DEPENDENCY_CONDITION_ENDED", "optionalEdge": true}],
            "uniqueKey": {"key": "u", "scope": "queue", "onWaiting": "ON_CONFLICT_REPLACE", "onStarted": "follow",
                "hold": "1.5s", "debounce": {"quiet": "90s", "maxWait": "1m"}, "throttle": "1m"},
            "weights": {"gpu": 4, "mail": "2"}}"#;
        let duration = |millis| Some(to_wire_duration(std::time::Duration::from_millis(millis)));
        let policy = RetryPolicy {
            initial_delay: duration(1_500),
            max_delay: duration(60_000),
            multiplier: Some(3.0),
            jitter: Some(0.0),
            delays: vec![duration(5_000).unwrap(), duration(60_000).unwrap()],
        };
        let job = JobSpec {
            queue: "q".into(),
            kind: "k".into(),
            payload: Some(Payload {
                metadata: [("key".to_owned(), "7".to_owned())].into(),
                ..Payload::of("hi").with_type("text/plain")
            }),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            headers: [("c".to_owned(), "d".to_owned())].into(),
            priority: Some(-5),
            max_attempts: 3,
            retry_policy: Some(policy.into()),
            attempt_timeout: duration(90_000),
            start: Some(Start::RunTime(to_wire_timestamp(Timestamp::from_micros(2_000_000)))),
            expiry: Some(Expiry::ExpireTime(to_wire_timestamp(Timestamp::from_micros(3_000_000)))),
            deadline: Some(Deadline::DeadlineTime(to_wire_timestamp(Timestamp::from_micros(4_000_000)))),
            max_snoozes: Some(7),
            max_process_losses: 2,
            depends_on: ["a", "b:ended:optional"].map(|said| dependency(said).unwrap()).into(),
            unique_key: Some(Box::new(UniqueKey {
                key: "u".into(),
                scope: UniqueScope::Queue.into(),
                on_waiting: OnConflict::Replace.into(),
                on_started: OnConflict::Follow.into(),
                hold: duration(1_500),
                debounce: Some(Debounce { quiet: duration(90_000), max_wait: duration(60_000) }),
                throttle: duration(60_000),
            })),
            weights: [("gpu".to_owned(), 4), ("mail".to_owned(), 2)].into(),
        };
        assert_eq!(item(line), SubmitItem { job: Some(job), request_id: "r".into() });
        let relative =
            item(r#"{"kind": "k", "delay": "1.5s", "expire_after": "1m", "deadline_after": "2m"}"#)
                .job
                .unwrap();
        assert_eq!(relative.start, Some(Start::Delay(duration(1_500).unwrap())));
        assert_eq!(relative.expiry, Some(Expiry::ExpireAfter(duration(60_000).unwrap())));
        assert_eq!(relative.deadline, Some(Deadline::DeadlineAfter(duration(120_000).unwrap())));
    }

    #[test]
    fn a_spec_that_was_told_can_be_submitted_again() {
        let told = crate::cli::json::job(&failed_job())["spec"].to_string();
        let said = failed_job().spec.unwrap();
        let again = item(&told).job.unwrap();
        let (payload, before) = (again.payload.clone().unwrap(), said.payload.clone().unwrap());
        assert_eq!(payload.bytes(), before.bytes());
        assert_eq!((payload.media_type, payload.metadata), (before.media_type, before.metadata));
        assert_eq!(JobSpec { payload: None, ..again }, JobSpec { payload: None, ..said });
    }

    #[test]
    fn what_is_not_said_is_left_to_the_server_but_for_the_queue() {
        let job = JobSpec { queue: "default".into(), kind: "k".into(), ..Default::default() };
        assert_eq!(item(r#"{"kind": "k"}"#).job, Some(job.clone()));
        assert_eq!(item(r#"{"kind": "k", "labels": null, "run_time": null}"#).job, Some(job));
    }

    #[test]
    fn a_payload_may_be_text_or_json() {
        let payload = |line: &str| item(line).job.unwrap().payload.unwrap();
        assert_eq!(payload(r#"{"payloadText": "ü\n"}"#), Payload::of_text("ü\n"));
        assert_eq!(payload(r#"{"payload": {"text": "ü\n"}}"#), Payload::of_text("ü\n"));
        let json = Payload::of_text("{\"a\":[1,null]}").with_type("application/json");
        assert_eq!(payload(r#"{"payloadJson": {"a": [1, null]}}"#), json);
        let typed = r#"{"payload_json": 1, "payload": {"media_type": "x/y", "metadata": {"a": "b"}}}"#;
        let metadata = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(payload(typed), Payload { metadata, ..Payload::of_text("1").with_type("x/y") });
        assert_eq!(payload(r#"{"payload": {"data": "aGk"}}"#), Payload::of("hi"));
        assert_eq!(payload(r#"{"payload": {"data": "-_8"}}"#), Payload::of(vec![0xfb, 0xff]));
        assert_eq!(payload(r#"{"payload": {}}"#), Payload::default());
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
            r#"{"payload": {"data": "no base64!"}}"#,
            r#"{"payload": "aGk="}"#,
            r#"{"payload": {"kimd": "k"}}"#,
            r#"{"priority": 1.5}"#,
            r#"{"attemptTimeout": "soon"}"#,
            r#"{"attemptTimeout": "-1s"}"#,
            r#"{"attemptTimeout": "1.0000000001s"}"#,
            r#"{"runTime": "tomorrow"}"#,
            r#"{"payload": {"data": "aGk="}, "payloadText": "hi"}"#,
            r#"{"payload": {"data": "aGk=", "text": "hi"}}"#,
            r#"{"delay": "1s", "runTime": "2030-01-31T12:00:00Z"}"#,
            r#"{"expireAfter": "1s", "expireTime": "2030-01-31T12:00:00Z"}"#,
        ]
        .into_iter()
        .map(|line| {
            let fault = parse(line.as_bytes(), "default").unwrap_err();
            let column = fault.column.map_or("-".to_owned(), |column| column.to_string());
            format!("{column:>2} {}", fault.message.chars().take(80).collect::<String>())
        })
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
         1 a line must be a JSON object
         1 a line must be a JSON object
        12 EOF while parsing an object
        15 trailing characters
        10 invalid type: integer `7`, expected a string
         7 unknown field `kimd`, expected one of `queue`, `kind`, `payload`, `payloadText`,
        34 data must be base64; text goes into text
        18 invalid type: string "aGk=", expected an object
        19 unknown field `kimd`, expected one of `data`, `text`, `mediaType`, `media_type`,
        17 must be a whole number of 32 bits
        26 a duration is written like "1.5s", "250ms" or "5m"
        25 a duration is written like "1.5s", "250ms" or "5m"
        35 a duration is written like "1.5s", "250ms" or "5m"
        23 write it like 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+02:00
         - only one of payload.data, payload.text, payloadText and payloadJson may be given
         - only one of payload.data, payload.text, payloadText and payloadJson may be given
         - only one of runTime and delay may be given
         - only one of expireTime and expireAfter may be given
        "#);
    }
}
