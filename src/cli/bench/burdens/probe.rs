//! Submit to an idle queue at an even pace, each call with the moment at which it began.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::super::{
    latencies::{Latencies, now},
    server::WORK,
    wire::{Method, Wire, submit_body},
};

/// Calls that begin in a second.
const PACE: u32 = 500;
/// Time limit of the calls under way after the last one has begun.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A call.
struct Sample {
    begun: Instant,
    took: Duration,
}

/// The calls of a probe.
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    /// Returns the number of calls.
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the latencies of the calls that began in this span, however long they took.
    pub(super) fn begun_in(&self, span: &Range<Instant>) -> Latencies {
        self.0.iter().filter(|sample| span.contains(&sample.begun)).map(|sample| sample.took).collect()
    }
}

/// A client that submits to the queue [`WORK`], on a connection of its own. A slow answer delays no later call.
pub(super) struct Probe {
    stopping: CancellationToken,
    submitting: AbortOnDropHandle<anyhow::Result<Samples>>,
}

impl Probe {
    /// Begins to submit.
    pub(super) async fn start(uri: &str) -> anyhow::Result<Self> {
        let wire = Wire::connect(uri).await?;
        let stopping = CancellationToken::new();
        let submitting = tokio::spawn(submit(wire, stopping.clone()));
        Ok(Probe { stopping, submitting: AbortOnDropHandle::new(submitting) })
    }

    /// Waits for all calls under way, and returns all that were made.
    pub(super) async fn stop(self) -> anyhow::Result<Samples> {
        self.stopping.cancel();
        timeout(TIME_LIMIT, self.submitting).await.context("a Submit got no answer")??
    }
}

async fn submit(wire: Wire, stopping: CancellationToken) -> anyhow::Result<Samples> {
    let body = submit_body(WORK, 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut under_way, mut samples) = (JoinSet::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            _ = ticks.tick() => {
                let (mut wire, body) = (wire.clone(), body.clone());
                under_way.spawn(async move {
                    let begun = now();
                    wire.call(Method::Submit, body).await?;
                    anyhow::Ok(Sample { begun, took: begun.elapsed() })
                });
            }
            Some(ended) = under_way.join_next() => samples.push(ended??),
        }
    }
    while let Some(ended) = under_way.join_next().await {
        samples.push(ended??);
    }
    Ok(Samples(samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_for_the_span_in_which_it_began() {
        let (start, second) = (now(), Duration::from_secs(1));
        let sample = |begun, took| Sample { begun: start + second * begun, took: second * took };
        let samples = Samples(vec![sample(0, 9), sample(1, 1), sample(2, 5), sample(3, 2)]);
        let mut latencies = samples.begun_in(&(start + second..start + second * 3));
        assert_eq!((latencies.count(), latencies.quantile(1.0)), (2, second * 5));
        assert_eq!(samples.count(), 4);
    }
}
