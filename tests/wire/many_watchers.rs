//! Many watchers at once: each receives every event that concerns it, and nothing else.
//!
//! 2,000 by id by default. With the number that the product promises:
//! ```text
//! JOBMILL_WATCHERS=10000 cargo test --test wire many_watchers:: -- --nocapture
//! ```

use std::{collections::BTreeMap, sync::Arc};

use jobmill::proto::v1::{self, JobState, watch_event::Event};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{QUEUE, Rig, Watcher, describe, job, memory, queue, simple, soon, with_queue};

const WATCHERS: usize = 2_000;
/// Watches on one connection.
const PER_CONNECTION: usize = 200;
/// Watches that are opened concurrently.
const OPENED_AT_ONCE: usize = 64;

/// Opens watches over several connections; returns them in the order of the requests, once each has sent its snapshot.
async fn open(rig: &Rig, requests: Vec<v1::WatchStatusRequest>) -> Vec<Watcher> {
    let address = rig.address().to_string();
    let turns = Arc::new(Semaphore::new(OPENED_AT_ONCE));
    let (count, mut opening) = (requests.len(), JoinSet::new());
    let mut guest = Arc::new(Rig::connect(&address).await);
    for (n, request) in requests.into_iter().enumerate() {
        if n % PER_CONNECTION == PER_CONNECTION - 1 {
            guest = Arc::new(Rig::connect(&address).await);
        }
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        let guest = Arc::clone(&guest);
        opening.spawn(async move {
            let mut watcher = guest.watch(request).await;
            watcher.synced().await;
            drop(turn);
            (n, watcher)
        });
    }
    let mut watchers: Vec<_> = opening.join_all().await;
    watchers.sort_unstable_by_key(|(n, _)| *n);
    assert_eq!(watchers.len(), count);
    watchers.into_iter().map(|(_, watcher)| watcher).collect()
}

/// Returns once the server has no watch left.
async fn no_watch_is_left(rig: &Rig) {
    for name in [
        r#"jobmill_watchers{by="ids"}"#,
        r#"jobmill_watchers{by="filter"}"#,
        r#"jobmill_grpc_calls_open{method="jobmill.v1.JobQueue/WatchStatus"}"#,
    ] {
        let gone = async { while rig.metric(name).await > 0.0 {} };
        soon(gone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_thousands_of_watchers_by_id_is_told_the_end_of_its_job() {
    let count =
        std::env::var("JOBMILL_WATCHERS").map_or(WATCHERS, |text| text.parse().expect("JOBMILL_WATCHERS"));
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(100)))).await;
    rig.pause(QUEUE).await;
    // Half of them watch a job of their own, the others all the same one.
    let popular = rig.submit(job("echo")).await.id;
    let mut own = Vec::new();
    while own.len() < count / 2 {
        own.extend(rig.submit_batch(vec![job("echo"); 500.min(count / 2 - own.len())]).await);
    }
    let ids = own.into_iter().chain(std::iter::repeat(popular)).take(count);
    let requests = ids.map(|id| v1::WatchStatusRequest { ids: vec![id], ..Default::default() }).collect();
    let watchers = open(&rig, requests).await;
    assert_eq!(rig.metric(r#"jobmill_watchers{by="ids"}"#).await, count as f64);

    rig.resume(QUEUE).await;
    let mut reading = JoinSet::new();
    for mut watcher in watchers {
        reading.spawn(async move { watcher.rest().await.unwrap() });
    }
    for events in reading.join_all().await {
        let last = events.last().map(describe).unwrap_or_default();
        assert!(last.starts_with("updated 3 SUCCEEDED"), "{last}");
    }
    no_watch_is_left(&rig).await;
    rig.stop().await;
}

fn successes(queue: &str, labels: BTreeMap<String, String>) -> v1::WatchStatusRequest {
    let states = vec![JobState::Succeeded as i32];
    let filter = v1::JobFilter { queues: vec![queue.to_owned()], states, labels, ..Default::default() };
    v1::WatchStatusRequest { filter: Some(filter), detail: 2, ..Default::default() }
}

fn of_tenant(n: usize) -> BTreeMap<String, String> {
    [("tenant".to_owned(), n.to_string())].into()
}

/// Returns the jobs of the next `count` updates.
async fn told(mut watcher: Watcher, count: usize) -> (Watcher, Vec<String>) {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        match watcher.next().await {
            Event::Updated(v1::JobUpdated { job: Some(job), .. }) => ids.push(job.id),
            event => panic!("{} is no success", describe(&event)),
        }
    }
    ids.sort_unstable();
    (watcher, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_and_different_filters_are_told_their_jobs_under_load_and_a_quiet_queues_are_told_none() {
    const EQUAL: usize = 50;
    const TENANTS: usize = 200;
    const ROUNDS: usize = 3;
    const QUIET: usize = 1_000;
    let settings = with_queue(with_queue(memory(), QUEUE, queue(50)), "quiet", queue(1));
    let rig = Rig::start(simple(settings)).await;
    let requests = std::iter::repeat_with(|| successes(QUEUE, BTreeMap::new()))
        .take(EQUAL)
        .chain((0..TENANTS).map(|n| successes(QUEUE, of_tenant(n))))
        .chain(std::iter::repeat_with(|| successes("quiet", BTreeMap::new())).take(QUIET));
    let mut watchers = open(&rig, requests.collect()).await;
    let quiet = watchers.split_off(EQUAL + TENANTS);
    let tenants = watchers.split_off(EQUAL);

    let mut of_tenants = vec![Vec::new(); TENANTS];
    for _ in 0..ROUNDS {
        let jobs = (0..TENANTS).map(|n| v1::JobSpec { labels: of_tenant(n), ..job("echo") });
        for (n, id) in rig.submit_batch(jobs.collect()).await.into_iter().enumerate() {
            of_tenants[n].push(id);
        }
    }
    let mut all: Vec<_> = of_tenants.concat();
    all.sort_unstable();
    let mut reading = JoinSet::new();
    for watcher in watchers {
        let all = all.clone();
        reading.spawn(async move {
            let (watcher, ids) = told(watcher, TENANTS * ROUNDS).await;
            assert_eq!(ids, all);
            watcher
        });
    }
    for (watcher, ids) in tenants.into_iter().zip(of_tenants) {
        reading.spawn(async move {
            let (watcher, told) = told(watcher, ROUNDS).await;
            assert_eq!(told, ids);
            watcher
        });
    }
    let watchers = reading.join_all().await;

    // The first event for watchers of the quiet queue is this job.
    let id = rig.submit(v1::JobSpec { queue: "quiet".to_owned(), ..job("echo") }).await.id;
    let mut reading = JoinSet::new();
    for watcher in quiet {
        let id = id.clone();
        reading.spawn(async move {
            let (watcher, told) = told(watcher, 1).await;
            assert_eq!(told, [id]);
            watcher
        });
    }
    drop((watchers, reading.join_all().await));
    no_watch_is_left(&rig).await;
    rig.stop().await;
}
