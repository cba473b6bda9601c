//! The state of a running bench, shared by all groups of figures.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{load::Run, paced::PACE, place::BenchFolder, report::Figure};

/// The amounts of work.
pub(super) struct Sizes {
    /// Waiting jobs.
    pub(super) waiting: u64,
    /// Jobs that warm up caches.
    pub(super) warming: u64,
    /// Idle watchers.
    pub(super) watchers_by_id: usize,
    pub(super) watchers_by_filter: usize,
    /// Idle remote workers.
    pub(super) idle_workers: usize,
    /// Schedules.
    pub(super) schedules: u64,
    /// Those of them that fire at once.
    pub(super) firing: u64,
    pub(super) burdens: BurdenSizes,
}

/// Sizes of the burdens on one queue while another one is measured.
pub(super) struct BurdenSizes {
    /// Callers who leave.
    pub(super) leaving: usize,
    /// Jobs that fall due at once.
    pub(super) due: u64,
    /// Results that come in at once.
    pub(super) results: u64,
    /// Waiting jobs that are purged.
    pub(super) purged: u64,
    /// Ended jobs that retention has not deleted yet.
    pub(super) overdue: u64,
    /// Smallest number of samples beside each burden.
    pub(super) samples: usize,
}

/// A running bench.
pub(super) struct Bench {
    pub(super) place: BenchFolder,
    pub(super) run: Run,
    pub(super) pairs: usize,
    pub(super) sizes: Sizes,
    pub(super) bar: ProgressBar,
    pub(super) figures: Vec<Figure>,
}

impl Bench {
    /// Shows the present step on the progress bar.
    pub(super) fn step(&self, what: String) {
        self.bar.set_message(what);
        self.bar.inc(1);
    }

    /// Returns the time for which the processor time of something idle is counted.
    pub(super) fn idle_time(&self) -> Duration {
        Duration::from_secs(10).min(self.run.counted * 5)
    }

    /// Returns the number of calls of a paced run, which takes as long as other runs.
    pub(super) fn paced_calls(&self) -> usize {
        (self.run.counted.as_secs_f64() * f64::from(PACE)).ceil() as usize
    }
}
