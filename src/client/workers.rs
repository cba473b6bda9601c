//! The calls of `WorkerService` for operators. Workers themselves have streams of their own.

use super::{Client, ClientError};
use crate::proto::v1;

impl Client {
    /// Returns the remote workers that match.
    ///
    /// # Errors
    /// [`ClientError`]; see `ListWorkers` in the protocol for the refusals.
    pub async fn list_workers(
        &self,
        request: v1::ListWorkersRequest,
    ) -> Result<v1::ListWorkersResponse, ClientError> {
        self.answer(self.worker_service().list_workers(self.request(request))).await
    }

    /// Asks remote workers to finish what they run and to end.
    ///
    /// # Errors
    /// [`ClientError`]; see `DrainWorkers` in the protocol for the refusals.
    pub async fn drain_workers(
        &self,
        request: v1::DrainWorkersRequest,
    ) -> Result<v1::DrainWorkersResponse, ClientError> {
        self.answer(self.worker_service().drain_workers(self.request(request))).await
    }

    /// Reports on leased jobs.
    ///
    /// # Errors
    /// [`ClientError`]; see `ReportJobs` in the protocol for the refusals.
    pub async fn report_jobs(
        &self,
        request: v1::ReportJobsRequest,
    ) -> Result<v1::ReportJobsResponse, ClientError> {
        self.answer(self.worker_service().report_jobs(self.request(request))).await
    }
}
