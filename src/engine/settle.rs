//! The claim step: selects the jobs that start, and gives new and due jobs their final state.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Claim, Engine, Submitted, SubmittedJob,
    claims::{NewReady, ReadyList, offer_all},
    decision::{AcceptedItem, AcceptedJob, AcceptedOffer, Decision, DueJob, Slot},
    demand::Takers,
    limits::LanesRead,
    plan::{LaneGroup, Plan},
    slots::{Newcomer, SameAsLast, Slots},
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, lapsed, transition},
    job::{Job, Participant, State, SubmitOutcome, WorkerProcess},
    store::{
        StoreError,
        sets::{Heads, SortKey},
    },
};

/// A job that becomes ready with this batch.
struct NewJobReady {
    rank: i8,
    kind: u32,
    participant: Participant,
    newcomer: Newcomer,
}

/// A ready job, with its payload if that was read.
pub(super) type ReadyJob = (Arc<Job>, Option<Bytes>);

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

impl Decision<'_> {
    /// Fills every queue's free slots, and the credits of remote workers, from stored and new jobs together, in the
    /// queue's order. Returns the chosen jobs that were ready before, and marks the others.
    pub(super) fn choose(&mut self, plan: &Plan) -> Vec<StartingJob> {
        self.has_chosen = true;
        let mut starting = Vec::new();
        let (of_lanes, read) = self.jobs_of_lanes();
        // Queues share credits, so that they take turns: the first one would otherwise use them all, batch by batch.
        let mut before = self.candidates(&plan.groups, of_lanes);
        let after = before.split_off(&self.engine.demand.next_queue());
        for (queue, candidates) in after.into_iter().chain(before) {
            let (free, takers) = self.engine.slots_of(queue);
            if free == 0 && takers.is_empty() {
                continue;
            }
            self.choose_in(queue, candidates, (free, &takers), &mut starting, &plan.groups, &read);
        }
        self.settle_lanes(&read, &starting);
        starting
    }

    /// Fills a queue's free slots and the credits for it.
    fn choose_in(
        &mut self,
        queue: u32,
        candidates: QueueCandidates,
        (free, takers): (usize, &Takers),
        starting: &mut Vec<StartingJob>,
        groups: &[LaneGroup],
        read: &LanesRead,
    ) {
        let QueueCandidates { groups: indexes, lists, newcomers } = candidates;
        let cut_lists = cut_lists(&lists, &indexes, groups);
        let list_of = |kind| if cut_lists.is_empty() { None } else { cut_lists.get(&kind).copied() };
        let new = newcomers.into_iter().map(|NewJobReady { rank, kind, participant, newcomer }| {
            NewReady { participant, rank, list: list_of(kind), job: newcomer }
        });
        let last_turn = self.engine.turns.last(queue);
        let is_limited = !self.engine.limits.is_unused();
        let of_queue = || groups.iter().filter(|group| group.queue == queue).flat_map(|group| &group.kinds).copied();
        let kinds: Vec<u32> = if is_limited { of_queue().collect() } else { Vec::new() };
        let unread = self.engine.limits.first_unread(queue, &kinds, read);
        let ends = if is_limited { ends(&lists, &indexes, groups, &self.found.heads) } else { HashMap::new() };
        let Decision { engine, due, accepted, writes, .. } = self;
        let mut slots = Slots {
            engine,
            due,
            accepted,
            starting,
            participants: &mut writes.participants,
            free,
            takers,
            classes: HashMap::new(),
            is_served: SameAsLast::default(),
            is_fair: last_turn.is_some(),
            is_limited,
            unread,
            ends,
            kinds: &kinds,
            read,
            has_blocked: false,
            behind: BTreeSet::new(),
        };
        let moved = slots.participants.len();
        if let Some(last) = offer_all(lists, new, last_turn, |candidate| slots.offer(candidate)) {
            slots.engine.turns.had_turn(queue, last);
        }
        slots.engine.limits.set_ahead(queue, slots.has_blocked);
        // Where jobs were not read and slots are not used up, the next batch goes on.
        let has_more = |kind: &u32| unread.is_some() || read.is_cut(queue, *kind);
        let mut more = kinds.iter().any(|kind| has_more(kind) && slots.is_left(*kind));
        // Jobs that moved to lanes may have hidden others for which slots are left.
        let is_any_cut = indexes.iter().flatten().any(|index| self.found.heads.get(*index).is_some_and(|heads| heads.is_cut));
        let has_moved = slots.participants.len() > moved;
        more |= has_moved && is_any_cut && kinds.iter().any(|kind| slots.is_left(*kind));
        // Those that jobs waited behind may be gone, such as from a lane that a renewal gave back.
        more |= slots.behind.iter().any(|kind| slots.is_left(*kind));
        for index in indexes.into_iter().flatten() {
            let is_cut = self.found.heads.get(index).is_some_and(|heads| heads.is_cut);
            let Some(group) = groups.get(index).filter(|_| is_cut) else { continue };
            more |= group.kinds.iter().any(|kind| match group.is_of_suspects {
                true => slots.is_left_remotely(*kind),
                false => slots.is_left(*kind),
            });
        }
        self.sealed.more |= more;
    }

    /// Returns the jobs that may start, by queue.
    fn candidates(
        &mut self,
        groups: &[LaneGroup],
        of_lanes: BTreeMap<u32, Vec<(SortKey, ReadyJob)>>,
    ) -> BTreeMap<u32, QueueCandidates> {
        let mut queues: BTreeMap<u32, QueueCandidates> = BTreeMap::new();
        self.newcomers(&mut queues);
        for (index, group) in groups.iter().enumerate() {
            let heads = self.found.heads.get_mut(index);
            let (jobs, is_cut) =
                heads.map_or_else(Default::default, |heads| (std::mem::take(&mut heads.jobs), heads.is_cut));
            let mut jobs: Vec<_> = jobs
                .into_iter()
                .filter_map(|(job, payload)| Some((self.engine.stored_place_of(&job)?, (job, payload))))
                .collect();
            // A job that a purge covers does not start: the purge will delete it.
            jobs.retain(|(_, (job, _))| {
                self.is_untouched(job.id) && !self.engine.purges.covers(job.spec.queue.number, job.id)
            });
            let queue = queues.entry(group.queue).or_default();
            queue.groups.push(Some(index));
            queue.lists.push(ReadyList { jobs, is_cut: is_cut && group.is_short });
        }
        for (queue, jobs) in of_lanes {
            let queue = queues.entry(queue).or_default();
            queue.groups.push(None);
            queue.lists.push(ReadyList { jobs, is_cut: false });
        }
        self.queued_in_this_batch(&mut queues, groups);
        queues
    }

    /// Adds the jobs that the batch has moved back to QUEUED, with their old places.
    fn queued_in_this_batch(&self, queues: &mut BTreeMap<u32, QueueCandidates>, groups: &[LaneGroup]) {
        for job in self.queued_anew() {
            let kind = job.spec.kind.number;
            let Some(place) = self.engine.stored_place_of(job).filter(|_| self.engine.may_start(kind)) else { continue };
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
                let job = self.must(&stored, &Event::Due)?;
                let lane = self.lane_of_new(&job);
                self.writes.participants.extend(lane.map(|lane| (job.id, lane)));
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
            let participant = self.engine.turns.of(&job);
            job.state = State::Queued { order: job.position, participant };
            if let Some(lane) = self.lane_of_new(&job) {
                job.state = State::Queued { order: job.position, participant: lane };
            }
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

/// Returns the places of the last jobs of truncated lists, by kind. Where jobs may find no places, jobs that come later could
/// pass others that were not read.
fn ends(
    lists: &[ReadyList<ReadyJob>],
    indexes: &[Option<usize>],
    groups: &[LaneGroup],
    heads: &[Heads],
) -> HashMap<u32, SortKey> {
    let mut ends = HashMap::new();
    for (place, list) in lists.iter().enumerate() {
        let Some(index) = indexes.get(place).copied().flatten() else { continue };
        let is_cut = heads.get(index).is_some_and(|heads| heads.is_cut);
        if let (Some((end, _)), Some(group), true) = (list.jobs.last(), groups.get(index), is_cut) {
            ends.extend(group.kinds.iter().map(|kind| (*kind, *end)));
        }
    }
    ends
}

impl Engine {
    /// Returns whether jobs of a kind have a handler here, or a remote worker.
    fn may_start(&self, kind: u32) -> bool {
        self.served.contains(&kind) || self.demand.is_served(kind)
    }
}
