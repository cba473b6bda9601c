//! Durations and sizes in their written form.

use std::time::Duration;

/// The units of sizes, largest first. All are powers of 1,024: `MB` is ambiguous, `MiB` is not.
const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Parses a duration such as `30s`, `15m` or `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Formats a duration so that [`parse_duration`] reads it back.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Parses a size such as `64KiB` or `1GiB`, or a number of bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" => 1,
        unit => SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Formats a size so that [`parse_size`] reads it back, in the largest unit that gives a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    let whole = SIZE_UNITS.into_iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    let (unit, factor) = whole.unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_shown() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1_000, "1000B"),
            (1_024, "1KiB"),
            (1_536, "1536B"),
            (64 << 10, "64KiB"),
            (1 << 30, "1GiB"),
            (3 << 40, "3TiB"),
        ] {
            assert_eq!(show_size(bytes), text);
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
    }

    #[test]
    fn text_that_is_no_size_is_refused() {
        for text in
            ["", "GiB", "1GB", "1gib", "1.5GiB", "-1", "1GiBs", "16777216TiB", "18446744073709551616", "1 2"]
        {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_read_back_as_they_are_shown() {
        for text in ["0s", "1ms", "30s", "15m", "1h 30m", "30days"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
        for text in ["", "30", "soon", "-1s", "1e3s", "999999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }
}
