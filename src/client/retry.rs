//! Repeating what may not have happened.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::Sleep;

use super::ClientError;
use crate::job::RetryPolicy;

/// How calls with an unknown outcome are repeated.
#[derive(Clone)]
pub(super) struct Retries {
    pub(super) policy: RetryPolicy,
    pub(super) retry_for: Duration,
    pub(super) random: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries").field("policy", &self.policy).field("retry_for", &self.retry_for).finish()
    }
}

impl Retries {
    /// How long to wait after failure number `failures` (from 1).
    pub(super) fn delay(&self, failures: u32) -> Duration {
        self.policy.delay(failures, (self.random)())
    }

    /// Repeats a call while its outcome is unknown. The time is up for *starting* another try: a try under way is
    /// never cut off, because its answer would be lost.
    pub(super) async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut time_is_up = pin!(tokio::time::sleep(self.retry_for));
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.may_help_to_repeat() => error,
                Err(error) => return Err(error),
            };
            failures += 1;
            tokio::select! {
                biased;
                // First: after a pause of this process both are over, and there is one more try.
                () = tokio::time::sleep(self.delay(failures)) => {}
                () = &mut time_is_up => return Err(error),
            }
        }
    }
}

/// The time from a stream's break to its next sign of life. Kept by the stream and not in a future of it, so that
/// dropping such a future does not prolong it.
pub(super) struct Outage {
    failures: u32,
    time_is_up: Pin<Box<Sleep>>,
    nap: Option<Pin<Box<Sleep>>>,
}

impl Outage {
    /// Begins one. It counts its time from the first nap on.
    pub(super) fn new(retries: &Retries) -> Self {
        Outage { failures: 0, time_is_up: Box::pin(tokio::time::sleep(retries.retry_for)), nap: None }
    }

    /// Has the next nap last as long as after so many failures.
    pub(super) fn failed(&mut self, retries: &Retries) {
        self.failures += 1;
        self.nap = Some(Box::pin(tokio::time::sleep(retries.delay(self.failures))));
    }

    /// Waits before the next try, until the time is up at the latest.
    pub(super) async fn nap(&mut self) {
        if let Some(nap) = &mut self.nap {
            tokio::select! {
                () = self.time_is_up.as_mut() => {}
                () = nap => {}
            }
            self.nap = None;
        }
    }

    /// Whether no other try is to be started.
    pub(super) fn time_is_up(&self) -> bool {
        self.time_is_up.is_elapsed()
    }
}
