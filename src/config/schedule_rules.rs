//! What the values of schedules and calendars may be.

use serde_json::Value as Json;
use toml::de::DeValue;

use super::rules::{Rule, quote};
use crate::{clock::Timestamp, job::names::NameError, timetable::DateRange};

/// A text of at most 1 MiB.
pub(super) struct Text(pub(super) &'static str);

impl Rule for Text {
    type Value = String;

    fn wanted(&self) -> String {
        self.0.to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        const MAX_BYTES: usize = 1 << 20;
        if text.len() > MAX_BYTES {
            return Err(format!(
                "the text has {} bytes, the limit is {MAX_BYTES}; write {}",
                text.len(),
                self.wanted()
            ));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> Json {
        value.as_str().into()
    }
}

/// The name of a schedule, or of what it refers to.
pub(super) struct Name(pub(super) fn(&str) -> Result<(), NameError>);

impl Rule for Name {
    type Value = String;

    fn wanted(&self) -> String {
        "a name".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        (self.0)(text).map_err(|error| error.to_string())?;
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> Json {
        value.as_str().into()
    }
}

/// A date, or a range of dates.
pub(super) struct Dates;

impl Rule for Dates {
    type Value = DateRange;

    fn wanted(&self) -> String {
        "a date such as \"2026-12-25\", or a range such as \"2026-12-24..2026-12-26\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<DateRange, String> {
        text.parse()
    }

    fn show(&self, value: &DateRange) -> Json {
        value.to_string().into()
    }
}

/// An instant.
pub(super) struct Instant;

impl Rule for Instant {
    type Value = Timestamp;

    fn wanted(&self) -> String {
        "an instant such as \"2026-12-24T18:00:00Z\"".to_owned()
    }

    fn value(&self, value: &DeValue<'_>) -> Result<Timestamp, String> {
        match (value.as_datetime(), value.as_str()) {
            (Some(datetime), _) => self.text(&datetime.to_string()),
            (None, Some(text)) => self.text(text),
            (None, None) => Err(self.wrong_type(value)),
        }
    }

    fn text(&self, text: &str) -> Result<Timestamp, String> {
        let instant: Result<jiff::Timestamp, _> = text.parse();
        let micros = instant.map(jiff::Timestamp::as_microsecond);
        micros
            .map(Timestamp::from_micros)
            .map_err(|_| format!("{} is no instant; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &Timestamp) -> Json {
        value.to_string().into()
    }
}
