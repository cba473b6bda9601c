//! Metrics and readiness of a server: [`page`] renders the counters and the values that are read on a scrape,
//! [`endpoint`] serves them over HTTP. docs/metrics.md lists every metric; a test compares.

mod callback;
pub(crate) mod endpoint;
mod lost;
mod page;
mod response;
#[cfg(all(feature = "internals", feature = "worker"))]
mod worker;

pub use self::page::PageError;
#[cfg(all(feature = "internals", feature = "worker"))]
pub use self::worker::serve_worker;
pub(crate) use self::{lost::LostLineCounts, page::Page};
