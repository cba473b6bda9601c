//! Watchers that stop reading, because their client is stopped or cut off: each costs the server a cursor and one
//! message, however much there is to report, holds up no other client, and misses no job when it reads on.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    time::Duration,
};

use jobmill::proto::v1::{self, JobState, job_queue_client::JobQueueClient, watch_event::Event};
use rustix::process::Pid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tonic::transport::Endpoint;

use crate::support::{Process, Rig, Stage, Watcher, defaults, describe, job, payload, simple, soon};

const CONFIGURATION: &str = r#"
    [queues.default]
    consumers = 0

    [queues.failing]
    consumers = 1

    [kinds.false]
    command = ["false"]
    retry = { initial_delay = "0s", max_delay = "0s" }
"#;

const WATCHERS: usize = 50;
/// Number of jobs, many times what fits into a message.
const JOBS: usize = 8_000;
const CANCELLED: usize = 100;
/// Size of each job's labels.
const LABEL_BYTES: usize = 200;
const LABELS: usize = 10;
/// Number of attempts. A watcher by id keeps 68 changes before it has to read its job again.
const ATTEMPTS: i32 = 50;

/// A proxy to a server that passes nothing back while it is shut.
struct Valve {
    address: String,
    open: watch::Sender<bool>,
    carrying: JoinSet<()>,
}

impl Valve {
    /// Creates a proxy for one connection, open at first.
    async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, mut is_open) = watch::channel(true);
        let server = server.to_owned();
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
            let there = tokio::io::copy(&mut from_client, &mut to_server);
            let back = async {
                let mut buffer = vec![0; 64 << 10];
                while is_open.wait_for(|open| *open).await.is_ok() {
                    let read = from_server.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 || to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            };
            let _ = tokio::join!(there, back);
        });
        Valve { address, open, carrying }
    }

    fn shut(&self) {
        self.open.send_replace(false);
    }

    fn open(&self) {
        self.open.send_replace(true);
    }
}

fn resident_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn in_default() -> v1::WatchStatusRequest {
    let filter = v1::JobFilter { queues: vec!["default".to_owned()], ..Default::default() };
    v1::WatchStatusRequest { filter: Some(filter), detail: 2, ..Default::default() }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_stop_reading_cost_little_hold_up_no_other_and_miss_nothing() {
    let home = tempfile::tempdir().unwrap();
    let configuration = home.path().join("jobmill.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let process = Process::start(&configuration, &home.path().join("data"), &[]).await;
    let rig = Rig::connect(&process.address).await;
    rig.pause("failing").await;
    let failing = v1::JobSpec { queue: "failing".to_owned(), max_attempts: ATTEMPTS, ..job("false") };
    let failing = rig.submit(failing).await.id;

    let valve = Valve::to(&process.address).await;
    let stopped = Rig::connect(&valve.address).await;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watcher = stopped.watch(in_default()).await;
        watcher.synced().await;
        watchers.push(watcher);
    }
    let mut by_id = stopped.watch_ids(&[&failing]).await;
    let mut revision = by_id.synced().await[0].revision;
    valve.shut();

    // Other clients submit, cancel and watch without delay.
    let labels: BTreeMap<_, _> =
        (0..LABELS).map(|n| (format!("label-{n}"), "x".repeat(LABEL_BYTES))).collect();
    let before = resident_bytes(process.pid());
    let mut ids = Vec::new();
    for _ in 0..JOBS / 1_000 {
        let spec = v1::JobSpec { labels: labels.clone(), ..job("false") };
        ids.extend(rig.submit_batch(vec![spec; 1_000]).await);
    }
    rig.resume("failing").await;
    assert_eq!(rig.ends(&failing).await.state(), JobState::Failed);
    let cancelled: Vec<_> = ids.into_iter().rev().take(CANCELLED).collect();
    for id in &cancelled {
        rig.cancel(id).await.unwrap();
    }
    let grown = resident_bytes(process.pid()).saturating_sub(before);
    let to_tell = (WATCHERS * JOBS * LABELS * LABEL_BYTES) as u64;
    println!("{} MiB more, of {} MiB to tell", grown >> 20, to_tell >> 20);
    assert!(grown < to_tell / 3, "{grown} bytes more, of {to_tell} to tell");

    valve.open();
    let last = watchers.pop().unwrap();
    let first = watchers.swap_remove(0);
    drop(watchers);
    for watcher in [first, last] {
        assert_eq!(ends_told(watcher).await, CANCELLED);
    }
    // Merged changes are counted.
    let events = by_id.rest().await.unwrap();
    let mut merged_all = 0;
    for event in &events {
        let Event::Updated(v1::JobUpdated { job: Some(job), merged }) = event else {
            panic!("{} is no update", describe(event))
        };
        merged_all += merged.unwrap();
        assert_eq!(job.revision, revision + merged.unwrap() + 1);
        revision = job.revision;
    }
    assert!(merged_all > 0, "it kept up although it did not read");
    assert_eq!(describe(events.last().unwrap()).split(' ').nth(2), Some("FAILED"));
    drop((stopped, valve.carrying));
    process.kill().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn large_jobs_are_read_only_as_fast_as_the_watcher_takes_them() {
    const JOBS: usize = 60;
    let home = tempfile::tempdir().unwrap();
    let configuration = home.path().join("jobmill.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let process = Process::start(&configuration, &home.path().join("data"), &[]).await;
    let rig = Rig::connect(&process.address).await;
    for _ in 0..JOBS / 3 {
        let spec = v1::JobSpec { payload: Some(v1::Payload::of(vec![7; 1 << 20])), ..job("false") };
        rig.submit_batch(vec![spec; 3]).await;
    }
    let before = resident_bytes(process.pid());
    let mut watchers = Vec::new();
    for _ in 0..4 {
        // Each on a connection of its own, which the unread part fills.
        let guest = Rig::connect(&process.address).await;
        let mut watcher =
            guest.watch(v1::WatchStatusRequest { view: v1::JobView::Full as i32, ..in_default() }).await;
        let first = watcher.message().await.unwrap().unwrap();
        assert!(first.events.len() < JOBS / 2, "{} jobs in a message", first.events.len());
        watchers.push(watcher);
    }
    let grown = resident_bytes(process.pid()).saturating_sub(before);
    println!("{} MiB more for four watchers of {} MiB", grown >> 20, JOBS);
    assert!(grown < (JOBS as u64) << 20, "{grown} bytes more");
    process.kill().await;
}

/// Number of stalled watchers, more than fit into the server's budget for unread messages.
const STALLED: usize = 140;
/// The server's budget for unread messages.
const KEPT_MAX_BYTES: f64 = (256 << 20) as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_whole_jobs_that_stop_reading_share_one_budget_and_keep_no_other_from_its_jobs_end() {
    let mut settings = crate::support::memory();
    // After the sum of both, a connection that reads nothing may be cut.
    settings.limits.keepalive_interval = Duration::from_secs(1);
    settings.limits.keepalive_timeout = Duration::from_secs(4);
    let (handler, mut stage) = Stage::new();
    let rig = Rig::start(simple(settings).handler("stage", defaults(), handler)).await;
    // A message of 2 MiB, with its payload and its result.
    let large = v1::JobSpec { payload: Some(v1::Payload::of(vec![7; 1 << 20])), ..job("echo") };
    let large = rig.submit(large).await.id;
    rig.ends(&large).await;

    let kept = async || rig.metric("jobmill_grpc_untaken_bytes").await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        // Each on a connection of its own, of which the client buffers 64 KiB before the test reads.
        let guest = Endpoint::from_shared(format!("http://{}", rig.address())).unwrap();
        let guest = soon(guest.initial_stream_window_size(65_535).connect()).await.unwrap();
        let watch = v1::WatchStatusRequest { view: v1::JobView::Full as i32, ..in_default() };
        let watch = soon(JobQueueClient::new(guest).watch_status(watch)).await.unwrap();
        stalled.push(Watcher::new(watch.into_inner()));
        assert!(kept().await <= KEPT_MAX_BYTES);
    }
    let mut healthy =
        rig.watch(v1::WatchStatusRequest { view: v1::JobView::Full as i32, ..in_default() }).await;
    let id = rig.submit(v1::JobSpec { payload: Some(v1::Payload::of("small")), ..job("stage") }).await.id;
    stage.next().await.succeeds();
    loop {
        let event = healthy.next().await;
        assert!(kept().await <= KEPT_MAX_BYTES);
        if let Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) = event
            && job.id == id
            && job.state() == JobState::Succeeded
        {
            assert_eq!(payload(&job), b"small");
            break;
        }
    }
    assert!(rig.metric("jobmill_grpc_answers_cut_total").await > 0.0);

    // A watcher that was cut gets an error when it reads on.
    let mut cut = 0;
    for mut watcher in stalled {
        match watcher.message().await {
            Ok(Some(message)) => assert_eq!(message.events.len(), 1),
            Ok(None) => panic!("a watch by a filter has no end"),
            Err(_) => cut += 1,
        }
    }
    assert!(cut > 0, "all of them fitted");
    let mut again =
        rig.watch(v1::WatchStatusRequest { view: v1::JobView::Full as i32, ..in_default() }).await;
    let told: Vec<_> = again.synced().await.into_iter().map(|job| payload(&job).len()).collect();
    assert_eq!(told, [1 << 20, "small".len()]);
    drop((again, healthy));
    soon(async {
        while kept().await > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    rig.stop().await;
}

/// Reads until all jobs have been reported, the ended ones as ended; returns the number of those.
async fn ends_told(mut watcher: Watcher) -> usize {
    let mut revisions: HashMap<String, i64> = HashMap::new();
    let mut ended = 0;
    while ended < CANCELLED {
        let event = soon(watcher.event()).await.unwrap().unwrap();
        let Event::Updated(v1::JobUpdated { job: Some(job), .. }) = event else {
            panic!("{} is no update", describe(&event))
        };
        let before = revisions.insert(job.id, job.revision).unwrap_or(0);
        assert!(job.revision > before, "revision {} after {before}", job.revision);
        ended += usize::from(job.done);
    }
    assert_eq!(revisions.len(), JOBS, "a job was never told");
    ended
}
