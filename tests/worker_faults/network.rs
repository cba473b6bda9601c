//! Networks that fail between a worker and its server.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{self, FailureReason, JobState},
    serve::Server,
    settings::{Settings, WorkerSettings},
    worker::Worker,
};

use crate::{
    library::Running,
    relay::{
        Direction::{self, Closed, Held, Passes, Swallowed},
        Relay,
    },
    rig::{KIND, RawWorker, heartbeat, hello, lease, no_faults, remote_job, remote_only},
    support::{Rig, Stage, StagedAttempt, memory, refusal, soon},
};

/// Returns settings with pings that are soon missed.
fn settings(lease: Duration) -> Settings {
    let ping_every = Duration::from_millis(200);
    let workers = WorkerSettings { lease, ping_every, ..remote_only(memory()).workers };
    Settings { workers, ..remote_only(memory()) }
}

/// A server and a worker of the library, with a relay between them.
struct Line {
    rig: Rig,
    relay: Relay,
    worker: Running,
    stage: Stage,
}

impl Line {
    async fn start(lease: Duration) -> Self {
        let rig = Rig::start(Server::builder(settings(lease))).await;
        let relay = Relay::start(rig.address()).await;
        let (handler, stage) = Stage::new();
        let worker = Worker::builder(&relay.address).instance("w").concurrency(1).handler(KIND, handler);
        let worker = Running::start(worker);
        soon(worker.health.connected()).await;
        Line { rig, relay, worker, stage }
    }

    async fn attempt(&mut self, max_attempts: i32) -> StagedAttempt {
        let retry = v1::RetryPolicy { initial_delay: Some(Default::default()), ..Default::default() };
        self.rig.submit(v1::JobSpec { max_attempts, retry_policy: Some(retry.into()), ..remote_job() }).await;
        self.stage.next().await
    }

    /// Returns once the worker knows that it is not connected.
    async fn lost(&self) {
        let lost = async {
            while self.worker.health.is_connected() {
                tokio::task::yield_now().await;
            }
        };
        soon(lost).await;
    }

    /// Returns once the server has ended the worker's stream.
    async fn away(&self) {
        let connected = "jobmill_workers{state=\"connected\"}";
        let away = async { while self.rig.metric(connected).await != 0.0 {} };
        soon(away).await;
    }

    /// Returns once the worker has opened this many streams.
    async fn is_back(&self, streams: u64) {
        let back = async {
            while self.worker.health.streams() < streams {
                tokio::task::yield_now().await;
            }
        };
        soon(back).await;
    }

    async fn ends_well(self) {
        let summary = soon(self.worker.drains()).await.unwrap();
        assert_eq!((summary.counts.lost, summary.unreported), (0, 0));
        no_faults(&self.rig).await;
    }
}

/// Lets an attempt end while a network fails in a way that both sides notice, and its lease lasts.
async fn report_is_kept(to_server: Direction, to_worker: Direction) {
    let mut line = Line::start(Duration::from_secs(60)).await;
    let attempt = line.attempt(1).await;
    let id = attempt.id();
    line.relay.set(to_server, to_worker);
    attempt.succeeds();
    line.lost().await;
    line.relay.heal();
    let job = line.rig.ends(&id).await;
    assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
    line.is_back(2).await;
    line.ends_well().await;
}

#[tokio::test]
async fn a_report_that_the_network_held_back_counts_when_it_is_whole_again() {
    report_is_kept(Held, Held).await;
}

#[tokio::test]
async fn a_worker_that_is_heard_but_hears_nothing_calls_again() {
    report_is_kept(Passes, Swallowed).await;
}

#[tokio::test]
async fn a_worker_that_hears_but_is_not_heard_calls_again() {
    report_is_kept(Swallowed, Passes).await;
}

#[tokio::test]
async fn a_worker_whose_connection_is_swallowed_calls_again() {
    report_is_kept(Swallowed, Swallowed).await;
}

#[tokio::test]
async fn a_worker_whose_connection_is_half_closed_calls_again() {
    report_is_kept(Passes, Closed).await;
}

#[tokio::test]
async fn a_worker_whose_connection_is_half_closed_by_its_own_side_calls_again() {
    report_is_kept(Closed, Passes).await;
}

#[tokio::test]
async fn a_worker_whose_connection_is_reset_calls_again_and_keeps_its_attempt() {
    let mut line = Line::start(Duration::from_secs(60)).await;
    let attempt = line.attempt(1).await;
    for streams in 2..5 {
        line.relay.reset();
        line.is_back(streams).await;
    }
    let id = attempt.id();
    attempt.succeeds();
    assert_eq!(line.rig.ends(&id).await.counted_attempts, 1);
    line.ends_well().await;
}

#[tokio::test]
async fn a_partition_longer_than_the_lease_loses_the_attempt_and_its_report_is_refused() {
    for directions in [(Held, Held), (Held, Passes), (Passes, Held)] {
        let mut line = Line::start(Duration::from_millis(600)).await;
        let attempt = line.attempt(2).await;
        let id = attempt.id();
        line.relay.set(directions.0, directions.1);
        line.away().await;
        line.rig.reaches(&id, JobState::Queued).await;
        let lost = line.rig.get(&id).await;
        assert_eq!(lost.attempts[0].failure.as_ref().unwrap().reason(), FailureReason::Lost);
        line.relay.heal();
        // The worker learns that its lease is gone, and stops the attempt.
        soon(attempt.attempt.cancelled()).await;
        attempt.succeeds();
        line.stage.next().await.succeeds();
        let job = line.rig.ends(&id).await;
        assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 2), "{directions:?}");
        let summary = soon(line.worker.drains()).await.unwrap();
        assert_eq!((summary.counts.started, summary.counts.lost), (2, 1));
        no_faults(&line.rig).await;
    }
}

#[tokio::test]
async fn the_stream_of_a_machine_that_vanished_ends_and_its_leases_too() {
    let rig = Rig::start(Server::builder(settings(Duration::from_secs(1)))).await;
    let relay = Relay::start(rig.address()).await;
    let channel = crate::support::connect(&relay.address).await;
    let (mut worker, _) = RawWorker::greet(&channel, hello("w", "p")).await;
    worker.credit(1);
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    let assignment = worker.start().await;
    relay.set(Swallowed, Passes);
    worker.report(lease(&assignment), heartbeat());
    let began = Clock::System.uptime();
    assert_eq!(refusal(&worker.ends().await).reason, "WORKER_SILENT");
    assert!(Clock::System.uptime().since(began) < Duration::from_secs(5));
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), job.last_failure.unwrap().reason()), (JobState::Failed, FailureReason::Lost));
    assert_eq!(rig.metric("jobmill_worker_leases_lost_total{cause=\"silence\"}").await, 1.0);
    no_faults(&rig).await;
}
