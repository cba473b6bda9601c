//! Dependencies between jobs: when a child starts, and what ends it.

use std::sync::Arc;

use DependencyCondition::{Ended, Succeeded, Unsuccessful};
use EdgeState::{FallenAway, Impossible, Met, Unneeded, Waiting};
use jobmill::{
    engine::{ControlRefusal, NewJob, OfferRefusal},
    job::{
        Dependency, DependencyCondition, DependencyTarget, EdgeState, FailureReason, Job, JobId, OnConflict,
        StateName, UniqueKey,
    },
};

use crate::store::{
    batch::{Batch, Control, Receipt, Report},
    build::{at, job, key, keyed, requested, settings},
    rig::{Rig, claimed, created, failed, lease, offer, path, refused, succeeded},
};

both_stores!(
    a_child_waits_for_the_end_of_each_parent,
    each_condition_is_decided_by_each_end,
    a_deleted_parent_is_unsuccessful,
    a_child_whose_dependency_is_impossible_is_cancelled_with_the_reason,
    an_optional_dependency_falls_away,
    the_end_of_a_child_goes_on_downwards,
    a_parent_that_has_ended_decides_at_once,
    a_parent_that_ends_in_the_batch_of_its_child_decides_it,
    a_parent_that_ends_after_its_child_came_in_the_same_batch_decides_it,
    an_unknown_parent_is_refused_with_its_place,
    a_parent_that_a_purge_covers_is_unknown,
    the_jobs_of_a_batch_wait_for_each_other_in_both_directions,
    a_batch_whose_parent_has_expired_already_is_decided_at_once,
    a_cycle_is_refused_with_its_path,
    a_batch_across_queues_of_which_one_is_full_is_refused_whole,
    a_child_takes_its_room_from_the_start,
    a_child_waits_for_its_time_as_well,
    a_blocked_child_expires_and_meets_its_deadline,
    a_blocked_child_is_cancelled_and_deleted_alone,
    the_children_of_a_cancelled_child_are_decided,
    a_repeat_finds_the_jobs_whatever_became_of_the_parents,
    a_retried_child_has_no_dependencies_any_more,
    a_retried_parent_leaves_decided_children_alone,
    a_held_key_refuses_jobs_with_dependencies_and_those_beside_them,
    a_blocked_child_holds_its_key,
    a_purge_deletes_blocked_children,
    dependencies_survive_a_crash,
    a_crash_ends_the_children_of_lost_jobs,
);

/// Returns a job that depends on these.
fn after(on: &[Dependency]) -> NewJob {
    NewJob { depends_on: on.to_vec(), ..job("q", Rig::KIND) }
}

/// Submits a parent that runs.
fn running(rig: &mut Rig) -> Arc<Job> {
    let parent = rig.submit(job("q", Rig::KIND));
    assert_eq!(parent.state.name(), StateName::Running);
    parent
}

fn child(rig: &mut Rig, on: &[Dependency]) -> JobId {
    rig.submit(after(on)).id
}

fn edges(rig: &Rig, child: JobId) -> Vec<(JobId, EdgeState)> {
    let edges = rig.reader().dependencies(child).unwrap();
    assert!(edges.iter().all(|edge| edge.child == child));
    assert_eq!(rig.whole(child).dependencies, edges);
    edges.iter().map(|edge| (edge.parent, edge.state)).collect()
}

fn reason(rig: &Rig, id: JobId) -> (StateName, FailureReason, Option<JobId>) {
    let job = rig.job(id);
    let failure = job.failure.as_ref().unwrap_or_else(|| panic!("{job:?} has no failure"));
    (job.state.name(), failure.reason, failure.parent)
}

/// Asserts that a job was cancelled because of a parent.
fn assert_forsaken(rig: &Rig, id: JobId, parent: JobId) {
    assert_eq!(reason(rig, id), (StateName::Cancelled, FailureReason::Dependency, Some(parent)));
    assert!(rig.job(id).ended.is_some());
}

/// Ends a running job in a state.
fn end(rig: &mut Rig, job: &Job, state: StateName) {
    match state {
        StateName::Succeeded => rig.report(job, succeeded()).unwrap(),
        StateName::Failed => rig.report(job, failed(false, "")).unwrap(),
        StateName::Cancelled => {
            rig.control(Control::Cancel(job.id)).unwrap();
            rig.report(job, failed(false, "")).unwrap();
        }
        other => panic!("no attempt ends as {other}"),
    }
    assert_eq!(rig.state(job.id), state);
}

fn a_child_waits_for_the_end_of_each_parent(rig: &mut Rig) {
    rig.queue("q", 10);
    let parents = [running(rig), running(rig)];
    let waits = child(rig, &parents.each_ref().map(|parent| Dependency::on_job(parent.id)));
    assert_eq!(rig.state(waits), StateName::Blocked);
    assert_eq!(edges(rig, waits), parents.each_ref().map(|parent| (parent.id, Waiting)));
    rig.report(&parents[1], succeeded()).unwrap();
    assert_eq!(edges(rig, waits), [(parents[0].id, Waiting), (parents[1].id, Met)]);
    assert_eq!(claimed(&rig.tick()), [], "one parent is left");
    let report = Report { id: parents[0].id, lease: lease(&parents[0]), body: succeeded() };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert_eq!(claimed(&applied), [waits], "the child starts in the transaction of the last end");
    assert_eq!(path(&applied, waits), [StateName::Queued, StateName::Running]);
    assert_eq!(edges(rig, waits), parents.each_ref().map(|parent| (parent.id, Met)));
    let of_parent = rig.reader().dependents(parents[0].id, None, 10).unwrap();
    assert_eq!(of_parent.iter().map(|edge| edge.child).collect::<Vec<_>>(), [waits]);
    assert_eq!(rig.reader().dependents(parents[0].id, Some(waits), 10).unwrap(), []);
}

fn each_condition_is_decided_by_each_end(rig: &mut Rig) {
    rig.queue("q", 100);
    for state in [StateName::Succeeded, StateName::Failed, StateName::Cancelled] {
        let parent = running(rig);
        let on = Dependency::on_job(parent.id);
        let children = [on, on.when(Succeeded), on.when(Unsuccessful), on.when(Ended)];
        let children = children.map(|on| child(rig, &[on]));
        end(rig, &parent, state);
        let has_succeeded = state == StateName::Succeeded;
        let starts = [has_succeeded, has_succeeded, !has_succeeded, true];
        for (id, starts) in children.into_iter().zip(starts) {
            match starts {
                true => assert_eq!(rig.state(id), StateName::Queued, "{state}"),
                false => assert_forsaken(rig, id, parent.id),
            }
            assert_eq!(edges(rig, id), [(parent.id, if starts { Met } else { Impossible })]);
        }
        rig.settle();
    }
    // A job that expires before it starts is unsuccessful, too.
    let expires = rig.submit(NewJob {
        expires: Some(at(5).into()),
        run_time: Some(at(60).into()),
        ..job("q", Rig::KIND)
    });
    let (starts, ends) = (
        child(rig, &[Dependency::on_job(expires.id).when(Unsuccessful)]),
        child(rig, &[Dependency::on_job(expires.id)]),
    );
    rig.until(at(5));
    rig.settle();
    assert_eq!((rig.state(expires.id), rig.state(starts)), (StateName::Expired, StateName::Running));
    assert_forsaken(rig, ends, expires.id);
}

fn a_deleted_parent_is_unsuccessful(rig: &mut Rig) {
    rig.queue("q", 0);
    let parent = rig.submit(job("q", Rig::KIND)).id;
    let on = Dependency::on_job(parent);
    let children = [on, on.when(Unsuccessful), on.when(Ended), on.optional()].map(|on| child(rig, &[on]));
    rig.control(Control::ForceDelete(parent)).unwrap();
    assert_forsaken(rig, children[0], parent);
    assert!(children[1..].iter().all(|id| rig.state(*id) == StateName::Queued));
    let states = children.map(|id| edges(rig, id)[0].1);
    assert_eq!(states, [Impossible, Met, Met, FallenAway]);
}

fn a_child_whose_dependency_is_impossible_is_cancelled_with_the_reason(rig: &mut Rig) {
    rig.queue("q", 10);
    let parents = [running(rig), running(rig)];
    let waits = child(rig, &parents.each_ref().map(|parent| Dependency::on_job(parent.id)));
    rig.report(&parents[0], failed(false, "")).unwrap();
    assert_forsaken(rig, waits, parents[0].id);
    let message = rig.job(waits).failure.unwrap().message.clone();
    assert_eq!(message, format!("the job {}, which had to be SUCCEEDED, ended as FAILED", parents[0].id));
    assert_eq!(edges(rig, waits), [(parents[0].id, Impossible), (parents[1].id, Unneeded)]);
    // What the other parent does is of no interest any more.
    rig.report(&parents[1], succeeded()).unwrap();
    assert_eq!(rig.state(waits), StateName::Cancelled);
    assert_eq!(edges(rig, waits)[1].1, Unneeded);
}

fn an_optional_dependency_falls_away(rig: &mut Rig) {
    rig.queue("q", 10);
    let parents = [running(rig), running(rig)];
    let waits = child(rig, &parents.each_ref().map(|parent| Dependency::on_job(parent.id).optional()));
    rig.report(&parents[0], failed(false, "")).unwrap();
    assert_eq!(rig.state(waits), StateName::Blocked, "the other one is left");
    rig.report(&parents[1], succeeded()).unwrap();
    assert_eq!(rig.state(waits), StateName::Queued);
    assert_eq!(edges(rig, waits), [(parents[0].id, FallenAway), (parents[1].id, Met)]);
}

fn the_end_of_a_child_goes_on_downwards(rig: &mut Rig) {
    rig.queue("q", 10);
    let first = running(rig);
    let mut line = vec![first.id];
    for _ in 0..5 {
        line.push(child(rig, &[Dependency::on_job(*line.last().unwrap())]));
    }
    let compensates = child(rig, &[Dependency::on_job(line[3]).when(Unsuccessful)]);
    rig.report(&first, failed(false, "")).unwrap();
    let claims = rig.settle();
    for pair in line.windows(2) {
        assert_forsaken(rig, pair[1], pair[0]);
    }
    assert_eq!(claims.iter().map(|claim| claim.job.id).collect::<Vec<_>>(), [compensates]);
}

fn a_parent_that_has_ended_decides_at_once(rig: &mut Rig) {
    rig.queue("q", 100);
    let [good, bad] = [running(rig), running(rig)];
    end(rig, &good, StateName::Succeeded);
    end(rig, &bad, StateName::Failed);
    let [good, bad] = [Dependency::on_job(good.id), Dependency::on_job(bad.id)];
    let waits = running(rig);
    let cases = [
        (vec![good], StateName::Running),
        (vec![good, bad.when(Ended)], StateName::Running),
        (vec![bad.when(Unsuccessful)], StateName::Running),
        (vec![good, bad.optional()], StateName::Running),
        (vec![good, Dependency::on_job(waits.id)], StateName::Blocked),
    ];
    for (on, state) in cases {
        let id = child(rig, &on);
        assert_eq!(rig.state(id), state, "{on:?}");
    }
    let forsaken = child(rig, &[Dependency::on_job(waits.id), bad]);
    let DependencyTarget::Job(bad) = bad.on else { panic!("a job") };
    assert_forsaken(rig, forsaken, bad);
    assert_eq!(edges(rig, forsaken), [(bad, Impossible), (waits.id, Unneeded)]);
    assert_eq!(rig.job(forsaken).revision, 1, "it is created so");
}

fn a_parent_that_ends_in_the_batch_of_its_child_decides_it(rig: &mut Rig) {
    rig.queue("q", 1);
    let parent = running(rig);
    let report = Report { id: parent.id, lease: lease(&parent), body: succeeded() };
    let offers = vec![offer(vec![after(&[Dependency::on_job(parent.id)])])];
    let applied = rig.apply(Batch { reports: vec![report], offers, claim: true, ..Batch::default() });
    assert_eq!(applied.claims.len(), 1, "the child starts at once");
    let parent = Arc::clone(&applied.claims[0].job);
    let report = Report { id: parent.id, lease: lease(&parent), body: failed(false, "") };
    let offers = vec![offer(vec![after(&[Dependency::on_job(parent.id)])])];
    let mut applied = rig.apply(Batch { reports: vec![report], offers, claim: true, ..Batch::default() });
    let id = created(applied.offers.pop().unwrap())[0].id;
    assert_forsaken(rig, id, parent.id);
}

fn a_parent_that_ends_after_its_child_came_in_the_same_batch_decides_it(rig: &mut Rig) {
    rig.queue("q", 0);
    let held = key("a", OnConflict::Follow, OnConflict::Cancel);
    rig.queue_with("fast", settings(1, 100));
    let parent = rig.submit(keyed(held.clone(), NewJob { max_attempts: 3, ..job("fast", Rig::KIND) }));
    rig.report(&parent, failed(true, "")).unwrap();
    assert_eq!(rig.state(parent.id), StateName::BackingOff);
    // The second offer cancels the holder, for which the first one's job waits.
    let offers = vec![
        offer(vec![after(&[Dependency::on_job(parent.id)])]),
        offer(vec![keyed(held, job("fast", Rig::KIND))]),
    ];
    let mut applied = rig.apply(Batch { offers, claim: false, ..Batch::default() });
    applied.offers.pop();
    let id = created(applied.offers.pop().unwrap())[0].id;
    assert_eq!(rig.state(parent.id), StateName::Cancelled);
    assert!(applied.more, "the next batch tells the child");
    rig.settle();
    assert_forsaken(rig, id, parent.id);
}

fn an_unknown_parent_is_refused_with_its_place(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = running(rig);
    let gone = rig.submit(NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }).id;
    rig.control(Control::Delete(gone)).unwrap();
    let [good, bad] = [parent.id, gone].map(Dependency::on_job);
    let on = DependencyTarget::Job(gone);
    let told = refused(rig.offer(offer(vec![after(&[good, bad])])));
    assert_eq!(told, OfferRefusal::DependencyNotFound { index: None, place: 1, on });
    let told = refused(rig.offer(offer(vec![job("q", Rig::KIND), after(&[bad])])));
    assert_eq!(told, OfferRefusal::DependencyNotFound { index: Some(1), place: 0, on });
    assert!(
        told.to_string().starts_with(&format!("jobs[1]: depends_on[0]: no job has the id {gone}")),
        "{told}"
    );
    assert_eq!(rig.all_jobs().len(), 1, "all or none");
}

fn a_parent_that_a_purge_covers_is_unknown(rig: &mut Rig) {
    rig.queue("q", 0);
    let parents: Vec<_> = rig.submit_all(vec![job("q", Rig::KIND); 900]).iter().map(|job| job.id).collect();
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    let last = *parents.last().unwrap();
    assert_eq!(rig.state(last), StateName::Queued, "the purge goes on");
    let told = refused(rig.offer(offer(vec![after(&[Dependency::on_job(last)])])));
    assert_eq!(
        told,
        OfferRefusal::DependencyNotFound { index: None, place: 0, on: DependencyTarget::Job(last) }
    );
    rig.settle();
    assert_eq!(rig.all_jobs(), []);
}

fn the_jobs_of_a_batch_wait_for_each_other_in_both_directions(rig: &mut Rig) {
    rig.queue("q", 10);
    // The first and the last wait for those between; the last also for the first.
    let between = [1, 2].map(Dependency::on_item);
    let jobs = rig.submit_all(vec![
        after(&between),
        job("q", Rig::KIND),
        job("q", Rig::KIND),
        after(&[Dependency::on_item(0), Dependency::on_item(1)]),
    ]);
    let states = |rig: &Rig| [0, 1, 2, 3].map(|index| rig.state(jobs[index].id));
    use StateName::{Blocked, Running, Succeeded};
    assert_eq!(states(rig), [Blocked, Running, Running, Blocked]);
    rig.report(&jobs[1], succeeded()).unwrap();
    rig.report(&jobs[2], succeeded()).unwrap();
    assert_eq!(rig.settle().len(), 1);
    assert_eq!(states(rig), [Running, Succeeded, Succeeded, Blocked]);
    rig.report(&rig.job(jobs[0].id), succeeded()).unwrap();
    assert_eq!(rig.settle().len(), 1);
    assert_eq!(states(rig), [Succeeded, Succeeded, Succeeded, Running]);
}

fn a_batch_whose_parent_has_expired_already_is_decided_at_once(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.pass(60);
    let jobs = rig.submit_all(vec![
        after(&[Dependency::on_item(1)]),
        after(&[Dependency::on_item(2)]),
        NewJob { expires: Some(at(5).into()), ..job("q", Rig::KIND) },
        after(&[Dependency::on_item(2).when(Unsuccessful)]),
    ]);
    assert_forsaken(rig, jobs[0].id, jobs[1].id);
    assert_forsaken(rig, jobs[1].id, jobs[2].id);
    assert_eq!([2, 3].map(|index| jobs[index].state.name()), [StateName::Expired, StateName::Running]);
}

fn a_cycle_is_refused_with_its_path(rig: &mut Rig) {
    rig.queue("q", 10);
    let on = |index| after(&[Dependency::on_item(index)]);
    let told = refused(rig.offer(offer(vec![on(1), on(2), on(3), on(1), job("q", Rig::KIND)])));
    assert_eq!(told, OfferRefusal::DependencyCycle(vec![1, 2, 3]));
    let path = "jobs[1] depends on jobs[2] depends on jobs[3] depends on jobs[1]";
    assert!(told.to_string().starts_with(path), "{told}");
    assert_eq!(refused(rig.offer(offer(vec![on(0)]))), OfferRefusal::DependencyCycle(vec![0]));
    // The longest possible one.
    let mut ring: Vec<_> = (1..=1_000).map(|next| on(next % 1_000)).collect();
    let told = refused(rig.offer(offer(ring.clone())));
    assert_eq!(told, OfferRefusal::DependencyCycle((0..1_000).collect()));
    assert!(told.to_string().contains("jobs[19] depends on 980 more"), "{told}");
    assert_eq!(rig.all_jobs(), []);
    ring[999] = job("q", Rig::KIND);
    assert_eq!(rig.submit_all(ring).len(), 1_000);
    // Several ways to the same job are no cycle.
    let jobs = vec![job("q", Rig::KIND), on(0), on(0), after(&[1, 2, 0].map(Dependency::on_item))];
    rig.queue_with("wide", settings(1, 100));
    let jobs: Vec<_> = jobs.into_iter().map(|new| NewJob { queue: "wide".into(), ..new }).collect();
    assert_eq!(rig.submit_all(jobs).len(), 4);
}

fn a_batch_across_queues_of_which_one_is_full_is_refused_whole(rig: &mut Rig) {
    rig.queue("q", 10);
    rig.queue_with("small", settings(0, 1));
    rig.submit(job("small", Rig::KIND));
    let jobs =
        vec![job("q", Rig::KIND), NewJob { queue: "small".into(), ..after(&[Dependency::on_item(0)]) }];
    assert!(matches!(rig.offer(offer(jobs.clone())), Receipt::Full(_)));
    assert_eq!(rig.all_jobs().len(), 1);
    // One that waits for room gets in as a whole, with its edges.
    let waits = crate::store::batch::Offer { waits: true, ..offer(jobs) };
    assert!(matches!(rig.offer(waits), Receipt::Waits));
    let stored = rig.all_jobs()[0].id;
    rig.control(Control::Delete(stored)).unwrap();
    let mut applied = rig.tick();
    let jobs = created(applied.offers_that_waited.pop().unwrap());
    assert_eq!(edges(rig, jobs[1].id), [(jobs[0].id, Waiting)]);
}

fn a_child_takes_its_room_from_the_start(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 2));
    let parent = running(rig);
    let waits = child(rig, &[Dependency::on_job(parent.id)]);
    assert!(matches!(rig.offer(offer(vec![job("q", Rig::KIND)])), Receipt::Full(_)));
    let spec = rig.job(waits).spec;
    assert_eq!(spec.bytes, Job::FIXED_BYTES + Dependency::BYTES);
    assert_eq!((spec.payload_bytes(), spec.dependencies()), (0, 1));
}

fn a_child_waits_for_its_time_as_well(rig: &mut Rig) {
    rig.queue("q", 10);
    let parents = [running(rig), running(rig)];
    let timed = |parent: &Job, seconds| NewJob {
        run_time: Some(at(seconds).into()),
        ..after(&[Dependency::on_job(parent.id)])
    };
    let early = rig.submit(timed(&parents[0], 60)).id;
    let late = rig.submit(timed(&parents[1], 60)).id;
    rig.report(&parents[0], succeeded()).unwrap();
    assert_eq!([early, late].map(|id| rig.state(id)), [StateName::Scheduled, StateName::Blocked]);
    rig.until(at(60));
    rig.settle();
    assert_eq!([early, late].map(|id| rig.state(id)), [StateName::Running, StateName::Blocked]);
    rig.report(&parents[1], succeeded()).unwrap();
    assert_eq!(rig.state(late), StateName::Queued);
}

fn a_blocked_child_expires_and_meets_its_deadline(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = running(rig);
    let on = after(&[Dependency::on_job(parent.id)]);
    let expires = rig.submit(NewJob { expires: Some(at(5).into()), ..on.clone() }).id;
    let late = rig.submit(NewJob { deadline: Some(at(5).into()), ..on }).id;
    rig.until(at(5));
    rig.settle();
    assert_eq!([expires, late].map(|id| rig.state(id)), [StateName::Expired, StateName::Failed]);
    assert_eq!([expires, late].map(|id| edges(rig, id)[0].1), [Unneeded, Unneeded]);
    rig.report(&parent, succeeded()).unwrap();
    assert_eq!(rig.settle().len(), 0);
    assert_eq!([expires, late].map(|id| rig.state(id)), [StateName::Expired, StateName::Failed]);
}

fn a_blocked_child_is_cancelled_and_deleted_alone(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = running(rig);
    let on = [Dependency::on_job(parent.id)];
    let [cancelled, deleted, waits] = [(); 3].map(|()| child(rig, &on));
    rig.control(Control::Cancel(cancelled)).unwrap();
    rig.control(Control::Delete(deleted)).unwrap();
    assert_eq!(rig.state(cancelled), StateName::Cancelled);
    assert_eq!(rig.job(cancelled).failure, None, "a caller cancelled it");
    assert_eq!(rig.reader().dependencies(deleted).unwrap(), []);
    let children = rig.reader().dependents(parent.id, None, 10).unwrap();
    assert_eq!(children.iter().map(|edge| edge.child).collect::<Vec<_>>(), [cancelled, waits]);
    assert_eq!(rig.state(parent.id), StateName::Running, "the parent does not hear of it");
    rig.report(&parent, succeeded()).unwrap();
    assert_eq!(rig.settle().iter().map(|claim| claim.job.id).collect::<Vec<_>>(), [waits]);
}

fn the_children_of_a_cancelled_child_are_decided(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = running(rig);
    let middle = child(rig, &[Dependency::on_job(parent.id)]);
    let [ends, starts] =
        [Succeeded, Unsuccessful].map(|when| child(rig, &[Dependency::on_job(middle).when(when)]));
    rig.control(Control::Cancel(middle)).unwrap();
    assert_forsaken(rig, ends, middle);
    assert_eq!(rig.state(starts), StateName::Running);
}

fn a_repeat_finds_the_jobs_whatever_became_of_the_parents(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = rig.submit(NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }).id;
    let said = requested("r", "same", vec![after(&[Dependency::on_job(parent).optional()])]);
    let id = created(rig.offer(said.clone()))[0].id;
    rig.control(Control::ForceDelete(parent)).unwrap();
    match rig.offer(said) {
        Receipt::Seen { first, .. } => assert_eq!(first.id, id),
        other => panic!("not seen: {other:?}"),
    }
}

fn a_retried_child_has_no_dependencies_any_more(rig: &mut Rig) {
    rig.queue("q", 10);
    let [fails, runs] = [running(rig), running(rig)];
    let waits = child(rig, &[&fails, &runs].map(|parent| Dependency::on_job(parent.id)));
    end(rig, &fails, StateName::Failed);
    assert_forsaken(rig, waits, fails.id);
    rig.control(Control::Retry { id: waits, request: None }).unwrap();
    assert_eq!(rig.state(waits), StateName::Running, "it runs although its parents have not succeeded");
    assert_eq!(rig.job(waits).failure, None);
    assert_eq!(edges(rig, waits), [(fails.id, Impossible), (runs.id, Unneeded)]);
    let attempt = rig.job(waits);
    end(rig, &runs, StateName::Failed);
    assert_eq!(rig.job(waits), attempt, "and no end of a parent concerns it");
    // A job that waits for its parents can't be made to run by a retry.
    let parent = running(rig);
    let waits = child(rig, &[Dependency::on_job(parent.id)]);
    let told = rig.control(Control::Retry { id: waits, request: None }).unwrap_err();
    assert!(matches!(told, ControlRefusal::WrongState { state: StateName::Blocked, .. }), "{told}");
}

fn a_retried_parent_leaves_decided_children_alone(rig: &mut Rig) {
    rig.queue("q", 10);
    let parent = running(rig);
    let [ended, started] =
        [Succeeded, Ended].map(|when| child(rig, &[Dependency::on_job(parent.id).when(when)]));
    end(rig, &parent, StateName::Failed);
    rig.control(Control::Retry { id: parent.id, request: None }).unwrap();
    let [ended, started] = [ended, started].map(|id| rig.job(id));
    assert_eq!((ended.state.name(), started.state.name()), (StateName::Cancelled, StateName::Running));
    // Others may wait for its new end.
    let waits = child(rig, &[Dependency::on_job(parent.id)]);
    rig.settle();
    let again = rig.job(parent.id);
    end(rig, &again, StateName::Succeeded);
    assert_eq!(rig.state(waits), StateName::Queued);
    assert_eq!([ended.id, started.id].map(|id| rig.job(id)), [ended, started]);
}

fn a_held_key_refuses_jobs_with_dependencies_and_those_beside_them(rig: &mut Rig) {
    use OnConflict::{Follow, Reject, Replace, ReturnExisting};
    rig.queue("q", 0);
    let parent = rig.submit(job("q", Rig::KIND)).id;
    let holder = rig.submit(keyed(key("a", Reject, Reject), job("q", Rig::KIND))).id;
    let on = [Dependency::on_job(parent)];
    for policy in [ReturnExisting, Replace, Follow] {
        let new = |depends_on: &[Dependency]| {
            keyed(UniqueKey { on_started: None, ..key("a", policy, Reject) }, after(depends_on))
        };
        let held = |index, holder: Option<JobId>| OfferRefusal::KeyHeldBesideDependencies {
            key: "a".into(),
            holder,
            state: holder.map(|_| StateName::Queued),
            index,
        };
        assert_eq!(refused(rig.offer(offer(vec![new(&on)]))), held(None, Some(holder)));
        let beside = vec![after(&on), new(&[])];
        assert_eq!(refused(rig.offer(offer(beside))), held(Some(1), Some(holder)));
        // Nor do two jobs of the batch share a key.
        let other = |depends_on: &[Dependency]| NewJob { kind: "walk".into(), ..new(depends_on) };
        assert_eq!(refused(rig.offer(offer(vec![other(&on), other(&[])]))), held(Some(1), None));
        assert!(matches!(rig.offer(offer(vec![new(&[])])), Receipt::Met { .. } | Receipt::Created { .. }));
    }
    let free = keyed(key("b", Reject, Reject), after(&on));
    assert_eq!(rig.submit(free).state.name(), StateName::Blocked);
}

fn a_blocked_child_holds_its_key(rig: &mut Rig) {
    use OnConflict::{Reject, Replace};
    rig.queue("q", 10);
    let parent = running(rig);
    let unique = key("a", Replace, Reject);
    let waits = rig.submit(keyed(unique.clone(), after(&[Dependency::on_job(parent.id)]))).id;
    // A submission without the same dependencies can't take its place.
    let told = refused(rig.offer(offer(vec![keyed(unique.clone(), job("q", Rig::KIND))])));
    assert!(matches!(told, OfferRefusal::KeyConflict { field: "depends_on", .. }), "{told}");
    end(rig, &parent, StateName::Failed);
    assert_forsaken(rig, waits, parent.id);
    assert_eq!(
        rig.submit(keyed(unique, job("q", Rig::KIND))).state.name(),
        StateName::Running,
        "the key is free"
    );
}

fn a_purge_deletes_blocked_children(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.queue("other", 1);
    let parent = rig.submit(job("other", Rig::KIND));
    let waits = child(rig, &[Dependency::on_job(parent.id)]);
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    rig.settle();
    assert_eq!(rig.reader().job(waits).unwrap(), None);
    assert_eq!(rig.reader().dependents(parent.id, None, 10).unwrap(), []);
    rig.report(&parent, succeeded()).unwrap();
    assert_eq!(rig.settle().len(), 0);
}

fn dependencies_survive_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND), after(&[Dependency::on_item(0)])]);
    rig.crash();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 100) }).unwrap();
    assert_eq!(edges(rig, jobs[1].id), [(jobs[0].id, Waiting)]);
    let parent = rig.job(jobs[0].id);
    rig.report(&parent, succeeded()).unwrap();
    assert_eq!(rig.state(jobs[1].id), StateName::Queued);
}

fn a_crash_ends_the_children_of_lost_jobs(rig: &mut Rig) {
    rig.queue("q", 10);
    let once = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    let [ends, starts] =
        [Succeeded, Unsuccessful].map(|when| child(rig, &[Dependency::on_job(once.id).when(when)]));
    rig.crash();
    assert_eq!(rig.state(once.id), StateName::Failed);
    rig.settle();
    assert_forsaken(rig, ends, once.id);
    assert_eq!(rig.state(starts), StateName::Running);
}
