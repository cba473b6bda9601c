//! The schedules and calendars that a file declares.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use toml::de::DeTable;

use super::{
    context::Context,
    document::read,
    kind_defaults::{RETRY_KEYS, listed_delays},
    paths::FileIn,
    rules::{Choice, DurationIn, FloatIn, Instant, IntIn, quote},
    schedule_rules::{Dates, Name, Text},
    section::{Reading, Section},
    tables::{numbers, tables, texts},
};
use crate::{
    admission::{self, FieldFault},
    clock::Timestamp,
    engine::AdmissionError,
    job::{
        JobDraft, PartialRetryPolicy, PayloadInfo, When,
        names::{check_calendar_name, check_free_kind_name, check_queue_name, check_schedule_name},
    },
    settings::{
        CalendarInfo, Calendars, KindSettings, Late, Overlap, QueueSettings, ScheduleSettings, ScheduleTimes,
        limits,
    },
    timetable::{CRONS_MAX, DateRange, EVERY_MAX, EVERY_MIN, TimetableSpec},
};

/// The keys of `[[schedule]]`, in the order of the documentation.
pub(super) const SCHEDULE_KEYS: [&str; 29] = [
    "name",
    "cron",
    "every",
    "time_zone",
    "start",
    "end",
    "jitter",
    "exclude",
    "calendars",
    "overlap",
    "catch_up",
    "late",
    "pause_after_failures",
    "queue",
    "kind",
    "payload",
    "media_type",
    "labels",
    "headers",
    "weights",
    "priority",
    "max_attempts",
    "attempt_timeout",
    "delay",
    "expire_after",
    "deadline_after",
    "max_snoozes",
    "max_process_losses",
    "retry",
];

/// The keys of `[[calendar]]`.
pub(super) const CALENDAR_KEYS: [&str; 3] = ["name", "dates", "file"];

const OVERLAP: Choice<Overlap> = Choice(&[
    ("skip", Overlap::Skip),
    ("allow", Overlap::Allow),
    ("queue_one", Overlap::QueueOne),
    ("cancel_running", Overlap::CancelRunning),
]);
const LATE: Choice<Late> = Choice(&[("latest", Late::Latest), ("all", Late::All)]);

/// What schedules of a file refer to.
struct Declared<'a> {
    queues: &'a BTreeMap<String, QueueSettings>,
    kinds: &'a BTreeMap<String, KindSettings>,
    calendars: &'a Calendars,
    now: Timestamp,
}

/// Reads the calendars and schedules.
pub(super) fn read_all(
    root: &Section<'_>,
    context: &Context<'_>,
    queues: &BTreeMap<String, QueueSettings>,
    kinds: &BTreeMap<String, KindSettings>,
    reading: &mut Reading<'_>,
) -> (BTreeMap<String, Vec<DateRange>>, BTreeMap<String, ScheduleSettings>) {
    let calendars = calendars(root, context, reading);
    let now = context.environment.now();
    let declared = Declared { queues, kinds, calendars: &known(&calendars), now };
    let schedules = schedules(root, &declared, reading);
    (calendars, schedules)
}

/// Reads the calendars.
fn calendars(
    root: &Section<'_>,
    context: &Context<'_>,
    reading: &mut Reading<'_>,
) -> BTreeMap<String, Vec<DateRange>> {
    let found = tables(root, "calendar", &CALENDAR_KEYS, limits::CALENDARS_MAX, check_calendar_name, reading);
    let mut calendars = BTreeMap::new();
    for (name, section) in found {
        let mut dates = section.list_setting("dates", limits::DATES_MAX, &Dates, reading);
        let file = section.optional("file", &FileIn { base: context.base }, reading);
        if let Some(path) = file {
            match dates_of(&path) {
                Ok(more) => dates.extend(more),
                Err(message) => {
                    reading.fault_at(&section.key_span("file"), section.key("file"), message);
                }
            }
        }
        if dates.len() > limits::DATES_MAX {
            let message =
                format!("the calendar has {} entries, the limit is {}", dates.len(), limits::DATES_MAX);
            reading.fault_at(&section.key_span("name"), section.key("name"), message);
        }
        calendars.insert(name, dates);
    }
    calendars
}

/// Reads a file of dates: one date or range in each line; `#` begins a comment.
fn dates_of(path: &std::path::Path) -> Result<Vec<DateRange>, String> {
    let shown = quote(&path.to_string_lossy());
    let bytes = read(path).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    let mut dates = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let date = line.parse().map_err(|problem| format!("{shown}, line {}: {problem}", index + 1))?;
            dates.push(date);
        }
    }
    Ok(dates)
}

/// Returns the calendars of a file in the form in which schedules look them up.
pub(super) fn known(calendars: &BTreeMap<String, Vec<DateRange>>) -> Calendars {
    let info = |(name, dates): (&String, &Vec<DateRange>)| {
        let name: Arc<str> = name.as_str().into();
        let info =
            CalendarInfo { name: Arc::clone(&name), dates: dates.clone(), revision: 0, declared: true };
        (name, Arc::new(info))
    };
    calendars.iter().map(info).collect()
}

/// Reads the schedules.
fn schedules(
    root: &Section<'_>,
    declared: &Declared<'_>,
    reading: &mut Reading<'_>,
) -> BTreeMap<String, ScheduleSettings> {
    let found = tables(root, "schedule", &SCHEDULE_KEYS, limits::SCHEDULES_MAX, check_schedule_name, reading);
    found.into_iter().map(|(name, section)| (name, schedule(&section, declared, reading))).collect()
}

fn schedule(section: &Section<'_>, declared: &Declared<'_>, reading: &mut Reading<'_>) -> ScheduleSettings {
    let faults = reading.faults.len();
    let times = times(section, reading);
    let settings = ScheduleSettings {
        times,
        overlap: section.setting("overlap", &OVERLAP, Overlap::default(), reading),
        catch_up: section.optional("catch_up", &DurationIn(limits::CATCH_UP), reading),
        late: section.setting("late", &LATE, Late::default(), reading),
        pause_after_failures: section.optional(
            "pause_after_failures",
            &IntIn(limits::PAUSE_AFTER_FAILURES),
            reading,
        ),
        job: job(section, declared, reading),
    };
    // Faults of single values would only be repeated.
    if reading.faults.len() == faults {
        check_times(section, &settings.times, declared, reading);
    }
    settings
}

fn times(section: &Section<'_>, reading: &mut Reading<'_>) -> ScheduleTimes {
    // One expression may stand without brackets.
    let crons = match section.get("cron").map(|value| value.get_ref().is_array()) {
        Some(true) => section.list_setting("cron", CRONS_MAX, &Text("a cron expression"), reading),
        Some(false) | None => {
            section.optional("cron", &Text("a cron expression"), reading).into_iter().collect()
        }
    };
    let every = DurationIn(EVERY_MIN..=EVERY_MAX);
    let spec = TimetableSpec {
        crons,
        every: section.optional("every", &every, reading),
        time_zone: section.setting("time_zone", &Text("the name of a time zone"), String::new(), reading),
        start: section.optional("start", &Instant, reading),
        end: section.optional("end", &Instant, reading),
        jitter: section.optional("jitter", &DurationIn(Duration::ZERO..=EVERY_MAX), reading),
    };
    ScheduleTimes {
        spec,
        excluded: section.list_setting("exclude", limits::DATES_MAX, &Dates, reading),
        calendars: section.list_setting(
            "calendars",
            limits::CALENDARS_OF_SCHEDULE_MAX,
            &Name(check_calendar_name),
            reading,
        ),
    }
}

/// Checks that the times come. A schedule whose end has passed stays valid: a restart must not fail for it.
fn check_times(
    section: &Section<'_>,
    times: &ScheduleTimes,
    declared: &Declared<'_>,
    reading: &mut Reading<'_>,
) {
    let since = match times.spec.end {
        Some(_) => Timestamp::from_micros(0),
        None => declared.now,
    };
    for fault in times.check(declared.calendars, since).err().into_iter().flatten() {
        let key = match fault.field {
            "crons" => "cron",
            "start_time" => "start",
            "end_time" => "end",
            other => other,
        };
        let span = match section.get(key) {
            Some(value) => value.span(),
            None => section.key_span("name"),
        };
        reading.fault_at(&span, section.key(key), fault.problem);
    }
}

fn job(section: &Section<'_>, declared: &Declared<'_>, reading: &mut Reading<'_>) -> JobDraft {
    let faults = reading.faults.len();
    let job = job_fields(section, reading);
    // Faults of single values would only be repeated.
    if reading.faults.len() == faults {
        check_job(section, &job, declared, reading);
    }
    job
}

/// Checks that the job could be submitted, and that it is admitted where nothing but the file declares queues and kinds.
fn check_job(section: &Section<'_>, job: &JobDraft, declared: &Declared<'_>, reading: &mut Reading<'_>) {
    let JobDraft { queue, kind, .. } = job;
    let mut fault = |field: &str, problem: String| {
        let key = match field {
            "payload_type" => "media_type",
            "retry_policy" => "retry",
            other => other,
        };
        reading.fault_at(&section.key_span(key), section.key(key), problem);
    };
    let rules =
        admission::rules::check(job, "", declared.now).into_iter().chain(admission::schedule::check(job));
    rules.for_each(|FieldFault { field, problem }| fault(field, problem));
    let defaults = declared.kinds.get(kind).map(|kind| &kind.defaults);
    let settings = declared.queues.get(queue);
    match AdmissionError::of_draft(job, settings, defaults, || false, String::new) {
        None => {}
        Some(AdmissionError::QueueNotFound(queue)) => {
            fault("queue", format!("no queue is named {}; declare [queues.{queue}]", quote(&queue)));
        }
        Some(AdmissionError::UnknownKind { kind, .. }) => {
            let message = format!(
                "no kind is named {}; declare [kinds.\"{kind}\"] with its handler, or with worker = true, or set \
                 accept_unknown_kinds on the queue",
                quote(&kind)
            );
            fault("kind", message);
        }
        Some(error @ AdmissionError::OverBound { field, .. }) => fault(field, error.to_string()),
    }
}

fn job_fields(section: &Section<'_>, reading: &mut Reading<'_>) -> JobDraft {
    let queue = section.setting("queue", &Name(check_queue_name), "default".to_owned(), reading);
    let kind = section.optional("kind", &Name(check_free_kind_name), reading);
    if kind.is_none() && section.get("kind").is_none() {
        let message = "the kind of the jobs is missing; write kind = \"…\"";
        reading.fault_at(&section.key_span("name"), section.key("kind"), message);
    }
    let kind = kind.unwrap_or_default();
    let payload = section.optional("payload", &Text("the payload as text"), reading);
    let media_type = section.optional("media_type", &Text("a media type"), reading);
    let delay = DurationIn(Duration::ZERO..=limits::TEN_YEARS);
    let media_type = media_type.or_else(|| payload.is_some().then(|| PayloadInfo::TEXT.to_owned()));
    JobDraft {
        queue,
        kind,
        payload: Bytes::from(payload.unwrap_or_default()),
        payload_info: media_type.map(PayloadInfo::typed).unwrap_or_default(),
        labels: texts(section, "labels", reading),
        headers: texts(section, "headers", reading),
        weights: numbers(section, "weights", &IntIn(limits::WEIGHT), reading),
        priority: section.optional("priority", &IntIn(-100..=100_i8), reading),
        max_attempts: section.optional("max_attempts", &IntIn(limits::MAX_ATTEMPTS), reading),
        attempt_timeout: section.optional("attempt_timeout", &DurationIn(limits::ATTEMPT_TIMEOUT), reading),
        start: section.optional("delay", &delay, reading).map(When::After),
        expiry: section
            .optional("expire_after", &DurationIn(Duration::from_millis(1)..=limits::TEN_YEARS), reading)
            .map(When::After),
        deadline: section.optional("deadline_after", &DurationIn(limits::DEADLINE), reading).map(When::After),
        max_snoozes: section.optional("max_snoozes", &IntIn(limits::MAX_SNOOZES), reading),
        max_process_losses: section.optional(
            "max_process_losses",
            &IntIn(limits::MAX_PROCESS_LOSSES),
            reading,
        ),
        retry: retry(section, reading),
        ..JobDraft::default()
    }
}

fn retry(section: &Section<'_>, reading: &mut Reading<'_>) -> Option<PartialRetryPolicy> {
    let table: Option<&DeTable<'_>> = section.table("retry", reading);
    table?;
    let section = Section::open(section.key("retry"), table, &RETRY_KEYS, reading);
    let delay = DurationIn(limits::RETRY_DELAY);
    let delays = listed_delays(&section, reading);
    Some(PartialRetryPolicy {
        initial_delay: section.optional("initial_delay", &delay, reading),
        max_delay: section.optional("max_delay", &delay, reading),
        delays,
        multiplier: section.optional("multiplier", &FloatIn(limits::RETRY_MULTIPLIER), reading),
        jitter: section.optional("jitter", &FloatIn(limits::RETRY_JITTER), reading),
    })
}
