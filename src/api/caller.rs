//! Whoever makes a call: what it may do, and what is told of it.

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::{Code, Request, Status};

use super::{errors, needs::Needs};
use crate::{
    access::{Access, Subject},
    audit::{self, Audit, Receipt},
    counters::grpc_code,
    job::{Job, JobFilter, JobId},
    listen::Peer,
    settings::Role,
};

/// Whoever makes a call.
pub(super) struct Caller {
    pub(super) access: Arc<Access>,
    pub(super) audit: Arc<Audit>,
    pub(super) subject: Subject,
    pub(super) peer: Option<Peer>,
    pub(super) rpc: &'static str,
    pub(super) needs: Needs,
    /// The latest line of the audit that no answer has waited for.
    pub(super) unwritten: Mutex<Receipt>,
}

impl Caller {
    /// The one that the guard let in.
    pub(super) fn of<T>(call: &Request<T>) -> Result<Arc<Caller>, Status> {
        let caller = call.extensions().get::<Arc<Caller>>().cloned();
        caller.ok_or_else(|| Status::internal("a call has passed no guard"))
    }

    /// Whether the call may be about this queue.
    pub(super) fn on_queue(&self, queue: &str) -> Result<(), Status> {
        match self.needs {
            Needs::Role(role) if !self.subject.may(role, queue) => Err(self.denied(role, Some(queue))),
            Needs::Role(_) | Needs::AnyToken | Needs::Nothing => Ok(()),
        }
    }

    /// Whether the call may be about all queues.
    pub(super) fn on_all_queues(&self) -> Result<(), Status> {
        match self.needs {
            Needs::Role(role) if !self.subject.may_everywhere(role) => Err(self.denied(role, None)),
            Needs::Role(_) | Needs::AnyToken | Needs::Nothing => Ok(()),
        }
    }

    /// Whether the call may be about the jobs of a filter, which may name queues.
    pub(super) fn on_filter(&self, filter: &JobFilter) -> Result<(), Status> {
        match filter.queues.is_empty() {
            true => self.on_all_queues(),
            false => filter.queues.iter().try_for_each(|queue| self.on_queue(queue)),
        }
    }

    /// Whether the call may be about this job. One that is hidden is not there.
    pub(super) fn on_job(&self, job: &Job) -> Result<(), Status> {
        if self.is_hidden(job) {
            return Err(errors::job_not_found(&job.id));
        }
        self.on_queue(job.spec.queue.as_str())
    }

    /// Whether the caller may neither see the job nor do to it what the call does.
    pub(super) fn is_hidden(&self, job: &Job) -> bool {
        !self.may_change(job.spec.queue.as_str()) && !self.sees(job)
    }

    /// Whether the caller has the role that the call needs on a queue.
    pub(super) fn may_change(&self, queue: &str) -> bool {
        match self.needs {
            Needs::Role(role) => self.subject.may(role, queue),
            Needs::AnyToken | Needs::Nothing => true,
        }
    }

    /// Whether the call may be answered with this job.
    pub(super) fn may_read(&self, job: &Job) -> Result<(), Status> {
        let queue = job.spec.queue.as_str();
        if self.sees_queue(queue) { Ok(()) } else { Err(self.denied(Role::Read, Some(queue))) }
    }

    /// Whether the caller may see this job.
    pub(super) fn sees(&self, job: &Job) -> bool {
        self.sees_queue(job.spec.queue.as_str())
    }

    /// Whether the caller may see this queue.
    pub(super) fn sees_queue(&self, queue: &str) -> bool {
        self.subject.may(Role::Read, queue)
    }

    /// Whether the caller may see all jobs, so that there is no need to look at each.
    pub(super) fn sees_all(&self) -> bool {
        self.subject.may_everywhere(Role::Read)
    }

    /// Whether the caller would still be let in: a long call may outlive its token.
    pub(super) fn recheck(&self) -> Result<(), Status> {
        self.access
            .recheck(&self.subject)
            .map_err(|denied| self.audited(errors::unauthenticated(denied), None))
    }

    fn denied(&self, role: Role, queue: Option<&str>) -> Status {
        let status = errors::permission_denied(self.subject.name().unwrap_or_default(), role, queue);
        self.audited(status, queue)
    }

    fn audited(&self, status: Status, queue: Option<&str>) -> Status {
        self.record(queue, &[], Err(&status));
        status
    }

    /// Begins to note a call that changes something. What is dropped before its end is noted as such: the caller went
    /// away, and the change may have been made all the same.
    pub(super) fn begin(self: &Arc<Self>, queue: Option<&str>) -> Entry {
        let begun = || Begun { caller: Arc::clone(self), queue: queue.map(str::to_owned), ids: Vec::new() };
        Entry(self.audit.is_on().then(begun))
    }

    /// Begins to note a change of a job.
    pub(super) fn begin_job(self: &Arc<Self>, id: JobId, queue: Option<&str>) -> Entry {
        let mut entry = self.begin(queue);
        if let Some(begun) = &mut entry.0 {
            begun.ids.push(id.to_string());
        }
        entry
    }

    /// Notes something that was done, or refused.
    pub(super) fn record(&self, queue: Option<&str>, ids: &[String], outcome: Result<(), &Status>) {
        let reason = outcome.err().and_then(errors::reason);
        let code = outcome.err().map_or(Code::Ok, Status::code);
        self.note(queue, ids, code, reason.as_deref());
    }

    fn note(&self, queue: Option<&str>, ids: &[String], code: Code, reason: Option<&str>) {
        let receipt = self.audit.record(audit::Call {
            subject: self.subject.name(),
            certificate: self.subject.certificate(),
            peer: self.peer.as_ref().map(|peer| peer.address),
            rpc: self.rpc,
            queue,
            ids,
            code: grpc_code(code as usize),
            reason,
        });
        // Lines are written in their order: the latest one stands for those before it.
        if receipt.is_open() {
            *self.unwritten.lock() = receipt;
        }
    }

    /// A line of the call that its answer has to wait for.
    pub(super) fn take_unwritten(&self) -> Option<Receipt> {
        let receipt = std::mem::take(&mut *self.unwritten.lock());
        receipt.is_open().then_some(receipt)
    }

    /// Returns when what the call has noted so far is in the audit, or has taken too long. Answers of a stream go out
    /// after this; for the first answer of each call the guard does the same.
    pub(super) async fn written(&self) {
        if let Some(receipt) = self.take_unwritten() {
            self.audit.written(receipt).await;
        }
    }
}

/// A change that is being made; nothing where nobody wants to know.
pub(super) struct Entry(Option<Begun>);

struct Begun {
    caller: Arc<Caller>,
    queue: Option<String>,
    ids: Vec<String>,
}

impl Entry {
    /// Notes how it ended.
    pub(super) fn end<T>(mut self, result: &Result<T, Status>, ids: impl FnOnce(&T) -> Vec<String>) {
        let Some(mut begun) = self.0.take() else { return };
        if let Ok(done) = result {
            begun.ids.extend(ids(done));
        }
        begun.caller.record(begun.queue.as_deref(), &begun.ids, result.as_ref().map(|_| ()));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(begun) = self.0.take() {
            begun.caller.note(begun.queue.as_deref(), &begun.ids, Code::Cancelled, None);
        }
    }
}
