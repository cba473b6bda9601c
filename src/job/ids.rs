//! Ids, tokens and positions, each a type of its own.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Id of a job, unique in its store. Ids sort by the time of submission; only the committer assigns them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(i64);

impl JobId {
    /// Number of low bits, which count the jobs of one millisecond. The bits above are milliseconds since 1970.
    const SEQUENCE_BITS: u32 = 20;
    /// Limit of the milliseconds, in the year 2109. However far ahead a clock is, half of all ids are left beyond it.
    const MILLIS_MAX: i64 = 1 << 42;
    /// Crockford's base 32 in lower case: no letters that look like digits.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const TEXT_LEN: usize = 13;

    pub(crate) const fn from_raw(raw: i64) -> Self {
        JobId(raw)
    }

    pub(crate) const fn raw(self) -> i64 {
        self.0
    }

    /// Returns the smallest id that a job accepted at `instant` can have.
    pub(crate) fn lowest_at(instant: Timestamp) -> Self {
        JobId((instant.as_micros().max(0) / 1000).min(Self::MILLIS_MAX) << Self::SEQUENCE_BITS)
    }

    /// Returns the first of several consecutive new ids: after `last`, and not before `now` on the clock.
    pub(crate) fn next(last: JobId, now: Timestamp) -> Self {
        JobId(Self::lowest_at(now).0.max(last.0 + 1))
    }

    /// Returns the id that is `n` larger.
    pub(crate) const fn plus(self, n: i64) -> Self {
        JobId(self.0 + n)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; Self::TEXT_LEN];
        let mut rest = self.0 as u64;
        for place in text.iter_mut().rev() {
            *place = Self::ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for text that is not a job id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job id: ids are 13 characters as Submit returned them")]
pub struct InvalidJobId;

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if text.len() != Self::TEXT_LEN {
            return Err(InvalidJobId);
        }
        let mut raw: u64 = 0;
        for byte in text.bytes() {
            let digit = Self::ALPHABET.iter().position(|&c| c == byte).ok_or(InvalidJobId)?;
            // 13 digits of 5 bits are 65 bits, so that the first digit may not use its top bit.
            raw = raw.checked_mul(32).ok_or(InvalidJobId)? | digit as u64;
        }
        i64::try_from(raw).map(JobId).map_err(|_| InvalidJobId)
    }
}

/// Lease of an attempt, which entitles it to report. Tokens never decrease within a store. Not the attempt's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseToken(i64);

impl LeaseToken {
    pub(crate) const fn from_raw(raw: i64) -> Self {
        LeaseToken(raw)
    }

    /// Returns the token as a number, for handlers that fence their side effects with it.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }
}

/// Position in the store's change feed. Each change of a job takes the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub(crate) i64);

impl Position {
    /// Returns the position as a number.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// Returns the next position.
    #[must_use]
    pub const fn next(self) -> Self {
        Position(self.0 + 1)
    }
}

/// Name of a queue or a kind, and the number that the store uses for it. A number may be reused once nothing refers to
/// its name any more.
#[derive(Debug)]
pub struct Name {
    pub(crate) number: u32,
    text: Box<str>,
}

impl Name {
    pub(crate) fn new(number: u32, text: &str) -> Arc<Self> {
        Arc::new(Name { number, text: text.into() })
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.number == other.number && self.text == other.text)
    }
}

impl Eq for Name {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text_and_sorts_like_it() {
        let ids = [0, 1, 31, 32, 1 << 40, i64::MAX - 1, i64::MAX].map(JobId::from_raw);
        let texts = ids.map(|id| id.to_string());
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*id));
        }
        assert!(texts.is_sorted());
    }

    #[test]
    fn names_are_equal_by_number_and_text() {
        let name = Name::new(1, "mail");
        assert_eq!(name, Name::new(1, "mail"));
        assert_ne!(name, Name::new(1, "img"));
        assert_ne!(name, Name::new(2, "mail"));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in
            ["", "0", "zzzzzzzzzzzzz", "8000000000000", "000000000000I", "0000000000000 ", "00000000000é"]
        {
            assert_eq!(text.parse::<JobId>(), Err(InvalidJobId), "{text:?}");
        }
    }

    #[test]
    fn ids_grow_when_the_clock_is_set_back() {
        let late = JobId::next(JobId::from_raw(0), Timestamp::from_micros(5_000_000));
        let set_back = JobId::next(late, Timestamp::from_micros(1_000_000));
        assert_eq!(set_back, late.plus(1));
    }
}
