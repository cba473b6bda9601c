//! Ended jobs are kept for their retention time, and no longer.

use std::time::Duration;

use jobmill::{
    engine::{ControlRefusal, NewJob, ReportBody},
    job::{Change, Job, JobId, Position, StateName},
    settings::{Keep, QueueRetention, QueueSettings, Retention},
};

use crate::store::{
    batch::Control,
    batch::{Batch, Offer, Receipt},
    build::{job, requested, settings},
    rig::{Rig, failed, succeeded},
};

both_stores!(
    each_state_is_kept_for_its_own_time,
    what_has_not_ended_is_kept_whatever_its_age,
    a_late_end_starts_its_time_and_does_not_hold_up_others,
    zero_is_as_soon_as_possible,
    what_is_kept_for_ever_stays,
    a_queue_says_its_own_times,
    shorter_times_hold_for_what_ended_before,
    the_servers_times_may_change_between_starts,
    a_deleted_queues_jobs_go_by_the_servers_times,
    deletion_is_told_in_the_feed_and_forgets_the_request_a_day_later,
    retention_goes_in_bounded_steps_and_keeps_up,
    a_sweep_goes_on_after_a_crash,
    a_retried_job_is_kept_from_its_last_end_on,
    too_many_different_times_are_refused,
);

const DAY: u64 = 24 * 3600;

fn ended(rig: &mut Rig, body: ReportBody) -> JobId {
    let running = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    rig.report(&running, body).unwrap();
    running.id
}

fn there(rig: &Rig, id: JobId) -> bool {
    rig.reader().job(id).unwrap().is_some()
}

/// Applies batches until the store has no more work at this moment.
fn settle(rig: &mut Rig) {
    for _ in 0..100 {
        if !rig.tick().more {
            return;
        }
    }
    panic!("there is always more to do");
}

fn keeping(retention: QueueRetention) -> QueueSettings {
    QueueSettings { retention, ..settings(1, 1_000) }
}

fn each_state_is_kept_for_its_own_time(rig: &mut Rig) {
    rig.queue("q", 1);
    let succeeded = ended(rig, succeeded());
    let failed = ended(rig, failed(false, "tail"));
    rig.queue("idle", 0);
    let waiting = rig.submit(job("idle", Rig::KIND));
    rig.control(Control::Cancel(waiting.id)).unwrap();
    let expired = rig.submit(NewJob { expires: Some(rig.now.into()), ..job("idle", Rig::KIND) });
    settle(rig);
    rig.pass(DAY);
    settle(rig);
    assert_eq!(rig.all_jobs().len(), 4, "a day is not over");
    rig.pass(2);
    settle(rig);
    let left = [succeeded, waiting.id, expired.id].map(|id| there(rig, id));
    assert_eq!((left, there(rig, failed)), ([false; 3], true));
    rig.pass(13 * DAY);
    settle(rig);
    assert!(!there(rig, failed));
    assert_eq!(rig.all_jobs().len(), 0);
}

fn what_has_not_ended_is_kept_whatever_its_age(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let ready = rig.submit(job("q", Rig::KIND));
    let later = NewJob {
        run_time: Some(rig.now.after(Duration::from_secs(100 * DAY)).into()),
        ..job("q", Rig::KIND)
    };
    let later = rig.submit(later);
    rig.pass(50 * DAY);
    settle(rig);
    assert!([running.id, ready.id, later.id].into_iter().all(|id| there(rig, id)));
}

fn a_late_end_starts_its_time_and_does_not_hold_up_others(rig: &mut Rig) {
    rig.queue("q", 2);
    let slow = rig.submit(job("q", Rig::KIND));
    let quick = ended(rig, succeeded());
    rig.pass(DAY + 2);
    settle(rig);
    assert!(!there(rig, quick) && there(rig, slow.id));
    rig.report(&slow, succeeded()).unwrap();
    rig.pass(DAY - 2);
    settle(rig);
    assert!(there(rig, slow.id), "it ended less than a day ago");
    rig.pass(4);
    settle(rig);
    assert!(!there(rig, slow.id), "the sweep had gone past it while it ran");
}

fn zero_is_as_soon_as_possible(rig: &mut Rig) {
    let none = QueueRetention { succeeded: Some(Keep::For(Duration::ZERO)), ..QueueRetention::default() };
    rig.queue_with("q", keeping(none));
    let (gone, stays) = (ended(rig, succeeded()), ended(rig, failed(false, "")));
    let wake = rig.tick();
    assert!(rig.soon(&wake).is_some_and(|wake| wake <= rig.now.after(Duration::from_secs(1))));
    rig.pass(1);
    settle(rig);
    assert_eq!((there(rig, gone), there(rig, stays)), (false, true));
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), None, "nothing is left to wake up for");
}

fn what_is_kept_for_ever_stays(rig: &mut Rig) {
    let ever = QueueRetention { succeeded: Some(Keep::Forever), ..QueueRetention::default() };
    rig.queue_with("q", keeping(ever));
    let (stays, goes) = (ended(rig, succeeded()), ended(rig, failed(false, "")));
    rig.pass(5_000 * DAY);
    settle(rig);
    assert_eq!((there(rig, stays), there(rig, goes)), (true, false));
}

fn a_queue_says_its_own_times(rig: &mut Rig) {
    let hour = QueueRetention {
        succeeded: Some(Keep::For(Duration::from_secs(3_600))),
        ..QueueRetention::default()
    };
    rig.queue_with("short", keeping(hour));
    rig.queue("q", 1);
    let usual = ended(rig, succeeded());
    let short = rig.submit(job("short", Rig::KIND));
    rig.report(&short, succeeded()).unwrap();
    rig.pass(3_602);
    settle(rig);
    assert_eq!((there(rig, short.id), there(rig, usual)), (false, true));
}

fn shorter_times_hold_for_what_ended_before(rig: &mut Rig) {
    rig.queue("q", 1);
    let old = ended(rig, failed(false, ""));
    rig.pass(2 * DAY);
    settle(rig);
    assert!(there(rig, old));
    // The sweep for a day has gone past the job.
    let day =
        QueueRetention { failed: Some(Keep::For(Duration::from_secs(DAY))), ..QueueRetention::default() };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: keeping(day) }).unwrap();
    rig.pass(1);
    settle(rig);
    assert!(!there(rig, old));
}

fn the_servers_times_may_change_between_starts(rig: &mut Rig) {
    rig.queue("q", 1);
    let old = ended(rig, failed(false, ""));
    rig.live(2 * DAY);
    rig.crash();
    settle(rig);
    assert!(there(rig, old));
    rig.setup.retention = Retention { failed: Keep::For(Duration::from_secs(DAY)), ..Retention::default() };
    rig.crash();
    settle(rig);
    assert!(!there(rig, old), "how long the servers ran is known");
}

fn a_deleted_queues_jobs_go_by_the_servers_times(rig: &mut Rig) {
    let ever = QueueRetention { succeeded: Some(Keep::Forever), ..QueueRetention::default() };
    rig.queue_with("q", keeping(ever));
    let orphan = ended(rig, succeeded());
    rig.pass(3 * DAY);
    settle(rig);
    assert!(there(rig, orphan));
    rig.control(Control::DeleteQueue { name: "q".into() }).unwrap();
    rig.pass(1);
    settle(rig);
    assert!(!there(rig, orphan));
}

fn deletion_is_told_in_the_feed_and_forgets_the_request_a_day_later(rig: &mut Rig) {
    rig.queue("q", 1);
    let asked = |rig: &mut Rig| rig.offer(requested("id", "said", vec![job("q", Rig::KIND)]));
    let Receipt::Created { jobs } = asked(rig) else { panic!("not created") };
    let first: &Job = &jobs[0];
    rig.report(first, succeeded()).unwrap();
    rig.pass(DAY + 2);
    let applied = rig.tick();
    assert!(matches!(&applied.changes[..], [Change::Deleted(gone)] if gone.id == first.id), "{applied:?}");
    let gone_at = rig.end();
    assert!(matches!(asked(rig), Receipt::Gone { live: 0 }));
    assert_eq!(rig.changes(Position::default(), 9).floor, Position::default());
    // Request ids are forgotten by time alone: nothing else is deleted meanwhile.
    rig.pass(DAY + 2);
    settle(rig);
    assert_eq!(rig.changes(Position::default(), 9).floor, gone_at);
    assert!(matches!(asked(rig), Receipt::Created { .. }));
}

fn retention_goes_in_bounded_steps_and_keeps_up(rig: &mut Rig) {
    let none = QueueRetention { cancelled: Some(Keep::For(Duration::ZERO)), ..QueueRetention::default() };
    rig.queue_with("q", QueueSettings { retention: none, ..settings(0, 5_000) });
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2_000]);
    let controls = jobs.iter().map(|job| Control::Cancel(job.id)).collect();
    rig.apply(Batch { controls, ..Batch::default() });
    rig.pass(1);
    let deleted = |rig: &mut Rig, batch: Batch| {
        rig.apply(batch).changes.iter().filter(|change| matches!(change, Change::Deleted(_))).count()
    };
    let alone = deleted(rig, Batch::default());
    assert_eq!(alone, 512);
    let offers = vec![Offer { request: None, jobs: vec![job("q", "walk"); 10], waits: false }];
    let beside = deleted(rig, Batch { offers, ..Batch::default() });
    assert_eq!(beside, 32 + 2 * 10, "beside ten new jobs");
    settle(rig);
    assert_eq!(rig.all_jobs().len(), 10);
}

fn a_sweep_goes_on_after_a_crash(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 5_000));
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 700]);
    let controls = jobs.iter().map(|job| Control::Cancel(job.id)).collect();
    rig.apply(Batch { controls, ..Batch::default() });
    rig.pass(DAY + 2);
    rig.tick();
    assert_eq!(rig.all_jobs().len(), 700 - 512);
    rig.crash();
    settle(rig);
    assert_eq!(rig.all_jobs().len(), 0);
}

fn a_retried_job_is_kept_from_its_last_end_on(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = ended(rig, failed(false, ""));
    rig.pass(13 * DAY);
    settle(rig);
    rig.control(Control::Retry { id, request: None }).unwrap();
    rig.tick();
    rig.report(&rig.job(id), failed(false, "")).unwrap();
    rig.pass(13 * DAY);
    settle(rig);
    assert_eq!(rig.state(id), StateName::Failed);
    rig.pass(DAY + 2);
    settle(rig);
    assert!(!there(rig, id));
}

fn too_many_different_times_are_refused(rig: &mut Rig) {
    let own = |seconds| QueueRetention {
        failed: Some(Keep::For(Duration::from_secs(seconds))),
        ..QueueRetention::default()
    };
    // The server's own settings name two times.
    for number in 0..30 {
        rig.queue_with(&format!("q{number}"), keeping(own(number)));
    }
    let create = |rig: &mut Rig, seconds| {
        rig.control(Control::CreateQueue { name: "more".into(), settings: keeping(own(seconds)) })
    };
    assert_eq!(create(rig, 99).unwrap_err(), ControlRefusal::TooManyRetentionTimes(32));
    let update = Control::UpdateQueue { name: "q0".into(), settings: keeping(own(99)) };
    rig.control(update).unwrap();
    create(rig, 99).unwrap();
}
