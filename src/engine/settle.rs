//! The claim step: selects the jobs that start, and gives new and due jobs their final state.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Claim, Engine, Submitted, SubmittedJob,
    claims::{Candidate, NewReady, Offered, ReadyList, offer_all},
    decision::{AcceptedItem, AcceptedJob, AcceptedOffer, Decision, DueJob, Slot},
    demand::Takers,
    plan::LaneGroup,
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, lapsed, transition},
    job::{Job, Participant, State, SubmitOutcome, WorkerProcess},
    settings::QueueInfo,
    store::{StoreError, sets::SortKey},
};

/// Index of a job that becomes ready with this batch, among the due jobs or the accepted offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newcomer {
    Due(usize),
    Accepted(usize, usize),
}

/// A job that becomes ready with this batch.
struct NewJobReady {
    rank: i8,
    kind: u32,
    participant: Participant,
    newcomer: Newcomer,
}

/// A ready job, with its payload if that was read.
type ReadyJob = (Arc<Job>, Option<Bytes>);

/// A ready job that starts, and its slot.
pub(super) type StartingJob = (ReadyJob, Slot);

/// Jobs of a queue that may start: the stored ones by the group of their lanes, and the new ones.
#[derive(Default)]
struct QueueCandidates {
    /// The index of each list's group; absent where the batch read none.
    groups: Vec<Option<usize>>,
    lists: Vec<ReadyList<ReadyJob>>,
    newcomers: Vec<NewJobReady>,
}

/// The answer to a question about a kind. Most jobs of a batch are of the same kind as the one before.
#[derive(Default)]
struct SameAsLast(Option<(u32, bool)>);

impl SameAsLast {
    fn of(&mut self, kind: u32, ask: impl FnOnce(u32) -> bool) -> bool {
        match self.0 {
            Some((last, answer)) if last == kind => answer,
            _ => self.0.insert((kind, ask(kind))).1,
        }
    }
}

impl Decision<'_> {
    /// Fills every queue's free slots, and the credits of remote workers, from stored and new jobs together, in the
    /// queue's order. Returns the chosen jobs that were ready before, and marks the others.
    pub(super) fn choose(&mut self, groups: &[LaneGroup]) -> Vec<StartingJob> {
        self.has_chosen = true;
        let mut starting = Vec::new();
        // Queues share credits, so that they take turns: the first one would otherwise use them all, batch by batch.
        let mut before = self.candidates(groups);
        let after = before.split_off(&self.engine.demand.next_queue());
        for (queue, candidates) in after.into_iter().chain(before) {
            let slots = |info: &QueueInfo| (i64::from(info.settings.consumers), info.paused);
            let (consumers, paused) = self.engine.queues.with(queue, slots).unwrap_or((0, true));
            let consumers = if paused { 0 } else { consumers };
            let free = usize::try_from(consumers - self.engine.running_here(queue)).unwrap_or(0);
            let takers = self.engine.takers_of(queue, paused);
            if free == 0 && takers.is_empty() {
                continue;
            }
            self.choose_in(queue, candidates, free, &takers, &mut starting, groups);
        }
        starting
    }

    /// Fills a queue's free slots and the credits for it.
    fn choose_in(
        &mut self,
        queue: u32,
        candidates: QueueCandidates,
        mut free: usize,
        takers: &Takers,
        starting: &mut Vec<StartingJob>,
        groups: &[LaneGroup],
    ) {
        let QueueCandidates { groups: indexes, lists, newcomers } = candidates;
        let cut_lists = cut_lists(&lists, &indexes, groups);
        let list_of = |kind| if cut_lists.is_empty() { None } else { cut_lists.get(&kind).copied() };
        let new = newcomers.into_iter().map(|NewJobReady { rank, kind, participant, newcomer }| {
            NewReady { participant, rank, list: list_of(kind), job: newcomer }
        });
        let last_turn = self.engine.turns.last(queue);
        let Decision { engine, due, accepted, .. } = self;
        let Engine { demand, served, suspects, .. } = &mut **engine;
        let mut classes: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut is_served = SameAsLast::default();
        let mut slot_for = |job: &Job, free: &mut usize| {
            let kind = job.spec.kind.number;
            if *free > 0 && is_served.of(kind, |kind| served.contains(&kind)) && suspects.may_start(job.id) {
                *free -= 1;
                return Some(Slot::Here);
            }
            if takers.is_empty() {
                return None;
            }
            let classes = classes.entry(kind).or_insert_with(|| demand.takers_of(takers, kind));
            demand.take(classes, job).map(Slot::Remote)
        };
        let offer = |candidate: Candidate<ReadyJob, Newcomer>| {
            let mut is_taken = false;
            match candidate {
                Candidate::Ready(ready) => {
                    if let Some(slot) = slot_for(&ready.0, &mut free) {
                        is_taken = true;
                        starting.push((ready, slot));
                    }
                }
                Candidate::New(Newcomer::Due(index)) => {
                    if let Some(due) = due.get_mut(index) {
                        due.starts = slot_for(&due.stored, &mut free);
                        is_taken = due.starts.is_some();
                    }
                }
                Candidate::New(Newcomer::Accepted(offer, index)) => {
                    let item = accepted.get_mut(offer).and_then(|offer| offer.jobs.get_mut(index));
                    if let Some(AcceptedItem::New(job)) = item {
                        job.starts = slot_for(&job.job, &mut free);
                        is_taken = job.starts.is_some();
                    }
                }
            }
            Offered { is_taken, is_last: free == 0 && takers.is_empty() }
        };
        if let Some(last) = offer_all(lists, new, last_turn, offer) {
            self.engine.turns.had_turn(queue, last);
        }
        // Where a list was truncated and its slots are not used up, the next batch goes on.
        for index in indexes.into_iter().flatten() {
            let is_cut = self.found.heads.get(index).is_some_and(|heads| heads.is_cut);
            let Some(group) = groups.get(index).filter(|_| is_cut) else { continue };
            self.sealed.more |= group.kinds.iter().any(|kind| {
                (free > 0 && !group.is_of_suspects && self.engine.served.contains(kind))
                    || self.engine.demand.can_take(&self.engine.demand.takers_of(takers, *kind))
            });
        }
    }

    /// Returns the jobs that may start, by queue.
    fn candidates(&mut self, groups: &[LaneGroup]) -> BTreeMap<u32, QueueCandidates> {
        let mut queues: BTreeMap<u32, QueueCandidates> = BTreeMap::new();
        self.newcomers(&mut queues);
        for (index, group) in groups.iter().enumerate() {
            let heads = self.found.heads.get_mut(index);
            let (jobs, is_cut) =
                heads.map_or_else(Default::default, |heads| (std::mem::take(&mut heads.jobs), heads.is_cut));
            let mut jobs: Vec<_> = jobs
                .into_iter()
                .filter_map(|(job, payload)| Some((sort_key_of(&job)?, (job, payload))))
                .collect();
            // A job that a purge covers does not start: the purge will delete it.
            jobs.retain(|(_, (job, _))| {
                self.is_untouched(job.id) && !self.engine.purges.covers(job.spec.queue.number, job.id)
            });
            let queue = queues.entry(group.queue).or_default();
            queue.groups.push(Some(index));
            queue.lists.push(ReadyList { jobs, is_cut: is_cut && group.is_short });
        }
        self.queued_in_this_batch(&mut queues, groups);
        queues
    }

    /// Adds the jobs that the batch has moved back to QUEUED, with their old places.
    fn queued_in_this_batch(&self, queues: &mut BTreeMap<u32, QueueCandidates>, groups: &[LaneGroup]) {
        for job in self.queued_anew() {
            let kind = job.spec.kind.number;
            let Some(place) = sort_key_of(job).filter(|_| self.engine.may_start(kind)) else { continue };
            let queue = queues.entry(job.spec.queue.number).or_default();
            let has = |index: &Option<usize>| {
                index.and_then(|index| groups.get(index)).is_some_and(|group| group.kinds.contains(&kind))
            };
            let list = match queue.groups.iter().position(has) {
                Some(index) => index,
                None => {
                    queue.groups.push(None);
                    queue.lists.push(ReadyList { jobs: Vec::new(), is_cut: false });
                    queue.lists.len() - 1
                }
            };
            if let Some(list) = queue.lists.get_mut(list) {
                let index = list.jobs.partition_point(|(other, _)| *other < place);
                list.jobs.insert(index, (place, (Arc::clone(job), None)));
            }
        }
    }

    /// Adds the jobs that become ready with this batch and could start, in order, each with its rank and kind.
    fn newcomers(&self, queues: &mut BTreeMap<u32, QueueCandidates>) {
        let mut may_start = SameAsLast::default();
        let mut add = |job: &Job, newcomer| {
            let kind = job.spec.kind.number;
            if may_start.of(kind, |kind| self.engine.may_start(kind)) {
                let (rank, participant) = (job.spec.priority.saturating_neg(), self.engine.turns.of(job));
                let queue = queues.entry(job.spec.queue.number).or_default();
                queue.newcomers.push(NewJobReady { rank, kind, participant, newcomer });
            }
        };
        for (index, due) in self.due.iter().enumerate() {
            add(&due.stored, Newcomer::Due(index));
        }
        for (offer, accepted) in self.accepted.iter().enumerate() {
            for (index, item) in accepted.jobs.iter().enumerate() {
                if let AcceptedItem::New(AcceptedJob { job, .. }) = item
                    && matches!(job.state, State::Queued { .. })
                    && !lapsed(job, self.now())
                {
                    add(job, Newcomer::Accepted(offer, index));
                }
            }
        }
        for queue in queues.values_mut() {
            // The sort is stable: among equals the earlier one starts first.
            queue.newcomers.sort_by_key(|new| new.rank);
        }
    }

    /// Gives all new and due jobs their final state, and starts the chosen ones.
    pub(super) fn settle(&mut self, starting: Vec<StartingJob>) -> Result<(), StoreError> {
        for ((job, payload), slot) in starting {
            if lapsed(&job, self.now()) {
                // If more jobs lapse at once than a batch takes, some are still QUEUED.
                self.must(&job, &Event::Lapse)?;
                if let Slot::Remote(grant) = slot {
                    self.engine.demand.give_back(&grant, &job);
                }
                self.sealed.more = true;
                continue;
            }
            let ready = self.engine.names.steps.seen_from_now(job.position, job.updated);
            self.start(&job, payload, ready, slot)?;
        }
        for DueJob { stored, starts } in std::mem::take(&mut self.due) {
            if let Some(slot) = starts {
                let ready = stored.state.due().unwrap_or(self.now());
                self.start(&stored, None, ready, slot)?;
            } else {
                self.must(&stored, &Event::Due)?;
            }
        }
        // Jobs that later answers of the batch refer to.
        let mut new_jobs = HashMap::new();
        let keyed = std::mem::take(&mut self.keyed);
        for AcceptedOffer { jobs, has_request, mut answer } in std::mem::take(&mut self.accepted) {
            let mut fault = None;
            let jobs = jobs.map(|item| match item {
                AcceptedItem::New(accepted) => {
                    let job = self.settle_new(accepted, &mut fault);
                    if keyed.contains_key(&job.id) {
                        new_jobs.insert(job.id, Arc::clone(&job));
                    }
                    SubmittedJob { id: job.id, outcome: SubmitOutcome::Created, job: Some(job) }
                }
                AcceptedItem::Found { id, outcome } => {
                    let job = new_jobs.get(&id).cloned().or_else(|| self.job(id));
                    SubmittedJob { id, outcome, job }
                }
            });
            if let Some(error) = fault {
                return Err(error);
            }
            if let Some(job) = jobs.first.job.as_ref().filter(|_| has_request) {
                new_jobs.insert(job.id, Arc::clone(job));
            }
            answer.ask.decide(Ok(Submitted::Accepted { jobs }));
            self.sealed.answered.push(answer);
        }
        self.answer_repeats(&new_jobs);
        Ok(())
    }

    /// Creates a new job in its final state, with a single write.
    fn settle_new(&mut self, accepted: AcceptedJob, fault: &mut Option<StoreError>) -> Arc<Job> {
        let AcceptedJob { mut job, payload, starts } = accepted;
        if let Some(slot) = starts {
            let lease = self.engine.numbers.draw_lease();
            match transition(&job, &Event::Start { lease, worker: slot.worker() }, self.moment(&job)) {
                Ok(started) => {
                    let job = self.create(started.job, payload.clone());
                    let ready = self.now();
                    self.claim(slot, Claim { job: Arc::clone(&job), lease, payload: Some(payload), ready });
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
        if matches!(job.state, State::Queued { .. }) {
            job.state = State::Queued { order: job.position, participant: self.engine.turns.of(&job) };
        }
        self.create(job, payload)
    }

    fn start(
        &mut self,
        job: &Arc<Job>,
        payload: Option<Bytes>,
        ready: Timestamp,
        slot: Slot,
    ) -> Result<(), StoreError> {
        let lease = self.engine.numbers.draw_lease();
        let job = self.must(job, &Event::Start { lease, worker: slot.worker() })?;
        self.claim(slot, Claim { job, lease, payload, ready });
        Ok(())
    }

    fn claim(&mut self, slot: Slot, claim: Claim) {
        match slot {
            Slot::Here => self.sealed.claims.push(claim),
            Slot::Remote(grant) => self.sealed.remote.assigned.push((grant, claim)),
        }
    }
}

impl Slot {
    fn worker(&self) -> Option<Arc<WorkerProcess>> {
        match self {
            Slot::Here => None,
            Slot::Remote(grant) => Some(Arc::clone(&grant.worker)),
        }
    }
}

/// Returns the truncated lists of jobs by kind. Only there does it matter to which list a new job belongs.
fn cut_lists(
    lists: &[ReadyList<ReadyJob>],
    indexes: &[Option<usize>],
    groups: &[LaneGroup],
) -> HashMap<u32, usize> {
    let mut by_kind = HashMap::new();
    for (list, _) in lists.iter().enumerate().filter(|(_, list)| list.is_cut) {
        let group = indexes.get(list).copied().flatten().and_then(|index| groups.get(index));
        by_kind.extend(group.into_iter().flat_map(|group| &group.kinds).map(|kind| (*kind, list)));
    }
    by_kind
}

impl Engine {
    /// Returns whether jobs of a kind have a handler here, or a remote worker.
    fn may_start(&self, kind: u32) -> bool {
        self.served.contains(&kind) || self.demand.is_served(kind)
    }
}

/// Returns a QUEUED job's place in its lane.
fn sort_key_of(job: &Job) -> Option<SortKey> {
    match job.state {
        State::Queued { order, participant } => {
            Some(SortKey { participant, rank: job.spec.priority.saturating_neg(), order: order.0, id: job.id })
        }
        State::Scheduled { .. }
        | State::Blocked { .. }
        | State::Running { .. }
        | State::BackingOff { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => None,
    }
}
