//! Schedules: what each is to run and when, and how far each has come.

mod calendar;
mod ran;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    calendar::CalendarInfo,
    ran::Ran,
    run::{
        Backfill, BackfillEnd, Deferred, FutureInstant, LastRun, Pause, ScheduleCounts, ScheduleRun, SetBack,
        SkipCount, Waits,
    },
};
use crate::{
    clock::Timestamp,
    job::{JobDraft, JobId, ScheduleId},
    timetable::{DateRange, Excluded, Timetable, TimetableFault, TimetableSpec},
};

/// Settings of a schedule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleSettings {
    /// The times.
    pub times: ScheduleTimes,
    /// What becomes of an instant while the last scheduled job has not ended.
    pub overlap: Overlap,
    /// Lateness above which an instant is missed; absent: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<Duration>,
    /// Which of several late instants run.
    pub late: Late,
    /// Number of failed jobs in a row after which the schedule is paused; absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_after_failures: Option<u32>,
    /// The job of each instant.
    pub job: JobDraft,
}

/// The times of a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleTimes {
    /// The instants, before dates are left out.
    pub spec: TimetableSpec,
    /// Dates in the time zone on which there are no instants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<DateRange>,
    /// Names of calendars with more such dates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calendars: Vec<String>,
}

/// Calendars by name.
pub type Calendars = BTreeMap<Arc<str>, Arc<CalendarInfo>>;

impl ScheduleTimes {
    /// Returns the instants of these times, whose intervals count from the start, or else from `since`.
    ///
    /// # Errors
    /// The first fault, with its field. That they never come, or that delays are too long, is not looked at.
    pub fn table(
        &self,
        calendars: &Calendars,
        since: Timestamp,
        schedule: ScheduleId,
    ) -> Result<Timetable, TimetableFault> {
        let excluded = self.dates(calendars)?;
        Timetable::compile(&self.spec, &excluded, self.anchor(since), schedule.raw().cast_unsigned())
    }

    /// Returns the instants of new times.
    ///
    /// # Errors
    /// All faults, with their fields.
    pub fn check(&self, calendars: &Calendars, since: Timestamp) -> Result<Timetable, Vec<TimetableFault>> {
        let dates = self.dates(calendars).map_err(|fault| vec![fault])?;
        let table = Timetable::checked(&self.spec, &dates, self.anchor(since), 0)?;
        match table.next(since) {
            Some(_) => Ok(table),
            None => Err(vec![TimetableFault {
                field: "end_time",
                problem: "no instant is left before it: choose a later one, or leave it out".to_owned(),
            }]),
        }
    }

    /// Returns the instant from which intervals count.
    fn anchor(&self, since: Timestamp) -> Timestamp {
        self.spec.start.unwrap_or(since)
    }

    /// Returns all dates that are left out.
    fn dates(&self, calendars: &Calendars) -> Result<Excluded, TimetableFault> {
        let mut dates = self.excluded.clone();
        for name in &self.calendars {
            let calendar = calendars.get(name.as_str()).ok_or_else(|| TimetableFault {
                field: "calendars",
                problem: format!("no calendar is named `{name}`: create it, or leave it out"),
            })?;
            dates.extend_from_slice(&calendar.dates);
        }
        Ok(Excluded::new(dates))
    }
}

/// What becomes of an instant while the last scheduled job has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It runs all the same.
    Allow,
    /// It waits for the end of that job; a newer one takes its place.
    QueueOne,
    /// That job is cancelled, and the instant runs once it has ended.
    CancelRunning,
}

/// Which of several late instants run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// The newest one.
    #[default]
    Latest,
    /// Each, oldest first.
    All,
}

/// A schedule with its state.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleInfo {
    /// The schedule's id. A schedule that was deleted and created again has another one.
    pub id: ScheduleId,
    /// Its name.
    pub name: Arc<str>,
    /// Its settings.
    pub settings: Arc<ScheduleSettings>,
    /// Number of changes of its settings, from 1.
    pub generation: u64,
    /// Number that grows with each change of settings or pause.
    pub revision: i64,
    /// Time at which it was created.
    pub created: Timestamp,
    /// Time from which the present times count.
    pub since: Timestamp,
    /// Whether the configuration file declares it.
    pub declared: bool,
    /// The pause; absent while it is not paused.
    pub paused: Option<Pause>,
    /// How far it has come.
    pub run: ScheduleRun,
}

impl ScheduleInfo {
    /// Returns a tag that no other settings or pause of this or any other schedule have.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.id.raw(), self.revision)
    }

    /// Returns the name of the queue of its jobs.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.settings.job.queue
    }

    /// Returns the jobs on which its state depends.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + use<> {
        let last = self.run.last.as_ref().map(|last| last.job);
        last.into_iter().chain(self.run.backfill.as_ref().and_then(|backfill| backfill.job))
    }

    /// Returns the schedule without the payload of its jobs.
    #[must_use]
    pub fn without_payload(&self) -> Self {
        let mut settings = ScheduleSettings::clone(&self.settings);
        settings.job.payload = bytes::Bytes::new();
        ScheduleInfo { settings: Arc::new(settings), ..self.clone() }
    }

    /// Returns whether its state depends on more than the time: the end of a job, or what an instant waits for.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let run = &self.run;
        run.last.as_ref().is_some_and(|last| last.outcome.is_none())
            || run.deferred.is_some()
            || run.waits.is_some()
            || run.backfill.as_ref().is_some_and(|backfill| backfill.end.is_none())
    }

    /// Returns the time of the next thing to do.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        if self.paused.is_some() {
            return None;
        }
        let waits = self.run.waits.as_ref().and_then(|waits| waits.until);
        let deferred = self.run.deferred.as_ref().and_then(|deferred| deferred.until);
        let next = self.run.next.map(|next| next.fires);
        next.into_iter().chain(waits).chain(deferred).min()
    }
}

/// A change of a schedule's settings.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleChange {
    /// The settings to change.
    pub fields: BTreeSet<ScheduleField>,
    /// The new values. Settings that are not to change are ignored.
    pub to: ScheduleSettings,
}

macro_rules! fields {
    ($($path:literal => $field:ident: $($place:ident).+),* $(,)?) => {
        /// A setting of a schedule.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum ScheduleField {
            $(#[doc = concat!("`", $path, "`.")] $field),*
        }

        impl ScheduleField {
            /// All settings, by their paths.
            pub const ALL: &[(&str, ScheduleField)] = &[$(($path, ScheduleField::$field)),*];
        }

        impl ScheduleChange {
            /// Returns the settings after the change.
            #[must_use]
            pub fn applied(&self, settings: &ScheduleSettings) -> ScheduleSettings {
                let mut changed = settings.clone();
                for field in &self.fields {
                    match field {
                        $(ScheduleField::$field => changed.$($place).+ = self.to.$($place).+.clone()),*
                    }
                }
                changed
            }
        }
    };
}

fields!(
    "spec.crons" => Crons: times.spec.crons,
    "spec.every" => Every: times.spec.every,
    "spec.time_zone" => TimeZone: times.spec.time_zone,
    "spec.jitter" => Jitter: times.spec.jitter,
    "spec.start_time" => StartTime: times.spec.start,
    "spec.end_time" => EndTime: times.spec.end,
    "spec.exclude" => Exclude: times.excluded,
    "spec.calendars" => Calendars: times.calendars,
    "spec.overlap" => Overlap: overlap,
    "spec.catch_up" => CatchUp: catch_up,
    "spec.late" => Late: late,
    "spec.pause_after_failures" => PauseAfterFailures: pause_after_failures,
    "job" => Job: job,
);
