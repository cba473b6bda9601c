//! Workers of the Rust library in the test's own process.

use jobmill::worker::{Health, Stopper, Summary, WorkerBuilder, WorkerError};
use tokio::task::JoinHandle;

/// A worker that runs until it is told to end.
pub(crate) struct Running {
    stopper: Stopper,
    pub(crate) health: Health,
    task: JoinHandle<Result<Summary, WorkerError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.force();
    }
}

impl Running {
    pub(crate) fn start(builder: WorkerBuilder) -> Self {
        let worker = builder.build().unwrap();
        let (stopper, health) = (worker.stopper(), worker.health());
        Running { stopper, health, task: tokio::spawn(worker.run()) }
    }

    /// Lets running attempts end, and returns what the worker has done.
    pub(crate) async fn drains(mut self) -> Result<Summary, WorkerError> {
        self.stopper.drain();
        (&mut self.task).await.unwrap()
    }

    /// Returns how the worker ends without being told to.
    pub(crate) async fn ends(mut self) -> Result<Summary, WorkerError> {
        (&mut self.task).await.unwrap()
    }
}
