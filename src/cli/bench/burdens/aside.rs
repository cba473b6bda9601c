//! A server with two queues: an idle one for the probe, and one aside that bears the burden.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use jobmill::proto::v1::{
    self, JobState, job_queue_client::JobQueueClient, queue_service_client::QueueServiceClient,
};
use prost::Message;
use tonic::transport::Channel;

use super::super::{
    latencies::now,
    load::Calls,
    place::BenchFolder,
    server::WORK,
    subject::{FILLING, MeasuredServer},
    wire::{Method, Wire, submit_body},
};

/// The queue that bears the burden.
pub(super) const ASIDE: &str = "aside";
/// Time limit of every wait.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two queries of the server.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A server with the queue [`ASIDE`].
pub(super) struct Aside {
    pub(super) subject: MeasuredServer,
    settings: v1::QueueSettings,
    jobs: JobQueueClient<Channel>,
    queues: QueueServiceClient<Channel>,
    wire: Wire,
    /// Number of jobs submitted to the idle queue.
    submitted: u64,
}

impl Aside {
    /// Starts a server with an empty store, and creates the queue.
    pub(super) async fn start(place: &BenchFolder, settings: v1::QueueSettings) -> anyhow::Result<Self> {
        let subject = MeasuredServer::empty(place).await?;
        let jobs = JobQueueClient::connect(subject.uri.clone()).await?;
        let mut queues = QueueServiceClient::connect(subject.uri.clone()).await?;
        let request = v1::CreateQueueRequest {
            name: ASIDE.to_owned(),
            settings: Some(settings.clone()),
            ..v1::CreateQueueRequest::default()
        };
        queues.create_queue(request).await?;
        let wire = Wire::connect(&subject.uri).await?;
        Ok(Aside { subject, settings, jobs, queues, wire, submitted: 0 })
    }

    /// Ends the server, after a check that its idle queue holds every submitted job.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.subject.expect(WORK, None, self.submitted).await?;
        self.subject.end().await
    }

    /// Counts jobs that a probe has submitted to the idle queue.
    pub(super) fn add_submitted(&mut self, jobs: u64) {
        self.submitted += jobs;
    }

    /// Submits a job to the idle queue.
    pub(super) async fn submit(&mut self) -> anyhow::Result<()> {
        self.wire.call(Method::Submit, submit_body(WORK, 0)).await?;
        self.submitted += 1;
        Ok(())
    }

    /// Submits equal jobs to the queue aside, in batches.
    pub(super) async fn fill(&self, job: v1::JobSpec, jobs: u64) -> anyhow::Result<()> {
        let size = jobs.min(FILLING);
        ensure!(jobs.is_multiple_of(size), "{jobs} jobs are no whole number of batches");
        let request = v1::SubmitBatchRequest {
            jobs: vec![job; usize::try_from(size)?],
            ..v1::SubmitBatchRequest::default()
        };
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: size };
        calls.make(&self.subject.uri, jobs / size, Bytes::from(request.encode_to_vec())).await
    }

    /// Purges the queue aside, and returns the number of deleted jobs.
    pub(super) async fn purge(&mut self) -> anyhow::Result<u64> {
        let request = v1::PurgeQueueRequest { name: ASIDE.to_owned(), ..v1::PurgeQueueRequest::default() };
        let answer = self.queues.purge_queue(request).await?;
        Ok(u64::try_from(answer.into_inner().deleted_jobs)?)
    }

    /// Sets the retention time of succeeded jobs in the queue aside.
    pub(super) async fn keep_succeeded(&mut self, time: Duration) -> anyhow::Result<()> {
        let keep = v1::keep::Keep::Time(prost_types::Duration::try_from(time)?);
        let succeeded = v1::Keep { keep: Some(keep) };
        let retention = v1::Retention { succeeded: Some(succeeded), ..v1::Retention::default() };
        let settings = v1::QueueSettings { retention: Some(retention), ..self.settings.clone() };
        let queue = v1::Queue {
            name: ASIDE.to_owned(),
            etag: "*".to_owned(),
            settings: Some(settings),
            ..v1::Queue::default()
        };
        let paths = vec!["settings".to_owned()];
        let request = v1::UpdateQueueRequest {
            queue: Some(queue),
            update_mask: Some(prost_types::FieldMask { paths }),
            ..v1::UpdateQueueRequest::default()
        };
        self.queues.update_queue(request).await?;
        Ok(())
    }

    /// Counts the jobs of the queue aside in these states, or in all states where none is given.
    pub(super) async fn count(&mut self, states: &[JobState]) -> anyhow::Result<u64> {
        let filter = v1::JobFilter {
            queues: vec![ASIDE.to_owned()],
            states: states.iter().map(|state| *state as i32).collect(),
            ..v1::JobFilter::default()
        };
        let request = v1::CountJobsRequest { filter: Some(filter), ..v1::CountJobsRequest::default() };
        let answer = self.jobs.count_jobs(request).await?;
        Ok(u64::try_from(answer.into_inner().total)?)
    }

    /// Waits until [`Self::count`] is `wanted`.
    pub(super) async fn until_count(&mut self, states: &[JobState], wanted: u64) -> anyhow::Result<()> {
        let begin = now();
        loop {
            let count = self.count(states).await?;
            if count == wanted {
                return Ok(());
            }
            if begin.elapsed() > TIME_LIMIT {
                bail!("{count} jobs are in {states:?} where {wanted} should be in the end");
            }
            pause().await;
        }
    }

    /// Waits until `wanted` callers wait for room in the queue aside.
    pub(super) async fn until_waiters(&mut self, wanted: u64) -> anyhow::Result<()> {
        let begin = now();
        loop {
            let request = v1::GetQueueRequest { name: ASIDE.to_owned(), ..v1::GetQueueRequest::default() };
            let answer = self.queues.get_queue(request).await?;
            let stats = answer.into_inner().queue.and_then(|queue| queue.stats);
            let waiters = u64::try_from(stats.context("a queue without stats")?.waiters)?;
            if waiters == wanted {
                return Ok(());
            }
            if begin.elapsed() > TIME_LIMIT {
                bail!("{waiters} callers wait for room where {wanted} should in the end");
            }
            pause().await;
        }
    }

    /// Waits until `wanted` attempts wait at the server's gate.
    pub(super) async fn until_at_gate(&mut self, wanted: u64) -> anyhow::Result<()> {
        let begin = now();
        loop {
            let waiting = self.subject.process.waiting_attempts().await?;
            if waiting == wanted {
                return Ok(());
            }
            if begin.elapsed() > TIME_LIMIT {
                bail!("{waiting} attempts run where {wanted} should in the end");
            }
            pause().await;
        }
    }
}

/// Sleeps between two queries of the server.
pub(super) async fn pause() {
    tokio::time::sleep(ASK_EVERY).await;
}
