//! Calls that change something. Each has a request id, and is repeated under it while its outcome is unknown.

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Client, ClientError};
use crate::proto::v1;

/// A new id for a request, which makes its repeats safe.
pub(super) fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// A request that may be repeated under its id.
pub(super) trait Repeatable: Clone {
    fn request_id(&mut self) -> &mut String;

    /// The request with a new id, unless it has one.
    fn identified(mut self) -> Self {
        let id = self.request_id();
        if id.is_empty() {
            *id = new_request_id();
        }
        self
    }
}

macro_rules! repeatable {
    ($($request:ident),* $(,)?) => {
        $(impl Repeatable for v1::$request {
            fn request_id(&mut self) -> &mut String {
                &mut self.request_id
            }
        })*
    };
}
repeatable!(
    SubmitRequest,
    SubmitBatchRequest,
    SubmitAndWatchRequest,
    SubmitItem,
    CancelJobRequest,
    RetryJobRequest,
    DeleteJobRequest,
    CreateQueueRequest,
    UpdateQueueRequest,
    DeleteQueueRequest,
    PauseQueueRequest,
    ResumeQueueRequest,
    PurgeQueueRequest,
);

impl Client {
    /// Makes a call with a request id, and repeats it while its outcome is unknown.
    pub(super) async fn change<Q, A, F>(
        &self,
        request: Q,
        call: impl Fn(Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Repeatable,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let request = request.identified();
        let once = || self.answer(call(self.request(request.clone())));
        self.shared.retries.run(once).await
    }
}
