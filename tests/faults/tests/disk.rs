//! A server on a disk that fails: acknowledged jobs survive, and a job that can't be kept is never acknowledged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobmill::{
    engine::{EngineSetup, OfferRefusal},
    execute::{Attempt, HandlerError},
    handle::{Handle, JobRequest, SubmitError},
    job::{JobFilter, JobId, Output, StateName},
    serve::{ServeError, Server},
    settings::{DiskSettings, KindDefaults, QueueSettings, Settings, StoreSettings},
    shard::Ledger,
    store::{Reader, Scan, ScanOrder, Store, StoreError, sqlite::SqliteStore},
};
use jobmill_faults::Disk;
use parking_lot::Mutex;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Timeout of a test's waits, far longer than a busy machine needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn settings(folder: &Path, disk: &Disk) -> Settings {
    let mut settings = Settings::new(StoreSettings::Folder(folder.to_owned()));
    settings.disk = DiskSettings {
        ballast_bytes: 0,
        min_free_bytes: 0,
        vfs: Some(disk.name()),
        ..DiskSettings::default()
    };
    settings.drain_timeout = Duration::from_secs(1);
    let queue = QueueSettings { consumers: 4, ..QueueSettings::default() };
    settings.queues.insert("q".into(), queue);
    settings
}

/// Starts a server whose attempts each wait for a permit of the gate.
async fn start(folder: &Path, disk: &Disk, gate: &Arc<Semaphore>) -> Server {
    let gate = Arc::clone(gate);
    let handler = move |_: Attempt| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.map_err(|_| HandlerError::permanent("closed"))?.forget();
            Ok::<_, HandlerError>(Output::default())
        }
    };
    let builder = Server::builder(settings(folder, disk)).handler("work", KindDefaults::default(), handler);
    builder.without_listener().start().await.unwrap()
}

fn open_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, work).await.expect("it hangs")
}

fn job(bytes: usize) -> JobRequest {
    JobRequest::new("work").queue("q").payload(vec![7; bytes])
}

/// Returns the jobs in a folder, and asserts that its database passes the integrity check.
fn found(folder: &Path) -> BTreeSet<JobId> {
    let connection = Connection::open(folder.join("jobmill.db")).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    drop(connection);
    let order = ScanOrder::OldestFirst { after: None, last: None };
    let all = Scan { order, limit: usize::MAX, budget: 1 << 40 };
    let page = reader(folder).scan(&JobFilter::default(), all).unwrap();
    page.jobs.iter().map(|job| job.id).collect()
}

/// Opens a reader of the store in a folder.
fn reader(folder: &Path) -> Arc<dyn Reader> {
    let store = SqliteStore::open(folder).unwrap();
    let reader = store.reader();
    // Rows refer to names by numbers, so the names are loaded first.
    Ledger::open(Box::new(store), &EngineSetup::default()).unwrap();
    reader
}

/// Returns whether a server ended because a write or a flush failed.
fn ended_by_the_disk(end: &Result<(), ServeError>) -> bool {
    matches!(end, Err(ServeError::Store(StoreError::Database(_))))
}

/// A pseudo-random generator that gives the same numbers for a seed on every machine (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_fails_ends_the_server_and_nothing_is_acknowledged_after_it() {
    let (disk, home, image) = (Disk::new("eio"), TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(home.path(), &disk, &open_gate()).await;
    let handle = server.handle();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..20 {
        acknowledged.insert(soon(handle.submit(job(300))).await.unwrap().id());
    }
    disk.refuse_flushes();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.submit(job(300)).await.map(|submitted| submitted.id()) })
        })
        .collect();
    for call in calls {
        let answer = soon(call).await.unwrap();
        assert!(matches!(answer, Err(SubmitError::Stopped(_))), "{answer:?}");
    }
    assert!(disk.refused_flushes() >= 1);
    // The flushed contents at this moment are all that the next start can rely on.
    disk.power_cut(home.path(), image.path(), |_| 99).unwrap();
    let end = soon(server.finished()).await;
    assert!(ended_by_the_disk(&end), "{end:?}");
    assert!(matches!(soon(handle.submit(job(1))).await, Err(SubmitError::Stopped(_))));
    assert!(found(image.path()).is_superset(&acknowledged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_leaves_every_acknowledged_job_and_a_sound_database() {
    const SEEDS: u64 = 6;
    const CUTS: usize = 4;
    const CALLERS: usize = 8;
    for seed in 0..SEEDS {
        let (disk, home) = (Disk::new(&format!("cut {seed}")), TempDir::new().unwrap());
        let server = start(home.path(), &disk, &open_gate()).await;
        let ledger = Arc::new(Mutex::new(BTreeSet::new()));
        let progress = Arc::new(tokio::sync::Notify::new());
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (handle, ledger, progress) =
                    (server.handle(), Arc::clone(&ledger), Arc::clone(&progress));
                tokio::spawn(async move {
                    let mut dice = Dice(seed * 100 + caller as u64);
                    for _ in 0..40 {
                        let bytes = [0, 100, 300, 9_000][dice.below(4) as usize];
                        let id = handle.submit(job(bytes)).await.unwrap().id();
                        ledger.lock().insert(id);
                        progress.notify_one();
                    }
                })
            })
            .collect();
        let mut dice = Dice(seed);
        for cut in 0..CUTS {
            // Stops somewhere in between: after a random number of further acknowledgements, capped at the number there
            // will be.
            let wanted = ledger.lock().len() + dice.below(60) as usize;
            while ledger.lock().len() < wanted.min(CALLERS * 40) {
                soon(progress.notified()).await;
            }
            let (acknowledged, image) = (ledger.lock().clone(), TempDir::new().unwrap());
            disk.power_cut(home.path(), image.path(), |end| dice.below(end)).unwrap();
            let found = found(image.path());
            let lost: Vec<_> = acknowledged.difference(&found).collect();
            assert!(lost.is_empty(), "seed {seed}, cut {cut}: {lost:?} of {} are gone", acknowledged.len());
        }
        for caller in callers {
            soon(caller).await.unwrap();
        }
        server.stopper().drain();
        soon(server.finished()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_slow_disk_callers_share_a_flush_and_a_repeat_after_a_timeout_finds_the_job() {
    const CALLS: u64 = 300;
    let (disk, home) = (Disk::new("slow"), TempDir::new().unwrap());
    let server = start(home.path(), &disk, &open_gate()).await;
    let handle = server.handle();
    disk.flush_in(Duration::from_millis(30));
    let before = disk.flushes();
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.submit(job(10)).await.unwrap().id() })
        })
        .collect();
    for call in calls {
        soon(call).await.unwrap();
    }
    // Each job has up to three changes, so that one flush for each would be hundreds.
    assert!(disk.flushes() - before < CALLS, "{} flushes", disk.flushes() - before);
    disk.hang();
    let patient = || handle.submit(job(10).request_id("again"));
    let gave_up = tokio::time::timeout(Duration::from_millis(50), patient()).await;
    assert!(gave_up.is_err(), "the deadline holds though the disk hangs");
    disk.release();
    let found = soon(patient()).await.unwrap();
    let again = soon(patient()).await.unwrap();
    assert_eq!((found.id(), again.created()), (again.id(), false));
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_hangs_does_not_hold_up_the_drain() {
    let (disk, home) = (Disk::new("hang"), TempDir::new().unwrap());
    let server = start(home.path(), &disk, &open_gate()).await;
    let handle = server.handle();
    soon(handle.submit(job(10))).await.unwrap().outcome().await.unwrap();
    disk.hang();
    let call = tokio::spawn({
        let handle = handle.clone();
        async move { handle.submit(job(10)).await.map(|submitted| submitted.id()) }
    });
    let disk = Arc::new(disk);
    let hanging = Arc::clone(&disk);
    assert!(tokio::task::spawn_blocking(move || hanging.wait_for_hang(TEST_TIMEOUT)).await.unwrap());
    server.stopper().drain();
    // The drain's deadline is a second; the flush hangs for ever.
    let end = soon(server.finished()).await;
    assert!(matches!(end, Err(ServeError::Unwritten { outcomes: 0 })), "{end:?}");
    assert!(!call.is_finished() || call.await.unwrap().is_err(), "nothing was acknowledged");
    disk.release();
}

/// Submits until the disk is full; returns the number of accepted jobs.
async fn fill(handle: &Handle) -> usize {
    for taken in 0..10_000 {
        match soon(handle.submit(job(50_000))).await {
            Ok(_) => {}
            Err(SubmitError::Refused(OfferRefusal::DiskFull)) => return taken,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the disk is never full");
}

/// Retries a submission, as a client does, until it is accepted.
async fn submit_when_there_is_space(handle: &Handle) -> JobId {
    soon(async {
        loop {
            match handle.submit(job(10)).await {
                Ok(submitted) => return submitted.id(),
                Err(SubmitError::Refused(OfferRefusal::DiskFull)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_jobs_keeps_the_ends_of_running_ones_and_recovers_by_itself() {
    let (disk, home) = (Disk::new("full"), TempDir::new().unwrap());
    let gate = Arc::new(Semaphore::new(0));
    let server = start(home.path(), &disk, &gate).await;
    let handle = server.handle();
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(soon(handle.submit(job(10).request_id(format!("r{}", running.len())))).await.unwrap());
    }
    disk.holds(Some(disk.used() + 400_000));
    let taken = fill(&handle).await;
    assert!(taken > 0 && disk.refused_writes() > 0);
    // Nothing more fits from now on, not even into the free part of the log.
    disk.holds(Some(0));
    while soon(handle.submit(job(50_000))).await.is_ok() {}

    // Reads work, and a repeat of an accepted request returns its job, even beside a submission that does not fit.
    for (index, running) in running.iter().enumerate() {
        let whole = soon(handle.get(running.id())).await.unwrap().unwrap();
        assert_eq!(whole.job.state.name(), StateName::Running);
        let repeat = handle.submit(job(10).request_id(format!("r{index}")));
        let (repeat, refused) = soon(async { tokio::join!(repeat, handle.submit(job(50_000))) }).await;
        assert_eq!(repeat.map(|repeat| (repeat.id(), repeat.created())).unwrap(), (running.id(), false));
        assert!(matches!(refused, Err(SubmitError::Refused(OfferRefusal::DiskFull))), "{refused:?}");
    }
    // The four jobs end while nothing can be written. Their ends are published only once they are stored.
    gate.add_permits(4);
    let refused = soon(handle.submit(job(50_000))).await;
    assert!(matches!(refused, Err(SubmitError::Refused(OfferRefusal::DiskFull))), "{refused:?}");

    disk.holds(None);
    for job in &running {
        let outcome = soon(job.outcome()).await.unwrap();
        assert_eq!((outcome.job.state.name(), outcome.job.attempt), (StateName::Succeeded, 1));
    }
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let id = submit_when_there_is_space(&handle).await;
    soon(handle.watch(id).outcome()).await.unwrap().into_result().unwrap();
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
    // All accepted jobs are stored: the four, those that filled the disk, and the last one.
    assert!(found(home.path()).len() > 4 + taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_at_random_moments_loses_nothing_that_was_acknowledged() {
    for seed in 0..4 {
        let (disk, home) = (Disk::new(&format!("filling {seed}")), TempDir::new().unwrap());
        let server = start(home.path(), &disk, &open_gate()).await;
        let handle = server.handle();
        let (mut dice, refused) = (Dice(seed), AtomicUsize::new(0));
        let mut acknowledged = Vec::new();
        for _ in 0..12 {
            disk.holds(Some(disk.used() + dice.below(200_000)));
            for _ in 0..10 {
                match soon(handle.submit(job(dice.below(30_000) as usize))).await {
                    Ok(submitted) => acknowledged.push(submitted),
                    Err(SubmitError::Refused(OfferRefusal::DiskFull)) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("seed {seed}: {error:?}"),
                }
            }
            disk.holds(None);
            let id = submit_when_there_is_space(&handle).await;
            soon(handle.watch(id).outcome()).await.unwrap();
        }
        assert!(refused.load(Ordering::Relaxed) > 0, "seed {seed}: the disk was never full");
        for job in &acknowledged {
            let outcome = soon(job.outcome()).await.unwrap();
            assert_eq!(outcome.job.state.name(), StateName::Succeeded, "seed {seed}: {}", job.id());
        }
        server.stopper().drain();
        soon(server.finished()).await.unwrap();
        let kept = found(home.path());
        assert!(acknowledged.iter().all(|job| kept.contains(&job.id())), "seed {seed}");
    }
}
