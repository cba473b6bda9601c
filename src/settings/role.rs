//! Roles, and the queues that they apply to.

use std::{fmt, str::FromStr};

use wildmatch::WildMatch;

/// Permissions of a token.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Submit jobs, and follow those while the call lasts.
    Submit,
    /// See jobs and queues.
    Read,
    /// Cancel jobs.
    Cancel,
    /// Run jobs as a remote worker.
    Work,
    /// All of the above; and retry and delete jobs, and manage queues.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 5] = [Role::Submit, Role::Read, Role::Cancel, Role::Work, Role::Admin];

    /// Returns the role's name, as in files and flags.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Submit => "submit",
            Role::Read => "read",
            Role::Cancel => "cancel",
            Role::Work => "work",
            Role::Admin => "admin",
        }
    }

    /// Returns the role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// Returns whether a caller with this role has the other role too.
    #[must_use]
    pub fn includes(self, other: Role) -> bool {
        self == other || self == Role::Admin
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Pattern for the names of queues: `*` stands for any characters, or none.
#[derive(Clone, PartialEq, Debug)]
pub struct QueuePattern(WildMatch);

/// The error for text that could match no queue's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is not a pattern for queues: write 1 to 63 of a-z, 0-9, `-`, `_`, `.`, and `*` for any characters, such as \
     \"mail*\""
)]
pub struct PatternError(String);

impl QueuePattern {
    /// Returns whether the pattern matches a queue.
    #[must_use]
    pub fn fits(&self, queue: &str) -> bool {
        self.0.matches(queue)
    }

    /// Returns whether the pattern matches all queues.
    #[must_use]
    pub fn fits_all(&self) -> bool {
        self.0.pattern().chars().all(|c| c == '*')
    }
}

impl FromStr for QueuePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*');
        if !(1..=63).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(PatternError(text.chars().take(100).collect()));
        }
        Ok(QueuePattern(WildMatch::new(text)))
    }
}

impl fmt::Display for QueuePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.pattern())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, queue, fits) in [
            ("mail", "mail", true),
            ("mail", "mails", false),
            ("mail", "email", false),
            ("mail*", "mail", true),
            ("mail*", "mail.bulk", true),
            ("*.bulk", "mail.bulk", true),
            ("*.bulk", "mail.bulk.x", false),
            ("a*b*c", "a.x.b.c", true),
            ("m.il", "mail", false),
        ] {
            assert_eq!(pattern.parse::<QueuePattern>().unwrap().fits(queue), fits, "{pattern} {queue}");
        }
        assert!("**".parse::<QueuePattern>().unwrap().fits_all());
        assert!(!"a*".parse::<QueuePattern>().unwrap().fits_all());
        for text in ["", "Mail", "mail?", "a b", "é", &"a".repeat(64)] {
            assert!(text.parse::<QueuePattern>().is_err(), "{text}");
        }
    }
}
