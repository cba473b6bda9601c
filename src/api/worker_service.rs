//! The WorkerService.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::Caller, convert, core::Core, errors, needs::Needs, outgoing, validate::Validator,
    validate_worker, worker_frames, worker_stream,
};
use crate::{
    clock::Uptime,
    engine::{ControlRefusal, Stopped, WorkerHello},
    job::{JobId, LeaseToken},
    proto::v1::{self, worker_service_server::WorkerService},
    settings::Role,
    timeouts,
    workers::{Outbox, WorkerEvent, WorkerSession},
};

const WORK: Needs = Needs::Role(Role::Work);

pub(super) const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.WorkerService/Work", WORK),
    ("jobmill.v1.WorkerService/LeaseJobs", WORK),
    ("jobmill.v1.WorkerService/ReportJobs", WORK),
    ("jobmill.v1.WorkerService/ListWorkers", Needs::Role(Role::Read)),
    ("jobmill.v1.WorkerService/DrainWorkers", Needs::Role(Role::Admin)),
];

/// Limit of the workers in a response.
const WORKERS_MAX: usize = 1_000;
/// Limit of the reports of a call.
pub(super) const REPORTS_MAX: usize = 1_000;
/// Time limit for a registration without a deadline of its caller.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// The WorkerService.
#[derive(Clone)]
pub(crate) struct WorkerServiceApi {
    core: Core,
}

impl WorkerServiceApi {
    pub(crate) fn new(core: Core) -> Self {
        WorkerServiceApi { core }
    }

    fn deadline<T>(&self, call: &Request<T>) -> Uptime {
        let default = || self.core.clock.uptime().after(REGISTER_WITHIN);
        self.core.deadline(call).unwrap_or_else(default)
    }

    /// Waits for the jobs of a call of LeaseJobs.
    async fn assigned(&self, session: &WorkerSession, wait: Duration) -> Vec<WorkerEvent> {
        let until = self.core.clock.uptime().after(wait);
        let mut time_is_up = pin!(self.core.clock.sleep_until(until));
        loop {
            let events = session.events();
            if !events.is_empty() {
                return events;
            }
            tokio::select! {
                biased;
                () = session.told() => {}
                () = self.core.draining.cancelled() => return Vec::new(),
                () = &mut time_is_up => {
                    // The batch that takes the credits over assigns the jobs that are there, also to a call that does
                    // not wait.
                    self.core.shard.flush().await;
                    return session.events();
                }
            }
        }
    }

    async fn lease(
        &self,
        caller: &Caller,
        body: v1::LeaseJobsRequest,
        deadline: Uptime,
    ) -> Result<v1::LeaseJobsResponse, Status> {
        let core = &self.core;
        let response = |assignments, draining| v1::LeaseJobsResponse {
            assignments,
            heartbeat_every: Some(convert::duration(core.workers.settings().heartbeat_every())),
            draining,
        };
        let mut validator = Validator::new(core.clock.now(), &body.namespace);
        validator.worker_process(&"request", &body.instance, &body.process);
        validator.request_id(&body.request_id);
        let pool = validator.pool(&"request", String::new(), body.kinds, body.queues);
        let max_jobs = validator.leased_max(body.max_jobs);
        let wait = validator.lease_wait(body.wait);
        validator.finish()?;
        for queue in &pool.queues {
            caller.on_queue(queue)?;
        }
        let hello = WorkerHello {
            subject: caller.owner(),
            instance: body.instance,
            process: body.process,
            kinds: pool.kinds.iter().cloned().collect(),
            leases: None,
        };
        let registered = core.workers.register(hello, deadline).await?;
        let session = core.workers.open(&registered, vec![pool.clone()], caller.workable_queues().as_ref());
        core.workers.note_call(&session.entry, &pool);
        if !body.request_id.is_empty() {
            let repeated = core.workers.remembered_call(&session.entry, &body.request_id);
            if !repeated.is_empty() {
                let mut assignments = Vec::new();
                for (lease, job) in repeated {
                    assignments.push(worker_frames::assignment(core, (&job, lease), None, "").await?);
                }
                return Ok(response(assignments, false));
            }
        }
        if core.workers.is_draining(&session.entry) {
            return Ok(response(Vec::new(), true));
        }
        session.credit(0, max_jobs).ok();
        let mut events = self.assigned(&session, wait).await;
        if events.is_empty() && core.draining.is_cancelled() {
            return Err(Stopped::Refused.into());
        }
        // After the batch that takes this over, nothing more is assigned.
        session.void();
        core.shard.flush().await;
        events.extend(session.events());
        let mut assignments = Vec::new();
        let mut leases = Vec::new();
        for event in events {
            if let WorkerEvent::Assigned(_, claim) = event {
                leases.push(claim.lease);
                let job = (&*claim.job, claim.lease);
                assignments.push(worker_frames::assignment(core, job, claim.payload, "").await?);
            }
        }
        core.workers.remember_call(&session.entry, &body.request_id, leases);
        core.workers.note_call(&session.entry, &pool);
        let is_draining = core.workers.is_draining(&session.entry);
        session.keep_assigned();
        Ok(response(assignments, is_draining))
    }

    async fn report_all(
        &self,
        caller: &Caller,
        body: v1::ReportJobsRequest,
        deadline: Uptime,
    ) -> Result<Vec<v1::LeaseNotice>, Status> {
        let core = &self.core;
        let mut validator = Validator::new(core.clock.now(), &body.namespace);
        validator.worker_process(&"request", &body.instance, &body.process);
        if !(1..=REPORTS_MAX).contains(&body.reports.len()) {
            let problem = format!("has {} entries; 1 to {REPORTS_MAX} are allowed", body.reports.len());
            validator.fault("reports", problem);
        }
        validator.finish()?;
        let subject = caller.owner();
        let roster = &core.workers.roster;
        let known = roster.named(&subject, &body.instance, &body.process);
        let entry = match known.filter(|entry| roster.is_registered(entry)) {
            Some(entry) => entry,
            None => {
                let (instance, process) = (body.instance, body.process);
                let hello = WorkerHello { subject, instance, process, ..WorkerHello::default() };
                let registered = core.workers.register(hello, deadline).await?;
                roster.entry(&registered.worker)
            }
        };
        if roster.is_superseded(&entry) {
            let instance = entry.process.instance().to_owned();
            return Err(ControlRefusal::WorkerSuperseded(instance).into());
        }
        let outbox = Arc::<Outbox>::default();
        let mut notices = Vec::with_capacity(body.reports.len());
        // Answers of the committer come in the order of the reports that it answers.
        let mut awaited = Vec::new();
        for report in body.reports {
            let (lease, report) = validate_worker::report(core.clock.now(), report);
            match report {
                Ok((lease, report)) => {
                    let notice = core.workers.report(&entry, lease, report, &outbox).await;
                    if notice.is_none() {
                        awaited.push((notices.len(), lease));
                    }
                    notices.push(notice.map(|notice| worker_frames::notice(lease.0, lease.1, &notice)));
                }
                Err(status) => notices.push(Some(worker_frames::refused(lease, &status))),
            }
        }
        self.await_answers(&outbox, awaited, &mut notices).await?;
        Ok(notices.into_iter().flatten().collect())
    }

    /// Waits for the committer's answers to final reports, and puts them in their places.
    async fn await_answers(
        &self,
        outbox: &Outbox,
        mut awaited: Vec<(usize, (JobId, LeaseToken))>,
        notices: &mut [Option<v1::LeaseNotice>],
    ) -> Result<(), Status> {
        while !awaited.is_empty() {
            for event in outbox.take() {
                let WorkerEvent::Answer(answer) = event else { continue };
                if !answer.is_final {
                    continue;
                }
                let place = awaited.iter().position(|(_, lease)| *lease == (answer.id, answer.lease));
                let Some(place) = place else { continue };
                let (index, _) = awaited.remove(place);
                if let Some(notice) = notices.get_mut(index) {
                    *notice = worker_frames::answer(&answer);
                }
            }
            if awaited.is_empty() {
                break;
            }
            // A committer that has ended answers no more.
            if timeouts::within(Duration::from_secs(30), outbox.told()).await.is_none() {
                return Err(Stopped::Unknown.into());
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl WorkerService for WorkerServiceApi {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<v1::WorkResponse, Status>> + Send>>;

    async fn work(
        &self,
        call: Request<Streaming<v1::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let caller = Caller::of(&call)?;
        let share = self.core.outgoing.share();
        let messages = worker_stream::start(self.core.clone(), caller, call, Arc::clone(&share));
        Ok(outgoing::stream(messages, share))
    }

    async fn lease_jobs(
        &self,
        call: Request<v1::LeaseJobsRequest>,
    ) -> Result<Response<v1::LeaseJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.deadline(&call);
        let entry = caller.begin(None);
        let leased = self.lease(&caller, call.into_inner(), deadline).await;
        entry.end(&leased, |leased| ids(leased.assignments.iter().map(|assigned| &assigned.lease)));
        Ok(Response::new(leased?))
    }

    async fn report_jobs(
        &self,
        call: Request<v1::ReportJobsRequest>,
    ) -> Result<Response<v1::ReportJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.deadline(&call);
        let entry = caller.begin(None);
        let notices = self.report_all(&caller, call.into_inner(), deadline).await;
        entry.end(&notices, |notices| ids(notices.iter().map(|notice| &notice.lease)));
        Ok(Response::new(v1::ReportJobsResponse { notices: notices? }))
    }

    async fn list_workers(
        &self,
        call: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.labels("labels", &body.labels);
        validator.finish()?;
        let workers = self.core.workers.roster.list(&body.instance, &body.labels);
        let total = i32::try_from(workers.len()).unwrap_or(i32::MAX);
        let workers = workers.into_iter().take(WORKERS_MAX);
        let workers = workers.map(|worker| worker_frames::worker(worker, |queue| caller.sees_queue(queue)));
        Ok(Response::new(v1::ListWorkersResponse { workers: workers.collect(), total }))
    }

    async fn drain_workers(
        &self,
        call: Request<v1::DrainWorkersRequest>,
    ) -> Result<Response<v1::DrainWorkersResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.labels("labels", &body.labels);
        if body.instance.is_empty() && body.labels.is_empty() {
            validator.fault("instance", "name a worker, or labels that its workers have");
        }
        let within = validator.drain_within(body.within);
        validator.finish()?;
        caller.on_all_queues()?;
        let entry = caller.begin(None);
        let mut instances = self.core.workers.roster.drain(&body.instance, &body.labels, within);
        let asked = match instances.is_empty() {
            true => Err(errors::worker_not_found(&body.instance)),
            false => Ok(()),
        };
        entry.end(&asked, |()| instances.clone());
        asked?;
        let total = i32::try_from(instances.len()).unwrap_or(i32::MAX);
        instances.truncate(WORKERS_MAX);
        Ok(Response::new(v1::DrainWorkersResponse { instances, total }))
    }
}

/// Returns the ids of the jobs of leases.
fn ids<'a>(leases: impl Iterator<Item = &'a Option<v1::Lease>>) -> Vec<String> {
    leases.flatten().map(|lease| lease.job_id.clone()).collect()
}
