//! The cost of turns: jobs of many tenants in a fair queue, beside the same in a queue that is not fair.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use jobmill::proto::v1::{self, JobState, queue_service_client::QueueServiceClient};

use super::{
    backlog::thousands,
    end_to_end::{BY_BATCHES, EndToEnd},
    figures::Series,
    latencies::now,
    load::Calls,
    report::Bounds,
    server::CONSUMERS,
    session::Bench,
    subject::{FILLING, MeasuredServer},
    wire::{Method, TENANT, batch_of_tenants},
};

const QUEUE: &str = "turns";
/// Number of jobs of each tenant in a backlog.
const JOBS_OF_TENANT: u64 = 20;
/// Pause between two looks at what is left of a backlog.
const LOOK: Duration = Duration::from_millis(5);
/// Time limit for a backlog to end.
const END_TIME: Duration = Duration::from_secs(300);

impl Bench {
    /// Measures how fast a backlog of many values ends in turns.
    pub(super) async fn turns(&mut self) -> anyhow::Result<()> {
        let jobs = self.sizes.warming;
        let tenants = usize::try_from(jobs / JOBS_OF_TENANT)?;
        let fair = MeasuredServer::empty(&self.place).await?;
        let plain = MeasuredServer::empty(&self.place).await?;
        create_queue(&fair, QUEUE, TENANT).await?;
        create_queue(&plain, QUEUE, "").await?;
        let load = EndToEnd { tenants, ..BY_BATCHES.to(QUEUE) };
        let (mut at_once, mut backlog) = (Series::default(), Series::default());
        let (mut ran_fair, mut ran_plain) = (0, 0);
        for _ in 0..self.pairs {
            self.step("end to end in turns".to_owned());
            let in_turns = load.run(&fair.uri, self.run).await?;
            self.step("end to end without turns".to_owned());
            let without = load.run(&plain.uri, self.run).await?;
            at_once.add(in_turns.rate, without.rate);
            (ran_fair, ran_plain) = (ran_fair + in_turns.done + jobs, ran_plain + without.done + jobs);
            let batch = FILLING as usize;
            let body = move |number| batch_of_tenants(QUEUE, number as usize * batch, batch, (tenants, 0));
            let in_turns = self.backlog_rate(&fair, QUEUE, jobs, body, "in turns").await?;
            backlog.add(in_turns, self.backlog_rate(&plain, QUEUE, jobs, body, "without turns").await?);
        }
        for (subject, ran) in [(fair, ran_fair), (plain, ran_plain)] {
            subject.expect(QUEUE, Some(JobState::Succeeded), ran).await?;
            subject.end().await?;
        }
        let tenants = thousands(tenants as u64);
        let name = format!("end to end, by batches of 1,000, {tenants} values in turns");
        self.figures.push(at_once.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.8, 0.6)));
        let name = format!("a backlog of {tenants} values in turns");
        self.figures.push(backlog.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.4, 0.25)));
        Ok(())
    }

    /// Fills a paused queue with batches, and returns the rate at which its jobs end.
    pub(super) async fn backlog_rate(
        &self,
        subject: &MeasuredServer,
        queue: &str,
        jobs: u64,
        body: impl Fn(u64) -> Bytes + Clone + Send + 'static,
        how: &str,
    ) -> anyhow::Result<f64> {
        self.step(format!("a backlog {how}"));
        subject.set_paused(queue, true).await?;
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: FILLING };
        calls.make_each(&subject.uri, jobs.div_ceil(FILLING), body).await?;
        let begin = now();
        subject.set_paused(queue, false).await?;
        while subject.count(queue, Some(JobState::Queued)).await?
            + subject.count(queue, Some(JobState::Running)).await?
            > 0
        {
            ensure!(begin.elapsed() < END_TIME, "the backlog does not end");
            tokio::time::sleep(LOOK).await;
        }
        Ok(jobs as f64 / begin.elapsed().as_secs_f64())
    }
}

/// Creates a queue with slots for all jobs that are under way.
pub(super) async fn create_queue(subject: &MeasuredServer, name: &str, fair_by: &str) -> anyhow::Result<()> {
    let settings = v1::QueueSettings {
        max_jobs: Some(10_000_000),
        max_bytes: Some(1 << 34),
        consumers: Some(i32::try_from(CONSUMERS)?),
        fair_by: fair_by.to_owned(),
        ..v1::QueueSettings::default()
    };
    let request = v1::CreateQueueRequest {
        name: name.to_owned(),
        settings: Some(settings),
        ..v1::CreateQueueRequest::default()
    };
    QueueServiceClient::connect(subject.uri.clone()).await?.create_queue(request).await?;
    Ok(())
}
