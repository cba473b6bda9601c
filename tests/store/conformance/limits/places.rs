//! Places of jobs that run at once: how many there are, and what takes and frees them.

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, StateName},
    settings::{LimitKey, LimitRule},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{at, job, settings},
    limits::{all, by_tenant, heavy, of},
    rig::{Rig, claimed, failed, lease, succeeded},
    workers::{assigned, hello},
};

both_stores!(
    no_more_jobs_run_at_once_than_the_limit_allows,
    a_place_that_comes_free_starts_the_next_job_in_the_same_batch,
    each_value_of_a_label_has_places_of_its_own,
    jobs_without_the_label_are_not_limited,
    each_queue_and_each_kind_can_have_places_of_its_own,
    a_limit_concerns_only_the_queues_and_kinds_that_it_names,
    jobs_behind_one_that_waits_start_before_it,
    a_job_under_several_limits_takes_a_place_of_each_or_none,
    a_heavy_job_takes_so_many_places_and_waits_until_there_are_enough,
    a_cancelled_job_holds_its_place_until_it_has_stopped,
    a_backoff_holds_no_place_and_a_retry_takes_one_again,
    an_attempt_that_never_started_gives_its_place_back,
    a_snoozed_job_holds_no_place,
    a_lease_that_is_lost_frees_its_place,
    places_of_remote_workers_count_too,
    what_runs_is_counted_at_once_after_a_crash,
    the_attempts_of_the_server_that_a_crash_ends_free_their_places,
    a_due_job_that_finds_no_place_waits_in_its_lane,
    a_job_that_waits_for_a_place_can_be_cancelled_deleted_updated_and_purged,
    a_job_that_waits_for_a_place_expires,
    a_batch_that_does_not_fit_on_the_disk_takes_no_places,
);

fn ids(jobs: &[std::sync::Arc<Job>]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn running(rig: &Rig) -> Vec<JobId> {
    let jobs = rig.all_jobs();
    jobs.iter().filter(|job| job.state.name() == StateName::Running).map(|job| job.id).collect()
}

/// Ends a running job in a batch that also claims, and returns the claimed jobs.
fn end(rig: &mut Rig, id: JobId, body: ReportBody) -> Vec<JobId> {
    let report = Report { id, lease: lease(&rig.job(id)), body };
    claimed(&rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() }))
}

fn no_more_jobs_run_at_once_than_the_limit_allows(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", all(3));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 8]));
    rig.settle();
    assert_eq!(running(rig), jobs[..3]);
    for round in 0..5 {
        assert_eq!(end(rig, jobs[round], succeeded()), [jobs[round + 3]]);
        rig.settle();
        assert_eq!(running(rig).len(), 3);
    }
}

fn a_place_that_comes_free_starts_the_next_job_in_the_same_batch(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", by_tenant(1));
    let jobs = ids(&rig.submit_all(vec![of("a"); 50]));
    rig.settle();
    for round in 0..49 {
        assert_eq!(end(rig, jobs[round], succeeded()), [jobs[round + 1]], "in one batch, with one flush");
    }
}

fn each_value_of_a_label_has_places_of_its_own(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("each", by_tenant(1));
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b"), of("b"), of("c")]));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[2], jobs[4]]);
    assert_eq!(end(rig, jobs[2], succeeded()), [jobs[3]]);
    assert_eq!(end(rig, jobs[4], succeeded()), []);
    assert_eq!(end(rig, jobs[0], succeeded()), [jobs[1]]);
}

fn jobs_without_the_label_are_not_limited(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("each", by_tenant(1));
    rig.submit_all(vec![job("q", Rig::KIND); 6]);
    assert_eq!(running(rig).len(), 6);
}

fn each_queue_and_each_kind_can_have_places_of_its_own(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.queue("r", 10);
    rig.limited("queues", all(2).by(LimitKey::Queue));
    rig.limited("kinds", all(3).by(LimitKey::Kind));
    let jobs = ["q", "q", "q", "r", "r"].map(|queue| job(queue, Rig::KIND));
    let jobs = ids(&rig.submit_all(jobs.into()));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[3]]);
    let other = rig.submit(job("r", "walk"));
    assert_eq!(rig.state(other.id), StateName::Running);
}

fn a_limit_concerns_only_the_queues_and_kinds_that_it_names(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.queue("r", 10);
    let mut spec = all(1);
    spec.queues.insert("q".into());
    spec.kinds.insert(Rig::KIND.into());
    rig.limited("some", spec);
    let jobs = [job("q", Rig::KIND), job("q", Rig::KIND), job("q", "walk"), job("r", Rig::KIND)];
    let jobs = ids(&rig.submit_all(jobs.into()));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[2], jobs[3]]);
}

fn jobs_behind_one_that_waits_start_before_it(rig: &mut Rig) {
    rig.queue("q", 3);
    rig.limited("each", by_tenant(1));
    rig.submit_all(vec![of("a"); 400]);
    let other = rig.submit(of("b"));
    rig.settle();
    assert_eq!(rig.state(other.id), StateName::Running);
}

fn a_job_under_several_limits_takes_a_place_of_each_or_none(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("each", by_tenant(1));
    rig.limited("few", all(2));
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b"), of("c")]));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[2]]);
    // The second job of `a` waits for its tenant, and holds none of the two places meanwhile.
    assert_eq!(end(rig, jobs[2], succeeded()), [jobs[3]]);
    assert_eq!(end(rig, jobs[3], succeeded()), []);
    assert_eq!(end(rig, jobs[0], succeeded()), [jobs[1]]);
}

fn a_heavy_job_takes_so_many_places_and_waits_until_there_are_enough(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("tokens", all(10));
    let jobs = [
        heavy("tokens", 6, job("q", Rig::KIND)),
        heavy("tokens", 5, job("q", Rig::KIND)),
        job("q", Rig::KIND),
    ];
    let jobs = ids(&rig.submit_all(jobs.into()));
    rig.settle();
    assert_eq!(running(rig)[0], jobs[0]);
    assert!(!running(rig).contains(&jobs[1]));
    end(rig, jobs[0], succeeded());
    rig.settle();
    assert!(running(rig).contains(&jobs[1]));
}

fn a_cancelled_job_holds_its_place_until_it_has_stopped(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 2]));
    rig.control(Control::Cancel(jobs[0])).unwrap();
    rig.settle();
    assert_eq!(rig.state(jobs[1]), StateName::Queued);
    assert_eq!(end(rig, jobs[0], failed(false, "")), [jobs[1]]);
}

fn a_backoff_holds_no_place_and_a_retry_takes_one_again(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 2]));
    assert_eq!(end(rig, jobs[0], failed(true, "")), [jobs[1]]);
    rig.pass(60);
    rig.settle();
    assert_eq!([rig.state(jobs[0]), rig.state(jobs[1])], [StateName::Queued, StateName::Running]);
    assert_eq!(end(rig, jobs[1], succeeded()), [jobs[0]]);
}

fn an_attempt_that_never_started_gives_its_place_back(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 2]));
    let delay = Some(std::time::Duration::from_secs(60));
    assert_eq!(end(rig, jobs[0], ReportBody::Released { delay }), [jobs[1]]);
    assert_eq!(end(rig, jobs[1], ReportBody::Released { delay: None }), [jobs[1]]);
}

fn a_snoozed_job_holds_no_place(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 2]));
    let snoozed =
        ReportBody::Snoozed { delay: std::time::Duration::from_secs(9), pause: None, tail: String::new() };
    assert_eq!(end(rig, jobs[0], snoozed), [jobs[1]]);
}

fn a_lease_that_is_lost_frees_its_place(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.limited("few", all(1));
    let worker = rig.worker_with("a", &["far"], 9);
    let jobs = ids(&rig.submit_all(vec![job("q", "far"); 2]));
    assert_eq!(running(rig), jobs[..1]);
    // Nothing was heard of it for longer than its lease: the server ends it.
    let lost = Report { id: jobs[0], lease: lease(&rig.job(jobs[0])), body: failed(true, "lost") };
    let applied = rig.apply(Batch { reports: vec![lost], claim: true, ..Batch::default() });
    assert_eq!(assigned(&applied), jobs[1..]);
    assert!(rig.tell(worker.number(), &rig.job(jobs[1]), succeeded()).is_ok());
}

fn places_of_remote_workers_count_too(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(2));
    let worker = rig.worker_with("a", &["far"], 9);
    let jobs = [job("q", "far"), job("q", Rig::KIND), job("q", "far"), job("q", Rig::KIND)];
    let jobs = ids(&rig.submit_all(jobs.into()));
    assert_eq!(running(rig), jobs[..2]);
    rig.tell(worker.number(), &rig.job(jobs[0]), succeeded()).unwrap();
    rig.settle();
    assert_eq!(running(rig), jobs[1..3]);
}

fn what_runs_is_counted_at_once_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.limited("each", by_tenant(2));
    let _worker = rig.worker_with("a", &["far"], 9);
    let far = |tenant| NewJob { kind: "far".into(), ..of(tenant) };
    let jobs = ids(&rig.submit_all(vec![far("a"), far("a"), far("a"), far("b")]));
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[3]]);
    rig.crash();
    let leases = [0, 1, 3].map(|index: usize| (jobs[index], lease(&rig.job(jobs[index]))));
    let mut again = hello("a", "1", &["far"]);
    again.leases = Some(leases.into());
    let registered = rig.register(again).unwrap();
    let worker = rig.open(&registered.worker, vec![crate::store::workers::pool(&["far"], &[])], 1 << 20);
    rig.credit(worker.pool(0), 9);
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[3]], "both places of `a` are taken");
    rig.tell(worker.number(), &rig.job(jobs[0]), succeeded()).unwrap();
    rig.settle();
    assert_eq!(running(rig), jobs[1..]);
}

fn the_attempts_of_the_server_that_a_crash_ends_free_their_places(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 3]));
    rig.settle();
    rig.crash();
    rig.settle();
    assert_eq!(running(rig), jobs[1..2]);
}

fn a_due_job_that_finds_no_place_waits_in_its_lane(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let first = rig.submit(job("q", Rig::KIND)).id;
    let late = rig.submit(NewJob { run_time: Some(at(5).into()), ..job("q", Rig::KIND) }).id;
    rig.until(at(5));
    rig.settle();
    assert_eq!(rig.state(late), StateName::Queued);
    assert_eq!(end(rig, first, succeeded()), [late]);
}

fn a_job_that_waits_for_a_place_can_be_cancelled_deleted_updated_and_purged(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 6]));
    rig.control(Control::Cancel(jobs[1])).unwrap();
    rig.control(Control::Delete(jobs[2])).unwrap();
    let update = jobmill::job::JobUpdate { priority: Some(Some(9)), ..Default::default() };
    rig.control(Control::Update(jobs[5], Box::new(update))).unwrap();
    assert_eq!(end(rig, jobs[0], succeeded()), [jobs[5]], "it is more urgent now");
    assert_eq!(end(rig, jobs[5], succeeded()), [jobs[3]]);
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    rig.settle();
    assert!(rig.reader().job(jobs[4]).unwrap().is_none());
    assert_eq!(end(rig, jobs[3], succeeded()), []);
    let next = rig.submit(job("q", Rig::KIND)).id;
    rig.settle();
    assert_eq!(rig.state(next), StateName::Running);
}

fn a_job_that_waits_for_a_place_expires(rig: &mut Rig) {
    rig.queue_with("q", settings(5, 100));
    rig.limited("few", all(1));
    rig.submit(job("q", Rig::KIND));
    let late = rig.submit(NewJob { expires: Some(at(9).into()), ..job("q", Rig::KIND) }).id;
    rig.until(at(9));
    rig.settle();
    assert_eq!(rig.state(late), StateName::Expired);
}

fn a_batch_that_does_not_fit_on_the_disk_takes_no_places(rig: &mut Rig) {
    // A store that has no room refuses the jobs, and what it decided is dropped.
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let offer = crate::store::rig::offer(vec![job("q", Rig::KIND)]);
    let space = jobmill::store::Space::Full;
    rig.apply(Batch { offers: vec![offer], claim: true, space, ..Batch::default() });
    let next = rig.submit(job("q", Rig::KIND)).id;
    assert_eq!(rig.state(next), StateName::Running);
    rig.overridden("few", "", LimitRule::Running(1));
}
