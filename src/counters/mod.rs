//! What the parts of a server count into, and whether it is ready.
//!
//! [`Counters`] cost atomics: the committer counts what the change feed says, once a batch, the API counts calls. What
//! can be read when somebody asks, such as how many jobs are in which state, is read then, by [`crate::metrics`], which
//! shows both.

mod batches;
mod calls;
mod health;
mod maker;
mod recorder;
mod set;
mod submissions;

pub use self::maker::MetricsError;
pub(crate) use self::{
    calls::{MethodCounters, Methods, grpc_code},
    health::Health,
    maker::{Maker, label},
    recorder::{BatchTimes, Recorder},
    set::Counters,
};
