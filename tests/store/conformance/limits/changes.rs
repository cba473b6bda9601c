//! Changes of limits while jobs wait and run.

use std::collections::BTreeMap;

use jobmill::{
    engine::{ControlRefusal, LimitAction, LimitRefusal, NewJob, OfferRefusal, ReportBody},
    job::{JobId, StateName},
    settings::{LimitKey, LimitRule, LimitSpec, Rate},
};

use crate::store::{
    batch::{Batch, Report},
    build::{at, job, request},
    limits::{all, by_tenant, heavy, of, rate},
    rig::{Rig, claimed, lease, offer, refused, succeeded},
};

both_stores!(
    running_jobs_count_under_a_limit_that_is_created_later,
    a_lowered_limit_ends_nothing_and_starts_nothing_until_there_is_a_place,
    a_raised_limit_starts_those_that_wait,
    a_value_has_a_rule_of_its_own_for_as_long_as_it_is_overridden,
    a_limit_of_0_is_paused_and_its_jobs_wait,
    overrides_and_limits_survive_a_crash,
    the_jobs_of_a_deleted_limit_start,
    jobs_that_waited_in_one_lane_wait_apart_under_a_new_limit,
    a_limit_may_get_another_key_while_jobs_wait,
    a_limit_is_refused_where_it_contradicts_what_is_there,
    a_repeated_request_changes_a_limit_once,
    the_weight_of_a_job_is_checked_as_it_comes,
    a_job_that_has_become_too_heavy_waits_and_holds_up_no_other,
    the_limits_of_the_file_are_those_of_the_file,
    a_queue_that_becomes_fair_sorts_its_lanes_anew,
    an_attempt_that_is_snoozed_may_pause_its_value_of_a_limit,
    a_pause_survives_a_crash_and_a_change_of_the_override_ends_it,
    a_pause_of_a_limit_that_does_not_concern_the_job_changes_nothing,
    jobs_of_a_rate_that_was_slow_start_at_the_pace_of_the_new_one,
    a_limit_that_is_new_in_the_file_fills_no_other_ones_rate,
);

fn ids(jobs: &[std::sync::Arc<jobmill::job::Job>]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn running(rig: &Rig) -> Vec<JobId> {
    let jobs = rig.all_jobs();
    jobs.iter().filter(|job| job.state.name() == StateName::Running).map(|job| job.id).collect()
}

fn end(rig: &mut Rig, id: JobId) -> Vec<JobId> {
    let report = Report { id, lease: lease(&rig.job(id)), body: succeeded() };
    let mut started = claimed(&rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() }));
    started.extend(rig.settle().iter().map(|claim| claim.job.id));
    started
}

fn update(rig: &mut Rig, name: &str, spec: LimitSpec) {
    rig.limit(name, LimitAction::Update { spec, etag: None }).unwrap();
    rig.settle();
}

fn running_jobs_count_under_a_limit_that_is_created_later(rig: &mut Rig) {
    rig.queue("q", 9);
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b")]));
    rig.limited("each", by_tenant(2));
    let more = ids(&rig.submit_all(vec![of("a"), of("b")]));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[2], more[1]]);
    assert_eq!(end(rig, jobs[0]), [more[0]]);
}

fn a_lowered_limit_ends_nothing_and_starts_nothing_until_there_is_a_place(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("few", all(4));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 6]));
    rig.settle();
    update(rig, "few", all(2));
    assert_eq!(running(rig), jobs[..4]);
    assert_eq!(end(rig, jobs[0]), []);
    assert_eq!(end(rig, jobs[1]), []);
    assert_eq!(end(rig, jobs[2]), [jobs[4]]);
}

fn a_raised_limit_starts_those_that_wait(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 6]));
    rig.settle();
    update(rig, "few", all(4));
    assert_eq!(running(rig), jobs[..4]);
}

fn a_value_has_a_rule_of_its_own_for_as_long_as_it_is_overridden(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("each", by_tenant(1));
    rig.overridden("each", "42", LimitRule::Running(3));
    rig.overridden("each", "43", LimitRule::Running(0));
    let mut jobs = vec![of("42"); 5];
    jobs.extend(vec![of("43"); 2]);
    jobs.extend(vec![of("44"); 2]);
    let jobs = ids(&rig.submit_all(jobs));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[2], jobs[7]]);
    rig.limit("each", LimitAction::DeleteOverride { value: "43".into() }).unwrap();
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[1], jobs[2], jobs[5], jobs[7]]);
    rig.limit("each", LimitAction::DeleteOverride { value: "42".into() }).unwrap();
    assert_eq!(end(rig, jobs[0]), []);
    assert_eq!(end(rig, jobs[1]), []);
    assert_eq!(end(rig, jobs[2]), [jobs[3]]);
}

fn a_limit_of_0_is_paused_and_its_jobs_wait(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("none", all(0));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 3]));
    assert_eq!(rig.settle().len(), 0);
    update(rig, "none", all(9));
    assert_eq!(running(rig), jobs);
}

fn overrides_and_limits_survive_a_crash(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("each", by_tenant(1));
    rig.overridden("each", "b", LimitRule::Running(2));
    rig.crash();
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b"), of("b"), of("b")]));
    rig.settle();
    assert_eq!(running(rig), [jobs[0], jobs[2], jobs[3]]);
}

fn the_jobs_of_a_deleted_limit_start(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("few", all(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 4]));
    rig.settle();
    rig.limit("few", LimitAction::Delete).unwrap();
    rig.settle();
    assert_eq!(running(rig), jobs);
    // Another one of that name begins anew.
    rig.limited("few", all(4));
    rig.submit(job("q", Rig::KIND));
    rig.settle();
    assert_eq!(running(rig), jobs);
}

fn jobs_that_waited_in_one_lane_wait_apart_under_a_new_limit(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("few", all(0));
    let mut jobs = vec![of("a"); 300];
    jobs.push(of("b"));
    let jobs = ids(&rig.submit_all(jobs));
    rig.settle();
    rig.limited("each", by_tenant(1));
    rig.settle();
    update(rig, "few", all(99));
    assert_eq!(running(rig), [jobs[0], jobs[300]]);
}

fn a_limit_may_get_another_key_while_jobs_wait(rig: &mut Rig) {
    rig.queue("q", 99);
    rig.limited("one", all(1));
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b"), of("b")]));
    rig.settle();
    assert_eq!(running(rig), jobs[..1]);
    update(rig, "one", by_tenant(1));
    assert_eq!(running(rig), [jobs[0], jobs[2]]);
    update(rig, "one", all(2).by(LimitKey::Queue));
    assert_eq!(end(rig, jobs[0]), [jobs[1]]);
}

fn a_limit_is_refused_where_it_contradicts_what_is_there(rig: &mut Rig) {
    let refusal = |done: Result<_, ControlRefusal>| match done.unwrap_err() {
        ControlRefusal::Limit(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let gone = || LimitRefusal::NotFound("x".into());
    let update = |spec, etag: &str| LimitAction::Update { spec, etag: Some(etag.into()) };
    assert_eq!(refusal(rig.limit("x", update(all(1), "1"))), gone());
    assert_eq!(refusal(rig.limit("x", LimitAction::Delete)), gone());
    let set = |rule| LimitAction::SetOverride { value: "a".into(), rule };
    assert_eq!(refusal(rig.limit("x", set(LimitRule::Running(1)))), gone());
    rig.limited("x", by_tenant(1));
    assert_eq!(refusal(rig.limit("x", LimitAction::Create(all(1)))), LimitRefusal::Exists("x".into()));
    let other = LimitRule::Rate(Rate::new(1, std::time::Duration::from_secs(1)));
    assert_eq!(refusal(rig.limit("x", set(other))), LimitRefusal::OtherSort("x".into()));
    assert!(matches!(refusal(rig.limit("x", update(all(1), "no"))), LimitRefusal::EtagMismatch { .. }));
    let delete = || LimitAction::DeleteOverride { value: "a".into() };
    assert!(matches!(refusal(rig.limit("x", delete())), LimitRefusal::OverrideNotFound { .. }));
    rig.overridden("x", "a", LimitRule::Running(7));
    let to_rate = LimitAction::Update { spec: rate(1, 1, 1), etag: None };
    assert_eq!(refusal(rig.limit("x", to_rate)), LimitRefusal::OtherSort("x".into()));
    rig.limit("x", delete()).unwrap();
    rig.limit("x", LimitAction::Update { spec: rate(1, 1, 1), etag: None }).unwrap();
}

fn a_repeated_request_changes_a_limit_once(rig: &mut Rig) {
    use crate::store::batch::{Control, ControlDone};
    let create = || {
        let action = LimitAction::Create(all(1));
        Control::Repeatable(request("r", "said"), Box::new(Control::Limit { name: "x".into(), action }))
    };
    assert!(matches!(rig.control(create()).unwrap(), ControlDone::Limit(done) if !done.is_repeat));
    rig.limit("x", LimitAction::Update { spec: all(2), etag: None }).unwrap();
    let ControlDone::Limit(again) = rig.control(create()).unwrap() else { panic!("a limit") };
    assert!(again.is_repeat);
    assert_eq!(again.limit.unwrap().spec, all(2));
}

fn the_weight_of_a_job_is_checked_as_it_comes(rig: &mut Rig) {
    rig.queue("q", 9);
    let offered = |rig: &mut Rig, job| refused(rig.offer(offer(vec![job])));
    let unknown = offered(rig, heavy("tokens", 2, job("q", Rig::KIND)));
    assert_eq!(unknown, OfferRefusal::WeightOfUnknownLimit { limit: "tokens".into(), index: None });
    rig.limited("tokens", by_tenant(5));
    rig.overridden("tokens", "b", LimitRule::Running(9));
    let too_heavy = offered(rig, heavy("tokens", 6, of("a")));
    assert!(matches!(too_heavy, OfferRefusal::TooHeavy { weight: 6, max: 5, .. }), "{too_heavy:?}");
    rig.submit(heavy("tokens", 6, of("b")));
    // Where the limit does not concern it, a job may weigh what it says.
    rig.submit(heavy("tokens", 600, job("q", Rig::KIND)));
    // A paused value takes jobs, which wait.
    rig.overridden("tokens", "c", LimitRule::Running(0));
    rig.submit(heavy("tokens", 6, of("c")));
}

fn a_job_that_has_become_too_heavy_waits_and_holds_up_no_other(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("tokens", all(5));
    let first = rig.submit(heavy("tokens", 5, job("q", Rig::KIND))).id;
    let heavy_one = rig.submit(heavy("tokens", 4, job("q", Rig::KIND))).id;
    let light = rig.submit(job("q", Rig::KIND)).id;
    rig.settle();
    update(rig, "tokens", all(3));
    assert_eq!(end(rig, first), [light]);
    assert_eq!(rig.state(heavy_one), StateName::Queued);
    update(rig, "tokens", all(5));
    assert_eq!(rig.state(heavy_one), StateName::Running);
}

fn the_limits_of_the_file_are_those_of_the_file(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.setup.limits = BTreeMap::from([("one".to_owned(), all(1)), ("two".to_owned(), by_tenant(1))]);
    rig.crash();
    rig.overridden("two", "b", LimitRule::Running(0));
    let refusal = rig.limit("one", LimitAction::Delete).unwrap_err();
    assert_eq!(refusal, LimitRefusal::Declared("one".into()).into());
    let jobs = ids(&rig.submit_all(vec![of("a"), of("b"), of("c")]));
    rig.settle();
    assert_eq!(running(rig), jobs[..1]);
    rig.setup.limits.remove("one");
    rig.crash();
    rig.settle();
    assert_eq!(running(rig), jobs[2..], "b is paused still, and a backs off");
}

fn a_queue_that_becomes_fair_sorts_its_lanes_anew(rig: &mut Rig) {
    use jobmill::settings::QueueSettings;

    use crate::store::{batch::Control, build::settings};
    rig.queue("q", 9);
    rig.limited("few", all(1));
    let mut jobs = vec![of("a"); 40];
    jobs.push(of("b"));
    let jobs = ids(&rig.submit_all(jobs));
    rig.settle();
    let fair = QueueSettings { fair_by: Some("tenant".into()), ..settings(9, 1_000) };
    rig.control(Control::UpdateQueue { name: "q".into(), settings: fair }).unwrap();
    rig.settle();
    let mut started = end(rig, jobs[0]);
    let next = started[0];
    started.extend(end(rig, next));
    assert!(started.contains(&jobs[40]), "{started:?}");
}

/// Ends an attempt by a snooze that pauses a limit.
fn snooze(rig: &mut Rig, id: JobId, limit: &str, seconds: u64) {
    let delay = std::time::Duration::from_secs(seconds);
    let body = ReportBody::Snoozed { delay, pause: Some(limit.into()), tail: String::new() };
    let report = Report { id, lease: lease(&rig.job(id)), body };
    rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    rig.settle();
}

fn an_attempt_that_is_snoozed_may_pause_its_value_of_a_limit(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("api", by_tenant(1));
    let jobs = ids(&rig.submit_all(vec![of("a"), of("a"), of("b"), of("b")]));
    rig.settle();
    snooze(rig, jobs[0], "api", 30);
    assert_eq!(running(rig), [jobs[2]], "nothing of `a`, and all of `b`");
    assert_eq!(rig.job(jobs[0]).counted_attempts(), 0);
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(30)));
    rig.pass(29);
    rig.settle();
    assert_eq!(running(rig), [jobs[2]]);
    rig.pass(1);
    rig.settle();
    assert_eq!(running(rig).len(), 2);
    // A shorter pause does not end a longer one.
    let again = running(rig)[0];
    snooze(rig, again, "api", 50);
    snooze(rig, jobs[2], "api", 9);
    rig.pass(10);
    rig.settle();
    assert_eq!(running(rig).len(), 1);
}

fn a_pause_survives_a_crash_and_a_change_of_the_override_ends_it(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("api", rate(100, 1, 100));
    let first = rig.submit(job("q", Rig::KIND)).id;
    let next = rig.submit(NewJob { run_time: Some(at(1).into()), ..job("q", Rig::KIND) }).id;
    snooze(rig, first, "api", 600);
    rig.crash();
    rig.pass(60);
    rig.settle();
    assert_eq!(running(rig), []);
    let rule = LimitRule::Rate(Rate::new(50, std::time::Duration::from_secs(1)));
    rig.overridden("api", "", rule);
    rig.settle();
    assert_eq!(running(rig), [next]);
    rig.crash();
    rig.pass(600);
    rig.settle();
    assert!(running(rig).contains(&first));
}

fn a_pause_of_a_limit_that_does_not_concern_the_job_changes_nothing(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("api", by_tenant(1));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND), of("a"), of("b")]));
    rig.settle();
    snooze(rig, jobs[0], "api", 60);
    snooze(rig, jobs[1], "none", 60);
    assert_eq!([rig.state(jobs[0]), rig.state(jobs[1])], [StateName::BackingOff; 2]);
    let more = ids(&rig.submit_all(vec![of("a"), job("q", Rig::KIND)]));
    rig.settle();
    assert_eq!(running(rig), [jobs[2], more[0], more[1]]);
}

fn jobs_of_a_rate_that_was_slow_start_at_the_pace_of_the_new_one(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("slow", rate(1, 3_600, 5));
    let jobs = ids(&rig.submit_all(vec![job("q", Rig::KIND); 8]));
    rig.settle();
    assert_eq!(running(rig), jobs[..5]);
    update(rig, "slow", rate(1, 10, 1));
    rig.pass(10);
    rig.settle();
    assert_eq!(running(rig), jobs[..6]);
    rig.crash();
    rig.pass(10);
    assert_eq!(rig.settle().len(), 1);
}

fn a_limit_that_is_new_in_the_file_fills_no_other_ones_rate(rig: &mut Rig) {
    rig.queue("q", 9);
    rig.limited("slow", rate(1, 3_600, 2));
    rig.submit_all(vec![job("q", Rig::KIND); 2]);
    rig.settle();
    rig.setup.limits.insert("other".to_owned(), all(9));
    rig.crash();
    let next = rig.submit(job("q", Rig::KIND)).id;
    rig.settle();
    assert_eq!(rig.state(next), StateName::Queued);
}
