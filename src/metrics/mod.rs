//! What a server tells about itself in numbers, and whether it is ready: [`page`] has what was counted and what is read
//! when somebody asks, [`endpoint`] serves it over HTTP. docs/metrics.md lists every metric; a test compares.

pub(crate) mod endpoint;
mod lost;
mod page;

pub use self::page::PageError;
pub(crate) use self::{lost::Lost, page::Page};
