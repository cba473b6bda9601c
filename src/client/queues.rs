//! The calls of `QueueService`.

use super::{Client, ClientError};
use crate::proto::v1;

/// The largest page that a server gives.
const PAGE_MAX: i32 = 1_000;

impl Client {
    /// Creates a queue.
    ///
    /// # Errors
    /// [`ClientError`]; see `CreateQueue` in the protocol for the refusals.
    pub async fn create_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
    ) -> Result<v1::Queue, ClientError> {
        let request =
            v1::CreateQueueRequest { name: name.into(), settings: Some(settings), ..Default::default() };
        let answer = self.answer(self.queue_service().create_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
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

    /// Replaces a queue's settings as a whole.
    ///
    /// # Errors
    /// [`ClientError`]; see `UpdateQueue` in the protocol for the refusals.
    pub async fn update_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
    ) -> Result<v1::Queue, ClientError> {
        let request =
            v1::UpdateQueueRequest { name: name.into(), settings: Some(settings), ..Default::default() };
        let answer = self.answer(self.queue_service().update_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
    }

    /// Deletes a queue that has no waiting or running jobs.
    ///
    /// # Errors
    /// [`ClientError`]; see `DeleteQueue` in the protocol for the refusals.
    pub async fn delete_queue(&self, name: impl Into<String>) -> Result<(), ClientError> {
        let request = v1::DeleteQueueRequest { name: name.into(), ..Default::default() };
        self.answer(self.queue_service().delete_queue(self.request(request))).await?;
        Ok(())
    }

    /// Stops starting jobs of a queue.
    ///
    /// # Errors
    /// [`ClientError`]; see `PauseQueue` in the protocol for the refusals.
    pub async fn pause_queue(&self, name: impl Into<String>) -> Result<v1::Queue, ClientError> {
        let request = v1::PauseQueueRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.queue_service().pause_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
    }

    /// Starts jobs of a paused queue again.
    ///
    /// # Errors
    /// [`ClientError`]; see `ResumeQueue` in the protocol for the refusals.
    pub async fn resume_queue(&self, name: impl Into<String>) -> Result<v1::Queue, ClientError> {
        let request = v1::ResumeQueueRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.queue_service().resume_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
    }

    /// Deletes the jobs that wait in a queue and returns how many they were. A timeout means that it still goes on.
    ///
    /// # Errors
    /// [`ClientError`]; see `PurgeQueue` in the protocol for the refusals.
    pub async fn purge_queue(&self, name: impl Into<String>) -> Result<u64, ClientError> {
        let request = v1::PurgeQueueRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.queue_service().purge_queue(self.request(request))).await?;
        Ok(u64::try_from(answer.deleted_jobs).unwrap_or(0))
    }
}
