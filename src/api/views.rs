//! How much of a job an answer shows.

use tonic::Status;

use super::{convert, core::Core};
use crate::{
    job::{Job, JobId},
    proto::v1,
};

/// Whether jobs in this view may be large.
pub(super) fn is_large(view: v1::JobView) -> bool {
    match view {
        v1::JobView::Unspecified | v1::JobView::Basic => false,
        v1::JobView::Result | v1::JobView::Full => true,
    }
}

impl Core {
    /// A job as it is now, and as a view shows it. `None` where no job has the id.
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
                convert::add_result(&mut shown, reader.result(id)?);
            }
            Ok(Some((job, shown)))
        });
        Ok(read.await?)
    }

    /// Adds what a view has beyond JOB_VIEW_BASIC, as it is now, to a job as it was.
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
                    let bytes = self.shard.reads.read(move |reader| reader.result(id)).await?;
                    convert::add_result(shown, bytes);
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
}
