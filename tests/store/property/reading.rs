//! Checks that a store's contents match its feed, before and after a crash.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jobmill::{
    clock::Timestamp,
    job::{Change, JobFilter, Position, State, StateName},
    store::{Reader, Scan, ScanOrder},
};

use super::ledger::{Known, Ledger, Violation, backoff_of, promise};

/// Longest backoff of the jobs of these programs.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3_600);

impl Ledger {
    /// Checks that the store's contents match the feed.
    pub(crate) fn check_store(&mut self, reader: &dyn Reader) -> Result<(), Violation> {
        let order = ScanOrder::OldestFirst { after: None, last: None };
        let scan = Scan { order, limit: usize::MAX, budget: i64::MAX as usize };
        let page = reader.scan(&JobFilter::default(), scan).map_err(|error| error.to_string())?;
        promise!(page.position == self.end, "the store ends at {:?}, not at {:?}", page.position, self.end);
        let (mut told, mut told_anew) = (self.jobs.iter(), Vec::new());
        for job in &page.jobs {
            let Some((id, known)) = told.next() else {
                return Err(format!("{} should not be there", job.id));
            };
            promise!(*id == job.id, "{id} was acknowledged and is gone; the store has {}", job.id);
            let state = known.state == job.state
                || self.is_same_backoff(known, job.state)
                || self.is_same_place(known, job.state);
            let same = known.revision == job.revision
                && state
                && known.attempt == job.attempt
                && known.counted == job.counted_attempts();
            promise!(same, "{id} is {job:?}; the feed said {known:?}");
            if known.state != job.state {
                told_anew.push((*id, job.state));
            }
        }
        promise!(told.next().is_none(), "an acknowledged job is gone: {} are left", page.jobs.len());
        let mut counted: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for job in &page.jobs {
            let key = (job.spec.queue.to_string(), job.spec.kind.to_string(), job.state.name());
            let count = counted.entry(key).or_default();
            *count = (count.0 + 1, count.1 + job.spec.bytes);
        }
        let tallies = reader.tallies().map_err(|error| error.to_string())?;
        let told: BTreeMap<_, _> = (tallies.iter())
            .map(|one| ((one.queue.to_string(), one.kind.to_string(), one.state), (one.jobs, one.bytes)))
            .collect();
        promise!(told == counted, "the tallies {told:?} are no recount: {counted:?}");
        self.check_keys(reader)?;
        for (id, state) in told_anew {
            self.jobs.entry(id).and_modify(|known| known.state = state);
        }
        let lost = self.jobs.values().find(|job| job.is_in_lane() && !self.limits.may_have_lane(job));
        promise!(lost.is_none(), "it waits for a limit that does not concern it: {lost:?}");
        Ok(())
    }

    /// Returns whether a ready job is where it was. Its participant may change with the label of its queue, and is the
    /// right one once that is certain.
    fn is_same_place(&self, known: &Known, state: State) -> bool {
        let (State::Queued { order: was, .. }, State::Queued { order, participant }) = (known.state, state)
        else {
            return false;
        };
        let right = self.turns.participant(&known.queue, known.tenant.as_deref());
        let may_wait = participant.is_lane() && self.limits.may_have_lane(known);
        was == order && (may_wait || right.is_none_or(|right| participant == right))
    }

    /// Takes in a crash: attempts of the server, and of workers that have said nothing for too long, are over and counted.
    /// Nothing else has changed.
    pub(crate) fn hear_crash(
        &mut self,
        reader: &dyn Reader,
        now: Timestamp,
        passed: Duration,
    ) -> Result<(), Violation> {
        self.times.start(now, passed);
        self.hear_start(now);
        let changes = reader.changes(self.end, usize::MAX >> 1).map_err(|error| error.to_string())?;
        let holders = self.holders();
        let lost = self.workers.hear_start(&holders);
        let mut ran: HashMap<_, _> = self.running().into_iter().collect();
        for (id, job) in &mut self.jobs {
            if job.worker.is_some_and(|worker| !lost.contains(&worker)) {
                // It goes on. The place that it would get back is the first one of its lane.
                ran.remove(id);
                job.place = Position::default();
            }
        }
        for change in &changes.entries {
            let Change::Job { job, .. } = change else { return Err("a crash deleted a job".into()) };
            let Some(known) = self.jobs.get_mut(&job.id) else { return Err(format!("{} is new", job.id)) };
            if known.state.name() == StateName::Blocked {
                // The holder of its key ran.
                let waits = matches!(job.state.name(), StateName::Scheduled | StateName::Queued);
                promise!(
                    waits && job.revision == known.revision + 1,
                    "after the crash {job:?} was {known:?}"
                );
                self.places.hear("places in the feed", job.position.as_i64())?;
                (known.state, known.revision, known.place) = (job.state, job.revision, job.position);
                known.since = self.times.time_point();
                self.end = job.position;
                continue;
            }
            promise!(ran.remove(&job.id).is_some(), "{} did not run, and the crash changed it", job.id);
            promise!(job.revision == known.revision + 1, "{} was changed twice by a crash", job.id);
            promise!(job.attempt == known.attempt, "the crash forgot an attempt of {}", job.id);
            let expected = match known.state.name() {
                StateName::Cancelling => StateName::Cancelled,
                // Its deadline came first, or leaves no time for the backoff.
                _ if known.deadline.is_some_and(|deadline| deadline <= now.after(LONGEST_BACKOFF))
                    && job.state.name() == StateName::Failed =>
                {
                    StateName::Failed
                }
                _ if known.counted < known.max_attempts => StateName::BackingOff,
                _ => StateName::Failed,
            };
            promise!(job.state.name() == expected, "after the crash {} is {:?}", job.id, job.state);
            self.terminals += usize::from(expected.is_done());
            self.dependencies.hear_job(job);
            self.places.hear("places in the feed", job.position.as_i64())?;
            (known.state, known.revision, known.worker) = (job.state, job.revision, None);
            (known.since, known.delay) = (self.times.time_point(), backoff_of(job));
            self.end = job.position;
        }
        promise!(ran.is_empty(), "these ran before the crash and still do: {ran:?}");
        self.places.hear_last("places in the feed", changes.up_to.as_i64())?;
        self.end = changes.up_to;
        self.check_checkpoints(reader)?;
        self.check_store(reader)
    }
}
