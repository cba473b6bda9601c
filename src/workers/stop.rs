//! Why an attempt is to stop.

/// The reason for which an attempt is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StopCause {
    /// A client has cancelled the job.
    Cancelled,
    /// The attempt has taken longer than its timeout.
    TimedOut,
}
