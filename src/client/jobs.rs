//! The unary calls of `JobQueue` that submit or read.

use super::{Client, ClientError};
use crate::proto::v1;

impl Client {
    /// Submits a job. While the outcome is unknown, the call is repeated with the same `request_id`, a new one unless
    /// the request has one, so that the job is created once. If the first answer was lost, the next one has the outcome
    /// REPEATED and no resume token.
    ///
    /// # Errors
    /// [`ClientError`]; see `Submit` in the protocol for the refusals.
    pub async fn submit(
        &self,
        request: impl Into<v1::SubmitRequest>,
    ) -> Result<v1::SubmitResponse, ClientError> {
        let call = async |request| self.job_queue().submit(request).await;
        let answer = self.change(request.into(), call).await?;
        self.present(answer.submitted.as_ref(), "submitted")?;
        Ok(answer)
    }

    /// Submits up to 1,000 jobs, all or none. Repeated like [`Client::submit`].
    ///
    /// # Errors
    /// [`ClientError`]; see `SubmitBatch` in the protocol for the refusals.
    pub async fn submit_batch(
        &self,
        request: v1::SubmitBatchRequest,
    ) -> Result<v1::SubmitBatchResponse, ClientError> {
        self.change(request, async |request| self.job_queue().submit_batch(request).await).await
    }

    /// Returns one job.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetJob` in the protocol for the refusals.
    pub async fn get_job(&self, id: impl Into<String>, view: v1::JobView) -> Result<v1::Job, ClientError> {
        let request = v1::GetJobRequest { id: id.into(), view: view.into(), ..Default::default() };
        let answer = self.answer(self.job_queue().get_job(self.request(request))).await?;
        self.present(answer.job, "job")
    }

    /// Returns one page of jobs, newest first.
    ///
    /// # Errors
    /// [`ClientError`]; see `ListJobs` in the protocol for the refusals.
    pub async fn list_jobs(&self, request: v1::ListJobsRequest) -> Result<v1::ListJobsResponse, ClientError> {
        self.answer(self.job_queue().list_jobs(self.request(request))).await
    }

    /// Returns a job with the jobs that it depends on and those that depend on it.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetJobGraph` in the protocol for the refusals.
    pub async fn get_job_graph(
        &self,
        request: v1::GetJobGraphRequest,
    ) -> Result<v1::GetJobGraphResponse, ClientError> {
        self.answer(self.job_queue().get_job_graph(self.request(request))).await
    }

    /// Returns one page of the unique keys that are held.
    ///
    /// # Errors
    /// [`ClientError`]; see `ListUniqueKeys` in the protocol for the refusals.
    pub async fn list_unique_keys(
        &self,
        request: v1::ListUniqueKeysRequest,
    ) -> Result<v1::ListUniqueKeysResponse, ClientError> {
        self.answer(self.job_queue().list_unique_keys(self.request(request))).await
    }

    /// Counts jobs by state.
    ///
    /// # Errors
    /// [`ClientError`]; see `CountJobs` in the protocol for the refusals.
    pub async fn count_jobs(&self, filter: v1::JobFilter) -> Result<v1::CountJobsResponse, ClientError> {
        let request = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
        self.answer(self.job_queue().count_jobs(self.request(request))).await
    }
}
