//! Recovery at a start: ends the attempts that a crash left running, and sets up the declared queues.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    Decided, Engine, EngineSetup, decision::Decision, demand::Demand, dependencies::OverParents, due::Due, keys::Holds, leases::Leases,
    limits::LimitBook, names::NameBook, numbers::Numbers, purge::Purges, queues::QueueBook, retention::Sweeping, schedules::ScheduleBook,
    spared::Spared, suspects::Suspects, tallies::Tallies, times::Times, turns::Turns, waiters::Waiters, workers::WorkerBook,
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, FailCause, lost},
    job::KeyHash,
    settings::{QueueInfo, QueueSettings, Retention},
    timetable::time_zone_database,
    store::{
        Names, StoreError,
        sets::{Loaded, LoadedSchedules, ReadResults, ReadSet, ScheduleWant},
    },
};

/// State of the previous start.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// The server's retention times.
    pub(crate) retention: Option<Retention>,
    /// Schedules and calendars.
    pub(crate) schedules: LoadedSchedules,
}

impl Engine {
    /// Creates an engine from the stored state. [`Engine::recover`] comes next.
    pub(crate) fn load(names: Arc<Names>, loaded: Loaded, setup: &EngineSetup) -> (Self, Before) {
        let numbers = Numbers::start(&loaded.counters, setup.present.wall);
        names.steps.load(loaded.steps);
        let kept_times = loaded.counters.times;
        let start = numbers.next_position();
        let mut times = Times::start(kept_times, setup.present, start);
        times.note_start(kept_times, &names.steps, start);
        let kinds = NameBook::load(names.kinds.all());
        let existing = loaded.queues.iter().filter(|(_, deleted)| !deleted).map(|(info, _)| info);
        let turns = Turns::load(&loaded.turns, existing);
        let limits = LimitBook::load(&loaded.limits, &loaded.leased, &names, times.backoffs());
        let engine = Engine {
            seed: setup.seed,
            served: HashSet::new(),
            queues: QueueBook::load(loaded.queues),
            kinds,
            numbers,
            tallies: Tallies::load(&loaded.tallies),
            leases: Leases::load(&loaded.leased),
            limits,
            due: Due::load(&loaded.first_times, loaded.first_expiry),
            holds: Holds::load(),
            purges: Purges::load(&loaded.purges),
            turns,
            over_parents: OverParents::load(&loaded.over_parents),
            sweeping: Sweeping::load(setup.retention, &loaded.sweeps),
            spared: Spared::load(),
            waiters: Waiters::default(),
            schedules: ScheduleBook::load(
                &loaded.schedules,
                &setup.schedules,
                time_zone_database(),
                setup.present,
            ),
            workers: WorkerBook::load(loaded.workers, &loaded.served_kinds, &names, setup.present.uptime),
            demand: Demand::new(Arc::clone(&setup.demand)),
            suspects: Suspects::load(&loaded.suspects),
            times,
            names,
        };
        (engine, Before { retention: loaded.retention, schedules: loaded.schedules })
    }

    /// Returns the reads of a start.
    pub(crate) fn plan_start(setup: &EngineSetup, set_aside: Option<Timestamp>) -> ReadSet {
        let named = setup.schedules.declared.keys();
        let schedules = named.map(|name| ScheduleWant::Named(name.clone())).collect();
        ReadSet { set_aside, schedules, ..ReadSet::default() }
    }

    /// Decides the changes of a start: attempts that ran end as lost and count, the declared queues get the
    /// configuration's settings, and names that nothing refers to are freed. `found` has the results of the reads of
    /// [`Engine::plan_start`].
    ///
    /// # Errors
    /// When the stored state contradicts itself.
    pub(crate) fn recover(
        &mut self,
        setup: &EngineSetup,
        before: &Before,
        found: ReadResults,
    ) -> Result<Decided, StoreError> {
        for kind in &setup.served_kinds {
            let kind = self.kinds.intern(&self.names.kinds, kind);
            self.served.insert(kind.number);
        }
        let mut decision = Decision::new(self, setup.present, found);
        // Before names are checked for use: counts may be among the unreadable rows.
        decision.take_set_aside();
        decision.declare_queues(&setup.declared_queues);
        decision.declare_limits(&setup.limits);
        decision.declare_schedules(&setup.schedules, &before.schedules)?;
        decision.end_lost_attempts(&setup.native_kinds)?;
        decision.recover_workers();
        decision.tell_children();
        decision.write_edges();
        decision.write_keys()?;
        decision.write_jobs();
        let Decision { mut writes, sealed, .. } = decision;
        let same = before.retention == Some(setup.retention);
        writes.retention = (!same).then_some(setup.retention);
        let all = self.queues.all();
        // With other retention times than before, each sweep may have passed jobs that it would delete now.
        self.sweeping.replan(&all, |_| !same);
        let unused: Vec<u32> = self.kinds.kept().map(|kind| kind.number).collect();
        for kind in unused {
            if self.is_unused(kind) && self.kinds.free(kind) {
                writes.freed_kinds.push(kind);
            }
        }
        for queue in self.queues.deleted() {
            self.free_queue(queue, &mut writes);
        }
        self.write_rest(&mut writes, false)?;
        // Even a start that changes nothing stores its initial numbers.
        writes.steps = self.times.unkept_steps(&self.names.steps);
        writes.counters = Some(self.numbers.counters(self.times.kept()));
        Ok(Decided { writes, sealed, queues_changed: true })
    }
}

impl Engine {
    /// Returns the unique keys of the jobs that a start may end.
    pub(crate) fn keys_of_running_jobs(&self) -> Vec<KeyHash> {
        self.leases.all().iter().filter_map(|job| job.spec.key_hash()).collect()
    }
}

impl Decision<'_> {
    /// Ends the attempts that a crash left running; they count. Those of code of the server's process may have caused
    /// the crash.
    fn end_lost_attempts(&mut self, native_kinds: &HashSet<String>) -> Result<(), StoreError> {
        for job in self.engine.leases.all() {
            let Some(lease) = job.state.lease().filter(|_| !self.set_aside.contains(&job.id)) else {
                continue;
            };
            if job.remote.worker().is_some() {
                continue;
            }
            let failure = lost("the server stopped while the attempt ran");
            let cause = match self.engine.suspects.has(job.id) {
                true => FailCause::ProcessDied,
                false => FailCause::Other,
            };
            self.forget_output(&job);
            let job = self.must(&job, &Event::Fail { lease, failure, delay: None, cause })?;
            if native_kinds.contains(job.spec.kind.as_str()) && !job.state.is_done() {
                self.engine.suspects.add(job.id);
            }
        }
        Ok(())
    }

    fn declare_queues(&mut self, declared: &BTreeMap<String, QueueSettings>) {
        for info in self.engine.queues.all() {
            // A queue that is no longer in the file stays as it was, and can be changed by RPC from now on.
            if info.declared && !declared.contains_key(info.name.as_str()) {
                self.put_queue(QueueInfo { declared: false, formerly_declared: true, ..info });
            }
        }
        for (name, settings) in declared {
            let engine = &mut *self.engine;
            let paused = engine.queues.find(name).is_some_and(|info| info.paused);
            let name = engine.queues.intern(&engine.names, name);
            let settings = settings.clone();
            let info =
                QueueInfo { name, settings, paused, declared: true, formerly_declared: false, revision: 0 };
            self.put_queue(info);
        }
    }
}
