//! Request headers that pass the client's metadata of a job on to the endpoint.

use std::{collections::BTreeMap, fmt::Write};

use http::{HeaderMap, HeaderName, HeaderValue, header::InvalidHeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    execute::{Attempt, HandlerError},
    job::FailureReason,
};

const DEADLINE: HeaderName = HeaderName::from_static("jobmill-deadline");
const REQUEST_ID: HeaderName = HeaderName::from_static("jobmill-request-id");
const LABELS: HeaderName = HeaderName::from_static("jobmill-labels");
const PAYLOAD_METADATA: HeaderName = HeaderName::from_static("jobmill-payload-metadata");
/// Prefix of the client's headers. It keeps them apart from headers that the operator sets, such as `Authorization`.
const HEADER_PREFIX: &str = "jobmill-header-";
/// Characters that are percent-encoded in a request id: all that have a meaning in URLs or are not allowed in a header.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Byte limit of a header line, after which entries go into another line: many servers refuse lines of more than 8 KiB.
const LINE_BYTES: usize = 4 << 10;

/// Adds the job's metadata to the headers of a request.
///
/// # Errors
/// When a header of the job is not valid in HTTP. That is checked at submission, so it is not expected here.
pub(super) fn add(headers: &mut HeaderMap, attempt: &Attempt) -> Result<(), HandlerError> {
    set(headers, DEADLINE, &attempt.deadline().to_string())?;
    if !attempt.request_id().is_empty() {
        set(headers, REQUEST_ID, &utf8_percent_encode(attempt.request_id(), ENCODED).to_string())?;
    }
    let objects = [(LABELS, attempt.labels()), (PAYLOAD_METADATA, &attempt.payload_info().metadata)];
    for (name, entries) in objects {
        for line in lines(entries) {
            let line = HeaderValue::from_str(&line).map_err(|error| not_sendable(name.as_str(), &error))?;
            headers.append(name.clone(), line);
        }
    }
    for (key, value) in attempt.headers() {
        let name = HeaderName::try_from(format!("{HEADER_PREFIX}{key}"));
        set(headers, name.map_err(|error| not_sendable(key, &error))?, value)?;
    }
    Ok(())
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), HandlerError> {
    let value = HeaderValue::from_str(value);
    let value = value.map_err(|error: InvalidHeaderValue| not_sendable(name.as_str(), &error))?;
    headers.insert(name, value);
    Ok(())
}

fn not_sendable(name: &str, error: &dyn std::error::Error) -> HandlerError {
    let message = format!("the job's header {name:?} can't be sent: {error}");
    HandlerError::new(FailureReason::StartFailed, message, false)
}

/// Encodes entries as JSON objects in ASCII, one for each header line.
fn lines(entries: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (key, value) in entries {
        let entry = format!("{}:{}", ascii(key), ascii(value));
        match lines.last_mut() {
            Some(line) if line.len() + entry.len() < LINE_BYTES => {
                line.push(',');
                line.push_str(&entry);
            }
            Some(_) | None => lines.push(entry),
        }
    }
    lines.into_iter().map(|line| format!("{{{line}}}")).collect()
}

/// Encodes text as a JSON string in ASCII.
fn ascii(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                // Writing to a string can't fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[String]) -> BTreeMap<String, String> {
        let objects = lines.iter().map(|line| {
            assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line}");
            serde_json::from_str::<BTreeMap<String, String>>(line).unwrap()
        });
        objects.flatten().collect()
    }

    #[test]
    fn json_in_a_header_is_ascii_and_means_the_same() {
        let entries =
            BTreeMap::from([("städte".to_owned(), "Z\u{fc}rich \u{1f600} \"\u{7f}\"\r\n".to_owned())]);
        assert_eq!(read(&lines(&entries)), entries);
        assert!(lines(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn long_entries_are_in_several_lines() {
        let entry = |number: usize| (format!("key-{number:02}"), "\u{fc}".repeat(128));
        let entries: BTreeMap<_, _> = (0..32).map(entry).collect();
        let lines = lines(&entries);
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= LINE_BYTES + 2), "{}", lines.len());
        assert_eq!(read(&lines), entries);
    }
}
