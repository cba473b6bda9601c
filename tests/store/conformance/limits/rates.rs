//! Rates: how often jobs start.

use std::time::Duration;

use jobmill::{
    engine::{LimitAction, ReportBody},
    job::{JobId, StateName},
    settings::{LimitRule, LimitSpec, Rate},
};

use crate::store::{
    batch::{Batch, Report},
    build::{at, job},
    limits::{heavy, rate},
    rig::{Rig, claimed, failed, lease, succeeded},
};

both_stores!(
    the_burst_starts_at_once_and_then_a_job_in_each_interval,
    the_store_says_when_the_next_job_may_start,
    a_retry_takes_rate_again,
    an_attempt_that_never_started_gives_its_rate_back,
    a_restart_goes_on_by_the_wall_clock_and_saves_no_more_than_the_burst,
    a_clock_that_is_set_neither_bursts_nor_stalls,
    a_heavy_job_takes_so_many_tokens,
    a_paused_rate_starts_nothing_until_it_goes_on,
    a_job_that_ends_gives_no_rate_back,
    a_slow_rate_that_is_made_fast_owes_no_more_than_its_own_burst,
);

fn ids(jobs: &[std::sync::Arc<jobmill::job::Job>]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn started(rig: &mut Rig) -> Vec<JobId> {
    rig.settle().iter().map(|claim| claim.job.id).collect()
}

fn the_burst_starts_at_once_and_then_a_job_in_each_interval(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 2));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 6]));
    started(rig);
    let running = |rig: &Rig| jobs.iter().filter(|id| rig.state(**id) == StateName::Running).count();
    assert_eq!(running(rig), 2);
    rig.pass(9);
    assert_eq!(started(rig), []);
    rig.pass(1);
    assert_eq!(started(rig), [jobs[2]]);
    rig.pass(20);
    assert_eq!(started(rig), jobs[3..5]);
    rig.pass(100);
    assert_eq!(started(rig), jobs[5..]);
}

fn the_store_says_when_the_next_job_may_start(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 1));
    rig.submit_all(vec![job("q", Rig::KIND); 2]);
    started(rig);
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(10)));
    rig.until(at(10));
    assert_eq!(claimed(&rig.tick()).len(), 1);
}

fn a_retry_takes_rate_again(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 1_000, 2));
    let first = rig.submit(job("q", Rig::KIND));
    rig.report(&first, failed(true, "")).unwrap();
    rig.pass(60);
    assert_eq!(started(rig), [first.id]);
    let other = rig.submit(job("q", Rig::KIND)).id;
    assert_eq!((started(rig), rig.state(other)), (vec![], StateName::Queued));
}

fn an_attempt_that_never_started_gives_its_rate_back(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 1_000, 1));
    let first = rig.submit(job("q", Rig::KIND)).id;
    let other = rig.submit(job("q", Rig::KIND)).id;
    let delay = Some(Duration::from_secs(100));
    let report = Report { id: first, lease: lease(&rig.job(first)), body: ReportBody::Released { delay } };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    let mut next = claimed(&applied);
    next.extend(started(rig));
    assert_eq!(next, [other]);
}

fn a_restart_goes_on_by_the_wall_clock_and_saves_no_more_than_the_burst(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 3));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 20]));
    started(rig);
    rig.crash();
    assert_eq!(started(rig), [], "the tokens are as spent as before");
    rig.pass(10);
    rig.crash();
    assert_eq!(started(rig).len(), 1);
    // Time without a server counts, up to the burst.
    rig.pass(1_000);
    rig.crash();
    let next = started(rig);
    assert!(next.len() >= 3, "{next:?}");
    // The first ones come back from their backoff, too: only the number counts.
    assert_eq!(next.len(), 3);
    drop(jobs);
}

fn a_clock_that_is_set_neither_bursts_nor_stalls(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 5]));
    started(rig);
    rig.set_clock(at(100_000));
    assert_eq!(started(rig), []);
    rig.pass(10);
    assert_eq!(started(rig), [jobs[1]]);
    rig.set_clock(at(-100_000));
    assert_eq!(started(rig), []);
    rig.pass(10);
    assert_eq!(started(rig), [jobs[2]]);
}

fn a_heavy_job_takes_so_many_tokens(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 5));
    let jobs = [heavy("slow", 4, job("q", Rig::KIND)), heavy("slow", 3, job("q", Rig::KIND))];
    let jobs = ids(&rig.submit_all(jobs.into()));
    started(rig);
    rig.pass(19);
    assert_eq!(started(rig), []);
    rig.pass(1);
    assert_eq!(started(rig), jobs[1..]);
}

fn a_paused_rate_starts_nothing_until_it_goes_on(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(0, 10, 1));
    let waits = rig.submit(job("q", Rig::KIND)).id;
    rig.pass(1_000);
    assert_eq!(started(rig), []);
    rig.overridden("slow", "", LimitRule::Rate(Rate::new(1, Duration::from_secs(10))));
    assert_eq!(started(rig), [waits]);
}

fn a_job_that_ends_gives_no_rate_back(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("slow", rate(1, 10, 1));
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2]);
    rig.report(&rig.job(jobs[0].id), succeeded()).unwrap();
    assert_eq!(started(rig), []);
    rig.pass(10);
    assert_eq!(started(rig), [jobs[1].id]);
}

fn a_slow_rate_that_is_made_fast_owes_no_more_than_its_own_burst(rig: &mut Rig) {
    for (name, is_override) in [("slow", false), ("slower", true)] {
        rig.queue(name, 99);
        let spec = |count, seconds, burst| LimitSpec {
            queues: [name.to_owned()].into(),
            ..rate(count, seconds, burst)
        };
        rig.limited(name, spec(1, 1_000_000, 2));
        rig.submit_all(vec![job(name, Rig::KIND); 3]);
        let fast = spec(2, 1, 2);
        let action = match is_override {
            true => LimitAction::SetOverride { value: String::new(), rule: fast.rule },
            false => LimitAction::Update { spec: fast, etag: None },
        };
        rig.limit(name, action).unwrap();
        rig.crash();
        for _ in 0..5 {
            rig.settle();
            rig.pass(1);
        }
        let waits = rig.all_jobs().iter().filter(|job| job.state.name() == StateName::Queued).count();
        assert_eq!(waits, 0, "{name}");
    }
}
