//! Jobs that kill the process that runs them, each time: they use up their attempts and are dead-lettered, and all
//! others succeed.

use std::{fs, path::Path};

use jobmill::proto::v1::{self, FailureReason, JobState};

use crate::support::{Process, Rig, job, soon};

/// A command's parent is its guard, and the guard's parent is the server.
const CONFIGURATION: &str = r#"
    [queues.default]
    consumers = 1

    [kinds.guard-killer]
    command = ["/bin/sh", "-c", "kill -KILL $PPID; exec sleep 1000"]
    retry = { initial_delay = "0s", max_delay = "0s" }

    [kinds.server-killer]
    command = ["/bin/sh", "-c", "kill -KILL $(sed -n 's/^PPid:\t//p' /proc/$PPID/status); exec sleep 1000"]
    retry = { initial_delay = "0s", max_delay = "0s" }

    [kinds.harmless]
    command = ["true"]
"#;

const ATTEMPTS: i32 = 3;

async fn server(home: &Path) -> Process {
    let configuration = home.join("jobmill.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    Process::start(&configuration, &home.join("data"), &[]).await
}

fn poison(kind: &str) -> v1::JobSpec {
    v1::JobSpec { max_attempts: ATTEMPTS, ..job(kind) }
}

/// Asserts that a job has failed for good, and that its history has each attempt.
fn assert_dead(job: &v1::Job, reason: FailureReason) {
    assert_eq!((job.state(), job.attempt), (JobState::Failed, ATTEMPTS), "{job:?}");
    let reasons: Vec<_> =
        job.attempts.iter().map(|attempt| attempt.failure.as_ref().unwrap().reason()).collect();
    assert_eq!(reasons, [reason; ATTEMPTS as usize], "{job:?}");
}

#[tokio::test]
async fn a_job_that_kills_its_guard_is_dead_lettered_and_holds_up_no_other() {
    let home = tempfile::tempdir().unwrap();
    let process = server(home.path()).await;
    let rig = Rig::connect(&process.address).await;
    let poisonous = rig.submit(poison("guard-killer")).await.id;
    let others = rig.submit_batch(vec![job("harmless"); 10]).await;
    for id in &others {
        assert_eq!(rig.ends(id).await.state(), JobState::Succeeded);
    }
    assert_dead(&rig.ends(&poisonous).await, FailureReason::HandlerError);
    process.kill().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_job_that_kills_its_server_is_dead_lettered_after_as_many_starts() {
    let home = tempfile::tempdir().unwrap();
    let mut process = server(home.path()).await;
    let rig = Rig::connect(&process.address).await;
    rig.pause("default").await;
    let poisonous = rig.submit(poison("server-killer")).await.id;
    let others = rig.submit_batch(vec![job("harmless"); 10]).await;
    // The answer may be lost, because the job kills the server.
    let _ = rig
        .queues
        .clone()
        .resume_queue(v1::ResumeQueueRequest { name: "default".to_owned(), ..Default::default() })
        .await;
    for _ in 1..ATTEMPTS {
        assert_eq!(soon(process.exit()).await.code(), None, "killed by a signal");
        process = server(home.path()).await;
    }
    assert_eq!(soon(process.exit()).await.code(), None, "killed by a signal");

    // Its attempts are used up, so that this server survives.
    let process = server(home.path()).await;
    let rig = Rig::connect(&process.address).await;
    for id in &others {
        assert_eq!(rig.ends(id).await.state(), JobState::Succeeded);
    }
    assert_dead(&rig.get(&poisonous).await, FailureReason::Lost);
    process.kill().await;
}
