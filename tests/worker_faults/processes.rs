//! Processes of workers that are killed, paused, doubled or replaced.

use std::path::PathBuf;

use jobmill::proto::v1::{self, FailureReason, JobState};
use rustix::process::Signal;

use crate::{
    programs::{ServerProcess, WorkerProcess, connected, gone, line_of, workers_are},
    support::job,
};

/// A server whose jobs a command in remote workers runs, which waits for a file.
struct Site {
    server: ServerProcess,
    configuration: PathBuf,
}

impl Site {
    async fn start(lease: &str) -> Self {
        let text =
            format!("[workers]\nlease = '{lease}'\nping_every = '200ms'\n[kinds.wait]\nworker = true\n");
        let server = ServerProcess::start(&text).await;
        let configuration = server.home.path().join("work.toml");
        let script = "echo $$ > \"$0/pid.$JOBMILL_ATTEMPT\"; until [ -e \"$0/go\" ]; do sleep 0.02; done";
        let folder = server.home.path().display();
        std::fs::write(
            &configuration,
            format!("[kinds.wait]\ncommand = ['/bin/sh', '-c', '''{script}''', '{folder}']\n"),
        )
        .unwrap();
        Site { server, configuration }
    }

    fn worker(&self, instance: &str, more: &[&str]) -> WorkerProcess {
        let arguments = [&["--instance", instance], more].concat();
        WorkerProcess::start(&self.server.address(), &self.configuration, &arguments)
    }

    /// Submits a job that is retried at once, and returns once an attempt runs.
    async fn running(&self, max_attempts: i32) -> String {
        let retry = v1::RetryPolicy { initial_delay: Some(Default::default()), ..Default::default() };
        let spec = v1::JobSpec { max_attempts, retry_policy: Some(retry.into()), ..job("wait") };
        let id = self.server.rig.submit(spec).await.id;
        self.server.rig.reaches(&id, JobState::Running).await;
        id
    }

    /// Returns the process of the command of an attempt.
    async fn command(&self, attempt: u32) -> String {
        line_of(self.server.home.path().join(format!("pid.{attempt}"))).await
    }

    fn go(&self) {
        std::fs::write(self.server.home.path().join("go"), "").unwrap();
    }
}

fn reason_of(job: &v1::Job) -> FailureReason {
    job.attempts[0].failure.as_ref().expect("a failure").reason()
}

#[tokio::test]
async fn a_killed_workers_commands_die_and_its_job_is_lost_and_runs_elsewhere() {
    let site = Site::start("500ms").await;
    let rig = &site.server.rig;
    let first = site.worker("first", &[]);
    connected(rig, "first").await;
    let id = site.running(2).await;
    let command = site.command(1).await;
    let _second = site.worker("second", &[]);
    connected(rig, "second").await;
    first.signal(Signal::KILL);
    gone(&command).await;
    site.command(2).await;
    site.go();
    let job = rig.ends(&id).await;
    assert_eq!(
        (job.state(), job.counted_attempts, reason_of(&job)),
        (JobState::Succeeded, 2, FailureReason::Lost)
    );
    assert_eq!(job.attempts[0].worker, "first");
    site.server.no_faults().await;
}

#[tokio::test]
async fn a_killed_workers_only_attempt_is_not_repeated() {
    let site = Site::start("500ms").await;
    let worker = site.worker("first", &[]);
    connected(&site.server.rig, "first").await;
    let id = site.running(1).await;
    let command = site.command(1).await;
    worker.signal(Signal::KILL);
    let job = site.server.rig.ends(&id).await;
    assert_eq!((job.state(), reason_of(&job)), (JobState::Failed, FailureReason::Lost));
    gone(&command).await;
    let lost = "jobmill_worker_leases_lost_total{cause=\"silence\"}";
    assert_eq!(site.server.metric(lost).await, 1.0);
    site.server.no_faults().await;
}

#[tokio::test]
async fn the_next_process_of_a_killed_worker_ends_its_leases_at_once() {
    let site = Site::start("1h").await;
    let rig = &site.server.rig;
    let killed = site.worker("w", &[]);
    connected(rig, "w").await;
    let id = site.running(2).await;
    let command = site.command(1).await;
    killed.signal(Signal::KILL);
    let _next = site.worker("w", &[]);
    site.command(2).await;
    gone(&command).await;
    site.go();
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), reason_of(&job)), (JobState::Succeeded, FailureReason::Lost));
    let lost = "jobmill_worker_leases_lost_total{cause=\"superseded\"}";
    assert_eq!(site.server.metric(lost).await, 1.0);
    site.server.no_faults().await;
}

#[tokio::test]
async fn a_worker_paused_beyond_its_lease_stops_its_command_when_it_goes_on() {
    let site = Site::start("1s").await;
    let rig = &site.server.rig;
    let paused = site.worker("paused", &[]);
    connected(rig, "paused").await;
    let id = site.running(2).await;
    let command = site.command(1).await;
    let _other = site.worker("other", &[]);
    connected(rig, "other").await;
    paused.signal(Signal::STOP);
    // A retry that comes before the other worker's place is taken could only go to it: the paused one is disconnected.
    site.command(2).await;
    paused.signal(Signal::CONT);
    gone(&command).await;
    assert_eq!(rig.get(&id).await.state(), JobState::Running, "the other attempt goes on");
    connected(rig, "paused").await;
    site.go();
    let job = rig.ends(&id).await;
    assert_eq!(
        (job.state(), job.counted_attempts, reason_of(&job)),
        (JobState::Succeeded, 2, FailureReason::Lost)
    );
    site.server.no_faults().await;
}

#[tokio::test]
async fn of_two_processes_with_one_instance_the_newer_wins_and_the_older_fails_loudly() {
    let site = Site::start("1h").await;
    let rig = &site.server.rig;
    let mut older = site.worker("w", &[]);
    connected(rig, "w").await;
    let id = site.running(2).await;
    let command = site.command(1).await;
    let mut newer = site.worker("w", &[]);
    let (code, said) = older.ends().await;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("a newer process has taken over the instance `w`"), "{said}");
    gone(&command).await;
    site.command(2).await;
    site.go();
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    newer.signal(Signal::TERM);
    assert_eq!(newer.ends().await.0, Some(0));
    site.server.no_faults().await;
}

#[tokio::test]
async fn a_worker_that_is_replaced_finishes_what_runs_and_leaves_the_rest_uncounted() {
    let site = Site::start("30s").await;
    let rig = &site.server.rig;
    let mut old = site.worker("old", &["--concurrency", "2"]);
    connected(rig, "old").await;
    let running = [site.running(1).await, site.running(1).await];
    let waiting = rig.submit(v1::JobSpec { max_attempts: 1, ..job("wait") }).await.id;
    old.signal(Signal::TERM);
    workers_are(rig, |workers| workers[0].state() == v1::WorkerState::Draining).await;
    assert_eq!(rig.get(&waiting).await.counted_attempts, 0);
    site.go();
    assert_eq!(old.ends().await.0, Some(0));
    for id in &running {
        let job = rig.get(id).await;
        assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
    }
    let _new = site.worker("new", &[]);
    let job = rig.ends(&waiting).await;
    assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
    site.server.no_faults().await;
}
