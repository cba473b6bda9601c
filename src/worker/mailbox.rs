//! A queue from many threads to one task, which takes all that is there at once.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The queue. Its senders bound it: each attempt has at most two items in it.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    filled: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox { items: Mutex::default(), filled: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    /// Adds an item. Only the first of several wakes the reader.
    pub(super) fn push(&self, item: T) {
        let was_empty = {
            let mut items = self.items.lock();
            items.push(item);
            items.len() == 1
        };
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Returns all items, possibly none.
    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.items.lock())
    }

    /// Waits until there may be items. There is one reader.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}
