use std::time::Duration;

use super::*;
use crate::{
    clock::Timestamp,
    job::{JobId, Name, Participant, Position, Remote, RetryPolicy, Spec, State},
};

/// Demand with kinds `a` and `b`, and the sessions of a test.
struct Rig {
    demand: Demand,
    kinds: NameTable,
    last_worker: u32,
}

impl Rig {
    fn new() -> Self {
        let kinds = NameTable::default();
        kinds.add("a");
        kinds.add("b");
        Rig { demand: Demand::default(), kinds, last_worker: 0 }
    }

    fn open(&mut self, kinds: &[&str], queues: &[&str], credits: u32, room: u64) -> PoolId {
        self.last_worker += 1;
        let worker = WorkerProcess::new(self.last_worker, "", &format!("w{}", self.last_worker), "p");
        let names = queues.iter().map(|queue| Box::from(*queue)).collect();
        let scope = QueueScope { names, permitted: None };
        let pool = NewPool { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), scope };
        let session = self.demand.board().open(Arc::new(worker), vec![pool], room);
        let pool = PoolId { session, index: 0 };
        if credits > 0 {
            self.demand.board().credit(pool, credits);
        }
        self.sync();
        pool
    }

    fn sync(&mut self) {
        self.demand.take_changes(&self.kinds, |_| true);
    }

    /// Assigns a job of a kind in the queue `mail`, and returns the session that gets it.
    fn take(&mut self, kind: &str, bytes: u64) -> Option<SessionId> {
        let kind = self.kinds.find(kind).unwrap();
        let takers = self.demand.takers(1, "mail");
        let classes = self.demand.takers_of(&takers, kind.number);
        let job = job(&kind, bytes);
        self.demand.take(&classes, &job).map(|grant| grant.pool.session)
    }
}

fn job(kind: &Arc<Name>, bytes: u64) -> Job {
    let now = Timestamp::from_micros(0);
    Job {
        id: JobId::from_raw(1),
        spec: Arc::new(Spec {
            queue: Name::new(1, "mail"),
            kind: Arc::clone(kind),
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(1),
            bytes,
            created: now,
            expires: None,
            extras: None,
        }),
        state: State::Queued { order: Position(1), participant: Participant::NONE },
        revision: 1,
        position: Position(1),
        attempt: 0,
        max_attempts: 1,
        updated: now,
        started: None,
        ended: None,
        progress: None,
        failure: None,
        result: None,
        remote: Remote::NONE,
        rare: None,
    }
}

#[test]
fn a_credit_is_used_once_and_without_credits_nothing_is_assigned() {
    let mut rig = Rig::new();
    let pool = rig.open(&["a"], &[], 0, 1 << 20);
    assert_eq!(rig.take("a", 1), None);
    rig.demand.board().credit(pool, 2);
    rig.sync();
    assert_eq!(rig.take("a", 1), Some(pool.session));
    assert_eq!(rig.take("b", 1), None, "the pool does not run it");
    assert_eq!(rig.take("a", 1), Some(pool.session));
    assert_eq!(rig.take("a", 1), None);
    rig.demand.commit();
    assert_eq!(rig.demand.credits(pool.session), [0]);
}

#[test]
fn the_pool_that_was_given_a_job_least_recently_is_next_however_many_credits_another_has() {
    let mut rig = Rig::new();
    let (few, many) = (rig.open(&["a"], &[], 2, 1 << 20), rig.open(&["a", "b"], &[], 100, 1 << 20));
    let given: Vec<_> = (0..4).filter_map(|_| rig.take("a", 1)).collect();
    assert_eq!(given, [few.session, many.session, few.session, many.session]);
    assert_eq!(rig.take("a", 1), Some(many.session), "the other has no credits left");
    rig.demand.board().credit(few, 1);
    rig.sync();
    assert_eq!(rig.take("a", 1), Some(few.session));
}

#[test]
fn a_batch_that_was_not_committed_gives_its_credits_and_bytes_back() {
    let mut rig = Rig::new();
    let pool = rig.open(&["a"], &[], 2, 10);
    rig.take("a", 10).unwrap();
    assert_eq!(rig.take("a", 1), None, "too many bytes are on their way");
    rig.demand.discard();
    assert_eq!(rig.demand.credits(pool.session), [2]);
    assert_eq!(rig.take("a", 10), Some(pool.session));
}

#[test]
fn bytes_on_their_way_hold_up_a_pool_until_they_are_received() {
    let mut rig = Rig::new();
    let pool = rig.open(&["a"], &[], 5, 100);
    assert!(rig.take("a", 300).is_some(), "a job that is larger than the room is assigned alone");
    assert_eq!(rig.take("a", 1), None);
    rig.demand.board().received(pool.session, 300);
    rig.sync();
    assert!(rig.take("a", 1).is_some());
}

#[test]
fn a_pool_takes_jobs_only_from_its_queues_and_those_that_its_token_permits() {
    let mut rig = Rig::new();
    rig.open(&["a"], &["other"], 5, 100);
    assert_eq!(rig.take("a", 1), None);
    let scope = |names: &[&str], patterns: &[&str]| QueueScope {
        names: names.iter().map(|name| Box::from(*name)).collect(),
        permitted: Some(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()),
    };
    assert!(scope(&[], &["ma*"]).covers("mail") && !scope(&[], &["ma*"]).covers("img"));
    assert!(!scope(&["mail", "img"], &["ma*"]).covers("img"), "a name does not widen the permission");
    assert!(!scope(&[], &[]).covers("mail"), "no pattern permits nothing");
}

#[test]
fn a_closed_or_voided_session_gets_nothing_and_leaves_nothing() {
    let mut rig = Rig::new();
    let (gone, voided) = (rig.open(&["a"], &[], 5, 100), rig.open(&["a"], &[], 5, 100));
    rig.demand.board().void(voided.session);
    rig.demand.board().close(gone.session);
    // The peer may have sent more before it heard of the end.
    rig.demand.board().credit(gone, 1);
    rig.sync();
    assert_eq!(rig.take("a", 1), None);
    assert!(rig.demand.is_served(rig.kinds.find("a").unwrap().number), "the voided one is still there");
    rig.demand.board().close(voided.session);
    rig.sync();
    assert!(rig.demand.classes.is_empty() && rig.demand.by_kind.is_empty() && rig.demand.sessions.is_empty());
}
