//! The claim step: which jobs start, and the final state of all that are new or due.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Claim, Submitted,
    claims::{Pick, choose},
    decision::{Decision, DueJob, PlacedJob, PlacedOffer},
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, expired, transition},
    job::{Job, State},
    settings::QueueInfo,
    store::{StoreError, sets::Place},
};

/// Where a job that is new in line stands among the pending ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newcomer {
    Due(usize),
    Placed(usize, usize),
}

/// A ready job, with its payload where that was read.
type Stood = (Arc<Job>, Option<Bytes>);

impl Decision<'_> {
    /// Fills every queue's free slots from stored and pending jobs together, in the queue's order. Returns those that
    /// stood in line.
    ///
    /// `short` are the queues of which fewer ready jobs were read than there are slots.
    pub(super) fn choose(&mut self, short: &HashSet<u32>) -> Vec<Stood> {
        let mut newcomers = self.newcomers();
        let mut stood = self.stood();
        let queues: BTreeSet<u32> = newcomers.keys().chain(stood.keys()).copied().collect();
        let mut starting = Vec::new();
        for queue in queues {
            let running = self.engine.tallies.queue(queue).running;
            let consumers = |info: &QueueInfo| match info.paused {
                true => 0,
                false => i64::from(info.settings.consumers),
            };
            let consumers = self.engine.queues.with(queue, consumers).unwrap_or(0);
            let free = usize::try_from(consumers - running).unwrap_or(0);
            if free == 0 {
                continue;
            }
            let stood = stood.remove(&queue).unwrap_or_default();
            let newcomers = newcomers.remove(&queue).unwrap_or_default();
            let is_cut = self.found.heads.get(&queue).is_some_and(|heads| heads.is_cut);
            let chosen = choose(free, stood, is_cut && short.contains(&queue), newcomers);
            self.sealed.more |= is_cut && chosen.len() < free;
            for pick in chosen {
                match pick {
                    Pick::Stood(job) => starting.push(job),
                    Pick::New(Newcomer::Due(index)) => {
                        if let Some(due) = self.due.get_mut(index) {
                            due.starts = true;
                        }
                    }
                    Pick::New(Newcomer::Placed(offer, index)) => {
                        if let Some(job) =
                            self.placed.get_mut(offer).and_then(|offer| offer.jobs.get_mut(index))
                        {
                            job.starts = true;
                        }
                    }
                }
            }
        }
        starting
    }

    /// The pending jobs that could start, by queue, each with its rank, in order.
    fn newcomers(&self) -> BTreeMap<u32, Vec<(i8, Newcomer)>> {
        let mut newcomers: BTreeMap<u32, Vec<(i8, Newcomer)>> = BTreeMap::new();
        let mut add = |job: &Job, newcomer| {
            if self.engine.served.contains(&job.spec.kind.number) {
                let rank = job.spec.priority.saturating_neg();
                newcomers.entry(job.spec.queue.number).or_default().push((rank, newcomer));
            }
        };
        for (index, due) in self.due.iter().enumerate() {
            add(&due.stored, Newcomer::Due(index));
        }
        for (offer, placed) in self.placed.iter().enumerate() {
            for (index, PlacedJob { job, .. }) in placed.jobs.iter().enumerate() {
                if matches!(job.state, State::Queued { .. }) {
                    add(job, Newcomer::Placed(offer, index));
                }
            }
        }
        for newcomers in newcomers.values_mut() {
            // Stable: what came first goes first among equals.
            newcomers.sort_by_key(|(rank, _)| *rank);
        }
        newcomers
    }

    /// The jobs that stood in line or have come back into it with this batch, by queue, in order.
    fn stood(&mut self) -> BTreeMap<u32, Vec<(Place, Stood)>> {
        let mut stood: BTreeMap<u32, Vec<(Place, Stood)>> = BTreeMap::new();
        for (queue, heads) in &mut self.found.heads {
            let jobs = std::mem::take(&mut heads.jobs);
            let placed =
                jobs.into_iter().filter_map(|(job, payload)| Some((place_of(&job)?, (job, payload))));
            stood.insert(*queue, placed.collect());
        }
        for jobs in stood.values_mut() {
            // What a purge covers does not start before the purge gets there.
            jobs.retain(|(_, (job, _))| {
                self.is_untouched(job.id) && !self.engine.purges.covers(job.spec.queue.number, job.id)
            });
        }
        let mut mixed = BTreeSet::new();
        for job in self.queued_anew() {
            let queue = job.spec.queue.number;
            if let Some(place) = place_of(job)
                && self.engine.served.contains(&job.spec.kind.number)
            {
                mixed.insert(queue);
                stood.entry(queue).or_default().push((place, (Arc::clone(job), None)));
            }
        }
        for queue in mixed {
            if let Some(stood) = stood.get_mut(&queue) {
                stood.sort_by_key(|(place, _)| *place);
            }
        }
        stood
    }

    /// Gives all pending jobs their final state, and starts the chosen ones.
    pub(super) fn settle(&mut self, starting: Vec<Stood>) -> Result<(), StoreError> {
        for (job, payload) in starting {
            if expired(&job, self.now()) {
                // Where very many expire at once, some of them are in line still.
                self.must(&job, &Event::Expire)?;
                self.sealed.more = true;
                continue;
            }
            let ready = self.engine.names.steps.seen_from_now(job.position, job.updated);
            self.start(&job, payload, ready)?;
        }
        for DueJob { stored, starts } in std::mem::take(&mut self.due) {
            if starts {
                let ready = stored.state.due().unwrap_or(self.now());
                self.start(&stored, None, ready)?;
            } else {
                self.must(&stored, &Event::Due)?;
            }
        }
        let mut first_jobs = HashMap::new();
        for PlacedOffer { jobs, has_request, mut answer } in std::mem::take(&mut self.placed) {
            let mut fault = None;
            let jobs = jobs.map(|placed| self.settle_new(placed, &mut fault));
            if let Some(error) = fault {
                return Err(error);
            }
            if has_request {
                first_jobs.insert(jobs.first.id, Arc::clone(&jobs.first));
            }
            answer.ask.decide(Ok(Submitted::Created { jobs }));
            self.sealed.answered.push(answer);
        }
        self.answer_repeats(&first_jobs);
        Ok(())
    }

    /// Writes a new job once, in its final state.
    fn settle_new(&mut self, placed: PlacedJob, fault: &mut Option<StoreError>) -> Arc<Job> {
        let PlacedJob { mut job, payload, starts } = placed;
        if starts {
            let lease = self.engine.numbers.draw_lease();
            match transition(&job, &Event::Start { lease }, self.moment(&job)) {
                Ok(started) => {
                    let job = self.create(started.job, payload.clone());
                    let ready = self.now();
                    self.sealed.claims.push(Claim {
                        job: Arc::clone(&job),
                        lease,
                        payload: Some(payload),
                        ready,
                    });
                    return job;
                }
                Err(refusal) => {
                    *fault =
                        Some(StoreError::Corrupt(format!("the new job {} can't start: {refusal}", job.id)));
                }
            }
        }
        job.position = self.engine.numbers.next_position();
        job.revision = 1;
        if let State::Queued { order } = &mut job.state {
            *order = job.position;
        }
        self.create(job, payload)
    }

    fn start(&mut self, job: &Arc<Job>, payload: Option<Bytes>, ready: Timestamp) -> Result<(), StoreError> {
        let lease = self.engine.numbers.draw_lease();
        let job = self.must(job, &Event::Start { lease })?;
        self.sealed.claims.push(Claim { job, lease, payload, ready });
        Ok(())
    }
}

/// Where a job stands in its lane.
fn place_of(job: &Job) -> Option<Place> {
    match job.state {
        State::Queued { order } => {
            Some(Place { rank: job.spec.priority.saturating_neg(), order: order.0, id: job.id })
        }
        State::Scheduled { .. }
        | State::Running { .. }
        | State::BackingOff { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => None,
    }
}
