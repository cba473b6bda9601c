//! Admission of offers: repeats, queues, kinds and room. Only the committer decides them, so that no two answers
//! contradict each other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    AdmissionError, ControlRefusal, NewJob, NotAdmitted, Offer, OfferError, OfferRefusal, QueueFull, SeenIds, Submitted,
    callers::Seat,
    dependencies::OfferTies,
    decision::{AcceptedItem, AcceptedJob, AcceptedOffer, AnsweredOffer, Decision, RepeatedOffer},
    meetings::{Fate, HolderRef, Meeting, Party},
    tallies::Usage,
};
use crate::{
    clock::{StoreTime, Timestamp},
    engine::transition::{Moment, deadline_passed, waiting_state},
    job::{AtLeastOne, Job, JobId, Name, Participant, Position, Remote, RequestId, Spec, State, SubmitOutcome},
    store::{
        Space,
        sets::{RequestOutcome, RequestRow, StoredRequest},
    },
};

/// Limit of the kinds that have jobs or handlers.
pub(super) const KINDS_MAX: usize = 10_000;

/// The jobs and bytes that an offer would take of one queue.
struct Share {
    queue: Arc<Name>,
    usage: Usage,
    /// The part that jobs take which the batch creates.
    reserved: Usage,
}

/// An offer that can be accepted.
struct CheckedOffer {
    shares: Vec<Share>,
    /// Who gets its unique keys; absent if its jobs have none.
    meeting: Option<Meeting>,
    ties: OfferTies,
}

/// Reason why an offer is not accepted now.
enum OfferObstacle {
    Refusal(OfferRefusal),
    /// The queue has no room, or earlier offers wait for it.
    Full {
        queue: u32,
        full: QueueFull,
        is_only_behind: bool,
    },
}

impl Share {
    /// Returns whether the offer takes nothing of the queue.
    fn is_none(&self) -> bool {
        self.usage.jobs == 0 && self.usage.bytes <= 0
    }
}

/// Why a schedule's offer is not accepted now.
pub(super) struct NotOffered {
    /// The reason.
    pub(super) why: String,
    /// Whether the offer waits for room.
    pub(super) waits: bool,
}

impl From<OfferRefusal> for OfferObstacle {
    fn from(refusal: OfferRefusal) -> Self {
        OfferObstacle::Refusal(refusal)
    }
}

impl Decision<'_> {
    /// Decides one offer. Its jobs are written once the claim step has decided which of them start.
    pub(super) fn offer(&mut self, offer: Offer, space: Space) {
        if let Some(schedule) = offer.schedule {
            return self.schedule_has_turn(schedule, offer, space);
        }
        let seat = offer.seat;
        let full = self.decide_offer(offer, space);
        // The room that the offer waited for goes to the next one in line, unless this queue still lacks room.
        self.sealed.gained_room.extend(seat.map(Seat::queue).filter(|queue| Some(*queue) != full));
    }

    /// Decides one offer, and returns the queue that lacks room for it.
    fn decide_offer(&mut self, offer: Offer, space: Space) -> Option<u32> {
        if let Some(request) = offer.request
            && let Some(StoredRequest { row, .. }) = self.request(request)
        {
            match row.answer {
                RequestOutcome::Jobs { first, count, live } if row.digest == request.digest => {
                    let ids = SeenIds { first, count, found: row.found.clone() };
                    self.repeated.push(RepeatedOffer { key: request.key, ids, live, offer });
                }
                RequestOutcome::Jobs { .. }
                | RequestOutcome::Job { .. }
                | RequestOutcome::Done { .. }
                | RequestOutcome::Purge { .. } => self.refuse(answered(offer), OfferRefusal::RequestMismatch),
            }
            return None;
        }
        match self.check_offer(&offer, space) {
            Ok(checked) => {
                self.accept(offer, checked);
            }
            Err(OfferObstacle::Refusal(refusal)) => self.refuse(answered(offer), refusal),
            Err(OfferObstacle::Full { queue, full, is_only_behind }) => {
                self.wait_for_room(queue, offer, full, is_only_behind);
                return Some(queue);
            }
        }
        None
    }

    fn check_offer(&mut self, offer: &Offer, space: Space) -> Result<CheckedOffer, OfferObstacle> {
        admitted(offer)?;
        self.check_weights(offer)?;
        let (meeting, ties) = (self.meet(offer)?, self.ties_of(offer)?);
        Ok(CheckedOffer { shares: self.room_for(offer, meeting.as_ref(), space)?, meeting, ties })
    }

    /// Decides the offer of a schedule, and returns its job. An offer that finds no room waits for it.
    pub(super) fn offer_of_schedule(&mut self, offer: Offer, space: Space) -> Result<JobId, NotOffered> {
        match self.check_offer(&offer, space) {
            Ok(checked) => Ok(self.accept(offer, checked)),
            Err(OfferObstacle::Refusal(refusal)) => Err(NotOffered { why: refusal.to_string(), waits: false }),
            Err(OfferObstacle::Full { queue, full, is_only_behind }) => {
                let why = full.to_string();
                self.wait_for_room(queue, offer, full, is_only_behind);
                Err(NotOffered { why, waits: true })
            }
        }
    }

    /// Decides an offer that does not wait, and returns its job.
    pub(super) fn offer_now(&mut self, offer: Offer, space: Space) -> Result<JobId, ControlRefusal> {
        match self.check_offer(&offer, space) {
            Ok(checked) => Ok(self.accept(offer, checked)),
            Err(OfferObstacle::Refusal(refusal)) => Err(refusal.into()),
            Err(OfferObstacle::Full { full, .. }) => Err(full.into()),
        }
    }

    fn wait_for_room(&mut self, queue: u32, offer: Offer, full: QueueFull, is_only_behind: bool) {
        self.full.insert(queue);
        if is_only_behind {
            // There is room: offer it to the earlier offers in the line.
            self.sealed.gained_room.insert(queue);
        }
        self.sealed.full.push((queue, offer, full));
    }

    fn refuse(&mut self, mut answer: AnsweredOffer, refusal: OfferRefusal) {
        answer.ask.decide(Err(OfferError::Refused(refusal)));
        self.sealed.answered.push(answer);
    }

    fn room_for(
        &self,
        offer: &Offer,
        meeting: Option<&Meeting>,
        space: Space,
    ) -> Result<Vec<Share>, OfferObstacle> {
        let shares = self.shares(offer, meeting)?;
        if shares.iter().all(Share::is_none) {
            return Ok(shares);
        }
        if space != Space::Enough {
            return Err(OfferRefusal::DiskFull.into());
        }
        for share in shares.iter().filter(|share| !share.is_none()) {
            let number = share.queue.number;
            let used = self.used(&share.queue);
            let full = self.engine.queues.full(&share.queue, used, share.usage);
            let waits_its_turn = offer.seat.is_some_and(|seat| seat.is_in(number));
            let is_behind =
                self.full.contains(&number) || (!waits_its_turn && self.engine.waiters.has_any(number));
            if is_behind || full.is_some() {
                let is_only_behind = full.is_none();
                let full = full.unwrap_or_else(|| self.engine.queues.usage(&share.queue, used));
                return Err(OfferObstacle::Full { queue: number, full, is_only_behind });
            }
        }
        if self.too_many_kinds(offer) {
            return Err(OfferRefusal::TooManyKinds(KINDS_MAX).into());
        }
        Ok(shares)
    }

    /// Allocates the jobs' ids, adds the offer to the accepted ones, and returns the first id.
    fn accept(&mut self, offer: Offer, checked: CheckedOffer) -> JobId {
        let CheckedOffer { shares, meeting, ties } = checked;
        let Offer { request, jobs, caller, seat, ask, .. } = offer;
        let answer = AnsweredOffer { ask, caller, seat };
        let now = self.now();
        let Some(meeting) = meeting else {
            self.reserve(&shares);
            let first = self.engine.numbers.draw_ids(jobs.count(), now);
            self.keep_request(request, SeenIds { first, count: jobs.count() as u32, found: None });
            let mut next = first;
            let jobs = jobs.map(|job| {
                let id = next;
                next = next.plus(1);
                let start = job.run_time.map(|time| time.instant(now));
                AcceptedItem::New(self.accepted_new(id, job, &shares, start))
            });
            self.accepted.push(AcceptedOffer { jobs, has_request: request.is_some(), answer });
            self.tie(first, &ties);
            return first;
        };
        let count = meeting.fates.iter().filter(|fate| matches!(fate, Fate::New { .. })).count();
        let first = self.engine.numbers.draw_ids(count, now);
        let new = meeting.fates.iter().enumerate().filter(|(_, fate)| matches!(fate, Fate::New { .. }));
        let with_place = new.enumerate();
        let ids: HashMap<usize, JobId> =
            with_place.map(|(place, (index, _))| (index, first.plus(place as i64))).collect();
        let seen = SeenIds { first, count: count as u32, found: None };
        self.accept_met(jobs, request, answer, &shares, meeting, &ids, seen);
        self.tie(first, &ties);
        first
    }

    /// Adds an offer with unique keys to the accepted ones.
    #[expect(clippy::too_many_arguments, reason = "the parts of one offer")]
    fn accept_met(
        &mut self,
        jobs: AtLeastOne<NewJob>,
        request: Option<RequestId>,
        answer: AnsweredOffer,
        shares: &[Share],
        mut meeting: Meeting,
        ids: &HashMap<usize, JobId>,
        mut seen: SeenIds,
    ) {
        let offer = self.accepted.len();
        let id_of = |party: &Party| match party {
            Party::Known(job) => job.id,
            Party::Item(index) => ids.get(index).copied().unwrap_or(seen.first),
        };
        let (now, mut items, mut found) = (self.now(), Vec::with_capacity(jobs.count()), Vec::new());
        let mut fates = std::mem::take(&mut meeting.fates).into_iter();
        for (index, job) in jobs.into_iter().enumerate() {
            // Each job of an offer has a fate.
            let Some(fate) = fates.next() else { break };
            let (id, outcome) = match fate {
                Fate::New { is_blocked, not_before } => {
                    let id = ids.get(&index).copied().unwrap_or(seen.first);
                    if job.unique().is_some() {
                        self.keyed.insert(id, (offer, index));
                    }
                    let start = self.start_of(&job, now, not_before);
                    let mut accepted = self.accepted_new(id, job, shares, start);
                    if is_blocked && !accepted.job.state.is_done() {
                        accepted.job.state = State::Blocked { due: start.unwrap_or(now) };
                    }
                    items.push(AcceptedItem::New(accepted));
                    continue;
                }
                Fate::Existing(HolderRef::Id(id)) => (id, SubmitOutcome::Existing),
                Fate::Existing(HolderRef::Item(item)) => (id_of(&Party::Item(item)), SubmitOutcome::Existing),
                Fate::Replaces { target, not_before } => {
                    let own = match &target {
                        Party::Item(item) => items.get_mut(*item),
                        Party::Known(_) => None,
                    };
                    let id = id_of(&target);
                    match own {
                        Some(AcceptedItem::New(accepted)) => self.take_over_item(accepted, job, not_before),
                        Some(AcceptedItem::Found { .. }) | None => self.take_over(id, job, not_before),
                    }
                    (id, SubmitOutcome::Replaced)
                }
            };
            let met = &mut self.sealed.met;
            let counted =
                if outcome == SubmitOutcome::Replaced { &mut met.replaced } else { &mut met.existing };
            *counted += 1;
            found.push((index as u32, id));
            items.push(AcceptedItem::Found { id, outcome });
        }
        self.reserve(shares);
        seen.found = (!found.is_empty()).then(|| found.into());
        self.keep_request(request, seen);
        if let Some(jobs) = AtLeastOne::collect(items) {
            self.accepted.push(AcceptedOffer { jobs, has_request: request.is_some(), answer });
        }
        for holder in self.settle_keys(meeting, ids) {
            self.cancel_holder(holder);
        }
    }

    /// Reserves the room of an accepted offer for its new jobs.
    fn reserve(&mut self, shares: &[Share]) {
        for share in shares {
            let reserved = self.reserved.entry(share.queue.number).or_default();
            reserved.jobs += share.reserved.jobs;
            reserved.bytes += share.reserved.bytes;
        }
    }

    /// Keeps the ids of an accepted request. One that created no jobs is kept for as long as any other call's.
    fn keep_request(&mut self, request: Option<RequestId>, ids: SeenIds) {
        let Some(request) = request else { return };
        let SeenIds { first, count, found } = ids;
        let answer = RequestOutcome::Jobs { first, count, live: count };
        let row = RequestRow { digest: request.digest, answer, found };
        let now = self.engine.times.retention();
        let gone = (count == 0).then_some(now);
        if gone.is_some() {
            self.engine.sweeping.request_bare(now);
        }
        self.writes.requests.push((request.key, row.clone(), gone));
        self.new_requests.insert(request.key, StoredRequest { row, job: None });
    }

    fn accepted_new(&mut self, id: JobId, job: NewJob, shares: &[Share], start: Option<Timestamp>) -> AcceptedJob {
        let now = self.now();
        let engine = &mut *self.engine;
        let kind = engine.kinds.intern(&engine.names.kinds, &job.kind);
        let queue = match shares.iter().find(|share| share.queue.as_str() == &*job.queue) {
            Some(share) => Arc::clone(&share.queue),
            None => engine.queues.intern(&engine.names, &job.queue),
        };
        new_job(id, job, queue, kind, start, now)
    }

    /// Returns whether the offer's new kinds would exceed the limit of kinds.
    fn too_many_kinds(&self, offer: &Offer) -> bool {
        let known = self.engine.kinds.len();
        if known + offer.jobs.count() <= KINDS_MAX {
            return false;
        }
        let kinds: HashSet<&str> = offer.jobs.iter().map(|job| &*job.kind).collect();
        let new = kinds.into_iter().filter(|kind| self.engine.names.kinds.find(kind).is_none()).count();
        new > 0 && known + new > KINDS_MAX
    }

    /// Returns the offer's share of each queue that it names, and which part of it is for new jobs.
    fn shares(&self, offer: &Offer, meeting: Option<&Meeting>) -> Result<Vec<Share>, OfferRefusal> {
        let queues = &self.engine.queues;
        let mut shares: Vec<Share> = Vec::with_capacity(1);
        for (index, job) in offer.jobs.iter().enumerate() {
            let fate = meeting.and_then(|meeting| meeting.fates.get(index));
            let (usage, reserved) = self.share_of_item(job, fate, offer);
            match shares.iter_mut().find(|share| share.queue.as_str() == &*job.queue) {
                Some(share) => {
                    share.usage.add(usage);
                    share.reserved.add(reserved);
                }
                None => {
                    let name = queues.name(&job.queue);
                    let index = (offer.jobs.count() > 1).then_some(index);
                    let queue = name.ok_or_else(|| NotAdmitted {
                        error: AdmissionError::QueueNotFound(job.queue.to_string()).into(),
                        index,
                    })?;
                    shares.push(Share { queue, usage, reserved });
                }
            }
        }
        for Share { queue, usage, .. } in &shares {
            if queues.full(queue, Usage::default(), *usage).is_some() {
                let QueueFull { queue, max_jobs, max_bytes, .. } = queues.usage(queue, Usage::default());
                let (jobs, bytes) = (usage.jobs as u64, usage.bytes.max(0) as u64);
                return Err(OfferRefusal::LargerThanQueue { queue, jobs, bytes, max_jobs, max_bytes });
            }
        }
        Ok(shares)
    }

    /// Returns what a job of an offer takes of its queue, and which part of it is for a job that the batch creates.
    fn share_of_item(&self, job: &NewJob, fate: Option<&Fate>, offer: &Offer) -> (Usage, Usage) {
        let bytes = job.bytes() as i64;
        match fate {
            None | Some(Fate::New { .. }) => {
                let usage = Usage { jobs: 1, bytes };
                (usage, usage)
            }
            Some(Fate::Existing(_)) => (Usage::default(), Usage::default()),
            // The other job's bytes are counted already; later ones of the offer may take its input over again.
            Some(Fate::Replaces { target: Party::Item(index), .. }) => {
                let other = offer.jobs.get(*index).map_or(0, |other| other.bytes() as i64);
                let growth = Usage { jobs: 0, bytes: (bytes - other).max(0) };
                (growth, growth)
            }
            Some(Fate::Replaces { target: Party::Known(known), .. }) => {
                let growth = Usage { jobs: 0, bytes: (bytes - known.spec.bytes as i64).max(0) };
                // A stored job is changed, and counted, at once.
                let is_stored = !self.keyed.contains_key(&known.id);
                (growth, if is_stored { Usage::default() } else { growth })
            }
        }
    }

    /// Returns a queue's usage, accepted offers of this batch included.
    pub(super) fn used(&self, queue: &Name) -> Usage {
        let live = self.engine.tallies.queue(queue.number).live;
        let reserved = self.reserved.get(&queue.number).copied().unwrap_or_default();
        Usage { jobs: live.jobs + reserved.jobs, bytes: live.bytes + reserved.bytes }
    }

    /// Answers the repeats, now that all jobs of this batch have their final state.
    pub(super) fn answer_repeats(&mut self, new: &HashMap<JobId, Arc<Job>>) {
        let kept: HashMap<JobId, Arc<Job>> = self
            .found
            .requests
            .values()
            .filter_map(|request| request.job.as_ref().map(|job| (job.id, Arc::clone(job))))
            .collect();
        for RepeatedOffer { key, ids, live, mut offer } in std::mem::take(&mut self.repeated) {
            let (first, _) = ids.first();
            let known = new.get(&first).cloned().or_else(|| match self.is_untouched(first) {
                true => self.engine.leases.get(first).or_else(|| kept.get(&first)).cloned(),
                false => self.job(first),
            });
            self.sealed.repeats += 1;
            // The row does not count this batch's deletions yet.
            let live = live.saturating_sub(self.lost_jobs.get(&key).copied().unwrap_or_default());
            offer.ask.decide(Ok(Submitted::Seen { ids, live, job: known }));
            self.sealed.repeated.push(offer);
        }
    }
}

/// Returns the admission error of an offer, if it has one.
fn admitted(offer: &Offer) -> Result<(), OfferRefusal> {
    match &offer.obstacle {
        Some(obstacle) => Err(OfferRefusal::NotAdmitted(obstacle.clone())),
        None => Ok(()),
    }
}

pub(super) fn answered(offer: Offer) -> AnsweredOffer {
    let Offer { caller, seat, ask, .. } = offer;
    AnsweredOffer { ask, caller, seat }
}

fn new_job(
    id: JobId,
    new: NewJob,
    queue: Arc<Name>,
    kind: Arc<Name>,
    start: Option<Timestamp>,
    now: Timestamp,
) -> AcceptedJob {
    let bytes = new.bytes();
    let elapsed = StoreTime::default();
    let moment = Moment { now, backoffs: now, elapsed, position: Position::default(), random: 0.0, participant: Participant::NONE };
    // Relative times count from now, not from the start of the offer's wait.
    let expires = new.expires.map(|time| time.instant(now));
    let deadline = new.deadline.map(|time| time.instant(now));
    let mut extras = new.extras;
    if !new.depends_on.is_empty() {
        extras.get_or_insert_default().dependencies = new.depends_on.len() as u32;
    }
    if deadline.is_some() {
        extras.get_or_insert_default().deadline = deadline;
    }
    let expired = expires.is_some_and(|expires| expires <= now);
    let late = deadline.filter(|deadline| *deadline <= now && !expired);
    let over = expired || late.is_some();
    let state = match (expired, late) {
        (true, _) => State::Expired,
        (false, Some(_)) => State::Failed,
        (false, None) => waiting_state(start, moment),
    };
    let job = Job {
        id,
        state,
        spec: Arc::new(Spec {
            queue,
            kind,
            priority: new.priority,
            retry: new.retry,
            attempt_timeout: new.attempt_timeout,
            bytes,
            created: now,
            expires,
            extras,
        }),
        revision: 0,
        position: Position::default(),
        attempt: 0,
        max_attempts: new.max_attempts,
        updated: now,
        started: None,
        ended: over.then_some(now),
        progress: None,
        failure: late.map(deadline_passed),
        result: None,
        remote: Remote::NONE,
        rare: None,
    };
    AcceptedJob { job, payload: new.payload, starts: None }
}
