//! Tests of the text output for a job.

use super::*;
use jobmill::{
    client::{to_wire_duration, to_wire_timestamp},
    proto::v1::{
        CheckpointStatus, JobSpec, Progress, RetryPolicy,
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
        parent_id: String::new(),
    };
    let attempt = |number: i32, start, end, message| Attempt {
        number,
        start_time: Some(to_wire_timestamp(at(start))),
        end_time: Some(to_wire_timestamp(at(end))),
        failure: Some(failure(message)),
        worker: String::new(),
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
        counted_attempts: 2,
        max_attempts: 2,
        retry_policy: Some(RetryPolicy {
            initial_delay: Some(to_wire_duration(Duration::from_secs(1))),
            max_delay: Some(to_wire_duration(Duration::from_secs(60))),
            multiplier: Some(2.0),
            jitter: Some(0.2),
            ..RetryPolicy::default()
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
        job_ids: Vec::new(),
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
    job.worker = hostile.into();
    job.attempts[0].worker = hostile.into();
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
    BLOCKED: by other jobs
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
fn a_job_without_a_counted_attempt_tells_of_none() {
    let failure = Failure {
        reason: FailureReason::Deadline.into(),
        message: "the deadline 2026-01-02T03:04:05Z has passed".into(),
        ..Default::default()
    };
    let started = Some(to_wire_timestamp(at(0)));
    let uncounted = |state: JobState, attempt| Job {
        state: state.into(),
        attempt,
        max_attempts: 5,
        next_run_time: Some(to_wire_timestamp(at(9_000))),
        ..Default::default()
    };
    let jobs = [
        Job { last_failure: Some(failure), ..uncounted(JobState::Failed, 0) },
        uncounted(JobState::Cancelled, 0),
        uncounted(JobState::Cancelled, 1),
        Job { start_time: started, ..uncounted(JobState::Cancelled, 1) },
        Job { start_time: started, snoozed: true, snoozes: 1, ..uncounted(JobState::BackingOff, 1) },
        uncounted(JobState::BackingOff, 1),
    ];
    let lines: Vec<_> = jobs.iter().map(|job| state_details(job, at(0))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    deadline: the deadline 2026-01-02T03:04:05Z has passed
    before its first attempt
    before its first attempt
    before an attempt that counts
    snoozed by its handler; next in 9s
    given back before it had started; next in 9s
    ");
    let page = in_full(&jobs[4], at(0), false);
    assert!(page.contains("state         BACKING_OFF snoozed by its handler; next in 9s"), "{page}");
    assert!(page.contains("attempts      0 of 5 (1 not counted, 1 snoozed)"), "{page}");
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
    for (fraction, expected) in [(0.0, 0), (0.426, 42), (0.9999, 99), (1.0, 100), (-1.0, 0), (f64::NAN, 0)] {
        assert_eq!(percent(fraction), expected, "{fraction}");
    }
}

#[test]
fn a_job_of_a_remote_worker_tells_which_and_under_which_lease() {
    let mut job = failed_job();
    job.attempts[0].worker = "resizer-1".into();
    job.attempts[1].end_time = None;
    job.attempts[1].failure = None;
    job.attempts[1].worker = "resizer-2".into();
    let job = Job {
        state: JobState::Running.into(),
        worker: "resizer-2".into(),
        lease_token: 1_767_323_045_000_007,
        checkpoint: Some(CheckpointStatus {
            number: 3,
            size_bytes: 2_048,
            write_time: Some(to_wire_timestamp(at(50_000))),
        }),
        end_time: None,
        last_failure: None,
        result: None,
        output_tail: String::new(),
        ..job
    };
    insta::assert_snapshot!(in_full(&job, at(60_000), false), @r"
    id            06g3k5m0v4000
    queue         images
    kind          thumbnail
    state         RUNNING attempt 2 of 2
    attempts      2 of 2
    priority      5
    labels        tenant=acme\r
    headers       tenant=acme
    request id    r-1
    timeout       5m
    created       2026-01-02T03:04:05Z (1m ago)
    expires       2026-01-02T04:04:05Z (in 59m)
    started       2026-01-02T03:04:07Z (58s ago)
    updated       2026-01-02T03:04:07.75Z (57s ago)
    worker        resizer-2
    lease token   1767323045000007
    checkpoint    number 3 (2 KiB), written 10s ago
    revision      6

    attempts
      #  STARTED   TOOK  WORKER     OUTCOME
      1  59s ago  490ms  resizer-1  no such file (exit code 1)
      2  58s ago         resizer-2  running

    payload (15 bytes, text/plain, key=7)
      photo
      \x1b[31m.jpg
    ");
}
