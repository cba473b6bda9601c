//! Checkpoints: state that an attempt leaves to the next one.

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, StateName},
};

use crate::store::{
    batch::{Applied, Batch, Control, Report, WorkerReport},
    build::job,
    rig::{Rig, failed, lease, succeeded},
    workers::{Connected, checkpoint, hello, hello_with, lost, released, report},
};

both_stores!(
    a_checkpoint_is_kept_for_the_next_attempt,
    a_checkpoint_is_overwritten_by_the_next_one,
    a_checkpoint_that_comes_with_a_success_is_not_written,
    a_checkpoint_under_a_lost_lease_is_refused,
    a_checkpoint_changes_no_job,
    a_checkpoint_is_deleted_with_its_job,
    a_checkpoint_of_an_attempt_that_did_not_count_is_deleted_with_its_job,
    an_attempt_of_the_server_has_checkpoints_as_a_remote_one,
    a_checkpoint_of_the_server_under_a_lost_lease_is_refused,
    a_checkpoint_comes_with_the_end_of_its_attempt_unless_that_succeeds,
    a_checkpoint_keeps_its_time_through_restarts_and_retries,
    a_retry_drops_the_checkpoint_where_that_is_asked_for,
    a_retry_that_is_refused_drops_nothing,
    a_dropped_checkpoint_is_followed_by_the_next_one,
);

fn running(rig: &mut Rig) -> (Connected, Job) {
    rig.queue("q", 1);
    let worker = rig.worker("a", &["far", Rig::KIND]);
    let running = rig.assigned(&worker, job("q", "far"));
    (worker, running)
}

/// Reports a checkpoint alone or with something else, and returns whether the report applied.
fn put(rig: &mut Rig, worker: &Connected, job: &Job, body: ReportBody, state: (i64, &str)) -> bool {
    let report =
        WorkerReport { checkpoint: checkpoint(state.0, state.1), ..report(worker.number(), job, body) };
    let answer = rig.tell_all(vec![report]).pop().unwrap();
    assert_eq!(answer.checkpoint, Some(state.0));
    answer.result.is_ok()
}

fn kept(rig: &Rig, id: JobId) -> Option<(i64, String)> {
    let kept = rig.checkpoint(id);
    if rig.reader().job(id).unwrap().is_some() {
        let whole = rig.whole(id).checkpoint.map(|kept| kept.number);
        assert_eq!(whole, kept.as_ref().map(|(number, _)| *number));
    }
    kept
}

fn a_checkpoint_is_kept_for_the_next_attempt(rig: &mut Rig) {
    let (worker, first) = running(rig);
    assert_eq!(kept(rig, first.id), None);
    assert!(put(rig, &worker, &first, ReportBody::Checkpoint, (1, "half")));
    // The attempt is lost to a new process, and the next one begins with what it has left.
    let next = rig.register(hello("a", "2", &["far"])).unwrap();
    rig.crash();
    assert_eq!(kept(rig, first.id), Some((1, "half".into())));
    let worker = rig.open(&next.worker, vec![crate::store::workers::pool(&["far"], &[])], 1_000);
    rig.credit(worker.pool(0), 1);
    rig.pass(60);
    rig.tick();
    let second = rig.job(first.id);
    assert_eq!((second.attempt, kept(rig, first.id)), (2, Some((1, "half".into()))));
    // It stays with a job that has succeeded, too.
    rig.tell(worker.number(), &second, succeeded()).unwrap();
    assert_eq!(kept(rig, first.id), Some((1, "half".into())));
}

fn a_checkpoint_is_overwritten_by_the_next_one(rig: &mut Rig) {
    let (worker, first) = running(rig);
    let progress = ReportBody::Progress(Default::default());
    for (number, body) in [(1, ReportBody::Checkpoint), (2, progress), (5, failed(true, ""))] {
        assert!(put(rig, &worker, &first, body, (number, "state")));
        assert_eq!(kept(rig, first.id), Some((number, "state".into())));
    }
    let reports = [1, 2].map(|number| {
        let second = rig.assigned(&worker, job("q", "far"));
        let of = |number| WorkerReport {
            checkpoint: checkpoint(number, "x"),
            ..report(worker.number(), &second, ReportBody::Checkpoint)
        };
        (second.id, vec![of(number), of(number + 1)])
    });
    for (id, reports) in reports {
        let last = reports[1].checkpoint.as_ref().unwrap().number;
        rig.tell_all(reports);
        assert_eq!(kept(rig, id), Some((last, "x".into())), "the later one of a batch");
    }
}

fn a_checkpoint_that_comes_with_a_success_is_not_written(rig: &mut Rig) {
    let (worker, first) = running(rig);
    assert!(put(rig, &worker, &first, succeeded(), (3, "end")));
    assert_eq!(kept(rig, first.id), None);
}

fn a_checkpoint_under_a_lost_lease_is_refused(rig: &mut Rig) {
    let (worker, first) = running(rig);
    let other = rig.worker("b", &["far"]);
    assert!(!put(rig, &other, &first, ReportBody::Checkpoint, (1, "no")));
    rig.register(hello_with("a", "1", &[])).unwrap();
    let late = WorkerReport {
        checkpoint: checkpoint(1, "no"),
        ..report(worker.number(), &first, ReportBody::Checkpoint)
    };
    assert_eq!(rig.tell_all(vec![late])[0].result, lost(StateName::Queued));
    assert_eq!(kept(rig, first.id), None);
}

fn a_checkpoint_changes_no_job(rig: &mut Rig) {
    let (worker, first) = running(rig);
    let (before, end) = (rig.job(first.id), rig.end());
    assert!(put(rig, &worker, &first, ReportBody::Checkpoint, (1, "x")));
    assert_eq!((rig.job(first.id), rig.end()), (before, end));
}

fn a_checkpoint_is_deleted_with_its_job(rig: &mut Rig) {
    let (worker, first) = running(rig);
    for body in [succeeded(), failed(false, "")] {
        let job = rig.assigned(&worker, job("q", "far"));
        assert!(put(rig, &worker, &job, ReportBody::Checkpoint, (1, "x")));
        rig.tell(worker.number(), &job, body).unwrap();
        rig.control(Control::Delete(job.id)).unwrap();
        assert_eq!(kept(rig, job.id), None);
    }
    assert!(put(rig, &worker, &first, ReportBody::Checkpoint, (1, "x")));
    rig.control(Control::Cancel(first.id)).unwrap();
    rig.tell(worker.number(), &first, failed(true, "")).unwrap();
    rig.control(Control::Delete(first.id)).unwrap();
    assert_eq!(kept(rig, first.id), None);
}

fn a_checkpoint_of_an_attempt_that_did_not_count_is_deleted_with_its_job(rig: &mut Rig) {
    let (worker, first) = running(rig);
    assert!(put(rig, &worker, &first, ReportBody::Checkpoint, (1, "x")));
    rig.report(&first, released()).unwrap();
    rig.control(Control::Delete(first.id)).unwrap();
    assert_eq!(kept(rig, first.id), None);
    // This one succeeds in its only counted attempt, which the server makes.
    let local = NewJob { max_attempts: 1, ..job("other", Rig::KIND) };
    rig.queue("other", 0);
    let second = rig.assigned(&worker, local);
    assert!(put(rig, &worker, &second, ReportBody::Checkpoint, (1, "x")));
    rig.report(&second, released()).unwrap();
    let settings = crate::store::build::settings(1, 10);
    rig.control(Control::UpdateQueue { name: "other".into(), settings }).unwrap();
    let again = rig.job(second.id);
    assert_eq!((again.counted_attempts(), again.remote.worker()), (1, None));
    rig.report(&again, succeeded()).unwrap();
    rig.control(Control::Delete(second.id)).unwrap();
    assert_eq!(kept(rig, second.id), None);
}

/// Reports a checkpoint as the server does, alone or with something else.
fn put_here(rig: &mut Rig, job: &Job, body: ReportBody, state: (i64, &str)) -> Applied {
    let report = Report { id: job.id, lease: lease(job), body };
    rig.apply(Batch { reports_with: vec![(report, checkpoint(state.0, state.1))], ..Batch::default() })
}

/// Starts an attempt of the server, in a queue that has room for more.
fn running_here(rig: &mut Rig) -> Job {
    let settings = crate::store::build::settings(9, 100);
    // It may be there already.
    let _ = rig.control(Control::CreateQueue { name: "here".into(), settings });
    Job::clone(&rig.submit(job("here", Rig::KIND)))
}

fn an_attempt_of_the_server_has_checkpoints_as_a_remote_one(rig: &mut Rig) {
    let first = running_here(rig);
    let (before, end) = (rig.job(first.id), rig.end());
    let applied = put_here(rig, &first, ReportBody::Checkpoint, (1, "half"));
    assert_eq!(applied.reports, [Ok(())]);
    assert_eq!((rig.job(first.id), rig.end()), (before, end), "it changes no job");
    put_here(rig, &first, ReportBody::Progress(Default::default()), (2, "more"));
    assert_eq!(kept(rig, first.id), Some((2, "more".into())));
    // The server dies, and the next attempt begins with what was written.
    rig.crash();
    assert_eq!(kept(rig, first.id), Some((2, "more".into())));
    rig.pass(60);
    rig.tick();
    let second = rig.job(first.id);
    assert_eq!((second.state.name(), second.attempt), (StateName::Running, 2));
    assert_eq!(kept(rig, first.id), Some((2, "more".into())));
}

fn a_checkpoint_of_the_server_under_a_lost_lease_is_refused(rig: &mut Rig) {
    let first = running_here(rig);
    rig.report(&first, failed(true, "")).unwrap();
    for body in [ReportBody::Checkpoint, ReportBody::Progress(Default::default()), failed(true, "")] {
        let applied = put_here(rig, &first, body, (1, "late"));
        assert_eq!(applied.reports, [lost(StateName::BackingOff)]);
    }
    rig.pass(60);
    rig.tick();
    assert_eq!(rig.state(first.id), StateName::Running);
    let applied = put_here(rig, &first, ReportBody::Checkpoint, (1, "stale"));
    assert_eq!(applied.reports, [lost(StateName::Running)]);
    assert_eq!(kept(rig, first.id), None);
}

fn a_checkpoint_comes_with_the_end_of_its_attempt_unless_that_succeeds(rig: &mut Rig) {
    for (number, body) in [(1, failed(true, "")), (2, failed(false, "")), (3, released())] {
        let first = running_here(rig);
        put_here(rig, &first, body, (number, "last"));
        assert_eq!(kept(rig, first.id), Some((number, "last".into())));
        rig.control(Control::Cancel(first.id)).ok();
    }
    let good = running_here(rig);
    put_here(rig, &good, succeeded(), (4, "last"));
    assert_eq!(kept(rig, good.id), None);
}

fn a_checkpoint_keeps_its_time_through_restarts_and_retries(rig: &mut Rig) {
    let first = running_here(rig);
    let written = rig.now;
    put_here(rig, &first, ReportBody::Checkpoint, (1, "half"));
    rig.pass(60);
    rig.report(&first, failed(false, "")).unwrap();
    rig.crash();
    rig.control(Control::Retry { id: first.id, request: None }).unwrap();
    let time = |rig: &Rig| rig.whole(first.id).checkpoint.unwrap().written;
    assert_eq!(time(rig), written);
    rig.tick();
    let again = rig.job(first.id);
    put_here(rig, &again, ReportBody::Checkpoint, (1, "more"));
    assert!(time(rig) > written);
}

fn a_retry_drops_the_checkpoint_where_that_is_asked_for(rig: &mut Rig) {
    let ended = running_here(rig);
    put_here(rig, &ended, failed(false, ""), (1, "half"));
    let waiting = running_here(rig);
    put_here(rig, &waiting, failed(true, ""), (1, "half"));
    for id in [ended.id, waiting.id] {
        let applied = rig.apply(Batch { controls: vec![Control::RetryAnew(id)], ..Batch::default() });
        assert!(applied.controls[0].is_ok());
        assert_eq!(kept(rig, id), None);
        // Without one, nothing happens to it.
        rig.crash();
        assert_eq!((rig.state(id), kept(rig, id)), (StateName::Queued, None));
    }
}

fn a_retry_that_is_refused_drops_nothing(rig: &mut Rig) {
    let first = running_here(rig);
    put_here(rig, &first, ReportBody::Checkpoint, (1, "half"));
    assert!(rig.control(Control::RetryAnew(first.id)).is_err());
    rig.report(&first, failed(false, "")).unwrap();
    let stale = Control::AtRevision(1, Box::new(Control::RetryAnew(first.id)));
    assert!(rig.control(stale).is_err());
    assert_eq!(kept(rig, first.id), Some((1, "half".into())));
}

fn a_dropped_checkpoint_is_followed_by_the_next_one(rig: &mut Rig) {
    let first = running_here(rig);
    put_here(rig, &first, failed(false, ""), (7, "half"));
    rig.control(Control::RetryAnew(first.id)).unwrap();
    rig.tick();
    let again = rig.job(first.id);
    assert_eq!(again.state.name(), StateName::Running);
    put_here(rig, &again, ReportBody::Checkpoint, (1, "anew"));
    assert_eq!(kept(rig, first.id), Some((1, "anew".into())));
}
