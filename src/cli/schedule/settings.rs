//! Options of a schedule's settings.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::values;
use jobmill::{
    client::{to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        JobSpec, LatePolicy, OverlapPolicy, Payload, ScheduleSpec,
        job_spec::{Expiry, Start},
    },
};

/// The times of a schedule, and its rules.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Spec {
    /// Cron expression, such as "0 3 * * MON-FRI"; may be repeated
    #[arg(long, value_name = "EXPRESSION")]
    pub(super) cron: Vec<String>,
    /// Interval, such as 10s, 5m or 1day
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    pub(super) every: Option<Duration>,
    /// Time zone of cron expressions and excluded dates, such as Europe/Berlin; default: UTC
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// What becomes of an instant while the last job has not ended; default: skip
    #[arg(long, value_enum, value_name = "POLICY")]
    overlap: Option<OverlapArg>,
    /// Lateness above which an instant is missed, at least 10s; default: none is
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    catch_up: Option<Duration>,
    /// Which of several late instants run; default: latest
    #[arg(long, value_enum, value_name = "POLICY")]
    late: Option<LateArg>,
    /// Longest random delay of an instant
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    jitter: Option<Duration>,
    /// No instant is earlier
    #[arg(long, value_name = "INSTANT", value_parser = values::instant)]
    start: Option<Timestamp>,
    /// No instant is later
    #[arg(long, value_name = "INSTANT", value_parser = values::instant)]
    end: Option<Timestamp>,
    /// Date without instants, or range such as 2026-12-24..2026-12-26; may be repeated
    #[arg(long, value_name = "DATE")]
    exclude: Vec<String>,
    /// Calendar with more such dates; may be repeated
    #[arg(long, value_name = "CALENDAR")]
    calendar: Vec<String>,
    /// Pause after this number of failed jobs in a row; 0: never
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..=1_000))]
    pause_after_failures: Option<i32>,
}

/// What becomes of an instant while the last job has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum OverlapArg {
    /// Leave it out
    Skip,
    /// Run it all the same
    Allow,
    /// Run the newest one after the end of that job
    QueueOne,
    /// Cancel that job, and then run
    CancelRunning,
}

/// Which of several late instants run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LateArg {
    /// The newest one
    Latest,
    /// Each, oldest first
    All,
}

/// The settings that have a default which `--clear` sets, and their paths.
const CLEARED: [(&str, &str); 12] = [
    ("cron", "spec.crons"),
    ("every", "spec.every"),
    ("time-zone", "spec.time_zone"),
    ("overlap", "spec.overlap"),
    ("catch-up", "spec.catch_up"),
    ("late", "spec.late"),
    ("jitter", "spec.jitter"),
    ("start", "spec.start_time"),
    ("end", "spec.end_time"),
    ("exclude", "spec.exclude"),
    ("calendar", "spec.calendars"),
    ("pause-after-failures", "spec.pause_after_failures"),
];

/// Parses a setting to clear, and returns its path.
pub(super) fn cleared(text: &str) -> Result<String, String> {
    let found = CLEARED.iter().find(|(name, _)| *name == text);
    let names: Vec<_> = CLEARED.iter().map(|(name, _)| *name).collect();
    found.map(|(_, path)| (*path).to_owned()).ok_or_else(|| format!("one of {}", names.join(", ")))
}

impl Spec {
    /// Converts the options to the protocol's type. Absent ones are left out.
    pub(super) fn to_wire(&self) -> ScheduleSpec {
        let overlap = self.overlap.map_or(OverlapPolicy::Unspecified, |overlap| match overlap {
            OverlapArg::Skip => OverlapPolicy::Skip,
            OverlapArg::Allow => OverlapPolicy::Allow,
            OverlapArg::QueueOne => OverlapPolicy::QueueOne,
            OverlapArg::CancelRunning => OverlapPolicy::CancelRunning,
        });
        let late = self.late.map_or(LatePolicy::Unspecified, |late| match late {
            LateArg::Latest => LatePolicy::Latest,
            LateArg::All => LatePolicy::All,
        });
        ScheduleSpec {
            crons: self.cron.clone(),
            every: self.every.map(to_wire_duration),
            time_zone: self.time_zone.clone().unwrap_or_default(),
            overlap: overlap.into(),
            catch_up: self.catch_up.map(to_wire_duration),
            jitter: self.jitter.map(to_wire_duration),
            start_time: self.start.map(to_wire_timestamp),
            end_time: self.end.map(to_wire_timestamp),
            late: late.into(),
            exclude: self.exclude.clone(),
            calendars: self.calendar.clone(),
            pause_after_failures: self.pause_after_failures.unwrap_or_default(),
        }
    }

    /// Returns the paths of the options that are given.
    pub(super) fn mask(&self) -> Vec<String> {
        let given = [
            !self.cron.is_empty(),
            self.every.is_some(),
            self.time_zone.is_some(),
            self.overlap.is_some(),
            self.catch_up.is_some(),
            self.late.is_some(),
            self.jitter.is_some(),
            self.start.is_some(),
            self.end.is_some(),
            !self.exclude.is_empty(),
            !self.calendar.is_empty(),
            self.pause_after_failures.is_some(),
        ];
        let given = CLEARED.iter().zip(given).filter(|(_, given)| *given);
        given.map(|((_, path), _)| (*path).to_owned()).collect()
    }
}

/// The job of a schedule.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Job {
    /// Queue of the jobs; default: default
    #[arg(long, short, value_name = "QUEUE")]
    queue: Option<String>,
    /// Kind of the jobs
    #[arg(long, short, value_name = "KIND")]
    pub(super) kind: Option<String>,
    /// Payload as text
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    /// Label, as key=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::entry)]
    label: Vec<(String, String)>,
    /// Header for the handler, as key=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::entry)]
    header: Vec<(String, String)>,
    /// Priority, from -100 to 100
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    priority: Option<i32>,
    /// Maximum number of attempts
    #[arg(long, value_name = "NUMBER")]
    max_attempts: Option<i32>,
    /// Timeout of an attempt
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    attempt_timeout: Option<Duration>,
    /// What each job weighs under a limit; may be repeated
    #[arg(long = "weight", value_name = "LIMIT=N", value_parser = values::weight)]
    weights: Vec<(String, i32)>,
    /// Delay of each job after its instant
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    delay: Option<Duration>,
    /// Expire each job after this time, if it has not started
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    expire_after: Option<Duration>,
}

impl Job {
    /// Returns whether any option is given.
    pub(super) fn is_given(&self) -> bool {
        self.queue.is_some()
            || self.kind.is_some()
            || self.payload.is_some()
            || !self.label.is_empty()
            || !self.header.is_empty()
            || self.priority.is_some()
            || self.max_attempts.is_some()
            || self.attempt_timeout.is_some()
            || !self.weights.is_empty()
            || self.delay.is_some()
            || self.expire_after.is_some()
    }

    /// Returns a job with the options that are given, and the rest of another one.
    pub(super) fn over(&self, job: JobSpec) -> JobSpec {
        let all = |given: &[(String, String)]| given.iter().cloned().collect();
        JobSpec {
            queue: self.queue.clone().unwrap_or(job.queue),
            kind: self.kind.clone().unwrap_or(job.kind),
            payload: self.payload.clone().map(Payload::of_text).or(job.payload),
            labels: if self.label.is_empty() { job.labels } else { all(&self.label) },
            headers: if self.header.is_empty() { job.headers } else { all(&self.header) },
            priority: self.priority.or(job.priority),
            max_attempts: self.max_attempts.unwrap_or(job.max_attempts),
            attempt_timeout: self.attempt_timeout.map(to_wire_duration).or(job.attempt_timeout),
            weights: match self.weights.as_slice() {
                [] => job.weights,
                given => given.iter().cloned().collect(),
            },
            start: self.delay.map(|delay| Start::Delay(to_wire_duration(delay))).or(job.start),
            expiry: self.expire_after.map(|time| Expiry::ExpireAfter(to_wire_duration(time))).or(job.expiry),
            ..job
        }
    }
}
