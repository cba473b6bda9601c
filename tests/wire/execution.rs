//! Execution: order, time, retries, and the ends of attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobmill::{
    clock::Clock,
    execute::{Attempt, HandlerError, HandlerFuture},
    job::{Output, PayloadInfo, RetryPolicy},
    proto::v1::{self, FailureReason, JobState, PendingReason, watch_event::Event},
    serve::Server,
    settings::{KindDefaults, QueueSettings},
};
use prost_types::Timestamp;

use crate::support::{
    QUEUE, Rig, Stage, defaults, echo, fail, folder, job, manual_clock, memory, pending, queue, refusal,
    result, result_type, run_time, simple, soon, update_of, with_queue,
};

/// The start of [`manual_clock`], in seconds since 1970.
const START_S: i64 = 1_800_000_000;

fn with_payload(kind: &str, payload: &str) -> v1::JobSpec {
    v1::JobSpec { payload: Some(v1::Payload::of(payload.to_owned())), ..job(kind) }
}

/// Starts a server whose one consumer runs `stage` jobs.
async fn one_at_a_time() -> (Rig, Stage) {
    let (handler, stage) = Stage::new();
    let rig =
        Rig::start(
            Server::builder(with_queue(memory(), QUEUE, queue(1)))
                .handler("stage", defaults(), handler)
                .handler("echo", defaults(), echo),
        )
        .await;
    (rig, stage)
}

#[tokio::test]
async fn larger_priorities_go_first_and_equals_in_the_order_of_their_submission() {
    let (rig, mut stage) = one_at_a_time().await;
    rig.submit(with_payload("stage", "first")).await;
    for (name, priority) in [("a", 0), ("b", -100), ("c", 100), ("d", 0), ("e", 100), ("f", 1)] {
        rig.submit(v1::JobSpec { priority: Some(priority), ..with_payload("stage", name) }).await;
    }
    let mut order = Vec::new();
    for _ in 0..7 {
        let cue = stage.next().await;
        order.push(cue.payload());
        cue.succeeds();
    }
    assert_eq!(order, ["first", "c", "e", "f", "a", "d", "b"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_runs_at_its_time_and_not_before() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    let at = |seconds| Some(Timestamp { seconds: START_S + seconds, nanos: 0 });
    let past = rig.submit(v1::JobSpec { start: run_time(START_S - 60), ..job("echo") }).await;
    rig.ends(&past.id).await;
    let soon = rig.submit(v1::JobSpec { start: run_time(START_S + 60), ..job("echo") }).await;
    let later = rig.submit(v1::JobSpec { start: run_time(START_S + 3600), ..job("echo") }).await;
    assert_eq!((soon.state(), soon.next_run_time), (JobState::Scheduled, at(60)));
    clock.advance(Duration::from_secs(59));
    // A call that commits: the committer has looked at the clock when it is answered.
    rig.pause(QUEUE).await;
    rig.resume(QUEUE).await;
    assert_eq!(rig.get(&soon.id).await.state(), JobState::Scheduled);
    clock.advance(Duration::from_secs(1));
    let ended = rig.ends(&soon.id).await;
    assert_eq!((ended.start_time, ended.attempt), (at(60), 1));
    assert_eq!(rig.get(&later.id).await.state(), JobState::Scheduled);
    rig.stop().await;
}

#[tokio::test]
async fn retries_wait_longer_each_time_until_the_attempts_are_used_up() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 4, ..job("fail") }).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
    let mut now_s = START_S;
    for (attempt, delay) in [(1, 1), (2, 2), (3, 4)] {
        let waiting = watcher.until(JobState::BackingOff).await;
        assert_eq!(waiting.attempt, attempt);
        assert_eq!(waiting.next_run_time, Some(Timestamp { seconds: now_s + delay, nanos: 0 }));
        assert_eq!(waiting.last_failure.unwrap().code, "E42");
        clock.advance(Duration::from_secs(delay as u64));
        now_s += delay;
    }
    watcher.until(JobState::Failed).await;
    watcher.rest().await.unwrap();
    let failed = rig.get(&id).await;
    assert_eq!((failed.attempt, failed.done), (4, true));
    let failure = failed.last_failure.unwrap();
    assert_eq!((failure.reason(), failure.message.as_str()), (FailureReason::HandlerError, "out of paper"));
    assert!(failure.retryable);
    let starts: Vec<_> =
        failed.attempts.iter().map(|a| (a.number, a.start_time.unwrap().seconds - START_S)).collect();
    assert_eq!(starts, [(1, 0), (2, 1), (3, 3), (4, 7)]);
    assert!(failed.attempts.iter().all(|a| a.end_time.is_some() && a.failure.is_some()));
    rig.stop().await;
}

#[tokio::test]
async fn a_handler_may_choose_its_delay_and_which_failures_are_for_good() {
    let clock = manual_clock();
    let builder = simple(memory())
        .clock(Clock::Manual(clock.clone()))
        .handler("delay", defaults(), async |_| -> Result<Output, _> {
            Err(HandlerError::retryable("busy").with_delay(Duration::from_secs(3600)))
        })
        .handler("for-good", defaults(), async |_| -> Result<Output, _> {
            Err(HandlerError::permanent("no such address").with_code("404"))
        });
    let rig = Rig::start(builder).await;
    let delayed = rig.submit(job("delay")).await.id;
    let waiting = rig.reaches(&delayed, JobState::BackingOff).await;
    assert_eq!(waiting.next_run_time.unwrap().seconds, START_S + 3600);
    let id = rig.submit(job("for-good")).await.id;
    let failed = rig.ends(&id).await;
    assert_eq!((failed.state(), failed.attempt), (JobState::Failed, 1));
    let failure = failed.last_failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.retryable), ("404", false));
    rig.stop().await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_nothing_else() {
    fn before_it_begins(_: Attempt) -> HandlerFuture {
        panic!("at once");
    }
    let builder = simple(memory())
        .handler("later", defaults(), async |_| -> Result<Output, HandlerError> { panic!("no {}", "more") })
        .handler("at-once", defaults(), before_it_begins);
    let rig = Rig::start(builder).await;
    for (kind, message) in
        [("later", "the handler panicked: no more"), ("at-once", "the handler panicked: at once")]
    {
        let id = rig.submit(v1::JobSpec { max_attempts: 1, ..job(kind) }).await.id;
        let failed = rig.ends(&id).await;
        let failure = failed.last_failure.unwrap();
        assert_eq!((failure.reason(), failure.message.as_str()), (FailureReason::Panic, message));
        assert!(failure.retryable);
    }
    let id = rig.submit(job("echo")).await.id;
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_asked_to_stop_and_then_cut_off() {
    let builder = Server::builder(memory())
        .handler("obeys", defaults(), async |attempt: Attempt| -> Result<Output, HandlerError> {
            attempt.cancelled().await;
            Err(HandlerError::permanent("stopped half-way"))
        })
        .handler("ignores", defaults(), IgnoresCancel)
        .handler("makes-it", defaults(), async |attempt: Attempt| {
            attempt.cancelled().await;
            Ok::<_, HandlerError>(Output { bytes: "in the last moment".into(), ..Output::default() })
        });
    let rig = Rig::start(builder).await;
    let attempt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 5_000_000 });
    for (kind, state) in
        [("obeys", JobState::Failed), ("ignores", JobState::Failed), ("makes-it", JobState::Succeeded)]
    {
        let id = rig.submit(v1::JobSpec { max_attempts: 1, attempt_timeout, ..job(kind) }).await.id;
        let ended = rig.ends(&id).await;
        assert_eq!(ended.state(), state, "{kind}");
        if state == JobState::Failed {
            let failure = ended.last_failure.unwrap();
            assert_eq!(failure.reason(), FailureReason::Timeout, "{kind}");
            assert!(failure.message.contains("5ms") && failure.retryable, "{failure:?}");
        }
    }
    rig.stop().await;
}

/// A handler that never ends by itself, with a short grace period.
struct IgnoresCancel;

impl jobmill::execute::Handler for IgnoresCancel {
    fn run(&self, _: Attempt) -> HandlerFuture {
        Box::pin(std::future::pending())
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_millis(5)
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_whatever_it_waits_for() {
    let (handler, mut stage) = Stage::new();
    let clock = manual_clock();
    let builder = Server::builder(with_queue(memory(), QUEUE, queue(1)))
        .clock(Clock::Manual(clock))
        .handler("stage", defaults(), handler)
        .handler("fail", defaults(), fail);
    let rig = Rig::start(builder).await;
    let backing_off = rig.submit(job("fail")).await.id;
    rig.reaches(&backing_off, JobState::BackingOff).await;
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let queued = rig.submit(job("stage")).await.id;
    let scheduled = rig.submit(v1::JobSpec { start: run_time(START_S + 1), ..job("stage") }).await.id;
    for id in [&backing_off, &queued, &scheduled] {
        let cancelled = rig.cancel(id).await.unwrap();
        assert_eq!((cancelled.state(), cancelled.done), (JobState::Cancelled, true));
        let again = rig.cancel(id).await.unwrap();
        assert_eq!((again.state(), again.revision), (JobState::Cancelled, cancelled.revision));
    }
    cue.succeeds();
    rig.ends(&running).await;
    assert_eq!(stage.len(), 0, "none of the cancelled ones starts");
    rig.stop().await;
}

#[tokio::test]
async fn a_running_job_is_asked_to_stop_and_what_it_says_then_decides() {
    let (rig, mut stage) = one_at_a_time().await;
    type End = fn(crate::support::StagedAttempt);
    let rows: [(&str, End, JobState); 3] = [
        ("a failure", |cue| cue.fails(), JobState::Cancelled),
        ("a permanent failure", |cue| cue.ends(Err(HandlerError::permanent("no"))), JobState::Cancelled),
        ("a success", |cue| cue.succeeds(), JobState::Succeeded),
    ];
    for (what, end, state) in rows {
        let id = rig.submit(job("stage")).await.id;
        let cue = stage.next().await;
        for _ in 0..2 {
            assert_eq!(rig.cancel(&id).await.unwrap().state(), JobState::Cancelling);
        }
        soon(cue.attempt.cancelled()).await;
        end(cue);
        let ended = rig.ends(&id).await;
        assert_eq!((ended.state(), ended.attempt), (state, 1), "{what}");
        // A cancelled job's failure is not retryable.
        let failure = ended.last_failure.map(|failure| (failure.reason(), failure.retryable));
        let expected = (state == JobState::Cancelled).then_some((FailureReason::Cancelled, false));
        assert_eq!(failure, expected, "{what}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_running_job_that_was_cancelled_says_that_another_attempt_would_not_help() {
    let (rig, mut stage) = one_at_a_time().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    rig.cancel(&id).await.unwrap();
    // The handler's own error is retryable.
    cue.ends(Err(HandlerError::retryable("cut short")));
    let ended = rig.ends(&id).await;
    assert_eq!(ended.state(), JobState::Cancelled);
    let of_attempt = ended.attempts[0].failure.clone().expect("a failure");
    for failure in [ended.last_failure.expect("a failure"), of_attempt] {
        assert_eq!((failure.reason(), failure.retryable), (FailureReason::Cancelled, false), "{failure:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_and_goes_on_where_it_was() {
    let (rig, mut stage) = one_at_a_time().await;
    let running = rig.submit(with_payload("stage", "running")).await.id;
    let cue = stage.next().await;
    rig.pause(QUEUE).await;
    let waiting = rig.submit(with_payload("stage", "waiting")).await;
    assert_eq!(waiting.state(), JobState::Queued);
    cue.succeeds();
    assert_eq!(rig.ends(&running).await.state(), JobState::Succeeded);
    let found = rig.get(&waiting.id).await;
    assert_eq!((found.state(), pending(&found)), (JobState::Queued, vec![PendingReason::QueuePaused]));
    assert_eq!(stage.len(), 0);
    rig.resume(QUEUE).await;
    let cue = stage.next().await;
    assert_eq!(cue.payload(), "waiting");
    cue.succeeds();
    rig.ends(&waiting.id).await;
    rig.stop().await;
}

#[tokio::test]
async fn kinds_that_nothing_runs_never_stand_in_the_way_of_others() {
    let open = QueueSettings { accept_unknown_kinds: true, ..queue(1) };
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, open))).await;
    let unknown = rig.submit_batch(vec![v1::JobSpec { priority: Some(100), ..job("not-here") }; 500]).await;
    let id = rig.submit(v1::JobSpec { priority: Some(-100), ..job("echo") }).await.id;
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    let waiting = rig.get(&unknown[0]).await;
    assert_eq!(
        (waiting.state(), pending(&waiting)),
        (JobState::Queued, vec![PendingReason::NoWorkerForKind])
    );
    rig.stop().await;
}

#[tokio::test]
async fn results_are_kept_up_to_their_cap() {
    const MIB: usize = 1 << 20;
    let handler = async |attempt: Attempt| {
        let size: usize = String::from_utf8_lossy(attempt.payload()).parse().unwrap();
        Ok::<_, HandlerError>(Output { bytes: vec![7; size].into(), info: PayloadInfo::typed("image/png") })
    };
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(Server::builder(folder(home.path())).handler("fill", defaults(), handler)).await;
    for size in [0, 1, MIB] {
        let id = rig.submit(with_payload("fill", &size.to_string())).await.id;
        let ended = rig.ends(&id).await;
        assert_eq!((ended.state(), result(&ended).len()), (JobState::Succeeded, size));
        assert_eq!(result_type(&ended), "image/png");
    }
    let id = rig.submit(with_payload("fill", &(MIB + 1).to_string())).await.id;
    let failed = rig.ends(&id).await;
    assert_eq!((failed.state(), failed.attempt, result(&failed).len()), (JobState::Failed, 1, 0));
    let failure = failed.last_failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::ResultTooLarge);
    assert!(failure.message.contains("1048577") && failure.message.contains("1048576"), "{failure:?}");
    rig.stop().await;
}

#[tokio::test]
async fn progress_is_told_and_belongs_to_its_attempt() {
    let (handler, mut stage) = Stage::new();
    let clock = manual_clock();
    let builder =
        Server::builder(memory()).handler("stage", defaults(), handler).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.synced().await;
    cue.attempt.progress(0.25, &"é".repeat(200), "resize");
    let Event::Updated(updated) = watcher.next().await else { panic!("no update") };
    let progress = updated.job.unwrap().progress.unwrap();
    assert_eq!((progress.fraction, progress.text.len(), progress.step.as_str()), (Some(0.25), 256, "resize"));
    cue.fails();
    watcher.until(JobState::BackingOff).await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(watcher.until(JobState::Running).await.progress, None);
    let cue = stage.next().await;
    cue.attempt.progress(None, "no telling", "");
    let Event::Updated(updated) = watcher.next().await else { panic!("no update") };
    let progress = updated.job.unwrap().progress.unwrap();
    assert_eq!((progress.fraction, progress.text.as_str()), (None, "no telling"));
    cue.succeeds();
    watcher.rest().await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn output_is_told_line_by_line_before_the_end_and_its_tail_is_kept() {
    let (rig, mut stage) = one_at_a_time().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let request =
        v1::WatchStatusRequest { ids: vec![id.clone()], output: true, ..v1::WatchStatusRequest::default() };
    let mut watcher = rig.watch(request).await;
    watcher.synced().await;
    cue.attempt.output_line("one");
    assert_eq!(watcher.line().await, "output one");
    cue.attempt.output_line(b"not \xff text");
    cue.attempt.output_line("x".repeat(10_000));
    cue.succeeds();
    let texts: Vec<_> = watcher
        .rest()
        .await
        .unwrap()
        .into_iter()
        .map(|event| match event {
            Event::Output(line) => (line.attempt, line.text.chars().take(10).collect(), line.text.len()),
            event => (0, crate::support::describe(&event), 0),
        })
        .collect();
    let lines = [
        (1, "not \u{fffd} text".to_owned(), 12),
        (1, "xxxxxxxxxx".to_owned(), 8192),
        (0, "updated 2 SUCCEEDED".to_owned(), 0),
    ];
    assert_eq!(texts, lines);
    let tail = rig.get(&id).await.output_tail;
    assert!(tail.starts_with("one\nnot \u{fffd} text\nxxx") && tail.ends_with("x\n"), "{tail}");
    rig.stop().await;
}

#[tokio::test]
async fn a_long_output_is_cut_at_its_start_and_says_so() {
    let (rig, mut stage) = one_at_a_time().await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    for n in 0..100_000 {
        cue.attempt.output_line(format!("line {n}"));
    }
    cue.succeeds();
    rig.ends(&id).await;
    let tail = rig.get(&id).await.output_tail;
    assert!(tail.starts_with("[earlier output was cut]\nline "), "{}", &tail[..100]);
    assert!(tail.ends_with("\nline 99999\n"));
    assert!((60 << 10..66 << 10).contains(&tail.len()), "{}", tail.len());
    rig.stop().await;
}

#[tokio::test]
async fn the_output_of_an_attempt_does_not_stay_with_the_next_one() {
    for settings in [None, Some(tempfile::tempdir().unwrap())] {
        let clock = manual_clock();
        let (handler, mut stage) = Stage::new();
        let store = settings.as_ref().map_or_else(memory, |home| folder(home.path()));
        let builder =
            Server::builder(store).handler("stage", defaults(), handler).clock(Clock::Manual(clock.clone()));
        let rig = Rig::start(builder).await;
        let id = rig.submit(job("stage")).await.id;
        let cue = stage.next().await;
        cue.attempt.output_line("boom");
        cue.fails();
        assert_eq!(rig.reaches(&id, JobState::BackingOff).await.output_tail, "boom\n");
        clock.advance(Duration::from_secs(1));
        stage.next().await.succeeds();
        assert_eq!(rig.ends(&id).await.output_tail, "");
        rig.stop().await;
    }
}

#[tokio::test]
async fn no_more_attempts_run_at_once_than_there_are_consumers() {
    const CONSUMERS: u32 = 3;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_: Attempt| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, HandlerError>(Output::default())
            }
        }
    };
    let builder =
        Server::builder(with_queue(memory(), QUEUE, queue(CONSUMERS))).handler("count", defaults(), handler);
    let rig = Rig::start(builder).await;
    let ids = rig.submit_batch(vec![job("count"); 500]).await;
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    rig.watch_ids(&ids).await.rest().await.unwrap();
    assert!((1..=CONSUMERS as usize).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_change_of_consumers_counts_at_once() {
    let (handler, mut stage) = Stage::new();
    let rig = Rig::start(Server::builder(memory()).handler("stage", defaults(), handler)).await;
    let settings = |consumers| v1::QueueSettings { consumers: Some(consumers), ..Default::default() };
    let settings_of_one = Some(settings(1));
    let create =
        v1::CreateQueueRequest { name: "q".to_owned(), settings: settings_of_one, ..Default::default() };
    rig.queues.clone().create_queue(create).await.unwrap();
    let jobs = vec![v1::JobSpec { queue: "q".to_owned(), ..job("stage") }; 4];
    let ids = rig.submit_batch(jobs).await;
    let mut cues = vec![stage.next().await];
    let update = async |consumers| {
        soon(rig.queues.clone().update_queue(update_of("q", settings(consumers)))).await.unwrap();
    };
    update(3).await;
    for _ in 0..2 {
        cues.push(stage.next().await);
    }
    update(2).await;
    // One more slot is taken than the queue has now, so that the first end frees none.
    cues.remove(0).succeeds();
    rig.ends(&ids[0]).await;
    assert_eq!(stage.len(), 0);
    assert_eq!(pending(&rig.get(&ids[3]).await), [PendingReason::NoFreeSlot]);
    cues.remove(0).succeeds();
    cues.push(stage.next().await);
    cues.into_iter().for_each(crate::support::StagedAttempt::succeeds);
    for id in &ids {
        rig.ends(id).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_attempt_has_a_larger_lease_than_all_before_it() {
    let home = tempfile::tempdir().unwrap();
    let mut leases = Vec::new();
    for _ in 0..2 {
        let (handler, mut stage) = Stage::new();
        let now = KindDefaults {
            retry: RetryPolicy {
                initial_delay: Duration::ZERO,
                max_delay: Duration::ZERO,
                ..RetryPolicy::DEFAULT
            },
            ..defaults()
        };
        let settings = with_queue(folder(home.path()), QUEUE, queue(1));
        let rig = Rig::start(Server::builder(settings).handler("stage", now, handler)).await;
        let id = rig.submit(v1::JobSpec { max_attempts: 3, ..job("stage") }).await.id;
        for attempt in 1..=3 {
            let cue = stage.next().await;
            assert_eq!(cue.attempt.number(), attempt);
            leases.push(cue.attempt.lease().as_i64());
            cue.fails();
        }
        rig.ends(&id).await;
        rig.stop().await;
    }
    assert_eq!(leases.len(), 6);
    assert!(leases.windows(2).all(|pair| pair[0] < pair[1]), "{leases:?}");
}

#[tokio::test]
async fn a_retry_by_hand_is_a_new_attempt_once() {
    let (rig, mut stage) = one_at_a_time().await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..job("stage") }).await.id;
    stage.next().await.fails();
    assert_eq!(rig.ends(&id).await.state(), JobState::Failed);
    let again = async || {
        let request = v1::RetryJobRequest {
            id: id.clone(),
            request_id: "again".to_owned(),
            view: v1::JobView::Basic as i32,
            ..Default::default()
        };
        let answer = soon(rig.jobs.clone().retry_job(request)).await.unwrap().into_inner();
        (answer.change.unwrap(), answer.job.unwrap())
    };
    let (change, retried) = again().await;
    assert!(!change.repeated);
    assert_eq!((retried.done, retried.max_attempts, retried.end_time), (false, 2, None));
    let cue = stage.next().await;
    assert_eq!(cue.attempt.number(), 2);
    cue.fails();
    assert_eq!(rig.ends(&id).await.state(), JobState::Failed);
    // A repeated call is no second retry.
    let (as_then, repeated) = again().await;
    assert_eq!(as_then, v1::JobChange { repeated: true, ..change });
    assert_eq!((repeated.state(), repeated.attempt), (JobState::Failed, 2));
    assert_eq!(stage.len(), 0);

    rig.retry(&id).await.unwrap();
    let cue = stage.next().await;
    rig.cancel(&id).await.unwrap();
    cue.fails();
    assert_eq!(rig.ends(&id).await.state(), JobState::Cancelled);
    rig.retry(&id).await.unwrap();
    stage.next().await.succeeds();
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    assert_eq!(refusal(&rig.retry(&id).await.unwrap_err()).reason, "WRONG_STATE");
    rig.stop().await;
}

#[tokio::test]
async fn a_scheduled_or_backing_off_job_can_be_run_now() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock))).await;
    let scheduled = rig.submit(v1::JobSpec { start: run_time(START_S + 3600), ..job("echo") }).await.id;
    rig.retry(&scheduled).await.unwrap();
    assert_eq!(rig.ends(&scheduled).await.state(), JobState::Succeeded);
    let failing = rig.submit(v1::JobSpec { max_attempts: 2, ..job("fail") }).await.id;
    rig.reaches(&failing, JobState::BackingOff).await;
    rig.retry(&failing).await.unwrap();
    assert_eq!(rig.ends(&failing).await.attempt, 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_deleted_job_is_gone_with_all_that_belonged_to_it() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(folder(home.path()))).await;
    let id =
        rig.submit(v1::JobSpec { payload: Some(v1::Payload::of(vec![1; 10_000])), ..job("echo") }).await.id;
    rig.ends(&id).await;
    rig.delete(&id).await.unwrap();
    assert_eq!(refusal(&rig.find(&id).await.unwrap_err()).reason, "JOB_NOT_FOUND");
    assert_eq!(refusal(&rig.delete(&id).await.unwrap_err()).reason, "JOB_NOT_FOUND");
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
    let database = rusqlite::Connection::open(home.path().join("jobmill.db")).unwrap();
    for table in ["job", "payload", "outcome", "attempt"] {
        let rows: i64 =
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
