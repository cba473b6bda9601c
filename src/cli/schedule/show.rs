//! Text output for schedules: a table, one in full, or a line for each change.

use super::super::{
    table::{Table, plain},
    text,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        InstantCount, LatePolicy, OverlapPolicy, Schedule, ScheduleInstant, ScheduleSpec, ScheduleStatus,
    },
};

fn instant_of(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    time.map_or_else(String::new, |time| text::instant(from_wire_timestamp(time), now))
}

fn short(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    time.map_or_else(String::new, |time| text::relative(from_wire_timestamp(time), now))
}

/// Returns the state of a schedule in a word.
fn state(schedule: &Schedule) -> &'static str {
    let status = schedule.status.as_ref();
    if schedule.pause.is_some() {
        "paused"
    } else if status.is_some_and(|status| status.waiting.is_some()) {
        "waiting"
    } else if status.is_some_and(|status| status.next.is_empty()) {
        "over"
    } else {
        "active"
    }
}

/// Returns the times of a schedule in a few words.
fn times(spec: &ScheduleSpec) -> String {
    let crons = spec.crons.iter().map(|cron| text::escape(cron).into_owned());
    let every =
        spec.every.as_ref().map(|every| format!("every {}", text::duration(from_wire_duration(every))));
    crons.chain(every).collect::<Vec<_>>().join("; ")
}

/// Returns the sum of the instants that did not run.
fn skipped(status: &ScheduleStatus) -> i64 {
    let counts = [&status.missed, &status.superseded, &status.overlapped, &status.no_room];
    counts.into_iter().flatten().map(|count| count.number).sum()
}

/// Formats schedules as a table.
pub(super) fn list(schedules: &[Schedule], now: Timestamp, colour: bool) -> String {
    let header = ["SCHEDULE", "STATE", "TIMES", "NEXT", "LAST", "OUTCOME", "RAN", "NOT RUN"];
    let mut table = Table::new(header, colour).numbers([6, 7]);
    for schedule in schedules {
        let status = schedule.status.clone().unwrap_or_default();
        let next = status.next.first().and_then(|next| next.fire_time.as_ref());
        let last = status.last.as_ref();
        let outcome = last.map_or_else(String::new, |last| text::state(last.state));
        table.row([
            plain(text::escape(&schedule.name)),
            plain(state(schedule)),
            plain(times(&schedule.spec.clone().unwrap_or_default())),
            plain(short(next, now)),
            plain(short(last.and_then(|last| last.time.as_ref()), now)),
            (outcome, last.and_then(|last| text::state_colour(last.state))),
            plain(status.fired.as_ref().map_or(0, |count| count.number).to_string()),
            plain(skipped(&status).to_string()),
        ]);
    }
    table.render()
}

/// Formats instants as a table.
pub(super) fn preview(instants: &[ScheduleInstant], now: Timestamp, colour: bool) -> String {
    let mut table = Table::new(["LOCAL TIME", "UTC", "RUNS", "IN", "NOTE"], colour);
    for instant in instants {
        let time = |time: Option<&prost_types::Timestamp>| {
            time.map_or_else(String::new, |time| from_wire_timestamp(time).to_string())
        };
        let is_delayed = instant.fire_time != instant.time;
        table.row([
            plain(text::escape(&instant.local_time)),
            plain(time(instant.time.as_ref())),
            plain(if is_delayed { time(instant.fire_time.as_ref()) } else { String::new() }),
            plain(short(instant.fire_time.as_ref(), now)),
            plain(text::escape(&instant.clock_change)),
        ]);
    }
    table.render()
}

/// Formats a schedule in a line.
pub(super) fn line(schedule: &Schedule, now: Timestamp) -> String {
    let status = schedule.status.clone().unwrap_or_default();
    let mut parts = vec![format!("{} {}", text::escape(&schedule.name), state(schedule))];
    if let Some(next) = status.next.first() {
        parts.push(format!("next {}", short(next.fire_time.as_ref(), now)));
    }
    if let Some(last) = &status.last {
        let state = text::state(last.state);
        parts.push(format!("last {} {state} {}", short(last.time.as_ref(), now), text::escape(&last.job_id)));
    }
    if let Some(waiting) = &status.waiting {
        parts.push(text::escape(&waiting.reason).into_owned());
    }
    parts.join(", ")
}

/// Formats a schedule with all of its details.
pub(super) fn in_full(schedule: &Schedule, now: Timestamp) -> String {
    let spec = schedule.spec.clone().unwrap_or_default();
    let job = schedule.job.clone().unwrap_or_default();
    let status = schedule.status.clone().unwrap_or_default();
    let escaped = |value: &str| text::escape(value).into_owned();
    let mut fields = vec![("schedule", escaped(&schedule.name)), ("state", state(schedule).to_owned())];
    if let Some(pause) = &schedule.pause {
        fields.push(("paused", instant_of(pause.since.as_ref(), now)));
        if !pause.reason.is_empty() {
            fields.push(("reason", escaped(&pause.reason)));
        }
    }
    fields.push(("times", times(&spec)));
    if !spec.time_zone.is_empty() {
        fields.push(("time zone", escaped(&spec.time_zone)));
    }
    rules(&spec, now, &mut fields);
    fields.push(("job", format!("kind {} in queue {}", escaped(&job.kind), escaped(&job.queue))));
    fields.extend(text::listed(
        "next",
        status.next.iter().map(|next| instant_of(next.fire_time.as_ref(), now)),
    ));
    progress(&status, now, &mut fields);
    if schedule.declared {
        fields.push(("declared", "in the configuration file".to_owned()));
    }
    fields.push(("created", instant_of(schedule.create_time.as_ref(), now)));
    fields.push(("id", escaped(&schedule.id)));
    fields.push(("etag", escaped(&schedule.etag)));
    text::fields(fields)
}

type Fields = Vec<(&'static str, String)>;

/// Adds the rules of a schedule that differ from the defaults.
fn rules(spec: &ScheduleSpec, now: Timestamp, fields: &mut Fields) {
    let of = |duration: &prost_types::Duration| text::duration(from_wire_duration(duration));
    let overlap = match OverlapPolicy::try_from(spec.overlap) {
        Ok(OverlapPolicy::Allow) => Some("allow"),
        Ok(OverlapPolicy::QueueOne) => Some("queue one"),
        Ok(OverlapPolicy::CancelRunning) => Some("cancel the running job"),
        Ok(OverlapPolicy::Skip | OverlapPolicy::Unspecified) => Some("skip"),
        Err(_) => None,
    };
    fields.extend(overlap.map(|overlap| ("overlap", overlap.to_owned())));
    let late = if spec.late == i32::from(LatePolicy::All) { "all" } else { "the latest one" };
    let window = spec
        .catch_up
        .as_ref()
        .map_or_else(|| "without limit".to_owned(), |window| format!("within {}", of(window)));
    fields.push(("late", format!("{late}, {window}")));
    if let Some(jitter) = &spec.jitter {
        fields.push(("jitter", format!("up to {}", of(jitter))));
    }
    for (name, time) in [("from", &spec.start_time), ("until", &spec.end_time)] {
        if time.is_some() {
            fields.push((name, instant_of(time.as_ref(), now)));
        }
    }
    if !spec.exclude.is_empty() {
        fields.push(("excluded", text::escape(&spec.exclude.join(", ")).into_owned()));
    }
    if !spec.calendars.is_empty() {
        fields.push(("calendars", text::escape(&spec.calendars.join(", ")).into_owned()));
    }
    if spec.pause_after_failures > 0 {
        let failures = u64::try_from(spec.pause_after_failures).unwrap_or(0);
        fields.push(("pauses after", text::counted(failures, "failed job")));
    }
}

/// Adds how far a schedule has come.
fn progress(status: &ScheduleStatus, now: Timestamp, fields: &mut Fields) {
    if let Some(last) = &status.last {
        let (state, id) = (text::state(last.state), text::escape(&last.job_id));
        fields.push(("last", format!("{}, job {id} {state}", instant_of(last.time.as_ref(), now))));
    }
    if let Some(waiting) = &status.waiting {
        let since = instant_of(waiting.since.as_ref(), now);
        fields.push(("waiting", format!("since {since}: {}", text::escape(&waiting.reason))));
    }
    if let Some(deferred) = &status.deferred {
        fields.push((
            "deferred",
            format!("{}, until the last job has ended", instant_of(deferred.time.as_ref(), now)),
        ));
    }
    for (name, count) in [
        ("ran", &status.fired),
        ("missed", &status.missed),
        ("superseded", &status.superseded),
        ("overlapped", &status.overlapped),
        ("no room", &status.no_room),
    ] {
        if let Some(InstantCount { number, last, at_least }) = count {
            let least = if *at_least { "at least " } else { "" };
            fields.push((name, format!("{least}{number}, the last {}", instant_of(last.as_ref(), now))));
        }
    }
    if status.failures > 0 {
        fields.push(("failures", format!("{} in a row", status.failures)));
    }
    if let Some(set_back) = &status.clock_set_back {
        let to = instant_of(set_back.to.as_ref(), now);
        fields.push(("clock", format!("was set back to {to}; the schedule went on from then")));
    }
    if let Some(backfill) = &status.backfill {
        let created = u64::try_from(backfill.created_jobs).unwrap_or(0);
        let state = match (&backfill.finish_time, backfill.cancelled, backfill.waiting.is_empty()) {
            (Some(_), true, _) => "cancelled".to_owned(),
            (Some(_), false, _) => "done".to_owned(),
            (None, _, true) => "goes on".to_owned(),
            (None, _, false) => format!("waits: {}", text::escape(&backfill.waiting)),
        };
        fields.push(("backfill", format!("{}, {state}", text::counted(created, "job"))));
    }
}

/// Says what becomes of a backfill.
pub(super) fn backfill_begun(instants: usize, dry_run: bool, repeated: bool) -> String {
    let counted = text::counted(instants as u64, "instant");
    match (repeated, dry_run) {
        (true, _) => "this backfill was requested before".to_owned(),
        (false, true) => format!("{counted} would run"),
        (false, false) => format!("{counted} run, one after the other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::{JobSpec, JobState, LastScheduledJob, SchedulePause, WaitingInstant};

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 0 })
    }

    fn schedule() -> Schedule {
        let count = |number| Some(InstantCount { number, last: at(-86_400), at_least: false });
        Schedule {
            name: "report".into(),
            spec: Some(ScheduleSpec {
                crons: vec!["0 3 * * *".into()],
                time_zone: "Europe/Berlin".into(),
                catch_up: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
                calendars: vec!["holidays".into()],
                ..ScheduleSpec::default()
            }),
            job: Some(JobSpec { queue: "default".into(), kind: "report".into(), ..JobSpec::default() }),
            status: Some(ScheduleStatus {
                next: vec![ScheduleInstant { time: at(3_600), fire_time: at(3_600), ..Default::default() }],
                last: Some(LastScheduledJob {
                    job_id: "01jq2r0000004".into(),
                    time: at(-82_800),
                    create_time: at(-82_800),
                    state: JobState::Failed.into(),
                }),
                fired: count(41),
                missed: count(2),
                waiting: Some(WaitingInstant {
                    time: at(-60),
                    since: at(-60),
                    reason: "the queue is full".into(),
                }),
                ..ScheduleStatus::default()
            }),
            create_time: at(-864_000),
            etag: "a-b".into(),
            id: "01jq2r0000001".into(),
            ..Schedule::default()
        }
    }

    #[test]
    fn schedules_in_a_table() {
        let paused =
            Schedule { name: "tidy".into(), pause: Some(SchedulePause::default()), ..Schedule::default() };
        insta::assert_snapshot!(list(&[schedule(), paused], NOW, false), @r"
        SCHEDULE  STATE    TIMES      NEXT   LAST     OUTCOME  RAN  NOT RUN
        report    waiting  0 3 * * *  in 1h  23h ago  FAILED    41        2
        tidy      paused                                         0        0
        ");
    }

    #[test]
    fn a_schedule_in_full() {
        insta::assert_snapshot!(in_full(&schedule(), NOW), @r"
        schedule      report
        state         waiting
        times         0 3 * * *
        time zone     Europe/Berlin
        overlap       skip
        late          the latest one, within 10m
        calendars     holidays
        job           kind report in queue default
        next          2027-01-15T09:00:00Z (in 1h)
        last          2027-01-14T09:00:00Z (23h ago), job 01jq2r0000004 FAILED
        waiting       since 2027-01-15T07:59:00Z (1m ago): the queue is full
        ran           41, the last 2027-01-14T08:00:00Z (1d ago)
        missed        2, the last 2027-01-14T08:00:00Z (1d ago)
        created       2027-01-05T08:00:00Z (10d ago)
        id            01jq2r0000001
        etag          a-b
        ");
    }

    #[test]
    fn a_change_in_a_line() {
        insta::assert_snapshot!(line(&schedule(), NOW), @"report waiting, next in 1h, last 23h ago FAILED 01jq2r0000004, the queue is full");
    }

    #[test]
    fn a_preview_tells_delays_and_what_clocks_do() {
        let local_time = "2027-03-28 03:00:00+02:00".to_owned();
        let clock_change = "in place of 02:30, which clocks skip".to_owned();
        let plain =
            ScheduleInstant { time: at(60), fire_time: at(60), local_time: local_time.clone(), clock_change };
        let delayed = ScheduleInstant { time: at(60), fire_time: at(90), local_time, ..Default::default() };
        insta::assert_snapshot!(preview(&[plain, delayed], NOW, false), @r"
        LOCAL TIME                 UTC                   RUNS                  IN         NOTE
        2027-03-28 03:00:00+02:00  2027-01-15T08:01:00Z                        in 1m      in place of 02:30, which clocks skip
        2027-03-28 03:00:00+02:00  2027-01-15T08:01:00Z  2027-01-15T08:01:30Z  in 1m 30s
        ");
    }
}
