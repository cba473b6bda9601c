//! Turns: in a fair queue, the values of a label take turns, however many jobs each of them has.
//!
//! A job that becomes ready is written with its participant. If a queue gets another label, or none, an operation renews
//! the participants of its ready jobs; until then they take turns as they are.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
};

use super::{decision::Decision, tallies::Tallies};
use crate::{
    job::{Extras, Job, State, Participant},
    settings::QueueInfo,
    store::sets::{LinePage, LineWant, SortKey, TurnsRow, WaitingLine},
};

/// Limit of the ready jobs whose participants a batch renews, in all queues together.
const RENEWED_MAX: usize = 250;

/// The turns of all fair queues.
#[derive(Debug, Default)]
pub(super) struct Turns {
    kept: BTreeMap<u32, QueueTurns>,
    /// The changes of the batch; `None` for queues whose jobs take no turns any more.
    next: BTreeMap<u32, Option<QueueTurns>>,
}

/// The turns of a queue.
#[derive(Clone, PartialEq, Debug)]
struct QueueTurns {
    /// The label whose values take turns; absent once the queue is not fair any more.
    label: Option<Arc<str>>,
    /// The participant that had the last turn.
    last: Participant,
    renewal: Option<Renewal>,
}

/// The renewal of the participants of a queue's ready jobs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Renewal {
    /// The kind whose lane is walked.
    kind: u32,
    /// The last place that was read in it.
    after: Option<SortKey>,
}

impl Turns {
    /// Loads the stored turns of these queues. A renewal that was under way begins anew.
    pub(super) fn load<'q>(rows: &[TurnsRow], queues: impl Iterator<Item = &'q QueueInfo>) -> Self {
        let mut kept = BTreeMap::new();
        let mut labels: BTreeMap<u32, Arc<str>> =
            queues.filter_map(|info| Some((info.name.number, info.settings.fair_by.clone()?))).collect();
        for row in rows {
            let label = labels.remove(&row.queue);
            let renewal = (row.is_renewing || label.is_none()).then(Renewal::default);
            kept.insert(row.queue, QueueTurns { label, last: row.last, renewal });
        }
        for (queue, label) in labels {
            kept.insert(queue, QueueTurns::new(Some(label), Participant::NONE));
        }
        Turns { kept, next: BTreeMap::new() }
    }

    fn of_queue(&self, queue: u32) -> Option<&QueueTurns> {
        match self.next.get(&queue) {
            Some(changed) => changed.as_ref(),
            None => self.kept.get(&queue),
        }
    }

    /// Returns a job's participant.
    pub(super) fn of(&self, job: &Job) -> Participant {
        self.of_labels(job.spec.queue.number, job.spec.extras.as_deref())
    }

    /// Returns the participant of a job with these labels.
    pub(super) fn of_labels(&self, queue: u32, extras: Option<&Extras>) -> Participant {
        if self.kept.is_empty() && self.next.is_empty() {
            return Participant::NONE;
        }
        let label = self.of_queue(queue).and_then(|turns| turns.label.as_ref());
        let value = label.and_then(|label| extras?.labels.get(&**label));
        value.map_or(Participant::NONE, |value| Participant::of(value))
    }

    /// Returns the participant that had the last turn in a queue, if its jobs take turns.
    pub(super) fn last(&self, queue: u32) -> Option<Participant> {
        self.of_queue(queue).map(|turns| turns.last)
    }

    /// Notes which participant had the last turn.
    pub(super) fn had_turn(&mut self, queue: u32, last: Participant) {
        if let Some(turns) = self.of_queue(queue).filter(|turns| turns.last != last).cloned() {
            self.next.insert(queue, Some(QueueTurns { last, ..turns }));
        }
    }

    /// Takes over the label of a new or changed queue.
    pub(super) fn queue_changed(&mut self, info: &QueueInfo) {
        let (queue, label) = (info.name.number, &info.settings.fair_by);
        match self.of_queue(queue) {
            Some(turns) if turns.label == *label => {}
            Some(turns) => {
                let last = turns.last;
                self.next.insert(queue, Some(QueueTurns::new(label.clone(), last)));
            }
            None => {
                if let Some(label) = label {
                    self.next.insert(queue, Some(QueueTurns::new(Some(Arc::clone(label)), Participant::NONE)));
                }
            }
        }
    }

    /// Begins to renew the participants of the ready jobs of these queues.
    pub(super) fn look_again(&mut self, queues: &[u32]) {
        for queue in queues {
            let turns = match self.of_queue(*queue) {
                Some(turns) => QueueTurns::new(turns.label.clone(), turns.last),
                None => QueueTurns::new(None, Participant::NONE),
            };
            self.next.insert(*queue, Some(turns));
        }
    }

    /// Forgets the turns of a queue that is deleted.
    pub(super) fn queue_deleted(&mut self, queue: u32) {
        if self.of_queue(queue).is_some() {
            self.next.insert(queue, None);
        }
    }

    /// Returns whether the participants of any queue's jobs are to be renewed.
    pub(super) fn are_renewed(&self) -> bool {
        self.kept.values().any(|turns| turns.renewal.is_some())
    }

    /// Returns the queues whose jobs get other participants, or leave the lanes of former limits.
    pub(super) fn renewing(&self) -> impl Iterator<Item = u32> {
        self.kept.iter().filter(|(_, turns)| turns.renewal.is_some()).map(|(queue, _)| *queue)
    }

    /// Plans the pages of lanes to read, with an equal share for each queue.
    pub(super) fn plan(&self, tallies: &Tallies) -> Vec<LineWant> {
        let renewals = self.kept.iter().filter_map(|(queue, turns)| Some((*queue, turns.renewal?)));
        let mut wants: Vec<LineWant> = renewals
            .filter_map(|(queue, renewal)| {
                let kind = next_kind(tallies, queue, Bound::Included(renewal.kind))?;
                let after = renewal.after.filter(|_| kind == renewal.kind);
                Some(LineWant { queue, line: WaitingLine::Ready(kind), after, limit: 0 })
            })
            .collect();
        let share = (RENEWED_MAX / wants.len().max(1)).max(1);
        wants.iter_mut().for_each(|want| want.limit = share);
        wants
    }

    /// Goes on behind the pages that the batch has read. A queue without a page has no lane left.
    fn advance(&mut self, tallies: &Tallies, pages: &BTreeMap<u32, (u32, LinePage)>) {
        for (queue, turns) in self.kept.iter().filter(|(_, turns)| turns.renewal.is_some()) {
            // The batch has given the queue another label: the renewal begins anew.
            if self.next.get(queue).is_some_and(|next| next.as_ref().map(|next| &next.label) != Some(&turns.label)) {
                continue;
            }
            let renewal = match pages.get(queue) {
                Some((kind, page)) if page.is_cut => Some(Renewal { kind: *kind, after: page.last }),
                Some((kind, _)) => next_kind(tallies, *queue, Bound::Excluded(*kind))
                    .map(|kind| Renewal { kind, after: None }),
                None => None,
            };
            let turns = self.next.get(queue).cloned().flatten().unwrap_or_else(|| turns.clone());
            let is_over = renewal.is_none() && turns.label.is_none();
            self.next.insert(*queue, (!is_over).then_some(QueueTurns { renewal, ..turns }));
        }
    }

    /// Returns the rows that the batch changes, and the queues whose rows it deletes.
    pub(super) fn rows(&self) -> (Vec<TurnsRow>, Vec<u32>) {
        let row = |queue: u32, turns: &QueueTurns| TurnsRow {
            queue,
            last: turns.last,
            is_renewing: turns.renewal.is_some(),
        };
        let before = |queue: &u32| self.kept.get(queue).map(|turns| row(*queue, turns));
        let (mut rows, mut deleted) = (Vec::new(), Vec::new());
        for (queue, turns) in &self.next {
            match turns {
                Some(turns) => rows.extend(Some(row(*queue, turns)).filter(|row| before(queue).as_ref() != Some(row))),
                None => deleted.push(*queue),
            }
        }
        (rows, deleted)
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        for (queue, turns) in std::mem::take(&mut self.next) {
            match turns {
                Some(turns) => self.kept.insert(queue, turns),
                None => self.kept.remove(&queue),
            };
        }
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.next.clear();
    }
}

impl QueueTurns {
    /// Returns turns whose participants are to be renewed.
    fn new(label: Option<Arc<str>>, last: Participant) -> Self {
        QueueTurns { label, last, renewal: Some(Renewal::default()) }
    }
}

/// Returns the first kind from a bound on of which the queue has ready jobs.
fn next_kind(tallies: &Tallies, queue: u32, from: Bound<u32>) -> Option<u32> {
    let is_after = |kind: &u32| match from {
        Bound::Included(from) => *kind >= from,
        Bound::Excluded(from) => *kind > from,
        Bound::Unbounded => true,
    };
    tallies.ready_kinds(queue).filter(is_after).min()
}

impl Decision<'_> {
    /// Takes the next step of each renewal.
    pub(super) fn renew_turns(&mut self) {
        if !self.engine.turns.are_renewed() {
            return;
        }
        let mut pages = BTreeMap::new();
        for ((queue, line), page) in std::mem::take(&mut self.found.renewals) {
            for job in &page.jobs {
                // An update leaves a ready job its participant.
                let Some(job) = (if self.is_untouched(job.id) { Some(Arc::clone(job)) } else { self.job(job.id) }) else {
                    continue;
                };
                let participant = self.engine.turns.of(&job);
                if matches!(job.state, State::Queued { participant: old, .. } if old != participant) {
                    self.writes.participants.push((job.id, participant));
                }
            }
            if let WaitingLine::Ready(kind) = line {
                pages.insert(queue, (kind, page));
            }
        }
        let engine = &mut *self.engine;
        engine.turns.advance(&engine.tallies, &pages);
    }
}
