//! The life of a lease: assigned, received, held, ended.

use jobmill::{
    proto::v1::{
        self, FailureReason, JobState, lease_notice::Notice, report::Report as Content,
        worker_frame::Frame as Said,
    },
    serve::Server,
};

use super::rig::{
    RawWorker, assigned_id, completed, count, failed, heartbeat, hello, lease, no_faults, refusal_of,
    released, remote_job, remote_only, server, short,
};
use crate::support::{Rig, folder, memory, result, soon};

#[tokio::test]
async fn a_job_goes_from_submit_to_succeeded_through_a_worker() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let spec = v1::JobSpec {
        payload: Some(v1::Payload::of_text("hello")),
        headers: [("tenant".to_owned(), "acme".to_owned())].into(),
        labels: [("team".to_owned(), "mail".to_owned())].into(),
        ..remote_job()
    };
    let id = rig.submit(spec.clone()).await.id;
    let assignment = worker.start().await;
    let job = assignment.job.as_ref().unwrap();
    assert_eq!((&job.id, job.attempt), (&id, 1));
    assert_eq!(crate::support::payload(job), b"hello");
    assert_eq!(crate::support::spec(job).headers, spec.headers);
    let running = rig.get(&id).await;
    assert_eq!((running.worker.as_str(), running.lease_token), ("w", lease(&assignment).token));
    worker.report(lease(&assignment), completed("bye"));
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)));
    let done = rig.get(&id).await;
    assert_eq!((done.state(), result(&done), done.worker.as_str()), (JobState::Succeeded, &b"bye"[..], ""));
    assert_eq!((done.attempts.len(), done.attempts[0].worker.as_str()), (1, "w"));
    no_faults(&rig).await;
}

#[tokio::test]
async fn without_credits_nothing_is_assigned_and_each_credit_brings_one_job() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 0).await;
    for _ in 0..3 {
        rig.submit(remote_job()).await;
    }
    worker.sync().await;
    assert_eq!(count(&rig, JobState::Running).await, 0);
    worker.credit(2);
    let (first, _) = (worker.start().await, worker.start().await);
    worker.sync().await;
    worker.report(lease(&first), completed(""));
    assert!(matches!(worker.notice(lease(&first)).await, Notice::Ended(_)));
    worker.sync().await;
    assert_eq!(count(&rig, JobState::Queued).await, 1, "an end brings no credit");
    worker.credit(1);
    worker.start().await;
    no_faults(&rig).await;
}

#[tokio::test]
async fn failures_are_retried_or_final_and_keep_their_worker() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let id = rig.submit(remote_job()).await.id;
    let first = worker.start().await;
    worker.report(lease(&first), failed("out of paper", true));
    assert!(matches!(worker.notice(lease(&first)).await, Notice::Ended(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::BackingOff);
    rig.retry(&id).await.unwrap();
    let second = worker.start().await;
    worker.report(
        lease(&second),
        Content::Failed(v1::Failed {
            message: "broken".into(),
            code: "E7".into(),
            retryable: Some(false),
            reason: FailureReason::Panic.into(),
            ..Default::default()
        }),
    );
    assert!(matches!(worker.notice(lease(&second)).await, Notice::Ended(_)));
    let job = rig.get(&id).await;
    assert_eq!(job.state(), JobState::Failed);
    let failure = job.last_failure.unwrap();
    assert_eq!((failure.reason(), failure.code.as_str()), (FailureReason::Panic, "E7"));
    assert!(job.attempts.iter().all(|attempt| attempt.worker == "w"), "{:?}", job.attempts);
}

#[tokio::test]
async fn a_repeat_of_a_final_report_is_answered_as_the_first() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    for report in [completed("x"), failed("y", true), failed("z", false), released(true), released(false)] {
        let id = rig.submit(remote_job()).await.id;
        let assignment = worker.start().await;
        for _ in 0..2 {
            worker.report(lease(&assignment), report.clone());
            assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)), "{report:?}");
        }
        other.report(lease(&assignment), report);
        assert_eq!(refusal_of(other.notice(lease(&assignment)).await), "LEASE_LOST", "a stranger's repeat");
        worker.report(lease(&assignment), heartbeat());
        assert_eq!(refusal_of(worker.notice(lease(&assignment)).await), "LEASE_LOST");
        if rig.cancel(&id).await.is_err() {
            assert!(rig.get(&id).await.done);
        }
        worker.credit(1);
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_even_if_the_job_runs_again() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 3).await;
    rig.submit(v1::JobSpec { max_attempts: 5, ..remote_job() }).await;
    for report in [released(true), released(false)] {
        let first = worker.start().await;
        worker.report(lease(&first), report.clone());
        assert!(matches!(worker.notice(lease(&first)).await, Notice::Ended(_)));
        let second = worker.start().await;
        worker.report(lease(&first), report);
        assert!(matches!(worker.notice(lease(&first)).await, Notice::Ended(_)));
        worker.report(lease(&second), heartbeat());
        assert!(matches!(worker.notice(lease(&second)).await, Notice::Held(_)), "the new lease is untouched");
        worker.report(lease(&second), released(true));
        worker.credit(1);
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_job_handed_back_counts_only_if_it_was_started() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    rig.submit(remote_job()).await;
    for (never_started, attempt) in [(true, 1), (true, 1), (false, 1), (false, 2)] {
        let assignment = worker.start().await;
        assert_eq!(assignment.job.as_ref().unwrap().counted_attempts, attempt);
        worker.report(lease(&assignment), released(never_started));
        assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)));
        worker.credit(1);
    }
    let assignment = worker.start().await;
    let job = rig.get(assigned_id(&assignment)).await;
    assert_eq!(job.attempts[0].failure.as_ref().unwrap().reason(), FailureReason::Released);
}

#[tokio::test]
async fn a_snoozed_job_comes_back_uncounted_and_a_dead_process_is_counted() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let first = worker.start().await;
    let delay = Some(prost_types::Duration::default());
    worker.report(lease(&first), Content::Snoozed(v1::Snoozed { delay, ..Default::default() }));
    assert!(matches!(worker.notice(lease(&first)).await, Notice::Ended(_)));
    let second = worker.start().await;
    let job = second.job.clone().unwrap();
    assert_eq!((job.attempt, job.counted_attempts, job.snoozes), (2, 1, 1));
    worker.report(lease(&second), Content::Failed(v1::Failed { process_died: true, ..Default::default() }));
    let ended = rig.ends(&id).await;
    assert_eq!((ended.state(), ended.process_losses), (JobState::Failed, 1));
    // A repeat of either report is answered as the first.
    worker.report(lease(&second), Content::Failed(v1::Failed { process_died: true, ..Default::default() }));
    assert!(matches!(worker.notice(lease(&second)).await, Notice::Ended(_)));
    no_faults(&rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_snooze_without_its_delay_is_refused() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    rig.submit(remote_job()).await;
    let assignment = worker.start().await;
    worker.report(lease(&assignment), Content::Snoozed(v1::Snoozed::default()));
    assert_eq!(refusal_of(worker.notice(lease(&assignment)).await), "INVALID_REQUEST");
    worker.report(lease(&assignment), completed("x"));
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)));
    rig.stop().await;
}

#[tokio::test]
async fn a_cancelled_attempt_is_told_and_its_success_still_counts() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let id = rig.submit(remote_job()).await.id;
    let assignment = worker.start().await;
    rig.cancel(&id).await.unwrap();
    let Notice::Cancel(cancel) = worker.notice(lease(&assignment)).await else { panic!("a cancel") };
    assert_eq!(cancel.cause(), v1::CancelCause::Client);
    worker.report(lease(&assignment), heartbeat());
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Cancel(_)), "instead of held");
    worker.report(lease(&assignment), completed("just done"));
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::Succeeded);
    let id = rig.submit(remote_job()).await.id;
    let assignment = worker.start().await;
    rig.cancel(&id).await.unwrap();
    worker.notice(lease(&assignment)).await;
    worker.report(lease(&assignment), failed("stopped", true));
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Ended(_)));
    assert_eq!(rig.get(&id).await.state(), JobState::Cancelled);
}

#[tokio::test]
async fn a_job_cancelled_before_it_is_received_does_not_start() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let assignment = worker.assignment().await;
    rig.cancel(&id).await.unwrap();
    worker.report(lease(&assignment), Content::Received(v1::Received {}));
    assert!(matches!(worker.notice(lease(&assignment)).await, Notice::Cancel(_)));
    worker.report(lease(&assignment), released(true));
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), job.counted_attempts), (JobState::Cancelled, 0));
}

#[tokio::test]
async fn a_silent_workers_lease_ends_as_lost_and_its_late_report_changes_nothing() {
    let rig = Rig::start(Server::builder(short(remote_only(memory())))).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let assignment = worker.start().await;
    let job = rig.ends(&id).await;
    assert_eq!(job.state(), JobState::Failed);
    assert_eq!(job.last_failure.unwrap().reason(), FailureReason::Lost);
    assert_eq!(refusal_of(worker.notice(lease(&assignment)).await), "LEASE_LOST");
    worker.report(lease(&assignment), completed("late"));
    assert_eq!(refusal_of(worker.notice(lease(&assignment)).await), "LEASE_LOST");
    assert_eq!(rig.metric("jobmill_worker_leases_lost_total{cause=\"silence\"}").await, 1.0);
}

#[tokio::test]
async fn a_job_that_is_not_received_goes_back_uncounted() {
    let rig = Rig::start(Server::builder(short(remote_only(memory())))).await;
    let mut deaf = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let first = deaf.assignment().await;
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    other.credit(1);
    let second = other.start().await;
    assert_eq!((assigned_id(&second), second.job.as_ref().unwrap().counted_attempts), (id.as_str(), 1));
    deaf.report(lease(&first), Content::Received(v1::Received {}));
    assert_eq!(refusal_of(deaf.notice(lease(&first)).await), "LEASE_LOST", "it must not start");
    no_faults(&rig).await;
}

#[tokio::test]
async fn what_a_closed_stream_had_not_received_goes_back_at_once() {
    let rig = Rig::start(server()).await;
    let mut gone = RawWorker::ready(&rig, 1).await;
    rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await;
    gone.assignment().await;
    drop(gone);
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    other.credit(1);
    assert_eq!(other.start().await.job.unwrap().counted_attempts, 1);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_asked_to_stop_and_ends_after_the_grace() {
    let rig = Rig::start(Server::builder(short(remote_only(memory())))).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let timeout = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let spec = v1::JobSpec { attempt_timeout: Some(timeout), max_attempts: 1, ..remote_job() };
    let id = rig.submit(spec).await.id;
    let assignment = worker.start().await;
    let Notice::Cancel(cancel) = worker.notice(lease(&assignment)).await else { panic!("a cancel") };
    assert_eq!(cancel.cause(), v1::CancelCause::Timeout);
    // Heartbeats go on and do not help.
    loop {
        worker.report(lease(&assignment), heartbeat());
        match worker.notice(lease(&assignment)).await {
            Notice::Cancel(_) => {}
            notice => {
                assert_eq!(refusal_of(notice), "LEASE_LOST");
                break;
            }
        }
    }
    assert_eq!(rig.ends(&id).await.last_failure.unwrap().reason(), FailureReason::Timeout);
}

#[tokio::test]
async fn a_result_over_the_limit_fails_the_job_and_touches_no_other_report() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let ids = [rig.submit(remote_job()).await.id, rig.submit(remote_job()).await.id];
    let (large, small) = (worker.start().await, worker.start().await);
    let payload = v1::Payload::of(vec![0; (1 << 20) + 1]);
    let reports =
        [(&large, Content::Completed(v1::Completed { result: Some(payload) })), (&small, completed("fine"))];
    let frames = reports.map(|(assignment, report)| {
        Said::Report(v1::Report { lease: assignment.lease.clone(), report: Some(report) })
    });
    worker.say_all(frames.into());
    let first = rig.ends(&ids[0]).await;
    assert_eq!(first.last_failure.unwrap().reason(), FailureReason::ResultTooLarge);
    assert_eq!(rig.ends(&ids[1]).await.state(), JobState::Succeeded);
}

#[tokio::test]
async fn a_checkpoint_is_written_when_asked_for_and_the_next_attempt_gets_it() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let id = rig.submit(remote_job()).await.id;
    let first = worker.start().await;
    worker.report(lease(&first), checkpoint(1, "one", true));
    loop {
        match worker.notice(lease(&first)).await {
            Notice::Held(_) => {}
            Notice::CheckpointCommitted(committed) => break assert_eq!(committed.number, 1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rig.get(&id).await.checkpoint.unwrap().number, 1);
    worker.report(lease(&first), checkpoint(1, "again", true));
    let mut notice = worker.notice(lease(&first)).await;
    while matches!(notice, Notice::Held(_)) {
        notice = worker.notice(lease(&first)).await;
    }
    assert_eq!(refusal_of(notice), "INVALID_REQUEST", "numbers grow");
    worker.report(lease(&first), checkpoint(2, "two", false));
    worker.report(lease(&first), failed("try again", true));
    while !matches!(worker.notice(lease(&first)).await, Notice::Ended(_)) {}
    rig.retry(&id).await.unwrap();
    let second = worker.start().await;
    let kept = second.checkpoint.unwrap();
    assert_eq!((kept.number, kept.state.unwrap().bytes()), (2, &b"two"[..]));
}

/// A checkpoint with a heartbeat.
fn checkpoint(number: i64, text: &str, commit_now: bool) -> Content {
    let checkpoint = v1::Checkpoint { number, state: Some(v1::Payload::of_text(text)), commit_now };
    Content::Heartbeat(v1::Heartbeat { checkpoint: Some(checkpoint), ..Default::default() })
}

#[tokio::test]
async fn a_checkpoint_that_is_not_asked_for_is_written_with_a_heartbeat() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let first = worker.start().await;
    worker.report(lease(&first), checkpoint(1, "small", false));
    loop {
        match worker.notice(lease(&first)).await {
            Notice::Held(_) => worker.report(lease(&first), heartbeat()),
            Notice::CheckpointCommitted(committed) => break assert_eq!(committed.number, 1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rig.get(&id).await.checkpoint.unwrap().number, 1);
}

#[tokio::test]
async fn the_end_of_an_attempt_does_not_overtake_its_last_checkpoint() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 100, ..remote_job() }).await.id;
    // Asked for now, or too large to be kept in memory: either way it is on its way to the disk when the end comes.
    for (round, state, commit_now) in [(1, "asked for".to_owned(), true), (2, "x".repeat(200 << 10), false)] {
        let held = worker.start().await;
        let reports = [checkpoint(round, &state, commit_now), failed("try again", true)];
        worker.say_all(
            reports
                .map(|content| {
                    Said::Report(v1::Report { lease: Some(lease(&held).clone()), report: Some(content) })
                })
                .into(),
        );
        while !matches!(worker.notice(lease(&held)).await, Notice::Ended(_)) {}
        let kept = rig.get(&id).await.checkpoint.unwrap();
        assert_eq!((kept.number, kept.size_bytes), (round, state.len() as i32));
        rig.retry(&id).await.unwrap();
        worker.credit(1);
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn a_restart_of_the_server_ends_no_remote_attempt() {
    let home = tempfile::tempdir().unwrap();
    let start = || Rig::start(Server::builder(remote_only(folder(home.path()))));
    let rig = start().await;
    let mut worker = RawWorker::ready(&rig, 2).await;
    let once = v1::JobSpec { max_attempts: 1, ..remote_job() };
    let ids = [rig.submit(once.clone()).await.id, rig.submit(once).await.id];
    let (finished, running) = (worker.start().await, worker.start().await);
    rig.stopper().drain();
    loop {
        match worker.try_frame().await {
            Ok(Some(v1::server_frame::Frame::Closing(_))) => break,
            Ok(Some(_)) => {}
            end => panic!("{end:?}"),
        }
    }
    // A report to the stopping server is still answered.
    worker.report(lease(&finished), completed("in the drain"));
    assert!(matches!(worker.notice(lease(&finished)).await, Notice::Ended(_)));
    drop(worker);
    rig.stopped().await;
    let rig = start().await;
    let listed =
        v1::Hello { leases: vec![lease(&finished).clone(), lease(&running).clone()], ..hello("w", "p") };
    let (mut worker, welcome) = RawWorker::greet(&rig.channel, listed).await;
    let notices: Vec<_> = welcome.leases.into_iter().filter_map(|notice| notice.notice).collect();
    assert!(matches!(notices[..], [Notice::Ended(_), Notice::Held(_)]), "{notices:?}");
    worker.report(lease(&running), completed("after the restart"));
    assert!(matches!(worker.notice(lease(&running)).await, Notice::Ended(_)));
    for id in &ids {
        let job = rig.get(id).await;
        assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
    }
    no_faults(&rig).await;
}

#[tokio::test]
async fn output_lines_reach_watchers_and_the_tail_is_kept() {
    let rig = Rig::start(server()).await;
    let mut worker = RawWorker::ready(&rig, 1).await;
    let id = rig.submit(remote_job()).await.id;
    let assignment = worker.start().await;
    let lines = vec!["one".to_owned(), "two".to_owned()];
    worker.report(lease(&assignment), Content::Output(v1::OutputLines { lines }));
    worker.report(lease(&assignment), completed(""));
    soon(rig.ends(&id)).await;
    assert_eq!(rig.get(&id).await.output_tail, "one\ntwo\n");
}
