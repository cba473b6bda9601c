//! The calls of `QueueService` that read.

use super::{Client, ClientError};
use crate::proto::v1;

/// The server's limit of the size of a page.
const PAGE_MAX: i32 = 1_000;

impl Client {
    /// Returns one queue.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetQueue` in the protocol for the refusals.
    pub async fn get_queue(&self, name: impl Into<String>) -> Result<v1::Queue, ClientError> {
        let request = v1::GetQueueRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.queue_service().get_queue(self.request(request))).await?;
        self.present(answer.queue, "queue")
    }

    /// Returns all queues, by name, from as many pages as there are.
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
}
