//! Counters of a server's parts, and its readiness.
//!
//! [`Counters`] cost atomic additions: the committer counts the change feed, once a batch, and the API counts calls.
//! Values that can be read on a scrape, such as the number of jobs by state, are read then by [`crate::metrics`], which
//! exposes both.

mod batches;
mod calls;
mod factory;
mod health;
#[cfg(target_os = "linux")]
mod process;
mod recorder;
mod schedules;
mod set;
mod submissions;
mod workers;

pub use self::factory::MetricsError;
pub(crate) use self::{
    calls::{MethodCounters, Methods, grpc_code},
    factory::{MetricFactory, label},
    health::Health,
    recorder::{BatchTimes, Recorder},
    set::Counters,
    workers::WorkerCounters,
};
