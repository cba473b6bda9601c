//! `jobmill bench`: how fast this machine is with Jobmill, beside what its RPC layer and its disk could do at best.
//!
//! Client and server are separate processes. Each figure is taken in turns with its ceiling, because machines are
//! noisy; see docs/benchmarks.md for what each one means.

mod answers;
mod args;
mod backlog;
mod burdens;
mod cost;
mod end_to_end;
mod figures;
mod gate;
mod latencies;
mod load;
mod paced;
mod place;
mod process;
mod proto;
mod report;
mod run;
mod server;
mod session;
mod streams;
mod subject;
mod table;
mod variants;
mod watchers;
mod wire;

pub(crate) use args::BenchArgs;
pub(crate) use run::run;
pub(crate) use server::{BenchServerArgs, run as run_server};
