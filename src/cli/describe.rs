//! A job in words: in one line, and in full.

use std::{fmt::Write, time::Duration};

use super::{
    table::{Table, plain},
    text,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{Attempt, Failure, FailureReason, Job, JobState, PendingReason},
};

/// What there is to say of a job's state, beside its name.
pub(super) fn state_details(job: &Job, now: Timestamp) -> String {
    let Ok(state) = JobState::try_from(job.state) else { return String::new() };
    let attempt = || format!("attempt {} of {}", job.attempt, job.max_attempts);
    let due = || job.run_time.as_ref().map(|time| text::relative(from_wire_timestamp(time), now));
    match state {
        JobState::Unspecified | JobState::Queued => String::new(),
        JobState::Scheduled => due().unwrap_or_default(),
        JobState::Running | JobState::Cancelling => {
            let mut details = if job.attempt > 1 { vec![attempt()] } else { Vec::new() };
            details.extend(progress(job));
            details.join(", ")
        }
        JobState::BackingOff => {
            let failure = job.failure.as_ref().map(failure).unwrap_or_default();
            format!("{} failed: {failure}; next {}", attempt(), due().unwrap_or_default())
        }
        JobState::Succeeded => {
            let took = run_time(job).map(|took| format!("in {}", text::duration(took)));
            let attempts = (job.attempt > 1).then(attempt);
            [attempts, took].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        JobState::Failed => {
            let failure = job.failure.as_ref().map(failure).unwrap_or_default();
            format!("{}: {failure}", attempt())
        }
        JobState::Cancelled => match job.attempt {
            0 => "before its first attempt".to_owned(),
            _ => format!("in {}", attempt()),
        },
        JobState::Expired => "no attempt had started in time".to_owned(),
    }
}

/// How far the running attempt is: `42 % resizing`.
pub(super) fn progress(job: &Job) -> Option<String> {
    let progress = job.progress.as_ref()?;
    let percent = format!("{} %", percent(progress.fraction));
    let words = [percent.as_str(), &progress.step, &progress.text];
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).map(text::escape).collect();
    Some(words.join(" "))
}

/// A part of 1 as whole per cent; what is not finished is never 100.
pub(super) fn percent(fraction: f64) -> u32 {
    if fraction >= 1.0 { 100 } else { ((fraction.clamp(0.0, 1.0) * 100.0) as u32).min(99) }
}

/// A failure in one line.
pub(super) fn failure(failure: &Failure) -> String {
    let reason = match FailureReason::try_from(failure.reason) {
        Ok(FailureReason::HandlerError | FailureReason::Unspecified) | Err(_) => String::new(),
        Ok(reason) => {
            let name = reason.as_str_name().trim_start_matches("FAILURE_REASON_");
            format!("{}: ", name.to_lowercase().replace('_', " "))
        }
    };
    let mut line = format!("{reason}{}", text::escape(&failure.message));
    // Most messages of commands tell the code by themselves.
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

/// How long the latest attempt took.
pub(super) fn run_time(job: &Job) -> Option<Duration> {
    let start = from_wire_timestamp(job.start_time.as_ref()?);
    Some(from_wire_timestamp(job.end_time.as_ref()?).since(start))
}

/// A job in full.
pub(super) fn in_full(job: &Job, now: Timestamp, colour: bool) -> String {
    let mut page = String::new();
    for (name, value) in fields(job, now, colour) {
        // Writing to a string can't fail.
        let _ = writeln!(page, "{name:<14}{value}");
    }
    if !job.attempts.is_empty() {
        let _ = writeln!(page, "\nattempts\n{}", indented(&attempts(&job.attempts, now, colour)));
    }
    if !job.payload.is_empty() {
        let _ = writeln!(
            page,
            "\npayload ({})\n{}",
            typed(&job.payload, &job.payload_type),
            content(&job.payload)
        );
    }
    if !job.output_tail.is_empty() {
        let _ = writeln!(page, "\noutput\n{}", indented(&text::escape_lines(&job.output_tail)));
    }
    if !job.result.is_empty() {
        let _ =
            writeln!(page, "\nresult ({})\n{}", typed(&job.result, &job.result_type), content(&job.result));
    }
    page
}

fn fields(job: &Job, now: Timestamp, colour: bool) -> Vec<(&'static str, String)> {
    let state = text::state(job.state);
    let state = if colour { text::coloured(&state, text::state_colour(job.state)) } else { state };
    let details = match JobState::try_from(job.state) {
        // The failure has a line of its own.
        Ok(JobState::Failed | JobState::BackingOff) => String::new(),
        Ok(_) | Err(_) => state_details(job, now),
    };
    let mut fields = vec![
        ("id", text::escape(&job.id).into_owned()),
        ("queue", text::escape(&job.queue).into_owned()),
        ("kind", text::escape(&job.kind).into_owned()),
        ("state", if details.is_empty() { state } else { format!("{state} {details}") }),
    ];
    if let Ok(reason) = PendingReason::try_from(job.pending_reason)
        && reason != PendingReason::Unspecified
    {
        let name = reason.as_str_name().trim_start_matches("PENDING_REASON_");
        fields.push(("waits because", name.to_lowercase().replace('_', " ")));
    }
    if let Some(failed) = &job.failure {
        fields.push(("failure", failure(failed)));
    }
    fields.push(("attempts", format!("{} of {}", job.attempt, job.max_attempts)));
    fields.push(("priority", job.priority.to_string()));
    if !job.labels.is_empty() {
        let labels =
            job.labels.iter().map(|(key, value)| text::escape(&format!("{key}={value}")).into_owned());
        fields.push(("labels", labels.collect::<Vec<_>>().join(" ")));
    }
    if !job.request_id.is_empty() {
        fields.push(("request id", text::escape(&job.request_id).into_owned()));
    }
    if let Some(timeout) = &job.attempt_timeout {
        fields.push(("timeout", text::duration(from_wire_duration(timeout))));
    }
    let times = [
        ("created", &job.create_time),
        ("runs at", &job.run_time),
        ("expires", &job.expire_time),
        ("started", &job.start_time),
        ("ended", &job.end_time),
        ("updated", &job.update_time),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            fields.push((name, text::instant(from_wire_timestamp(time), now)));
        }
    }
    fields.push(("revision", job.revision.to_string()));
    if !job.traceparent.is_empty() {
        fields.push(("traceparent", text::escape(&job.traceparent).into_owned()));
    }
    fields
}

fn attempts(attempts: &[Attempt], now: Timestamp, colour: bool) -> String {
    let mut table = Table::new(["#", "STARTED", "TOOK", "OUTCOME"], colour).numbers([0, 2]);
    for attempt in attempts {
        let start = attempt.start_time.as_ref().map(from_wire_timestamp);
        let end = attempt.end_time.as_ref().map(from_wire_timestamp);
        let took = start.zip(end).map(|(start, end)| text::duration(end.since(start)));
        let outcome = match (&attempt.failure, end) {
            (Some(failed), _) => failure(failed),
            (None, Some(_)) => "succeeded".to_owned(),
            (None, None) => "running".to_owned(),
        };
        table.row([
            plain(attempt.number.to_string()),
            plain(start.map(|start| text::relative(start, now)).unwrap_or_default()),
            plain(took.unwrap_or_default()),
            plain(outcome),
        ]);
    }
    table.render()
}

fn typed(bytes: &[u8], media_type: &str) -> String {
    let size = text::bytes(bytes.len() as u64);
    if media_type.is_empty() { size } else { format!("{size}, {}", text::escape(media_type)) }
}

/// Text as text; other bytes are not for terminals.
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
pub(super) mod tests {
    use super::*;
    use jobmill::{
        client::{to_wire_duration, to_wire_timestamp},
        proto::v1::{Progress, RetryPolicy},
    };

    /// 2026-01-02T03:04:05Z.
    const T0: i64 = 1_767_323_045_000_000;

    pub(in super::super) fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(T0 + millis * 1_000)
    }

    pub(in super::super) fn failed_job() -> Job {
        let failure = |message: &str| Failure {
            reason: FailureReason::HandlerError.into(),
            message: message.into(),
            code: String::new(),
            exit_code: Some(1),
            retryable: true,
        };
        let attempt = |number: i32, start, end, message| Attempt {
            number,
            start_time: Some(to_wire_timestamp(at(start))),
            end_time: Some(to_wire_timestamp(at(end))),
            failure: Some(failure(message)),
        };
        Job {
            id: "06g3k5m0v4000".into(),
            queue: "images".into(),
            kind: "thumbnail".into(),
            payload: "photo\n\u{1b}[31m.jpg".into(),
            payload_type: "text/plain".into(),
            labels: [("tenant".to_owned(), "acme\r".to_owned())].into(),
            priority: 5,
            request_id: "r-1".into(),
            state: JobState::Failed.into(),
            done: true,
            revision: 6,
            attempt: 2,
            max_attempts: 2,
            retry_policy: Some(RetryPolicy {
                initial_delay: Some(to_wire_duration(Duration::from_secs(1))),
                max_delay: Some(to_wire_duration(Duration::from_secs(60))),
                multiplier: 2.0,
                jitter: Some(0.2),
            }),
            attempt_timeout: Some(to_wire_duration(Duration::from_secs(300))),
            create_time: Some(to_wire_timestamp(at(0))),
            start_time: Some(to_wire_timestamp(at(2_000))),
            end_time: Some(to_wire_timestamp(at(2_750))),
            update_time: Some(to_wire_timestamp(at(2_750))),
            failure: Some(failure("disk \u{1b}]0;owned\u{7} full")),
            attempts: vec![attempt(1, 10, 500, "no such file"), attempt(2, 2_000, 2_750, "disk full")],
            output_tail: "reading\nwriting\r\n".into(),
            result: "half done".into(),
            result_type: "text/plain".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_job_in_full() {
        insta::assert_snapshot!(in_full(&failed_job(), at(60_000), false), @r"
        id            06g3k5m0v4000
        queue         images
        kind          thumbnail
        state         FAILED
        failure       disk \x1b]0;owned\x07 full (exit code 1)
        attempts      2 of 2
        priority      5
        labels        tenant=acme\r
        request id    r-1
        timeout       5m
        created       2026-01-02T03:04:05Z (1m ago)
        started       2026-01-02T03:04:07Z (58s ago)
        ended         2026-01-02T03:04:07.75Z (57s ago)
        updated       2026-01-02T03:04:07.75Z (57s ago)
        revision      6

        attempts
          #  STARTED   TOOK  OUTCOME
          1  59s ago  490ms  no such file (exit code 1)
          2  58s ago  750ms  disk full (exit code 1)

        payload (15 bytes, text/plain)
          photo
          \x1b[31m.jpg

        output
          reading
          writing\r

        result (9 bytes, text/plain)
          half done
        ");
    }

    #[test]
    fn nothing_that_a_client_wrote_can_steer_the_terminal() {
        let mut job = failed_job();
        let hostile = "\u{1b}[2J\r\u{202e}";
        job.id = hostile.into();
        job.queue = hostile.into();
        job.kind = hostile.into();
        job.request_id = hostile.into();
        job.traceparent = hostile.into();
        job.payload_type = hostile.into();
        job.result_type = hostile.into();
        job.result = hostile.into();
        job.progress = Some(Progress { fraction: 0.5, text: hostile.into(), step: hostile.into() });
        for state in 0..=11 {
            job.state = state;
            let page = in_full(&job, at(0), false) + &state_details(&job, at(0));
            assert!(!page.contains(|c: char| "\u{1b}\r\u{202e}".contains(c)), "{page:?}");
        }
    }

    #[test]
    fn each_state_has_its_details() {
        let lines: Vec<_> = (0..=11)
            .map(|state| {
                let job = Job {
                    state,
                    run_time: Some(to_wire_timestamp(at(9_000))),
                    progress: Some(Progress { fraction: 0.426, text: "b.png".into(), step: "resize".into() }),
                    ..failed_job()
                };
                format!("{}: {}", text::state(state), state_details(&job, at(0)))
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        UNSPECIFIED: 
        SCHEDULED: in 9s
        STATE 2: 
        QUEUED: 
        RUNNING: attempt 2 of 2, 42 % resize b.png
        BACKING_OFF: attempt 2 of 2 failed: disk \x1b]0;owned\x07 full (exit code 1); next in 9s
        CANCELLING: attempt 2 of 2, 42 % resize b.png
        SUCCEEDED: attempt 2 of 2, in 750ms
        FAILED: attempt 2 of 2: disk \x1b]0;owned\x07 full (exit code 1)
        CANCELLED: in attempt 2 of 2
        EXPIRED: no attempt had started in time
        STATE 11:
        ");
    }

    #[test]
    fn only_what_is_finished_is_100_per_cent() {
        for (fraction, expected) in
            [(0.0, 0), (0.426, 42), (0.9999, 99), (1.0, 100), (-1.0, 0), (f64::NAN, 0)]
        {
            assert_eq!(percent(fraction), expected, "{fraction}");
        }
    }
}
