//! Checkpoints: state that an attempt leaves to the next one.

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, StateName},
};

use crate::store::{
    batch::{Control, WorkerReport},
    build::job,
    rig::{Rig, failed, succeeded},
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
