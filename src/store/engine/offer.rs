//! Which offers get in: seen before? room? Decided by the committer alone, so that no two answers contradict.

use std::{collections::HashSet, sync::Arc};

use super::{
    Engine, KINDS_MAX, Pending, Progressing,
    rows::{RequestRow, Rows},
    tallies::Usage,
};
use crate::{
    clock::Timestamp,
    job::{Job, JobId, Name, Position, Spec, State},
    store::{
        Space, StoreError,
        batch::{NewJob, Offer, OfferRefusal, QueueFull, Receipt},
    },
    transition::{Moment, waiting_state},
};

/// What an offer would take of one queue.
struct Share {
    queue: Arc<Name>,
    usage: Usage,
}

impl<R: Rows> Engine<R> {
    pub(super) fn offers(
        &mut self,
        offers: Vec<Offer>,
        space: Space,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        progressing.applied.offers.reserve(offers.len());
        for (index, offer) in offers.into_iter().enumerate() {
            let receipt = self.offer(index, offer, space, now, progressing)?;
            progressing.applied.offers.push(receipt);
        }
        Ok(())
    }

    fn offer(
        &mut self,
        index: usize,
        offer: Offer,
        space: Space,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Receipt, StoreError> {
        if let Some(request) = &offer.request
            && let Some(row) = self.rows.request(&request.key)?
        {
            if row.digest != request.digest {
                return Ok(Receipt::Refused(OfferRefusal::RequestMismatch));
            }
            // The jobs may be pending in this very batch: the answer is made once they are written.
            progressing.seen.push((index, row));
            return Ok(Receipt::Created { jobs: Vec::new() });
        }
        if space != Space::Enough {
            return Ok(Receipt::Refused(OfferRefusal::DiskFull));
        }
        let shares = match self.shares(&offer) {
            Ok(shares) => shares,
            Err(refusal) => return Ok(Receipt::Refused(refusal)),
        };
        for share in &shares {
            let full = self.full(share, progressing);
            if offer.behind_waiters || progressing.full.contains(&share.queue.number) || full.is_some() {
                progressing.full.insert(share.queue.number);
                let full = full.unwrap_or_else(|| self.usage_of(&share.queue, progressing));
                return Ok(Receipt::Full { offer, full });
            }
        }
        if self.too_many_kinds(&offer) {
            return Ok(Receipt::Refused(OfferRefusal::TooManyKinds(KINDS_MAX)));
        }
        for share in shares {
            let reserved = progressing.reserved.entry(share.queue.number).or_default();
            reserved.jobs += share.usage.jobs;
            reserved.bytes += share.usage.bytes;
        }
        self.accept(index, offer, now, progressing)
    }

    /// Gives the jobs their ids and their place among the pending ones.
    fn accept(
        &mut self,
        index: usize,
        offer: Offer,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Receipt, StoreError> {
        let mut kinds = Vec::with_capacity(offer.jobs.len());
        for job in &offer.jobs {
            kinds.push(self.intern_kind(&job.kind)?);
        }
        let first = JobId::next(JobId::from_raw(self.counters.last_id), now);
        let count = offer.jobs.len();
        self.counters.last_id = first.plus(count as i64 - 1).raw();
        if let Some(request) = &offer.request {
            let row = RequestRow { digest: request.digest, first, count: count as u32 };
            self.rows.insert_request(&request.key, &row)?;
        }
        for (offset, (job, kind)) in offer.jobs.into_iter().zip(kinds).enumerate() {
            let id = first.plus(offset as i64);
            let queue = self.intern_queue(&job.queue);
            progressing.pending.push(new_job(id, job, queue, kind, index, now));
        }
        Ok(Receipt::Created { jobs: Vec::with_capacity(count) })
    }

    /// Whether there would be too many kinds with those that the offer brings.
    fn too_many_kinds(&self, offer: &Offer) -> bool {
        let known = self.names.kinds.len();
        if known + offer.jobs.len() <= KINDS_MAX {
            return false;
        }
        let kinds: HashSet<&str> = offer.jobs.iter().map(|job| &*job.kind).collect();
        let new = kinds.into_iter().filter(|kind| self.names.kinds.find(kind).is_none()).count();
        new > 0 && known + new > KINDS_MAX
    }

    /// What the offer takes of each queue that it names.
    fn shares(&self, offer: &Offer) -> Result<Vec<Share>, OfferRefusal> {
        let mut shares: Vec<Share> = Vec::with_capacity(1);
        for job in &offer.jobs {
            let usage = Usage { jobs: 1, bytes: job.bytes() as i64 };
            match shares.iter_mut().find(|share| share.queue.as_str() == &*job.queue) {
                Some(share) => {
                    share.usage.jobs += usage.jobs;
                    share.usage.bytes += usage.bytes;
                }
                None => {
                    let Some(queue) = self.existing_queue(&job.queue) else {
                        return Err(OfferRefusal::QueueNotFound(job.queue.to_string()));
                    };
                    shares.push(Share { queue: Arc::clone(&queue.info.name), usage });
                }
            }
        }
        for share in &shares {
            let Some(queue) = self.queues.get(&share.queue.number) else { continue };
            let settings = &queue.info.settings;
            let (jobs, bytes) = (share.usage.jobs as u64, share.usage.bytes as u64);
            if jobs > settings.max_jobs || bytes > settings.max_bytes {
                return Err(OfferRefusal::LargerThanQueue {
                    queue: share.queue.as_str().to_owned(),
                    jobs,
                    bytes,
                    max_jobs: settings.max_jobs,
                    max_bytes: settings.max_bytes,
                });
            }
        }
        Ok(shares)
    }

    /// The bound that the share would break.
    fn full(&self, share: &Share, progressing: &Progressing) -> Option<QueueFull> {
        let used = self.usage_of(&share.queue, progressing);
        let fits = used.jobs + share.usage.jobs as u64 <= used.max_jobs
            && used.bytes + share.usage.bytes as u64 <= used.max_bytes;
        (!fits).then_some(used)
    }

    fn usage_of(&self, queue: &Arc<Name>, progressing: &Progressing) -> QueueFull {
        let live = self.tallies.queue(queue.number).live;
        let reserved = progressing.reserved.get(&queue.number).copied().unwrap_or_default();
        let settings = self.queues.get(&queue.number).map(|queue| &queue.info.settings);
        QueueFull {
            queue: queue.as_str().to_owned(),
            jobs: (live.jobs + reserved.jobs) as u64,
            max_jobs: settings.map_or(0, |settings| settings.max_jobs),
            bytes: (live.bytes + reserved.bytes) as u64,
            max_bytes: settings.map_or(0, |settings| settings.max_bytes),
        }
    }

    /// Whether an ended job can come back to its queue.
    pub(super) fn room_for(&self, job: &Job, progressing: &Progressing) -> Option<QueueFull> {
        let usage = Usage { jobs: 1, bytes: job.spec.bytes as i64 };
        self.full(&Share { queue: Arc::clone(&job.spec.queue), usage }, progressing)
    }

    /// Answers the offers that were seen before, now that all jobs of this batch are written.
    pub(super) fn answer_seen(&mut self, progressing: &mut Progressing) -> Result<(), StoreError> {
        for (index, row) in std::mem::take(&mut progressing.seen) {
            let receipt = match self.rows.job(row.first)? {
                Some(job) => Receipt::Seen { first: Arc::new(job), count: row.count },
                None => Receipt::Refused(OfferRefusal::JobDeleted),
            };
            if let Some(slot) = progressing.applied.offers.get_mut(index) {
                *slot = receipt;
            }
        }
        Ok(())
    }
}

fn new_job(
    id: JobId,
    new: NewJob,
    queue: Arc<Name>,
    kind: Arc<Name>,
    offer: usize,
    now: Timestamp,
) -> Pending {
    let bytes = new.bytes();
    let moment = Moment { now, backoffs: now, position: Position::default(), random: 0.0 };
    let over = new.expires.is_some_and(|expires| expires <= now);
    let job = Job {
        id,
        state: if over { State::Expired } else { waiting_state(new.run_time, moment) },
        spec: Arc::new(Spec {
            queue,
            kind,
            priority: new.priority,
            retry: new.retry,
            attempt_timeout: new.attempt_timeout,
            bytes,
            created: now,
            expires: new.expires,
            extras: new.extras,
        }),
        revision: 0,
        position: Position::default(),
        attempt: 0,
        max_attempts: new.max_attempts,
        updated: now,
        started: None,
        ended: over.then_some(now),
        progress: None,
        failure: None,
    };
    Pending { job, stored: None, payload: Some(new.payload), offer: Some(offer) }
}
