//! Rules for the values of settings, whichever source a value comes from.
//!
//! An error tells what was found, what the limit is and what to write instead. [`super::section`] adds the place and
//! the key.

use std::{fmt::Display, ops::RangeInclusive, sync::Arc, time::Duration};

use serde_json::Value as Json;
use toml::de::DeValue;

use super::units::{parse_duration, parse_size, show_duration, show_size};
use crate::{admission::rules::label_name, clock::Timestamp, settings::Keep};

/// The rule of a setting's values.
pub(super) trait Rule {
    /// The value, ready to use.
    type Value;

    /// Returns what to write, as a noun phrase.
    fn wanted(&self) -> String;

    /// Reads a value of the file. Most are text.
    fn value(&self, value: &DeValue<'_>) -> Result<Self::Value, String> {
        match value.as_str() {
            Some(text) => self.text(text),
            None => Err(self.wrong_type(value)),
        }
    }

    /// Reads the text of a file's string, of a variable or of a flag.
    fn text(&self, text: &str) -> Result<Self::Value, String>;

    /// Returns the value as a file would write it.
    fn show(&self, value: &Self::Value) -> Json;

    fn wrong_type(&self, value: &DeValue<'_>) -> String {
        format!("{}; write {}", describe(value), self.wanted())
    }
}

/// Quotes text, with control characters escaped, and cut after 200 characters.
pub(super) fn quote(text: &str) -> String {
    const SHOWN_CHARS: usize = 200;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Describes a value of the wrong type.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{} is text", quote(text)),
        DeValue::Integer(number) => format!("{number} is a number"),
        DeValue::Float(number) => format!("{} is a number", number.as_str()),
        DeValue::Boolean(flag) => format!("{flag} is a truth value"),
        DeValue::Datetime(datetime) => format!("{datetime} is a date or time"),
        DeValue::Array(_) => "this is a list".to_owned(),
        DeValue::Table(_) => "this is a table".to_owned(),
    }
}

/// Refuses a value outside of `limits`; `shown` is its name in the message.
fn within<T: PartialOrd>(
    value: T,
    limits: &RangeInclusive<T>,
    shown: &str,
    show: impl Fn(&T) -> String,
    wanted: &str,
) -> Result<T, String> {
    if limits.contains(&value) {
        return Ok(value);
    }
    let (relation, limit) = if value < *limits.start() {
        ("under the minimum", limits.start())
    } else {
        ("over the limit", limits.end())
    };
    Err(format!("{shown} is {relation} of {}; write {wanted}", show(limit)))
}

/// A duration.
pub(super) struct DurationIn(pub(super) RangeInclusive<Duration>);

impl Rule for DurationIn {
    type Value = Duration;

    fn wanted(&self) -> String {
        let (least, most) = (show_duration(*self.0.start()), show_duration(*self.0.end()));
        format!("a duration from {least} to {most}, such as \"30s\"")
    }

    fn text(&self, text: &str) -> Result<Duration, String> {
        let Some(duration) = parse_duration(text) else {
            return Err(format!("{} is not a duration; write {}", quote(text), self.wanted()));
        };
        within(duration, &self.0, &quote(text), |limit| show_duration(*limit), &self.wanted())
    }

    fn show(&self, value: &Duration) -> Json {
        show_duration(*value).into()
    }
}

const FOREVER: &str = "forever";

/// How long ended jobs are kept: a duration, or `forever`.
pub(super) struct KeepIn(pub(super) RangeInclusive<Duration>);

impl Rule for KeepIn {
    type Value = Keep;

    fn wanted(&self) -> String {
        format!("{}, or \"forever\"", DurationIn(self.0.clone()).wanted())
    }

    fn text(&self, text: &str) -> Result<Keep, String> {
        match DurationIn(self.0.clone()).text(text) {
            _ if text == FOREVER => Ok(Keep::Forever),
            duration => duration.map(Keep::For).map_err(|message| format!("{message}, or \"forever\"")),
        }
    }

    fn show(&self, value: &Keep) -> Json {
        if let Keep::For(duration) = value { show_duration(*duration).into() } else { FOREVER.into() }
    }
}

/// A size in bytes.
pub(super) struct SizeIn(pub(super) RangeInclusive<u64>);

impl Rule for SizeIn {
    type Value = u64;

    fn wanted(&self) -> String {
        let (least, most) = (show_size(*self.0.start()), show_size(*self.0.end()));
        format!("a size from {least} to {most}, such as \"64MiB\" or a number of bytes")
    }

    fn value(&self, value: &DeValue<'_>) -> Result<u64, String> {
        match (value.as_str(), value.as_integer()) {
            (Some(text), _) => self.text(text),
            (None, Some(_)) => IntIn(self.0.clone()).read(value, |bytes| show_size(*bytes), &self.wanted()),
            (None, None) => Err(self.wrong_type(value)),
        }
    }

    fn text(&self, text: &str) -> Result<u64, String> {
        let Some(bytes) = parse_size(text) else {
            return Err(format!("{} is not a size; write {}", quote(text), self.wanted()));
        };
        within(bytes, &self.0, &quote(text), |limit| show_size(*limit), &self.wanted())
    }

    fn show(&self, value: &u64) -> Json {
        show_size(*value).into()
    }
}

/// A whole number.
pub(super) struct IntIn<T>(pub(super) RangeInclusive<T>);

impl<T: Copy + Display + Into<i128> + TryFrom<i128>> IntIn<T> {
    fn read(&self, value: &DeValue<'_>, show: fn(&T) -> String, wanted: &str) -> Result<T, String> {
        let Some(integer) = value.as_integer() else {
            return Err(format!("{}; write {wanted}", describe(value)));
        };
        let shown = integer.to_string();
        // A number that does not fit 128 bits counts as the extreme on the side of its sign.
        let extreme = if integer.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(extreme);
        let limits = (*self.0.start()).into()..=(*self.0.end()).into();
        let show =
            |limit: &i128| T::try_from(*limit).map_or_else(|_| limit.to_string(), |limit| show(&limit));
        let number = within(number, &limits, &shown, show, wanted)?;
        T::try_from(number).map_err(|_| format!("{shown} does not fit; write {wanted}"))
    }
}

impl<T: Copy + Display + Into<i128> + TryFrom<i128> + Into<Json>> Rule for IntIn<T> {
    type Value = T;

    fn wanted(&self) -> String {
        format!("a whole number from {} to {}", self.0.start(), self.0.end())
    }

    fn value(&self, value: &DeValue<'_>) -> Result<T, String> {
        self.read(value, ToString::to_string, &self.wanted())
    }

    fn text(&self, text: &str) -> Result<T, String> {
        Err(format!("{} is text; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &T) -> Json {
        (*value).into()
    }
}

/// A number with or without a fraction.
pub(super) struct FloatIn(pub(super) RangeInclusive<f64>);

impl Rule for FloatIn {
    type Value = f64;

    fn wanted(&self) -> String {
        format!("a number from {} to {}", self.0.start(), self.0.end())
    }

    fn value(&self, value: &DeValue<'_>) -> Result<f64, String> {
        let text = match (value.as_float(), value.as_integer()) {
            (Some(float), _) => float.as_str(),
            (None, Some(integer)) if integer.radix() == 10 => integer.as_str(),
            (None, _) => return Err(self.wrong_type(value)),
        };
        match text.parse::<f64>() {
            Ok(number) if !number.is_nan() => {
                within(number, &self.0, text, ToString::to_string, &self.wanted())
            }
            Ok(_) | Err(_) => Err(format!("{text} is not a number; write {}", self.wanted())),
        }
    }

    fn text(&self, text: &str) -> Result<f64, String> {
        Err(format!("{} is text; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &f64) -> Json {
        (*value).into()
    }
}

/// An instant with its offset.
pub(super) struct Instant;

impl Rule for Instant {
    type Value = Timestamp;

    fn wanted(&self) -> String {
        "an instant with its offset, such as 2030-01-31T12:00:00Z".to_owned()
    }

    fn value(&self, value: &DeValue<'_>) -> Result<Timestamp, String> {
        match value {
            DeValue::Datetime(datetime) => self.text(&datetime.to_string()),
            DeValue::String(text) => self.text(text),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err(self.wrong_type(value)),
        }
    }

    fn text(&self, text: &str) -> Result<Timestamp, String> {
        let instant: Result<jiff::Timestamp, _> = text.parse();
        instant
            .map(|instant| Timestamp::from_micros(instant.as_microsecond()))
            .map_err(|_| format!("{} is not an instant; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &Timestamp) -> Json {
        value.to_string().into()
    }
}

/// The name of a label.
pub(super) struct LabelName;

impl Rule for LabelName {
    type Value = Arc<str>;

    fn wanted(&self) -> String {
        "the name of a label, such as \"tenant\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<Arc<str>, String> {
        label_name(text).map(|()| Arc::from(text))
    }

    fn show(&self, value: &Arc<str>) -> Json {
        (**value).into()
    }
}

/// True or false.
pub(super) struct Bool;

impl Rule for Bool {
    type Value = bool;

    fn wanted(&self) -> String {
        "true or false".to_owned()
    }

    fn value(&self, value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| self.wrong_type(value))
    }

    fn text(&self, text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| format!("{} is not a truth value; write true or false", quote(text)))
    }

    fn show(&self, value: &bool) -> Json {
        (*value).into()
    }
}

/// One of several words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Rule for Choice<T> {
    type Value = T;

    fn wanted(&self) -> String {
        self.0.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
    }

    fn text(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, choice)| *choice)
            .ok_or_else(|| format!("{} is none of the choices; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &T) -> Json {
        self.0.iter().find(|(_, choice)| choice == value).map(|(word, _)| *word).into()
    }
}

/// A setting that may be `off`.
pub(super) struct OrOff<R>(pub(super) R);

const OFF: &str = "off";

impl<R: Rule> Rule for OrOff<R> {
    type Value = Option<R::Value>;

    fn wanted(&self) -> String {
        format!("{}, or {OFF:?}", self.0.wanted())
    }

    fn text(&self, text: &str) -> Result<Option<R::Value>, String> {
        if text == OFF { Ok(None) } else { self.0.text(text).map(Some) }
    }

    fn show(&self, value: &Option<R::Value>) -> Json {
        value.as_ref().map_or_else(|| OFF.into(), |value| self.0.show(value))
    }
}

/// A filter of log lines.
pub(super) struct LogFilter;

impl Rule for LogFilter {
    type Value = String;

    fn wanted(&self) -> String {
        "a level (off, error, warn, info, debug, trace) or a list such as \"info,jobmill=debug\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        check_filter(text)
            .map(|()| text.to_owned())
            .map_err(|problem| format!("{problem}; write {}", self.wanted()))
    }

    fn show(&self, value: &String) -> Json {
        value.as_str().into()
    }
}

#[cfg(feature = "cli")]
fn check_filter(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A filter would take a misspelt level for the name of a module, and show only that module.
    for word in text.split(',').map(|word| word.trim().to_lowercase()) {
        if let Some(level) = nearest(&word, &LEVELS).filter(|level| *level != word) {
            return Err(format!("{} is not a level, unlike \"{level}\"", quote(&word)));
        }
    }
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    match directives.map(str::parse::<tracing_subscriber::filter::Targets>).find_map(Result::err) {
        None => Ok(()),
        Some(_) => Err(format!("{} is not a filter", quote(text))),
    }
}

/// Accepts every filter: without the feature `cli` there is no log to filter.
#[cfg(not(feature = "cli"))]
fn check_filter(_text: &str) -> Result<(), String> {
    Ok(())
}

/// Returns the known word that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(word, known), *known));
    let (distance, nearest) = distances.min()?;
    (distance <= nearest.len().div_ceil(3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_a_stranger_is_not() {
        let known = ["drain_timeout", "listen", "env", "data_dir"];
        for (word, meant) in [
            ("drain-timeout", Some("drain_timeout")),
            ("drian_timeout", Some("drain_timeout")),
            ("lisen", Some("listen")),
            ("evn", Some("env")),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }

    #[test]
    fn quoted_text_is_harmless_and_short() {
        assert_eq!(quote("a\u{1b}[31m\"\n"), r#""a\u{1b}[31m\"\n""#);
        assert_eq!(quote(&"é".repeat(201)), format!("\"{}\"…", "é".repeat(200)));
    }

    #[test]
    fn filters_of_log_lines() {
        for text in ["info", "INFO", "info,jobmill=debug", "warn,jobmill::store=trace", "my_crate"] {
            assert_eq!(LogFilter.text(text).as_deref(), Ok(text));
        }
        for text in ["inof", "info,debgu", "jobmill=loud"] {
            assert!(LogFilter.text(text).is_err(), "{text}");
        }
    }
}
