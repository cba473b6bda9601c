//! Text output for a job: in one line, and in full.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    time::Duration,
};

use super::{
    dependencies,
    table::{Table, plain},
    text, unique,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        Attempt, CheckpointStatus, Failure, FailureReason, Job, JobSchedule, JobState, Payload, Pending,
        PendingReason, ScheduleOrigin, UniqueScope,
    },
};

/// Describes a job's state in a few words, without the name of the state.
pub(super) fn state_details(job: &Job, now: Timestamp) -> String {
    let Ok(state) = JobState::try_from(job.state) else { return String::new() };
    let attempt = || format!("attempt {} of {}", job.counted_attempts, job.max_attempts);
    let due = || job.next_run_time.as_ref().map(|time| text::relative(from_wire_timestamp(time), now));
    match state {
        JobState::Unspecified | JobState::Queued => String::new(),
        JobState::Blocked => "by other jobs".to_owned(),
        JobState::Scheduled => due().unwrap_or_default(),
        JobState::Running | JobState::Cancelling => {
            let mut details = if job.attempt > 1 { vec![attempt()] } else { Vec::new() };
            details.extend(progress(job));
            details.join(", ")
        }
        JobState::BackingOff if job.snoozed => {
            format!("snoozed by its handler; next {}", due().unwrap_or_default())
        }
        JobState::BackingOff if job.start_time.is_none() => {
            format!("given back before it had started; next {}", due().unwrap_or_default())
        }
        JobState::BackingOff => {
            let failure = job.last_failure.as_ref().map(failure).unwrap_or_default();
            format!("{} failed: {failure}; next {}", attempt(), due().unwrap_or_default())
        }
        JobState::Succeeded => {
            let took = took(job).map(|took| format!("in {}", text::duration(took)));
            let attempts = (job.attempt > 1).then(attempt);
            [attempts, took].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        JobState::Failed => {
            let failure = job.last_failure.as_ref().map(failure).unwrap_or_default();
            match job.counted_attempts {
                0 => failure,
                _ => format!("{}: {failure}", attempt()),
            }
        }
        JobState::Cancelled if is_forsaken(job) => job.last_failure.as_ref().map(failure).unwrap_or_default(),
        JobState::Cancelled => match (job.counted_attempts, &job.start_time) {
            (0, None) => "before its first attempt".to_owned(),
            (0, Some(_)) => "before an attempt that counts".to_owned(),
            (_, _) => format!("in {}", attempt()),
        },
        JobState::Expired => "no attempt had started in time".to_owned(),
    }
}

/// Returns whether the job ended because of a job on which it depended.
fn is_forsaken(job: &Job) -> bool {
    job.last_failure.as_ref().is_some_and(|last| last.reason() == FailureReason::Dependency)
}

/// Formats the progress that the running attempt has reported: `42 % resizing`.
fn progress(job: &Job) -> Option<String> {
    let progress = job.progress.as_ref()?;
    let percent = progress.fraction.map(|fraction| format!("{} %", percent(fraction))).unwrap_or_default();
    let words = [percent.as_str(), &progress.step, &progress.text];
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).map(text::escape).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Converts a fraction to whole per cent. Only a fraction of 1 gives 100.
fn percent(fraction: f64) -> u32 {
    if fraction >= 1.0 { 100 } else { ((fraction.clamp(0.0, 1.0) * 100.0) as u32).min(99) }
}

/// Formats a failure in one line.
pub(super) fn failure(failure: &Failure) -> String {
    let reason = match FailureReason::try_from(failure.reason) {
        Ok(FailureReason::HandlerError | FailureReason::Unspecified) | Err(_) => String::new(),
        Ok(reason) => {
            let name = reason.as_str_name().trim_start_matches("FAILURE_REASON_");
            format!("{}: ", name.to_lowercase().replace('_', " "))
        }
    };
    let mut line = format!("{reason}{}", text::escape(&failure.message));
    // Most messages of commands contain the exit code already.
    let untold = failure.exit_code.filter(|code| !failure.message.contains(&format!("code {code}")));
    let exit = untold.map(|code| format!("exit code {code}"));
    let code = (!failure.code.is_empty()).then(|| format!("code {}", text::escape(&failure.code)));
    let more: Vec<_> = [code, exit].into_iter().flatten().collect();
    if !more.is_empty() {
        // Writing to a string can't fail.
        let _ = write!(line, " ({})", more.join(", "));
    }
    line
}

/// Returns the duration of the latest attempt.
fn took(job: &Job) -> Option<Duration> {
    let start = from_wire_timestamp(job.start_time.as_ref()?);
    Some(from_wire_timestamp(job.end_time.as_ref()?).since(start))
}

/// Formats a job with all of its details.
pub(super) fn in_full(job: &Job, now: Timestamp, colour: bool) -> String {
    let mut page = text::fields(fields(job, now, colour));
    // Writing to a string can't fail.
    if !job.attempts.is_empty() {
        let _ = writeln!(page, "\nattempts\n{}", indented(&attempts(&job.attempts, now, colour)));
    }
    if let Some(payload) = job.spec.as_ref().and_then(|spec| spec.payload.as_ref()) {
        let _ = write!(page, "\n{}", with_content("payload", payload));
    }
    if !job.output_tail.is_empty() {
        let _ = writeln!(page, "\noutput\n{}", indented(&text::escape_lines(&job.output_tail)));
    }
    if let Some(result) = &job.result {
        let _ = write!(page, "\n{}", with_content("result", result));
    }
    page
}

fn times(job: &Job, now: Timestamp) -> impl Iterator<Item = (&'static str, String)> {
    let times = [
        ("created", job.create_time),
        ("runs at", job.next_run_time),
        ("expires", job.expire_time),
        ("deadline", job.deadline_time),
        ("started", job.start_time),
        ("ended", job.end_time),
        ("updated", job.update_time),
    ];
    times
        .into_iter()
        .filter_map(move |(name, time)| Some((name, text::instant(from_wire_timestamp(time.as_ref()?), now))))
}

fn fields(job: &Job, now: Timestamp, colour: bool) -> Vec<(&'static str, String)> {
    let state = text::state(job.state);
    let state = if colour { text::coloured(&state, text::state_colour(job.state)) } else { state };
    let details = match JobState::try_from(job.state) {
        // The failure has a line of its own.
        Ok(JobState::Failed) => String::new(),
        Ok(JobState::Cancelled) if is_forsaken(job) => String::new(),
        Ok(JobState::BackingOff) if !job.snoozed && job.start_time.is_some() => String::new(),
        Ok(_) | Err(_) => state_details(job, now),
    };
    let mut fields = vec![
        ("id", text::escape(&job.id).into_owned()),
        ("queue", text::escape(job.queue()).into_owned()),
        ("kind", text::escape(job.kind()).into_owned()),
        ("state", if details.is_empty() { state } else { format!("{state} {details}") }),
    ];
    fields.extend(text::listed("waits because", job.pending.iter().map(|waits| pending(waits, now))));
    if let Some(failed) = &job.last_failure {
        fields.push(("last failure", failure(failed)));
    }
    fields.push(("attempts", attempt_counts(job)));
    if let Some(spec) = &job.spec {
        fields.push(("priority", spec.priority().to_string()));
        if !spec.labels.is_empty() {
            fields.push(("labels", entries(&spec.labels, " ")));
        }
        if !spec.headers.is_empty() {
            fields.push(("headers", entries(&spec.headers, " ")));
        }
        if !spec.weights.is_empty() {
            fields.push(("weights", entries(&spec.weights, " ")));
        }
    }
    fields.extend(text::listed("depends on", dependencies::described(job)));
    fields.extend(unique_key(job, now));
    if let Some(by) = &job.schedule {
        fields.push(("schedule", scheduled_by(by, now)));
    }
    if !job.request_id.is_empty() {
        fields.push(("request id", text::escape(&job.request_id).into_owned()));
    }
    if let Some(timeout) = &job.attempt_timeout {
        fields.push(("timeout", text::duration(from_wire_duration(timeout))));
    }
    fields.extend(times(job, now));
    if !job.worker.is_empty() {
        fields.push(("worker", text::escape(&job.worker).into_owned()));
    }
    if job.lease_token != 0 {
        fields.push(("lease token", job.lease_token.to_string()));
    }
    if let Some(checkpoint) = &job.checkpoint {
        fields.push(("checkpoint", written(checkpoint, now)));
    }
    fields.push(("revision", job.revision.to_string()));
    if !job.traceparent.is_empty() {
        fields.push(("traceparent", text::escape(&job.traceparent).into_owned()));
    }
    fields
}

/// Formats how many attempts count, and why others do not.
fn attempt_counts(job: &Job) -> String {
    let mut line = format!("{} of {}", job.counted_attempts, job.max_attempts);
    let other = job.attempt - job.counted_attempts;
    let counts =
        [(other, "not counted"), (job.snoozes, "snoozed"), (job.process_losses, "by a dead process")];
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !counts.is_empty() {
        // Writing to a string can't fail.
        let _ = write!(line, " ({})", counts.join(", "));
    }
    line
}

/// Describes the job's unique key: its scope, and who holds and follows it.
fn unique_key(job: &Job, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut fields = key_fields(job, now);
    if job.replaced != 0 {
        fields.push(("replaced", text::counted(job.replaced.unsigned_abs().into(), "time")));
    }
    fields
}

fn key_fields(job: &Job, now: Timestamp) -> Vec<(&'static str, String)> {
    let Some(said) = job.spec.as_ref().and_then(|spec| spec.unique_key.as_ref()) else { return Vec::new() };
    let scope = unique::scope(UniqueScope::try_from(said.scope).unwrap_or_default(), job.queue(), job.kind());
    let mut fields = vec![("unique key", format!("{} ({scope})", text::escape(&said.key)))];
    let Some(status) = &job.unique_key else { return fields };
    let id = |id: &str| if id == job.id { "this job".to_owned() } else { text::escape(id).into_owned() };
    fields.push((
        "held by",
        match (status.holder_id.as_str(), &status.held_until) {
            ("", _) => "no job".to_owned(),
            (holder, None) => id(holder),
            (holder, Some(until)) => {
                let until = text::instant(from_wire_timestamp(until), now);
                format!("{}, which has ended, until {until}", id(holder))
            }
        },
    ));
    if !status.successor_id.is_empty() {
        fields.push(("followed by", id(&status.successor_id)));
    }
    fields
}

fn attempts(attempts: &[Attempt], now: Timestamp, colour: bool) -> String {
    // Where the server has run all of them itself, the column would be empty.
    let is_remote = attempts.iter().any(|attempt| !attempt.worker.is_empty());
    let mut table = match is_remote {
        true => Table::new(["#", "STARTED", "TOOK", "WORKER", "OUTCOME"], colour),
        false => Table::new(["#", "STARTED", "TOOK", "OUTCOME"], colour),
    }
    .numbers([0, 2]);
    for attempt in attempts {
        let start = attempt.start_time.as_ref().map(from_wire_timestamp);
        let end = attempt.end_time.as_ref().map(from_wire_timestamp);
        let took = start.zip(end).map(|(start, end)| text::duration(end.since(start)));
        let outcome = match (&attempt.failure, end) {
            (Some(failed), _) => failure(failed),
            (None, Some(_)) => "succeeded".to_owned(),
            (None, None) => "running".to_owned(),
        };
        let number = plain(attempt.number.to_string());
        let started = plain(start.map(|start| text::relative(start, now)).unwrap_or_default());
        let took = plain(took.unwrap_or_default());
        match is_remote {
            true => table.row([number, started, took, plain(text::escape(&attempt.worker)), plain(outcome)]),
            false => table.row([number, started, took, plain(outcome)]),
        }
    }
    table.render()
}

/// Formats how a job came from a schedule.
fn scheduled_by(by: &JobSchedule, now: Timestamp) -> String {
    let time =
        by.time.as_ref().map_or_else(String::new, |time| text::instant(from_wire_timestamp(time), now));
    let came = match ScheduleOrigin::try_from(by.origin) {
        Ok(ScheduleOrigin::Triggered) => "triggered",
        Ok(ScheduleOrigin::Backfilled) => "backfilled, for",
        Ok(ScheduleOrigin::Scheduled | ScheduleOrigin::Unspecified) | Err(_) => "for",
    };
    format!("{}, {came} {time}", text::escape(&by.name))
}

/// Formats a written checkpoint: number, size and age.
fn written(checkpoint: &CheckpointStatus, now: Timestamp) -> String {
    let size = text::bytes(u64::try_from(checkpoint.size_bytes).unwrap_or(0));
    let age = checkpoint.write_time.as_ref().map(|time| text::relative(from_wire_timestamp(time), now));
    let written = age.map(|age| format!(", written {age}")).unwrap_or_default();
    format!("number {} ({size}){written}", checkpoint.number)
}

/// Formats a reason for which a job waits.
fn pending(pending: &Pending, now: Timestamp) -> String {
    let mut line = match PendingReason::try_from(pending.reason) {
        Ok(reason) => {
            let name = reason.as_str_name().trim_start_matches("PENDING_REASON_");
            name.to_lowercase().replace('_', " ")
        }
        Err(_) => format!("reason {}", pending.reason),
    };
    // Writing to a string can't fail.
    if !pending.subject.is_empty() {
        let _ = write!(line, " ({})", text::escape(&pending.subject));
    }
    if !pending.job_ids.is_empty() {
        let ids: Vec<_> = pending.job_ids.iter().map(|id| text::escape(id)).collect();
        let how = if pending.reason() == PendingReason::Dependency { "on" } else { "held by" };
        let _ = write!(line, ", {how} {}", ids.join(", "));
    }
    if let Some(until) = &pending.until {
        let _ = write!(line, ", until {}", text::instant(from_wire_timestamp(until), now));
    }
    line
}

/// Formats entries as `a=b c=d`.
fn entries<V: Display>(entries: &BTreeMap<String, V>, between: &str) -> String {
    let entries = entries.iter().map(|(key, value)| text::escape(&format!("{key}={value}")).into_owned());
    entries.collect::<Vec<_>>().join(between)
}

/// Formats a payload or result: a line with its size, media type and metadata, then its content, if there is any.
fn with_content(name: &str, payload: &Payload) -> String {
    let mut about = text::bytes(u64::try_from(payload.size_bytes).unwrap_or(0));
    // Writing to a string can't fail.
    if !payload.media_type.is_empty() {
        let _ = write!(about, ", {}", text::escape(&payload.media_type));
    }
    if !payload.metadata.is_empty() {
        let _ = write!(about, ", {}", entries(&payload.metadata, ", "));
    }
    match payload.bytes() {
        [] => format!("{name} ({about})\n"),
        bytes => format!("{name} ({about})\n{}\n", content(bytes)),
    }
}

/// Formats content as text. Other bytes may disturb a terminal, and are replaced by a note.
fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(content) => indented(&text::escape_lines(content)),
        Err(_) => "  not text; --output json has it as base64".to_owned(),
    }
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(super) mod tests;
