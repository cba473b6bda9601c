//! Jobs through remote workers, beside jobs that the server runs itself; and what idle workers cost.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use jobmill::proto::v1::{
    self, JobState, server_frame, worker_frame::Frame as Said, worker_service_client::WorkerServiceClient,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    end_to_end::{BY_BATCHES, BY_STREAMS, UNDER_WAY_MAX},
    figures::Series,
    latencies::Latencies,
    load::Calls,
    paced::{self, PACE},
    process::{ServerProcess, Serves},
    report::{Bounds, Figure},
    server::{KIND, REMOTE, UNSERVED, WORK},
    session::Bench,
    subject::{FILLING, MeasuredServer},
    wire::{Method, batch_of, job},
};

/// Numbers of workers that run jobs.
const WORKERS: [usize; 3] = [1, 4, 16];
/// Number of workers for latencies and beside a backlog.
const FEW: usize = 4;
/// Number of streams that share a connection.
const STREAMS_PER_CONNECTION: usize = 90;
/// Number of streams that are opened at once.
const OPENED_AT_ONCE: usize = 32;
const KIB: f64 = 1024.0;

impl Bench {
    async fn start_workers(&self, subject: &MeasuredServer, workers: usize) -> anyhow::Result<ServerProcess> {
        let concurrency = UNDER_WAY_MAX / workers;
        let serves = Serves::Work { uri: &subject.uri, workers, concurrency };
        ServerProcess::start(serves, &self.place.folder().join("workers.log")).await
    }

    /// Measures jobs through remote workers.
    pub(super) async fn workers(&mut self) -> anyhow::Result<()> {
        self.remote_rates().await?;
        self.remote_latency().await?;
        self.unserved_ahead().await?;
        self.idle_workers().await
    }

    async fn remote_rates(&mut self) -> anyhow::Result<()> {
        let subject = MeasuredServer::empty(&self.place).await?;
        let mut series = WORKERS.map(|workers| (workers, Series::default()));
        let mut here = Vec::new();
        let mut done = 0;
        for _ in 0..self.pairs {
            self.step("end to end, on streams, in the server".to_owned());
            let ceiling = BY_STREAMS.run(&subject.uri, self.run).await?.rate;
            here.push(ceiling);
            for (workers, series) in &mut series {
                self.step(format!("end to end, on streams, {workers} remote workers"));
                let process = self.start_workers(&subject, *workers).await?;
                let loaded = BY_STREAMS.to(REMOTE).run(&subject.uri, self.run).await?;
                done += loaded.done;
                series.add(loaded.rate, ceiling);
                process.stop().await?;
            }
        }
        subject.expect(REMOTE, Some(JobState::Succeeded), done).await?;
        subject.expect(REMOTE, None, done).await?;
        subject.end().await?;
        let here = super::figures::median(&here);
        self.figures.push(Figure::new("end to end, on 4 SubmitStreams, in the server", here, "jobs/s"));
        for (workers, series) in series {
            let name = match workers {
                1 => "end to end, on 4 SubmitStreams, 1 remote worker".to_owned(),
                _ => format!("end to end, on 4 SubmitStreams, {workers} remote workers"),
            };
            self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.4, 0.3)));
        }
        Ok(())
    }

    async fn remote_latency(&mut self) -> anyhow::Result<()> {
        let mut subject = MeasuredServer::empty(&self.place).await?;
        let process = self.start_workers(&subject, FEW).await?;
        let [mut here, mut remote] = [(); 2].map(|()| Latencies::default());
        for queue in [WORK, REMOTE] {
            paced::submit_and_watch(&subject.uri, queue, PACE as usize / 2).await?;
        }
        let count = self.paced_calls();
        for _ in 0..self.pairs {
            self.step(format!("SubmitAndWatch at {PACE} a second, in the server"));
            here.add(paced::submit_and_watch(&subject.uri, WORK, count).await?);
            self.step(format!("SubmitAndWatch at {PACE} a second, remote workers"));
            remote.add(paced::submit_and_watch(&subject.uri, REMOTE, count).await?);
        }
        let received = subject.process.received_millis().await?;
        process.stop().await?;
        subject.end().await?;
        let millis = |latencies: &mut Latencies, part| latencies.quantile(part).as_secs_f64() * 1e3;
        let floor = millis(&mut here, 0.5);
        for (place, latencies) in [("in the server", &mut here), ("remote workers", &mut remote)] {
            for (part, part_name) in [(0.5, "p50"), (0.99, "p99")] {
                let value = millis(latencies, part);
                let name = format!("SubmitAndWatch to SUCCEEDED, {PACE} a second, {place}, {part_name}");
                let mut figure = Figure::new(name, value, "ms").samples(latencies.count());
                if part == 0.5 && place == "remote workers" {
                    figure = figure.ratio(value / floor).bounds(Bounds::ratio_at_most(1.5, 2.5));
                }
                self.figures.push(figure);
            }
        }
        for (value, part_name) in received.into_iter().zip(["p50", "p99"]) {
            let name = format!("commit of a claim to its receipt, {PACE} a second, {part_name}");
            self.figures.push(Figure::new(name, value, "ms"));
        }
        Ok(())
    }

    /// Measures remote workers behind waiting jobs of a kind that nothing serves.
    async fn unserved_ahead(&mut self) -> anyhow::Result<()> {
        let alone = MeasuredServer::empty(&self.place).await?;
        let behind = MeasuredServer::empty(&self.place).await?;
        let waiting = self.sizes.waiting;
        self.step(format!("adding {waiting} jobs of an unserved kind"));
        let unserved = v1::JobSpec { kind: UNSERVED.to_owned(), priority: Some(100), ..job(REMOTE, 0) };
        let calls = Calls { method: Method::SubmitBatch, in_flight: 4, worth: FILLING };
        let body = batch_of(vec![unserved; usize::try_from(FILLING)?]);
        calls.make(&behind.uri, waiting.div_ceil(FILLING), body).await?;
        let processes = [self.start_workers(&alone, FEW).await?, self.start_workers(&behind, FEW).await?];
        for subject in [&alone, &behind] {
            BY_BATCHES.to(REMOTE).run_jobs(&subject.uri, self.sizes.warming / 10).await?;
        }
        let mut series = Series::default();
        for _ in 0..self.pairs {
            self.step("remote workers behind an unserved kind".to_owned());
            let rate = BY_BATCHES.to(REMOTE).run(&behind.uri, self.run).await?.rate;
            self.step("remote workers alone".to_owned());
            series.add(rate, BY_BATCHES.to(REMOTE).run(&alone.uri, self.run).await?.rate);
        }
        for process in processes {
            process.stop().await?;
        }
        alone.end().await?;
        behind.end().await?;
        let name = format!("remote workers, {waiting} jobs of an unserved kind ahead");
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.95, 0.85)));
        Ok(())
    }

    async fn idle_workers(&mut self) -> anyhow::Result<()> {
        let workers = self.sizes.idle_workers;
        let subject = MeasuredServer::empty(&self.place).await?;
        let resident = || subject.process.resident_bytes().map(|bytes| bytes as f64);
        self.step(format!("opening {workers} idle workers"));
        let before = resident();
        let mut open = open_idle(&subject.uri, workers).await?;
        let with = resident();
        self.step("idle workers".to_owned());
        let processor = subject.process.processor_seconds();
        tokio::time::sleep(self.idle_time()).await;
        let used = subject.process.processor_seconds().zip(processor).map(|(after, before)| after - before);
        anyhow::ensure!(open.try_join_next().is_none(), "an idle worker was sent away");
        open.shutdown().await;
        subject.end().await?;
        if let Some((with, before)) = with.zip(before) {
            let each = (with - before) / workers as f64 / KIB;
            let name = format!("memory of an idle worker, {workers} of them");
            self.figures.push(Figure::new(name, each, "KiB").bounds(Bounds::value_at_most(64.0)));
        }
        if let Some(used) = used {
            let share = used / self.idle_time().as_secs_f64() * 100.0;
            let name = format!("processor time of {workers} idle workers");
            self.figures.push(Figure::new(name, share, "% of a core").bounds(Bounds::value_at_most(1.0)));
        }
        Ok(())
    }
}

/// Opens streams of workers without credits, which ping as they are told. Returns once all are welcomed.
async fn open_idle(uri: &str, workers: usize) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut channels = Vec::new();
    for _ in 0..workers.div_ceil(STREAMS_PER_CONNECTION) {
        channels.push(Endpoint::from_shared(uri.to_owned())?.connect().await?);
    }
    let turns = Arc::new(Semaphore::new(OPENED_AT_ONCE));
    let welcomed = Arc::new(Semaphore::new(0));
    let mut open = JoinSet::new();
    for (number, channel) in (0..workers).zip(channels.iter().cycle()) {
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let (channel, welcomed) = (channel.clone(), Arc::clone(&welcomed));
        open.spawn(async move { idle(channel, number, || drop((turn, welcomed.add_permits(1)))).await });
    }
    tokio::select! {
        all = welcomed.acquire_many(u32::try_from(workers)?) => drop(all?),
        Some(ended) = open.join_next() => ended??,
    }
    Ok(open)
}

async fn idle(channel: Channel, number: usize, welcomed: impl FnOnce()) -> anyhow::Result<()> {
    let (said, requests) = mpsc::channel(2);
    let say = async |frame| {
        let frames = vec![v1::WorkerFrame { frame: Some(frame) }];
        said.send(v1::WorkRequest { frames }).await.context("the stream has ended")
    };
    let mut client = WorkerServiceClient::new(channel);
    let hello = v1::Hello {
        instance: format!("idle-{number}"),
        process: "1".to_owned(),
        pools: vec![v1::WorkerPool { kinds: vec![KIND.to_owned()], ..Default::default() }],
        ..Default::default()
    };
    say(Said::Hello(hello)).await?;
    let mut heard = client.work(ReceiverStream::new(requests)).await?.into_inner();
    let first = heard.message().await?.context("no welcome")?;
    let welcome = first.frames.into_iter().find_map(|frame| match frame.frame {
        Some(server_frame::Frame::Welcome(welcome)) => Some(welcome),
        _ => None,
    });
    let ping_every = welcome.and_then(|welcome| welcome.ping_every).context("no welcome")?;
    welcomed();
    let mut ticks = tokio::time::interval(Duration::try_from(ping_every)?);
    loop {
        tokio::select! {
            _ = ticks.tick() => say(Said::Ping(v1::Ping { number: 1 })).await?,
            message = heard.message() => drop(message?.context("an idle worker's stream has ended")?),
        }
    }
}
