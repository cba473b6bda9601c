//! Jobs that ran as code of the server's process when it crashed: they run one at a time, and hold up no other.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Job, JobId, RetryPolicy, StateName},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{job, settings},
    rig::{Rig, claimed, failed, lease, succeeded},
};

both_stores!(
    jobs_that_ran_here_at_a_crash_are_run_one_at_a_time,
    other_jobs_pass_the_suspects,
    a_suspect_that_ran_alone_at_the_next_crash_has_caused_it,
    a_suspect_is_free_again_once_its_attempt_has_ended,
    commands_are_no_suspects,
    a_suspect_that_starts_again_at_once_holds_no_other_up,
    a_suspect_that_never_started_stays_one,
    any_number_of_suspects_holds_no_other_job_up,
    suspects_run_one_at_a_time_and_all_of_them_do_whatever_happens,
);

fn steady() -> NewJob {
    NewJob { retry: RetryPolicy::DEFAULT.jitter(0.0), ..job("q", Rig::KIND) }
}

fn snoozed(seconds: u64) -> ReportBody {
    ReportBody::Snoozed { delay: Duration::from_secs(seconds), pause: None, tail: "later".into() }
}

/// Starts a rig whose handlers are code of the server's process, with three running jobs, and crashes it.
fn crashed(rig: &mut Rig) -> Vec<JobId> {
    rig.setup.native_kinds = vec![Rig::KIND.into()];
    rig.crash();
    rig.queue("q", 3);
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::from_secs(1)]);
    let jobs = rig.submit_all(vec![NewJob { max_attempts: 100, retry, ..steady() }; 3]);
    rig.crash();
    rig.pass(1);
    jobs.iter().map(|job| job.id).collect()
}

fn jobs_that_ran_here_at_a_crash_are_run_one_at_a_time(rig: &mut Rig) {
    let ids = crashed(rig);
    for id in &ids {
        assert_eq!(claimed(&rig.tick()), [*id]);
        assert_eq!(claimed(&rig.tick()), []);
        rig.report(&rig.job(*id), succeeded()).unwrap();
    }
    let others = rig.submit_all(vec![steady(); 3]);
    assert!(others.iter().all(|job| job.state.name() == StateName::Running));
}

fn other_jobs_pass_the_suspects(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    let others = rig.submit_all(vec![steady(); 3]);
    let states: Vec<_> = others.iter().map(|job| job.state.name()).collect();
    assert_eq!(states, [StateName::Running, StateName::Running, StateName::Queued], "two slots are free");
    // Also if the suspects are all that is read first.
    rig.report(&rig.job(others[0].id), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [others[2].id]);
    assert_eq!(rig.state(ids[1]), StateName::Queued);
}

fn a_suspect_that_ran_alone_at_the_next_crash_has_caused_it(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    assert_eq!(rig.state(ids[0]), StateName::Running);
    rig.crash();
    let losses = |rig: &Rig| ids.iter().map(|id| rig.job(*id).rare().process_losses).collect::<Vec<_>>();
    assert_eq!(losses(rig), [1, 0, 0]);
    // The others come first now, one at a time, while it backs off.
    rig.tick();
    assert_eq!(rig.state(ids[1]), StateName::Running);
    rig.crash();
    assert_eq!(losses(rig), [1, 1, 0]);
}

fn a_suspect_is_free_again_once_its_attempt_has_ended(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    rig.report(&rig.job(ids[0]), failed(true, "")).unwrap();
    rig.tick();
    rig.pass(1);
    // The second one runs apart from the third; the first is no suspect any more.
    assert_eq!(claimed(&rig.tick()), [ids[0]]);
    assert_eq!(rig.state(ids[1]), StateName::Running);
    assert_eq!(rig.state(ids[2]), StateName::Queued);
    rig.control(Control::Delete(ids[2])).unwrap();
    rig.crash();
    assert_eq!(rig.job(ids[0]).rare().process_losses, 0);
    assert_eq!(rig.job(ids[1]).rare().process_losses, 1);
}

fn commands_are_no_suspects(rig: &mut Rig) {
    rig.queue("q", 3);
    let jobs = rig.submit_all(vec![
        NewJob {
            retry: RetryPolicy::DEFAULT.delays([Duration::from_secs(1)]),
            ..steady()
        };
        3
    ]);
    rig.crash();
    rig.pass(2);
    assert_eq!(rig.tick().claims.len(), jobs.len());
}

fn a_suspect_that_starts_again_at_once_holds_no_other_up(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    // The report of its end and its next start are one batch.
    let running = rig.job(ids[0]);
    let report = Report { id: ids[0], lease: lease(&running), body: snoozed(0) };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert!(claimed(&applied).contains(&ids[0]), "it is a suspect no longer");
    rig.report(&rig.job(ids[0]), succeeded()).unwrap();
    for id in &ids[1..] {
        rig.tick();
        assert_eq!(rig.state(*id), StateName::Running);
        rig.report(&rig.job(*id), succeeded()).unwrap();
    }
}

fn a_suspect_that_never_started_stays_one(rig: &mut Rig) {
    let ids = crashed(rig);
    for _ in 0..2 {
        assert_eq!(claimed(&rig.tick()), [ids[0]]);
        rig.report(&rig.job(ids[0]), ReportBody::Released { delay: None }).unwrap();
    }
    assert_eq!(claimed(&rig.tick()), [ids[0]]);
    rig.crash();
    assert_eq!(rig.job(ids[0]).rare().process_losses, 1);
}

fn any_number_of_suspects_holds_no_other_job_up(rig: &mut Rig) {
    rig.setup.native_kinds = vec![Rig::KIND.into(), "walk".into()];
    rig.crash();
    rig.queue_with("q", settings(2_200, 10_000));
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::from_secs(1)]);
    let kinds = [Rig::KIND, "walk"];
    let jobs = (0..2_100).map(|n| NewJob { kind: kinds[n % 2].into(), retry: retry.clone(), ..steady() });
    let suspects = rig.submit_all(jobs.collect());
    rig.crash();
    rig.live(5);
    let state = |rig: &Rig, state| rig.all_jobs().iter().filter(|job| job.state.name() == state).count();
    assert_eq!((state(rig, StateName::Running), state(rig, StateName::Queued)), (1, 2_099));
    let others = rig.submit_all(kinds.map(|kind| NewJob { kind: kind.into(), ..steady() }).into());
    rig.live(1);
    for other in others {
        assert_eq!(rig.state(other.id), StateName::Running);
    }
    rig.report(&rig.job(suspects[0].id), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [suspects[1].id]);
}

fn suspects_run_one_at_a_time_and_all_of_them_do_whatever_happens(rig: &mut Rig) {
    rig.setup.native_kinds = vec![Rig::KIND.into()];
    rig.crash();
    rig.queue("q", 3);
    rig.queue("r", 2);
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::ZERO, Duration::from_secs(1)]);
    let mut dice = StdRng::seed_from_u64(7);
    let mut suspects: HashSet<JobId> = HashSet::new();
    let mut crashes = 0;
    for step in 0..600 {
        let running: Vec<Job> = running(rig);
        match dice.random_range(0..12) {
            0 => {
                rig.crash();
                let survivors = running.iter().map(|job| job.id);
                suspects.extend(survivors.filter(|id| !rig.state(*id).is_done()));
                crashes += 1;
            }
            1..=3 => {
                let queue = if dice.random_bool(0.5) { "q" } else { "r" };
                rig.submit(NewJob {
                    queue: queue.into(),
                    priority: dice.random_range(-1..=1),
                    max_attempts: 50,
                    retry: retry.clone(),
                    ..steady()
                });
            }
            4..=7 if !running.is_empty() => {
                let job = &running[dice.random_range(0..running.len())];
                let body = match dice.random_range(0..5) {
                    0 => succeeded(),
                    1 => failed(true, ""),
                    2 => snoozed(0),
                    3 => ReportBody::Released { delay: None },
                    _ => ReportBody::Released { delay: Some(Duration::from_secs(1)) },
                };
                if !matches!(body, ReportBody::Released { .. }) {
                    suspects.remove(&job.id);
                }
                let report = Report { id: job.id, lease: lease(job), body };
                let claim = dice.random_bool(0.5);
                rig.apply(Batch { reports: vec![report], claim, ..Batch::default() });
            }
            8 => {
                let name = "q".into();
                rig.control(Control::SetPaused { name, paused: dice.random_bool(0.5) }).unwrap();
            }
            9 => {
                let jobs = rig.all_jobs();
                if !jobs.is_empty() {
                    let id = jobs[dice.random_range(0..jobs.len())].id;
                    let (retry, cancel) = (Control::Retry { id, request: None }, Control::Cancel(id));
                    // It may be in a state in which that is refused.
                    let _ = rig.control(match dice.random_range(0..3) {
                        0 => Control::Delete(id),
                        1 => retry,
                        _ => cancel,
                    });
                }
            }
            10 => rig.pass(1),
            _ => {
                rig.tick();
            }
        }
        let states: HashMap<JobId, StateName> =
            rig.all_jobs().iter().map(|job| (job.id, job.state.name())).collect();
        suspects.retain(|id| states.get(id).is_some_and(|state| !state.is_done()));
        let at_once = running_of(rig).filter(|id| suspects.contains(id)).count();
        assert!(at_once <= 1, "step {step}: {at_once} suspects run");
    }
    assert!(crashes > 20 && !suspects.is_empty());
    rig.control(Control::SetPaused { name: "q".into(), paused: false }).unwrap();
    for _ in 0..1_000 {
        rig.pass(1);
        rig.tick();
        for job in running(rig) {
            rig.report(&job, succeeded()).unwrap();
        }
        if rig.all_jobs().iter().all(|job| job.state.is_done()) {
            return;
        }
    }
    panic!("some never run");
}

fn running(rig: &Rig) -> Vec<Job> {
    let jobs = rig.all_jobs().into_iter().filter(|job| job.state.lease().is_some());
    jobs.map(|job| Job::clone(&job)).collect()
}

fn running_of(rig: &Rig) -> impl Iterator<Item = JobId> {
    running(rig).into_iter().map(|job| job.id)
}
