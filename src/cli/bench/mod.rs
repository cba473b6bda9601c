//! `jobmill bench`: measures Jobmill on this machine, beside the best that its RPC layer and its disk could do.
//!
//! Client and server are separate processes. Each figure is measured in turns with its ceiling, because machines are
//! noisy. docs/performance.md explains each figure.

mod answers;
mod args;
mod backlog;
mod burdens;
mod cost;
mod end_to_end;
mod figures;
mod gate;
mod keys;
mod latencies;
mod limits;
mod load;
mod paced;
mod place;
mod process;
mod proto;
mod remote;
mod report;
mod run;
mod schedules;
mod server;
mod session;
mod streams;
mod subject;
mod table;
mod turns;
mod variants;
mod watchers;
mod wire;

pub(crate) use args::BenchArgs;
pub(crate) use run::run;
pub(crate) use server::{BenchServerArgs, run as run_server};
