//! What the values of schedules and calendars may be.

use serde_json::Value as Json;

use super::rules::Rule;
use crate::{job::names::NameError, timetable::DateRange};

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
