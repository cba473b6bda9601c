//! The classic bounded background queue: it holds 100 jobs, makes its producers wait when it is full, and survives a
//! restart.

use std::{
    error::Error,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use jobmill::{
    config::{KindDefaults, QueueSettings, Settings, StoreSettings},
    execute::{Attempt, HandlerError},
    handle::JobRequest,
    job::Output,
    serve::{ServeError, Server},
};

const CAPACITY: usize = 100;
const CONSUMERS: u32 = 2;
const JOBS: usize = 300;
static DONE: AtomicUsize = AtomicUsize::new(0);

async fn start(folder: &Path) -> Result<Server, ServeError> {
    let mut settings = Settings::new(StoreSettings::Folder(folder.into()));
    let bounded =
        QueueSettings { max_jobs: CAPACITY as u64, consumers: CONSUMERS, ..QueueSettings::default() };
    settings.queues.insert("work".into(), bounded);
    Server::builder(settings).handler("work", KindDefaults::default(), work).without_listener().start().await
}

async fn work(_: Attempt) -> Result<Output, HandlerError> {
    tokio::time::sleep(Duration::from_millis(10)).await;
    DONE.fetch_add(1, Ordering::SeqCst);
    Ok(Output::default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path()).await?;
    let mut accepted = Vec::new();
    for number in 0..JOBS {
        let job = JobRequest::new("work").queue("work").payload(number.to_string());
        // Returns once the job is on disk. While 100 are there, that takes until one of them has ended.
        accepted.push(server.handle().submit(job).await?.id());
        // An attempt is counted before the store hears of its end, and the queue lets go of it only then.
        let held = accepted.len().saturating_sub(DONE.load(Ordering::SeqCst));
        assert!(held <= CAPACITY, "the queue holds {held} jobs");
    }
    let before = DONE.load(Ordering::SeqCst);
    assert!(before >= JOBS - CAPACITY, "the producer did not wait: {before} jobs were done");
    println!("{JOBS} jobs accepted, {before} done, and now the program ends in the middle of it");
    server.stopper().force();
    server.finished().await?;

    let server = start(folder.path()).await?;
    for id in accepted {
        server.handle().watch(id).outcome().await?.into_result()?;
    }
    println!("after the restart: {JOBS} of {JOBS} jobs SUCCEEDED");
    server.stopper().drain();
    server.finished().await?;
    Ok(())
}
