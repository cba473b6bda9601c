//! SubmitStream over real connections to a real server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "submit_stream/breaks.rs"]
mod breaks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use jobmill::{
    client::{Client, Code, ItemResult, SubmitResults, WatchItem},
    job::RetryPolicy,
    proto::v1::{
        self, JobSpec, SubmitItem, SubmitOutcome, SubmitResult, SubmitStreamRequest, SubmitStreamResponse,
        WhenFull, job_queue_client::JobQueueClient, submit_result::Result as Outcome, watch_event::Event,
    },
    serve::Server,
    settings::{QueueSettings, Settings, StoreSettings},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

/// Timeout of a test's waits, far longer than any machine needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A kind without a handler, whose jobs stay queued.
const KIND: &str = "nothing.runs.this";

fn settings(store: StoreSettings, queues: &[(&str, u64)]) -> Settings {
    let mut settings = Settings::new(store);
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.queues = queues
        .iter()
        .map(|&(name, max_jobs)| {
            let queue = QueueSettings {
                max_jobs,
                // A stream waits as one caller, however many of its items wait.
                max_waiters: 1,
                max_wait: TEST_TIMEOUT,
                accept_unknown_kinds: true,
                ..QueueSettings::default()
            };
            (name.to_owned(), queue)
        })
        .collect::<BTreeMap<_, _>>();
    settings
}

async fn start(queues: &[(&str, u64)]) -> (Server, Client) {
    let server = Server::builder(settings(StoreSettings::Memory, queues)).start().await.unwrap();
    let client = client(server.local_addr().unwrap()).await;
    (server, client)
}

async fn client(address: SocketAddr) -> Client {
    let delays = RetryPolicy {
        delays: None,
        initial_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(20),
        multiplier: 2.0,
        jitter: 0.0,
    };
    Client::builder(&address.to_string()).retry_delays(delays).retry_for(TEST_TIMEOUT).connect_lazy().unwrap()
}

fn spec(queue: &str) -> JobSpec {
    JobSpec {
        queue: queue.into(),
        kind: KIND.into(),
        payload: Some(v1::Payload::of("some work")),
        ..Default::default()
    }
}

fn item(queue: &str, request_id: &str) -> SubmitItem {
    SubmitItem { job: Some(spec(queue)), request_id: request_id.into() }
}

async fn count(client: &Client) -> i64 {
    client.count_jobs(v1::JobFilter::default()).await.unwrap().total
}

/// A stream driven message by message, without the client library.
struct Raw {
    requests: mpsc::Sender<SubmitStreamRequest>,
    responses: Streaming<SubmitStreamResponse>,
}

impl Raw {
    /// Opens a stream; returns it with the number of its first credits.
    async fn open(address: SocketAddr) -> (Raw, usize) {
        let (requests, outgoing) = mpsc::channel(16);
        let mut service = JobQueueClient::connect(format!("http://{address}")).await.unwrap();
        let responses = service.submit_stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let mut raw = Raw { requests, responses };
        let first = raw.response().await.unwrap().unwrap();
        assert!(first.results.is_empty());
        (raw, usize::try_from(first.credits).unwrap())
    }

    async fn send(&self, items: Vec<SubmitItem>, when_full: WhenFull) {
        let request = SubmitStreamRequest { items, when_full: when_full.into(), ..Default::default() };
        self.requests.send(request).await.unwrap();
    }

    async fn response(&mut self) -> Result<Option<SubmitStreamResponse>, Status> {
        tokio::time::timeout(TEST_TIMEOUT, self.responses.message()).await.expect("a response in time")
    }

    /// Returns the next results, each of which must come in a message of its own.
    async fn results(&mut self, count: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            let response = self.response().await.unwrap().expect("more results");
            assert_eq!(response.results.len(), usize::try_from(response.credits).unwrap());
            outcomes.extend(response.results.into_iter().map(|SubmitResult { result }| result.unwrap()));
        }
        assert_eq!(outcomes.len(), count);
        outcomes
    }

    async fn end(mut self) -> Result<(), Status> {
        let response = self.response().await?;
        assert_eq!(response, None);
        Ok(())
    }
}

fn id(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Submitted(submitted) => submitted.id.clone(),
        Outcome::Error(refused) => panic!("refused: {refused:?}"),
    }
}

fn refusal(outcome: &Outcome) -> (Code, &str) {
    match outcome {
        Outcome::Submitted(submitted) => panic!("accepted: {submitted:?}"),
        Outcome::Error(refused) => (Code::from_i32(refused.code), &refused.reason),
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

/// Returns the remaining results of a stream whose items must all be accepted.
async fn rest(mut results: SubmitResults) -> Vec<ItemResult> {
    let all = async {
        let mut all = Vec::new();
        while let Some(submitted) = results.next().await {
            all.push(submitted.unwrap());
        }
        all
    };
    tokio::time::timeout(TEST_TIMEOUT, all).await.expect("an end in time")
}

/// Submits this many items; returns their request ids and results.
async fn submit_many(client: &Client, count: usize) -> (Vec<String>, Vec<ItemResult>) {
    let (sender, results) = client.submit_stream(WhenFull::Wait);
    let give = async move {
        let mut given = Vec::new();
        for _ in 0..count {
            given.push(sender.send(spec("default")).await.unwrap());
        }
        given
    };
    tokio::join!(give, rest(results))
}

/// Asserts that each item has one result, in order, and that each job exists once.
async fn assert_each_once(client: &Client, given: &[String], results: &[ItemResult]) {
    let told: Vec<_> = results.iter().map(|submitted| submitted.request_id.clone()).collect();
    assert_eq!(told, given);
    let ids: BTreeSet<_> = results.iter().map(|result| result.result.clone().unwrap().id).collect();
    assert_eq!(ids.len(), given.len());
    assert_eq!(count(client).await, i64::try_from(given.len()).unwrap());
}

#[tokio::test]
async fn results_come_in_the_order_of_the_items() {
    let (_server, client) = start(&[("default", 100_000)]).await;
    let (given, results) = submit_many(&client, 5_000).await;
    assert_each_once(&client, &given, &results).await;
    let ids: Vec<_> = results.iter().map(|result| result.result.clone().unwrap().id).collect();
    assert!(ids.is_sorted(), "jobs are accepted in the order of the items");
}

#[tokio::test]
async fn a_refused_item_does_not_end_the_stream() {
    let (server, client) = start(&[("default", 10)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    let bad = JobSpec { priority: Some(101), kind: String::new(), ..spec("default") };
    let items = vec![
        item("default", "a"),
        SubmitItem { job: Some(bad), ..Default::default() },
        item("nowhere", ""),
        SubmitItem::default(),
        item("default", "b"),
        item("default", "a"),
        SubmitItem { job: Some(JobSpec { priority: Some(1), ..spec("default") }), request_id: "a".into() },
    ];
    raw.send(items, WhenFull::Unspecified).await;
    let results = raw.results(7).await;
    assert_eq!(refusal(&results[1]), (Code::InvalidArgument, "INVALID_REQUEST"));
    let Outcome::Error(refused) = &results[1] else { panic!("accepted") };
    let fields: Vec<_> = refused.field_violations.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["job.kind", "job.priority"]);
    assert_eq!(refusal(&results[2]), (Code::NotFound, "QUEUE_NOT_FOUND"));
    assert_eq!(refusal(&results[3]), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(id(&results[5]), id(&results[0]), "the request id had been seen");
    assert!(matches!(&results[5], Outcome::Submitted(again) if again.outcome() == SubmitOutcome::Repeated));
    assert_eq!(refusal(&results[6]), (Code::AlreadyExists, "REQUEST_ID_REUSED"));

    // A unary Submit may repeat an item.
    let request =
        v1::SubmitRequest { job: Some(spec("default")), request_id: "b".into(), ..Default::default() };
    let repeated = client.submit(request).await.unwrap();
    assert_eq!((repeated.id(), repeated.outcome()), (&*id(&results[4]), SubmitOutcome::Repeated));
    assert_eq!(count(&client).await, 2);
}

#[tokio::test]
async fn an_unknown_when_full_refuses_the_items_it_is_for() {
    let (server, _) = start(&[("default", 10)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    let request =
        SubmitStreamRequest { items: vec![item("default", "a")], when_full: 77, ..Default::default() };
    raw.requests.send(request).await.unwrap();
    raw.send(vec![item("default", "a")], WhenFull::Reject).await;
    let results = raw.results(2).await;
    assert_eq!(refusal(&results[0]), (Code::InvalidArgument, "INVALID_REQUEST"));
    id(&results[1]);
}

#[tokio::test]
async fn after_the_last_result_a_half_closed_stream_ends_with_ok() {
    let (server, client) = start(&[("default", 1_000)]).await;
    let (mut raw, credits) = Raw::open(server.local_addr().unwrap()).await;
    assert!(credits >= 100);
    for _ in 0..10 {
        raw.send(vec![item("default", ""); 10], WhenFull::Wait).await;
    }
    raw.requests = mpsc::channel(1).0;
    raw.results(100).await.iter().for_each(|outcome| drop(id(outcome)));
    raw.end().await.unwrap();
    assert_eq!(count(&client).await, 100);

    // A stream without items ends in the same way.
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    raw.requests = mpsc::channel(1).0;
    raw.end().await.unwrap();
}

#[tokio::test]
async fn more_items_than_credits_end_the_stream_after_what_was_taken() {
    let (server, client) = start(&[("default", 1_000_000)]).await;
    let (mut raw, credits) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("default", "")], WhenFull::Wait).await;
    raw.send(vec![item("default", ""); credits + 1], WhenFull::Wait).await;
    id(&raw.results(1).await[0]);
    let status = raw.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CREDIT_EXCEEDED"));
    assert_eq!(count(&client).await, 1, "nothing of a message over the credit is taken");

    // The client may use all of its credit at once.
    let (mut raw, credits) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("default", ""); credits], WhenFull::Wait).await;
    raw.results(credits).await;
    raw.send(vec![item("default", ""); credits], WhenFull::Wait).await;
    raw.results(credits).await;
}

#[tokio::test]
async fn a_full_queue_makes_a_stream_wait_and_go_on() {
    let (server, client) = start(&[("small", 2), ("default", 10)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("small", ""); 5], WhenFull::Wait).await;
    raw.send(vec![item("default", "")], WhenFull::Reject).await;
    let mut accepted: Vec<_> = raw.results(2).await.iter().map(id).collect();
    // The other queue has room: its job is created, but its result is held back to keep the order.
    let filter = v1::JobFilter { queues: vec!["default".into()], ..Default::default() };
    let mut watch = client.watch(v1::WatchStatusRequest { filter: Some(filter), ..Default::default() });
    let job = loop {
        if let WatchItem::Event {
            event: Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }),
            ..
        } = watch.next().await.unwrap().unwrap()
        {
            break job;
        }
    };
    for deleted in 0..2 {
        client.delete_job(&accepted[deleted]).await.unwrap();
        accepted.push(id(&raw.results(1).await[0]));
    }
    client.delete_job(&accepted[2]).await.unwrap();
    let last: Vec<_> = raw.results(2).await.iter().map(id).collect();
    assert_eq!(last[1], job.id);
    accepted.push(last[0].clone());
    assert!(accepted.is_sorted());
}

#[tokio::test]
async fn a_full_queue_refuses_in_place_where_the_message_says_so() {
    let (server, client) = start(&[("small", 1), ("default", 10)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("small", ""), item("small", ""), item("default", "")], WhenFull::Reject).await;
    let results = raw.results(3).await;
    id(&results[0]);
    assert_eq!(refusal(&results[1]), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(matches!(&results[1], Outcome::Error(refused) if refused.retry_delay.is_some()));
    id(&results[2]);

    let (sender, mut results) = client.submit_stream(WhenFull::Reject);
    let given = sender.send(spec("small")).await.unwrap();
    let submitted = results.next().await.unwrap().unwrap();
    assert_eq!(submitted.request_id, given);
    let refusal = submitted.result.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(refusal.retry_after.is_some());
}

#[tokio::test]
async fn an_item_that_no_message_could_hold_is_refused_by_the_client() {
    let (_server, client) = start(&[("default", 10)]).await;
    let (sender, results) = client.submit_stream(WhenFull::Wait);
    for bytes in [10, 2 << 20, 5 << 20, 1 << 20] {
        sender
            .send(JobSpec { payload: Some(v1::Payload::of(vec![0; bytes])), ..spec("default") })
            .await
            .unwrap();
    }
    drop(sender);
    let results = rest(results).await;
    let ok: Vec<_> = results.iter().map(|submitted| submitted.result.is_ok()).collect();
    assert_eq!(ok, [true, false, false, true]);
}

#[tokio::test]
async fn a_drain_lets_go_of_what_waits_and_ends_the_stream() {
    let (server, _) = start(&[("small", 1), ("default", 10)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("small", ""), item("small", ""), item("default", "")], WhenFull::Wait).await;
    id(&raw.results(1).await[0]);
    server.stopper().drain();
    let results = raw.results(2).await;
    assert_eq!(refusal(&results[0]), (Code::Unavailable, "STOPPING"));
    id(&results[1]);
    let status = raw.end().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STOPPING"));
    server.finished().await.unwrap();
}

#[tokio::test]
async fn a_stream_of_the_client_outlives_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings =
        settings(StoreSettings::Folder(folder.path().into()), &[("small", 1), ("default", 100_000)]);
    let server = Server::builder(settings.clone()).start().await.unwrap();
    settings.listen = server.local_addr().unwrap();
    let client = client(server.local_addr().unwrap()).await;
    let (sender, mut results) = client.submit_stream(WhenFull::Wait);
    let mut given = vec![sender.send(spec("small")).await.unwrap()];
    let first = results.next().await.unwrap().unwrap();
    // The item waits for room, and the first server refuses it as it stops.
    given.push(sender.send(spec("small")).await.unwrap());
    let go_on = async {
        for _ in 0..500 {
            given.push(sender.send(spec("default")).await.unwrap());
        }
        server.stopper().drain();
        server.finished().await.unwrap();
        let server = Server::builder(settings).start().await.unwrap();
        for _ in 0..500 {
            given.push(sender.send(spec("default")).await.unwrap());
        }
        drop(sender);
        client.delete_job(first.result.clone().unwrap().id).await.unwrap();
        server
    };
    let (_server, more) = tokio::join!(go_on, rest(results));
    let told: Vec<_> = [first].into_iter().chain(more).collect();
    assert!(told.iter().map(|submitted| &submitted.request_id).eq(&given));
    assert!(told.iter().all(|submitted| submitted.result.is_ok()));
    assert_eq!(count(&client).await, 1_001);
}

#[tokio::test]
async fn items_of_a_disconnected_client_stop_waiting() {
    let (server, client) = start(&[("small", 1)]).await;
    let (mut raw, _) = Raw::open(server.local_addr().unwrap()).await;
    raw.send(vec![item("small", ""); 3], WhenFull::Wait).await;
    let kept = id(&raw.results(1).await[0]);
    waiting(&client, 1).await;
    drop(raw);
    waiting(&client, 0).await;
    client.delete_job(kept).await.unwrap();
    // If one of the items still waited, it would have taken the room before this one.
    let request = v1::SubmitRequest {
        job: Some(spec("small")),
        when_full: WhenFull::Reject.into(),
        ..Default::default()
    };
    client.submit(request).await.unwrap();
    assert_eq!(count(&client).await, 1);
}

/// Returns once this many callers wait for room. Each check commits a batch, with which the committer updates the
/// count.
async fn waiting(client: &Client, callers: i64) {
    let counted = async {
        loop {
            client.pause_queue("small").await.unwrap();
            let stats = client.get_queue("small").await.unwrap().stats.unwrap();
            if stats.waiters == callers {
                break;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, counted).await.expect("the callers come and go in time");
}

#[tokio::test]
async fn a_server_that_stays_away_ends_the_stream_in_time_and_says_what_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::builder(&address.to_string()).retry_for(Duration::ZERO).connect_lazy().unwrap();
    let (sender, mut results) = client.submit_stream(WhenFull::Wait);
    let given = sender.send(spec("default")).await.unwrap();
    let error = results.next().await.unwrap().unwrap_err();
    assert!(error.is_unknown_outcome(), "{error}");
    assert!(results.next().await.is_none());
    let open: Vec<_> = results.unacknowledged().map(|item| item.request_id.clone()).collect();
    assert_eq!(open, [given]);
    assert!(sender.send(spec("default")).await.is_err());
}
