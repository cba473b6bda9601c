//! Page tokens: cursors to the next page, valid for one filter of one store only.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::job::{JobId, names};

pub(super) fn issue(next: JobId, tag: [u8; 8]) -> String {
    format!("{next}{:016x}", u64::from_le_bytes(tag))
}

pub(super) fn read(token: &str, tag: [u8; 8]) -> Option<JobId> {
    let (id, its_tag) = token.split_at_checked(13)?;
    (its_tag == format!("{:016x}", u64::from_le_bytes(tag))).then_some(())?;
    id.parse().ok()
}

/// Issues the token of a page of queues, from the last name on it.
pub(super) fn issue_after(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
}

/// Reads the name after which a page of queues begins.
pub(super) fn read_after(token: &str) -> Option<String> {
    let name = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    names::check_queue_name(&name).is_ok().then_some(name)
}
