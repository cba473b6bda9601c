//! Reports of remote workers: which are refused, and what the repeat of a final one is answered.

use std::sync::Arc;

use jobmill::{
    engine::{LeaseFate, NewJob, ReportBody, WorkerHello},
    job::{FailureReason, Job, Progress, StateName},
    settings::QueueSettings,
};

use crate::store::{
    batch::{Batch, Control, WorkerReport},
    build::{job, settings},
    rig::{Rig, claimed, failed, lease, returned, succeeded},
    workers::{Connected, assigned, checkpoint, fates, hello, lost, pool, released, report, worker_of},
};

both_stores!(
    a_worker_reports_on_its_own_lease,
    a_report_of_another_worker_is_refused_and_changes_nothing,
    a_report_under_an_old_or_forged_lease_is_refused_and_changes_nothing,
    a_worker_does_not_report_on_an_attempt_of_the_server,
    the_server_may_end_or_take_back_a_remote_attempt,
    a_remote_attempt_is_shown_with_its_worker,
    a_succeeded_remote_attempt_is_shown_with_its_worker,
    an_attempt_of_the_server_is_shown_without_the_worker_of_an_earlier_one,
    a_cancelled_remote_attempt_is_told_to_stop_and_ends,
    the_repeat_of_a_success_is_answered_as_the_first,
    the_repeat_of_a_failure_is_answered_as_the_first_while_the_job_backs_off,
    the_repeat_of_a_failure_is_answered_as_the_first_though_the_job_runs_again,
    the_repeat_of_a_failure_for_good_is_answered_as_the_first,
    the_repeat_of_a_release_is_answered_as_the_first,
    the_repeat_in_the_same_batch_is_answered_as_the_first,
    the_repeat_by_a_process_that_was_replaced_meanwhile_is_answered_as_the_first,
    the_repeat_by_another_worker_is_refused,
    the_repeat_by_a_worker_with_the_number_of_a_forgotten_one_is_refused,
    a_report_that_is_no_repeat_is_refused_after_the_end,
    one_attempt_is_never_started_twice,
    all_that_a_worker_releases_after_a_restart_starts_in_one_batch,
);

/// All reports that a worker can send, each with a checkpoint where it takes one.
fn every_report(worker: u32, job: &Job) -> Vec<WorkerReport> {
    let progress = Arc::new(Progress { fraction: Some(0.5), ..Progress::default() });
    let bodies = [
        ReportBody::Progress(progress),
        ReportBody::Checkpoint,
        returned("x", "y"),
        failed(true, "z"),
        failed(false, "z"),
        released(),
    ];
    let report = |body| WorkerReport { checkpoint: checkpoint(7, "no"), ..report(worker, job, body) };
    bodies.into_iter().map(report).collect()
}

/// Asserts that these reports are refused and change nothing.
fn refused(rig: &mut Rig, reports: Vec<WorkerReport>) {
    let whole = |rig: &Rig| rig.all_jobs().iter().map(|job| rig.whole(job.id)).collect::<Vec<_>>();
    let (before, end) = (whole(rig), rig.end());
    for report in reports {
        let state = rig.state(report.id);
        let told = format!("{report:?}");
        let answer = rig.tell_all(vec![report]).pop().unwrap();
        assert_eq!(answer.result, lost(state), "{told}");
    }
    assert_eq!((whole(rig), rig.end()), (before, end));
}

/// Asserts that a repeat succeeds and changes nothing, now and after a restart.
fn repeated(rig: &mut Rig, repeat: &WorkerReport) {
    for _ in 0..2 {
        let (before, end) = (rig.whole(repeat.id), rig.end());
        let answer = rig.tell_all(vec![repeat.clone()]).pop().unwrap();
        assert_eq!((answer.result, answer.is_final), (Ok(()), true), "{repeat:?}");
        assert_eq!((rig.whole(repeat.id), rig.end()), (before, end), "{repeat:?}");
        rig.crash();
    }
}

fn connected(rig: &mut Rig) -> Connected {
    rig.queue("q", 0);
    rig.worker("a", &["far"])
}

fn a_worker_reports_on_its_own_lease(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let progress = Arc::new(Progress { fraction: Some(0.5), ..Progress::default() });
    rig.tell(worker.number(), &running, ReportBody::Progress(Arc::clone(&progress))).unwrap();
    assert_eq!(rig.job(running.id).progress, Some(progress));
    let result = WorkerReport {
        checkpoint: checkpoint(4, "x"),
        ..report(worker.number(), &running, returned("done", "log"))
    };
    let answer = rig.tell_all(vec![result]).pop().unwrap();
    assert_eq!((answer.is_final, answer.checkpoint, answer.result), (true, Some(4), Ok(())));
    let whole = rig.whole(running.id);
    assert_eq!(
        (whole.job.state.name(), &*whole.result, &*whole.output_tail),
        (StateName::Succeeded, &b"done"[..], "log")
    );
}

fn a_report_of_another_worker_is_refused_and_changes_nothing(rig: &mut Rig) {
    let worker = connected(rig);
    let other = rig.worker("b", &["far"]);
    let running = rig.assigned(&worker, job("q", "far"));
    refused(rig, every_report(other.number(), &running));
    refused(rig, every_report(other.number() + 1, &running));
    rig.tell(worker.number(), &running, succeeded()).unwrap();
}

fn a_report_under_an_old_or_forged_lease_is_refused_and_changes_nothing(rig: &mut Rig) {
    let worker = connected(rig);
    let old = rig.assigned(&worker, job("q", "far"));
    // The server takes the lease back, and the same worker gets the job again.
    rig.report(&old, released()).unwrap();
    rig.credit(worker.pool(0), 1);
    rig.tick();
    let present = rig.job(old.id);
    assert!(lease(&present) > lease(&old));
    refused(rig, every_report(worker.number(), &old));
    let other = rig.assigned(&worker, job("q", "far"));
    for forged in [lease(&other), lease(&old)] {
        let forge = |report| WorkerReport { lease: forged, ..report };
        refused(rig, every_report(worker.number(), &present).into_iter().map(forge).collect());
    }
    rig.tell(worker.number(), &present, succeeded()).unwrap();
    rig.tell(worker.number(), &other, succeeded()).unwrap();
}

fn a_worker_does_not_report_on_an_attempt_of_the_server(rig: &mut Rig) {
    let worker = connected(rig);
    rig.queue("here", 1);
    let running = rig.submit(job("here", Rig::KIND));
    refused(rig, every_report(worker.number(), &running));
    rig.report(&running, succeeded()).unwrap();
    // Its end is no end by a worker.
    refused(rig, every_report(worker.number(), &running));
}

fn the_server_may_end_or_take_back_a_remote_attempt(rig: &mut Rig) {
    let worker = connected(rig);
    let first = rig.assigned(&worker, NewJob { max_attempts: 1, ..job("q", "far") });
    let applied = rig.apply(Batch {
        reports: vec![crate::store::batch::Report { id: first.id, lease: lease(&first), body: released() }],
        ..Batch::default()
    });
    assert_eq!(applied.remote_ended, [(worker.number(), lease(&first))]);
    let back = rig.job(first.id);
    assert_eq!(
        (back.state.name(), back.counted_attempts(), back.remote.worker()),
        (StateName::Queued, 0, None)
    );
    rig.credit(worker.pool(0), 1);
    rig.tick();
    let again = rig.job(first.id);
    rig.report(&again, failed(true, "")).unwrap();
    assert_eq!(rig.state(first.id), StateName::Failed);
    assert_eq!(rig.tell(worker.number(), &again, succeeded()), lost(StateName::Failed));
}

fn a_remote_attempt_is_shown_with_its_worker(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let shown = |rig: &Rig| rig.whole(running.id).attempts[0].clone();
    assert_eq!((worker_of(&shown(rig)), shown(rig).ended), (Some("a"), None));
    rig.tell(worker.number(), &running, failed(true, "")).unwrap();
    let attempt = shown(rig);
    assert_eq!((worker_of(&attempt), attempt.reported), (Some("a"), Some(lease(&running))));
    assert_eq!(attempt.failure.unwrap().reason, FailureReason::HandlerError);
}

fn a_succeeded_remote_attempt_is_shown_with_its_worker(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    rig.tell(worker.number(), &running, failed(true, "")).unwrap();
    rig.pass(60);
    let other = rig.worker_with("b", &["far"], 1);
    assert_eq!(assigned(&rig.tick()), [running.id]);
    let again = rig.job(running.id);
    rig.tell(other.number(), &again, succeeded()).unwrap();
    for _ in 0..2 {
        let attempts = rig.whole(running.id).attempts;
        let shown: Vec<_> = attempts.iter().map(|attempt| (attempt.number, worker_of(attempt))).collect();
        assert_eq!(shown, [(1, Some("a")), (2, Some("b"))]);
        rig.crash();
    }
}

fn an_attempt_of_the_server_is_shown_without_the_worker_of_an_earlier_one(rig: &mut Rig) {
    let worker = rig.worker("a", &[Rig::KIND]);
    rig.queue("q", 0);
    for end in [failed(true, ""), released()] {
        let running = rig.assigned(&worker, job("q", Rig::KIND));
        rig.tell(worker.number(), &running, end).unwrap();
        rig.pass(60);
        rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10) }).unwrap();
        let again = rig.job(running.id);
        assert_eq!((again.state.name(), again.attempt), (StateName::Running, 2));
        let latest = |rig: &Rig| rig.whole(running.id).attempts.pop().unwrap();
        assert_eq!((latest(rig).number, worker_of(&latest(rig))), (2, None));
        rig.report(&again, succeeded()).unwrap();
        assert_eq!((latest(rig).number, worker_of(&latest(rig))), (2, None));
        rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 10) }).unwrap();
    }
}

fn a_cancelled_remote_attempt_is_told_to_stop_and_ends(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let applied = rig.apply(Batch { controls: vec![Control::Cancel(running.id)], ..Batch::default() });
    assert_eq!(applied.remote_cancelling, [(worker.number(), lease(&running))]);
    assert!(applied.cancelling.is_empty() && applied.remote_ended.is_empty());
    let progress = Arc::new(Progress { fraction: Some(0.9), ..Progress::default() });
    rig.tell(worker.number(), &running, ReportBody::Progress(progress)).unwrap();
    rig.tell(worker.number(), &running, failed(true, "")).unwrap();
    assert_eq!(rig.state(running.id), StateName::Cancelled);
    repeated(rig, &report(worker.number(), &running, failed(true, "")));
}

fn the_repeat_of_a_success_is_answered_as_the_first(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let end = report(worker.number(), &running, returned("done", "tail"));
    rig.tell_all(vec![end.clone()]);
    repeated(rig, &end);
}

/// Ends a job's attempt by a failure, and returns the report and the job.
fn failing(rig: &mut Rig, worker: &Connected, retryable: bool) -> (WorkerReport, Job) {
    let running = rig.assigned(worker, job("q", "far"));
    let end = report(worker.number(), &running, failed(retryable, "tail"));
    let answer = rig.tell_all(vec![WorkerReport { checkpoint: checkpoint(1, "first"), ..end.clone() }]);
    assert_eq!(answer[0].result, Ok(()));
    // A repeat does not bring the checkpoint back either.
    (WorkerReport { checkpoint: checkpoint(9, "late"), ..end }, running)
}

fn the_repeat_of_a_failure_is_answered_as_the_first_while_the_job_backs_off(rig: &mut Rig) {
    let worker = connected(rig);
    let (end, running) = failing(rig, &worker, true);
    repeated(rig, &end);
    assert_eq!(rig.state(running.id), StateName::BackingOff);
    rig.pass(60);
    rig.tick();
    assert_eq!(rig.state(running.id), StateName::Queued);
    repeated(rig, &end);
    assert_eq!(rig.checkpoint(running.id), Some((1, "first".into())));
}

fn the_repeat_of_a_failure_is_answered_as_the_first_though_the_job_runs_again(rig: &mut Rig) {
    let worker = connected(rig);
    let other = rig.worker("b", &["far"]);
    let (end, running) = failing(rig, &worker, true);
    rig.pass(60);
    rig.credit(other.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), [running.id]);
    repeated(rig, &end);
    let second = rig.job(running.id);
    assert_eq!((second.state.name(), second.attempt), (StateName::Running, 2));
    rig.tell(other.number(), &second, failed(true, "")).unwrap();
    repeated(rig, &end);
    // The next attempt is the first worker's again.
    rig.pass(60);
    let again = rig.open(&worker.process, vec![pool(&["far"], &[])], 1_000);
    rig.credit(again.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), [running.id]);
    repeated(rig, &end);
    repeated(rig, &report(other.number(), &second, failed(true, "")));
    assert_eq!(rig.job(running.id).attempt, 3);
}

fn the_repeat_of_a_failure_for_good_is_answered_as_the_first(rig: &mut Rig) {
    let worker = connected(rig);
    let (end, running) = failing(rig, &worker, false);
    repeated(rig, &end);
    assert_eq!(rig.state(running.id), StateName::Failed);
    rig.control(Control::Retry { id: running.id, request: None }).unwrap();
    repeated(rig, &end);
    let again = rig.open(&worker.process, vec![pool(&["far"], &[])], 1_000);
    rig.credit(again.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), [running.id]);
    repeated(rig, &end);
}

fn the_repeat_of_a_release_is_answered_as_the_first(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, NewJob { max_attempts: 1, ..job("q", "far") });
    let end = report(worker.number(), &running, released());
    rig.tell_all(vec![end.clone()]);
    repeated(rig, &end);
    let back = rig.job(running.id);
    assert_eq!((back.state.name(), back.counted_attempts()), (StateName::Queued, 0));
}

fn the_repeat_in_the_same_batch_is_answered_as_the_first(rig: &mut Rig) {
    let worker = connected(rig);
    for body in [succeeded(), failed(true, ""), failed(false, ""), released()] {
        let running = rig.assigned(&worker, job("q", "far"));
        let end = report(worker.number(), &running, body);
        let answers = rig.tell_all(vec![end.clone(), end.clone()]);
        assert!(answers.iter().all(|answer| answer.result == Ok(())), "{answers:?}");
        assert_eq!(rig.job(running.id).revision, running.revision + 1);
        rig.control(Control::Cancel(running.id)).ok();
    }
}

fn the_repeat_by_a_process_that_was_replaced_meanwhile_is_answered_as_the_first(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let end = report(worker.number(), &running, succeeded());
    rig.tell_all(vec![end.clone()]);
    let next = rig.register(hello("a", "2", &["far"])).unwrap();
    assert_eq!(rig.tell_all(vec![end.clone()])[0].result, Ok(()));
    refused(rig, vec![WorkerReport { worker: next.worker.number(), ..end }]);
}

/// Ends an attempt of each kind by a worker's report, and returns the reports.
fn every_end(rig: &mut Rig, worker: &Connected) -> Vec<WorkerReport> {
    let end = |body| {
        let running = rig.assigned(worker, job("q", "far"));
        let end = report(worker.number(), &running, body);
        assert_eq!(rig.tell_all(vec![end.clone()])[0].result, Ok(()));
        end
    };
    [succeeded(), failed(true, ""), failed(false, ""), released()].into_iter().map(end).collect()
}

fn the_repeat_by_another_worker_is_refused(rig: &mut Rig) {
    let worker = connected(rig);
    let other = rig.worker("b", &["far"]);
    let ends = every_end(rig, &worker);
    for _ in 0..2 {
        let by_other = |end: &WorkerReport| WorkerReport { worker: other.number(), ..end.clone() };
        refused(rig, ends.iter().map(by_other).collect());
        assert!(rig.tell_all(ends.clone()).iter().all(|answer| answer.result == Ok(())));
        rig.crash();
    }
}

fn the_repeat_by_a_worker_with_the_number_of_a_forgotten_one_is_refused(rig: &mut Rig) {
    let worker = connected(rig);
    let ends = every_end(rig, &worker);
    rig.close(worker.session);
    for _ in 0..2 {
        rig.pass(2 * 3_600);
        rig.review();
    }
    rig.crash();
    let stranger = rig.worker("b", &["far"]);
    assert_eq!(stranger.number(), worker.number(), "a number is free again once its worker is forgotten");
    refused(rig, ends.clone());
    let listed: Vec<_> = ends.iter().map(|end| (end.id, end.lease)).collect();
    let lists = |instance| WorkerHello { leases: Some(listed.clone()), ..hello(instance, "1", &["far"]) };
    assert_eq!(fates(rig.register(lists("b"))), [LeaseFate::Lost; 4]);
    // The worker itself is known by its names, whatever its number is now.
    let back = rig.worker("a", &["far"]);
    assert_ne!(back.number(), worker.number());
    for end in ends {
        repeated(rig, &WorkerReport { worker: back.number(), ..end });
    }
    assert_eq!(fates(rig.register(lists("a"))), [LeaseFate::Reported; 4]);
}

fn a_report_that_is_no_repeat_is_refused_after_the_end(rig: &mut Rig) {
    let worker = connected(rig);
    let running = rig.assigned(&worker, job("q", "far"));
    let next = lease(&running);
    rig.tell(worker.number(), &running, succeeded()).unwrap();
    let progress = Arc::new(Progress::default());
    let (id, number) = (running.id, worker.number());
    let late = |body| WorkerReport { worker: number, id, lease: next, body, checkpoint: checkpoint(1, "x") };
    refused(rig, vec![late(ReportBody::Progress(progress)), late(ReportBody::Checkpoint)]);
}

fn one_attempt_is_never_started_twice(rig: &mut Rig) {
    let worker = connected(rig);
    let once = NewJob { max_attempts: 1, ..job("q", "far") };
    let other = rig.worker_with("b", &["far"], 9);
    rig.close(other.session);
    // Lost to a new process, failed, and ended by the server: none is assigned again.
    let replaced = rig.assigned(&worker, once.clone());
    let next = rig.register(hello("a", "2", &["far"])).unwrap();
    let worker = rig.open(&next.worker, vec![pool(&["far"], &[])], 10_000);
    let failing = rig.assigned(&worker, once.clone());
    rig.tell(worker.number(), &failing, failed(true, "")).unwrap();
    let ended = rig.assigned(&worker, once);
    rig.report(&ended, failed(true, "")).unwrap();
    rig.credit(worker.pool(0), 9);
    for _ in 0..5 {
        rig.pass(3_600);
        assert_eq!(assigned(&rig.tick()), []);
    }
    for id in [replaced.id, failing.id, ended.id] {
        let job = rig.job(id);
        assert_eq!((job.state.name(), job.attempt), (StateName::Failed, 1));
    }
}

fn all_that_a_worker_releases_after_a_restart_starts_in_one_batch(rig: &mut Rig) {
    for (queue, fair_by) in [("plain", None), ("fair", Some("tenant".into()))] {
        let with = |consumers| QueueSettings { fair_by: fair_by.clone(), ..settings(consumers, 1_000) };
        rig.queue_with(queue, with(0));
        let jobs = [Rig::KIND, "walk"].iter().flat_map(|kind| vec![job(queue, kind); 70]).collect();
        let ids: Vec<_> = rig.submit_all(jobs).iter().map(|job| job.id).collect();
        let worker = rig.worker_with(queue, &[Rig::KIND, "walk"], 140);
        rig.settle();
        rig.crash();
        // The server does not know their places any more: all of them come first.
        let running: Vec<_> = ids.iter().map(|id| rig.job(*id)).collect();
        let reports = running.iter().map(|job| report(worker.number(), job, released())).collect();
        assert!(rig.tell_all(reports).iter().all(|answer| answer.result == Ok(())));
        let update = Control::UpdateQueue { name: queue.into(), settings: with(200) };
        let applied = rig.apply(Batch { controls: vec![update], claim: true, ..Batch::default() });
        assert_eq!((claimed(&applied).len(), applied.more), (140, false), "{queue}");
    }
}
