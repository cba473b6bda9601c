//! The program of the README, verbatim: a bounded background queue that survives a restart.

use std::{env, error::Error, time::Duration};

use jobmill::{Attempt, HandlerError, JobRequest, KindDefaults, Output, QueueSettings, Server, Settings};

async fn resize(attempt: Attempt) -> Result<Output, HandlerError> {
    tokio::time::sleep(Duration::from_millis(50)).await; // The slow work.
    Ok(Output::new(attempt.payload().clone()).media_type("image/png"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).unwrap_or_else(|| "jobs".into());
    let bounded = QueueSettings::default().max_jobs(100).consumers(4);
    let settings = Settings::in_folder(folder).queue("images", bounded);
    let kind = KindDefaults::default().max_attempts(3);
    let server = Server::builder(settings).handler("resize", kind, resize).without_listener().start().await?;

    let mut jobs = Vec::new();
    for number in 1..=300 {
        let image = format!("image {number}");
        let job = JobRequest::new("resize").queue("images").payload(image.clone()).request_id(&image);
        // Returns once the job is on disk. While the queue is full (100 jobs), it waits until one of them has ended.
        jobs.push(server.handle().submit(job).await?);
        println!("{image} is on disk");
    }
    let found = jobs.iter().filter(|job| !job.created()).count();
    for job in jobs {
        job.outcome().await?.into_result()?;
    }
    println!("300 images are resized; {found} of the jobs were there from before");
    server.stopper().drain();
    Ok(server.finished().await?)
}
