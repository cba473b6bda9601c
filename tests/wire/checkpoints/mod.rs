//! Checkpoints of attempts in the server: from functions, commands and endpoints, to the next attempt.

mod commands;
#[cfg(feature = "http")]
mod endpoints;
mod functions;

use jobmill::{
    job::{JobId, StoredCheckpoint},
    proto::v1,
    settings::KindDefaults,
};

use crate::support::{Rig, defaults, soon};

/// Returns defaults with a first retry after a millisecond.
fn soon_again() -> KindDefaults {
    let retry = jobmill::job::RetryPolicy {
        initial_delay: std::time::Duration::from_millis(1),
        jitter: 0.0,
        ..jobmill::job::RetryPolicy::DEFAULT
    };
    KindDefaults { retry, ..defaults() }
}

impl Rig {
    async fn stored_checkpoint(&self, id: &str) -> Option<StoredCheckpoint> {
        let id: JobId = id.parse().unwrap();
        soon(self.handle().get(id)).await.unwrap().unwrap().checkpoint
    }

    /// Returns the number and the state of a job's checkpoint, which does not change meanwhile.
    async fn checkpoint(&self, id: &str) -> Option<(i64, Vec<u8>)> {
        let kept = self.stored_checkpoint(id).await?;
        // What clients see of it is its number, size and time.
        let shown = self.get(id).await.checkpoint.unwrap();
        assert_eq!((shown.number, shown.size_bytes), (kept.number, kept.state.bytes.len() as i32));
        assert!(shown.write_time.is_some());
        Some((kept.number, kept.state.bytes.to_vec()))
    }

    /// Returns once a job's checkpoint has this number.
    async fn reaches_checkpoint(&self, id: &str, number: i64) -> Vec<u8> {
        let reached = async {
            loop {
                match self.stored_checkpoint(id).await {
                    Some(stored) if stored.number >= number => return stored.state.bytes.to_vec(),
                    Some(_) | None => tokio::task::yield_now().await,
                }
            }
        };
        soon(reached).await
    }

    /// Starts a job again without its checkpoint.
    async fn retry_anew(&self, id: &str) -> v1::JobChange {
        let request = v1::RetryJobRequest {
            id: id.to_owned(),
            drop_checkpoint: true,
            ..v1::RetryJobRequest::default()
        };
        soon(self.jobs.clone().retry_job(request)).await.unwrap().into_inner().change.unwrap()
    }
}

/// A state of this many bytes.
fn large(bytes: usize) -> Vec<u8> {
    vec![b'x'; bytes]
}
