//! How long ended jobs are kept.

use std::time::Duration;

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// For so long.
    For(Duration),
    /// Until somebody deletes it.
    Forever,
}

/// How long ended jobs are kept, by the state in which they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// SUCCEEDED ones.
    pub succeeded: Keep,
    /// FAILED ones.
    pub failed: Keep,
    /// CANCELLED ones.
    pub cancelled: Keep,
    /// EXPIRED ones.
    pub expired: Keep,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Keep = Keep::For(Duration::from_secs(24 * 3600));
        const FORTNIGHT: Keep = Keep::For(Duration::from_secs(14 * 24 * 3600));
        Retention { succeeded: DAY, failed: FORTNIGHT, cancelled: DAY, expired: DAY }
    }
}

/// How long a queue's ended jobs are kept. What is absent is as the server has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRetention {
    /// SUCCEEDED ones.
    pub succeeded: Option<Keep>,
    /// FAILED ones.
    pub failed: Option<Keep>,
    /// CANCELLED ones.
    pub cancelled: Option<Keep>,
    /// EXPIRED ones.
    pub expired: Option<Keep>,
}

impl QueueRetention {
    /// The times that hold for the queue on a server with these times of its own.
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
