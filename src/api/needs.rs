//! What calls ask of their callers.

use crate::settings::Role;

/// What an RPC asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Needs {
    /// No token: the call tells no more than whether the server is well.
    Nothing,
    /// Any token.
    AnyToken,
    /// This role, on the queues that the call is about.
    Role(Role),
}
