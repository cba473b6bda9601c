//! The input of one batch, which can be built once for each store.

use std::{sync::Arc, time::Duration};

use jobmill::{
    clock::{ClockReading, Timestamp},
    engine::{NewJob, ReportBody},
    job::{
        Checkpoint, Debounce, Dependency, DependencyTarget, Extras, JobId, LeaseToken, Output, Progress,
        RequestId, UniqueKey, When,
    },
    settings::QueueSettings,
};

use super::{
    program::{AttemptReport, KINDS, KeyTime, Plan, QUEUES, RequestPlan, RequestedControl, UniquePlan},
    turns,
};
use crate::store::{
    batch::Control,
    batch::{Batch, Offer, Report, WorkerReport},
    build,
};

/// The input gathered for one batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) controls: Vec<Control>,
    /// Reports of the server, each with the number of a checkpoint.
    pub(crate) reports: Vec<(JobId, LeaseToken, AttemptReport, Option<i64>)>,
    /// Reports of workers, by number, each with the number of a checkpoint.
    pub(crate) worker_reports: Vec<Told>,
    pub(crate) offers: Vec<Offered>,
}

/// A worker's report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) worker: u32,
    pub(crate) id: JobId,
    pub(crate) lease: LeaseToken,
    pub(crate) told: AttemptReport,
    pub(crate) checkpoint: Option<i64>,
}

/// An offer of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) jobs: Vec<NewJob>,
    pub(crate) request: Option<RequestId>,
}

impl Gathered {
    /// Adds an offer; `job` maps a number to one of the jobs that exist, and `limits` are the names of limits.
    pub(crate) fn offer(
        &mut self,
        plans: &[Plan],
        asked: Option<RequestPlan>,
        now: Timestamp,
        limits: &[String],
        job: impl Fn(usize) -> Option<JobId>,
    ) {
        let jobs: Vec<_> = plans
            .iter()
            .enumerate()
            .map(|(index, plan)| NewJob {
                depends_on: depends_on(plan, (index, plans.len()), &job),
                ..new_job(plan, now, limits)
            })
            .collect();
        let (jobs, request) = match asked {
            Some(asked) => {
                let offer = build::requested(&id_of(asked), &format!("submit {}", asked.said), jobs);
                (offer.jobs, offer.request)
            }
            None => (jobs, None),
        };
        self.offers.push(Offered { jobs, request });
    }

    /// Adds a control; `job` maps a number to one of the jobs that ever existed.
    pub(crate) fn control(&mut self, wish: RequestedControl, job: impl Fn(usize) -> Option<JobId>) {
        let name = |queue: usize| QUEUES[queue].to_owned();
        let control = match wish {
            RequestedControl::Cancel(pick) => job(pick).map(Control::Cancel),
            RequestedControl::Retry(pick, asked) => job(pick).map(|id| {
                let request = asked.map(|asked| build::request(&id_of(asked), &format!("retry {id}")));
                Control::Retry { id, request }
            }),
            RequestedControl::Reset(pick) => job(pick).map(Control::Reset),
            RequestedControl::RetryAnew(pick) => job(pick).map(Control::RetryAnew),
            RequestedControl::Delete(pick) => job(pick).map(Control::Delete),
            RequestedControl::ForceDelete(pick) => job(pick).map(Control::ForceDelete),
            RequestedControl::Pause(queue, paused) => Some(Control::SetPaused { name: name(queue), paused }),
            RequestedControl::Update { queue, consumers, max_jobs, max_bytes, is_fair } => {
                let mut settings = settings(consumers, max_jobs, is_fair);
                settings.max_bytes = max_bytes;
                Some(Control::UpdateQueue { name: name(queue), settings })
            }
            RequestedControl::Create { queue, consumers, is_fair } => {
                Some(Control::CreateQueue { name: name(queue), settings: settings(consumers, 20, is_fair) })
            }
            RequestedControl::DeleteQueue(queue) => Some(Control::DeleteQueue { name: name(queue) }),
            RequestedControl::Review => Some(Control::ReviewWorkers),
            RequestedControl::Purge(queue) => Some(Control::Purge { name: name(queue) }),
        };
        self.controls.extend(control);
    }

    /// Builds a batch of the gathered input.
    pub(crate) fn batch(&self, present: ClockReading, claim: bool) -> Batch {
        let offer =
            |offered: &Offered| Offer { request: offered.request, jobs: offered.jobs.clone(), waits: false };
        let report = |(id, lease, told, checkpoint): &(JobId, LeaseToken, AttemptReport, Option<i64>)| {
            (Report { id: *id, lease: *lease, body: body(*told) }, checkpoint.map(numbered))
        };
        Batch {
            present,
            controls: self.controls.clone(),
            reports_with: self.reports.iter().map(report).collect(),
            worker_reports: self.worker_reports.iter().map(Told::report).collect(),
            offers: self.offers.iter().map(offer).collect(),
            claim,
            ..Batch::default()
        }
    }
}

impl Told {
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.told, AttemptReport::Progress | AttemptReport::Checkpoint)
    }

    fn report(&self) -> WorkerReport {
        let Told { worker, id, lease, told, checkpoint } = *self;
        WorkerReport { worker, id, lease, body: body(told), checkpoint: checkpoint.map(numbered) }
    }
}

fn numbered(number: i64) -> Checkpoint {
    Checkpoint { number, state: Output::default() }
}

fn id_of(asked: RequestPlan) -> String {
    format!("request {}", asked.id)
}

/// Returns settings of a queue that is fair or not.
pub(super) fn settings(consumers: u32, max_jobs: u64, is_fair: bool) -> QueueSettings {
    let fair_by = is_fair.then(|| turns::LABEL.into());
    QueueSettings { fair_by, ..build::settings(consumers, max_jobs) }
}

fn new_job(plan: &Plan, now: Timestamp, limits: &[String]) -> NewJob {
    let at = |millis| When::At(Timestamp::from_micros(now.as_micros() + millis * 1_000));
    let new = NewJob {
        priority: plan.priority,
        max_attempts: plan.max_attempts,
        expires: plan.expires_in_millis.map(at),
        run_time: plan.run_in_millis.map(at),
        deadline: plan.deadline_in_millis.map(at),
        extras: extras(plan, limits),
        depends_on: Vec::new(),
        payload: vec![7; plan.payload_bytes].into(),
        ..build::job(QUEUES[plan.queue], KINDS[plan.kind])
    };
    match plan.unique {
        Some(unique) => build::keyed(unique_key(unique), new),
        None => new,
    }
}

/// Returns the dependencies of a job with this index in an offer of this many.
fn depends_on(
    plan: &Plan,
    (own, count): (usize, usize),
    job: &impl Fn(usize) -> Option<JobId>,
) -> Vec<Dependency> {
    let mut all: Vec<Dependency> = Vec::new();
    for planned in plan.depends_on.into_iter().flatten() {
        let on = match planned.is_item {
            true => Some(planned.pick % count).filter(|index| *index != own).map(|index| index as u32),
            false => None,
        };
        let on = match on {
            Some(index) => Some(DependencyTarget::Item(index)),
            None => job(planned.pick).map(DependencyTarget::Job),
        };
        let Some(on) = on.filter(|on| all.iter().all(|other| other.on != *on)) else { continue };
        let dependency = Dependency::new(on).when(planned.condition);
        all.push(if planned.is_optional { dependency.optional() } else { dependency });
    }
    all
}

fn unique_key(plan: UniquePlan) -> UniqueKey {
    let unique = build::key(&format!("key {}", plan.key), plan.on_waiting, plan.on_started);
    let unique = UniqueKey { scope: Some(plan.scope), ..unique };
    match plan.time {
        KeyTime::None => unique,
        KeyTime::Hold(millis) => UniqueKey { hold: Some(Duration::from_millis(millis)), ..unique },
        KeyTime::Throttle(millis) => UniqueKey { throttle: Some(Duration::from_millis(millis)), ..unique },
        KeyTime::Debounce(millis) => {
            let debounce = Debounce { quiet: Duration::from_millis(millis), max_wait: None };
            UniqueKey { debounce: Some(debounce), ..unique }
        }
    }
}

fn extras(plan: &Plan, limits: &[String]) -> Option<Box<Extras>> {
    let Plan { max_snoozes, max_process_losses, .. } = *plan;
    let labels =
        plan.tenant.map(|tenant| (turns::LABEL.to_owned(), format!("tenant {tenant}"))).into_iter().collect();
    let mut extras = Extras { labels, max_snoozes, max_process_losses, ..Extras::default() };
    plan.limited.add_to(&mut extras, limits);
    (extras != Extras::default()).then(|| Box::new(extras))
}

fn body(told: AttemptReport) -> ReportBody {
    match told {
        AttemptReport::Progress => ReportBody::Progress(Arc::new(Progress {
            fraction: Some(0.5),
            text: "half".into(),
            step: String::new(),
        })),
        AttemptReport::Checkpoint => ReportBody::Checkpoint,
        AttemptReport::Success { result_bytes } => ReportBody::Succeeded {
            output: Output { bytes: vec![1; result_bytes].into(), ..Output::default() },
            tail: String::new(),
        },
        AttemptReport::Failure { retryable, delay_millis, process_died } => ReportBody::Failed {
            failure: build::failure(retryable),
            delay: delay_millis.map(Duration::from_millis),
            process_died,
            tail: "tail".into(),
        },
        AttemptReport::Snooze { delay_millis } => ReportBody::Snoozed {
            delay: Duration::from_millis(delay_millis),
            pause: None,
            tail: "snoozed".into(),
        },
        AttemptReport::Release { delay_millis } => {
            ReportBody::Released { delay: delay_millis.map(Duration::from_millis) }
        }
    }
}
