//! Workers that read nothing of what they asked for.

use std::time::Duration;

use jobmill::{
    proto::v1::{self, JobState},
    serve::Server,
    settings::{Settings, WorkerSettings},
};

use crate::{
    programs::ServerProcess,
    rig::{KIND, RawWorker, assigned_id, completed, count, hello, lease, no_faults, remote_job, remote_only},
    support::{Rig, connect, memory},
};

const PAYLOAD_BYTES: usize = 1 << 20;

/// Starts a server whose workers have little time to receive their jobs.
async fn start() -> Rig {
    let receive_within = Duration::from_secs(1);
    let workers = WorkerSettings { receive_within, ..remote_only(memory()).workers };
    Rig::start(Server::builder(Settings { workers, ..remote_only(memory()) })).await
}

/// Submits jobs with large payloads.
async fn submit_large(rig: &Rig, jobs: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..jobs {
        let payload = Some(v1::Payload::of(vec![7; PAYLOAD_BYTES]));
        ids.push(rig.submit(v1::JobSpec { payload, max_attempts: 1, ..remote_job() }).await.id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_reads_nothing_gets_few_bytes_and_its_jobs_go_to_others_uncounted() {
    let rig = start().await;
    let deaf = connect(&rig.address().to_string()).await;
    let (deaf, _) = RawWorker::greet(&deaf, hello("deaf", "p")).await;
    deaf.credit(1_000);
    let ids = submit_large(&rig, 20).await;
    while rig.metric("jobmill_worker_credits").await == 0.0 {}
    // As many as have room: 4 MiB, and the one that exceeds it.
    while rig.metric("jobmill_worker_leases{received=\"false\"}").await < 4.0 {}
    assert!(rig.metric("jobmill_worker_leases{received=\"false\"}").await <= 5.0);
    assert!(count(&rig, JobState::Queued).await >= 15);
    let (mut other, _) = RawWorker::greet(&rig.channel, hello("other", "p")).await;
    let mut done = Vec::new();
    for _ in 0..ids.len() {
        other.credit(1);
        let assignment = other.start().await;
        assert_eq!(
            assignment.job.as_ref().unwrap().counted_attempts,
            1,
            "no attempt of the deaf worker counts"
        );
        other.report(lease(&assignment), completed(""));
        other.notice(lease(&assignment)).await;
        done.push(assigned_id(&assignment).to_owned());
    }
    done.sort();
    assert_eq!(done, ids);
    no_faults(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_went_back_from_a_worker_that_reads_nothing_take_no_memory_of_it() {
    let text = format!("[workers]\nreceive_within = '1s'\n[kinds.{KIND}]\nworker = true\n");
    let server = ServerProcess::start(&text).await;
    let (deaf, _) = RawWorker::greet(&connect(&server.address()).await, hello("deaf", "p")).await;
    deaf.credit(10_000);
    submit_large(&server.rig, 6).await;
    let credits = async || server.metric("jobmill_worker_credits").await;
    while credits().await == 0.0 {}
    // The first round shows what the jobs take.
    while credits().await > 9_992.0 {}
    let before = server.resident_kib();
    // The same few jobs are assigned and go back again and again.
    while credits().await > 9_980.0 {}
    let after = server.resident_kib();
    let payloads_kib = 10 * PAYLOAD_BYTES as u64 / 1_024;
    assert!(after.saturating_sub(before) < payloads_kib, "{before} KiB before, {after} KiB after");
    drop(deaf);
    server.no_faults().await;
}

#[tokio::test]
async fn a_job_that_its_worker_does_not_receive_goes_back_uncounted() {
    let rig = start().await;
    let (worker, _) = RawWorker::greet(&rig.channel, hello("w", "p")).await;
    worker.credit(1);
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    rig.reaches(&id, JobState::Running).await;
    rig.reaches(&id, JobState::Queued).await;
    assert_eq!(rig.get(&id).await.counted_attempts, 0);
    no_faults(&rig).await;
}
