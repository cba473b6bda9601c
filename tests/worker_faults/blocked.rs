//! Handlers that block the runtime of their worker.

use std::{sync::mpsc, time::Duration};

use jobmill::{
    execute::{Attempt, HandlerError},
    job::Output,
    proto::v1::{self, JobState},
    serve::Server,
    settings::{Settings, WorkerSettings},
    worker::Worker,
};

use crate::{
    rig::{KIND, no_faults, remote_job, remote_only},
    support::{Rig, memory, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_runtime_keeps_its_lease() {
    let lease = Duration::from_millis(600);
    let workers = WorkerSettings { lease, ..remote_only(memory()).workers };
    let rig = Rig::start(Server::builder(Settings { workers, ..remote_only(memory()) })).await;
    let (go, waits) = mpsc::sync_channel::<()>(1);
    let waits = std::sync::Arc::new(std::sync::Mutex::new(waits));
    let blocks = move |_: Attempt| {
        let waits = std::sync::Arc::clone(&waits);
        async move {
            waits.lock().unwrap().recv().map_err(HandlerError::permanent)?;
            Ok(Output::new("unblocked"))
        }
    };
    let worker = Worker::builder(&rig.address().to_string())
        .concurrency(2)
        .max_jobs(1)
        .handler(KIND, blocks)
        .build()
        .unwrap();
    // One thread, which the handler blocks.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(worker.run())
    });
    let connected = async { while rig.metric("jobmill_workers{state=\"connected\"}").await == 0.0 {} };
    soon(connected).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..remote_job() }).await.id;
    rig.reaches(&id, JobState::Running).await;
    // The passing of time is what is tested: several leases.
    tokio::time::sleep(lease * 4).await;
    assert_eq!(rig.get(&id).await.state(), JobState::Running);
    go.send(()).unwrap();
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), job.counted_attempts), (JobState::Succeeded, 1));
    assert_eq!(thread.join().unwrap().unwrap().counts.lost, 0);
    no_faults(&rig).await;
}
