//! Registration of remote workers: who owns leases, which kinds workers serve, and what a hello says of earlier leases.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;

use super::{ControlRefusal, Engine, decision::Decision};
use crate::{
    clock::{StoreTime, Uptime},
    engine::transition::{Event, FailCause, Refusal, lost},
    job::{JobId, LeaseOwner, LeaseToken, WorkerProcess, WorkerRow, names::is_reserved_kind},
    store::Names,
};

/// Limit of the registered workers.
pub(crate) const WORKERS_MAX: usize = 10_000;
/// Limit of the earlier processes of an instance that are remembered.
const PREDECESSORS_MAX: usize = 16;
/// Number of starts in a row that extend a lease without a hello of its worker. A start counts once the server has run
/// for half of a lease: a server that starts again and again within seconds leaves workers no time to come back.
const STARTS_MAX: u32 = 3;
/// Time for which a kind is known after its last worker and its last job.
const KIND_KNOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Age at which the last known time of a kind that is still in use is written again.
const KIND_REFRESHED_AFTER: Duration = Duration::from_secs(3_600);
/// Time for which a worker without a session and without leases is remembered.
const WORKER_KNOWN_FOR: Duration = Duration::from_secs(3_600);
/// The same where the limit of workers is reached, so that names that were used once do not keep new workers out.
const WORKER_KNOWN_AT_LIMIT_FOR: Duration = Duration::from_secs(60);

/// A worker's introduction.
#[derive(Clone, Debug, Default)]
pub struct WorkerHello {
    /// Name of the token or certificate; empty if the server requires none.
    pub subject: String,
    /// The worker's name.
    pub instance: String,
    /// The random name of the process.
    pub process: String,
    /// The kinds that it runs.
    pub kinds: BTreeSet<String>,
    /// The leases that it has received; all of its other leases never reached it. Absent where the worker does not say.
    pub leases: Option<Vec<(JobId, LeaseToken)>>,
}

/// The answer to a worker's introduction.
#[derive(Clone, PartialEq, Debug)]
pub struct Registered {
    /// The worker.
    pub worker: Arc<WorkerProcess>,
    /// What became of each of its leases, in the order of the introduction.
    pub leases: Vec<LeaseFate>,
}

/// What has become of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseFate {
    /// It is held.
    Held,
    /// It is over by the worker's own final report.
    Reported,
    /// It is over, or was never the worker's.
    Lost,
}

/// The kinds that remote workers serve or have served, which admission accepts.
#[derive(Debug, Default)]
pub struct WorkerKinds {
    names: RwLock<HashSet<Box<str>>>,
}

impl WorkerKinds {
    /// Returns whether workers serve the kind, or have served it in the last days.
    #[must_use]
    pub fn knows(&self, kind: &str) -> bool {
        self.names.read().contains(kind)
    }

    /// Lists these kinds and those of `handled` for an error: the first ten, and how many more there are.
    pub(crate) fn listed_with<'a>(&self, handled: impl IntoIterator<Item = &'a str>) -> String {
        const SHOWN_MAX: usize = 10;
        let served = self.names.read();
        let mut names: Vec<&str> = handled.into_iter().collect();
        names.extend(served.iter().map(AsRef::<str>::as_ref));
        names.retain(|name| !is_reserved_kind(name));
        if names.is_empty() {
            return "none".to_owned();
        }
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(SHOWN_MAX);
        names.truncate(SHOWN_MAX);
        let shown = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }

    fn add(&self, name: &str) {
        self.names.write().insert(name.into());
    }

    fn remove(&self, name: &str) {
        self.names.write().remove(name);
    }
}

/// The registered workers, and the kinds that workers serve.
#[derive(Debug)]
pub(super) struct WorkerBook {
    kept: BTreeMap<u32, WorkerRow>,
    by_instance: HashMap<(Box<str>, Box<str>), u32>,
    /// Workers that the batch changes; `None` if it forgets them.
    changed: BTreeMap<u32, Option<WorkerRow>>,
    last_number: u32,
    /// The last known times of kinds.
    served: HashMap<u32, StoreTime>,
    /// Those that the batch changes; `None` if it forgets them.
    served_changed: BTreeMap<u32, Option<StoreTime>>,
    kinds: Arc<WorkerKinds>,
    /// Time at which each worker was last known to be connected.
    seen: HashMap<u32, Uptime>,
    /// Workers with leases from before the start that have not said hello since, and for which the start does not count
    /// yet.
    unheard: BTreeSet<u32>,
}

fn key_of(owner: &LeaseOwner) -> (Box<str>, Box<str>) {
    (owner.subject.clone(), owner.instance.clone())
}

impl WorkerBook {
    pub(super) fn load(
        workers: Vec<WorkerRow>,
        served: &[(u32, StoreTime)],
        names: &Names,
        now: Uptime,
    ) -> Self {
        let known = served.iter().filter_map(|(kind, _)| names.kinds.get(*kind));
        let known = known.map(|name| name.as_str().into()).collect();
        let kinds = Arc::new(WorkerKinds { names: RwLock::new(known) });
        let by_instance = workers
            .iter()
            .map(|row| (key_of(&row.process.owner), row.process.number));
        WorkerBook {
            by_instance: by_instance.collect(),
            last_number: workers.last().map_or(0, |row| row.process.number),
            seen: workers.iter().map(|row| (row.process.number, now)).collect(),
            kept: workers.into_iter().map(|row| (row.process.number, row)).collect(),
            unheard: BTreeSet::new(),
            changed: BTreeMap::new(),
            served: served.iter().copied().collect(),
            served_changed: BTreeMap::new(),
            kinds,
        }
    }

    /// Returns the registry of the kinds that workers serve.
    pub(super) fn kinds(&self) -> &Arc<WorkerKinds> {
        &self.kinds
    }

    /// Returns whether workers serve a kind, or have served it in the last days.
    pub(super) fn knows_kind(&self, kind: u32) -> bool {
        match self.served_changed.get(&kind) {
            Some(changed) => changed.is_some(),
            None => self.served.contains_key(&kind),
        }
    }

    /// Returns whether workers serve a kind with this name, or have served it in the last days.
    pub(super) fn serves(&self, names: &Names, kind: &str) -> bool {
        names.kinds.find(kind).is_some_and(|kind| self.knows_kind(kind.number))
    }

    /// Returns whether the batch changes the kinds that workers serve.
    pub(super) fn kinds_change(&self) -> bool {
        self.served_changed.iter().any(|(kind, served)| served.is_some() != self.served.contains_key(kind))
    }

    /// Returns the registered worker of an instance, with the batch's changes so far.
    fn find(&self, subject: &str, instance: &str) -> Option<WorkerRow> {
        let same = |row: &&WorkerRow| {
            let owner = row.process.owner();
            *owner.subject == *subject && *owner.instance == *instance
        };
        if let Some(row) = self.changed.values().flatten().find(same) {
            return Some(row.clone());
        }
        let number = self.by_instance.get(&(subject.into(), instance.into()))?;
        if self.changed.contains_key(number) {
            return None;
        }
        self.kept.get(number).cloned()
    }

    /// Returns the number of the registered worker of an instance, as it was when the batch began.
    pub(super) fn number_of(&self, subject: &str, instance: &str) -> Option<u32> {
        self.by_instance.get(&(subject.into(), instance.into())).copied()
    }

    /// Returns the number of workers, with the batch's changes so far.
    fn count(&self) -> usize {
        let replaced = self.changed.keys().filter(|number| self.kept.contains_key(number)).count();
        self.kept.len() - replaced + self.changed.values().flatten().count()
    }

    /// Returns whether a worker with this number is registered.
    pub(super) fn is_registered(&self, worker: u32) -> bool {
        self.kept.contains_key(&worker)
    }

    fn put(&mut self, row: WorkerRow) {
        self.changed.insert(row.process.number, Some(row));
    }

    fn next_number(&mut self) -> u32 {
        loop {
            self.last_number = self.last_number.checked_add(1).unwrap_or(1);
            let number = self.last_number;
            if !self.kept.contains_key(&number) && !self.changed.contains_key(&number) {
                return number;
            }
        }
    }

    /// Records that a worker was connected a moment ago, if it is registered.
    pub(super) fn saw(&mut self, worker: u32, now: Uptime) {
        if let Some(seen) = self.seen.get_mut(&worker) {
            *seen = now;
        }
        self.unheard.remove(&worker);
    }

    /// Returns the rows that the batch writes.
    pub(super) fn rows(&self) -> (Vec<WorkerRow>, Vec<u32>) {
        let written = self.changed.values().flatten().cloned().collect();
        let forgotten =
            self.changed.iter().filter(|(number, row)| row.is_none() && self.kept.contains_key(number));
        (written, forgotten.map(|(number, _)| *number).collect())
    }

    /// Returns the last known times of kinds that the batch writes or removes.
    pub(super) fn served_rows(&self) -> Vec<(u32, Option<StoreTime>)> {
        self.served_changed.iter().map(|(kind, served)| (*kind, *served)).collect()
    }

    /// Returns the kinds that the batch forgets.
    pub(super) fn forgotten_kinds(&self) -> Vec<u32> {
        self.served_changed.iter().filter_map(|(kind, served)| served.is_none().then_some(*kind)).collect()
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self, names: &Names, now: Uptime) {
        for (number, row) in std::mem::take(&mut self.changed) {
            if let Some(old) = self.kept.remove(&number) {
                let key = key_of(&old.process.owner);
                if self.by_instance.get(&key) == Some(&number) {
                    self.by_instance.remove(&key);
                }
            }
            match row {
                Some(row) => {
                    names.workers.add(&row.process);
                    let key = key_of(&row.process.owner);
                    self.by_instance.insert(key, number);
                    self.seen.insert(number, now);
                    self.kept.insert(number, row);
                }
                None => {
                    names.workers.forget(number);
                    self.seen.remove(&number);
                }
            }
        }
        for (kind, served) in std::mem::take(&mut self.served_changed) {
            let name = names.kinds.get(kind);
            match served {
                Some(served) => {
                    if self.served.insert(kind, served).is_none()
                        && let Some(name) = name
                    {
                        self.kinds.add(name.as_str());
                    }
                }
                None => {
                    self.served.remove(&kind);
                    if let Some(name) = name {
                        self.kinds.remove(name.as_str());
                    }
                }
            }
        }
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.changed.clear();
        self.served_changed.clear();
    }
}

impl Decision<'_> {
    /// Registers a worker's process. An earlier process of the same instance loses its leases, which count.
    pub(super) fn register_worker(&mut self, hello: &WorkerHello) -> Result<Registered, ControlRefusal> {
        let found = self.engine.workers.find(&hello.subject, &hello.instance);
        if let Some(row) = &found
            && row.predecessors.contains(&hello.process)
        {
            return Err(ControlRefusal::WorkerSuperseded(hello.instance.clone()));
        }
        if found.is_none() && self.engine.workers.count() >= WORKERS_MAX {
            self.forget_workers(WORKER_KNOWN_AT_LIMIT_FOR);
            if self.engine.workers.count() >= WORKERS_MAX {
                return Err(ControlRefusal::TooManyWorkers(WORKERS_MAX));
            }
        }
        let engine = &mut *self.engine;
        let new_kinds = hello.kinds.iter().filter(|kind| engine.names.kinds.find(kind).is_none()).count();
        if engine.kinds.len() + new_kinds > super::offers::KINDS_MAX {
            return Err(ControlRefusal::TooManyKinds(super::offers::KINDS_MAX));
        }
        let now = engine.times.retention();
        for kind in &hello.kinds {
            let kind = engine.kinds.intern(&engine.names.kinds, kind).number;
            let is_fresh = |served: &StoreTime| now < served.after(KIND_REFRESHED_AFTER);
            if !engine.workers.served.get(&kind).is_some_and(is_fresh) {
                engine.workers.served_changed.insert(kind, Some(now));
            }
        }
        let worker = match found {
            Some(row) if *row.process.owner.process == *hello.process => {
                if row.starts > 0 {
                    engine.workers.put(WorkerRow { starts: 0, ..row.clone() });
                }
                row.process
            }
            other => self.new_process(hello, other),
        };
        self.engine.workers.saw(worker.number, self.present.uptime);
        let leases = self.fates(&worker, hello);
        self.release_unlisted(&worker, hello);
        Ok(Registered { worker, leases })
    }

    /// Creates the row of a process, in place of that of an earlier one.
    fn new_process(&mut self, hello: &WorkerHello, earlier: Option<WorkerRow>) -> Arc<WorkerProcess> {
        let mut predecessors = Vec::new();
        if let Some(earlier) = earlier {
            predecessors = earlier.predecessors;
            predecessors.push(earlier.process.owner.process.to_string());
            if predecessors.len() > PREDECESSORS_MAX {
                predecessors.remove(0);
            }
            // Had the predecessor ended in order, it would have no leases.
            let why = "a new process of the worker's instance has started";
            self.end_leases(earlier.process.number, why, FailCause::ProcessDied);
            // The claims of this batch are not for it either.
            self.engine.demand.end_sessions_of(earlier.process.number);
            self.engine.workers.changed.insert(earlier.process.number, None);
            self.sealed.remote.superseded.push(earlier.process.number);
        }
        let workers = &mut self.engine.workers;
        let number = workers.next_number();
        let process = Arc::new(WorkerProcess::new(number, &hello.subject, &hello.instance, &hello.process));
        workers.put(WorkerRow { process: Arc::clone(&process), predecessors, starts: 0 });
        process
    }

    /// Ends all leases of a worker as lost.
    pub(super) fn end_leases(&mut self, worker: u32, why: &str, cause: FailCause) {
        for job in self.engine.leases.of_worker(worker) {
            // The batch may have changed the job already.
            let Some(job) = self.job(job.id) else { continue };
            let (Some(lease), Some(_)) = (job.state.lease(), job.remote.worker()) else { continue };
            let event = Event::Fail { lease, failure: lost(why), delay: None, cause };
            if self.try_change(&job, &event).is_ok() {
                self.forget_output(&job);
            }
        }
    }

    /// Returns what has become of the leases that a worker lists.
    fn fates(&self, worker: &WorkerProcess, hello: &WorkerHello) -> Vec<LeaseFate> {
        let fate = |(id, lease): &(JobId, LeaseToken)| {
            let Some(job) = self.job(*id) else { return LeaseFate::Lost };
            let is_owner = job.remote.worker().is_some_and(|owner| owner.number == worker.number);
            if is_owner && job.state.lease() == Some(*lease) {
                LeaseFate::Held
            } else if self.has_reported(worker.owner(), &job, *lease) {
                LeaseFate::Reported
            } else {
                LeaseFate::Lost
            }
        };
        hello.leases.iter().flatten().map(fate).collect()
    }

    /// Puts the jobs back whose leases a worker does not list: they never reached it, and do not count.
    fn release_unlisted(&mut self, worker: &WorkerProcess, hello: &WorkerHello) {
        let Some(listed) = &hello.leases else { return };
        let listed: HashSet<&LeaseToken> = listed.iter().map(|(_, lease)| lease).collect();
        for job in self.engine.leases.of_worker(worker.number) {
            let Some(job) = self.job(job.id) else { continue };
            let Some(lease) = job.state.lease().filter(|lease| !listed.contains(lease)) else { continue };
            let order = self.engine.leases.order(job.id);
            // The job runs under this lease, which the event takes.
            let _: Result<_, Refusal> = self.try_change(&job, &Event::Release { lease, delay: None, order });
        }
    }

    /// Refreshes the last known times of kinds that are in use, and forgets kinds and workers that have not been for
    /// long. To be called when half of a lease is over since the start, and then about once an hour.
    pub(super) fn review_workers(&mut self) {
        self.count_start();
        let Engine { workers, demand, tallies, times, .. } = &mut *self.engine;
        let now = times.retention();
        for (kind, served) in &workers.served {
            if demand.is_served(*kind) || tallies.kind(*kind) > 0 {
                if now >= served.after(KIND_REFRESHED_AFTER) {
                    workers.served_changed.insert(*kind, Some(now));
                }
            } else if now >= served.after(KIND_KNOWN_FOR + KIND_REFRESHED_AFTER) {
                // The time that is known may be too old by that much.
                workers.served_changed.insert(*kind, None);
            }
        }
        self.forget_workers(WORKER_KNOWN_FOR);
    }

    /// Forgets workers that have had no session and no leases for this long.
    fn forget_workers(&mut self, known_for: Duration) {
        let Engine { workers, demand, leases, .. } = &mut *self.engine;
        let uptime = self.present.uptime;
        let connected = demand.workers();
        for number in workers.kept.keys() {
            let seen = workers.seen.entry(*number).or_insert(uptime);
            if connected.contains(number) || leases.has_any(*number) {
                *seen = uptime;
            } else if uptime.since(*seen) >= known_for && !workers.changed.contains_key(number) {
                workers.changed.insert(*number, None);
                self.sealed.remote.forgotten.push(*number);
            }
        }
    }

    /// Decides at a start which workers keep their leases: those that have said hello since one of the last starts.
    pub(super) fn recover_workers(&mut self) {
        let rows = self.engine.workers.kept.values().map(|row| (row.process.number, row.starts));
        let holders: Vec<_> = rows.filter(|(number, _)| self.engine.leases.has_any(*number)).collect();
        for (number, starts) in holders {
            if starts >= STARTS_MAX {
                let why = "its worker has not been heard of since three starts of the server";
                self.end_leases(number, why, FailCause::Other);
            } else {
                self.engine.workers.unheard.insert(number);
            }
        }
    }

    /// Counts this start for the workers that have not said hello since.
    fn count_start(&mut self) {
        let Engine { workers, leases, .. } = &mut *self.engine;
        for number in std::mem::take(&mut workers.unheard) {
            let row = workers.kept.get(&number).filter(|_| !workers.changed.contains_key(&number));
            if let Some(row) = row.filter(|_| leases.has_any(number)) {
                let counted = WorkerRow { starts: row.starts + 1, ..row.clone() };
                workers.put(counted);
            }
        }
    }
}
