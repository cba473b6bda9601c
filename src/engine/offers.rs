//! Admission of offers: repeats, queues, kinds and room. Only the committer decides them, so that no two answers
//! contradict each other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    AdmissionError, NewJob, NotAdmitted, Offer, OfferError, OfferRefusal, QueueFull, Submitted,
    callers::Seat,
    decision::{AcceptedJob, AcceptedOffer, AnsweredOffer, Decision, RepeatedOffer},
    tallies::Usage,
};
use crate::{
    clock::{StoreTime, Timestamp},
    engine::transition::{Moment, deadline_passed, waiting_state},
    job::{Job, JobId, Name, Position, Remote, Spec, State},
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

impl From<OfferRefusal> for OfferObstacle {
    fn from(refusal: OfferRefusal) -> Self {
        OfferObstacle::Refusal(refusal)
    }
}

impl Decision<'_> {
    /// Decides one offer. Its jobs are written once the claim step has decided which of them start.
    pub(super) fn offer(&mut self, offer: Offer, space: Space) {
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
            let row = *row;
            match row.answer {
                RequestOutcome::Jobs { first, count, live } if row.digest == request.digest => {
                    self.repeated.push(RepeatedOffer { key: request.key, first, count, live, offer });
                }
                RequestOutcome::Jobs { .. }
                | RequestOutcome::Job { .. }
                | RequestOutcome::Done { .. }
                | RequestOutcome::Purge { .. } => self.refuse(answered(offer), OfferRefusal::RequestMismatch),
            }
            return None;
        }
        match self.room_for(&offer, space) {
            Ok(shares) => self.accept(offer, &shares),
            Err(OfferObstacle::Refusal(refusal)) => self.refuse(answered(offer), refusal),
            Err(OfferObstacle::Full { queue, full, is_only_behind }) => {
                self.full.insert(queue);
                if is_only_behind {
                    // There is room: offer it to the earlier offers in the line.
                    self.sealed.gained_room.insert(queue);
                }
                self.sealed.full.push((queue, offer, full));
                return Some(queue);
            }
        }
        None
    }

    fn refuse(&mut self, mut answer: AnsweredOffer, refusal: OfferRefusal) {
        answer.ask.decide(Err(OfferError::Refused(refusal)));
        self.sealed.answered.push(answer);
    }

    fn room_for(&self, offer: &Offer, space: Space) -> Result<Vec<Share>, OfferObstacle> {
        if let Some(obstacle) = &offer.obstacle {
            return Err(OfferRefusal::NotAdmitted(obstacle.clone()).into());
        }
        let shares = self.shares(offer)?;
        if space != Space::Enough {
            return Err(OfferRefusal::DiskFull.into());
        }
        for share in &shares {
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

    /// Allocates the jobs' ids, and adds the offer to the accepted ones.
    fn accept(&mut self, offer: Offer, shares: &[Share]) {
        for share in shares {
            let reserved = self.reserved.entry(share.queue.number).or_default();
            reserved.jobs += share.usage.jobs;
            reserved.bytes += share.usage.bytes;
        }
        let Offer { request, jobs, caller, seat, ask, .. } = offer;
        let (now, count) = (self.now(), jobs.count());
        let first = self.engine.numbers.draw_ids(count, now);
        if let Some(request) = request {
            let count = count as u32;
            let answer = RequestOutcome::Jobs { first, count, live: count };
            let row = RequestRow { digest: request.digest, answer };
            self.writes.requests.push((request.key, row, None));
            self.new_requests.insert(request.key, StoredRequest { row, job: None });
        }
        let mut next = first;
        let jobs = jobs.map(|job| {
            let id = next;
            next = next.plus(1);
            let engine = &mut *self.engine;
            let kind = engine.kinds.intern(&engine.names.kinds, &job.kind);
            let queue = match shares.iter().find(|share| share.queue.as_str() == &*job.queue) {
                Some(share) => Arc::clone(&share.queue),
                None => engine.queues.intern(&engine.names, &job.queue),
            };
            new_job(id, job, queue, kind, now)
        });
        let answer = AnsweredOffer { ask, caller, seat };
        self.accepted.push(AcceptedOffer { jobs, has_request: request.is_some(), answer });
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

    /// Returns the offer's share of each queue that it names.
    fn shares(&self, offer: &Offer) -> Result<Vec<Share>, OfferRefusal> {
        let queues = &self.engine.queues;
        let mut shares: Vec<Share> = Vec::with_capacity(1);
        for (index, job) in offer.jobs.iter().enumerate() {
            let bytes = job.bytes() as i64;
            match shares.iter_mut().find(|share| share.queue.as_str() == &*job.queue) {
                Some(share) => {
                    share.usage.jobs += 1;
                    share.usage.bytes += bytes;
                }
                None => {
                    let name = queues.name(&job.queue);
                    let index = (offer.jobs.count() > 1).then_some(index);
                    let queue = name.ok_or_else(|| NotAdmitted {
                        error: AdmissionError::QueueNotFound(job.queue.to_string()),
                        index,
                    })?;
                    shares.push(Share { queue, usage: Usage { jobs: 1, bytes } });
                }
            }
        }
        for Share { queue, usage } in &shares {
            if queues.full(queue, Usage::default(), *usage).is_some() {
                let QueueFull { queue, max_jobs, max_bytes, .. } = queues.usage(queue, Usage::default());
                let (jobs, bytes) = (usage.jobs as u64, usage.bytes as u64);
                return Err(OfferRefusal::LargerThanQueue { queue, jobs, bytes, max_jobs, max_bytes });
            }
        }
        Ok(shares)
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
        for RepeatedOffer { key, first, count, live, mut offer } in std::mem::take(&mut self.repeated) {
            let known = new.get(&first).cloned().or_else(|| match self.is_untouched(first) {
                true => self.engine.leases.get(first).or_else(|| kept.get(&first)).cloned(),
                false => self.job(first),
            });
            self.sealed.repeats += 1;
            // The row does not count this batch's deletions yet.
            let live = live.saturating_sub(self.lost_jobs.get(&key).copied().unwrap_or_default());
            offer.ask.decide(Ok(Submitted::Seen { first, count, live, job: known }));
            self.sealed.repeated.push(offer);
        }
    }
}

fn answered(offer: Offer) -> AnsweredOffer {
    let Offer { caller, seat, ask, .. } = offer;
    AnsweredOffer { ask, caller, seat }
}

fn new_job(id: JobId, new: NewJob, queue: Arc<Name>, kind: Arc<Name>, now: Timestamp) -> AcceptedJob {
    let bytes = new.bytes();
    let elapsed = StoreTime::default();
    let moment = Moment { now, backoffs: now, elapsed, position: Position::default(), random: 0.0 };
    // Relative times count from now, not from the start of the offer's wait.
    let run_time = new.run_time.map(|time| time.instant(now));
    let expires = new.expires.map(|time| time.instant(now));
    let deadline = new.deadline.map(|time| time.instant(now));
    let mut extras = new.extras;
    if deadline.is_some() {
        extras.get_or_insert_default().deadline = deadline;
    }
    let expired = expires.is_some_and(|expires| expires <= now);
    let late = deadline.filter(|deadline| *deadline <= now && !expired);
    let over = expired || late.is_some();
    let state = match (expired, late) {
        (true, _) => State::Expired,
        (false, Some(_)) => State::Failed,
        (false, None) => waiting_state(run_time, moment),
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
