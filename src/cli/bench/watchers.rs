//! The cost of many idle watchers: memory, and the throughput of jobs that they don't watch.

use std::sync::Arc;

use anyhow::Context;
use jobmill::proto::v1::{self, JobState, job_queue_client::JobQueueClient};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_stream::StreamExt;

use super::{
    end_to_end::BY_BATCHES,
    figures::Series,
    report::{Bounds, Figure},
    server::{INTAKE, WORK},
    session::Bench,
    subject::MeasuredServer,
    wire::Wire,
};

/// Number of watches that share a connection.
const WATCHES_PER_CONNECTION: usize = 90;
/// Number of watches that are opened at once.
const OPENED_AT_ONCE: usize = 64;
const PAGE: usize = 1_000;
const KIB: f64 = 1024.0;

impl Bench {
    /// Measures idle watchers by id and by filter, beside a server without any.
    pub(super) async fn watchers(&mut self) -> anyhow::Result<()> {
        let (by_id, by_filter) = (self.sizes.watchers_by_id, self.sizes.watchers_by_filter);
        let alone = MeasuredServer::empty(&self.place).await?;
        let watched = MeasuredServer::empty(&self.place).await?;
        watched.fill(INTAKE, 0, by_id as u64).await?;
        // A fresh process has no freed memory yet that it could give to watchers.
        let watched = watched.restarted().await?;
        let ids = ids(&watched.uri, by_id).await?;
        let mut open = JoinSet::new();
        let resident = || watched.process.resident_bytes().map(|bytes| bytes as f64);
        let before = resident();
        self.step(format!("opening {by_filter} watches by filter"));
        let filter = v1::JobFilter {
            queues: vec![INTAKE.to_owned()],
            states: vec![JobState::Succeeded as i32],
            ..Default::default()
        };
        let request = v1::WatchStatusRequest {
            filter: Some(filter),
            start: v1::WatchStart::Now as i32,
            ..Default::default()
        };
        watch(&watched.uri, vec![request; by_filter], &mut open).await?;
        let with_filters = resident();
        self.step(format!("opening {by_id} watches by id"));
        let requests =
            ids.into_iter().map(|id| v1::WatchStatusRequest { ids: vec![id], ..Default::default() });
        watch(&watched.uri, requests.collect(), &mut open).await?;
        let with_all = resident();
        for subject in [&alone, &watched] {
            self.step("warming up".to_owned());
            BY_BATCHES.run_jobs(&subject.uri, self.sizes.warming).await?;
        }

        let mut series = Series::default();
        for _ in 0..self.pairs {
            self.step("end to end beside watchers".to_owned());
            let beside = BY_BATCHES.run(&watched.uri, self.run).await?.rate;
            self.step("end to end without watchers".to_owned());
            series.add(beside, BY_BATCHES.run(&alone.uri, self.run).await?.rate);
        }
        // The watches were open all the time.
        anyhow::ensure!(open.try_join_next().is_none(), "an idle watch ended");
        watched.expect(WORK, Some(JobState::Succeeded), watched.count(WORK, None).await?).await?;
        open.shutdown().await;
        watched.end().await?;
        alone.end().await?;

        if let (Some(before), Some(with_filters), Some(with_all)) = (before, with_filters, with_all) {
            let each = |more: f64, count: usize| more / count as f64 / KIB;
            let by_id_each = each(with_all - with_filters, by_id);
            let by_filter_each = each(with_filters - before, by_filter);
            self.figures.push(Figure::new("resident memory for each idle watcher by id", by_id_each, "KiB"));
            self.figures.push(Figure::new(
                "resident memory for each idle watcher by filter",
                by_filter_each,
                "KiB",
            ));
        }
        let name = format!(
            "end to end, by batches of 1,000, beside {by_id} idle watchers by id and {by_filter} by filter"
        );
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.9, 0.8)));
        Ok(())
    }
}

/// Returns the ids of some waiting jobs.
async fn ids(uri: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut client = JobQueueClient::connect(uri.to_owned()).await?;
    let (mut ids, mut page_token) = (Vec::with_capacity(count), String::new());
    while ids.len() < count {
        let filter = v1::JobFilter { queues: vec![INTAKE.to_owned()], ..Default::default() };
        let request = v1::ListJobsRequest {
            filter: Some(filter),
            page_size: PAGE as i32,
            page_token,
            ..Default::default()
        };
        let page = client.list_jobs(request).await?.into_inner();
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        page_token = page.next_page_token;
        anyhow::ensure!(!page_token.is_empty() || ids.len() >= count, "there are too few jobs to watch");
    }
    ids.truncate(count);
    Ok(ids)
}

/// Opens watches, which go on in `open`. Returns once each has sent its first message.
async fn watch(
    uri: &str,
    requests: Vec<v1::WatchStatusRequest>,
    open: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let wires = Wire::connect_many(uri, requests.len().div_ceil(WATCHES_PER_CONNECTION)).await?;
    let turns = Arc::new(Semaphore::new(OPENED_AT_ONCE));
    let up = Arc::new(Semaphore::new(0));
    let count = u32::try_from(requests.len())?;
    for (request, wire) in requests.into_iter().zip(wires.iter().cycle()) {
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let (mut wire, up) = (wire.clone(), Arc::clone(&up));
        open.spawn(async move {
            let mut messages = wire.watch::<()>(&request).await?;
            messages.next().await.context("a watch ended at once")??;
            up.add_permits(1);
            drop(turn);
            while let Some(message) = messages.next().await {
                message?;
            }
            anyhow::bail!("an idle watch was ended")
        });
    }
    tokio::select! {
        all = up.acquire_many(count) => drop(all?),
        Some(ended) = open.join_next() => ended??,
    }
    Ok(())
}
