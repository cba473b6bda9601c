//! Credits of remote workers: what they allow, and to whom jobs go.

use jobmill::{
    engine::NewJob,
    job::{Job, JobId, StateName},
};

use crate::store::{
    batch::{Applied, Batch, Control},
    build::{at, job, settings},
    rig::{Rig, claimed, offer, succeeded},
    workers::{assigned, hello, pool, takers},
};

both_stores!(
    a_claim_never_exceeds_the_credits,
    a_session_starts_without_credits_and_loses_them_when_they_are_void_or_it_closes,
    a_credit_is_for_the_kinds_of_its_pool_only,
    a_credit_is_for_the_queues_of_its_pool_only,
    a_kind_with_a_handler_here_and_a_worker_is_served_by_both,
    consumers_bound_only_the_attempts_of_this_server,
    a_paused_queue_assigns_nothing,
    a_queue_that_resumes_assigns_in_the_same_batch,
    jobs_start_by_priority_and_age_whether_in_slots_or_by_credits,
    new_jobs_do_not_pass_those_that_wait_for_credits,
    jobs_of_an_unserved_kind_hold_up_no_others,
    jobs_without_a_credit_hold_up_none_that_have_one,
    due_and_retried_jobs_are_assigned_too,
    a_draining_server_assigns_nothing,
    the_pool_that_was_given_a_job_least_recently_gets_the_next,
    queues_that_share_a_pool_take_turns,
    a_worker_with_too_many_bytes_on_their_way_gets_no_more,
    the_credit_for_a_job_that_has_expired_is_kept,
    the_session_of_a_replaced_process_gets_no_more_jobs,
    a_session_of_a_forgotten_process_gets_no_jobs,
);

/// Applies a batch with new jobs, and returns it.
fn offered(rig: &mut Rig, jobs: Vec<NewJob>) -> Applied {
    rig.apply(Batch { offers: vec![offer(jobs)], claim: true, ..Batch::default() })
}

/// Submits jobs that wait because nothing serves them yet.
fn waiting(rig: &mut Rig, jobs: Vec<NewJob>) -> Vec<JobId> {
    let ids: Vec<_> = rig.submit_all(jobs).iter().map(|job| job.id).collect();
    assert!(ids.iter().all(|id| rig.state(*id) == StateName::Queued));
    ids
}

fn a_claim_never_exceeds_the_credits(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker_with("a", &["far"], 2);
    let applied = offered(rig, vec![job("q", "far"); 5]);
    assert_eq!(takers(&applied), [worker.number(); 2]);
    assert!(!applied.more && applied.claims.is_empty());
    assert_eq!(assigned(&rig.tick()), []);
    rig.credit(worker.pool(0), 1);
    rig.credit(worker.pool(0), 1);
    assert_eq!(assigned(&rig.tick()).len(), 2);
    // An end gives no credit back: it counts new assignments only.
    let running = rig.all_jobs().remove(0);
    rig.tell(worker.number(), &running, succeeded()).unwrap();
    assert_eq!(assigned(&rig.tick()), []);
}

fn a_session_starts_without_credits_and_loses_them_when_they_are_void_or_it_closes(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    let jobs = waiting(rig, vec![job("q", "far"); 3]);
    assert_eq!(assigned(&rig.tick()), []);
    rig.credit(worker.pool(0), 5);
    rig.void(worker.session);
    assert_eq!(assigned(&rig.tick()), []);
    rig.credit(worker.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), jobs[..1]);
    rig.credit(worker.pool(0), 1);
    rig.close(worker.session);
    assert_eq!(assigned(&rig.tick()), []);
    let again = rig.open(&worker.process, vec![pool(&["far"], &[])], 1);
    assert_eq!(assigned(&rig.tick()), []);
    rig.credit(again.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), jobs[1..2]);
}

fn a_credit_is_for_the_kinds_of_its_pool_only(rig: &mut Rig) {
    rig.queue("q", 0);
    let registered = rig.register(hello("a", "1", &["far", "wide"])).unwrap();
    let pools = vec![pool(&["far"], &[]), pool(&["wide", "far"], &[])];
    let worker = rig.open(&registered.worker, pools, 1 << 20);
    rig.credit(worker.pool(0), 9);
    let jobs = waiting(rig, vec![job("q", "wide"), job("q", "other")]);
    assert_eq!(assigned(&rig.tick()), []);
    rig.credit(worker.pool(1), 9);
    let applied = rig.tick();
    assert_eq!(assigned(&applied), jobs[..1]);
    assert_eq!(applied.assigned[0].pool, worker.pool(1));
}

fn a_credit_is_for_the_queues_of_its_pool_only(rig: &mut Rig) {
    rig.queue("a", 0);
    rig.queue("b", 0);
    let registered = rig.register(hello("w", "1", &["far"])).unwrap();
    // The last queue does not exist yet.
    let worker = rig.open(&registered.worker, vec![pool(&["far"], &["b", "c"])], 1 << 20);
    rig.credit(worker.pool(0), 9);
    let jobs = rig.submit_all(vec![job("a", "far"), job("b", "far")]);
    assert_eq!([StateName::Queued, StateName::Running], [rig.state(jobs[0].id), rig.state(jobs[1].id)]);
    rig.queue("c", 0);
    let late = rig.submit(job("c", "far"));
    assert_eq!(rig.state(late.id), StateName::Running);
    // A queue that is deleted and created again is covered as before.
    rig.tell(worker.number(), &late, succeeded()).unwrap();
    rig.control(Control::DeleteQueue { name: "c".into() }).unwrap();
    rig.queue("d", 0);
    rig.queue("c", 0);
    let jobs = rig.submit_all(vec![job("d", "far"), job("c", "far")]);
    assert_eq!([StateName::Queued, StateName::Running], [rig.state(jobs[0].id), rig.state(jobs[1].id)]);
}

fn a_kind_with_a_handler_here_and_a_worker_is_served_by_both(rig: &mut Rig) {
    rig.queue("q", 2);
    let worker = rig.worker_with("a", &[Rig::KIND], 2);
    let applied = offered(rig, vec![job("q", Rig::KIND); 5]);
    assert_eq!((claimed(&applied).len(), takers(&applied)), (2, vec![worker.number(); 2]));
    let left = rig.all_jobs().iter().filter(|job| job.state.name() == StateName::Queued).count();
    assert_eq!(left, 1);
}

fn consumers_bound_only_the_attempts_of_this_server(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.worker_with("a", &["far", Rig::KIND], 5);
    let applied = offered(rig, vec![job("q", "far"); 4]);
    assert_eq!(assigned(&applied).len(), 4);
    // The four remote attempts take no slot.
    let applied = offered(rig, vec![job("q", Rig::KIND); 3]);
    assert_eq!((claimed(&applied).len(), assigned(&applied).len()), (1, 1));
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(2, 1_000) };
    let applied = rig.apply(Batch { controls: vec![update], claim: true, ..Batch::default() });
    assert_eq!((claimed(&applied).len(), assigned(&applied).len()), (1, 0));
    rig.crash();
    // The start has ended the two attempts of this server, and five others still run.
    let applied = offered(rig, vec![job("q", Rig::KIND); 3]);
    assert_eq!(claimed(&applied).len(), 2);
}

fn a_paused_queue_assigns_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker_with("a", &["far"], 2);
    let pause = Control::SetPaused { name: "q".into(), paused: true };
    let offers = vec![offer(vec![job("q", "far")])];
    let applied = rig.apply(Batch { controls: vec![pause], offers, claim: true, ..Batch::default() });
    assert_eq!(assigned(&applied), []);
    rig.credit(worker.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), []);
}

fn a_queue_that_resumes_assigns_in_the_same_batch(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.control(Control::SetPaused { name: "q".into(), paused: true }).unwrap();
    let old = waiting(rig, vec![job("q", "far"); 2]);
    rig.worker_with("a", &["far"], 2);
    let resume = Control::SetPaused { name: "q".into(), paused: false };
    let offers = vec![offer(vec![job("q", "far")])];
    let applied = rig.apply(Batch { controls: vec![resume], offers, claim: true, ..Batch::default() });
    assert_eq!(assigned(&applied), old, "a new job does not pass those that have waited");
}

fn jobs_start_by_priority_and_age_whether_in_slots_or_by_credits(rig: &mut Rig) {
    rig.queue("q", 0);
    let urgent = |kind: &str| NewJob { priority: 5, ..job("q", kind) };
    let jobs = vec![job("q", "far"), job("q", Rig::KIND), urgent(Rig::KIND), urgent("far"), job("q", "far")];
    let ids = waiting(rig, jobs);
    rig.worker_with("a", &["far", Rig::KIND], 3);
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(1, 1_000) };
    let applied = rig.apply(Batch { controls: vec![update], claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [ids[2]]);
    assert_eq!(assigned(&applied), [ids[3], ids[0], ids[1]]);
}

fn new_jobs_do_not_pass_those_that_wait_for_credits(rig: &mut Rig) {
    rig.queue("q", 0);
    let old = waiting(rig, vec![job("q", "far"); 2]);
    rig.worker_with("a", &["far"], 2);
    let urgent = NewJob { priority: 1, ..job("q", "far") };
    let applied = offered(rig, vec![job("q", "far"), urgent]);
    let newest = rig.all_jobs().last().unwrap().id;
    assert_eq!(assigned(&applied), [old[0], newest], "stored jobs are written before new ones");
}

fn jobs_of_an_unserved_kind_hold_up_no_others(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 10_000));
    waiting(rig, vec![NewJob { priority: 9, ..job("q", "unserved") }; 3_000]);
    rig.worker_with("a", &["far"], 1);
    let applied = offered(rig, vec![job("q", "far"), job("q", Rig::KIND), job("q", "unserved")]);
    assert_eq!((claimed(&applied).len(), assigned(&applied).len(), applied.more), (1, 1, false));
    // The same holds for jobs that wait in line themselves.
    let update = |consumers| Control::UpdateQueue { name: "q".into(), settings: settings(consumers, 10_000) };
    rig.control(update(0)).unwrap();
    let late = waiting(rig, vec![job("q", "far"), job("q", Rig::KIND)]);
    rig.worker_with("b", &["far"], 1);
    let applied = rig.apply(Batch { controls: vec![update(2)], claim: true, ..Batch::default() });
    assert_eq!((assigned(&applied), claimed(&applied)), (late[..1].to_vec(), late[1..].to_vec()));
}

fn jobs_without_a_credit_hold_up_none_that_have_one(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 10_000));
    let ids = waiting(rig, [vec![job("q", "far"); 2_500], vec![job("q", "wide"); 2]].concat());
    let far = rig.worker_with("a", &["far"], 1);
    let wide = rig.worker_with("b", &["wide"], 5);
    let applied = rig.tick();
    assert_eq!(assigned(&applied), [ids[0], ids[2_500], ids[2_501]]);
    assert_eq!(takers(&applied), [far.number(), wide.number(), wide.number()]);
    // More credits than one batch can read jobs for: the batch says that there is more.
    rig.credit(far.pool(0), 2_499);
    let (mut got, mut more) = (0, true);
    while more {
        let applied = rig.tick();
        got += assigned(&applied).len();
        more = applied.more;
    }
    assert_eq!(got, 2_499);
}

fn due_and_retried_jobs_are_assigned_too(rig: &mut Rig) {
    rig.queue("q", 0);
    let due = rig.submit(NewJob { run_time: Some(at(10).into()), ..job("q", "far") });
    let retried = rig.submit(job("q", "far"));
    rig.control(Control::Cancel(retried.id)).unwrap();
    rig.worker_with("a", &["far"], 2);
    rig.until(at(10));
    let retry = Control::Retry { id: retried.id, request: None };
    let applied = rig.apply(Batch { controls: vec![retry], claim: true, ..Batch::default() });
    assert_eq!(assigned(&applied), [retried.id, due.id]);
}

fn a_draining_server_assigns_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.worker_with("a", &["far"], 2);
    let applied = rig.apply(Batch { offers: vec![offer(vec![job("q", "far")])], ..Batch::default() });
    assert_eq!(assigned(&applied), []);
    assert_eq!(assigned(&rig.tick()).len(), 1, "the credit is not lost");
}

fn the_pool_that_was_given_a_job_least_recently_gets_the_next(rig: &mut Rig) {
    rig.queue("q", 0);
    // One worker has a hundred times the credits of the others, and another one serves more kinds.
    let a = rig.worker_with("a", &["far"], 100).number();
    let b = rig.worker_with("b", &["far", "wide"], 3).number();
    let c = rig.worker_with("c", &["far"], 2).number();
    let applied = offered(rig, vec![job("q", "far"); 8]);
    assert_eq!(takers(&applied), [a, b, c, a, b, c, a, b]);
}

fn queues_that_share_a_pool_take_turns(rig: &mut Rig) {
    rig.queue("a", 0);
    rig.queue("b", 0);
    let ids = waiting(rig, [vec![job("a", "far"); 4], vec![job("b", "far"); 4]].concat());
    let worker = rig.worker("w", &["far"]);
    let mut got = Vec::new();
    for _ in 0..4 {
        rig.credit(worker.pool(0), 1);
        got.extend(assigned(&rig.tick()));
    }
    got.sort_unstable();
    assert_eq!(got, [ids[0], ids[1], ids[4], ids[5]]);
}

fn a_worker_with_too_many_bytes_on_their_way_gets_no_more(rig: &mut Rig) {
    rig.queue("q", 0);
    let registered = rig.register(hello("a", "1", &["far"])).unwrap();
    let worker = rig.open(&registered.worker, vec![pool(&["far"], &[])], 1_000);
    rig.credit(worker.pool(0), 9);
    let large = NewJob { payload: vec![0; 700].into(), ..job("q", "far") };
    let applied = offered(rig, vec![large; 4]);
    assert_eq!(assigned(&applied).len(), 2, "the last one may exceed the room");
    assert!(!applied.more);
    rig.board().received(worker.session, 700 + Job::FIXED_BYTES);
    assert_eq!(assigned(&rig.tick()).len(), 1);
    assert_eq!(assigned(&rig.tick()).len(), 0);
    rig.board().received(worker.session, 3_000);
    assert_eq!(assigned(&rig.tick()).len(), 1);
}

fn the_credit_for_a_job_that_has_expired_is_kept(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 10_000));
    // More jobs than one batch lets expire.
    let expiring = NewJob { expires: Some(at(10).into()), ..job("q", "far") };
    waiting(rig, vec![expiring; 1_200]);
    let worker = rig.worker_with("a", &["far"], 3);
    rig.until(at(11));
    for _ in 0..3 {
        assert_eq!(assigned(&rig.tick()), []);
    }
    assert!(rig.all_jobs().iter().all(|job| job.state.name() == StateName::Expired));
    assert_eq!(takers(&offered(rig, vec![job("q", "far"); 4])), [worker.number(); 3]);
}

fn the_session_of_a_replaced_process_gets_no_more_jobs(rig: &mut Rig) {
    rig.queue("q", 0);
    let old = rig.worker_with("a", &["far"], 9);
    // The claim comes in the batch that registers the new process.
    let controls = vec![Control::RegisterWorker(hello("a", "2", &["far"]))];
    let offers = vec![offer(vec![job("q", "far")])];
    let applied = rig.apply(Batch { controls, offers, claim: true, ..Batch::default() });
    assert_eq!((applied.superseded, assigned(&rig.tick())), (vec![old.number()], vec![]));
    assert!(applied.assigned.is_empty());
    rig.credit(old.pool(0), 1);
    let late = rig.open(&old.process, vec![pool(&["far"], &[])], 1_000);
    rig.credit(late.pool(0), 1);
    assert_eq!(assigned(&rig.tick()), []);
}

fn a_session_of_a_forgotten_process_gets_no_jobs(rig: &mut Rig) {
    rig.queue("q", 0);
    let gone = rig.worker("a", &["far"]);
    rig.close(gone.session);
    rig.tick();
    rig.pass(3 * 3_600);
    rig.review();
    let late = rig.open(&gone.process, vec![pool(&["far"], &[])], 1_000);
    rig.credit(late.pool(0), 1);
    assert_eq!(assigned(&offered(rig, vec![job("q", "far")])), []);
}
