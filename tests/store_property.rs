//! Random programs on the memory store and on SQLite side by side, checked by a ledger of the promises.
//!
//! `JOBMILL_PROGRAMS=10000` runs that number of programs instead of the 500 of every build, and `JOBMILL_FIRST_SEED=n`
//! begins with another seed than 0. `JOBMILL_SEED=n` runs the program of one seed alone: a failure prints its seed and the
//! shortest program found that still fails.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

mod store {
    #[expect(dead_code, reason = "the conformance suite needs more of it")]
    pub(crate) mod batch;
    pub(crate) mod build;
    #[expect(dead_code, reason = "the conformance suite needs more of it")]
    pub(crate) mod subject;

    pub(crate) mod property {
        pub(crate) mod batch;
        pub(crate) mod dependencies;
        pub(crate) mod instants;
        pub(crate) mod keys;
        pub(crate) mod ledger;
        pub(crate) mod limit_steps;
        pub(crate) mod limits;
        pub(crate) mod machine;
        pub(crate) mod numbers;
        pub(crate) mod offers;
        pub(crate) mod order;
        pub(crate) mod planted;
        pub(crate) mod planted_limits;
        pub(crate) mod planted_schedules;
        pub(crate) mod program;
        pub(crate) mod purges;
        pub(crate) mod reading;
        pub(crate) mod reports;
        pub(crate) mod schedule_steps;
        pub(crate) mod schedules;
        pub(crate) mod sessions;
        pub(crate) mod times;
        pub(crate) mod turns;
        pub(crate) mod watchers;
        pub(crate) mod workers;
    }

    mod log_bounds;
    mod torn;
}

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use store::{
    property::{
        machine::{Done, Open, run},
        planted::{
            AnswersBeforeCommit, BeginsBehindItsClock, ChangedByCrash, CountsByTheWall, ForgetsEdges,
            KeepsKeysOfExpired, SkipsEnds,
        },
        planted_limits::KeepsPlaces,
        planted_schedules::{BrokenSchedules, RepeatsFold},
        program::{program, shrink},
    },
    subject::{Memory, Sqlite},
};

const PROGRAMS: u64 = 500;
/// Limit of the programs until a planted bug is found.
const PROGRAMS_UNTIL_FOUND: u64 = 500;

const MEMORY: Open = |setup| Box::new(Memory::open(setup));
const SQLITE: Open = |setup| Box::new(Sqlite::open(setup));

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Runs the program of a seed. A failure prints how to repeat it, with the shortest failing program. Of several
/// concurrent failures only the first is shrunk, because shrinking takes long.
fn check(seed: u64, failed: &AtomicBool) -> Done {
    let stores = [MEMORY, SQLITE];
    let program = program(seed);
    run(seed, &program, &stores).unwrap_or_else(|violation| {
        if failed.swap(true, Ordering::Relaxed) {
            return Done::default();
        }
        let shortest = shrink(&program, |shorter| run(seed, shorter, &stores).is_err());
        let again = run(seed, &shortest, &stores).err();
        let steps: Vec<_> = shortest.iter().map(|step| format!("    {step:?}")).collect();
        panic!(
            "{violation}\nJOBMILL_SEED={seed} runs it again. The shortest program found ends with\n{}\n{}",
            again.unwrap_or_else(|| "nothing: it does not fail every time".into()),
            steps.join("\n")
        )
    })
}

#[test]
fn random_programs_keep_every_promise_on_every_store() {
    if let Some(seed) = number("JOBMILL_SEED") {
        println!("{:?}", check(seed, &AtomicBool::new(false)));
        return;
    }
    let programs = number("JOBMILL_PROGRAMS").unwrap_or(PROGRAMS);
    let first = number("JOBMILL_FIRST_SEED").unwrap_or(0);
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    // Most of the time goes into waiting for flushes.
    let workers = 4 * thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Done::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + programs || failed.load(Ordering::Relaxed) {
                return done;
            }
            done = done.and(check(seed, &failed));
        }
    };
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Done::default(), |done, worker| match worker.join() {
            Ok(more) => done.and(more),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    println!("{programs} programs: {done:?}");
    // A checker is worth nothing if the programs do too little.
    assert!(done.batches as u64 > programs * 5 && done.crashes as u64 > programs, "{done:?}");
    let (assigned, hellos) = (done.assigned as u64, done.hellos as u64);
    assert!(assigned > programs * 2 && hellos > programs * 2 && done.repeats > 0, "{done:?}");
    let scheduled = done.scheduled;
    let (fired, left_out) = (scheduled.fired as u64, scheduled.left_out);
    assert!(fired > programs && left_out > programs && scheduled.set_back > 0, "{done:?}");
    assert!(scheduled.triggered > 0 && scheduled.backfilled > 0 && scheduled.waiting > 0, "{done:?}");
    assert!(done.turns as u64 > programs, "{done:?}");
    let (forsaken, children) = (done.forsaken as u64, done.children as u64);
    assert!(forsaken > programs / 4 && children > programs, "{done:?}");
    let (starts, tokens, waits) = done.limited;
    assert!(starts as u64 > programs && tokens as u64 > programs / 2 && waits as u64 > programs, "{done:?}");
    assert!(done.changes as u64 > programs * 20 && done.terminals as u64 > programs * 5, "{done:?}");
}

/// Returns the number of programs until the checker finds a store's bug, and the violation.
fn found(store: Open) -> (u64, String) {
    found_as(store, "")
}

/// Returns the number of programs until a violation that a store's bug causes says what is `told`, and the violation.
fn found_as(store: Open, told: &str) -> (u64, String) {
    let violation = |seed| {
        let violation = run(seed, &program(seed), &[store]).err();
        violation.filter(|violation| violation.contains(told)).map(|violation| (seed, violation))
    };
    match (0..PROGRAMS_UNTIL_FOUND).find_map(violation) {
        Some((seed, violation)) => (seed + 1, violation),
        None => panic!("nothing was found in {PROGRAMS_UNTIL_FOUND} programs"),
    }
}

#[test]
fn an_answer_before_the_commit_is_found() {
    let (_, violation) = found(AnswersBeforeCommit::open);
    assert!(violation.contains("not recorded") || violation.contains("acknowledged"), "{violation}");
}

#[test]
fn an_attempt_that_a_crash_forgot_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_attempts);
    assert!(violation.contains("forgot an attempt"), "{violation}");
}

#[test]
fn a_snooze_that_a_crash_counts_is_found() {
    let (programs, violation) = found(ChangedByCrash::counts_snoozes);
    println!("in {programs} programs: {violation}");
    let told = ["counted attempts of", "was snoozed", "is forgotten", "the feed said", "after the crash"];
    assert!(told.iter().any(|told| violation.contains(told)), "{violation}");
}

#[test]
fn an_end_by_itself_that_a_crash_forgot_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_ends);
    assert!(
        violation.contains("should have expired") || violation.contains("should have failed"),
        "{violation}"
    );
}

#[test]
fn a_turn_that_a_restart_forgot_is_found() {
    let (programs, violation) = found_as(ChangedByCrash::forgets_turns, "turns in");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_remote_attempt_that_a_crash_ended_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_workers);
    assert!(violation.contains("did not run, and the crash changed it"), "{violation}");
}

#[test]
fn an_end_that_a_worker_reported_and_a_crash_forgot_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_reports);
    assert!(violation.contains("is a repeat and was") || violation.contains("is Lost for"), "{violation}");
}

#[test]
fn an_end_that_becomes_another_workers_is_found() {
    let (_, violation) = found(ChangedByCrash::confuses_owners);
    let told = ["is a repeat and was", "is a stranger's and was taken", "is Lost for", "is Reported for"];
    assert!(told.iter().any(|told| violation.contains(told)), "{violation}");
}

#[test]
fn a_checkpoint_that_a_crash_forgot_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_checkpoints);
    assert!(violation.contains("the checkpoint of"), "{violation}");
}

#[test]
fn a_replaced_process_that_is_let_back_in_is_found() {
    let (_, violation) = found(ChangedByCrash::forgets_predecessors);
    assert!(violation.contains("was replaced and is back"), "{violation}");
}

#[test]
fn an_end_that_a_resumed_watcher_is_not_told_is_found() {
    let (_, violation) = found(SkipsEnds::open);
    assert!(violation.contains("a watcher from"), "{violation}");
}

#[test]
fn a_store_that_counts_time_by_the_wall_clock_is_found() {
    let (_, violation) = found(CountsByTheWall::open);
    let told = ["a backoff ended after", "still backs off", "deleted by nobody", "still there after"];
    assert!(told.iter().any(|told| violation.contains(told)), "{violation}");
}

#[test]
fn a_key_that_an_expired_job_keeps_is_found() {
    let (programs, violation) = found(KeepsKeysOfExpired::open);
    println!("in {programs} programs: {violation}");
    assert!(violation.contains("has ended and holds its key"), "{violation}");
}

#[test]
fn a_child_that_is_unblocked_early_is_found() {
    let (programs, violation) = found_as(ForgetsEdges::open, "before its dependencies hold");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_child_that_is_never_told_is_found() {
    let (programs, violation) = found_as(ForgetsEdges::tells_nobody, "still waits, and all is decided");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_start_that_gives_numbers_from_before_its_clock_is_found() {
    let (_, violation) = found(BeginsBehindItsClock::open);
    assert!(violation.contains("begin with"), "{violation}");
}

#[test]
fn an_instant_that_runs_again_after_a_restart_is_found() {
    let (programs, violation) = found(BrokenSchedules::fires_twice);
    println!("in {programs} programs: {violation}");
    assert!(violation.contains("has two jobs"), "{violation}");
}

#[test]
fn a_first_instant_that_a_restart_lost_is_found() {
    let (programs, violation) = found_as(BrokenSchedules::forgets_first, "are accounted for");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_fixed_time_that_runs_twice_in_the_fold_is_found() {
    let (programs, violation) = found_as(RepeatsFold::open, "no time of");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_place_that_a_failed_job_keeps_is_found() {
    let (programs, violation) = found_as(KeepsPlaces::open, "of Here are free");
    println!("in {programs} programs: {violation}");
}

#[test]
fn a_rate_that_a_restart_refills_is_found() {
    let (programs, violation) = found(ChangedByCrash::refills_rates);
    println!("in {programs} programs: {violation}");
    assert!(violation.contains("tokens too many"), "{violation}");
}

#[test]
fn an_override_that_a_restart_forgot_is_found() {
    let (programs, violation) = found(ChangedByCrash::forgets_overrides);
    println!("in {programs} programs: {violation}");
    let told = ["run under", "tokens too many", "is paused", "are free", "OverrideNotFound"];
    assert!(told.iter().any(|told| violation.contains(told)), "{violation}");
}

#[test]
fn a_sound_store_alone_is_found_sound() {
    for store in [MEMORY, SQLITE] {
        for seed in 0..20 {
            run(seed, &program(seed), &[store]).unwrap();
        }
    }
}

#[test]
fn a_failing_program_is_shrunk_to_what_matters() {
    let fails = |steps: &[store::property::program::Step]| {
        steps.iter().filter(|step| matches!(step, store::property::program::Step::Crash { .. })).count() >= 2
    };
    let program = (0..).map(program).find(|program| fails(program)).unwrap();
    assert_eq!(shrink(&program, fails).len(), 2);
}
