//! The order of the steps of a batch, and the order in which jobs get free slots.

use jobmill::{
    engine::NewJob,
    job::{Job, StateName},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{at, job, settings},
    rig::{Rig, claimed, failed, lease, offer, path, succeeded},
};

both_stores!(
    a_job_that_finds_a_slot_is_born_running,
    controls_come_before_reports_and_reports_before_offers_and_claims,
    a_slot_that_a_report_frees_is_taken_in_the_same_batch,
    older_jobs_come_first_among_equals,
    priority_comes_before_age,
    stored_and_new_jobs_are_claimed_in_one_order,
    kinds_without_handlers_never_stand_in_the_way,
    kinds_share_one_order_in_their_queue,
    slots_belong_to_their_queue,
    nothing_is_claimed_while_draining,
    due_jobs_go_straight_to_running_where_a_slot_is_free,
    due_jobs_are_promoted_by_their_times,
    promotion_goes_in_bounded_steps,
    a_failure_without_delay_runs_again_in_the_same_batch,
    the_next_due_time_is_told,
    a_large_payload_is_left_to_be_read,
);

fn a_job_that_finds_a_slot_is_born_running(rig: &mut Rig) {
    rig.queue("q", 1);
    let batch = Batch { offers: vec![offer(vec![job("q", Rig::KIND)])], claim: true, ..Batch::default() };
    let applied = rig.apply(batch);
    assert_eq!(applied.changes.len(), 1, "one insert, no update");
    let claim = &applied.claims[0];
    assert_eq!((claim.job.revision, claim.job.attempt, claim.job.started), (1, 1, Some(rig.now)));
    assert_eq!(claim.job.state.lease(), Some(claim.lease));
    assert_eq!(rig.job(claim.job.id), *claim.job);
}

fn controls_come_before_reports_and_reports_before_offers_and_claims(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let batch = Batch {
        controls: vec![Control::Cancel(running.id)],
        reports: vec![Report { id: running.id, lease: lease(&running), body: failed(true, "") }],
        offers: vec![offer(vec![job("q", Rig::KIND)])],
        claim: true,
        ..Batch::default()
    };
    let applied = rig.apply(batch);
    // The cancel was applied first, so that the failure causes no retry.
    assert_eq!(path(&applied, running.id), [StateName::Cancelling, StateName::Cancelled]);
    assert_eq!(applied.cancelling, [lease(&running)]);
    assert_eq!(claimed(&applied).len(), 1, "the freed slot goes to the new job");
    let positions: Vec<_> = applied.changes.iter().map(|change| change.id()).collect();
    assert_eq!(positions, [running.id, running.id, claimed(&applied)[0]]);
}

fn a_slot_that_a_report_frees_is_taken_in_the_same_batch(rig: &mut Rig) {
    rig.queue("q", 1);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND), job("q", Rig::KIND)]);
    let report = Report { id: jobs[0].id, lease: lease(&jobs[0]), body: succeeded() };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [jobs[1].id]);
    assert_eq!(path(&applied, jobs[1].id), [StateName::Running]);
}

fn older_jobs_come_first_among_equals(rig: &mut Rig) {
    rig.queue("q", 0);
    let old = rig.submit(job("q", Rig::KIND));
    let (other, new) = (rig.submit(job("q", "walk")), rig.submit(job("q", Rig::KIND)));
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(2, 10) }).unwrap();
    // A job that arrives together with free slots is still the last in line.
    assert_eq!(rig.state(old.id), StateName::Running);
    assert_eq!(rig.state(other.id), StateName::Running);
    assert_eq!(rig.state(new.id), StateName::Queued);
    let newest = rig.submit(job("q", Rig::KIND));
    let report = Report { id: old.id, lease: lease(&rig.job(old.id)), body: succeeded() };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [new.id]);
    assert_eq!(rig.state(newest.id), StateName::Queued);
}

fn priority_comes_before_age(rig: &mut Rig) {
    rig.queue("q", 0);
    let with = |priority| NewJob { priority, ..job("q", Rig::KIND) };
    let jobs = rig.submit_all([0, -100, 100, 5, 5, 0].map(with).into());
    let mut order = Vec::new();
    for consumers in 1..=6 {
        rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(consumers, 10) }).unwrap();
        let running =
            jobs.iter().position(|job| !order.contains(&job.id) && rig.state(job.id) == StateName::Running);
        order.push(jobs[running.unwrap()].id);
    }
    assert_eq!(order, [2, 3, 4, 0, 5, 1].map(|index: usize| jobs[index].id));
}

fn stored_and_new_jobs_are_claimed_in_one_order(rig: &mut Rig) {
    rig.queue("q", 0);
    let stored = rig.submit(job("q", Rig::KIND));
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(2, 10) };
    let urgent = NewJob { priority: 1, ..job("q", Rig::KIND) };
    let applied = rig.apply(Batch {
        controls: vec![update],
        offers: vec![offer(vec![job("q", Rig::KIND), urgent])],
        claim: true,
        ..Batch::default()
    });
    let jobs = rig.all_jobs();
    let states: Vec<_> = jobs.iter().map(|job| job.state.name()).collect();
    assert_eq!(jobs[0].id, stored.id);
    assert_eq!(states, [StateName::Running, StateName::Queued, StateName::Running]);
    assert_eq!(applied.claims.len(), 2);
}

fn kinds_without_handlers_never_stand_in_the_way(rig: &mut Rig) {
    rig.queue("q", 1);
    let nobody = NewJob { priority: 100, ..job("q", "nobody") };
    let jobs = rig.submit_all(vec![nobody.clone(), nobody.clone(), job("q", Rig::KIND), nobody]);
    assert_eq!(rig.state(jobs[2].id), StateName::Running);
    let report = Report { id: jobs[2].id, lease: lease(&jobs[2]), body: succeeded() };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert!(applied.claims.is_empty());
    // The next start has a handler for the kind.
    rig.setup.served_kinds.push("nobody".into());
    rig.crash();
    assert_eq!(claimed(&rig.tick()), [jobs[0].id]);
}

fn kinds_share_one_order_in_their_queue(rig: &mut Rig) {
    rig.queue("q", 0);
    let kinds = ["run", "walk", "walk", "run", "run", "walk"];
    let jobs = rig.submit_all(kinds.map(|kind| job("q", kind)).into());
    for consumers in 1..=6 {
        rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(consumers, 10) }).unwrap();
        let running = jobs.iter().map(|job| rig.state(job.id) == StateName::Running);
        let expected = (0..6).map(|index| index < consumers);
        assert!(running.eq(expected), "with {consumers} consumers");
    }
}

fn slots_belong_to_their_queue(rig: &mut Rig) {
    rig.queue("a", 1);
    rig.queue("b", 2);
    let jobs = rig.submit_all(["a", "a", "b", "b", "b"].map(|queue| job(queue, Rig::KIND)).into());
    let running: Vec<_> = jobs.iter().map(|job| job.state.name() == StateName::Running).collect();
    assert_eq!(running, [true, false, true, true, false]);
}

fn nothing_is_claimed_while_draining(rig: &mut Rig) {
    rig.queue("q", 5);
    let batch = Batch { offers: vec![offer(vec![job("q", Rig::KIND)])], claim: false, ..Batch::default() };
    assert!(rig.apply(batch).claims.is_empty());
    assert_eq!(rig.tick().claims.len(), 1);
}

fn due_jobs_go_straight_to_running_where_a_slot_is_free(rig: &mut Rig) {
    rig.queue("q", 1);
    let later = NewJob { run_time: Some(at(10).into()), ..job("q", Rig::KIND) };
    let jobs = rig.submit_all(vec![later.clone(), later]);
    assert!(jobs.iter().all(|job| job.state.name() == StateName::Scheduled));
    rig.until(at(9));
    assert!(rig.tick().changes.is_empty());
    rig.until(at(10));
    let applied = rig.tick();
    assert_eq!(path(&applied, jobs[0].id), [StateName::Running]);
    assert_eq!(path(&applied, jobs[1].id), [StateName::Queued]);
    assert_eq!((rig.job(jobs[0].id).revision, rig.job(jobs[1].id).revision), (2, 2));
}

fn due_jobs_are_promoted_by_their_times(rig: &mut Rig) {
    rig.queue("q", 0);
    let due = |seconds| NewJob { run_time: Some(at(seconds).into()), ..job("q", Rig::KIND) };
    let jobs = rig.submit_all([30, 10, 20, 10].map(due).into());
    rig.until(at(40));
    // The waiting jobs became ready before the new one arrived, though the new one has not waited either.
    let batch = Batch { offers: vec![offer(vec![job("q", Rig::KIND)])], claim: true, ..Batch::default() };
    let applied = rig.apply(batch);
    let order: Vec<_> = applied.changes.iter().map(|change| change.id()).collect();
    let newest = rig.all_jobs().last().unwrap().id;
    assert_eq!(order, [jobs[1].id, jobs[3].id, jobs[2].id, jobs[0].id, newest]);
}

fn promotion_goes_in_bounded_steps(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 5_000));
    let later = NewJob { run_time: Some(at(10).into()), ..job("q", Rig::KIND) };
    rig.submit_all(vec![later; 1_500]);
    rig.until(at(10));
    let first = rig.tick();
    assert_eq!((first.changes.len(), first.more), (1_000, true));
    let second = rig.tick();
    assert_eq!((second.changes.len(), second.more, rig.soon(&second)), (500, false, None));
}

fn a_failure_without_delay_runs_again_in_the_same_batch(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let mut body = failed(true, "");
    if let jobmill::engine::ReportBody::Failed { delay, .. } = &mut body {
        *delay = Some(std::time::Duration::ZERO);
    }
    let report = Report { id: running.id, lease: lease(&running), body };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert_eq!(path(&applied, running.id), [StateName::BackingOff, StateName::Running]);
    assert_eq!(applied.claims[0].job.attempt, 2);
    assert!(applied.claims[0].lease > lease(&running));
    assert_eq!((applied.more, rig.soon(&applied)), (false, None));
}

fn the_next_due_time_is_told(rig: &mut Rig) {
    rig.queue("q", 0);
    let due = |seconds| NewJob { run_time: Some(at(seconds).into()), ..job("q", Rig::KIND) };
    let jobs = rig.submit_all(vec![due(30), due(20)]);
    let applied = rig.tick();
    assert_eq!(rig.wake(&applied), Some(at(20)));
    rig.control(Control::Cancel(jobs[1].id)).unwrap();
    rig.until(at(20));
    // The wake-up was for a job that has been cancelled: there is nothing to do, and the next time is known again.
    let applied = rig.tick();
    assert_eq!((rig.wake(&applied), applied.more, applied.changes.len()), (Some(at(30)), false, 0));
    rig.crash();
    let applied = rig.tick();
    assert_eq!(rig.wake(&applied), Some(at(30)));
}

fn a_large_payload_is_left_to_be_read(rig: &mut Rig) {
    rig.queue("q", 0);
    for size in [0, 1, 255, 256, 257, 1 << 20] {
        let payload: bytes::Bytes = (0..size).map(|index| (index % 251) as u8).collect();
        let job = rig.submit(NewJob { payload: payload.clone(), ..job("q", Rig::KIND) });
        assert_eq!(rig.reader().payload(job.id).unwrap(), Some(payload.clone()), "{size} bytes");
        assert_eq!(rig.whole(job.id).payload, payload, "{size} bytes");
        assert_eq!(job.spec.bytes, size as u64 + Job::FIXED_BYTES);
    }
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(5, 10) }).unwrap();
    rig.crash();
    rig.pass(3600);
    for claim in rig.tick().claims {
        let whole = rig.whole(claim.job.id);
        // A claim carries the payload, or the payload can be read.
        assert_eq!(claim.payload.unwrap_or_else(|| whole.payload.clone()), whole.payload);
    }
}
