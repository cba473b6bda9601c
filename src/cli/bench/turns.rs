//! The cost of turns: a backlog of many values in a fair queue, beside the same in a queue that is not fair.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use jobmill::proto::v1::{self, JobState, queue_service_client::QueueServiceClient};

use super::{
    backlog::thousands,
    figures::Series,
    latencies::now,
    load::Calls,
    report::Bounds,
    server::CONSUMERS,
    session::Bench,
    subject::{FILLING, MeasuredServer},
    wire::{Method, batch_of, job},
};

const QUEUE: &str = "turns";
const LABEL: &str = "tenant";
/// Number of jobs of each value in a backlog.
const JOBS_OF_VALUE: u64 = 20;
/// Pause between two looks at what is left of a backlog.
const LOOK: Duration = Duration::from_millis(5);
/// Time limit for a backlog to end.
const END_TIME: Duration = Duration::from_secs(300);
const GOAL: Bounds = Bounds::ratio_at_least(0.8, 0.6);

impl Bench {
    /// Measures how fast a backlog of many values ends in turns.
    pub(super) async fn turns(&mut self) -> anyhow::Result<()> {
        let jobs = self.sizes.warming;
        let values = jobs / JOBS_OF_VALUE;
        let fair = MeasuredServer::empty(&self.place).await?;
        let plain = MeasuredServer::empty(&self.place).await?;
        create_queue(&fair, LABEL).await?;
        create_queue(&plain, "").await?;
        let mut series = Series::default();
        for _ in 0..self.pairs {
            let in_turns = self.backlog_rate(&fair, jobs, values, "in turns").await?;
            series.add(in_turns, self.backlog_rate(&plain, jobs, values, "without turns").await?);
        }
        for subject in [fair, plain] {
            subject.expect(QUEUE, Some(JobState::Succeeded), jobs * self.pairs as u64).await?;
            subject.end().await?;
        }
        let name = format!("a backlog of {} values in turns", thousands(values));
        self.figures.push(series.figure(name, "jobs/s").bounds(GOAL));
        Ok(())
    }

    /// Fills a paused queue, and returns the rate at which its jobs end.
    async fn backlog_rate(
        &self,
        subject: &MeasuredServer,
        jobs: u64,
        values: u64,
        how: &str,
    ) -> anyhow::Result<f64> {
        self.step(format!("a backlog {how}"));
        subject.set_paused(QUEUE, true).await?;
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: FILLING };
        calls.make_each(&subject.uri, jobs.div_ceil(FILLING), move |number| batch(number, values)).await?;
        let begin = now();
        subject.set_paused(QUEUE, false).await?;
        while subject.count(QUEUE, Some(JobState::Queued)).await?
            + subject.count(QUEUE, Some(JobState::Running)).await?
            > 0
        {
            ensure!(begin.elapsed() < END_TIME, "the backlog does not end");
            tokio::time::sleep(LOOK).await;
        }
        Ok(jobs as f64 / begin.elapsed().as_secs_f64())
    }
}

fn batch(number: u64, values: u64) -> Bytes {
    let of = |index: u64| v1::JobSpec {
        labels: [(LABEL.to_owned(), format!("tenant-{}", (number * FILLING + index) % values))].into(),
        ..job(QUEUE, 0)
    };
    batch_of((0..FILLING).map(of).collect())
}

async fn create_queue(subject: &MeasuredServer, fair_by: &str) -> anyhow::Result<()> {
    let settings = v1::QueueSettings {
        max_jobs: Some(10_000_000),
        max_bytes: Some(1 << 34),
        consumers: Some(i32::try_from(CONSUMERS)?),
        fair_by: fair_by.to_owned(),
        ..v1::QueueSettings::default()
    };
    let request = v1::CreateQueueRequest {
        name: QUEUE.to_owned(),
        settings: Some(settings),
        ..v1::CreateQueueRequest::default()
    };
    QueueServiceClient::connect(subject.uri.clone()).await?.create_queue(request).await?;
    Ok(())
}
