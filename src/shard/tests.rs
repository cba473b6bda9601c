//! Tests of several shards in one process.

use std::time::Duration;

use super::*;
use crate::{
    clock::{Clock, ManualClock, Timestamp},
    counters::{Counters, Health},
    engine::{Action, EngineSetup},
    job::RetryPolicy,
    settings::{QueueSettings, Retention, WorkerSettings},
    store::memory::MemoryStore,
    workers::Roster,
};

const QUEUE: &str = "mail";

fn start() -> Committing {
    let clock = Clock::Manual(ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000)));
    let draining = CancellationToken::new();
    let queue = QueueSettings { max_jobs: 1, consumers: 0, ..QueueSettings::default() };
    let counters = Arc::new(Counters::new(["send"], Health::new(draining.clone())).unwrap());
    let workers = Arc::clone(&counters.workers);
    let parts = Parts {
        remote: Arc::new(Roster::new(WorkerSettings::default(), clock.clone(), workers)),
        store: Box::new(MemoryStore::new()),
        setup: EngineSetup {
            present: clock.present(),
            seed: 7,
            served_kinds: vec!["send".to_owned()],
            native_kinds: Default::default(),
            declared_queues: [(QUEUE.to_owned(), queue)].into(),
            retention: Retention::default(),
            demand: Arc::default(),
            limits: std::collections::BTreeMap::new(),
            schedules: crate::engine::ScheduleSetup::default(),
        },
        counters,
        clock,
        draining,
    };
    parts.start(tokio::runtime::Handle::current()).unwrap()
}

fn submission(room: Option<Uptime>) -> Submission {
    let job = NewJob {
        queue: QUEUE.into(),
        kind: "send".into(),
        priority: 0,
        max_attempts: 1,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: Duration::from_secs(1),
        run_time: None,
        expires: None,
        deadline: None,
        extras: None,
        depends_on: Vec::new(),
        payload: bytes::Bytes::new(),
    };
    Submission {
        request: Some(RequestId { key: [1; 16], digest: [2; 16] }),
        jobs: AtLeastOne::one(job),
        obstacle: None,
        wait_deadlines: WaitDeadlines { room, store: Uptime::MAX },
    }
}

#[tokio::test]
async fn two_shards_of_a_process_share_nothing() {
    let (one, other) = (start(), start());
    let created = one.shard.submit(submission(None)).await.unwrap();
    assert!(created.is_new());
    // The shards share neither request ids nor room in queues.
    let created_there = other.shard.submit(submission(None)).await.unwrap();
    assert!(created_there.is_new() && !one.shard.submit(submission(None)).await.unwrap().is_new());
    let caller = one.shard.caller();
    let waiting = Submission { request: None, ..submission(Some(Uptime::MAX)) };
    let mut answer = one.shard.offer(&caller, waiting).await.unwrap();
    one.shard.flush().await;
    let waiters = |shard: &Shard| shard.queues.get(QUEUE).unwrap().waiters();
    assert_eq!((waiters(&one.shard), waiters(&other.shard)), (1, 0));
    let purge = |ask| Control::once(Action::Purge { name: QUEUE.to_owned(), ask });
    assert_eq!(other.shard.control(Uptime::MAX, purge).await.unwrap().deleted, 1);
    assert!(answer.take().is_none(), "room in the other one is none in this");
    assert_eq!(one.shard.control(Uptime::MAX, purge).await.unwrap().deleted, 1);
    assert!(answer.decided().await.unwrap().is_new());
    // Ending one shard does not end the other.
    other.shard.end();
    other.ended.await.unwrap().unwrap();
    let cancel = |ask| Control::once(Action::Cancel { id: created.first(), expected_revision: None, ask });
    let gone = one.shard.control(Uptime::MAX, cancel).await;
    assert_eq!(gone.unwrap_err(), ControlRefusal::JobNotFound(created.first()).into());
    let refused = other.shard.submit(submission(None)).await.unwrap_err();
    assert_eq!(refused, Stopped::Refused.into());
}
