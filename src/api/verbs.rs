//! Calls that change a job or a queue. Each is one type beside its service: its rules, its role, what makes a repeat
//! the same, what it asks of the shard, and its answer. All go the same way, which is here: read, validated,
//! authorised, given a request's identity, queued for the commit, answered.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{caller::Caller, core::Core, errors, needs::Needs, validate::Validator};
use crate::{
    admission,
    engine::{Action, Ask, Control, ControlRefusal, QueueCheck},
    job::{Canonical, JobId, RequestId},
    proto::ChangeRequest,
};

/// A call that changes something.
pub(super) trait Verb: Sized + Send + Sync {
    /// Its request.
    type Request: ChangeRequest;
    /// Its answer.
    type Response;
    /// What the engine answers.
    type Done: Send;
    /// The RPC's name within its service: a part of a request's identity.
    const NAME: &'static str;
    /// What it asks of its caller.
    const NEEDS: Needs;

    /// Reads a request. What is wrong with it goes to the validator.
    fn read(request: Self::Request, validator: &mut Validator) -> Self;

    /// What it changes.
    fn about(&self) -> About<'_>;

    /// Whether it is answered with the job itself, so that its caller must be allowed to read it.
    fn shows_job(&self) -> bool {
        false
    }

    /// Adds what the request said, beside its namespace, what it changes and how much it wants to be answered, to what
    /// a repeat must say, too.
    fn say(&self, _said: &mut Canonical) {}

    /// What is asked of the shard.
    fn action(&self, ask: Ask<Self::Done, ControlRefusal>) -> Action;

    /// Answers.
    fn answer(
        self,
        core: &Core,
        done: Self::Done,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

/// What a verb changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'a> {
    Job(JobId),
    /// By its name.
    Queue(&'a str),
}

impl About<'_> {
    /// Adds it as every request says it first.
    fn say(self, said: &mut Canonical) {
        match self {
            About::Job(id) => said.put_text("id", &id.to_string()),
            About::Queue(name) => said.put_text("name", name),
        }
    }
}

/// Carries out a verb.
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
    let (queue, entry) = match verb.about() {
        About::Queue(name) => {
            caller.on_queue(name)?;
            (Some(name.to_owned()), caller.begin(Some(name)))
        }
        About::Job(id) => {
            let queue = queue_of(core, &caller, id, &request_id, verb.shows_job()).await?;
            let entry = caller.begin_job(id, queue.as_deref());
            (queue, entry)
        }
    };
    let request = repeatable_request(&verb, &request_id);
    let give_up = core.give_up(queue.as_deref().unwrap_or_default(), deadline);
    let only_repeat = queue.is_none().then(|| {
        let caller = Arc::clone(&caller);
        QueueCheck(Box::new(move |queue| caller.may_change(queue)))
    });
    let asked = |ask| Control { only_repeat, ..Control::new(request, verb.action(ask)) };
    let done = core.shard.control(give_up, asked).await.map_err(Status::from);
    entry.end(&done, |_| Vec::new());
    verb.answer(core, done?).await
}

/// The key and digest of a request, if it has an id.
fn repeatable_request<V: Verb>(verb: &V, request_id: &str) -> Option<RequestId> {
    admission::repeatable(request_id, V::NAME, |said| {
        verb.about().say(said);
        verb.say(said);
    })
}

/// The queue of a job, if the caller may change the job: it never goes to another queue, so that looking first is
/// enough. One that is not there, or is hidden from the caller, has no queue; the request may have come before, and
/// have deleted it.
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

#[cfg(test)]
mod tests;
