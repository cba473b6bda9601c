//! The calls of `ServerService`.

use super::{Client, ClientError};
use crate::proto::v1;

impl Client {
    /// Returns the server's version, features and limits, and the permissions of this client.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetServerInfo` in the protocol for the refusals.
    pub async fn server_info(&self) -> Result<v1::GetServerInfoResponse, ClientError> {
        let request = v1::GetServerInfoRequest::default();
        self.answer(self.server_service().get_server_info(self.request(request))).await
    }
}
