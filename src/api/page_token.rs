//! Page tokens: cursors to the next page, valid for one filter of one store only.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::validate::Validator;
use crate::{
    job::{JobId, names},
    settings::limits::LIMIT_VALUE_BYTES_MAX,
};

impl Validator {
    /// Adds the fault of a token that no page has.
    pub(super) fn no_page_token(&mut self) {
        self.fault("page_token", "is not the next_page_token of a page: start again without it");
    }
}

pub(super) fn issue(next: JobId, tag: [u8; 8]) -> String {
    format!("{next}{:016x}", u64::from_le_bytes(tag))
}

pub(super) fn read(token: &str, tag: [u8; 8]) -> Option<JobId> {
    let (id, its_tag) = token.split_at_checked(13)?;
    (its_tag == format!("{:016x}", u64::from_le_bytes(tag))).then_some(())?;
    id.parse().ok()
}

/// Issues the token of a page of queues, schedules, calendars or limits, from the last name on it.
pub(super) fn issue_after(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
}

/// Reads the name after which such a page begins.
pub(super) fn read_after(token: &str) -> Option<String> {
    let name = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    names::check_queue_name(&name).is_ok().then_some(name)
}

/// Mark of the tokens of pages of values, of which one may be empty.
const VALUE_MARK: char = '=';

/// Issues the token of a page of a limit's values, from the last one on it.
pub(super) fn issue_after_value(value: &str) -> String {
    issue_after(&format!("{VALUE_MARK}{value}"))
}

/// Reads the value after which a page of a limit's values begins.
pub(super) fn read_after_value(token: &str) -> Option<String> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let value = text.strip_prefix(VALUE_MARK)?;
    (value.len() <= LIMIT_VALUE_BYTES_MAX).then(|| value.to_owned())
}
