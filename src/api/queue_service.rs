//! The QueueService.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{caller::Caller, convert, core::Core, errors, page_token, validate::Validator};
use crate::{
    clock::Uptime,
    engine::{Ask, Control, ControlRefusal},
    job::{Tally, names},
    proto::v1::{self, queue_service_server::QueueService},
    settings::QueueInfo,
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

    fn checked_name(&self, name: String, namespace: &str) -> Result<String, Status> {
        let mut validator = Validator::new(self.core.clock.now(), namespace);
        validator.queue_name("name", &name);
        validator.finish()?;
        Ok(name)
    }

    /// Changes a queue, if the caller may.
    async fn control<T>(
        &self,
        caller: &Arc<Caller>,
        name: &str,
        deadline: Option<Uptime>,
        make: impl FnOnce(Ask<T, ControlRefusal>) -> Control,
    ) -> Result<T, Status> {
        caller.on_queue(name)?;
        let entry = caller.begin(Some(name));
        let give_up = self.core.give_up(name, deadline);
        let done = self.core.shard.control(give_up, make).await.map_err(Status::from);
        entry.end(&done, |_| Vec::new());
        done
    }

    /// As [`QueueServiceApi::control`]; returns the queue after the change.
    async fn change(
        &self,
        caller: &Arc<Caller>,
        name: &str,
        deadline: Option<Uptime>,
        make: impl FnOnce(Ask<QueueInfo, ControlRefusal>) -> Control,
    ) -> Result<Option<v1::Queue>, Status> {
        let info = self.control(caller, name, deadline, make).await?;
        let tallies = self.core.shard.reads.read(|reader| reader.tallies()).await?;
        Ok(Some(self.queue(info, &tallies).await?))
    }

    async fn queue(&self, info: QueueInfo, tallies: &[Tally]) -> Result<v1::Queue, Status> {
        let name = std::sync::Arc::clone(&info.name);
        let oldest = self.core.shard.reads.read(move |reader| reader.oldest_ready(&name)).await?;
        let own = || tallies.iter().filter(|tally| tally.queue == info.name);
        let live = || own().filter(|tally| !tally.state.is_done());
        let waiters = self.core.shard.queues.get(info.name.as_str()).map_or(0, |queue| queue.waiters());
        let now = self.core.clock.now();
        Ok(v1::Queue {
            name: info.name.as_str().to_owned(),
            namespace: names::NAMESPACE.to_owned(),
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
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.queue_name("name", &body.name);
        let settings = validator.queue_settings(body.settings);
        validator.finish()?;
        let queue = self
            .change(&caller, &body.name, deadline, |ask| Control::CreateQueue {
                name: body.name.clone(),
                settings,
                ask,
            })
            .await?;
        Ok(Response::new(v1::CreateQueueResponse { queue }))
    }

    async fn get_queue(
        &self,
        call: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let name = self.checked_name(body.name, &body.namespace)?;
        caller.on_queue(&name)?;
        let (queues, tallies) =
            self.core.shard.reads.read(|reader| Ok((reader.queues()?, reader.tallies()?))).await?;
        let Some(info) = queues.into_iter().find(|queue| queue.name.as_str() == name) else {
            return Err(errors::queue_not_found(&name));
        };
        let queue = self.queue(info, &tallies).await?;
        Ok(Response::new(v1::GetQueueResponse { queue: Some(queue) }))
    }

    async fn list_queues(
        &self,
        call: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let page_size = validator.page_size(body.page_size);
        let after = page_token::read_after(&body.page_token);
        if after.is_none() && !body.page_token.is_empty() {
            validator.fault("page_token", "is not the next_page_token of a page: start again without it");
        }
        validator.finish()?;
        let (infos, tallies) =
            self.core.shard.reads.read(|reader| Ok((reader.queues()?, reader.tallies()?))).await?;
        // A token is the last name that was told: queues come by name.
        let is_left = |info: &QueueInfo| after.as_deref().is_none_or(|after| info.name.as_str() > after);
        let mut left =
            infos.into_iter().filter(|info| caller.sees_queue(info.name.as_str()) && is_left(info));
        let mut queues = Vec::new();
        for info in left.by_ref().take(page_size) {
            queues.push(self.queue(info, &tallies).await?);
        }
        let last = queues.last().filter(|_| left.next().is_some());
        let next_page_token = last.map(|queue| page_token::issue_after(&queue.name)).unwrap_or_default();
        Ok(Response::new(v1::ListQueuesResponse { queues, next_page_token }))
    }

    async fn update_queue(
        &self,
        call: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.queue_name("name", &body.name);
        let settings = validator.queue_settings(body.settings);
        validator.finish()?;
        let queue = self
            .change(&caller, &body.name, deadline, |ask| Control::UpdateQueue {
                name: body.name.clone(),
                settings,
                ask,
            })
            .await?;
        Ok(Response::new(v1::UpdateQueueResponse { queue }))
    }

    async fn delete_queue(
        &self,
        call: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let name = self.checked_name(body.name, &body.namespace)?;
        self.control(&caller, &name, deadline, |ask| Control::DeleteQueue { name: name.clone(), ask })
            .await?;
        Ok(Response::new(v1::DeleteQueueResponse {}))
    }

    async fn pause_queue(
        &self,
        call: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let name = self.checked_name(body.name, &body.namespace)?;
        let queue = self
            .change(&caller, &name, deadline, |ask| Control::SetPaused {
                name: name.clone(),
                paused: true,
                ask,
            })
            .await?;
        Ok(Response::new(v1::PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        call: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let name = self.checked_name(body.name, &body.namespace)?;
        let queue = self
            .change(&caller, &name, deadline, |ask| Control::SetPaused {
                name: name.clone(),
                paused: false,
                ask,
            })
            .await?;
        Ok(Response::new(v1::ResumeQueueResponse { queue }))
    }

    async fn purge_queue(
        &self,
        call: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let name = self.checked_name(body.name, &body.namespace)?;
        let deleted =
            self.control(&caller, &name, deadline, |ask| Control::Purge { name: name.clone(), ask }).await?;
        Ok(Response::new(v1::PurgeQueueResponse { deleted_jobs: deleted as i64 }))
    }
}
