//! A thousand workers at once.

use std::time::Duration;

use futures_util::future::join_all;
use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState, lease_notice::Notice, server_frame::Frame, worker_frame::Frame as Said},
};
use tonic::transport::Channel;

use crate::{
    programs::ServerProcess,
    rig::{KIND, RawWorker, completed, hello, lease, no_faults, remote_job, server},
    support::{Rig, connect, soon},
};

const WORKERS: usize = 1_000;
/// Number of streams of one connection.
const STREAMS: usize = 50;
/// Limit of the time until all workers are served after a restart of the server.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

async fn channels(address: &str) -> Vec<Channel> {
    join_all((0..WORKERS / STREAMS).map(|_| connect(address))).await
}

/// Opens the streams of all workers at once; each lists a lease, if it has one.
async fn greet_all(address: &str, leases: &[v1::Lease]) -> Vec<(RawWorker, v1::Welcome)> {
    let channels = channels(address).await;
    let greet = |index: usize| {
        let leases = leases.get(index).cloned().into_iter().collect();
        let hello = v1::Hello { leases, ..hello(&format!("w{index}"), "p") };
        RawWorker::greet(&channels[index / STREAMS], hello)
    };
    join_all((0..WORKERS).map(greet)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_for_a_thousand_idle_workers_is_one_lease_and_one_frame() {
    let rig = Rig::start(server()).await;
    let mut workers = greet_all(&rig.address().to_string(), &[]).await;
    for (worker, _) in &mut workers {
        worker.credit(1);
        worker.sync().await;
    }
    let id = rig.submit(remote_job()).await.id;
    rig.reaches(&id, JobState::Running).await;
    let mut frames = Vec::new();
    for (worker, _) in &mut workers {
        worker.say(Said::Ping(v1::Ping { number: 9 }));
        loop {
            match worker.frame().await {
                Frame::Pong(_) => break,
                frame => frames.push(frame),
            }
        }
    }
    assert!(matches!(&frames[..], [Frame::Assignment(_)]), "{frames:?}");
    assert_eq!(rig.metric("jobmill_worker_leases{received=\"false\"}").await, 1.0);
    assert_eq!(rig.metric("jobmill_worker_credits").await, (WORKERS - 1) as f64);
    no_faults(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_workers_that_come_back_at_once_after_a_restart_are_all_served_within_ten_seconds() {
    let mut server = ServerProcess::start(&format!("[kinds.{KIND}]\nworker = true\n")).await;
    let once = v1::JobSpec { max_attempts: 1, ..remote_job() };
    let ids = server.rig.submit_batch(vec![once; WORKERS]).await;
    let workers = greet_all(&server.address(), &[]).await;
    let begin = |(mut worker, _): (RawWorker, _)| async move {
        worker.credit(1);
        lease(&worker.start().await).clone()
    };
    let leases = join_all(workers.into_iter().map(begin)).await;
    server.kill_and_start().await;
    let began = Clock::System.uptime();
    let finish = |((mut worker, welcome), lease): ((RawWorker, v1::Welcome), v1::Lease)| async move {
        assert!(matches!(welcome.leases[0].notice, Some(Notice::Held(_))), "{welcome:?}");
        worker.report(&lease, completed("done"));
        assert!(matches!(worker.notice(&lease).await, Notice::Ended(_)));
        worker
    };
    let workers = greet_all(&server.address(), &leases).await;
    let workers = join_all(workers.into_iter().zip(leases).map(finish)).await;
    let took = Clock::System.uptime().since(began);
    assert!(took < SERVED_WITHIN, "{took:?}");
    let filter = v1::JobFilter { states: vec![JobState::Succeeded as i32], ..Default::default() };
    let request = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
    let succeeded = soon(server.rig.jobs.clone().count_jobs(request)).await.unwrap().into_inner().total;
    assert_eq!(succeeded, ids.len() as i64);
    server.no_faults().await;
    drop(workers);
}
