//! Metrics and readiness of a server: [`page`] renders the counters and the values that are read on a scrape,
//! [`endpoint`] serves them over HTTP. docs/metrics.md lists every metric; a test compares.

pub(crate) mod endpoint;
mod lost;
mod page;

pub use self::page::PageError;
pub(crate) use self::{lost::LostLineCounts, page::Page};
