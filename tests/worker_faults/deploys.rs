//! Deploys of the server under attempts that must not be repeated.

use jobmill::{
    proto::v1::{self, JobState},
    worker::Worker,
};

use crate::{
    library::Running,
    programs::{ServerProcess, connected},
    support::{Stage, job, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_deploy_or_crash_of_the_server_fails_a_long_attempt_that_must_not_be_repeated() {
    const JOBS: usize = 20;
    let mut server = ServerProcess::start("[kinds.long]\nworker = true\n").await;
    let (handler, mut stage) = Stage::new();
    let worker = Worker::builder(&server.address()).instance("w").concurrency(JOBS).handler("long", handler);
    let worker = Running::start(worker);
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(server.rig.submit(v1::JobSpec { max_attempts: 1, ..job("long") }).await.id);
    }
    let mut running = Vec::new();
    for _ in 0..JOBS {
        running.push(stage.next().await);
    }
    for round in 0..4 {
        if round == 3 {
            server.kill_and_start().await;
        } else {
            server.restart().await;
        }
        // Some end while the server is away from their worker.
        for attempt in running.drain(..JOBS / 4) {
            attempt.succeeds();
        }
        connected(&server.rig, "w").await;
    }
    for id in &ids {
        let job = server.rig.ends(id).await;
        assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1), "{job:?}");
    }
    let summary = soon(worker.drains()).await.unwrap();
    assert_eq!((summary.counts.started, summary.counts.lost, summary.unreported), (JOBS as u64, 0, 0));
    server.no_faults().await;
}
