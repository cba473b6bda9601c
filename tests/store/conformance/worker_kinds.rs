//! How long the kinds of workers, and workers themselves, are known.

use jobmill::{engine::NewJob, job::StateName};

use crate::store::{
    batch::{Batch, Control},
    build::job,
    rig::{Rig, offer, succeeded},
    workers::{hello, hello_with, pool},
};

both_stores!(
    a_kind_is_known_from_a_hello_and_after_a_restart,
    a_kind_is_forgotten_seven_days_after_its_last_worker,
    a_kind_is_not_forgotten_while_a_session_serves_it,
    a_kind_is_not_forgotten_while_it_has_jobs,
    a_kind_with_a_handler_here_keeps_its_name,
    a_kind_that_is_forgotten_and_used_in_one_batch_keeps_its_name,
    a_kind_that_is_forgotten_and_served_in_one_batch_is_known,
    a_worker_without_session_and_leases_is_forgotten_after_an_hour,
    a_worker_with_a_session_or_a_lease_is_not_forgotten,
    a_worker_is_known_for_an_hour_after_its_session_has_closed,
    what_is_reviewed_in_the_batch_of_a_hello_is_kept,
);

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Lets time pass with a review every hour, as a server makes one, but for all days before the last, with one a day.
fn live(rig: &mut Rig, seconds: u64) {
    let mut left = seconds;
    while left > 0 {
        let step = if left > DAY { DAY } else { HOUR };
        rig.pass(step);
        rig.review();
        left -= step;
    }
}

/// Returns whether a kind is known from workers.
fn known(rig: &mut Rig, kind: &str) -> bool {
    rig.kinds_of_workers().iter().any(|known| known == kind)
}

/// Returns whether the process `1` of an instance is remembered, by what happens to a new process of it.
fn remembered(rig: &mut Rig, instance: &str) -> bool {
    let next = rig.apply(Batch {
        controls: vec![Control::RegisterWorker(hello(instance, "2", &["far"]))],
        ..Batch::default()
    });
    !next.superseded.is_empty()
}

fn a_kind_is_known_from_a_hello_and_after_a_restart(rig: &mut Rig) {
    assert!(!known(rig, "far"));
    rig.register(hello("a", "1", &["far", "wide"])).unwrap();
    for _ in 0..2 {
        assert!(known(rig, "far") && known(rig, "wide") && !known(rig, Rig::KIND));
        rig.crash();
    }
    rig.queue("q", 0);
    let waits = rig.submit(job("q", "far"));
    assert_eq!(waits.state.name(), StateName::Queued);
}

fn a_kind_is_forgotten_seven_days_after_its_last_worker(rig: &mut Rig) {
    rig.register(hello("a", "1", &["far"])).unwrap();
    live(rig, 3 * DAY);
    rig.register(hello("b", "1", &["wide", "far"])).unwrap();
    live(rig, 4 * DAY);
    rig.crash();
    live(rig, 3 * DAY - HOUR);
    assert!(known(rig, "far") && known(rig, "wide"), "they were served seven days ago");
    live(rig, 4 * HOUR);
    assert!(!known(rig, "far") && !known(rig, "wide"));
    rig.crash();
    assert!(!known(rig, "far") && !known(rig, "wide"));
    // The name can come back.
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    let running = rig.assigned(&worker, job("q", "far"));
    rig.crash();
    assert_eq!(rig.job(running.id).spec.kind.as_str(), "far");
}

fn a_kind_is_not_forgotten_while_a_session_serves_it(rig: &mut Rig) {
    let worker = rig.worker("a", &["far"]);
    live(rig, 20 * DAY);
    assert!(known(rig, "far"));
    rig.close(worker.session);
    live(rig, 7 * DAY);
    assert!(known(rig, "far"), "the last worker was there seven days ago");
    live(rig, 4 * HOUR);
    assert!(!known(rig, "far"));
}

fn a_kind_is_not_forgotten_while_it_has_jobs(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.register(hello("a", "1", &["far"])).unwrap();
    let waits = rig.submit(job("q", "far"));
    live(rig, 20 * DAY);
    rig.crash();
    assert!(known(rig, "far"));
    rig.control(Control::Delete(waits.id)).unwrap();
    live(rig, 7 * DAY);
    assert!(known(rig, "far"), "the last job was there seven days ago");
    live(rig, 4 * HOUR);
    assert!(!known(rig, "far"));
}

fn a_kind_with_a_handler_here_keeps_its_name(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.register(hello("a", "1", &[Rig::KIND])).unwrap();
    live(rig, 9 * DAY);
    assert!(!known(rig, Rig::KIND));
    assert_eq!(rig.submit(job("q", Rig::KIND)).state.name(), StateName::Running);
    rig.crash();
    assert_eq!(rig.all_jobs().len(), 1);
}

fn a_kind_that_is_forgotten_and_used_in_one_batch_keeps_its_name(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.register(hello("a", "1", &["far"])).unwrap();
    rig.pass(9 * DAY);
    let offers = vec![offer(vec![job("q", "far")])];
    let batch = Batch { controls: vec![Control::ReviewWorkers], offers, ..Batch::default() };
    rig.apply(batch);
    rig.submit(job("q", "other"));
    rig.crash();
    let kinds: Vec<_> = rig.all_jobs().iter().map(|job| job.spec.kind.to_string()).collect();
    assert_eq!(kinds, ["far", "other"]);
}

fn a_kind_that_is_forgotten_and_served_in_one_batch_is_known(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.register(hello("a", "1", &["far"])).unwrap();
    rig.pass(9 * DAY);
    let controls = vec![Control::ReviewWorkers, Control::RegisterWorker(hello("a", "1", &["far"]))];
    rig.apply(Batch { controls, ..Batch::default() });
    assert!(known(rig, "far"));
    rig.crash();
    assert!(known(rig, "far"));
    let worker = rig.worker("a", &["far"]);
    rig.assigned(&worker, job("q", "far"));
}

fn a_worker_without_session_and_leases_is_forgotten_after_an_hour(rig: &mut Rig) {
    for instance in ["a", "b", "c"] {
        rig.register(hello(instance, "1", &["far"])).unwrap();
    }
    rig.pass(HOUR - 60);
    rig.review();
    assert!(remembered(rig, "a"));
    rig.pass(120);
    rig.review();
    assert!(!remembered(rig, "b"));
    rig.crash();
    assert!(!remembered(rig, "c"));
}

fn a_worker_with_a_session_or_a_lease_is_not_forgotten(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.worker("a", &["far"]);
    let busy = rig.worker("b", &["far"]);
    let running = rig.assigned(&busy, NewJob { max_attempts: 1, ..job("q", "far") });
    rig.close(busy.session);
    live(rig, 5 * HOUR);
    rig.tell(busy.number(), &running, succeeded()).unwrap();
    rig.pass(HOUR - 60);
    rig.review();
    assert!(remembered(rig, "a") && remembered(rig, "b"));
}

fn a_worker_is_known_for_an_hour_after_its_session_has_closed(rig: &mut Rig) {
    let worker = rig.worker("a", &["far"]);
    let other = rig.worker("b", &["far"]);
    live(rig, 5 * HOUR);
    rig.pass(HOUR - 60);
    rig.close(worker.session);
    rig.close(other.session);
    rig.tick();
    rig.pass(60);
    rig.review();
    assert!(remembered(rig, "a"));
    live(rig, HOUR);
    assert!(!remembered(rig, "b"));
}

fn what_is_reviewed_in_the_batch_of_a_hello_is_kept(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    rig.close(worker.session);
    rig.tick();
    rig.pass(2 * HOUR);
    let hello = Control::RegisterWorker(hello_with("a", "1", &[]));
    for controls in [vec![hello.clone(), Control::ReviewWorkers], vec![Control::ReviewWorkers, hello]] {
        rig.apply(Batch { controls, ..Batch::default() });
        let registered = rig.register(hello_with("a", "1", &[])).unwrap();
        let worker = rig.open(&registered.worker, vec![pool(&["far"], &[])], 10_000);
        let running = rig.assigned(&worker, job("q", "far"));
        rig.tell(worker.number(), &running, succeeded()).unwrap();
        rig.close(worker.session);
        rig.tick();
        rig.crash();
        rig.pass(2 * HOUR);
    }
}
