//! Whoever makes a call: what it may do, and what is told of it.

use std::sync::Arc;

use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{errors, rpcs::Needs};
use crate::{
    access::{Access, Role, Subject},
    audit::{self, Audit},
    job::{Job, JobId},
    listen::Peer,
    store::JobFilter,
};

/// Whoever makes a call.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) access: Arc<Access>,
    pub(super) audit: Arc<Audit>,
    pub(super) subject: Subject,
    pub(super) peer: Option<Peer>,
    pub(super) rpc: &'static str,
    pub(super) needs: Needs,
}

impl Caller {
    /// The one that the guard let in.
    pub(super) fn of<T>(call: &Request<T>) -> Result<Caller, Status> {
        let caller = call.extensions().get::<Caller>().cloned();
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

    /// Whether the call may be about the jobs of a filter, which may name a queue.
    pub(super) fn on_filter(&self, filter: &JobFilter) -> Result<(), Status> {
        match &filter.queue {
            Some(queue) => self.on_queue(queue),
            None => self.on_all_queues(),
        }
    }

    /// Whether the call may be about this job. One that the caller may not even see is not there.
    pub(super) fn on_job(&self, job: &Job) -> Result<(), Status> {
        if !self.sees(job) {
            return Err(errors::job_not_found(&job.id));
        }
        self.on_queue(job.spec.queue.as_str())
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
    pub(super) fn begin(&self, queue: Option<&str>) -> Entry {
        Entry { caller: self.clone(), queue: queue.map(str::to_owned), ids: Vec::new(), ended: false }
    }

    /// Begins to note a change of a job.
    pub(super) fn begin_job(&self, id: JobId, queue: Option<&str>) -> Entry {
        let mut entry = self.begin(queue);
        entry.ids.push(id.to_string());
        entry
    }

    /// Notes something that was done, or refused.
    pub(super) fn record(&self, queue: Option<&str>, ids: &[String], outcome: Result<(), &Status>) {
        let reason = outcome.err().and_then(|status| status.get_details_error_info()).map(|info| info.reason);
        let code = outcome.err().map_or(Code::Ok, Status::code);
        self.note(queue, ids, code_name(code), reason.as_deref());
    }

    fn note(&self, queue: Option<&str>, ids: &[String], code: &str, reason: Option<&str>) {
        self.audit.record(audit::Call {
            subject: self.subject.name(),
            certificate: self.subject.certificate(),
            peer: self.peer.as_ref().map(|peer| peer.address),
            rpc: self.rpc,
            queue,
            ids,
            code,
            reason,
        });
    }
}

/// A change that is being made.
pub(super) struct Entry {
    caller: Caller,
    queue: Option<String>,
    ids: Vec<String>,
    ended: bool,
}

impl Entry {
    /// Notes how it ended.
    pub(super) fn end<T>(mut self, result: &Result<T, Status>, ids: impl FnOnce(&T) -> Vec<String>) {
        self.ended = true;
        if !self.caller.audit.is_on() {
            return;
        }
        if let Ok(done) = result {
            self.ids.extend(ids(done));
        }
        self.caller.record(self.queue.as_deref(), &self.ids, result.as_ref().map(|_| ()));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.ended {
            self.caller.note(self.queue.as_deref(), &self.ids, code_name(Code::Cancelled), None);
        }
    }
}

/// A code as the protocol's documents write it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
