//! The claim step: selects the jobs that start, and gives new and due jobs their final state.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Claim, Submitted,
    claims::{Pick, choose},
    decision::{AcceptedJob, AcceptedOffer, Decision, DueJob},
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, expired, transition},
    job::{Job, State},
    settings::QueueInfo,
    store::{StoreError, sets::SortKey},
};

/// Index of a job that becomes ready with this batch, among the due jobs or the accepted offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newcomer {
    Due(usize),
    Accepted(usize, usize),
}

/// A ready job, with its payload if that was read.
type ReadyJob = (Arc<Job>, Option<Bytes>);

impl Decision<'_> {
    /// Fills every queue's free slots from stored and new jobs together, in the queue's order. Returns the chosen jobs
    /// that were ready before; marks the others.
    ///
    /// `short` are the queues with fewer ready jobs read than free slots.
    pub(super) fn choose(&mut self, short: &HashSet<u32>) -> Vec<ReadyJob> {
        let mut newcomers = self.newcomers();
        let mut ready_jobs = self.ready_jobs();
        let queues: BTreeSet<u32> = newcomers.keys().chain(ready_jobs.keys()).copied().collect();
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
            let ready_jobs = ready_jobs.remove(&queue).unwrap_or_default();
            let newcomers = newcomers.remove(&queue).unwrap_or_default();
            let is_cut = self.found.heads.get(&queue).is_some_and(|heads| heads.is_cut);
            let chosen = choose(free, ready_jobs, is_cut && short.contains(&queue), newcomers);
            self.sealed.more |= is_cut && chosen.len() < free;
            for pick in chosen {
                match pick {
                    Pick::Ready(job) => starting.push(job),
                    Pick::New(Newcomer::Due(index)) => {
                        if let Some(due) = self.due.get_mut(index) {
                            due.starts = true;
                        }
                    }
                    Pick::New(Newcomer::Accepted(offer, index)) => {
                        if let Some(job) =
                            self.accepted.get_mut(offer).and_then(|offer| offer.jobs.get_mut(index))
                        {
                            job.starts = true;
                        }
                    }
                }
            }
        }
        starting
    }

    /// Returns the jobs that become ready with this batch and could start, by queue and in order, each with its rank.
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
        for (offer, accepted) in self.accepted.iter().enumerate() {
            for (index, AcceptedJob { job, .. }) in accepted.jobs.iter().enumerate() {
                if matches!(job.state, State::Queued { .. }) {
                    add(job, Newcomer::Accepted(offer, index));
                }
            }
        }
        for newcomers in newcomers.values_mut() {
            // The sort is stable: among equals the earlier one starts first.
            newcomers.sort_by_key(|(rank, _)| *rank);
        }
        newcomers
    }

    /// Returns the jobs that were ready before the batch, or were moved back to QUEUED by it, by queue and in order.
    fn ready_jobs(&mut self) -> BTreeMap<u32, Vec<(SortKey, ReadyJob)>> {
        let mut ready_jobs: BTreeMap<u32, Vec<(SortKey, ReadyJob)>> = BTreeMap::new();
        for (queue, heads) in &mut self.found.heads {
            let jobs = std::mem::take(&mut heads.jobs);
            let accepted =
                jobs.into_iter().filter_map(|(job, payload)| Some((sort_key_of(&job)?, (job, payload))));
            ready_jobs.insert(*queue, accepted.collect());
        }
        for jobs in ready_jobs.values_mut() {
            // A job that a purge covers does not start: the purge will delete it.
            jobs.retain(|(_, (job, _))| {
                self.is_untouched(job.id) && !self.engine.purges.covers(job.spec.queue.number, job.id)
            });
        }
        let mut mixed = BTreeSet::new();
        for job in self.queued_anew() {
            let queue = job.spec.queue.number;
            if let Some(place) = sort_key_of(job)
                && self.engine.served.contains(&job.spec.kind.number)
            {
                mixed.insert(queue);
                ready_jobs.entry(queue).or_default().push((place, (Arc::clone(job), None)));
            }
        }
        for queue in mixed {
            if let Some(ready_jobs) = ready_jobs.get_mut(&queue) {
                ready_jobs.sort_by_key(|(place, _)| *place);
            }
        }
        ready_jobs
    }

    /// Gives all new and due jobs their final state, and starts the chosen ones.
    pub(super) fn settle(&mut self, starting: Vec<ReadyJob>) -> Result<(), StoreError> {
        for (job, payload) in starting {
            if expired(&job, self.now()) {
                // If more jobs expire at once than a batch takes, some are still QUEUED.
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
        for AcceptedOffer { jobs, has_request, mut answer } in std::mem::take(&mut self.accepted) {
            let mut fault = None;
            let jobs = jobs.map(|accepted| self.settle_new(accepted, &mut fault));
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

    /// Creates a new job in its final state, with a single write.
    fn settle_new(&mut self, accepted: AcceptedJob, fault: &mut Option<StoreError>) -> Arc<Job> {
        let AcceptedJob { mut job, payload, starts } = accepted;
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

/// Returns a QUEUED job's place in its lane.
fn sort_key_of(job: &Job) -> Option<SortKey> {
    match job.state {
        State::Queued { order } => {
            Some(SortKey { rank: job.spec.priority.saturating_neg(), order: order.0, id: job.id })
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
