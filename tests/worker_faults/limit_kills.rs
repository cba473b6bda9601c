//! `kill -9` at random under limits by label: no more handlers run at once than each limit allows, every job that was
//! accepted ends once, and none waits for ever.
//!
//! About 200 handlers run at once, commands in the server and handlers in four remote workers, which outlive it and are
//! replaced one by one. One worker's network is silent from time to time, for longer than a lease: its attempts stop before
//! their places are free. All handlers write down when they start and end, which is checked after each kill.
//!
//! 5 rounds by default. The long run:
//! ```text
//! JOBMILL_LIMIT_CRASH_ROUNDS=50 cargo test --test worker_faults limit_kills:: -- --nocapture
//! ```
//! The seed that an earlier one printed, as in `JOBMILL_LIMIT_CRASH_SEED=7`, decides the jobs and the moments of the kills;
//! their effect varies with the machine.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use jobmill::{
    clock::Clock,
    execute::{Attempt, Handler, HandlerError},
    job::Output,
    proto::v1::{self, JobState, JobView, limit, limit_service_client::LimitServiceClient},
    worker::{OnSilence, Summary, Worker, WorkerError, on_silence},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::{
    handler_log::{HandlerLog, Place, Running, SCRIPT},
    library::Running as RunningWorker,
    programs::ServerProcess,
    relay::{Direction, Relay},
    support::{Rig, TEST_TIMEOUT, result, soon},
};

const ROUNDS: u64 = 5;
const PRODUCERS: usize = 3;
const WORKERS: usize = 4;
/// The concurrency of each worker. With the commands, more handlers could run than the limit of all allows.
const CONCURRENCY: usize = 50;
/// The number of jobs that run and wait after each kill, and of those that are submitted together.
const BACKLOG: usize = 800;
/// The same before a long round.
const LONG_BACKLOG: usize = 1_500;
const BATCH: usize = 20;
/// The time from a server's first answer to its kill.
const KILLED_AFTER_MS: std::ops::Range<u64> = 200..2_500;
/// The number of rounds of which one is a long one, in which a worker's network is silent for longer than its lease.
const SILENT_EVERY: u64 = 10;
const SILENT_ROUND: u64 = 2;
const SILENT_MS: u64 = 5_000;

const TENANTS: u32 = 110;
const ENDPOINTS: u32 = 75;
const REGIONS: u32 = 14;
/// The limits of each tenant, of the tenant with an override, of each endpoint and region, of the commands, and of all.
const TENANT_MAX: i32 = 2;
const OVERRIDE_MAX: i32 = 5;
const ENDPOINT_MAX: i32 = 3;
/// The tenant whose override changes all the time, and the largest one.
const CHANGED: &str = "tenant-1";
const CHANGED_MAX: i32 = 4;
const REGION_MAX: i32 = 20;
const NEAR_MAX: i32 = 40;
const ALL_MAX: i32 = 200;

/// The limits of tenants and endpoints, the override, and the limit of all are created by calls, the others here.
fn configuration(log: &std::path::Path) -> String {
    let log = log.display();
    format!(
        r#"
        [workers]
        lease = '4s'
        ping_every = '500ms'
        [queues.near]
        consumers = 50
        [queues.far]
        consumers = 0
        [kinds.near]
        command = ['/bin/sh', '-c', '''{SCRIPT}''', '{log}']
        env = {{ GENERATION = '0' }}
        retry = {{ initial_delay = '1ms', max_delay = '1ms' }}
        [kinds.far]
        worker = true
        retry = {{ initial_delay = '1ms', max_delay = '1ms' }}
        [[limit]]
        name = 'regions'
        max_running = {REGION_MAX}
        by_label = 'region'
        [[limit]]
        name = 'commands'
        max_running = {NEAR_MAX}
        queues = ['near']
        "#
    )
}

async fn create_limits(rig: &Rig) {
    let mut limits = LimitServiceClient::new(rig.channel.clone());
    let by_label = |label: &str| limit::Key::ByLabel(label.to_owned());
    for (name, max, key) in [
        ("tenants", TENANT_MAX, by_label("tenant")),
        ("endpoints", ENDPOINT_MAX, by_label("endpoint")),
        ("all", ALL_MAX, limit::Key::All(true)),
    ] {
        let (rule, key) = (Some(limit::Rule::MaxRunning(max)), Some(key));
        let limit = v1::Limit { name: name.to_owned(), rule, key, ..Default::default() };
        let request = v1::CreateLimitRequest { limit: Some(limit), ..Default::default() };
        soon(limits.create_limit(request)).await.unwrap();
    }
    set_override(rig, "tenant-0", OVERRIDE_MAX).await.unwrap();
}

async fn set_override(rig: &Rig, tenant: &str, max: i32) -> Result<(), tonic::Status> {
    let (limit, value) = ("tenants".to_owned(), tenant.to_owned());
    let rule = Some(v1::limit_override::Rule::MaxRunning(max));
    let request = v1::SetLimitOverrideRequest {
        r#override: Some(v1::LimitOverride { limit, value, rule }),
        ..Default::default()
    };
    soon(LimitServiceClient::new(rig.channel.clone()).set_limit_override(request)).await.map(drop)
}

/// Changes the override of one tenant until the server is gone. Takes and returns those that the server may have: the
/// one that was answered last, and those without an answer since.
async fn change_override(rig: Rig, mut possible: Vec<i32>) -> Vec<i32> {
    for max in (1..=CHANGED_MAX).cycle() {
        if set_override(&rig, CHANGED, max).await.is_err() {
            possible.push(max);
            return possible;
        }
        possible = vec![max];
    }
    unreachable!("it goes round for ever")
}

/// Returns what a handler takes a place of.
fn places(labels: &BTreeMap<String, String>, is_command: bool) -> Vec<Place> {
    let place = |name: &'static str, value: &str, weight: u64, max: i32| Place {
        of: (name, value.to_owned()),
        weight,
        max: max as u64,
    };
    let mut places = vec![
        place("all", "", 1, ALL_MAX),
        place("endpoints", &labels["endpoint"], 1, ENDPOINT_MAX),
        place("regions", &labels["region"], labels["weight"].parse().unwrap(), REGION_MAX),
    ];
    places.extend(is_command.then(|| place("commands", "", 1, NEAR_MAX)));
    places.extend(labels.get("tenant").map(|tenant| match &**tenant {
        "tenant-0" => place("override", tenant, 1, OVERRIDE_MAX),
        CHANGED => place("changed", tenant, 1, CHANGED_MAX),
        _ => place("tenants", tenant, 1, TENANT_MAX),
    }));
    places
}

/// Checks that no value has more running than it may, as the server counts, and that the override that changes is one of
/// these. Returns the number of values in use.
async fn check_counts(rig: &Rig, overrides: &[i32]) -> usize {
    let mut limits = LimitServiceClient::new(rig.channel.clone());
    let mut in_use = 0;
    for name in ["tenants", "endpoints", "regions", "commands", "all"] {
        let request =
            v1::ListLimitValuesRequest { limit: name.to_owned(), page_size: 1_000, ..Default::default() };
        let page = soon(limits.list_limit_values(request)).await.unwrap().into_inner();
        for value in page.values {
            let Some(v1::limit_value::Rule::MaxRunning(max)) = value.rule else { panic!("{value:?}") };
            if (name, &*value.value) == ("tenants", CHANGED) {
                assert!(overrides.contains(&max), "{value:?} is none of {overrides:?}");
                assert!(value.running <= CHANGED_MAX.into(), "{value:?}");
            } else {
                assert!(value.running <= max.into(), "{name}: {value:?}");
            }
            in_use += usize::from(value.running > 0 || value.has_waiting);
        }
    }
    in_use
}

/// The handler of the remote workers. It runs for as long as the payload says.
fn handler(log: HandlerLog) -> impl Handler {
    let work = move |attempt: Attempt| {
        let log = log.clone();
        async move {
            let started = log.starts(&attempt);
            let payload = std::str::from_utf8(attempt.payload()).unwrap();
            let (seconds, how) = payload.split_once(' ').unwrap();
            // What is tested is how many of them run meanwhile.
            let work = tokio::time::sleep(Duration::from_secs_f64(seconds.parse().unwrap()));
            tokio::select! {
                () = work => started.ends(),
                () = attempt.cancelled() => return Err(HandlerError::retryable("told to stop")),
            }
            match (how, attempt.number()) {
                ("fail", 1) => Err(HandlerError::retryable("told to fail")),
                _ => Ok(Output::new(attempt.lease().as_i64().to_string())),
            }
        }
    };
    on_silence(OnSilence::Stop, work)
}

fn random_job(random: &mut StdRng) -> v1::JobSpec {
    let mut labels = BTreeMap::new();
    let mut label = |name: &str, value: String| labels.insert(name.to_owned(), value);
    if !random.random_bool(0.1) {
        label("tenant", format!("tenant-{}", random.random_range(0..TENANTS)));
    }
    if random.random_bool(0.02) {
        label("tenant", "tenant-0".to_owned());
    }
    label("endpoint", format!("endpoint-{}", random.random_range(0..ENDPOINTS)));
    label("region", format!("region-{}", random.random_range(0..REGIONS)));
    let weight = if random.random_bool(0.1) { 3 } else { 1 };
    label("weight", weight.to_string());
    let (place, longest_ms) = if random.random_bool(0.12) { ("near", 2_500) } else { ("far", 1_500) };
    let seconds = f64::from(random.random_range(100..longest_ms)) / 1_000.0;
    let how = if random.random_bool(0.05) { "fail" } else { "succeed" };
    v1::JobSpec {
        queue: place.to_owned(),
        kind: place.to_owned(),
        payload: Some(v1::Payload::of(format!("{seconds} {how}"))),
        labels,
        weights: [("regions".to_owned(), weight)].into(),
        max_attempts: 1_000,
        ..Default::default()
    }
}

/// The client's record: what is to be submitted, and the ids of what was accepted, by request id.
#[derive(Default)]
struct Book {
    open: Vec<(String, Vec<v1::JobSpec>)>,
    accepted: HashMap<String, Vec<String>>,
}

/// Submits what the book has until nothing is left or the server is gone. What has no answer is submitted again later.
async fn produce(rig: Rig, book: Arc<Mutex<Book>>) {
    loop {
        let Some((request_id, jobs)) = book.lock().unwrap().open.pop() else { return };
        let request = v1::SubmitBatchRequest {
            jobs: jobs.clone(),
            request_id: request_id.clone(),
            ..Default::default()
        };
        let answer = soon(rig.jobs.clone().submit_batch(request)).await;
        let mut book = book.lock().unwrap();
        match answer {
            Ok(answer) => {
                let ids = crate::support::ids(answer.into_inner().jobs);
                assert!(book.accepted.insert(request_id, ids).is_none());
            }
            Err(_) => return book.open.push((request_id, jobs)),
        }
    }
}

/// A server under load, and what is known of it.
struct Site {
    server: ServerProcess,
    relay: Relay,
    workers: Vec<RunningWorker>,
    /// The workers that end what runs, and take nothing more.
    replaced: JoinSet<Result<Summary, WorkerError>>,
    log: HandlerLog,
    running: Running,
    /// Of the jobs, and of the moments of the kills.
    random: StdRng,
    moments: StdRng,
    /// The numbers of handlers that ran at each kill.
    at_kills: Vec<usize>,
    book: Arc<Mutex<Book>>,
    /// The jobs that have ended: none of them may run again.
    ended: HashSet<String>,
    generation: u64,
    /// The overrides that the tenant may have whose override changes.
    overrides: Vec<i32>,
}

impl Site {
    async fn start(seed: u64) -> (Self, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("handlers");
        let log = HandlerLog::new(&path);
        let server = ServerProcess::start(&configuration(&path)).await;
        create_limits(&server.rig).await;
        let relay = Relay::start(server.address().parse().unwrap()).await;
        let mut site = Site {
            server,
            relay,
            workers: Vec::new(),
            replaced: JoinSet::new(),
            log,
            running: Running::new(&path, places),
            random: StdRng::seed_from_u64(seed),
            moments: StdRng::seed_from_u64(seed),
            at_kills: Vec::new(),
            book: Arc::default(),
            ended: HashSet::new(),
            generation: 0,
            overrides: vec![TENANT_MAX],
        };
        site.workers = (0..WORKERS).map(|index| site.worker(index, "first")).collect();
        (site, home)
    }

    /// Starts a worker. The network of the first one is the test's.
    fn worker(&self, index: usize, name: &str) -> RunningWorker {
        let address = if index == 0 { self.relay.address.clone() } else { self.server.address() };
        let worker = Worker::builder(&address).instance(format!("{name}-{index}")).concurrency(CONCURRENCY);
        RunningWorker::start(worker.handler("far", handler(self.log.clone())))
    }

    /// Replaces one worker after the other, as a deploy does. A worker that has lost its server often comes back late.
    fn replace_worker(&mut self) {
        let index = self.generation as usize % WORKERS;
        let worker = self.worker(index, &format!("round-{}", self.generation));
        let replaced = std::mem::replace(&mut self.workers[index], worker);
        self.replaced.spawn(replaced.drains());
    }

    /// Returns the ids of the jobs that have not ended.
    async fn unended(&self) -> HashSet<String> {
        let states = [
            JobState::Scheduled,
            JobState::Queued,
            JobState::Running,
            JobState::BackingOff,
            JobState::Cancelling,
        ];
        let states = states.map(i32::from).into();
        let jobs = self.server.rig.list(v1::JobFilter { states, ..Default::default() }).await;
        jobs.into_iter().map(|job| job.id).collect()
    }

    /// Notes which jobs have ended, and fills the book up.
    async fn look(&mut self, backlog: usize) {
        let unended = self.unended().await;
        let mut book = self.book.lock().unwrap();
        for id in book.accepted.values().flatten() {
            if !unended.contains(id) {
                self.ended.insert(id.clone());
            } else {
                assert!(!self.ended.contains(id), "the end of {id} does not stand");
            }
        }
        let mut known = unended.len() + book.open.len() * BATCH;
        while known < backlog {
            let jobs = (0..BATCH).map(|_| random_job(&mut self.random)).collect();
            let request_id = format!("{}-{known}", self.generation);
            book.open.push((request_id, jobs));
            known += BATCH;
        }
    }

    /// Lets the server work for a while, kills it, and starts the next one.
    async fn round(&mut self, is_silent: bool) {
        self.look(if is_silent { LONG_BACKLOG } else { BACKLOG }).await;
        self.replace_worker();
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            let rig = Rig::connect(&self.server.address()).await;
            producers.push(tokio::spawn(produce(rig, Arc::clone(&self.book))));
        }
        let changes =
            tokio::spawn(change_override(Rig::connect(&self.server.address()).await, self.overrides.clone()));
        let mut killed_after = self.moments.random_range(KILLED_AFTER_MS);
        if is_silent {
            killed_after += SILENT_MS;
            self.relay.set(Direction::Swallowed, Direction::Swallowed);
        }
        // A random delay, not a wait for an event: the moment of the kill is what is tested.
        tokio::time::sleep(Duration::from_millis(killed_after)).await;
        self.running.read();
        self.at_kills.push(self.running.now());
        self.server.process.signal(Signal::KILL);
        soon(self.server.process.exit()).await;
        self.log.killed(self.generation);
        for producer in producers {
            soon(producer).await.unwrap();
        }
        self.overrides = soon(changes).await.unwrap();
        self.relay.heal();
        self.next_generation();
        self.server.start_again().await;
        check_counts(&self.server.rig, &self.overrides).await;
        self.running.read();
    }

    /// Tells the next server's commands their generation.
    fn next_generation(&mut self) {
        let path = self.server.home.path().join("jobmill.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, after) = (
            format!("GENERATION = '{}'", self.generation),
            format!("GENERATION = '{}'", self.generation + 1),
        );
        assert!(text.contains(&before));
        std::fs::write(&path, text.replace(&before, &after)).unwrap();
        self.generation += 1;
    }

    /// Submits what is left and returns once all jobs have ended.
    async fn all_end(&mut self) {
        produce(Rig::connect(&self.server.address()).await, Arc::clone(&self.book)).await;
        assert!(self.book.lock().unwrap().open.is_empty(), "a running server accepts all");
        let all_end = async {
            loop {
                // Each look takes a read of all jobs that wait; it needs no other pause.
                let unended = self.unended().await;
                self.running.read();
                if unended.is_empty() {
                    return;
                }
            }
        };
        tokio::time::timeout(TEST_TIMEOUT * 2, all_end).await.expect("no job waits for ever");
        assert_eq!(check_counts(&self.server.rig, &self.overrides).await, 0, "nothing runs or waits");
    }

    /// Checks that each job that was accepted has succeeded once, and nothing else exists. Returns their number.
    async fn check_jobs(&self) -> usize {
        let mut found = self.server.rig.jobs_by_request().await;
        let accepted = std::mem::take(&mut self.book.lock().unwrap().accepted);
        for (request_id, ids) in &accepted {
            let jobs = found.remove(request_id).unwrap();
            assert!(jobs.iter().all(|job| job.state() == JobState::Succeeded), "{jobs:?}");
            let found: HashSet<_> = jobs.iter().map(|job| &job.id).collect();
            assert_eq!((found, jobs.len()), (ids.iter().collect(), BATCH), "{request_id}");
            // Of some, the result too: it is the lease of an attempt that has done its work.
            let whole = self.server.rig.look(&ids[0], JobView::Full).await.unwrap();
            let lease: i64 = std::str::from_utf8(result(&whole)).unwrap().parse().unwrap();
            assert!(self.running.done[&ids[0]].contains(&lease), "{whole:?}");
            assert!(ids.iter().all(|id| self.running.done.contains_key(id)), "{request_id}");
        }
        assert!(found.is_empty(), "nobody was told of {:?}", found.keys());
        accepted.len() * BATCH
    }
}

fn told(running: &Running) -> String {
    running.largest.iter().fold(String::new(), |mut text, (name, (largest, value))| {
        let _ = write!(text, " {name} {largest} ({value})");
        text
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_lets_more_run_at_once_than_the_limits_allow() {
    let rounds = number("JOBMILL_LIMIT_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("JOBMILL_LIMIT_CRASH_SEED").unwrap_or_else(|| rand::rng().random());
    println!("JOBMILL_LIMIT_CRASH_SEED={seed}");
    let began = Clock::System.uptime();
    let (mut site, _home) = Site::start(seed).await;
    for round in 0..rounds {
        site.round(round % SILENT_EVERY == SILENT_ROUND).await;
    }
    site.all_end().await;
    let jobs = site.check_jobs().await;
    for worker in std::mem::take(&mut site.workers) {
        site.replaced.spawn(worker.drains());
    }
    while let Some(ended) = soon(site.replaced.join_next()).await {
        assert_eq!(ended.unwrap().unwrap().unreported, 0);
    }
    site.running.read();
    assert_eq!(site.running.now(), 0);
    site.server.no_faults().await;
    // Otherwise the test says nothing.
    for (name, max) in [("tenants", TENANT_MAX), ("override", OVERRIDE_MAX), ("endpoints", ENDPOINT_MAX)] {
        assert_eq!(site.running.largest[name].0, max as u64, "{name}");
    }
    println!(
        "{rounds} rounds in {:?}: {jobs} jobs, {} attempts, {} cut off, {} ran at a kill; largest:{}",
        Clock::System.uptime().since(began),
        site.running.attempts(),
        site.running.cut_off,
        site.at_kills.iter().sum::<usize>() / site.at_kills.len().max(1),
        told(&site.running),
    );
}
