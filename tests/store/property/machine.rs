//! Runs a program on one or several stores side by side, checked by the ledger.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use jobmill::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::ScheduleAction,
    job::{Change, JobFilter, Position},
    store::{Reader, Scan, ScanOrder, StoreError, WholeJob},
};

use super::{
    batch::{self, Gathered},
    ledger::{Ledger, Violation, promise},
    limit_steps,
    program::{AHEAD_MAX_MILLIS, AttemptReport, KINDS, PoolPlan, QUEUES, Step, Teller, When},
    schedule_steps::{SCHEDULES, beginning},
    schedules::Scheduled,
    watchers::Watchers,
};
use crate::store::{
    batch::Control,
    batch::{Applied, Assignment, Setup},
    build,
    subject::Subject,
};

/// A function that opens a store.
pub(crate) type Open = fn(Setup) -> Box<dyn Subject>;

/// Counts of what programs have done, to see that they cover enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) batches: usize,
    pub(crate) changes: usize,
    pub(crate) crashes: usize,
    pub(crate) terminals: usize,
    /// Jobs assigned to remote workers.
    pub(crate) assigned: usize,
    /// Hellos of workers that were accepted.
    pub(crate) hellos: usize,
    /// Final reports that were answered once more.
    pub(crate) repeats: usize,
    /// Comparisons of the turns of a job that started with those of one that waited.
    pub(crate) turns: usize,
    /// What schedules have done.
    pub(crate) scheduled: Scheduled,
    /// Children that were cancelled because of a parent.
    pub(crate) forsaken: usize,
    /// Observations of children that run.
    pub(crate) children: usize,
    /// Starts under limits, those of them that took tokens, and observations of jobs that lack a place.
    pub(crate) limited: (usize, usize, usize),
}

impl Done {
    pub(crate) fn and(self, other: Done) -> Done {
        Done {
            batches: self.batches + other.batches,
            changes: self.changes + other.changes,
            crashes: self.crashes + other.crashes,
            terminals: self.terminals + other.terminals,
            assigned: self.assigned + other.assigned,
            hellos: self.hellos + other.hellos,
            repeats: self.repeats + other.repeats,
            turns: self.turns + other.turns,
            scheduled: self.scheduled.and(other.scheduled),
            forsaken: self.forsaken + other.forsaken,
            children: self.children + other.children,
            limited: (
                self.limited.0 + other.limited.0,
                self.limited.1 + other.limited.1,
                self.limited.2 + other.limited.2,
            ),
        }
    }
}

/// Runs a program to its end, and then until every runnable job has ended.
pub(crate) fn run(seed: u64, program: &[Step], stores: &[Open]) -> Result<Done, Violation> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut machine = Machine::start(seed, stores)?;
        for step in program {
            machine.step(step)?;
        }
        machine.finish()
    }));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("a panic: {}", text.unwrap_or_else(|| "without words".into())))
    })
}

pub(super) struct Machine {
    pub(super) subjects: Vec<Box<dyn Subject>>,
    setup: Setup,
    begun: Timestamp,
    now: Timestamp,
    /// Time since the program began.
    passed: Duration,
    /// The time at which the machine booted, since the program began.
    booted: Duration,
    pub(super) ledger: Ledger,
    watchers: Watchers,
    pub(super) gathered: Gathered,
    /// The sessions that workers open once they are registered, by instance and process.
    pub(super) openings: HashMap<(String, String), Vec<PoolPlan>>,
    /// Number of the processes that have ever said hello.
    pub(super) processes: usize,
    pub(super) done: Done,
}

impl Machine {
    fn start(seed: u64, stores: &[Open]) -> Result<Self, Violation> {
        let begun = beginning(seed);
        let present = ClockReading { wall: begun, uptime: Uptime::default() };
        let setup = Setup { present, seed, ..served(0b011) };
        let mut machine = Machine {
            subjects: stores.iter().map(|open| open(setup.clone())).collect(),
            begun,
            now: begun,
            passed: Duration::ZERO,
            booted: Duration::ZERO,
            ledger: Ledger::new(&setup.served_kinds, begun),
            setup,
            watchers: Watchers::default(),
            gathered: Gathered::default(),
            openings: HashMap::new(),
            processes: 0,
            done: Done::default(),
        };
        for (name, consumers) in QUEUES.into_iter().zip([1, 2, 3]) {
            // The first two are fair from the start.
            let settings = batch::settings(consumers, 20, consumers < 3);
            machine.gathered.controls.push(Control::CreateQueue { name: name.into(), settings });
        }
        machine.commit(true)?;
        Ok(machine)
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match step {
            Step::Offer { jobs, request } => {
                let live: Vec<_> = self.ledger.jobs.keys().copied().collect();
                let job = |pick| live.get(pick % live.len().max(1)).copied();
                let limits: Vec<String> = self.ledger.limits.all().map(|(name, _)| name).collect();
                self.gathered.offer(jobs, *request, self.now, &limits, job);
            }
            Step::Report { pick, stale, told, by, checkpoint } => {
                let running = if *stale { self.ledger.leases.clone() } else { self.ledger.running() };
                if !running.is_empty() {
                    let (id, lease) = running[pick % running.len()];
                    self.report(id, lease, *told, *by, *checkpoint);
                }
            }
            Step::Hello(plan) => self.hello(plan),
            Step::Credit { pick, pool, count } => self.credit(*pick, *pool, *count),
            Step::Leave { pick, closes } => self.leave(*pick, *closes),
            Step::Control(wish) => {
                let ever = &self.ledger.ever;
                self.gathered.control(*wish, |pick| ever.get(pick % ever.len().max(1)).copied());
            }
            Step::Schedule(step) => self.gathered.controls.push(step.control(self.now)),
            Step::Limit(step) => self.gathered.controls.push(step.control()),
            Step::Pass { millis } => self.pass(Duration::from_millis(*millis)),
            Step::SetClock { ahead_millis } => self.set_clock(*ahead_millis),
            Step::Commit { claim } => self.commit(*claim)?,
            Step::Crash { when, served: kinds } => {
                match when {
                    When::Before => self.gathered = Gathered::default(),
                    When::After => self.commit(true)?,
                }
                self.setup.served_kinds = served(*kinds).served_kinds;
                self.crash()?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        (self.now, self.passed) = (self.now.after(time), self.passed + time);
    }

    fn set_clock(&mut self, ahead_millis: i64) {
        let right = self.begun.after(self.passed);
        self.now = Timestamp::from_micros(right.as_micros() + ahead_millis * 1_000);
    }

    fn present(&self) -> ClockReading {
        ClockReading { wall: self.now, uptime: Uptime::new(self.passed - self.booted) }
    }

    /// Applies one batch to every store.
    fn commit(&mut self, claim: bool) -> Result<(), Violation> {
        let (gathered, present) = (std::mem::take(&mut self.gathered), self.present());
        let mut first: Option<(Applied, Vec<String>)> = None;
        for subject in &mut self.subjects {
            let applied = subject.apply(gathered.batch(present, claim)).map_err(told)?;
            let shown = show(&applied, &*subject.reader()).map_err(told)?;
            match &first {
                None => first = Some((applied, shown)),
                Some((_, expected)) => same("a batch", expected, &shown)?,
            }
        }
        let Some((applied, _)) = first else { return Ok(()) };
        self.done.assigned += applied.assigned.len();
        self.done.batches += 1;
        self.done.changes += applied.changes.len();
        self.ledger.hear(&gathered, &applied, self.now, self.passed, claim)?;
        let is_settled = claim && !applied.more && !applied.room;
        self.ledger.hear_schedules(&*self.subjects[0].reader(), self.now, is_settled)?;
        if !applied.more {
            self.ledger.check_times(self.now)?;
        }
        self.connect(&gathered, &applied)?;
        self.check()?;
        let touched: Vec<_> = applied.changes.iter().map(Change::id).collect();
        self.compare(|reader| {
            let whole = |id| reader.whole_job(id).map(|whole| format!("{whole:?}"));
            let jobs: Result<Vec<_>, _> = touched.iter().map(|id| whole(*id)).collect();
            let mut all = jobs?;
            all.extend(reader.schedules(None, usize::MAX >> 1)?.iter().map(|info| format!("{info:?}")));
            Ok(all)
        })
    }

    fn crash(&mut self) -> Result<(), Violation> {
        self.booted = self.passed;
        self.setup.present = self.present();
        for subject in &mut self.subjects {
            let (before, end) = (subject.reader().identity(), self.ledger.end);
            subject.crash(self.setup.clone()).map_err(told)?;
            let after = subject.reader().identity();
            promise!(after.store == before.store, "a crash made another store of it");
            let (starts, last) = (before.incarnations.len(), after.incarnations.last());
            let recorded = after.incarnations.len() == starts + 1
                && after.incarnations[..starts] == before.incarnations
                && last.is_some_and(|last| last.first == end);
            promise!(recorded, "the start after {end:?} is not recorded: {after:?}");
        }
        self.ledger.served = self.setup.served_kinds.iter().cloned().collect();
        self.done.crashes += 1;
        self.ledger.hear_crash(&*self.subjects[0].reader(), self.now, self.passed)?;
        self.check()?;
        self.compare(|reader| everything(reader))
    }

    /// Checks that every store agrees with the ledger and with the other stores.
    fn check(&mut self) -> Result<(), Violation> {
        for subject in &self.subjects {
            self.ledger.check_store(&*subject.reader())?;
        }
        self.watchers.turn(&self.ledger, &*self.subjects[self.subjects.len() - 1].reader())?;
        Ok(())
    }

    /// Compares the stores' answers to one question.
    fn compare(
        &self,
        question: impl Fn(&dyn Reader) -> Result<Vec<String>, StoreError>,
    ) -> Result<(), Violation> {
        if self.subjects.len() < 2 {
            return Ok(());
        }
        let mut answers = self.subjects.iter().map(|subject| question(&*subject.reader()));
        let Some(expected) = answers.next().transpose().map_err(told)? else { return Ok(()) };
        for answer in answers {
            same("a read", &expected, &answer.map_err(told)?)?;
        }
        Ok(())
    }

    /// Lets all accepted jobs run to their end.
    fn finish(mut self) -> Result<Done, Violation> {
        self.gathered = Gathered::default();
        self.commit(true)?;
        // Schedules would go on for ever.
        for name in SCHEDULES.map(str::to_owned) {
            self.gathered.controls.push(Control::Schedule { name, action: ScheduleAction::Delete });
        }
        self.commit(true)?;
        self.setup.served_kinds = served(0b111).served_kinds;
        // No job was scheduled by a clock that was ahead of this one.
        self.set_clock(AHEAD_MAX_MILLIS);
        self.crash()?;
        for name in QUEUES.map(str::to_owned) {
            self.gathered.controls.push(Control::SetPaused { name: name.clone(), paused: false });
            self.gathered.controls.push(Control::UpdateQueue { name, settings: build::settings(3, 1_000) });
        }
        self.gathered.controls.extend(limit_steps::ending(self.ledger.limits.all()));
        let live = |ledger: &Ledger| ledger.jobs.values().filter(|job| !job.state.is_done()).count();
        // Each level of children may take a round more.
        let mut rounds = 5 + 2 * live(&self.ledger);
        self.commit(true)?;
        while live(&self.ledger) > 0 {
            promise!(rounds > 0, "these never end: {:?}", self.ledger.jobs);
            rounds -= 1;
            self.pass(Duration::from_secs(7_200));
            for (id, lease) in self.ledger.running() {
                let told = AttemptReport::Success { result_bytes: 0 };
                self.report(id, lease, told, Teller::Owner, None);
            }
            self.commit(true)?;
        }
        let last = &self.subjects[self.subjects.len() - 1];
        self.watchers.catch_up(&self.ledger, &*last.reader())?;
        self.compare(everything)?;
        for subject in &self.subjects {
            self.ledger.check_checkpoints(&*subject.reader())?;
        }
        let repeats = self.ledger.workers.repeats;
        let scheduled = self.ledger.schedules.heard;
        let turns = self.ledger.turns.checked;
        let (forsaken, children) = self.ledger.dependencies.done;
        let (terminals, limited) = (self.ledger.terminals, self.ledger.limits.done);
        Ok(Done { terminals, repeats, turns, scheduled, forsaken, children, limited, ..self.done })
    }
}

fn served(kinds: u8) -> Setup {
    let served = KINDS.iter().enumerate().filter(|(index, _)| kinds >> index & 1 == 1);
    Setup { served_kinds: served.map(|(_, kind)| (*kind).to_owned()).collect(), ..Setup::default() }
}

fn told(error: StoreError) -> Violation {
    format!("the store failed: {error:?}")
}

fn same(what: &str, expected: &[String], actual: &[String]) -> Result<(), Violation> {
    for (expected, actual) in expected.iter().zip(actual) {
        promise!(expected == actual, "{what} differs between the stores:\n  {expected}\n  {actual}");
    }
    promise!(expected.len() == actual.len(), "{what} has {} and {} parts", expected.len(), actual.len());
    Ok(())
}

/// Renders the results of a batch as text. A claim may carry its payload or leave it to be read.
fn show(applied: &Applied, reader: &dyn Reader) -> Result<Vec<String>, StoreError> {
    let mut shown = vec![
        format!("{:?}", applied.controls),
        format!("{:?}", applied.reports),
        format!("{:?}", applied.offers),
        format!("{:?} {:?}", applied.answers, applied.superseded),
        format!("{:?} {:?}", applied.cancelling, applied.remote_cancelling),
        format!("{:?}", applied.remote_ended),
        format!("{:?}", applied.changes),
        format!("{:?} wakes {:?}", applied.position, applied.wake),
        format!("more {} room {} {:?}", applied.more, applied.room, applied.purged),
        format!("{:?}", applied.queues),
    ];
    let assigned = |one: &Assignment| format!("{:?} of {} gets {}", one.pool, one.worker, one.claim.job.id);
    shown.extend(applied.assigned.iter().map(assigned));
    for claim in applied.claims.iter().chain(applied.assigned.iter().map(|one| &one.claim)) {
        let payload = reader.payload(claim.job.id)?;
        let carried = claim.payload.clone().or_else(|| payload.clone());
        let right = if carried == payload { "right" } else { "wrong" };
        shown.push(format!(
            "{:?} {:?} {right} payload of {:?}",
            claim.job,
            claim.lease,
            payload.map(|p| p.len())
        ));
    }
    Ok(shown)
}

/// Renders everything that can be read as text.
fn everything(reader: &dyn Reader) -> Result<Vec<String>, StoreError> {
    let order = ScanOrder::NewestFirst { before: None };
    let scan = Scan { order, limit: usize::MAX, budget: i64::MAX as usize };
    let page = reader.scan(&JobFilter::default(), scan)?;
    let mut all = vec![format!("{:?} {:?} {:?}", page.next, page.position, page.newest)];
    for job in &page.jobs {
        let whole: Option<WholeJob> = reader.whole_job(job.id)?;
        all.push(format!("{whole:?}"));
    }
    all.push(format!("{:?}", reader.tallies()?));
    all.extend(reader.schedules(None, usize::MAX >> 1)?.iter().map(|info| format!("{info:?}")));
    all.extend(reader.unique_keys(None, i64::MAX as usize)?.iter().map(|key| format!("{key:?}")));
    let queues = reader.queues()?;
    for queue in &queues {
        all.push(format!("{queue:?} {:?}", reader.oldest_ready(&queue.name)?));
    }
    let changes = reader.changes(Position::default(), i64::MAX as usize)?;
    all.push(format!("{:?} {:?}", changes.up_to, changes.floor));
    for change in changes.entries {
        all.push(match change {
            Change::Job { job, before } => format!("{before:?} {job:?}"),
            // A tombstone keeps those parts of the job's specification that filters use.
            Change::Deleted(gone) => format!(
                "{:?} {} {:?} {} {} {:?} {:?}",
                gone.position,
                gone.id,
                gone.deleted,
                gone.spec.queue,
                gone.spec.kind,
                gone.spec.created,
                gone.spec.extras
            ),
        });
    }
    Ok(all)
}
