//! Remote workers, as the workers themselves and the clients see them: raw streams and calls.

mod hello;
mod leases;
mod limits;
mod rig;
mod unary;
