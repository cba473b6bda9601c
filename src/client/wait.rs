//! Waiting for a job's end without a stream.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Client, ClientError, retry::Outage, to_wire_duration};
use crate::proto::v1::{self, JobView};

/// Longest wait of one call. Proxies mostly close a connection that is silent for a minute.
const CALL_WAIT_MAX: Duration = Duration::from_secs(30);

impl Client {
    /// Returns a job once it has ended, or its present state when the time is over: its `done` tells which. Waits by
    /// repeated calls, and retries failed ones as a watch does, but for no longer than the time. The request is the
    /// job's id, or has the `view` as well, which is RESULT by default; its `wait` is not used.
    ///
    /// ```no_run
    /// # async fn example(client: jobmill::client::Client, id: &str) -> Result<(), jobmill::client::ClientError> {
    /// let job = client.wait_for_job(id, std::time::Duration::from_secs(3600)).await?;
    /// if job.done {
    ///     println!("{:?}: {:?}", job.state(), job.result);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`]; see `GetJob` in the protocol for the refusals.
    pub async fn wait_for_job(
        &self,
        request: impl Into<v1::GetJobRequest>,
        time: Duration,
    ) -> Result<v1::Job, ClientError> {
        let mut request = request.into();
        if request.view() == JobView::Unspecified {
            request.set_view(JobView::Result);
        }
        let retries = &self.shared.retries;
        let start = now();
        let left = || time.saturating_sub(start.elapsed());
        let mut outage: Option<Outage> = None;
        let mut early = 0;
        loop {
            let (asked, wait) = (now(), left().min(CALL_WAIT_MAX));
            let error = match self.get_when_ended(&request, wait).await {
                Ok(job) if job.done || left().is_zero() => return Ok(job),
                Ok(_) if asked.elapsed() >= wait => {
                    (outage, early) = (None, 0);
                    continue;
                }
                Ok(_) => {
                    // A server that is stopping answers without waiting.
                    (outage, early) = (None, early + 1);
                    sleep(retries.delay(early).min(left())).await;
                    continue;
                }
                Err(error) => error,
            };
            let time_is_up = match &outage {
                Some(outage) => outage.time_is_up(),
                None => retries.retry_for.is_zero(),
            };
            if time_is_up || left().is_zero() || !error.is_retryable() {
                return Err(error);
            }
            let outage = outage.get_or_insert_with(|| Outage::new(retries));
            outage.failed(retries);
            // If the time is over before the backoff, there is one more try.
            let _ = timeout(left(), outage.backoff()).await;
        }
    }

    async fn get_when_ended(
        &self,
        request: &v1::GetJobRequest,
        wait: Duration,
    ) -> Result<v1::Job, ClientError> {
        let request = v1::GetJobRequest { wait: Some(to_wire_duration(wait)), ..request.clone() };
        let limit = self.shared.call_timeout.saturating_add(wait);
        let call = async { self.job_queue().get_job(limited(request, limit)).await };
        let answer = self.answer_within(limit, call).await?;
        self.present(answer.job, "job")
    }
}

fn limited(request: v1::GetJobRequest, limit: Duration) -> tonic::Request<v1::GetJobRequest> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(limit);
    request
}

/// Returns the present by tokio's clock, which tests may pause.
fn now() -> Instant {
    sleep(Duration::ZERO).deadline()
}
