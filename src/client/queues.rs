//! The calls of `QueueService`.
//!
//! Those that change something are named by the queue's name or a whole request, and repeated as a submission is. Their
//! answers have the queue, but for one case: a repeat whose first answer was lost, and whose queue has been deleted
//! since.

use super::{Client, ClientError};
use crate::proto::v1;

/// The largest page that a server gives.
const PAGE_MAX: i32 = 1_000;

impl Client {
    /// Creates a queue; with a name alone, one that has the default settings.
    ///
    /// ```no_run
    /// # async fn example(client: jobmill::client::Client) -> Result<(), jobmill::client::ClientError> {
    /// use jobmill::proto::v1::{CreateQueueRequest, QueueSettings};
    ///
    /// client.create_queue("mail").await?;
    /// let settings = QueueSettings { consumers: Some(2), ..Default::default() };
    /// client.create_queue(CreateQueueRequest { settings: Some(settings), ..From::from("reports") }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`]; see `CreateQueue` in the protocol for the refusals.
    pub async fn create_queue(
        &self,
        request: impl Into<v1::CreateQueueRequest>,
    ) -> Result<v1::CreateQueueResponse, ClientError> {
        self.change(request.into(), async |request| self.queue_service().create_queue(request).await).await
    }

    /// Returns one queue.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetQueue` in the protocol for the refusals.
    pub async fn get_queue(&self, name: impl Into<String>) -> Result<v1::Queue, ClientError> {
        let request = v1::GetQueueRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.queue_service().get_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
    }

    /// Returns all queues, by name, page after page.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_queues(&self) -> Result<Vec<v1::Queue>, ClientError> {
        let (mut queues, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListQueuesRequest { page_size: PAGE_MAX, page_token, ..Default::default() };
            let page = self.answer(self.queue_service().list_queues(self.request(request))).await?;
            queues.extend(page.queues);
            if page.next_page_token.is_empty() {
                return Ok(queues);
            }
            page_token = page.next_page_token;
        }
    }

    /// Changes the settings of a queue that the request's mask names. The queue needs the etag of the answer that the
    /// change is made for, or `*`.
    ///
    /// # Errors
    /// [`ClientError`]; see `UpdateQueue` in the protocol for the refusals.
    pub async fn update_queue(
        &self,
        request: v1::UpdateQueueRequest,
    ) -> Result<v1::UpdateQueueResponse, ClientError> {
        self.change(request, async |request| self.queue_service().update_queue(request).await).await
    }

    /// Deletes a queue that has no waiting or running jobs.
    ///
    /// # Errors
    /// [`ClientError`]; see `DeleteQueue` in the protocol for the refusals.
    pub async fn delete_queue(
        &self,
        request: impl Into<v1::DeleteQueueRequest>,
    ) -> Result<v1::DeleteQueueResponse, ClientError> {
        self.change(request.into(), async |request| self.queue_service().delete_queue(request).await).await
    }

    /// Stops starting jobs of a queue.
    ///
    /// # Errors
    /// [`ClientError`]; see `PauseQueue` in the protocol for the refusals.
    pub async fn pause_queue(
        &self,
        request: impl Into<v1::PauseQueueRequest>,
    ) -> Result<v1::PauseQueueResponse, ClientError> {
        self.change(request.into(), async |request| self.queue_service().pause_queue(request).await).await
    }

    /// Starts jobs of a paused queue again.
    ///
    /// # Errors
    /// [`ClientError`]; see `ResumeQueue` in the protocol for the refusals.
    pub async fn resume_queue(
        &self,
        request: impl Into<v1::ResumeQueueRequest>,
    ) -> Result<v1::ResumeQueueResponse, ClientError> {
        self.change(request.into(), async |request| self.queue_service().resume_queue(request).await).await
    }

    /// Deletes the jobs that wait in a queue. A timeout means that it still goes on: a call with the same request id
    /// deletes nothing more, and is told the number.
    ///
    /// # Errors
    /// [`ClientError`]; see `PurgeQueue` in the protocol for the refusals.
    pub async fn purge_queue(
        &self,
        request: impl Into<v1::PurgeQueueRequest>,
    ) -> Result<v1::PurgeQueueResponse, ClientError> {
        self.change(request.into(), async |request| self.queue_service().purge_queue(request).await).await
    }
}
