//! Request ids: a repeat gets the same jobs for as long as any of them exists, and for a day longer.

use std::sync::Arc;

use jobmill::{
    engine::{ControlRefusal, OfferRefusal},
    job::{Job, StateName},
};

use crate::store::{
    batch::Control,
    batch::{Batch, ControlDone, Offer, Receipt},
    build::{job, request, requested, settings},
    rig::{Rig, created, failed, nowhere, refused, succeeded},
};

both_stores!(
    a_repeat_gets_the_same_job_as_it_is_now,
    the_same_id_with_another_request_is_refused,
    a_batch_is_repeated_as_a_whole,
    a_repeat_in_the_same_batch_gets_the_job_that_is_being_made,
    a_repeat_gets_its_job_from_a_full_queue_too,
    a_refused_offer_leaves_no_request_behind,
    a_repeat_after_deletion_is_told_so_for_a_day,
    a_batch_is_remembered_until_its_last_job_is_gone,
    a_request_survives_a_crash,
    a_repeated_retry_happens_once,
    request_ids_may_be_uuids_or_any_text,
);

fn seen(receipt: Receipt) -> (Arc<Job>, u32) {
    match receipt {
        Receipt::Seen { first, count } => (first, count),
        other => panic!("not seen: {other:?}"),
    }
}

const DAY: u64 = 24 * 3600;

fn a_repeat_gets_the_same_job_as_it_is_now(rig: &mut Rig) {
    rig.queue("q", 1);
    let ask = || requested("r", "one", vec![job("q", Rig::KIND)]);
    let first = created(rig.offer(ask())).remove(0);
    assert_eq!(seen(rig.offer(ask())), (Arc::clone(&first), 1));
    rig.report(&first, succeeded()).unwrap();
    let (again, _) = seen(rig.offer(ask()));
    assert_eq!((again.id, again.state.name()), (first.id, StateName::Succeeded));
    assert_eq!(rig.all_jobs().len(), 1);
}

fn the_same_id_with_another_request_is_refused(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.offer(requested("r", "one", vec![job("q", Rig::KIND)]));
    let end = rig.end();
    let other = rig.offer(requested("r", "two", vec![job("q", Rig::KIND)]));
    assert_eq!(refused(other), OfferRefusal::RequestMismatch);
    assert_eq!(rig.end(), end);
}

fn a_batch_is_repeated_as_a_whole(rig: &mut Rig) {
    rig.queue("q", 1);
    let ask = || requested("r", "three", vec![job("q", Rig::KIND); 3]);
    let jobs = created(rig.offer(ask()));
    let (first, count) = seen(rig.offer(ask()));
    assert_eq!((first.id, count), (jobs[0].id, 3));
    let after: Vec<_> = rig.all_jobs().iter().map(|job| job.id).collect();
    assert_eq!(after, jobs.iter().map(|job| job.id).collect::<Vec<_>>());
}

fn a_repeat_in_the_same_batch_gets_the_job_that_is_being_made(rig: &mut Rig) {
    rig.queue("q", 1);
    let offers = ["one", "one", "two"].map(|said| requested("r", said, vec![job("q", Rig::KIND)]));
    let mut applied = rig.apply(Batch { offers: offers.into(), claim: true, ..Batch::default() });
    assert_eq!(refused(applied.offers.remove(2)), OfferRefusal::RequestMismatch);
    let (again, count) = seen(applied.offers.remove(1));
    let first = created(applied.offers.remove(0)).remove(0);
    assert_eq!((again, count), (Arc::clone(&first), 1));
    assert_eq!(first.state.name(), StateName::Running, "the answer is the job's final state");
}

fn a_repeat_gets_its_job_from_a_full_queue_too(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    let ask = || requested("r", "one", vec![job("q", Rig::KIND)]);
    let first = created(rig.offer(ask())).remove(0);
    assert!(matches!(rig.offer(crate::store::rig::offer(vec![job("q", "run")])), Receipt::Full(_)));
    let waiting = Offer { waits: true, ..crate::store::rig::offer(vec![job("q", "run")]) };
    assert!(matches!(rig.offer(waiting), Receipt::Waits));
    assert_eq!(seen(rig.offer(ask())).0.id, first.id);
}

fn a_refused_offer_leaves_no_request_behind(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    let blocker = rig.submit(job("q", Rig::KIND));
    let ask = || requested("r", "one", vec![job("q", Rig::KIND)]);
    assert!(matches!(rig.offer(ask()), Receipt::Full(_)));
    let lost = requested("r", "nowhere", vec![job("nowhere", Rig::KIND)]);
    assert_eq!(refused(rig.offer(lost)), nowhere("nowhere", None));
    rig.control(Control::Cancel(blocker.id)).unwrap();
    created(rig.offer(ask()));
}

fn a_repeat_after_deletion_is_told_so_for_a_day(rig: &mut Rig) {
    rig.queue("q", 0);
    let ask = || requested("r", "one", vec![job("q", Rig::KIND)]);
    let first = created(rig.offer(ask())).remove(0);
    rig.pass(3 * DAY);
    rig.control(Control::Delete(first.id)).unwrap();
    assert!(matches!(rig.offer(ask()), Receipt::Gone { live: 0 }));
    rig.pass(DAY - 1);
    prune(rig);
    assert!(matches!(rig.offer(ask()), Receipt::Gone { live: 0 }));
    rig.pass(2);
    prune(rig);
    created(rig.offer(ask()));
}

/// Deletes jobs, since each deletion forgets some old requests.
fn prune(rig: &mut Rig) {
    let other = rig.submit(job("q", Rig::KIND));
    rig.control(Control::Delete(other.id)).unwrap();
}

fn a_batch_is_remembered_until_its_last_job_is_gone(rig: &mut Rig) {
    rig.queue("q", 0);
    let ask = || requested("r", "three", vec![job("q", Rig::KIND); 3]);
    let jobs = created(rig.offer(ask()));
    rig.control(Control::Delete(jobs[2].id)).unwrap();
    rig.pass(2 * DAY);
    prune(rig);
    rig.crash();
    // The other jobs still exist: a second batch would run them twice.
    assert_eq!(seen(rig.offer(ask())).0.id, jobs[0].id);
    rig.control(Control::Delete(jobs[0].id)).unwrap();
    rig.pass(2 * DAY);
    prune(rig);
    assert!(matches!(rig.offer(ask()), Receipt::Gone { live: 1 }));
    rig.control(Control::Delete(jobs[1].id)).unwrap();
    rig.pass(DAY + 1);
    prune(rig);
    created(rig.offer(ask()));
}

fn a_request_survives_a_crash(rig: &mut Rig) {
    rig.queue("q", 1);
    let ask = || requested("r", "one", vec![job("q", Rig::KIND)]);
    let first = created(rig.offer(ask())).remove(0);
    rig.crash();
    assert_eq!(seen(rig.offer(ask())).0.id, first.id);
    assert_eq!(
        refused(rig.offer(requested("r", "two", vec![job("q", Rig::KIND)]))),
        OfferRefusal::RequestMismatch
    );
}

fn a_repeated_retry_happens_once(rig: &mut Rig) {
    rig.queue("q", 1);
    let job = rig.submit(job("q", Rig::KIND));
    rig.report(&job, failed(false, "")).unwrap();
    let retry = |said: &str| Control::Retry { id: job.id, request: Some(request("again", said)) };
    assert!(matches!(rig.control(retry("x")), Ok(ControlDone::Job(_))));
    let running = rig.job(job.id);
    assert_eq!((running.state.name(), running.attempt), (StateName::Running, 2));
    rig.report(&running, failed(false, "")).unwrap();
    // The job has failed again since, but the request was already done: the answer is that of its first time.
    let Ok(ControlDone::JobRepeated { state, revision, job: now }) = rig.control(retry("x")) else {
        panic!("not a repeat")
    };
    assert_eq!((state, revision), (StateName::Queued, running.revision - 1));
    assert_eq!(now.map(|job| job.state.name()), Some(StateName::Failed));
    assert_eq!(rig.state(job.id), StateName::Failed);
    assert_eq!(rig.control(retry("y")).unwrap_err(), ControlRefusal::RequestMismatch);
}

fn request_ids_may_be_uuids_or_any_text(rig: &mut Rig) {
    rig.queue("q", 0);
    let uuid = "0190163d-8694-739b-aea5-966c26f8ad91";
    for (id, again) in [(uuid, &*uuid.to_uppercase()), ("any text", "any text"), ("é", "é")] {
        let first = created(rig.offer(requested(id, "same", vec![job("q", Rig::KIND)]))).remove(0);
        let repeat = rig.offer(requested(again, "same", vec![job("q", Rig::KIND)]));
        assert_eq!(seen(repeat).0.id, first.id, "{id}");
    }
}
