//! Commands as handlers of a running server.

use std::{collections::BTreeMap, path::Path};

use jobmill::{
    clock::Clock,
    proto::v1::{self, FailureReason, JobState},
    serve::Server,
    settings::{CommandSettings, HandlerSettings, KindDefaults, KindSettings, Settings},
};

use crate::support::{Rig, defaults, folder, job, manual_clock, named, result, soon};

/// Returns a kind that runs a shell script.
fn script(text: &str) -> KindSettings {
    KindSettings {
        handler: HandlerSettings::Command(CommandSettings {
            env: BTreeMap::from([("GREETING".to_owned(), "hello; $(reboot)".to_owned())]),
            permanent_exit_codes: vec![65],
            snooze_exit_codes: vec![99],
            ..CommandSettings::new(["/bin/sh", "-c", text, "$0", "-rf", "$(reboot)"])
        }),
        defaults: KindDefaults { max_attempts: 2, ..defaults() },
    }
}

async fn rig(settings: Settings, kinds: &[(&str, &str)]) -> Rig {
    let mut settings = settings;
    for (kind, text) in kinds {
        settings.kinds.insert((*kind).to_owned(), script(text));
    }
    let builder = Server::builder(settings).command_guard(env!("CARGO_BIN_EXE_jobmill"));
    Rig::start(builder.clock(Clock::Manual(manual_clock()))).await
}

async fn run(home: &Path, text: &str, payload: &str) -> v1::Job {
    let rig = rig(folder(home), &[("run", text)]).await;
    let id =
        rig.submit(v1::JobSpec { payload: Some(v1::Payload::of(payload.to_owned())), ..job("run") }).await.id;
    let job = rig.ends_or_waits(&id).await;
    rig.stop().await;
    job
}

impl Rig {
    /// Returns the job once its first attempt has ended.
    async fn ends_or_waits(&self, id: &str) -> v1::Job {
        let mut watcher = self.watch_ids(&[id]).await;
        let attempt_is_over = async {
            loop {
                use v1::watch_event::Event;
                if let Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) =
                    watcher.next().await
                    && (job.done || job.state() == JobState::BackingOff)
                {
                    return;
                }
            }
        };
        attempt_is_over.await;
        self.get(id).await
    }
}

#[tokio::test]
async fn the_payload_goes_in_and_the_result_comes_out() {
    let home = tempfile::tempdir().unwrap();
    let job = run(home.path(), "tr a-z A-Z; echo working >&2", "some text").await;
    assert_eq!((job.state(), result(&job)), (JobState::Succeeded, &b"SOME TEXT"[..]));
    assert_eq!(job.output_tail, "working\n");
}

#[tokio::test]
async fn a_payload_and_a_result_may_have_a_mebibyte() {
    let home = tempfile::tempdir().unwrap();
    let payload = "x".repeat(1 << 20);
    let job = run(home.path(), "cat", &payload).await;
    assert_eq!((job.state(), result(&job).len()), (JobState::Succeeded, 1 << 20));
    let job = run(home.path(), "cat; echo one more", &payload).await;
    assert_eq!(
        (job.state(), job.last_failure.unwrap().reason()),
        (JobState::Failed, FailureReason::ResultTooLarge)
    );
}

#[tokio::test]
async fn output_without_end_is_cut_at_the_cap_and_the_job_says_so() {
    let home = tempfile::tempdir().unwrap();
    let job = run(home.path(), "exec yes", "").await;
    let failure = job.last_failure.clone().unwrap();
    assert_eq!((job.state(), failure.reason()), (JobState::Failed, FailureReason::ResultTooLarge));
    assert_eq!(failure.message, "the command wrote more than 1048576 bytes to its standard output");
    assert!(result(&job).is_empty());

    // The limit is for the result. Other output is not limited; the job keeps its tail.
    let job = run(home.path(), "(yes | head -c 2000000; echo the end) >&2; exec yes", "").await;
    assert_eq!(job.last_failure.as_ref().unwrap().reason(), FailureReason::ResultTooLarge);
    assert!(job.output_tail.starts_with("[earlier output was cut]\ny\n"), "{}", &job.output_tail[..100]);
    assert!(job.output_tail.ends_with("y\nthe end\n"));
    assert!(job.output_tail.len() < 66 << 10, "{} bytes", job.output_tail.len());
}

#[tokio::test]
async fn the_exit_code_decides() {
    let home = tempfile::tempdir().unwrap();
    for (text, state, exit_code, message) in [
        ("exit 0", JobState::Succeeded, None, ""),
        ("echo no ink >&2; exit 1", JobState::BackingOff, Some(1), "exited with code 1: no ink"),
        ("exit 65", JobState::Failed, Some(65), "exited with code 65"),
        ("exit 75", JobState::BackingOff, Some(75), "exited with code 75"),
        ("kill -KILL $$", JobState::BackingOff, Some(137), "killed by signal 9 (SIGKILL)"),
    ] {
        let job = run(home.path(), text, "").await;
        assert_eq!(job.state(), state, "{text}: {job:?}");
        let failure = job.last_failure.unwrap_or_default();
        assert_eq!((failure.exit_code, failure.message.as_str()), (exit_code, message), "{text}");
    }
}

#[tokio::test]
async fn a_command_that_is_not_there_fails_to_start() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = folder(home.path());
    let mut kind = script("");
    if let HandlerSettings::Command(command) = &mut kind.handler {
        command.argv = vec!["/nowhere/at/all".to_owned()];
    }
    settings.kinds.insert("run".to_owned(), kind);
    let builder = Server::builder(settings).command_guard(env!("CARGO_BIN_EXE_jobmill"));
    let rig = Rig::start(builder.clock(Clock::Manual(manual_clock()))).await;
    let id = rig.submit(job("run")).await.id;
    let failure = rig.ends_or_waits(&id).await.last_failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::StartFailed);
    assert!(failure.message.contains("/nowhere/at/all") && failure.retryable, "{failure:?}");
    rig.stop().await;
}

#[tokio::test]
async fn arguments_and_variables_reach_the_command_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let text = r#"printf '%s\n' "$0" "$@" "$GREETING" "$JOBMILL_QUEUE $JOBMILL_KIND $JOBMILL_ATTEMPT/$JOBMILL_MAX_ATTEMPTS" \
        "$JOBMILL_JOB_ID" "lease ${JOBMILL_LEASE:+given}" "secret${CARGO_PKG_NAME}""#;
    let job = run(home.path(), text, "").await;
    let lines: Vec<_> = std::str::from_utf8(result(&job)).unwrap().lines().collect();
    let expected =
        ["$0", "-rf", "$(reboot)", "hello; $(reboot)", "default run 1/2", &job.id, "lease given", "secret"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn what_a_job_brings_along_is_in_variables_of_the_command() {
    let home = tempfile::tempdir().unwrap();
    let text = r#"printf '%s\n' "$JOBMILL_REQUEST_ID" "$JOBMILL_DEADLINE" "$JOBMILL_LABELS" "$JOBMILL_HEADERS" \
        "$JOBMILL_PAYLOAD_TYPE" "$JOBMILL_PAYLOAD_METADATA" "state ${TRACESTATE-none}""#;
    let rig = rig(folder(home.path()), &[("run", text)]).await;
    let entry = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let spec = v1::JobSpec {
        payload: Some(v1::Payload { metadata: entry("key.id/1", "a\r\nb"), ..v1::Payload::of_text("x") }),
        labels: entry("note", "nul\0 \"$(reboot)\""),
        headers: entry("tenant", "a b"),
        attempt_timeout: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
        ..job("run")
    };
    let given = [
        "a request: $(reboot)",
        "2027-01-15T08:01:30Z",
        r#"{"note":"nul\u0000 \"$(reboot)\""}"#,
        r#"{"tenant":"a b"}"#,
        "text/plain; charset=utf-8",
        r#"{"key.id/1":"a\r\nb"}"#,
        "state none",
    ];
    let nothing = ["", "2027-01-15T08:15:00Z", "{}", "{}", "", "{}", "state none"];
    for (request_id, spec, expected) in [("a request: $(reboot)", spec, given), ("", job("run"), nothing)] {
        let submitted = soon(rig.jobs.clone().submit(named(request_id, spec))).await.unwrap().into_inner();
        let ended = rig.ends_or_waits(submitted.id()).await;
        let lines: Vec<_> = std::str::from_utf8(result(&ended)).unwrap().lines().collect();
        assert_eq!(lines, expected);
    }
    rig.stop().await;
}

/// Returns the first progress that a job reports.
async fn progress(rig: &Rig, id: &str) -> v1::Progress {
    use v1::watch_event::Event;

    let mut watcher = rig.watch_ids(&[id]).await;
    loop {
        if let Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) =
            watcher.next().await
            && let Some(progress) = job.progress
        {
            return progress;
        }
    }
}

#[tokio::test]
async fn a_cancelled_command_is_asked_to_end_with_all_that_it_started() {
    let home = tempfile::tempdir().unwrap();
    // The trap is set before the child reports that it is up.
    let text = r#"trap 'echo bye >&2; exit 3' TERM
        sh -c 'trap "" TERM; echo "0 $$" >&"$JOBMILL_PROGRESS_FD"; while :; do sleep 1000; done' &
        wait"#;
    let rig = rig(folder(home.path()), &[("run", text)]).await;
    let id = rig.submit(job("run")).await.id;
    // Progress is stored with the job, so that it is seen even if it comes before the watch. A line of output would be
    // missed.
    let child = progress(&rig, &id).await.text.parse().unwrap();
    rig.cancel(&id).await.unwrap();
    let job = rig.ends(&id).await;
    assert_eq!(job.state(), JobState::Cancelled);
    let failure = job.last_failure.unwrap();
    assert_eq!((failure.reason(), failure.exit_code), (FailureReason::Cancelled, Some(3)));
    assert!(job.output_tail.ends_with("bye\n"));
    // The child ignores SIGTERM, and is gone before its job is reported as ended.
    let child = rustix::process::Pid::from_raw(child).unwrap();
    assert_eq!(rustix::process::test_kill_process(child), Err(rustix::io::Errno::SRCH));
    rig.stop().await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_stopped() {
    let home = tempfile::tempdir().unwrap();
    let rig = rig(folder(home.path()), &[("run", "sleep 1000")]).await;
    let attempt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    let id = rig.submit(v1::JobSpec { attempt_timeout, max_attempts: 1, ..job("run") }).await.id;
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), job.last_failure.unwrap().reason()), (JobState::Failed, FailureReason::Timeout));
    rig.stop().await;
}

#[tokio::test]
async fn progress_comes_over_its_descriptor() {
    let home = tempfile::tempdir().unwrap();
    let rig =
        rig(folder(home.path()), &[("run", "echo '0.5 half' >&\"$JOBMILL_PROGRESS_FD\"; exec sleep 1000")])
            .await;
    let id = rig.submit(job("run")).await.id;
    let progress = progress(&rig, &id).await;
    assert_eq!((progress.fraction, progress.text.as_str()), (Some(0.5), "half"));
    rig.cancel(&id).await.unwrap();
    rig.ends(&id).await;
    rig.stop().await;
}
