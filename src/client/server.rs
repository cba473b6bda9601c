//! The calls of `ServerService`.

use super::{Client, ClientError};
use crate::proto::v1;

impl Client {
    /// Returns what the server is, what it knows, and what this client may do.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetServerInfo` in the protocol for the refusals.
    pub async fn server_info(&self) -> Result<v1::GetServerInfoResponse, ClientError> {
        let request = v1::GetServerInfoRequest::default();
        self.answer(self.server_service().get_server_info(self.request(request))).await
    }
}
