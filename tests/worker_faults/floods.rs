//! Workers that send as much as they can.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{self, report::Report as Content, worker_frame::Frame as Said},
};
use tokio::task::JoinHandle;

use crate::{
    programs::ServerProcess,
    rig::{KIND, RawWorker, assigned_id, completed, hello, lease, remote_job},
    support::soon,
};

/// Limit of the memory that a flood may take of the server. A message has up to 4 MiB, and a debug build is large.
const GROWTH_MAX_KIB: u64 = 192 << 10;
/// Limit of the time from Submit to the end of a job of another worker during a flood, on a busy machine.
const JOB_MAX: Duration = Duration::from_secs(5);
/// Number of jobs of another worker during a flood.
const JOBS: usize = 10;

async fn server() -> ServerProcess {
    ServerProcess::start(&format!("[kinds.{KIND}]\nworker = true\n")).await
}

/// Sends the same frames again and again, with increasing numbers, until the other side has enough.
fn flood(worker: RawWorker, message: impl Fn(i64) -> Vec<Said> + Send + 'static) -> JoinHandle<u64> {
    let RawWorker { said, mut heard, .. } = worker;
    let reads = tokio::spawn(async move { while let Ok(Some(_)) = heard.message().await {} });
    tokio::spawn(async move {
        for number in 0.. {
            let frames = message(number).into_iter().map(|frame| v1::WorkerFrame { frame: Some(frame) });
            if said.send(v1::WorkRequest { frames: frames.collect() }).await.is_err() {
                reads.abort();
                return number as u64;
            }
        }
        0
    })
}

/// Checks that another worker and its submitter are served during a flood, and that the memory is bounded.
async fn is_harmless(message: impl FnOnce(v1::Lease) -> Box<dyn Fn(i64) -> Vec<Said> + Send>) {
    let server = server().await;
    let (mut flooder, _) = RawWorker::greet(&server.rig.channel, hello("flooder", "p")).await;
    flooder.credit(1);
    server.rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await;
    let assignment = flooder.start().await;
    let connection = crate::support::connect(&server.address()).await;
    let (mut other, _) = RawWorker::greet(&connection, hello("other", "p")).await;
    let before = server.resident_kib();
    let flood = flood(flooder, message(lease(&assignment).clone()));
    for _ in 0..JOBS {
        let began = Clock::System.uptime();
        let id = server.rig.submit(remote_job()).await.id;
        other.credit(1);
        let given = other.start().await;
        assert_eq!(assigned_id(&given), id);
        other.report(lease(&given), completed("done"));
        other.notice(lease(&given)).await;
        let took = Clock::System.uptime().since(began);
        assert!(took < JOB_MAX, "{took:?}");
    }
    let after = server.resident_kib();
    flood.abort();
    assert!(after.saturating_sub(before) < GROWTH_MAX_KIB, "{before} KiB before, {after} KiB after");
    server.no_faults().await;
}

fn report(lease: &v1::Lease, content: Content) -> Said {
    Said::Report(v1::Report { lease: Some(lease.clone()), report: Some(content) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_heartbeats_with_progress_slows_nobody_down() {
    is_harmless(|lease| {
        Box::new(move |_| {
            let progress = v1::Progress { text: "still here".into(), ..Default::default() };
            let heartbeat = v1::Heartbeat { progress: Some(progress), checkpoint: None };
            vec![report(&lease, Content::Heartbeat(heartbeat)); 4_096]
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_large_checkpoints_that_are_to_be_written_at_once_slows_nobody_down() {
    is_harmless(|lease| {
        Box::new(move |message| {
            let one = |index| {
                let state = Some(v1::Payload::of(vec![7; 256 << 10]));
                let checkpoint = v1::Checkpoint { number: 15 * message + index, state, commit_now: true };
                let heartbeat = v1::Heartbeat { progress: None, checkpoint: Some(checkpoint) };
                report(&lease, Content::Heartbeat(heartbeat))
            };
            (1..=15).map(one).collect()
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_slows_nobody_down() {
    is_harmless(|lease| {
        Box::new(move |_| {
            let lines = vec!["x".repeat(8 << 10); 100];
            vec![report(&lease, Content::Output(v1::OutputLines { lines })); 4]
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_final_reports_of_leases_that_are_gone_slows_nobody_down() {
    is_harmless(|lease| {
        Box::new(move |message| {
            let gone = |index| v1::Lease { token: 1 + message * 4_096 + index, ..lease.clone() };
            // The token of the live lease is larger than those of a short flood, and the job's own.
            (0..4_096).map(|index| report(&gone(index), completed("again"))).collect()
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_slows_nobody_down() {
    is_harmless(|_| Box::new(|number| vec![Said::Ping(v1::Ping { number }); 4_096])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_credits_ends_the_stream_at_the_limit() {
    let server = server().await;
    let (mut worker, _) = RawWorker::greet(&server.rig.channel, hello("w", "p")).await;
    for _ in 0..11 {
        worker.credit(1_000);
    }
    let refused = crate::support::refusal(&worker.ends().await);
    assert_eq!(refused.fields, ["frames[0].credit.count"]);
    server.no_faults().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_is_not_read_faster_than_it_is_answered() {
    // A worker that sends without reading is not read either, so that its answers do not pile up.
    let server = server().await;
    let (worker, _) = RawWorker::greet(&server.rig.channel, hello("w", "p")).await;
    let RawWorker { said, heard, .. } = worker;
    let before = server.resident_kib();
    let frames = vec![v1::WorkerFrame { frame: Some(Said::Ping(v1::Ping { number: 1 << 60 })) }; 4_096];
    let message = || v1::WorkRequest { frames: frames.clone() };
    // Ends when no message is taken for a second.
    let mut taken = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), said.send(message())).await {
        taken += 1;
        assert!(taken < 10_000, "the server goes on reading");
    }
    let after = server.resident_kib();
    assert!(after.saturating_sub(before) < GROWTH_MAX_KIB, "{before} KiB before, {after} KiB after");
    drop((said, heard));
    let other = crate::support::connect(&server.address()).await;
    let (mut other, _) = soon(RawWorker::greet(&other, hello("other", "p"))).await;
    other.sync().await;
    server.no_faults().await;
}
