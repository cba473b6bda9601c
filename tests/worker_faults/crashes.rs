//! A server that is killed or restarted again and again under busy workers, checked against a ledger of what clients and
//! handlers were told.
//!
//! 3 rounds of each by default. The long run:
//! ```text
//! JOBMILL_WORKER_CRASH_ROUNDS=50 cargo test --test worker_faults crashes:: -- --nocapture
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jobmill::{
    clock::Clock,
    execute::{Attempt, Handler, HandlerError},
    job::Output,
    proto::v1::{self, FailureReason, JobState, JobView},
    worker::Worker,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    library::Running,
    programs::ServerProcess,
    support::{Rig, TEST_TIMEOUT, job, named, result, soon},
};

const ROUNDS: u32 = 3;
const WORKERS: usize = 100;
const PRODUCERS: usize = 3;
/// Limit of the jobs of a producer in a round.
const ROUND_JOBS_MAX: usize = 100;
/// The time from a server's first answer to its end.
const ENDS_AFTER_MS: std::ops::Range<u64> = 50..1_000;

/// What handlers have done: the number of calls for each job and lease.
#[derive(Clone, Default)]
struct Effects(Arc<Mutex<HashMap<String, HashMap<i64, u32>>>>);

impl Effects {
    fn handler(&self) -> impl Handler + use<> {
        let effects = self.clone();
        move |attempt: Attempt| {
            let effects = effects.clone();
            async move {
                let (id, lease) = (attempt.id().to_string(), attempt.lease().as_i64());
                *effects.0.lock().unwrap().entry(id).or_default().entry(lease).or_default() += 1;
                // A part of the attempts runs while the server ends.
                if lease % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(lease as u64 % 200)).await;
                }
                Ok::<_, HandlerError>(Output::new(lease.to_string()))
            }
        }
    }
}

/// The client's record of its submissions: the id of each that was accepted.
type Ledger = Arc<Mutex<HashMap<String, String>>>;

/// Submits jobs until the server is gone. A submission without an answer is repeated by the next producer.
async fn produce(rig: Rig, ledger: Ledger, unknown: Arc<Mutex<Vec<String>>>, name: String, fresh: usize) {
    let again = std::mem::take(&mut *unknown.lock().unwrap());
    let fresh = (0..fresh).map(|number| format!("{name}-{number}"));
    let mut requests =
        again.into_iter().map(|request_id| (request_id, true)).chain(fresh.map(|id| (id, false)));
    while let Some((request_id, _)) = requests.next() {
        let max_attempts = if request_id.len() % 2 == 0 { 1 } else { 10 };
        let request = named(&request_id, v1::JobSpec { max_attempts, ..job("count") });
        match soon(rig.jobs.clone().submit(request)).await {
            Ok(answer) => {
                let id = answer.into_inner().id().to_owned();
                let before = ledger.lock().unwrap().insert(request_id.clone(), id.clone());
                assert!(before.is_none_or(|before| before == id), "{request_id} was doubled");
            }
            Err(_) => {
                let untried = requests.filter_map(|(request_id, is_repeat)| is_repeat.then_some(request_id));
                unknown.lock().unwrap().extend(std::iter::once(request_id).chain(untried));
                return;
            }
        }
    }
}

/// Checks a job that has ended against what handlers have done.
fn check(request_id: &str, whole: &v1::Job, calls: &HashMap<i64, u32>) {
    assert_eq!(whole.state(), JobState::Succeeded, "{request_id}: {whole:?}");
    assert!(calls.values().all(|calls| *calls == 1), "{request_id}: a lease was used twice: {calls:?}");
    let lost = whole.attempts.iter().filter(|attempt| {
        attempt.failure.as_ref().is_some_and(|failure| failure.reason() == FailureReason::Lost)
    });
    assert_eq!(calls.len(), 1 + lost.count(), "{request_id}: {calls:?}, {:?}", whole.attempts);
    let lease: i64 = std::str::from_utf8(result(whole)).unwrap().parse().unwrap();
    assert!(calls.contains_key(&lease), "{request_id}");
}

/// Returns the revision of each job that has ended so far.
async fn ended(rig: &Rig) -> HashMap<String, i64> {
    let jobs = rig.jobs_by_request().await.into_values().flatten();
    jobs.filter(|job| job.done).map(|job| (job.id, job.revision)).collect()
}

async fn survives(name: &str, kills: bool) {
    let rounds = std::env::var("JOBMILL_WORKER_CRASH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let seed = rand::rng().random();
    println!("{name}: seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = ServerProcess::start("[kinds.count]\nworker = true\n").await;
    let effects = Effects::default();
    let workers: Vec<_> = (0..WORKERS)
        .map(|index| {
            let worker = Worker::builder(&server.address()).instance(format!("w{index}")).concurrency(2);
            Running::start(worker.handler("count", effects.handler()))
        })
        .collect();
    let (ledger, unknown) = (Ledger::default(), Arc::default());
    let mut seen: HashMap<String, i64> = HashMap::new();
    let began = Clock::System.uptime();
    for round in 0..rounds {
        let mut producers = Vec::new();
        for producer in 0..PRODUCERS {
            let rig = Rig::connect(&server.address()).await;
            let name = format!("{name}-{round}-{producer}");
            let (ledger, unknown) = (Arc::clone(&ledger), Arc::clone(&unknown));
            producers.push(tokio::spawn(produce(rig, ledger, unknown, name, ROUND_JOBS_MAX)));
        }
        // A random delay, not a wait for an event: the moment of the end is what is tested.
        tokio::time::sleep(Duration::from_millis(random.random_range(ENDS_AFTER_MS))).await;
        seen.extend(ended(&server.rig).await);
        if kills {
            server.kill_and_start().await;
        } else {
            server.restart().await;
        }
        for producer in producers {
            soon(producer).await.unwrap();
        }
        let present = ended(&server.rig).await;
        for (id, revision) in &seen {
            assert_eq!(present.get(id), Some(revision), "the end of {id} does not stand");
        }
    }
    let last = Rig::connect(&server.address()).await;
    produce(last, Arc::clone(&ledger), Arc::clone(&unknown), format!("{name}-last"), ROUND_JOBS_MAX).await;
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    let all_end = async { while ended(&server.rig).await.len() < ledger.len() {} };
    tokio::time::timeout(TEST_TIMEOUT * (1 + rounds / 10), all_end).await.expect("all jobs end");

    let mut found = server.rig.jobs_by_request().await;
    let (mut started, mut lost) = (0, 0);
    for (request_id, id) in &ledger {
        let jobs = found.remove(request_id).unwrap();
        assert_eq!(jobs.len(), 1, "{request_id}");
        let whole = server.rig.look(id, JobView::Full).await.unwrap();
        let calls = effects.0.lock().unwrap().get(id).cloned().unwrap_or_default();
        check(request_id, &whole, &calls);
        (started, lost) = (started + calls.len(), lost + calls.len() - 1);
    }
    assert!(found.is_empty(), "nobody was told of {:?}", found.keys());
    let (mut streams, mut succeeded) = (0, 0);
    for worker in workers {
        streams += worker.health.streams();
        let summary = soon(worker.drains()).await.unwrap();
        assert_eq!(summary.unreported, 0);
        succeeded += summary.counts.succeeded;
    }
    assert_eq!(succeeded as usize, started);
    server.no_faults().await;
    let took = Clock::System.uptime().since(began);
    println!(
        "{name}: {rounds} rounds in {took:?}: {} jobs, {started} attempts, {lost} lost, {streams} streams",
        ledger.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_of_the_server_loses_or_doubles_what_busy_workers_do() {
    survives("kill", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_restart_of_the_server_loses_or_doubles_what_busy_workers_do() {
    survives("restart", false).await;
}
