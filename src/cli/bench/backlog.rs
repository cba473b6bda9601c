//! The figures of a store with many waiting jobs.

use std::sync::Arc;

use jobmill::proto::v1::{self, JobState, job_queue_client::JobQueueClient};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    end_to_end::{BY_BATCHES, EndToEnd},
    figures::{Series, median, submits},
    load::LoadResult,
    report::{Bounds, Figure},
    server::{INTAKE, WORK},
    session::Bench,
    subject::{FILLING, MeasuredServer},
    wire::submit_body,
};

pub(super) const MIB: f64 = 1024.0 * 1024.0;
const IN_FLIGHT: usize = 64;
/// Page size of a client that lists jobs.
const PAGE: i32 = 1_000;
/// Priority of the waiting jobs in the measured queue: lower than that of the measured jobs.
const BEHIND: i32 = -1;
const AHEAD: i32 = 1;
const GOAL: Bounds = Bounds::ratio_at_least(0.8, 0.6);
/// Number of memory measurements.
const MEMORY_TIMES: usize = 3;

impl Bench {
    /// Measures rates, memory and restarts with many waiting jobs.
    pub(super) async fn backlog(&mut self) -> anyhow::Result<()> {
        let waiting = self.sizes.waiting;
        let empty = MeasuredServer::empty(&self.place).await?;
        let aside = MeasuredServer::empty(&self.place).await?;
        let behind = MeasuredServer::empty(&self.place).await?;
        self.step("filling a queue".to_owned());
        aside.fill(INTAKE, 0, waiting).await?;
        aside.expect(INTAKE, None, waiting).await?;
        self.step("filling a queue".to_owned());
        behind.set_paused(WORK, true).await?;
        behind.fill(WORK, BEHIND, waiting).await?;

        // All three servers do the same work, so that their stores hold about the same ended jobs.
        let (mut run_aside, mut run_behind) = (Series::default(), Series::default());
        for _ in 0..self.pairs {
            let alone = self.end_to_end_rate(&empty, "an empty store").await?;
            run_aside.add(self.end_to_end_rate(&aside, "others waiting").await?, alone);
            run_behind.add(self.end_to_end_behind(&behind).await?, alone);
        }
        let (mut submit_aside, mut submit_behind) = (Series::default(), Series::default());
        for _ in 0..self.pairs {
            let alone = self.intake(&empty, INTAKE, "an empty store").await?.rate;
            submit_aside.add(self.intake(&aside, INTAKE, "others waiting").await?.rate, alone);
            submit_behind.add(self.intake(&behind, WORK, "others waiting in the queue").await?.rate, alone);
        }
        behind.end().await?;
        let name = |what: &str, place: &str| format!("{what}, {} waiting {place}", thousands(waiting));
        for (series, place) in [(&submit_aside, "in another queue"), (&submit_behind, "in the same queue")] {
            self.figures.push(series.figure(name("Submit, 64 in flight", place), "jobs/s").bounds(GOAL));
        }
        for (series, place) in [(&run_aside, "in another queue"), (&run_behind, "in the same queue")] {
            let what = "end to end, by batches of 1,000";
            self.figures.push(series.figure(name(what, place), "jobs/s").bounds(GOAL));
        }
        empty.end().await?;
        self.lister(&aside).await?;
        let aside = self.restarts(aside).await?;
        self.memory(aside, &format!("{} waiting", thousands(waiting))).await
    }

    async fn end_to_end_rate(&self, subject: &MeasuredServer, with: &str) -> anyhow::Result<f64> {
        self.step(format!("end to end with {with}"));
        Ok(BY_BATCHES.run(&subject.uri, self.run).await?.rate)
    }

    /// Measures jobs that run ahead of waiting ones. All slots are always busy here, because waiting jobs take each
    /// that is free for a moment. These jobs are counted, too, and are replaced afterwards.
    async fn end_to_end_behind(&self, subject: &MeasuredServer) -> anyhow::Result<f64> {
        self.step("end to end with others waiting in the queue".to_owned());
        subject.set_paused(WORK, false).await?;
        let load = EndToEnd { priority: AHEAD, ..BY_BATCHES };
        let rate = load.run(&subject.uri, self.run).await?.rate;
        subject.set_paused(WORK, true).await?;
        let left = subject.count(WORK, Some(JobState::Queued)).await?;
        subject.fill(WORK, BEHIND, self.sizes.waiting.saturating_sub(left)).await?;
        Ok(rate)
    }

    async fn intake(&self, subject: &MeasuredServer, queue: &str, with: &str) -> anyhow::Result<LoadResult> {
        self.step(format!("Submit with {with}"));
        let body = submit_body(queue, 0);
        submits(IN_FLIGHT).run(&subject.uri, self.run, move || body.clone()).await
    }

    /// Measures Submit beside a client that lists all jobs, page by page.
    async fn lister(&mut self, subject: &MeasuredServer) -> anyhow::Result<()> {
        let submits = submits(IN_FLIGHT);
        let body = submit_body(INTAKE, 0);
        let (mut alone, mut beside, mut pages) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.pairs {
            self.step("Submit without a lister".to_owned());
            let mut latencies = submits.latencies(&subject.uri, self.run, body.clone()).await?;
            alone.push(latencies.quantile(0.999).as_secs_f64() * 1e3);
            self.step("Submit beside a lister".to_owned());
            let mut listing = JoinSet::new();
            let (listed, uri) = (Arc::new(Semaphore::new(0)), subject.uri.clone());
            listing.spawn(list(uri, Arc::clone(&listed)));
            let mut latencies = submits.latencies(&subject.uri, self.run, body.clone()).await?;
            beside.push(latencies.quantile(0.999).as_secs_f64() * 1e3);
            if let Some(ended) = listing.try_join_next() {
                ended??;
            }
            listing.shutdown().await;
            pages += listed.available_permits();
        }
        anyhow::ensure!(pages > 0, "the lister listed nothing");
        let ratio = median(&beside) / median(&alone);
        self.figures.push(Figure::new("Submit, 64 in flight, p99.9", median(&alone), "ms"));
        let name = "Submit, 64 in flight, p99.9, beside a client that lists all jobs";
        self.figures.push(Figure::new(name, median(&beside), "ms").ratio(ratio));
        Ok(())
    }

    async fn restarts(&mut self, mut subject: MeasuredServer) -> anyhow::Result<MeasuredServer> {
        let mut seconds = Vec::new();
        for _ in 0..self.pairs {
            self.step("restarting".to_owned());
            let (again, took) = subject.crashed().await?;
            seconds.push(took);
            subject = again;
        }
        let name = format!("restart after a crash, {} waiting", thousands(self.sizes.waiting));
        let figure = Figure::new(name, median(&seconds), "s");
        self.figures.push(figure.bounds(Bounds::value_at_most(2.0)));
        Ok(subject)
    }

    /// Measures the memory of a server beside an empty one; `what` names what it holds. Both servers are fresh processes
    /// that have run the same jobs, so that their caches are equally warm.
    pub(super) async fn memory(&mut self, mut full: MeasuredServer, what: &str) -> anyhow::Result<()> {
        let mut empty = MeasuredServer::empty(&self.place).await?;
        let (mut with_none, mut with_many) = (Vec::new(), Vec::new());
        for _ in 0..MEMORY_TIMES {
            empty = empty.restarted().await?;
            full = full.restarted().await?;
            for (subject, resident) in [(&empty, &mut with_none), (&full, &mut with_many)] {
                self.step("memory".to_owned());
                BY_BATCHES.run_jobs(&subject.uri, self.sizes.warming).await?;
                resident.extend(subject.process.resident_bytes().map(|bytes| bytes as f64 / MIB));
            }
        }
        empty.end().await?;
        full.end().await?;
        if with_none.is_empty() {
            // This system does not report resident memory.
            return Ok(());
        }
        let (without, with) = (median(&with_none), median(&with_many));
        self.figures.push(Figure::new("resident memory, empty store", without, "MiB"));
        self.figures.push(Figure::new(format!("resident memory, {what}"), with, "MiB"));
        let more = Figure::new(format!("resident memory, {what}: more by"), with - without, "MiB");
        self.figures.push(more.bounds(Bounds::value_at_most(64.0)));
        Ok(())
    }
}

/// Lists all jobs again and again, and counts the pages.
async fn list(uri: String, pages: Arc<Semaphore>) -> anyhow::Result<()> {
    let mut client = JobQueueClient::connect(uri).await?;
    let mut page_token = String::new();
    loop {
        let request = v1::ListJobsRequest { page_size: PAGE, page_token, ..Default::default() };
        page_token = client.list_jobs(request).await?.into_inner().next_page_token;
        pages.add_permits(1);
    }
}

/// Formats a number of thousands, or a smaller number.
pub(super) fn thousands(number: u64) -> String {
    match number / FILLING {
        0 => number.to_string(),
        1_000 => "1 million".to_owned(),
        thousands => format!("{thousands},000"),
    }
}
