//! Rules for the names of queues and kinds, shared by the configuration and the API.

/// The only namespace so far.
pub(crate) const NAMESPACE: &str = "default";

/// Prefix of the kinds that are reserved for Jobmill.
const RESERVED_KINDS: &str = "jobmill/";

/// Kind of the jobs that run a closure of the embedding program.
pub const CLOSURE_KIND: &str = "jobmill/closure";

/// The error for text that is not a valid name of a queue or a kind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}; {rule}")]
pub struct NameError {
    problem: Problem,
    rule: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Problem {
    #[error("the name is empty")]
    Empty,
    #[error("the name has {len} bytes, the limit is {max}")]
    TooLong { len: usize, max: usize },
    #[error("the name starts with {char:?}")]
    Start { char: char },
    #[error("the name has {char:?} at position {position}")]
    Char { char: char, position: usize },
    #[error("the name starts with `{RESERVED_KINDS}`")]
    Reserved,
}

/// Checks the name of a queue.
///
/// # Errors
/// The rule, with the first character that breaks it and its position from 1.
pub fn check_queue_name(name: &str) -> Result<(), NameError> {
    check(
        name,
        63,
        |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'),
        "a queue's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
    )
}

/// Checks the name of a schedule.
///
/// # Errors
/// The rule, with the first character that breaks it and its position from 1.
pub fn check_schedule_name(name: &str) -> Result<(), NameError> {
    check(
        name,
        63,
        |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'),
        "a schedule's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
    )
}

/// Checks the name of a calendar.
///
/// # Errors
/// The rule, with the first character that breaks it and its position from 1.
pub fn check_calendar_name(name: &str) -> Result<(), NameError> {
    check(
        name,
        63,
        |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'),
        "a calendar's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
    )
}

/// Checks the name of a limit.
///
/// # Errors
/// The rule, with the first character that breaks it and its position from 1.
pub fn check_limit_name(name: &str) -> Result<(), NameError> {
    check(
        name,
        63,
        |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'),
        "a limit's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
    )
}

/// Checks the name of a kind.
///
/// # Errors
/// The rule, with the first character that breaks it and its position from 1.
pub fn check_kind_name(name: &str) -> Result<(), NameError> {
    check(
        name,
        128,
        |c| matches!(c, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b':'),
        "a kind's name is 1 to 128 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`, `:`, starting with a letter or digit",
    )
}

/// Checks the name of a kind that a job or a handler gives.
///
/// # Errors
/// As [`check_kind_name`], and where the name is reserved for Jobmill.
pub fn check_free_kind_name(name: &str) -> Result<(), NameError> {
    check_kind_name(name)?;
    if is_reserved_kind(name) {
        let rule = "such kinds are Jobmill's own: choose another name";
        return Err(NameError { problem: Problem::Reserved, rule });
    }
    Ok(())
}

/// Returns whether the kind is reserved for Jobmill.
#[must_use]
pub fn is_reserved_kind(name: &str) -> bool {
    name.starts_with(RESERVED_KINDS)
}

fn check(name: &str, max: usize, allowed: fn(u8) -> bool, rule: &'static str) -> Result<(), NameError> {
    let refuse = |problem| Err(NameError { problem, rule });
    let is_allowed = |c: char| u8::try_from(c).is_ok_and(allowed);
    let Some(start) = name.chars().next() else {
        return refuse(Problem::Empty);
    };
    if name.len() > max {
        return refuse(Problem::TooLong { len: name.len(), max });
    }
    if let Some((index, char)) = name.chars().enumerate().find(|(_, c)| !is_allowed(*c)) {
        return refuse(Problem::Char { char, position: index + 1 });
    }
    if !start.is_ascii_alphanumeric() {
        return refuse(Problem::Start { char: start });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_rules_are_accepted() {
        for name in ["a", "0", "default", "mail.high-priority_2", &"q".repeat(63)] {
            assert_eq!(check_queue_name(name), Ok(()), "{name}");
        }
        for name in ["a", "Z9", "mail.send", "img/resize:v2", "a..b", &"K".repeat(128)] {
            assert_eq!(check_kind_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refusals_state_the_rule_and_where_it_is_broken() {
        const QUEUE: &str =
            "a queue's name is 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit";
        for (name, problem) in [
            ("", "the name is empty"),
            (&*"q".repeat(64), "the name has 64 bytes, the limit is 63"),
            ("Mail", "the name has 'M' at position 1"),
            ("mail box", "the name has ' ' at position 5"),
            ("../etc", "the name has '/' at position 3"),
            ("-mail", "the name starts with '-'"),
            ("..", "the name starts with '.'"),
            ("a\0b", r"the name has '\0' at position 2"),
            ("a\u{202e}b", r"the name has '\u{202e}' at position 2"),
            ("éa", "the name has 'é' at position 1"),
        ] {
            let refusal = check_queue_name(name).expect_err(name).to_string();
            assert_eq!(refusal, format!("{problem}; {QUEUE}"));
        }
        assert_eq!(
            check_free_kind_name(CLOSURE_KIND).expect_err("reserved").to_string(),
            "the name starts with `jobmill/`; such kinds are Jobmill's own: choose another name"
        );
        assert_eq!(check_free_kind_name("jobmill"), Ok(()));
        for name in ["", "/mail", ":a", "mail send", "a\\b", &"k".repeat(129)] {
            assert!(check_kind_name(name).is_err(), "{name}");
        }
    }
}
