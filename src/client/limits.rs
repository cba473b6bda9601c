//! The calls of `LimitService` that read.

use super::{Client, ClientError};
use crate::proto::v1;

impl Client {
    /// Returns one limit.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetLimit` in the protocol for the refusals.
    pub async fn get_limit(&self, name: impl Into<String>) -> Result<v1::Limit, ClientError> {
        let request = v1::GetLimitRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.limit_service().get_limit(self.request(request))).await?;
        self.present(answer.limit, "limit")
    }

    /// Returns a page of limits, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_limits(
        &self,
        request: v1::ListLimitsRequest,
    ) -> Result<v1::ListLimitsResponse, ClientError> {
        self.answer(self.limit_service().list_limits(self.request(request))).await
    }

    /// Returns a page of the values of a limit that have an override, running jobs, spent rate, or jobs that wait for them.
    ///
    /// # Errors
    /// [`ClientError`]; see `ListLimitValues` in the protocol for the refusals.
    pub async fn list_limit_values(
        &self,
        request: v1::ListLimitValuesRequest,
    ) -> Result<v1::ListLimitValuesResponse, ClientError> {
        self.answer(self.limit_service().list_limit_values(self.request(request))).await
    }
}
