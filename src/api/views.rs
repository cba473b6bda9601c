//! Views of jobs and queues in responses.

use std::sync::Arc;

use tonic::Status;

use super::{convert, core::Core, outgoing::Share};
use crate::{
    engine::{JobDone, QueueDone},
    job::{Job, JobId, Tally, names},
    proto::v1,
    settings::QueueInfo,
};

/// Returns whether jobs in this view may be large.
pub(super) fn is_large(view: v1::JobView) -> bool {
    match view {
        v1::JobView::Unspecified | v1::JobView::Basic => false,
        v1::JobView::Result | v1::JobView::Full => true,
    }
}

/// Returns the change of a job, and the job itself if a view asks for it.
pub(super) async fn job_change(
    core: &Core,
    share: &Share,
    done: JobDone,
    view: v1::JobView,
) -> Result<(v1::JobChange, Option<v1::Job>), Status> {
    let JobDone { id, state, revision, is_repeat, job } = done;
    let change = v1::JobChange {
        id: id.to_string(),
        state: convert::state(state) as i32,
        done: state.is_done(),
        revision: revision as i64,
        repeated: is_repeat,
    };
    let Some(job) = job.filter(|_| view != v1::JobView::Unspecified) else { return Ok((change, None)) };
    Ok((change, Some(core.shown_job(&job, view, share).await?)))
}

impl Core {
    /// Reads a job as it is now, in a view. Returns `None` if no job has the id.
    pub(super) async fn read_job(
        &self,
        id: JobId,
        view: v1::JobView,
    ) -> Result<Option<(Job, v1::Job)>, Status> {
        let read = self.shard.reads.read(move |reader| {
            if view == v1::JobView::Full {
                let whole = reader.whole_job(id)?;
                return Ok(whole.map(|whole| (whole.job.clone(), convert::whole_job(whole))));
            }
            let Some(job) = reader.job(id)? else { return Ok(None) };
            let mut shown = convert::job(&job);
            if view == v1::JobView::Result && job.result.is_some() {
                // The job was deleted meanwhile: treated as not found.
                let Some(bytes) = reader.result(id)? else { return Ok(None) };
                convert::add_result(&mut shown, bytes);
            }
            Ok(Some((job, shown)))
        });
        Ok(read.await?)
    }

    /// Converts a job as it was, with the further fields of the view as they are now. A view that may be large first
    /// reserves a share of the response budget.
    pub(super) async fn shown_job(
        &self,
        job: &Job,
        view: v1::JobView,
        share: &Share,
    ) -> Result<v1::Job, Status> {
        if is_large(view) {
            share.reserve().await;
        }
        let mut shown = convert::job(job);
        self.complete(&mut shown, job.id, view).await?;
        Ok(shown)
    }

    /// Adds the fields that a view has beyond JOB_VIEW_BASIC, as they are now, to a job as it was.
    pub(super) async fn complete(
        &self,
        shown: &mut v1::Job,
        id: JobId,
        view: v1::JobView,
    ) -> Result<(), Status> {
        match view {
            v1::JobView::Unspecified | v1::JobView::Basic => {}
            v1::JobView::Result => {
                if shown.result.is_some() {
                    // The bytes are absent if the job was deleted meanwhile; the size shows that there was a result.
                    let bytes = self.shard.reads.read(move |reader| reader.result(id)).await?;
                    bytes.into_iter().for_each(|bytes| convert::add_result(shown, bytes));
                }
            }
            v1::JobView::Full => {
                if let Some(whole) = self.shard.reads.read(move |reader| reader.whole_job(id)).await? {
                    convert::add_all(shown, whole);
                }
            }
        }
        Ok(())
    }

    /// Converts a queue, with its current counts from the tallies of all queues.
    pub(super) async fn shown_queue(&self, info: QueueInfo, tallies: &[Tally]) -> Result<v1::Queue, Status> {
        let name = Arc::clone(&info.name);
        let oldest = self.shard.reads.read(move |reader| reader.oldest_ready(&name)).await?;
        let own = || tallies.iter().filter(|tally| tally.queue == info.name);
        let live = || own().filter(|tally| !tally.state.is_done());
        let waiters = self.shard.queues.get(info.name.as_str()).map_or(0, |queue| queue.waiters());
        let now = self.clock.now();
        Ok(v1::Queue {
            name: info.name.as_str().to_owned(),
            namespace: names::NAMESPACE.to_owned(),
            settings: Some(convert::queue_settings(&info.settings)),
            paused: info.paused,
            declared: info.declared,
            etag: info.etag(),
            stats: Some(v1::QueueStats {
                counts: convert::state_counts(own()),
                live_jobs: live().map(|tally| tally.jobs as i64).sum(),
                live_bytes: live().map(|tally| tally.bytes as i64).sum(),
                waiters: waiters as i64,
                oldest_ready_age: oldest.map(|oldest| convert::duration(now.since(oldest))),
            }),
        })
    }

    /// Converts a queue after a change; `None` if the request is a repeat and the queue has been deleted meanwhile.
    pub(super) async fn queue_after(&self, done: QueueDone) -> Result<Option<v1::Queue>, Status> {
        let Some(info) = done.info else { return Ok(None) };
        let tallies = self.shard.reads.read(|reader| reader.tallies()).await?;
        Ok(Some(self.shown_queue(info, &tallies).await?))
    }
}
