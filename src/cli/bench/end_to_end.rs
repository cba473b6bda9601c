//! Jobs from Submit to SUCCEEDED, seen by a watcher. None may be lost on the way.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tokio_stream::StreamExt;
use tonic::Streaming;

use super::{
    load::{LoadResult, Meter, Run, measure},
    server::WORK,
    streams::{STREAMS, SubmitStream},
    wire::{LeanWatch, Method, Wire, batch_body, batch_of_tenants, submit_body},
};

/// Limit of the jobs under way. It is below the number of slots, so that each job finds a free slot when it comes.
pub(super) const UNDER_WAY_MAX: usize = 4_000;
/// Time limit until the watcher has seen the last jobs.
const TIME_LIMIT: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 4;

/// How jobs are submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndToEnd {
    /// Submit, SubmitBatch or SubmitStream.
    pub(super) method: Method,
    /// Submissions under way at once, or streams.
    pub(super) in_flight: usize,
    /// Jobs of one submission: more than 1 for SubmitBatch only.
    pub(super) batch: usize,
    /// The queue of the jobs.
    pub(super) queue: &'static str,
    /// The priority of the jobs. The watcher counts jobs of other priorities, too, which were not submitted here.
    pub(super) priority: i32,
    /// Number of values of the label by which a queue is fair, among the jobs of batches; 0: none has it.
    pub(super) tenants: usize,
    /// Number of values of a second label among them; 0: none has it.
    pub(super) endpoints: usize,
}

/// Jobs submitted one by one.
pub(super) const BY_CALLS: EndToEnd = EndToEnd {
    method: Method::Submit,
    in_flight: 64,
    batch: 1,
    queue: WORK,
    priority: 0,
    tenants: 0,
    endpoints: 0,
};
/// Jobs submitted in batches of 1,000.
pub(super) const BY_BATCHES: EndToEnd = EndToEnd {
    method: Method::SubmitBatch,
    in_flight: 4,
    batch: 1_000,
    queue: WORK,
    priority: 0,
    tenants: 0,
    endpoints: 0,
};
/// Jobs submitted on streams.
pub(super) const BY_STREAMS: EndToEnd = EndToEnd {
    method: Method::SubmitStream,
    in_flight: STREAMS,
    batch: 1,
    queue: WORK,
    priority: 0,
    tenants: 0,
    endpoints: 0,
};

impl EndToEnd {
    /// Returns the same submissions to another queue.
    pub(super) fn to(self, queue: &'static str) -> Self {
        EndToEnd { queue, ..self }
    }

    /// Submits and watches for the duration of a run, and until every submitted job has been seen.
    pub(super) async fn run(self, uri: &str, run: Run) -> anyhow::Result<LoadResult> {
        let seen = Arc::new(Meter::default());
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let submitted = Arc::new(Meter::default());
        let mut watching = JoinSet::new();
        // Opened before the first job is submitted, because it begins with the next change.
        let messages = Wire::connect(uri).await?.watch_successes(self.queue).await?;
        watching.spawn(watch(messages, self.priority, Arc::clone(&seen), Arc::clone(&room)));
        let mut loops = JoinSet::new();
        let wires = Wire::connect_many(uri, self.in_flight.min(CONNECTIONS)).await?;
        for wire in wires.iter().cycle().take(self.in_flight) {
            let (wire, seen, submitted) = (wire.clone(), Arc::clone(&seen), Arc::clone(&submitted));
            let room = Arc::clone(&room);
            if let Method::SubmitStream = self.method {
                let stream = SubmitStream {
                    wire,
                    queue: self.queue,
                    priority: self.priority,
                    room: Some(room),
                    stopping: seen,
                    accepted: submitted,
                };
                loops.spawn(stream.run());
            } else {
                loops.spawn(self.submit(wire, room, seen, submitted));
            }
        }
        let rate = tokio::select! {
            rate = measure(loops, &seen, run) => rate?,
            Some(ended) = watching.join_next() => {
                ended??;
                bail!("the watch ended by itself");
            }
        };
        // Every job returns its permit when it is seen.
        let all = room.acquire_many(UNDER_WAY_MAX as u32);
        let all_seen = tokio::select! {
            all_seen = timeout(TIME_LIMIT, all) => all_seen.is_ok(),
            Some(ended) = watching.join_next() => {
                ended??;
                false
            }
        };
        if !all_seen {
            let missing = UNDER_WAY_MAX - room.available_permits();
            bail!("{missing} of {} jobs were never seen SUCCEEDED", submitted.done());
        }
        if room.available_permits() > UNDER_WAY_MAX {
            let surplus = room.available_permits() - UNDER_WAY_MAX;
            bail!("{surplus} jobs were seen SUCCEEDED more than once");
        }
        Ok(LoadResult { rate, done: seen.done() })
    }

    /// Runs at least this number of jobs, as fast as possible.
    pub(super) async fn run_jobs(self, uri: &str, jobs: u64) -> anyhow::Result<()> {
        let step = Run { warm_up: Duration::ZERO, counted: Duration::from_millis(200) };
        let mut done = 0;
        while done < jobs {
            done += self.run(uri, step).await?.done;
        }
        Ok(())
    }

    async fn submit(
        self,
        mut wire: Wire,
        room: Arc<Semaphore>,
        seen: Arc<Meter>,
        submitted: Arc<Meter>,
    ) -> anyhow::Result<()> {
        let bodies = match (self.batch, self.tenants) {
            (1, _) => vec![submit_body(self.queue, self.priority)],
            (batch, 0) => vec![batch_body(self.queue, self.priority, batch)],
            (batch, tenants) => {
                let first = (0..tenants * self.endpoints.max(1)).step_by(batch);
                first
                    .map(|first| batch_of_tenants(self.queue, first, batch, (tenants, self.endpoints)))
                    .collect()
            }
        };
        for body in bodies.iter().cycle() {
            if seen.is_stopped() {
                break;
            }
            room.acquire_many(self.batch as u32).await?.forget();
            wire.call(self.method, body.clone()).await?;
            submitted.add(self.batch as u64);
        }
        Ok(())
    }
}

async fn watch(
    mut messages: Streaming<LeanWatch>,
    priority: i32,
    seen: Arc<Meter>,
    room: Arc<Semaphore>,
) -> anyhow::Result<()> {
    while let Some(message) = messages.next().await {
        let jobs =
            message.context("the watch failed")?.events.into_iter().filter_map(|event| event.updated?.job);
        let (mut all, mut own) = (0, 0);
        for job in jobs.filter(|job| job.done) {
            all += 1;
            own += usize::from(job.spec.unwrap_or_default().priority == priority);
        }
        seen.add(all);
        room.add_permits(own);
    }
    Ok(())
}
