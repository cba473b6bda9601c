//! The order of jobs that wait for places.

use jobmill::{
    engine::{LimitAction, NewJob},
    job::{Dependency, DependencyTarget, JobId, Participant, StateName},
    settings::{LimitKey, LimitRule, LimitSpec, QueueSettings},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{job, settings},
    limits::{all, by_tenant, heavy, of},
    rig::{Rig, claimed, created, labelled, lease, offer, succeeded},
    workers::hello,
};

both_stores!(
    jobs_that_wait_for_the_same_place_start_in_the_order_of_their_queue,
    a_more_urgent_job_that_comes_later_starts_first,
    a_new_job_does_not_pass_those_that_wait_for_the_same,
    jobs_wait_in_their_order_whatever_other_limits_they_are_under,
    a_heavy_job_is_not_passed_for_ever_by_light_ones,
    the_order_is_the_same_after_a_crash,
    a_paused_queue_holds_no_other_ones_places_up,
    a_kind_without_a_handler_holds_no_other_ones_places_up,
    a_new_job_does_not_take_a_place_that_comes_free_in_its_batch_before_those_that_wait,
    participants_take_turns_for_the_places_of_a_limit,
    a_value_that_waits_costs_its_participant_no_turn,
    a_job_that_leaves_its_lane_as_it_becomes_a_parent_takes_its_own_turn,
    jobs_that_join_lanes_which_were_not_read_since_the_start_are_not_lost,
    jobs_that_wait_are_not_passed_after_a_start_when_there_are_places_for_them,
    a_participants_jobs_do_not_pass_each_other_after_a_start,
    a_heavy_job_that_is_gone_holds_no_light_ones_up,
    a_worker_goes_on_where_a_job_without_a_place_came_before_the_last_slot,
);

fn ids(jobs: &[std::sync::Arc<jobmill::job::Job>]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// Ends one running job after another, and returns the jobs in the order in which they started.
fn run_all(rig: &mut Rig) -> Vec<JobId> {
    let mut started: Vec<JobId> = rig.settle().iter().map(|claim| claim.job.id).collect();
    for _ in 0..1_000 {
        let running = rig.all_jobs().into_iter().find(|job| job.state.name() == StateName::Running);
        let Some(job) = running else { return started };
        let report = Report { id: job.id, lease: lease(&job), body: succeeded() };
        let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
        started.extend(claimed(&applied));
        started.extend(rig.settle().iter().map(|claim| claim.job.id));
    }
    panic!("the jobs do not end");
}

fn jobs_that_wait_for_the_same_place_start_in_the_order_of_their_queue(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(0));
    let priorities = [0, 7, 0, -3, 7, 0];
    let jobs = priorities.map(|priority| NewJob { priority, ..job("q", Rig::KIND) });
    let jobs = ids(&rig.submit_all(jobs.into()));
    assert_eq!(rig.settle().len(), 0);
    rig.overridden("few", "", LimitRule::Running(1));
    assert_eq!(run_all(rig), [1, 4, 0, 2, 5, 3].map(|index| jobs[index]));
}

fn a_more_urgent_job_that_comes_later_starts_first(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 30]));
    rig.settle();
    let urgent = rig.submit(NewJob { priority: 1, ..job("q", Rig::KIND) }).id;
    let report = Report { id: jobs[0], lease: lease(&rig.job(jobs[0])), body: succeeded() };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [urgent]);
}

fn a_new_job_does_not_pass_those_that_wait_for_the_same(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 3]));
    rig.settle();
    // The end of a job and a new one come in the same batch.
    let report = Report { id: jobs[0], lease: lease(&rig.job(jobs[0])), body: succeeded() };
    let offers = vec![crate::store::rig::offer(vec![job("q", Rig::KIND)])];
    let applied = rig.apply(Batch { reports: vec![report], offers, claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [jobs[1]]);
    let mut rest = run_all(rig);
    let last = rest.pop().unwrap();
    assert_eq!(rest, [jobs[2]]);
    assert!(last > jobs[2]);
}

fn jobs_wait_in_their_order_whatever_other_limits_they_are_under(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("few", all(0));
    rig.limited("each", by_tenant(5));
    let tenants = ["a", "b", "c", "a", "b", "c", "d"];
    let jobs = ids(&rig.submit_all(tenants.map(of).into()));
    rig.settle();
    rig.overridden("few", "", LimitRule::Running(1));
    assert_eq!(run_all(rig), jobs, "each tenant is a lane of its own, and the queue has one order");
}

fn a_heavy_job_is_not_passed_for_ever_by_light_ones(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("tokens", all(4));
    let light = ids(&rig.submit_all(vec![job("q", Rig::KIND); 4]));
    let heavy = rig.submit(heavy("tokens", 4, job("q", Rig::KIND))).id;
    let later = ids(&rig.submit_all(vec![job("q", Rig::KIND); 4]));
    rig.settle();
    for id in light {
        assert_ne!(rig.state(heavy), StateName::Running);
        let report = Report { id, lease: lease(&rig.job(id)), body: succeeded() };
        rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
        rig.settle();
    }
    assert_eq!(rig.state(heavy), StateName::Running);
    assert!(later.iter().all(|id| rig.state(*id) == StateName::Queued));
}

fn the_order_is_the_same_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(0));
    rig.limited("each", by_tenant(3));
    let tenants = ["a", "b", "a", "c", "b", "a"];
    let jobs = tenants.iter().zip([0, 5, 5, 0, 9, 0]);
    let jobs =
        ids(&rig.submit_all(jobs.map(|(tenant, priority)| NewJob { priority, ..of(tenant) }).collect()));
    rig.settle();
    rig.crash();
    assert_eq!(rig.settle().len(), 0);
    rig.overridden("few", "", LimitRule::Running(1));
    assert_eq!(run_all(rig), [4, 1, 2, 0, 3, 5].map(|index| jobs[index]));
}

fn a_paused_queue_holds_no_other_ones_places_up(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.queue("r", 5);
    rig.limited("few", all(1));
    let first = rig.submit(job("q", Rig::KIND)).id;
    rig.submit_all(vec![job("q", Rig::KIND); 3]);
    let other = rig.submit(job("r", Rig::KIND)).id;
    rig.settle();
    rig.control(Control::SetPaused { name: "q".into(), paused: true }).unwrap();
    let report = Report { id: first, lease: lease(&rig.job(first)), body: succeeded() };
    rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    rig.settle();
    assert_eq!(rig.state(other), StateName::Running);
}

fn a_kind_without_a_handler_holds_no_other_ones_places_up(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    let first = rig.submit(job("q", Rig::KIND)).id;
    rig.submit_all(vec![job("q", "unserved"); 3]);
    let other = rig.submit(job("q", Rig::KIND)).id;
    rig.settle();
    let report = Report { id: first, lease: lease(&rig.job(first)), body: succeeded() };
    rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    rig.settle();
    assert_eq!(rig.state(other), StateName::Running);
}

fn a_new_job_does_not_take_a_place_that_comes_free_in_its_batch_before_those_that_wait(rig: &mut Rig) {
    rig.queue("q", 5);
    rig.limited("few", all(1));
    rig.worker_with("a", &["far"], 1);
    let far = rig.submit(job("q", "far")).id;
    let waits = rig.submit(job("q", Rig::KIND)).id;
    rig.settle();
    assert_eq!([rig.state(far), rig.state(waits)], [StateName::Running, StateName::Queued]);
    // Another process takes the worker's place, which ends the attempt of the first one.
    let controls = vec![Control::RegisterWorker(hello("a", "2", &["far"]))];
    let offers = vec![crate::store::rig::offer(vec![job("q", "walk")])];
    let applied = rig.apply(Batch { controls, offers, claim: true, ..Batch::default() });
    let mut started = claimed(&applied);
    started.extend(rig.settle().iter().map(|claim| claim.job.id));
    assert_eq!(started, [waits]);
}

fn fair(consumers: u32) -> QueueSettings {
    QueueSettings { fair_by: Some("tenant".into()), ..settings(consumers, 10_000) }
}

fn participants_take_turns_for_the_places_of_a_limit(rig: &mut Rig) {
    rig.queue_with("q", fair(9));
    rig.limited("few", all(0));
    let mut jobs = vec![of("big"); 20];
    jobs.extend(vec![of("small"); 2]);
    rig.submit_all(jobs);
    rig.settle();
    rig.limit("few", LimitAction::SetOverride { value: String::new(), rule: LimitRule::Running(1) }).unwrap();
    let tenant = |rig: &Rig, id: JobId| Participant::of(&rig.job(id).spec.labels().unwrap()["tenant"]);
    let started: Vec<_> = run_all(rig).into_iter().take(4).map(|id| tenant(rig, id)).collect();
    assert_ne!(started[0], started[1]);
    assert_eq!(started[..2], started[2..], "a turn each");
}

fn a_value_that_waits_costs_its_participant_no_turn(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    rig.limited("each", all(1).by(LimitKey::Label("endpoint".into())));
    let to = |tenant: &str, endpoint: &str| {
        let mut job = NewJob { extras: labelled("tenant", tenant), ..job("q", Rig::KIND) };
        job.extras.get_or_insert_default().labels.insert("endpoint".into(), endpoint.into());
        job
    };
    let jobs = [to("a", "x"), to("a", "x"), to("a", "y"), to("b", "x"), to("b", "z")];
    let jobs = ids(&rig.submit_all(jobs.into()));
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(3) }).unwrap();
    rig.settle();
    let runs = |index: usize| rig.state(jobs[index]) == StateName::Running;
    let on_x = [0, 1, 3].into_iter().filter(|index| runs(*index)).count();
    assert_eq!((on_x, runs(2), runs(4)), (1, true, true));
}

fn a_job_that_leaves_its_lane_as_it_becomes_a_parent_takes_its_own_turn(rig: &mut Rig) {
    rig.queue_with("q", fair(9));
    rig.limited("few", all(1));
    let mut tenants = ["a", "b"];
    tenants.sort_unstable_by_key(|tenant| Participant::of(tenant));
    let [first, second] = tenants;
    let jobs = ids(&rig.submit_all(vec![of(first); 3]));
    let child = NewJob { depends_on: vec![Dependency::new(DependencyTarget::Job(jobs[1]))], ..of(second) };
    let report = Report { id: jobs[0], lease: lease(&rig.job(jobs[0])), body: succeeded() };
    let batch =
        Batch { reports: vec![report], offers: vec![offer(vec![child])], claim: true, ..Batch::default() };
    let applied = rig.apply(batch);
    assert_eq!(claimed(&applied), [jobs[1]]);
    let child = created(applied.offers.into_iter().next().unwrap())[0].id;
    rig.settle();
    assert_eq!(run_all(rig), [child, jobs[2]], "after the first one's turn comes the second one's");
}

fn jobs_that_join_lanes_which_were_not_read_since_the_start_are_not_lost(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    rig.limited("few", by_tenant(0));
    let jobs = || ["a", "b", "c", "d", "e", "f"].map(of).to_vec();
    rig.submit_all(jobs());
    rig.settle();
    rig.limit("few", LimitAction::Update { spec: by_tenant(9), etag: None }).unwrap();
    rig.crash();
    // New jobs are not sorted in the batch that changes limits.
    let change = LimitAction::SetOverride { value: "z".into(), rule: LimitRule::Running(1) };
    let controls = vec![
        Control::UpdateQueue { name: "q".into(), settings: fair(1) },
        Control::Limit { name: "few".into(), action: change },
    ];
    rig.apply(Batch { controls, offers: vec![offer(jobs())], claim: true, ..Batch::default() });
    assert_eq!(run_all(rig).len(), 12);
}

fn jobs_that_wait_are_not_passed_after_a_start_when_there_are_places_for_them(rig: &mut Rig) {
    rig.queue("q", 0);
    let limit = |max| LimitSpec { kinds: [Rig::KIND.to_owned()].into(), ..all(max) };
    rig.limited("few", limit(0));
    let jobs = [job("q", Rig::KIND), job("q", Rig::KIND), job("q", "walk")];
    let jobs = ids(&rig.submit_all(jobs.into()));
    rig.settle();
    rig.limit("few", LimitAction::Update { spec: limit(9), etag: None }).unwrap();
    rig.crash();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(2, 1_000) }).unwrap();
    rig.settle();
    let runs = |id: &JobId| rig.state(*id) == StateName::Running;
    assert_eq!(jobs.iter().map(runs).collect::<Vec<_>>(), [true, true, false]);
}

fn a_participants_jobs_do_not_pass_each_other_after_a_start(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    let limit = |max| LimitSpec { kinds: [Rig::KIND.to_owned()].into(), ..by_tenant(max) };
    rig.limited("few", limit(0));
    let waits = ids(&rig.submit_all(["a", "b", "c", "d", "e", "f"].map(of).to_vec()));
    let later = NewJob { extras: labelled("tenant", "a"), ..job("q", "walk") };
    let later = rig.submit(later).id;
    rig.settle();
    rig.overridden("few", "a", LimitRule::Running(9));
    rig.settle();
    rig.crash();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(1) }).unwrap();
    rig.settle();
    assert_eq!((rig.state(waits[0]), rig.state(later)), (StateName::Running, StateName::Queued));
}

fn a_heavy_job_that_is_gone_holds_no_light_ones_up(rig: &mut Rig) {
    rig.limited("few", all(3));
    for (queue, how) in ["cancelled", "deleted", "purged"].into_iter().enumerate() {
        let queue = format!("q{queue}");
        rig.queue(&queue, 9);
        let running = rig.submit(job(&queue, Rig::KIND));
        let heavy_one = rig.submit(heavy("few", 3, job(&queue, Rig::KIND))).id;
        rig.settle();
        let control = match how {
            "cancelled" => Control::Cancel(heavy_one),
            "deleted" => Control::Delete(heavy_one),
            _ => Control::Purge { name: queue.clone() },
        };
        rig.control(control).unwrap();
        let light = rig.submit(job(&queue, Rig::KIND)).id;
        rig.settle();
        assert_eq!(rig.state(light), StateName::Running, "{how}");
        for id in [running.id, light] {
            let job = rig.job(id);
            rig.report(&job, succeeded()).unwrap();
        }
    }
}

fn a_worker_goes_on_where_a_job_without_a_place_came_before_the_last_slot(rig: &mut Rig) {
    rig.queue("q", 0);
    let mut jobs = vec![of("a")];
    jobs.extend(vec![job("q", "walk"); 5]);
    jobs.push(job("q", Rig::KIND));
    let jobs = ids(&rig.submit_all(jobs));
    rig.limited("none", by_tenant(0));
    rig.settle();
    let worker = rig.worker("w", &[Rig::KIND]);
    rig.credit(worker.pool(0), 3);
    let control = Control::UpdateQueue { name: "q".into(), settings: settings(1, 1_000) };
    let applied = rig.apply(Batch { controls: vec![control], claim: true, ..Batch::default() });
    assert!(
        applied.more || rig.state(jobs[6]) == StateName::Running,
        "the last one waits for the next input"
    );
}
