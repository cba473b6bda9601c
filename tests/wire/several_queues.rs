//! Batches for several queues wait in the line of a full one, and hold up no other queue.

use jobmill::{
    proto::v1,
    settings::{QueueSettings, Settings},
};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::{
    queues::in_queue,
    support::{Rig, ids, memory, refusal, simple, soon, submission, with_queue},
};

/// Returns settings of a queue without consumers.
fn shelf(max_jobs: u64) -> QueueSettings {
    QueueSettings { max_jobs, consumers: 0, ..QueueSettings::default() }
}

fn shelves(shelves: &[(&str, u64)]) -> Settings {
    shelves.iter().fold(memory(), |settings, (name, max_jobs)| with_queue(settings, name, shelf(*max_jobs)))
}

type Call<T> = JoinHandle<Result<T, Status>>;

/// Submits a batch with a job for each of these queues, in a task of its own.
fn submitting(rig: &Rig, queues: &[&str], when_full: v1::WhenFull) -> Call<v1::SubmitBatchResponse> {
    let request = v1::SubmitBatchRequest {
        jobs: queues.iter().map(|queue| in_queue(queue, "echo")).collect(),
        when_full: when_full as i32,
        ..v1::SubmitBatchRequest::default()
    };
    let mut jobs = rig.jobs.clone();
    tokio::spawn(async move { jobs.submit_batch(request).await.map(tonic::Response::into_inner) })
}

async fn answer<T>(call: Call<T>) -> Result<T, Status> {
    soon(call).await.unwrap()
}

/// Waits until a call waits in any of these queues; returns the lengths of all lines that are not empty.
async fn lines(rig: &Rig, queues: &[&str]) -> Vec<(String, i64)> {
    let waiting = async {
        loop {
            let mut lines = Vec::new();
            for name in queues {
                let waiters = rig.queue(name).await.stats.unwrap().waiters;
                lines.extend((waiters > 0).then(|| ((*name).to_owned(), waiters)));
            }
            if !lines.is_empty() {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(waiting).await
}

fn line(name: &str, waiters: i64) -> (String, i64) {
    (name.to_owned(), waiters)
}

/// Submits a job that is refused if there is no room at once.
async fn at_once(rig: &Rig, queue: &str) -> Result<(), Status> {
    let request =
        v1::SubmitRequest { when_full: v1::WhenFull::Reject as i32, ..submission(in_queue(queue, "echo")) };
    soon(rig.jobs.clone().submit(request)).await.map(|_| ())
}

async fn live_jobs(rig: &Rig, queue: &str) -> i64 {
    rig.queue(queue).await.stats.unwrap().live_jobs
}

#[tokio::test]
async fn a_batch_waits_in_the_line_of_the_queue_that_is_full() {
    let rig = Rig::start(simple(shelves(&[("free", 100), ("full", 1)]))).await;
    let held = rig.submit(in_queue("full", "echo")).await;
    let waiting = submitting(&rig, &["free", "full", "free"], v1::WhenFull::Wait);
    assert_eq!(lines(&rig, &["free", "full"]).await, [line("full", 1)]);
    rig.cancel(&held.id).await.unwrap();
    assert_eq!(answer(waiting).await.unwrap().jobs.len(), 3);
    assert_eq!((live_jobs(&rig, "free").await, live_jobs(&rig, "full").await), (2, 1));
    rig.stop().await;
}

#[tokio::test]
async fn a_waiting_batch_holds_up_no_queue_with_room() {
    let rig = Rig::start(simple(shelves(&[("free", 100), ("full", 1)]))).await;
    let held = rig.submit(in_queue("full", "echo")).await;
    let waiting = submitting(&rig, &["free", "full"], v1::WhenFull::Wait);
    lines(&rig, &["free", "full"]).await;
    at_once(&rig, "free").await.unwrap();
    rig.submit(in_queue("free", "echo")).await;
    // The same for a batch that finds room everywhere.
    rig.submit_batch(vec![in_queue("free", "echo"); 3]).await;
    assert_eq!(live_jobs(&rig, "free").await, 5);
    assert!(!waiting.is_finished());
    // No later call gets past it in its own line.
    assert_eq!(refusal(&at_once(&rig, "full").await.unwrap_err()).reason, "QUEUE_FULL");
    rig.cancel(&held.id).await.unwrap();
    answer(waiting).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_comes_in_its_turn_in_the_line_of_the_full_queue() {
    let rig = Rig::start(simple(shelves(&[("free", 100), ("full", 1)]))).await;
    let mut held = rig.submit(in_queue("full", "echo")).await.id;
    let mut waiting = std::collections::VecDeque::new();
    for (count, queues) in [&["full"][..], &["free", "full"], &["full"], &["full", "free"]].iter().enumerate()
    {
        waiting.push_back(submitting(&rig, queues, v1::WhenFull::Wait));
        rig.waiters("full", count as i64 + 1).await;
    }
    while let Some(next) = waiting.pop_front() {
        rig.cancel(&held).await.unwrap();
        let ids = ids(answer(next).await.unwrap().jobs);
        rig.waiters("full", waiting.len() as i64).await;
        assert!(waiting.iter().all(|call| !call.is_finished()), "a later call got past an earlier one");
        held = String::new();
        for id in ids {
            if rig.get(&id).await.queue() == "full" {
                held = id;
            }
        }
    }
    assert_eq!(live_jobs(&rig, "free").await, 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_batch_goes_over_to_the_line_of_another_queue_that_is_full_by_then() {
    let rig = Rig::start(simple(shelves(&[("first", 1), ("second", 1)]))).await;
    let in_second = rig.submit(in_queue("second", "echo")).await;
    let waiting = submitting(&rig, &["first", "second"], v1::WhenFull::Wait);
    assert_eq!(lines(&rig, &["first", "second"]).await, [line("second", 1)]);
    // No room is reserved in the first queue.
    at_once(&rig, "first").await.unwrap();
    let in_first = {
        let filter = Some(v1::JobFilter { queues: vec!["first".to_owned()], ..Default::default() });
        let request = v1::ListJobsRequest { filter, ..Default::default() };
        soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner().jobs.remove(0).id
    };
    rig.cancel(&in_second.id).await.unwrap();
    rig.waiters("first", 1).await;
    rig.waiters("second", 0).await;
    // No room is reserved in the second queue either.
    at_once(&rig, "second").await.unwrap();
    assert!(!waiting.is_finished());
    rig.cancel(&in_first).await.unwrap();
    rig.waiters("second", 1).await;
    rig.waiters("first", 0).await;
    rig.queues
        .clone()
        .purge_queue(v1::PurgeQueueRequest { name: "second".to_owned(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(answer(waiting).await.unwrap().jobs.len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn batches_for_queues_that_are_full_crosswise_all_get_in_once_there_is_room() {
    let rig = Rig::start(simple(shelves(&[("a", 1), ("b", 1), ("c", 3)]))).await;
    let mut held = Vec::new();
    for queue in ["a", "b"] {
        held.push(rig.submit(in_queue(queue, "echo")).await.id);
    }
    let calls =
        [["a", "b"], ["b", "a"], ["c", "a"]].map(|queues| submitting(&rig, &queues, v1::WhenFull::Wait));
    let all = async {
        loop {
            let lines = lines(&rig, &["a", "b", "c"]).await;
            if lines.iter().map(|(_, waiters)| waiters).sum::<i64>() == 3 {
                return lines;
            }
        }
    };
    let lines = soon(all).await;
    assert!(lines.iter().all(|(name, _)| name != "c"), "a call waits in a queue with room: {lines:?}");
    // Purges make room again and again until every call is answered.
    let finished = async {
        while !calls.iter().all(JoinHandle::is_finished) {
            for name in ["a", "b"] {
                let request = v1::PurgeQueueRequest { name: name.to_owned(), ..Default::default() };
                rig.queues.clone().purge_queue(request).await.unwrap();
            }
        }
    };
    soon(finished).await;
    for call in calls {
        assert_eq!(answer(call).await.unwrap().jobs.len(), 2);
    }
    rig.stop().await;
}

#[tokio::test]
async fn too_many_waiters_is_told_of_the_queue_that_is_full() {
    let tight = QueueSettings { max_waiters: 1, ..shelf(1) };
    let settings = with_queue(with_queue(memory(), "free", shelf(100)), "full", tight);
    let rig = Rig::start(simple(settings)).await;
    rig.submit(in_queue("full", "echo")).await;
    let waiting = submitting(&rig, &["full"], v1::WhenFull::Wait);
    rig.waiters("full", 1).await;
    let refused = answer(submitting(&rig, &["free", "full"], v1::WhenFull::Wait));
    let refused = refusal(&tokio::select! {
        refused = refused => refused.unwrap_err(),
        lines = async {
            loop {
                let lines = lines(&rig, &["free"]).await;
                if !lines.is_empty() {
                    return lines;
                }
            }
        } => panic!("it waits in another line: {lines:?}"),
    });
    assert_eq!(refused.reason, "TOO_MANY_WAITERS");
    assert_eq!(refused.details.quota_failure().unwrap().violations[0].subject, "queue:full");
    rig.stop().await;
    assert!(answer(waiting).await.is_err());
}
