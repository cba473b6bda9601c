//! Lets go of closures whose job ended, or was deleted, before its attempt started.

use std::{convert::Infallible, sync::Arc, time::Duration};

use crate::{
    execute::closures::Closures,
    job::Change,
    store::Reads,
    watch::{Hub, Tail},
};

/// The store could not be read: the server is about to end, or it was for once.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Follows the feed while there are closures that wait. A closure whose attempt starts is taken then; this is for the
/// others.
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
                    tracing::warn!(%error, "can't tell which closures are of no use any more");
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
