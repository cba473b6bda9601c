//! The session driven by hand, and the whole worker against a scripted server.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks only at the frames that it is about")]

mod drive;
mod ending;
mod leases;
mod reports;
mod streams;
