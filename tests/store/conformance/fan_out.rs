//! Parents with very many children, and children with very many parents.

use DependencyCondition::{Succeeded, Unsuccessful};
use jobmill::{
    engine::{ControlRefusal, NewJob},
    job::{Dependency, DependencyCondition, EdgeState, JobId, StateName},
};

use crate::store::{
    batch::{Applied, Batch, Control, Report},
    build::{job, settings},
    rig::{Rig, failed, lease, succeeded},
};

both_stores!(
    the_children_of_one_parent_are_told_in_bounded_steps,
    each_child_is_told_the_same_although_the_server_crashes_between,
    few_children_do_not_wait_for_the_many_of_another_parent,
    the_children_of_many_parents_that_end_together_are_told_in_bounded_steps,
    a_parent_whose_children_are_being_told_is_not_retried,
    a_parent_that_is_deleted_while_its_children_are_told_leaves_its_end,
    a_child_of_many_parents_starts_with_the_last,
    children_that_end_meanwhile_are_passed_over,
);

/// The number of children that a batch tells, and more than it does.
const STEP: usize = 256;
const MANY: usize = 900;

/// Creates a parent that runs, and this many children.
fn family(rig: &mut Rig, children: usize, condition: DependencyCondition) -> (JobId, Vec<JobId>) {
    let parent = rig.submit(job("parents", Rig::KIND));
    assert_eq!(parent.state.name(), StateName::Running);
    let on = vec![Dependency::on_job(parent.id).when(condition)];
    let new = NewJob { depends_on: on, ..job("children", Rig::KIND) };
    let ids = rig.submit_all(vec![new; children]).iter().map(|job| job.id).collect();
    (parent.id, ids)
}

fn queues(rig: &mut Rig) {
    rig.queue_with("parents", settings(2_000, 5_000));
    rig.queue_with("children", settings(0, 100_000));
}

fn end(rig: &mut Rig, parents: &[JobId], is_good: bool) -> Applied {
    let reports = parents.iter().map(|id| {
        let body = if is_good { succeeded() } else { failed(false, "") };
        Report { id: *id, lease: lease(&rig.job(*id)), body }
    });
    let reports = reports.collect();
    rig.apply(Batch { reports, claim: true, ..Batch::default() })
}

fn in_state(rig: &Rig, ids: &[JobId], state: StateName) -> usize {
    ids.iter().filter(|id| rig.state(**id) == state).count()
}

fn the_children_of_one_parent_are_told_in_bounded_steps(rig: &mut Rig) {
    queues(rig);
    for is_good in [true, false] {
        let (parent, children) = family(rig, MANY, Succeeded);
        let state = if is_good { StateName::Queued } else { StateName::Cancelled };
        let mut told = Vec::new();
        let mut applied = end(rig, &[parent], is_good);
        loop {
            told.push(in_state(rig, &children, state));
            if told.last() == Some(&MANY) {
                break;
            }
            assert!(applied.more, "the next step comes at once");
            applied = rig.tick();
        }
        assert_eq!(told, [STEP, 2 * STEP, 3 * STEP, MANY]);
        assert!(!rig.tick().more, "it is over");
        // A family of as many as fit into one step.
        for (children, is_done) in [(STEP - 1, true), (STEP, true), (STEP + 1, false)] {
            let (parent, children) = family(rig, children, Succeeded);
            end(rig, &[parent], is_good);
            assert_eq!(in_state(rig, &children, state) == children.len(), is_done);
            rig.settle();
            assert_eq!(in_state(rig, &children, state), children.len());
        }
    }
}

fn each_child_is_told_the_same_although_the_server_crashes_between(rig: &mut Rig) {
    queues(rig);
    let (parent, children) = family(rig, MANY, Succeeded);
    end(rig, &[parent], false);
    for _ in 0..3 {
        rig.crash();
        rig.tick();
    }
    rig.crash();
    rig.settle();
    assert_eq!(in_state(rig, &children, StateName::Cancelled), MANY);
    rig.crash();
    assert!(!rig.tick().more, "the operation is over for good");
}

fn few_children_do_not_wait_for_the_many_of_another_parent(rig: &mut Rig) {
    queues(rig);
    let (large, many) = family(rig, 5 * MANY, Succeeded);
    let families: Vec<_> = (0..3).map(|_| family(rig, 5, Succeeded)).collect();
    end(rig, &[large], true);
    let parents: Vec<_> = families.iter().map(|(parent, _)| *parent).collect();
    end(rig, &parents, true);
    for (_, children) in &families {
        assert_eq!(in_state(rig, children, StateName::Queued), 5);
    }
    assert!(in_state(rig, &many, StateName::Blocked) > 0);
    // Two large ones share the steps.
    let (other, others) = family(rig, MANY, Succeeded);
    end(rig, &[other], true);
    rig.tick();
    let before = in_state(rig, &many, StateName::Queued);
    rig.tick();
    assert_eq!(in_state(rig, &many, StateName::Queued) - before, STEP / 2);
    assert!(in_state(rig, &others, StateName::Queued) > STEP);
    rig.settle();
    assert_eq!(in_state(rig, &many, StateName::Queued), 5 * MANY);
    assert_eq!(in_state(rig, &others, StateName::Queued), MANY);
}

fn the_children_of_many_parents_that_end_together_are_told_in_bounded_steps(rig: &mut Rig) {
    queues(rig);
    let families: Vec<_> = (0..300).map(|_| family(rig, 3, Unsuccessful)).collect();
    let parents: Vec<_> = families.iter().map(|(parent, _)| *parent).collect();
    let children: Vec<_> = families.into_iter().flat_map(|(_, children)| children).collect();
    let applied = end(rig, &parents, false);
    let told = in_state(rig, &children, StateName::Queued);
    assert!(told <= STEP && applied.more, "{told}");
    let mut steps = 0;
    while in_state(rig, &children, StateName::Queued) < children.len() {
        let before = in_state(rig, &children, StateName::Queued);
        rig.tick();
        let told = in_state(rig, &children, StateName::Queued) - before;
        assert!((1..=STEP).contains(&told), "{told}");
        steps += 1;
    }
    assert!(steps < 20, "{steps}");
}

fn a_parent_whose_children_are_being_told_is_not_retried(rig: &mut Rig) {
    queues(rig);
    let (parent, children) = family(rig, MANY, Succeeded);
    end(rig, &[parent], false);
    let told = rig.control(Control::Retry { id: parent, request: None }).unwrap_err();
    assert_eq!(told, ControlRefusal::ChildrenAreTold(parent));
    rig.settle();
    assert_eq!(in_state(rig, &children, StateName::Cancelled), MANY);
    rig.control(Control::Retry { id: parent, request: None }).unwrap();
    assert_eq!(rig.state(parent), StateName::Running);
}

fn a_parent_that_is_deleted_while_its_children_are_told_leaves_its_end(rig: &mut Rig) {
    queues(rig);
    let (parent, children) = family(rig, MANY, Succeeded);
    end(rig, &[parent], true);
    rig.control(Control::ForceDelete(parent)).unwrap();
    rig.settle();
    assert_eq!(in_state(rig, &children, StateName::Queued), MANY);
}

fn a_child_of_many_parents_starts_with_the_last(rig: &mut Rig) {
    queues(rig);
    let parents: Vec<_> =
        rig.submit_all(vec![job("parents", Rig::KIND); 1_000]).iter().map(|job| job.id).collect();
    let depends_on = parents.iter().map(|parent| Dependency::on_job(*parent)).collect();
    let child = rig.submit(NewJob { depends_on, ..job("children", Rig::KIND) }).id;
    for some in parents[..999].chunks(100) {
        end(rig, some, true);
        rig.settle();
        assert_eq!(rig.state(child), StateName::Blocked);
    }
    end(rig, &parents[999..], true);
    assert_eq!(rig.state(child), StateName::Queued);
    let edges = rig.reader().dependencies(child).unwrap();
    assert!(edges.len() == 1_000 && edges.iter().all(|edge| edge.state == EdgeState::Met));
    // All parents end in the same batch.
    let parents: Vec<_> =
        rig.submit_all(vec![job("parents", Rig::KIND); 200]).iter().map(|job| job.id).collect();
    let depends_on = parents.iter().map(|parent| Dependency::on_job(*parent)).collect();
    let child = rig.submit(NewJob { depends_on, ..job("children", Rig::KIND) }).id;
    end(rig, &parents, true);
    assert_eq!(rig.state(child), StateName::Queued);
}

fn children_that_end_meanwhile_are_passed_over(rig: &mut Rig) {
    queues(rig);
    let (parent, children) = family(rig, MANY, Succeeded);
    end(rig, &[parent], true);
    let last = children[MANY - 1];
    rig.control(Control::Cancel(last)).unwrap();
    rig.control(Control::Delete(children[MANY - 2])).unwrap();
    rig.settle();
    assert_eq!(in_state(rig, &children[..MANY - 2], StateName::Queued), MANY - 2);
    assert_eq!(rig.state(last), StateName::Cancelled);
    assert_eq!(rig.reader().dependencies(last).unwrap()[0].state, EdgeState::Unneeded);
}
