//! A remote worker: typed handlers for the jobs of a server elsewhere, here in the same program so that it checks itself.
//!
//! A checkpoint lets the second attempt of an import go on where the first one has failed.

use std::{error::Error, future::pending, time::Duration};

use jobmill::{
    Attempt, HandlerError, Output, Server, Settings,
    client::Client,
    proto::v1::{JobSpec, JobState, Payload, RetryPolicy},
    worker::{self, Pool, Worker},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    cents: Vec<u32>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Invoice {
    number: u32,
    total_cents: u32,
}

async fn invoice(attempt: Attempt, order: Order) -> Result<Invoice, HandlerError> {
    if order.cents.is_empty() {
        // Another attempt would find the same.
        return Err(HandlerError::permanent("the order is empty").with_code("EMPTY_ORDER"));
    }
    attempt.progress(0.5, "adding up", "total");
    Ok(Invoice { number: order.number, total_cents: order.cents.iter().sum() })
}

async fn import(attempt: Attempt) -> Result<Output, HandlerError> {
    let done = attempt.earlier_checkpoint().map_or(0, |state| state.bytes.len());
    for row in done..10 {
        // The row is imported here. Then the server keeps how far this attempt has come.
        attempt.checkpoint(Output::new(vec![b'.'; row + 1]), true).await?;
        if row == 4 && done == 0 {
            return Err(HandlerError::retryable("the database is away"));
        }
    }
    Ok(Output::new(format!("attempt {} began at row {done}", attempt.number())))
}

fn job(kind: &str, payload: impl Into<bytes::Bytes>) -> JobSpec {
    let retry = RetryPolicy { initial_delay: Some(Default::default()), ..Default::default() };
    JobSpec {
        queue: "default".into(),
        kind: kind.into(),
        payload: Some(Payload::of(payload)),
        retry_policy: Some(retry.into()),
        ..Default::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The server has no handlers of its own.
    let mut settings = Settings::in_memory();
    settings.listen = "127.0.0.1:0".parse()?;
    let server = Server::builder(settings).start().await?;
    let endpoint = server.local_addr().ok_or("the server does not listen")?.to_string();

    let worker = Worker::builder(&endpoint)
        .label("zone", "a")
        .concurrency(4)
        .handler("invoice", worker::json(invoice))
        // Imports have one place of their own, so that they don't hold up invoices.
        .pool(Pool::new("imports").concurrency(1).handler("import", import))
        .build()?;
    let (stopper, health) = (worker.stopper(), worker.health());
    let running = tokio::spawn(worker.run_until(pending()));
    // The server knows a kind from a worker's first hello on.
    health.connected().await;

    let client = Client::connect(&endpoint).await?;
    let order = |cents: &[u32]| serde_json::to_vec(&Order { number: 7, cents: cents.to_vec() });
    let mut ids = Vec::new();
    for job in [job("invoice", order(&[250, 500])?), job("invoice", order(&[])?), job("import", "")] {
        ids.push(client.submit(job).await?.id().to_owned());
    }
    let mut ended = Vec::new();
    for id in ids {
        ended.push(client.wait_for_job(id, Duration::from_secs(30)).await?);
    }
    let result = |at: usize| ended[at].result.clone().unwrap_or_default();
    let made: Invoice = serde_json::from_slice(result(0).bytes())?;
    assert_eq!(made, Invoice { number: 7, total_cents: 750 });
    assert_eq!(ended[1].state(), JobState::Failed);
    assert_eq!(ended[1].last_failure.as_ref().map(|failure| &*failure.code), Some("EMPTY_ORDER"));
    assert_eq!(result(2).bytes(), b"attempt 2 began at row 5");
    assert!(health.is_live());

    stopper.drain();
    let summary = running.await??;
    assert_eq!((summary.counts.succeeded, summary.counts.failed), (2, 2));
    println!("{} attempts, of which {} failed", summary.counts.started, summary.counts.failed);
    server.stopper().drain();
    server.finished().await?;
    Ok(())
}
