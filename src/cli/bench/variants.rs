//! The cost of a server's features: retention, encryption, metrics and traces, each beside a server without it.

use std::fs;

use super::{
    end_to_end::BY_BATCHES,
    figures::{Series, submits},
    load::connections,
    report::Bounds,
    server::{CERTIFICATE, INTAKE, KEY, Variant},
    session::Bench,
    subject::MeasuredServer,
    wire::{Wire, submit_body},
};

const IN_FLIGHT: usize = 64;
/// Retention time in milliseconds. It is short, so that the store reaches its largest size after a few runs.
const KEPT_MILLIS: u64 = 500;
/// Growth of the file from one run to the next, as a part of its size, that counts as none: it depends on which pages
/// are free.
const GROWTH_MAX: f64 = 0.02;
/// Limit of the runs until the file no longer grows.
const SETTLING_RUNS_MAX: usize = 30;

impl Bench {
    /// Measures jobs end to end where retention deletes as much as comes in.
    pub(super) async fn retention(&mut self) -> anyhow::Result<()> {
        let without = MeasuredServer::empty(&self.place).await?;
        let keep_succeeded_millis = Some(KEPT_MILLIS);
        let variant = Variant { keep_succeeded_millis, ..Variant::default() };
        let with = MeasuredServer::empty_with(&self.place, variant).await?;
        self.step("end to end with retention, until the file no longer grows".to_owned());
        let mut before = 0;
        for run in 0.. {
            BY_BATCHES.run(&with.uri, self.run).await?;
            let now = with.database_bytes()?;
            if now as f64 <= before as f64 * (1.0 + GROWTH_MAX) {
                break;
            }
            anyhow::ensure!(run < SETTLING_RUNS_MAX, "the file grows and grows: {before} bytes, then {now}");
            before = now;
        }
        let mut series = Series::default();
        for _ in 0..self.pairs {
            self.step("end to end with retention".to_owned());
            let beside = BY_BATCHES.run(&with.uri, self.run).await?.rate;
            self.step("end to end without".to_owned());
            series.add(beside, BY_BATCHES.run(&without.uri, self.run).await?.rate);
        }
        with.end().await?;
        without.end().await?;
        let name = "end to end, by batches of 1,000, with retention that keeps the file as it is";
        self.figures.push(series.figure(name, "jobs/s").bounds(Bounds::ratio_at_least(0.8, 0.6)));
        Ok(())
    }

    /// Measures Submit over encrypted connections, and with metrics and traces.
    pub(super) async fn features(&mut self) -> anyhow::Result<()> {
        let plain = MeasuredServer::empty(&self.place).await?;
        let folder = self.place.folder().to_owned();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = made.cert.pem();
        fs::write(folder.join(CERTIFICATE), &certificate)?;
        fs::write(folder.join(KEY), made.signing_key.serialize_pem())?;
        let encrypted = Variant { tls_dir: Some(folder), ..Variant::default() };
        let encrypted = MeasuredServer::empty_with(&self.place, encrypted).await?;
        // This collector receives the spans, and answers that it does not know their method.
        let collector = self.nothing().await?;
        let traced = Variant { collector: Some(collector.uri()), ..Variant::default() };
        let traced = MeasuredServer::empty_with(&self.place, traced).await?;

        let [mut tls, mut telemetry, mut run_telemetry] = [(); 3].map(|()| Series::default());
        let (mut accepted, mut accepted_encrypted, mut accepted_traced) = (0, 0, 0);
        let body = submit_body(INTAKE, 0);
        let load = submits(IN_FLIGHT);
        for _ in 0..self.pairs {
            let next = || {
                let body = body.clone();
                move || body.clone()
            };
            self.step("Submit over TLS".to_owned());
            let mut wires = Vec::new();
            for _ in 0..connections(IN_FLIGHT) {
                wires.push(Wire::connect_tls(&encrypted.process.tls_uri(), &certificate).await?);
            }
            let over_tls = load.run_on(wires, self.run, next()).await?;
            self.step("Submit, plain".to_owned());
            let alone = load.run(&plain.uri, self.run, next()).await?;
            self.step("Submit with metrics and traces".to_owned());
            let observed = load.run(&traced.uri, self.run, next()).await?;
            accepted += alone.done;
            accepted_encrypted += over_tls.done;
            accepted_traced += observed.done;
            tls.add(over_tls.rate, alone.rate);
            telemetry.add(observed.rate, alone.rate);
            self.step("end to end with metrics and traces".to_owned());
            let observed = BY_BATCHES.run(&traced.uri, self.run).await?.rate;
            self.step("end to end, plain".to_owned());
            run_telemetry.add(observed, BY_BATCHES.run(&plain.uri, self.run).await?.rate);
        }
        plain.expect(INTAKE, None, accepted).await?;
        traced.expect(INTAKE, None, accepted_traced).await?;
        // The restarted server is queried without TLS.
        let encrypted = encrypted.restarted_as(Variant::default()).await?;
        encrypted.expect(INTAKE, None, accepted_encrypted).await?;
        for subject in [plain, encrypted, traced] {
            subject.end().await?;
        }
        collector.stop().await?;
        self.figures.push(tls.figure("Submit, 64 in flight, over TLS", "jobs/s"));
        let most = Bounds::ratio_at_least(0.95, 0.9);
        self.figures
            .push(telemetry.figure("Submit, 64 in flight, metrics and traces on", "jobs/s").bounds(most));
        let name = "end to end, by batches of 1,000, metrics and traces on";
        self.figures.push(run_telemetry.figure(name, "jobs/s").bounds(most));
        Ok(())
    }
}
