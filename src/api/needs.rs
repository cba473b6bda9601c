//! What calls ask of their callers.

use crate::settings::Role;

/// What an RPC asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Needs {
    /// Nothing: whoever reaches the server may know whether it is well.
    Nothing,
    /// Any token.
    AnyToken,
    /// This role, on the queues that the call is about.
    Role(Role),
}
