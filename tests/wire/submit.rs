//! Submissions: durable answers, safe repeats, and queues without room.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState, SubmitOutcome, submit_and_watch_response::Event as SubmitEvent},
    serve::Server,
    settings::{QueueSettings, Settings, WhenFull},
};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{
    self, Rig, Stage, defaults, echo, expire_time, folder, ids, job, manual_clock, memory, named, outcomes,
    payload, refusal, simple, soon, submission, update_of, with_queue,
};

const SMALL: &str = "small";

/// Returns settings of a queue without consumers that holds this many jobs.
fn shelf(max_jobs: u64) -> QueueSettings {
    QueueSettings { max_jobs, consumers: 0, ..QueueSettings::default() }
}

fn small(queue: QueueSettings) -> Settings {
    with_queue(memory(), SMALL, queue)
}

fn in_small(kind: &str, payload: &str) -> v1::JobSpec {
    v1::JobSpec { queue: SMALL.to_owned(), payload: Some(v1::Payload::of(payload.to_owned())), ..job(kind) }
}

async fn submit(rig: &Rig, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Status> {
    soon(rig.jobs.clone().submit(request)).await.map(tonic::Response::into_inner)
}

/// Starts a submission in a task of its own.
fn submitting(rig: &Rig, request: v1::SubmitRequest) -> JoinHandle<Result<v1::SubmitResponse, Status>> {
    let mut jobs = rig.jobs.clone();
    tokio::spawn(async move { jobs.submit(request).await.map(tonic::Response::into_inner) })
}

async fn answer(call: JoinHandle<Result<v1::SubmitResponse, Status>>) -> Result<v1::SubmitResponse, Status> {
    soon(call).await.unwrap()
}

#[tokio::test]
async fn an_accepted_job_is_there_after_a_restart_with_all_it_had() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(with_queue(folder(home.path()), SMALL, shelf(10)))).await;
    let in_a_year = Clock::System.now().as_micros() / 1_000_000 + 365 * 24 * 3600;
    let spec = v1::JobSpec {
        queue: SMALL.to_owned(),
        kind: "echo".to_owned(),
        payload: Some(v1::Payload {
            metadata: [("encoding".to_owned(), "none".to_owned())].into(),
            ..v1::Payload::of(vec![0xff; 1 << 20]).with_type("image/png")
        }),
        labels: [("tenant".to_owned(), "a\u{1b}b".to_owned())].into(),
        headers: [("locale".to_owned(), "fr".to_owned())].into(),
        priority: Some(-100),
        max_attempts: 1_000,
        retry_policy: Some(Box::new(v1::RetryPolicy {
            initial_delay: Some(prost_types::Duration { seconds: 0, nanos: 1_000 }),
            max_delay: Some(prost_types::Duration { seconds: 30 * 24 * 3600, nanos: 0 }),
            multiplier: Some(100.0),
            jitter: Some(0.0),
            ..v1::RetryPolicy::default()
        })),
        attempt_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        start: None,
        expiry: expire_time(in_a_year),
        ..v1::JobSpec::default()
    };
    let accepted = submit(&rig, named("a request", spec.clone())).await.unwrap();
    let before = rig.get(accepted.id()).await;
    rig.force().await;
    let rig = Rig::start(simple(with_queue(folder(home.path()), SMALL, shelf(10)))).await;
    let after = rig.get(accepted.id()).await;
    assert_eq!(after, before);
    let mut said = support::spec(&after).clone();
    let size = said.payload.as_mut().map(|payload| std::mem::take(&mut payload.size_bytes));
    assert_eq!((&said, size), (&spec, Some(1 << 20)));
    assert_eq!((payload(&after).len(), after.max_attempts), (1 << 20, 1_000));
    assert_eq!((after.state(), after.request_id.as_str()), (JobState::Queued, "a request"));
    rig.stop().await;
}

#[tokio::test]
async fn a_submission_whose_time_is_over_ends_as_expired_and_a_repeat_finds_it() {
    let rig = Rig::start(simple(small(shelf(10)))).await;
    let late = || {
        let spec = v1::JobSpec { expiry: expire_time(1_000_000_000), ..in_small("echo", "") };
        v1::SubmitRequest { view: v1::JobView::Basic as i32, ..named("too late", spec) }
    };
    let first = submit(&rig, late()).await.unwrap();
    let job = first.job.unwrap();
    assert_eq!((job.state(), job.done, job.attempt), (JobState::Expired, true, 0));
    assert_eq!(job.expire_time.unwrap().seconds, 1_000_000_000);
    let again = submit(&rig, late()).await.unwrap();
    assert_eq!((again.outcome(), again.id()), (SubmitOutcome::Repeated, job.id.as_str()));
    assert_eq!(rig.queue(SMALL).await.stats.unwrap().live_jobs, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_returns_the_same_job_even_after_a_restart_and_with_other_defaults() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(folder(home.path()))).await;
    for request_id in ["text", "0190a6e0-0000-7000-8000-000000000001"] {
        let first = submit(&rig, named(request_id, job("echo"))).await.unwrap();
        let again = submit(&rig, named(request_id, job("echo"))).await.unwrap();
        assert_eq!((first.outcome(), again.outcome()), (SubmitOutcome::Created, SubmitOutcome::Repeated));
        assert_eq!(first.id(), again.id());
        assert_eq!((first.resume_token.is_empty(), again.resume_token.as_str()), (false, ""));
    }
    rig.stop().await;

    let other = jobmill::settings::KindDefaults { max_attempts: 7, ..defaults() };
    let rig = Rig::start(Server::builder(folder(home.path())).handler("echo", other, echo)).await;
    let again = submit(&rig, named("text", job("echo"))).await.unwrap();
    assert_eq!(again.outcome(), SubmitOutcome::Repeated);
    assert_eq!(rig.total().await, 2);
    rig.stop().await;
}

#[tokio::test]
async fn simultaneous_repeats_create_one_job() {
    let rig = Rig::simple().await;
    let calls: Vec<_> = (0..50).map(|_| submitting(&rig, named("same", job("echo")))).collect();
    let mut created = 0;
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        let response = answer(call).await.unwrap();
        created += usize::from(response.outcome() == SubmitOutcome::Created);
        ids.insert(response.id().to_owned());
    }
    assert_eq!((created, ids.len()), (1, 1));
    rig.stop().await;
}

#[tokio::test]
async fn a_request_id_whose_job_was_deleted_is_not_used_again_for_a_day() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    let delete = async |request_id: &str| {
        let submitted = submit(&rig, named(request_id, job("echo"))).await.unwrap();
        rig.ends(submitted.id()).await;
        rig.delete(submitted.id()).await.unwrap();
        submitted.id().to_owned()
    };
    let id = delete("gone").await;
    let again = submit(&rig, named("gone", job("echo"))).await.unwrap();
    assert_eq!((again.outcome(), again.id()), (SubmitOutcome::Gone, id.as_str()));
    assert_eq!(rig.total().await, 0);
    clock.advance(Duration::from_secs(25 * 3600));
    // Other deletions make the server forget old request ids, a few each.
    delete("another").await;
    let anew = submit(&rig, named("gone", job("echo"))).await.unwrap();
    assert_eq!(anew.outcome(), SubmitOutcome::Created);
    assert_ne!(anew.id(), id);
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_is_one_request() {
    let rig = Rig::simple().await;
    let batch = |request_id: &str| v1::SubmitBatchRequest {
        jobs: (0..1_000)
            .map(|n| v1::JobSpec { payload: Some(v1::Payload::of(n.to_string())), ..job("echo") })
            .collect(),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let first = soon(rig.jobs.clone().submit_batch(batch("b"))).await.unwrap().into_inner();
    let again = soon(rig.jobs.clone().submit_batch(batch("b"))).await.unwrap().into_inner();
    assert_eq!(outcomes(&first.jobs), [SubmitOutcome::Created; 1_000]);
    assert_eq!(outcomes(&again.jobs), [SubmitOutcome::Repeated; 1_000]);
    assert_eq!((first.resume_token.is_empty(), again.resume_token.as_str()), (false, ""));
    let ids = ids(first.jobs);
    assert_eq!(ids, support::ids(again.jobs));
    assert!(ids.is_sorted());
    assert_eq!(rig.total().await, 1_000);
    for n in [0, 1, 999] {
        assert_eq!(payload(&rig.get(&ids[n]).await), n.to_string().as_bytes());
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_goes_to_several_queues_or_to_none() {
    let rig = Rig::start(simple(small(QueueSettings { when_full: WhenFull::Reject, ..shelf(2) }))).await;
    let batch = |small: usize| v1::SubmitBatchRequest {
        jobs: std::iter::once(job("echo")).chain(vec![in_small("echo", ""); small]).collect(),
        when_full: v1::WhenFull::Reject as i32,
        ..Default::default()
    };
    soon(rig.jobs.clone().submit_batch(batch(1))).await.unwrap();
    let refused = soon(rig.jobs.clone().submit_batch(batch(2))).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "QUEUE_FULL");
    assert_eq!(rig.total().await, 2);
    rig.stop().await;
}

/// Returns all that a SubmitAndWatch sends up to its end: the answer to the submission, and the events.
async fn submit_and_watch(
    rig: &Rig,
    request: v1::SubmitAndWatchRequest,
) -> (v1::SubmitResponse, Vec<v1::WatchEvent>) {
    let mut stream = soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap().into_inner();
    let mut next = async || soon(stream.message()).await.unwrap().map(|message| message.event.unwrap());
    let Some(SubmitEvent::Submitted(submitted)) = next().await else { panic!("not submitted first") };
    let mut events = Vec::new();
    while let Some(message) = next().await {
        let SubmitEvent::Status(status) = message else { panic!("submitted twice") };
        events.extend(status.events);
    }
    (submitted, events)
}

#[tokio::test]
async fn submit_and_watch_tells_all_and_a_repeat_tells_the_end_again() {
    use v1::watch_event::Event;

    let rig = Rig::simple().await;
    let request = || v1::SubmitAndWatchRequest {
        job: Some(v1::JobSpec { payload: Some(v1::Payload::of("hello")), ..job("echo") }),
        request_id: "r".to_owned(),
        view: v1::JobView::Full as i32,
        ..Default::default()
    };
    let result = |events: &[v1::WatchEvent]| {
        events.iter().rev().find_map(|event| match event.event.as_ref() {
            Some(Event::Updated(v1::JobUpdated { job: Some(job), .. }) | Event::Snapshot(job)) => {
                Some((job.state(), crate::support::result(job).to_vec()))
            }
            _ => None,
        })
    };
    let (first, events) = submit_and_watch(&rig, request()).await;
    assert_eq!(first.outcome(), SubmitOutcome::Created);
    assert_eq!(result(&events), Some((JobState::Succeeded, "hello".into())));
    let (again, events) = submit_and_watch(&rig, request()).await;
    assert_eq!(again.outcome(), SubmitOutcome::Repeated);
    assert_eq!(first.id(), again.id());
    assert_eq!(
        result(&events),
        Some((JobState::Succeeded, "hello".into())),
        "a client after a break wants it too"
    );
    rig.stop().await;
}

#[tokio::test]
async fn producers_wait_for_room_and_are_let_in_in_the_order_in_which_they_came() {
    const CAPACITY: usize = 3;
    let (handler, mut stage) = Stage::new();
    let queue = QueueSettings { max_jobs: CAPACITY as u64, consumers: 1, ..QueueSettings::default() };
    let rig = Rig::start(Server::builder(small(queue)).handler("stage", defaults(), handler)).await;
    for n in 0..CAPACITY {
        rig.submit(in_small("stage", &n.to_string())).await;
    }
    let mut waiting = std::collections::VecDeque::new();
    for n in CAPACITY..CAPACITY + 5 {
        waiting.push_back(submitting(&rig, submission(in_small("stage", &n.to_string()))));
        rig.waiters(SMALL, waiting.len() as i64).await;
    }
    for n in 0..CAPACITY + 5 {
        assert_eq!(rig.queue(SMALL).await.stats.unwrap().live_jobs, CAPACITY.min(CAPACITY + 5 - n) as i64);
        let cue = stage.next().await;
        assert_eq!(cue.payload(), n.to_string());
        let id = cue.id();
        cue.succeeds();
        rig.ends(&id).await;
        // The room that it leaves goes to the longest-waiting caller, and to no other.
        if let Some(call) = waiting.pop_front() {
            let answer = answer(call).await.unwrap();
            assert_eq!(rig.get(answer.id()).await.queue(), SMALL);
            rig.waiters(SMALL, waiting.len() as i64).await;
            assert!(waiting.iter().all(|call| !call.is_finished()));
        }
    }
    assert_eq!(rig.total().await, CAPACITY as i64 + 5);
    rig.stop().await;
}

#[tokio::test]
async fn a_wait_for_room_ends_with_a_refusal_that_says_when_to_retry() {
    let clock = manual_clock();
    let queue = QueueSettings { max_wait: Duration::from_secs(60), ..shelf(1) };
    let rig = Rig::start(simple(small(queue)).clock(Clock::Manual(clock.clone()))).await;
    rig.submit(in_small("echo", "")).await;
    let call = submitting(&rig, named("late", in_small("echo", "")));
    rig.waiters(SMALL, 1).await;
    clock.advance(Duration::from_secs(59));
    rig.waiters(SMALL, 1).await;
    assert!(!call.is_finished());
    clock.advance(Duration::from_secs(1));
    let refused = refusal(&answer(call).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(refused.details.retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert_eq!(refused.details.quota_failure().unwrap().violations[0].subject, "queue:small");
    rig.waiters(SMALL, 0).await;
    assert_eq!(rig.total().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_refusal_after_waiting_tells_what_the_queue_holds_and_not_what_it_may_hold() {
    let clock = manual_clock();
    let shelf = QueueSettings { max_wait: Duration::from_secs(60), ..shelf(10) };
    let rig = Rig::start(simple(small(shelf)).clock(Clock::Manual(clock.clone()))).await;
    rig.submit_batch(vec![in_small("echo", "four"); 8]).await;
    let batch =
        v1::SubmitBatchRequest { jobs: vec![in_small("echo", ""); 3], ..v1::SubmitBatchRequest::default() };
    let mut client = rig.jobs.clone();
    let call = tokio::spawn(async move { client.submit_batch(batch).await });
    rig.waiters(SMALL, 1).await;
    clock.advance(Duration::from_secs(60));
    let refused = soon(call).await.unwrap().unwrap_err();
    assert_eq!(refusal(&refused).reason, "QUEUE_FULL");
    let bytes = rig.queue(SMALL).await.stats.unwrap().live_bytes;
    let told = refused.message();
    assert!(told.contains(&format!("holds 8 of 10 jobs and {bytes} of ")), "{told}");
    rig.stop().await;
}

#[tokio::test]
async fn the_callers_own_deadline_ends_its_wait_with_an_answer() {
    let rig = Rig::start(simple(small(shelf(1)))).await;
    rig.submit(in_small("echo", "")).await;
    let mut request = tonic::Request::new(submission(in_small("echo", "")));
    request.set_timeout(Duration::from_secs(1));
    // Just before the deadline: a definite answer, unlike DEADLINE_EXCEEDED, whose outcome is unknown.
    let refused = soon(rig.jobs.clone().submit(request)).await.unwrap_err();
    assert_eq!(refusal(&refused).code, Code::ResourceExhausted);
    assert_eq!(rig.total().await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_call_may_ask_for_the_other_mode_than_its_queues() {
    let rejecting = QueueSettings { when_full: WhenFull::Reject, ..shelf(1) };
    let rig = Rig::start(simple(with_queue(small(shelf(1)), "rejecting", rejecting))).await;
    let spec = |queue: &str| v1::JobSpec { queue: queue.to_owned(), ..job("echo") };
    for queue in [SMALL, "rejecting"] {
        rig.submit(spec(queue)).await;
    }
    let reject = v1::SubmitRequest { when_full: v1::WhenFull::Reject as i32, ..submission(spec(SMALL)) };
    assert_eq!(refusal(&submit(&rig, reject).await.unwrap_err()).reason, "QUEUE_FULL");
    let wait = v1::SubmitRequest { when_full: v1::WhenFull::Wait as i32, ..submission(spec("rejecting")) };
    let call = submitting(&rig, wait);
    rig.waiters("rejecting", 1).await;
    rig.queues
        .clone()
        .purge_queue(v1::PurgeQueueRequest { name: "rejecting".to_owned(), ..Default::default() })
        .await
        .unwrap();
    answer(call).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn no_more_producers_wait_than_may() {
    let rig = Rig::start(simple(small(QueueSettings { max_waiters: 2, ..shelf(1) }))).await;
    rig.submit(in_small("echo", "")).await;
    let waiting: Vec<_> = (0..2).map(|_| submitting(&rig, submission(in_small("echo", "")))).collect();
    rig.waiters(SMALL, 2).await;
    let refused = refusal(&submit(&rig, submission(in_small("echo", ""))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_WAITERS"));
    assert!(refused.details.retry_info().is_some());
    assert!(waiting.iter().all(|call| !call.is_finished()));
    rig.stop().await;
    for call in waiting {
        // A draining server lets no caller wait, and the refusal is definite.
        let refused = refusal(&answer(call).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "STOPPING"));
    }
}

#[tokio::test]
async fn a_producer_that_leaves_while_it_waits_leaves_nothing_behind() {
    let rig = Rig::start(simple(small(shelf(1)))).await;
    let held = rig.submit(in_small("echo", "held")).await;
    let leaver = submitting(&rig, named("leaver", in_small("echo", "leaver")));
    rig.waiters(SMALL, 1).await;
    let stayer = submitting(&rig, named("stayer", in_small("echo", "stayer")));
    rig.waiters(SMALL, 2).await;
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    // The server learns of the disconnect from the connection.
    rig.waiters(SMALL, 1).await;
    rig.cancel(&held.id).await.unwrap();
    let stayed = answer(stayer).await.unwrap();
    assert_eq!(payload(&rig.get(stayed.id()).await), b"stayer");
    assert_eq!(rig.total().await, 2);
    rig.cancel(stayed.id()).await.unwrap();
    let anew = submit(&rig, named("leaver", in_small("echo", "leaver"))).await.unwrap();
    assert_eq!(anew.outcome(), SubmitOutcome::Created);
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_is_answered_from_a_full_queue_and_before_those_who_wait() {
    let rig = Rig::start(simple(small(shelf(1)))).await;
    let first = submit(&rig, named("known", in_small("echo", ""))).await.unwrap();
    let waiting = submitting(&rig, submission(in_small("echo", "")));
    rig.waiters(SMALL, 1).await;
    let again = submit(&rig, named("known", in_small("echo", ""))).await.unwrap();
    assert_eq!((again.outcome(), again.id()), (SubmitOutcome::Repeated, first.id()));
    assert!(!waiting.is_finished());
    rig.stop().await;
    let _ = answer(waiting).await;
}

#[tokio::test]
async fn a_queue_is_bounded_by_bytes_too() {
    const MIB: usize = 1 << 20;
    let rig = Rig::start(simple(small(QueueSettings {
        max_bytes: MIB as u64,
        when_full: WhenFull::Reject,
        ..shelf(100)
    })))
    .await;
    let of =
        |bytes: usize| v1::JobSpec { payload: Some(v1::Payload::of(vec![0; bytes])), ..in_small("echo", "") };
    // Each job counts for 256 bytes beside its payload.
    rig.submit(of(MIB / 2 - 256)).await;
    let refused = refusal(&submit(&rig, submission(of(MIB / 2 - 255))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
    rig.submit(of(MIB / 2 - 256)).await;
    let stats = rig.queue(SMALL).await.stats.unwrap();
    assert_eq!((stats.live_jobs, stats.live_bytes), (2, MIB as i64));
    let refused = refusal(&submit(&rig, submission(of(MIB - 255))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "LARGER_THAN_QUEUE"));
    rig.stop().await;
}

#[tokio::test]
async fn a_larger_limit_lets_those_who_wait_in() {
    let rig = Rig::start(simple(memory())).await;
    let limits =
        |max_jobs| v1::QueueSettings { max_jobs: Some(max_jobs), consumers: Some(0), ..Default::default() };
    let settings = Some(limits(1));
    let create = v1::CreateQueueRequest { name: SMALL.to_owned(), settings, ..Default::default() };
    rig.queues.clone().create_queue(create).await.unwrap();
    rig.submit(in_small("echo", "")).await;
    let waiting: Vec<_> = (0..3).map(|_| submitting(&rig, submission(in_small("echo", "")))).collect();
    rig.waiters(SMALL, 3).await;
    rig.queues.clone().update_queue(update_of(SMALL, limits(4))).await.unwrap();
    for call in waiting {
        answer(call).await.unwrap();
    }
    rig.stop().await;
}
