//! The QueueService, and the verbs that change queues.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    core::Core,
    errors,
    needs::Needs,
    page_token,
    validate::Validator,
    verbs::{self, Target, Verb},
};
use crate::{
    engine::{Action, ControlRefusal, QueueDone, ReplySlot},
    job::Canonical,
    proto::v1::{self, queue_service_server::QueueService},
    settings::{QueueInfo, QueueSettings, Role, SettingsChange},
    store::sets::PurgeCounts,
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
}

#[tonic::async_trait]
impl QueueService for QueueServiceApi {
    async fn create_queue(
        &self,
        call: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        verbs::run::<CreateQueue>(&self.core, call).await
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
        let queue = self.core.shown_queue(info, &tallies).await?;
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
            validator.no_page_token();
        }
        validator.finish()?;
        let (infos, tallies) =
            self.core.shard.reads.read(|reader| Ok((reader.queues()?, reader.tallies()?))).await?;
        // A token is the last name of a page, as queues are sorted by name.
        let is_left = |info: &QueueInfo| after.as_deref().is_none_or(|after| info.name.as_str() > after);
        let mut left =
            infos.into_iter().filter(|info| caller.sees_queue(info.name.as_str()) && is_left(info));
        let mut queues = Vec::new();
        for info in left.by_ref().take(page_size) {
            queues.push(self.core.shown_queue(info, &tallies).await?);
        }
        let last = queues.last().filter(|_| left.next().is_some());
        let next_page_token = last.map(|queue| page_token::issue_after(&queue.name)).unwrap_or_default();
        Ok(Response::new(v1::ListQueuesResponse { queues, next_page_token }))
    }

    async fn update_queue(
        &self,
        call: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        verbs::run::<UpdateQueue>(&self.core, call).await
    }

    async fn delete_queue(
        &self,
        call: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        verbs::run::<DeleteQueue>(&self.core, call).await
    }

    async fn pause_queue(
        &self,
        call: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        verbs::run::<PauseQueue>(&self.core, call).await
    }

    async fn resume_queue(
        &self,
        call: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        verbs::run::<ResumeQueue>(&self.core, call).await
    }

    async fn purge_queue(
        &self,
        call: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        verbs::run::<PurgeQueue>(&self.core, call).await
    }
}

const READ: Needs = Needs::Role(Role::Read);

/// What the service's RPCs require of their callers.
pub(super) const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.QueueService/CreateQueue", CreateQueue::NEEDS),
    ("jobmill.v1.QueueService/GetQueue", READ),
    ("jobmill.v1.QueueService/ListQueues", READ),
    ("jobmill.v1.QueueService/UpdateQueue", UpdateQueue::NEEDS),
    ("jobmill.v1.QueueService/DeleteQueue", DeleteQueue::NEEDS),
    ("jobmill.v1.QueueService/PauseQueue", PauseQueue::NEEDS),
    ("jobmill.v1.QueueService/ResumeQueue", ResumeQueue::NEEDS),
    ("jobmill.v1.QueueService/PurgeQueue", PurgeQueue::NEEDS),
];

/// Creates a queue.
pub(super) struct CreateQueue {
    name: String,
    said: v1::QueueSettings,
    settings: QueueSettings,
}

impl Verb for CreateQueue {
    type Request = v1::CreateQueueRequest;
    type Response = v1::CreateQueueResponse;
    type Done = QueueDone;
    const NAME: &'static str = "CreateQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::CreateQueueRequest, validator: &mut Validator) -> Self {
        validator.queue_name("name", &request.name);
        let said = request.settings.unwrap_or_default();
        CreateQueue { name: request.name, settings: validator.queue_settings("settings", &said), said }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        add_settings_to_digest(said, &self.said);
    }

    fn action(&self, ask: ReplySlot<QueueDone, ControlRefusal>) -> Action {
        Action::CreateQueue { name: self.name.clone(), settings: self.settings.clone(), ask }
    }

    async fn answer(self, core: &Core, done: QueueDone) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::CreateQueueResponse { queue: core.queue_after(done).await?, repeated }))
    }
}

/// Changes some of a queue's settings.
pub(super) struct UpdateQueue {
    name: String,
    etag: String,
    paths: BTreeSet<String>,
    said: v1::QueueSettings,
    change: SettingsChange,
}

impl Verb for UpdateQueue {
    type Request = v1::UpdateQueueRequest;
    type Response = v1::UpdateQueueResponse;
    type Done = QueueDone;
    const NAME: &'static str = "UpdateQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::UpdateQueueRequest, validator: &mut Validator) -> Self {
        let v1::Queue { name, etag, settings, .. } = request.queue.unwrap_or_else(|| {
            validator.fault("queue", "is required");
            v1::Queue::default()
        });
        validator.queue_name("queue.name", &name);
        validator.etag("queue.etag", &etag);
        let said = settings.unwrap_or_default();
        let to = validator.queue_settings("queue.settings", &said);
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let fields = validator.settings_fields("update_mask", &paths);
        let paths = paths.into_iter().collect();
        UpdateQueue { name, etag, paths, said, change: SettingsChange { fields, to } }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("etag", &self.etag);
        for path in &self.paths {
            said.put_text("update_mask", path);
        }
        add_settings_to_digest(said, &self.said);
    }

    fn action(&self, ask: ReplySlot<QueueDone, ControlRefusal>) -> Action {
        let etag = verbs::wanted_etag(&self.etag);
        Action::UpdateQueue { name: self.name.clone(), change: self.change.clone(), etag, ask }
    }

    async fn answer(self, core: &Core, done: QueueDone) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::UpdateQueueResponse { queue: core.queue_after(done).await?, repeated }))
    }
}

/// Adds the settings that a request sets to its canonical form.
fn add_settings_to_digest(said: &mut Canonical, settings: &v1::QueueSettings) {
    let micros =
        |time: &prost_types::Duration| i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos / 1_000);
    said.put_number("settings.max_jobs", settings.max_jobs);
    said.put_number("settings.max_bytes", settings.max_bytes);
    said.put_number("settings.consumers", settings.consumers);
    said.put_number("settings.when_full", (settings.when_full != 0).then_some(settings.when_full));
    said.put_number("settings.max_wait", settings.max_wait.as_ref().map(micros));
    said.put_number("settings.max_waiters", settings.max_waiters);
    said.put_number("settings.accept_unknown_kinds", settings.accept_unknown_kinds);
    said.put_text("settings.fair_by", &settings.fair_by);
    let v1::Retention { succeeded, failed, cancelled, expired } = settings.retention.unwrap_or_default();
    let kept = [("succeeded", succeeded), ("failed", failed), ("cancelled", cancelled), ("expired", expired)];
    for (state, keep) in kept {
        let name = format!("settings.retention.{state}");
        match keep.and_then(|keep| keep.keep) {
            Some(v1::keep::Keep::Time(time)) => said.put_number(&name, Some(micros(&time))),
            Some(v1::keep::Keep::Forever(_)) => said.put_text(&name, "forever"),
            None => {}
        }
    }
}

/// Deletes a queue.
struct DeleteQueue {
    name: String,
}

impl Verb for DeleteQueue {
    type Request = v1::DeleteQueueRequest;
    type Response = v1::DeleteQueueResponse;
    type Done = ();
    const NAME: &'static str = "DeleteQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::DeleteQueueRequest, validator: &mut Validator) -> Self {
        validator.queue_name("name", &request.name);
        DeleteQueue { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn action(&self, ask: ReplySlot<(), ControlRefusal>) -> Action {
        Action::DeleteQueue { name: self.name.clone(), ask }
    }

    async fn answer(self, _: &Core, (): ()) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        Ok(Response::new(v1::DeleteQueueResponse {}))
    }
}

/// Stops starting jobs of a queue.
struct PauseQueue {
    name: String,
}

/// Starts jobs of a queue again.
struct ResumeQueue {
    name: String,
}

impl Verb for PauseQueue {
    type Request = v1::PauseQueueRequest;
    type Response = v1::PauseQueueResponse;
    type Done = QueueDone;
    const NAME: &'static str = "PauseQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::PauseQueueRequest, validator: &mut Validator) -> Self {
        validator.queue_name("name", &request.name);
        PauseQueue { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn action(&self, ask: ReplySlot<QueueDone, ControlRefusal>) -> Action {
        Action::SetPaused { name: self.name.clone(), paused: true, ask }
    }

    async fn answer(self, core: &Core, done: QueueDone) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::PauseQueueResponse { queue: core.queue_after(done).await?, repeated }))
    }
}

impl Verb for ResumeQueue {
    type Request = v1::ResumeQueueRequest;
    type Response = v1::ResumeQueueResponse;
    type Done = QueueDone;
    const NAME: &'static str = "ResumeQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::ResumeQueueRequest, validator: &mut Validator) -> Self {
        validator.queue_name("name", &request.name);
        ResumeQueue { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn action(&self, ask: ReplySlot<QueueDone, ControlRefusal>) -> Action {
        Action::SetPaused { name: self.name.clone(), paused: false, ask }
    }

    async fn answer(self, core: &Core, done: QueueDone) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::ResumeQueueResponse { queue: core.queue_after(done).await?, repeated }))
    }
}

/// Deletes the jobs that wait in a queue.
pub(super) struct PurgeQueue {
    name: String,
}

impl Verb for PurgeQueue {
    type Request = v1::PurgeQueueRequest;
    type Response = v1::PurgeQueueResponse;
    type Done = PurgeCounts;
    const NAME: &'static str = "PurgeQueue";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::PurgeQueueRequest, validator: &mut Validator) -> Self {
        validator.queue_name("name", &request.name);
        PurgeQueue { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Queue(&self.name)
    }

    fn action(&self, ask: ReplySlot<PurgeCounts, ControlRefusal>) -> Action {
        Action::Purge { name: self.name.clone(), ask }
    }

    async fn answer(self, _: &Core, done: PurgeCounts) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let (deleted_jobs, skipped_jobs) = (done.deleted as i64, done.skipped as i64);
        Ok(Response::new(v1::PurgeQueueResponse { deleted_jobs, skipped_jobs }))
    }
}
