//! The turns that the values of a label must take in fair queues.

use std::collections::{BTreeMap, HashMap};

use jobmill::job::Participant;

use super::{
    ledger::{Violation, promise},
    order::{Slot, Started, Waiting},
};

/// The label whose values take turns in the fair queues of programs.
pub(crate) const LABEL: &str = "tenant";

/// Number of batches after a change of the label in which ready jobs may take part by the old one.
const BATCHES_OF_RENEWAL: usize = 5;

/// The turns of all queues, as far as their starts tell.
#[derive(Default)]
pub(super) struct Turns {
    queues: HashMap<String, QueueTurns>,
    /// Number of starts that had to respect the turns.
    pub(super) checked: usize,
}

#[derive(Default)]
struct QueueTurns {
    is_fair: bool,
    /// Number of batches since the label changed.
    age: usize,
    /// The participant that had the last turn, once that is certain.
    last: Option<Participant>,
}

impl Turns {
    /// Takes in a queue's label.
    pub(super) fn hear_queue(&mut self, queue: &str, is_fair: bool, is_new: bool) {
        let turns = self.queues.entry(queue.to_owned()).or_default();
        if is_new || turns.is_fair != is_fair {
            *turns = QueueTurns { is_fair, ..QueueTurns::default() };
        }
    }

    /// Takes in a start of the process: a renewal that was under way begins anew.
    pub(super) fn hear_start(&mut self) {
        for turns in self.queues.values_mut().filter(|turns| turns.age < BATCHES_OF_RENEWAL) {
            turns.age = 0;
        }
    }

    /// Returns the participant of a job with this value of the label, as far as it is certain.
    pub(super) fn participant(&self, queue: &str, value: Option<&str>) -> Option<Participant> {
        let turns = self.queues.get(queue).filter(|turns| turns.age >= BATCHES_OF_RENEWAL)?;
        Some(value.filter(|_| turns.is_fair).map_or(Participant::NONE, Participant::of))
    }

    /// Checks the starts of a batch, and takes them in. In the `uncertain` queues a job that was chosen may not have started.
    pub(super) fn hear_batch(
        &mut self,
        started: &[Started],
        waiting: &[Waiting],
        more: bool,
        uncertain: &[String],
    ) -> Result<(), Violation> {
        for (name, turns) in self.queues.iter_mut().filter(|(_, turns)| turns.is_fair) {
            let mut totals: BTreeMap<Participant, usize> = BTreeMap::new();
            let mut by_slot: HashMap<(Slot, Participant), usize> = HashMap::new();
            for one in started.iter().filter(|one| one.queue == *name) {
                let Some(participant) = one.participant else { continue };
                *totals.entry(participant).or_default() += 1;
                *by_slot.entry((one.slot, participant)).or_default() += 1;
            }
            if uncertain.contains(name) {
                turns.last = None;
                continue;
            }
            let last = turns.last;
            let place = |participant: Participant| (participant <= last.unwrap_or_default(), participant);
            for one in waiting.iter().filter(|one| one.queue == *name && !more && !one.standing.may_be_passed)
            {
                let Some(waits) = one.participant else { continue };
                let had = totals.get(&waits).copied().unwrap_or_default();
                for ((slot, starts), count) in &by_slot {
                    let competes = *starts != waits && one.slots.iter().any(|(other, _)| other == slot);
                    if !competes {
                        continue;
                    }
                    let is_first = last.is_some() && place(waits) < place(*starts);
                    let most = had + usize::from(!is_first);
                    promise!(
                        *count <= most,
                        "{starts:?} had {count} turns in {name} while {waits:?}, which waits, had {had} after {last:?}"
                    );
                    self.checked += 1;
                }
            }
            let rounds = totals.values().max().copied().unwrap_or_default();
            let last_ones =
                totals.iter().filter(|(_, count)| **count == rounds).map(|(participant, _)| *participant);
            if last.is_some() {
                turns.last = last_ones.max_by_key(|participant| place(*participant)).or(last);
            } else if totals.len() == 1 {
                turns.last = totals.first_key_value().map(|(participant, _)| *participant);
            }
        }
        for turns in self.queues.values_mut() {
            turns.age += 1;
        }
        Ok(())
    }
}
