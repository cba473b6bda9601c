//! Builders of schedules for the tests of the stores, and what the tests look at.

use std::{sync::Arc, time::Duration};

use jobmill::{
    clock::Timestamp,
    engine::{BackfillRange, CalendarAction, ControlRefusal, ScheduleAction, ScheduleDone},
    job::{Job, JobDraft, ScheduleOrigin, StateName},
    settings::{
        Late, Overlap, ScheduleChange, ScheduleField, ScheduleInfo, ScheduleSettings, ScheduleTimes,
        SkipCount,
    },
    timetable::TimetableSpec,
};

use super::{
    batch::{Control, ControlDone},
    build::at,
    rig::{Rig, succeeded},
};

/// Returns the settings of a schedule for the queue `q` with an interval in seconds.
pub(crate) fn every(seconds: u64) -> ScheduleSettings {
    let spec = TimetableSpec { every: Some(Duration::from_secs(seconds)), ..TimetableSpec::default() };
    ScheduleSettings {
        times: ScheduleTimes { spec, ..ScheduleTimes::default() },
        job: JobDraft { queue: "q".into(), kind: Rig::KIND.into(), ..JobDraft::default() },
        ..ScheduleSettings::default()
    }
}

pub(crate) fn overlapping(overlap: Overlap, settings: ScheduleSettings) -> ScheduleSettings {
    ScheduleSettings { overlap, ..settings }
}

pub(crate) fn catching_up(seconds: u64, settings: ScheduleSettings) -> ScheduleSettings {
    ScheduleSettings { catch_up: Some(Duration::from_secs(seconds)), ..settings }
}

pub(crate) fn all(settings: ScheduleSettings) -> ScheduleSettings {
    ScheduleSettings { late: Late::All, overlap: Overlap::Allow, ..settings }
}

/// Returns the change of all settings.
pub(crate) fn whole(to: ScheduleSettings) -> ScheduleAction {
    let fields = ScheduleField::ALL.iter().map(|(_, field)| *field).collect();
    ScheduleAction::Update { change: Box::new(ScheduleChange { fields, to }), etag: None }
}

pub(crate) fn control(name: &str, action: ScheduleAction) -> Control {
    Control::Schedule { name: name.into(), action }
}

/// Returns a range of the past in seconds after the tests begin.
pub(crate) fn range(from: i64, until: i64) -> BackfillRange {
    BackfillRange { from: at(from), until: at(until), at_most: 100, again: false, dry_run: false }
}

impl Rig {
    /// Creates the schedule `s` in the queue `q` with many slots.
    pub(crate) fn schedule(&mut self, settings: ScheduleSettings) -> Arc<ScheduleInfo> {
        if self.reader().queues().unwrap().is_empty() {
            self.queue("q", 100);
        }
        let done = self.change("s", ScheduleAction::Create(Box::new(settings))).unwrap();
        done.schedule.unwrap()
    }

    /// Changes a schedule.
    pub(crate) fn change(
        &mut self,
        name: &str,
        action: ScheduleAction,
    ) -> Result<ScheduleDone, ControlRefusal> {
        match self.control(control(name, action))? {
            ControlDone::Schedule(done) => Ok(*done),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn calendar(
        &mut self,
        name: &str,
        action: CalendarAction,
    ) -> Result<ControlDone, ControlRefusal> {
        self.control(Control::Calendar { name: name.into(), action })
    }

    /// Returns the schedule `s`.
    pub(crate) fn info(&self) -> ScheduleInfo {
        self.reader().schedule("s").unwrap().expect("the schedule")
    }

    /// Lets time pass up to a second after the tests begin, and returns the instants that have run at that time.
    pub(crate) fn comes(&mut self, second: i64) -> Vec<i64> {
        self.until(at(second));
        self.settle();
        self.instants()
    }

    /// Returns the instants of all jobs that schedules have created, in seconds after the tests begin, in the order of
    /// creation.
    pub(crate) fn instants(&self) -> Vec<i64> {
        self.scheduled().iter().map(|job| second_of(job.spec.schedule().unwrap().instant)).collect()
    }

    /// Returns the jobs that schedules have created, in the order of creation. Asserts that no instant has two jobs by
    /// firing.
    pub(crate) fn scheduled(&self) -> Vec<Arc<Job>> {
        let jobs: Vec<_> = self.all_jobs().into_iter().filter(|job| job.spec.schedule().is_some()).collect();
        let mut seen = std::collections::HashSet::new();
        for by in jobs.iter().filter_map(|job| job.spec.schedule()) {
            let is_new = by.origin != ScheduleOrigin::Scheduled || seen.insert((by.id, by.instant));
            assert!(is_new, "{by:?} has two jobs");
        }
        jobs
    }

    /// Ends the oldest job that runs and was created by a schedule.
    pub(crate) fn ends_one(&mut self) {
        let running = |job: &&Arc<Job>| job.state.name() == StateName::Running;
        let job = self.scheduled().iter().find(running).map(Arc::clone).expect("a job that runs");
        self.report(&job, succeeded()).unwrap();
        self.settle();
    }
}

/// Returns an instant in seconds after the tests begin.
pub(crate) fn second_of(instant: Timestamp) -> i64 {
    (instant.as_micros() - at(0).as_micros()) / 1_000_000
}

/// Returns a count and the latest instant in seconds.
pub(crate) fn told(count: SkipCount) -> (u64, i64) {
    (count.number, if count.number == 0 { 0 } else { second_of(count.last) })
}
