//! What becomes of new jobs whose unique keys are held. The jobs of an offer meet the keys in their order; nothing is
//! changed until all of them are accepted.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    AdmissionError, NewJob, NotAdmitted, Offer, OfferRefusal,
    decision::{AcceptedJob, Decision},
    keys::Standing,
    transition::Event,
};
use crate::{
    clock::{StoreTime, Timestamp},
    engine::transition::{Moment, transition},
    job::{
        ClientInput, Extras, Job, JobId, JobUpdate, KeyHash, KeyRow, OnConflict, PayloadInfo, Spec,
        StateName, UniqueKey, When,
    },
};

/// A job that holds a key or follows its holder.
#[derive(Clone, Debug)]
pub(super) enum Party {
    /// A job that is known: stored, or accepted before in this batch.
    Known(Arc<Job>),
    /// The job of the offer with this index.
    Item(usize),
}

/// What becomes of a job of an offer.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is created.
    New {
        /// Whether it waits for the holder of its key.
        is_blocked: bool,
        /// Its earliest start.
        not_before: Option<StoreTime>,
    },
    /// Another job holds the key.
    Existing(HolderRef),
    /// Another job takes over the input.
    Replaces {
        target: Party,
        /// The earliest start.
        not_before: Option<StoreTime>,
    },
}

/// The holder of a key, for an answer.
#[derive(Clone, Debug)]
pub(super) enum HolderRef {
    Id(JobId),
    Item(usize),
}

/// The outcome of an offer's meeting with the keys of its jobs.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) fates: Vec<Fate>,
    keys: HashMap<KeyHash, Tentative>,
}

/// A key after the jobs of the offer so far.
#[derive(Debug, Default)]
struct Tentative {
    holder: Option<Party>,
    successor: Option<Party>,
    /// The last holder of a key that is held by time.
    ended: Option<(JobId, StoreTime)>,
    not_before: Option<StoreTime>,
    /// Whether the row changes.
    is_changed: bool,
    /// The holder to cancel.
    cancels: Option<JobId>,
}

impl Tentative {
    /// Returns the job that holds the key, or held it last, and its state.
    fn held_by(&self) -> (Option<JobId>, Option<StateName>) {
        match (&self.holder, self.ended) {
            (Some(Party::Known(job)), _) => (Some(job.id), Some(job.state.name())),
            (Some(Party::Item(_)), _) => (None, None),
            (None, ended) => (ended.map(|(holder, _)| holder), None),
        }
    }
}

impl From<Standing> for Tentative {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Free => Tentative::default(),
            Standing::Ended { holder, until } => {
                Tentative { ended: Some((holder, until)), ..Tentative::default() }
            }
            Standing::Held { holder, successor, not_before } => Tentative {
                holder: Some(Party::Known(holder)),
                successor: successor.map(Party::Known),
                not_before,
                ..Tentative::default()
            },
        }
    }
}

/// A job of an offer that meets its key.
struct Newcomer<'o> {
    index: usize,
    job: &'o NewJob,
    unique: &'o UniqueKey,
    offer: &'o Offer,
}

impl Newcomer<'_> {
    /// The index for an error; absent in an offer of one job.
    fn told_index(&self) -> Option<usize> {
        (self.offer.jobs.count() > 1).then_some(self.index)
    }

    fn held_by(&self, holder: Option<JobId>, state: Option<StateName>) -> OfferRefusal {
        OfferRefusal::KeyHeld {
            key: self.unique.key.clone(),
            holder,
            state,
            index: self.told_index(),
        }
    }

    /// Checks that a job can take over the input.
    fn fits(&self, party: &Party) -> Result<(), OfferRefusal> {
        let (holder, field) = match party {
            Party::Known(job) => (Some(job.id), unlike(&job.spec, self.job)),
            Party::Item(index) => {
                let other = self.offer.jobs.get(*index);
                (None, other.and_then(|other| unlike_item(other, self.job)))
            }
        };
        match field {
            None => Ok(()),
            Some(field) => Err(OfferRefusal::KeyConflict {
                key: self.unique.key.clone(),
                holder,
                field,
                index: self.told_index(),
            }),
        }
    }
}

/// Returns the first field in which a job differs from input that it should take over, apart from those that it takes
/// over.
fn unlike(spec: &Spec, new: &NewJob) -> Option<&'static str> {
    let same = (spec.queue.as_str() == &*new.queue, spec.kind.as_str() == &*new.kind);
    unlike_parts(same, spec.extras.as_deref(), spec.attempt_timeout, new)
}

fn unlike_item(other: &NewJob, new: &NewJob) -> Option<&'static str> {
    let same = (other.queue == new.queue, other.kind == new.kind);
    unlike_parts(same, other.extras.as_deref(), other.attempt_timeout, new)
}

fn unlike_parts(
    (same_queue, same_kind): (bool, bool),
    extras: Option<&Extras>,
    attempt_timeout: std::time::Duration,
    new: &NewJob,
) -> Option<&'static str> {
    let none = Extras::default();
    let (old, own) = (extras.unwrap_or(&none), new.extras.as_deref().unwrap_or(&none));
    // What the client has given counts, and not the defaults, which may have changed since.
    let timeout = |said: &ClientInput, timeout| said.attempt_timeout.then_some(timeout);
    let differs = [
        (!same_queue, "queue"),
        (!same_kind, "kind"),
        (old.labels != own.labels, "labels"),
        (old.weights != own.weights, "weights"),
        (old.said.max_attempts != own.said.max_attempts, "max_attempts"),
        (old.said.retry != own.said.retry, "retry_policy"),
        (old.said.deadline != own.said.deadline, "deadline"),
        (old.said.max_snoozes != own.said.max_snoozes, "max_snoozes"),
        (old.said.max_process_losses != own.said.max_process_losses, "max_process_losses"),
        (timeout(&old.said, attempt_timeout) != timeout(&own.said, new.attempt_timeout), "attempt_timeout"),
        // A submission with dependencies never gets here.
        (old.dependencies > 0, "depends_on"),
    ];
    differs.into_iter().find(|(differs, _)| *differs).map(|(_, field)| field)
}

impl Decision<'_> {
    /// Lets the jobs of an offer meet their unique keys. Returns `None` if none of them has one.
    pub(super) fn meet(&mut self, offer: &Offer) -> Result<Option<Meeting>, OfferRefusal> {
        if offer.jobs.iter().all(|job| job.unique().is_none()) {
            return Ok(None);
        }
        self.check_queues(offer)?;
        let has_ties = offer.jobs.iter().any(|job| !job.depends_on.is_empty());
        let count = offer.jobs.count();
        let mut meeting = Meeting { fates: Vec::with_capacity(count), keys: HashMap::with_capacity(count) };
        for (index, job) in offer.jobs.iter().enumerate() {
            let (Some(unique), Some(hash)) = (job.unique(), job.key_hash()) else {
                meeting.fates.push(Fate::New { is_blocked: false, not_before: None });
                continue;
            };
            let key = match meeting.keys.entry(hash) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => new.insert(self.standing(hash).into()),
            };
            let newcomer = Newcomer { index, job, unique, offer };
            let holder = has_ties.then(|| key.held_by());
            let fate = self.fate(&newcomer, key)?;
            if let Some((holder, state)) = holder.filter(|_| !matches!(fate, Fate::New { is_blocked: false, .. })) {
                let (key, index) = (unique.key.clone(), newcomer.told_index());
                return Err(OfferRefusal::KeyHeldBesideDependencies { key, holder, state, index });
            }
            meeting.fates.push(fate);
        }
        Ok(Some(meeting))
    }

    /// Checks that the queues of an offer exist, before its jobs meet their keys.
    fn check_queues(&self, offer: &Offer) -> Result<(), OfferRefusal> {
        let missing = |job: &&NewJob| self.engine.queues.name(&job.queue).is_none();
        let Some((index, job)) = offer.jobs.iter().enumerate().find(|(_, job)| missing(job)) else { return Ok(()) };
        let error = AdmissionError::QueueNotFound(job.queue.to_string());
        Err(NotAdmitted { error: error.into(), index: (offer.jobs.count() > 1).then_some(index) }.into())
    }

    fn fate(&self, newcomer: &Newcomer<'_>, key: &mut Tentative) -> Result<Fate, OfferRefusal> {
        let Newcomer { index, job, unique, .. } = *newcomer;
        // A job whose time is over already ends at once, and holds nothing.
        let is_past = |time: Option<When>| time.is_some_and(|time| time.instant(self.now()) <= self.now());
        let is_over = is_past(job.expires) || is_past(job.deadline);
        let Some(holder) = key.holder.clone() else {
            let not_before = match (key.ended, unique.on_started()) {
                (None, _) => None,
                (Some((holder, _)), OnConflict::ReturnExisting) => {
                    return Ok(Fate::Existing(HolderRef::Id(holder)));
                }
                (Some((holder, _)), OnConflict::Reject | OnConflict::Replace) => {
                    let state = self.any_job(holder).map(|job| job.state.name());
                    return Err(newcomer.held_by(Some(holder), state));
                }
                (Some((_, until)), OnConflict::Follow | OnConflict::Cancel) => Some(until),
            };
            if !is_over {
                key.holder = Some(Party::Item(index));
                (key.ended, key.not_before, key.is_changed) = (None, not_before, true);
            }
            return Ok(Fate::New { is_blocked: false, not_before });
        };
        let (has_started, state) = match &holder {
            Party::Known(job) => (job.has_started(), Some(job.state.name())),
            Party::Item(_) => (false, None),
        };
        let holder_id = match &holder {
            Party::Known(job) => Some(job.id),
            Party::Item(_) => None,
        };
        match if has_started { unique.on_started() } else { unique.on_waiting() } {
            OnConflict::ReturnExisting => Ok(Fate::Existing(match holder {
                Party::Known(job) => HolderRef::Id(job.id),
                Party::Item(index) => HolderRef::Item(index),
            })),
            OnConflict::Reject => Err(newcomer.held_by(holder_id, state)),
            OnConflict::Replace => {
                newcomer.fits(&holder)?;
                Ok(Fate::Replaces { target: holder, not_before: key.not_before })
            }
            OnConflict::Follow => Self::follow_holder(newcomer, key, is_over),
            OnConflict::Cancel => {
                if let Party::Known(job) = &holder
                    && job.spec.queue.as_str() != &*newcomer.job.queue
                {
                    return Err(OfferRefusal::KeyConflict {
                        key: unique.key.clone(),
                        holder: holder_id,
                        field: "queue",
                        index: newcomer.told_index(),
                    });
                }
                let fate = Self::follow_holder(newcomer, key, is_over)?;
                key.cancels = holder_id;
                Ok(fate)
            }
        }
    }

    fn follow_holder(
        newcomer: &Newcomer<'_>,
        key: &mut Tentative,
        is_over: bool,
    ) -> Result<Fate, OfferRefusal> {
        if let Some(successor) = key.successor.clone() {
            newcomer.fits(&successor)?;
            return Ok(Fate::Replaces { target: successor, not_before: None });
        }
        if !is_over {
            (key.successor, key.is_changed) = (Some(Party::Item(newcomer.index)), true);
        }
        Ok(Fate::New { is_blocked: true, not_before: None })
    }

    /// Writes the keys of an accepted offer, and returns the holders to cancel. `ids` has the id of each of its new jobs.
    pub(super) fn settle_keys(&mut self, meeting: Meeting, ids: &HashMap<usize, JobId>) -> Vec<JobId> {
        let id_of = |party: Party| match party {
            Party::Known(job) => Some(job.id),
            Party::Item(index) => ids.get(&index).copied(),
        };
        let mut cancels = Vec::new();
        for (hash, key) in meeting.keys {
            cancels.extend(key.cancels);
            if let Some(holder) = key.holder.filter(|_| key.is_changed).and_then(id_of) {
                let successor = key.successor.and_then(id_of);
                self.put_key(hash, Some(KeyRow { holder, successor, until: key.not_before, name: None }));
            }
        }
        cancels.sort_unstable();
        cancels
    }

    /// Returns the earliest start of a new job: its own, put off by its debounce and its key.
    pub(super) fn start_of(&self, new: &NewJob, first: Timestamp, not_before: Option<StoreTime>) -> Option<Timestamp> {
        let now = self.now();
        let debounce = new.unique().and_then(|unique| unique.debounce);
        let own = match debounce {
            Some(debounce) => Some(debounce.start(first, now)),
            None => new.run_time.map(|time| time.instant(now)),
        };
        own.max(not_before.map(|until| self.engine.names.steps.wall_of_backoff(until)))
    }

    /// Returns the event by which a waiting job takes over the input of a new one.
    fn takeover(&self, job: &Job, new: &NewJob, not_before: Option<StoreTime>) -> Event {
        let start = self.start_of(new, job.spec.created, not_before);
        let mut spec = new.update().applied(&job.spec, self.now());
        if let Some(extras) = &mut spec.extras {
            let unique = new.extras.as_ref().and_then(|extras| extras.unique.clone());
            extras.unique = unique;
        }
        Event::Update { spec: Arc::new(spec), start: Some(start), replaces: true }
    }

    /// Lets a known job take over the input of a new one.
    pub(super) fn take_over(&mut self, id: JobId, new: NewJob, not_before: Option<StoreTime>) {
        if let Some(event) = self.any_job(id).map(|job| self.takeover(&job, &new, not_before))
            && let Some(moment) = self.any_job(id).map(|job| self.moment(&job))
            && let Some(accepted) = self.accepted_job_mut(id)
        {
            take_over_new(accepted, &event, moment, new.payload);
            return;
        }
        let Some(job) = self.job(id) else { return };
        let event = self.takeover(&job, &new, not_before);
        if self.try_change(&job, &event).is_ok() {
            self.writes.payloads.push((id, new.payload));
        }
    }

    /// Lets a job of the same offer take over the input of a new one.
    pub(super) fn take_over_item(&self, accepted: &mut AcceptedJob, new: NewJob, not_before: Option<StoreTime>) {
        let event = self.takeover(&accepted.job, &new, not_before);
        let moment = self.moment(&accepted.job);
        take_over_new(accepted, &event, moment, new.payload);
    }
}

/// Lets a job that the batch creates take over the input of a new one.
fn take_over_new(accepted: &mut AcceptedJob, event: &Event, moment: Moment, payload: Bytes) {
    if let Ok(changed) = transition(&accepted.job, event, moment) {
        // The job has no revision before it is written.
        accepted.job = Job { revision: 0, position: accepted.job.position, ..changed.job };
        accepted.payload = payload;
    }
}

impl NewJob {
    /// Returns the unique key.
    #[must_use]
    pub fn unique(&self) -> Option<&UniqueKey> {
        self.extras.as_ref()?.unique.as_deref()
    }

    /// Returns the identity of the unique key.
    #[must_use]
    pub fn key_hash(&self) -> Option<KeyHash> {
        self.extras.as_ref()?.key_hash(&self.queue, &self.kind)
    }

    /// Returns the job's input, for a job that takes it over.
    fn update(&self) -> JobUpdate {
        let said = |of: fn(&Extras) -> bool| self.extras.as_deref().is_some_and(of);
        let is_given = self.priority != 0 || said(|extras| extras.said.priority);
        let info = self.extras.as_ref().map_or_else(PayloadInfo::default, |extras| extras.payload.clone());
        JobUpdate {
            payload: Some((self.payload.clone(), info)),
            headers: Some(self.extras.as_ref().map(|extras| extras.headers.clone()).unwrap_or_default()),
            priority: Some(is_given.then_some(self.priority)),
            start: Some(self.run_time),
            expiry: Some(self.expires),
        }
    }
}
