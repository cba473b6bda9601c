//! Text output for a job: in one line, and in full.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use super::{
    table::{Table, plain},
    text,
};
use jobmill::{
    client::{from_wire_duration, from_wire_timestamp},
    clock::Timestamp,
    proto::v1::{Attempt, Failure, FailureReason, Job, JobState, Payload, Pending, PendingReason},
};

/// Describes a job's state in a few words, without the name of the state.
pub(super) fn state_details(job: &Job, now: Timestamp) -> String {
    let Ok(state) = JobState::try_from(job.state) else { return String::new() };
    let attempt = || format!("attempt {} of {}", job.attempt, job.max_attempts);
    let due = || job.next_run_time.as_ref().map(|time| text::relative(from_wire_timestamp(time), now));
    match state {
        JobState::Unspecified | JobState::Queued => String::new(),
        JobState::Scheduled => due().unwrap_or_default(),
        JobState::Running | JobState::Cancelling => {
            let mut details = if job.attempt > 1 { vec![attempt()] } else { Vec::new() };
            details.extend(progress(job));
            details.join(", ")
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
            format!("{}: {failure}", attempt())
        }
        JobState::Cancelled => match job.attempt {
            0 => "before its first attempt".to_owned(),
            _ => format!("in {}", attempt()),
        },
        JobState::Expired => "no attempt had started in time".to_owned(),
    }
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
        ("queue", text::escape(job.queue()).into_owned()),
        ("kind", text::escape(job.kind()).into_owned()),
        ("state", if details.is_empty() { state } else { format!("{state} {details}") }),
    ];
    fields.extend(text::listed("waits because", job.pending.iter().map(|waits| pending(waits, now))));
    if let Some(failed) = &job.last_failure {
        fields.push(("last failure", failure(failed)));
    }
    fields.push(("attempts", format!("{} of {}", job.attempt, job.max_attempts)));
    if let Some(spec) = &job.spec {
        fields.push(("priority", spec.priority().to_string()));
        if !spec.labels.is_empty() {
            fields.push(("labels", entries(&spec.labels, " ")));
        }
        if !spec.headers.is_empty() {
            fields.push(("headers", entries(&spec.headers, " ")));
        }
    }
    if !job.request_id.is_empty() {
        fields.push(("request id", text::escape(&job.request_id).into_owned()));
    }
    if let Some(timeout) = &job.attempt_timeout {
        fields.push(("timeout", text::duration(from_wire_duration(timeout))));
    }
    let times = [
        ("created", &job.create_time),
        ("runs at", &job.next_run_time),
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
    if let Some(until) = &pending.until {
        let _ = write!(line, ", until {}", text::instant(from_wire_timestamp(until), now));
    }
    line
}

/// Formats entries as `a=b c=d`.
fn entries(entries: &BTreeMap<String, String>, between: &str) -> String {
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
pub(super) mod tests {
    use super::*;
    use jobmill::{
        client::{to_wire_duration, to_wire_timestamp},
        proto::v1::{
            JobSpec, Progress, RetryPolicy,
            job_spec::{Expiry, Start},
        },
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
        let spec = JobSpec {
            queue: "images".into(),
            kind: "thumbnail".into(),
            payload: Some(Payload {
                metadata: [("key".to_owned(), "7".to_owned())].into(),
                size_bytes: 15,
                ..Payload::of("photo\n\u{1b}[31m.jpg").with_type("text/plain")
            }),
            labels: [("tenant".to_owned(), "acme\r".to_owned())].into(),
            headers: [("tenant".to_owned(), "acme".to_owned())].into(),
            priority: Some(5),
            attempt_timeout: Some(to_wire_duration(Duration::from_secs(300))),
            start: Some(Start::Delay(to_wire_duration(Duration::from_millis(1_500)))),
            expiry: Some(Expiry::ExpireAfter(to_wire_duration(Duration::from_secs(3_600)))),
            ..Default::default()
        };
        Job {
            id: "06g3k5m0v4000".into(),
            spec: Some(spec),
            namespace: "default".into(),
            request_id: "r-1".into(),
            state: JobState::Failed.into(),
            done: true,
            revision: 6,
            attempt: 2,
            max_attempts: 2,
            retry_policy: Some(RetryPolicy {
                initial_delay: Some(to_wire_duration(Duration::from_secs(1))),
                max_delay: Some(to_wire_duration(Duration::from_secs(60))),
                multiplier: Some(2.0),
                jitter: Some(0.2),
            }),
            attempt_timeout: Some(to_wire_duration(Duration::from_secs(300))),
            create_time: Some(to_wire_timestamp(at(0))),
            expire_time: Some(to_wire_timestamp(at(3_600_000))),
            start_time: Some(to_wire_timestamp(at(2_000))),
            end_time: Some(to_wire_timestamp(at(2_750))),
            update_time: Some(to_wire_timestamp(at(2_750))),
            last_failure: Some(failure("disk \u{1b}]0;owned\u{7} full")),
            attempts: vec![attempt(1, 10, 500, "no such file"), attempt(2, 2_000, 2_750, "disk full")],
            output_tail: "reading\nwriting\r\n".into(),
            result: Some(Payload { size_bytes: 2, ..Payload::of(vec![0xff, 0]).with_type("image/png") }),
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
        last failure  disk \x1b]0;owned\x07 full (exit code 1)
        attempts      2 of 2
        priority      5
        labels        tenant=acme\r
        headers       tenant=acme
        request id    r-1
        timeout       5m
        created       2026-01-02T03:04:05Z (1m ago)
        expires       2026-01-02T04:04:05Z (in 59m)
        started       2026-01-02T03:04:07Z (58s ago)
        ended         2026-01-02T03:04:07.75Z (57s ago)
        updated       2026-01-02T03:04:07.75Z (57s ago)
        revision      6

        attempts
          #  STARTED   TOOK  OUTCOME
          1  59s ago  490ms  no such file (exit code 1)
          2  58s ago  750ms  disk full (exit code 1)

        payload (15 bytes, text/plain, key=7)
          photo
          \x1b[31m.jpg

        output
          reading
          writing\r

        result (2 bytes, image/png)
          not text; --output json has it as base64
        ");
    }

    #[test]
    fn a_waiting_job_tells_all_that_it_waits_for() {
        let pending = |reason: i32, subject: &str, until: Option<i64>| Pending {
            reason,
            subject: subject.into(),
            until: until.map(|millis| to_wire_timestamp(at(millis))),
        };
        let job = Job {
            spec: Some(JobSpec { priority: None, ..failed_job().spec.unwrap() }),
            id: "1".into(),
            state: JobState::Scheduled.into(),
            next_run_time: Some(to_wire_timestamp(at(9_000))),
            pending: vec![
                pending(PendingReason::QueuePaused.into(), "images\u{1b}", None),
                pending(PendingReason::NoWorkerForKind.into(), "thumbnail", None),
                pending(PendingReason::RunTime.into(), "", Some(9_000)),
                pending(14, "", None),
            ],
            result: Some(Payload { size_bytes: 1_024, ..Default::default() }),
            ..Default::default()
        };
        insta::assert_snapshot!(in_full(&job, at(0), false), @r"
        id            1
        queue         images
        kind          thumbnail
        state         SCHEDULED in 9s
        waits because queue paused (images\x1b)
                      no worker for kind (thumbnail)
                      run time, until 2026-01-02T03:04:14Z (in 9s)
                      reason 14
        attempts      0 of 0
        priority      0
        labels        tenant=acme\r
        headers       tenant=acme
        runs at       2026-01-02T03:04:14Z (in 9s)
        revision      0

        payload (15 bytes, text/plain, key=7)
          photo
          \x1b[31m.jpg

        result (1 KiB)
        ");
    }

    #[test]
    fn nothing_that_a_client_wrote_can_steer_the_terminal() {
        let mut job = failed_job();
        let hostile = "\u{1b}[2J\r\u{202e}";
        job.id = hostile.into();
        let entries: BTreeMap<_, _> = [(hostile.to_owned(), hostile.to_owned())].into();
        let payload = Payload { metadata: entries.clone(), ..Payload::of(hostile).with_type(hostile) };
        job.spec = Some(JobSpec {
            queue: hostile.into(),
            kind: hostile.into(),
            payload: Some(payload.clone()),
            labels: entries.clone(),
            headers: entries,
            ..Default::default()
        });
        job.result = Some(payload);
        job.pending = vec![Pending { subject: hostile.into(), ..Default::default() }];
        job.request_id = hostile.into();
        job.traceparent = hostile.into();
        job.progress = Some(Progress { fraction: Some(0.5), text: hostile.into(), step: hostile.into() });
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
                    next_run_time: Some(to_wire_timestamp(at(9_000))),
                    progress: Some(Progress {
                        fraction: Some(0.426),
                        text: "b.png".into(),
                        step: "resize".into(),
                    }),
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
    fn progress_tells_what_the_attempt_said() {
        let said = |fraction, step: &str, text: &str| {
            let progress = Progress { fraction, step: step.into(), text: text.into() };
            super::progress(&Job { progress: Some(progress), ..Default::default() })
        };
        assert_eq!(said(Some(0.0), "", ""), Some("0 %".into()));
        assert_eq!(said(None, "resize", "b.png"), Some("resize b.png".into()));
        assert_eq!(said(None, "", ""), None);
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
