//! Retries of calls whose outcome is unknown.

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

/// The policy for retries of calls with an unknown outcome.
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
    /// Returns the backoff after failure number `failures` (from 1).
    pub(super) fn delay(&self, failures: u32) -> Duration {
        self.policy.delay(failures, (self.random)())
    }

    /// Repeats a call while its outcome is unknown. `retry_for` limits the *start* of retries: a try under way is never
    /// cut off, because its answer would be lost.
    pub(super) async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut time_is_up = pin!(tokio::time::sleep(self.retry_for));
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error),
            };
            failures += 1;
            tokio::select! {
                biased;
                // Polled first: after a pause of this process both timers are over, and one more try is made.
                () = tokio::time::sleep(self.delay(failures)) => {}
                () = &mut time_is_up => return Err(error),
            }
        }
    }
}

/// The time from a stream's break to its next sign of life. The stream owns it, rather than one of its futures, so that
/// dropping a future does not prolong it.
pub(super) struct Outage {
    failures: u32,
    time_is_up: Pin<Box<Sleep>>,
    backoff: Option<Pin<Box<Sleep>>>,
}

impl Outage {
    /// Starts an outage now. Its time is seen to be up only after the first backoff.
    pub(super) fn new(retries: &Retries) -> Self {
        Outage { failures: 0, time_is_up: Box::pin(tokio::time::sleep(retries.retry_for)), backoff: None }
    }

    /// Counts a failure, and sets the length of the next backoff.
    pub(super) fn failed(&mut self, retries: &Retries) {
        self.failures += 1;
        self.backoff = Some(Box::pin(tokio::time::sleep(retries.delay(self.failures))));
    }

    /// Waits before the next try, at most until the time is up.
    pub(super) async fn backoff(&mut self) {
        if let Some(backoff) = &mut self.backoff {
            tokio::select! {
                () = self.time_is_up.as_mut() => {}
                () = backoff => {}
            }
            self.backoff = None;
        }
    }

    /// Returns whether the time is up, so that no other try may start.
    pub(super) fn time_is_up(&self) -> bool {
        self.time_is_up.is_elapsed()
    }
}
