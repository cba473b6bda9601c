//! Removal of closures whose job ended, or was deleted, before its attempt started.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crate::{
    execute::closures::Closures,
    job::Change,
    store::Reads,
    watch::{Hub, Tail},
};

/// Pause after a failed read of the store. Either the server is about to end, or the failure is temporary.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Follows the change feed while closures wait. A closure whose attempt starts is removed at that moment; this task
/// removes the others.
pub(crate) async fn follow(closures: Arc<Closures>, hub: Arc<Hub>, reads: Reads) -> Infallible {
    loop {
        let mut tail = Tail::new(&hub, reads.clone(), closures.filled().await);
        while !closures.is_empty() {
            match tail.next().await {
                Ok(changes) => changes.iter().filter(|change| is_over(change)).for_each(|change| {
                    if let Some(extras) = &change.spec().extras {
                        closures.remove(&extras.closure);
                    }
                }),
                Err(error) => {
                    tracing::warn!(%error, "can't read the change feed to find closures of ended jobs");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }
}

fn is_over(change: &Change) -> bool {
    match change {
        Change::Job { job, .. } => job.state.is_done(),
        Change::Deleted(_) => true,
    }
}
