//! The capacity of queues, and offers that wait for room.

use jobmill::{
    engine::{ControlRefusal, NewJob, OfferRefusal, QueueFull},
    job::{Job, StateName},
    settings::QueueSettings,
};

use crate::store::{
    batch::Control,
    batch::{Batch, Offer, Receipt, Report},
    build::{job, settings},
    rig::{Rig, created, failed, nowhere, offer, refused, succeeded},
};

both_stores!(
    a_queue_has_a_limit_of_jobs,
    a_queue_has_a_limit_of_bytes,
    labels_count_and_ended_jobs_do_not,
    offers_of_one_batch_share_the_room,
    an_offer_after_one_that_waits_waits_behind_it,
    an_offer_behind_waiting_ones_waits,
    an_offer_gets_in_whole_or_not_at_all,
    an_offer_over_several_queues_needs_room_in_each,
    an_offer_larger_than_the_queue_never_fits,
    a_retry_needs_room,
    an_offer_that_waited_gets_in_unchanged,
    an_offer_that_can_never_fit_any_more_holds_up_no_other,
    an_offer_for_several_queues_holds_up_none_that_has_room,
);

fn full(receipt: &Receipt) -> &QueueFull {
    match receipt {
        Receipt::Full(full) => full,
        other => panic!("not full: {other:?}"),
    }
}

fn outcomes(rig: &mut Rig, offers: Vec<Offer>) -> Vec<bool> {
    let applied = rig.apply(Batch { offers, claim: true, ..Batch::default() });
    applied.offers.iter().map(|receipt| matches!(receipt, Receipt::Created { .. })).collect()
}

fn a_queue_has_a_limit_of_jobs(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 2));
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2]);
    let receipt = rig.offer(offer(vec![job("q", Rig::KIND)]));
    assert_eq!((full(&receipt).jobs, full(&receipt).max_jobs), (2, 2));
    // A job that ends makes room even for an offer of the same batch.
    let report = Report { id: jobs[0].id, lease: crate::store::rig::lease(&jobs[0]), body: succeeded() };
    let applied = rig.apply(Batch {
        reports: vec![report],
        offers: vec![offer(vec![job("q", Rig::KIND)])],
        claim: true,
        ..Batch::default()
    });
    assert!(applied.room);
    assert!(matches!(applied.offers[0], Receipt::Created { .. }));
}

fn a_queue_has_a_limit_of_bytes(rig: &mut Rig) {
    let room = 3 * Job::FIXED_BYTES;
    rig.queue_with("q", QueueSettings { max_bytes: room, ..settings(0, 100) });
    let sized = |bytes: usize| NewJob { payload: vec![0; bytes].into(), ..job("q", Rig::KIND) };
    created(rig.offer(offer(vec![sized(100)])));
    let receipt = rig.offer(offer(vec![sized(157), sized(0)]));
    assert_eq!((full(&receipt).bytes, full(&receipt).max_bytes), (356, room));
    created(rig.offer(offer(vec![sized(156)])));
    assert!(matches!(rig.offer(offer(vec![sized(0)])), Receipt::Full(_)));
}

fn labels_count_and_ended_jobs_do_not(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { max_bytes: Job::FIXED_BYTES + 8, ..settings(0, 100) });
    let labelled = |value: &str| {
        let extras = crate::store::rig::labelled("key", value);
        offer(vec![NewJob { extras, ..job("q", Rig::KIND) }])
    };
    assert!(matches!(rig.offer(labelled("123456")), Receipt::Refused(OfferRefusal::LargerThanQueue { .. })));
    let first = created(rig.offer(labelled("12345"))).remove(0);
    assert!(matches!(rig.offer(offer(vec![job("q", Rig::KIND)])), Receipt::Full(_)));
    rig.control(Control::Cancel(first.id)).unwrap();
    created(rig.offer(labelled("12345")));
}

fn offers_of_one_batch_share_the_room(rig: &mut Rig) {
    rig.queue_with("a", settings(0, 3));
    rig.queue_with("b", settings(0, 1));
    let of = |queue: &str, count| offer(vec![job(queue, Rig::KIND); count]);
    let got = outcomes(rig, vec![of("a", 2), of("b", 1), of("a", 1), of("a", 1), of("b", 1)]);
    assert_eq!(got, [true, true, true, false, false]);
}

fn an_offer_after_one_that_waits_waits_behind_it(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 3));
    let of = |count| offer(vec![job("q", Rig::KIND); count]);
    // The last offer would fit, and would starve the one before it.
    assert_eq!(outcomes(rig, vec![of(2), of(2), of(1)]), [true, false, false]);
    assert_eq!(outcomes(rig, vec![of(1)]), [true]);
}

fn an_offer_behind_waiting_ones_waits(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 3));
    rig.queue_with("other", settings(0, 3));
    rig.submit_all(vec![job("q", Rig::KIND); 2]);
    let waiting = Offer { waits: true, ..offer(vec![job("q", Rig::KIND); 2]) };
    assert!(matches!(rig.offer(waiting), Receipt::Waits));
    let behind = offer(vec![job("q", Rig::KIND)]);
    let free = offer(vec![job("other", Rig::KIND)]);
    // After the first offer that must wait on, no other offer of the batch gets past it.
    let later = offer(vec![job("q", Rig::KIND)]);
    assert_eq!(outcomes(rig, vec![behind, free, later]), [false, true, false]);
}

fn an_offer_gets_in_whole_or_not_at_all(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 3));
    rig.submit(job("q", Rig::KIND));
    let end = rig.end();
    assert!(matches!(rig.offer(offer(vec![job("q", Rig::KIND); 3])), Receipt::Full(_)));
    let one_is_lost = offer(vec![job("q", Rig::KIND), job("nowhere", Rig::KIND)]);
    assert_eq!(refused(rig.offer(one_is_lost)), nowhere("nowhere", Some(1)));
    assert_eq!((rig.end(), rig.all_jobs().len()), (end, 1));
}

fn an_offer_over_several_queues_needs_room_in_each(rig: &mut Rig) {
    rig.queue_with("a", settings(0, 2));
    rig.queue_with("b", settings(0, 1));
    let both = || offer(vec![job("a", Rig::KIND), job("b", Rig::KIND)]);
    let jobs = created(rig.offer(both()));
    assert_eq!(jobs.iter().map(|job| job.spec.queue.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(full(&rig.offer(both())).queue, "b");
    // No room in `a` was reserved for the waiting offer.
    created(rig.offer(offer(vec![job("a", Rig::KIND)])));
}

fn an_offer_larger_than_the_queue_never_fits(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 2));
    let receipt = rig.offer(offer(vec![job("q", Rig::KIND); 3]));
    let Receipt::Refused(OfferRefusal::LargerThanQueue { jobs, max_jobs, .. }) = receipt else {
        panic!("{receipt:?}")
    };
    assert_eq!((jobs, max_jobs), (3, 2));
}

fn a_retry_needs_room(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 1));
    let first = rig.submit(job("q", Rig::KIND));
    rig.report(&first, failed(false, "")).unwrap();
    let blocker = rig.submit(job("q", Rig::KIND));
    let retry = Control::Retry { id: first.id, request: None };
    assert!(matches!(rig.control(retry.clone()), Err(ControlRefusal::QueueFull(_))));
    rig.report(&blocker, succeeded()).unwrap();
    rig.control(retry).unwrap();
    assert_eq!(rig.state(first.id), StateName::Running);
}

fn an_offer_that_waited_gets_in_unchanged(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    let blocker = rig.submit(job("q", Rig::KIND));
    let extras = crate::store::rig::labelled("key", "value");
    let asked = NewJob { priority: 7, extras: extras.clone(), payload: "x".into(), ..job("q", Rig::KIND) };
    let waiting = Offer { waits: true, ..offer(vec![asked]) };
    assert!(matches!(rig.offer(waiting), Receipt::Waits));
    rig.control(Control::Cancel(blocker.id)).unwrap();
    let Some(Receipt::Created { jobs }) = rig.tick().offers_that_waited.pop() else { panic!("not created") };
    let whole = rig.whole(jobs[0].id);
    assert_eq!((whole.job.spec.priority, &whole.job.spec.extras, &*whole.payload), (7, &extras, &b"x"[..]));
}

/// Returns the results of the waiting offers once the store has no more work.
fn settled(rig: &mut Rig) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for _ in 0..5 {
        receipts.extend(rig.tick().offers_that_waited);
    }
    receipts
}

fn waits(rig: &mut Rig, jobs: Vec<NewJob>) {
    let waiting = Offer { waits: true, ..offer(jobs) };
    assert!(matches!(rig.offer(waiting), Receipt::Waits));
}

fn an_offer_that_can_never_fit_any_more_holds_up_no_other(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 5));
    let blocker = rig.submit(job("q", Rig::KIND));
    waits(rig, vec![job("q", Rig::KIND); 5]);
    waits(rig, vec![job("q", Rig::KIND)]);
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(0, 2) };
    let mut receipts = Vec::new();
    for control in [update, Control::Cancel(blocker.id)] {
        let batch = Batch { controls: vec![control], claim: true, ..Batch::default() };
        receipts.extend(rig.apply(batch).offers_that_waited);
    }
    receipts.extend(settled(rig));
    let (refused, created): (Vec<_>, Vec<_>) =
        receipts.iter().partition(|receipt| matches!(receipt, Receipt::Refused(_)));
    assert!(matches!(refused[..], [Receipt::Refused(OfferRefusal::LargerThanQueue { .. })]), "{refused:?}");
    assert!(matches!(created[..], [Receipt::Created { .. }]), "{created:?}");
}

fn an_offer_for_several_queues_holds_up_none_that_has_room(rig: &mut Rig) {
    rig.queue_with("a", settings(0, 1));
    rig.queue_with("b", settings(0, 1));
    let (in_a, in_b) = (rig.submit(job("a", Rig::KIND)), rig.submit(job("b", Rig::KIND)));
    waits(rig, vec![job("a", Rig::KIND), job("b", Rig::KIND)]);
    waits(rig, vec![job("b", Rig::KIND)]);
    waits(rig, vec![job("b", Rig::KIND)]);
    // Both have room in one batch, and the offer that came first stands in the other queue's line.
    let controls = vec![Control::Cancel(in_a.id), Control::Cancel(in_b.id)];
    rig.apply(Batch { controls, claim: true, ..Batch::default() });
    let receipts = settled(rig);
    assert!(matches!(receipts[..], [Receipt::Created { .. }]), "one gets in at once: {receipts:?}");
}
