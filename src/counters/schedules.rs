//! Metrics of schedules: what became of their instants.

use prometheus::{Histogram, IntCounter};

use super::factory::{MetricFactory, MetricsError};
use crate::engine::InstantCounts;

/// Histogram buckets of how late jobs of instants are created, in seconds: from a millisecond to a day.
const LATE_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0,
    86_400.0,
];

/// Metrics of schedules.
#[derive(Debug)]
pub(super) struct ScheduleCounters {
    ran: IntCounter,
    missed: IntCounter,
    superseded: IntCounter,
    overlapped: IntCounter,
    no_room: IntCounter,
    backfilled: IntCounter,
    late_seconds: Histogram,
}

impl ScheduleCounters {
    pub(super) fn new(factory: &MetricFactory) -> Result<Self, MetricsError> {
        let instants = factory.counters(
            "jobmill_schedule_instants_total",
            "Instants of schedules, by what became of them.",
            &["outcome"],
        )?;
        let of = |outcome| instants.with_label_values(&[outcome]);
        Ok(ScheduleCounters {
            ran: of("ran"),
            missed: of("missed"),
            superseded: of("superseded"),
            overlapped: of("overlapped"),
            no_room: of("no_room"),
            backfilled: of("backfilled"),
            late_seconds: factory.histogram(
                "jobmill_schedule_late_seconds",
                "Time from an instant of a schedule to the commit of its job.",
                LATE_SECONDS,
            )?,
        })
    }

    /// Records the instants of a batch.
    pub(super) fn record(&self, instants: &InstantCounts) {
        let InstantCounts { fired, missed, superseded, overlapped, no_room, backfilled } = instants;
        for late in fired {
            self.late_seconds.observe(late.as_secs_f64());
        }
        let outcomes = [
            (&self.ran, fired.len() as u64),
            (&self.missed, *missed),
            (&self.superseded, *superseded),
            (&self.overlapped, *overlapped),
            (&self.no_room, *no_room),
            (&self.backfilled, *backfilled),
        ];
        for (counter, number) in outcomes {
            counter.inc_by(number);
        }
    }
}
