//! Page tokens: where the next page starts, for one filter of one store only.

use crate::job::JobId;

pub(super) fn issue(next: JobId, tag: [u8; 8]) -> String {
    format!("{next}{:016x}", u64::from_le_bytes(tag))
}

pub(super) fn read(token: &str, tag: [u8; 8]) -> Option<JobId> {
    let (id, its_tag) = token.split_at_checked(13)?;
    (its_tag == format!("{:016x}", u64::from_le_bytes(tag))).then_some(())?;
    id.parse().ok()
}
