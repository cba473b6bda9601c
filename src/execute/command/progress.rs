//! The line protocol for the progress of commands.

use std::time::Duration;

use serde::Deserialize;

/// Byte limit of a line; a longer one is dropped.
pub(super) const LINE_MAX_BYTES: usize = 4 * 1024;

/// Progress parsed from one line.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct ProgressLine {
    /// 0 to 1.
    pub(super) fraction: f64,
    #[serde(default)]
    pub(super) text: String,
    #[serde(default)]
    pub(super) step: String,
}

/// Parses a line by which a command tells for how long it wants to sleep, such as `snooze 90s`; returns `None` for any
/// other.
pub(super) fn parse_snooze(line: &[u8]) -> Option<Duration> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let (word, delay) = line.split_once(char::is_whitespace)?;
    if word != "snooze" {
        return None;
    }
    humantime::parse_duration(delay.trim_start()).ok()
}

/// Parses a line; returns `None` for one that is not of the protocol.
///
/// A fraction out of range is taken as a mistake (`42` for `42%`), so it is ignored, not clamped.
pub(super) fn parse(line: &[u8]) -> Option<ProgressLine> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let parsed = if line.starts_with('{') { serde_json::from_str(line).ok()? } else { parse_plain(line)? };
    (0.0..=1.0).contains(&parsed.fraction).then_some(parsed)
}

fn parse_plain(line: &str) -> Option<ProgressLine> {
    let (number, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (number, whole) = match number.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (number, 1.0),
    };
    // Rust also parses `inf`, `nan`, `1e-3` and signs as numbers, but a line of prose can begin with these.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    Some(ProgressLine { fraction: number / whole, text: text.trim_start().to_owned(), step: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(fraction: f64, text: &str, step: &str) -> Option<ProgressLine> {
        Some(ProgressLine { fraction, text: text.to_owned(), step: step.to_owned() })
    }

    #[test]
    fn a_line_is_a_fraction_a_percentage_or_an_object() {
        for (line, expected) in [
            ("0.5", parsed(0.5, "", "")),
            ("0.5 half of it", parsed(0.5, "half of it", "")),
            ("  50%\thalf of it ", parsed(0.5, "half of it", "")),
            ("12.5%", parsed(0.125, "", "")),
            ("0", parsed(0.0, "", "")),
            ("1.", parsed(1.0, "", "")),
            ("100% done", parsed(1.0, "done", "")),
            (r#"{"fraction":0.5}"#, parsed(0.5, "", "")),
            (r#"{"fraction":1,"text":"é","step":"s","other":[1]}"#, parsed(1.0, "é", "s")),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_tells_the_delay_of_a_snooze() {
        for (line, seconds) in [
            ("snooze 90s", Some(90)),
            (" snooze  2m 5s ", Some(125)),
            ("snooze 0s", Some(0)),
            ("snooze", None),
            ("snooze soon", None),
            ("snooze -5s", None),
            ("snoozed 90s", None),
            ("0.5 snooze 90s", None),
        ] {
            assert_eq!(parse_snooze(line.as_bytes()), seconds.map(Duration::from_secs), "{line:?}");
        }
    }

    #[test]
    fn any_other_line_is_none() {
        for line in [
            "",
            " ",
            ".",
            "%",
            "half",
            "inf",
            "nan",
            "-0.5",
            "+1",
            "1e-3",
            "42 done",
            "101%",
            "1.1",
            "0,5",
            "0.5.1",
            "{",
            "{}",
            r#"{"fraction":"0.5"}"#,
            r#"{"fraction":2}"#,
            r#"{"text":"x"}"#,
            "[0.5]",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(parse(b"\xff"), None);
    }
}
