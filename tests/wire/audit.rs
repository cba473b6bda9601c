//! The audit: every call that changes something is recorded before its answer, and a file that can't be written delays
//! an answer for a moment only.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use jobmill::{
    proto::v1::{self, JobState},
    serve::Server,
    settings::Settings,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{QUEUE, Rig, folder, job, memory, refusal, simple, soon, submission};

/// A path for the audit's file, which can be redirected.
struct AuditPath(TempDir);

impl AuditPath {
    fn new() -> Self {
        AuditPath(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    /// Redirects the path; it takes effect when the file is opened next.
    fn leads_to(&self, target: &Path) {
        let new = self.0.path().join("new");
        symlink(target, &new).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    fn audited(&self, mut settings: Settings) -> Settings {
        settings.audit_file = Some(self.path());
        settings
    }
}

/// Returns a short form of each line of an audit.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let told = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let rpc = line["rpc"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let ids: Vec<_> =
            line["ids"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap()).collect();
        format!("{rpc} {} {}", line["code"].as_str().unwrap(), ids.join(" ")).trim_end().to_owned()
    };
    text.lines().map(told).collect()
}

#[tokio::test]
async fn an_answer_comes_after_its_line() {
    let place = AuditPath::new();
    let rig = Rig::start(simple(place.audited(memory()))).await;
    let last = || lines(&place.path()).pop().unwrap_or_default();
    // Repeated, because a late line would show only by chance.
    for _ in 0..50 {
        let id = rig.submit(job("echo")).await.id;
        assert_eq!(last(), format!("Submit OK {id}"));
        let ids = rig.submit_batch(vec![job("echo"), job("echo")]).await;
        assert_eq!(last(), format!("SubmitBatch OK {}", ids.join(" ")));
        refusal(&rig.retry(&ids[0]).await.unwrap_err());
        assert!(last().starts_with("RetryJob"), "{}", last());

        let item = v1::SubmitItem { job: Some(job("echo")), ..Default::default() };
        let request = v1::SubmitStreamRequest { items: vec![item], ..Default::default() };
        let mut answers =
            soon(rig.jobs.clone().submit_stream(tokio_stream::once(request))).await.unwrap().into_inner();
        while let Some(answer) = soon(answers.message()).await.unwrap() {
            for result in answer.results {
                let Some(v1::submit_result::Result::Submitted(accepted)) = result.result else { panic!() };
                assert_eq!(last(), format!("SubmitStream OK {}", accepted.id));
            }
        }

        let request = v1::SubmitAndWatchRequest { job: Some(job("echo")), ..Default::default() };
        let mut answers = soon(rig.jobs.clone().submit_and_watch(request)).await.unwrap().into_inner();
        soon(answers.message()).await.unwrap().unwrap();
        assert!(last().starts_with("SubmitAndWatch OK"), "{}", last());
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_file_that_takes_no_lines_delays_answers_and_loses_no_line() {
    let place = AuditPath::new();
    place.leads_to(Path::new("/dev/full"));
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(place.audited(folder(home.path())))).await;
    let id = rig.submit(job("echo")).await.id;
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    assert_eq!(rig.metric("jobmill_audit_lines_lost_total").await, 0.0);

    // The operator's remedy: free space or redirect the file, and send SIGHUP.
    let file = place.0.path().join("elsewhere");
    place.leads_to(&file);
    rig.reload();
    soon(async {
        while lines(&file).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let next = rig.submit(job("echo")).await.id;
    assert_eq!(lines(&file), [format!("Submit OK {id}"), format!("Submit OK {next}")]);
    rig.stop().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_file_that_takes_no_lines() {
    let place = AuditPath::new();
    place.leads_to(Path::new("/dev/full"));
    let rig = Rig::start(simple(place.audited(memory()))).await;
    rig.submit(job("echo")).await;
    rig.stop().await;
}

#[tokio::test]
async fn callers_that_do_not_wait_are_in_the_audit_by_the_end_of_a_drain() {
    let place = AuditPath::new();
    let settings = crate::support::with_queue(place.audited(memory()), QUEUE, crate::support::queue(0));
    let rig =
        Rig::start(Server::builder(settings).handler("echo", Default::default(), crate::support::echo)).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut jobs = rig.jobs.clone();
        calls.spawn(async move { jobs.submit(submission(job("echo"))).await.map(|_| ()) });
    }
    let are_in = async {
        while rig.total().await < 100 {
            tokio::task::yield_now().await;
        }
    };
    soon(are_in).await;
    // Some calls have not been answered yet.
    calls.abort_all();
    rig.stop().await;
    assert_eq!(lines(&place.path()).len(), 100);
}
