//! Jobs submitted on streams.

use std::sync::Arc;

use anyhow::bail;
use bytes::{BufMut, Bytes, BytesMut};
use jobmill::proto::v1;
use prost::Message;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    load::{LoadResult, Meter, Run, measure},
    wire::{LeanResults, Method, Wire, job},
};

/// Number of streams, each on a connection of its own.
pub(super) const STREAMS: usize = 4;
/// Item limit of a message; it takes as many items as there are credits, up to this limit.
pub(super) const ITEMS_MAX: usize = 256;
/// Capacity of a stream's channel of messages.
const MESSAGES_MAX: usize = 2;

/// The client's side of a SubmitStream, which always has more items.
pub(super) struct SubmitStream {
    pub(super) wire: Wire,
    pub(super) queue: &'static str,
    pub(super) priority: i32,
    /// Permits for jobs under way, where their number is limited.
    pub(super) room: Option<Arc<Semaphore>>,
    /// The meter whose stop ends the stream.
    pub(super) stopping: Arc<Meter>,
    /// The counter of accepted items.
    pub(super) accepted: Arc<Meter>,
}

impl SubmitStream {
    /// Submits until it is stopped, and until every item has its result.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let items = Items::new(self.queue, self.priority);
        let credits = Semaphore::new(0);
        let (messages, bodies) = mpsc::channel(MESSAGES_MAX);
        let mut results =
            self.wire.stream::<LeanResults>(Method::SubmitStream, ReceiverStream::new(bodies)).await?;
        let sending = async {
            let messages = messages;
            while !self.stopping.is_stopped() {
                credits.acquire().await?.forget();
                let more = credits.available_permits().min(ITEMS_MAX - 1);
                credits.try_acquire_many(more as u32)?.forget();
                if let Some(room) = &self.room {
                    room.acquire_many(1 + more as u32).await?.forget();
                }
                if messages.send(items.message(1 + more)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let receiving = async {
            while let Some(message) = results.next().await {
                let message = message?;
                if message.results.iter().any(|result| result.submitted.is_none()) {
                    bail!("an item was refused");
                }
                self.accepted.add(message.results.len() as u64);
                credits.add_permits(usize::try_from(message.credits)?);
            }
            if !self.stopping.is_stopped() {
                bail!("a stream of submissions ended by itself");
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving)?;
        Ok(())
    }
}

/// Measures the jobs in a second on streams.
pub(super) async fn submit(uri: &str, queue: &'static str, run: Run) -> anyhow::Result<LoadResult> {
    let meter = Arc::new(Meter::default());
    let mut loops = JoinSet::new();
    for wire in Wire::connect_many(uri, STREAMS).await? {
        let (stopping, accepted) = (Arc::clone(&meter), Arc::clone(&meter));
        loops.spawn(SubmitStream { wire, queue, priority: 0, room: None, stopping, accepted }.run());
    }
    let rate = measure(loops, &meter, run).await?;
    Ok(LoadResult { rate, done: meter.done() })
}

/// Messages with equal items, encoded once.
pub(super) struct Items {
    all: Bytes,
    item_bytes: usize,
}

impl Items {
    /// Creates items with jobs for a queue.
    pub(super) fn new(queue: &str, priority: i32) -> Self {
        let item = v1::SubmitItem { job: Some(job(queue, priority)), ..v1::SubmitItem::default() };
        let one = v1::SubmitStreamRequest { items: vec![item], ..v1::SubmitStreamRequest::default() };
        let one = one.encode_to_vec();
        let mut all = BytesMut::with_capacity(one.len() * ITEMS_MAX);
        for _ in 0..ITEMS_MAX {
            // The encoding of a repeated field is that of its entries, one after the other.
            all.put_slice(&one);
        }
        Items { all: all.freeze(), item_bytes: one.len() }
    }

    /// Returns a message with this number of items, [`ITEMS_MAX`] at most.
    pub(super) fn message(&self, items: usize) -> Bytes {
        self.all.slice(..items * self.item_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_as_many_items_as_asked_for() {
        let items = Items::new("intake", 3);
        for count in [1, 2, ITEMS_MAX] {
            let message = v1::SubmitStreamRequest::decode(items.message(count)).expect("a message");
            assert_eq!(message.items.len(), count);
            assert!(
                message.items.iter().all(|item| item.job.as_ref().is_some_and(|job| job.priority == Some(3)))
            );
        }
    }
}
