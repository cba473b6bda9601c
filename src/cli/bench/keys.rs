//! The cost of unique keys: submissions with a key of their own each, beside the same without.

use bytes::Bytes;
use jobmill::proto::v1;
use prost::Message;
use uuid::Uuid;

use super::{
    figures::{Series, submits},
    load::Calls,
    report::Bounds,
    server::INTAKE,
    session::Bench,
    subject::MeasuredServer,
    wire::{Method, batch_of, job, submit_request},
};

const IN_FLIGHT: usize = 64;
const BATCH: usize = 1_000;
const BATCHES_IN_FLIGHT: usize = 4;

/// The source of the unique keys of jobs.
type KeySource = fn() -> Option<Uuid>;

const NO_KEYS: KeySource = || None;
const ORDERED_KEYS: KeySource = || Some(Uuid::now_v7());
const RANDOM_KEYS: KeySource = || Some(Uuid::new_v4());

fn unique_key(key: KeySource) -> Option<v1::UniqueKey> {
    key().map(|key| v1::UniqueKey { key: key.to_string(), ..v1::UniqueKey::default() })
}

/// Encodes a Submit. Those without keys are encoded anew each time, too, so that the client does the same work.
fn submit(key: KeySource) -> Bytes {
    let mut request = submit_request(INTAKE, 0);
    if let Some(job) = &mut request.job {
        job.unique_key = unique_key(key).map(Into::into);
    }
    request.encode_to_vec().into()
}

fn batch(key: KeySource) -> Bytes {
    let jobs =
        (0..BATCH).map(|_| v1::JobSpec { unique_key: unique_key(key).map(Into::into), ..job(INTAKE, 0) });
    batch_of(jobs.collect())
}

impl Bench {
    /// Measures Submit and SubmitBatch with unique keys.
    pub(super) async fn keys(&mut self) -> anyhow::Result<()> {
        let calls = submits(IN_FLIGHT);
        let batches =
            Calls { method: Method::SubmitBatch, in_flight: BATCHES_IN_FLIGHT, worth: BATCH as u64 };
        let name = |keys| format!("Submit, {IN_FLIGHT} in flight, {keys} unique keys");
        let ordered = Some(Bounds::ratio_at_least(0.85, 0.7));
        self.beside_no_keys(name("time-ordered"), calls, submit, ORDERED_KEYS, ordered).await?;
        self.beside_no_keys(name("random"), calls, submit, RANDOM_KEYS, None).await?;
        let name = |keys| format!("SubmitBatch of 1,000, {BATCHES_IN_FLIGHT} in flight, {keys} unique keys");
        self.beside_no_keys(name("time-ordered"), batches, batch, ORDERED_KEYS, None).await?;
        let random = Some(Bounds::ratio_at_least(0.3, 0.2));
        self.beside_no_keys(name("random"), batches, batch, RANDOM_KEYS, random).await
    }

    async fn beside_no_keys(
        &mut self,
        name: String,
        calls: Calls,
        body: fn(KeySource) -> Bytes,
        keys: KeySource,
        bounds: Option<Bounds>,
    ) -> anyhow::Result<()> {
        let with = MeasuredServer::empty(&self.place).await?;
        let without = MeasuredServer::empty(&self.place).await?;
        let (mut series, mut accepted, mut accepted_without) = (Series::default(), 0, 0);
        for _ in 0..self.pairs {
            self.step(name.clone());
            let keyed = calls.run(&with.uri, self.run, move || body(keys)).await?;
            self.step("the same without keys".to_owned());
            let plain = calls.run(&without.uri, self.run, move || body(NO_KEYS)).await?;
            accepted += keyed.done;
            accepted_without += plain.done;
            series.add(keyed.rate, plain.rate);
        }
        with.expect(INTAKE, None, accepted).await?;
        without.expect(INTAKE, None, accepted_without).await?;
        with.end().await?;
        without.end().await?;
        let figure = series.figure(name, "jobs/s");
        self.figures.push(match bounds {
            Some(bounds) => figure.bounds(bounds),
            None => figure,
        });
        Ok(())
    }
}
