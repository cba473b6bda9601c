//! Selection of the jobs that get the free slots of a queue.
//!
//! A lane holds the ready jobs of one kind in one queue, in their order. Lanes that the same slots serve (this server's,
//! or the credits of the same remote workers) form a group, and the store merges the heads of a group's lanes. So jobs
//! that can't start, for lack of a handler, a slot or a credit, never block others.

use std::{iter::Peekable, ops::ControlFlow};

use crate::store::sets::SortKey;

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

/// The ready jobs of a group of lanes, in order.
#[derive(Debug)]
pub(super) struct ReadyList<S> {
    pub(super) jobs: Vec<(SortKey, S)>,
    /// Whether the list is truncated before its last job that could start. No new job of the group passes its end.
    pub(super) is_cut: bool,
}

/// Offers the jobs of a queue to `offer`, in the queue's order, until it returns that no slot is left. Among equals, jobs
/// that were ready before go first. All lists are in order; new jobs come with their ranks and the indexes of their
/// groups, which need not have a list.
pub(super) fn offer_in_order<S, N>(
    lists: Vec<ReadyList<S>>,
    new: impl IntoIterator<Item = (i8, Option<usize>, N)>,
    mut offer: impl FnMut(Candidate<S, N>) -> ControlFlow<()>,
) {
    let cut: Vec<bool> = lists.iter().map(|list| list.is_cut).collect();
    let mut lists: Vec<_> = lists.into_iter().map(|list| list.jobs.into_iter().peekable()).collect();
    let mut new = new.into_iter().peekable();
    loop {
        let heads = lists.iter_mut().enumerate();
        let first = heads.filter_map(|(index, list)| list.peek().map(|(key, _)| (*key, index))).min();
        let candidate = match (first, new.peek()) {
            (Some((key, _)), Some((rank, ..))) if key.rank > *rank => next_new(&mut new, &lists, &cut),
            (Some((_, index)), _) => {
                let next = lists.get_mut(index).and_then(Iterator::next);
                next.map(|(_, job)| Candidate::Ready(job))
            }
            (None, Some(_)) => next_new(&mut new, &lists, &cut),
            (None, None) => return,
        };
        if let Some(candidate) = candidate
            && offer(candidate).is_break()
        {
            return;
        }
    }
}

/// Takes the next new job. Returns `None` if its group's list has come to a truncated end.
fn next_new<S, N, L: ExactSizeIterator<Item = (SortKey, S)>>(
    new: &mut impl Iterator<Item = (i8, Option<usize>, N)>,
    lists: &[Peekable<L>],
    cut: &[bool],
) -> Option<Candidate<S, N>> {
    let (_, group, job) = new.next()?;
    let is_over = |group: usize| {
        cut.get(group).copied().unwrap_or(false) && lists.get(group).is_none_or(|list| list.len() == 0)
    };
    (!group.is_some_and(is_over)).then_some(Candidate::New(job))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn place(rank: i8, order: i64) -> (SortKey, i64) {
        (SortKey { rank, order, id: JobId::from_raw(order) }, order)
    }

    fn offered(
        slots: usize,
        lists: Vec<ReadyList<i64>>,
        new: impl IntoIterator<Item = (i8, Option<usize>, &'static str)>,
    ) -> Vec<Candidate<i64, &'static str>> {
        let mut chosen = Vec::new();
        if slots > 0 {
            offer_in_order(lists, new, |candidate| {
                chosen.push(candidate);
                if chosen.len() == slots { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
        let new = [(-2, Some(0), "urgent"), (0, Some(0), "same"), (1, Some(0), "later")];
        assert_eq!(
            offered(5, vec![ready], new),
            [New("urgent"), Ready(7), Ready(1), Ready(2), New("same")]
        );
    }

    #[test]
    fn the_lists_of_several_groups_are_offered_as_one() {
        let lists = vec![list(&[place(0, 1), place(0, 4)]), list(&[place(-1, 9), place(0, 2)])];
        assert_eq!(
            offered(9, lists, [(0, None, "new")]),
            [Ready(9), Ready(1), Ready(2), Ready(4), New("new")]
        );
    }

    #[test]
    fn no_more_are_chosen_than_there_are_slots_or_jobs() {
        assert_eq!(offered(9, vec![list(&[place(0, 1)])], [(0, Some(0), "new")]).len(), 2);
        assert_eq!(offered(1, vec![list(&[place(0, 1)])], [(0, Some(0), "new")]), [Ready(1)]);
    }

    #[test]
    fn a_new_job_does_not_pass_the_truncated_end_of_its_own_group() {
        let cut = || ReadyList { jobs: vec![place(0, 1)], is_cut: true };
        let new = [(-1, Some(0), "urgent"), (0, Some(0), "new"), (0, Some(1), "other"), (0, None, "alone")];
        assert_eq!(
            offered(9, vec![cut(), list(&[])], new),
            [New("urgent"), Ready(1), New("other"), New("alone")],
            "more may stand before the one that is left out"
        );
    }
}
