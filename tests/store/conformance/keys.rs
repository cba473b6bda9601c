//! Unique keys: who holds a key, what becomes of others with the same key, and what frees it.

use std::{sync::Arc, time::Duration};

use OnConflict::{Cancel, Follow, Reject, Replace, ReturnExisting};
use bytes::Bytes;
use jobmill::{
    engine::{ControlRefusal, NewJob, OfferRefusal, SubmittedJob},
    job::{Change, Job, JobId, KeyHash, OnConflict, StateName, SubmitOutcome, UniqueKey, UniqueScope, When},
    settings::QueueSettings,
};

use crate::store::{
    batch::{Batch, Control, ControlDone, Offer, Receipt, Report},
    build::{at, job, key, keyed, requested, settings},
    rig::{Rig, claimed, created, failed, lease, offer, path, refused, succeeded},
};

both_stores!(
    a_key_is_held_from_acceptance_to_the_end_in_every_state,
    existing_creates_no_job_and_names_the_holder,
    reject_refuses_and_names_the_holder_and_its_state,
    keys_are_of_their_scope,
    replace_changes_the_waiting_job_in_place,
    the_last_update_before_the_start_is_what_runs,
    an_update_in_the_batch_that_starts_the_holder_is_what_runs,
    a_holder_that_falls_back_leaves_its_slot_to_the_next_one_that_waits,
    replace_with_another_queue_kind_or_label_is_refused,
    a_follower_is_blocked_with_its_room_taken_and_starts_after_any_end,
    a_later_follower_takes_over_the_words_of_the_one_that_stands,
    an_update_that_comes_while_the_holder_runs_is_never_lost,
    cancel_stops_the_holder_and_follows_it,
    cancel_of_a_holder_that_backs_off_starts_at_once,
    a_holder_that_backs_off_has_started,
    whatever_ends_a_job_frees_its_key_in_the_same_transaction,
    a_crash_frees_or_hands_over_the_keys_of_lost_jobs,
    a_purge_frees_keys_and_takes_followers_along,
    a_holder_that_a_purge_covers_holds_nothing_for_newcomers,
    a_follower_that_ends_leaves_the_holder_alone,
    a_failed_job_whose_key_another_holds_is_not_retried,
    a_retried_job_holds_its_key_again,
    a_released_key_goes_to_the_successor_or_is_free,
    a_repeat_of_the_older_request_finds_its_job_after_a_replace,
    a_repeat_of_a_submission_that_met_a_key_finds_what_it_met,
    the_jobs_of_a_batch_meet_their_keys_in_order,
    one_reject_refuses_the_batch_and_its_index_is_named,
    offers_of_one_batch_meet_each_other,
    a_key_is_asked_before_room_and_after_the_queue,
    policies_of_a_caller_who_waits_are_decided_when_it_gets_in,
    larger_words_need_room,
    a_job_that_has_expired_already_holds_nothing,
    keys_survive_a_crash,
);

fn unique(on_waiting: OnConflict, on_started: OnConflict) -> UniqueKey {
    key("a", on_waiting, on_started)
}

fn new(on_waiting: OnConflict, on_started: OnConflict) -> NewJob {
    keyed(unique(on_waiting, on_started), job("q", Rig::KIND))
}

fn words(text: &str, job: NewJob) -> NewJob {
    NewJob { payload: Bytes::copy_from_slice(text.as_bytes()), ..job }
}

fn met(receipt: Receipt) -> Vec<SubmittedJob> {
    match receipt {
        Receipt::Met { jobs } => jobs,
        other => panic!("met no key: {other:?}"),
    }
}

/// Submits a job that must not be created; returns its outcome and the job that it met.
fn meets(rig: &mut Rig, job: NewJob) -> (SubmitOutcome, JobId) {
    let one = met(rig.offer(offer(vec![job]))).remove(0);
    (one.outcome, one.id)
}

fn existing(rig: &mut Rig) -> Option<JobId> {
    match rig.offer(offer(vec![new(ReturnExisting, ReturnExisting)])) {
        Receipt::Met { jobs } => Some(jobs[0].id),
        Receipt::Created { jobs } => {
            // The key was free: the probe must not hold it.
            rig.control(Control::Delete(jobs[0].id)).ok();
            None
        }
        other => panic!("{other:?}"),
    }
}

fn hash() -> KeyHash {
    unique(Reject, Reject).hash("q", Rig::KIND)
}

/// Returns the holder and the successor of the key.
fn held(rig: &Rig) -> Option<(JobId, Option<JobId>)> {
    rig.reader().unique_key(hash()).unwrap().map(|held| (held.row.holder, held.row.successor))
}

fn done(result: Result<ControlDone, ControlRefusal>) -> Arc<Job> {
    match result {
        Ok(ControlDone::Job(job)) => job,
        other => panic!("no job: {other:?}"),
    }
}

fn consumers(rig: &mut Rig, consumers: u32) {
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(consumers, 100) }).unwrap();
}

fn a_key_is_held_from_acceptance_to_the_end_in_every_state(rig: &mut Rig) {
    rig.queue("q", 0);
    let holder = rig.submit(NewJob { run_time: Some(at(60).into()), ..new(Reject, Reject) });
    let mut seen = vec![rig.state(holder.id)];
    assert_eq!(existing(rig), Some(holder.id));
    rig.control(Control::Retry { id: holder.id, request: None }).unwrap();
    seen.push(rig.state(holder.id));
    assert_eq!(existing(rig), Some(holder.id));
    consumers(rig, 1);
    seen.push(rig.state(holder.id));
    assert_eq!(existing(rig), Some(holder.id));
    rig.report(&rig.job(holder.id), failed(true, "")).unwrap();
    seen.push(rig.state(holder.id));
    assert_eq!(existing(rig), Some(holder.id));
    rig.control(Control::Retry { id: holder.id, request: None }).unwrap();
    done(rig.control(Control::Cancel(holder.id)));
    seen.push(rig.state(holder.id));
    assert_eq!(existing(rig), Some(holder.id));
    let blocked = rig.submit(new(Follow, Follow));
    seen.push(rig.state(blocked.id));
    assert_eq!(existing(rig), Some(holder.id));
    use StateName::{BackingOff, Blocked, Cancelling, Queued, Running, Scheduled};
    assert_eq!(seen, [Scheduled, Queued, Running, BackingOff, Cancelling, Blocked]);
}

fn existing_creates_no_job_and_names_the_holder(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(words("first", new(ReturnExisting, ReturnExisting)));
    let (before, end, jobs) = (rig.whole(holder.id), rig.end(), rig.all_jobs().len());
    let met = meets(rig, words("second", new(ReturnExisting, ReturnExisting)));
    assert_eq!(met, (SubmitOutcome::Existing, holder.id));
    assert_eq!((rig.whole(holder.id), rig.end(), rig.all_jobs().len()), (before, end, jobs));
}

fn reject_refuses_and_names_the_holder_and_its_state(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(Reject, Reject));
    let refusal = refused(rig.offer(offer(vec![new(Replace, Reject)])));
    let state = Some(StateName::Running);
    let expected = OfferRefusal::KeyHeld { key: "a".into(), holder: Some(holder.id), state, index: None };
    assert_eq!(refusal, expected);
    assert_eq!(rig.all_jobs().len(), 1);
}

fn keys_are_of_their_scope(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.queue("other", 0);
    let of = |scope, queue: &str, kind: &str| {
        let unique = UniqueKey { scope: Some(scope), ..unique(ReturnExisting, ReturnExisting) };
        offer(vec![keyed(unique, job(queue, kind))])
    };
    let mut is_new =
        |scope, queue: &str, kind: &str| matches!(rig.offer(of(scope, queue, kind)), Receipt::Created { .. });
    use UniqueScope::{Kind, Namespace, Queue};
    assert!(is_new(Kind, "q", Rig::KIND) && !is_new(Kind, "other", Rig::KIND) && is_new(Kind, "q", "walk"));
    assert!(is_new(Queue, "q", Rig::KIND) && !is_new(Queue, "q", "walk") && is_new(Queue, "other", "walk"));
    assert!(is_new(Namespace, "q", Rig::KIND) && !is_new(Namespace, "other", "walk"));
}

fn replace_changes_the_waiting_job_in_place(rig: &mut Rig) {
    rig.queue("q", 0);
    let holder = rig.submit(words("old", new(Replace, Follow)));
    let behind = rig.submit(job("q", Rig::KIND));
    let before = rig.end();
    let newcomer = NewJob { priority: 5, expires: Some(at(60).into()), ..words("new", new(Replace, Follow)) };
    assert_eq!(meets(rig, newcomer), (SubmitOutcome::Replaced, holder.id));
    let whole = rig.whole(holder.id);
    assert_eq!((&whole.payload[..], whole.job.state), (&b"new"[..], holder.state), "it keeps its place");
    assert_eq!((whole.job.spec.priority, whole.job.spec.expires), (5, Some(at(60))));
    assert_eq!((whole.job.revision, whole.job.rare().replaced), (holder.revision + 1, 1));
    let changes = rig.changes(before, 10);
    let [Change::Job { job: seen, .. }] = &changes.entries[..] else { panic!("{changes:?}") };
    assert_eq!(seen.id, holder.id, "watchers see the change");
    // What the newcomer does not give is the default again.
    assert_eq!(meets(rig, words("", new(Replace, Follow))).0, SubmitOutcome::Replaced);
    let bare = rig.job(holder.id);
    assert_eq!((bare.spec.priority, bare.spec.expires, bare.spec.payload_bytes()), (0, None, 0));
    assert_eq!((bare.rare().replaced, rig.all_jobs().len()), (2, 2));
    consumers(rig, 1);
    assert_eq!(rig.state(behind.id), StateName::Queued, "the older one runs first");
}

fn the_last_update_before_the_start_is_what_runs(rig: &mut Rig) {
    rig.queue("q", 0);
    let holder = rig.submit(words("0", new(Replace, Follow)));
    for number in 1..5 {
        meets(rig, words(&number.to_string(), new(Replace, Follow)));
    }
    consumers(rig, 1);
    assert_eq!((rig.state(holder.id), &rig.whole(holder.id).payload[..]), (StateName::Running, &b"4"[..]));
}

fn an_update_in_the_batch_that_starts_the_holder_is_what_runs(rig: &mut Rig) {
    rig.queue("q", 0);
    let waits = NewJob { run_time: Some(at(10).into()), ..words("old", new(Replace, Follow)) };
    let holder = rig.submit(waits);
    // The start comes due in the same batch.
    rig.until(at(10));
    let resize = Control::UpdateQueue { name: "q".into(), settings: settings(1, 100) };
    let offers = vec![offer(vec![words("new", new(Replace, Follow))])];
    let applied = rig.apply(Batch { controls: vec![resize], offers, claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [holder.id]);
    let claim = &applied.claims[0];
    let read = claim.payload.clone().unwrap_or_else(|| rig.reader().payload(holder.id).unwrap().unwrap());
    assert_eq!(&read[..], b"new");
    assert_eq!(rig.job(holder.id).rare().replaced, 1);
}

fn a_holder_that_falls_back_leaves_its_slot_to_the_next_one_that_waits(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND)).id;
    let holder = rig.submit(new(Replace, Follow)).id;
    let waiting = rig.submit(job("q", Rig::KIND)).id;
    let reports = vec![Report { id: running, lease: lease(&rig.job(running)), body: succeeded() }];
    let lower = NewJob { priority: -100, ..new(Replace, Follow) };
    let offers = vec![offer(vec![lower]), offer(vec![job("q", Rig::KIND)])];
    rig.apply(Batch { reports, offers, claim: true, ..Batch::default() });
    assert_eq!(rig.state(waiting), StateName::Running, "the new job came later");
    assert_eq!((rig.state(holder), rig.job(holder).spec.priority), (StateName::Queued, -100));
}

fn replace_with_another_queue_kind_or_label_is_refused(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.queue("other", 0);
    let of = |queue: &str, kind: &str| {
        let scope = Some(UniqueScope::Namespace);
        keyed(UniqueKey { scope, ..unique(Replace, Follow) }, job(queue, kind))
    };
    let holder = rig.submit(of("q", Rig::KIND));
    let mut labelled = of("q", Rig::KIND);
    labelled.extras.as_mut().unwrap().labels = [("k".to_owned(), "v".to_owned())].into();
    let mut attempts = of("q", Rig::KIND);
    attempts.extras.as_mut().unwrap().said.max_attempts = Some(7);
    let mut timeout = NewJob { attempt_timeout: Duration::from_secs(1), ..of("q", Rig::KIND) };
    timeout.extras.as_mut().unwrap().said.attempt_timeout = true;
    let before = rig.end();
    for (job, expected) in [
        (of("other", Rig::KIND), "queue"),
        (of("q", "walk"), "kind"),
        (labelled, "labels"),
        (attempts, "max_attempts"),
        (timeout, "attempt_timeout"),
    ] {
        match refused(rig.offer(offer(vec![job]))) {
            OfferRefusal::KeyConflict { holder: told, field, .. } => {
                assert_eq!((told, field), (Some(holder.id), expected));
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert_eq!(rig.end(), before);
}

fn a_follower_is_blocked_with_its_room_taken_and_starts_after_any_end(rig: &mut Rig) {
    rig.queue_with("q", settings(2, 2));
    for end in ["success", "failure", "cancel", "expiry", "deletion"] {
        let expires = (end == "expiry").then(|| When::After(Duration::from_secs(5)));
        let slots = if matches!(end, "success" | "failure") { 2 } else { 0 };
        let settings = |slots| Control::UpdateQueue { name: "q".into(), settings: settings(slots, 2) };
        rig.control(settings(slots)).unwrap();
        let holder = rig.submit(NewJob { expires, ..new(Follow, Follow) });
        let follower = rig.submit(words(end, new(Follow, Follow)));
        assert_eq!(follower.state.name(), StateName::Blocked, "{end}: though there is a slot");
        assert!(
            matches!(rig.offer(offer(vec![job("q", "walk")])), Receipt::Full(_)),
            "{end}: its room is taken"
        );
        assert_eq!(held(rig), Some((holder.id, Some(follower.id))));
        let end_of = |rig: &mut Rig| match end {
            "success" => rig.report(&holder, succeeded()).unwrap(),
            "failure" => rig.report(&holder, failed(false, "")).unwrap(),
            "cancel" => drop(rig.control(Control::Cancel(holder.id)).unwrap()),
            "deletion" => drop(rig.control(Control::Delete(holder.id)).unwrap()),
            _ => {
                rig.pass(5);
                rig.tick();
            }
        };
        end_of(rig);
        assert_ne!(rig.state(follower.id), StateName::Blocked, "{end}: in the same transaction");
        assert_eq!(held(rig), Some((follower.id, None)), "{end}: it holds the key now");
        rig.tick();
        rig.control(settings(2)).unwrap();
        assert_eq!(rig.state(follower.id), StateName::Running, "{end}");
        rig.report(&rig.job(follower.id), succeeded()).unwrap();
        assert_eq!(held(rig), None, "{end}");
    }
}

fn a_later_follower_takes_over_the_words_of_the_one_that_stands(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(Follow, Follow));
    let follower = rig.submit(words("first", new(Follow, Follow)));
    let met = meets(rig, words("second", new(Follow, Follow)));
    assert_eq!(met, (SubmitOutcome::Replaced, follower.id));
    let later = rig.job(follower.id);
    assert_eq!((later.state.name(), later.rare().replaced), (StateName::Blocked, 1));
    rig.report(&holder, succeeded()).unwrap();
    rig.tick();
    let running = rig.whole(follower.id);
    assert_eq!((running.job.state.name(), &running.payload[..]), (StateName::Running, &b"second"[..]));
    assert_eq!(rig.all_jobs().len(), 2, "never a second successor");
}

fn an_update_that_comes_while_the_holder_runs_is_never_lost(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(words("0", new(Replace, Follow)));
    let mut ran = vec![rig.whole(holder.id).payload];
    // In the batch that ends the holder, too.
    let report = Report { id: holder.id, lease: lease(&holder), body: succeeded() };
    let offers = vec![offer(vec![words("1", new(Replace, Follow))])];
    let applied = rig.apply(Batch { reports: vec![report], offers, claim: true, ..Batch::default() });
    let [claim] = &applied.claims[..] else { panic!("{applied:?}") };
    ran.push(rig.whole(claim.job.id).payload);
    for text in ["2", "3"] {
        rig.offer(offer(vec![words(text, new(Replace, Follow))]));
    }
    let running = rig.job(claim.job.id);
    rig.report(&running, failed(false, "")).unwrap();
    let applied = rig.tick();
    ran.push(rig.whole(applied.claims[0].job.id).payload);
    let ran: Vec<_> = ran.iter().map(|words| std::str::from_utf8(words).unwrap()).collect();
    assert_eq!(ran, ["0", "1", "3"]);
}

fn cancel_stops_the_holder_and_follows_it(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(Follow, Cancel));
    let offers = vec![offer(vec![words("new", new(Follow, Cancel))])];
    let mut applied = rig.apply(Batch { offers, claim: true, ..Batch::default() });
    let follower = created(applied.offers.remove(0)).remove(0);
    assert_eq!(applied.cancelling, [lease(&holder)]);
    assert_eq!((rig.state(holder.id), rig.state(follower.id)), (StateName::Cancelling, StateName::Blocked));
    // A further one is taken over by the one that stands, and the holder goes on stopping.
    assert_eq!(meets(rig, words("newer", new(Follow, Cancel))), (SubmitOutcome::Replaced, follower.id));
    rig.report(&rig.job(holder.id), failed(true, "")).unwrap();
    assert_eq!(rig.state(holder.id), StateName::Cancelled);
    rig.tick();
    assert_eq!(
        (rig.state(follower.id), &rig.whole(follower.id).payload[..]),
        (StateName::Running, &b"newer"[..])
    );
}

fn cancel_of_a_holder_that_backs_off_starts_at_once(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(Follow, Cancel));
    rig.report(&holder, failed(true, "")).unwrap();
    let next = rig.submit(new(Follow, Cancel));
    assert_eq!((rig.state(holder.id), next.state.name()), (StateName::Cancelled, StateName::Running));
    assert_eq!(held(rig), Some((next.id, None)));
    // Also if the end of the backoff comes due in the same batch.
    rig.report(&next, failed(true, "")).unwrap();
    let due = rig.job(next.id).state.due().unwrap();
    rig.until(due);
    let last = rig.submit(new(Follow, Cancel));
    assert_eq!((rig.state(next.id), rig.state(last.id)), (StateName::Cancelled, StateName::Running));
}

fn a_holder_that_backs_off_has_started(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(words("old", new(Replace, Follow)));
    rig.report(&holder, failed(true, "")).unwrap();
    assert_eq!(rig.state(holder.id), StateName::BackingOff);
    let follower = rig.submit(words("new", new(Replace, Follow)));
    assert_eq!(follower.state.name(), StateName::Blocked);
    assert_eq!(&rig.whole(holder.id).payload[..], b"old", "its next attempt runs as the first");
    assert!(matches!(
        refused(rig.offer(offer(vec![new(ReturnExisting, Reject)]))),
        OfferRefusal::KeyHeld { state: Some(StateName::BackingOff), .. }
    ));
}

fn whatever_ends_a_job_frees_its_key_in_the_same_transaction(rig: &mut Rig) {
    rig.queue("q", 1);
    let expires = Some(When::After(Duration::from_secs(5)));
    for end in ["success", "failure", "cancelled", "stopped", "expired", "deleted"] {
        let waits = matches!(end, "cancelled" | "expired" | "deleted");
        consumers(rig, u32::from(!waits));
        let holder = rig.submit(NewJob { expires: expires.filter(|_| waits), ..new(Reject, Reject) });
        assert_eq!(held(rig), Some((holder.id, None)), "{end}");
        match end {
            "success" => rig.report(&holder, succeeded()).unwrap(),
            "failure" => rig.report(&holder, failed(false, "")).unwrap(),
            "cancelled" => drop(rig.control(Control::Cancel(holder.id)).unwrap()),
            "stopped" => {
                rig.control(Control::Cancel(holder.id)).unwrap();
                assert_eq!(held(rig), Some((holder.id, None)), "until it has stopped");
                rig.report(&rig.job(holder.id), failed(true, "")).unwrap();
            }
            "deleted" => drop(rig.control(Control::Delete(holder.id)).unwrap()),
            _ => {
                rig.pass(5);
                rig.tick();
                assert_eq!(rig.state(holder.id), StateName::Expired);
            }
        }
        assert_eq!(held(rig), None, "{end}");
        // A newcomer of the very batch may have it.
        let applied = rig.apply(Batch { offers: vec![offer(vec![new(Reject, Reject)])], ..Batch::default() });
        let next = created(applied.offers.into_iter().next().unwrap()).remove(0);
        rig.control(Control::Cancel(next.id)).unwrap();
    }
}

fn a_crash_frees_or_hands_over_the_keys_of_lost_jobs(rig: &mut Rig) {
    rig.queue("q", 2);
    let once = |text: &str| {
        let unique = key(text, Follow, Follow);
        NewJob { max_attempts: 1, ..keyed(unique, job("q", Rig::KIND)) }
    };
    let (a, b) = (rig.submit(once("a")), rig.submit(once("b")));
    let follower = rig.submit(once("b"));
    rig.crash();
    for lost in [&a, &b] {
        assert_eq!(rig.state(lost.id), StateName::Failed);
    }
    assert_eq!(held(rig), None);
    assert_eq!(rig.state(follower.id), StateName::Queued);
    assert_eq!(claimed(&rig.tick()), [follower.id]);
    let next = rig.submit(once("a"));
    assert_eq!(next.state.name(), StateName::Running);
}

fn a_purge_frees_keys_and_takes_followers_along(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = [rig.submit(new(Follow, Follow)), rig.submit(new(Follow, Follow))];
    assert_eq!(rig.state(jobs[1].id), StateName::Blocked);
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    for _ in 0..5 {
        rig.tick();
    }
    assert_eq!((rig.all_jobs().len(), held(rig)), (0, None));
    // A follower of a job that runs is purged alone.
    consumers(rig, 1);
    let running = rig.submit(new(Follow, Follow));
    rig.submit(new(Follow, Follow));
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    for _ in 0..5 {
        rig.tick();
    }
    assert_eq!((rig.all_jobs().len(), held(rig)), (1, Some((running.id, None))));
}

fn a_holder_that_a_purge_covers_holds_nothing_for_newcomers(rig: &mut Rig) {
    rig.queue_with("q", QueueSettings { max_jobs: 10_000, ..settings(0, 10_000) });
    for _ in 0..3 {
        rig.submit_all(vec![job("q", Rig::KIND); 600]);
    }
    let holder = rig.submit(words("old", new(Replace, Follow)));
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    assert!(rig.reader().job(holder.id).unwrap().is_some(), "the purge has not come so far");
    // Its words would be purged with the holder.
    let next = rig.submit(words("new", new(Replace, Follow)));
    assert_ne!(next.id, holder.id);
    for _ in 0..10 {
        rig.tick();
    }
    let left: Vec<JobId> = rig.all_jobs().iter().map(|job| job.id).collect();
    assert_eq!((left, held(rig)), (vec![next.id], Some((next.id, None))));
}

fn a_follower_that_ends_leaves_the_holder_alone(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(Follow, Follow));
    let expires = Some(When::After(Duration::from_secs(5)));
    for end in ["cancel", "delete", "expire"] {
        let expires = expires.filter(|_| end == "expire");
        let follower = rig.submit(NewJob { expires, ..new(Follow, Follow) });
        match end {
            "cancel" => drop(rig.control(Control::Cancel(follower.id)).unwrap()),
            "delete" => drop(rig.control(Control::Delete(follower.id)).unwrap()),
            _ => {
                rig.pass(5);
                rig.tick();
                assert_eq!(rig.state(follower.id), StateName::Expired);
            }
        }
        assert_eq!(held(rig), Some((holder.id, None)), "{end}");
    }
    assert_eq!(rig.state(holder.id), StateName::Running);
}

fn a_failed_job_whose_key_another_holds_is_not_retried(rig: &mut Rig) {
    rig.queue("q", 1);
    let old = rig.submit(new(Reject, Reject));
    rig.report(&old, failed(false, "")).unwrap();
    let holder = rig.submit(new(Reject, Reject));
    let before = (rig.job(old.id), rig.end());
    let refusal = rig.control(Control::Retry { id: old.id, request: None }).unwrap_err();
    let state = Some(StateName::Running);
    let expected = ControlRefusal::KeyHeld { id: old.id, key: "a".into(), holder: holder.id, state };
    assert_eq!(refusal, expected);
    assert_eq!((rig.job(old.id), rig.end()), before);
    rig.report(&holder, succeeded()).unwrap();
    done(rig.control(Control::Retry { id: old.id, request: None }));
}

fn a_retried_job_holds_its_key_again(rig: &mut Rig) {
    rig.queue("q", 1);
    let old = rig.submit(new(Reject, Reject));
    rig.report(&old, failed(false, "")).unwrap();
    done(rig.control(Control::Retry { id: old.id, request: None }));
    assert_eq!(held(rig), Some((old.id, None)));
    assert!(matches!(refused(rig.offer(offer(vec![new(Replace, Reject)]))), OfferRefusal::KeyHeld { .. }));
    rig.report(&rig.job(old.id), succeeded()).unwrap();
    assert_eq!(held(rig), None);
}

fn a_released_key_goes_to_the_successor_or_is_free(rig: &mut Rig) {
    rig.queue("q", 2);
    let holder = rig.submit(new(Follow, Follow));
    let follower = rig.submit(new(Follow, Follow));
    let released = |rig: &mut Rig| match rig.control(Control::ReleaseKey(hash())) {
        Ok(ControlDone::Key(done)) => (done.holder, done.successor),
        other => panic!("{other:?}"),
    };
    assert_eq!(released(rig), (Some(holder.id), Some(follower.id)));
    assert_eq!((rig.state(holder.id), rig.state(follower.id)), (StateName::Running, StateName::Running));
    // The former holder's end frees nothing.
    rig.report(&holder, succeeded()).unwrap();
    assert_eq!(held(rig), Some((follower.id, None)));
    assert_eq!(released(rig), (Some(follower.id), None));
    assert_eq!(held(rig), None);
    rig.report(&rig.job(follower.id), succeeded()).unwrap();
    let refusal = rig.control(Control::ReleaseKey(hash())).unwrap_err();
    assert_eq!(refusal, ControlRefusal::KeyNotFound("key".into()));
}

fn a_repeat_of_the_older_request_finds_its_job_after_a_replace(rig: &mut Rig) {
    rig.queue("q", 0);
    let of = |id: &str, text: &str| requested(id, text, vec![words(text, new(Replace, Follow))]);
    let first = created(rig.offer(of("r1", "one"))).remove(0);
    assert_eq!(met(rig.offer(of("r2", "two")))[0].outcome, SubmitOutcome::Replaced);
    for (id, text) in [("r1", "one"), ("r2", "two")] {
        match rig.offer(of(id, text)) {
            Receipt::Seen { first: job, count: 1 } => assert_eq!(job.id, first.id, "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }
    assert_eq!(&rig.whole(first.id).payload[..], b"two", "repeats change nothing");
    assert_eq!(rig.job(first.id).rare().replaced, 1);
}

fn a_repeat_of_a_submission_that_met_a_key_finds_what_it_met(rig: &mut Rig) {
    rig.queue("q", 1);
    let holder = rig.submit(new(ReturnExisting, ReturnExisting));
    let of = || requested("r", "it", vec![new(ReturnExisting, ReturnExisting)]);
    assert_eq!(met(rig.offer(of()))[0].outcome, SubmitOutcome::Existing);
    rig.report(&holder, succeeded()).unwrap();
    // The key is free now, and yet the request is the same.
    assert!(matches!(rig.offer(of()), Receipt::Seen { first, count: 1 } if first.id == holder.id));
    rig.crash();
    assert!(matches!(rig.offer(of()), Receipt::Seen { first, count: 1 } if first.id == holder.id));
    rig.control(Control::Delete(holder.id)).unwrap();
    assert!(matches!(rig.offer(of()), Receipt::Gone { .. }));
    // As the id of a call that created no jobs, it is kept for a day.
    rig.live(25 * 3_600);
    assert_ne!(created(rig.offer(of())).remove(0).id, holder.id);
}

fn the_jobs_of_a_batch_meet_their_keys_in_order(rig: &mut Rig) {
    rig.queue("q", 0);
    let plain = job("q", "walk");
    let of = |text: &str, on_waiting| words(text, new(on_waiting, Follow));
    let jobs = || {
        vec![
            of("0", Replace),
            plain.clone(),
            of("2", Replace),
            of("3", ReturnExisting),
            of("4", Follow),
            of("5", Follow),
        ]
    };
    let jobs = met(rig.offer(requested("r", "it", jobs()))).into_iter().collect::<Vec<_>>();
    let outcomes: Vec<_> = jobs.iter().map(|one| one.outcome).collect();
    use SubmitOutcome::{Created, Existing, Replaced};
    assert_eq!(outcomes, [Created, Created, Replaced, Existing, Created, Replaced]);
    let ids: Vec<_> = jobs.iter().map(|one| one.id).collect();
    let [holder, other, follower] = [ids[0], ids[1], ids[4]];
    assert_eq!(ids, [holder, other, holder, holder, follower, follower]);
    assert_eq!(held(rig), Some((holder, Some(follower))));
    assert_eq!((&rig.whole(holder).payload[..], &rig.whole(follower).payload[..]), (&b"2"[..], &b"5"[..]));
    assert_eq!(rig.state(follower), StateName::Blocked);
    let told: Vec<_> = jobs.iter().map(|one| one.job.as_ref().unwrap().id).collect();
    assert_eq!((told, rig.all_jobs().len()), (ids, 3));
    // A repeat finds the same jobs.
    let again = Offer { jobs: vec![plain; 6], ..requested("r", "it", vec![]) };
    match rig.offer(again) {
        Receipt::Seen { first, count } => assert_eq!((first.id, count), (holder, 6)),
        other => panic!("{other:?}"),
    }
}

fn one_reject_refuses_the_batch_and_its_index_is_named(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.submit(keyed(key("held", Reject, Reject), job("q", Rig::KIND)));
    let (jobs, end) = (rig.all_jobs().len(), rig.end());
    let rejected = |text: &str| keyed(key(text, Reject, Reject), job("q", Rig::KIND));
    for (batch, expected) in [
        (vec![new(Replace, Follow), job("q", Rig::KIND), rejected("held")], 2),
        (vec![new(Replace, Follow), rejected("a")], 1),
    ] {
        match refused(rig.offer(offer(batch))) {
            OfferRefusal::KeyHeld { index, .. } => assert_eq!(index, Some(expected)),
            other => panic!("{other:?}"),
        }
        assert_eq!((rig.all_jobs().len(), rig.end(), held(rig)), (jobs, end, None));
    }
}

fn offers_of_one_batch_meet_each_other(rig: &mut Rig) {
    rig.queue("q", 1);
    let of = |text: &str, on_waiting| offer(vec![words(text, new(on_waiting, Follow))]);
    let offers =
        vec![of("0", Follow), of("1", Replace), of("2", Follow), of("3", Follow), of("4", ReturnExisting)];
    let applied = rig.apply(Batch { offers, claim: true, ..Batch::default() });
    let mut told = Vec::new();
    for receipt in applied.offers {
        told.push(match receipt {
            Receipt::Created { jobs } => (SubmitOutcome::Created, jobs[0].id),
            receipt => {
                let one = met(receipt).remove(0);
                (one.outcome, one.id)
            }
        });
    }
    use SubmitOutcome::{Created, Existing, Replaced};
    let (holder, follower) = (told[0].1, told[2].1);
    let expected = [
        (Created, holder),
        (Replaced, holder),
        (Created, follower),
        (Replaced, follower),
        (Existing, holder),
    ];
    assert_eq!(told, expected);
    // None had started when they met, and the holder starts with the last words for it.
    assert_eq!((rig.state(holder), rig.state(follower)), (StateName::Running, StateName::Blocked));
    assert_eq!((&rig.whole(holder).payload[..], &rig.whole(follower).payload[..]), (&b"1"[..], &b"3"[..]));
}

fn a_key_is_asked_before_room_and_after_the_queue(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    let holder = rig.submit(new(ReturnExisting, ReturnExisting));
    // The queue is full, and an answer needs no room.
    assert_eq!(meets(rig, new(ReturnExisting, Reject)), (SubmitOutcome::Existing, holder.id));
    assert_eq!(meets(rig, new(Replace, Reject)), (SubmitOutcome::Replaced, holder.id));
    assert!(matches!(refused(rig.offer(offer(vec![new(Reject, Reject)]))), OfferRefusal::KeyHeld { .. }));
    assert!(matches!(rig.offer(offer(vec![new(Follow, Follow)])), Receipt::Full(_)));
    let nowhere = keyed(unique(ReturnExisting, Reject), job("nowhere", Rig::KIND));
    assert!(matches!(refused(rig.offer(offer(vec![nowhere]))), OfferRefusal::NotAdmitted(_)));
}

fn policies_of_a_caller_who_waits_are_decided_when_it_gets_in(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    let first = rig.submit(job("q", "walk"));
    let waiting = || Offer { waits: true, ..offer(vec![words("late", new(ReturnExisting, ReturnExisting))]) };
    assert!(matches!(rig.offer(waiting()), Receipt::Waits));
    // The key is taken while the caller waits: its job would be a second one.
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 3) }).unwrap();
    let offers = vec![offer(vec![job("q", "walk")])];
    let applied = rig.apply(Batch { offers, ..Batch::default() });
    assert!(matches!(applied.offers_that_waited[..], [Receipt::Created { .. }]), "{applied:?}");
    let holder = held(rig).unwrap().0;
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 1) }).unwrap();
    rig.control(Control::Cancel(holder)).unwrap();
    assert!(matches!(rig.offer(waiting()), Receipt::Waits), "the key is free, and the queue is full");
    // Another caller's job holds the key in the batch in which there is room for it.
    let offers = vec![requested("r", "it", vec![new(ReturnExisting, ReturnExisting)])];
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(0, 3) }).unwrap();
    let mut waited = rig.apply(Batch { offers, ..Batch::default() });
    let is_one = waited.offers_that_waited.pop();
    assert!(is_one.is_some(), "{waited:?}");
    assert_eq!(
        rig.all_jobs().iter().filter(|job| job.spec.unique().is_some() && !job.state.is_done()).count(),
        1
    );
    assert_eq!(rig.state(first.id), StateName::Queued);
}

fn larger_words_need_room(rig: &mut Rig) {
    let extra = unique(Replace, Follow).key.len() as u64;
    let room = Job::FIXED_BYTES + extra + 50;
    rig.queue_with("q", QueueSettings { max_bytes: room, ..settings(0, 10) });
    let holder = rig.submit(words("1234567890", new(Replace, Follow)));
    assert_eq!(
        meets(rig, words(&"x".repeat(50), new(Replace, Follow))),
        (SubmitOutcome::Replaced, holder.id)
    );
    let refusal = rig.offer(offer(vec![words(&"x".repeat(51), new(Replace, Follow))]));
    assert!(matches!(refusal, Receipt::Full(_)), "{refusal:?}");
    assert_eq!(meets(rig, words("", new(Replace, Follow))), (SubmitOutcome::Replaced, holder.id));
    assert_eq!(rig.job(holder.id).spec.bytes, Job::FIXED_BYTES + extra);
}

fn a_job_that_has_expired_already_holds_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    let over = || NewJob { expires: Some(at(0).into()), ..new(Follow, Follow) };
    let expired = rig.submit(over());
    assert_eq!((expired.state.name(), held(rig)), (StateName::Expired, None));
    let holder = rig.submit(new(Follow, Follow));
    assert_eq!(rig.submit(over()).state.name(), StateName::Expired);
    assert_eq!(held(rig), Some((holder.id, None)));
}

fn keys_survive_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    let holder = rig.submit(words("old", new(Replace, Follow)));
    let follower = rig.submit(new(Follow, Follow));
    rig.crash();
    assert_eq!(held(rig), Some((holder.id, Some(follower.id))));
    assert_eq!(rig.state(follower.id), StateName::Blocked);
    assert_eq!(meets(rig, words("new", new(Replace, Follow))), (SubmitOutcome::Replaced, holder.id));
    consumers(rig, 1);
    rig.report(&rig.job(holder.id), succeeded()).unwrap();
    let applied = rig.tick();
    assert_eq!(claimed(&applied), [follower.id]);
    assert_eq!(path(&applied, follower.id), [StateName::Running]);
}
