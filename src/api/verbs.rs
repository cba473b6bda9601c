//! RPCs that change a job or a queue. Each is a type beside its service that defines its validation, required role,
//! idempotency digest, engine action and response. All run through the same steps, which are here: read, validate,
//! authorise, derive the request's identity, queue for the commit, respond.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    caller::Caller, core::Core, errors, errors_of_schedules::schedule_not_found, held_key::queue_of_key,
    needs::Needs, validate::Validator,
};
use crate::{
    admission,
    engine::{Action, Control, ControlRefusal, QueueCheck, ReplySlot},
    job::{Canonical, JobId, KeyHash, RequestId},
    proto::ChangeRequest,
};

/// Returns the etag that the object of a change must have; `*` stands for any.
pub(super) fn wanted_etag(etag: &str) -> Option<String> {
    (etag != "*").then(|| etag.to_owned())
}

/// An RPC that changes a job or a queue.
pub(super) trait Verb: Sized + Send + Sync {
    /// The request message.
    type Request: ChangeRequest;
    /// The response message.
    type Response;
    /// The engine's answer.
    type Done: Send;
    /// The RPC's name within its service: a part of the request's identity.
    const NAME: &'static str;
    /// The authorisation that it requires.
    const NEEDS: Needs;

    /// Reads a request. Its faults go to the validator.
    fn read(request: Self::Request, validator: &mut Validator) -> Self;

    /// The object of the change.
    fn target(&self) -> Target<'_>;

    /// Whether the response contains the job, so that the caller needs permission to read it.
    fn shows_job(&self) -> bool {
        false
    }

    /// Adds the request's parameters to its idempotency digest. A repeat must have the same ones, except for the
    /// namespace and the view; the target is added separately.
    fn add_to_digest(&self, _said: &mut Canonical) {}

    /// The action that the engine carries out.
    fn action(&self, ask: ReplySlot<Self::Done, ControlRefusal>) -> Action;

    /// Builds the response.
    fn answer(
        self,
        core: &Core,
        done: Self::Done,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

/// The object that a verb changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A job, and the revision that it must have, if the request names one.
    Job(JobId, Option<u64>),
    /// A queue, by its name.
    Queue(&'a str),
    /// A unique key, and its text.
    Key(KeyHash, &'a str),
    /// A schedule, by its name, and the queue of its jobs after the change, if the request names one.
    Schedule(&'a str, Option<&'a str>),
    /// A new schedule, by its name, and the queue of its jobs.
    NewSchedule(&'a str, &'a str),
    /// A calendar, by its name.
    Calendar(&'a str),
    /// A limit, by its name.
    Limit(&'a str),
}

impl Target<'_> {
    /// Adds the target to the idempotency digest, before the parameters.
    fn add_to_digest(self, said: &mut Canonical) {
        match self {
            Target::Job(id, expected_revision) => {
                said.put_text("id", &id.to_string());
                said.put_number("expected_revision", expected_revision);
            }
            Target::Queue(name)
            | Target::Schedule(name, _)
            | Target::NewSchedule(name, _)
            | Target::Calendar(name)
            | Target::Limit(name) => said.put_text("name", name),
            Target::Key(_, key) => said.put_text("key", key),
        }
    }
}

/// Runs a verb.
pub(super) async fn run<V: Verb>(
    core: &Core,
    call: Request<V::Request>,
) -> Result<Response<V::Response>, Status> {
    let caller = Caller::of(&call)?;
    let deadline = core.deadline(&call);
    let body = call.into_inner();
    let mut validator = Validator::new(core.clock.now(), body.namespace());
    validator.request_id(body.request_id());
    let request_id = body.request_id().to_owned();
    let verb = V::read(body, &mut validator);
    validator.finish()?;
    let (queue, entry) = match verb.target() {
        Target::Queue(name) => {
            caller.on_queue(name)?;
            (Some(name.to_owned()), caller.begin(Some(name)))
        }
        Target::NewSchedule(name, queue) => {
            caller.on_queue(queue)?;
            (Some(queue.to_owned()), caller.begin_named(name, Some(queue)))
        }
        Target::Schedule(name, new) => {
            let queue = queue_of_schedule(core, &caller, name, &request_id).await?;
            if let Some(new) = new {
                caller.on_queue(new)?;
            }
            let entry = caller.begin_named(name, queue.as_deref());
            (queue, entry)
        }
        Target::Calendar(name) | Target::Limit(name) => {
            caller.on_all_queues()?;
            (Some(String::new()), caller.begin_named(name, None))
        }
        Target::Job(id, _) => {
            let queue = queue_of(core, &caller, id, &request_id, verb.shows_job()).await?;
            let entry = caller.begin_job(id, queue.as_deref());
            (queue, entry)
        }
        Target::Key(hash, key) => {
            let queue = queue_of_key(core, &caller, (hash, key), &request_id).await?;
            let entry = caller.begin(queue.as_deref());
            (queue, entry)
        }
    };
    let request = repeatable_request(&verb, &request_id);
    let store_deadline = core.store_deadline(queue.as_deref().unwrap_or_default(), deadline);
    let only_repeat = queue.is_none().then(|| {
        let caller = Arc::clone(&caller);
        QueueCheck(Box::new(move |queue| caller.may_change(queue)))
    });
    let asked = |ask| Control { only_repeat, ..Control::new(request, verb.action(ask)) };
    let done = core.shard.control(store_deadline, asked).await.map_err(Status::from);
    entry.end(&done, |_| Vec::new());
    verb.answer(core, done?).await
}

/// Returns the idempotency key and digest of a request, if it has an id.
fn repeatable_request<V: Verb>(verb: &V, request_id: &str) -> Option<RequestId> {
    admission::repeatable(request_id, V::NAME, |said| {
        verb.target().add_to_digest(said);
        verb.add_to_digest(said);
    })
}

/// Returns the queue of a job, if the caller may change the job. A job never moves to another queue, so a check before
/// the commit is enough. The result is `None` if the job does not exist or is hidden from the caller, and the request
/// has an id: it may be a repeat of a request that deleted the job.
async fn queue_of(
    core: &Core,
    caller: &Caller,
    id: JobId,
    request_id: &str,
    shows_job: bool,
) -> Result<Option<String>, Status> {
    let job = core.shard.reads.read(move |reader| reader.job(id)).await?;
    match job.filter(|job| !caller.is_hidden(job)) {
        Some(job) => {
            caller.on_job(&job)?;
            if shows_job {
                caller.may_read(&job)?;
            }
            Ok(Some(job.spec.queue.as_str().to_owned()))
        }
        None if request_id.is_empty() => Err(errors::job_not_found(&id)),
        None => Ok(None),
    }
}

/// Returns the queue of a schedule's jobs, if the caller may change the schedule. As [`queue_of`], the result is `None`
/// if the request may be a repeat.
async fn queue_of_schedule(
    core: &Core,
    caller: &Caller,
    name: &str,
    request_id: &str,
) -> Result<Option<String>, Status> {
    let wanted = name.to_owned();
    let found = core.shard.reads.read(move |reader| reader.schedule(&wanted)).await?;
    let queue = found.map(|info| info.queue().to_owned());
    match queue.filter(|queue| caller.may_change(queue) || caller.sees_queue(queue)) {
        Some(queue) => {
            caller.on_queue(&queue)?;
            Ok(Some(queue))
        }
        None if request_id.is_empty() => Err(schedule_not_found(name)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
