//! Instants that can't be accepted at once: the queue has no room, or is gone, or no handler is there.

use jobmill::{
    engine::ScheduleAction,
    job::{JobDraft, StateName},
    settings::{Late, Overlap, QueueSettings, ScheduleSettings},
    store::Space,
};

use crate::store::{
    batch::{Batch, Control},
    build::{at, job, present, settings},
    rig::{Rig, offer, succeeded},
    schedules::{all, catching_up, control, every, overlapping, told, whole},
};

both_stores!(
    an_instant_waits_for_room_while_its_window_lasts_and_the_schedule_says_why,
    an_instant_without_room_in_time_is_counted,
    an_instant_has_its_turn_among_the_callers_that_wait,
    a_slow_queue_holds_no_other_back,
    when_room_comes_the_newest_instant_runs,
    when_room_comes_all_run_with_all,
    an_instant_waits_for_a_queue_that_is_gone,
    an_instant_waits_for_a_kind_that_is_gone,
    an_instant_waits_for_a_worker_that_serves_its_kind,
    a_paused_queue_takes_the_instants_job,
    an_instant_waits_for_disk_space,
    a_stopping_server_leaves_instants_to_the_next_one,
    a_wait_for_room_survives_a_crash,
    a_schedule_that_waits_and_is_changed_leaves_its_place,
    an_instant_that_waits_for_room_runs_in_the_queue_that_its_schedule_gets,
    a_thousand_instants_of_one_second_run_in_bounded_batches,
    large_payloads_share_batches_fairly,
);

fn one_slot() -> QueueSettings {
    QueueSettings { max_waiters: 0, ..settings(1, 1) }
}

fn an_instant_waits_for_room_while_its_window_lasts_and_the_schedule_says_why(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(catching_up(15, every(10)));
    assert_eq!(rig.comes(10), Vec::<i64>::new());
    let waits = rig.info().run.waits.expect("a wait");
    assert!(waits.reason.contains("the queue `q` is full"), "{waits:?}");
    assert_eq!((waits.instant, waits.since), (at(10), at(10)));
    let applied = rig.tick();
    assert_eq!((applied.more, rig.soon(&applied)), (false, Some(at(20))));
    rig.until(at(15));
    rig.report(&first, succeeded()).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    assert_eq!(rig.info().run.waits, None);
}

fn an_instant_without_room_in_time_is_counted(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(catching_up(15, every(100)));
    rig.comes(100);
    rig.until(at(115));
    rig.settle();
    assert_eq!(told(rig.info().run.counts.no_room), (0, 0));
    rig.pass(1);
    rig.settle();
    assert_eq!(told(rig.info().run.counts.no_room), (1, 100));
    assert_eq!(rig.info().run.waits, None);
    rig.report(&first, succeeded()).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), Vec::<i64>::new());
    assert_eq!(rig.comes(200), [200]);
}

fn an_instant_has_its_turn_among_the_callers_that_wait(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 1));
    let first = rig.submit(job("q", Rig::KIND));
    let waits = || crate::store::batch::Offer { waits: true, ..offer(vec![job("q", Rig::KIND)]) };
    rig.schedule(every(10));
    rig.apply(Batch { offers: vec![waits()], claim: true, ..Batch::default() });
    rig.comes(10);
    rig.apply(Batch { offers: vec![waits()], claim: true, ..Batch::default() });
    let mut order = Vec::new();
    let mut running = first.id;
    for _ in 0..3 {
        rig.report(&rig.job(running), succeeded()).unwrap();
        rig.settle();
        let next = rig.all_jobs().into_iter().find(|job| job.state.name() == StateName::Running).unwrap();
        order.push(next.spec.schedule().is_some());
        running = next.id;
    }
    assert_eq!(order, [false, true, false], "first come, first served");
}

fn a_slow_queue_holds_no_other_back(rig: &mut Rig) {
    rig.queue_with("slow", one_slot());
    rig.queue("q", 1_000);
    rig.submit(job("slow", Rig::KIND));
    let slow = ScheduleSettings { job: JobDraft { queue: "slow".into(), ..every(10).job }, ..every(10) };
    let create = |name: String, settings: &ScheduleSettings| {
        control(&name, ScheduleAction::Create(Box::new(settings.clone())))
    };
    let slow: Vec<_> = (0..300).map(|index| create(format!("a{index}"), &slow)).collect();
    rig.apply(Batch { controls: slow, ..Batch::default() });
    rig.schedule(every(10));
    assert_eq!(rig.comes(10), [10]);
    // And what waits costs nothing until there is room.
    let applied = rig.tick();
    assert_eq!((applied.more, rig.soon(&applied)), (false, Some(at(20))));
}

fn when_room_comes_the_newest_instant_runs(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(every(10));
    for second in [10, 20, 30] {
        rig.comes(second);
    }
    rig.until(at(35));
    rig.report(&first, succeeded()).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [30]);
    assert_eq!(told(rig.info().run.counts.no_room), (2, 20), "those before it had no room in time");
}

fn when_room_comes_all_run_with_all(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(all(every(10)));
    rig.comes(10);
    rig.comes(25);
    rig.report(&first, succeeded()).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    rig.ends_one();
    assert_eq!(rig.instants(), [10, 20]);
}

fn an_instant_waits_for_a_queue_that_is_gone(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.control(Control::DeleteQueue { name: "q".into() }).unwrap();
    assert_eq!(rig.comes(10), Vec::<i64>::new());
    let waits = rig.info().run.waits.expect("a wait");
    assert!(waits.reason.contains("no queue is named `q`"), "{waits:?}");
    rig.until(at(14));
    rig.queue("q", 1);
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    assert_eq!(rig.info().run.waits, None);
}

fn an_instant_waits_for_a_kind_that_is_gone(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { accept_unknown_kinds: false, ..settings(1, 10) });
    rig.schedule(catching_up(60, every(100)));
    let kinds = std::mem::take(&mut rig.setup.schedules.kinds);
    rig.crash();
    assert_eq!(rig.comes(100), Vec::<i64>::new());
    let waits = rig.info().run.waits.expect("a wait");
    assert!(waits.reason.contains("the kind `run`"), "{waits:?}");
    rig.setup.schedules.kinds = kinds;
    rig.until(at(130));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [100]);
}

fn an_instant_waits_for_a_worker_that_serves_its_kind(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { accept_unknown_kinds: true, ..settings(1, 10) });
    let far = JobDraft { kind: "far".into(), ..every(10).job };
    rig.schedule(ScheduleSettings { job: far, ..every(10) });
    let settings = QueueSettings { accept_unknown_kinds: false, ..settings(1, 10) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings }).unwrap();
    assert_eq!(rig.comes(10), Vec::<i64>::new());
    rig.worker("worker", &["far"]);
    rig.settle();
    assert_eq!(rig.instants(), [10]);
}

fn a_paused_queue_takes_the_instants_job(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.control(Control::SetPaused { name: "q".into(), paused: true }).unwrap();
    assert_eq!(rig.comes(10), [10]);
    assert_eq!(rig.scheduled()[0].state.name(), StateName::Queued);
}

fn an_instant_waits_for_disk_space(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.until(at(10));
    for space in [Space::Low, Space::Full] {
        let applied = rig.apply(Batch { claim: true, space, ..Batch::default() });
        assert_eq!((applied.more, rig.instants()), (false, vec![]));
        assert!(rig.soon(&applied) > Some(at(10)), "it is tried again, and not at once");
    }
    rig.pass(6);
    rig.settle();
    assert_eq!(rig.instants(), [10]);
}

fn a_stopping_server_leaves_instants_to_the_next_one(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.until(at(10));
    let applied = rig.apply(Batch { claim: false, ..Batch::default() });
    assert_eq!((applied.more, rig.instants()), (false, vec![]));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
}

fn a_wait_for_room_survives_a_crash(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { max_jobs: 1, ..settings(0, 1) });
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(catching_up(60, every(100)));
    rig.comes(100);
    let since = rig.info().run.waits.unwrap().since;
    rig.crash();
    rig.until(at(110));
    rig.settle();
    assert_eq!(rig.info().run.waits.map(|waits| waits.since), Some(since));
    rig.control(Control::Cancel(first.id)).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [100]);
}

fn a_schedule_that_waits_and_is_changed_leaves_its_place(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    rig.queue("other", 1);
    let first = rig.submit(job("q", Rig::KIND));
    rig.schedule(every(10));
    rig.comes(10);
    let waits = crate::store::batch::Offer { waits: true, ..offer(vec![job("q", Rig::KIND)]) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 1) }).unwrap();
    rig.apply(Batch { offers: vec![waits], claim: true, ..Batch::default() });
    rig.change("s", ScheduleAction::Delete).unwrap();
    rig.report(&first, succeeded()).unwrap();
    rig.settle();
    let running: Vec<_> =
        rig.all_jobs().into_iter().filter(|job| job.state.name() == StateName::Running).collect();
    assert_eq!((running.len(), rig.instants()), (1, vec![]), "the next in line has the room");
}

fn an_instant_that_waits_for_room_runs_in_the_queue_that_its_schedule_gets(rig: &mut Rig) {
    rig.queue_with("q", one_slot());
    rig.queue("other", 5);
    rig.submit(job("q", Rig::KIND));
    rig.schedule(all(every(10)));
    rig.comes(30);
    assert_eq!((rig.instants(), rig.info().run.waits.unwrap().instant), (vec![], at(10)));
    let job = JobDraft { queue: "other".into(), ..every(10).job };
    rig.change("s", whole(ScheduleSettings { job, ..all(every(10)) })).unwrap();
    rig.settle();
    assert_eq!((rig.instants(), rig.info().run.waits), (vec![10, 20, 30], None));
    // Room in the former queue is nothing to it, and the place there is free.
    rig.comes(40);
    let waits =
        crate::store::batch::Offer { waits: true, ..offer(vec![crate::store::build::job("q", Rig::KIND)]) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 2) }).unwrap();
    rig.apply(Batch { offers: vec![waits], claim: true, ..Batch::default() });
    rig.settle();
    assert_eq!(rig.instants(), [10, 20, 30, 40]);
    assert_eq!(rig.all_jobs().iter().filter(|job| job.spec.queue.as_str() == "q").count(), 2);
}

fn a_thousand_instants_of_one_second_run_in_bounded_batches(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 100_000));
    let create = |index| control(&format!("s{index:04}"), ScheduleAction::Create(Box::new(every(10))));
    rig.apply(Batch { controls: (0..1_000).map(create).collect(), ..Batch::default() });
    rig.until(at(10));
    let mut sizes = Vec::new();
    loop {
        let applied = rig.tick();
        sizes.push(applied.changes.len());
        if !applied.more {
            break;
        }
    }
    assert_eq!((rig.instants().len(), sizes.iter().max()), (1_000, Some(&128)));
    // A caller gets in between.
    assert!(sizes.len() >= 8, "{sizes:?}");
}

fn large_payloads_share_batches_fairly(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 100_000));
    let payload = bytes::Bytes::from(vec![7; 600 << 10]);
    let large = ScheduleSettings { job: JobDraft { payload, ..every(10).job }, ..every(10) };
    for index in 0..6 {
        let name = format!("large{index}");
        rig.change(&name, ScheduleAction::Create(Box::new(large.clone()))).unwrap();
    }
    rig.until(at(10));
    let mut sizes = Vec::new();
    while rig.instants().len() < 6 {
        sizes.push(rig.tick().changes.len());
    }
    assert_eq!(sizes, [2, 2, 2]);
    assert_eq!(overlapping(Overlap::Skip, every(1)).late, Late::Latest);
    assert_eq!(present(0).wall, at(0));
}
