//! Selection of the jobs that get the free slots of a queue.
//!
//! A lane holds the ready jobs of one kind in one queue, in their order. Lanes that the same slots serve (this server's,
//! or the credits of the same remote workers) form a group, and the store merges the heads of a group's lanes. So jobs
//! that can't start, for lack of a handler, a slot or a credit, never block others. In a fair queue, participants take
//! turns, and each has an order of its own.

use std::{collections::BTreeMap, iter::Peekable, ops::Bound, vec};

use crate::{job::Participant, store::sets::SortKey};

/// Limit of the ready jobs that are read for free slots in a batch. All queues share it.
pub(super) const HEADS_MAX: usize = 2_048;

/// A job that can start, or cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Candidate<S, N> {
    /// A job that was ready before the batch.
    Ready(S),
    /// A job that becomes ready with this batch.
    New(N),
}

/// The ready jobs of a group of lanes, in the order of their keys.
#[derive(Debug)]
pub(super) struct ReadyList<S> {
    pub(super) jobs: Vec<(SortKey, S)>,
    /// Whether the list is truncated before its last job that could start. No new job of the group passes its end.
    pub(super) is_cut: bool,
}

/// A job that becomes ready with the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewReady<N> {
    pub(super) participant: Participant,
    /// The negated priority.
    pub(super) rank: i8,
    /// The index of its group's list, if there is one.
    pub(super) list: Option<usize>,
    pub(super) job: N,
}

/// The answer to the offer of a slot to a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Offered {
    /// Whether the job takes a slot.
    pub(super) is_taken: bool,
    /// Whether no slot is left.
    pub(super) is_last: bool,
}

/// The rest of a [`ReadyList`].
struct ReadyRest<S> {
    jobs: Peekable<vec::IntoIter<(SortKey, S)>>,
    is_cut: bool,
}

/// Jobs in one order: several lists, each in that order, and new jobs.
struct Merge<S, N, I: Iterator<Item = NewReady<N>>> {
    lists: Vec<ReadyRest<S>>,
    new: Peekable<I>,
}

impl<S, N, I: Iterator<Item = NewReady<N>>> Merge<S, N, I> {
    fn new(lists: Vec<ReadyList<S>>, new: impl IntoIterator<IntoIter = I>) -> Self {
        let lists = lists.into_iter();
        let lists = lists.map(|list| ReadyRest { jobs: list.jobs.into_iter().peekable(), is_cut: list.is_cut });
        Merge { lists: lists.collect(), new: new.into_iter().peekable() }
    }

    /// Takes the next new job. Returns `None` if its group's list has come to a truncated end.
    fn next_new(&mut self) -> Option<Candidate<S, N>> {
        let NewReady { list, job, .. } = self.new.next()?;
        let list = list.and_then(|list| self.lists.get(list));
        let is_over = list.is_some_and(|list| list.is_cut && list.jobs.len() == 0);
        (!is_over).then_some(Candidate::New(job))
    }
}

impl<S, N, I: Iterator<Item = NewReady<N>>> Iterator for Merge<S, N, I> {
    type Item = Candidate<S, N>;

    fn next(&mut self) -> Option<Candidate<S, N>> {
        loop {
            let heads = self.lists.iter_mut().enumerate();
            let first = heads.filter_map(|(index, list)| list.jobs.peek().map(|(key, _)| (*key, index))).min();
            let candidate = match (first, self.new.peek()) {
                (Some((key, _)), Some(new)) if key.rank > new.rank => self.next_new(),
                (Some((_, index)), _) => {
                    let next = self.lists.get_mut(index).and_then(|list| list.jobs.next());
                    next.map(|(_, job)| Candidate::Ready(job))
                }
                (None, Some(_)) => self.next_new(),
                (None, None) => return None,
            };
            if candidate.is_some() {
                return candidate;
            }
        }
    }
}

/// Offers the jobs of a queue to `offer`, until no slot is left: in the queue's order, or in turns if it is fair.
/// `last_turn` is the participant that had the last turn there; returns the one that has it now. New jobs are sorted by
/// rank.
pub(super) fn offer_all<S, N>(
    lists: Vec<ReadyList<S>>,
    new: impl IntoIterator<Item = NewReady<N>>,
    last_turn: Option<Participant>,
    offer: impl FnMut(Candidate<S, N>) -> Offered,
) -> Option<Participant> {
    match last_turn {
        None => {
            offer_in_order(lists, new, offer);
            None
        }
        Some(last) => Some(offer_in_turns(lists, new, last, offer)),
    }
}

/// Offers the jobs of a queue in its order. Among equals, jobs that were ready before go first.
fn offer_in_order<S, N>(
    lists: Vec<ReadyList<S>>,
    new: impl IntoIterator<Item = NewReady<N>>,
    mut offer: impl FnMut(Candidate<S, N>) -> Offered,
) {
    for candidate in Merge::new(lists, new) {
        if offer(candidate).is_last {
            return;
        }
    }
}

/// Returns the jobs of each participant in their order.
fn by_participant<S, N>(
    lists: Vec<ReadyList<S>>,
    new: impl IntoIterator<Item = NewReady<N>>,
) -> BTreeMap<Participant, Merge<S, N, vec::IntoIter<NewReady<N>>>> {
    struct Part<S, N> {
        lists: Vec<ReadyList<S>>,
        new: Vec<NewReady<N>>,
    }
    let cut: Vec<bool> = lists.iter().map(|list| list.is_cut).collect();
    let none = || Part {
        lists: cut.iter().map(|is_cut| ReadyList { jobs: Vec::new(), is_cut: *is_cut }).collect(),
        new: Vec::new(),
    };
    let mut parts: BTreeMap<Participant, Part<S, N>> = BTreeMap::new();
    for (index, list) in lists.into_iter().enumerate() {
        for (key, job) in list.jobs {
            let part = parts.entry(key.participant).or_insert_with(none);
            if let Some(list) = part.lists.get_mut(index) {
                list.jobs.push((key, job));
            }
        }
    }
    for job in new {
        parts.entry(job.participant).or_insert_with(none).new.push(job);
    }
    parts.into_iter().map(|(participant, Part { lists, new })| (participant, Merge::new(lists, new))).collect()
}

/// Offers the jobs of a fair queue: one slot for each participant in turn, beginning behind the one that had the last
/// turn. Returns the participant that has it now.
fn offer_in_turns<S, N>(
    lists: Vec<ReadyList<S>>,
    new: impl IntoIterator<Item = NewReady<N>>,
    mut last: Participant,
    mut offer: impl FnMut(Candidate<S, N>) -> Offered,
) -> Participant {
    let mut parts = by_participant(lists, new);
    loop {
        let later = parts.range((Bound::Excluded(last), Bound::Unbounded)).next();
        let Some(participant) = later.or_else(|| parts.first_key_value()).map(|(participant, _)| *participant) else {
            return last;
        };
        let Some(jobs) = parts.get_mut(&participant) else { return last };
        loop {
            let Some(candidate) = jobs.next() else {
                parts.remove(&participant);
                break;
            };
            let Offered { is_taken, is_last, .. } = offer(candidate);
            if is_taken {
                last = participant;
            }
            if is_last {
                return last;
            }
            if is_taken {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn place(rank: i8, order: i64) -> (SortKey, i64) {
        place_of(0, rank, order)
    }

    fn place_of(participant: i64, rank: i8, order: i64) -> (SortKey, i64) {
        let participant = Participant(participant);
        (SortKey { participant, rank, order, id: JobId::from_raw(order) }, order)
    }

    fn new(rank: i8, list: Option<usize>, job: &'static str) -> NewReady<&'static str> {
        NewReady { participant: Participant::NONE, rank, list, job }
    }

    fn offered(
        slots: usize,
        lists: Vec<ReadyList<i64>>,
        new: impl IntoIterator<Item = NewReady<&'static str>>,
    ) -> Vec<Candidate<i64, &'static str>> {
        let mut chosen = Vec::new();
        if slots > 0 {
            offer_in_order(lists, new, |candidate| {
                chosen.push(candidate);
                Offered { is_taken: true, is_last: chosen.len() == slots }
            });
        }
        chosen
    }

    fn list(jobs: &[(SortKey, i64)]) -> ReadyList<i64> {
        ReadyList { jobs: jobs.to_vec(), is_cut: false }
    }

    use Candidate::{New, Ready};

    #[test]
    fn what_stood_in_line_goes_first_among_equals_and_a_more_urgent_newcomer_before_it() {
        let ready = list(&[place(-1, 7), place(0, 1), place(0, 2)]);
        let new = [new(-2, Some(0), "urgent"), new(0, Some(0), "same"), new(1, Some(0), "later")];
        assert_eq!(
            offered(5, vec![ready], new),
            [New("urgent"), Ready(7), Ready(1), Ready(2), New("same")]
        );
    }

    #[test]
    fn the_lists_of_several_groups_are_offered_as_one() {
        let lists = vec![list(&[place(0, 1), place(0, 4)]), list(&[place(-1, 9), place(0, 2)])];
        assert_eq!(
            offered(9, lists, [new(0, None, "new")]),
            [Ready(9), Ready(1), Ready(2), Ready(4), New("new")]
        );
    }

    #[test]
    fn no_more_are_chosen_than_there_are_slots_or_jobs() {
        assert_eq!(offered(9, vec![list(&[place(0, 1)])], [new(0, Some(0), "new")]).len(), 2);
        assert_eq!(offered(1, vec![list(&[place(0, 1)])], [new(0, Some(0), "new")]), [Ready(1)]);
    }

    #[test]
    fn a_new_job_does_not_pass_the_truncated_end_of_its_own_group() {
        let cut = || ReadyList { jobs: vec![place(0, 1)], is_cut: true };
        let new = [
            new(-1, Some(0), "urgent"),
            new(0, Some(0), "new"),
            new(0, Some(1), "other"),
            new(0, None, "alone"),
        ];
        assert_eq!(
            offered(9, vec![cut(), list(&[])], new),
            [New("urgent"), Ready(1), New("other"), New("alone")],
            "more may stand before the one that is left out"
        );
    }

    fn in_turns(
        slots: usize,
        last: i64,
        ready: &[(SortKey, i64)],
        new: &[NewReady<&'static str>],
        passes: &[i64],
    ) -> (Vec<Candidate<i64, &'static str>>, i64) {
        let mut chosen = Vec::new();
        let lists = vec![list(ready)];
        let Participant(last) = offer_in_turns(lists, new.to_vec(), Participant(last), |candidate| {
            let is_taken = !passes.iter().any(|job| candidate == Ready(*job));
            if is_taken {
                chosen.push(candidate);
            }
            Offered { is_taken, is_last: chosen.len() == slots }
        });
        (chosen, last)
    }

    #[test]
    fn participants_take_turns_and_the_priority_counts_within_each() {
        let ready = [place_of(1, -5, 1), place_of(1, 0, 2), place_of(1, 0, 3), place_of(2, 0, 4), place_of(7, 0, 5)];
        let new = [
            NewReady { participant: Participant(2), ..new(-9, Some(0), "urgent") },
            NewReady { participant: Participant(4), ..new(0, Some(0), "alone") },
        ];
        let (chosen, last) = in_turns(99, 1, &ready, &new, &[]);
        let turns = [New("urgent"), New("alone"), Ready(5), Ready(1), Ready(4), Ready(2), Ready(3)];
        assert_eq!((chosen, last), (turns.to_vec(), 1));
        assert_eq!(in_turns(2, 1, &ready, &new, &[]), (turns[..2].to_vec(), 4), "and the next batch goes on behind it");
    }

    #[test]
    fn a_job_that_can_not_start_costs_its_participant_no_turn() {
        let ready = [place_of(1, 0, 1), place_of(1, 0, 2), place_of(2, 0, 3)];
        assert_eq!(in_turns(99, 0, &ready, &[], &[1]), (vec![Ready(2), Ready(3)], 2));
        assert_eq!(in_turns(99, 0, &ready, &[], &[1, 2]), (vec![Ready(3)], 2));
        assert_eq!(in_turns(99, 5, &ready, &[], &[1, 2, 3]), (vec![], 5));
    }
}
