//! A bench under way: what all groups of figures share.

use indicatif::ProgressBar;

use super::{load::Run, paced::PACE, place::Place, report::Figure};

/// How much there is to do.
pub(super) struct Sizes {
    /// Jobs that wait.
    pub(super) waiting: u64,
    /// Jobs that warm caches up.
    pub(super) warming: u64,
    /// Watchers that have nothing to see.
    pub(super) watchers_by_id: usize,
    pub(super) watchers_by_filter: usize,
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
    /// Samples beside each burden, at least.
    pub(super) samples: usize,
}

/// A bench under way.
pub(super) struct Bench {
    pub(super) place: Place,
    pub(super) run: Run,
    pub(super) pairs: usize,
    pub(super) sizes: Sizes,
    pub(super) bar: ProgressBar,
    pub(super) figures: Vec<Figure>,
}

impl Bench {
    /// Tells what is done now.
    pub(super) fn step(&self, what: String) {
        self.bar.set_message(what);
        self.bar.inc(1);
    }

    /// The calls of a paced run, which takes as long as others do.
    pub(super) fn paced_calls(&self) -> usize {
        (self.run.counted.as_secs_f64() * f64::from(PACE)).ceil() as usize
    }
}
