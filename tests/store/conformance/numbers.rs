//! Feed positions and lease tokens never fall, whatever the clock does and whatever is restored.

use jobmill::job::{Change, LeaseToken, Position, StateName};

use crate::store::{
    batch::{Batch, Report, Setup},
    build::{at, job, present, settings},
    rig::{Rig, lease, offer, succeeded},
    subject::{Sqlite, Subject},
};

both_stores!(
    the_first_start_begins_with_its_clock,
    each_start_begins_with_its_clock,
    within_a_start_numbers_have_no_gap_though_the_clock_goes_on,
    under_a_clock_that_was_set_back_numbers_go_on_from_what_was_kept,
    what_a_start_puts_back_has_its_numbers,
    a_clock_that_was_ahead_leaves_numbers_that_still_grow,
);

/// Asserts that a start that found numbers up to `kept` begins with `number`.
#[track_caller]
fn begins(number: i64, kept: i64, rig: &Rig) {
    let least = rig.now.as_micros().max(kept + 1);
    assert!((least..=least + 1).contains(&number), "{number} is the first after {kept}, not {least}");
}

/// Runs a job at once; returns its position in the feed and its lease token.
fn run(rig: &mut Rig) -> (i64, i64) {
    let running = rig.submit(job("q", Rig::KIND));
    (running.position.as_i64(), lease(&running).as_i64())
}

fn the_first_start_begins_with_its_clock(rig: &mut Rig) {
    rig.queue("q", 10);
    let (position, lease) = run(rig);
    begins(position, 0, rig);
    begins(lease, 0, rig);
}

fn each_start_begins_with_its_clock(rig: &mut Rig) {
    rig.queue("q", 10);
    let (mut position, mut lease) = run(rig);
    for _ in 0..3 {
        rig.report(&rig.all_jobs().pop().unwrap(), succeeded()).unwrap();
        rig.pass(100);
        rig.crash();
        let (next_position, next_lease) = run(rig);
        begins(next_position, position + 1, rig);
        begins(next_lease, lease, rig);
        (position, lease) = (next_position, next_lease);
    }
}

fn within_a_start_numbers_have_no_gap_though_the_clock_goes_on(rig: &mut Rig) {
    rig.queue("q", 10);
    let (first_position, first_lease) = run(rig);
    for next in 1..5 {
        rig.pass(1_000);
        assert_eq!(run(rig), (first_position + next, first_lease + next));
    }
}

fn under_a_clock_that_was_set_back_numbers_go_on_from_what_was_kept(rig: &mut Rig) {
    rig.queue("q", 10);
    let (position, lease) = run(rig);
    rig.report(&rig.all_jobs().pop().unwrap(), succeeded()).unwrap();
    for seconds in [-5_000, 0, -10_000] {
        rig.set_clock(at(seconds));
        rig.crash();
    }
    assert_eq!(run(rig), (position + 2, lease + 1));
}

fn what_a_start_puts_back_has_its_numbers(rig: &mut Rig) {
    rig.queue("q", 10);
    let (position, _) = run(rig);
    let before = rig.end();
    rig.pass(100);
    rig.crash();
    let lost = rig.all_jobs().pop().unwrap();
    assert_eq!(lost.state.name(), StateName::BackingOff);
    begins(lost.position.as_i64(), position, rig);
    // A reader that resumes from before the crash misses nothing.
    let page = rig.changes(before, 10);
    assert_eq!(page.entries.iter().map(Change::position).collect::<Vec<_>>(), [lost.position]);
    assert!(page.reaches_end);
    assert_eq!(run(rig).0, lost.position.as_i64() + 1);
}

fn a_clock_that_was_ahead_leaves_numbers_that_still_grow(rig: &mut Rig) {
    const YEARS: i64 = 9 * 365 * 24 * 3_600;
    rig.queue("q", 10);
    rig.set_clock(at(YEARS));
    rig.crash();
    let (position, lease) = run(rig);
    begins(position, 0, rig);
    rig.report(&rig.all_jobs().pop().unwrap(), succeeded()).unwrap();
    rig.set_clock(at(0));
    rig.crash();
    assert_eq!(run(rig), (position + 2, lease + 1));
}

fn setup(seconds: i64) -> Setup {
    Setup {
        present: present(seconds),
        served_kinds: vec![Rig::KIND.into()],
        declared_queues: [("q".to_owned(), settings(1, 100))].into(),
        ..Setup::default()
    }
}

/// Runs jobs one after the other; returns every position and every lease token that they had.
fn history(store: &mut Sqlite, seconds: i64, jobs: usize) -> (Vec<Position>, Vec<LeaseToken>) {
    let (mut positions, mut leases) = (Vec::new(), Vec::new());
    let mut batch = |store: &mut Sqlite, batch: Batch| {
        let applied = store.apply(Batch { present: present(seconds), claim: true, ..batch }).unwrap();
        positions.extend(applied.changes.iter().map(Change::position));
        applied
    };
    for _ in 0..jobs {
        let offers = vec![offer(vec![job("q", Rig::KIND)])];
        let claim = batch(store, Batch { offers, ..Batch::default() }).claims.pop().unwrap();
        leases.push(claim.lease);
        let reports = vec![Report { id: claim.job.id, lease: claim.lease, body: succeeded() }];
        batch(store, Batch { reports, ..Batch::default() });
    }
    (positions, leases)
}

#[test]
fn no_number_of_an_undone_history_is_given_again() {
    let mut store = Sqlite::open(setup(0));
    history(&mut store, 1, 3);
    let (mut store, copy) = store.copied(setup(2)).unwrap();
    let (positions, leases) = history(&mut store, 3, 20);
    drop(store);
    let mut restored = Sqlite::open_in(copy, setup(4)).unwrap();
    let kept: u64 = restored.reader().tallies().unwrap().iter().map(|tally| tally.jobs).sum();
    assert_eq!(kept, 3, "what came after the copy is undone");
    let (new_positions, new_leases) = history(&mut restored, 5, 5);
    assert!(new_positions.first() > positions.last(), "{new_positions:?} after {positions:?}");
    assert!(new_leases.first() > leases.last(), "{new_leases:?} after {leases:?}");
}
