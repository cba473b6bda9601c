//! Jobs whose attempts are released keep their place in line.

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, StateName},
};

use crate::store::{
    batch::Control,
    batch::{Batch, Report},
    build::{at, job, settings},
    rig::{Rig, claimed, lease, succeeded},
};

both_stores!(
    a_released_job_runs_before_those_that_were_behind_it,
    a_job_that_started_at_once_runs_before_those_that_came_after_it,
    a_job_that_is_released_again_still_keeps_its_place,
    released_jobs_keep_their_order_among_themselves,
    a_released_job_stays_behind_those_that_were_before_it,
    the_place_is_the_one_in_line_and_not_the_age_of_the_job,
    a_more_urgent_job_goes_before_a_released_one,
    a_released_job_keeps_its_place_after_a_crash,
);

fn release(job: &Job) -> Report {
    Report { id: job.id, lease: lease(job), body: ReportBody::Released { delay: None } }
}

/// Releases these jobs in one batch that claims nothing.
fn released(rig: &mut Rig, ids: &[JobId]) {
    let reports = ids.iter().map(|id| release(&rig.job(*id))).collect();
    rig.apply(Batch { reports, ..Batch::default() });
    assert!(ids.iter().all(|id| rig.state(*id) == StateName::Queued));
}

fn slots(rig: &mut Rig, consumers: u32) {
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(consumers, 1_000) };
    rig.apply(Batch { controls: vec![update], ..Batch::default() });
}

/// Creates a queue with one slot in which all of these jobs were ready before the first of them started.
fn in_line(rig: &mut Rig, jobs: Vec<NewJob>) -> Vec<JobId> {
    rig.queue("q", 0);
    let ids = rig.submit_all(jobs).iter().map(|job| job.id).collect();
    slots(rig, 1);
    ids
}

fn a_released_job_runs_before_those_that_were_behind_it(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", Rig::KIND); 3]);
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
    released(rig, &jobs[..1]);
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
    // The same holds where one batch releases and claims.
    let reports = vec![release(&rig.job(jobs[0]))];
    let applied = rig.apply(Batch { reports, claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [jobs[0]]);
}

fn a_job_that_started_at_once_runs_before_those_that_came_after_it(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(job("q", Rig::KIND)).id;
    let second = rig.submit(job("q", "walk")).id;
    assert_eq!((rig.state(first), rig.state(second)), (StateName::Running, StateName::Queued));
    released(rig, &[first]);
    let newest = rig.submit(job("q", Rig::KIND)).id;
    assert_eq!([first, second, newest].map(|id| rig.state(id)), {
        [StateName::Running, StateName::Queued, StateName::Queued]
    });
}

fn a_job_that_is_released_again_still_keeps_its_place(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", Rig::KIND); 2]);
    for _ in 0..3 {
        assert_eq!(claimed(&rig.tick()), [jobs[0]]);
        released(rig, &jobs[..1]);
    }
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
    rig.report(&rig.job(jobs[0]), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [jobs[1]]);
}

fn released_jobs_keep_their_order_among_themselves(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", Rig::KIND); 4]);
    slots(rig, 3);
    assert_eq!(claimed(&rig.tick()), jobs[..3]);
    // The order of the reports does not matter.
    released(rig, &[jobs[2], jobs[0], jobs[1]]);
    slots(rig, 1);
    for id in jobs {
        assert_eq!(claimed(&rig.tick()), [id]);
        rig.report(&rig.job(id), succeeded()).unwrap();
    }
}

fn a_released_job_stays_behind_those_that_were_before_it(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", "nobody"), job("q", Rig::KIND), job("q", Rig::KIND)]);
    assert_eq!(claimed(&rig.tick()), [jobs[1]]);
    released(rig, &jobs[1..2]);
    // The next start has a handler for the first job.
    rig.setup.served_kinds.push("nobody".into());
    rig.crash();
    for id in jobs {
        assert_eq!(claimed(&rig.tick()), [id]);
        rig.report(&rig.job(id), succeeded()).unwrap();
    }
}

fn the_place_is_the_one_in_line_and_not_the_age_of_the_job(rig: &mut Rig) {
    let scheduled = NewJob { run_time: Some(at(10).into()), ..job("q", Rig::KIND) };
    let jobs = in_line(rig, vec![scheduled, job("q", Rig::KIND)]);
    slots(rig, 0);
    rig.until(at(10));
    rig.tick();
    slots(rig, 2);
    assert_eq!(claimed(&rig.tick()), [jobs[1], jobs[0]]);
    released(rig, &jobs);
    slots(rig, 1);
    assert_eq!(claimed(&rig.tick()), [jobs[1]]);
}

fn a_more_urgent_job_goes_before_a_released_one(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", Rig::KIND); 2]);
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
    released(rig, &jobs[..1]);
    let urgent = rig.submit(NewJob { priority: 1, ..job("q", Rig::KIND) });
    assert_eq!(urgent.state.name(), StateName::Running);
    rig.report(&urgent, succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
}

fn a_released_job_keeps_its_place_after_a_crash(rig: &mut Rig) {
    let jobs = in_line(rig, vec![job("q", Rig::KIND); 2]);
    assert_eq!(claimed(&rig.tick()), [jobs[0]]);
    rig.crash();
    // The crash ends and counts the first attempt; the second one is released.
    rig.pass(60);
    slots(rig, 2);
    assert_eq!(claimed(&rig.tick()), [jobs[1], jobs[0]]);
    released(rig, &jobs);
    slots(rig, 1);
    rig.crash();
    assert_eq!(claimed(&rig.tick()), [jobs[1]]);
}
