//! Text for people: escaping of text from elsewhere, times and sizes.

use std::{borrow::Cow, fmt::Write, time::Duration};

use clap::builder::styling::{AnsiColor, Style};

use jobmill::{clock::Timestamp, proto::v1::JobState};

/// Escapes characters that could control a terminal, or reverse the direction of text.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    escape_but(text, &[])
}

/// Escapes text as [`escape`] does, but keeps line breaks and tabs.
pub(super) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_but(text, &['\n', '\t'])
}

fn escape_but<'t>(text: &'t str, kept: &[char]) -> Cow<'t, str> {
    let harmful = |c: char| is_harmful(c) && !kept.contains(&c);
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !harmful(c) {
            escaped.push(c);
            continue;
        }
        // Writing to a string can't fail.
        let _ = match c {
            '\n' | '\r' | '\t' => write!(escaped, "{}", c.escape_default()),
            c if c.is_ascii() => write!(escaped, "\\x{:02x}", u32::from(c)),
            c => write!(escaped, "{}", c.escape_unicode()),
        };
    }
    Cow::Owned(escaped)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Quotes a text as one word of a shell's command line, if it needs that.
pub(super) fn word(text: &str) -> Cow<'_, str> {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_bare) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", escape(text).replace('\'', "'\\''")))
}

/// Formats a duration in at most two units: `340ms`, `1.2s`, `2m 5s`, `3d 4h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => {
            let tenths = duration.as_millis() / 100;
            match tenths % 10 {
                0 => format!("{}s", tenths / 10),
                rest => format!("{}.{rest}s", tenths / 10),
            }
        }
        10..=59 => format!("{seconds}s"),
        60..=3599 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..=86_399 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Formats the distance of an instant from the present: `3s ago`, `in 2m`.
pub(super) fn relative(instant: Timestamp, now: Timestamp) -> String {
    let coarse =
        |span: Duration| if span.as_secs() == 0 { span } else { Duration::from_secs(span.as_secs()) };
    if instant > now {
        // Rounded, so that what was just set to 2 s from now does not show as 1 s.
        let left = instant.since(now);
        let rounded = if left.as_secs() == 0 { left } else { left + Duration::from_millis(500) };
        format!("in {}", duration(coarse(rounded)))
    } else if now.since(instant) < Duration::from_secs(1) {
        "now".to_owned()
    } else {
        format!("{} ago", duration(coarse(now.since(instant))))
    }
}

/// Formats an instant in full, with its distance from the present.
pub(super) fn instant(instant: Timestamp, now: Timestamp) -> String {
    format!("{instant} ({})", relative(instant, now))
}

/// Formats a number of bytes: `12 bytes`, `1.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
    }
    let mut value = count as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Formats a count with its noun: `1 job`, `2 jobs`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Formats names and values in two columns, one line each.
pub(super) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    fields.into_iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}

/// Returns the fields of a list of values. Only the first field has the name.
pub(super) fn listed(
    name: &'static str,
    values: impl Iterator<Item = String>,
) -> impl Iterator<Item = (&'static str, String)> {
    values.enumerate().map(move |(index, value)| (if index == 0 { name } else { "" }, value))
}

/// Shortens a text to `max_chars` characters, and marks the cut with an ellipsis.
pub(super) fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the name of a state, or its number where this program does not know it.
pub(super) fn state(number: i32) -> String {
    match JobState::try_from(number) {
        Ok(state) => state.as_str_name().trim_start_matches("JOB_STATE_").to_owned(),
        Err(_) => format!("STATE {number}"),
    }
}

/// Returns the colour of a state, or `None` for states that need no emphasis.
pub(super) fn state_colour(number: i32) -> Option<AnsiColor> {
    match JobState::try_from(number).ok()? {
        JobState::Running => Some(AnsiColor::Cyan),
        JobState::BackingOff | JobState::Cancelling => Some(AnsiColor::Yellow),
        JobState::Succeeded => Some(AnsiColor::Green),
        JobState::Failed => Some(AnsiColor::Red),
        JobState::Cancelled | JobState::Expired => Some(AnsiColor::Magenta),
        JobState::Unspecified | JobState::Scheduled | JobState::Blocked | JobState::Queued => None,
    }
}

/// Colours a text, if a colour is given.
pub(super) fn coloured(text: &str, colour: Option<AnsiColor>) -> String {
    match colour {
        Some(colour) => {
            let style = Style::new().fg_color(Some(colour.into()));
            format!("{style}{text}{style:#}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_shown_by_its_number() {
        for (text, expected) in [
            ("plain é 日本 🦀", "plain é 日本 🦀"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\u{1b}[2J\u{7}\0\u{7f}", "\\x1b[2J\\x07\\x00\\x7f"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("abc\u{202e}cba\u{2066}\u{200f}", "abc\\u{202e}cba\\u{2066}\\u{200f}"),
            ("two\u{2028}lines", "two\\u{2028}lines"),
        ] {
            assert_eq!(escape(text), expected);
        }
        assert_eq!(escape_lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\x1b");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (millis, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_290, "1.2s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (125_000, "2m 5s"),
            (3_600_000, "1h"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn instants_are_told_from_the_present() {
        let now = Timestamp::from_micros(1_000_000_000);
        for (offset_millis, expected) in [
            (0, "now"),
            (-900, "now"),
            (-3_700, "3s ago"),
            (-61_000, "1m 1s ago"),
            (250, "in 250ms"),
            (2_900, "in 3s"),
            (2_400, "in 2s"),
        ] {
            let instant = Timestamp::from_micros(now.as_micros() + offset_millis * 1_000);
            assert_eq!(relative(instant, now), expected, "{offset_millis}");
        }
    }

    #[test]
    fn sizes_are_rounded_for_people() {
        for (count, expected) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn a_state_from_the_future_is_told_by_its_number() {
        assert_eq!(state(JobState::BackingOff.into()), "BACKING_OFF");
        assert_eq!(state(14), "STATE 14");
    }
}
