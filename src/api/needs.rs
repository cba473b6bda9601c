//! Authorisation requirements of RPCs.

use crate::settings::Role;

/// The authorisation that an RPC requires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Needs {
    /// No token: the call reveals only the server's health.
    Nothing,
    /// Any token.
    AnyToken,
    /// This role, on the queues that the call concerns.
    Role(Role),
}
