//! Introductions of workers: what becomes of leases that outlive a stream, a worker's process or a start of the server.

use jobmill::{
    engine::{ControlRefusal, LeaseFate, NewJob, ReportBody},
    job::{FailureReason, Job, JobId, StateName},
};

use crate::store::{
    batch::{Batch, Control},
    build::job,
    rig::{Rig, claimed, failed, lease, succeeded},
    workers::{
        Connected, assigned, checkpoint, fates, hello, hello_with, lost, named, pool, released, report,
        worker_of,
    },
};

both_stores!(
    remote_attempts_outlive_a_start_and_local_ones_end_as_lost,
    the_same_process_keeps_its_number,
    leases_that_are_not_listed_go_back_uncounted_with_their_old_place_in_line,
    a_process_that_lists_nothing_gives_all_leases_back,
    a_process_that_does_not_say_what_it_holds_keeps_its_leases,
    an_unlisted_lease_goes_back_after_a_start_too,
    listed_leases_are_held_ended_ones_reported_and_those_of_strangers_lost,
    the_fates_of_leases_are_the_same_after_a_start,
    a_cancelled_job_whose_lease_is_not_listed_is_cancelled,
    a_new_process_ends_the_leases_of_the_one_before_it,
    a_new_process_ends_a_cancelled_job_as_cancelled,
    a_replaced_process_is_refused,
    two_subjects_may_have_workers_of_the_same_name,
    two_processes_in_one_batch_leave_the_later_one,
    a_start_counts_only_once_it_gave_workers_time_to_come_back,
    three_starts_without_a_hello_keep_the_leases_and_the_fourth_ends_them,
    a_hello_between_starts_begins_the_count_anew,
    a_job_with_one_attempt_starts_once_through_hellos_and_starts,
);

/// Returns jobs that run at a new worker, whose session has a queue of its own.
fn running(rig: &mut Rig, count: usize) -> (Connected, Vec<Job>) {
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    let jobs = (0..count).map(|_| rig.assigned(&worker, job("q", "far"))).collect();
    (worker, jobs)
}

fn states(rig: &Rig, jobs: &[Job]) -> Vec<(StateName, u32)> {
    let state = |job: &Job| (rig.state(job.id), rig.job(job.id).counted_attempts());
    jobs.iter().map(state).collect()
}

fn remote_attempts_outlive_a_start_and_local_ones_end_as_lost(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    rig.queue("here", 1);
    let local = rig.submit(job("here", Rig::KIND));
    rig.crash();
    assert_eq!(states(rig, &jobs), [(StateName::Running, 1)]);
    assert_eq!(rig.job(jobs[0].id), jobs[0]);
    assert_eq!(rig.job(local.id).failure.unwrap().reason, FailureReason::Lost);
    rig.tell(worker.number(), &jobs[0], succeeded()).unwrap();
    // A new lease is larger than those of before.
    let later = rig.submit(job("here", Rig::KIND));
    assert!(lease(&later) > lease(&jobs[0]));
}

fn the_same_process_keeps_its_number(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    for _ in 0..3 {
        let again = rig.register(hello_with("a", "1", &[&jobs[0]])).unwrap();
        assert_eq!((again.worker.number(), again.leases), (worker.number(), vec![LeaseFate::Held]));
        rig.crash();
    }
    let other = rig.worker("b", &["far"]);
    assert_ne!(other.number(), worker.number());
}

fn leases_that_are_not_listed_go_back_uncounted_with_their_old_place_in_line(rig: &mut Rig) {
    rig.queue("q", 0);
    let ids: Vec<JobId> = rig.submit_all(vec![job("q", "far"); 5]).iter().map(|job| job.id).collect();
    let worker = rig.worker_with("a", &["far"], 4);
    assert_eq!(assigned(&rig.tick()), ids[..4]);
    rig.close(worker.session);
    let held = rig.job(ids[1]);
    assert_eq!(fates(rig.register(hello_with("a", "1", &[&held]))), [LeaseFate::Held]);
    assert_eq!(rig.job(ids[1]), held);
    let back = rig.job(ids[0]);
    assert_eq!((back.state.name(), back.counted_attempts(), back.started), (StateName::Queued, 0, None));
    assert!(rig.whole(ids[0]).attempts.is_empty());
    let urgent = rig.submit(NewJob { priority: 1, ..job("q", "far") }).id;
    let worker = rig.open(&worker.process, vec![pool(&["far"], &[])], 10_000);
    rig.credit(worker.pool(0), 9);
    assert_eq!(assigned(&rig.tick()), [urgent, ids[0], ids[2], ids[3], ids[4]]);
}

fn a_process_that_lists_nothing_gives_all_leases_back(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 2);
    let batch =
        Batch { controls: vec![Control::RegisterWorker(hello_with("a", "1", &[]))], ..Batch::default() };
    let applied = rig.apply(batch);
    assert_eq!(states(rig, &jobs), [(StateName::Queued, 0); 2]);
    let ended = jobs.iter().map(|job| (worker.number(), lease(job)));
    assert_eq!(applied.remote_ended, ended.collect::<Vec<_>>());
    assert!(applied.superseded.is_empty());
    // The leases are over for good.
    let late = rig.tell(worker.number(), &jobs[0], succeeded());
    assert_eq!(late, lost(StateName::Queued));
}

fn a_process_that_does_not_say_what_it_holds_keeps_its_leases(rig: &mut Rig) {
    let (_, jobs) = running(rig, 2);
    assert_eq!(fates(rig.register(hello("a", "1", &["far"]))), []);
    assert_eq!(states(rig, &jobs), [(StateName::Running, 1); 2]);
}

fn an_unlisted_lease_goes_back_after_a_start_too(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 3);
    let behind = rig.submit(job("q", "far")).id;
    rig.crash();
    assert_eq!(fates(rig.register(hello_with("a", "1", &[&jobs[1]]))), [LeaseFate::Held]);
    let expected = [(StateName::Queued, 0), (StateName::Running, 1), (StateName::Queued, 0)];
    assert_eq!(states(rig, &jobs), expected);
    let worker = rig.open(&worker.process, vec![pool(&["far"], &[])], 10_000);
    rig.credit(worker.pool(0), 2);
    assert_eq!(assigned(&rig.tick()), [jobs[0].id, jobs[2].id], "before those that were behind them");
    rig.credit(worker.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), [behind]);
}

/// Returns introductions with leases of every sort, and what each must be told.
fn every_fate(rig: &mut Rig) -> (Connected, Vec<Job>, Vec<LeaseFate>) {
    let (worker, jobs) = running(rig, 7);
    let stranger = rig.worker("b", &["far"]);
    let foreign = rig.assigned(&stranger, job("q", "far"));
    let number = worker.number();
    rig.control(Control::Cancel(jobs[1].id)).unwrap();
    rig.tell(number, &jobs[2], succeeded()).unwrap();
    rig.tell(number, &jobs[3], failed(true, "")).unwrap();
    rig.tell(number, &jobs[4], released()).unwrap();
    // The server ended this one, and the next attempt of the other failed one is a stranger's.
    rig.report(&jobs[5], failed(false, "")).unwrap();
    rig.tell(number, &jobs[6], failed(true, "")).unwrap();
    rig.pass(60);
    rig.close(worker.session);
    rig.credit(stranger.pool(0), 3);
    let again = rig.tick();
    assert_eq!(assigned(&again), [jobs[4].id, jobs[3].id, jobs[6].id]);
    let taken_back = rig.job(jobs[4].id);
    rig.report(&taken_back, released()).unwrap();
    use LeaseFate::{Held, Lost, Reported};
    let jobs = jobs.into_iter().chain([foreign, taken_back]).collect();
    (worker, jobs, vec![Held, Held, Reported, Reported, Reported, Lost, Reported, Lost, Lost])
}

fn listed_leases_are_held_ended_ones_reported_and_those_of_strangers_lost(rig: &mut Rig) {
    let (_, jobs, expected) = every_fate(rig);
    let before: Vec<_> = jobs.iter().map(|job| rig.job(job.id)).collect();
    let listed: Vec<&Job> = jobs.iter().collect();
    assert_eq!(fates(rig.register(hello_with("a", "1", &listed))), expected);
    assert_eq!(jobs.iter().map(|job| rig.job(job.id)).collect::<Vec<_>>(), before, "nothing has changed");
    let mut unknown = hello_with("a", "1", &[&jobs[0], &jobs[1]]);
    unknown.leases.as_mut().unwrap().push(("0000000000001".parse().unwrap(), lease(&jobs[0])));
    assert_eq!(fates(rig.register(unknown)), [LeaseFate::Held, LeaseFate::Held, LeaseFate::Lost]);
}

fn the_fates_of_leases_are_the_same_after_a_start(rig: &mut Rig) {
    let (_, jobs, expected) = every_fate(rig);
    rig.crash();
    let listed: Vec<&Job> = jobs.iter().collect();
    assert_eq!(fates(rig.register(hello_with("a", "1", &listed))), expected);
}

fn a_cancelled_job_whose_lease_is_not_listed_is_cancelled(rig: &mut Rig) {
    let (_, jobs) = running(rig, 3);
    rig.control(Control::Cancel(jobs[0].id)).unwrap();
    rig.register(hello_with("a", "1", &[&jobs[1], &jobs[2]])).unwrap();
    assert_eq!(states(rig, &jobs[..1]), [(StateName::Cancelled, 0)]);
    // The same holds for a release by the server, and by the worker.
    rig.control(Control::Cancel(jobs[1].id)).unwrap();
    rig.report(&jobs[1], released()).unwrap();
    rig.control(Control::Cancel(jobs[2].id)).unwrap();
    let worker = rig.job(jobs[2].id).remote.worker().unwrap().number();
    rig.tell(worker, &jobs[2], ReportBody::Released { delay: Some(std::time::Duration::from_secs(5)) })
        .unwrap();
    assert_eq!(states(rig, &jobs), [(StateName::Cancelled, 0); 3]);
}

fn a_new_process_ends_the_leases_of_the_one_before_it(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 2);
    // It may list what it wants: the leases are not its own.
    let controls = vec![Control::RegisterWorker(hello_with("a", "2", &[&jobs[0]]))];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    assert_eq!(applied.superseded, [worker.number()]);
    assert_eq!(applied.remote_ended.len(), 2);
    assert_eq!(states(rig, &jobs), [(StateName::BackingOff, 1); 2]);
    let whole = rig.whole(jobs[0].id);
    assert_eq!(whole.job.failure.unwrap().reason, FailureReason::Lost);
    assert_eq!((whole.attempts.len(), worker_of(&whole.attempts[0])), (1, Some("a")));
    assert_eq!(whole.attempts[0].reported, None);
    let late = rig.tell(worker.number(), &jobs[0], succeeded());
    assert_eq!(late, lost(StateName::BackingOff));
    let listed = fates(rig.register(hello_with("a", "2", &[&jobs[0]])));
    assert_eq!(listed, [LeaseFate::Lost]);
}

fn a_new_process_ends_a_cancelled_job_as_cancelled(rig: &mut Rig) {
    let (_, jobs) = running(rig, 1);
    rig.control(Control::Cancel(jobs[0].id)).unwrap();
    rig.register(hello("a", "2", &["far"])).unwrap();
    assert_eq!(states(rig, &jobs), [(StateName::Cancelled, 1)]);
}

fn a_replaced_process_is_refused(rig: &mut Rig) {
    let (_, jobs) = running(rig, 1);
    let mut present = rig.register(hello("a", "2", &["far"])).unwrap().worker;
    let superseded = Err(ControlRefusal::WorkerSuperseded("a".into()));
    for process in ["3", "4"] {
        assert_eq!(rig.register(hello_with("a", "1", &[&jobs[0]])), superseded);
        rig.crash();
        assert_eq!(rig.register(hello("a", "1", &["far"])), superseded);
        present = rig.register(hello("a", process, &["far"])).unwrap().worker;
    }
    for earlier in ["1", "2", "3"] {
        assert_eq!(rig.register(hello("a", earlier, &["far"])), superseded);
    }
    assert_eq!(rig.register(hello("a", "4", &["far"])).unwrap().worker, present);
}

fn two_subjects_may_have_workers_of_the_same_name(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    let other = jobmill::engine::WorkerHello { subject: "other".into(), ..hello_with("a", "2", &[&jobs[0]]) };
    let registered = rig.register(other).unwrap();
    assert_ne!(registered.worker.number(), worker.number());
    assert_eq!(registered.leases, [LeaseFate::Lost]);
    assert_eq!(states(rig, &jobs), [(StateName::Running, 1)]);
}

fn two_processes_in_one_batch_leave_the_later_one(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    let controls = ["2", "3", "2"].map(|process| Control::RegisterWorker(hello("a", process, &["far"])));
    let applied = rig.apply(Batch { controls: controls.into(), ..Batch::default() });
    assert!(applied.controls[0].is_ok() && applied.controls[1].is_ok());
    assert!(matches!(applied.controls[2], Err(ControlRefusal::WorkerSuperseded(_))));
    assert_eq!((applied.superseded[0], applied.superseded.len()), (worker.number(), 2));
    assert_eq!(states(rig, &jobs), [(StateName::BackingOff, 1)]);
    rig.crash();
    rig.register(hello("a", "3", &["far"])).unwrap();
    assert!(rig.register(hello("a", "2", &["far"])).is_err());
}

fn a_start_counts_only_once_it_gave_workers_time_to_come_back(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    for _ in 0..9 {
        rig.crash();
    }
    for _ in 0..9 {
        rig.review();
    }
    rig.crash();
    rig.review();
    // This start is the third that could count.
    rig.crash();
    assert_eq!(states(rig, &jobs), [(StateName::Running, 1)]);
    rig.tell(worker.number(), &jobs[0], succeeded()).unwrap();
}

fn three_starts_without_a_hello_keep_the_leases_and_the_fourth_ends_them(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 2);
    for _ in 0..3 {
        rig.crash();
        rig.review();
        assert_eq!(states(rig, &jobs), [(StateName::Running, 1); 2]);
    }
    rig.crash();
    assert_eq!(states(rig, &jobs), [(StateName::BackingOff, 1); 2]);
    assert_eq!(rig.job(jobs[0].id).failure.unwrap().reason, FailureReason::Lost);
    assert_eq!(rig.tell(worker.number(), &jobs[0], succeeded()), lost(StateName::BackingOff));
    // The worker is welcome all the same.
    let again = rig.register(hello_with("a", "1", &[&jobs[0]])).unwrap();
    assert_eq!((again.worker.number(), again.leases), (worker.number(), vec![LeaseFate::Lost]));
}

fn a_hello_between_starts_begins_the_count_anew(rig: &mut Rig) {
    let (worker, jobs) = running(rig, 1);
    for _ in 0..3 {
        for _ in 0..3 {
            rig.crash();
            rig.review();
        }
        assert_eq!(fates(rig.register(hello_with("a", "1", &[&jobs[0]]))), [LeaseFate::Held]);
    }
    rig.tell(worker.number(), &jobs[0], succeeded()).unwrap();
}

fn a_job_with_one_attempt_starts_once_through_hellos_and_starts(rig: &mut Rig) {
    rig.queue("q", 1);
    let worker = rig.worker("a", &["far"]);
    let once = NewJob { max_attempts: 1, ..job("q", "far") };
    let [unlisted, listed] = [(); 2].map(|()| rig.assigned(&worker, once.clone()));
    rig.crash();
    rig.register(hello_with("a", "1", &[&listed])).unwrap();
    // What never reached the worker is assigned again, and counts once.
    let worker = rig.open(&worker.process, vec![pool(&["far"], &[])], 10_000);
    rig.credit(worker.pool(0), 9);
    assert_eq!(assigned(&rig.tick()), [unlisted.id]);
    let second = rig.job(unlisted.id);
    assert_eq!(second.counted_attempts(), 1);
    for _ in 0..4 {
        rig.crash();
        rig.review();
    }
    for job in [&listed, &second] {
        assert_eq!(states(rig, std::slice::from_ref(job)), [(StateName::Failed, 1)]);
        assert_eq!(rig.tell(worker.number(), job, succeeded()), lost(StateName::Failed));
    }
    rig.setup.served_kinds.push("far".into());
    rig.crash();
    rig.pass(3_600);
    let (applied, kept) = (rig.tick(), checkpoint(1, "x"));
    assert_eq!((claimed(&applied), assigned(&applied)), (vec![], vec![]));
    let late = crate::store::batch::WorkerReport {
        checkpoint: kept,
        ..report(worker.number(), &listed, succeeded())
    };
    assert_eq!(rig.tell_all(vec![late])[0].result, lost(StateName::Failed));
    assert_ne!(named(&listed), named(&second));
}
