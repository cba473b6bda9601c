//! Attempts that end together, each with a large result: a handler that waits until the bench opens its gate.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use jobmill::{
    execute::{Attempt, Handler, HandlerError},
    job::Output,
};
use tokio::sync::Notify;

/// The kind whose attempts wait at the gate.
pub(super) const RESULT: &str = "result";
/// The size of each result: as large as a result may be.
const RESULT_BYTES: usize = 1 << 20;

/// The gate in the server's process.
#[derive(Clone)]
pub(super) struct Gate(Arc<Shared>);

struct Shared {
    opened: Notify,
    waiting: AtomicU64,
    /// All results share the same bytes, so that the server's memory holds them once.
    result: Bytes,
}

impl Gate {
    /// Creates a closed gate.
    pub(super) fn closed() -> Self {
        let result = Bytes::from(vec![b'x'; RESULT_BYTES]);
        Gate(Arc::new(Shared { opened: Notify::new(), waiting: AtomicU64::new(0), result }))
    }

    /// Returns the handler of [`RESULT`].
    pub(super) fn handler(&self) -> impl Handler + use<> {
        let gate = self.clone();
        move |_attempt: Attempt| gate.clone().pass()
    }

    async fn pass(self) -> Result<Output, HandlerError> {
        let opened = self.0.opened.notified();
        // The next opening wakes every counted attempt, because its notification exists by now.
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        opened.await;
        Ok(Output { bytes: self.0.result.clone(), ..Output::default() })
    }

    /// Returns the number of attempts that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::SeqCst)
    }

    /// Lets all waiting attempts pass, and returns their number. Attempts that come later wait for the next opening.
    pub(super) fn open(&self) -> u64 {
        let waiting = self.0.waiting.swap(0, Ordering::SeqCst);
        self.0.opened.notify_waiters();
        waiting
    }
}
