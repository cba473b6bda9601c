//! Taking over rows: at the start, and after a batch that the disk had no room for.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Engine, EngineSetup, Progressing, QueueState,
    retain::Sweeping,
    rows::{Counters, Loaded, NextDue, Rows},
    tallies::Tallies,
    times::Times,
};
use crate::{
    clock::Timestamp,
    job::Position,
    settings::{QueueInfo, QueueSettings},
    store::{Names, StoreError},
    transition::{Event, lost, transition},
};

impl<R: Rows> Engine<R> {
    /// Takes over the rows: puts back what a crash left running, and sets up the declared queues.
    pub(crate) fn open(mut rows: R, names: Arc<Names>, setup: EngineSetup) -> Result<Self, StoreError> {
        let mut loaded = rows.load()?;
        let server_before = loaded.retention;
        let mut engine = Engine {
            rows,
            served: HashSet::new(),
            queues: HashMap::new(),
            tallies: Tallies::default(),
            counters: Counters::default(),
            leased: HashMap::new(),
            purges: Vec::new(),
            next_due: NextDue::default(),
            next_expiry: None,
            times: Times::start(None, setup.present, Position::default()),
            step_noted: false,
            sweeping: Sweeping::new(setup.retention),
            names,
            seed: setup.seed,
            poisoned: false,
        };
        engine.names.steps.load(std::mem::take(&mut loaded.steps));
        engine.take_up(loaded);
        engine.start_times(setup.present);
        engine.rows.begin()?;
        for kind in &setup.served_kinds {
            let kind = engine.intern_kind(kind)?;
            engine.served.insert(kind.number);
        }
        engine.declare_queues(&setup.declared_queues)?;
        let same = server_before == Some(setup.retention);
        if !same {
            engine.rows.put_retention(&setup.retention)?;
        }
        engine.plan_sweeps(|_| !same)?;
        engine.recover(setup.present.wall)?;
        engine.keep_times()?;
        engine.rows.put_counters(&engine.counters)?;
        engine.tallies.write(&mut engine.rows)?;
        engine.rows.commit()?;
        engine.next_due = engine.rows.next_due()?;
        engine.next_expiry = engine.rows.next_expiry()?;
        Ok(engine)
    }

    fn take_up(&mut self, loaded: Loaded) {
        let state = |(info, deleted): (QueueInfo, bool)| (info.name.number, QueueState { info, deleted });
        self.queues = loaded.queues.into_iter().map(state).collect();
        self.tallies = Tallies::load(&loaded.tallies);
        self.counters = loaded.counters;
        self.leased = loaded.leased.into_iter().map(|job| (job.id, Arc::new(job))).collect();
        self.purges = loaded.purges;
        self.sweeping.load(&loaded.sweeps);
    }

    /// Undoes a batch that the disk had no room for, and knows again what is kept. What runs goes on running.
    pub(super) fn undo(&mut self) -> Result<(), StoreError> {
        self.rows.rollback()?;
        let loaded = self.rows.load()?;
        self.take_up(loaded);
        // How the clock was set is as true as before, whatever is kept of it.
        self.step_noted = true;
        self.next_due = self.rows.next_due()?;
        self.next_expiry = self.rows.next_expiry()?;
        Ok(())
    }

    /// After a crash local attempts are over, and counted.
    fn recover(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let mut interrupted: Vec<_> = self.leased.values().cloned().collect();
        interrupted.sort_by_key(|job| job.id);
        let mut progressing = Progressing::default();
        for job in interrupted {
            let Some(lease) = job.state.lease() else { continue };
            let failure = lost("the server stopped while the attempt ran");
            let event = Event::Fail { lease, failure, delay: None };
            let moment = self.moment(&job, now);
            let changed = transition(&job, &event, moment).map_err(|refusal| {
                StoreError::Corrupt(format!("job {} can't be recovered: {refusal}", job.id))
            })?;
            if job.attempt > 1 {
                self.rows.put_outcome(job.id, None, "")?;
            }
            self.write_change(&job, changed, &mut progressing)?;
        }
        Ok(())
    }

    fn declare_queues(&mut self, declared: &BTreeMap<String, QueueSettings>) -> Result<(), StoreError> {
        let mut gone: Vec<_> = self
            .queues
            .values()
            .filter(|queue| queue.info.declared && !declared.contains_key(queue.info.name.as_str()))
            .map(|queue| queue.info.clone())
            .collect();
        // No longer in the file: the queue stays as it was, and can be changed by RPC from now on.
        for info in &mut gone {
            (info.declared, info.formerly_declared) = (false, true);
            self.put_queue(info.clone())?;
        }
        for (name, settings) in declared {
            let name = self.intern_queue(name);
            let paused =
                self.queues.get(&name.number).is_some_and(|queue| !queue.deleted && queue.info.paused);
            let settings = settings.clone();
            let info = QueueInfo { name, settings, paused, declared: true, formerly_declared: false };
            self.put_queue(info)?;
        }
        Ok(())
    }
}
