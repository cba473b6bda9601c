//! One line of the bench: Submit to an idle queue, alone and beside a burden.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use jobmill::proto::v1;

use super::{
    super::{
        latencies::{Latencies, now},
        report::{Bounds, Figure},
        session::Bench,
    },
    aside::Aside,
    probe::Probe,
};

/// Time from the start of a probe to the start of its burden, so that the connection is warm.
const RUN_IN: Duration = Duration::from_millis(200);
/// Time after which no extra round begins.
const EXTRA_ROUNDS_TIME: Duration = Duration::from_secs(60);
/// Number of rounds after which no extra round begins.
const ROUNDS_MAX: usize = 20;
/// Goal for the 99th percentile beside a burden.
const P99_MILLIS: f64 = 50.0;
/// The steps of a round.
const STEPS: u64 = 3;
const PARTS: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (1.0, "max")];

/// Something that happens to a queue, again in each round.
pub(super) trait Burden {
    /// Returns what happens, as a sentence in the present tense.
    fn name(&self) -> String;

    /// Returns the server with the queue that bears the burden.
    fn aside(&mut self) -> &mut Aside;

    /// Prepares the next round. The burden must not begin before `quiet` has passed.
    async fn prepare(&mut self, bench: &Bench, quiet: Duration) -> anyhow::Result<()>;

    /// Starts the burden, waits until the server shows that it is over, and returns when it was under way.
    async fn happen(&mut self) -> anyhow::Result<Range<Instant>>;

    /// Returns the server, after the last round.
    fn into_aside(self) -> Aside;
}

impl Bench {
    /// Measures Submit alone, on a server of its own, in turns with Submit beside a burden. There are as many rounds as
    /// pairs, and extra ones where a short burden gives too few samples.
    pub(super) async fn beside(&mut self, mut burden: impl Burden) -> anyhow::Result<()> {
        let name = burden.name();
        let [mut alone, mut beside] = [(); 2].map(|()| Latencies::default());
        // One second is spared for the start of each probe.
        let quiet = self.run.warm_up + self.run.counted + RUN_IN + Duration::from_secs(1);
        let mut idle = Aside::start(&self.place, v1::QueueSettings::default()).await?;
        let begin = now();
        let mut round = 0;
        loop {
            if round >= self.pairs {
                let enough = beside.count() >= self.sizes.burdens.samples;
                if enough || round >= ROUNDS_MAX || begin.elapsed() > EXTRA_ROUNDS_TIME {
                    break;
                }
                self.bar.inc_length(STEPS);
            }
            self.step(format!("preparing for: {name}"));
            burden.prepare(self, quiet).await?;
            self.step("Submit to an idle queue, alone".to_owned());
            alone.add(self.alone(&mut idle).await?);
            self.step(format!("Submit to an idle queue, {name} elsewhere"));
            let probe = Probe::start(&burden.aside().subject.uri).await?;
            tokio::time::sleep(RUN_IN).await;
            let span = burden.happen().await?;
            let samples = probe.stop().await?;
            burden.aside().add_submitted(samples.count());
            beside.add(samples.begun_in(&span));
            round += 1;
        }
        burden.into_aside().end().await?;
        idle.end().await?;
        self.burden_figures(&name, &mut alone, &mut beside);
        Ok(())
    }

    /// Returns the latencies of a run without a burden.
    async fn alone(&self, idle: &mut Aside) -> anyhow::Result<Latencies> {
        let probe = Probe::start(&idle.subject.uri).await?;
        // The other server finishes its preparation in the meantime.
        tokio::time::sleep(self.run.warm_up).await;
        let begin = now();
        tokio::time::sleep(self.run.counted).await;
        let span = begin..now();
        let samples = probe.stop().await?;
        idle.add_submitted(samples.count());
        Ok(samples.begun_in(&span))
    }

    fn burden_figures(&mut self, name: &str, alone: &mut Latencies, beside: &mut Latencies) {
        for (part, part_name) in PARTS {
            let [without, with] = [&mut *alone, &mut *beside]
                .map(|latencies| (latencies.quantile(part).as_secs_f64() * 1e3, latencies.count()));
            let figure = |alone, (value, samples)| {
                let name = format!("Submit to an idle queue, {name} elsewhere{alone}, {part_name}");
                Figure::new(name, value, "ms").samples(samples)
            };
            self.figures.push(figure(": alone", without));
            let figure = figure("", with).ratio(with.0 / without.0);
            self.figures.push(match part_name {
                "p99" => figure.bounds(Bounds::value_at_most(P99_MILLIS)),
                _ => figure,
            });
        }
    }
}
