//! Retention of ended jobs.

use std::time::Duration;

/// Time for which something is kept.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// For a duration.
    For(Duration),
    /// Until it is deleted by a call.
    Forever,
}

/// Retention of ended jobs, by the state in which they ended.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Retention of SUCCEEDED jobs.
    pub succeeded: Keep,
    /// Retention of FAILED jobs.
    pub failed: Keep,
    /// Retention of CANCELLED jobs.
    pub cancelled: Keep,
    /// Retention of EXPIRED jobs.
    pub expired: Keep,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Keep = Keep::For(Duration::from_secs(24 * 3600));
        const FORTNIGHT: Keep = Keep::For(Duration::from_secs(14 * 24 * 3600));
        Retention { succeeded: DAY, failed: FORTNIGHT, cancelled: DAY, expired: DAY }
    }
}

/// Retention of a queue's ended jobs. Absent times are the server's.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRetention {
    /// Retention of SUCCEEDED jobs.
    pub succeeded: Option<Keep>,
    /// Retention of FAILED jobs.
    pub failed: Option<Keep>,
    /// Retention of CANCELLED jobs.
    pub cancelled: Option<Keep>,
    /// Retention of EXPIRED jobs.
    pub expired: Option<Keep>,
}

impl QueueRetention {
    /// Returns the times that apply to the queue, on a server with these times of its own.
    #[must_use]
    pub fn over(self, server: Retention) -> Retention {
        Retention {
            succeeded: self.succeeded.unwrap_or(server.succeeded),
            failed: self.failed.unwrap_or(server.failed),
            cancelled: self.cancelled.unwrap_or(server.cancelled),
            expired: self.expired.unwrap_or(server.expired),
        }
    }
}
