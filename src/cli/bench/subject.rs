//! The measured server with its store, and the checks that it lost nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use jobmill::proto::v1::{self, job_queue_client::JobQueueClient, queue_service_client::QueueServiceClient};

use super::{
    latencies::now,
    load::Calls,
    place::BenchFolder,
    process::{ServerProcess, Serves},
    server::{INTAKE, Variant},
    wire::{Method, batch_body},
};

/// The size of a batch that fills a queue.
pub(super) const FILLING: u64 = 1_000;

/// A Jobmill server with a store of its own.
pub(super) struct MeasuredServer {
    pub(super) process: ServerProcess,
    pub(super) uri: String,
    folder: PathBuf,
    log: PathBuf,
    variant: Variant,
}

impl MeasuredServer {
    /// Starts a server with an empty store, whose queue [`INTAKE`] is paused.
    pub(super) async fn empty(place: &BenchFolder) -> anyhow::Result<Self> {
        let log = place.folder().join("server.log");
        let subject = Self::start(place.fresh(), log, Variant::default()).await?;
        subject.set_paused(INTAKE, true).await?;
        Ok(subject)
    }

    /// Starts such a server with optional features.
    pub(super) async fn empty_with(place: &BenchFolder, variant: Variant) -> anyhow::Result<Self> {
        Self::empty(place).await?.restarted_as(variant).await
    }

    async fn start(folder: PathBuf, log: PathBuf, variant: Variant) -> anyhow::Result<Self> {
        let process = ServerProcess::start(Serves::Jobs { folder: &folder, variant: &variant }, &log).await?;
        let uri = process.uri();
        Ok(MeasuredServer { process, uri, folder, log, variant })
    }

    /// Ends the server and starts it again on the same store.
    pub(super) async fn restarted(self) -> anyhow::Result<Self> {
        let variant = self.variant.clone();
        self.restarted_as(variant).await
    }

    /// Ends the server and starts it with other features on the same store.
    pub(super) async fn restarted_as(self, variant: Variant) -> anyhow::Result<Self> {
        let MeasuredServer { process, folder, log, .. } = self;
        process.stop().await?;
        Self::start(folder, log, variant).await
    }

    /// Returns the size of the database's file, without the log.
    pub(super) fn database_bytes(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(self.folder.join("jobmill.db"))?.len())
    }

    /// Kills the server and starts it again on the same store. Returns the seconds until it answered the first call.
    pub(super) async fn crashed(self) -> anyhow::Result<(Self, f64)> {
        let MeasuredServer { process, folder, log, variant, .. } = self;
        process.kill().await?;
        let begin = now();
        let subject = Self::start(folder, log, variant).await?;
        subject.count(INTAKE, None).await?;
        Ok((subject, begin.elapsed().as_secs_f64()))
    }

    /// Ends the server and deletes its store.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let MeasuredServer { process, folder, .. } = self;
        process.stop().await?;
        remove(&folder)
    }

    /// Returns the number of jobs in a queue, in one state or in all.
    pub(super) async fn count(&self, queue: &str, state: Option<v1::JobState>) -> anyhow::Result<u64> {
        let filter = v1::JobFilter {
            queues: vec![queue.to_owned()],
            states: state.map(|state| state as i32).into_iter().collect(),
            ..v1::JobFilter::default()
        };
        let request = v1::CountJobsRequest { filter: Some(filter), ..v1::CountJobsRequest::default() };
        let answer = JobQueueClient::connect(self.uri.clone()).await?.count_jobs(request).await?;
        Ok(u64::try_from(answer.into_inner().total)?)
    }

    /// Fails unless a queue holds exactly `expected` jobs.
    pub(super) async fn expect(
        &self,
        queue: &str,
        state: Option<v1::JobState>,
        expected: u64,
    ) -> anyhow::Result<()> {
        let actual = self.count(queue, state).await?;
        if actual != expected {
            bail!("the queue {queue} holds {actual} jobs where {expected} were acknowledged");
        }
        Ok(())
    }

    /// Pauses or resumes a queue.
    pub(super) async fn set_paused(&self, queue: &str, paused: bool) -> anyhow::Result<()> {
        let mut client = QueueServiceClient::connect(self.uri.clone()).await?;
        let name = queue.to_owned();
        if paused {
            client.pause_queue(v1::PauseQueueRequest { name, ..v1::PauseQueueRequest::default() }).await?;
        } else {
            client.resume_queue(v1::ResumeQueueRequest { name, ..v1::ResumeQueueRequest::default() }).await?;
        }
        Ok(())
    }

    /// Adds jobs to a queue, in batches.
    pub(super) async fn fill(&self, queue: &str, priority: i32, jobs: u64) -> anyhow::Result<()> {
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: FILLING };
        let body = batch_body(queue, priority, usize::try_from(FILLING)?);
        calls.make(&self.uri, jobs.div_ceil(FILLING), body).await
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(folder).context("can't delete a store")
}
