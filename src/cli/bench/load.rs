//! Load in closed loops: a fixed number of calls in flight, as fast as they are answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    latencies::{Latencies, now},
    wire::{Method, Wire},
};

/// The duration of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Warm-up time, in which the load is not counted.
    pub(super) warm_up: Duration,
    /// Time in which the load is counted.
    pub(super) counted: Duration,
}

/// Counter of what is done, and stop signal of load loops.
#[derive(Debug, Default)]
pub(super) struct Meter {
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Meter {
    pub(super) fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Returns what is done in a second of the counted time, and stops the loops.
    async fn rate(&self, run: Run) -> f64 {
        tokio::time::sleep(run.warm_up).await;
        let (start, before) = (now(), self.done());
        tokio::time::sleep(run.counted).await;
        let (took, done) = (start.elapsed(), self.done() - before);
        self.stop();
        done as f64 / took.as_secs_f64()
    }
}

/// Runs load loops for the duration of a run, and returns what they did in a second. Each loop must go on until `meter`
/// is stopped.
pub(super) async fn measure(
    mut loops: JoinSet<anyhow::Result<()>>,
    meter: &Meter,
    run: Run,
) -> anyhow::Result<f64> {
    let rate = tokio::select! {
        rate = meter.rate(run) => rate,
        Some(ended) = loops.join_next() => {
            ended??;
            bail!("a load loop ended by itself");
        }
    };
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(rate)
}

/// A load of unary calls.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    pub(super) method: Method,
    /// Number of calls in flight.
    pub(super) in_flight: usize,
    /// Amount that one call counts.
    pub(super) worth: u64,
}

/// The result of a load.
pub(super) struct LoadResult {
    /// Amount done in a second of the counted time.
    pub(super) rate: f64,
    /// Amount done in all.
    pub(super) done: u64,
}

impl Calls {
    /// Makes calls with bodies made by `body`, for the duration of a run.
    pub(super) async fn run(
        self,
        uri: &str,
        run: Run,
        body: impl Fn() -> Bytes + Clone + Send + 'static,
    ) -> anyhow::Result<LoadResult> {
        let wires = Wire::connect_many(uri, connections(self.in_flight)).await?;
        self.run_on(wires, run, body).await
    }

    /// Makes such calls over existing connections.
    pub(super) async fn run_on(
        self,
        wires: Vec<Wire>,
        run: Run,
        body: impl Fn() -> Bytes + Clone + Send + 'static,
    ) -> anyhow::Result<LoadResult> {
        self.drive(wires, run, body, None).await
    }

    async fn drive(
        self,
        wires: Vec<Wire>,
        run: Run,
        body: impl Fn() -> Bytes + Clone + Send + 'static,
        latencies: Option<Arc<Mutex<Latencies>>>,
    ) -> anyhow::Result<LoadResult> {
        let meter = Arc::new(Meter::default());
        let mut loops = JoinSet::new();
        for wire in wires.iter().cycle().take(self.in_flight) {
            let (mut wire, meter, body) = (wire.clone(), Arc::clone(&meter), body.clone());
            let latencies = latencies.clone();
            loops.spawn(async move {
                let mut own = Latencies::default();
                while !meter.is_stopped() {
                    let start = latencies.as_ref().map(|_| now());
                    wire.call(self.method, body()).await?;
                    if let Some(start) = start {
                        own.push(start.elapsed());
                    }
                    meter.add(self.worth);
                }
                if let Some(latencies) = latencies {
                    latencies.lock().add(own);
                }
                Ok(())
            });
        }
        let rate = measure(loops, &meter, run).await?;
        Ok(LoadResult { rate, done: meter.done() })
    }

    /// Returns the latency of each call in such a run.
    pub(super) async fn latencies(self, uri: &str, run: Run, body: Bytes) -> anyhow::Result<Latencies> {
        let wires = Wire::connect_many(uri, connections(self.in_flight)).await?;
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        self.drive(wires, run, move || body.clone(), Some(Arc::clone(&latencies))).await?;
        let latencies = std::mem::take(&mut *latencies.lock());
        Ok(latencies)
    }

    /// Makes a number of calls as fast as possible.
    pub(super) async fn make(self, uri: &str, count: u64, body: Bytes) -> anyhow::Result<()> {
        self.make_each(uri, count, move |_number| body.clone()).await
    }

    /// Makes a number of calls as fast as possible, each with a body made for its number, from 0.
    pub(super) async fn make_each(
        self,
        uri: &str,
        count: u64,
        body: impl Fn(u64) -> Bytes + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let wires = Wire::connect_many(uri, connections(self.in_flight)).await?;
        let left = Arc::new(AtomicU64::new(count));
        let mut loops = JoinSet::new();
        for wire in wires.iter().cycle().take(self.in_flight) {
            let (mut wire, left, body) = (wire.clone(), Arc::clone(&left), body.clone());
            loops.spawn(async move {
                let take = |left: u64| left.checked_sub(1);
                while let Ok(left) = left.try_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    wire.call(self.method, body(count - left)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = loops.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Returns the number of connections that carry the calls in flight.
pub(super) fn connections(in_flight: usize) -> usize {
    in_flight.min(4)
}

/// Measures empty bidirectional streams, one answer for each message, and returns the answers in a second. Each stream
/// takes its messages from a channel, as those of generated clients do.
pub(super) async fn empty_streams(uri: &str, streams: usize, run: Run, body: Bytes) -> anyhow::Result<f64> {
    /// Capacity of a stream's channel of messages.
    const MESSAGES_MAX: usize = 1_024;
    /// Number of answers that are counted at once, so that the counting costs little.
    const COUNTED_AT_ONCE: u64 = 64;

    let meter = Arc::new(Meter::default());
    let mut loops = JoinSet::new();
    for mut wire in Wire::connect_many(uri, streams).await? {
        let (meter, body) = (Arc::clone(&meter), body.clone());
        loops.spawn(async move {
            let (messages, bodies) = mpsc::channel(MESSAGES_MAX);
            let mut answers = wire.stream::<()>(Method::EmptyStream, ReceiverStream::new(bodies)).await?;
            let sending = async {
                let messages = messages;
                while !meter.is_stopped() && messages.send(body.clone()).await.is_ok() {}
                Ok(())
            };
            let receiving = async {
                let mut uncounted = 0;
                while let Some(answer) = answers.next().await {
                    answer?;
                    uncounted += 1;
                    if uncounted == COUNTED_AT_ONCE {
                        meter.add(std::mem::take(&mut uncounted));
                    }
                }
                anyhow::Ok(())
            };
            tokio::try_join!(sending, receiving)?;
            Ok(())
        });
    }
    measure(loops, &meter, run).await
}
