//! Reads of the store that do not block the runtime.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Reader, StoreError};

/// Maximum number of reads at once; further ones wait.
const READS_MAX: usize = 8;

/// Reads of the store on threads that may block, limited in number.
#[derive(Clone)]
pub struct Reads {
    reader: Arc<dyn Reader>,
    turns: Arc<Semaphore>,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").field("turns", &self.turns.available_permits()).finish_non_exhaustive()
    }
}

impl Reads {
    /// Creates reads through this reader.
    #[must_use]
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Reads { reader, turns: Arc::new(Semaphore::new(READS_MAX)) }
    }

    /// Runs one read.
    ///
    /// # Errors
    /// The read's error, or that it panicked.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let reader = Arc::clone(&self.reader);
        let result = tokio::task::spawn_blocking(move || {
            // Released when the read is over, even if its caller has stopped waiting.
            let _turn = turn;
            read(&*reader)
        })
        .await;
        result.unwrap_or_else(|error| Err(StoreError::Corrupt(format!("a read did not end: {error}"))))
    }
}
