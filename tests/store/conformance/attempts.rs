//! Attempts: leases, results, output tails and the history.

use std::sync::Arc;

use bytes::Bytes;
use jobmill::{
    engine::transition::Refusal,
    engine::{NewJob, ReportBody},
    job::{Progress, StateName},
};

use crate::store::{
    build::job,
    rig::{Rig, failed, lease, returned, succeeded},
};

both_stores!(
    a_stale_lease_changes_nothing,
    a_report_of_an_unknown_job_is_refused,
    leases_only_grow,
    a_failed_attempt_is_retried_after_a_growing_delay,
    the_last_attempt_ends_the_job,
    a_failure_for_good_ends_the_job,
    a_released_attempt_does_not_count,
    an_attempt_that_is_released_for_later_does_not_count_either,
    progress_is_a_change_like_others,
    results_and_tails_are_kept,
    an_attempt_is_not_shown_with_anothers_tail,
    the_history_has_every_attempt,
);

fn a_stale_lease_changes_nothing(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(job("q", Rig::KIND));
    rig.report(&first, failed(true, "")).unwrap();
    rig.pass(60);
    rig.tick();
    let second = rig.job(first.id);
    assert_eq!(second.attempt, 2);
    let end = rig.end();
    let progress = Arc::new(Progress { fraction: Some(0.5), ..Progress::default() });
    for body in [
        ReportBody::Progress(progress),
        returned("x", "y"),
        failed(false, "z"),
        ReportBody::Released { delay: None },
    ] {
        assert_eq!(rig.report(&first, body), Err(Refusal::LeaseLost(StateName::Running)));
    }
    assert_eq!((rig.end(), rig.job(first.id)), (end, second.clone()));
    assert_eq!((rig.whole(first.id).result, rig.whole(first.id).output_tail), (Bytes::new(), String::new()));
    rig.report(&second, succeeded()).unwrap();
    assert_eq!(rig.report(&second, succeeded()), Err(Refusal::LeaseLost(StateName::Succeeded)));
}

fn a_report_of_an_unknown_job_is_refused(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let nobody = "0000000000001".parse().unwrap();
    assert!(matches!(rig.report_under(nobody, lease(&running), succeeded()), Err(Refusal::LeaseLost(_))));
}

fn leases_only_grow(rig: &mut Rig) {
    rig.queue("q", 2);
    let mut last = None;
    for round in 0..5 {
        rig.submit_all(vec![job("q", Rig::KIND); 2]);
        for running in rig.all_jobs().iter().filter(|job| job.state.lease().is_some()) {
            assert!(Some(lease(running)) > last);
            last = Some(lease(running));
            let body = if round % 2 == 0 { succeeded() } else { ReportBody::Released { delay: None } };
            rig.report(running, body).unwrap();
        }
        rig.crash();
    }
    assert!(last.unwrap().as_i64() >= 10);
}

fn a_failed_attempt_is_retried_after_a_growing_delay(rig: &mut Rig) {
    rig.queue("q", 1);
    let mut retry = jobmill::job::RetryPolicy::DEFAULT;
    retry.jitter = 0.0;
    let id = rig.submit(NewJob { retry, max_attempts: 4, ..job("q", Rig::KIND) }).id;
    for delay in [1, 2, 4] {
        rig.report(&rig.job(id), failed(true, "")).unwrap();
        let waiting = rig.job(id);
        assert_eq!(waiting.state.due(), Some(rig.now.after(std::time::Duration::from_secs(delay))));
        assert_eq!(waiting.failure.unwrap().message, "no");
        rig.pass(delay);
        assert_eq!(rig.tick().claims.len(), 1);
    }
}

fn the_last_attempt_ends_the_job(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = rig.submit(NewJob { max_attempts: 2, ..job("q", Rig::KIND) }).id;
    rig.report(&rig.job(id), failed(true, "")).unwrap();
    rig.pass(10);
    rig.tick();
    rig.report(&rig.job(id), failed(true, "")).unwrap();
    let ended = rig.job(id);
    assert_eq!((ended.state.name(), ended.attempt, ended.ended), (StateName::Failed, 2, Some(rig.now)));
}

fn a_failure_for_good_ends_the_job(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    rig.report(&running, failed(false, "")).unwrap();
    assert_eq!(rig.state(running.id), StateName::Failed);
}

fn a_released_attempt_does_not_count(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    rig.report(&first, ReportBody::Released { delay: None }).unwrap();
    let back = rig.job(first.id);
    assert_eq!((back.state.name(), back.counted_attempts(), back.started), (StateName::Queued, 0, None));
    rig.tick();
    let again = rig.job(first.id);
    assert_eq!((again.state.name(), again.counted_attempts()), (StateName::Running, 1));
    assert!(lease(&again) > lease(&first), "the first one may not report any more");
    assert_eq!(rig.report(&first, succeeded()), Err(Refusal::LeaseLost(StateName::Running)));
    rig.report(&again, succeeded()).unwrap();
    assert_eq!(rig.whole(first.id).attempts.len(), 1);
}

fn an_attempt_that_is_released_for_later_does_not_count_either(rig: &mut Rig) {
    rig.queue("q", 1);
    let retry = jobmill::job::RetryPolicy { jitter: 0.0, ..jobmill::job::RetryPolicy::DEFAULT };
    let first = rig.submit(NewJob { max_attempts: 1, retry, ..job("q", Rig::KIND) });
    let next = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    let delay = Some(std::time::Duration::from_secs(2));
    rig.report(&first, ReportBody::Released { delay }).unwrap();
    let back = rig.job(first.id);
    assert_eq!((back.state.name(), back.counted_attempts(), back.started), (StateName::BackingOff, 0, None));
    assert_eq!(back.state.due(), Some(rig.now.after(std::time::Duration::from_secs(2))));
    // The job's slot is free for others meanwhile.
    rig.tick();
    assert_eq!(rig.state(next.id), StateName::Running);
    rig.report(&rig.job(next.id), succeeded()).unwrap();
    rig.crash();
    rig.pass(2);
    rig.tick();
    let again = rig.job(first.id);
    assert_eq!((again.state.name(), again.counted_attempts()), (StateName::Running, 1));
}

fn progress_is_a_change_like_others(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let progress = Arc::new(Progress { fraction: Some(0.25), text: "é".into(), step: "s".into() });
    rig.report(&running, ReportBody::Progress(Arc::clone(&progress))).unwrap();
    let told = rig.job(running.id);
    assert_eq!((told.progress, told.revision, told.position), (Some(progress), 2, rig.end()));
    assert_eq!(told.state, running.state);
    rig.report(&running, failed(true, "")).unwrap();
    rig.pass(60);
    rig.tick();
    assert_eq!(rig.job(running.id).progress, None, "a new attempt begins anew");
}

fn results_and_tails_are_kept(rig: &mut Rig) {
    rig.queue("q", 3);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 3]);
    let large = "r".repeat(1 << 20);
    rig.report(&jobs[0], returned(&large, "last lines\n")).unwrap();
    rig.report(&jobs[1], failed(false, "why")).unwrap();
    rig.report(&jobs[2], succeeded()).unwrap();
    rig.crash();
    let whole = jobs.iter().map(|job| rig.whole(job.id)).collect::<Vec<_>>();
    let result = whole[0].output().unwrap();
    assert_eq!((&result.bytes[..], &*result.info.media_type), (large.as_bytes(), "text/plain"));
    assert_eq!(
        (whole[0].job.result.as_ref().unwrap().bytes, rig.result(jobs[0].id).len()),
        (1 << 20, 1 << 20)
    );
    assert_eq!(whole[0].output_tail, "last lines\n");
    assert_eq!((whole[1].output(), &*whole[1].output_tail), (None, "why"));
    assert_eq!((whole[2].output(), &*whole[2].output_tail), (None, ""));
}

fn an_attempt_is_not_shown_with_anothers_tail(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = rig.submit(job("q", Rig::KIND)).id;
    rig.report(&rig.job(id), failed(true, "first")).unwrap();
    assert_eq!(rig.whole(id).output_tail, "first");
    rig.pass(60);
    rig.tick();
    // The second attempt dies with its server, which loses its output.
    rig.crash();
    assert_eq!(rig.whole(id).output_tail, "");
    rig.pass(60);
    rig.tick();
    rig.report(&rig.job(id), succeeded()).unwrap();
    assert_eq!((rig.state(id), rig.whole(id).output_tail), (StateName::Succeeded, String::new()));
    // An attempt without output after one with output.
    let id = rig.submit(job("q", Rig::KIND)).id;
    rig.report(&rig.job(id), failed(true, "first")).unwrap();
    rig.pass(60);
    rig.tick();
    rig.report(&rig.job(id), succeeded()).unwrap();
    assert_eq!(rig.whole(id).output_tail, "");
}

fn the_history_has_every_attempt(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = rig.submit(job("q", Rig::KIND)).id;
    let mut expected = Vec::new();
    let history = |rig: &Rig| -> Vec<_> {
        let attempts = rig.whole(id).attempts.into_iter();
        attempts.map(|one| (one.number, one.started, one.ended, one.failure.is_some())).collect()
    };
    for number in [1, 2] {
        let started = rig.now;
        expected.push((number, started, None, false));
        assert_eq!(history(rig), expected);
        rig.pass(5);
        rig.report(&rig.job(id), failed(true, "")).unwrap();
        expected.pop();
        expected.push((number, started, Some(rig.now), true));
        assert_eq!(history(rig), expected);
        rig.pass(60);
        rig.tick();
    }
    let started = rig.now;
    rig.pass(5);
    rig.report(&rig.job(id), succeeded()).unwrap();
    expected.push((3, started, Some(rig.now), false));
    assert_eq!(history(rig), expected);
    rig.crash();
    assert_eq!(history(rig), expected);
}
