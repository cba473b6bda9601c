//! Calls that change something. Each has a request id, and is repeated with it while the outcome is unknown.

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Client, ClientError};
use crate::proto::{ChangeRequest, v1};

/// Sets a request id to a new one, unless it is set. The id makes repeats of the request safe.
pub(super) fn identify(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = Uuid::now_v7().to_string();
    }
}

impl Client {
    /// Makes a call with a request id, and repeats it while its outcome is unknown.
    pub(super) async fn change<Q, A, F>(
        &self,
        mut request: Q,
        call: impl Fn(Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: ChangeRequest + Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        identify(request.request_id_mut());
        // Boxed, because a call in progress is large, and callers keep several in one frame.
        let once = || Box::pin(self.answer(call(self.request(request.clone()))));
        self.shared.retries.run(once).await
    }
}

// Written by `build.rs`: one method for each call that changes a job or a queue.
include!(concat!(env!("OUT_DIR"), "/changes.rs"));
