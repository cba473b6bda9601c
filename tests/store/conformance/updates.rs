//! Changes of the input of jobs that have never started.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jobmill::{
    engine::{ControlRefusal, NewJob, ReportBody},
    job::{Change, Job, JobId, JobUpdate, PayloadInfo, State, StateName, When},
    settings::QueueSettings,
};

use crate::store::{
    batch::{Batch, Control, ControlDone},
    build::{at, job, request, settings},
    rig::{Rig, claimed, failed, path, succeeded},
};

both_stores!(
    a_waiting_job_is_changed_in_place,
    small_and_large_payloads_replace_each_other,
    the_last_update_before_the_start_is_what_runs,
    another_priority_moves_the_job_by_its_old_order,
    a_later_start_takes_a_ready_job_out_of_its_lane,
    an_earlier_start_makes_a_scheduled_job_ready,
    another_start_keeps_the_order_of_a_job_that_stays_ready,
    another_expiry_counts_from_the_change,
    an_expiry_in_the_past_ends_the_job,
    what_has_started_or_ended_is_not_changed,
    a_job_that_was_claimed_and_never_started_is_changed,
    larger_input_needs_room_and_smaller_input_makes_some,
    an_update_survives_a_crash,
    an_update_and_a_delete_in_one_batch_leave_nothing,
    an_update_of_another_revision_changes_nothing,
    a_repeated_update_changes_nothing,
);

fn update(id: JobId, update: JobUpdate) -> Control {
    Control::Update(id, Box::new(update))
}

fn done(result: Result<ControlDone, ControlRefusal>) -> Arc<Job> {
    match result {
        Ok(ControlDone::Job(job)) => job,
        other => panic!("no job: {other:?}"),
    }
}

fn payload(bytes: &[u8]) -> JobUpdate {
    let payload = Some((Bytes::copy_from_slice(bytes), PayloadInfo::typed("a/b")));
    JobUpdate { payload, ..JobUpdate::default() }
}

fn priority(priority: i8) -> JobUpdate {
    JobUpdate { priority: Some(Some(priority)), ..JobUpdate::default() }
}

fn start(start: Option<When>) -> JobUpdate {
    JobUpdate { start: Some(start), ..JobUpdate::default() }
}

fn expiry(expiry: Option<When>) -> JobUpdate {
    JobUpdate { expiry: Some(expiry), ..JobUpdate::default() }
}

fn seconds(seconds: u64) -> Option<When> {
    Some(When::After(Duration::from_secs(seconds)))
}

fn a_waiting_job_is_changed_in_place(rig: &mut Rig) {
    rig.queue("q", 0);
    let old = rig.submit(NewJob { payload: Bytes::from_static(b"old"), ..job("q", Rig::KIND) });
    let before = rig.end();
    rig.pass(1);
    let headers = [("tenant".to_owned(), "x".to_owned())].into();
    let change = JobUpdate { headers: Some(headers), priority: Some(Some(7)), ..payload(b"new words") };
    let changed = done(rig.control(update(old.id, change)));
    assert_eq!((changed.id, changed.state, changed.revision), (old.id, old.state, old.revision + 1));
    assert_eq!((changed.updated, changed.spec.created), (rig.now, old.spec.created));
    assert_eq!((changed.spec.priority, changed.spec.payload_bytes()), (7, 9));
    let extras = changed.spec.extras.as_ref().unwrap();
    assert_eq!((extras.headers["tenant"].as_str(), extras.payload.media_type.as_str()), ("x", "a/b"));
    let whole = rig.whole(old.id);
    assert_eq!((&whole.job, &whole.payload[..]), (&*changed, &b"new words"[..]));
    let changes = rig.changes(before, 10);
    let [Change::Job { job, .. }] = &changes.entries[..] else { panic!("{changes:?}") };
    assert_eq!(**job, *changed, "watchers see the change");
}

fn small_and_large_payloads_replace_each_other(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    for size in [1, 5_000, 256, 257, 70_000, 0, 300] {
        let words = vec![size as u8; size];
        done(rig.control(update(id, payload(&words))));
        assert_eq!(rig.whole(id).payload, words, "{size}");
        assert_eq!(rig.reader().payload(id).unwrap().unwrap(), words, "{size}");
        assert_eq!(rig.job(id).spec.bytes, Job::FIXED_BYTES + size as u64);
    }
}

fn the_last_update_before_the_start_is_what_runs(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let resize = Control::UpdateQueue { name: "q".into(), settings: settings(1, 10) };
    let controls = vec![update(id, payload(b"first")), update(id, payload(b"last")), resize];
    let applied = rig.apply(Batch { controls, claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [id]);
    // The claim comes without a payload, or with the last one.
    let claim = &applied.claims[0];
    let read = claim.payload.clone().unwrap_or_else(|| rig.reader().payload(id).unwrap().unwrap());
    assert_eq!((&read[..], claim.job.spec.payload_bytes()), (&b"last"[..], 4));
    assert_eq!(path(&applied, id), [StateName::Queued, StateName::Queued, StateName::Running]);
}

fn another_priority_moves_the_job_by_its_old_order(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 3]);
    let urgent = rig.submit_all(vec![NewJob { priority: 5, ..job("q", Rig::KIND) }; 2]);
    // Each is older than the urgent ones, whatever the order of the updates.
    done(rig.control(update(jobs[2].id, priority(5))));
    done(rig.control(update(jobs[1].id, priority(5))));
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(5, 10) }).unwrap();
    let mut started: Vec<Job> = rig.all_jobs().iter().map(|job| Job::clone(job)).collect();
    started.sort_by_key(|job| job.state.lease());
    let order: Vec<JobId> = started.iter().map(|job| job.id).collect();
    assert_eq!(order, [jobs[1].id, jobs[2].id, urgent[0].id, urgent[1].id, jobs[0].id]);
}

fn a_later_start_takes_a_ready_job_out_of_its_lane(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let later = done(rig.control(update(id, start(seconds(60)))));
    assert_eq!(later.state.due(), Some(at(60)));
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10) }).unwrap();
    let applied = rig.tick();
    assert!(applied.claims.is_empty());
    assert_eq!(rig.soon(&applied), Some(at(60)));
    rig.until(at(60));
    assert_eq!(claimed(&rig.tick()), [id]);
}

fn an_earlier_start_makes_a_scheduled_job_ready(rig: &mut Rig) {
    rig.queue("q", 1);
    let scheduled = NewJob { run_time: Some(at(3_600).into()), ..job("q", Rig::KIND) };
    let jobs = rig.submit_all(vec![scheduled; 2]);
    let sooner = done(rig.control(update(jobs[0].id, start(seconds(5)))));
    assert_eq!(sooner.state.due(), Some(at(5)));
    assert_eq!(done(rig.control(update(jobs[1].id, start(None)))).state.name(), StateName::Queued);
    assert_eq!(rig.state(jobs[1].id), StateName::Running, "in the same batch");
    rig.report(&rig.job(jobs[1].id), succeeded()).unwrap();
    rig.until(at(5));
    assert_eq!(claimed(&rig.tick()), [jobs[0].id]);
}

fn another_start_keeps_the_order_of_a_job_that_stays_ready(rig: &mut Rig) {
    rig.queue("q", 0);
    let ready = rig.submit(job("q", Rig::KIND));
    for past in [None, Some(at(-5).into()), seconds(0)] {
        assert_eq!(done(rig.control(update(ready.id, start(past)))).state, ready.state);
    }
}

fn another_expiry_counts_from_the_change(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![NewJob { expires: seconds(10), ..job("q", Rig::KIND) }; 2]);
    rig.pass(5);
    assert_eq!(done(rig.control(update(jobs[0].id, expiry(seconds(10))))).spec.expires, Some(at(15)));
    assert_eq!(done(rig.control(update(jobs[1].id, expiry(None)))).spec.expires, None);
    rig.until(at(10));
    rig.tick();
    assert_eq!(rig.state(jobs[0].id), StateName::Queued);
    rig.until(at(15));
    rig.tick();
    assert_eq!((rig.state(jobs[0].id), rig.state(jobs[1].id)), (StateName::Expired, StateName::Queued));
}

fn an_expiry_in_the_past_ends_the_job(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    rig.control(update(id, expiry(Some(at(-1).into())))).unwrap();
    assert_eq!(rig.state(id), StateName::Expired);
}

fn what_has_started_or_ended_is_not_changed(rig: &mut Rig) {
    rig.queue("q", 4);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 4]);
    rig.report(&jobs[1], failed(true, "")).unwrap();
    rig.report(&jobs[2], succeeded()).unwrap();
    rig.report(&jobs[3], failed(false, "")).unwrap();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 10) }).unwrap();
    let retried = done(rig.control(Control::Retry { id: jobs[3].id, request: None })).id;
    assert_eq!(rig.state(retried), StateName::Queued, "ready again");
    for (job, state) in
        jobs.iter().zip([StateName::Running, StateName::BackingOff, StateName::Succeeded, StateName::Queued])
    {
        let (before, end) = (rig.whole(job.id), rig.end());
        match rig.control(update(job.id, payload(b"late"))) {
            Err(ControlRefusal::WrongState { id, state: told, .. }) => {
                assert_eq!((id, told), (job.id, state))
            }
            other => panic!("{state} was changed: {other:?}"),
        }
        assert_eq!((rig.whole(job.id), rig.end()), (before, end));
    }
    let nobody: JobId = "0000000000001".parse().unwrap();
    assert_eq!(rig.control(update(nobody, priority(1))).unwrap_err(), ControlRefusal::JobNotFound(nobody));
}

fn a_job_that_was_claimed_and_never_started_is_changed(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    rig.report(&running, ReportBody::Released { delay: None }).unwrap();
    let changed = done(rig.control(update(running.id, payload(b"new"))));
    assert_eq!(changed.state.name(), StateName::Queued);
    assert_eq!(&rig.whole(running.id).payload[..], b"new");
    // The server's own pause after an attempt that could not start is not cut short.
    let running = rig.job(running.id);
    rig.report(&running, ReportBody::Released { delay: Some(Duration::from_secs(60)) }).unwrap();
    let waits = rig.job(running.id);
    assert_eq!(waits.state.name(), StateName::BackingOff);
    assert_eq!(done(rig.control(update(running.id, start(None)))).state, waits.state);
    let later = done(rig.control(update(running.id, start(seconds(120)))));
    assert_eq!(later.state, State::Scheduled { due: at(120) });
}

fn larger_input_needs_room_and_smaller_input_makes_some(rig: &mut Rig) {
    let room = 2 * Job::FIXED_BYTES + 100;
    rig.queue_with("q", QueueSettings { max_bytes: room, ..settings(0, 100) });
    let jobs = rig.submit_all(vec![NewJob { payload: vec![1; 50].into(), ..job("q", Rig::KIND) }; 2]);
    let before = rig.whole(jobs[0].id);
    match rig.control(update(jobs[0].id, payload(&[2; 51]))) {
        Err(ControlRefusal::QueueFull(full)) => assert_eq!((full.bytes, full.max_bytes), (room, room)),
        other => panic!("there is no room: {other:?}"),
    }
    assert_eq!(rig.whole(jobs[0].id), before);
    // What one frees the other may take, even in the same batch.
    let controls = vec![update(jobs[1].id, payload(&[3; 10])), update(jobs[0].id, payload(&[2; 90]))];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    assert!(applied.room && applied.controls.iter().all(Result::is_ok), "{applied:?}");
    // A queue whose limit was lowered below what it holds takes smaller input all the same.
    let lowered = QueueSettings { max_bytes: 1, max_jobs: 1, ..settings(0, 1) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: lowered }).unwrap();
    done(rig.control(update(jobs[0].id, payload(&[2; 90]))));
    assert!(rig.control(update(jobs[0].id, payload(&[2; 91]))).is_err());
}

fn an_update_survives_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(NewJob { payload: vec![1; 500].into(), ..job("q", Rig::KIND) }).id;
    let change = JobUpdate { priority: Some(Some(3)), ..start(seconds(60)) };
    let change = JobUpdate { payload: payload(&[2; 400]).payload, expiry: Some(seconds(90)), ..change };
    done(rig.control(update(id, change)));
    let before = rig.whole(id);
    rig.crash();
    assert_eq!(rig.whole(id), before);
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(60)), "the new start is known");
    rig.until(at(90));
    rig.tick();
    rig.tick();
    assert_eq!(rig.state(id), StateName::Expired, "so is the new expiry");
}

fn an_update_and_a_delete_in_one_batch_leave_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let controls = vec![update(id, payload(&[1; 5_000])), Control::Delete(id)];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    assert!(applied.controls.iter().all(Result::is_ok));
    assert_eq!(rig.reader().payload(id).unwrap(), None);
}

fn an_update_of_another_revision_changes_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let at_revision = |revision, words| Control::AtRevision(revision, Box::new(update(id, words)));
    done(rig.control(at_revision(1, payload(b"second"))));
    let refused = rig.control(at_revision(1, payload(b"third"))).unwrap_err();
    assert_eq!(refused, ControlRefusal::RevisionMismatch { id, expected: 1, revision: 2 });
    assert_eq!(&rig.whole(id).payload[..], b"second");
}

fn a_repeated_update_changes_nothing(rig: &mut Rig) {
    rig.queue("q", 0);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let once =
        |words: &[u8]| Control::Repeatable(request("r", "update"), Box::new(update(id, payload(words))));
    done(rig.control(once(b"new")));
    done(rig.control(update(id, payload(b"newer"))));
    match rig.control(once(b"new")) {
        Ok(ControlDone::JobRepeated { state: StateName::Queued, revision: 2, job: Some(job) }) => {
            assert_eq!(job.revision, 3);
        }
        other => panic!("no repeat: {other:?}"),
    }
    assert_eq!(&rig.whole(id).payload[..], b"newer");
}
