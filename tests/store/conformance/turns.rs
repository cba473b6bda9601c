//! Fair queues: the values of a label take turns.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, Participant, StateName},
    settings::QueueSettings,
};

use crate::store::{
    batch::{Batch, Control, Offer, Receipt, Report},
    build::{at, job, settings},
    rig::{Rig, claimed, failed, labelled, lease, offer, succeeded},
    workers::{assigned, hello, pool},
};

both_stores!(
    a_value_with_a_single_job_starts_within_one_turn,
    each_value_gets_a_slot_before_any_gets_a_second,
    slots_that_the_values_of_a_turn_do_not_fill_go_round_again,
    the_priority_counts_among_the_jobs_of_one_value,
    jobs_without_the_label_take_turns_as_one_value,
    a_new_job_starts_at_once_only_where_its_value_is_next,
    the_kinds_of_a_queue_share_its_turns,
    a_value_without_a_handler_for_its_jobs_holds_up_none,
    credits_of_workers_go_round_too,
    a_turn_that_a_job_of_another_kind_takes_passes_the_slot_on,
    retried_due_and_released_jobs_take_turns,
    turns_go_on_behind_the_last_one_after_a_crash,
    ready_jobs_take_part_by_the_label_that_a_queue_gets,
    ready_jobs_take_part_by_the_label_after_a_crash_in_between,
    ready_jobs_of_a_queue_that_is_fair_no_more_run_in_their_order,
    a_change_of_the_label_while_jobs_take_part_anew_counts,
    a_ready_job_that_is_updated_while_jobs_take_part_anew_takes_part,
    a_ready_job_that_gets_another_priority_during_the_change_is_not_forgotten,
    a_purge_deletes_the_jobs_of_every_value,
    callers_who_wait_for_room_take_turns,
    a_queue_that_is_made_again_begins_with_new_turns,
    a_queue_of_the_file_is_fair_by_the_file,
);

fn fair(consumers: u32) -> QueueSettings {
    QueueSettings { fair_by: Some("tenant".into()), ..settings(consumers, 10_000) }
}

fn of(tenant: &str) -> NewJob {
    NewJob { extras: labelled("tenant", tenant), ..job("q", Rig::KIND) }
}

/// Submits jobs of a tenant.
fn submit(rig: &mut Rig, tenant: &str, count: usize) -> Vec<JobId> {
    rig.submit_all(vec![of(tenant); count]).iter().map(|job| job.id).collect()
}

fn tenant(job: &Job) -> String {
    job.spec.labels().and_then(|labels| labels.get("tenant")).cloned().unwrap_or_default()
}

/// Returns the tenants in the order of their turns, the one after `last` first.
fn in_order<'t>(tenants: &[&'t str], last: Option<&str>) -> Vec<&'t str> {
    let number = |tenant: &str| if tenant.is_empty() { Participant::NONE } else { Participant::of(tenant) };
    let last = last.map_or(Participant::NONE, number);
    let mut tenants = tenants.to_vec();
    tenants.sort_by_key(|tenant| (number(tenant) <= last, number(tenant)));
    tenants
}

/// Lets the queue start one job after another, each to its end, and returns their tenants.
fn run(rig: &mut Rig, count: usize) -> Vec<String> {
    run_jobs(rig, count).iter().map(|job| tenant(job)).collect()
}

fn run_jobs(rig: &mut Rig, count: usize) -> Vec<Arc<Job>> {
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(1) }).unwrap();
    run_on(rig, count)
}

fn run_on(rig: &mut Rig, count: usize) -> Vec<Arc<Job>> {
    let mut ran = Vec::new();
    for _ in 0..count {
        let running = rig.all_jobs().into_iter().find(|job| job.state.name() == StateName::Running);
        let Some(job) = running else { break };
        let report = Report { id: job.id, lease: lease(&job), body: succeeded() };
        ran.push(job);
        rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    }
    ran
}

fn a_value_with_a_single_job_starts_within_one_turn(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "big", 1_500);
    let single = submit(rig, "small", 1);
    let started = run_jobs(rig, 2);
    assert!(started.iter().any(|job| job.id == single[0]), "{started:?}");
}

fn each_value_gets_a_slot_before_any_gets_a_second(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    for (tenant, count) in [("a", 5), ("b", 2), ("c", 1)] {
        submit(rig, tenant, count);
    }
    let [x, y, z] = in_order(&["a", "b", "c"], None)[..] else { unreachable!() };
    let turn = [x, y, z];
    let left = BTreeMap::from([("a", 5), ("b", 2), ("c", 1)]);
    let expected: Vec<&str> = (1..=5)
        .flat_map(|round| turn.into_iter().filter(move |_| round > 0).map(move |t| (round, t)))
        .filter(|(round, t)| left[t] >= *round)
        .map(|(_, t)| t)
        .collect();
    assert_eq!(run(rig, 99), expected);
}

fn slots_that_the_values_of_a_turn_do_not_fill_go_round_again(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    for (tenant, count) in [("a", 50), ("b", 2), ("c", 1)] {
        submit(rig, tenant, count);
    }
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(20) }).unwrap();
    let mut running: BTreeMap<String, usize> = BTreeMap::new();
    for job in rig.all_jobs().iter().filter(|job| job.state.name() == StateName::Running) {
        *running.entry(tenant(job)).or_default() += 1;
    }
    assert_eq!(running, [("a".into(), 17), ("b".into(), 2), ("c".into(), 1)].into());
}

fn the_priority_counts_among_the_jobs_of_one_value(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "a", 2);
    submit(rig, "b", 2);
    let urgent = rig.submit(NewJob { priority: 50, ..of("b") });
    let ran = run_jobs(rig, 5);
    let mine: Vec<_> = ran.iter().filter(|job| tenant(job) == "b").map(|job| job.id).collect();
    assert_eq!(mine[0], urgent.id);
    let turns: Vec<_> = ran.iter().map(|job| tenant(job)).collect();
    let [x, y] = in_order(&["a", "b"], None)[..] else { unreachable!() };
    assert_eq!(turns[..4], [x, y, x, y], "and no priority gets two turns");
}

fn jobs_without_the_label_take_turns_as_one_value(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "a", 2);
    rig.submit_all(vec![job("q", Rig::KIND); 2]);
    let other = NewJob { extras: labelled("region", "a"), ..job("q", Rig::KIND) };
    rig.submit(other);
    let [x, y] = in_order(&["a", ""], None)[..] else { unreachable!() };
    assert_eq!(run(rig, 99), [x, y, x, y, ""]);
}

fn a_new_job_starts_at_once_only_where_its_value_is_next(rig: &mut Rig) {
    rig.queue_with("q", fair(1));
    let first = rig.submit(of("a"));
    assert_eq!(rig.state(first.id), StateName::Running);
    let waiting = submit(rig, "b", 1)[0];
    let report = Report { id: first.id, lease: lease(&first), body: succeeded() };
    let urgent = NewJob { priority: 100, ..of("a") };
    let applied = rig.apply(Batch {
        reports: vec![report],
        offers: vec![offer(vec![urgent])],
        claim: true,
        ..Batch::default()
    });
    assert_eq!(claimed(&applied), [waiting]);
}

fn the_kinds_of_a_queue_share_its_turns(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "a", 3);
    rig.submit_all(vec![NewJob { kind: "walk".into(), ..of("a") }; 3]);
    rig.submit(NewJob { kind: "walk".into(), ..of("b") });
    let [x, y] = in_order(&["a", "b"], None)[..] else { unreachable!() };
    assert_eq!(run(rig, 3), [x, y, "a"]);
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(99) }).unwrap();
    assert_eq!(rig.all_jobs().iter().filter(|job| job.state.name() == StateName::Queued).count(), 0);
}

fn a_value_without_a_handler_for_its_jobs_holds_up_none(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    rig.submit_all(vec![NewJob { kind: "far".into(), ..of("a") }; 3]);
    submit(rig, "b", 2);
    assert_eq!(run(rig, 99), ["b", "b"]);
}

fn credits_of_workers_go_round_too(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    rig.submit_all(vec![NewJob { kind: "far".into(), ..of("a") }; 30]);
    rig.submit_all(vec![NewJob { kind: "far".into(), ..of("b") }; 3]);
    let worker = rig.worker_with("w", &["far"], 4);
    let applied = rig.tick();
    let tenants: Vec<_> = assigned(&applied).iter().map(|id| tenant(&rig.job(*id))).collect();
    let [x, y] = in_order(&["a", "b"], None)[..] else { unreachable!() };
    assert_eq!(tenants, [x, y, x, y]);
    rig.credit(worker.pool(0), 3);
    let tenants: Vec<_> = assigned(&rig.tick()).iter().map(|id| tenant(&rig.job(*id))).collect();
    assert_eq!(tenants.iter().filter(|tenant| *tenant == "b").count(), 1, "it has no more");
}

fn a_turn_that_a_job_of_another_kind_takes_passes_the_slot_on(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    let [x, y, z] = in_order(&["a", "b", "c"], None)[..] else { unreachable!() };
    let near = |tenant| NewJob { kind: "near".into(), ..of(tenant) };
    let far = |tenant, priority| NewJob { kind: "far".into(), priority, ..of(tenant) };
    // Two slots are for either kind, and two for `far` only.
    rig.submit_all(vec![near(x), far(x, 0), far(x, 0), near(y), near(y), far(y, 1), far(y, 1), near(z)]);
    let pools = vec![pool(&["far"], &[]), pool(&["far", "near"], &[])];
    let registered = rig.register(hello("w", "1", &["far", "near"])).unwrap();
    let worker = rig.open(&registered.worker, pools, u64::MAX >> 1);
    rig.credit(worker.pool(0), 2);
    rig.credit(worker.pool(1), 2);
    let tenants: Vec<_> = assigned(&rig.tick()).iter().map(|id| tenant(&rig.job(*id))).collect();
    assert_eq!(tenants.iter().filter(|tenant| *tenant == z).count(), 1, "{tenants:?}");
}

fn retried_due_and_released_jobs_take_turns(rig: &mut Rig) {
    rig.queue_with("q", fair(2));
    let (failing, released) = (rig.submit(of("b")), rig.submit(of("c")));
    submit(rig, "a", 9);
    let later = rig.submit(NewJob { run_time: Some(at(30).into()), ..of("d") });
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(0) }).unwrap();
    rig.report(&failing, failed(true, "")).unwrap();
    rig.report(&released, ReportBody::Released { delay: None }).unwrap();
    rig.until(at(60));
    rig.settle();
    let first: Vec<_> = run_jobs(rig, 4).iter().map(|job| job.id).collect();
    for id in [failing.id, released.id, later.id] {
        assert!(first.contains(&id), "{first:?}");
    }
}

fn turns_go_on_behind_the_last_one_after_a_crash(rig: &mut Rig) {
    let tenants = ["a", "b", "c", "d", "e"];
    rig.queue_with("q", fair(0));
    for tenant in tenants {
        submit(rig, tenant, 2);
    }
    let before = run(rig, 2);
    assert_eq!(before, in_order(&tenants, None)[..2]);
    // The third one runs, and its attempt is lost.
    rig.crash();
    rig.settle();
    assert_eq!(run(rig, 3), [&in_order(&tenants, None)[3..], &in_order(&tenants, None)[..1]].concat());
}

fn plain(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 10_000));
    submit(rig, "big", 700);
    submit(rig, "small", 1);
}

fn ready_jobs_take_part_by_the_label_that_a_queue_gets(rig: &mut Rig) {
    plain(rig);
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(0) }).unwrap();
    assert!(rig.tick().more, "it takes several batches");
    rig.settle();
    assert!(run(rig, 2).contains(&"small".to_owned()));
}

fn ready_jobs_take_part_by_the_label_after_a_crash_in_between(rig: &mut Rig) {
    plain(rig);
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(0) }).unwrap();
    rig.tick();
    rig.crash();
    rig.settle();
    assert!(run(rig, 2).contains(&"small".to_owned()));
}

fn ready_jobs_of_a_queue_that_is_fair_no_more_run_in_their_order(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    let mut all = Vec::new();
    for _ in 0..150 {
        all.extend(["a", "b", "c"].into_iter().flat_map(|tenant| submit(rig, tenant, 1)));
    }
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 10_000) }).unwrap();
    rig.settle();
    let urgent = rig.submit(NewJob { priority: 1, ..of("b") }).id;
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10_000) }).unwrap();
    let ran: Vec<_> = run_on(rig, 5).iter().map(|job| job.id).collect();
    assert_eq!(ran, [&[urgent], &all[..4]].concat());
}

fn a_change_of_the_label_while_jobs_take_part_anew_counts(rig: &mut Rig) {
    plain(rig);
    let by_region = QueueSettings { fair_by: Some("region".into()), ..settings(0, 10_000) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: by_region }).unwrap();
    rig.tick();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(0) }).unwrap();
    rig.settle();
    assert!(run(rig, 2).contains(&"small".to_owned()));
}

fn a_ready_job_that_is_updated_while_jobs_take_part_anew_takes_part(rig: &mut Rig) {
    plain(rig);
    let urgent = jobmill::job::JobUpdate { priority: Some(Some(-5)), ..Default::default() };
    let all = rig.all_jobs();
    let small = all.iter().find(|job| tenant(job) == "small").unwrap().id;
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair(0) }).unwrap();
    loop {
        let update = Control::Update(small, Box::new(urgent.clone()));
        let applied = rig.apply(Batch { controls: vec![update], claim: true, ..Batch::default() });
        if !applied.more {
            break;
        }
    }
    assert!(run(rig, 2).contains(&"small".to_owned()));
}

fn a_ready_job_that_gets_another_priority_during_the_change_is_not_forgotten(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "big", 700);
    let late = rig.submit(NewJob { priority: -5, ..of("big") }).id;
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 10_000) }).unwrap();
    assert!(rig.tick().more, "the walk has begun, and the job is behind it");
    let urgent = jobmill::job::JobUpdate { priority: Some(Some(5)), ..Default::default() };
    rig.control(Control::Update(late, Box::new(urgent))).unwrap();
    rig.settle();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10_000) }).unwrap();
    assert_eq!(run_on(rig, 1)[0].id, late);
}

fn a_purge_deletes_the_jobs_of_every_value(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    for tenant in ["a", "b", "c", "d"] {
        submit(rig, tenant, 400);
    }
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    rig.settle();
    assert!(rig.all_jobs().is_empty());
}

fn callers_who_wait_for_room_take_turns(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { max_jobs: 1, ..fair(0) });
    let mut last = rig.submit(of("a")).id;
    let mut waits = |tenant: &str| {
        let waiting = Offer { waits: true, ..offer(vec![of(tenant)]) };
        assert!(matches!(rig.offer(waiting), Receipt::Waits));
    };
    for tenant in ["a", "a", "a", "b", "c"] {
        waits(tenant);
    }
    let mut entered = Vec::new();
    for _ in 0..5 {
        rig.control(Control::Cancel(last)).unwrap();
        let Some(Receipt::Created { jobs }) = rig.tick().offers_that_waited.pop() else {
            panic!("not created")
        };
        last = jobs[0].id;
        entered.push(tenant(&rig.job(last)));
    }
    let mut expected = in_order(&["a", "b", "c"], None);
    expected.extend(["a", "a"]);
    assert_eq!(entered, expected);
}

fn a_queue_that_is_made_again_begins_with_new_turns(rig: &mut Rig) {
    rig.queue_with("q", fair(0));
    submit(rig, "a", 1);
    let [first] = run_jobs(rig, 9)[..].iter().map(|job| job.id).collect::<Vec<_>>()[..] else {
        panic!("one ran")
    };
    rig.control(Control::Delete(first)).unwrap();
    rig.control(Control::DeleteQueue { name: "q".into() }).unwrap();
    rig.queue_with("q", settings(0, 10_000));
    let ids = [submit(rig, "a", 1), submit(rig, "a", 1), submit(rig, "b", 1)].concat();
    rig.crash();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10_000) }).unwrap();
    let ran: Vec<_> = run_on(rig, 3).iter().map(|job| job.id).collect();
    assert_eq!(ran, ids);
}

fn a_queue_of_the_file_is_fair_by_the_file(rig: &mut Rig) {
    plain(rig);
    rig.setup.declared_queues.insert("q".to_owned(), fair(1));
    rig.pass(Duration::from_secs(1).as_secs());
    rig.crash();
    rig.settle();
    assert!(run_on(rig, 2).iter().any(|job| tenant(job) == "small"));
}
