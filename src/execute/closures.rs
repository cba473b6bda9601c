//! Closures as handlers: jobs whose work exists only in this process.

use std::{
    collections::HashMap,
    fmt, future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Attempt, Handler, HandlerError, HandlerFuture};
use crate::job::{FailureReason, Position};

/// The work of one job, run at most once.
pub(crate) type Closure = Box<dyn FnOnce(Attempt) -> HandlerFuture + Send>;

/// The closures whose attempt has not started. Each has a name that its job carries from submission on, as the attempt
/// may start before the caller learns the job's id.
#[derive(Default)]
pub(crate) struct Closures {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    by_name: HashMap<Box<str>, Closure>,
    /// A feed position before the first of these jobs.
    since: Position,
    /// No more closures are accepted: the process is about to end, and closures end with it.
    closed: bool,
}

impl fmt::Debug for Closures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closures")
            .field("waiting", &self.waiting.lock().by_name.len())
            .finish_non_exhaustive()
    }
}

/// A closure whose job is not accepted yet. Dropping this before acceptance drops the closure.
#[derive(Debug)]
pub(crate) struct Offered {
    closures: Arc<Closures>,
    name: Box<str>,
}

impl Offered {
    /// The closure's name, which its job must carry.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the closure for its attempt, once the job is accepted.
    pub(crate) fn accepted(mut self) {
        self.name = Box::default();
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.closures.remove(&self.name);
        }
    }
}

impl Closures {
    /// Stores a closure for a job that is about to be submitted; `now` is the feed's end. Returns `None` after
    /// [`Closures::close`].
    pub(crate) fn offer(self: &Arc<Self>, closure: Closure, now: Position) -> Option<Offered> {
        let name: Box<str> = Uuid::new_v4().simple().to_string().into();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                // The lock is released before the closure is dropped, as destructors of captured values may run any
                // code.
                drop(waiting);
                return None;
            }
            if waiting.by_name.is_empty() {
                waiting.since = now;
            }
            waiting.by_name.insert(name.clone(), closure);
        }
        self.filled.notify_one();
        Some(Offered { closures: Arc::clone(self), name })
    }

    fn take(&self, name: &str) -> Option<Closure> {
        self.waiting.lock().by_name.remove(name)
    }

    /// Drops a closure whose attempt will never start.
    pub(crate) fn remove(&self, name: &str) {
        // Dropped without holding the lock: see `offer`.
        self.take(name).into_iter().for_each(let_go);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().by_name.is_empty()
    }

    /// Waits until there is a closure, and returns a feed position before its job.
    pub(crate) async fn filled(&self) -> Position {
        loop {
            {
                let waiting = self.waiting.lock();
                if !waiting.by_name.is_empty() {
                    return waiting.since;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Drops all closures and accepts no more.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.by_name)
        };
        waiting.into_values().for_each(let_go);
    }
}

/// Drops a closure. A destructor of a captured value may panic, which must not end the task that drops the closure.
fn let_go(closure: Closure) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(closure)));
}

/// The handler that runs closures.
#[derive(Debug)]
pub(crate) struct ClosureHandler(pub(crate) Arc<Closures>);

impl Handler for ClosureHandler {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let extras = attempt.job.spec.extras.as_ref();
        match extras.and_then(|extras| self.0.take(&extras.closure)) {
            Some(closure) => closure(attempt),
            None => {
                let message =
                    "the job's closure is gone: its process has ended, or its only attempt has started";
                Box::pin(future::ready(Err(HandlerError::new(FailureReason::Lost, message, false))))
            }
        }
    }
}
