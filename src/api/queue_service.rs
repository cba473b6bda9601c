//! The QueueService.

use tonic::{Request, Response, Status};

use super::{Core, convert, errors, validate::Validator};
use crate::{
    commit::ControlAnswer,
    proto::v1::{self, queue_service_server::QueueService},
    store::{Control, ControlDone, QueueInfo, Tally},
};

/// The QueueService.
#[derive(Clone)]
pub(crate) struct QueueServiceApi {
    core: Core,
}

impl QueueServiceApi {
    pub(crate) fn new(core: Core) -> Self {
        QueueServiceApi { core }
    }

    fn checked_name(&self, name: String) -> Result<String, Status> {
        let mut validator = Validator::new(self.core.clock.now());
        validator.queue_name("name", &name);
        validator.finish()?;
        Ok(name)
    }

    async fn control(&self, control: Control) -> Result<Option<v1::Queue>, Status> {
        match self.core.commit.control(control).await? {
            ControlAnswer::Decided(Ok(ControlDone::Queue(info))) => {
                let tallies = self.core.reads.read(|reader| reader.tallies()).await?;
                Ok(Some(self.queue(info, &tallies).await?))
            }
            ControlAnswer::Decided(Ok(_)) | ControlAnswer::Purged { .. } => Ok(None),
            ControlAnswer::Decided(Err(refusal)) => Err(refusal.into()),
        }
    }

    async fn queue(&self, info: QueueInfo, tallies: &[Tally]) -> Result<v1::Queue, Status> {
        let name = std::sync::Arc::clone(&info.name);
        let oldest = self.core.reads.read(move |reader| reader.oldest_ready(&name)).await?;
        let own = || tallies.iter().filter(|tally| tally.queue == info.name);
        let live = || own().filter(|tally| !tally.state.is_done());
        let waiters = self.core.admission.queues().get(info.name.as_str()).map_or(0, |queue| queue.waiters());
        let now = self.core.clock.now();
        Ok(v1::Queue {
            name: info.name.as_str().to_owned(),
            settings: Some(convert::queue_settings(&info.settings)),
            paused: info.paused,
            declared: info.declared,
            stats: Some(v1::QueueStats {
                counts: convert::state_counts(own()),
                live_jobs: live().map(|tally| tally.jobs as i64).sum(),
                live_bytes: live().map(|tally| tally.bytes as i64).sum(),
                waiters: waiters as i64,
                oldest_ready_age: oldest.map(|oldest| convert::duration(now.since(oldest))),
            }),
        })
    }
}

#[tonic::async_trait]
impl QueueService for QueueServiceApi {
    async fn create_queue(
        &self,
        call: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        validator.queue_name("name", &body.name);
        let settings = validator.queue_settings(body.settings);
        validator.finish()?;
        let queue = self.control(Control::CreateQueue { name: body.name, settings }).await?;
        Ok(Response::new(v1::CreateQueueResponse { queue }))
    }

    async fn get_queue(
        &self,
        call: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        let name = self.checked_name(call.into_inner().name)?;
        let (queues, tallies) =
            self.core.reads.read(|reader| Ok((reader.queues()?, reader.tallies()?))).await?;
        let Some(info) = queues.into_iter().find(|queue| queue.name.as_str() == name) else {
            return Err(errors::queue_not_found(&name));
        };
        let queue = self.queue(info, &tallies).await?;
        Ok(Response::new(v1::GetQueueResponse { queue: Some(queue) }))
    }

    async fn list_queues(
        &self,
        _call: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let (infos, tallies) =
            self.core.reads.read(|reader| Ok((reader.queues()?, reader.tallies()?))).await?;
        let mut queues = Vec::with_capacity(infos.len());
        for info in infos {
            queues.push(self.queue(info, &tallies).await?);
        }
        Ok(Response::new(v1::ListQueuesResponse { queues }))
    }

    async fn update_queue(
        &self,
        call: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        validator.queue_name("name", &body.name);
        let settings = validator.queue_settings(body.settings);
        validator.finish()?;
        let queue = self.control(Control::UpdateQueue { name: body.name, settings }).await?;
        Ok(Response::new(v1::UpdateQueueResponse { queue }))
    }

    async fn delete_queue(
        &self,
        call: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let name = self.checked_name(call.into_inner().name)?;
        self.control(Control::DeleteQueue { name }).await?;
        Ok(Response::new(v1::DeleteQueueResponse {}))
    }

    async fn pause_queue(
        &self,
        call: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let name = self.checked_name(call.into_inner().name)?;
        let queue = self.control(Control::SetPaused { name, paused: true }).await?;
        Ok(Response::new(v1::PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        call: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let name = self.checked_name(call.into_inner().name)?;
        let queue = self.control(Control::SetPaused { name, paused: false }).await?;
        Ok(Response::new(v1::ResumeQueueResponse { queue }))
    }

    async fn purge_queue(
        &self,
        call: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let name = self.checked_name(call.into_inner().name)?;
        match self.core.commit.control(Control::Purge { name }).await? {
            ControlAnswer::Purged { deleted } => {
                Ok(Response::new(v1::PurgeQueueResponse { deleted_jobs: deleted as i64 }))
            }
            ControlAnswer::Decided(Err(refusal)) => Err(refusal.into()),
            ControlAnswer::Decided(Ok(_)) => Err(Status::internal("a purge was decided at once")),
        }
    }
}
