//! The reasons for which a job waits, computed at each read.

use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState, JobView, Pending, PendingReason},
    serve::Server,
    settings::QueueSettings,
};

use super::{list, shelf};
use crate::support::{
    QUEUE, Rig, Stage, defaults, echo, fail, job, manual_clock, memory, queue, run_time, simple, with_queue,
};

/// The start of [`manual_clock`], in seconds since 1970.
const START_S: i64 = 1_800_000_000;

fn because(reason: PendingReason, subject: &str) -> Pending {
    Pending { reason: reason as i32, subject: subject.to_owned(), ..Default::default() }
}

/// Returns the reasons, sorted.
async fn pending(rig: &Rig, id: &str) -> Vec<Pending> {
    let mut pending = rig.get(id).await.pending;
    pending.sort_by_key(|pending| pending.reason);
    pending
}

#[tokio::test]
async fn a_job_waits_for_a_slot_behind_another_one_and_in_a_queue_without_any() {
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(1));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let waiting = rig.submit(job("stage")).await.id;
    assert_eq!(pending(&rig, &waiting).await, [because(PendingReason::NoFreeSlot, QUEUE)]);
    assert_eq!(pending(&rig, &running).await, [], "it runs");
    cue.succeeds();
    rig.ends(&running).await;
    assert_eq!(pending(&rig, &running).await, [], "it has ended");
    stage.next().await.succeeds();
    rig.ends(&waiting).await;
    rig.stop().await;

    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    assert_eq!(pending(&rig, &id).await, [because(PendingReason::NoFreeSlot, QUEUE)]);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_waits_for_its_queue_to_go_on_and_for_something_that_runs_its_kind() {
    let open = QueueSettings { accept_unknown_kinds: true, ..queue(4) };
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, open))).await;
    let unknown = rig.submit(job("not-here")).await.id;
    let no_worker = because(PendingReason::NoWorkerForKind, "not-here");
    assert_eq!(pending(&rig, &unknown).await, std::slice::from_ref(&no_worker));
    rig.pause(QUEUE).await;
    let paused = because(PendingReason::QueuePaused, QUEUE);
    assert_eq!(pending(&rig, &unknown).await, [no_worker.clone(), paused.clone()]);
    let known = rig.submit(job("echo")).await.id;
    assert_eq!(pending(&rig, &known).await, [paused]);
    rig.resume(QUEUE).await;
    rig.ends(&known).await;
    assert_eq!(pending(&rig, &unknown).await, [no_worker]);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_waits_for_its_time_and_says_until_when() {
    let clock = manual_clock();
    let builder = Server::builder(memory()).clock(Clock::Manual(clock));
    let rig = Rig::start(builder.handler("echo", defaults(), echo).handler("fail", defaults(), fail)).await;
    let scheduled = rig.submit(v1::JobSpec { start: run_time(START_S + 60), ..job("echo") }).await.id;
    let backing_off = rig.submit(job("fail")).await.id;
    rig.reaches(&backing_off, JobState::BackingOff).await;
    for (id, seconds) in [(&scheduled, START_S + 60), (&backing_off, START_S + 1)] {
        let found = rig.get(id).await;
        assert_eq!(found.pending.len(), 1, "{found:?}");
        assert_eq!(found.pending[0].reason(), PendingReason::RunTime);
        assert_eq!(found.pending[0].until, found.next_run_time);
        assert_eq!(found.next_run_time.unwrap().seconds, seconds);
    }
    // The due time is reported beside any other reason.
    rig.pause(QUEUE).await;
    assert!(rig.get(&scheduled).await.pending.iter().any(|told| told.reason() == PendingReason::RunTime));
    rig.cancel(&scheduled).await.unwrap();
    assert_eq!(pending(&rig, &scheduled).await, []);
    rig.stop().await;
}

#[tokio::test]
async fn only_get_job_tells_why_a_job_waits() {
    let rig = shelf().await;
    let submitted = rig.submit(job("echo")).await;
    assert_eq!(submitted.pending, []);
    for view in [JobView::Basic, JobView::Result, JobView::Full] {
        assert_ne!(rig.look(&submitted.id, view).await.unwrap().pending, [], "{view:?}");
        assert_eq!(list(&rig, v1::JobFilter::default(), view).await[0].pending, [], "{view:?}");
    }
    assert_eq!(rig.watch_ids(&[&submitted.id]).await.synced().await[0].pending, []);
    rig.stop().await;
}
