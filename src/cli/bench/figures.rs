//! The figures of an empty store: accepting jobs, running them, and how long one takes.

use std::fs;

use jobmill::proto::v1::JobState;

use super::{
    end_to_end::{BY_BATCHES, BY_CALLS, BY_STREAMS},
    latencies::Latencies,
    load::{Calls, LoadResult, empty_streams},
    paced::{self, PACE},
    process::{ServerProcess, Serves},
    report::{Bounds, Figure},
    server::{INTAKE, WORK},
    session::Bench,
    streams::{self, STREAMS},
    subject::MeasuredServer,
    wire::{Method, batch_body, empty_body, submit_body, with_request_id},
};

/// Number of calls in flight for the figures that have goals.
const IN_FLIGHT: usize = 64;
const IN_FLIGHT_OTHERS: [usize; 3] = [1, 16, 256];
const EMPTY_STREAMS: &str = "empty bidirectional stream, 4 of them";
const STREAM_BOUNDS: Bounds = Bounds::ratio_at_least(0.12, 0.09);
const BATCHES_IN_FLIGHT: usize = 4;
const BATCHES: [(usize, &str); 2] = [(100, "100"), (1_000, "1,000")];

/// Values of one figure, measured in turns with its ceiling.
#[derive(Debug, Default)]
pub(super) struct Series {
    values: Vec<f64>,
    ceilings: Vec<f64>,
}

impl Series {
    pub(super) fn add(&mut self, value: f64, ceiling: f64) {
        self.values.push(value);
        self.ceilings.push(ceiling);
    }

    pub(super) fn value(&self) -> f64 {
        median(&self.values)
    }

    pub(super) fn ceiling(&self) -> f64 {
        median(&self.ceilings)
    }

    /// Returns the median of the ratios of all turns. A slowdown of the machine affects both values of a turn.
    pub(super) fn ratio(&self) -> f64 {
        let ratios: Vec<_> =
            self.values.iter().zip(&self.ceilings).map(|(value, ceiling)| value / ceiling).collect();
        median(&ratios)
    }

    pub(super) fn figure(&self, name: impl Into<String>, unit: &'static str) -> Figure {
        Figure::new(name, self.value(), unit).ratio(self.ratio())
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
        (Some(above), Some(below)) if sorted.len().is_multiple_of(2) => (above + below) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

fn empty_calls(in_flight: usize) -> Calls {
    Calls { method: Method::EmptyCall, in_flight, worth: 1 }
}

pub(super) fn submits(in_flight: usize) -> Calls {
    Calls { method: Method::Submit, in_flight, worth: 1 }
}

impl Bench {
    pub(super) async fn nothing(&self) -> anyhow::Result<ServerProcess> {
        ServerProcess::start(Serves::Nothing, &self.place.folder().join("nothing.log")).await
    }

    /// Starts a service that stores the payload of each call in a bare table.
    async fn table(&self) -> anyhow::Result<ServerProcess> {
        let folder = self.place.fresh();
        fs::create_dir(&folder)?;
        ServerProcess::start(Serves::Table { folder: &folder }, &self.place.folder().join("table.log")).await
    }

    async fn empty_rate(&self, nothing: &ServerProcess, in_flight: usize) -> anyhow::Result<f64> {
        self.step(format!("empty calls, {in_flight} in flight"));
        self.calls_rate(nothing, in_flight).await
    }

    async fn calls_rate(&self, process: &ServerProcess, in_flight: usize) -> anyhow::Result<f64> {
        let body = empty_body();
        Ok(empty_calls(in_flight).run(&process.uri(), self.run, move || body.clone()).await?.rate)
    }

    async fn submit_rate(&self, subject: &MeasuredServer, in_flight: usize) -> anyhow::Result<LoadResult> {
        let body = submit_body(INTAKE, 0);
        self.step(format!("Submit, {in_flight} in flight"));
        submits(in_flight).run(&subject.uri, self.run, move || body.clone()).await
    }

    /// Measures unary Submit beside an empty call.
    pub(super) async fn submit(&mut self) -> anyhow::Result<()> {
        let nothing = self.nothing().await?;
        for in_flight in IN_FLIGHT_OTHERS {
            let subject = MeasuredServer::empty(&self.place).await?;
            let (mut series, mut accepted) = (Series::default(), 0);
            for _ in 0..self.pairs {
                let loaded = self.submit_rate(&subject, in_flight).await?;
                accepted += loaded.done;
                series.add(loaded.rate, self.empty_rate(&nothing, in_flight).await?);
            }
            subject.expect(INTAKE, None, accepted).await?;
            subject.end().await?;
            self.call_figures(&series, in_flight, None);
        }

        let subjects = [
            MeasuredServer::empty(&self.place).await?,
            MeasuredServer::empty(&self.place).await?,
            MeasuredServer::empty(&self.place).await?,
        ];
        let [plain, ordered, random] = &subjects;
        let table = self.table().await?;
        let [mut kept, mut beside_kept] = [(); 2].map(|()| Series::default());
        let (mut series, mut accepted) = ([(); 3].map(|()| Series::default()), [0; 3]);
        for _ in 0..self.pairs {
            self.step("calls kept in a bare table".to_owned());
            let kept_rate = self.calls_rate(&table, IN_FLIGHT).await?;
            let body = submit_body(INTAKE, 0);
            let with_ids = submits(IN_FLIGHT);
            let loaded = [
                self.submit_rate(plain, IN_FLIGHT).await?,
                {
                    self.step("Submit with time-ordered request ids".to_owned());
                    let body = body.clone();
                    let id = move || with_request_id(&body, &uuid::Uuid::now_v7());
                    with_ids.run(&ordered.uri, self.run, id).await?
                },
                {
                    self.step("Submit with random request ids".to_owned());
                    let id = move || with_request_id(&body, &uuid::Uuid::new_v4());
                    with_ids.run(&random.uri, self.run, id).await?
                },
            ];
            let ceiling = self.empty_rate(&nothing, IN_FLIGHT).await?;
            kept.add(kept_rate, ceiling);
            beside_kept.add(loaded[0].rate, kept_rate);
            for ((loaded, series), accepted) in loaded.iter().zip(&mut series).zip(&mut accepted) {
                series.add(loaded.rate, ceiling);
                *accepted += loaded.done;
            }
        }
        for (subject, accepted) in subjects.into_iter().zip(accepted) {
            subject.expect(INTAKE, None, accepted).await?;
            subject.end().await?;
        }
        let [plain, ordered, random] = &series;
        self.call_figures(plain, IN_FLIGHT, Some(Bounds::ratio_at_least(0.65, 0.5)));
        self.figures
            .push(kept.figure(format!("call kept in a bare table, {IN_FLIGHT} in flight"), "calls/s"));
        self.figures
            .push(beside_kept.figure(format!("Submit, {IN_FLIGHT} in flight, beside those"), "jobs/s"));
        let name = |ids| format!("Submit, {IN_FLIGHT} in flight, {ids} request ids");
        self.figures.push(ordered.figure(name("time-ordered"), "jobs/s"));
        self.figures.push(random.figure(name("random"), "jobs/s"));
        table.stop().await?;
        nothing.stop().await
    }

    fn call_figures(&mut self, series: &Series, in_flight: usize, bounds: Option<Bounds>) {
        let ceiling = Figure::new(format!("empty call, {in_flight} in flight"), series.ceiling(), "calls/s");
        let figure = series.figure(format!("Submit, {in_flight} in flight"), "jobs/s");
        self.figures.push(ceiling);
        self.figures.push(match bounds {
            Some(bounds) => figure.bounds(bounds),
            None => figure,
        });
    }

    /// Measures SubmitBatch.
    pub(super) async fn batches(&mut self) -> anyhow::Result<()> {
        for (size, size_text) in BATCHES {
            let subject = MeasuredServer::empty(&self.place).await?;
            let (mut rates, mut accepted) = (Vec::new(), 0);
            for _ in 0..self.pairs {
                self.step(format!("SubmitBatch of {size}"));
                let calls =
                    Calls { method: Method::SubmitBatch, in_flight: BATCHES_IN_FLIGHT, worth: size as u64 };
                let body = batch_body(INTAKE, 0, size);
                let loaded = calls.run(&subject.uri, self.run, move || body.clone()).await?;
                rates.push(loaded.rate);
                accepted += loaded.done;
            }
            subject.expect(INTAKE, None, accepted).await?;
            subject.end().await?;
            let name = format!("SubmitBatch of {size_text}, {BATCHES_IN_FLIGHT} in flight");
            self.figures.push(Figure::new(name, median(&rates), "jobs/s"));
        }
        Ok(())
    }

    /// Measures jobs from their submission until a watcher has seen their end.
    pub(super) async fn end_to_end(&mut self) -> anyhow::Result<()> {
        let nothing = self.nothing().await?;
        let subject = MeasuredServer::empty(&self.place).await?;
        let [mut by_calls, mut by_batches, mut by_streams] = [(); 3].map(|()| Series::default());
        let mut done = 0;
        for _ in 0..self.pairs {
            self.step("end to end, by calls".to_owned());
            let loaded = BY_CALLS.run(&subject.uri, self.run).await?;
            done += loaded.done;
            by_calls.add(loaded.rate, self.empty_rate(&nothing, BY_CALLS.in_flight).await?);
            self.step("end to end, by batches".to_owned());
            let batches = BY_BATCHES.run(&subject.uri, self.run).await?;
            self.step("empty streams".to_owned());
            let ceiling = empty_streams(&nothing.uri(), STREAMS, self.run, empty_body()).await?;
            self.step("end to end, on streams".to_owned());
            let streams = BY_STREAMS.run(&subject.uri, self.run).await?;
            done += batches.done + streams.done;
            by_batches.add(batches.rate, ceiling);
            by_streams.add(streams.rate, ceiling);
        }
        subject.expect(WORK, Some(JobState::Succeeded), done).await?;
        subject.expect(WORK, None, done).await?;
        subject.end().await?;
        nothing.stop().await?;
        self.figures.push(by_calls.figure("end to end, by 64 calls in flight", "jobs/s"));
        self.figures.push(Figure::new(EMPTY_STREAMS, by_batches.ceiling(), "messages/s"));
        self.figures.push(
            by_batches
                .figure("end to end, by batches of 1,000", "jobs/s")
                .bounds(Bounds::ratio_at_least(0.10, 0.07)),
        );
        self.figures
            .push(by_streams.figure("end to end, on 4 SubmitStreams", "jobs/s").bounds(STREAM_BOUNDS));
        Ok(())
    }

    /// Measures SubmitStream.
    pub(super) async fn streams(&mut self) -> anyhow::Result<()> {
        let nothing = self.nothing().await?;
        let subject = MeasuredServer::empty(&self.place).await?;
        let (mut series, mut accepted) = (Series::default(), 0);
        for _ in 0..self.pairs {
            self.step("SubmitStream".to_owned());
            let loaded = streams::submit(&subject.uri, INTAKE, self.run).await?;
            accepted += loaded.done;
            self.step("empty streams".to_owned());
            series.add(loaded.rate, empty_streams(&nothing.uri(), STREAMS, self.run, empty_body()).await?);
        }
        subject.expect(INTAKE, None, accepted).await?;
        subject.end().await?;
        nothing.stop().await?;
        self.figures.push(Figure::new(EMPTY_STREAMS, series.ceiling(), "messages/s"));
        self.figures.push(series.figure("SubmitStream, 4 of them", "jobs/s").bounds(STREAM_BOUNDS));
        Ok(())
    }

    /// Measures the latency from Submit to SUCCEEDED at an open-loop pace.
    pub(super) async fn latency(&mut self) -> anyhow::Result<()> {
        let nothing = self.nothing().await?;
        let subject = MeasuredServer::empty(&self.place).await?;
        // The first calls open connections and files.
        paced::submit_and_watch(&subject.uri, WORK, PACE as usize / 2).await?;
        let [mut calls, mut flushes, mut watched, mut beside] = [(); 4].map(|()| Latencies::default());
        let count = self.paced_calls();
        for _ in 0..self.pairs {
            self.step(format!("SubmitAndWatch at {PACE} a second"));
            watched.add(paced::submit_and_watch(&subject.uri, WORK, count).await?);
            self.step(format!("empty calls at {PACE} a second"));
            calls.add(paced::empty_calls(&nothing.uri(), count).await?);
            self.step(format!("bare flushes at {PACE} a second"));
            flushes.add(paced::flushes(self.place.folder(), count).await?);
            self.step(format!("Submit beside a watch at {PACE} a second"));
            beside.add(paced::submit_beside_watch(&subject.uri, count).await?);
        }
        subject.end().await?;
        nothing.stop().await?;
        let millis = |latencies: &mut Latencies, part| latencies.quantile(part).as_secs_f64() * 1e3;
        let floor = millis(&mut calls, 0.5) + 2.0 * millis(&mut flushes, 0.5);
        for (name, latencies) in [
            ("empty call", &mut calls),
            ("bare write and flush", &mut flushes),
            ("SubmitAndWatch to SUCCEEDED", &mut watched),
            ("Submit to SUCCEEDED on an open watch", &mut beside),
        ] {
            for (part, part_name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
                let value = millis(latencies, part);
                let name = format!("{name}, {PACE} a second, {part_name}");
                let mut figure = Figure::new(&name, value, "ms").samples(latencies.count());
                if part == 0.5 && name.starts_with("Submit") {
                    figure = figure.ratio(value / floor);
                }
                if part == 0.5 && name.starts_with("SubmitAndWatch") {
                    figure = figure.bounds(Bounds::ratio_at_most(2.0, 3.0));
                }
                self.figures.push(figure);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        let mut series = Series::default();
        for (value, ceiling) in [(1.0, 2.0), (10.0, 10.0), (3.0, 12.0)] {
            series.add(value, ceiling);
        }
        assert_eq!((series.value(), series.ceiling(), series.ratio()), (3.0, 10.0, 0.5));
    }
}
