//! Remote workers: their sessions, and the leases of the attempts that they run.
//!
//! The engine decides who gets a job and which reports count. This module keeps what need not survive the server: which
//! worker is connected, how long each lease still lasts, what has to be told to whom. The committer passes on each
//! change of a remote lease ([`Roster`]); sessions of workers take what concerns them out of their outbox; one task ends
//! leases of which nothing was heard in time ([`Workers::keep`]).

mod clock;
mod core;
mod entry;
mod keeper;
mod outbox;
mod reports;
mod roster;
mod session;
mod status;
mod stop;

pub(crate) use self::{
    core::Workers,
    entry::{Introduction, PoolInfo},
    outbox::{Outbox, WorkerEvent},
    reports::{Notice, WorkerReport},
    roster::Roster,
    session::{CREDITS_MAX, WorkerSession},
    status::{LeaseStatus, WorkerFigures, WorkerState, WorkerStatus},
    stop::StopCause,
};
