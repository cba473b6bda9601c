//! The whole transition table: every state, every event, and the result.

use super::*;
use crate::clock::StoreTime;
use crate::job::{JobId, Name, Remote, RetryPolicy, Spec};

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const EARLIER: Timestamp = Timestamp::from_micros(400_000);
const LATER: Timestamp = Timestamp::from_micros(5_000_000);
const LEASE: LeaseToken = LeaseToken::from_raw(7);
const STALE: LeaseToken = LeaseToken::from_raw(6);
const PARTICIPANT: Participant = Participant(3);
const MOMENT: Moment = Moment { now: NOW, backoffs: NOW, elapsed: StoreTime::from_micros(0), position: Position(50), random: 0.0, participant: PARTICIPANT };

/// A job with a limit of three attempts, in or after its second one.
fn job(state: State) -> Job {
    let spec = Spec {
        queue: Name::new(0, "queue"),
        kind: Name::new(0, "kind"),
        priority: 3,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: Duration::from_secs(9),
        bytes: 300,
        created: EARLIER,
        expires: None,
        extras: None,
    };
    Job {
        id: JobId::from_raw(1),
        spec: Arc::new(spec),
        state,
        revision: 4,
        position: Position(40),
        attempt: 2,
        max_attempts: 3,
        updated: EARLIER,
        started: Some(EARLIER),
        ended: state.is_done().then_some(EARLIER),
        progress: Some(Arc::new(Progress { fraction: Some(0.5), ..Progress::default() })),
        failure: Some(failure(true)),
        result: None,
        remote: Remote::NONE,
        rare: None,
    }
}

/// Order key of a released job.
const PLACE: Position = Position(17);

fn failure(retryable: bool) -> Arc<Failure> {
    Arc::new(Failure { retryable, ..Failure::clone(&lost("gone")) })
}

fn states() -> [(&'static str, State); 12] {
    [
        ("SCHEDULED", State::Scheduled { due: LATER }),
        ("SCHEDULED, due", State::Scheduled { due: NOW }),
        ("BLOCKED", State::Blocked { due: NOW }),
        ("QUEUED", State::Queued { order: Position(40), participant: PARTICIPANT }),
        ("RUNNING", State::Running { lease: LEASE }),
        ("BACKING_OFF", State::BackingOff { due: LATER }),
        ("BACKING_OFF, due", State::BackingOff { due: NOW }),
        ("CANCELLING", State::Cancelling { lease: LEASE }),
        ("SUCCEEDED", State::Succeeded),
        ("FAILED", State::Failed),
        ("CANCELLED", State::Cancelled),
        ("EXPIRED", State::Expired),
    ]
}

fn events(lease: LeaseToken) -> [(&'static str, Event); 12] {
    let progress = Arc::new(Progress { fraction: Some(0.9), ..Progress::default() });
    [
        ("due", Event::Due),
        ("start", Event::Start { lease: LeaseToken::from_raw(8), worker: None }),
        ("progress", Event::Progress { lease, progress }),
        ("succeed", Event::Succeed { lease, result: None }),
        ("fail", Event::Fail { lease, failure: failure(true), delay: None, cause: FailCause::Other }),
        ("fail for good", Event::Fail { lease, failure: failure(false), delay: None, cause: FailCause::Other }),
        ("release", Event::Release { lease, delay: None, order: PLACE }),
        ("release for later", Event::Release { lease, delay: Some(Duration::from_secs(2)), order: PLACE }),
        ("snooze", Event::Snooze { lease, delay: Duration::from_secs(2) }),
        ("cancel", Event::Cancel),
        ("retry", Event::Retry { reset: false }),
        ("lapse", Event::Lapse),
    ]
}

/// The next state for each state and event: `-` if the state forbids the event, `lost` if the lease does not match.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 12]); 12] = [
    //                     due       start      progress      succeed      fail           for good     release      later        snooze        cancel        retry     lapse
    ("SCHEDULED",        ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "QUEUED", "-"]),
    ("SCHEDULED, due",   ["QUEUED", "RUNNING", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "QUEUED", "-"]),
    ("BLOCKED",          ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "-", "-"]),
    ("QUEUED",           ["-", "RUNNING", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "-", "-"]),
    ("RUNNING",          ["-", "-", "RUNNING", "SUCCEEDED", "BACKING_OFF", "FAILED", "QUEUED", "BACKING_OFF", "BACKING_OFF", "CANCELLING", "-", "-"]),
    ("BACKING_OFF",      ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "QUEUED", "-"]),
    ("BACKING_OFF, due", ["QUEUED", "RUNNING", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "CANCELLED", "QUEUED", "-"]),
    ("CANCELLING",       ["-", "-", "CANCELLING", "SUCCEEDED", "CANCELLED", "CANCELLED", "CANCELLED", "CANCELLED", "CANCELLED", "-", "-", "-"]),
    ("SUCCEEDED",        ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "-", "-", "-"]),
    ("FAILED",           ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "-", "QUEUED", "-"]),
    ("CANCELLED",        ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "-", "QUEUED", "-"]),
    ("EXPIRED",          ["-", "-", "lost", "lost", "lost", "lost", "lost", "lost", "lost", "-", "-", "-"]),
];

/// Invariants of every change.
fn assert_sound(before: &Job, event: &Event, after: &Job) {
    assert_eq!((after.id, &after.spec), (before.id, &before.spec));
    assert_eq!((after.revision, after.position, after.updated), (5, MOMENT.position, NOW));
    assert_eq!(after.ended, after.state.is_done().then_some(NOW), "{event:?}");
    let started = matches!(event, Event::Start { .. });
    let released = matches!(event, Event::Release { .. });
    assert_eq!(after.attempt, before.attempt + u32::from(started));
    let uncounted = released || matches!(event, Event::Snooze { .. });
    assert_eq!(after.counted_attempts(), before.attempt + u32::from(started) - u32::from(uncounted));
    assert_eq!(after.max_attempts, before.max_attempts);
    assert!(after.attempt <= after.max_attempts);
    match after.state {
        State::Queued { order, participant } if released => {
            assert_eq!((order, participant), (PLACE, PARTICIPANT), "it keeps its place");
        }
        State::Queued { order, participant } => {
            assert_eq!((order, participant), (MOMENT.position, PARTICIPANT));
        }
        State::Running { lease } if started => assert_eq!(lease, LeaseToken::from_raw(8)),
        State::Running { lease } | State::Cancelling { lease } => assert_eq!(lease, LEASE),
        State::BackingOff { due } => assert_eq!(due, NOW.after(Duration::from_secs(2))),
        State::Scheduled { .. } | State::Blocked { .. } => panic!("nothing puts off a job that is there"),
        State::Succeeded | State::Failed | State::Cancelled | State::Expired => {}
    }
    assert_eq!(after.started, if started { Some(NOW) } else { before.started.filter(|_| !released) });
    assert_eq!(after.progress.is_none(), started, "only a new attempt starts without progress");
    assert_eq!(after.failure.is_none(), after.state == State::Succeeded);
}

#[test]
fn every_state_and_event_is_in_the_table() {
    for ((state_name, state), (row_name, row)) in states().into_iter().zip(TABLE) {
        assert_eq!(state_name, row_name);
        for ((event_name, event), expected) in events(LEASE).into_iter().zip(row) {
            let before = job(state);
            let result = transition(&before, &event, MOMENT);
            let told = match &result {
                Ok(changed) => changed.job.state.name().as_str(),
                Err(Refusal::WrongState(name)) => {
                    assert_eq!(*name, state.name());
                    "-"
                }
                Err(Refusal::LeaseLost(name)) => {
                    assert_eq!(*name, state.name());
                    "lost"
                }
                Err(Refusal::DeadlinePassed(_)) => panic!("the job has no deadline"),
            };
            assert_eq!(told, expected, "{state_name}: {event_name}");
            if let Ok(Changed { job: after, ended_attempt }) = result {
                assert_sound(&before, &event, &after);
                let failed = matches!(event, Event::Fail { .. });
                assert_eq!(ended_attempt.is_some(), failed, "{state_name}: {event_name}");
            }
        }
    }
}

#[test]
fn a_stale_lease_changes_nothing_in_any_state() {
    for (name, state) in states() {
        for (event_name, event) in events(STALE) {
            let of_attempt =
                matches!(event_name, "progress" | "succeed" | "fail" | "fail for good" | "release");
            if of_attempt {
                let refusal = transition(&job(state), &event, MOMENT).unwrap_err();
                assert_eq!(refusal, Refusal::LeaseLost(state.name()), "{name}: {event_name}");
            }
        }
    }
}

#[test]
fn the_last_attempt_that_fails_is_the_end() {
    let last = Job { attempt: 3, ..job(State::Running { lease: LEASE }) };
    let event = Event::Fail { lease: LEASE, failure: failure(true), delay: Some(Duration::ZERO), cause: FailCause::Other };
    let changed = transition(&last, &event, MOMENT).unwrap();
    assert_eq!(changed.job.state, State::Failed);
    let record = changed.ended_attempt.unwrap();
    assert_eq!((record.number, record.started, record.ended), (3, EARLIER, Some(NOW)));
    assert_eq!(record.failure.as_ref(), changed.job.failure.as_deref());
}

#[test]
fn the_handlers_own_delay_comes_before_the_policy() {
    let running = job(State::Running { lease: LEASE });
    for (delay, due) in [(Duration::ZERO, NOW), (Duration::from_secs(60), NOW.after(Duration::from_secs(60)))]
    {
        let event = Event::Fail { lease: LEASE, failure: failure(true), delay: Some(delay), cause: FailCause::Other };
        assert_eq!(transition(&running, &event, MOMENT).unwrap().job.state, State::BackingOff { due });
    }
}

#[test]
fn schedules_follow_the_clock_and_backoffs_what_has_passed() {
    let scheduled = job(State::Scheduled { due: NOW });
    let backing_off = job(State::BackingOff { due: NOW });
    let goes_on = |job, moment| transition(job, &Event::Due, moment).is_ok();
    for (now, backoffs) in [(NOW, EARLIER), (EARLIER, NOW)] {
        let moment = Moment { now, backoffs, ..MOMENT };
        assert_eq!(
            (goes_on(&scheduled, moment), goes_on(&backing_off, moment)),
            (now == NOW, backoffs == NOW)
        );
        let event = Event::Fail { lease: LEASE, failure: failure(true), delay: Some(Duration::ZERO), cause: FailCause::Other };
        let failed = transition(&job(State::Running { lease: LEASE }), &event, moment).unwrap().job;
        assert_eq!((failed.updated, failed.state), (now, State::BackingOff { due: backoffs }));
    }
}

#[test]
fn jitter_only_shortens_a_delay() {
    let policy = RetryPolicy { jitter: 0.5, ..RetryPolicy::DEFAULT };
    let mut running = job(State::Running { lease: LEASE });
    running.spec = Arc::new(Spec { retry: policy, ..Spec::clone(&running.spec) });
    let event = Event::Fail { lease: LEASE, failure: failure(true), delay: None, cause: FailCause::Other };
    let changed = transition(&running, &event, Moment { random: 1.0, ..MOMENT }).unwrap();
    assert_eq!(changed.job.state, State::BackingOff { due: NOW.after(Duration::from_secs(1)) });
}

#[test]
fn jitter_only_lengthens_a_delay_that_was_asked_for() {
    let policy = RetryPolicy { jitter: 0.5, ..RetryPolicy::DEFAULT };
    let mut running = job(State::Running { lease: LEASE });
    running.spec = Arc::new(Spec { retry: policy, ..Spec::clone(&running.spec) });
    let delay = Some(Duration::from_secs(60));
    for (random, seconds) in [(0.0, 60), (0.5, 75), (1.0, 90)] {
        let due = NOW.after(Duration::from_secs(seconds));
        let moment = Moment { random, ..MOMENT };
        let fail = Event::Fail { lease: LEASE, failure: failure(true), delay, cause: FailCause::Other };
        assert_eq!(transition(&running, &fail, moment).unwrap().job.state, State::BackingOff { due });
        let release = Event::Release { lease: LEASE, delay, order: PLACE };
        assert_eq!(transition(&running, &release, moment).unwrap().job.state, State::BackingOff { due });
    }
}

#[test]
fn a_retry_gives_an_ended_job_one_more_attempt_if_it_has_none() {
    for (attempt, max_attempts, expected) in [(3, 3, 4), (1, 3, 3), (0, 1, 1)] {
        let ended = Job { attempt, max_attempts, ..job(State::Failed) };
        let retried = transition(&ended, &Event::Retry { reset: false }, MOMENT).unwrap().job;
        assert_eq!((retried.attempt, retried.max_attempts, retried.ended), (attempt, expected, None));
    }
    // A waiting job is only brought forward, and gets no further attempt.
    let waiting = Job { attempt: 1, max_attempts: 3, ..job(State::BackingOff { due: LATER }) };
    assert_eq!(transition(&waiting, &Event::Retry { reset: false }, MOMENT).unwrap().job.max_attempts, 3);
}

#[test]
fn a_released_first_attempt_has_a_number_and_counts_for_nothing() {
    let claimed = Job { attempt: 1, ..job(State::Running { lease: LEASE }) };
    let changed =
        transition(&claimed, &Event::Release { lease: LEASE, delay: None, order: PLACE }, MOMENT).unwrap();
    let Job { attempt, started, .. } = changed.job;
    assert_eq!((attempt, started, changed.job.has_started()), (1, None, false));
    assert_eq!((changed.job.counted_attempts(), changed.job.failures()), (0, 0));
    assert!(changed.ended_attempt.is_none());
}

#[test]
fn a_new_job_waits_for_its_time_only_if_that_is_to_come() {
    let queued = State::Queued { order: MOMENT.position, participant: PARTICIPANT };
    for (run_time, expected) in [
        (None, queued),
        (Some(EARLIER), queued),
        (Some(NOW), queued),
        (Some(LATER), State::Scheduled { due: LATER }),
    ] {
        assert_eq!(waiting_state(run_time, MOMENT), expected);
    }
}

#[test]
fn only_what_waits_for_its_first_attempt_expires_and_only_in_time() {
    let with = |state, attempt, expires| {
        let mut job = Job { attempt, ..job(state) };
        job.spec = Arc::new(Spec { expires: Some(expires), ..Spec::clone(&job.spec) });
        job
    };
    for (name, state) in states() {
        let waits =
            matches!(state.name(), StateName::Scheduled | StateName::Blocked | StateName::Queued | StateName::BackingOff);
        let expected = if waits { Ok(State::Expired) } else { Err(Refusal::WrongState(state.name())) };
        let of = |job: &Job| transition(job, &Event::Lapse, MOMENT).map(|changed| changed.job.state);
        assert_eq!(of(&with(state, 0, NOW)), expected, "{name}");
        assert!(of(&with(state, 0, LATER)).is_err(), "{name}: its time is not over");
        assert!(of(&with(state, 1, NOW)).is_err(), "{name}: an attempt has started");
    }
}

fn update(job: &Job, start: Option<Option<Timestamp>>) -> Result<Job, Refusal> {
    let spec = Arc::new(Spec { priority: 9, ..Spec::clone(&job.spec) });
    let event = Event::Update { spec, start, replaces: true };
    transition(job, &event, MOMENT).map(|changed| changed.job)
}

#[test]
fn only_what_waits_and_has_never_started_gets_new_input() {
    for (name, state) in states() {
        let waits = matches!(
            state.name(),
            StateName::Scheduled | StateName::Blocked | StateName::Queued | StateName::BackingOff
        );
        let new = Job { attempt: 0, ..job(state) };
        match update(&new, None) {
            Ok(after) => {
                assert!(waits, "{name}");
                assert_eq!((after.state, after.spec.priority), (state, 9), "{name}: it keeps its place");
                assert_eq!((after.revision, after.position), (new.revision + 1, MOMENT.position));
                assert_eq!(after.rare().replaced, 1);
            }
            Err(refusal) => assert_eq!((refusal, waits), (Refusal::WrongState(state.name()), false), "{name}"),
        }
        assert!(update(&job(state), None).is_err(), "{name}: an attempt has started");
    }
}

#[test]
fn another_start_moves_a_job_only_as_far_as_it_must() {
    let (queued, at_once) = (State::Queued { order: Position(40), participant: PARTICIPANT }, State::Queued { order: MOMENT.position, participant: PARTICIPANT });
    let scheduled = |due| State::Scheduled { due };
    let blocked = |due| State::Blocked { due };
    let backing_off = State::BackingOff { due: LATER };
    for (state, start, expected) in [
        (queued, None, queued),
        (queued, Some(EARLIER), queued),
        (queued, Some(LATER), scheduled(LATER)),
        (scheduled(LATER), None, at_once),
        (scheduled(LATER), Some(NOW), at_once),
        (scheduled(NOW), Some(LATER), scheduled(LATER)),
        (blocked(LATER), None, blocked(NOW)),
        (blocked(NOW), Some(LATER), blocked(LATER)),
        (backing_off, None, backing_off),
        (backing_off, Some(LATER), scheduled(LATER)),
    ] {
        let new = Job { attempt: 0, ..job(state) };
        assert_eq!(update(&new, Some(start)).unwrap().state, expected, "{state:?} {start:?}");
    }
}

#[test]
fn a_blocked_job_waits_for_the_later_of_two_times_once_the_holder_has_ended() {
    let unblocked = |state, not_before| {
        transition(&job(state), &Event::Unblock { not_before }, MOMENT).map(|changed| changed.job.state)
    };
    let at_once = State::Queued { order: MOMENT.position, participant: PARTICIPANT };
    for (due, not_before, expected) in [
        (EARLIER, None, at_once),
        (NOW, Some(EARLIER), at_once),
        (LATER, None, State::Scheduled { due: LATER }),
        (EARLIER, Some(LATER), State::Scheduled { due: LATER }),
    ] {
        assert_eq!(unblocked(State::Blocked { due }, not_before), Ok(expected));
    }
    for (name, state) in states().into_iter().filter(|(name, _)| *name != "BLOCKED") {
        assert_eq!(unblocked(state, None), Err(Refusal::WrongState(state.name())), "{name}");
    }
}
