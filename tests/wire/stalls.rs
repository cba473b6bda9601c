//! Limits of what one batch takes, so that one queue does not hold up others: counted, not timed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jobmill::{
    execute::Attempt,
    job::Output,
    proto::v1,
    serve::Server,
    settings::{QueueSettings, Settings},
};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::{
    counted_store::{BatchContents, Counts},
    metrics::Scrape,
    queues::in_queue,
    support::{
        QUEUE, Rig, defaults, job, memory, payload, queue, simple, soon, submission, update_of, with_queue,
    },
};

const MIB: usize = 1 << 20;
/// Job limit of a batch, which its last call may exceed.
const JOBS_MAX: usize = 4_096;
/// Byte limit of a batch, which its last call or result may exceed.
const BYTES_MAX: usize = MIB;

/// Returns settings of a queue without consumers.
fn shelf(max_jobs: u64) -> QueueSettings {
    QueueSettings { max_jobs, consumers: 0, ..QueueSettings::default() }
}

fn batch(jobs: Vec<v1::JobSpec>) -> v1::SubmitBatchRequest {
    v1::SubmitBatchRequest { jobs, ..v1::SubmitBatchRequest::default() }
}

fn submitting(rig: &Rig, request: v1::SubmitBatchRequest) -> JoinHandle<Result<(), Status>> {
    let mut jobs = rig.jobs.clone();
    tokio::spawn(async move { jobs.submit_batch(request).await.map(|_| ()) })
}

fn most(batches: &[BatchContents], of: impl Fn(&BatchContents) -> usize) -> usize {
    batches.iter().map(of).max().unwrap_or_default()
}

/// Waits for calls; returns the number of those that were refused.
async fn refusals(calls: Vec<JoinHandle<Result<(), Status>>>) -> usize {
    let mut refused = 0;
    for call in calls {
        refused += usize::from(soon(call).await.unwrap().is_err());
    }
    refused
}

fn room_for(max_jobs: usize) -> v1::QueueSettings {
    let max_jobs = Some(max_jobs as i64);
    v1::QueueSettings { max_jobs, consumers: Some(0), ..v1::QueueSettings::default() }
}

/// Lets calls wait at a full queue, gives it room for all of them, and returns the batches that took them.
async fn let_in(calls: usize, jobs: Vec<v1::JobSpec>) -> Vec<BatchContents> {
    let counts = Arc::<Counts>::default();
    let rig = Rig::start(simple(memory()).around_store(counts.around())).await;
    let tight = room_for(jobs.len());
    let create =
        v1::CreateQueueRequest { name: "tight".to_owned(), settings: Some(tight), ..Default::default() };
    soon(rig.queues.clone().create_queue(create)).await.unwrap();
    rig.submit_batch(jobs.clone()).await;
    let waiting: Vec<_> = (0..calls).map(|_| submitting(&rig, batch(jobs.clone()))).collect();
    rig.waiters("tight", calls as i64).await;
    counts.take();
    soon(rig.queues.clone().update_queue(update_of("tight", room_for(100_000)))).await.unwrap();
    assert_eq!(refusals(waiting).await, 0);
    let batches = counts.take();
    assert_eq!(batches.iter().map(|batch| batch.new_jobs).sum::<usize>(), calls * jobs.len());
    rig.stop().await;
    batches
}

#[tokio::test]
async fn those_who_waited_come_in_batches_of_no_more_jobs_than_others() {
    let batches = let_in(50, vec![in_queue("tight", "echo"); 200]).await;
    let most = most(&batches, |batch| batch.new_jobs);
    assert!(most <= JOBS_MAX + 200, "a batch brought {most} jobs");
}

#[tokio::test]
async fn those_who_waited_come_in_batches_of_no_more_bytes_than_others() {
    let large = v1::JobSpec { payload: Some(v1::Payload::of(vec![1; MIB])), ..in_queue("tight", "echo") };
    let batches = let_in(40, vec![large]).await;
    let most = most(&batches, |batch| batch.new_bytes);
    assert!(most <= BYTES_MAX + MIB, "a batch brought {most} bytes");
}

#[tokio::test]
async fn large_results_that_come_together_do_not_go_into_one_transaction() {
    const ATTEMPTS: usize = 64;
    let (counts, running, ended) =
        (Arc::<Counts>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = {
        let (running, ended, gate) = (Arc::clone(&running), Arc::clone(&ended), Arc::clone(&gate));
        move |_: Attempt| {
            let (running, ended, gate) = (Arc::clone(&running), Arc::clone(&ended), Arc::clone(&gate));
            async move {
                running.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                ended.fetch_add(1, Ordering::SeqCst);
                Ok(Output { bytes: vec![7; MIB].into(), ..Output::default() })
            }
        }
    };
    let settings = with_queue(memory(), QUEUE, queue(ATTEMPTS as u32));
    let builder = Server::builder(settings).handler("large", defaults(), handler);
    let rig = Rig::start(builder.around_store(counts.around())).await;
    let ids = rig.submit_batch(vec![job("large"); ATTEMPTS]).await;
    let reached = async |counter: &AtomicUsize, count: usize| {
        let reached = async {
            while counter.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        soon(reached).await;
    };
    reached(&running, ATTEMPTS).await;
    counts.take();
    counts.hold_reports();
    gate.add_permits(1);
    soon(counts.is_held()).await;
    gate.add_permits(ATTEMPTS);
    reached(&ended, ATTEMPTS).await;
    // Gives all attempts time to report.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    counts.let_go();
    for id in &ids {
        rig.ends(id).await;
    }
    let batches = counts.take();
    assert_eq!(batches.iter().map(|batch| batch.result_bytes).sum::<usize>(), ATTEMPTS * MIB);
    let most = most(&batches, |batch| batch.result_bytes);
    assert!(most <= BYTES_MAX + MIB, "a batch brought {} results with {most} bytes", most / MIB);
    rig.stop().await;
}

fn shelves(shelves: &[&str]) -> Settings {
    let mut settings = memory();
    settings.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    shelves.iter().fold(settings, |settings, name| with_queue(settings, name, shelf(100_000)))
}

fn purging(rig: &Rig, name: &str) -> JoinHandle<i64> {
    let (mut queues, request) =
        (rig.queues.clone(), v1::PurgeQueueRequest { name: name.to_owned(), ..Default::default() });
    tokio::spawn(async move { queues.purge_queue(request).await.unwrap().into_inner().deleted_jobs })
}

/// Returns the number of batches so far.
async fn batches(rig: &Rig) -> f64 {
    Scrape::of(rig.metrics_address()).await.get("jobmill_commit_seconds_count")
}

#[tokio::test]
async fn a_purge_costs_what_its_queue_holds_and_not_what_others_hold() {
    let rig = Rig::start(simple(shelves(&["empty", "other"]))).await;
    for _ in 0..5 {
        rig.submit_batch(vec![in_queue("other", "echo"); 1_000]).await;
    }
    let before = batches(&rig).await;
    assert_eq!(soon(purging(&rig, "empty")).await.unwrap(), 0);
    let took = batches(&rig).await - before;
    assert!(took <= 3.0, "it took {took} batches");
    assert_eq!(rig.total().await, 5_000);
    rig.stop().await;
}

#[tokio::test]
async fn purges_of_the_same_queue_are_answered_together_and_done_once() {
    let rig = Rig::start(simple(shelves(&["twice", "other"]))).await;
    for _ in 0..3 {
        rig.submit_batch(vec![in_queue("other", "echo"); 1_000]).await;
    }
    rig.submit_batch(vec![in_queue("twice", "echo"); 1_000]).await;
    let before = batches(&rig).await;
    let calls: Vec<_> = (0..10).map(|_| purging(&rig, "twice")).collect();
    let mut told = Vec::new();
    for call in calls {
        told.push(soon(call).await.unwrap());
    }
    let took = batches(&rig).await - before;
    // Two batches that delete, one that finds nothing left, and at most ten in which the calls arrive.
    assert!(took <= 13.0, "they took {took} batches");
    assert_eq!((told.iter().max(), rig.total().await), (Some(&1_000), 3_000));
    rig.stop().await;
}

#[tokio::test]
async fn those_who_leave_a_line_together_leave_the_others_in_their_order() {
    let rig = Rig::start(simple(with_queue(memory(), "full", shelf(1)))).await;
    let mut held = rig.submit(in_queue("full", "echo")).await.id;
    let mut waiting = VecDeque::new();
    for number in 0..30 {
        let payload = Some(v1::Payload::of(number.to_string()));
        let request = submission(v1::JobSpec { payload, ..in_queue("full", "echo") });
        let mut jobs = rig.jobs.clone();
        waiting.push_back(tokio::spawn(async move { jobs.submit(request).await }));
        rig.waiters("full", number + 1).await;
    }
    let (leaving, staying): (VecDeque<_>, VecDeque<_>) =
        waiting.into_iter().enumerate().partition(|(number, _)| number % 2 == 1);
    for (_, call) in leaving {
        call.abort();
    }
    rig.waiters("full", 15).await;
    for (number, call) in staying {
        rig.cancel(&held).await.unwrap();
        held = soon(call).await.unwrap().unwrap().into_inner().id().to_owned();
        assert_eq!(payload(&rig.get(&held).await), number.to_string().as_bytes());
    }
    rig.stop().await;
}
