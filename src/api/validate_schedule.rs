//! Validation of schedules and calendars.

use std::collections::BTreeSet;

use super::validate::{Field, Validator};
use crate::{
    admission::{FieldFault, rules::shown, schedule},
    clock::Timestamp,
    job::{JobDraft, names},
    proto::v1,
    settings::{
        Calendars, Late, Overlap, ScheduleField, ScheduleSettings, ScheduleTimes,
        limits::{CALENDARS_OF_SCHEDULE_MAX, CATCH_UP, DATES_MAX, PAUSE_AFTER_FAILURES},
    },
    timetable::{CRONS_MAX, DateRange, EVERY_MAX, Timetable, TimetableSpec},
};

/// Limit of the reason of a pause.
const REASON_MAX_BYTES: usize = 256;
/// Limit of the paths of an update mask.
const PATHS_MAX: usize = 32;

impl Validator {
    pub(super) fn schedule_name(&mut self, field: &str, name: &str) {
        if let Err(error) = names::check_schedule_name(name) {
            self.fault(field, error.to_string());
        }
    }

    pub(super) fn calendar_name(&mut self, field: impl std::fmt::Display, name: &str) {
        if let Err(error) = names::check_calendar_name(name) {
            self.fault(field, error.to_string());
        }
    }

    /// Validates all settings of a new schedule.
    pub(super) fn new_schedule(
        &mut self,
        spec: Option<v1::ScheduleSpec>,
        job: Option<v1::JobSpec>,
    ) -> ScheduleSettings {
        if spec.is_none() {
            self.fault("schedule.spec", "is required: give crons or every");
        }
        let has_spec = spec.is_some();
        let mut settings = self.schedule_spec("schedule.spec", &spec.unwrap_or_default());
        settings.job = self.schedule_job(job);
        if has_spec {
            // Only the committer knows the calendars for sure.
            let apart = ScheduleTimes { calendars: Vec::new(), ..settings.times.clone() };
            self.times("schedule.spec", &apart, &Calendars::default());
        }
        settings
    }

    /// Validates that the times of a specification come.
    pub(super) fn times(
        &mut self,
        at: &str,
        times: &ScheduleTimes,
        calendars: &Calendars,
    ) -> Option<Timetable> {
        match times.check(calendars, self.now()) {
            Ok(table) => Some(table),
            Err(faults) => {
                for fault in faults {
                    self.fault(format_args!("{at}.{}", fault.field), fault.problem);
                }
                None
            }
        }
    }

    /// Validates each field of a specification by itself.
    pub(super) fn schedule_spec(&mut self, at: &str, spec: &v1::ScheduleSpec) -> ScheduleSettings {
        let of = |name| Field { of: &at, name };
        let any = std::time::Duration::ZERO..=EVERY_MAX;
        let every = spec.every.and_then(|every| self.duration(of("every"), &every, &any));
        let jitter = spec.jitter.and_then(|jitter| self.duration(of("jitter"), &jitter, &any));
        let catch_up = spec.catch_up.and_then(|late| self.duration(of("catch_up"), &late, &CATCH_UP));
        let start = spec.start_time.and_then(|time| self.timestamp(of("start_time"), &time));
        let end = spec.end_time.and_then(|time| self.timestamp(of("end_time"), &time));
        if spec.crons.len() > CRONS_MAX {
            let count = spec.crons.len();
            self.fault(of("crons"), format!("has {count} entries; at most {CRONS_MAX} are allowed"));
        }
        let overlap = match self.known(&format!("{at}.overlap"), spec.overlap) {
            v1::OverlapPolicy::Unspecified | v1::OverlapPolicy::Skip => Overlap::Skip,
            v1::OverlapPolicy::Allow => Overlap::Allow,
            v1::OverlapPolicy::QueueOne => Overlap::QueueOne,
            v1::OverlapPolicy::CancelRunning => Overlap::CancelRunning,
        };
        let late = match self.known(&format!("{at}.late"), spec.late) {
            v1::LatePolicy::Unspecified | v1::LatePolicy::Latest => Late::Latest,
            v1::LatePolicy::All => Late::All,
        };
        let pause_after_failures = match u32::try_from(spec.pause_after_failures) {
            Ok(0) => None,
            Ok(failures) if PAUSE_AFTER_FAILURES.contains(&failures) => Some(failures),
            _ => {
                let number = spec.pause_after_failures;
                let message = format!("is {number}; it must be from 1 to 1000, or 0 for never");
                self.fault(of("pause_after_failures"), message);
                None
            }
        };
        if spec.calendars.len() > CALENDARS_OF_SCHEDULE_MAX {
            let (count, max) = (spec.calendars.len(), CALENDARS_OF_SCHEDULE_MAX);
            self.fault(of("calendars"), format!("has {count} entries; at most {max} are allowed"));
        }
        for (index, name) in spec.calendars.iter().take(CALENDARS_OF_SCHEDULE_MAX).enumerate() {
            self.calendar_name(format_args!("{at}.calendars[{index}]"), name);
        }
        let times = ScheduleTimes {
            spec: TimetableSpec {
                crons: spec.crons.iter().take(CRONS_MAX).cloned().collect(),
                every,
                time_zone: spec.time_zone.clone(),
                jitter,
                start,
                end,
            },
            excluded: self.dates(&format!("{at}.exclude"), &spec.exclude),
            calendars: spec.calendars.clone(),
        };
        ScheduleSettings { times, overlap, catch_up, late, pause_after_failures, job: JobDraft::default() }
    }

    /// Validates dates and ranges of dates.
    pub(super) fn dates(&mut self, field: &str, texts: &[String]) -> Vec<DateRange> {
        if texts.len() > DATES_MAX {
            self.fault(field, format!("has {} entries; at most {DATES_MAX} are allowed", texts.len()));
            return Vec::new();
        }
        let mut dates = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(range) => dates.push(range),
                Err(problem) => self.fault(format_args!("{field}[{index}]"), problem),
            }
        }
        dates
    }

    /// Validates the job of a schedule.
    pub(super) fn schedule_job(&mut self, mut job: Option<v1::JobSpec>) -> JobDraft {
        let draft = self.job_spec(&"schedule.job", job.as_mut(), None);
        for FieldFault { field, problem } in schedule::check(&draft) {
            self.fault(format_args!("schedule.job.{field}"), problem);
        }
        draft
    }

    /// Returns the settings that an update mask names.
    pub(super) fn schedule_fields(&mut self, paths: &[String]) -> BTreeSet<ScheduleField> {
        if paths.is_empty() || paths.len() > PATHS_MAX {
            let count = paths.len();
            let message =
                format!("has {count} paths; it must have 1 to {PATHS_MAX}, such as `spec.crons` or `job`");
            self.fault("update_mask", message);
            return BTreeSet::new();
        }
        let mut fields = BTreeSet::new();
        for (index, path) in paths.iter().enumerate() {
            let is_named = |own: &str| own == path || (path == "spec" && own.starts_with("spec."));
            let named = ScheduleField::ALL.iter().filter(|(own, _)| is_named(own));
            let before = fields.len();
            fields.extend(named.map(|(_, field)| *field));
            if fields.len() == before && !ScheduleField::ALL.iter().any(|(own, _)| is_named(own)) {
                let message =
                    format!("{} is no path of a schedule, such as `spec.crons` or `job`", shown(path));
                self.fault(format_args!("update_mask.paths[{index}]"), message);
            }
        }
        fields
    }

    pub(super) fn pause_reason(&mut self, reason: &str) {
        if reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control) {
            let message = format!("must be at most {REASON_MAX_BYTES} bytes without control characters");
            self.fault("reason", message);
        }
    }

    /// Validates an instant that is required.
    pub(super) fn required_time(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Timestamp {
        match time {
            Some(time) => self.timestamp(field, &time).unwrap_or_default(),
            None => {
                self.fault(field, "is required");
                Timestamp::default()
            }
        }
    }
}
