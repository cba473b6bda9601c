//! A job's `spec`: returned as the client submitted it, beside the values in force.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    job::RetryPolicy,
    proto::v1::{
        self,
        job_spec::{Deadline, Expiry, Start},
    },
    serve::Server,
    settings::KindDefaults,
};

use super::{duration, entries, shelf};
use crate::{
    limits::{create, running},
    support::{
        QUEUE, Rig, defaults, echo, folder, job, manual_clock, memory, named, queue, simple, spec, with_queue,
    },
};

/// Returns a spec with every field set, some of them to the default, but no unique key: a second job with the same one
/// would differ from the first.
fn talkative() -> v1::JobSpec {
    v1::JobSpec {
        queue: QUEUE.to_owned(),
        kind: "echo".to_owned(),
        payload: Some(v1::Payload {
            metadata: entries([("encoding", "none")]),
            size_bytes: 5,
            ..v1::Payload::of("bytes").with_type("image/png")
        }),
        labels: entries([("tenant", "a")]),
        headers: entries([("locale", "fr")]),
        priority: Some(0),
        max_attempts: 5,
        retry_policy: Some(Box::new(v1::RetryPolicy {
            initial_delay: Some(duration(2)),
            max_delay: Some(duration(3)),
            multiplier: Some(1.0),
            jitter: Some(0.0),
            delays: Vec::new(),
        })),
        attempt_timeout: Some(duration(900)),
        start: Some(Start::Delay(duration(60))),
        expiry: Some(Expiry::ExpireAfter(duration(3_600))),
        deadline: Some(Deadline::DeadlineAfter(duration(7_200))),
        max_snoozes: Some(1_000),
        max_process_losses: 3,
        depends_on: Vec::new(),
        unique_key: None,
        weights: [("gpu".to_owned(), 1)].into(),
    }
}

/// Returns a kind's own policy, in which no value is the usual one.
fn own_policy() -> KindDefaults {
    let retry = RetryPolicy {
        initial_delay: Duration::from_secs(7),
        max_delay: Duration::from_secs(70),
        multiplier: 3.0,
        jitter: 0.5,
        delays: None,
    };
    KindDefaults {
        max_attempts: 9,
        retry,
        attempt_timeout: Duration::from_secs(11),
        ..KindDefaults::default()
    }
}

async fn with_own_policy() -> Rig {
    let settings = with_queue(memory(), QUEUE, queue(0));
    Rig::start(Server::builder(settings).handler("echo", own_policy(), echo)).await
}

#[tokio::test]
async fn unset_fields_stay_unset_and_the_job_has_the_defaults() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let found = rig.get(&id).await;
    assert_eq!(found.spec, Some(job("echo")));
    let policy = v1::RetryPolicy {
        initial_delay: Some(duration(1)),
        max_delay: Some(duration(3_600)),
        multiplier: Some(2.0),
        jitter: Some(0.0),
        delays: Vec::new(),
    };
    assert_eq!((found.max_attempts, found.retry_policy), (5, Some(policy)));
    assert_eq!(found.attempt_timeout, Some(duration(900)));
    assert_eq!((found.next_run_time, found.expire_time), (None, None));
    rig.stop().await;
}

#[tokio::test]
async fn everything_that_was_said_comes_back_though_it_is_the_default() {
    let clock = manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(0))).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    create(&rig, running("gpu", 1)).await.unwrap();
    let id = rig.submit(talkative()).await.id;
    let found = rig.get(&id).await;
    assert_eq!(found.spec, Some(talkative()));
    assert_eq!((found.max_attempts, found.retry_policy), (5, talkative().retry_policy.map(|policy| *policy)));
    let created = found.create_time.unwrap().seconds;
    assert_eq!(found.next_run_time.unwrap().seconds, created + 60);
    assert_eq!(found.expire_time.unwrap().seconds, created + 3_600);
    assert_eq!(found.deadline_time.unwrap().seconds, created + 7_200);
    rig.stop().await;
}

#[tokio::test]
async fn a_spec_that_is_submitted_again_makes_an_equal_job() {
    let clock = manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(0))).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    create(&rig, running("gpu", 1)).await.unwrap();
    let partly = v1::RetryPolicy { jitter: Some(1.0), ..v1::RetryPolicy::default() };
    for said in [
        job("echo"),
        talkative(),
        v1::JobSpec { payload: Some(v1::Payload::of_text("text")), ..job("echo") },
        v1::JobSpec { retry_policy: Some(partly.into()), ..job("fail") },
        v1::JobSpec { retry_policy: Some(Box::default()), ..job("fail") },
        v1::JobSpec { start: crate::support::run_time(1_900_000_000), ..job("echo") },
        v1::JobSpec { expiry: crate::support::expire_time(1_900_000_000), ..job("echo") },
    ] {
        let first = rig.submit(said).await.id;
        let first = rig.get(&first).await;
        let second = rig.submit(spec(&first).clone()).await.id;
        let second = rig.get(&second).await;
        assert_ne!(second.id, first.id);
        assert_eq!(v1::Job { id: first.id.clone(), ..second }, first);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_partly_said_takes_the_rest_from_its_kind() {
    let rig = with_own_policy().await;
    let own = v1::RetryPolicy {
        initial_delay: Some(duration(7)),
        max_delay: Some(duration(70)),
        multiplier: Some(3.0),
        jitter: Some(0.5),
        delays: Vec::new(),
    };
    let nothing = v1::RetryPolicy::default();
    for (said, effective) in [
        (None, own.clone()),
        (Some(nothing.clone()), own.clone()),
        (
            Some(v1::RetryPolicy { initial_delay: Some(duration(0)), ..nothing.clone() }),
            v1::RetryPolicy { initial_delay: Some(duration(0)), ..own.clone() },
        ),
        (
            Some(v1::RetryPolicy { max_delay: Some(duration(8)), ..nothing.clone() }),
            v1::RetryPolicy { max_delay: Some(duration(8)), ..own.clone() },
        ),
        (
            Some(v1::RetryPolicy { multiplier: Some(1.0), ..nothing.clone() }),
            v1::RetryPolicy { multiplier: Some(1.0), ..own.clone() },
        ),
        (
            Some(v1::RetryPolicy { jitter: Some(0.0), ..nothing.clone() }),
            v1::RetryPolicy { jitter: Some(0.0), ..own.clone() },
        ),
        (
            Some(v1::RetryPolicy { delays: vec![duration(5)], ..nothing.clone() }),
            v1::RetryPolicy { delays: vec![duration(5)], ..own.clone() },
        ),
    ] {
        let id =
            rig.submit(v1::JobSpec { retry_policy: said.clone().map(Into::into), ..job("echo") }).await.id;
        let found = rig.get(&id).await;
        assert_eq!(spec(&found).retry_policy.as_deref(), said.as_ref());
        assert_eq!(found.retry_policy, Some(effective), "{said:?}");
    }
    let found = rig.submit(job("echo")).await;
    assert_eq!((found.max_attempts, found.attempt_timeout), (9, Some(duration(11))));
    rig.stop().await;
}

#[tokio::test]
async fn a_priority_of_0_and_none_are_the_same_job_and_different_specs() {
    let clock = manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(0))).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    let said = rig.submit(v1::JobSpec { priority: Some(0), ..job("echo") }).await.id;
    let unsaid = rig.submit(job("echo")).await.id;
    let (said, unsaid) = (rig.get(&said).await, rig.get(&unsaid).await);
    assert_eq!((spec(&said).priority, spec(&unsaid).priority), (Some(0), None));
    let same = v1::Job { id: said.id.clone(), spec: said.spec.clone(), ..unsaid };
    assert_eq!(same, said);
    rig.stop().await;
}

/// Rounds a spec's times down to the microsecond.
fn to_microseconds(mut spec: v1::JobSpec) -> v1::JobSpec {
    let cut = |nanos: &mut i32| *nanos -= *nanos % 1_000;
    let policy = spec.retry_policy.as_mut();
    let delays = policy.map(|policy| [policy.initial_delay.as_mut(), policy.max_delay.as_mut()]);
    delays.into_iter().flatten().chain([spec.attempt_timeout.as_mut()]).flatten().for_each(|time| {
        cut(&mut time.nanos);
    });
    match &mut spec.start {
        Some(Start::RunTime(time)) => cut(&mut time.nanos),
        Some(Start::Delay(time)) => cut(&mut time.nanos),
        None => {}
    }
    match &mut spec.expiry {
        Some(Expiry::ExpireTime(time)) => cut(&mut time.nanos),
        Some(Expiry::ExpireAfter(time)) => cut(&mut time.nanos),
        None => {}
    }
    spec
}

#[tokio::test]
async fn times_come_back_to_the_microsecond_and_make_the_same_request() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let exact = |seconds| prost_types::Duration { seconds, nanos: 123_456_789 };
    let at = |seconds| prost_types::Timestamp { seconds, nanos: 123_456_789 };
    let relative = v1::JobSpec {
        retry_policy: Some(Box::new(v1::RetryPolicy {
            initial_delay: Some(exact(1)),
            max_delay: Some(exact(2)),
            ..v1::RetryPolicy::default()
        })),
        attempt_timeout: Some(exact(3)),
        start: Some(Start::Delay(exact(4))),
        expiry: Some(Expiry::ExpireAfter(exact(5))),
        ..job("echo")
    };
    let absolute = v1::JobSpec {
        start: Some(Start::RunTime(at(1_900_000_000))),
        expiry: Some(Expiry::ExpireTime(at(1_900_000_001))),
        ..job("echo")
    };
    let mut rig = Rig::start(simple(settings())).await;
    for (request_id, said) in [("relative", relative), ("absolute", absolute)] {
        let first = super::submit(&rig, named(request_id, said.clone())).await.unwrap();
        let kept = rig.get(first.id()).await.spec.expect("a spec");
        assert_eq!(to_microseconds(kept.clone()), to_microseconds(said.clone()));
        for round in ["at once", "after a restart"] {
            assert_eq!(rig.get(first.id()).await.spec.as_ref(), Some(&kept), "{request_id} {round}");
            for again in [&said, &kept] {
                let again = super::submit(&rig, named(request_id, again.clone())).await;
                let again = again.unwrap_or_else(|status| panic!("{request_id} {round}: {status:?}"));
                assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
            }
            rig.stop().await;
            rig = Rig::start(simple(settings())).await;
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn specs_and_what_became_of_them_outlive_a_restart_with_other_defaults() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let rig = Rig::start(Server::builder(settings()).handler("echo", defaults(), echo)).await;
    let mut before = Vec::new();
    create(&rig, running("gpu", 1)).await.unwrap();
    for said in [job("echo"), talkative()] {
        let id = rig.submit(said).await.id;
        before.push(rig.get(&id).await);
    }
    rig.stop().await;
    let rig = Rig::start(Server::builder(settings()).handler("echo", own_policy(), echo)).await;
    for job in &before {
        assert_eq!(rig.get(&job.id).await, *job);
    }
    assert_eq!(spec(&before[0]), &job("echo"));
    assert_eq!(spec(&before[1]), &talkative());
    rig.stop().await;
}

#[tokio::test]
async fn a_spec_stays_as_it_was_said_while_its_job_goes_on() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    create(&rig, running("gpu", 1)).await.unwrap();
    let id = rig.submit(talkative()).await.id;
    clock.advance(Duration::from_secs(60));
    let ended = rig.ends(&id).await;
    assert_eq!(ended.spec, Some(talkative()));
    assert_eq!(ended.next_run_time, None);
    // The retry grants more attempts than the spec has.
    let failing = v1::JobSpec { max_attempts: 1, ..job("fail") };
    let id = rig.submit(failing.clone()).await.id;
    rig.ends(&id).await;
    let retried = rig.retry(&id).await.unwrap();
    assert_eq!((retried.spec, retried.max_attempts), (Some(failing), 2));
    rig.stop().await;
}
