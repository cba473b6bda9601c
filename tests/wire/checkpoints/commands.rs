//! Checkpoints of commands in a real server.

use std::{fs, path::Path, time::Duration};

use jobmill::{
    proto::v1::{self, FailureReason, JobState},
    serve::Server,
    settings::{CommandSettings, HandlerSettings, KindDefaults, KindSettings, Settings},
};

use super::soon_again;
use crate::support::{Process, Rig, folder, job, memory, result, soon};

/// A script that goes on from the row of an earlier attempt, and does something after row 3 of the first attempt.
fn counting(after_three: &str) -> String {
    format!(
        r#"
        row=0
        [ -z "${{JOBMILL_EARLIER_CHECKPOINT_FD:-}}" ] || row=$(cat <&$JOBMILL_EARLIER_CHECKPOINT_FD)
        echo "from $row"
        while [ $row -lt 5 ]; do
            row=$((row + 1))
            echo "keep $row" >&$JOBMILL_CHECKPOINT_FD
            if [ $row = 3 ] && [ $JOBMILL_ATTEMPT = 1 ]; then {after_three}; fi
        done
        "#
    )
}

fn kind(script: &str, defaults: KindDefaults) -> KindSettings {
    let settings = CommandSettings {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        env: [].into(),
        env_allow: Vec::new(),
        working_dir: None,
        kill_grace: Duration::from_secs(10),
        permanent_exit_codes: Vec::new(),
        snooze_exit_codes: Vec::new(),
        snooze_delay: Duration::from_secs(60),
        snooze_pauses: None,
    };
    KindSettings { handler: HandlerSettings::Command(settings), defaults }
}

async fn rig(settings: Settings, script: &str, defaults: KindDefaults) -> Rig {
    let mut settings = settings;
    settings.kinds.insert("count".to_owned(), kind(script, defaults));
    Rig::start(Server::builder(settings).command_guard(env!("CARGO_BIN_EXE_jobmill"))).await
}

async fn went_on(rig: &Rig, id: &str, from: u32) {
    let job = rig.reaches(id, JobState::Succeeded).await;
    assert_eq!(
        (String::from_utf8_lossy(result(&job)), job.attempts.len()),
        (format!("from {from}\n").into(), 2)
    );
}

#[tokio::test]
async fn the_next_attempt_goes_on_after_a_failure() {
    let rig = rig(memory(), &counting("exit 1"), soon_again()).await;
    let id = rig.submit(job("count")).await.id;
    went_on(&rig, &id, 3).await;
}

#[tokio::test]
async fn the_next_attempt_goes_on_after_a_kill_of_the_command() {
    let rig = rig(memory(), &counting("kill -9 $$"), soon_again()).await;
    let id = rig.submit(job("count")).await.id;
    went_on(&rig, &id, 3).await;
}

#[tokio::test]
async fn the_next_attempt_goes_on_after_a_timeout() {
    // Written during the grace period, too.
    let defaults = soon_again().attempt_timeout(Duration::from_millis(1_500));
    let slow = r#"trap 'echo keep 4 >&5; exit 1' TERM; sleep 1000 & wait"#;
    let rig = rig(memory(), &counting(slow), defaults).await;
    let id = rig.submit(job("count")).await.id;
    went_on(&rig, &id, 4).await;
    let failure = rig.get(&id).await.attempts[0].failure.clone().unwrap();
    assert_eq!(failure.reason(), FailureReason::Timeout);
}

#[tokio::test]
async fn the_next_attempt_goes_on_after_a_drain() {
    let home = tempfile::tempdir().unwrap();
    let slow =
        r#"trap 'echo keep 4 >&5; exit 1' TERM; echo commit 3 >&5; read -r answer <&6; sleep 1000 & wait"#;
    let server = rig(folder(home.path()), &counting(slow), soon_again()).await;
    let id = server.submit(job("count")).await.id;
    server.reaches_checkpoint(&id, 4).await;
    server.stop().await;
    let server = rig(folder(home.path()), &counting(slow), soon_again()).await;
    went_on(&server, &id, 4).await;
    server.stop().await;
}

/// Writes a configuration with the script as the kind `count`.
fn configuration(folder: &Path, script: &str) -> std::path::PathBuf {
    let path = folder.join("jobmill.toml");
    let script = script.replace('"', "\\\"").replace('\n', "\\n");
    let text = format!(
        "[kinds.count]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nretry = {{ initial_delay = \"1ms\" }}\n"
    );
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn the_next_attempt_goes_on_after_a_kill_of_the_server() {
    let home = tempfile::tempdir().unwrap();
    // What was answered with `committed` is on disk, whatever becomes of the server.
    let told = home.path().join("told");
    let slow = format!(
        "echo commit 3 >&5; read -r answer <&6; echo \"$answer\" > {0}.new; mv {0}.new {0}; sleep 1000",
        told.display()
    );
    let configuration = configuration(home.path(), &counting(&slow));
    let data = home.path().join("data");
    let server = Process::start(&configuration, &data, &[]).await;
    let rig = Rig::connect(&server.address).await;
    let id = rig.submit(job("count")).await.id;
    let committed = async {
        while !told.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(committed).await;
    assert_eq!(fs::read_to_string(&told).unwrap(), "committed 4\n");
    server.kill().await;

    let server = Process::start(&configuration, &data, &[]).await;
    let rig = Rig::connect(&server.address).await;
    let job = rig.reaches(&id, JobState::Succeeded).await;
    assert_eq!(String::from_utf8_lossy(result(&job)), "from 3\n");
    assert_eq!(job.attempts[0].failure.as_ref().map(v1::Failure::reason), Some(FailureReason::Lost));
    server.kill().await;
}

#[tokio::test]
async fn a_job_that_begins_anew_reads_none() {
    let defaults = KindDefaults { max_attempts: 1, ..soon_again() };
    let rig = rig(memory(), &counting("exit 1"), defaults).await;
    let id = rig.submit(job("count")).await.id;
    rig.reaches(&id, JobState::Failed).await;
    rig.retry_anew(&id).await;
    went_on(&rig, &id, 0).await;
}
