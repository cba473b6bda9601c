//! `kill -9` at random, checked against a ledger that the client keeps.
//!
//! Before each request, producers write it to a file, and after it its outcome: `ok`, `refused` or `unknown`. After each
//! kill the database must be sound. After each restart every job that was answered with OK exists and none that was
//! refused does. An unknown one exists once or not at all, and exactly once after a repeat. In the end all jobs end; a
//! watcher that resumes by its token across all kills has seen each of them end once; and jobs with one attempt have
//! started at most once.
//!
//! 25 rounds by default. A long run, with the seed that an earlier one printed:
//! ```text
//! JOBMILL_CRASH_ROUNDS=1000 JOBMILL_CRASH_SEED=7 cargo test --test wire crash:: -- --nocapture
//! ```
//! The seed decides the requests and the moments of the kills; their effect varies with the machine.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState, watch_event::Event},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use crate::support::{
    Process, Rig, TEST_TIMEOUT, Watcher, describe, ids, is_definite, job, named, run_time, soon,
};

const ROUNDS: u64 = 25;
const PRODUCERS: u64 = 3;
/// The time from a server's first answer to its kill.
const KILLED_AFTER_MS: std::ops::Range<u64> = 5..120;
/// A time a year from now, for which no test waits. Constant, so that a repeat has the same digest.
static FAR_AWAY_S: LazyLock<i64> =
    LazyLock::new(|| Clock::System.now().as_micros() / 1_000_000 + 365 * 24 * 3600);

/// The kind of a producer's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RequestKind {
    /// A command that may start once.
    Once,
    /// A command that may start as often as it takes.
    Again,
    /// A job scheduled for the far future.
    Shelf,
    /// Three such jobs in a batch.
    Batch,
    /// A request that must be refused.
    Bad,
}

/// The outcome of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Ok(Vec<String>),
    Refused,
    Unknown,
}

/// The client's record of its requests, in a file.
struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
}

impl Ledger {
    fn new(path: PathBuf) -> Self {
        let file = Mutex::new(OpenOptions::new().create_new(true).append(true).open(&path).unwrap());
        Ledger { path, file }
    }

    fn write(&self, line: &str) {
        self.file.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn told(&self, request_id: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Ok(ids) => self.write(&format!("{request_id} ok {}", ids.join(","))),
            Outcome::Refused => self.write(&format!("{request_id} refused")),
            Outcome::Unknown => self.write(&format!("{request_id} unknown")),
        }
    }

    /// Returns the last outcome of each request. A request without an outcome is unknown.
    fn read(&self) -> BTreeMap<String, Outcome> {
        let mut outcomes = BTreeMap::new();
        for line in fs::read_to_string(&self.path).unwrap().lines() {
            let mut words = line.split(' ');
            let (request_id, what) = (words.next().unwrap(), words.next().unwrap());
            let outcome = match what {
                "ok" => Outcome::Ok(words.next().unwrap().split(',').map(str::to_owned).collect()),
                "refused" => Outcome::Refused,
                "begin" | "unknown" => Outcome::Unknown,
                _ => panic!("{line}"),
            };
            outcomes.insert(request_id.to_owned(), outcome);
        }
        outcomes
    }
}

/// Returns the kind of a request, which its id contains, so that the ledger suffices to repeat it.
fn ask_of(request_id: &str) -> RequestKind {
    match request_id.split('-').next() {
        Some("once") => RequestKind::Once,
        Some("again") => RequestKind::Again,
        Some("shelf") => RequestKind::Shelf,
        Some("batch") => RequestKind::Batch,
        _ => RequestKind::Bad,
    }
}

fn shelved(request_id: &str) -> v1::JobSpec {
    // The payload is sometimes large enough for the separate table.
    let payload = Some(v1::Payload::of(request_id.repeat(request_id.len())));
    v1::JobSpec { start: run_time(*FAR_AWAY_S), payload, ..job("run") }
}

/// Sends a request once and records the outcome.
async fn ask(rig: &Rig, ledger: &Ledger, request_id: &str) -> Outcome {
    ledger.write(&format!("{request_id} begin"));
    let single = |spec| named(request_id, spec);
    let mut jobs = rig.jobs.clone();
    let answer = async {
        match ask_of(request_id) {
            RequestKind::Batch => {
                let request = v1::SubmitBatchRequest {
                    jobs: vec![shelved(request_id); 3],
                    request_id: request_id.to_owned(),
                    ..Default::default()
                };
                jobs.submit_batch(request).await.map(|answer| ids(answer.into_inner().jobs))
            }
            ask => {
                let spec = match ask {
                    RequestKind::Once => v1::JobSpec { max_attempts: 1, ..job("run") },
                    RequestKind::Again => v1::JobSpec { max_attempts: 1_000, ..job("run") },
                    RequestKind::Shelf | RequestKind::Batch => shelved(request_id),
                    RequestKind::Bad => v1::JobSpec { priority: Some(101), ..job("run") },
                };
                jobs.submit(single(spec)).await.map(|answer| vec![answer.into_inner().id().to_owned()])
            }
        }
    };
    let outcome = match soon(answer).await {
        Ok(ids) => Outcome::Ok(ids),
        Err(status) if is_definite(&status) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    ledger.told(request_id, &outcome);
    outcome
}

/// Sends requests until the server is gone, and cancels some of the scheduled jobs.
async fn produce(rig: Rig, ledger: Arc<Ledger>, name: String, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0u64.. {
        let what = match random.random_range(0..40) {
            0..3 => "once",
            3..6 => "again",
            6..10 => "bad",
            10..16 => "batch",
            _ => "shelf",
        };
        match ask(&rig, &ledger, &format!("{what}-{name}-{n}")).await {
            Outcome::Ok(ids) if what == "shelf" && random.random_bool(0.5) => {
                let request = v1::CancelJobRequest { id: ids[0].clone(), ..Default::default() };
                if soon(rig.jobs.clone().cancel_job(request)).await.is_ok() {
                    ledger.write(&format!("cancel-{} ok {}", ids[0], ids[0]));
                }
            }
            Outcome::Unknown => return,
            Outcome::Ok(_) | Outcome::Refused => {}
        }
    }
}

/// The states of each job as a watcher without gaps saw them.
#[derive(Default)]
struct SeenStates {
    revisions: HashMap<String, i64>,
    ended: HashMap<String, JobState>,
}

impl SeenStates {
    fn job(&mut self, job: v1::Job) {
        let before = self.revisions.insert(job.id.clone(), job.revision).unwrap_or(0);
        assert!(job.revision > before, "{}: revision {} after {before}", job.id, job.revision);
        let ended = self.ended.get(&job.id);
        assert_eq!(ended, None, "{}: {:?} after its end", job.id, job.state());
        if job.done {
            self.ended.insert(job.id.clone(), job.state());
        }
    }
}

/// Watches all jobs, resumes by its token at each new address, and returns once `last` has ended.
async fn witness(
    mut addresses: watch::Receiver<String>,
    mut last: watch::Receiver<Option<HashSet<String>>>,
) -> SeenStates {
    let (mut seen, mut resume_token) = (SeenStates::default(), String::new());
    loop {
        let address = addresses.borrow_and_update().clone();
        let request = v1::WatchStatusRequest {
            filter: Some(v1::JobFilter::default()),
            detail: v1::WatchDetail::EveryTransition as i32,
            resync: v1::WatchResync::Fail as i32,
            resume_token: resume_token.clone(),
            ..Default::default()
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            let mut client = v1::job_queue_client::JobQueueClient::new(channel);
            if let Ok(stream) = client.watch_status(request).await {
                let mut watcher = Watcher::new(stream.into_inner());
                loop {
                    let is_over = last.borrow().as_ref().is_some_and(|all| all.len() == seen.ended.len());
                    if is_over {
                        return seen;
                    }
                    let message = tokio::select! {
                        message = watcher.message() => message,
                        _ = last.changed() => continue,
                    };
                    let Ok(Some(message)) = message else { break };
                    for event in message.events.into_iter().filter_map(|event| event.event) {
                        match event {
                            Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) => {
                                seen.job(*job)
                            }
                            Event::Synced(_) | Event::Bookmark(_) => {}
                            event => panic!("the watch told {}", describe(&event)),
                        }
                    }
                    resume_token = message.resume_token;
                }
            }
        }
        // The server is dead: wait for the next one.
        addresses.changed().await.unwrap();
    }
}

/// Compares the server's jobs with the ledger, and repeats unknown requests.
async fn check(rig: &Rig, ledger: &Ledger) {
    let found = rig.jobs_by_request().await;
    let outcomes = ledger.read();
    for request_id in found.keys() {
        assert!(outcomes.contains_key(request_id), "nobody asked for {request_id}");
    }
    let mut ids_of: HashMap<&str, Vec<&str>> = HashMap::new();
    for (request_id, jobs) in &found {
        let mut ids: Vec<_> = jobs.iter().map(|job| job.id.as_str()).collect();
        ids.sort_unstable();
        ids_of.insert(request_id, ids);
    }
    let by_id: HashMap<_, _> = found.values().flatten().map(|job| (job.id.as_str(), job)).collect();
    for (request_id, outcome) in &outcomes {
        let ids = ids_of.get(request_id.as_str()).cloned().unwrap_or_default();
        let whole = if ask_of(request_id) == RequestKind::Batch { 3 } else { 1 };
        match outcome {
            Outcome::Ok(told) if request_id.starts_with("cancel-") => {
                assert_eq!(by_id[told[0].as_str()].state(), JobState::Cancelled, "{request_id}");
            }
            Outcome::Ok(told) => assert_eq!(&ids, told, "{request_id} was accepted"),
            Outcome::Refused => assert!(ids.is_empty(), "{request_id} was refused"),
            Outcome::Unknown => {
                assert!(ids.is_empty() || ids.len() == whole, "{request_id}: {ids:?}");
                let told = match ask(rig, ledger, request_id).await {
                    Outcome::Ok(told) => told,
                    Outcome::Refused if ask_of(request_id) == RequestKind::Bad => Vec::new(),
                    outcome => panic!("{request_id} asked again is {outcome:?}"),
                };
                assert!(ids.is_empty() || ids == told, "{request_id} was doubled: {ids:?}, {told:?}");
            }
        }
    }
}

/// Checks a copy of the database, so that the server finds what the kill left.
pub(crate) fn check_integrity(data: &Path) {
    let copy = tempfile::tempdir().unwrap();
    for file in ["jobmill.db", "jobmill.db-wal"] {
        if data.join(file).exists() {
            fs::copy(data.join(file), copy.path().join(file)).unwrap();
        }
    }
    let database = rusqlite::Connection::open(copy.path().join("jobmill.db")).unwrap();
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_doubles_or_breaks_anything() {
    let rounds = number("JOBMILL_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("JOBMILL_CRASH_SEED").unwrap_or_else(|| rand::rng().random());
    println!("JOBMILL_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let (configuration, data, starts) =
        (home.path().join("jobmill.toml"), home.path().join("data"), home.path().join("starts"));
    let text = format!(
        r#"
        [kinds.run]
        command = ["/bin/sh", "-c", 'echo "$JOBMILL_JOB_ID" >> "$0"', '{}']
        retry = {{ initial_delay = "1ms", max_delay = "1ms" }}
        "#,
        starts.display()
    );
    fs::write(&configuration, text).unwrap();
    let ledger = Arc::new(Ledger::new(home.path().join("ledger")));

    let mut process = Process::start(&configuration, &data, &[]).await;
    let (tell_address, addresses) = watch::channel(process.address.clone());
    let (tell_last, last) = watch::channel(None);
    let witness = tokio::spawn(witness(addresses, last));
    for round in 0..rounds {
        let mut producers = Vec::new();
        for producer in 0..PRODUCERS {
            let rig = Rig::connect(&process.address).await;
            let name = format!("{round}-{producer}");
            producers.push(tokio::spawn(produce(rig, Arc::clone(&ledger), name, random.random())));
        }
        // A random delay, not a wait for an event: the moment of the kill is what is tested.
        tokio::time::sleep(Duration::from_millis(random.random_range(KILLED_AFTER_MS))).await;
        process.kill().await;
        for producer in producers {
            soon(producer).await.unwrap();
        }
        check_integrity(&data);
        process = Process::start(&configuration, &data, &[]).await;
        tell_address.send_replace(process.address.clone());
        check(&Rig::connect(&process.address).await, &ledger).await;
    }

    let rig = Rig::connect(&process.address).await;
    for job in rig.jobs_by_request().await.into_values().flatten() {
        if job.state() == JobState::Scheduled {
            rig.cancel(&job.id).await.unwrap();
        }
    }
    let jobs: HashMap<_, _> =
        rig.jobs_by_request().await.into_values().flatten().map(|job| (job.id.clone(), job)).collect();
    tell_last.send_replace(Some(jobs.keys().cloned().collect()));
    let patience = TEST_TIMEOUT * u32::try_from(1 + rounds / ROUNDS).unwrap();
    let seen = tokio::time::timeout(patience, witness).await.expect("all jobs end");
    let seen = seen.expect("the witness saw no fault");
    assert!(!jobs.is_empty());
    let starts = fs::read_to_string(&starts).unwrap_or_default();
    for (id, job) in &jobs {
        let started = starts.lines().filter(|line| line == id).count();
        let state = seen.ended[id];
        assert_eq!(rig.get(id).await.state(), state);
        match ask_of(&job.request_id) {
            RequestKind::Once if state == JobState::Succeeded => assert_eq!(started, 1, "{job:?}"),
            RequestKind::Once => assert!(started <= 1 && state == JobState::Failed, "{job:?}"),
            RequestKind::Again => assert!(started >= 1 && state == JobState::Succeeded, "{job:?}"),
            RequestKind::Shelf | RequestKind::Batch => {
                assert_eq!((started, state), (0, JobState::Cancelled), "{job:?}")
            }
            RequestKind::Bad => panic!("{job:?}"),
        }
    }
    println!("{rounds} rounds, {} jobs, {} starts of commands", jobs.len(), starts.lines().count());
    process.kill().await;
}
