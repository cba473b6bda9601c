//! A store with a queue and a clock, and checks after every batch.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jobmill::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::transition::Refusal,
    engine::{
        AdmissionError, ControlRefusal, DemandBoard, NewJob, NotAdmitted, OfferRefusal, PoolId, ReportBody,
        ScheduleSetup,
    },
    job::{
        Change, Changes, Extras, Job, JobFilter, JobId, LeaseToken, Output, PayloadInfo, Position, StateName,
    },
    settings::{KindDefaults, QueueSettings, Retention},
    store::{Reader, Scan, ScanOrder, WholeJob},
};

use super::{
    batch::Control,
    batch::{Applied, Batch, Claim, ControlDone, Offer, Receipt, Report, Setup},
    build::{at, failure, present, settings},
    subject::{Memory, Sqlite, Subject},
};

/// A store under test, at a time that the test sets.
pub(crate) struct Rig {
    subject: Box<dyn Subject>,
    /// The setup of the next start.
    pub(crate) setup: Setup,
    /// The wall clock.
    pub(crate) now: Timestamp,
    uptime: Uptime,
    end: Position,
    /// Whether this start has assigned a position in the feed.
    begun: bool,
    /// The credits that are left to each pool of a remote worker.
    pub(super) credits: HashMap<PoolId, u64>,
    /// All leases that were ever handed out.
    leases: HashSet<LeaseToken>,
}

impl Rig {
    /// A kind with a handler.
    pub(crate) const KIND: &str = "run";

    pub(crate) fn memory() -> Self {
        Self::new(|setup| Box::new(Memory::open(setup)))
    }

    pub(crate) fn sqlite() -> Self {
        Self::new(|setup| Box::new(Sqlite::open(setup)))
    }

    pub(crate) fn new(open: impl FnOnce(Setup) -> Box<dyn Subject>) -> Self {
        let setup = Setup {
            present: present(0),
            seed: 1,
            served_kinds: vec![Self::KIND.into(), "walk".into()],
            native_kinds: Vec::new(),
            declared_queues: BTreeMap::new(),
            retention: Retention::default(),
            schedules: ScheduleSetup {
                kinds: [Self::KIND, "walk"].map(|kind| (kind.to_owned(), KindDefaults::default())).into(),
                ..ScheduleSetup::default()
            },
            limits: BTreeMap::new(),
        };
        let subject = open(setup.clone());
        let (uptime, end) = (Uptime::default(), subject.reader().jobs(&[]).unwrap().1);
        let (credits, leases) = (HashMap::new(), HashSet::new());
        Rig { subject, setup, now: at(0), uptime, end, begun: false, credits, leases }
    }

    /// Applies a batch at the present time. Asserts after each that the tallies equal a recount, that the feed has no gap
    /// but the one that a start may leave, that no lease is handed out twice, and that no pool gets more jobs than it has
    /// credits.
    pub(crate) fn apply(&mut self, batch: Batch) -> Applied {
        let applied = self.subject.apply(Batch { present: self.present(), ..batch }).unwrap();
        for change in &applied.changes {
            let position = change.position();
            let is_next = position.as_i64() == self.end.as_i64() + 1;
            assert!(
                is_next || (!self.begun && position > self.end),
                "{position:?} comes after {:?}",
                self.end
            );
            (self.end, self.begun) = (position, true);
        }
        assert!(applied.position == self.end || (!self.begun && applied.position > self.end));
        self.end = applied.position;
        self.check_tallies();
        self.check_leases(&applied);
        applied
    }

    fn check_leases(&mut self, applied: &Applied) {
        for assignment in &applied.assigned {
            let credits = self.credits.entry(assignment.pool).or_default();
            assert!(*credits > 0, "{assignment:?} exceeds the credits of its pool");
            *credits -= 1;
        }
        let assigned = applied.assigned.iter().map(|assignment| &assignment.claim);
        for claim in applied.claims.iter().chain(assigned) {
            assert_eq!(claim.job.state.lease(), Some(claim.lease));
            assert!(self.leases.insert(claim.lease), "{claim:?} has the lease of another attempt");
        }
    }

    fn present(&self) -> ClockReading {
        ClockReading { wall: self.now, uptime: self.uptime }
    }

    /// Kills the process and starts the next one at the present time, on a machine that has just booted.
    pub(crate) fn crash(&mut self) {
        self.uptime = Uptime::new(Duration::from_secs(7));
        self.setup.present = self.present();
        self.subject.crash(self.setup.clone()).unwrap();
        self.credits.clear();
        (self.end, self.begun) = (self.reader().jobs(&[]).unwrap().1, false);
        self.check_tallies();
    }

    pub(super) fn subject_mut(&mut self) -> &mut dyn Subject {
        &mut *self.subject
    }

    pub(crate) fn board(&self) -> &DemandBoard {
        self.subject.board()
    }

    pub(crate) fn reader(&self) -> Arc<dyn Reader> {
        self.subject.reader()
    }

    /// Returns the time at which a batch says that there is work, provided that the clock is not set until then.
    pub(crate) fn wake(&self, applied: &Applied) -> Option<Timestamp> {
        let by_uptime = applied.wake.uptime.map(|uptime| self.now.after(uptime.since(self.uptime)));
        applied.wake.wall.into_iter().chain(by_uptime).min()
    }

    /// Returns [`Rig::wake`] unless it is only for the hourly note of the time or for retention's walk in a day.
    pub(crate) fn soon(&self, applied: &Applied) -> Option<Timestamp> {
        self.wake(applied).filter(|wake| *wake < self.now.after(Duration::from_secs(3_000)))
    }

    /// Applies empty batches until nothing more is to be done at once, and returns the claims.
    pub(crate) fn settle(&mut self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for _ in 0..1_000 {
            let applied = self.tick();
            claims.extend(applied.claims);
            if !applied.more && !applied.room {
                return claims;
            }
        }
        panic!("the store always has more to do");
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        (self.now, self.uptime) = (self.now.after(time), self.uptime.after(time));
    }

    /// Lets time pass up to an instant.
    pub(crate) fn until(&mut self, instant: Timestamp) {
        let time = instant.since(self.now);
        (self.now, self.uptime) = (self.now.after(time), self.uptime.after(time));
        assert_eq!(self.now, instant, "time goes on");
    }

    /// Sets the clock. No time passes.
    pub(crate) fn set_clock(&mut self, to: Timestamp) {
        self.now = to;
    }

    /// Creates a queue with this many slots.
    pub(crate) fn queue(&mut self, name: &str, consumers: u32) {
        self.queue_with(name, settings(consumers, 1_000));
    }

    pub(crate) fn queue_with(&mut self, name: &str, settings: QueueSettings) {
        self.control(Control::CreateQueue { name: name.into(), settings }).unwrap();
    }

    /// Applies an empty batch: due jobs are promoted, free slots are filled.
    pub(crate) fn tick(&mut self) -> Applied {
        self.apply(Batch { claim: true, ..Batch::default() })
    }

    pub(crate) fn offer(&mut self, offer: Offer) -> Receipt {
        let batch = Batch { offers: vec![offer], claim: true, ..Batch::default() };
        self.apply(batch).offers.pop().unwrap()
    }

    pub(crate) fn submit_all(&mut self, jobs: Vec<NewJob>) -> Vec<Arc<Job>> {
        created(self.offer(offer(jobs)))
    }

    pub(crate) fn submit(&mut self, job: NewJob) -> Arc<Job> {
        self.submit_all(vec![job]).pop().unwrap()
    }

    pub(crate) fn control(&mut self, control: Control) -> Result<ControlDone, ControlRefusal> {
        let batch = Batch { controls: vec![control], claim: true, ..Batch::default() };
        self.apply(batch).controls.pop().unwrap()
    }

    /// Reports for an attempt, in a batch of its own that claims nothing.
    pub(crate) fn report(&mut self, job: &Job, body: ReportBody) -> Result<(), Refusal> {
        self.report_under(job.id, lease(job), body)
    }

    pub(crate) fn report_under(
        &mut self,
        id: JobId,
        lease: LeaseToken,
        body: ReportBody,
    ) -> Result<(), Refusal> {
        let report = Report { id, lease, body };
        let batch = Batch { reports: vec![report], ..Batch::default() };
        self.apply(batch).reports.pop().unwrap()
    }

    pub(crate) fn job(&self, id: JobId) -> Job {
        self.reader().job(id).unwrap().unwrap()
    }

    pub(crate) fn state(&self, id: JobId) -> StateName {
        self.job(id).state.name()
    }

    pub(crate) fn whole(&self, id: JobId) -> WholeJob {
        self.reader().whole_job(id).unwrap().unwrap()
    }

    pub(crate) fn result(&self, id: JobId) -> Bytes {
        self.reader().result(id).unwrap().unwrap()
    }

    pub(crate) fn changes(&self, after: Position, limit: usize) -> Changes {
        self.reader().changes(after, limit).unwrap()
    }

    pub(crate) fn end(&self) -> Position {
        self.end
    }

    pub(crate) fn all_jobs(&self) -> Vec<Arc<Job>> {
        let order = ScanOrder::OldestFirst { after: None, last: None };
        let scan = Scan { order, limit: usize::MAX, budget: i64::MAX as usize };
        self.reader().scan(&JobFilter::default(), scan).unwrap().jobs
    }

    /// Lets this much time pass, and applies a batch whenever the store asks for one.
    pub(crate) fn live(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        for _ in 0..1_000 {
            let applied = self.tick();
            match self.wake(&applied) {
                Some(wake) if wake <= self.now => {}
                Some(wake) if wake <= end => self.until(wake),
                Some(_) | None if applied.more => {}
                Some(_) | None if self.now < end => self.until(end),
                Some(_) | None => return,
            }
        }
        panic!("there is always more to do");
    }

    fn check_tallies(&self) {
        let mut counted = BTreeMap::new();
        for job in self.all_jobs() {
            let key = (job.spec.queue.to_string(), job.spec.kind.to_string(), job.state.name());
            let entry: &mut (u64, u64) = counted.entry(key).or_default();
            *entry = (entry.0 + 1, entry.1 + job.spec.bytes);
        }
        let told: BTreeMap<_, _> = (self.reader().tallies().unwrap().into_iter())
            .map(|tally| {
                ((tally.queue.to_string(), tally.kind.to_string(), tally.state), (tally.jobs, tally.bytes))
            })
            .collect();
        assert_eq!(told, counted, "the tallies are no recount of the jobs");
    }
}

/// Returns the jobs that an offer created.
pub(crate) fn created(receipt: Receipt) -> Vec<Arc<Job>> {
    match receipt {
        Receipt::Created { jobs } => jobs,
        other => panic!("not created: {other:?}"),
    }
}

/// Returns the lease under which a job runs.
pub(crate) fn lease(job: &Job) -> LeaseToken {
    job.state.lease().unwrap_or_else(|| panic!("{} does not run: {:?}", job.id, job.state))
}

/// Returns the final refusal of an offer.
pub(crate) fn refused(receipt: Receipt) -> OfferRefusal {
    match receipt {
        Receipt::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Returns the refusal of a job for a queue that does not exist.
pub(crate) fn nowhere(queue: &str, index: Option<usize>) -> OfferRefusal {
    NotAdmitted { error: AdmissionError::QueueNotFound(queue.to_owned()).into(), index }.into()
}

pub(crate) fn succeeded() -> ReportBody {
    ReportBody::Succeeded { output: Output::default(), tail: String::new() }
}

/// Returns a success with a result and an output tail.
pub(crate) fn returned(result: &str, tail: &str) -> ReportBody {
    let output = Output { bytes: result.to_owned().into(), info: PayloadInfo::typed("text/plain") };
    ReportBody::Succeeded { output, tail: tail.into() }
}

pub(crate) fn failed(retryable: bool, tail: &str) -> ReportBody {
    ReportBody::Failed { failure: failure(retryable), delay: None, process_died: false, tail: tail.into() }
}

/// Returns the states through which a batch took a job.
pub(crate) fn path(applied: &Applied, id: JobId) -> Vec<StateName> {
    let of_job = applied.changes.iter().filter_map(|change| match change {
        Change::Job { job, .. } if job.id == id => Some(job.state.name()),
        Change::Job { .. } | Change::Deleted(_) => None,
    });
    of_job.collect()
}

/// Returns the jobs that a batch claimed, in its order.
pub(crate) fn claimed(applied: &Applied) -> Vec<JobId> {
    applied.claims.iter().map(|claim| claim.job.id).collect()
}

/// Returns an offer of these jobs.
pub(crate) fn offer(jobs: Vec<NewJob>) -> Offer {
    Offer { request: None, jobs, waits: false }
}

/// Returns extras with one label.
pub(crate) fn labelled(key: &str, value: &str) -> Option<Box<Extras>> {
    let labels = [(key.to_owned(), value.to_owned())].into();
    Some(Box::new(Extras { labels, ..Extras::default() }))
}
