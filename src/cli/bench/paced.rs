//! Latency at an open-loop pace: each call starts at its time, however long the earlier ones take.

use std::{
    collections::HashMap,
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use jobmill::proto::v1::{
    self, job_queue_client::JobQueueClient, submit_and_watch_response::Event as SubmitAndWatchEvent,
    watch_event::Event,
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::{
    latencies::{Latencies, now},
    server::WORK,
    wire::{Method, Wire, empty_body, job},
};

/// Number of calls that start in a second.
pub(super) const PACE: u32 = 200;
/// Time limit of a job.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Size of each write: about the growth of the store's log by a small commit.
const FLUSHED_BYTES: usize = 8 << 10;
/// Size of the file. It is written from the start again and again, as the store's log is, so that its length does not
/// change with each flush.
const FLUSH_FILE_BYTES: usize = 4 << 20;

/// Starts `call` at each tick, and returns the latencies.
async fn at_pace<F>(calls: usize, call: impl Fn() -> F) -> anyhow::Result<Latencies>
where
    F: Future<Output = anyhow::Result<Duration>> + Send + 'static,
{
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    for _ in 0..calls {
        ticks.tick().await;
        under_way.spawn(call());
    }
    let mut latencies = Latencies::default();
    while let Some(ended) = under_way.join_next().await {
        latencies.push(ended??);
    }
    Ok(latencies)
}

/// Measures empty calls.
pub(super) async fn empty_calls(uri: &str, calls: usize) -> anyhow::Result<Latencies> {
    let wire = Wire::connect(uri).await?;
    let body = empty_body();
    at_pace(calls, || {
        let (mut wire, body) = (wire.clone(), body.clone());
        async move {
            let start = now();
            wire.call(Method::EmptyCall, body).await?;
            Ok(start.elapsed())
        }
    })
    .await
}

/// Measures jobs by SubmitAndWatch, from the call to SUCCEEDED.
pub(super) async fn submit_and_watch(
    uri: &str,
    queue: &'static str,
    jobs: usize,
) -> anyhow::Result<Latencies> {
    let client = JobQueueClient::connect(uri.to_owned()).await?;
    at_pace(jobs, || {
        let client = client.clone();
        async move {
            let start = now();
            timeout(TIME_LIMIT, until_succeeded(client, queue)).await.context("a job was lost")??;
            Ok(start.elapsed())
        }
    })
    .await
}

async fn until_succeeded(mut client: JobQueueClient<Channel>, queue: &str) -> anyhow::Result<()> {
    let request =
        v1::SubmitAndWatchRequest { job: Some(job(queue, 0)), ..v1::SubmitAndWatchRequest::default() };
    let mut messages = client.submit_and_watch(request).await?.into_inner();
    while let Some(message) = messages.next().await {
        let Some(SubmitAndWatchEvent::Status(status)) = message?.event else { continue };
        if status.events.iter().filter_map(job_of).any(|job| job.state == v1::JobState::Succeeded as i32) {
            return Ok(());
        }
    }
    bail!("a watch ended before its job had succeeded")
}

fn job_of(event: &v1::WatchEvent) -> Option<&v1::Job> {
    match event.event.as_ref()? {
        Event::Updated(updated) => updated.job.as_deref(),
        Event::Snapshot(job) => Some(job),
        Event::Synced(_)
        | Event::Left(_)
        | Event::Deleted(_)
        | Event::NotFound(_)
        | Event::Bookmark(_)
        | Event::Closing(_)
        | Event::Resync(_)
        | Event::Output(_) => None,
    }
}

/// Measures jobs by Submit, from the call to SUCCEEDED as seen by a watch that was open before.
pub(super) async fn submit_beside_watch(uri: &str, jobs: usize) -> anyhow::Result<Latencies> {
    let client = JobQueueClient::connect(uri.to_owned()).await?;
    let mut watch = JobQueueClient::connect(uri.to_owned()).await?;
    let filter = v1::JobFilter {
        queues: vec![WORK.to_owned()],
        states: vec![v1::JobState::Succeeded as i32],
        ..v1::JobFilter::default()
    };
    let request = v1::WatchStatusRequest {
        filter: Some(filter),
        start: v1::WatchStart::Now as i32,
        ..v1::WatchStatusRequest::default()
    };
    let mut messages = watch.watch_status(request).await?.into_inner();
    let watching = async {
        let mut seen: HashMap<String, Instant> = HashMap::new();
        while seen.len() < jobs {
            let message = timeout(TIME_LIMIT, messages.next()).await.context("a job was lost")?;
            let message = message.context("the watch ended")??;
            let arrived = now();
            seen.extend(message.events.iter().filter_map(job_of).map(|job| (job.id.clone(), arrived)));
        }
        anyhow::Ok(seen)
    };
    let started = Arc::new(parking_lot::Mutex::new(HashMap::new()));
    let submitting = at_pace(jobs, || {
        let (mut client, started) = (client.clone(), Arc::clone(&started));
        async move {
            let start = now();
            let request = v1::SubmitRequest { job: Some(job(WORK, 0)), ..v1::SubmitRequest::default() };
            let answer = client.submit(request).await?.into_inner();
            started.lock().insert(answer.submitted.context("an answer without an id")?.id, start);
            Ok(start.elapsed())
        }
    });
    let (seen, _) = tokio::try_join!(watching, submitting)?;
    let started = started.lock();
    let latency = |(id, seen): (&String, &Instant)| started.get(id).map(|start| *seen - *start);
    let latencies: Latencies = seen.iter().filter_map(latency).collect();
    if latencies.count() != jobs {
        bail!("{} of {jobs} jobs were seen", latencies.count());
    }
    Ok(latencies)
}

/// Measures small writes to a file in the folder, each flushed: what the disk alone takes at this pace.
pub(super) async fn flushes(folder: &Path, count: usize) -> anyhow::Result<Latencies> {
    let path = folder.join("flushes");
    let flushes = tokio::task::spawn_blocking(move || {
        let mut file = File::create(&path)?;
        file.write_all(&vec![1; FLUSH_FILE_BYTES])?;
        file.sync_all()?;
        let bytes = vec![2; FLUSHED_BYTES];
        let (begin, mut latencies) = (now(), Latencies::default());
        for index in 0..count {
            let due = begin + Duration::from_secs(1) * index as u32 / PACE;
            std::thread::sleep(due.saturating_duration_since(now()));
            let start = now();
            let place = index * FLUSHED_BYTES % FLUSH_FILE_BYTES;
            file.seek(SeekFrom::Start(place as u64))?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            latencies.push(start.elapsed());
        }
        anyhow::Ok(latencies)
    });
    flushes.await?
}
