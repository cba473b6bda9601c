//! The authenticated caller of an RPC: permissions and audit.

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::{Code, Request, Status};

use super::{errors, needs::Needs};
use crate::{
    access::{Access, Subject},
    audit::{self, Audit, Receipt},
    counters::grpc_code,
    job::{Job, JobDraft, JobFilter, JobId, OnConflict},
    listen::Peer,
    settings::{QueuePattern, Role},
};

/// The authenticated caller of an RPC.
pub(super) struct Caller {
    pub(super) access: Arc<Access>,
    pub(super) audit: Arc<Audit>,
    pub(super) subject: Subject,
    pub(super) peer: Option<Peer>,
    pub(super) rpc: &'static str,
    pub(super) needs: Needs,
    /// The latest audit line for which no response has waited.
    pub(super) unwritten: Mutex<Receipt>,
}

impl Caller {
    /// Returns the caller that the guard has attached to the request.
    pub(super) fn of<T>(call: &Request<T>) -> Result<Arc<Caller>, Status> {
        let caller = call.extensions().get::<Arc<Caller>>().cloned();
        caller.ok_or_else(|| Status::internal("the call has not passed the guard"))
    }

    /// Checks that the caller has the call's role on this queue.
    pub(super) fn on_queue(&self, queue: &str) -> Result<(), Status> {
        match self.needs {
            Needs::Role(role) if !self.subject.may(role, queue) => Err(self.denied(role, Some(queue))),
            Needs::Role(_) | Needs::AnyToken | Needs::Nothing => Ok(()),
        }
    }

    /// Checks that the caller may cancel the holder of a job's unique key, if the job asks for that.
    pub(super) fn on_unique(&self, draft: &JobDraft) -> Result<(), Status> {
        let cancels = draft.unique.as_ref().is_some_and(|unique| unique.on_started() == OnConflict::Cancel);
        if cancels && !self.subject.may(Role::Cancel, &draft.queue) {
            return Err(self.denied(Role::Cancel, Some(&draft.queue)));
        }
        Ok(())
    }

    /// Checks that the caller has the call's role on all queues.
    pub(super) fn on_all_queues(&self) -> Result<(), Status> {
        match self.needs {
            Needs::Role(role) if !self.subject.may_everywhere(role) => Err(self.denied(role, None)),
            Needs::Role(_) | Needs::AnyToken | Needs::Nothing => Ok(()),
        }
    }

    /// Checks that the caller has the call's role on the queues of a filter, or on all queues if it names none.
    pub(super) fn on_filter(&self, filter: &JobFilter) -> Result<(), Status> {
        match filter.queues.is_empty() {
            true => self.on_all_queues(),
            false => filter.queues.iter().try_for_each(|queue| self.on_queue(queue)),
        }
    }

    /// Checks that the caller has the call's role on this job. A hidden job is reported as not found.
    pub(super) fn on_job(&self, job: &Job) -> Result<(), Status> {
        if self.is_hidden(job) {
            return Err(errors::job_not_found(&job.id));
        }
        self.on_queue(job.spec.queue.as_str())
    }

    /// Whether the caller may neither read the job nor has the call's role on it.
    pub(super) fn is_hidden(&self, job: &Job) -> bool {
        !self.may_change(job.spec.queue.as_str()) && !self.sees(job)
    }

    /// Whether the caller has the call's role on a queue.
    pub(super) fn may_change(&self, queue: &str) -> bool {
        match self.needs {
            Needs::Role(role) => self.subject.may(role, queue),
            Needs::AnyToken | Needs::Nothing => true,
        }
    }

    /// Checks that the caller may read this job, for a response that contains it.
    pub(super) fn may_read(&self, job: &Job) -> Result<(), Status> {
        let queue = job.spec.queue.as_str();
        if self.sees_queue(queue) { Ok(()) } else { Err(self.denied(Role::Read, Some(queue))) }
    }

    /// Whether the caller may read this job.
    pub(super) fn sees(&self, job: &Job) -> bool {
        self.sees_queue(job.spec.queue.as_str())
    }

    /// Whether the caller may read this queue.
    pub(super) fn sees_queue(&self, queue: &str) -> bool {
        self.subject.may(Role::Read, queue)
    }

    /// Whether the caller may read all jobs, so that jobs need not be checked one by one.
    pub(super) fn sees_all(&self) -> bool {
        self.subject.may_everywhere(Role::Read)
    }

    /// Returns the name by which the caller owns leases; empty if the server requires neither tokens nor certificates.
    pub(super) fn owner(&self) -> String {
        self.subject.name().unwrap_or_default().to_owned()
    }

    /// Returns the patterns of the queues from which the caller may take jobs; `None` if it may from all.
    pub(super) fn workable_queues(&self) -> Option<Arc<[QueuePattern]>> {
        if self.subject.may_everywhere(Role::Work) {
            return None;
        }
        let grants = self.subject.grants().filter(|(role, _)| role.includes(Role::Work));
        Some(grants.flat_map(|(_, queues)| queues.iter().cloned()).collect())
    }

    /// Checks the caller's token again: a long call may outlive it.
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

    /// Starts the audit entry of a mutation. An entry that is dropped before its end is recorded as cancelled: the
    /// caller has disconnected, and the change may still have been made.
    pub(super) fn begin(self: &Arc<Self>, queue: Option<&str>) -> AuditEntry {
        let begun =
            || OpenEntry { caller: Arc::clone(self), queue: queue.map(str::to_owned), ids: Vec::new() };
        AuditEntry(self.audit.is_on().then(begun))
    }

    /// Starts the audit entry of a change to a job.
    pub(super) fn begin_job(self: &Arc<Self>, id: JobId, queue: Option<&str>) -> AuditEntry {
        let mut entry = self.begin(queue);
        if let Some(begun) = &mut entry.0 {
            begun.ids.push(id.to_string());
        }
        entry
    }

    /// Starts the audit entry of a change to a schedule, a calendar or a limit.
    pub(super) fn begin_named(self: &Arc<Self>, name: &str, queue: Option<&str>) -> AuditEntry {
        let mut entry = self.begin(queue);
        if let Some(begun) = &mut entry.0 {
            begun.ids.push(name.to_owned());
        }
        entry
    }

    /// Records a completed or refused operation in the audit.
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
        // Lines are written in order, so waiting for the latest one covers those before it.
        if receipt.is_open() {
            *self.unwritten.lock() = receipt;
        }
    }

    /// Takes the receipt of the audit line that the response must wait for, if there is one.
    pub(super) fn take_unwritten(&self) -> Option<Receipt> {
        let receipt = std::mem::take(&mut *self.unwritten.lock());
        receipt.is_open().then_some(receipt)
    }

    /// Waits until the call's audit lines are written, up to a time limit. Messages of a response stream are sent after
    /// this; for the first response of each call the guard does the same.
    pub(super) async fn written(&self) {
        if let Some(receipt) = self.take_unwritten() {
            self.audit.written(receipt).await;
        }
    }
}

/// The audit entry of a mutation in progress; empty if the audit is off.
pub(super) struct AuditEntry(Option<OpenEntry>);

struct OpenEntry {
    caller: Arc<Caller>,
    queue: Option<String>,
    ids: Vec<String>,
}

impl AuditEntry {
    /// Records the outcome.
    pub(super) fn end<T>(mut self, result: &Result<T, Status>, ids: impl FnOnce(&T) -> Vec<String>) {
        let Some(mut begun) = self.0.take() else { return };
        if let Ok(done) = result {
            begun.ids.extend(ids(done));
        }
        begun.caller.record(begun.queue.as_deref(), &begun.ids, result.as_ref().map(|_| ()));
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        if let Some(begun) = self.0.take() {
            begun.caller.note(begun.queue.as_deref(), &begun.ids, Code::Cancelled, None);
        }
    }
}
