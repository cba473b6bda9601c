//! Metrics and health over HTTP.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use jobmill::{
    clock::{Clock, Timestamp},
    proto::v1::{self, JobState},
    serve::{Server, ServerBuilder},
    store::{
        Names, Reader, Space, Store, StoreError,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    QUEUE, Rig, Stage, defaults, echo, fail, job, manual_clock, memory, queue, refusal, simple, soon,
    submission, with_queue,
};

/// An HTTP answer: its status line, its headers, and its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

async fn ask(address: SocketAddr, request: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = soon(exchange).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
}

/// Starts a server with a metrics endpoint; returns its address, too.
async fn start(builder: impl FnOnce(jobmill::settings::Settings) -> ServerBuilder) -> (Rig, SocketAddr) {
    let mut settings = memory();
    settings.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let rig = Rig::start(builder(settings)).await;
    let address = rig.metrics_address();
    (rig, address)
}

/// A server's metrics by series.
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) async fn of(address: SocketAddr) -> Self {
        let answer = get(address, "/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
        Scrape(
            samples
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.0.keys()))
    }

    fn has(&self, part: &str) -> bool {
        self.0.keys().any(|series| series.contains(part))
    }
}

#[tokio::test]
async fn counters_follow_jobs_from_submission_to_end() {
    let clock = manual_clock();
    let given = clock.clone();
    let (rig, address) = start(|settings| simple(settings).clock(Clock::Manual(given))).await;
    let echoed = rig.submit(job("echo")).await;
    rig.ends(&echoed.id).await;
    let failing = rig.submit(v1::JobSpec { max_attempts: 2, ..job("fail") }).await;
    rig.reaches(&failing.id, JobState::BackingOff).await;
    clock.advance(Duration::from_secs(1));
    rig.ends(&failing.id).await;

    let now = Scrape::of(address).await;
    for (series, value) in [
        (r#"jobmill_jobs_submitted_total{kind="echo"}"#, 1.0),
        (r#"jobmill_attempts_started_total{kind="fail"}"#, 2.0),
        (r#"jobmill_attempts_total{kind="echo",result="succeeded"}"#, 1.0),
        (r#"jobmill_attempts_total{kind="fail",result="handler_error"}"#, 2.0),
        (r#"jobmill_attempts_total{kind="fail",result="timeout"}"#, 0.0),
        (r#"jobmill_retries_total{kind="echo"}"#, 0.0),
        (r#"jobmill_retries_total{kind="fail"}"#, 1.0),
        (r#"jobmill_jobs_ended_total{kind="echo",state="succeeded"}"#, 1.0),
        (r#"jobmill_jobs_ended_total{kind="fail",state="failed"}"#, 1.0),
        (r#"jobmill_jobs{queue="default",state="succeeded"}"#, 1.0),
        (r#"jobmill_jobs{queue="default",state="failed"}"#, 1.0),
        (r#"jobmill_wait_seconds_count{kind="fail"}"#, 2.0),
        (r#"jobmill_run_seconds_count{kind="fail"}"#, 2.0),
        (r#"jobmill_queue_consumers{queue="default"}"#, 4.0),
        ("jobmill_ready", 1.0),
    ] {
        assert_eq!(now.get(series), value, "{series}");
    }
    let batches = now.get("jobmill_commit_seconds_count");
    assert!(batches >= 5.0 && now.get("jobmill_flush_seconds_count") == batches, "{batches}");
    assert_eq!(now.get("jobmill_batch_changes_sum"), 6.0, "each change of the two jobs, once");
}

#[tokio::test]
async fn waits_runs_and_the_oldest_ready_job_go_by_the_clock() {
    let clock = manual_clock();
    let (handler, mut stage) = Stage::new();
    let given = clock.clone();
    let (rig, address) = start(|settings| {
        let builder = Server::builder(with_queue(settings, QUEUE, queue(1))).clock(Clock::Manual(given));
        builder.handler("held", defaults(), handler)
    })
    .await;
    let first = rig.submit(job("held")).await;
    let running = stage.next().await;
    let second = rig.submit(job("held")).await;
    clock.advance(Duration::from_secs(7));

    let now = Scrape::of(address).await;
    assert_eq!(now.get(r#"jobmill_queue_oldest_ready_seconds{queue="default"}"#), 7.0);
    assert_eq!(now.get(r#"jobmill_jobs{queue="default",state="queued"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_jobs{queue="default",state="running"}"#), 1.0);
    running.succeeds();
    rig.ends(&first.id).await;
    stage.next().await.succeeds();
    rig.ends(&second.id).await;

    let now = Scrape::of(address).await;
    assert_eq!(now.get(r#"jobmill_queue_oldest_ready_seconds{queue="default"}"#), 0.0);
    assert_eq!(now.get(r#"jobmill_wait_seconds_sum{kind="held"}"#), 7.0, "the second one's");
    assert_eq!(now.get(r#"jobmill_run_seconds_sum{kind="held"}"#), 7.0, "the first one's");
    assert_eq!(now.get(r#"jobmill_wait_seconds_bucket{kind="held",le="5"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_wait_seconds_bucket{kind="held",le="10"}"#), 2.0);
}

#[tokio::test]
async fn a_cancelled_job_counts_an_attempt_only_where_one_had_started() {
    let (handler, mut stage) = Stage::new();
    let (rig, address) = start(|settings| {
        Server::builder(with_queue(settings, QUEUE, queue(1))).handler("held", defaults(), handler)
    })
    .await;
    let running = rig.submit(job("held")).await;
    let cue = stage.next().await;
    let waiting = rig.submit(job("held")).await;
    let ended = async || {
        let now = Scrape::of(address).await;
        let jobs = now.get(r#"jobmill_jobs_ended_total{kind="held",state="cancelled"}"#);
        (jobs, now.get(r#"jobmill_attempts_total{kind="held",result="cancelled"}"#))
    };
    rig.cancel(&waiting.id).await.unwrap();
    assert_eq!(ended().await, (1.0, 0.0));
    rig.cancel(&running.id).await.unwrap();
    soon(cue.attempt.cancelled()).await;
    cue.fails();
    rig.ends(&running.id).await;
    assert_eq!(ended().await, (2.0, 1.0));
    rig.delete(&running.id).await.unwrap();
    let now = Scrape::of(address).await;
    assert_eq!(now.get("jobmill_jobs_deleted_total"), 1.0);
    assert_eq!(now.get(r#"jobmill_jobs{queue="default",state="cancelled"}"#), 1.0);
}

#[tokio::test]
async fn refusals_repeats_and_callers_that_wait_are_counted() {
    let (handler, mut stage) = Stage::new();
    let (rig, address) = start(|settings| {
        let full = jobmill::settings::QueueSettings { max_jobs: 1, ..queue(1) };
        Server::builder(with_queue(settings, QUEUE, full)).handler("held", defaults(), handler)
    })
    .await;
    let keyed = || {
        let unique_key = Some(v1::UniqueKey { key: "k".to_owned(), ..Default::default() }.into());
        v1::JobSpec { unique_key, ..job("held") }
    };
    let once = || v1::SubmitRequest { request_id: "once".to_owned(), ..submission(keyed()) };
    let reason = |status: tonic::Status| refusal(&status).reason;
    soon(rig.jobs.clone().submit(once())).await.unwrap();
    let running = stage.next().await;
    soon(rig.jobs.clone().submit(once())).await.unwrap();
    soon(rig.jobs.clone().submit(submission(keyed()))).await.unwrap();
    let refused = soon(rig.jobs.clone().submit(submission(job("strange")))).await.unwrap_err();
    assert_eq!(reason(refused), "UNKNOWN_KIND");
    let rejecting = v1::SubmitRequest { when_full: v1::WhenFull::Reject as i32, ..submission(job("held")) };
    let refused = soon(rig.jobs.clone().submit(rejecting)).await.unwrap_err();
    assert_eq!(reason(refused), "QUEUE_FULL");
    let nothing = v1::SubmitBatchRequest::default();
    let refused = soon(rig.jobs.clone().submit_batch(nothing)).await.unwrap_err();
    assert_eq!(reason(refused), "INVALID_REQUEST");
    let mut patient = rig.jobs.clone();
    let waiting = tokio::spawn(async move { patient.submit(submission(job("held"))).await });
    rig.waiters(QUEUE, 1).await;

    let now = Scrape::of(address).await;
    assert_eq!(now.get(r#"jobmill_submissions_rejected_total{reason="UNKNOWN_KIND"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_submissions_rejected_total{reason="QUEUE_FULL"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_submissions_rejected_total{reason="INVALID_REQUEST"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_submissions_rejected_total{reason="other"}"#), 0.0);
    assert_eq!(now.get("jobmill_submissions_repeated_total"), 1.0);
    assert_eq!(now.get(r#"jobmill_submissions_met_key_total{outcome="existing"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_submissions_met_key_total{outcome="replaced"}"#), 0.0);
    assert_eq!(now.get(r#"jobmill_queue_waiters{queue="default"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_queue_max_jobs{queue="default"}"#), 1.0);
    let calls = |code: &str| {
        now.get(&format!(r#"jobmill_grpc_calls_total{{code="{code}",method="jobmill.v1.JobQueue/Submit"}}"#))
    };
    assert_eq!((calls("OK"), calls("NOT_FOUND"), calls("RESOURCE_EXHAUSTED")), (3.0, 1.0, 1.0));
    assert_eq!(now.get(r#"jobmill_grpc_calls_open{method="jobmill.v1.JobQueue/Submit"}"#), 1.0);
    assert_eq!(now.get(r#"jobmill_grpc_call_seconds_count{method="jobmill.v1.JobQueue/Submit"}"#), 5.0);
    running.succeeds();
    soon(waiting).await.unwrap().unwrap();
    stage.next().await.succeeds();
}

#[tokio::test]
async fn watches_are_counted_while_they_last() {
    let (handler, _stage) = Stage::new();
    let (rig, address) =
        start(|settings| Server::builder(settings).handler("held", defaults(), handler)).await;
    let held = rig.submit(job("held")).await;
    let by_ids = rig.watch_ids(&[&held.id]).await;
    let filter = Some(v1::JobFilter::default());
    let by_filter = rig.watch(v1::WatchStatusRequest { filter, ..Default::default() }).await;
    const WATCHES: [&str; 3] = [
        r#"jobmill_watchers{by="ids"}"#,
        r#"jobmill_watchers{by="filter"}"#,
        r#"jobmill_grpc_calls_total{code="CANCELLED",method="jobmill.v1.JobQueue/WatchStatus"}"#,
    ];
    // A watch ends before its call does.
    let until = async |expected: [f64; 3]| {
        let scraped = async {
            loop {
                let now = Scrape::of(address).await;
                if WATCHES.map(|name| now.0.get(name).copied().unwrap_or_default()) == expected {
                    return now;
                }
            }
        };
        soon(scraped).await
    };
    until([1.0, 1.0, 0.0]).await;
    drop((by_ids, by_filter));
    let now = until([0.0, 0.0, 2.0]).await;
    assert!(!now.has(r#"jobmill_grpc_call_seconds_count{method="jobmill.v1.JobQueue/WatchStatus"}"#));
}

#[tokio::test]
async fn kinds_that_clients_make_up_and_methods_that_are_not_there_make_no_series() {
    let (rig, address) = start(|settings| {
        let open = jobmill::settings::QueueSettings { accept_unknown_kinds: true, ..queue(1) };
        simple(with_queue(settings, QUEUE, open))
    })
    .await;
    for kind in ["one", "two", "three"] {
        rig.submit(job(kind)).await;
    }
    let mut client = tonic::client::Grpc::new(rig.channel.clone());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/made.Up/Method");
    let codec = tonic_prost::ProstCodec::<v1::GetJobRequest, v1::GetJobResponse>::default();
    let refused = client.unary(tonic::Request::new(v1::GetJobRequest::default()), path, codec).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);

    let now = Scrape::of(address).await;
    assert_eq!(now.get(r#"jobmill_jobs_submitted_total{kind="other"}"#), 3.0);
    assert_eq!(now.get(r#"jobmill_grpc_calls_total{code="UNIMPLEMENTED",method="other"}"#), 1.0);
    assert!(!now.has("made.Up") && !now.has("three"));
    assert!(!now.has("jobmill/"), "Jobmill's own kinds are nobody's business");
}

#[tokio::test]
async fn ready_until_the_drain() {
    let (handler, mut stage) = Stage::new();
    let (rig, address) = start(|mut settings| {
        settings.drain_timeout = Duration::from_secs(600);
        Server::builder(settings).handler("held", defaults(), handler)
    })
    .await;
    rig.submit(job("held")).await;
    let running = stage.next().await;
    let ready = get(address, "/readyz").await;
    assert_eq!((ready.status, &*ready.body), (200, "ok\n"));
    rig.stopper().drain();
    let drains = async {
        loop {
            let ready = get(address, "/readyz").await;
            if ready.status == 503 {
                return ready.body;
            }
        }
    };
    assert_eq!(soon(drains).await, "the server is draining: it takes no new jobs\n");
    assert_eq!(get(address, "/livez").await.status, 200, "it lives until its end");
    running.succeeds();
    rig.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens after the end");
}

/// A store that blocks before it writes a new job until the test releases it.
struct HangingStore {
    store: Box<dyn Store>,
    entered: mpsc::SyncSender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Store for HangingStore {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        if !writes.new_jobs.is_empty() {
            let _ = self.entered.send(());
            let _ = self.go_on.recv();
        }
        self.store.write(writes)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

#[tokio::test]
async fn not_ready_while_the_disk_does_not_take_a_batch() {
    let clock = manual_clock();
    let (entered, hangs) = mpsc::sync_channel(1);
    let (let_go, go_on) = mpsc::sync_channel(1);
    let given = clock.clone();
    let (rig, address) = start(|settings| {
        simple(settings)
            .clock(Clock::Manual(given))
            .around_store(move |store| Box::new(HangingStore { store, entered, go_on }))
    })
    .await;
    let mut jobs = rig.jobs.clone();
    let submitting = tokio::spawn(async move { jobs.submit(submission(job("echo"))).await });
    tokio::task::spawn_blocking(move || hangs.recv().unwrap()).await.unwrap();
    assert_eq!(get(address, "/readyz").await.status, 200, "a batch may take its time");
    clock.set(Timestamp::from_micros(0));
    clock.advance(Duration::from_secs(5));
    let stuck = get(address, "/readyz").await;
    assert_eq!((stuck.status, &*stuck.body), (503, "the disk has not taken the latest batch for 5 s\n"));
    assert_eq!(Scrape::of(address).await.get("jobmill_ready"), 0.0);
    let_go.send(()).unwrap();
    soon(submitting).await.unwrap().unwrap();
    let ready = async { while get(address, "/readyz").await.status != 200 {} };
    soon(ready).await;
}

/// A store whose free space the test decides.
struct LimitedSpaceStore {
    store: Box<dyn Store>,
    has_space: Arc<AtomicBool>,
}

impl Store for LimitedSpaceStore {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        self.store.write(writes)
    }

    fn space(&mut self) -> Space {
        if self.has_space.load(Ordering::SeqCst) { Space::Enough } else { Space::Low }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

#[tokio::test]
async fn not_ready_while_the_disk_is_full_and_ready_again_without_a_submission() {
    let space = Arc::new(AtomicBool::new(true));
    let has_space = Arc::clone(&space);
    let (rig, address) = start(|settings| {
        simple(settings).around_store(move |store| Box::new(LimitedSpaceStore { store, has_space }))
    })
    .await;
    assert_eq!(get(address, "/readyz").await.status, 200);
    space.store(false, Ordering::SeqCst);
    let refused = soon(rig.jobs.clone().submit(submission(job("echo")))).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "DISK_FULL");
    for _ in 0..3 {
        let full = get(address, "/readyz").await;
        assert_eq!(
            (full.status, &*full.body),
            (503, "the disk is full, or nearly so: new jobs are refused\n")
        );
    }
    let now = Scrape::of(address).await;
    assert_eq!(now.get(r#"jobmill_submissions_rejected_total{reason="DISK_FULL"}"#), 1.0);
    space.store(true, Ordering::SeqCst);
    let ready = async { while get(address, "/readyz").await.status != 200 {} };
    soon(ready).await;
}

#[tokio::test]
async fn the_endpoint_answers_nothing_else() {
    let (_rig, address) = start(simple).await;
    assert_eq!(get(address, "/").await.status, 404);
    assert_eq!(get(address, "/../metrics").await.status, 404);
    let posted =
        ask(address, "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(posted.status, 405);
    assert!(posted.head.contains("allow: get, head"), "{}", posted.head);
    let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    let long = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    assert_eq!(ask(address, &long).await.status, 431);
    let garbage = ask(address, "\u{1}\u{2}\r\n\r\n").await;
    assert_eq!(garbage.status, 400);
    let closes = get(address, "/livez").await;
    assert!(closes.head.contains("connection: close"), "{}", closes.head);
}

#[tokio::test]
async fn pages_that_lead_their_own_name_here_read_nothing() {
    let named = |mut settings: jobmill::settings::Settings| {
        settings.hosts = vec!["jobs.internal".to_owned()];
        simple(settings)
    };
    let (_rig, address) = start(named).await;
    for (host, status) in [
        ("evil.example", 421),
        ("localhost.evil.example:9773", 421),
        ("127.0.0.1.nip.io", 421),
        ("", 421),
        ("jobs.internal", 200),
        ("127.0.0.1:9773", 200),
    ] {
        for path in ["/metrics", "/livez"] {
            let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(answer.status, status, "{host} {path}");
            assert!(status == 200 || !answer.body.contains("jobmill_"), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn silent_connections_keep_no_client_from_the_endpoint() {
    let (_rig, address) = start(simple).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = soon(TcpStream::connect(address)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(get(address, "/livez").await.status, 200);
    // The oldest connection was closed to make room.
    let _ = soon(silent.remove(0).read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn the_documentation_lists_every_metric() {
    let (rig, address) = start(|settings| {
        Server::builder(settings).handler("echo", defaults(), echo).handler("fail", defaults(), fail)
    })
    .await;
    rig.total().await;
    crate::limits::create(&rig, crate::limits::running("one", 1)).await.unwrap();
    let page = get(address, "/metrics").await.body;
    let mut exposed = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, sort) = rest.split_once(' ').unwrap();
            exposed.insert(name.to_owned(), (sort.to_owned(), String::new()));
        } else if !line.starts_with('#') {
            let series = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| series.strip_suffix(end))
                .find(|family| exposed.contains_key(*family))
                .unwrap_or(series);
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let mut labels: Vec<_> =
                labels.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            labels.retain(|label| *label != "le");
            exposed.get_mut(family).unwrap_or_else(|| panic!("{line}")).1 = labels.join(", ");
        }
    }
    assert_eq!(documented(), exposed);
}

fn read(file: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Returns the metrics of the documentation's table, with their types and labels.
fn documented() -> BTreeMap<String, (String, String)> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, sort, labels, _what, ""] = cells[..] else { return None };
        let labels = labels.replace('`', "");
        Some((name.trim_end_matches('`').to_owned(), (sort.to_owned(), labels)))
    })
    .collect()
}

/// Returns the names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("jobmill_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are() {
    let documented = documented();
    let is_there = |name: &str| {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let of_histogram =
            part.and_then(|family| documented.get(family)).is_some_and(|(sort, _)| sort == "histogram");
        of_histogram || documented.get(name).is_some_and(|(sort, _)| sort != "histogram")
    };
    for file in ["monitoring/alerts.yml", "monitoring/alerts_test.yml", "monitoring/dashboard.json"] {
        let names = named(&read(file));
        assert!(names.len() > 10, "{file}: {names:?}");
        let strangers: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
        assert!(strangers.is_empty(), "{file} names {strangers:?}");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap() <= 24);
        if panel["type"] != "row" {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        }
    }
}

#[test]
fn every_alert_is_tried() {
    let tests = read("monitoring/alerts_test.yml");
    let rules = read("monitoring/alerts.yml");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "nothing tries {alert}");
    }
}
